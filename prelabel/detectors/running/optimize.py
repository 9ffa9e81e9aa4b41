"""Find the fastest way of running a model that still gives equivalent detections, tested on images of the run itself.

The trials start with all convolutions in lower precision; each further trial leaves more of them in float32. The first
way that is equivalent on all compared images is chosen, if it is faster than exact.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from prelabel.detectors.base import EXACT, Optimization, Pixels
from prelabel.detectors.conventions.resolve_model import PreparedModel
from prelabel.detectors.running import runtime
from prelabel.detectors.running.equivalence import difference, lenient_options
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.precision import lower, lower_precision_type, most_rewarding, work_per_convolution
from prelabel.detectors.running.savedmodel import SavedModelDetector, frozen_graph
from prelabel.errors import DetectorError

#: The share of the convolutions' work in lower precision, per trial.
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)

#: The smallest number of compared images, and of detections on them; and the number of images after which to give up.
IMAGES, DETECTIONS, MOST_IMAGES = 16, 16, 64

#: Number of images that are timed, twice each and in turns.
_TIMED = 6

#: The smallest speed-up that is worth the loss of precision.
LEAST_GAIN = 1.05

#: The highest cost of the trials: seconds to build graphs, and images to run. Their possible gain: a share of the time.
_COST_S, _COST_IMAGES, _POSSIBLE_GAIN = 10.0, 80, 0.25


@dataclass(slots=True)
class _Comparison:
    """One way of running, compared with exact on the images so far."""

    images: int = 0
    detections: int = 0
    ratios: list[float] = field(default_factory=list)
    difference: str = ""

    @property
    def has_enough(self) -> bool:
        return self.images >= IMAGES and self.detections >= DETECTIONS

    @property
    def is_slow(self) -> bool:
        return len(self.ratios) >= _TIMED // 2 and self.gain < LEAST_GAIN

    @property
    def gain(self) -> float:
        return statistics.median(self.ratios) if self.ratios else 0.0


def is_worth_trying(images: float, seconds: float) -> bool:
    """Whether trials may gain more than they cost a worker that has `images` images to run, of `seconds` each."""
    return images * seconds * _POSSIBLE_GAIN > _COST_S + _COST_IMAGES * seconds


def try_faster(
    exact: SavedModelDetector,
    model: PreparedModel,
    options: DetectorOptions,
    sample: Callable[[], Iterator[Pixels]],
    images: float,
    *,
    threads: int = 1,
    streams: int = 1,
    gpus: float = 0.0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[Optimization, SavedModelDetector]:
    """Find the fastest equivalent way of running a model, and return it with the detector that runs it that way.

    Args:
        exact: The detector in exact precision.
        model: The model that it was loaded from.
        options: The options that it was loaded with.
        sample: Returns the pixels of the run's images, beginning with the first one at each call.
        images: Number of images that a worker will label.
        threads: As for `load_detector`.
        streams: As for `load_detector`; images are timed one at a time.
        gpus: As for `load_detector`.
        cache_dir: As for `load_detector`.

    Raises:
        DetectorError: The model can no longer be loaded.
    """
    tf = runtime.configure(threads, gpus, streams)

    def keep_exact(why: str, images: int = 0, gain: float | None = None) -> tuple[Optimization, SavedModelDetector]:
        return replace(exact.optimization, gain=gain and round(gain, 3), images=images, why=why), exact

    numbers = lower_precision_type(tf)
    if numbers is None:
        return keep_exact("this machine has no number type that is faster than float32")
    if exact.optimization != EXACT:
        return keep_exact("the model cannot be run as one constant graph")
    seconds = _seconds(exact, sample())
    if seconds is None or not is_worth_trying(images, seconds):
        return keep_exact("the run is too small for trials to pay off")
    frozen = frozen_graph(model, options, tf, cache_dir)
    work = {} if frozen is None else work_per_convolution(frozen, tf)
    if frozen is None or not work:
        return keep_exact("no convolution can run in lower precision")
    refused: list[str] = []
    for share in SHARES:
        lowered = Optimization(numbers, share)
        network = lower(frozen, most_rewarding(frozen, work, share), numbers, tf).network(tf)
        candidate = SavedModelDetector(model, network, tf, options, lowered)
        trial = compare(exact, candidate, sample(), lenient_options(options))
        if trial.is_slow:
            return keep_exact(f"{lowered.way} is not faster ({trial.gain:.2f} x)", trial.images, trial.gain)
        if trial.difference:
            refused.append(f"{share:.0%}")
            why = trial.difference
        elif not trial.has_enough:
            return keep_exact(f"only {trial.images} images with {trial.detections} detections could be compared")
        else:
            why = f"all detections are equivalent on {trial.images} images"
            why += f"; not so at {', '.join(refused)}" if refused else ""
            return replace(lowered, gain=round(trial.gain, 3), images=trial.images, why=why), candidate
    return keep_exact(f"{numbers} changes detections: {why}", trial.images)


def compare(
    exact: SavedModelDetector, candidate: SavedModelDetector, sample: Iterator[Pixels], lenient: DetectorOptions
) -> _Comparison:
    """Compare another way of running with exact, up to the first detection that differs."""
    comparison = _Comparison()
    for pixels in islice(sample, MOST_IMAGES):
        try:
            expected = exact.result_pair(pixels, lenient)
        except DetectorError:
            continue  # the image fails in exact precision, too
        try:
            actual = candidate.result_pair(pixels, lenient)
            if len(comparison.ratios) < _TIMED:
                # Both have run an image of this size before; the first run of each size is slow.
                turns = [(exact.run_network(pixels), candidate.run_network(pixels)) for _ in range(2)]
                comparison.ratios.append(min(first for first, _ in turns) / min(second for _, second in turns))
        except DetectorError as error:
            comparison.difference = str(error)
            break
        comparison.images += 1
        comparison.detections += len(expected.kept.detections) + len(expected.kept.image_labels or ())
        comparison.difference = difference(expected, actual)
        if comparison.difference or comparison.has_enough or (comparison.is_slow and len(comparison.ratios) == _TIMED):
            break
    return comparison


def _seconds(exact: SavedModelDetector, sample: Iterator[Pixels]) -> float | None:
    """Median seconds of an image's second run, since the first of each size is slow; None if all images fail."""
    timings: list[float] = []
    for pixels in islice(sample, 2 * _TIMED):
        try:
            exact.run_network(pixels)
            timings.append(exact.run_network(pixels))
        except DetectorError:
            continue
        if len(timings) >= 3:
            break
    return statistics.median(timings) if timings else None
