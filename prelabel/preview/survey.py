"""The first reading of a run: totals and histograms of everything, and the images that will be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from prelabel.detections import Detections, ImageLabel
from prelabel.preview.options import PreviewOptions
from prelabel.preview.sample import Sampler, score_range
from prelabel.store.rows import ImageRow

#: Bars of the histogram of scores, each 1 / 40 wide.
SCORE_BINS = 40

#: Detections an image from which on the histogram has one bar for all.
MOST_PER_IMAGE = 20

#: Failed images listed one by one; beyond that a sample in which every reason occurs, and the counts.
MAX_FAILURES = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """Detections of one image, then the labels of the whole image, under their mapped names, best first."""

    detections: Detections | None
    image_labels: tuple[tuple[str, float], ...]

    @property
    def named(self) -> list[tuple[str, float]]:
        """Name and score of everything, boxes first."""
        found = self.detections
        boxes = [] if found is None else list(zip(found.label.tolist(), found.score.tolist(), strict=True))
        return [*boxes, *self.image_labels]


def kept_of(row: ImageRow, options: PreviewOptions) -> Kept:
    """What the options keep of a row; nothing of a failed one."""
    return Kept(
        detections=None if row.detections is None else options.apply(row.detections),
        image_labels=_scores(options.apply_to_image_labels(row.image_labels or ())),
    )


def below_of(row: ImageRow, options: PreviewOptions) -> Kept:
    """What the thresholds alone keep from being shown at first: the run has it, and the page's slider brings it up."""
    everything = replace(options, score_threshold=0.0, class_threshold={})
    labels = everything.apply_to_image_labels(row.image_labels or ())
    chosen = {one.label for one in options.apply_to_image_labels(row.image_labels or ())}
    found = row.detections
    if found is not None:
        parts = (found.score, found.label, found.mid, found.xyxy)
        kept = everything.indices(*parts)
        rest = found[kept[~np.isin(kept, options.indices(*parts))]]
        found = replace(rest, label=options.rename(rest.label, rest.mid)) if options.class_map else rest
    return Kept(found, _scores(one for one in labels if one.label not in chosen))


def _scores(labels: Iterable[ImageLabel]) -> tuple[tuple[str, float], ...]:
    return tuple((one.label, one.score) for one in labels)


@dataclass(slots=True)
class Survey:
    """Counts over a whole run, after the options' selection; of the scores and the classes all that the run has.

    Attributes:
        images: All rows.
        failed: Rows without a result.
        empty: Rows with a result of which nothing is kept.
        detections: Detections and labels kept.
        classes: How many of them by name; 0 for a class of which nothing is kept.
        scores: `(SCORE_BINS,)` by score, 0 to 1, how many there are, those below the thresholds with them.
        per_image: `(MOST_PER_IMAGE + 1,)` images by what is kept of them; the last bar is "that many or more".
        failures: Failed images by reason.
        chosen: Positions of the images to show, ascending.
        listed: Positions of the failed images to list, ascending.
    """

    images: int = 0
    failed: int = 0
    empty: int = 0
    detections: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    per_image: list[int] = field(default_factory=lambda: [0] * (MOST_PER_IMAGE + 1))
    failures: Counter[str] = field(default_factory=Counter)
    chosen: list[int] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)


def survey(rows: Iterable[ImageRow], options: PreviewOptions) -> Survey:
    """Read all rows once. Memory grows with the sample and the classes, and by a number an image when all are shown."""
    found = Survey()
    sampler = Sampler(options.limit, options.seed)
    failures = Sampler(MAX_FAILURES, options.seed)
    for position, row in enumerate(rows):
        found.images += 1
        if row.error_type is not None:
            found.failed += 1
            found.failures[row.error_type] += 1
            failures.add(position, row.image_id, [(row.error_type, 0)])
            continue
        named = kept_of(row, options).named
        _count(found, named, below_of(row, options).named)
        if options.limit:
            strata = {(name, score_range(score, options.score_threshold)) for name, score in named}
            sampler.add(position, row.image_id, strata or [("", "nothing found")])
        else:
            found.chosen.append(position)
    if options.limit:
        found.chosen = sampler.chosen()
    found.listed = failures.chosen()
    return found


def _count(found: Survey, named: list[tuple[str, float]], below: list[tuple[str, float]]) -> None:
    found.empty += not named
    found.detections += len(named)
    found.classes.update(name for name, _ in named)
    for name, _ in below:
        found.classes.setdefault(name, 0)
    found.per_image[min(len(named), MOST_PER_IMAGE)] += 1
    scores = np.array([score for _, score in (*named, *below)])
    bins = np.minimum((scores * SCORE_BINS + 1e-6).astype(int), SCORE_BINS - 1)
    for number in bins.tolist():
        found.scores[number] += 1
