"""The little of protobuf's text format that label maps are written in.

item {
  name: "/m/01g317"   # comments, commas and semicolons are passed over
  id: 1
  display_name: "person"
}
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
    """Text that is not what it should be; the message names the line where there is one."""

    def __init__(self, line: int, what: str) -> None:
        what = what[:300]
        super().__init__(f"line {line}: {what}" if line else what)


def read_items(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The items of a `StringIntLabelMap`: the line each begins on and its fields; blocks inside it are passed over.

    Raises:
        MalformedError: The text is something else.
    """
    depth, key, started, joined = 0, "", 0, ""
    fields: dict[str, str] = {}
    for line, kind, part in _tokens(text):
        if kind == "string" and joined and not key:
            fields[joined] += part  # strings that follow each other are one
            continue
        joined = ""
        if kind == "mark" and part in "{<":
            depth += 1
            if depth == 1:
                if key != "item":
                    raise MalformedError(line, f"expected item {{ ... }}, found {(key or part)[:80]!r}")
                started, fields = line, {}
            key = ""
        elif kind == "mark" and part in "}>":
            depth -= 1
            if depth < 0:
                raise MalformedError(line, "a closing brace without an opening one")
            if depth == 0:
                yield started, fields
            key = ""
        elif kind == "word" and not key:
            key = part
        elif kind != "mark":
            if depth == 0:
                raise MalformedError(line, f"expected item {{ ... }}, found {(key or part)[:80]!r}")
            if depth == 1:
                if key in fields:
                    raise MalformedError(line, f"an item with two values for {key[:80]}")
                fields[key] = part
                joined = key if kind == "string" else ""
            key = ""
    if depth:
        raise MalformedError(started, "an item that is never closed")
    if key:
        raise MalformedError(0, f"expected item {{ ... }}, found {key!r}")


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
    """A string without its escapes, as protobuf reads them: octal and hexadecimal ones are bytes of UTF-8."""

    def plain(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, short, long, other = match.groups()
        if octal or hexadecimal:
            return bytes([(int(octal, 8) if octal else int(hexadecimal, 16)) & 255])
        if short or long:
            return chr(int(short or long, 16)).encode()
        character = other.decode("latin-1")
        if character not in _SIMPLE:
            raise MalformedError(line, f"{text!r} has an escape that protobuf does not know")
        return _SIMPLE[character].encode()

    try:
        return _ESCAPE.sub(plain, text.encode()).decode()
    except (UnicodeError, ValueError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(line, f"{text!r} is not UTF-8") from None
