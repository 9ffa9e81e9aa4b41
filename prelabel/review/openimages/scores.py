"""Matches detections with Open Images' boxes, and computes AP, as the TensorFlow Object Detection API does.

The rules of its `OpenImagesDetectionEvaluator` and `OpenImagesChallengeEvaluator`, for each class of each image:

1. Every detection belongs to the object that it overlaps most (of several, the first in the file). If their IoU is at
   least 0.5, the detection is correct, unless another detection of that object has a higher score.
2. All others belong to the group that they overlap most: by their intersection with the group's box, as a share of
   their own area. If that is at least 0.5, they are no mistakes. With the weight 1, each group that has such detections
   counts as one correct detection, with their highest score; with the weight 0, groups do not count.
3. All others are false.

AP is the area under precision over recall, after precision has been raised to the highest one at any higher recall. The
objects of a class, and with the weight 1 its groups, are what there is to find.

    objects    A, B          correct   yes  no   yes       recall      0.5   0.5   1      AP = 0.5 * 1 + 0.5 * 2/3
    scores     0.9 0.8 0.7             A    A    B         precision   1     0.5   0.67

Scores that are equal are ranked by the id of the image, the last one first. NumPy's sort decides that in the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.review.openimages.classes import Indices
from prelabel.review.openimages.truth import OpenImagesTruth, TruthBoxes

Floats = npt.NDArray[np.float64]

#: The overlap of a detection with an object (IoU), and its share inside of a group, from which they match.
OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Candidates:
    """Detections on images of the truth, in its classes.

    Attributes:
        image: `(N,)` positions of the images in the truth.
        category: `(N,)` positions of the classes.
        score: `(N,)` float32.
        xyxy: `(N, 4)` fractions of the image's width and height.
    """

    image: Indices
    category: Indices
    score: npt.NDArray[np.float32]
    xyxy: Floats

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: npt.NDArray[np.bool_] | Indices) -> Candidates:
        return Candidates(self.image[index], self.category[index], self.score[index], self.xyxy[index])


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What counts for AP: detections of objects and false detections, then groups, image by image.

    Attributes:
        image: `(N,)` positions of the images.
        category: `(N,)` positions of the classes.
        score: `(N,)` float32.
        correct: `(N,)` whether each is correct.
    """

    image: npt.NDArray[np.int32]
    category: npt.NDArray[np.int16]
    score: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]

    @classmethod
    def join(cls, parts: list[Outcomes]) -> Outcomes:
        """The outcomes of several sets of images."""
        return cls(
            *(np.concatenate(columns) for columns in zip(*map(_columns, [NOTHING, *parts]), strict=True)),
        )


def _columns(outcomes: Outcomes) -> tuple[npt.NDArray[np.generic], ...]:
    return outcomes.image, outcomes.category, outcomes.score, outcomes.correct


NOTHING = Outcomes(np.empty(0, np.int32), np.empty(0, np.int16), np.empty(0, np.float32), np.empty(0, bool))


def match(candidates: Candidates, truth: OpenImagesTruth, group_weight: int) -> Outcomes:
    """Match the detections of some images; see the module's docstring.

    Args:
        candidates: The detections, complete for each image, of verified classes.
        truth: The truth.
        group_weight: 1 if groups count as objects, 0 if they do not count.
    """
    x1, y1, x2, y2 = candidates.xyxy.T
    candidates = candidates[(x1 < x2) & (y1 < y2)]
    key = candidates.image.astype(np.int64) * len(truth.classes) + candidates.category
    # By descending score; of equal scores, the last comes first, as in the reference.
    order = np.lexsort((-np.arange(len(key)), -candidates.score, key))
    key, candidates = key[order], candidates[order]

    belongs, overlap = _best(key, candidates.xyxy, truth.objects, by_union=True)
    correct = _first_of_each(belongs, overlap >= OVERLAP)
    belongs, overlap = _best(key, candidates.xyxy, truth.groups, by_union=False)
    grouped = ~correct & (overlap >= OVERLAP)
    # The reference leaves out groups whose best detection has the score 0.
    of_groups = _first_of_each(belongs, grouped) & (candidates.score > 0) & (group_weight > 0)
    kept = np.concatenate((np.flatnonzero(~grouped), np.flatnonzero(of_groups)))
    return Outcomes(
        candidates.image[kept].astype(np.int32),
        candidates.category[kept].astype(np.int16),
        candidates.score[kept],
        (correct | of_groups)[kept],
    )


def _best(key: npt.NDArray[np.int64], xyxy: Floats, boxes: TruthBoxes, *, by_union: bool) -> tuple[Indices, Floats]:
    """The box of the same key that each detection overlaps most, and their overlap (IoU, or share of the detection).

    Without a box of its key, a detection has the overlap -1.
    """
    first, last = np.searchsorted(boxes.key, key, "left"), np.searchsorted(boxes.key, key, "right")
    counts = last - first
    belongs, best = np.zeros(len(key), np.intp), np.full(len(key), -1.0)
    has = np.flatnonzero(counts)
    if not len(has):
        return belongs, best
    # Every pair of a detection and a box of its key, detection by detection.
    counts, begin = counts[has], np.concatenate(([0], np.cumsum(counts[has])[:-1]))
    box = np.arange(counts.sum()) + np.repeat(first[has] - begin, counts)
    ours, theirs = xyxy[np.repeat(has, counts)], boxes.xyxy[box]
    sides = np.maximum(0, np.minimum(ours[:, 2:], theirs[:, 2:]) - np.maximum(ours[:, :2], theirs[:, :2]))
    shared = sides[:, 1] * sides[:, 0]
    overlap = shared / (_area(ours) + _area(theirs) - shared if by_union else _area(ours))
    best[has] = np.maximum.reduceat(overlap, begin)
    pairs = np.flatnonzero(overlap == np.repeat(best[has], counts))
    _, place = np.unique(np.searchsorted(begin, pairs, "right"), return_index=True)
    belongs[has] = box[pairs[place]]
    return belongs, best


def _area(xyxy: Floats) -> Floats:
    area: Floats = (xyxy[:, 3] - xyxy[:, 1]) * (xyxy[:, 2] - xyxy[:, 0])
    return area


def _first_of_each(belongs: Indices, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of the chosen detections, the first of each box that they belong to."""
    places = np.flatnonzero(chosen)
    first = np.zeros(len(chosen), bool)
    first[places[np.unique(belongs[places], return_index=True)[1]]] = True
    return first


def average_precision(score: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_], total: int) -> float | None:
    """AP of one class.

    Args:
        score: `(N,)` scores.
        correct: `(N,)` whether each detection is correct.
        total: Number of objects (and groups) to find.

    Returns:
        None if there is nothing to find.
    """
    if not total:
        return None
    ranked = correct[np.argsort(score, kind="stable")[::-1]]
    right = np.cumsum(ranked, dtype=np.float64)
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    return float(precision[ranked].sum() / total)
