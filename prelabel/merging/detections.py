"""Merging the detections that several looks at one image gave into one set of detections.

A look is one pass of a detector over an image or a part of it. Its source is the kind of view, or the run, that it
belongs to: four tiles of an image are four looks of one source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, FloatArray, ObjectArray
from prelabel.masks.rle import BoolArray, Int64Array
from prelabel.merging.boxes import MergedBoxes, Method, merge_boxes
from prelabel.merging.keypoints import average_points, first_points, surest_points
from prelabel.merging.masks import unite_masks, vote_masks
from prelabel.merging.neighbors import Floats, area

#: Gives `(N,)` names under which detections are of the same class.
Names = Callable[[Detections], ObjectArray]

#: Gives, for `(N,)` such names, the weights of the sources that know the class, added up.
Electorate = Callable[[ObjectArray], Floats]


def labels_of(detections: Detections) -> ObjectArray:
    """`(N,)` the labels of detections."""
    return detections.label


def merge_detections(
    parts: Sequence[Detections],
    *,
    source: Sequence[int],
    weights: Sequence[float],
    windows: npt.ArrayLike,
    method: Method,
    iou: float,
    names: Names = labels_of,
    electorate: Electorate | None = None,
) -> Detections:
    """Merge detections with the same label that overlap, as `merge_boxes` does.

    Masks are merged as well: for `wbf` members vote (`vote_masks`), for `nmm` the mask is the union, and for `nms` that
    of the strongest member that has one, if possible of a member whose look saw the whole box. A detection has no mask
    if none of its members has. So are keypoints: for `wbf` each point is the mean of those that agree with the surest
    one (`average_points`), for `nmm` it is that of the member that is surest of it, and for `nms` all points are those
    of one member with keypoints, chosen as for masks.

    Args:
        parts: The detections of each look, in pixels of the whole image. All have the size of the whole image.
        source: `(P,)` the source of each look, an index of `weights`.
        weights: `(S,)` positive.
        windows: `(P, 4)` whole pixels x1 y1 x2 y2: the part of the image that each look saw.
        method: `wbf`, `nms` or `nmm`.
        iou: The threshold, more than 0 and less than 1.
        names: The names under which detections are of the same class.
        electorate: The weights by which scores of `wbf` are divided; by default those of all sources.

    Returns:
        The merged detections, the highest score first. Boxes, scores and masks are as merged; class number, label, MID
        and the scores of all classes are those of the strongest member; `views` is the number of looks that saw each.

    Raises:
        ValueError: There are no parts, their sizes differ, or an argument has the wrong shape or range.
        StoreError: A mask does not fit the image.
    """
    windows = checked_windows(parts, windows)
    if len(source) != len(parts):
        raise ValueError(f"source must have {len(parts)} entries, one per part, got {len(source)}")
    joined = concatenate(parts)
    part = np.repeat(np.arange(len(parts)), [len(detections) for detections in parts])
    part_source = np.asarray(source, np.int64)
    name = names(joined)
    merged = merge_boxes(
        joined.xyxy,
        joined.score,
        np.unique(name.astype(str), return_inverse=True)[1],
        part_source[part],
        weights,
        method=method,
        iou=iou,
        electorate=None if electorate is None else electorate(name),
    )
    cluster = np.repeat(np.arange(len(merged.best)), np.diff(merged.bounds))
    looks = np.unique(np.stack((cluster, part[merged.member])), axis=1)[0]
    weight = np.asarray(weights, np.float64)[part_source[part]]
    if method == "nms":
        saw_whole = _contain(windows[part[merged.member]], merged.xyxy[cluster])
        merged = replace(merged, member=merged.member[np.lexsort((~saw_whole, cluster))])
    return replace(
        joined[merged.best],
        xyxy=merged.xyxy.astype(np.float32),
        score=merged.score.astype(np.float32),
        mask=_merged_masks(joined, merged, cluster, weight, windows[part], method),
        keypoints=_merged_keypoints(joined, merged, weight, method),
        views=np.bincount(looks, minlength=len(merged.best)).astype(np.int32),
    )


def concatenate(parts: Sequence[Detections]) -> Detections:
    """The detections of all parts, one after the other.

    Those of parts without masks have the mask None if other parts have masks. The scores of all classes are kept if
    all parts with detections have them for the same number of classes. Detections of parts without keypoints have
    points with the score 0 if other parts have keypoints.

    Raises:
        ValueError: There are no parts, their sizes differ, or their numbers of keypoints do.
    """
    sizes = {(part.height, part.width) for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"parts must be detections of one image size, got {sorted(sizes)}")
    ((height, width),) = sizes
    classes = {None if part.multiclass_score is None else part.multiclass_score.shape[1] for part in parts if len(part)}
    multiclass = [part.multiclass_score for part in parts if part.multiclass_score is not None and len(part)]
    return Detections(
        height=height,
        width=width,
        xyxy=np.concatenate([part.xyxy for part in parts]),
        category_id=np.concatenate([part.category_id for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        mid=np.concatenate([part.mid for part in parts]),
        mask=_all_masks(parts),
        multiclass_score=np.concatenate(multiclass) if len(classes) == 1 and multiclass else None,
        keypoints=_all_keypoints(parts),
    )


def _contain(windows: Int64Array, boxes: Floats) -> BoolArray:
    """`(N,)` whether each window contains its box."""
    inside = np.concatenate((windows[:, :2] <= boxes[:, :2], windows[:, 2:] >= boxes[:, 2:]), axis=1)
    result: BoolArray = np.asarray(inside.all(axis=1))
    return result


def _all_masks(parts: Sequence[Detections]) -> ObjectArray | None:
    if all(part.mask is None for part in parts):
        return None
    return np.concatenate([np.full(len(part), None) if part.mask is None else part.mask for part in parts])


def _all_keypoints(parts: Sequence[Detections]) -> FloatArray | None:
    # An empty part that was read from a shard does not know how many keypoints there are.
    numbers = {part.keypoints.shape[1] for part in parts if part.keypoints is not None and len(part)}
    if len(numbers) > 1:
        raise ValueError(f"parts must have the same number of keypoints, got {sorted(numbers)}")
    if not numbers:
        return next((part.keypoints for part in parts if part.keypoints is not None), None)
    (number,) = numbers
    return np.concatenate(
        [
            np.zeros((len(part), number, 3), np.float32) if part.keypoints is None or not len(part) else part.keypoints
            for part in parts
        ]
    )


def _merged_keypoints(
    joined: Detections, merged: MergedBoxes, weights: npt.NDArray[np.float64], method: Method
) -> FloatArray | None:
    """`(M, K, 3)` the keypoints of each cluster, or None if there are none; `weights` are by detection."""
    if joined.keypoints is None:
        return None
    keypoints, bounds = joined.keypoints[merged.member], merged.bounds
    if method == "wbf":
        return average_points(keypoints, bounds, weights[merged.member], np.sqrt(area(merged.xyxy)))
    return surest_points(keypoints, bounds) if method == "nmm" else first_points(keypoints, bounds)


def _merged_masks(
    joined: Detections,
    merged: MergedBoxes,
    cluster: Int64Array,
    weights: npt.NDArray[np.float64],
    windows: Int64Array,
    method: Method,
) -> ObjectArray | None:
    """`(M,)` the mask of each cluster, or None where no member has one; None if there are no masks at all.

    Args:
        joined: All detections.
        merged: Their clusters.
        cluster: `(N,)` the cluster of each of `merged.member`.
        weights: `(N,)` by detection.
        windows: `(N, 4)` by detection.
        method: How boxes were merged.
    """
    if joined.mask is None:
        return None
    masks: ObjectArray = np.full(len(merged.best), None)
    with_mask = np.array([counts is not None for counts in joined.mask[merged.member]], dtype=bool)
    member, cluster = merged.member[with_mask], cluster[with_mask]
    owner, first = np.unique(cluster, return_index=True)
    counts, bounds = joined.mask[member].tolist(), np.append(first, len(member))
    if method == "wbf":
        masks[owner] = vote_masks(counts, bounds, weights[member], windows[member], joined.height, joined.width)
    elif method == "nmm":
        masks[owner] = unite_masks(counts, bounds, joined.height, joined.width)
    else:
        masks[owner] = joined.mask[member[first]]
    return masks


def checked_windows(parts: Sequence[Detections], windows: npt.ArrayLike) -> Int64Array:
    """`(P, 4)` int64 windows. Raises ValueError if they are not whole pixels, one window per part."""
    pixels = np.asarray(windows)
    if pixels.shape != (len(parts), 4):
        raise ValueError(f"windows must have shape ({len(parts)}, 4), one per part, got {pixels.shape}")
    whole: Int64Array = pixels.astype(np.int64)
    if np.any(whole != pixels):
        raise ValueError(f"windows must be whole pixels, got {pixels.tolist()}")
    return whole
