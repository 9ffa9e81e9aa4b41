"""The orientation in which browsers show a file, and the rotation of stored pixels.

Detectors see every image upright. The orientation may be in EXIF, in XMP or in less common places, as in Pillow's
`exif_transpose`. Browsers apply fewer of these, and annotators draw boxes on what the browser shows. The rules below
are Chromium's (156). Firefox (ESR 153) ignores the orientation of a JPEG whose XMP precedes its EXIF, and of an
animated PNG. `tests/tools/test_browser_frames.py` opens files of every kind in real browsers.

    JPEG             EXIF in the first APP1 segment that has any, before the scan
    PNG              the first intact eXIf chunk before the pixels
    AVIF             rotation and mirroring in the container; EXIF alone is ignored
    WebP, GIF, BMP   none: shown as stored
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL.ExifTags import Base as Tag

from prelabel.frames import oriented_pixels, oriented_size

#: Formats whose orientation browsers ignore.
_NEVER_ROTATED = frozenset({"WEBP", "GIF", "BMP"})

_SHORT, _LONG = 3, 4


def browser_orientation(name: str, applied: int | None, exif: bytes | None, container: int | None) -> int:
    """The orientation, 1..8, that a browser applies to the stored pixels.

    Args:
        name: Pillow's name of the format.
        applied: The orientation that the decoder applied; the result for formats that browsers do not show.
        exif: EXIF data of a JPEG or PNG from where browsers look for it.
        container: Orientation in the container of an AVIF.
    """
    if name in _NEVER_ROTATED:
        return 1
    if name in ("JPEG", "PNG"):
        return exif_orientation(exif) or 1
    if name == "AVIF":
        return container or 1
    return applied or 1


def exif_orientation(exif: bytes | None) -> int | None:
    """The orientation in EXIF data as browsers read it: the first single SHORT with a value of 1..8.

    Args:
        exif: EXIF data, beginning with the byte order (`II` or `MM`).
    """
    if exif is None or exif[:4] not in (b"II*\0", b"MM\0*") or len(exif) < 8:
        return None
    order = "<" if exif[:1] == b"I" else ">"
    (directory,) = struct.unpack_from(order + "I", exif, 4)
    for tag, kind, count, offset in _entries(exif, order, directory):
        if tag == Tag.ExifOffset and (kind, count) == (_LONG, 1):
            (inner,) = struct.unpack_from(order + "I", exif, offset)
            values = (_short(exif, order, *entry) for entry in _entries(exif, order, inner))
            value = next(filter(None, values), None)
        else:
            value = _short(exif, order, tag, kind, count, offset)
        if value is not None:
            return value
    return None


def _short(exif: bytes, order: str, tag: int, kind: int, count: int, offset: int) -> int | None:
    if (tag, kind, count) != (Tag.Orientation, _SHORT, 1):
        return None
    value = int(struct.unpack_from(order + "H", exif, offset)[0])
    return value if 1 <= value <= 8 else None


def _entries(exif: bytes, order: str, directory: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the tag, type, count and value offset of each entry of a directory, as far as the data reach."""
    if directory + 2 > len(exif):
        return
    (entries,) = struct.unpack_from(order + "H", exif, directory)
    for offset in range(directory + 2, min(directory + 2 + 12 * entries, len(exif) - 11), 12):
        yield (*struct.unpack_from(order + "HHI", exif, offset), offset + 8)


# --- rotating stored pixels -------------------------------------------------------------------------------------------


def rotated(pixels: npt.NDArray[np.uint8], orientation: int | None) -> npt.NDArray[np.uint8]:
    """Rotate stored pixels to the display frame.

    Args:
        pixels: (H, W, 3), C-contiguous.
        orientation: EXIF orientation 1..8, or None.

    Returns:
        (H, W, 3) or (W, H, 3), C-contiguous; the argument itself if there is nothing to rotate.
    """
    if orientation in (None, 1):
        return pixels
    # Moving three-byte pixels is several times faster than moving single channels.
    upright = np.ascontiguousarray(oriented_pixels(pixels.view("V3")[..., 0], orientation or 1))
    return upright.view(np.uint8).reshape(*upright.shape, 3)


def displayed_size(size: tuple[int, int], orientation: int | None) -> tuple[int, int]:
    """Displayed width and height of an image with the stored width and height `size`."""
    height, width = oriented_size(size[1], size[0], orientation or 1)
    return width, height


def window_of(
    size: tuple[int, int], stored: tuple[int, int], scale: int, orientation: int | None
) -> tuple[int, int, int, int]:
    """The part of the displayed image that decoded pixels cover, in pixels of the image at full size.

    At 1/8 scale, the last row and column include up to 7 rows and columns outside the image, since the decoder pads the
    last blocks.

    Args:
        size: Stored width and height.
        stored: Decoded width and height, before rotation.
        scale: Stored pixels per decoded pixel, along each side.
        orientation: EXIF orientation 1..8, or None.

    Returns:
        x1 y1 x2 y2; `(0, 0, width, height)` at full size.
    """
    width, height = displayed_size(size, orientation)
    covered = displayed_size((stored[0] * scale, stored[1] * scale), orientation)
    left = width - covered[0] if orientation in (2, 3, 6, 7) else 0
    top = height - covered[1] if orientation in (3, 4, 7, 8) else 0
    return left, top, left + covered[0], top + covered[1]
