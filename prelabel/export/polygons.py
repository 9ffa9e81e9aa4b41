"""Simplified polygons from COCO RLE, for tools whose people move corners by hand.

A polygon runs along the edges of pixels: the mask of the single pixel at (0, 0) is the square 0,0 1,0 1,1 0,1. With a
tolerance of 0 it has a corner wherever the outline turns and fills exactly the mask's pixels.

- Parts: one polygon each. Pixels that touch by a corner alone are different parts, so no outline touches itself.
- Holes: cut out by a bridge. The hole's outline, which runs the other way round, is inserted into its part's at the
  two corners that are nearest, so that the bridge is passed once in each direction and encloses nothing. COCO has no
  holes (a list of polygons is their union) and neither have Label Studio's regions; both fill such a polygon rightly,
  by counting crossings and by winding alike. Nothing is lost but a hairline along the bridge.
- Simplification: Ramer-Douglas-Peucker, each outline by itself, so that every corner of the mask lies within the
  tolerance of the polygon. An outline that would lose most of its area (one or two pixels wide) is given half the
  tolerance, and so on; no part vanishes by it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel import rle
from prelabel.errors import ExportError, StoreError
from prelabel.rle import Int64Array
from prelabel.sides import Sides, rows_of, sides_of

FloatArray = npt.NDArray[np.float64]

#: The least share of its area that an outline keeps when it is simplified.
_LEAST_SHARE = 0.7

#: Pairs of corners among which the shortest bridge is looked for; with more, any corner of the hole will do.
_MOST_PAIRS = 4_000_000


def polygons_from_rle(
    counts: str | bytes, height: int, width: int, tolerance: float = 1.0, min_area: float = 0.0
) -> list[list[float]]:
    """Polygons whose union is the mask, largest part first, as COCO's `segmentation` has them.

    Args:
        counts: COCO compressed counts.
        height: Pixels of the image.
        width: Pixels of the image.
        tolerance: How far, in pixels, a corner of the mask may be from the polygon; 0 keeps every corner.
        min_area: Parts that with their holes have fewer pixels are left out and holes of fewer pixels are filled. If
            all parts are smaller, the largest one stays.

    Returns:
        A list `[x1, y1, x2, y2, ...]` of at least 3 points for each part, in pixels, clockwise as seen on the screen,
        not closed; empty for an empty mask.

    Raises:
        ExportError: The counts are none of this size, the mask is too ragged, or tolerance or min_area is negative.
    """
    if not (0 <= tolerance < math.inf and min_area >= 0):
        raise ExportError(f"tolerance and min_area must be 0 or more, got {tolerance} and {min_area}")
    try:
        starts, ends = rle.spans(counts, height, width)
    except StoreError as error:
        raise ExportError(f"no polygon can be made: {error}") from None
    if len(starts) == 0:
        return []
    sides = sides_of(starts, ends, height)
    outlines = _outlines(sides)
    area = outlines.area
    part_of = _part_of(sides, outlines)
    keep = np.abs(area) >= min_area
    if not keep[area > 0].any():
        keep[area.argmax()] = True
    points, bounds = _simplify(outlines, np.flatnonzero(keep), tolerance)
    rings = {
        number: points[bounds[place] : bounds[place + 1]] for place, number in enumerate(np.flatnonzero(keep).tolist())
    }
    holes: dict[int, list[FloatArray]] = {}
    for number in np.flatnonzero(keep & (area < 0)).tolist():
        holes.setdefault(int(part_of[number]), []).append(rings[number])
    parts = [number for number in np.argsort(-area, kind="stable").tolist() if number in rings and area[number] > 0]
    return [_bridged(rings[number], holes.get(number, [])).ravel().tolist() for number in parts]


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


def _bridged(outer: FloatArray, holes: list[FloatArray]) -> FloatArray:
    """One closed way around a part and, over bridges, around its holes."""
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        near = hole if len(outer) * len(hole) < _MOST_PAIRS else hole[:1]
        distance = ((outer[:, None] - near[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(distance.argmin()), distance.shape)
        detour = np.concatenate((hole[there:], hole[: there + 1]))
        outer = np.concatenate((outer[: here + 1], detour, outer[here:]))
    return outer
