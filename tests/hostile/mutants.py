"""Damaged files, the same ones each time: mutant number n of a seed is one file, whoever makes it and wherever.

What is done to a file is what disks, networks and attackers do: bits turn over, ends are missing, pieces are lost,
doubled, moved or filled with one byte, numbers become as large or as small as can be, and heads meet other bodies.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

#: Numbers that readers stumble over, in 1, 2 and 4 bytes.
_ODD = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]

_TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0"

#: Where formats keep what matters.
_HEAD = 512


def _place(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(min(len(data), _HEAD) if rng.random() < 0.6 else len(data))


def _flip(data: bytearray, rng: random.Random, other: bytes) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _number(data: bytearray, rng: random.Random, other: bytes) -> None:
    size, place = rng.choice((1, 2, 4)), _place(data, rng)
    value = rng.choice(_ODD) if rng.random() < 0.7 else rng.getrandbits(32)
    data[place : place + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("little", "big")))


def _cut(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[_place(data, rng) :]


def _lose(data: bytearray, rng: random.Random, other: bytes) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 4, 16, 256, 4096))]


def _double(data: bytearray, rng: random.Random, other: bytes) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + rng.choice((1, 2, 4, 16, 256, 4096))]


def _fill(data: bytearray, rng: random.Random, other: bytes) -> None:
    place, size = _place(data, rng), rng.choice((2, 8, 64, 1024))
    data[place : place + size] = bytes([rng.choice((0, 0xFF, 0x41))]) * len(data[place : place + size])


def _graft(data: bytearray, rng: random.Random, other: bytes) -> None:
    place, start = _place(data, rng), rng.randrange(len(other))
    piece = other[start : start + rng.choice((4, 16, 256, 65536))]
    data[place : place + len(piece)] = piece


_DEEDS: Sequence[Callable[[bytearray, random.Random, bytes], None]] = (
    *(_flip, _flip, _number, _number, _number, _cut, _lose, _double, _fill, _graft),
)


def mutant(seed: str, number: int, files: Sequence[bytes]) -> tuple[int, bytes]:
    """Which of some files (none of them empty) it was made of, and the mutant, which may be."""
    rng = random.Random(f"{seed}/{number}")
    source = number % len(files)
    data = bytearray(files[source])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if data:
            rng.choice(_DEEDS)(data, rng, rng.choice(files))
    return source, bytes(data)


def sound_files(folder: Path | None = None) -> dict[str, bytes]:
    """Pictures to start from: every format that Pillow writes, small, and the real ones below a folder."""
    originals = {}
    y, x = np.mgrid[:48, :64]
    colour = Image.fromarray(np.stack([x * 4, y * 5, (x + y) * 2], axis=2).astype(np.uint8))
    for name, mode, options in (
        *(("JPEG", "RGB", {}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}), ("PNG", "RGBA", {})),
        *(("PNG", "P", {}), ("PNG", "I;16", {}), ("GIF", "P", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {})),
        *(("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "CMYK", {"compression": "jpeg"}), ("TIFF", "F", {})),
        *(("TIFF", "1", {"compression": "group4"}), ("BMP", "RGB", {}), ("BMP", "P", {}), ("JPEG2000", "RGB", {})),
        *(("PPM", "RGB", {}), ("PPM", "1", {}), ("TGA", "RGB", {"compression": "tga_rle"}), ("AVIF", "RGB", {})),
        *(
            ("MPO", "RGB", {}),
            ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0"}),
        ),
    ):
        buffer = io.BytesIO()
        image = colour.convert("L").convert("I").point(lambda v: v * 257).convert(mode) if mode == "I;16" else None
        (image or colour.convert(mode)).save(buffer, name, **options)
        originals[f"{name}-{mode}-{len(originals)}"] = buffer.getvalue()
    if folder is not None and folder.is_dir():
        real = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".csv", ".json"))
        originals |= {path.name: path.read_bytes() for path in real}
    return {name: data for name, data in originals.items() if data}
