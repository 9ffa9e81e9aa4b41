"""What is done about workers wherever they run: counted, fed, watched, replaced when they die or stand still.

`fleet.py` has them as Ray actors, `local.py` as processes of this machine.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

from prelabel.config import LabelOptions
from prelabel.engine.events import Died, Done, Event, Failed, Handle, Ready
from prelabel.engine.progress import Reporter
from prelabel.engine.schedule import Culprit, Task
from prelabel.engine.worker import Status
from prelabel.errors import PrelabelError, RunError
from prelabel.store.run import OptimizationRecord
from prelabel.store.shards import ShardRecord

#: Workers may die so often in a row while they start (import, model) before no more are started.
MAX_START_DEATHS = 3

#: Workers that are left out for their errors are replaced so often: the next one may be on a better machine.
MAX_REPLACED = 3

#: Seconds a process may take to load the detector, which may have to be fetched first.
LOAD_TIMEOUT_S = 1800.0

#: Seconds between two looks at how far the workers are.
POLL_INTERVAL_S = 1.0


class Crew(ABC):
    """Workers and what has happened to them.

    Attributes:
        workers: Those that are not known to be dead.
        takers: Those that may take another task, the one that has waited longest first (a dict is an ordered set).
    """

    def __init__(self, options: LabelOptions) -> None:
        self._options = options
        self._numbers = itertools.count()
        self._events: deque[Event] = deque()
        self._start_deaths = 0.0
        self._missing = 0
        self._left_out = 0
        self._watched_at = time.monotonic()
        self.workers: list[Handle] = []
        self.takers: dict[Handle, None] = {}

    @abstractmethod
    def waiting(self) -> str:
        """What is being waited for, in words; empty when every worker is at work."""

    @abstractmethod
    def submit(self, worker: Handle, task: Task) -> None:
        """Give a free worker a task."""

    @abstractmethod
    def wait(self, timeout_s: float) -> Iterator[Event]:
        """What has happened since the last call, after at most `timeout_s`.

        Raises:
            PrelabelError: No worker can load the detector.
            RunError: Workers die while they start, and none is at work.
        """

    def metrics(self) -> Reporter | None:
        """Who besides the run's reporter should hear of its progress, if anybody."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """End all workers at once."""

    @abstractmethod
    def _start(self) -> None:
        """Start one more worker."""

    @abstractmethod
    def _end(self, worker: Handle) -> None:
        """End a worker's process and forget what is expected of it."""

    def _loading(self) -> str:
        """How many workers that have a process are not ready yet, in words."""
        loading = sum(worker.placed and not worker.ready for worker in self.workers)
        return f"{loading} of {len(self.workers)} workers are loading the detector" if loading else ""

    def _handed(self, worker: Handle, key: Any, task: Task) -> None:
        """A worker has got a task."""
        if not worker.tasks:
            worker.moved_at = worker.began_at = time.monotonic()
        worker.tasks[key] = task
        if not worker.free:
            self.takers.pop(worker, None)

    def _loaded(self, worker: Handle) -> None:
        """A worker has loaded its detector."""
        worker.ready, self._start_deaths = True, 0.0
        self.takers[worker] = None
        self._events.append(Ready(worker))
        # It can be done: those that could not before may have been on another machine.
        missing, self._missing = min(self._missing, MAX_START_DEATHS), 0
        for _ in range(missing):
            self._start()

    def _refused(self, worker: Handle, error: PrelabelError) -> None:
        """A worker cannot load its detector: it is left out, as one is that meets errors at tasks.

        Raises:
            PrelabelError: The error, where no other worker is at work or has yet to say so.
        """
        self._remove(worker)
        self._start_deaths += 1
        self._events.append(Failed(worker, None, error))
        if any(other.ready for other in self.workers):
            if self._start_deaths < MAX_START_DEATHS:
                self._start()
        elif any(other.placed for other in self.workers):
            self._missing += 1
        else:
            raise error

    def _failed(self, worker: Handle, key: Any, error: PrelabelError) -> None:
        """A worker reports an error at a task, and can take another one."""
        worker.moved_at = worker.began_at = time.monotonic()
        self._events.append(Failed(worker, worker.tasks.pop(key), error))
        self._has_less(worker)

    @property
    def _not_replaced(self) -> int:
        """Workers that were left out and have no successor."""
        return max(0, self._left_out - MAX_REPLACED)

    def leave_out(self, worker: Handle) -> None:
        """Give a worker nothing more; end it when it has finished what it has. Another one may take its place."""
        if worker not in self.workers:
            return  # it has died since, and was replaced then
        self._left_out += 1
        worker.retiring = worker.replaced = True
        self.takers.pop(worker, None)
        if not worker.tasks:
            self._remove(worker)
        if not self._not_replaced:
            self._start()

    def _said(self, worker: Handle, status: Status) -> None:
        """A worker says how far it is."""
        if (status.images, status.beats) != (worker.status.images, worker.status.beats):
            worker.moved_at = time.monotonic()
        worker.status = status

    def _finished(self, worker: Handle, key: Any, record: ShardRecord | OptimizationRecord | None) -> None:
        """A worker has finished a task."""
        worker.moved_at = worker.began_at = time.monotonic()
        self._events.append(Done(worker, worker.tasks.pop(key), record))
        worker.images += record.rows if isinstance(record, ShardRecord) else 1
        limit = self._options.max_images_per_worker
        worker.retiring |= limit is not None and worker.images >= limit
        self._has_less(worker)

    def _has_less(self, worker: Handle) -> None:
        """A worker has one task less: it can take another, or is through."""
        if not worker.retiring:
            self.takers[worker] = None
        elif not worker.tasks:
            self._remove(worker)
            if not worker.replaced:
                self._start()

    def _remove(self, worker: Handle) -> None:
        self.workers.remove(worker)
        self.takers.pop(worker, None)
        self._end(worker)

    def _bury(self, worker: Handle, culprit: Culprit, blame: float = 1.0) -> None:
        """Take leave of a dead worker, and start another one unless that seems to be pointless.

        One that was at work left room for another, whatever became of those beyond.

        Args:
            worker: The dead one.
            culprit: How it died.
            blame: How much it says, 0 to 1, about whether workers can start, if it died before it was ready.

        Raises:
            RunError: It is pointless, and no other worker is at work.
        """
        self._remove(worker)
        self._events.append(Died(worker, tuple(worker.tasks.values()), culprit))
        if worker.replaced and self.workers:
            return
        if not worker.ready:
            self._start_deaths += blame
        if worker.ready or self._start_deaths < MAX_START_DEATHS:
            self._start()
        elif not any(other.ready for other in self.workers):
            raise RunError(f"workers die again and again while they start: {culprit.error}")
        # Otherwise those at work go on by themselves: there may be memory for so many only.

    def _watch(self) -> bool:
        """Take workers that have not moved for too long for dead; whether it was time to look."""
        now = time.monotonic()
        since = now - self._watched_at
        # More where there are thousands of them.
        interval = max(POLL_INTERVAL_S, len(self.workers) / 50)
        if since < interval:
            return False
        self._watched_at = now
        stall_s, shard_s = self._options.stall_timeout, self._options.shard_timeout
        for worker in list(self.workers):
            if since > 10 * interval:
                # This process was halted, not the worker.
                worker.moved_at += since
                worker.began_at += since
            still_s = now - worker.moved_at
            if worker.placed and not worker.ready and still_s > LOAD_TIMEOUT_S:
                self._bury(worker, Culprit("WorkerHung", f"the detector was not loaded within {LOAD_TIMEOUT_S:g} s"))
            elif worker.tasks and still_s > stall_s:
                self._bury(worker, _hung("image", stall_s))
            elif worker.tasks and now - worker.began_at > shard_s:
                self._bury(worker, _hung("shard", shard_s))
        return True


def _hung(what: str, seconds: float) -> Culprit:
    return Culprit("WorkerHung", f"no {what} was finished for {seconds:g} s; the worker was ended")
