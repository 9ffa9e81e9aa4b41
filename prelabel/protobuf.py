"""Protocol buffers: messages of numbered fields, read without a schema and without copying.

    list(fields(memoryview(b"\x08\x05\x12\x02hi")))     [(1, 5), (2, the bytes "hi")]

A message is a memoryview, or a view of a part of a file whose bytes are read when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self, TypeVar, overload


class View(Protocol):
    """Bytes of which single ones and parts can be taken; `bytes` reads them."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...

    @overload
    def __getitem__(self, place: int, /) -> int: ...
    @overload
    def __getitem__(self, place: slice, /) -> Self: ...


V = TypeVar("V", bound=View)


def fields(message: V) -> Iterator[tuple[int, int | V]]:
    """The number and value of each field of a message: an int for numbers, else the bytes of a string or message.

    Raises:
        ValueError: The bytes are not a message.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if number == 0 or position + size > end:
            raise ValueError(f"a field that ends beyond its message at byte {position}")
        yield number, message[position : position + size]
        position += size


def messages(message: V, field: int) -> Iterator[V]:
    """The submessages in a repeated field, in order."""
    for number, value in fields(message):
        if number == field and not isinstance(value, int):
            yield value


def only(message: memoryview, field: int) -> memoryview:
    """The submessage in a field, empty if absent. Several pieces are joined, as TensorFlow does."""
    pieces = list(messages(message, field))
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def texts(message: memoryview, field: int) -> list[str]:
    """The strings in a repeated field, in order."""
    return [bytes(value).decode("utf-8", "replace") for value in messages(message, field)]


def text(message: memoryview, field: int) -> str:
    """The string in a field, the last one if there are several, or `""`."""
    strings = texts(message, field)
    return strings[-1] if strings else ""


def number(message: memoryview, field: int) -> int:
    """The number in a field as a signed 64-bit integer, the last one if there are several, or 0."""
    last = 0
    for number, value in fields(message):
        if number == field and isinstance(value, int):
            last = value - (1 << 64) if value >= 1 << 63 else value
    return last


def numbers(message: V, field: int) -> list[int]:
    """The numbers of a repeated field of integers, packed or not, as unsigned integers."""
    values: list[int] = []
    for number, value in fields(message):
        if number == field:
            values += [value] if isinstance(value, int) else packed(value)
    return values


def packed(value: View) -> list[int]:
    """The numbers of a packed repeated field, as unsigned integers."""
    values, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        values.append(number)
    return values


def entry(message: memoryview, field: int, key: str) -> memoryview:
    """One value of a field of type map<string, message>, empty if absent. Raises ValueError like `entries`."""
    return entries(message, field).get(key, memoryview(b""))


def entries(message: memoryview, field: int) -> dict[str, memoryview]:
    """The values of a field of type map<string, message> by key; entries without a value are skipped.

    Raises:
        ValueError: Two entries have the same key, as only a file that is made to be read in two ways has.
    """
    values: dict[str, memoryview] = {}
    for pair in messages(message, field):
        for value in messages(pair, 2):
            key = text(pair, 1)
            if key in values:
                raise ValueError(f"two entries with the name {key[:80]!r}")
            values[key] = value
    return values


def _varint(message: View, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, position
        shift += 7
    raise ValueError(f"a number that does not end at byte {position}")
