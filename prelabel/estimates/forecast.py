"""From measurements on a sample to what a run takes: time, memory, storage, money. Plain arithmetic.

    start  until the workers have loaded the detector            measured
    label  images / (images per second of all workers)          measured on the sample, with all workers at once
    end    the last shards, and stopping the workers             computed, measured

The range of the time has two parts: the sample may be faster or slower than the other images (from the differences
between its images), and the machine may be so later than now (`DRIFT`).
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from prelabel.engine.measurement import Measurement

#: How much faster and slower than during the sample a machine may be while a run labels, as shares of the time.
#: `benchmarks/estimates.py` measures how often runs end within the range.
DRIFT_FASTER, DRIFT_SLOWER = 0.15, 0.25

#: The same for starting workers, which depends on disks and their caches.
START_FASTER, START_SLOWER = 0.4, 0.6

#: The mean of all images is within this many standard errors of the sample's mean, in 90 of 100 samples.
STANDARD_ERRORS = 1.64


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one worker labels while all of them work.

    Attributes:
        images_per_s: Images per second of one worker.
        relative_error: Standard error of the mean time of an image, as a share of it.
    """

    images_per_s: float
    relative_error: float


def speed_of(measurements: Sequence[Measurement], images: int) -> Speed | None:
    """The mean speed of workers that measured at the same time, or None if they timed no image.

    Args:
        measurements: What each worker measured.
        images: Number of images of the run, from which the sample was drawn.
    """
    rates = [m.timed / m.seconds for m in measurements if m.timed and m.seconds > 0]
    if not rates:
        return None
    rows = sum(m.encoded_rows for m in measurements)
    encode_s = sum(m.encode_s for m in measurements) / rows if rows else 0.0
    seconds = 1 / statistics.fmean(rates) + encode_s
    costs = [image.cost_s for m in measurements for image in m.images if image.is_labeled]
    error = 0.0
    if len(costs) > 1 and (mean := statistics.fmean(costs)) > 0:
        unseen = max(0.0, 1 - len(costs) / max(1, images))
        error = statistics.stdev(costs) / mean * math.sqrt(unseen / len(costs))
    return Speed(1 / seconds, error)


@dataclass(frozen=True, slots=True, repr=False)
class TimeEstimate:
    """The seconds that a run takes.

    Attributes:
        check_s: Checking the detector and the options.
        list_s: Listing the source, and checking the shards of an earlier call.
        start_s: From starting the workers until they have loaded the detector.
        label_s: Labeling.
        end_s: Stopping the workers.
        total_s: All of it.
        low_s: The total if things go well.
        high_s: The total if they do not.
    """

    check_s: float
    list_s: float
    start_s: float
    label_s: float
    end_s: float
    total_s: float
    low_s: float
    high_s: float

    def __repr__(self) -> str:
        return f"TimeEstimate(total_s={self.total_s:.0f}, low_s={self.low_s:.0f}, high_s={self.high_s:.0f})"


def label_seconds(shards: Sequence[int], workers: int, images_per_s: float) -> float:
    """Seconds in which workers of equal speed label shards: each takes the next shard when it has finished one.

    Args:
        shards: Number of images of each shard, in the order in which they are handed out.
        workers: Number of workers.
        images_per_s: Images per second of one worker.
    """
    labeled = [0] * workers
    for images in shards:
        heapq.heapreplace(labeled, labeled[0] + images)
    return max(labeled) / images_per_s


def time_of(
    *, check_s: float, list_s: float, start_s: float, label_s: float, end_s: float, relative_error: float
) -> TimeEstimate:
    """The total of the parts, and its range."""
    other_s = check_s + list_s + end_s
    error = STANDARD_ERRORS * relative_error
    return TimeEstimate(
        check_s=check_s,
        list_s=list_s,
        start_s=start_s,
        label_s=label_s,
        end_s=end_s,
        total_s=other_s + start_s + label_s,
        low_s=other_s + start_s * (1 - START_FASTER) + label_s * max(0.1, 1 - math.hypot(error, DRIFT_FASTER)),
        high_s=other_s + start_s * (1 + START_SLOWER) + label_s * (1 + math.hypot(error, DRIFT_SLOWER)),
    )


def output_bytes(measurements: Sequence[Measurement], shards: Sequence[int]) -> int:
    """The size of all shards: rows as large as those of the sample, and what a shard has besides."""
    rows = sum(m.encoded_rows for m in measurements)
    if not rows:
        return 0
    per_row = sum(m.encoded_bytes - m.empty_bytes for m in measurements) / rows
    return round(per_row * sum(shards) + measurements[0].empty_bytes * len(shards))


def likely_share(count: int, sample: int, images: int) -> tuple[float, float]:
    """The range of a share of all images, from a sample: Wilson's interval, which holds in 95 of 100 samples.

    >>> [round(end, 3) for end in likely_share(0, 64, 1_000_000)]
    [0.0, 0.057]
    >>> likely_share(2, 8, 8)
    (0.25, 0.25)
    """
    share = count / sample
    if sample >= images:
        return share, share
    z = 1.96
    center = (share + z * z / (2 * sample)) / (1 + z * z / sample)
    half = z / (1 + z * z / sample) * math.sqrt(share * (1 - share) / sample + z * z / (4 * sample * sample))
    return max(0.0, center - half) if count else 0.0, min(1.0, center + half) if count < sample else 1.0


def nodes_for(workers: int, places: Sequence[int]) -> int:
    """Number of machines that these workers need, if they fill those with most room first; at least 1."""
    nodes = 0
    for place in places:
        if workers <= 0:
            break
        workers -= place
        nodes += 1
    return max(1, nodes)
