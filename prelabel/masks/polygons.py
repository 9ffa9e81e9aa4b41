"""Simplified polygons from COCO RLE, for tools in which annotators move corners.

A polygon follows the edges of pixels: the mask of the single pixel at (0, 0) is the square 0,0 1,0 1,1 0,1. With a
tolerance of 0, it has a corner wherever the contour changes direction, and it fills exactly the pixels of the mask.

- Parts: each part has a contour. Pixels that touch only at a corner belong to different parts, so no contour touches
  itself. Annotators correct one polygon per object: `PolygonRules` decide what happens to several parts.
- Holes: contours of opposite direction, joined to the contour of their part by a bridge (`bridges`). COCO has no holes,
  since a list of polygons means their union, and neither have Label Studio's regions. Both fill such a polygon
  correctly, by the even-odd rule and by the nonzero rule. Only a hairline along the bridge is lost.
- Simplification: Ramer-Douglas-Peucker per contour, so that every corner of the mask is within the tolerance of the
  polygon. If a contour would lose too much of its area (where a mask is one or two pixels wide), its tolerance is
  halved until it does not, so no part disappears.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel.errors import ExportError, StoreError
from prelabel.masks import rle
from prelabel.masks.bridges import FloatArray, join_contours
from prelabel.masks.rle import Int64Array
from prelabel.masks.sides import Sides, rows_of, sides_of

#: How the parts of a mask become polygons: one polygon with bridges, a polygon per part, or only the largest part.
MASK_PARTS = ("bridge", "split", "largest")

#: Parts with less than this share of their object's pixels are small fragments, which are not worth correcting.
FRAGMENT_SHARE = 0.01

#: The smallest share of its area that a contour keeps when it is simplified.
_MIN_KEPT_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class PolygonRules:
    """How a mask is converted to polygons.

    Attributes:
        tolerance: Largest distance in pixels from a corner of the mask to the polygon; 0 keeps every corner.
        min_area: Parts that have fewer pixels, including their holes, are dropped; holes with fewer pixels are filled.
        min_share: Parts with a smaller share of the mask's pixels are dropped, too. The largest part is always kept.
        parts: One of `MASK_PARTS`.

    Raises:
        ExportError: A number is out of range, or `parts` is unknown.
    """

    tolerance: float = 1.0
    min_area: float = 0.0
    min_share: float = 0.0
    parts: str = "split"

    def __post_init__(self) -> None:
        if not (0 <= self.tolerance < math.inf and self.min_area >= 0 and 0 <= self.min_share <= 1):
            raise ExportError(
                "tolerance and min_area must be 0 or more and min_share from 0 to 1, got "
                f"{self.tolerance}, {self.min_area} and {self.min_share}"
            )
        if self.parts not in MASK_PARTS:
            raise ExportError(f"parts must be one of {', '.join(MASK_PARTS)}, got {self.parts!r}")

    @property
    def undrawn_parts(self) -> str:
        """What reports call the parts that have no polygon."""
        if self.parts == "largest":
            return "parts of masks beside the largest"
        limits = [f"{self.min_area:g} pixels"] * bool(self.min_area) + [
            f"{100 * self.min_share:g} % of their mask"
        ] * bool(self.min_share)
        return f"specks smaller than {' or '.join(limits)}"


class Polygons(NamedTuple):
    """The polygons of a mask, the largest part first, and the number of parts that have none.

    Each polygon is a list `[x1, y1, x2, y2, ...]` of at least 3 points in pixels, clockwise on the screen, not closed.
    """

    polygons: list[list[float]]
    undrawn: int


def object_polygons(counts: str | bytes, height: int, width: int, rules: PolygonRules) -> Polygons:
    """The polygons of a mask; an empty mask has none.

    Args:
        counts: COCO compressed counts.
        height: Pixels of the image.
        width: Pixels of the image.
        rules: How corners and parts are treated.

    Raises:
        ExportError: The counts are not a mask of this size, or the contour of the mask is too long.
    """
    parts, undrawn = mask_parts(counts, height, width, rules)
    if rules.parts == "largest":
        parts, undrawn = parts[:1], undrawn + len(parts[1:])
    elif rules.parts == "bridge" and parts:
        parts = [[contour for part in parts for contour in part]]
    return Polygons([join_contours(part).ravel().tolist() for part in parts], undrawn)


def mask_parts(counts: str | bytes, height: int, width: int, rules: PolygonRules) -> tuple[list[list[FloatArray]], int]:
    """The contours of each part, and the number of parts that have none.

    The largest part comes first. The contours of a part are its outer contour, then its holes.

    Args:
        counts: COCO compressed counts.
        height: Pixels of the image.
        width: Pixels of the image.
        rules: Which parts are kept; `rules.parts` is ignored.

    Raises:
        ExportError: See `object_polygons`.
    """
    try:
        starts, ends = rle.spans(counts, height, width)
    except StoreError as error:
        raise ExportError(f"cannot make polygons: {error}") from None
    if len(starts) == 0:
        return [], 0
    sides = sides_of(starts, ends, height)
    contours = _contours(sides)
    area = contours.area
    part_of = _part_of(sides, contours)
    pixels = np.bincount(part_of, area, minlength=len(area))
    keep = np.abs(area) >= rules.min_area
    outer = np.flatnonzero(area > 0)
    keep[outer] &= pixels[outer] >= rules.min_share * pixels.sum()
    if not keep[outer].any():
        keep[outer[pixels[outer].argmax()]] = True
    keep &= keep[part_of]
    points, bounds = _simplify(contours, np.flatnonzero(keep), rules.tolerance)
    parts: dict[int, list[FloatArray]] = {number: [] for number in np.argsort(-area, kind="stable").tolist()}
    for place, number in sorted(enumerate(np.flatnonzero(keep).tolist()), key=lambda item: -area[item[1]]):
        parts[int(part_of[number])].append(points[bounds[place] : bounds[place + 1]])
    return [part for part in parts.values() if part], int(np.count_nonzero(~keep[outer]))


class _Contours(NamedTuple):
    """Closed contours, concatenated; the mask lies to the right of their direction.

    Attributes:
        points: `(P, 2)` x y of the corners; the first corner of each contour is not repeated.
        bounds: `(O + 1,)` the start of each contour in `points`.
        area: `(O,)` pixels inside; negative for holes.
        of_side: `(S,)` the contour of each side.
    """

    points: FloatArray
    bounds: Int64Array
    area: FloatArray
    of_side: Int64Array


def _contours(sides: Sides) -> _Contours:
    # Sides go down if the mask is on their left, and up if it is on their right. Horizontal sides connect the ends of
    # vertical ones: on each row line the first with the second, the third with the fourth, and so on. If four sides
    # meet at a point, the downward one comes first, which separates pixels that touch only at a corner.
    begin = np.where(sides.right, sides.top, sides.bottom)
    end = np.where(sides.right, sides.bottom, sides.top)
    number = len(sides.x)
    stride = int(sides.x[-1]) + 1
    places = np.concatenate((begin, end)) * stride + np.concatenate((sides.x, sides.x))
    order = np.argsort(places * 2 + np.concatenate((~sides.right, ~sides.right)), kind="stable")
    first, second = order[::2], order[1::2]
    first_ends = first >= number
    following = np.empty(number, dtype=np.int64)
    following[np.where(first_ends, first, second) - number] = np.where(first_ends, second, first)

    following_list = following.tolist()
    path, starts = [], [0]
    seen = bytearray(number)
    for side in range(number):
        while not seen[side]:
            seen[side] = 1
            path.append(side)
            side = following_list[side]
        if len(path) > starts[-1]:
            starts.append(len(path))
    bounds = np.array(starts)
    # Corners are the end of each side and the start of the next. A contour starts with its leftmost side, which goes
    # up, so its first corner is the top left one.
    next_side = following[path]
    x, y = np.stack((sides.x[path], sides.x[next_side]), axis=1), np.stack((end[path], begin[next_side]), axis=1)
    points = np.stack((x.ravel(), y.ravel()), axis=1)
    # Half the sum of cross products, to which only vertical sides contribute: x times their length downwards.
    areas = sides.x[path] * (end - begin)[path]
    of_side = np.empty(number, dtype=np.int64)
    of_side[path] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    area = np.add.reduceat(areas, bounds[:-1]).astype(float)
    return _Contours(points.astype(float), bounds * 2, area, of_side)


def _part_of(sides: Sides, contours: _Contours) -> Int64Array:
    """`(O,)` the number of the outer contour around each contour; an outer contour has its own number."""
    part = np.arange(len(contours.area))
    holes = np.flatnonzero(contours.area < 0)
    if len(holes) == 0:
        return part
    if np.count_nonzero(contours.area > 0) == 1:
        part[holes] = int(contours.area.argmax())
        return part
    # Sides are ordered by x, so the first side of a hole is its leftmost. The pixel left of it is in the mask. The next
    # side further left belongs to the same part: to its outer contour or to another of its holes.
    leftmost = np.full(len(part), len(sides.x))
    np.minimum.at(leftmost, contours.of_side, np.arange(len(sides.x)))
    hole_side = leftmost[holes]
    length = rows_of(sides)
    side = np.repeat(np.arange(len(length)), length)
    row = np.arange(len(side)) - np.repeat(np.cumsum(length) - length - sides.top, length)
    stride = int(sides.x[-1]) + 1
    places = row * stride + sides.x[side]
    order = np.argsort(places, kind="stable")
    before = np.searchsorted(places[order], sides.top[hole_side] * stride + sides.x[hole_side]) - 1
    part[holes] = contours.of_side[side[order[before]]]
    while (contours.area[part] < 0).any():
        part = part[part]
    return part


def _simplify(contours: _Contours, chosen: Int64Array, tolerance: float) -> tuple[FloatArray, Int64Array]:
    """The points and bounds, as in `_Contours`, of the simplified contours with the chosen numbers."""
    sizes = np.diff(contours.bounds)[chosen]
    bounds = np.append(0, np.cumsum(sizes))
    index = np.arange(bounds[-1]) + np.repeat(contours.bounds[chosen] - bounds[:-1], sizes)
    points = contours.points[index]
    if tolerance == 0:
        return points, bounds
    keep = np.ones(len(points), dtype=bool)
    tolerances = np.full(len(chosen), float(tolerance))
    todo = np.arange(len(chosen))
    while len(todo):
        ring = np.repeat(todo, sizes[todo])
        here = np.arange(len(ring)) + np.repeat(bounds[todo] - (np.cumsum(sizes[todo]) - sizes[todo]), sizes[todo])
        keep[here] = _needed(points[here], sizes[todo], tolerances[todo])
        kept = here[keep[here]]
        number = np.bincount(ring[keep[here]], minlength=len(chosen))[todo]
        share = _areas(points[kept], number) / contours.area[chosen[todo]]
        # Tolerances below 0.5 become 0: below 0.7 pixels every step of a contour is kept anyway, and thus its area.
        too_simple = ((number < 3) | (share < _MIN_KEPT_SHARE)) & (tolerances[todo] > 0)
        todo = todo[too_simple]
        tolerances[todo] = np.where(tolerances[todo] < 0.5, 0, tolerances[todo] / 2)
    return points[keep], np.append(0, np.cumsum(np.add.reduceat(keep.astype(np.int64), bounds[:-1])))


def _areas(points: FloatArray, sizes: Int64Array) -> FloatArray:
    """`(O,)` signed areas of closed contours of `sizes` points each."""
    bounds = np.cumsum(sizes)
    following = np.arange(1, len(points) + 1)
    following[bounds - 1] = bounds - sizes
    x, y = points.T
    crossed = x * y[following] - x[following] * y
    area: FloatArray = np.add.reduceat(crossed, bounds - sizes) / 2
    return area


def _needed(points: FloatArray, sizes: Int64Array, tolerances: FloatArray) -> npt.NDArray[np.bool_]:
    """`(P,)` bool, the corners of closed contours that Ramer-Douglas-Peucker keeps, for all contours together."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    number = np.repeat(np.arange(len(sizes)), sizes)
    limit = tolerances[number]
    needed = np.zeros(len(points), dtype=bool)
    # A closed contour is cut into two stretches, at its first corner and at the corner farthest from it.
    from_first = np.hypot(*(points - points[starts][number]).T)
    needed[starts] = True
    needed[_first_largest(from_first, starts)] = True
    while True:
        corners = np.flatnonzero(needed)
        stretch = np.cumsum(needed) - 1
        following = np.append(corners[1:], 0)
        last = np.append(corners[1:], len(points)) == ends[number[corners]]
        following[last] = starts[number[corners[last]]]
        origin, along = points[corners], points[following] - points[corners]
        length = np.maximum((along**2).sum(axis=1), 1e-12)
        relative, chord = points - origin[stretch], along[stretch]
        share = np.clip((relative * chord).sum(axis=1) / length[stretch], 0, 1)
        distance = np.hypot(*(relative - share[:, None] * chord).T)
        far = _first_largest(distance, corners)
        far = far[distance[far] > limit[far]]
        if len(far) == 0:
            return needed
        needed[far] = True


def _first_largest(values: FloatArray, starts: Int64Array) -> Int64Array:
    """The index of the largest value of each stretch that starts at `starts`; the first of equal values."""
    largest = np.maximum.reduceat(values, starts)
    stretch = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    candidates = np.flatnonzero(values == largest[stretch])
    _, first = np.unique(stretch[candidates], return_index=True)
    return candidates[first]
