"""Streaming of one array in a large JSON file: a COCO file of gigabytes needs only some megabytes of memory.

ijson (3.6, with yajl) is not used, because it fails or differs from `json`: 20 kB of `[` take a gigabyte of memory; an
unpaired surrogate in a name silently becomes `?`; integers above 64 bits, NaN and a byte order mark are refused; a key
"images.item" counts as an element; and it reads beyond the end of the array.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

_CHUNK = 1 << 20

#: Largest element that is decoded, in characters; an entry of COCO's `images` has a few hundred.
_LARGEST_ITEM = 4 << 20

#: Longest string that is skipped, in characters; masks of large images are strings of megabytes.
_LONGEST_STRING = 64 << 20

_SPACE = re.compile(r"[ \t\n\r]*")
# A complete string, a bracket, or the opening quote of a string whose end has not been read yet.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)
_NUMBER = re.compile(r"[0-9.eE+-]*")


class JsonStreamError(ValueError):
    """The text is not JSON, or does not have the expected form; the message is one line."""


def array_items(read: Callable[[int], bytes], key: str | None) -> Iterator[Any]:
    """Yield the elements of an array in a JSON file. Reading stops at the end of the array.

    `list(array_items(io.BytesIO(b'{"x": {}, "images": [{"id": 1}, 2]}').read, "images")) == [{"id": 1}, 2]`

    Args:
        read: Returns at most the given number of next bytes, as `file.read` does.
        key: Key of the array in a JSON object; None if the file is an array itself.

    Raises:
        JsonStreamError: The text read so far is not JSON, the key is missing, its value is not an array, or an element
            has more than 4 Mi characters.
        OSError: The file cannot be read.
    """
    text = _Text(read)
    if key is None:
        text.expect("[", "a JSON array")
        yield from _items(text)
        return
    text.expect("{", "a JSON object")
    if text.peek() == "}":
        raise JsonStreamError(f"there is no {key!r}")
    while True:
        if text.peek() != '"':
            raise JsonStreamError(f"expected a key in quotes at {text.position()}")
        name = text.value()
        text.expect(":", "a colon")
        if name == key:
            text.expect("[", f"an array under {key!r}")
            yield from _items(text)
            return
        text.skip_value()
        if text.next_of(",}") == "}":
            raise JsonStreamError(f"there is no {key!r}")


def _items(text: _Text) -> Iterator[Any]:
    if text.peek() == "]":
        return
    while True:
        yield text.value()
        if text.next_of(",]") == "]":
            return


class _Text:
    """A JSON text that is read in chunks: the current part of it, and the position in it."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._at_end = False
        self._consumed = 0
        self._text = ""
        self._at = 0

    def position(self) -> str:
        return f"character {self._consumed + self._at}"

    def _fill(self) -> bool:
        """Read the next chunk; return False at the end of the file."""
        if self._at_end:
            return False
        chunk = self._read(_CHUNK)
        self._at_end = not chunk
        try:
            more = self._decode(chunk, self._at_end)
        except UnicodeDecodeError as error:
            raise JsonStreamError(f"not UTF-8 ({error.reason}) after {self.position()}") from None
        self._consumed += self._at
        self._text = self._text[self._at :] + more
        self._at = 0
        return not self._at_end

    def peek(self) -> str:
        """The next character that is not white space; `""` at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def next_of(self, characters: str) -> str:
        character = self.peek()
        if not character or character not in characters:
            expected = " or ".join(characters)
            raise JsonStreamError(f"expected {expected} at {self.position()}" if character else "the file is truncated")
        self._at += 1
        return character

    def expect(self, character: str, description: str) -> None:
        if self.peek() != character:
            raise JsonStreamError(f"expected {description} at {self.position()}")
        self._at += 1

    def value(self) -> Any:
        """The next value, decoded."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except RecursionError:
                raise JsonStreamError(f"nested too deeply at {self.position()}") from None
            except ValueError as error:
                # The end of the value may not have been read yet.
                if len(self._text) - self._at > _LARGEST_ITEM:
                    raise JsonStreamError(
                        f"invalid JSON, or a value of more than {_LARGEST_ITEM:,} characters, at {self.position()}"
                    ) from None
                if not self._fill():
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise JsonStreamError(f"{reason} at {self.position()}") from None
                continue
            # A number at the end of the chunk may continue in the next: only `1.` of `1.5` may have been read.
            tail = _NUMBER.match(self._text, end)
            if tail and tail.end() == len(self._text) and self._fill():
                continue
            self._at = end
            return value

    def skip_value(self) -> None:
        """Skip the next value without building it, by counting brackets outside of strings."""
        if self.peek() not in ("{", "[", '"'):
            self.value()
            return
        depth = 0
        while True:
            for token in _TOKEN.finditer(self._text, self._at):
                text = token.group()
                self._at = token.start()
                if text == '"':
                    break
                self._at = token.end()
                if text in "{[":
                    depth += 1
                elif text in "}]":
                    depth -= 1
                if depth == 0:
                    return
            else:
                self._at = len(self._text)
            if len(self._text) - self._at > _LONGEST_STRING:
                raise JsonStreamError(f"a string of more than {_LONGEST_STRING:,} characters at {self.position()}")
            if not self._fill():
                raise JsonStreamError("the file is truncated")
