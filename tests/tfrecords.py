"""TFRecord files made in tests, without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import google_crc32c

#: Values of a feature: bytes or text, floats, or integers.
Values = Sequence[bytes | str] | Sequence[float] | Sequence[int]


def field(number: int, data: bytes) -> bytes:
    """A field of a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number of a message; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes((*data, value))


def feature(values: Values) -> bytes:
    """A `tf.train.Feature`."""
    if values and isinstance(values[0], bytes | str):
        return field(1, b"".join(field(1, v.encode() if isinstance(v, str) else v) for v in values))  # type: ignore[union-attr]
    if values and isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(map(varint, values)))) if values else b""  # type: ignore[arg-type]


def example(features: Mapping[str, Values]) -> bytes:
    """A `tf.train.Example`."""
    pairs = (field(1, field(1, name.encode()) + field(2, feature(values))) for name, values in features.items())
    return field(1, b"".join(pairs))


def checksum(data: bytes) -> bytes:
    """The masked checksum of data, as it is stored."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """A record."""
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def tfrecord_of(images: Mapping[str, bytes], order: Iterable[str] = ("image/filename", "image/encoded")) -> bytes:
    """A file with a record for each image, as the Object Detection API writes it, with these features in this order."""
    return b"".join(
        record(example({name: [text if name == "image/filename" else data] for name in order}))
        for text, data in images.items()
    )
