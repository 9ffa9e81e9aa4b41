"""How far a run is and how fast, from finished shards and from what workers say of unfinished ones."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence

from prelabel.engine.progress import Snapshot
from prelabel.engine.schedule import LabelTask
from prelabel.engine.worker import Status
from prelabel.store.shards import ShardRecord

#: Seconds over which the rate of a running job is taken.
_RATE_WINDOW_S = 30.0


#: Images of which a share means something.
SAMPLE = 100


def too_many(limit: float | None, images: int, failed: int) -> bool:
    """Whether more images failed than `--max-failed` allows: below 1 a share, else a number.

    >>> too_many(0.05, 200, 10), too_many(0.05, 200, 11), too_many(3, 200, 4), too_many(None, 200, 200)
    (False, True, True, False)
    """
    if limit is None:
        return False
    return failed > (limit * images if limit < 1 else limit)


class Meter:
    """Counts images done, by finished shards and by what workers say of unfinished ones.

    Args:
        images: Images of the run.
        tasks: What this call has to do, each shard with its number of images.
        max_failed: As `--max-failed`.
    """

    def __init__(self, images: int, tasks: Sequence[tuple[LabelTask, int]], max_failed: float | None = None) -> None:
        self._images = images
        self._limit = max_failed
        self._left = {task.shard: count for task, count in tasks}
        self._images_left = sum(self._left.values())
        self._failed = 0
        self._started: float | None = None
        self._ended = 0.0
        self._history: deque[tuple[float, int]] = deque()
        self.worked = 0

    def start(self) -> None:
        """The first worker is ready."""
        if self._started is None:
            self._started = time.monotonic()
            self._history.clear()  # what passed before says nothing about the rate

    def finished(self, record: ShardRecord) -> None:
        """A shard was published."""
        images = self._left.pop(record.shard, 0)
        self._images_left -= images
        self.worked += images
        self._failed += record.failed
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """From the first worker's being ready to the last published shard."""
        return max(0.0, self._ended - self._started) if self._started is not None else 0.0

    def too_many_failed(self, statuses: Sequence[Status]) -> str:
        """In words, when more images of this call have failed than are allowed, else `""`."""
        unfinished, failed = self._of_unfinished(statuses)
        images, failed = self.worked + unfinished, self._failed + failed
        if self._limit is None or (self._limit < 1 and images < SAMPLE) or not too_many(self._limit, images, failed):
            return ""
        return f"{failed:,} of {images:,} images failed, more than --max-failed {self._limit:g} allows"

    def _of_unfinished(self, statuses: Iterable[Status]) -> tuple[int, int]:
        """Images finished and failed in shards that are not published yet."""
        counts = [one for status in statuses for shard, one in status.shards.items() if shard in self._left]
        return sum(images for images, _ in counts), sum(failed for _, failed in counts)

    def snapshot(self, statuses: Iterable[Status], workers: int, waiting: str) -> Snapshot:
        """How far the run is now."""
        unfinished, failed = self._of_unfinished(statuses)
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
