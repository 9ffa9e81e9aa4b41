"""What became of every detection and object of the compared images, at one IoU: what all else is counted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.evaluate.gather import Pair
from prelabel.evaluate.matching import IGNORED, match, overlaps

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All detections (N) and all objects (G) as parallel arrays; detections by image, and there by descending score.

    Attributes:
        images: Number of images.
        category: `(N,)` category ids.
        score: `(N,)` float32.
        image: `(N,)` positions of their images.
        xywh: `(N, 4)` pixels.
        target: `(N,)` the object a detection has found (a position in the arrays below), or `WRONG`, or `IGNORED`.
        object_category: `(G,)` category ids; crowd regions are not among the objects.
        object_image: `(G,)` positions of their images.
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


@dataclass(frozen=True, slots=True)
class Ranking:
    """The detections of one class (or of several) by descending score, without those in crowd regions.

    Attributes:
        score: `(N,)` float32, descending.
        right: `(N,)` whether each has found an object.
        image: `(N,)` positions of their images.
        objects: `(I,)` objects of the class on each image.
        floor: What lies below this score is not known: no threshold below it is suggested.
    """

    score: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]
    image: Ints
    objects: Ints
    floor: float = 0.0

    @property
    def total(self) -> int:
        """Number of objects."""
        return int(self.objects.sum())

    def of_images(self, chosen: npt.NDArray[np.bool_]) -> Ranking:
        """The same of some images only; `chosen` is `(I,)`."""
        keep = chosen[self.image]
        return Ranking(self.score[keep], self.right[keep], self.image[keep], self.objects * chosen, self.floor)


def outcomes(pairs: Sequence[Pair], iou: float) -> Outcomes:
    """Match the detections of every image with its objects, class by class."""
    target: list[Ints] = []
    object_category: list[int] = []
    object_image: list[int] = []
    object_xywh: list[tuple[float, ...]] = []
    for number, pair in enumerate(pairs):
        place = np.full(len(pair.objects), IGNORED, np.int64)
        for index, one in enumerate(pair.objects):
            if not one.crowd:
                place[index] = len(object_category)
                object_category.append(one.category_id)
                object_image.append(number)
                object_xywh.append(one.bbox)
        target.append(_targets(pair, place, iou))
    found = [pair.found for pair in pairs]
    return Outcomes(
        images=len(pairs),
        category=np.concatenate([one.category for one in found]),
        score=np.concatenate([one.score for one in found]),
        image=np.repeat(np.arange(len(pairs)), [len(one.score) for one in found]),
        xywh=np.concatenate([one.xywh for one in found]),
        target=np.concatenate(target),
        object_category=np.asarray(object_category, np.int64),
        object_image=np.asarray(object_image, np.int64),
        object_xywh=np.asarray(object_xywh, np.float64).reshape(-1, 4),
    )


def _targets(pair: Pair, place: Ints, iou: float) -> Ints:
    found = pair.found
    result = np.full(len(found.score), -1, np.int64)
    category = np.asarray([one.category_id for one in pair.objects], np.int64)
    xywh = np.asarray([one.bbox for one in pair.objects], np.float64).reshape(-1, 4)
    crowd = np.asarray([one.crowd for one in pair.objects], bool)
    for one in np.intersect1d(found.category, category):
        ours, theirs = np.flatnonzero(found.category == one), np.flatnonzero(category == one)
        chosen = match(overlaps(found.xywh[ours], xywh[theirs], crowd[theirs]), crowd[theirs], iou)
        result[ours] = np.where(chosen >= 0, place[theirs][np.maximum(chosen, 0)], chosen)
    return result


def ranking(every: Outcomes, category: int | None = None) -> Ranking:
    """The detections of one class, or of all classes together, as a ranking."""
    ours = every.target != IGNORED
    theirs = np.ones(len(every.object_category), bool)
    if category is not None:
        ours = ours & (every.category == category)
        theirs = every.object_category == category
    chosen = np.flatnonzero(ours)
    chosen = chosen[np.argsort(-every.score[chosen], kind="stable")]
    return Ranking(
        score=every.score[chosen],
        right=every.target[chosen] >= 0,
        image=every.image[chosen],
        objects=np.bincount(every.object_image[theirs], minlength=every.images),
    )
