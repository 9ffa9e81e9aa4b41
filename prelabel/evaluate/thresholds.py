"""Where to cut: what each score threshold would keep of a class, and the thresholds that are best.

Six detections of a class with five objects, by descending score; the third and the last two are wrong:

    score        0.9  0.8  0.7  0.6  0.3  0.2
    right        yes  yes  no   yes  no   no
    threshold 0.75: 2 kept, 0 to delete, 3 to draw: 3 corrections    precision 1.00, recall 0.4, F1 0.57
    threshold 0.5:  4 kept, 1 to delete, 2 to draw: 3 corrections    precision 0.75, recall 0.6, F1 0.67
    threshold 0.1:  6 kept, 3 to delete, 2 to draw: 5 corrections    precision 0.50, recall 0.6, F1 0.55

*Fewest corrections* counts what a person does afterwards: boxes to delete plus boxes to draw. *Best F1* weighs the
same mistakes against what was found, and so keeps more boxes of classes that are hard: it goes on while half as many
as now are right, where corrections ask for more right than wrong ones. Only the first can be said never to make more
work than another threshold on the images it was chosen on.

A best cut lies between two scores and leaves room. Of several equally good cuts that one is taken that lies nearest
to a given threshold, and this threshold itself where it is as good. None lies below the ranking's floor, since what
there is below it was not seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.evaluate.outcomes import Ranking

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a threshold keeps of a class: right boxes, wrong ones (to delete), and missed objects (to draw)."""

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
        """Share of the kept boxes that are right, or None where none is kept."""
        kept = self.right + self.delete
        return self.right / kept if kept else None

    @property
    def recall(self) -> float | None:
        """Share of the objects that are found, or None where there is none."""
        objects = self.right + self.draw
        return self.right / objects if objects else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, or None where there is neither an object nor a box."""
        every = 2 * self.right + self.delete + self.draw
        return 2 * self.right / every if every else None


def at(one: Ranking, threshold: float) -> Cut:
    """What a threshold keeps: scores of at least it, both as float32, as `label` and the exports compare them."""
    kept = int(np.count_nonzero(one.score >= np.float32(threshold)))
    right = int(np.count_nonzero(one.right[:kept]))
    return Cut(threshold, right, kept - right, one.total - right)


def fewest_corrections(one: Ranking, near: float) -> Cut:
    """The threshold with the fewest corrections."""
    kept, right = _kept_and_right(one)
    return at(one, _best(one, (kept - 2 * right + one.total).astype(np.float64), near))


def best_f1(one: Ranking, near: float) -> Cut | None:
    """The threshold with the best F1, or None where nothing was found rightly."""
    if not one.right.any():
        return None
    kept, right = _kept_and_right(one)
    return at(one, _best(one, -2 * right / (kept + one.total), near))


def precision_recall(one: Ranking) -> tuple[Floats, Floats]:
    """Recall and precision after every detection, by descending score; recall rises from left to right."""
    kept, right = _kept_and_right(one)
    return right[1:] / max(one.total, 1), right[1:] / kept[1:]


def _kept_and_right(one: Ranking) -> tuple[Floats, Floats]:
    """`(N + 1,)` each: after keeping the best 0, 1, ... N."""
    kept = np.arange(len(one.score) + 1, dtype=np.float64)
    return kept, np.concatenate(([0.0], np.cumsum(one.right, dtype=np.float64)))


def _best(one: Ranking, cost: Floats, near: float) -> float:
    """The threshold whose cost is lowest, of several the one nearest to `near`."""
    score = one.score.astype(np.float64)
    near = max(near, one.floor)
    # Keeping the best k means a threshold in (below[k], above[k]].
    above = np.concatenate(([1.0], score))
    under_floor = float(np.nextafter(np.float32(one.floor), np.float32(-1)))
    below = np.concatenate((score, [under_floor]))
    possible = below < above
    least = cost[possible].min()
    best = np.flatnonzero(possible & np.isclose(cost, least, rtol=0, atol=1e-12))
    stored = float(np.float32(near))
    inside = np.flatnonzero((below[best] < stored) & (stored <= above[best]))
    if len(inside):
        return near
    chosen = best[np.argmin(np.maximum(below[best] - stored, stored - above[best]))]
    return _between(float(below[chosen]), float(above[chosen]), lowest=chosen == len(score))


def _between(below: float, above: float, *, lowest: bool) -> float:
    """A short number in (below, above], as float32, about the middle; of the `lowest` cut just under its score."""
    value = above if lowest else (below + above) / 2
    for digits in range(2, 9):
        for rounded in (round(value, digits), math.floor(value * 10**digits) / 10**digits):
            if below < float(np.float32(rounded)) <= above:
                return rounded
    return above
