"""Decides which detections are correct at a given IoU, and counts which classes are confused.

Detections are matched with objects as COCO does. Within one class and image, detections choose in order of descending
score: each takes the free object that it overlaps most, if the IoU is high enough. A detection without an object is
neither correct nor false if a large enough share of its area (at least that IoU) lies in a crowd region. Since
detections with higher scores choose first, removing all detections below a score does not change the matches above it,
so one matching serves every threshold. `outcomes` matches all images. The `ranking` of a class, from which thresholds
are chosen, and the *confusion* table are computed from its result.

In the confusion table, every detection and every object is counted once. Correct detections, which are matched within
their classes, are counted first. The remaining detections and objects are matched across classes, again by descending
score and at the same IoU. These pairs are confusions, which relabeling would fix without deleting and redrawing. The
detections that then remain are false (on background, or on an object that is already detected), and the objects that
remain are missed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.review.gather import ImagePair
from prelabel.review.image_matching import ReviewedBox
from prelabel.review.thresholds import Ranking
from prelabel.review.truth import TruthObject

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Indices = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

#: Values instead of the index of an object: the detection is false, or it is ignored because it is in a crowd region.
WRONG, IGNORED = -1, -2


def overlaps(detections: Floats, objects: Floats, crowd: Bools) -> npt.NDArray[np.float64]:
    """`(N, G)` IoU of boxes; for a crowd region, the share of the detection that lies in it.

    Args:
        detections: `(N, 4)` x, y, width, height; with an area above 0.
        objects: `(G, 4)` x, y, width, height.
        crowd: `(G,)` whether each object is a crowd region.
    """
    a, b = np.asarray(detections, np.float64)[:, None], np.asarray(objects, np.float64)[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.clip(sides, 0, None), axis=2)
    detection_area, object_area = a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]
    union = np.where(crowd, detection_area, detection_area + object_area - intersection)
    iou: npt.NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou


def match(iou: npt.NDArray[np.float64], crowd: Bools, min_iou: float) -> Indices:
    """Match detections with objects greedily, as COCO does.

    Args:
        iou: `(N, G)` IoU of detections and objects; detections in descending order of score.
        crowd: `(G,)` whether each object is a crowd region.
        min_iou: The lowest IoU of a match.

    Returns:
        `(N,)` the index of the matched object of each detection, or `WRONG`, or `IGNORED`.
    """
    result = np.full(len(iou), WRONG, np.intp)
    if iou.size == 0:
        return result
    min_iou = min(min_iou, 1 - 1e-10)
    free = np.where(crowd, -1.0, iou)
    in_crowd: Bools = np.any(np.where(crowd, iou, -1.0) >= min_iou, axis=1)
    for number in np.flatnonzero(np.any(free >= min_iou, axis=1) | in_crowd):
        # Of objects with equal overlap, COCO takes the last.
        best = free.shape[1] - 1 - int(free[number, ::-1].argmax())
        if free[number, best] >= min_iou:
            result[number] = best
            free[:, best] = -1.0
        elif in_crowd[number]:
            result[number] = IGNORED
    return result


def match_class_first(iou: npt.NDArray[np.float64], same_class: Bools, min_iou: float) -> dict[int, int]:
    """Match detections with objects, first within a class, then across classes those that are left.

    Args:
        iou: `(N, G)` IoU of detections and objects; detections in descending order of score.
        same_class: `(N, G)` whether detection and object have the same class.
        min_iou: The lowest IoU of a match.

    Returns:
        The index of the matched object by the index of the detection.
    """
    no_crowd = np.zeros(iou.shape[1], bool)
    pairs: dict[int, int] = {}
    for allowed in (same_class, ~same_class):
        free = np.where(allowed, iou, 0.0)
        free[list(pairs)] = 0.0
        free[:, list(pairs.values())] = 0.0
        matched = enumerate(match(free, no_crowd, min_iou).tolist())
        pairs.update({detection: index for detection, index in matched if index >= 0})
    return pairs


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All detections (N) and objects (G) as parallel arrays; detections by image, then by descending score.

    Attributes:
        images: Number of images.
        category: `(N,)` category ids.
        score: `(N,)` float32.
        image: `(N,)` positions of the images.
        xywh: `(N, 4)` pixels.
        target: `(N,)` the index of the matched object in the arrays of objects, or `WRONG`, or `IGNORED`.
        object_category: `(G,)` category ids; crowd regions are excluded.
        object_image: `(G,)` positions of the images.
        object_xywh: `(G, 4)` pixels.
    """

    images: int
    category: Ints
    score: npt.NDArray[np.float32]
    image: Ints
    xywh: npt.NDArray[np.float64]
    target: Ints
    object_category: Ints
    object_image: Ints
    object_xywh: npt.NDArray[np.float64]


def outcomes(pairs: Sequence[ImagePair], iou: float) -> Outcomes:
    """Match the detections of every image with its objects, class by class."""
    targets: list[Ints] = []
    objects: list[tuple[int, TruthObject]] = []
    for number, pair in enumerate(pairs):
        indices = np.full(len(pair.objects), IGNORED, np.int64)
        for position, annotation in enumerate(pair.objects):
            if not annotation.crowd:
                indices[position] = len(objects)
                objects.append((number, annotation))
        targets.append(_targets(pair, indices, iou))
    return Outcomes(
        images=len(pairs),
        category=np.concatenate([pair.detections.category for pair in pairs]),
        score=np.concatenate([pair.detections.score for pair in pairs]),
        image=np.repeat(np.arange(len(pairs)), [len(pair.detections.score) for pair in pairs]),
        xywh=np.concatenate([pair.detections.xywh for pair in pairs]),
        target=np.concatenate(targets),
        object_category=np.array([annotation.category_id for _, annotation in objects], np.int64),
        object_image=np.array([number for number, _ in objects], np.int64),
        object_xywh=np.array([annotation.bbox for _, annotation in objects], np.float64).reshape(-1, 4),
    )


def _targets(pair: ImagePair, indices: Ints, iou: float) -> Ints:
    """`Outcomes.target` for the detections of one image; `indices` are the image's objects among all objects."""
    detections = pair.detections
    target = np.full(len(detections.score), WRONG, np.int64)
    object_category = np.asarray([annotation.category_id for annotation in pair.objects], np.int64)
    object_xywh = np.asarray([annotation.bbox for annotation in pair.objects], np.float64).reshape(-1, 4)
    crowd = np.asarray([annotation.crowd for annotation in pair.objects], bool)
    for category in np.intersect1d(detections.category, object_category):
        in_run, in_truth = np.flatnonzero(detections.category == category), np.flatnonzero(object_category == category)
        ious = overlaps(detections.xywh[in_run], object_xywh[in_truth], crowd[in_truth])
        matched = match(ious, crowd[in_truth], iou)
        target[in_run] = np.where(matched >= 0, indices[in_truth][np.maximum(matched, 0)], matched)
    return target


def ranking(matched: Outcomes, category: int | None = None) -> Ranking:
    """The ranking of one class, or of all classes together (None)."""
    detections = matched.target != IGNORED
    objects = np.ones(len(matched.object_category), bool)
    if category is not None:
        detections = detections & (matched.category == category)
        objects = matched.object_category == category
    ranked = np.flatnonzero(detections)
    ranked = ranked[np.argsort(-matched.score[ranked], kind="stable")]
    return Ranking(
        score=matched.score[ranked],
        right=matched.target[ranked] >= 0,
        image=matched.image[ranked],
        objects=np.bincount(matched.object_image[objects], minlength=matched.images),
    )


@dataclass(frozen=True, slots=True)
class Confusion:
    """The confusion table; its keys are (class in the truth, class in the run) by name, None for the background.

    `(dog, cat)` counts dogs detected as cats, `(dog, None)` missed dogs, `(None, cat)` cats where there is nothing.

    Attributes:
        counts: How often each pair of classes occurs.
        mistakes: The mistakes of each pair of different classes, each with the box of the object, or of the false
            detection.
    """

    counts: Mapping[tuple[str | None, str | None], int]
    mistakes: Mapping[tuple[str | None, str | None], Sequence[ReviewedBox]]

    @property
    def relabel(self) -> int:
        """Number of boxes that could be relabeled instead of deleted and redrawn."""
        return sum(n for pair, n in self.counts.items() if None not in pair and pair[0] != pair[1])


def confusion(matched: Outcomes, names: Mapping[int, str], thresholds: Mapping[int, float], iou: float) -> Confusion:
    """Compute the confusion table.

    Args:
        matched: All detections and objects.
        names: Class names by category id.
        thresholds: Score thresholds by category id; detections below the threshold of their class are dropped.
        iou: The IoU that `matched` was made with.
    """
    threshold = np.asarray([thresholds[category] for category in matched.category.tolist()], np.float32)
    kept = matched.score >= threshold
    right = kept & (matched.target >= 0)
    missed = np.ones(len(matched.object_category), bool)
    missed[matched.target[right]] = False
    wrong = kept & (matched.target == WRONG)
    counts: Counter[tuple[str | None, str | None]] = Counter()
    mistakes: defaultdict[tuple[str | None, str | None], list[ReviewedBox]] = defaultdict(list)
    for category in matched.category[right].tolist():
        counts[names[category], names[category]] += 1
    for image in np.intersect1d(matched.image[wrong], matched.object_image[missed]):
        detections = _indices_of_image(wrong, matched.image, image)
        detections = detections[np.argsort(-matched.score[detections], kind="stable")]
        objects = _indices_of_image(missed, matched.object_image, image)
        no_crowd = np.zeros(len(objects), bool)
        pairs = match(overlaps(matched.xywh[detections], matched.object_xywh[objects], no_crowd), no_crowd, iou)
        for detection, index in zip(detections[pairs >= 0], objects[pairs[pairs >= 0]], strict=True):
            pair = names[int(matched.object_category[index])], names[int(matched.category[detection])]
            mistakes[pair].append(_mistake(matched.object_image, matched.object_xywh, index))
            wrong[detection] = missed[index] = False
    for detection in np.flatnonzero(wrong):
        name = names[int(matched.category[detection])]
        mistakes[None, name].append(_mistake(matched.image, matched.xywh, int(detection)))
    for index in np.flatnonzero(missed):
        name = names[int(matched.object_category[index])]
        mistakes[name, None].append(_mistake(matched.object_image, matched.object_xywh, int(index)))
    counts.update({pair: len(pair_mistakes) for pair, pair_mistakes in mistakes.items()})
    return Confusion(dict(counts), dict(mistakes))


def _mistake(images: Ints, boxes: npt.NDArray[np.float64], index: int) -> ReviewedBox:
    x, y, width, height = boxes[index].tolist()
    return ReviewedBox(int(images[index]), (x, y, width, height))


def _indices_of_image(chosen: Bools, images: Ints, image: int) -> Indices:
    """Indices of the chosen detections (or objects) of one image; `images` must be ascending."""
    begin, end = np.searchsorted(images, [image, image + 1])
    indices: Indices = begin + np.flatnonzero(chosen[begin:end])
    return indices
