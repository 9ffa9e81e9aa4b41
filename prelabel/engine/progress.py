"""A run's progress, throughput and summary.

`Throughput` counts images and returns a `Snapshot` on request; a `Reporter` (progress bar, plain lines, JSON lines,
none) shows it; the `Summary` describes the finished run.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from prelabel.errors import first_of
from prelabel.storage.address import AddressLike, redact
from prelabel.storage.files import Storage
from prelabel.store.records import ShardRecords
from prelabel.store.rows import GONE
from prelabel.store.shards import ShardRecord, first_row
from prelabel.store.source_check import SourceCheck

if TYPE_CHECKING:
    from prelabel.engine.resume import WorkList
    from prelabel.engine.worker import WorkerStatus

#: A share given as `--max-failed` applies from this many images on.
SAMPLE = 100

#: Error classes of rows whose worker failed, not the image: they make the exit code 1.
LOST = ("WorkerDied", "WorkerHung")

#: Stands for the images of a shard that is published, or not labeled in this call.
_NOT_LEFT = -1

#: Seconds over which the rate of a running job is averaged.
_RATE_WINDOW_S = 30.0

#: A summary shows an example image for at most this many error classes.
_MOST_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run's progress at one moment.

    Attributes:
        images: Number of images planned.
        done: Number of images done, by this call and earlier ones.
        failed: Number of images that failed in this call.
        images_per_s: Rate of this call over the last 30 seconds; 0 while unknown.
        workers: Number of workers that have loaded their detector.
        waiting: What the run is waiting for, as text; `""` if nothing.
    """

    images: int
    done: int
    failed: int
    images_per_s: float
    workers: int
    waiting: str

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate, or None while the rate is unknown."""
        return (self.images - self.done) / self.images_per_s if self.images_per_s > 0 else None


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker that died, hung, was lost or was excluded, for logs and summaries.

    Attributes:
        worker: Its name in logs, `host:pid`; `""` if its process never ran.
        host: Host name of its machine.
        pid: Process id on that machine.
        cause: Why, as text.
        is_excluded: Whether it was excluded for its errors; otherwise it died, hung or was lost.
        shards: What happens to the shards it was working on, as text, by shard number.
    """

    worker: str
    host: str
    pid: int
    cause: str
    is_excluded: bool = False
    shards: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        who = f"worker {self.worker}" if self.worker else "a worker that never started"
        outcome = "was excluded" if self.is_excluded else "was lost"
        shards = "".join(f"; shard {shard}: {action}" for shard, action in self.shards.items())
        return f"{who} {outcome}: {self.cause}{shards}"


class Reporter(Protocol):
    """Receives a run's events, from one thread. Every method does nothing by default; subclasses override some."""

    def started(self, run_id: str) -> None:
        """A run begins or resumes; all later events belong to it."""
        return

    def message(self, text: str, *, shard: int | None = None) -> None:
        """Something the user should read once, about one shard or about the run."""
        return

    def lost(self, worker: LostWorker) -> None:
        """A worker died, hung, was lost or was excluded."""
        self.message(str(worker))

    def listed(self, images: int) -> None:
        """The source is being listed; `images` were found so far."""
        return

    def progress(self, snapshot: Snapshot) -> None:
        """The run's current progress; called a few times per second."""
        return

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """A worker (`host:pid`) published a shard, `seconds` after it received the task."""
        return

    def close(self) -> None:
        """The run has ended: the last event."""
        return


class Throughput:
    """Counts finished images, from published shards and from the status of workers for unpublished ones.

    Args:
        images: Images of the run.
        work: The work of this call.
        max_failed: As `--max-failed`. Rows that fail whatever the detector does are not counted: failed rows that are
            kept, and those of images that are gone.

    Attributes:
        labeled: Number of images in the shards that this call published.
    """

    def __init__(self, images: int, work: WorkList, max_failed: float | None = None) -> None:
        self._images = images
        self._limit = max_failed
        shards = int(work.shards.max(initial=-1)) + 1
        self._left = _by_shard(work.shards, work.to_label, shards, usual=_NOT_LEFT)
        self._kept_failed = _by_shard(work.shards, work.kept_failed, shards, usual=0)
        self._images_left = int(work.to_label.sum())
        self._failed = 0
        self._started: float | None = None
        self._ended = 0.0
        self._history: deque[tuple[float, int]] = deque()
        self.labeled = 0

    def start(self) -> None:
        """The first worker is ready."""
        if self._started is None:
            self._started = time.monotonic()
            self._history.clear()  # the time before this does not count for the rate

    def finished(self, record: ShardRecord) -> None:
        """A shard was published."""
        shard, not_counted = record.shard, record.failures.get(GONE, 0)
        if self._is_left(shard):
            self._images_left -= self._left[shard]
            self.labeled += self._left[shard]
            self._left[shard] = _NOT_LEFT
        if shard < len(self._kept_failed):
            not_counted += self._kept_failed[shard]
        self._failed += max(0, record.failed - not_counted)
        self._ended = time.monotonic()

    def _is_left(self, shard: int) -> bool:
        return shard < len(self._left) and self._left[shard] != _NOT_LEFT

    @property
    def seconds(self) -> float:
        """Seconds from the first worker being ready to the last published shard."""
        return max(0.0, self._ended - self._started) if self._started is not None else 0.0

    def too_many_failed(self, statuses: Sequence[WorkerStatus]) -> str:
        """Return a message if more images of this call have failed than `--max-failed` allows, else `""`."""
        unfinished, failed = self._count_unfinished(statuses)
        images, failed = self.labeled + unfinished, self._failed + failed
        if self._limit is None or (self._limit < 1 and images < SAMPLE) or not too_many(self._limit, images, failed):
            return ""
        return f"{failed:,} of {images:,} images failed, more than --max-failed {self._limit:g} allows"

    def _count_unfinished(self, statuses: Iterable[WorkerStatus]) -> tuple[int, int]:
        """Number of finished images, and of failed ones among them, in shards that are not published yet."""
        counts = [count for status in statuses for shard, count in status.shards.items() if self._is_left(shard)]
        return sum(images for images, _ in counts), sum(failed for _, failed in counts)

    def snapshot(self, statuses: Iterable[WorkerStatus], workers: int, waiting: str) -> Snapshot:
        """Return the run's current progress."""
        unfinished, failed = self._count_unfinished(statuses)
        done = self._images - self._images_left + unfinished
        now = time.monotonic()
        self._history.append((now, done))
        while now - self._history[0][0] > _RATE_WINDOW_S:
            self._history.popleft()
        since, before = self._history[0]
        rate = max(0, done - before) / (now - since) if now - since > 1 else 0.0
        return Snapshot(
            images=self._images,
            done=min(done, self._images),
            failed=self._failed + failed,
            images_per_s=rate,
            workers=workers,
            waiting=waiting,
        )


def _by_shard(shards: npt.NDArray[np.int64], values: npt.NDArray[np.int64], count: int, *, usual: int) -> array[int]:
    """An array of `count` values by shard, `usual` where there is none."""
    by_shard = np.full(count, usual, np.int64)
    by_shard[shards] = values
    return array("q", by_shard.tobytes())  # elements are read one by one, which is slow with numpy


def too_many(limit: float | None, images: int, failed: int) -> bool:
    """Whether more images failed than `--max-failed` allows; a limit below 1 is a share, otherwise a number of images.

    >>> too_many(0.05, 200, 10), too_many(0.05, 200, 11), too_many(3, 200, 4), too_many(None, 200, 200)
    (False, True, True, False)
    """
    return limit is not None and failed > (limit * images if limit < 1 else limit)


@dataclass(frozen=True, slots=True, repr=False)
class Summary:
    """The result of a run.

    Attributes:
        output: URL or path of the run.
        images: Rows in total, of this and earlier calls.
        failed: Failed images among them.
        failures: Number of failed images by error class.
        examples: Id and error of an example image, as text, by error class; only for the first few classes.
        lost: Images that failed because their worker died or hung. If there are any, the exit code is 1.
        detections: Detections in total.
        labeled: Images that this call labeled.
        skipped_shards: Shards that were already finished and valid.
        wall_s: Seconds of this call.
        label_s: Seconds from the first worker being ready to the last published shard.
        workers: Highest number of workers that were ready at the same time.
        runner: Where the workers ran: `"local"` (processes on this machine) or `"ray"`.
        busy: Share of the labeling time, 0 to 1, in which the model ran, averaged over workers; the rest was spent
            waiting for images and for shards to be written.
        seconds: Seconds by stage (list, read, decode, detect, encode, write) of this call, summed over workers.
        optimization: How the model was run, as text.
        dropped: Detections that were dropped because one of their numbers is not finite or their box has no size inside
            the image.
        dropped_example: Id of the first image with such a detection, or `""`.
        views: Views of images that the detector saw in total (`--views`).
        lost_workers: Workers of this call that died, hung, were lost or were excluded, in order.
        notes: What a reader of the run should know: outputs of the model that are not used, options that contradict
            it, classes without a name.
        source_check: What had changed in the source, if it was compared with an earlier run.
    """

    output: str
    images: int
    failed: int
    failures: Mapping[str, int]
    examples: Mapping[str, str]
    lost: int
    detections: int
    labeled: int
    skipped_shards: int
    wall_s: float
    label_s: float
    workers: int
    runner: str
    busy: float
    seconds: Mapping[str, float]
    optimization: str
    dropped: int = 0
    dropped_example: str = ""
    views: int = 0
    lost_workers: tuple[LostWorker, ...] = ()
    notes: Sequence[str] = ()
    source_check: SourceCheck | None = None

    def __repr__(self) -> str:
        counts = f"images={self.images}, failed={self.failed}, detections={self.detections}"
        rate = f"labeled={self.labeled}, images_per_s={self.images_per_s:.1f}"
        return f"Summary({counts}, {rate}, output={redact(self.output)!r})"

    @property
    def images_per_s(self) -> float:
        """Images of this call per second of its labeling time."""
        return self.labeled / self.label_s if self.label_s > 0 else 0.0


def failure_example(shard: ShardRecord, error_type: str, output: AddressLike, storage: Storage) -> str:
    """Return `image_id: error` of the first image of a shard that failed with an error class.

    Raises:
        StoreError: The shard cannot be read.
    """
    row = first_row(shard, output, storage, lambda row: row.error_type == error_type)
    return "" if row is None else f"{row.image_id}: {row.error}"


def failure_examples(shards: ShardRecords, output: AddressLike, storage: Storage) -> dict[str, str]:
    """Return an example image with its error for each error class, as text. Reads one shard per class.

    Raises:
        StoreError: A shard cannot be read.
    """
    first_shard = shards.first_failed()
    names = sorted(first_shard)[:_MOST_EXAMPLES]
    return {name: failure_example(shards[first_shard[name]], name, output, storage) for name in names}


def first_dropped(shards: ShardRecords, output: AddressLike, storage: Storage) -> str:
    """Return the id of the first image with dropped detections, or `""`. Reads one shard.

    Raises:
        StoreError: The shard cannot be read.
    """
    numbers = shards.numbers[shards.counts("dropped") > 0]
    row = first_row(shards[int(numbers[0])], output, storage, lambda row: row.dropped > 0) if len(numbers) else None
    return "" if row is None else row.image_id


def unnamed_notes(shards: ShardRecords) -> list[str]:
    """Return a warning if detections have class numbers that the label map does not name."""
    counts = shards.unnamed()
    if not counts:
        return []
    classes = first_of([f"{number} ({count:,} x)" for number, count in counts.most_common()], _MOST_EXAMPLES)
    return [f"the label map does not name the classes {classes}: does it belong to this detector?"]
