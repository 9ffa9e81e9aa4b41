"""Chooses score thresholds, and counts the corrections that each threshold leaves to annotators.

For example, a class has five objects and six detections. By descending score, the third and the last two are false:

    score        0.9  0.8  0.7  0.6  0.3  0.2
    correct      yes  yes  no   yes  no   no
    threshold 0.75: 2 kept, 0 to delete, 3 to draw: 3 corrections    precision 1.00, recall 0.4, F1 0.57
    threshold 0.5:  4 kept, 1 to delete, 2 to draw: 3 corrections    precision 0.75, recall 0.6, F1 0.67
    threshold 0.1:  6 kept, 3 to delete, 2 to draw: 5 corrections    precision 0.50, recall 0.6, F1 0.55

*Fewest corrections* counts what an annotator has to do: boxes to delete plus boxes to draw. *Best F1* weighs the same
mistakes against the detected objects. It keeps more boxes of difficult classes: it lowers the threshold while the share
of correct boxes among the added boxes is above half of the current F1, whereas fewest corrections requires more correct
boxes than false ones. Only fewest corrections guarantees that no other threshold leaves less work on the same images.

The best threshold lies between two scores, with some distance to both. Of several equally good thresholds, the one
nearest to a preferred threshold is chosen, or the preferred threshold itself if it is equally good. No threshold lies
below the ranking's floor, because detections below it are unknown.

*Work* compares two choices: one threshold for all classes, with the fewest corrections; and per-class thresholds for
classes that clearly need one. Clearly means: if `d` detections lie between the common and the per-class threshold, the
class saves at least `1.5 * sqrt(d)` corrections. Without that rule, thresholds fit chance: on 80 photos with 80
classes, they saved a quarter more corrections on these photos, but on other photos they left more corrections than one
common threshold did.

Held-out images decide which choice is suggested, and give its figures: the images are split into five parts, and each
part is measured with thresholds chosen from the other four. With too few images for that, one threshold for all classes
is suggested. On the images that thresholds are chosen from, neither choice leaves more corrections than 0.5 for all.

A box of the wrong class counts twice, as one box to delete and one to draw, although relabeling often fixes both; the
confusion table counts such pairs (`relabel`). Crowd regions, and detections in them, do not count. Neither does it
count how tightly a correct box fits: its IoU only has to reach that of the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.review.options import FLAT
from prelabel.words import rounded, saving

#: Corrections that a class must save with its own threshold, in multiples of the square root of the number of
#: detections in between. Tested with two real detectors: 1 fits chance, 2.5 gives no class its own threshold.
CLEAR = 1.5

#: Parts into which the images are split to measure thresholds on held-out images.
FOLDS = 5

#: The two choices: one threshold for all classes, or some classes with their own.
COMMON, OWN = "common", "own"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The detections of one class (or of all classes) by descending score, without detections in crowd regions.

    Attributes:
        score: `(N,)` float32, descending.
        right: `(N,)` whether each detection is correct.
        image: `(N,)` positions of the images.
        objects: `(I,)` number of objects of the class on each image.
        floor: Score below which detections are unknown; no lower threshold is suggested.
    """

    score: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]
    image: npt.NDArray[np.int64]
    objects: npt.NDArray[np.int64]
    floor: float = 0.0

    @classmethod
    def of(
        cls,
        score: npt.NDArray[np.floating[Any]],
        right: npt.NDArray[np.bool_],
        image: npt.NDArray[np.int64],
        objects: npt.NDArray[np.int64],
        images: int,
        floor: float = 0.0,
    ) -> Ranking:
        """The ranking of detections in any order; those with equal scores stay in it.

        Args:
            score: `(N,)` scores.
            right: `(N,)` whether each detection is correct.
            image: `(N,)` positions of the images.
            objects: For each object of the class, the position of its image.
            images: Number of images.
            floor: See `Ranking`.
        """
        order = np.argsort(-score, kind="stable")
        by_image = np.bincount(objects, minlength=images)
        return cls(score[order].astype(np.float32), right[order], image[order], by_image, floor)

    @property
    def total(self) -> int:
        """Number of objects."""
        return int(self.objects.sum())

    def of_images(self, chosen: npt.NDArray[np.bool_]) -> Ranking:
        """The ranking of some of the images; `chosen` is `(I,)`."""
        keep = chosen[self.image]
        return Ranking(self.score[keep], self.right[keep], self.image[keep], self.objects * chosen, self.floor)


@dataclass(frozen=True, slots=True)
class Cut:
    """The result of a threshold: numbers of correct boxes, of false boxes to delete, and of missed objects to draw."""

    threshold: float
    right: int
    delete: int
    draw: int

    @property
    def corrections(self) -> int:
        """Boxes to delete plus boxes to draw."""
        return self.delete + self.draw

    @property
    def precision(self) -> float | None:
        """Share of the kept boxes that are correct, or None if none is kept."""
        kept = self.right + self.delete
        return self.right / kept if kept else None

    @property
    def recall(self) -> float | None:
        """Share of the objects that are detected, or None without objects."""
        objects = self.right + self.draw
        return self.right / objects if objects else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, or None without objects and boxes."""
        both = 2 * self.right + self.delete + self.draw
        return 2 * self.right / both if both else None


def cut_at(ranking: Ranking, threshold: float) -> Cut:
    """Apply a threshold. Scores at or above it are kept, compared as float32 like in `label` and in exports."""
    kept = int(np.count_nonzero(ranking.score >= np.float32(threshold)))
    right = int(np.count_nonzero(ranking.right[:kept]))
    return Cut(threshold, right, kept - right, ranking.total - right)


def fewest_corrections(ranking: Ranking, preferred: float) -> Cut:
    """The cut with the fewest corrections; of several, the one whose threshold is nearest to `preferred`."""
    kept, right = _kept_and_right(ranking)
    return cut_at(ranking, _best_threshold(ranking, (kept - 2 * right + ranking.total).astype(np.float64), preferred))


def best_f1(ranking: Ranking, preferred: float) -> Cut | None:
    """The cut with the best F1, or None if no detection is correct; of several, as for `fewest_corrections`."""
    if not ranking.right.any():
        return None
    kept, right = _kept_and_right(ranking)
    return cut_at(ranking, _best_threshold(ranking, -2 * right / (kept + ranking.total), preferred))


def precision_recall(ranking: Ranking) -> tuple[Floats, Floats]:
    """Recall and precision after every detection, by descending score; recall rises from left to right."""
    kept, right = _kept_and_right(ranking)
    return right[1:] / max(ranking.total, 1), right[1:] / kept[1:]


def _kept_and_right(ranking: Ranking) -> tuple[Floats, Floats]:
    """Numbers of kept and of correct detections, `(N + 1,)` each, if the best 0, 1, ... N are kept."""
    kept = np.arange(len(ranking.score) + 1, dtype=np.float64)
    return kept, np.concatenate(([0.0], np.cumsum(ranking.right, dtype=np.float64)))


def _best_threshold(ranking: Ranking, cost: Floats, preferred: float) -> float:
    """The threshold with the lowest cost; of several, the one nearest to `preferred`.

    Args:
        ranking: The ranking.
        cost: `(N + 1,)` the cost of keeping the detections with the 0, 1, ... N highest scores.
        preferred: The preferred threshold.
    """
    score = ranking.score.astype(np.float64)
    preferred = max(preferred, ranking.floor)
    # A threshold in (below[k], above[k]] keeps the k highest scores.
    above = np.concatenate(([1.0], score))
    below_floor = float(np.nextafter(np.float32(ranking.floor), np.float32(-1)))
    below = np.concatenate((score, [below_floor]))
    possible = below < above
    best = np.flatnonzero(possible & np.isclose(cost, cost[possible].min(), rtol=0, atol=1e-12))
    as_stored = float(np.float32(preferred))
    if np.any((below[best] < as_stored) & (as_stored <= above[best])):
        return preferred
    nearest = best[np.argmin(np.maximum(below[best] - as_stored, as_stored - above[best]))]
    return _between(float(below[nearest]), float(above[nearest]), keeps_all=nearest == len(score))


def _between(below: float, above: float, *, keeps_all: bool) -> float:
    """A number with few digits in (below, above], as float32: near the middle, or near `above` if it keeps all."""
    value = above if keeps_all else (below + above) / 2
    for digits in range(2, 9):
        for threshold in (round(value, digits), math.floor(value * 10**digits) / 10**digits):
            if below < float(np.float32(threshold)) <= above:
                return threshold
    return above


@dataclass(frozen=True, slots=True)
class ClassWork:
    """The work that each choice of thresholds leaves for one class.

    Attributes:
        objects: Number of objects: boxes to draw without a detector.
        detections: Number of detections, without those in crowd regions.
        suggested: The cut at the suggested threshold.
        own: Whether the suggested threshold is the class's own, not the common threshold.
        separate: The cut at the class's own threshold if it clearly needs one, else at the common threshold.
        f1: The cut with the best F1, or None if no detection is correct.
        flat: The cut at 0.5.
        given: The cut at the thresholds of `compare_thresholds`, or None without them.
    """

    objects: int
    detections: int
    suggested: Cut
    own: bool
    separate: Cut
    f1: Cut | None
    flat: Cut
    given: Cut | None


@dataclass(frozen=True, slots=True)
class Work:
    """The work that each choice of thresholds leaves, by class and in total.

    Attributes:
        images: Number of images.
        by_class: The work by class name, in the order of the truth.
        common: The cut of all classes at the single threshold with the fewest corrections.
        recommended: The suggested choice: `COMMON` or `OWN`.
        held_out: Sums over all classes on held-out images, by choice (`COMMON`, `OWN`, `f1`): each fifth of the images
            is measured with thresholds chosen from the other four. None with fewer than 10 images.
    """

    images: int
    by_class: Mapping[str, ClassWork]
    common: Cut
    recommended: str
    held_out: Mapping[str, Cut] | None

    def total(self, scheme: str) -> Cut:
        """Sum over all classes, on the images that thresholds are chosen from.

        Args:
            scheme: `suggested`, `separate`, `f1` (`suggested` for classes without one), `flat` or `given`.
        """
        cuts = [getattr(class_work, scheme) or class_work.suggested for class_work in self.by_class.values()]
        return _sum(cuts, FLAT if scheme == "flat" else math.nan)

    def total_on_held_out(self, scheme: str) -> Cut | None:
        """Sum over all classes, on held-out images.

        The schemes `flat` and `given` were not chosen from any of the images, so they have the same sum as in `total`.

        Returns:
            None if there are too few images.
        """
        if scheme in ("flat", "given"):
            return self.total(scheme)
        return None if self.held_out is None else self.held_out[self.recommended if scheme == "suggested" else scheme]

    @property
    def headline(self) -> Cut:
        """The work that the suggested thresholds leave, on held-out images if there are enough."""
        return self.total_on_held_out("suggested") or self.total("suggested")

    @property
    def objects(self) -> int:
        """Number of objects: boxes to draw without a detector."""
        return sum(class_work.objects for class_work in self.by_class.values())

    def per_100(self, corrections: float) -> float:
        """Corrections per 100 images."""
        return 100 * corrections / self.images

    def headline_in_words(self) -> str:
        """The headline, for a sentence: `9 corrections per 100 images instead of drawing 85 boxes: 89% less work`."""
        corrections, boxes = rounded(self.per_100(self.headline.corrections)), rounded(self.per_100(self.objects))
        return (
            f"{corrections} corrections per 100 images instead of drawing {boxes} boxes: "
            f"{saving(self.headline.corrections, self.objects)}"
        )


def compare_choices(
    rankings: Mapping[str, Ranking], overall: Ranking, given: Mapping[str, Ranking] | None = None
) -> Work:
    """Choose thresholds in each way, and measure the work that they leave.

    Args:
        rankings: Rankings by class name.
        overall: The ranking of all classes.
        given: Rankings by class name of the detections that the option `compare_thresholds` keeps.
    """
    common = fewest_corrections(overall, FLAT)
    images = len(overall.objects)
    held_out = _on_held_out_images(rankings, overall) if images >= 2 * FOLDS else None
    own = held_out is not None and held_out[OWN].corrections < held_out[COMMON].corrections
    by_class = {
        name: _class_work(ranking, common.threshold, own, None if given is None else given[name])
        for name, ranking in rankings.items()
    }
    return Work(images, by_class, common, OWN if own else COMMON, held_out)


def _own_or_common(ranking: Ranking, common: float) -> tuple[Cut, bool]:
    """The cut of a class at its own threshold if it clearly needs one, else at the common one; and whether it does."""
    at_common, best = _cut_at_common(ranking, common), fewest_corrections(ranking, common)
    between = abs(best.right + best.delete - at_common.right - at_common.delete)
    needs_own = at_common.corrections - best.corrections >= CLEAR * between**0.5 > 0
    return (best if needs_own else at_common), needs_own


def _cut_at_common(ranking: Ranking, common: float) -> Cut:
    """The cut of a class at the common threshold, or at its floor if that is higher."""
    return cut_at(ranking, max(common, ranking.floor))


def _class_work(ranking: Ranking, common: float, own_allowed: bool, given: Ranking | None) -> ClassWork:
    separate, needs_own = _own_or_common(ranking, common)
    return ClassWork(
        objects=ranking.total,
        detections=len(ranking.score),
        suggested=separate if own_allowed else _cut_at_common(ranking, common),
        own=needs_own and own_allowed,
        separate=separate,
        f1=best_f1(ranking, common),
        flat=cut_at(ranking, FLAT),
        given=None if given is None else replace(cut_at(given, 0.0), threshold=math.nan),
    )


def _on_held_out_images(rankings: Mapping[str, Ranking], overall: Ranking) -> dict[str, Cut]:
    cuts: dict[str, list[Cut]] = {COMMON: [], OWN: [], "f1": []}
    fold = np.arange(len(overall.objects)) % FOLDS
    for number in range(FOLDS):
        common = fewest_corrections(overall.of_images(fold != number), FLAT).threshold
        for ranking in rankings.values():
            others, held_out = ranking.of_images(fold != number), ranking.of_images(fold == number)
            own, _ = _own_or_common(others, common)
            f1 = best_f1(others, common)
            cuts[COMMON].append(_cut_at_common(held_out, common))
            cuts[OWN].append(cut_at(held_out, own.threshold))
            cuts["f1"].append(cut_at(held_out, (f1 or own).threshold))
    return {scheme: _sum(scheme_cuts) for scheme, scheme_cuts in cuts.items()}


def _sum(cuts: Sequence[Cut], threshold: float = math.nan) -> Cut:
    return Cut(threshold, *(sum(getattr(cut, name) for cut in cuts) for name in ("right", "delete", "draw")))
