"""Which boxes are dropped because of others of the same image that overlap them.

Three boxes of one object, and a fourth elsewhere:

    xyxy              class    score   suppress within classes   keep_most_specific
    [0, 0, 10, 10]    Person   0.9     kept                      dropped: Man is below Person
    [0, 0, 10, 9]     Person   0.8     dropped                   dropped
    [0, 0, 10, 10]    Man      0.6     kept                      kept
    [20, 0, 30, 10]   Person   0.5     kept                      kept
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.merging.neighbors import Neighbors, iou_of_pairs, overlap_reach

Boxes = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Pair = tuple[Indices, Indices]
#: `Neighbors.earlier` or `Neighbors.later`.
Search = Callable[[Indices, Indices], tuple[int, Indices, Indices]]

#: Boxes that reach farther than the sides of any image are from a corrupt file.
_FARTHEST = 1 << 31

#: Boxes that are compared with each other at a time, after those that better kept boxes drop: at first, and at most.
_FIRST, _MOST = 128, 1024


def suppress(xyxy: Boxes, iou: float, group: Indices, *, most: int | None = None) -> Indices:
    """Greedy non-maximum suppression.

    Args:
        xyxy: `(N, 4)` boxes, the best of each group first.
        iou: A box is dropped if its IoU with a better kept box is greater. Boxes without area overlap nothing.
        group: `(N,)` numbers of image and class; only boxes of the same group suppress each other.
        most: Largest number of boxes to keep, the first; None for all.

    Returns:
        Indices of the kept boxes, ascending.
    """
    comparable = _comparable(xyxy)
    boxes = xyxy[comparable]
    neighbors = Neighbors(boxes, _from_zero(group[comparable]), overlap_reach(iou))
    kept = np.arange(0)
    is_dropped = np.zeros(len(boxes), bool)
    start, size = 0, _FIRST
    while start < len(boxes) and (most is None or len(kept) < most):
        block = np.arange(start, min(start + size, len(boxes)))
        start, size = start + size, min(2 * size, _MOST)
        # The search is faster with fewer queries.
        if len(kept) < len(block):
            for _, box in _overlapping(neighbors.later, boxes, iou, kept, block):
                is_dropped[box] = True
        else:
            for box, _ in _overlapping(neighbors.earlier, boxes, iou, block, kept):
                is_dropped[box] = True
        rest = block[~is_dropped[block]]
        kept = np.append(kept, _free(rest, _overlapping(neighbors.earlier, boxes, iou, rest, rest)))
    # The others are kept.
    is_kept = np.ones(len(xyxy), bool)
    is_kept[comparable] = False
    is_kept[comparable[kept]] = True
    return np.flatnonzero(is_kept)[:most]


def _free(block: Indices, pairs: Iterable[Pair]) -> Indices:
    """The boxes of a block that are kept, given the pairs of a box and a better one that drops it if it is kept."""
    box, better = (np.concatenate(column) for column in zip((block[:0], block[:0]), *pairs, strict=True))
    kept = block[:0]
    is_waiting, is_dropped = (np.zeros(int(block.max(initial=-1)) + 1, bool) for _ in range(2))
    while len(block):
        is_waiting[:] = False
        is_waiting[box] = True
        free = block[~is_waiting[block]]
        kept = np.append(kept, free)
        is_free = np.isin(better, free)
        is_dropped[box[is_free]] = True
        block = block[is_waiting[block] & ~is_dropped[block]]
        is_open = ~is_free & ~is_dropped[box] & ~is_dropped[better]
        box, better = box[is_open], better[is_open]
    return np.sort(kept)


def _overlapping(search: Search, boxes: Boxes, iou: float, queries: Indices, base: Indices) -> Iterator[Pair]:
    """Pairs of a query and a neighbor from the base whose IoU is greater, some at a time."""
    while len(queries):
        searched, query, neighbor = search(queries, base)
        overlap = iou_of_pairs(boxes[query], boxes[neighbor]) > iou
        yield query[overlap], neighbor[overlap]
        queries = queries[searched:]


def keep_most_specific(
    xyxy: Boxes, iou: float, number: Indices, below: npt.NDArray[np.bool_], image: Indices
) -> Indices:
    """Drop every box that overlaps a box of a more specific class, whatever their scores.

    A box is also dropped because of a box that is itself dropped for a still more specific one.

    Args:
        xyxy: `(N, 4)` boxes in any order.
        iou: A box is dropped if its IoU with a more specific one is greater. Boxes without area overlap nothing.
        number: `(N,)` class numbers.
        below: `(C, C)`: whether the class of the row is below that of the column.
        image: `(N,)` numbers of images; only boxes of the same image overlap.

    Returns:
        Indices of the kept boxes, ascending.
    """
    kept = np.ones(len(xyxy), bool)
    comparable = _comparable(xyxy)
    boxes = xyxy[comparable]
    neighbors = Neighbors(boxes, _from_zero(image[comparable]), overlap_reach(iou))
    all_boxes = np.arange(len(boxes))
    for pair in _overlapping(neighbors.earlier, boxes, iou, all_boxes, all_boxes):
        first, second = (comparable[box] for box in pair)
        for specific, general in ((first, second), (second, first)):
            kept[general[below[number[specific], number[general]]]] = False
    return np.flatnonzero(kept)


def _comparable(xyxy: Boxes) -> Indices:
    """Indices of the boxes that can overlap others: with an area, and not farther away than any image reaches."""
    has_area = (xyxy[:, :2] < xyxy[:, 2:]).all(axis=1)
    return np.flatnonzero(has_area & (np.abs(xyxy) < _FARTHEST).all(axis=1))


def _from_zero(group: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The same groups, numbered from 0 without gaps."""
    return np.unique(group, return_inverse=True)[1].astype(np.int64)
