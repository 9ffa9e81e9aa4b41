"""Merging the masks of clusters, on the edges of their runs, without decoding them into pixels.

Three masks of 1 x 6 pixels, `###...`, `.####.` and `..###.`, all with a weight of 1. In column order, the sum of the
weights changes only at the edges of runs:

    pixel       0 1 2 3 4 5
    sum         1 2 3 2 2 0
    vote        . # # # # .        the sum is at least half of the total of 3
    union       # # # # # .        the sum is positive
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel.masks import rle
from prelabel.masks.rle import BoolArray, Int64Array
from prelabel.masks.rle_many import ManyRuns, decode_many, extents, join_counts
from prelabel.merging.neighbors import expand

Weights = npt.NDArray[np.float64]

#: Characters of the masks that are merged together; a few dozen megabytes at most.
_BATCH_CHARACTERS = 1 << 17

#: Sums of weights may differ by this share of the largest weight from what they would be without rounding.
_ROUNDING = 1e-6


def vote_masks(
    counts: Sequence[str],
    bounds: Int64Array,
    weights: npt.NDArray[np.floating[Any]],
    windows: npt.NDArray[np.integer[Any]],
    height: int,
    width: int,
) -> list[str]:
    """The mask of each cluster, decided pixel by pixel by its members.

    A pixel belongs to the mask if the weights of the members that contain it are at least half of the weights of the
    members that saw it. A member that saw only a part of the image has no vote outside of that part. If no pixel has
    enough votes, the first member's mask is the result.

    Args:
        counts: `(K,)` COCO compressed counts of all members, cluster by cluster, the strongest of each first.
        bounds: `(M + 1,)` the start of each cluster in `counts`; no cluster is empty.
        weights: `(K,)` positive.
        windows: `(K, 4)` whole pixels x1 y1 x2 y2: the part of the image that a member saw.
        height: Pixels of the image.
        width: Pixels of the image.

    Raises:
        StoreError: A mask does not fit the image.
    """
    return _merged(counts, bounds, np.asarray(weights, np.float64), windows, height, width)


def unite_masks(counts: Sequence[str], bounds: Int64Array, height: int, width: int) -> list[str]:
    """The union of the masks of each cluster; the arguments and errors are those of `vote_masks`."""
    return _merged(counts, bounds, np.ones(len(counts)), None, height, width)


def iou_within(first: str, second: str, window: Int64Array, height: int, width: int) -> float:
    """The IoU of two masks of an image in a window x1 y1 x2 y2 of whole pixels; 0 if both are empty there.

    Raises:
        StoreError: A mask does not fit the image.
    """
    x1, y1, x2, y2 = (int(value) for value in window)
    starts, ends = [], []
    for counts in (first, second):
        column, start, end = rle.cut_at_columns(*rle.spans(counts, height, width), height)
        start, end = np.maximum(start, column * height + y1), np.minimum(end, column * height + y2)
        inside = (column >= x1) & (column < x2) & (start < end)
        starts.append(start[inside])
        ends.append(end[inside])
    start, end = np.concatenate(starts), np.concatenate(ends)
    position, change = _paired(start, end, np.ones(len(start)))
    order = np.argsort(position, kind="stable")
    masks, pixels = np.cumsum(change[order])[:-1], np.diff(position[order])
    union = int(pixels[masks > 0].sum())
    return int(pixels[masks > 1].sum()) / union if union else 0.0


class _Events(NamedTuple):
    """Where sums of weights change. The images of all clusters lie one after the other, with a pixel between them.

    Attributes:
        position: `(E,)` pixels in column order.
        change: `(E,)` what is added to the sum from this pixel on.
    """

    position: Int64Array
    change: Weights


def _merged(
    counts: Sequence[str],
    bounds: Int64Array,
    weights: Weights,
    windows: npt.NDArray[np.integer[Any]] | None,
    height: int,
    width: int,
) -> list[str]:
    """The masks by vote, or their unions if there are no windows."""
    merged = [counts[first] for first in bounds[:-1]]
    tolerance = _ROUNDING * weights.max(initial=0)
    for clusters in _batches(counts, bounds):
        number = bounds[clusters + 1] - bounds[clusters]
        member = expand(bounds[clusters], number)
        cluster = np.repeat(np.arange(len(clusters)), number)
        masks = _decoded([counts[index] for index in member], height, width)
        events = _mask_events(masks, cluster, weights[member], height * width)
        if windows is None:
            edges, of_cluster = _edges(events, np.zeros(len(clusters)), tolerance, height * width)
        else:
            boxes = _boxes_of_clusters(masks, cluster, height)
            partial, whole = _window_events(windows[member], boxes[cluster], cluster, weights[member], height, width)
            total = np.bincount(cluster[whole], weights[member[whole]], len(clusters)).astype(np.float64)
            edges, of_cluster = _edges(events, total, tolerance, height * width, partial)
        edges_per_mask = np.bincount(of_cluster, minlength=len(clusters))
        masks_of_clusters = rle.encode_edges(edges, edges_per_mask, height * width)
        for index in np.flatnonzero(edges_per_mask):
            merged[clusters[index]] = masks_of_clusters[index]
    return merged


def _batches(counts: Sequence[str], bounds: Int64Array) -> Iterator[Int64Array]:
    """Clusters with several members, as many at a time as have about `_BATCH_CHARACTERS`."""
    characters = np.append(0, np.cumsum([len(text) for text in counts], dtype=np.int64))
    several = np.flatnonzero(np.diff(bounds) > 1)
    total = np.cumsum(characters[bounds[several + 1]] - characters[bounds[several]])
    if len(several):
        yield from np.split(several, np.flatnonzero(np.diff(total // _BATCH_CHARACTERS)) + 1)


def _decoded(counts: list[str], height: int, width: int) -> ManyRuns:
    masks = decode_many(*join_counts(counts), np.full(len(counts), height), np.full(len(counts), width))
    if not masks.valid.all():
        # The decoder of one mask has the message.
        rle.validate(counts[int(masks.valid.argmin())], height, width)
    return masks


def _mask_events(masks: ManyRuns, cluster: Int64Array, weights: Weights, pixels: int) -> _Events:
    """The weight of each mask is added where a run of ones begins, and subtracted where it ends."""
    number = np.diff(masks.bounds)
    mask = np.repeat(np.arange(len(number)), number)
    is_one = (np.arange(len(mask)) - masks.bounds[mask]) % 2 == 1
    ones = np.flatnonzero(is_one & (masks.runs > 0))
    mask = mask[ones]
    # The runs of a mask cover all pixels, so their running sum counts whole images.
    end = np.cumsum(masks.runs)[ones] + cluster[mask] * (pixels + 1) - mask * pixels
    return _paired(end - masks.runs[ones], end, weights[mask])


def _window_events(
    windows: npt.NDArray[np.integer[Any]],
    boxes: Int64Array,
    cluster: Int64Array,
    weights: Weights,
    height: int,
    width: int,
) -> tuple[_Events, BoolArray]:
    """Where members could see something, within a box of their cluster.

    Returns:
        For members that saw a part of the box, the weight is added and subtracted in each of its columns. And `(K,)`
        whether a member saw all of the box.
    """
    seen = np.concatenate((np.maximum(windows[:, :2], boxes[:, :2]), np.minimum(windows[:, 2:], boxes[:, 2:])), axis=1)
    whole: BoolArray = (seen == boxes).all(axis=1)
    partial = np.flatnonzero(~whole & (seen[:, :2] < seen[:, 2:]).all(axis=1))
    x1, y1, x2, y2 = seen[partial].astype(np.int64).T
    columns = x2 - x1
    column = expand(x1, columns) * height + np.repeat(cluster[partial] * (height * width + 1), columns)
    top, bottom = np.repeat(y1, columns), np.repeat(y2, columns)
    return _paired(column + top, column + bottom, np.repeat(weights[partial], columns)), whole


def _paired(start: Int64Array, end: Int64Array, weights: Weights) -> _Events:
    """A weight is added at each start and subtracted at each end."""
    return _Events(np.stack((start, end), axis=1).ravel(), np.stack((weights, -weights), axis=1).ravel())


def _boxes_of_clusters(masks: ManyRuns, cluster: Int64Array, height: int) -> Int64Array:
    """`(M, 4)` x1 y1 x2 y2 around all masks of each cluster, in whole pixels."""
    area, xywh = extents(masks, np.full(len(cluster), height))
    first = np.flatnonzero(np.diff(cluster, prepend=-1))
    low = np.where(area[:, None] > 0, xywh[:, :2], np.iinfo(np.int64).max)
    low = np.minimum.reduceat(low, first)
    return np.concatenate((low, np.maximum.reduceat(xywh[:, :2] + xywh[:, 2:], first)), axis=1)


def _edges(
    events: _Events, total: Weights, tolerance: float, pixels: int, partial: _Events | None = None
) -> tuple[Int64Array, Int64Array]:
    """The edges of merged masks, cluster by cluster, and the cluster of each edge.

    Args:
        events: The sum of the weights of the masks that contain a pixel.
        total: `(M,)` by cluster, the sum of the weights of members that saw all pixels; 0 for unions.
        tolerance: Sums that differ by no more are equal.
        pixels: Height times width.
        partial: The sum of the weights of further members that saw a pixel.
    """
    position, contain = events
    saw = np.zeros(len(position))
    if partial is not None:
        position = np.concatenate((position, partial.position))
        contain = np.concatenate((contain, np.zeros(len(partial.position))))
        saw = np.concatenate((saw, partial.change))
    # Events are sorted within each mask, so this sort, unlike others, has only to merge them.
    order = np.argsort(position, kind="stable")
    position = position[order]
    cluster = position // (pixels + 1)
    contained, seen = np.cumsum(contain[order]), np.cumsum(saw[order]) + total[cluster]
    inside = (contained > tolerance) & (2 * contained >= seen - tolerance)
    inside = inside[last := np.flatnonzero(np.diff(position, append=-1))]
    changed = last[np.flatnonzero(np.diff(inside, prepend=False))]
    edges, cluster = position[changed] - cluster[changed] * (pixels + 1), cluster[changed]
    return edges[edges < pixels], cluster[edges < pixels]
