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
    depth, key, started = 0, "", 0
    fields: dict[str, str] = {}
    for line, kind, part in _tokens(text):
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
                fields[key] = part
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


def _unescape(text: str, line: int) -> str:
    """A string without its escapes; octal ones are bytes of UTF-8."""
    simple = {"n": "\n", "t": "\t", "r": "\r"}

    def one(match: re.Match[str]) -> str:
        if match[1]:
            return bytes(int(digits, 8) & 255 for digits in match[1].split("\\")[1:]).decode("utf-8")
        return simple.get(match[2], match[2])

    try:
        return re.sub(r"((?:\\[0-7]{1,3})+)|\\(.)", one, text)
    except UnicodeDecodeError:
        raise MalformedError(line, f"{text!r} is not UTF-8") from None
