"""Small files that would be large, and odd sizes: a stated result, and memory that stays where it was."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Decodes the files named and prints for each what came of it and by how many megabytes the process has grown.
_DECODE = """
import json, sys, warnings
from pathlib import Path
from prelabel.errors import DecodeError
from prelabel.source.decode import decode
warnings.simplefilter("error")

def peak():
    return int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))) / 1024

start = peak()
for name in sys.argv[1:]:
    try:
        image = decode(Path(name).read_bytes())
        outcome = [image.height, image.width, *image.pixels.shape]
    except DecodeError as error:
        outcome = type(error).__name__
    print(json.dumps([outcome, peak() - start]), flush=True)
"""


def decoded(*files: Path) -> list[tuple[object, float]]:
    done = subprocess.run(
        [sys.executable, "-c", _DECODE, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(outcome, grown) for outcome, grown in map(json.loads, done.stdout.splitlines())]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, more: bytes = b"") -> bytes:
    """A 1-bit PNG of nothing, packed line by line so that making it takes no memory."""
    packer, line = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    body = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def resized_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "outcome", "megabytes"),
    [
        ("one.png", png(1, 1), [1, 1, 1, 1, 3], 30),
        ("long.png", png(60_000, 1), [1, 60_000, 1, 60_000, 3], 30),
        ("tall.png", png(1, 60_000), [60_000, 1, 60_000, 1, 3], 30),
        ("bomb.png", png(30_000, 30_000), "ImageTooLargeError", 30),
        ("flat.png", png(2_000_000_000, 0), "CorruptImageError", 30),
        ("claim.jpg", resized_jpeg(20_000, 15_000), "ImageTooLargeError", 30),
        ("profile.png", png(4, 4, more=chunk(b"iCCP", b"x\0\0" + zeros(512 << 20))), None, 60),
        ("text.png", png(4, 4, more=chunk(b"zTXt", b"x\0\0" + zeros(512 << 20))), None, 60),
        ("many-texts.png", png(4, 4, more=chunk(b"zTXt", b"x\0\0" + zeros(1 << 20)) * 400), None, 150),
        ("claim.bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0),
         "ImageTooLargeError", 30),
        ("claim.gif", b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";", "ImageTooLargeError", 30),
        ("claim.ppm", b"P6 60000 60000 255\n", "ImageTooLargeError", 30),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bomb_is_refused_from_its_head(
    name: str, data: bytes, outcome: object, megabytes: float, tmp_path: Path
) -> None:
    assert len(data) < 2_000_000
    (tmp_path / name).write_bytes(data)
    ((came, grown),) = decoded(tmp_path / name)
    if outcome is None:  # read or refused, cheaply
        assert came == [4, 4, 4, 4, 3] or isinstance(came, str)
    else:
        assert came == outcome
    assert grown < megabytes
