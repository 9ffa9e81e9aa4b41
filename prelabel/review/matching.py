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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.review.gather import ImagePair, ObjectColumns
from prelabel.review.image_matching import ReviewedBox
from prelabel.review.thresholds import Ranking

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Indices = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

#: Values instead of the index of an object: the detection is false, or it is ignored because it is in a crowd region.
WRONG, IGNORED = -1, -2

#: Most pairs of a detection and an object that are matched at once, unless one detection has more.
_MAX_PAIRS = 100_000


def overlaps(detections: Floats, objects: Floats, crowd: Bools) -> npt.NDArray[np.float64]:
    """`(N, G)` IoU of boxes; for a crowd region, the share of the detection that lies in it.

    Args:
        detections: `(N, 4)` x, y, width, height; with an area above 0.
        objects: `(G, 4)` x, y, width, height.
        crowd: `(G,)` whether each object is a crowd region.
    """
    return _iou(np.asarray(detections, np.float64)[:, None], np.asarray(objects, np.float64)[None], crowd)


def _iou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], crowd: Bools) -> npt.NDArray[np.float64]:
    """`(...)` IoU of pairs of `(..., 4)` boxes, see `overlaps`."""
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    np.maximum(sides, 0, out=sides)
    intersection = sides[..., 0] * sides[..., 1]
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
    target = np.full(len(iou), WRONG, np.intp)
    detections, objects = np.nonzero(iou >= _lowest_match(min_iou))
    _match_pairs(detections, objects, iou[detections, objects], crowd, target, set())
    return target


def _lowest_match(min_iou: float) -> float:
    """The lowest IoU of a match: for 1, boxes whose sides differ by rounding match, as in COCO."""
    return min(min_iou, 1 - 1e-10)


def _match_pairs(
    detections: Indices,
    objects: Indices,
    iou: npt.NDArray[np.float64],
    crowd: Bools,
    target: Indices,
    taken: set[int],
) -> None:
    """Match detections with the objects that they overlap enough, see `match`.

    Args:
        detections: `(P,)` the detection of each pair; in each image, ascending indices have descending scores. All
            pairs of a detection are given in one call, and detections with higher scores in an earlier call or this.
        objects: `(P,)` its object.
        iou: `(P,)` their IoU.
        crowd: `(G,)` whether each object is a crowd region.
        target: `(N,)` the result, which is filled in for the given detections.
        taken: The objects that are matched; those matched here are added.
    """
    in_crowd = crowd[objects]
    target[detections[in_crowd]] = IGNORED
    detections, objects, iou = detections[~in_crowd], objects[~in_crowd], iou[~in_crowd]
    # Of objects with equal overlap, COCO takes the last.
    order = np.lexsort((-objects, -iou, detections))
    matched: dict[int, int] = {}
    for detection, index in zip(detections[order].tolist(), objects[order].tolist(), strict=True):
        if index not in taken and detection not in matched:
            matched[detection] = index
            taken.add(index)
    target[list(matched)] = list(matched.values())


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
    category = np.concatenate([pair.detections.category for pair in pairs])
    image = np.repeat(np.arange(len(pairs)), [len(pair.detections.score) for pair in pairs])
    xywh = np.concatenate([pair.detections.xywh for pair in pairs])
    truth = ObjectColumns.of(pairs)
    crowd = truth.crowd
    target = np.full(len(category), WRONG, np.int64)
    taken: set[int] = set()
    for in_run, in_truth in _pairs_of_a_class(image, category, truth.image, truth.category):
        ious = _iou(xywh[in_run], truth.xywh[in_truth], crowd[in_truth])
        enough = ious >= _lowest_match(iou)
        _match_pairs(in_run[enough], in_truth[enough], ious[enough], crowd, target, taken)
    # Crowd regions are not among the objects of the result.
    numbers = np.cumsum(~crowd) - 1
    target[target >= 0] = numbers[target[target >= 0]]
    return Outcomes(
        images=len(pairs),
        category=category,
        score=np.concatenate([pair.detections.score for pair in pairs]),
        image=image,
        xywh=xywh,
        target=target,
        object_category=truth.category[~crowd],
        object_image=truth.image[~crowd],
        object_xywh=truth.xywh[~crowd],
    )


def _pairs_of_a_class(
    image: Ints, category: Ints, object_image: Ints, object_category: Ints
) -> Iterator[tuple[Indices, Indices]]:
    """Yield the indices of all pairs of a detection and an object of the same image and class, detection by detection.

    Args:
        image: `(N,)` the image of each detection.
        category: `(N,)` its class.
        object_image: `(G,)` the image of each object.
        object_category: `(G,)` its class.
    """
    classes, number = np.unique(np.concatenate([category, object_category]), return_inverse=True)
    group = image * len(classes) + number[: len(category)]
    object_group = object_image * len(classes) + number[len(category) :]
    by_group = np.argsort(object_group, kind="stable")
    begin, end = (np.searchsorted(object_group, group, side, sorter=by_group) for side in ("left", "right"))
    counts = end - begin
    before = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while first < len(group):
        last = max(first + 1, int(np.searchsorted(before, before[first] + _MAX_PAIRS, "right")) - 1)
        of_each = counts[first:last]
        detections = np.repeat(np.arange(first, last), of_each)
        place = np.arange(len(detections)) - np.repeat(before[first:last] - before[first], of_each)
        yield detections, by_group[begin[detections] + place]
        first = last


def ranking(matched: Outcomes, category: int | None = None) -> Ranking:
    """The ranking of one class, or of all classes together (None)."""
    detections = matched.target != IGNORED
    objects = np.ones(len(matched.object_category), bool)
    if category is not None:
        detections = detections & (matched.category == category)
        objects = matched.object_category == category
    return Ranking.of(
        score=matched.score[detections],
        right=matched.target[detections] >= 0,
        image=matched.image[detections],
        objects=matched.object_image[objects],
        images=matched.images,
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
