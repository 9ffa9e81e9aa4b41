"""Small files that would be large, and odd sizes: a stated result, and memory that stays where it was."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from prelabel.source.decode import DecodeOptions
from tests.source.test_decode import swapped_profile

ROOT = Path(__file__).parents[2]

#: Decodes the files named and prints for each what came of it and by how many megabytes the process has grown.
_DECODE = """
import json, sys, warnings
from pathlib import Path
from prelabel.errors import DecodeError
from prelabel.source.decode import DecodeOptions, decode
warnings.simplefilter("error")

def peak():
    return int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))) / 1024

start = peak()
for name in sys.argv[1:]:
    try:
        image = decode(Path(name).read_bytes(), DecodeOptions(max_pixels=LIMIT))
        outcome = [image.height, image.width, *image.pixels.shape]
    except DecodeError as error:
        outcome = type(error).__name__
    print(json.dumps([outcome, peak() - start]), flush=True)
"""


def decoded(*files: Path, max_pixels: int = DecodeOptions().max_pixels) -> list[tuple[object, float]]:
    code = _DECODE.replace("LIMIT", str(max_pixels))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
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
    ("name", "make", "outcome", "megabytes"),
    [
        ("one.png", lambda: png(1, 1), [1, 1, 1, 1, 3], 30),
        ("long.png", lambda: png(60_000, 1), [1, 60_000, 1, 60_000, 3], 30),
        ("tall.png", lambda: png(1, 60_000), [60_000, 1, 60_000, 1, 3], 30),
        ("bomb.png", lambda: png(30_000, 30_000), "ImageTooLargeError", 30),
        ("flat.png", lambda: png(2_000_000_000, 0), "CorruptImageError", 30),
        ("claim.jpg", lambda: resized_jpeg(20_000, 15_000), "ImageTooLargeError", 30),
        ("profile.png", lambda: png(4, 4, more=chunk(b"iCCP", b"x\0\0" + zeros(512 << 20))), None, 60),
        ("text.png", lambda: png(4, 4, more=chunk(b"zTXt", b"x\0\0" + zeros(512 << 20))), None, 60),
        ("many-texts.png", lambda: png(4, 4, more=chunk(b"zTXt", b"x\0\0" + zeros(1 << 20)) * 400), None, 150),
        ("claim.bmp", lambda: b"BM" + struct.pack("<IIIIiiHHI20x", 54, 0, 54, 40, 30_000, 30_000, 1, 24, 0),
         "ImageTooLargeError", 30),
        ("claim.gif", lambda: b"GIF89a" + struct.pack("<HH3x", 65_535, 65_535) + b";", "ImageTooLargeError", 30),
        ("claim.ppm", lambda: b"P6 60000 60000 255\n", "ImageTooLargeError", 30),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bomb_is_refused_from_its_head(
    name: str, make: Callable[[], bytes], outcome: object, megabytes: float, tmp_path: Path
) -> None:
    data = make()
    assert len(data) < 2_000_000
    (tmp_path / name).write_bytes(data)
    ((came, grown),) = decoded(tmp_path / name)
    if outcome is None:  # read or refused, cheaply
        assert came == [4, 4, 4, 4, 3] or isinstance(came, str)
    else:
        assert came == outcome
    assert grown < megabytes


#: Writes a picture of one colour in a process of its own, which Pillow leaves large.
_WRITE = """
import sys
from PIL import Image
name, width, height, profile = sys.argv[1:]
Image.new("RGB", (int(width), int(height)), (200, 120, 40)).save(name, quality=75, icc_profile=bytes.fromhex(profile))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "profile", "bytes_a_pixel"),
    [(20_000, 15_000, b"", 3.5), (5_000, 4_000, swapped_profile(), 7.5)],
    ids=["300 megapixels", "a profile"],
)
def test_a_large_jpeg_takes_little_more_than_its_pixels(
    width: int, height: int, profile: bytes, bytes_a_pixel: float, tmp_path: Path
) -> None:
    file = tmp_path / "large.jpg"
    arguments = [str(file), str(width), str(height), profile.hex()]
    subprocess.run([sys.executable, "-c", _WRITE, *arguments], check=True)
    ((outcome, grown),) = decoded(file, max_pixels=300_000_000)
    assert outcome == [height, width, height, width, 3]
    assert grown * (1 << 20) < width * height * bytes_a_pixel + (20 << 20)
