"""The first pass over a run: counts its totals and histograms, and chooses the images to show.

If the run has more images than requested, the page shows a sample with every class and every range of scores. For this,
the images are sorted into strata. In this example, three of five images are requested:

    stratum               images, by their hash
    Dog, high scores      b.jpg  a.jpg
    Dog, low scores       c.jpg
    Cat, high scores      a.jpg
    (nothing found)       e.jpg  d.jpg

The strata take turns to add their next image that is not in the sample yet: first one stratum of every class, then the
other score ranges, then all of them again. Images are ordered by a hash of the seed and their id. Therefore the sample
does not depend on the order of the run, and one more image in the run changes it little.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, ImageLabel
from prelabel.select import Selection
from prelabel.store.rows import ImageRow

#: Positions of the page's slider: 0 to 1 in hundredths.
POSITIONS = 101

#: Bars of the histogram of scores, each 0.02 wide: two steps of the slider.
SCORE_BINS = 50

#: The last bar of the histogram of detections per image counts the images with at least this many detections.
MAX_PER_IMAGE = 20

#: Number of equal score ranges from the threshold to 1. Each range is a stratum of its class.
SCORE_RANGES = 4

#: Maximum number of failed images that are listed: a sample in which every reason occurs.
MAX_FAILURES = 500


@dataclass(frozen=True, slots=True)
class Predictions:
    """Detections and whole-image labels of one image, under their mapped names, highest score first."""

    detections: Detections | None
    image_labels: tuple[tuple[str, float], ...]

    @property
    def names_and_scores(self) -> list[tuple[str, float]]:
        """Name and score of every detection, then of every whole-image label."""
        boxes = self.detections
        pairs = [] if boxes is None else list(zip(boxes.label.tolist(), boxes.score.tolist(), strict=True))
        return [*pairs, *self.image_labels]


def kept_predictions(row: ImageRow, selection: Selection) -> Predictions:
    """The predictions of a row that the options keep; none for a failed image."""
    return Predictions(
        detections=None if row.detections is None else selection.apply(row.detections),
        image_labels=_name_and_score(selection.apply_to_image_labels(row.image_labels or ())),
    )


def predictions_below(row: ImageRow, selection: Selection) -> Predictions:
    """The predictions that only the thresholds remove; the slider of the page reveals them."""
    labels = selection.without_thresholds.apply_to_image_labels(row.image_labels or ())
    kept_labels = {label.label for label in selection.apply_to_image_labels(row.image_labels or ())}
    detections = row.detections
    if detections is not None:
        columns = (detections.score, detections.label, detections.mid, detections.xyxy)
        indices = selection.without_thresholds.indices(*columns)
        below = detections[indices[~np.isin(indices, selection.indices(*columns))]]
        detections = selection.apply_names(below)
    return Predictions(detections, _name_and_score(label for label in labels if label.label not in kept_labels))


def _name_and_score(labels: Iterable[ImageLabel]) -> tuple[tuple[str, float], ...]:
    return tuple((label.label, label.score) for label in labels)


def shown_score(score: float) -> float:
    """A score as the page has it."""
    return round(score, 4)


def slider_position(score: float) -> int:
    """The last position of the slider that is not above a score."""
    # 0.29 * 100 is 28.999999999999996.
    return int(shown_score(score) * 100 + 1e-6)


def _counts_by_position() -> npt.NDArray[np.int64]:
    return np.zeros(POSITIONS, np.int64)


@dataclass(slots=True)
class Survey:
    """The counts of a whole run, for every position of the slider.

    In its first position, the slider shows the predictions (detections and whole-image labels) that the options keep.
    Farther right it hides the kept predictions with lower scores; farther left it also shows predictions that only the
    thresholds remove.

    Attributes:
        start: First position of the slider.
        images: Number of rows.
        failed: Number of failed images.
        classes: By class name, the `(POSITIONS,)` numbers of predictions by the last position that shows them.
        per_image: `(POSITIONS, MAX_PER_IMAGE + 1)` numbers of images by position and number of shown predictions; the
            last column counts images with `MAX_PER_IMAGE` or more.
        scores: `(SCORE_BINS,)` numbers of predictions by score, 0 to 1, including those below the thresholds.
        failures: Number of failed images by error class.
        chosen: Positions of the images to show in the run, ascending.
        listed: Positions of the failed images to list in the run, ascending.
    """

    start: int
    images: int = 0
    failed: int = 0
    classes: dict[str, npt.NDArray[np.int64]] = field(default_factory=lambda: defaultdict(_counts_by_position))
    per_image: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((POSITIONS, MAX_PER_IMAGE + 1), dtype=np.int64)
    )
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    failures: Counter[str] = field(default_factory=Counter)
    chosen: list[int] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)

    def kept_by_class(self) -> dict[str, int]:
        """Number of kept predictions by class name; 0 for a class that occurs only below the thresholds."""
        return {name: int(counts[self.start :].sum()) for name, counts in self.classes.items()}


def survey(rows: Iterable[ImageRow], selection: Selection, limit: int, seed: int) -> Survey:
    """Read all rows once, count them and choose the images to show.

    Memory grows with the sample and the number of classes; if all images are shown, also by one number per image.

    Args:
        rows: The rows of the run.
        selection: Decides which detections are kept.
        limit: Maximum number of images to show; 0 shows all.
        seed: Another seed chooses another sample.
    """
    counts = Survey(slider_position(selection.score_threshold))
    sampler = Sampler(limit, seed)
    failures = Sampler(MAX_FAILURES, seed)
    for position, row in enumerate(rows):
        counts.images += 1
        if row.error_type is not None:
            counts.failed += 1
            counts.failures[row.error_type] += 1
            failures.add(position, row.image_id, [(row.error_type, 0)])
            continue
        kept = kept_predictions(row, selection).names_and_scores
        _count(counts, kept, predictions_below(row, selection).names_and_scores)
        if limit:
            strata = {(name, score_range(score, selection.score_threshold)) for name, score in kept}
            sampler.add(position, row.image_id, strata or [("", "nothing found")])
        else:
            counts.chosen.append(position)
    if limit:
        counts.chosen = sampler.chosen()
    counts.listed = failures.chosen()
    return counts


def _count(counts: Survey, kept: list[tuple[str, float]], below: list[tuple[str, float]]) -> None:
    start = counts.start
    names = [name for name, _ in (*kept, *below)]
    positions = [slider_position(score) for _, score in (*kept, *below)]
    kept_positions, below_positions = positions[: len(kept)], positions[len(kept) :]
    # The thresholds decide what the first position shows; farther right or left, the scores decide.
    last_positions = [max(position, start) for position in kept_positions]
    last_positions += [min(position, start - 1) for position in below_positions]
    visible = _counts_by_position()
    for name, last in zip(names, last_positions, strict=True):
        of_class = counts.classes[name]
        # If the slider starts at 0, it never shows what a class threshold removes.
        if last >= 0:
            of_class[last] += 1
            visible[last] += 1
    per_position = np.minimum(shown_from(visible), MAX_PER_IMAGE)
    counts.per_image[np.arange(POSITIONS), per_position] += 1
    for position in positions:
        counts.scores[min(position * SCORE_BINS // (POSITIONS - 1), SCORE_BINS - 1)] += 1


def shown_from(by_last_position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Turn numbers of predictions by the last position that shows them into the numbers that each position shows."""
    return by_last_position[::-1].cumsum()[::-1]


def score_range(score: float, threshold: float) -> int:
    """Number of the score range that contains a score, from 0 (lowest) to `SCORE_RANGES - 1`."""
    share = (score - threshold) / (1 - threshold) if threshold < 1 else 1.0
    return min(max(int(share * SCORE_RANGES), 0), SCORE_RANGES - 1)


class Sampler:
    """Chooses a sample of images that arrive one by one; holds at most `limit` images per stratum.

    Args:
        limit: Size of the sample.
        seed: Another seed chooses another sample.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self._limit, self._seed = limit, seed
        self._strata: dict[tuple[str, Hashable], list[tuple[int, int]]] = defaultdict(list)

    def add(self, position: int, image_id: str, strata: Iterable[tuple[str, Hashable]]) -> None:
        """Add an image.

        Args:
            position: Position in the run.
            image_id: Id in the run.
            strata: The strata that the image belongs to, each a group (the class) and a part of the group.
        """
        hash_ = self._hash(image_id)
        for stratum in strata:
            heap = self._strata[stratum]
            if len(heap) < self._limit:
                heapq.heappush(heap, (-hash_, -position))
            else:
                heapq.heappushpop(heap, (-hash_, -position))

    def chosen(self) -> list[int]:
        """Positions of the sample, ascending; all positions if there are no more than `limit`."""
        queues = [[-position for _, position in sorted(self._strata[name])] for name in self._in_turn_order()]
        # Positions are popped from the end: negated hashes are sorted, so the smallest hash is last.
        sample: set[int] = set()
        while queues and len(sample) < self._limit:
            for queue in queues:
                while queue and (position := queue.pop()) in sample:
                    pass
                if len(sample) < self._limit and position not in sample:
                    sample.add(position)
            queues = [queue for queue in queues if queue]
        return sorted(sample)

    def _in_turn_order(self) -> list[tuple[str, Hashable]]:
        """Strata in the order of their turns: one stratum of every group, then the next of every group."""
        by_hash = sorted(self._strata, key=lambda stratum: self._hash(repr(stratum)))
        number: Counter[str] = Counter()
        turns = {}
        for stratum in by_hash:
            turns[stratum] = number[stratum[0]]
            number[stratum[0]] += 1
        return sorted(by_hash, key=turns.__getitem__)

    def _hash(self, text: str) -> int:
        key = f"{self._seed}\0{text}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
