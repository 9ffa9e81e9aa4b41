"""Which boxes of one image are dropped because of others that overlap them.

Three boxes of one object, and a fourth elsewhere:

    xyxy              class    score   suppress within classes   keep_most_specific
    [0, 0, 10, 10]    Person   0.9     kept                      dropped: Man is below Person
    [0, 0, 10, 9]     Person   0.8     dropped                   dropped
    [0, 0, 10, 10]    Man      0.6     kept                      kept
    [20, 0, 30, 10]   Person   0.5     kept                      kept
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: Number of boxes that are compared with all others at once.
_PAIRED = 256


def suppress(xyxy: Boxes, iou: float, group: Indices | None = None, *, most: int | None = None) -> Indices:
    """Greedy non-maximum suppression.

    Args:
        xyxy: `(N, 4)` boxes, the best first.
        iou: A box is dropped if its IoU with a better kept box is greater. Boxes without area overlap nothing.
        group: `(N,)` class numbers; only boxes of the same group suppress each other; None for all boxes.
        most: Largest number of boxes to keep, the best; None for all.

    Returns:
        Indices of the kept boxes, ascending.
    """
    area = _areas(xyxy)
    most = len(xyxy) if most is None else most
    kept = np.empty(0, np.intp)
    # In parts, since comparing one box at a time with all others takes several times as long.
    for begin in range(0, len(xyxy), _PAIRED):
        if len(kept) >= most:
            break
        part = np.arange(begin, min(begin + _PAIRED, len(xyxy)))
        part = part[~_suppresses(kept, part, xyxy, area, iou, group).any(axis=0)]
        suppresses = _suppresses(part, part, xyxy, area, iou, group)
        free = np.ones(len(part), bool)
        for i in np.flatnonzero(suppresses.sum(axis=1) > 1):
            if free[i]:
                free[i + 1 :] &= ~suppresses[i, i + 1 :]
        kept = np.concatenate((kept, part[free]))
    return kept[:most]


def _suppresses(
    first: Indices, second: Indices, xyxy: Boxes, area: Boxes, iou: float, group: Indices | None
) -> npt.NDArray[np.bool_]:
    """`(F, S)` whether each of the first boxes overlaps each of the second too much, in the same group."""
    suppresses = _exceeds(iou, xyxy[first, np.newaxis], area[first, np.newaxis], xyxy[second], area[second])
    if group is not None:
        suppresses &= group[first, np.newaxis] == group[second]
    return suppresses


def keep_most_specific(xyxy: Boxes, iou: float, number: Indices, below: npt.NDArray[np.bool_]) -> Indices:
    """Drop every box that overlaps a box of a more specific class, whatever their scores.

    A box is also dropped because of a box that is itself dropped for a still more specific one.

    Args:
        xyxy: `(N, 4)` boxes in any order.
        iou: A box is dropped if its IoU with a more specific one is greater. Boxes without area overlap nothing.
        number: `(N,)` class numbers.
        below: `(C, C)`: whether the class of the row is below that of the column.

    Returns:
        Indices of the kept boxes, ascending.
    """
    area = _areas(xyxy)
    kept = np.ones(len(xyxy), bool)
    # In parts, so that memory grows with the number of boxes, not with its square.
    for begin in range(0, len(xyxy), _PAIRED):
        specific, general = np.nonzero(below[number[begin : begin + _PAIRED, np.newaxis], number])
        specific += begin
        overlap = _exceeds(iou, xyxy[specific], area[specific], xyxy[general], area[general])
        kept[general[overlap]] = False
    return np.flatnonzero(kept)


def _areas(xyxy: Boxes) -> Boxes:
    areas: Boxes = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return areas


def _exceeds(iou: float, a: Any, area_a: Any, b: Any, area_b: Any) -> npt.NDArray[np.bool_]:
    """Whether the IoU of boxes `a` (as many as `b`, or one per row of the result) and `b` is greater than a limit."""
    # Side by side: an array whose last axis has 2 entries takes several times as long.
    width, height = (
        np.maximum(np.minimum(a[..., axis + 2], b[:, axis + 2]) - np.maximum(a[..., axis], b[:, axis]), 0)
        for axis in (0, 1)
    )
    common = width * height
    # Multiply by the union instead of dividing by it, since the union of two boxes without area is 0.
    exceeds: npt.NDArray[np.bool_] = common > iou * (area_a + area_b - common)
    return exceeds
