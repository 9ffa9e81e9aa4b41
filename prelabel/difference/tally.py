"""Counts of the changes on many images, and the images that changed most.

The memory that a `Tally` takes depends on the number of classes, not on that of images: of these it keeps the few that
changed most.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prelabel.difference.changes import APPEARED, KINDS, RESCORED, VANISHED, Change
from prelabel.review.edits import BINS, KEPT, MOVED, RELABELED
from prelabel.store.rows import ImageRow

#: What became of the images that both runs have. `COMPARED` includes `CHANGED`.
COMPARED, CHANGED = "compared", "changed"
FAILED_IN_A, FAILED_IN_B, FAILED_IN_BOTH = "failed_in_a", "failed_in_b", "failed_in_both"
OTHER_SIZE, OTHER_FILE = "other_size", "other_file"

#: The images that cannot be compared although both runs have them.
NOT_COMPARED = (FAILED_IN_A, FAILED_IN_B, FAILED_IN_BOTH, OTHER_SIZE, OTHER_FILE)

#: Number of bins for score shifts from -1 to 1.
SHIFT_BINS = 40

#: Most examples of images of a kind.
_EXAMPLES = 3

#: Figures of a class that are no kinds: detections of B that have another class in A, and detections that vanished or
#: appeared only because their score is below the threshold in the other run.
_TO, _VANISHED_BELOW, _APPEARED_BELOW = "relabeled to", "vanished below", "appeared below"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChanges:
    """The changes of one class, or of all classes.

    Attributes:
        counts: Counts by kind. A relabeled detection counts under its class in A.
        relabeled_to: Detections of this class in B that have another class in A.
        vanished_below: Vanished detections that B still has, with a score below the threshold.
        appeared_below: Appeared detections that A had, with a score below the threshold.
        mean_shift: Mean of the score in B minus the score in A over all detections that have the same class in both;
            None without any.
        mean_absolute_shift: The same of the absolute values.
    """

    counts: Mapping[str, int]
    relabeled_to: int
    vanished_below: int
    appeared_below: int
    mean_shift: float | None
    mean_absolute_shift: float | None

    @property
    def in_a(self) -> int:
        """Number of detections in A."""
        return sum(self.counts[kind] for kind in KINDS if kind != APPEARED)

    @property
    def in_b(self) -> int:
        """Number of detections in B."""
        in_both = sum(self.counts[kind] for kind in (KEPT, RESCORED, MOVED))
        return in_both + self.relabeled_to + self.counts[APPEARED]

    @property
    def changed(self) -> int:
        """Number of detections of both runs that are not kept: a moved detection counts in both."""
        return self.in_a + self.in_b - 2 * self.counts[KEPT]


@dataclass(frozen=True, slots=True)
class ChangedImage:
    """An image with its changes.

    Attributes:
        facts: The image in B, without detections.
        position: Its position in the order of A.
        position_in_b: Its position in the order of B.
        changes: What became of its detections.
        counts: Number of changes by kind.
    """

    facts: ImageRow
    position: int
    position_in_b: int
    changes: Sequence[Change]
    counts: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counter(change.kind for change in self.changes))

    @property
    def detections(self) -> int:
        """Number of detections of both runs."""
        return 2 * len(self.changes) - self.counts[VANISHED] - self.counts[APPEARED]

    @property
    def changed(self) -> int:
        """Number of detections of both runs that are not kept."""
        return self.detections - 2 * self.counts[KEPT]

    @property
    def rank(self) -> tuple[int, int, int]:
        """Greater for an image that changed more; of equal ones, that with fewer detections and the earlier one."""
        return self.changed, -self.detections, -self.position


@dataclass(slots=True)
class Tally:
    """The counts of some images.

    Attributes:
        most_images: How many of the images that changed most are kept.
        images: Number of images by what became of them.
        examples: The first few names of the images that cannot be compared, by reason.
        unproven: Compared images of which a run has no checksum, so that another file would not be noticed.
        lost: For each run, its detections on images that cannot be compared.
        foreign: For each run, its detections of classes that the other run does not know, by label.
        figures: Counts by class and figure.
        relabeled: Counts by class in A and class in B.
        shifts: Histogram of score shifts.
        overlaps: Histogram of the IoU of detections that have the same class in both.
        shift_sums: Sums of score shifts and of their absolute values, by class.
        most_changed: The images that changed most.
    """

    most_images: int
    images: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    unproven: int = 0
    lost: tuple[int, int] = (0, 0)
    foreign: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    figures: Counter[tuple[str, str]] = field(default_factory=Counter)
    relabeled: Counter[tuple[str, str]] = field(default_factory=Counter)
    shifts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(SHIFT_BINS, np.int64))
    overlaps: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    shift_sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    most_changed: list[ChangedImage] = field(default_factory=list)

    def add_uncompared(self, reason: str, example: str, lost: tuple[int, int]) -> None:
        """Count an image that cannot be compared, with the detections of both runs on it."""
        self.images[reason] += 1
        self._add_examples(reason, [example])
        self.lost = self.lost[0] + lost[0], self.lost[1] + lost[1]

    def add_image(self, image: ChangedImage) -> None:
        """Count a compared image."""
        self.images[COMPARED] += 1
        for change in image.changes:
            self._add_change(change)
        if image.changed:
            self.images[CHANGED] += 1
            self._keep([image])

    def _add_change(self, change: Change) -> None:
        a, b = change.a, change.b
        label = a.label if a is not None else b.label if b is not None else ""
        self.figures[label, change.kind] += 1
        if change.hidden is not None:
            self.figures[label, _VANISHED_BELOW if change.kind == VANISHED else _APPEARED_BELOW] += 1
        if change.kind == RELABELED and b is not None:
            self.figures[b.label, _TO] += 1
            self.relabeled[label, b.label] += 1
        shift = change.shift
        if shift is not None and change.iou is not None:
            self.shifts[_bin(shift / 2 + 0.5, SHIFT_BINS)] += 1
            self.overlaps[_bin(change.iou, BINS)] += 1
            self._add_shift(label, shift, abs(shift))

    def _add_shift(self, label: str, shift: float, absolute: float) -> None:
        before = self.shift_sums.get(label, (0.0, 0.0))
        self.shift_sums[label] = before[0] + shift, before[1] + absolute

    def _add_examples(self, reason: str, names: Sequence[str]) -> None:
        examples = self.examples.setdefault(reason, [])
        examples += names[: _EXAMPLES - len(examples)]

    def _keep(self, images: Sequence[ChangedImage]) -> None:
        """Keep those of the images that are among the most changed."""
        is_full = 0 < self.most_images == len(self.most_changed)
        better = [image for image in images if not is_full or image.rank > self.most_changed[-1].rank]
        if better:
            candidates = (*self.most_changed, *better)
            self.most_changed = heapq.nlargest(self.most_images, candidates, key=lambda image: image.rank)

    def add(self, other: Tally) -> None:
        """Add the counts of later images."""
        self.images += other.images
        for reason, names in other.examples.items():
            self._add_examples(reason, names)
        self.unproven += other.unproven
        self.lost = self.lost[0] + other.lost[0], self.lost[1] + other.lost[1]
        for mine, theirs in zip(self.foreign, other.foreign, strict=True):
            mine.update(theirs)
        self.figures.update(other.figures)
        self.relabeled.update(other.relabeled)
        self.shifts += other.shifts
        self.overlaps += other.overlaps
        for label, sums in other.shift_sums.items():
            self._add_shift(label, *sums)
        self._keep(other.most_changed)

    def by_class(self) -> dict[str, ClassChanges]:
        """The changes of each class, most detections first."""
        labels = {label for label, _ in self.figures}
        classes = {label: self._changes_of(label) for label in labels}
        return dict(sorted(classes.items(), key=lambda item: (-item[1].in_a - item[1].in_b, item[0])))

    def _changes_of(self, label: str) -> ClassChanges:
        counts = {kind: self.figures[label, kind] for kind in KINDS}
        pairs = sum(counts[kind] for kind in (KEPT, RESCORED, MOVED))
        shift, absolute = self.shift_sums.get(label, (0.0, 0.0))
        return ClassChanges(
            counts=counts,
            relabeled_to=self.figures[label, _TO],
            vanished_below=self.figures[label, _VANISHED_BELOW],
            appeared_below=self.figures[label, _APPEARED_BELOW],
            mean_shift=shift / pairs if pairs else None,
            mean_absolute_shift=absolute / pairs if pairs else None,
        )

    def total(self) -> ClassChanges:
        """The changes of all classes."""
        whole = Tally(0)
        for (_, figure), count in self.figures.items():
            whole.figures["", figure] += count
        for sums in self.shift_sums.values():
            whole._add_shift("", *sums)
        return whole._changes_of("")


def _bin(value: float, bins: int) -> int:
    """The bin of a value from 0 to 1; one on the border of two bins, within rounding, belongs to the upper one."""
    return min(max(int(value * bins + 1e-9), 0), bins - 1)
