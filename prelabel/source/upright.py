"""Turning stored pixels as the EXIF orientation says, and knowing which part of the picture they then show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prelabel.frames import turned_rows, turned_size


def turned(pixels: npt.NDArray[np.uint8], orientation: int | None) -> npt.NDArray[np.uint8]:
    """Stored pixels as displayed.

    Args:
        pixels: (H, W, 3), C-contiguous.
        orientation: 1..8 as EXIF counts them, or None.

    Returns:
        (H, W, 3) or (W, H, 3), C-contiguous; the argument itself where nothing is to be turned.
    """
    if orientation in (None, 1):
        return pixels
    # As one item of three bytes a pixel moves several times faster than as three items.
    upright = np.ascontiguousarray(turned_rows(pixels.view("V3")[..., 0], orientation or 1))
    return upright.view(np.uint8).reshape(*upright.shape, 3)


def displayed_size(size: tuple[int, int], orientation: int | None) -> tuple[int, int]:
    """Width and height as displayed of a picture with these in its file."""
    height, width = turned_size(size[1], size[0], orientation or 1)
    return width, height


def window_of(
    size: tuple[int, int], stored: tuple[int, int], scale: int, orientation: int | None
) -> tuple[int, int, int, int]:
    """Which part of the displayed picture its pixels show, in pixels of the whole picture.

    The last row and column of a picture decoded at 1/8 stand for up to 7 rows and columns that are not there: the
    decoder filled its last blocks up.

    Args:
        size: Width and height in the file.
        stored: Width and height as decoded, before the turn.
        scale: How many pixels of the file one decoded pixel stands for, along each side.
        orientation: 1..8, or None.

    Returns:
        x1 y1 x2 y2; `(0, 0, width, height)` for a picture in full.
    """
    width, height = displayed_size(size, orientation)
    covered = displayed_size((stored[0] * scale, stored[1] * scale), orientation)
    left = width - covered[0] if orientation in (2, 3, 6, 7) else 0
    top = height - covered[1] if orientation in (3, 4, 7, 8) else 0
    return left, top, left + covered[0], top + covered[1]
