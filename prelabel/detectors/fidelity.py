"""Whether another way of running a network says the same of an image.

What a run keeps is compared with what the other way finds at a slightly lower threshold, in both directions: a
detection of score 0.3001 that has 0.2999 the other way has not vanished, nor has one appeared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from prelabel import rle
from prelabel.detections import Detections, FloatArray
from prelabel.detectors.answers import DetectorOptions
from prelabel.detectors.base import Found


@dataclass(frozen=True, slots=True)
class Limits:
    """How far two answers may lie apart.

    Attributes:
        iou: Least overlap of a box with its counterpart.
        mask_iou: Least overlap of a mask with its counterpart.
        score: Greatest difference of their scores.
    """

    iou: float
    mask_iou: float
    score: float


#: For computing in fewer digits. COCO's AP counts at overlaps that lie 0.05 apart: what moves less passes one at most.
FAITHFUL = Limits(iou=0.95, mask_iou=0.95, score=0.02)

#: For computing the same in another order.
SAME = Limits(iou=0.999, mask_iou=0.99, score=0.001)


@dataclass(frozen=True, slots=True)
class Answer:
    """One image under two sets of options: as the run has them, and by `generous`."""

    kept: Found
    all: Found


def generous(options: DetectorOptions, limits: Limits = FAITHFUL) -> DetectorOptions:
    """Options that also keep what lies below the thresholds by no more than scores may differ."""
    selection = options.selection
    lower: Mapping[str, float] = {
        name: max(0.0, value - limits.score) for name, value in selection.class_threshold.items()
    }
    selection = replace(
        selection,
        score_threshold=max(0.0, selection.score_threshold - limits.score),
        class_threshold=dict(lower),
        max_detections=None,
    )
    return replace(options, selection=selection, top_k=1 << 30)


def difference(one: Answer, other: Answer, limits: Limits = FAITHFUL) -> str:
    """The first thing in which two answers to one image differ beyond the limits, in words; empty if there is none."""
    return _missing(one.kept, other.all, limits, "is not found") or _missing(other.kept, one.all, limits, "appears")


def _missing(kept: Found, found: Found, limits: Limits, what: str) -> str:
    if kept.image_labels is not None:
        scores = {label.category_id: label.score for label in found.image_labels or ()}
        for label in kept.image_labels:
            if abs(scores.get(label.category_id, 0.0) - label.score) > limits.score:
                return f"{label.label or label.category_id} {label.score:.2f} {what}"
        return ""
    ours, theirs = kept.detections, found.detections
    overlap = _iou(ours.xyxy, theirs.xyxy)
    fits = overlap >= limits.iou
    fits &= np.abs(ours.score[:, None] - theirs.score[None]) <= limits.score + 1e-6
    fits &= ours.category_id[:, None] == theirs.category_id[None]
    free = np.ones(len(theirs), bool)
    for mine in range(len(ours)):
        candidates = np.flatnonzero(fits[mine] & free)
        for counterpart in candidates[np.argsort(-overlap[mine, candidates], kind="stable")]:
            if ours.mask is None or _mask_iou(ours, mine, theirs, int(counterpart)) >= limits.mask_iou:
                free[counterpart] = False
                break
        else:
            box = ", ".join(f"{value:.0f}" for value in ours.xyxy[mine])
            return f"{ours.label[mine]} {ours.score[mine]:.2f} at [{box}] {what}"
    return ""


def _iou(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """`(N, M)` overlap of boxes."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ours, theirs)]
    overlap: FloatArray = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    return overlap


def _mask_iou(ours: Detections, mine: int, theirs: Detections, counterpart: int) -> float:
    if ours.mask is None or theirs.mask is None:
        return 1.0
    size = (ours.height, ours.width)
    masks = rle.decode(ours.mask[mine], *size), rle.decode(theirs.mask[counterpart], *size)
    union = np.count_nonzero(masks[0] | masks[1])
    return np.count_nonzero(masks[0] & masks[1]) / union if union else 1.0
