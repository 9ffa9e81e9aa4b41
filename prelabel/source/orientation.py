"""Which way up browsers show a file.

Detectors see every picture upright: EXIF, XMP and the odd places where programs put an orientation are all obeyed, as
Pillow's `exif_transpose` does. Browsers obey fewer of them, and people draw boxes on what the browser shows them. The
rules here are Chromium's (156). Firefox (ESR 153) shows a JPEG that has XMP before its EXIF, and an animated PNG, as
they are stored. `tests/tools/test_browser_frames.py` opens files of every kind in the real browsers.

    JPEG    EXIF in the first APP1 segment that has any, before the scan
    PNG     the first eXIf chunk that is intact, before the pixels
    AVIF    the turn and the mirror of the container; EXIF alone counts for nothing
    others  that browsers show (WebP, GIF, BMP): as stored
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

#: Formats that browsers show as they are stored, whatever an orientation in them says.
_NEVER_TURNED = frozenset({"WEBP", "GIF", "BMP"})

_ORIENTATION = 0x0112
_EXIF_DIRECTORY = 0x8769
_SHORT, _LONG = 3, 4


def browser_orientation(name: str, applied: int | None, exif: bytes | None, container: int | None) -> int:
    """The orientation, 1..8, that a browser applies to the stored pixels.

    Args:
        name: The format of the file.
        applied: What the decoder applied: taken for formats that browsers do not show.
        exif: Of a JPEG or PNG, what stands where browsers look for it.
        container: What the container of an AVIF asks for.
    """
    if name in _NEVER_TURNED:
        return 1
    if name in ("JPEG", "PNG"):
        return exif_orientation(exif) or 1
    if name == "AVIF":
        return container or 1
    return applied or 1


def exif_orientation(exif: bytes | None) -> int | None:
    """The orientation in EXIF data as browsers read it: a single SHORT of 1..8, the first one that makes sense.

    Args:
        exif: From its byte order (`II` or `MM`) on.
    """
    if exif is None or exif[:4] not in (b"II*\0", b"MM\0*") or len(exif) < 8:
        return None
    order = "<" if exif[:1] == b"I" else ">"
    (directory,) = struct.unpack_from(order + "I", exif, 4)
    for tag, kind, count, at in _entries(exif, order, directory):
        if tag == _EXIF_DIRECTORY and (kind, count) == (_LONG, 1):
            (inner,) = struct.unpack_from(order + "I", exif, at)
            values = (_short(exif, order, *entry) for entry in _entries(exif, order, inner))
            value = next(filter(None, values), None)
        else:
            value = _short(exif, order, tag, kind, count, at)
        if value is not None:
            return value
    return None


def _short(exif: bytes, order: str, tag: int, kind: int, count: int, at: int) -> int | None:
    if (tag, kind, count) != (_ORIENTATION, _SHORT, 1):
        return None
    value = int(struct.unpack_from(order + "H", exif, at)[0])
    return value if 1 <= value <= 8 else None


def _entries(exif: bytes, order: str, directory: int) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count, and place of the value of each entry that is there."""
    if directory + 2 > len(exif):
        return
    (entries,) = struct.unpack_from(order + "H", exif, directory)
    for at in range(directory + 2, min(directory + 2 + 12 * entries, len(exif) - 11), 12):
        yield (*struct.unpack_from(order + "HHI", exif, at), at + 8)
