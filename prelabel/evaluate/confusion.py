"""Which class is taken for which, and what is seen where nothing is: the confusion table at given thresholds.

Every detection and object appears once. First come the right ones, as matched within their classes. What is left is
matched across classes, again by descending score and at the same IoU: those pairs are confusions, and could be named
anew instead of being deleted and drawn. The rest are boxes on nothing (or on what is found already) and missed objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prelabel.evaluate.matching import IGNORED, match, overlaps
from prelabel.evaluate.outcomes import Outcomes


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts by (class of the truth, class of the run), both by name; None stands for the background.

    `(dog, cat)` are dogs taken for cats, `(dog, None)` missed dogs, `(None, cat)` cats where there is nothing.
    """

    counts: Mapping[tuple[str | None, str | None], int]

    @property
    def relabel(self) -> int:
        """Pairs that could be named anew instead of being deleted and drawn."""
        return sum(n for (true, found), n in self.counts.items() if None not in (true, found) and true != found)


def confusion(every: Outcomes, names: Mapping[int, str], thresholds: Mapping[int, float], iou: float) -> Confusion:
    """The table.

    Args:
        every: What became of every detection.
        names: Of the classes, by category id.
        thresholds: By category id; a detection below that of its class is not there.
        iou: That of the outcomes.
    """
    least = np.asarray([thresholds[one] for one in every.category.tolist()], np.float32)
    kept = every.score >= least
    found = kept & (every.target >= 0)
    missed = np.ones(len(every.object_category), bool)
    missed[every.target[found]] = False
    wrong = kept & (every.target < 0) & (every.target != IGNORED)
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for category in every.category[found].tolist():
        counts[names[category], names[category]] += 1
    for image in np.intersect1d(every.image[wrong], every.object_image[missed]):
        ours, theirs = (
            np.flatnonzero(wrong & (every.image == image)),
            np.flatnonzero(missed & (every.object_image == image)),
        )
        ours = ours[np.argsort(-every.score[ours], kind="stable")]
        no_crowd = np.zeros(len(theirs), bool)
        chosen = match(overlaps(every.xywh[ours], every.object_xywh[theirs], no_crowd), no_crowd, iou)
        for detection, index in zip(ours[chosen >= 0], theirs[chosen[chosen >= 0]], strict=True):
            counts[names[int(every.object_category[index])], names[int(every.category[detection])]] += 1
            wrong[detection] = missed[index] = False
    for category in every.category[wrong].tolist():
        counts[None, names[category]] += 1
    for category in every.object_category[missed].tolist():
        counts[names[category], None] += 1
    return Confusion(dict(counts))
