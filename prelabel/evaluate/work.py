"""What thresholds mean in work: boxes to delete and boxes to draw, against drawing everything by hand.

The suggested thresholds: first one for all classes, with the fewest corrections; then one of its own for each class
that shows clearly that it needs one. On the images they are chosen on, all classes together never have more
corrections than at a flat 0.5. Clearly means: between the common threshold and its own lie `d` detections, and of
these at least `1.5 * sqrt(d)` corrections are saved. Without that rule thresholds follow chance: on 80 photos of 80
classes they saved a quarter more on these photos, and made more corrections than one common threshold on others.

A box of the wrong class counts twice, one box to delete and one to draw, although a person can often name it anew:
how many such pairs there are is what the confusion table's other cells say (`relabel`). Objects in crowd regions and
detections there count as no work. Whether a right box fits tightly enough is not asked: it overlaps its object by the
IoU of the evaluation or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class ClassWork:
    """One class under the thresholds that are compared.

    Attributes:
        objects: Objects to be drawn by hand if there were no detector.
        detections: All that a run has of it (not in crowd regions).
        suggested: The cut at the suggested threshold.
        own: Whether that is the class's own threshold rather than the common one.
        f1: The cut with the best F1, or None where nothing was found rightly.
        flat: The cut at 0.5.
        given: What the thresholds of `compare` keep, or None without them.
    """

    objects: int
    detections: int
    suggested: Cut
    own: bool
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
        unseen: Corrections with suggested thresholds on images that had no part in choosing them: each fifth of the
            images under thresholds from the other four. None with fewer than 10 images.
        unseen_common: The same with one threshold for all classes.
    """

    images: int
    by_class: Mapping[str, ClassWork]
    common: Cut
    unseen: int | None
    unseen_common: int | None

    def total(self, scheme: str) -> Cut:
        """Sums over all classes for `suggested`, `f1` (suggested where a class has none), `flat` or `given`."""
        cuts = [getattr(one, scheme) or one.suggested for one in self.by_class.values()]
        return Cut(
            threshold=FLAT if scheme == "flat" else math.nan,
            right=sum(one.right for one in cuts),
            delete=sum(one.delete for one in cuts),
            draw=sum(one.draw for one in cuts),
        )

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
    by_class = {
        name: _class_work(one, common.threshold, None if given is None else given[name])
        for name, one in rankings.items()
    }
    images = len(together.objects)
    unseen = _unseen(rankings, together) if images >= 2 * FOLDS else (None, None)
    return Work(images, by_class, common, *unseen)


def suggested(one: Ranking, common: float) -> tuple[Cut, bool]:
    """The suggested cut of a class, and whether it is one of its own: see the module's text."""
    shared, best = at(one, common), fewest_corrections(one, common)
    between = abs(best.right + best.delete - shared.right - shared.delete)
    own = shared.corrections - best.corrections >= CLEAR * between**0.5 > 0
    return (best if own else shared), own


def _class_work(one: Ranking, common: float, given: Ranking | None) -> ClassWork:
    cut, own = suggested(one, common)
    return ClassWork(
        objects=one.total,
        detections=len(one.score),
        suggested=cut,
        own=own,
        f1=best_f1(one, common),
        flat=at(one, FLAT),
        given=None if given is None else replace(at(given, 0.0), threshold=math.nan),
    )


def _unseen(rankings: Mapping[str, Ranking], together: Ranking) -> tuple[int, int]:
    own = shared = 0
    fold = np.arange(len(together.objects)) % FOLDS
    for number in range(FOLDS):
        common = fewest_corrections(together.of_images(fold != number), FLAT).threshold
        for one in rankings.values():
            held_out = one.of_images(fold == number)
            chosen, _ = suggested(one.of_images(fold != number), common)
            own += at(held_out, chosen.threshold).corrections
            shared += at(held_out, common).corrections
    return own, shared
