"""What thresholds mean in work: boxes to delete and boxes to draw, against drawing everything by hand.

Two ways to choose are compared: one threshold for all classes, with the fewest corrections; and that, with one of its
own for each class that shows clearly that it needs one. Clearly means: between the common threshold and its own lie `d`
detections, and of these at least `1.5 * sqrt(d)` corrections are saved. Without that rule thresholds follow chance: on
80 photos of 80 classes they saved a quarter more on these photos, and made more corrections than one common threshold
on others.

Which of both is suggested, and how good it is said to be, is decided on images that had no part in choosing: the images
are dealt into five parts, and each part is judged under thresholds from the other four. Where there are too few images
for that, one threshold for all classes is suggested. On the images they are chosen on, neither ever makes more
corrections than a flat 0.5.

A box of the wrong class counts twice, one box to delete and one to draw, although a person can often name it anew:
how many such pairs there are is what the confusion table's other cells say (`relabel`). Objects in crowd regions and
detections there count as no work. Whether a right box fits tightly enough is not asked: it overlaps its object by the
IoU of the evaluation or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prelabel.evaluate.options import FLAT
from prelabel.evaluate.outcomes import Ranking
from prelabel.evaluate.thresholds import Cut, at, best_f1, fewest_corrections

#: Corrections a class must save with a threshold of its own, in roots of the detections it is about. Tried on two
#: real detectors: 1 follows chance, 2.5 leaves no class its own.
CLEAR = 1.5

#: Parts into which the images are dealt to try thresholds on images they were not chosen on.
FOLDS = 5


#: The ways to choose: one threshold for all classes, or some with one of their own.
COMMON, OWN = "common", "own"


@dataclass(frozen=True, slots=True)
class ClassWork:
    """One class under the thresholds that are compared.

    Attributes:
        objects: Objects to be drawn by hand if there were no detector.
        detections: All that a run has of it (not in crowd regions).
        suggested: The cut at the suggested threshold.
        own: Whether that is the class's own threshold rather than the common one.
        separate: The cut at its own threshold where it shows clearly that it needs one, else at the common one.
        f1: The cut with the best F1, or None where nothing was found rightly.
        flat: The cut at 0.5.
        given: What the thresholds of `compare` keep, or None without them.
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
    """All classes together.

    Attributes:
        images: Number of images.
        by_class: By the truth's name of the class, in its order.
        common: All classes at the one threshold with the fewest corrections.
        recommended: `COMMON` or `OWN`: what the suggested thresholds are.
        unseen: Sums over all classes on images that had no part in choosing: each fifth of the images under thresholds
            from the other four; of `COMMON`, `OWN` and `f1`. None with fewer than 10 images.
    """

    images: int
    by_class: Mapping[str, ClassWork]
    common: Cut
    recommended: str
    unseen: Mapping[str, Cut] | None

    def total(self, scheme: str) -> Cut:
        """Sums over all classes, on the images that thresholds are chosen on.

        Args:
            scheme: `suggested`, `separate`, `f1` (suggested where a class has none), `flat` or `given`.
        """
        cuts = [getattr(one, scheme) or one.suggested for one in self.by_class.values()]
        return _sum(cuts, FLAT if scheme == "flat" else math.nan)

    def elsewhere(self, scheme: str) -> Cut | None:
        """The same on images that had no part in choosing; what nobody chose here is the same there.

        Returns:
            None where there are too few images to tell.
        """
        if scheme in ("flat", "given"):
            return self.total(scheme)
        return None if self.unseen is None else self.unseen[self.recommended if scheme == "suggested" else scheme]

    @property
    def headline(self) -> Cut:
        """What the suggested thresholds mean in work, on images that had no part in choosing where there is such."""
        return self.elsewhere("suggested") or self.total("suggested")

    @property
    def objects(self) -> int:
        """All objects: what drawing everything by hand means."""
        return sum(one.objects for one in self.by_class.values())

    def per_100(self, corrections: float) -> float:
        """Corrections per 100 images."""
        return 100 * corrections / self.images


def work(rankings: Mapping[str, Ranking], together: Ranking, given: Mapping[str, Ranking] | None = None) -> Work:
    """Compare thresholds.

    Args:
        rankings: By name of the class.
        together: The ranking of all classes.
        given: By name of the class, of the detections that thresholds to be compared keep.
    """
    common = fewest_corrections(together, FLAT)
    images = len(together.objects)
    unseen = _unseen(rankings, together) if images >= 2 * FOLDS else None
    own = unseen is not None and unseen[OWN].corrections < unseen[COMMON].corrections
    by_class = {
        name: _class_work(one, common.threshold, own, None if given is None else given[name])
        for name, one in rankings.items()
    }
    return Work(images, by_class, common, OWN if own else COMMON, unseen)


def separate(one: Ranking, common: float) -> tuple[Cut, bool]:
    """The cut of a class at a threshold of its own where it clearly needs one, and whether it does: see the module."""
    shared, best = _shared(one, common), fewest_corrections(one, common)
    between = abs(best.right + best.delete - shared.right - shared.delete)
    own = shared.corrections - best.corrections >= CLEAR * between**0.5 > 0
    return (best if own else shared), own


def _shared(one: Ranking, common: float) -> Cut:
    """The cut of a class at the common threshold, or at its floor where that is higher: below it nothing was seen."""
    return at(one, max(common, one.floor))


def _class_work(one: Ranking, common: float, allowed: bool, given: Ranking | None) -> ClassWork:
    cut, own = separate(one, common)
    return ClassWork(
        objects=one.total,
        detections=len(one.score),
        suggested=cut if allowed else _shared(one, common),
        own=own and allowed,
        separate=cut,
        f1=best_f1(one, common),
        flat=at(one, FLAT),
        given=None if given is None else replace(at(given, 0.0), threshold=math.nan),
    )


def _unseen(rankings: Mapping[str, Ranking], together: Ranking) -> dict[str, Cut]:
    cuts: dict[str, list[Cut]] = {COMMON: [], OWN: [], "f1": []}
    fold = np.arange(len(together.objects)) % FOLDS
    for number in range(FOLDS):
        common = fewest_corrections(together.of_images(fold != number), FLAT).threshold
        for one in rankings.values():
            chosen_on, held_out = one.of_images(fold != number), one.of_images(fold == number)
            own, _ = separate(chosen_on, common)
            f1 = best_f1(chosen_on, common)
            cuts[COMMON].append(_shared(held_out, common))
            cuts[OWN].append(at(held_out, own.threshold))
            cuts["f1"].append(at(held_out, (f1 or own).threshold))
    return {scheme: _sum(every) for scheme, every in cuts.items()}


def _sum(cuts: Sequence[Cut], threshold: float = math.nan) -> Cut:
    return Cut(
        threshold=threshold,
        right=sum(one.right for one in cuts),
        delete=sum(one.delete for one in cuts),
        draw=sum(one.draw for one in cuts),
    )
