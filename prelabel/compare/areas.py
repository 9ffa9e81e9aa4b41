"""Areas of an image, as boxes or as pixels, and how much two of them overlap.

A triangle with the corners (0, 0), (4, 0), (0, 4) has these pixels, those whose middle lies inside:

    # # # .
    # # . .
    # . . .
    . . . .
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel import rle

Points = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Area:
    """A part of an image.

    Attributes:
        xyxy: The box around it, pixels.
        pixels: `(h, w)` which pixels belong to it, from `(left, top)` on, or None for a box.
        left: Column of the first pixel.
        top: Row of the first pixel.
    """

    xyxy: Box
    pixels: npt.NDArray[np.bool_] | None = None
    left: int = 0
    top: int = 0


def iou(one: Area, other: Area) -> float:
    """Intersection over union: of the pixels where both have them, else of the boxes."""
    if one.pixels is None or other.pixels is None:
        return _box_iou(one.xyxy, other.xyxy)
    left, top = max(one.left, other.left), max(one.top, other.top)
    right = min(one.left + one.pixels.shape[1], other.left + other.pixels.shape[1])
    bottom = min(one.top + one.pixels.shape[0], other.top + other.pixels.shape[0])
    common = 0
    if left < right and top < bottom:
        common = int(np.count_nonzero(_cut(one, left, top, right, bottom) & _cut(other, left, top, right, bottom)))
    every = int(np.count_nonzero(one.pixels)) + int(np.count_nonzero(other.pixels)) - common
    return common / every if every else 0.0


def union(areas: Sequence[Area]) -> Area:
    """One area of several; of pixels where all have them."""
    if len(areas) == 1:
        return areas[0]
    x1, y1, x2, y2 = np.array([one.xyxy for one in areas]).T
    box = (float(x1.min()), float(y1.min()), float(x2.max()), float(y2.max()))
    if any(one.pixels is None for one in areas):
        return Area(box)
    left, top = min(one.left for one in areas), min(one.top for one in areas)
    shapes = [(one, one.pixels) for one in areas if one.pixels is not None]
    width = max(one.left + pixels.shape[1] for one, pixels in shapes) - left
    height = max(one.top + pixels.shape[0] for one, pixels in shapes) - top
    whole = np.zeros((height, width), bool)
    for one, pixels in shapes:
        y, x = one.top - top, one.left - left
        whole[y : y + pixels.shape[0], x : x + pixels.shape[1]] |= pixels
    return Area(box, whole, left, top)


def of_mask(counts: str, height: int, width: int) -> Area:
    """The area of a mask. Raises StoreError for counts that are none of this size."""
    left, top, w, h = rle.bbox_xywh(counts, height, width)
    crop = rle.decode(counts, height, width)[top : top + h, left : left + w]
    return Area((left, top, left + w, top + h), crop, left, top)


def of_outlines(outlines: Iterable[Points], height: int, width: int) -> Area:
    """What several outlines fill together, each by counting crossings.

    Args:
        outlines: `(P, 2)` corners x y in pixels each.
        height: Pixels of the image; nothing lies outside.
        width: Pixels of the image.
    """
    return union([_filled(np.clip(one, 0, (width, height))) for one in outlines])


def _filled(points: Points) -> Area:
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    left, top = math.floor(x1), math.floor(y1)
    height, width = max(math.ceil(y2) - top, 1), max(math.ceil(x2) - left, 1)
    turns = np.zeros((height, width + 1), np.int64)
    corners = points - (left, top)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # Rows whose middle lies between both ends, the lower end not counted.
        rows = np.arange(math.ceil(min(ay, by) - 0.5), math.ceil(max(ay, by) - 0.5))
        if len(rows):
            crossing = ax + (rows + 0.5 - ay) * (bx - ax) / (by - ay)
            np.add.at(turns, (rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)), 1)
    return Area((x1, y1, x2, y2), (np.cumsum(turns, axis=1) % 2 == 1)[:, :-1], left, top)


def _cut(one: Area, left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.bool_]:
    if one.pixels is None:
        raise ValueError("a box has no pixels to cut out")
    return one.pixels[top - one.top : bottom - one.top, left - one.left : right - one.left]


def _box_iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return common / (sum(sizes) - common)
