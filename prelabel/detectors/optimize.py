"""Find the fastest way of running a network that still says the same, on images of the run itself.

The ways are tried from the boldest on: more and more of the convolutions stay in float32. The first that is faithful on
every image compared is taken, if it is faster at all.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from prelabel.detectors import runtime
from prelabel.detectors.answers import DetectorOptions
from prelabel.detectors.base import Pixels
from prelabel.detectors.choice import EXACT, Choice, lower_numbers
from prelabel.detectors.fidelity import Answer, difference, generous
from prelabel.detectors.lowered import lower, rewarding, work_of
from prelabel.detectors.prepare import PreparedModel
from prelabel.detectors.savedmodel import SavedModelDetector, frozen_graph
from prelabel.errors import DetectorError

#: How much of the convolutions' work is lowered, one way after the other.
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)

#: Images that are compared at least, with so many detections on them; and images looked at before that is given up.
IMAGES, DETECTIONS, MOST_IMAGES = 16, 16, 64

#: Images on which time is taken, in turns, each twice.
_TIMED = 6

#: A way that is not faster than this is not worth another digit lost.
LEAST_GAIN = 1.05

#: What trying costs at most: seconds for making graphs, and images run. What it may bring: this share of the time.
_COST_S, _COST_IMAGES, _HOPE = 10.0, 80, 0.25


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying.

    Attributes:
        choice: The way to run the network.
        gain: How many times faster than `exact` it was, or None where nothing was measured.
        images: Images on which it was compared.
        why: In words.
    """

    choice: Choice
    gain: float | None
    images: int
    why: str


@dataclass(slots=True)
class _Compared:
    """What one way was like on the images so far."""

    images: int = 0
    detections: int = 0
    ratios: list[float] = field(default_factory=list)
    difference: str = ""

    @property
    def enough(self) -> bool:
        return self.images >= IMAGES and self.detections >= DETECTIONS

    @property
    def slow(self) -> bool:
        return len(self.ratios) >= _TIMED // 2 and self.gain < LEAST_GAIN

    @property
    def gain(self) -> float:
        return statistics.median(self.ratios) if self.ratios else 0.0


def pays(images: float, seconds: float) -> bool:
    """Whether trying may bring more than it costs, where a worker has so many images of so many seconds before it."""
    return images * seconds * _HOPE > _COST_S + _COST_IMAGES * seconds


def try_faster(
    exact: SavedModelDetector,
    model: PreparedModel,
    options: DetectorOptions,
    pictures: Callable[[], Iterator[Pixels]],
    images: float,
    *,
    threads: int = 1,
    gpus: float = 0.0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[Trial, SavedModelDetector]:
    """The fastest faithful way of running a network, and the detector that runs it so.

    Args:
        exact: The detector as it is run when nothing is tried.
        model: It was loaded from this.
        options: It was loaded with these.
        pictures: Begins anew with the run's images, each time it is called.
        images: So many will a worker label.
        threads: As for `load_detector`.
        gpus: As for `load_detector`.
        cache_dir: As for `load_detector`.

    Raises:
        DetectorError: The model cannot be loaded any more.
    """
    tf = runtime.configure(threads, gpus)

    def nothing(why: str, compared: int = 0, gain: float | None = None) -> tuple[Trial, SavedModelDetector]:
        return Trial(exact.choice, gain, compared, why), exact

    numbers = lower_numbers(tf)
    if numbers is None:
        return nothing("this machine computes in no other type faster than in float32")
    if exact.choice != EXACT:
        return nothing("the network cannot be one constant graph")
    seconds = _seconds(exact, pictures())
    if seconds is None or not pays(images, seconds):
        return nothing("the run is too small for trying to pay")
    frozen = frozen_graph(model, options, tf, cache_dir)
    work = {} if frozen is None else work_of(frozen, tf)
    if frozen is None or not work:
        return nothing("no convolution could be lowered")
    refused: list[str] = []
    for share in SHARES:
        choice = Choice(numbers, share)
        network = lower(frozen, rewarding(frozen, work, share), numbers, tf).network(tf)
        candidate = SavedModelDetector(model, network, tf, options, choice)
        found = compare(exact, candidate, pictures(), generous(options))
        if found.slow:
            return nothing(f"{choice} is not faster ({found.gain:.2f} x)", found.images, found.gain)
        if found.difference:
            refused.append(f"{share:.0%}")
            why = found.difference
        elif not found.enough:
            return nothing(f"only {found.images} images with {found.detections} detections could be compared")
        else:
            words = f"every detection is found again on {found.images} images"
            return Trial(choice, found.gain, found.images, f"{words}{_not(refused)}"), candidate
    return nothing(f"{numbers} changes detections: {why}", found.images)


def compare(
    exact: SavedModelDetector, candidate: SavedModelDetector, pictures: Iterator[Pixels], more: DetectorOptions
) -> _Compared:
    """How another way of running compares, up to the first detection that differs."""
    found = _Compared()
    for pixels in islice(pictures, MOST_IMAGES):
        try:
            expected = exact.answer(pixels, more)
        except DetectorError:
            continue  # such an image fails either way
        try:
            said = candidate.answer(pixels, more)
            if len(found.ratios) < _TIMED:
                # Both have seen an image of this size now: new sizes are slow.
                turns = [(exact.run_network(pixels), candidate.run_network(pixels)) for _ in range(2)]
                found.ratios.append(min(mine for mine, _ in turns) / min(other for _, other in turns))
        except DetectorError as error:
            found.difference = str(error)
            break
        found.images += 1
        found.detections += _size(expected)
        found.difference = difference(expected, said)
        if found.difference or found.enough:
            break
        if found.slow and len(found.ratios) == _TIMED:
            break
    return found


def _seconds(exact: SavedModelDetector, pictures: Iterator[Pixels]) -> float | None:
    """Seconds for an image whose size was seen before, or None where there is none that runs."""
    took: list[float] = []
    for pixels in islice(pictures, 2 * _TIMED):
        try:
            exact.run_network(pixels)
            took.append(exact.run_network(pixels))
        except DetectorError:
            continue
        if len(took) >= 3:
            break
    return statistics.median(took) if took else None


def _size(answer: Answer) -> int:
    return len(answer.kept.detections) + len(answer.kept.image_labels or ())


def _not(refused: list[str]) -> str:
    return f"; not so with {', '.join(refused)}" if refused else ""
