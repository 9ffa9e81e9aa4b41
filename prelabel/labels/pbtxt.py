"""A parser for the part of protobuf's text format that label maps use.

item {
  name: "/m/01g317"   # comments, commas and semicolons are ignored
  id: 1
  display_name: "person"
  keypoints { id: 0 label: "nose" }
}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""
    [\s,;]+ | \#[^\n]*
    | (?P<string> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')
    | (?P<word> [\w.+-]+)
    | (?P<mark> [{}:<>\[\]])
    """,
    re.VERBOSE,
)


class MalformedError(ValueError):
    """The text is not a label map. The message names the line unless it is 0, for formats without lines."""

    def __init__(self, line: int, problem: str) -> None:
        problem = problem[:300]
        super().__init__(f"line {line}: {problem}" if line else problem)


@dataclass(slots=True)
class Item:
    """An item of a label map.

    Attributes:
        line: Line at which it begins.
        fields: Its fields by name; nested blocks are not included.
        keypoints: The fields of its `keypoints` blocks, each with the line of the block.
    """

    line: int
    fields: dict[str, str] = field(default_factory=dict)
    keypoints: list[tuple[int, dict[str, str]]] = field(default_factory=list)


def read_items(text: str) -> Iterator[Item]:
    """Yield the items of a `StringIntLabelMap`; nested blocks other than `keypoints` are ignored.

    Raises:
        MalformedError: The text is not a label map.
    """
    depth, key, string_key = 0, "", ""
    item = Item(0)
    fields: dict[str, str] | None = None  # of the block that is open; None if it is ignored
    for line, kind, part in _tokens(text):
        if kind == "string" and string_key and not key and fields is not None:
            fields[string_key] += part  # adjacent strings are concatenated
            continue
        string_key = ""
        if kind == "mark" and part in "{<":
            depth += 1
            if depth == 1:
                if key != "item":
                    raise MalformedError(line, f"expected item {{ ... }}, found {(key or part)[:80]!r}")
                item = Item(line)
                fields = item.fields
            elif depth == 2 and key == "keypoints":
                fields = {}
                item.keypoints.append((line, fields))
            else:
                fields = None
            key = ""
        elif kind == "mark" and part in "}>":
            depth -= 1
            if depth < 0:
                raise MalformedError(line, "a closing brace has no opening brace")
            if depth == 0:
                yield item
            fields = item.fields if depth == 1 else None
            key = ""
        elif kind == "word" and not key:
            key = part
        elif kind != "mark":
            if depth == 0:
                raise MalformedError(line, f"expected item {{ ... }}, found {(key or part)[:80]!r}")
            if fields is not None:
                if key in fields:
                    what = "an item" if depth == 1 else "a keypoint"
                    raise MalformedError(line, f"{what} has two values for {key[:80]}")
                fields[key] = part
                string_key = key if kind == "string" else ""
            key = ""
    if depth:
        raise MalformedError(item.line, "an item is not closed")
    if key:
        raise MalformedError(0, f"expected item {{ ... }}, found {key!r}")


def integer_of(text: str) -> int | None:
    """The value of an integer that is not negative, in decimal, octal or hexadecimal digits; None for other text."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16})|(0[0-7]{0,20})|[1-9][0-9]{0,18}", text)
    return None if match is None else int(text, 16 if match[1] else 8 if match[2] else 10)


def _tokens(text: str) -> Iterator[tuple[int, str, str]]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise MalformedError(line, f"cannot read {text[position : position + 20].splitlines()[0]!r}")
        kind = match.lastgroup
        if kind:
            yield line, kind, _unescape(match[0][1:-1], line) if kind == "string" else match[0]
        line += match[0].count("\n")
        position = match.end()


_SIMPLE = {**dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True)), **{c: c for c in "\\'\"?"}}
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


def _unescape(text: str, line: int) -> str:
    """The string with its escapes replaced as protobuf replaces them; octal and hexadecimal escapes are UTF-8 bytes."""

    def plain(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, short, long, other = match.groups()
        if octal or hexadecimal:
            return bytes([(int(octal, 8) if octal else int(hexadecimal, 16)) & 255])
        if short or long:
            return chr(int(short or long, 16)).encode()
        character = other.decode("latin-1")
        if character not in _SIMPLE:
            raise MalformedError(line, f"{text!r} has an unknown escape")
        return _SIMPLE[character].encode()

    try:
        return _ESCAPE.sub(plain, text.encode()).decode()
    except (UnicodeError, ValueError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(line, f"{text!r} is not UTF-8") from None
