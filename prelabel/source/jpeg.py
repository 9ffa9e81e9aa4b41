"""The pixels of a grey or colour JPEG, by libjpeg-turbo without Pillow's detours.

Both decode with the same library and to the same pixels. Pillow, though, keeps four bytes of memory for three of
colour, and hands them out by copying them twice: for a photo of 12 megapixels that is more than half of its time.
Pillow still reads the header (size, EXIF, profile, frames) and has the last word on every file that is not in order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ImageFile

_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})

#: Markers of frames: baseline, progressive, lossless and others, JPEG-LS. C4, C8 and CC are none.
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})

#: What the inverse cosine transform can leave out by itself: pixels of the file for one of the picture, along a side.
_SCALES = (8, 4, 2)


def scale_of(size: tuple[int, int], shortest_side: int | None) -> int:
    """By how much a picture may be reduced: 1, 2, 4 or 8.

    Args:
        size: Width and height in the file.
        shortest_side: Pixels that the shorter side must keep; None for a picture in full.
    """
    if shortest_side is None:
        return 1
    return next((scale for scale in _SCALES if min(size) // scale >= shortest_side), 1)


def reduced(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Width and height of a picture at 1/scale: its last pixels may stand for fewer."""
    return -(-size[0] // scale), -(-size[1] // scale)


def read_pixels(image: ImageFile.ImageFile, data: bytes, scale: int) -> npt.NDArray[np.uint8] | None:
    """Pixels of a JPEG that Pillow has opened and not loaded, as they are stored.

    Args:
        image: For its mode and size.
        data: The whole file.
        scale: 1, 2, 4 or 8; other than 1 for sides of 8 times as many pixels at least.

    Returns:
        (H, W, 3) uint8 RGB, grey in all three channels; None for other modes (CMYK), for grey with a profile (which is
        for one channel), and wherever libjpeg has anything to remark: whether such a file is cut, broken or only odd is
        for Pillow's decoder to say.
    """
    if image.mode != "RGB" and (image.mode != "L" or image.info.get("icc_profile")):
        return None
    width, height = size = reduced(image.size, scale)
    try:
        # Of the sizes that libjpeg can make, the smallest that is not less than this.
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height)
    except ValueError:
        return None
    return pixels if pixels.shape[1::-1] == size else None


def reduce(image: ImageFile.ImageFile, scale: int) -> None:
    """Have Pillow load a JPEG that it has opened at 1/scale."""
    width, height = image.size
    image.draft(None, (width // scale, height // scale))


def jpeg_exif(data: bytes) -> bytes | None:
    """EXIF of the first APP1 segment that has any, from its byte order on, where browsers look for it."""
    for marker, body in _segments(data):
        # The byte behind `Exif\0` is padding, and most often zero.
        if marker == _APP1 and len(body) > 6 and body[:5] == b"Exif\0":
            return body[6:]
    return None


def jpeg_frame(data: bytes) -> int | None:
    """The marker of the frame, which says how it is coded; None where there is none."""
    return next((marker for marker, _ in _segments(data) if marker in _FRAMES), None)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment before the first scan."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        marker = data[at + 1]
        if marker in (_SCAN, _END):
            return
        if marker in (0x00, 0xFF):  # no marker, or one that is filled up
            at += 1
            continue
        at += 2
        if marker in _WITHOUT_LENGTH:
            continue
        length = max(int.from_bytes(data[at : at + 2], "big"), 2)
        yield marker, data[at + 2 : at + length]
        at += length
