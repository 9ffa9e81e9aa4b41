"""One array out of a large JSON object, element by element: a COCO file of gigabytes takes some megabytes of memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

_CHUNK = 1 << 20

#: The largest element that is decoded; an entry of COCO's `images` has some hundred bytes.
_LARGEST_ITEM = 4 << 20

#: The longest string that is skipped (masks of large pictures are strings of megabytes).
_LONGEST_STRING = 64 << 20

_SPACE = re.compile(r"[ \t\n\r]*")
# A whole string, a bracket, or the quote of a string whose end is not yet read.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)
_NUMBER = re.compile(r"[0-9.eE+-]*")
_SCALAR = re.compile(r"[^,\]}\s]+")


class JsonStreamError(ValueError):
    """The text is not JSON, or not of the expected form; the message is one line."""


class _File(Protocol):
    def read(self, size: int, /) -> bytes: ...


def array_items(file: _File, key: str | None) -> Iterator[Any]:
    """The elements of the array under `key` of a JSON object, or of a JSON array where `key` is None.

    Reading stops where that array ends.

    `list(array_items(io.BytesIO(b'{"x": {}, "images": [{"id": 1}, 2]}'), "images")) == [{"id": 1}, 2]`

    Raises:
        JsonStreamError: Not JSON as far as it was read, no such key, no array there, or an element above 4 MiB.
        OSError: The file cannot be read.
    """
    text = _Text(file)
    if key is None:
        text.expect("[", "a JSON array")
        yield from _items(text)
        return
    text.expect("{", "a JSON object")
    if text.peek() == "}":
        raise JsonStreamError(f"it has no {key!r}")
    while True:
        if text.peek() != '"':
            raise JsonStreamError(f"a key in quotes is missing at {text.place()}")
        name = text.value()
        text.expect(":", "a colon")
        if name == key:
            text.expect("[", f"an array under {key!r}")
            yield from _items(text)
            return
        text.skip_value()
        if text.next_of(",}") == "}":
            raise JsonStreamError(f"it has no {key!r}")


def _items(text: _Text) -> Iterator[Any]:
    if text.peek() == "]":
        return
    while True:
        yield text.value()
        if text.next_of(",]") == "]":
            return


class _Text:
    """The part of the file at hand, and where in it the reading is."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._at_end = False
        self._gone = 0
        self._text = ""
        self._at = 0

    def place(self) -> str:
        return f"character {self._gone + self._at}"

    def _fill(self) -> bool:
        """Read on; False at the end of the file."""
        if self._at_end:
            return False
        chunk = self._file.read(_CHUNK)
        self._at_end = not chunk
        try:
            more = self._decode(chunk, self._at_end)
        except UnicodeDecodeError as error:
            raise JsonStreamError(f"not UTF-8 ({error.reason}) after {self.place()}") from None
        self._gone += self._at
        self._text = self._text[self._at :] + more
        self._at = 0
        return not self._at_end

    def peek(self) -> str:
        """The next character that is no white space; `""` at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def next_of(self, characters: str) -> str:
        found = self.peek()
        if not found or found not in characters:
            wanted = " or ".join(characters)
            raise JsonStreamError(f"{wanted} is missing at {self.place()}" if found else "the file ends too early")
        self._at += 1
        return found

    def expect(self, character: str, what: str) -> None:
        if self.peek() != character:
            raise JsonStreamError(f"{what} was expected at {self.place()}")
        self._at += 1

    def value(self) -> Any:
        """The next value, decoded."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except RecursionError:
                raise JsonStreamError(f"nested too deeply at {self.place()}") from None
            except ValueError as error:
                # Perhaps its end has not been read yet.
                if len(self._text) - self._at > _LARGEST_ITEM:
                    raise JsonStreamError(
                        f"more than {_LARGEST_ITEM} characters, or no JSON, at {self.place()}"
                    ) from None
                if not self._fill():
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise JsonStreamError(f"{reason} at {self.place()}") from None
                continue
            # A number at the end of the text at hand may go on: of `1.5` only `1.` may have come.
            tail = _NUMBER.match(self._text, end)
            if tail and tail.end() == len(self._text) and self._fill():
                continue
            self._at = end
            return value

    def skip_value(self) -> None:
        """Pass over the next value without building it; brackets are counted, strings are passed over whole."""
        first = self.peek()
        if first not in ("{", "[", '"'):
            self._skip_scalar()
            return
        depth = 0
        while True:
            for token in _TOKEN.finditer(self._text, self._at):
                found = token.group()
                self._at = token.start()
                if found == '"':
                    break
                self._at = token.end()
                if found in "{[":
                    depth += 1
                elif found in "}]":
                    depth -= 1
                if depth == 0:
                    return
            else:
                self._at = len(self._text)
            if len(self._text) - self._at > _LONGEST_STRING:
                raise JsonStreamError(f"a string of more than {_LONGEST_STRING} characters at {self.place()}")
            if not self._fill():
                raise JsonStreamError("the file ends too early")

    def _skip_scalar(self) -> None:
        read = 0
        while True:
            match = _SCALAR.match(self._text, self._at)
            if match:
                self._at = match.end()
                read += 1
            if self._at < len(self._text):
                break
            if not self._fill():
                raise JsonStreamError("the file ends too early")
        if not read:
            raise JsonStreamError(f"a value is missing at {self.place()}")
