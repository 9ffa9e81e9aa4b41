"""Measuring in a worker: what a sample of a run's images is, and how fast the worker labels it.

The images take the same way as those of a shard (a `Reader`'s threads, then the detector), but nothing is published.
All workers of a sample measure at the same time, so what they take from each other is part of the result.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prelabel.detectors.base import FrameDetector
from prelabel.engine.schedule import MeasureTask
from prelabel.engine.shard import label_batches
from prelabel.image_ref import ImageRef
from prelabel.store.rows import STAGES, ImageRow, rows_to_table
from prelabel.store.shards import encode_shard

if TYPE_CHECKING:
    from prelabel.engine.reader import Reader

#: The batches with the first images of a worker are not timed: TensorFlow prepares itself while it runs them.
WARM_UP = 3

#: No image is labeled more often than this, so that a small sample does not ask much of a server; or as often as two
#: rounds need, one of which is timed. A round has one batch for each stream.
MOST_PASSES = 8

#: Files that tell the memory that this process may use: of the machine, and the limits of control groups.
_MEMINFO = Path("/proc/meminfo")
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class SampledImage:
    """One image of the sample.

    Attributes:
        image_id: Its id.
        bytes: Size of its file; None if it could not be read.
        height: Pixels of the displayed image; None if it could not be decoded.
        width: Pixels of the displayed image; None if it could not be decoded.
        exif_orientation: The EXIF orientation (1..8) that was applied, or None.
        error_type: Error class if it failed, or None.
        error: The error's message, or None.
        is_labeled: Whether the detector ran on it; otherwise it failed, or time was over.
        detections: Number of detections.
        cost_s: Seconds of decoding, detecting and encoding.
    """

    image_id: str
    bytes: int | None
    height: int | None
    width: int | None
    exif_orientation: int | None
    error_type: str | None
    error: str | None
    is_labeled: bool
    detections: int
    cost_s: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one worker measured.

    Attributes:
        images: The worker's part of the sample, in order.
        timed: Number of images that were timed, repeated ones included.
        seconds: Wall time in which they were labeled.
        stage_seconds: Mean seconds of a timed image by stage; stages of different images run at the same time.
        encoded_rows: Number of rows that were encoded as a shard.
        encoded_bytes: Size of that shard.
        empty_bytes: Size of a shard without rows.
        encode_s: Seconds of encoding the rows.
        memory_bytes: Most memory that this process has used.
        node_memory_bytes: Memory that processes on this machine may use; 0 if unknown.
    """

    images: tuple[SampledImage, ...]
    timed: int
    seconds: float
    stage_seconds: Mapping[str, float]
    encoded_rows: int
    encoded_bytes: int
    empty_bytes: int
    encode_s: float
    memory_bytes: int
    node_memory_bytes: int


def measure(
    refs: Sequence[ImageRef],
    task: MeasureTask,
    reader: Reader,
    detector: FrameDetector,
    on_image: Callable[[ImageRow], None] = lambda row: None,
    streams: int = 1,
) -> Measurement:
    """Label the images of a task again and again, as those of a shard, until its time is over.

    Args:
        refs: The images of the task, with their full addresses.
        task: Says for how long to measure.
        reader: Fetches and decodes them.
        detector: A loaded detector.
        on_image: Called with each row, for progress.
        streams: See `label_batches`.
    """
    labeled: list[ImageRow] = []
    sums = dict.fromkeys(STAGES, 0.0)
    timed = 0
    timed_from: float | None = None
    start = ended = time.perf_counter()
    most = max(MOST_PASSES * len(refs), 2 * streams * detector.batch_size)
    with (
        reader.read(itertools.islice(itertools.cycle(refs), most)) as images,
        closing(label_batches(images, detector, streams)) as batches,
    ):
        done, in_round = 0, list[ImageRow]()
        for number, batch in enumerate(batches, 1):
            for row in batch:
                on_image(row)
                in_round.append(row)
                if len(labeled) < len(refs):
                    labeled.append(row)
            now = time.perf_counter()
            # The rows of a batch come all at once, and those of all streams may: only the end of a round tells a time.
            if number % streams == 0:
                done += len(in_round)
                if timed_from is not None:
                    ended = now
                    timed += len(in_round)
                    for row in in_round:
                        for stage, seconds in row.seconds.items():
                            sums[stage] += seconds
                elif done >= WARM_UP:
                    timed_from = ended = now
                in_round.clear()
            elapsed = now - start
            if elapsed >= task.limit_s or (elapsed >= task.seconds and len(labeled) == len(refs) and timed):
                break
    unlabeled = []
    with reader.read(refs[len(labeled) :]) as images:
        for image in images:
            on_image(image.row)
            unlabeled.append(image.row)
    empty = len(encode_shard(rows_to_table([]), shard=0, run_id=""))  # the first one imports and prepares: not timed
    begin = time.perf_counter()
    encoded = len(encode_shard(rows_to_table(labeled), shard=0, run_id=""))
    encode_s = time.perf_counter() - begin
    return Measurement(
        images=(*(_sampled(row, True) for row in labeled), *(_sampled(row, False) for row in unlabeled)),
        timed=timed,
        seconds=0.0 if timed_from is None else ended - timed_from,
        stage_seconds={stage: total / timed for stage, total in sums.items()} if timed else {},
        encoded_rows=len(labeled),
        encoded_bytes=encoded,
        empty_bytes=empty,
        encode_s=encode_s,
        memory_bytes=_peak_memory(),
        node_memory_bytes=_memory_of_machine(),
    )


def _sampled(row: ImageRow, was_given: bool) -> SampledImage:
    """The facts of an image, and whether the detector was given it."""
    return SampledImage(
        image_id=row.image_id,
        bytes=row.bytes,
        height=row.height,
        width=row.width,
        exif_orientation=row.exif_orientation,
        error_type=row.error_type,
        error=row.error,
        is_labeled=was_given and row.error_type is None,
        detections=len(row),
        cost_s=sum(seconds for stage, seconds in row.seconds.items() if stage != "read"),
    )


def _peak_memory() -> int:
    """Most bytes of memory that this process has used so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _memory_of_machine() -> int:
    """Bytes of memory that processes on this machine may use, within the limits of this container; 0 if unknown."""
    sizes = []
    try:
        sizes.append(1024 * int(_MEMINFO.read_text().split()[1]))  # `MemTotal:  123456 kB` comes first
    except (OSError, ValueError, IndexError):
        return 0
    for file in map(Path, _MEMORY_LIMITS):
        try:
            sizes.append(int(file.read_text()))
        except (OSError, ValueError):  # no such file, or `max`
            continue
    return min(sizes)
