"""Areas of an image, as boxes or as pixels, and their overlap.

A pixel belongs to a polygon if its center lies inside. These pixels belong to the triangle (0, 0), (4, 0), (0, 4):

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

from prelabel.masks import rle

Points = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Area:
    """An area of an image.

    Attributes:
        xyxy: The bounding box in pixels.
        pixels: `(h, w)` bool, the pixels of the area, starting at `(left, top)`; None for a box.
        left: Image column of the first column of `pixels`.
        top: Image row of the first row of `pixels`.
    """

    xyxy: Box
    pixels: npt.NDArray[np.bool_] | None = None
    left: int = 0
    top: int = 0


def iou(a: Area, b: Area) -> float:
    """Intersection over union: of the pixels if both areas have them, otherwise of the boxes."""
    if a.pixels is None or b.pixels is None:
        return _box_iou(a.xyxy, b.xyxy)
    left, top = max(a.left, b.left), max(a.top, b.top)
    right = min(a.left + a.pixels.shape[1], b.left + b.pixels.shape[1])
    bottom = min(a.top + a.pixels.shape[0], b.top + b.pixels.shape[0])
    intersection = 0
    if left < right and top < bottom:
        intersection = int(np.count_nonzero(_crop(a, left, top, right, bottom) & _crop(b, left, top, right, bottom)))
    covered = int(np.count_nonzero(a.pixels)) + int(np.count_nonzero(b.pixels)) - intersection
    return intersection / covered if covered else 0.0


def union(areas: Sequence[Area]) -> Area:
    """The union of areas: of their pixels if all have them, otherwise the bounding box of their boxes."""
    if len(areas) == 1:
        return areas[0]
    x1, y1, x2, y2 = np.array([area.xyxy for area in areas]).T
    box = (float(x1.min()), float(y1.min()), float(x2.max()), float(y2.max()))
    if any(area.pixels is None for area in areas):
        return Area(box)
    left, top = min(area.left for area in areas), min(area.top for area in areas)
    with_pixels = [(area, area.pixels) for area in areas if area.pixels is not None]
    width = max(area.left + pixels.shape[1] for area, pixels in with_pixels) - left
    height = max(area.top + pixels.shape[0] for area, pixels in with_pixels) - top
    combined = np.zeros((height, width), bool)
    for area, pixels in with_pixels:
        y, x = area.top - top, area.left - left
        combined[y : y + pixels.shape[0], x : x + pixels.shape[1]] |= pixels
    return Area(box, combined, left, top)


def area_of_mask(counts: str, height: int, width: int) -> Area:
    """The area of a mask. Raises StoreError if the counts are not a mask of this size."""
    left, top, w, h = rle.bbox_xywh(counts, height, width)
    crop = rle.decode(counts, height, width)[top : top + h, left : left + w]
    return Area((left, top, left + w, top + h), crop, left, top)


def area_of_polygons(polygons: Iterable[Points], height: int, width: int) -> Area:
    """The union of polygons, each filled by the even-odd rule.

    Args:
        polygons: Each polygon's `(P, 2)` corners x y in pixels; they are clipped to the image.
        height: Pixels of the image.
        width: Pixels of the image.
    """
    return union([_filled(np.clip(polygon, 0, (width, height))) for polygon in polygons])


def _filled(points: Points) -> Area:
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    left, top = math.floor(x1), math.floor(y1)
    height, width = max(math.ceil(y2) - top, 1), max(math.ceil(x2) - left, 1)
    crossings = np.zeros((height, width + 1), np.int64)
    corners = points - (left, top)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # Pixel rows whose center lies between the ends of the edge, including the upper end but not the lower one.
        rows = np.arange(math.ceil(min(ay, by) - 0.5), math.ceil(max(ay, by) - 0.5))
        if len(rows):
            crossing = ax + (rows + 0.5 - ay) * (bx - ax) / (by - ay)
            np.add.at(crossings, (rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)), 1)
    return Area((x1, y1, x2, y2), (np.cumsum(crossings, axis=1) % 2 == 1)[:, :-1], left, top)


def _crop(area: Area, left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.bool_]:
    if area.pixels is None:
        raise ValueError("a box has no pixels to crop")
    return area.pixels[top - area.top : bottom - area.top, left - area.left : right - area.left]


def _box_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    box_areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return intersection / (sum(box_areas) - intersection)
