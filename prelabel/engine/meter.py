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


class Meter:
    """Counts images done, by finished shards and by what workers say of unfinished ones."""

    def __init__(self, images: int, tasks: Sequence[tuple[LabelTask, int]]) -> None:
        self._images = images
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

    def snapshot(self, statuses: Iterable[Status], workers: int, waiting: str) -> Snapshot:
        """How far the run is now."""
        partial = [one for status in statuses for one in status.shards.items() if one[0] in self._left]
        done = self._images - self._images_left + sum(images for _, (images, _) in partial)
        now = time.monotonic()
        self._history.append((now, done))
        while now - self._history[0][0] > _RATE_WINDOW_S:
            self._history.popleft()
        since, before = self._history[0]
        rate = max(0, done - before) / (now - since) if now - since > 1 else 0.0
        return Snapshot(
            images=self._images,
            done=min(done, self._images),
            failed=self._failed + sum(failed for _, (_, failed) in partial),
            images_per_s=rate,
            workers=workers,
            waiting=waiting,
        )
