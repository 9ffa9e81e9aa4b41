"""Equivalence: whether two ways of running a model give the same detections for an image.

The detections that one way keeps are looked up among those that the other finds at slightly lower thresholds, in both
directions. So a score of 0.3001 that becomes 0.2999 counts neither as a lost nor as a new detection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from prelabel.detections import Detections, FloatArray
from prelabel.detectors.base import DetectionResult
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.masks import rle


@dataclass(frozen=True, slots=True)
class Limits:
    """How much two results may differ.

    Attributes:
        iou: Smallest IoU of a box and its counterpart.
        mask_iou: Smallest IoU of a mask and its counterpart.
        score: Largest difference of their scores, and of those of their keypoints.
        keypoint: Largest distance of a keypoint and its counterpart, as a share of the square root of the box's area.
    """

    iou: float
    mask_iou: float
    score: float
    keypoint: float


#: For lower precision. COCO's AP uses IoU thresholds 0.05 apart, so a box within this limit crosses at most one. So
#: does a pose: even of eyes, which have the smallest tolerance, the similarity is at least 0.98.
EQUIVALENT = Limits(iou=0.95, mask_iou=0.95, score=0.02, keypoint=0.01)

#: For the same computation in another order.
SAME = Limits(iou=0.999, mask_iou=0.99, score=0.001, keypoint=0.001)

#: Keypoints with lower scores are guesses, which may be anywhere.
_CLEAR_KEYPOINT = 0.1


@dataclass(frozen=True, slots=True)
class ResultPair:
    """The results for one image: with the run's options, and with those of `lenient_options`."""

    kept: DetectionResult
    lenient: DetectionResult


def lenient_options(options: DetectorOptions) -> DetectorOptions:
    """Options that also keep detections whose scores are slightly below the thresholds, by what `EQUIVALENT` allows."""
    selection, score = options.selection, EQUIVALENT.score
    selection = replace(
        selection,
        score_threshold=max(0.0, selection.score_threshold - score),
        class_threshold={name: max(0.0, value - score) for name, value in selection.class_threshold.items()},
        max_detections=None,
    )
    return replace(options, selection=selection, top_k=1 << 30)


def difference(first: ResultPair, second: ResultPair, limits: Limits = EQUIVALENT) -> str:
    """The first difference of two results for one image that exceeds the limits, in words; `""` if there is none."""
    lost = _missing(first.kept, second.lenient, limits, "is not found")
    return lost or _missing(second.kept, first.lenient, limits, "is new")


def _missing(kept: DetectionResult, lenient: DetectionResult, limits: Limits, problem: str) -> str:
    """The first detection in `kept` without a counterpart in `lenient`, followed by the problem; `""` if none."""
    if kept.image_labels is not None:
        scores = {label.category_id: label.score for label in lenient.image_labels or ()}
        for label in kept.image_labels:
            if abs(scores.get(label.category_id, 0.0) - label.score) > limits.score:
                return f"{label.label or label.category_id} {label.score:.2f} {problem}"
        return ""
    expected, candidates = kept.detections, lenient.detections
    overlap = _iou(expected.xyxy, candidates.xyxy)
    fits = overlap >= limits.iou
    fits &= np.abs(expected.score[:, None] - candidates.score[None]) <= limits.score + 1e-6
    fits &= expected.category_id[:, None] == candidates.category_id[None]
    free = np.ones(len(candidates), bool)
    for index in range(len(expected)):
        fitting = np.flatnonzero(fits[index] & free)
        for counterpart in fitting[np.argsort(-overlap[index, fitting], kind="stable")]:
            has_mask = expected.mask is None or (
                _mask_iou(expected, index, candidates, int(counterpart)) >= limits.mask_iou
            )
            if has_mask and _keypoints_agree(expected, index, candidates, int(counterpart), limits):
                free[counterpart] = False
                break
        else:
            box = ", ".join(f"{value:.0f}" for value in expected.xyxy[index])
            return f"{expected.label[index]} {expected.score[index]:.2f} at [{box}] {problem}"
    return ""


def _iou(first: FloatArray, second: FloatArray) -> FloatArray:
    """`(N, M)` IoU of `(N, 4)` and `(M, 4)` boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    overlap: FloatArray = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    return overlap


def _keypoints_agree(first: Detections, index: int, second: Detections, counterpart: int, limits: Limits) -> bool:
    if first.keypoints is None or second.keypoints is None:
        return first.keypoints is second.keypoints
    points, others = first.keypoints[index], second.keypoints[counterpart]
    x1, y1, x2, y2 = first.xyxy[index].tolist()
    distance = np.hypot(*(points[:, :2] - others[:, :2]).T)
    near = (distance <= limits.keypoint * ((x2 - x1) * (y2 - y1)) ** 0.5 + 1e-3) | (points[:, 2] < _CLEAR_KEYPOINT)
    return bool(np.all(near & (np.abs(points[:, 2] - others[:, 2]) <= limits.score + 1e-6)))


def _mask_iou(first: Detections, index: int, second: Detections, counterpart: int) -> float:
    if first.mask is None or second.mask is None:
        return 1.0
    size = (first.height, first.width)
    masks = rle.decode(first.mask[index], *size), rle.decode(second.mask[counterpart], *size)
    union = np.count_nonzero(masks[0] | masks[1])
    return np.count_nonzero(masks[0] & masks[1]) / union if union else 1.0
