"""Which detections are right: COCO's greedy matching of boxes, at one IoU.

Of one class on one image, by descending score, each detection takes the object it overlaps most that no better one has
taken, if they overlap by at least the given IoU. A detection that finds none but lies in a crowd region (by that share
of its own area) is neither right nor wrong. Because better detections choose first, dropping all below some score
changes nothing for those above it: one matching serves every threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

#: What a detection may be in place of an object's position: wrong, or in a crowd region.
WRONG, IGNORED = -1, -2


def overlaps(found: Floats, objects: Floats, crowd: Bools) -> npt.NDArray[np.float64]:
    """`(N, G)` IoU of boxes; with a crowd region the share of the detection that lies in it.

    Args:
        found: `(N, 4)` x y width height, with area.
        objects: `(G, 4)` x y width height.
        crowd: `(G,)` which objects are crowd regions.
    """
    a, b = np.asarray(found, np.float64)[:, None], np.asarray(objects, np.float64)[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.clip(sides, 0, None), axis=2)
    own, theirs = a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]
    whole = np.where(crowd, own, own + theirs - common)
    shares: npt.NDArray[np.float64] = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return shares


def match(iou: npt.NDArray[np.float64], crowd: Bools, at_least: float) -> Ints:
    """Greedy matching, as COCO does it.

    Args:
        iou: `(N, G)` of detections by descending score and objects.
        crowd: `(G,)` which objects are crowd regions.
        at_least: The IoU that is needed.

    Returns:
        `(N,)` the object each detection has found, or `WRONG`, or `IGNORED`.
    """
    result = np.full(len(iou), WRONG, np.intp)
    if iou.size == 0:
        return result
    at_least = min(at_least, 1 - 1e-10)
    free = np.where(crowd, -1.0, iou)
    in_crowd: Bools = np.any(np.where(crowd, iou, -1.0) >= at_least, axis=1)
    for number in np.flatnonzero(np.any(free >= at_least, axis=1) | in_crowd):
        # Of equal overlaps COCO takes the last.
        best = free.shape[1] - 1 - int(free[number, ::-1].argmax())
        if free[number, best] >= at_least:
            result[number] = best
            free[:, best] = -1.0
        elif in_crowd[number]:
            result[number] = IGNORED
    return result
