"""Which boxes of a group can meet: found by a grid, without a look at every pair.

Boxes are sorted into levels by their longer side (1 to 2 pixels, 2 to 4, 4 to 8, ...), and within a level by group, by
strip of the image, and by the column of their center. The partners of a box within reach are then a few ranges of
each level. Only the candidates in these ranges are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

#: Number of candidates that are compared at a time: a few megabytes.
_CANDIDATES = 1 << 15

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
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    sides = np.maximum(high - low, 0)
    intersection = sides[:, 0] * sides[:, 1]
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
        self._level = np.frexp(np.maximum(np.maximum(self._w, self._h), 1))[1]

    def earlier(self, queries: Int64Array, base: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Pairs of a query and a neighbor from the base that comes earlier, that is, has a lower index.

        Args:
            queries: Indices of boxes whose neighbors are searched.
            base: Indices of boxes among which they are searched.

        Returns:
            `(P,)` indices of the queries, increasing, and `(P,)` indices of their neighbors, increasing for each query.
        """
        number = max(len(self._x), 1)
        parts = [query * number + neighbor for query, neighbor in self._search(queries, base)]
        pairs = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        pairs.sort()
        query = pairs // number
        return query, pairs - query * number

    def _search(self, queries: Int64Array, base: Int64Array) -> Iterator[tuple[Int64Array, Int64Array]]:
        """The same pairs in any order, some at a time."""
        reach, width = self._reach, self._width
        # Sides that differ by a factor of up to 2**n are at most n levels apart.
        most_apart = 1 - math.frexp(max(reach.least_ratio, 1e-9))[1]
        query_level, base_level = self._level[queries], self._level[base]
        for level in np.unique(base_level):
            query = queries[np.abs(query_level - level) <= most_apart]
            member = base[base_level == level]
            longest = math.ldexp(1, int(level))
            strips = int(self._height / longest) + 1
            key = (self._group[member] * strips + (self._y[member] / longest).astype(np.int64)) * width + self._x[
                member
            ]
            order = np.argsort(key)
            key, member = key[order], member[order]
            across, down = (
                reach.spread * (side + longest) / 2 + reach.gap * np.minimum(side, longest) + _SLACK
                for side in (self._w[query], self._h[query])
            )
            first = (np.maximum(self._y[query] - down, 0) / longest).astype(np.int64)
            last = (np.minimum(self._y[query] + down, self._height - 1) / longest).astype(np.int64)
            number = last - first + 1
            row = (np.repeat(self._group[query] * strips, number) + expand(first, number)) * width
            left = row + np.repeat(np.maximum(self._x[query] - across, 0), number)
            right = row + np.repeat(np.minimum(self._x[query] + across, width - 1), number)
            begin = np.searchsorted(key, left - _SLACK)
            length = np.searchsorted(key, right + _SLACK, side="right") - begin
            query = np.repeat(query, number)
            total = np.cumsum(length)
            cuts = np.searchsorted(total, np.arange(_CANDIDATES, total[-1] if len(total) else 0, _CANDIDATES))
            for rows in map(slice, [0, *cuts], [*cuts, len(query)]):
                candidate = member[expand(begin[rows], length[rows])]
                repeated = np.repeat(query[rows], length[rows])
                earlier = candidate < repeated
                yield self._within_reach(repeated[earlier], candidate[earlier])

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
