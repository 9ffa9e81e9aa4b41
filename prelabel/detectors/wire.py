"""Protocol buffers as they lie in a file: numbered fields, read without a schema and without copying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Field: TypeAlias = "tuple[int, int | memoryview]"


def fields(message: memoryview) -> Iterator[Field]:
    """Number and value of each field of a message: an int for numbers, the bytes of strings and messages.

    Raises:
        ValueError: These bytes are no message.
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


def messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The sub-messages in a field, in order."""
    for found, value in fields(message):
        if found == number and not isinstance(value, int):
            yield value


def only(message: memoryview, number: int) -> memoryview:
    """The sub-message in a field; one given in pieces is put together, as TensorFlow does, and none is an empty one."""
    pieces = list(messages(message, number))
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def texts(message: memoryview, number: int) -> list[str]:
    """The strings in a field, in order."""
    return [bytes(value).decode("utf-8", "replace") for value in messages(message, number)]


def text(message: memoryview, number: int) -> str:
    """The string in a field, the last one where there are several, or `""`."""
    found = texts(message, number)
    return found[-1] if found else ""


def number(message: memoryview, field: int, default: int = 0) -> int:
    """The number in a field as a signed 64-bit integer."""
    found = default
    for one, value in fields(message):
        if one == field and isinstance(value, int):
            found = value - (1 << 64) if value >= 1 << 63 else value
    return found


def numbers(message: memoryview, field: int) -> list[int]:
    """A repeated int32, packed or not."""
    found: list[int] = []
    for one, value in fields(message):
        if one == field:
            found += [value] if isinstance(value, int) else packed(value)
    return found


def packed(value: memoryview) -> list[int]:
    """The numbers of a packed repeated field, as they lie there: without a sign."""
    found, position = [], 0
    while position < len(value):
        one, position = _varint(value, position)
        found.append(one)
    return found


def entries(message: memoryview, number: int) -> dict[str, memoryview]:
    """A field of type map<string, message>; entries without a value are left out.

    Raises:
        ValueError: Two entries have one key: nobody writes that but to be read in two ways.
    """
    found: dict[str, memoryview] = {}
    for entry in messages(message, number):
        for value in messages(entry, 2):
            key = text(entry, 1)
            if key in found:
                raise ValueError(f"two entries of one name, {key[:80]!r}")
            found[key] = value
    return found


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, position
        shift += 7
    raise ValueError(f"a number that does not end at byte {position}")
