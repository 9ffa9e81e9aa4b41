"""`tf.train.Example`: a map from names to lists of bytes, of floats or of integers, as a protocol buffer.

Example   1: Features        Features   1: map<string, Feature>
Feature   1: list of bytes, 2: list of floats, 3: list of integers; each is a message with the values in field 1
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from prelabel.protobuf import V, fields, messages, numbers
from prelabel.source.archives.base import unicode_name

#: Longest name of a feature that is read, in bytes, and most features of an example.
_LONGEST_NAME, _MOST_FEATURES = 1 << 10, 10_000

#: Longest text that is read as a name, in bytes.
_LONGEST_TEXT = 1 << 12


def pairs_of(example: V) -> Iterator[tuple[str, V]]:
    """Name and value of each feature of an example, in the order of its bytes.

    Raises:
        ValueError: The bytes are not an example, or it has too many features.
    """
    count = 0
    for part in messages(example, 1):
        for pair in messages(part, 1):
            name, value = b"", None
            for number, content in fields(pair):
                if isinstance(content, int):
                    continue
                if number == 1:
                    name = bytes(content[:_LONGEST_NAME])
                elif number == 2:
                    value = content
            count += 1
            if count > _MOST_FEATURES:
                raise ValueError(f"it has more than {_MOST_FEATURES:,} features")
            if value is not None:
                yield name.decode("utf-8", "replace"), value


def byte_values(feature: V | None) -> list[V]:
    """The values of a list of bytes; none for another list, or for no feature."""
    return [value for part in _lists(feature, 1) for value in messages(part, 1)]


def float_values(feature: V | None) -> npt.NDArray[np.float32]:
    """The values of a list of floats; none for another list, or for no feature. Raises ValueError if it is damaged."""
    pieces = [bytes(piece) for part in _lists(feature, 2) for piece in messages(part, 1)]
    return np.frombuffer(b"".join(pieces), "<f4")


def integer_values(feature: V | None) -> list[int]:
    """The values of a list of integers; none for another list, or for no feature. Raises ValueError if damaged."""
    values = [value for part in _lists(feature, 3) for value in numbers(part, 1)]
    return [(value & (1 << 64) - 1) - (value >> 63 & 1) * (1 << 64) for value in values]


def text_of(feature: V | None) -> str:
    """The only value of a list of bytes as text, or `""`; bytes that are not UTF-8 are percent-encoded."""
    values = byte_values(feature)
    return unicode_name(bytes(values[0])) if len(values) == 1 and len(values[0]) <= _LONGEST_TEXT else ""


def _lists(feature: V | None, kind: int) -> list[V]:
    return [] if feature is None else list(messages(feature, kind))
