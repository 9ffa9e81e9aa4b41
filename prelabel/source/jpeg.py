"""Fast decoding of gray and color JPEGs by libjpeg-turbo, without Pillow's overhead.

Pillow uses the same library and decodes to the same pixels, but it stores four bytes per RGB pixel and copies the
pixels twice on the way out, which takes more than half of the decoding time of a 12-megapixel photo. When a file is
decoded, Pillow still reads the header (size, EXIF, profile, frames), and it decodes every file with an irregularity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ImageFile

from prelabel.aligned import aligned_empty

_APP1 = 0xE1

#: Before a marker there may be fill bytes; FF 00 is none.
_MARKER = re.compile(rb"\xff([^\x00\xff])")

#: Markers after which no segments are read: of a scan, of the end, and one that only arithmetic coding uses.
_LAST = frozenset({0xDA, 0xD9, 0x01})

#: Markers without a length: restarts, and the start of the file.
_RESTARTS = frozenset(range(0xD0, 0xD9))

#: Start-of-frame markers: baseline, progressive, lossless and others, JPEG-LS. C4, C8 and CC are not among them.
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})

#: Scales at which the inverse cosine transform can decode: stored pixels per decoded pixel, along each side.
_SCALES = (8, 4, 2)


def scale_of(size: tuple[int, int], shortest_side: int | None) -> int:
    """The scale at which an image may be decoded: 1, 2, 4 or 8 stored pixels per decoded pixel.

    Args:
        size: Stored width and height.
        shortest_side: Pixels that the shorter side must keep; None for full size.
    """
    if shortest_side is None:
        return 1
    return next((scale for scale in _SCALES if min(size) // scale >= shortest_side), 1)


def reduced_size(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Width and height of an image at 1/scale, rounded up."""
    return -(-size[0] // scale), -(-size[1] // scale)


def read_pixels(image: ImageFile.ImageFile, data: bytes, scale: int) -> npt.NDArray[np.uint8] | None:
    """Decode the stored pixels of a JPEG.

    Args:
        image: The image as opened by Pillow, not loaded; its mode and size are used.
        data: The complete file.
        scale: 1, 2, 4 or 8. Scales other than 1 need sides of at least 8 times as many pixels.

    Returns:
        (H, W, 3) uint8 RGB, aligned, with gray in all three channels. None for other modes (CMYK), for gray with a
        profile (which applies to one channel), and whenever libjpeg warns: Pillow's decoder then decides whether the
        file is truncated, corrupt or only unusual.
    """
    if image.mode != "RGB" and (image.mode != "L" or image.info.get("icc_profile")):
        return None
    width, height = size = reduced_size(image.size, scale)
    pixels: npt.NDArray[np.uint8] = aligned_empty((height, width, 3), np.uint8)
    try:
        # libjpeg picks the smallest of its sizes that is not below this one.
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, buffer=pixels)
    except ValueError:
        return None
    return pixels if pixels.shape[1::-1] == size else None


def draft_at_scale(image: ImageFile.ImageFile, scale: int) -> None:
    """Make Pillow load an opened JPEG at 1/scale."""
    width, height = image.size
    image.draft(None, (width // scale, height // scale))


def jpeg_exif(data: bytes) -> bytes | None:
    """EXIF data from where browsers look for it: the first APP1 segment with EXIF. Begins with the byte order."""
    for marker, body in _segments(data):
        # The byte after `Exif\0` is padding, usually zero.
        if marker == _APP1 and len(body) > 6 and body[:5] == b"Exif\0":
            return body[6:]
    return None


def jpeg_frame(data: bytes) -> int | None:
    """The start-of-frame marker, which tells the encoding; None if there is none."""
    return _frame(data)[0]


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Stored width and height as the first frame declares them; (0, 0) if there is none."""
    _, body = _frame(data)
    return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")


def _frame(data: bytes) -> tuple[int | None, bytes]:
    """The marker and body of the first frame; None and `b""` if there is none."""
    return next(((marker, body) for marker, body in _segments(data) if marker in _FRAMES), (None, b""))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and body of each segment before the first scan."""
    offset = 2
    while (found := _MARKER.search(data, offset)) is not None:
        marker, offset = found[1][0], found.end()
        if marker in _LAST:
            return
        if marker in _RESTARTS:
            continue
        length = max(int.from_bytes(data[offset : offset + 2], "big"), 2)
        yield marker, data[offset + 2 : offset + length]
        offset += length
