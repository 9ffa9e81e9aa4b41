"""Which boxes of a group can meet: found by a grid, without a look at every pair.

Boxes are sorted into levels by their longer side (up to 4 pixels, 4 to 16, 16 to 64, ...), and within a level by group,
by strip of the image, and by the column of their center. The partners of a box within reach are then a few ranges of
each level. Only the candidates in these ranges are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

#: The most strips and the most candidates of a search that has several queries, and the number of candidates that are
#: compared at a time. All take a few megabytes.
_STRIPS, _CANDIDATES, _COMPARED = 1 << 18, 1 << 19, 1 << 15

#: What the rounding of fused boxes can change, as a share of a side; neighbors are searched this much farther.
_ROUNDING = 1e-6

#: Pixels that are added to ranges of the grid, so that rounding of its keys excludes nothing.
_SLACK = 1e-3


@dataclass(frozen=True, slots=True)
class Reach:
    """A condition that two boxes must meet to be neighbors.

    Attributes:
        least_iou: Their IoU is more; not compared if it is not positive.
        least_ratio: On each axis the shorter side is more than this share of the longer.
        spread: On each axis their centers are less apart than `spread` times the mean of both sides, plus `gap`.
        gap: In shorter sides.
    """

    least_iou: float
    least_ratio: float
    spread: float
    gap: float = 0.0


def overlap_reach(iou: float) -> Reach:
    """Two boxes can overlap with more than this IoU.

    The IoU of two boxes is at most that of their sides on each axis. Two sides `a <= b` with an IoU above `t` have
    `a > t * b`, and centers less than `(a + b) / 2 * (1 - t) / (1 + t)` apart.
    """
    least = iou - _ROUNDING
    return Reach(least, least, (1 - least) / (1 + least))


def shared_reach(iou: float) -> Reach:
    """A third box can overlap both boxes with more than this IoU.

    `1 - IoU` is a metric (the Jaccard distance), so the two boxes have an IoU above `2 * iou - 1`. Below an IoU of 0.5
    they may even be apart: by less than `1 / iou - 2` of the shorter side, since the third box must cover the gap and
    still consist of each box to more than `iou`. Sides differ at most by the factor `iou` to the third box and again
    from there.
    """
    least = 2 * iou - 1 - _ROUNDING
    spread = (1 - least) / (1 + least) if least > 0 else 1.0
    return Reach(least, iou * iou - _ROUNDING, spread + _ROUNDING, max(1 / iou - 2, 0.0) + _ROUNDING)


def iou_of_pairs(first: Floats, second: Floats) -> Floats:
    """`(P,)` IoU of two lists of `(P, 4)` boxes; 0 where both have no area."""
    across, down = (
        np.maximum(np.minimum(first[:, high], second[:, high]) - np.maximum(first[:, low], second[:, low]), 0)
        for low, high in ((0, 2), (1, 3))
    )
    intersection = across * down
    union = area(first) + area(second) - intersection
    overlap: Floats = np.divide(intersection, union, out=np.zeros(len(union)), where=union > 0)
    return overlap


def area(xyxy: Floats) -> Floats:
    """`(N,)` areas of boxes."""
    areas: Floats = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return areas


def expand(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """The ranges `start, start + 1, ...` of these lengths, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + lengths, lengths) + np.arange(total)


class _Grid(NamedTuple):
    """Some boxes, sorted by level, group, strip of the image, and the column of their center.

    Attributes:
        levels: `(L,)` the levels that occur, increasing.
        longest: `(L,)` pixels that all sides of the boxes of a level are shorter than; its strips are as high.
        strips: `(L,)` number of strips of the image.
        begin: `(L,)` number of the first strip, over all levels and groups.
        key: `(B + 1,)` strip times the width of the image plus column, increasing; then infinity.
        member: `(B,)` indices of the boxes.
    """

    levels: npt.NDArray[np.intc]
    longest: Floats
    strips: Int64Array
    begin: Int64Array
    key: Floats
    member: Int64Array


class _Ranges(NamedTuple):
    """Ranges of a grid that hold the candidates for neighbors: one per query, level and strip, if there is any.

    Attributes:
        searched: Number of queries whose ranges these are.
        query: `(R,)` index of the query, increasing.
        begin: `(R,)` place of the first candidate in the grid.
        length: `(R,)` number of candidates, at least one.
    """

    searched: int
    query: Int64Array
    begin: Int64Array
    length: Int64Array


def _first_within(most: int, query: Int64Array, count: Int64Array, queries: int) -> int:
    """How many of the first queries have counts that sum up to at most a limit; at least one.

    Args:
        most: The limit.
        query: `(R,)` the number of the query that each count belongs to, increasing.
        count: `(R,)`.
        queries: The number of queries.
    """
    fits = int(np.searchsorted(np.cumsum(count), most, side="right"))
    return queries if fits == len(count) else max(int(query[fits]), 1)


class Neighbors:
    """Finds the neighbors of boxes, with what it needs of all boxes computed once."""

    def __init__(self, xyxy: Floats, group: Int64Array, reach: Reach) -> None:
        """Prepare the search.

        Args:
            xyxy: `(N, 4)` boxes in pixels.
            group: `(N,)` from 0; neighbors are in the same group.
            reach: The condition for neighbors.
        """
        self._reach = reach
        self._group = group
        self._x1, self._y1, self._x2, self._y2 = np.ascontiguousarray(xyxy.T)
        self._w, self._h = self._x2 - self._x1, self._y2 - self._y1
        self._area = self._w * self._h
        # An IoU of i / (a + b - i) above t is an intersection i of more than (a + b) / (1 + 1 / t).
        self._share = 1 + 1 / reach.least_iou if reach.least_iou > 0 else 0.0
        self._x, self._y = (self._x1 + self._x2) / 2, (self._y1 + self._y2) / 2
        self._x -= self._x.min(initial=np.inf)
        self._y -= self._y.min(initial=np.inf)
        self._width, self._height = self._x.max(initial=0) + 1, self._y.max(initial=0) + 1
        self._groups = int(group.max(initial=-1)) + 1
        self._level = (np.frexp(np.maximum(np.maximum(self._w, self._h), 1))[1] + 1) // 2

    def earlier(self, queries: Int64Array, base: Int64Array) -> tuple[int, Int64Array, Int64Array]:
        """Pairs of a query and a neighbor from the base that comes earlier, that is, has a lower index.

        Args:
            queries: Indices of boxes whose neighbors are searched, increasing.
            base: Indices of boxes among which they are searched.

        Returns:
            The number of queries that were searched: the first ones, at least one, as many as the limits on memory
            allow. `(P,)` indices of queries, increasing, and `(P,)` indices of their neighbors, increasing for each
            query.
        """
        return self._search(queries, base, np.less)

    def later(self, queries: Int64Array, base: Int64Array) -> tuple[int, Int64Array, Int64Array]:
        """Like `earlier`, for neighbors that come later: faster if there are fewer queries than boxes in the base."""
        return self._search(queries, base, np.greater)

    def _search(self, queries: Int64Array, base: Int64Array, order: np.ufunc) -> tuple[int, Int64Array, Int64Array]:
        """Pairs of `earlier`, or, if the order is `np.greater`, those of `later`."""
        grid = self._grid(base)
        ranges = self._ranges(queries, grid)
        number = max(len(self._x), 1)
        parts = [query * number + neighbor for query, neighbor in self._compared(ranges, grid.member, order)]
        pairs = np.concatenate(parts)
        pairs.sort()
        query = pairs // number
        return ranges.searched, query, pairs - query * number

    def _grid(self, base: Int64Array) -> _Grid:
        """Boxes in the order of the grid."""
        levels, level = np.unique(self._level[base], return_inverse=True)
        longest = np.ldexp(1.0, 2 * levels)
        strips = (self._height / longest).astype(np.int64) + 1
        begin = np.cumsum(self._groups * strips) - self._groups * strips
        strip = begin[level] + self._group[base] * strips[level] + (self._y[base] / longest[level]).astype(np.int64)
        key = strip * self._width + self._x[base]
        order = np.argsort(key)
        return _Grid(levels, longest, strips, begin, np.append(key[order], np.inf), base[order])

    def _ranges(self, queries: Int64Array, grid: _Grid) -> _Ranges:
        """Where the candidates for neighbors of the first queries are in the grid."""
        reach, width = self._reach, self._width
        # Sides that differ by a factor of up to 2**n are at most n / 2 levels apart, rounded up.
        most_apart = (2 - math.frexp(max(reach.least_ratio, 1e-9))[1]) // 2
        number, level = np.nonzero(np.abs(self._level[queries, None] - grid.levels) <= most_apart)
        query, longest = queries[number], grid.longest[level]
        x, y = self._x[query], self._y[query]
        across, down = (
            reach.spread * (side + longest) / 2 + reach.gap * np.minimum(side, longest) + _SLACK
            for side in (self._w[query], self._h[query])
        )
        first = (np.maximum(y - down, 0) / longest).astype(np.int64)
        strips = (np.minimum(y + down, self._height - 1) / longest).astype(np.int64) - first + 1
        searched = _first_within(_STRIPS, number, strips, len(queries))
        strips = strips[: np.searchsorted(number, searched)]
        row = np.repeat(np.arange(len(strips)), strips)
        first += grid.begin[level] + self._group[query] * grid.strips[level]
        strip = expand(first[: len(strips)], strips) * width
        right = strip + np.minimum(x + across, width - 1)[row] + _SLACK
        begin = np.searchsorted(grid.key, strip + np.maximum(x - across, 0)[row] - _SLACK)
        nonempty = np.flatnonzero(grid.key[begin] <= right)
        begin, number = begin[nonempty], number[row[nonempty]]
        length = np.searchsorted(grid.key, right[nonempty], side="right") - begin
        searched = _first_within(_CANDIDATES, number, length, searched)
        ranges = slice(0, int(np.searchsorted(number, searched)))
        return _Ranges(searched, queries[number[ranges]], begin[ranges], length[ranges])

    def _compared(
        self, ranges: _Ranges, member: Int64Array, order: np.ufunc
    ) -> Iterator[tuple[Int64Array, Int64Array]]:
        """The pairs of `_search` in any order, some at a time; `member` are the boxes of the grid."""
        total = np.cumsum(ranges.length)
        cuts = np.searchsorted(total, np.arange(_COMPARED, total[-1] if len(total) else 0, _COMPARED))
        for rows in map(slice, [0, *cuts], [*cuts, len(total)]):
            candidate = member[expand(ranges.begin[rows], ranges.length[rows])]
            query = np.repeat(ranges.query[rows], ranges.length[rows])
            ordered = order(candidate, query)
            yield self._within_reach(query[ordered], candidate[ordered])

    def _within_reach(self, first: Int64Array, second: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The pairs that are neighbors. Each test is made only of pairs that passed the tests before it."""
        reach = self._reach
        if reach.least_iou > 0:
            down = np.minimum(self._y2[first], self._y2[second]) - np.maximum(self._y1[first], self._y1[second])
            near = np.flatnonzero(down > 0)
            first, second, down = first[near], second[near], down[near]
            across = np.minimum(self._x2[first], self._x2[second]) - np.maximum(self._x1[first], self._x1[second])
            intersection = np.maximum(across, 0) * down
            near = np.flatnonzero(intersection * self._share > self._area[first] + self._area[second])
            first, second = first[near], second[near]
        for center, side in ((self._y, self._h), (self._x, self._w)):
            shorter, longer = np.minimum(side[first], side[second]), np.maximum(side[first], side[second])
            most = (reach.spread / 2) * (shorter + longer) + reach.gap * shorter + _SLACK
            near = (np.abs(center[first] - center[second]) < most) & (shorter >= reach.least_ratio * longer)
            first, second = first[near], second[near]
        return first, second
