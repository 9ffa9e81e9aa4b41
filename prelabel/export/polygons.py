"""Simplified polygons from COCO RLE, for tools whose people move corners by hand.

A polygon runs along the edges of pixels: the mask of the single pixel at (0, 0) is the square 0,0 1,0 1,1 0,1. With a
tolerance of 0 it has a corner wherever the outline turns and fills exactly the mask's pixels.

- Parts: an outline each. Pixels that touch by a corner alone are different parts, so no outline touches itself. People
  who correct polygons get one for each object: `PolygonRules` say what becomes of several parts.
- Holes: outlines the other way round, joined to their part's by a bridge (`bridges`). COCO has no holes (a list of
  polygons is their union) and neither have Label Studio's regions; both fill such a polygon rightly, by counting
  crossings and by winding alike. Nothing is lost but a hairline along the bridge.
- Simplification: Ramer-Douglas-Peucker, each outline by itself, so that every corner of the mask lies within the
  tolerance of the polygon. An outline that would lose most of its area (one or two pixels wide) is given half the
  tolerance, and so on; no part vanishes by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel import rle
from prelabel.errors import ExportError, StoreError
from prelabel.export.bridges import FloatArray, bridged
from prelabel.rle import Int64Array
from prelabel.sides import Sides, rows_of, sides_of

#: What becomes of the parts of a mask: one polygon over bridges, a polygon each, or of the largest one only.
MASK_PARTS = ("bridge", "split", "largest")

#: Parts with less than this share of their object's pixels are specks, which nobody wants to correct.
SPECK = 0.01

#: The least share of its area that an outline keeps when it is simplified.
_LEAST_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class PolygonRules:
    """How a mask becomes polygons.

    Attributes:
        tolerance: How far, in pixels, a corner of the mask may be from the polygon; 0 keeps every corner.
        min_area: Parts that with their holes have fewer pixels are left out and holes of fewer pixels are filled.
        min_share: Parts with a smaller share of the mask's pixels are left out, too. The largest part always stays.
        parts: One of `MASK_PARTS`.

    Raises:
        ExportError: A number is negative, or there is no such way with parts.
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
    def left_out(self) -> str:
        """What reports call the parts that are not among the polygons."""
        return "parts of masks beside the largest" if self.parts == "largest" else "specks of masks"


class Polygons(NamedTuple):
    """The polygons of one mask, the largest part's first, and how many parts were left out.

    Each is a list `[x1, y1, x2, y2, ...]` of at least 3 points, in pixels, clockwise as seen on the screen, not closed.
    """

    polygons: list[list[float]]
    left_out: int


def polygons_from_rle(
    counts: str | bytes, height: int, width: int, tolerance: float = 1.0, min_area: float = 0.0
) -> list[list[float]]:
    """Polygons whose union is the mask, as COCO's `segmentation` has them: a part each. See `object_polygons`."""
    return object_polygons(counts, height, width, PolygonRules(tolerance, min_area)).polygons


def object_polygons(counts: str | bytes, height: int, width: int, rules: PolygonRules) -> Polygons:
    """The polygons of an object's mask; none for an empty one.

    Args:
        counts: COCO compressed counts.
        height: Pixels of the image.
        width: Pixels of the image.
        rules: What becomes of corners and parts.

    Raises:
        ExportError: The counts are none of this size, or the mask is too ragged.
    """
    parts, left_out = mask_parts(counts, height, width, rules)
    if rules.parts == "largest":
        parts, left_out = parts[:1], left_out + len(parts[1:])
    elif rules.parts == "bridge" and parts:
        parts = [[outline for part in parts for outline in part]]
    return Polygons([bridged(part).ravel().tolist() for part in parts], left_out)


def mask_parts(counts: str | bytes, height: int, width: int, rules: PolygonRules) -> tuple[list[list[FloatArray]], int]:
    """The outlines of each part, the largest part first: the outer one, then its holes; and how many are left out.

    Args:
        counts: See `object_polygons`, as for the rest.
        height: Pixels of the image.
        width: Pixels of the image.
        rules: Which parts stay; whether they become one polygon does not matter here.

    Raises:
        ExportError: See `object_polygons`.
    """
    try:
        starts, ends = rle.spans(counts, height, width)
    except StoreError as error:
        raise ExportError(f"no polygon can be made: {error}") from None
    if len(starts) == 0:
        return [], 0
    sides = sides_of(starts, ends, height)
    outlines = _outlines(sides)
    area = outlines.area
    part_of = _part_of(sides, outlines)
    pixels = np.bincount(part_of, area, minlength=len(area))
    keep = np.abs(area) >= rules.min_area
    outer = np.flatnonzero(area > 0)
    keep[outer] &= pixels[outer] >= rules.min_share * pixels.sum()
    if not keep[outer].any():
        keep[outer[pixels[outer].argmax()]] = True
    keep &= keep[part_of]
    points, bounds = _simplify(outlines, np.flatnonzero(keep), rules.tolerance)
    parts: dict[int, list[FloatArray]] = {number: [] for number in np.argsort(-area, kind="stable").tolist()}
    for place, number in sorted(enumerate(np.flatnonzero(keep).tolist()), key=lambda item: -area[item[1]]):
        parts[int(part_of[number])].append(points[bounds[place] : bounds[place + 1]])
    return [part for part in parts.values() if part], int(np.count_nonzero(~keep[outer]))


class _Outlines(NamedTuple):
    """Closed outlines one after the other; the mask lies to the right of the way.

    Attributes:
        points: `(P, 2)` x y of the corners, the first of each outline not repeated.
        bounds: `(O + 1,)` where each outline begins in `points`.
        area: `(O,)` pixels inside; negative for a hole.
        of_side: `(S,)` the outline to which each side belongs.
    """

    points: FloatArray
    bounds: Int64Array
    area: FloatArray
    of_side: Int64Array


def _outlines(sides: Sides) -> _Outlines:
    # Down where the mask lies left of the line, up where it lies right. Level sides join the ends of upright ones:
    # on each row line the first with the second, the third with the fourth. Where four sides meet at one place, the
    # downward one comes first, which keeps pixels that touch by a corner apart.
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
    way, starts = [], [0]
    seen = bytearray(number)
    for side in range(number):
        while not seen[side]:
            seen[side] = 1
            way.append(side)
            side = following_list[side]
        if len(way) > starts[-1]:
            starts.append(len(way))
    bounds = np.array(starts)
    # From the end of each side to the begin of the next: an outline that begins with its leftmost side, upwards, then
    # has its corner at the top left first.
    then = following[way]
    x, y = np.stack((sides.x[way], sides.x[then]), axis=1), np.stack((end[way], begin[then]), axis=1)
    points = np.stack((x.ravel(), y.ravel()), axis=1)
    # Half the sum of cross products, where only the upright sides count: x times the way down.
    doubled = sides.x[way] * (end - begin)[way]
    of_side = np.empty(number, dtype=np.int64)
    of_side[way] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    area = np.add.reduceat(doubled, bounds[:-1]).astype(float)
    return _Outlines(points.astype(float), bounds * 2, area, of_side)


def _part_of(sides: Sides, outlines: _Outlines) -> Int64Array:
    """`(O,)` the outer outline around each outline; its own number for an outer one."""
    part = np.arange(len(outlines.area))
    holes = np.flatnonzero(outlines.area < 0)
    if len(holes) == 0:
        return part
    if np.count_nonzero(outlines.area > 0) == 1:
        part[holes] = int(outlines.area.argmax())
        return part
    # Sides are ordered by x, so a hole's first one is its leftmost. The pixel to its left is in the mask; going on to
    # the left from there, the first side belongs to the same part: to its outer outline or to another of its holes.
    leftmost = np.full(len(part), len(sides.x))
    np.minimum.at(leftmost, outlines.of_side, np.arange(len(sides.x)))
    hole_side = leftmost[holes]
    length = rows_of(sides)
    side = np.repeat(np.arange(len(length)), length)
    row = np.arange(len(side)) - np.repeat(np.cumsum(length) - length - sides.top, length)
    stride = int(sides.x[-1]) + 1
    places = row * stride + sides.x[side]
    order = np.argsort(places, kind="stable")
    before = np.searchsorted(places[order], sides.top[hole_side] * stride + sides.x[hole_side]) - 1
    part[holes] = outlines.of_side[side[order[before]]]
    while (outlines.area[part] < 0).any():
        part = part[part]
    return part


def _simplify(outlines: _Outlines, chosen: Int64Array, tolerance: float) -> tuple[FloatArray, Int64Array]:
    """The chosen outlines with fewer corners; points and bounds as in `_Outlines`."""
    sizes = np.diff(outlines.bounds)[chosen]
    bounds = np.append(0, np.cumsum(sizes))
    index = np.arange(bounds[-1]) + np.repeat(outlines.bounds[chosen] - bounds[:-1], sizes)
    points = outlines.points[index]
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
        share = _areas(points[kept], number) / outlines.area[chosen[todo]]
        # Below 0.7 of a pixel nothing but straight ways is left out: every step is kept, and the area with it.
        poor = ((number < 3) | (share < _LEAST_SHARE)) & (tolerances[todo] > 0)
        todo = todo[poor]
        tolerances[todo] = np.where(tolerances[todo] < 0.5, 0, tolerances[todo] / 2)
    return points[keep], np.append(0, np.cumsum(np.add.reduceat(keep.astype(np.int64), bounds[:-1])))


def _areas(points: FloatArray, sizes: Int64Array) -> FloatArray:
    """`(O,)` signed area of closed outlines of `sizes` points each."""
    bounds = np.cumsum(sizes)
    following = np.arange(1, len(points) + 1)
    following[bounds - 1] = bounds - sizes
    x, y = points.T
    crossed = x * y[following] - x[following] * y
    area: FloatArray = np.add.reduceat(crossed, bounds - sizes) / 2
    return area


def _needed(points: FloatArray, sizes: Int64Array, tolerances: FloatArray) -> npt.NDArray[np.bool_]:
    """`(P,)` which corners Ramer-Douglas-Peucker keeps of closed outlines, all stretches of all of them at a time."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    number = np.repeat(np.arange(len(sizes)), sizes)
    limit = tolerances[number]
    needed = np.zeros(len(points), dtype=bool)
    # An outline is closed: it is cut into two stretches, at its first corner and the one farthest from that.
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
    """Index of the largest value of each stretch that begins at `starts`; of equal ones the first."""
    largest = np.maximum.reduceat(values, starts)
    stretch = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    candidates = np.flatnonzero(values == largest[stretch])
    _, first = np.unique(stretch[candidates], return_index=True)
    return candidates[first]
