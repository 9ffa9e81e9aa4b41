"""Merging the keypoints of clusters: the mean of the points that agree, or the surest point.

Three members of a cluster saw a left eye, all with a weight of 1. The box has a size of 100 pixels, so points that lie
at most 10 pixels from the surest one agree with it:

    member      x     score
    whole       50    0.8       the surest
    flip        54    0.4
    tile        80    0.6       does not agree: perhaps the right eye
    mean        51.3  0.67      (50 * 0.8 + 54 * 0.4) / 1.2, and the mean of the scores with the same weights
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from prelabel.detections import FloatArray
from prelabel.masks.rle import Int64Array

Floats = npt.NDArray[np.float64]
Array = TypeVar("Array", bound=npt.NDArray[Any])

#: Points agree if their distance is at most this share of the box's size, the square root of its area. COCO's measure
#: of similarity falls to 0.6 at a fifth of the size for hips and at a twentieth for eyes.
_AGREEMENT = 0.1


def average_points(keypoints: FloatArray, bounds: Int64Array, weights: Floats, size: Floats) -> FloatArray:
    """`(M, K, 3)` of each cluster, each point as the mean of the members' points that agree with the surest one.

    The surest point is that with the highest score times weight. The mean of x, y and score is weighted by score times
    weight, so members that do not see a point do not change it.

    Args:
        keypoints: `(N, K, 3)` of all members, cluster by cluster, the strongest of each first.
        bounds: `(M + 1,)` the start of each cluster in `keypoints`; no cluster is empty.
        weights: `(N,)` positive.
        size: `(M,)` the square root of the area of each cluster's box, in pixels.
    """
    cluster = np.repeat(np.arange(len(size)), np.diff(bounds))
    points = keypoints.astype(np.float64)
    strength: Floats = points[..., 2] * weights[:, None]
    surest = _taken(points, _surest(strength, bounds))
    x, y = np.moveaxis(points[..., :2] - surest[cluster, :, :2], -1, 0)
    distance: Floats = np.hypot(x, y)
    strength = np.where(distance <= _AGREEMENT * size[cluster][:, None], strength, 0)
    total = _sums(strength, bounds)
    mean = _sums(points * strength[..., None], bounds) / np.where(total > 0, total, 1)[..., None]
    return np.where(total[..., None] > 0, mean, 0).astype(np.float32)


def surest_points(keypoints: FloatArray, bounds: Int64Array) -> FloatArray:
    """`(M, K, 3)` of each cluster, each point from the member that is surest of it; see `average_points`."""
    return _taken(keypoints, _surest(keypoints[..., 2].astype(np.float64), bounds))


def first_points(keypoints: FloatArray, bounds: Int64Array) -> FloatArray:
    """`(M, K, 3)` of each cluster, all points from its first member that has any; see `average_points`."""
    has_points: Floats = np.any(keypoints[..., 2] > 0, axis=1, keepdims=True) * np.float64(1)
    return keypoints[_surest(has_points, bounds)[:, 0]]


def _surest(strength: Floats, bounds: Int64Array) -> Int64Array:
    """`(M, K)` the first member of each cluster with the highest strength, for each point."""
    if len(bounds) == 1:
        return np.empty((0, strength.shape[1]), np.int64)
    starts = bounds[:-1]
    highest = np.repeat(np.maximum.reduceat(strength, starts, axis=0), np.diff(bounds), axis=0)
    number = np.where(strength == highest, np.arange(len(strength))[:, None], len(strength))
    first: Int64Array = np.minimum.reduceat(number, starts, axis=0)
    return first


def _taken(keypoints: Array, member: Int64Array) -> Array:
    taken: Any = keypoints[member, np.arange(keypoints.shape[1])]
    return taken  # type: ignore[no-any-return]


def _sums(values: Floats, bounds: Int64Array) -> Floats:
    """The sums over the members of each cluster."""
    sums: Floats = np.add.reduceat(values, bounds[:-1], axis=0) if len(bounds) > 1 else values[:0]
    return sums
