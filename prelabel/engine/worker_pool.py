"""The pool of workers, independent of where they run: start them, give them tasks, replace those that die or hang.

`ray_pool.py` runs workers as Ray actors, `process_pool.py` as processes on this machine. This module defines what the
driver knows about a worker, the events it receives, and the pool. It does not import Ray.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prelabel.config import LabelOptions
from prelabel.detectors.base import Optimization
from prelabel.engine.measurement import Measurement
from prelabel.engine.progress import Reporter
from prelabel.engine.schedule import FailureCause, LabelTask, Task
from prelabel.engine.worker import WorkerStatus
from prelabel.errors import ConfigError, PrelabelError, RunError
from prelabel.store.shards import ShardRecord

#: Tasks a worker has at the same time: it runs one while it reads the images of the next ahead. It has up to
#: `MOST_IN_FLIGHT` if they have few images in all: while storage publishes small shards, it labels others.
IN_FLIGHT, MOST_IN_FLIGHT = 2, 6
_FEW_IMAGES = 64

#: No more workers are started after this many deaths in a row during start-up (import, model).
MAX_START_DEATHS = 3

#: Up to this many excluded workers are replaced: the replacement may run on a better machine.
MAX_REPLACED = 3

#: Seconds a process may take to load the detector, including the download.
LOAD_TIMEOUT_S = 1800.0

#: Seconds between two checks of the workers' progress.
POLL_INTERVAL_S = 1.0


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """One worker, as the driver knows it.

    Attributes:
        number: Number of the worker, unique in a call.
        actor: Ray's actor handle, or the `WorkerProcess`.
        placed: Whether its process runs; if so, `node`, `host` and `pid` say where.
        ready: Whether it has loaded the detector.
        retiring: Whether it gets no more tasks and is ended after its current ones.
        replaced: Whether its replacement was started already, or it must not be replaced.
        images: Images of its finished tasks.
        tasks: Its unfinished tasks, by the key under which the result arrives.
        status: Its last reported status.
        status_requested: Whether a request for its status is under way.
        progress_at: Time of the last progress (monotonic): an image or task finished, a first task received, a
            tolerated wait for storage, or the start of the process.
        began_at: Time at which it last finished a task, or received one while it had none (monotonic).
    """

    number: int
    actor: Any
    placed: bool = False
    ready: bool = False
    retiring: bool = False
    replaced: bool = False
    images: int = 0
    tasks: dict[Any, Task] = field(default_factory=dict)
    status: WorkerStatus = field(default_factory=lambda: WorkerStatus(0, {}))
    status_requested: bool = False
    progress_at: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.monotonic)
    node: str = ""
    host: str = ""
    pid: int = 0

    @property
    def name(self) -> str:
        """Name in logs, `host:pid`; `""` before its process runs."""
        return f"{self.host}:{self.pid}" if self.placed else ""

    @property
    def room(self) -> float:
        """Most images of another task that it can accept now: infinite if it needs one, 0 if it accepts none."""
        tasks = self.tasks.values()
        if not self.ready or self.retiring or any(task.alone for task in tasks):
            return 0
        if len(tasks) < IN_FLIGHT:
            return math.inf
        images = sum(task.images for task in tasks if isinstance(task, LabelTask))
        return max(0, _FEW_IMAGES - images) if len(tasks) < MOST_IN_FLIGHT else 0

    @property
    def free(self) -> bool:
        """Whether it can accept another task now, if that is small enough."""
        return self.room > 0

    @property
    def images_left(self) -> int:
        """Images of its tasks that it had not finished when it last reported its status, or fewer: rows may be kept."""
        tasks = [task for task in self.tasks.values() if isinstance(task, LabelTask)]
        done = self.status.shards
        return sum(task.images - done.get(task.shard, (0, 0))[0] for task in tasks)


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its detector."""

    worker: WorkerHandle


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has finished a task. `record` is a labeled shard's record, or what was measured."""

    worker: WorkerHandle
    task: Task
    record: ShardRecord | Optimization | Measurement | None


@dataclass(frozen=True, slots=True)
class Died:
    """A worker died, hung or was lost, together with its tasks."""

    worker: WorkerHandle
    tasks: tuple[Task, ...]
    cause: FailureCause


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker reported an error at a task. If `task` is None it could not load its detector, and was removed."""

    worker: WorkerHandle
    task: Task | None
    error: PrelabelError


Event = Ready | Done | Died | Failed


class WorkerPool(ABC):
    """The workers of a run, and the events that concern them.

    Attributes:
        workers: All workers that are not known to be dead.
        usable: Numbers of those that accept tasks, now or once they have loaded their detector.
        available: Workers that can accept another task, by the number of tasks they have, longest waiting first (dicts
            as ordered sets).
        gpus_per_worker: GPUs of each worker, possibly a fraction.
    """

    gpus_per_worker = 0.0

    def __init__(self, options: LabelOptions) -> None:
        self._options = options
        self._numbers = itertools.count()
        self._events: deque[Event] = deque()
        self._start_deaths = 0.0
        self._missing = 0
        self._excluded = 0
        self._watched_at = time.monotonic()
        self.workers: list[WorkerHandle] = []
        self.usable: set[int] = set()
        self.available: list[dict[WorkerHandle, None]] = [{} for _ in range(MOST_IN_FLIGHT)]
        # Numbers of the workers with `images_ahead`: without any, thousands of workers need not be looked through.
        self._late: set[int] = set()

    def waiting(self) -> str:
        """What the run is waiting for, as text; `""` if every worker with a process has loaded its detector."""
        loading = sum(worker.placed and not worker.ready for worker in self.workers)
        return f"{loading} of {len(self.workers)} workers are loading the detector" if loading else ""

    def running_out(self, tasks: int) -> list[WorkerHandle]:
        """Return the workers that have so many tasks or more, accept another one, and may wait for storage without it.

        Those with the fewest images left come first. On Ray, where statuses are a second old or older, a worker of
        which more images seem to be left than there are is not among them.
        """
        if not self._late:
            return []
        available = (worker for workers in self.available[tasks:] for worker in workers)
        late = [worker for worker in available if 0 < worker.status.images_ahead >= worker.images_left]
        return sorted(late, key=lambda worker: worker.images_left)

    def places(self) -> list[int]:
        """How many workers fit each machine now, most first."""
        return [len(self.workers)]

    @abstractmethod
    def submit(self, worker: WorkerHandle, task: Task) -> None:
        """Give a task to a free worker."""

    @abstractmethod
    def wait(self, timeout_s: float) -> Iterator[Event]:
        """Yield the events since the last call; wait up to `timeout_s` for the first one.

        Raises:
            PrelabelError: No worker can load the detector.
            RunError: Workers keep dying during start-up, and no worker is ready.
        """

    def metrics(self) -> Reporter | None:
        """A second reporter for the run's events, if this pool has one."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """Kill all workers."""

    @abstractmethod
    def _start(self) -> None:
        """Start one more worker."""

    @abstractmethod
    def _end(self, worker: WorkerHandle) -> None:
        """Kill a worker's process and discard its pending results."""

    @abstractmethod
    def _advice(self, worker: WorkerHandle, cause: str) -> str:
        """Where to read what a worker printed that died of `cause` during start-up, and what to do, as a sentence."""

    def _add(self, worker: WorkerHandle) -> None:
        """Record that a worker was started."""
        self.workers.append(worker)
        self._sort_in(worker)

    def _placed(self, worker: WorkerHandle, node: str, host: str, pid: int) -> None:
        """Record that the process of a worker runs, and where."""
        worker.placed, worker.node, worker.host, worker.pid = True, node, host, pid
        worker.progress_at = time.monotonic()
        self._sort_in(worker)

    def _sort_in(self, worker: WorkerHandle) -> None:
        """Sort a worker in among the usable and the available ones, as it is now."""
        self._sort_out(worker)
        if worker.placed and not worker.retiring:
            self.usable.add(worker.number)
        if worker.free:
            self.available[len(worker.tasks)][worker] = None

    def _sort_out(self, worker: WorkerHandle) -> None:
        """Take a worker out of the usable and the available ones."""
        self.usable.discard(worker.number)
        for workers in self.available:
            workers.pop(worker, None)

    def _retire(self, worker: WorkerHandle) -> None:
        """Give a worker no more tasks."""
        worker.retiring = True
        self._sort_in(worker)

    def _task_given(self, worker: WorkerHandle, key: Any, task: Task) -> None:
        """Record that a worker received a task."""
        if not worker.tasks:
            worker.progress_at = worker.began_at = time.monotonic()
        worker.tasks[key] = task
        self._sort_in(worker)

    def _detector_loaded(self, worker: WorkerHandle) -> None:
        """Record that a worker has loaded its detector."""
        worker.ready, self._start_deaths = True, 0.0
        self._sort_in(worker)
        self._events.append(Ready(worker))
        # Loading is possible after all: the workers that failed to load may have run on another machine.
        missing, self._missing = min(self._missing, MAX_START_DEATHS), 0
        for _ in range(missing):
            self._start()

    def _load_failed(self, worker: WorkerHandle, error: PrelabelError) -> None:
        """Exclude a worker that cannot load its detector.

        Raises:
            PrelabelError: The error, if no other worker is ready or still loading.
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

    def _task_failed(self, worker: WorkerHandle, key: Any, error: PrelabelError) -> None:
        """Record that a worker reported an error at a task; it stays available."""
        worker.progress_at = worker.began_at = time.monotonic()
        self._events.append(Failed(worker, worker.tasks.pop(key), error))
        self._task_ended(worker)

    @property
    def _not_replaced(self) -> int:
        """Number of excluded workers without a replacement."""
        return max(0, self._excluded - MAX_REPLACED)

    def exclude(self, worker: WorkerHandle) -> None:
        """Give a worker no more tasks, end it after its current ones, and start a replacement within `MAX_REPLACED`."""
        if worker not in self.workers:
            return  # it has died meanwhile, and was replaced then
        self._excluded += 1
        worker.replaced = True
        self._retire(worker)
        if not worker.tasks:
            self._remove(worker)
        if not self._not_replaced:
            self._start()

    def _status_received(self, worker: WorkerHandle, status: WorkerStatus) -> None:
        """Record a worker's status."""
        if (status.images, status.beats) != (worker.status.images, worker.status.beats):
            worker.progress_at = time.monotonic()
        worker.status = status
        (self._late.add if status.images_ahead else self._late.discard)(worker.number)

    def _task_finished(
        self, worker: WorkerHandle, key: Any, record: ShardRecord | Optimization | Measurement | None
    ) -> None:
        """Record that a worker finished a task."""
        worker.progress_at = worker.began_at = time.monotonic()
        self._events.append(Done(worker, worker.tasks.pop(key), record))
        worker.images += record.rows if isinstance(record, ShardRecord) else 1
        limit = self._options.max_images_per_worker
        if limit is not None and worker.images >= limit:
            self._retire(worker)
        self._task_ended(worker)

    def _task_ended(self, worker: WorkerHandle) -> None:
        """Make a worker available again after a task, or end it if it is retiring and has no task left."""
        if not worker.retiring:
            self._sort_in(worker)
        elif not worker.tasks:
            self._remove(worker)
            if not worker.replaced:
                self._start()

    def _remove(self, worker: WorkerHandle) -> None:
        self.workers.remove(worker)
        self._late.discard(worker.number)
        self._sort_out(worker)
        self._end(worker)

    def _replace_dead(self, worker: WorkerHandle, cause: FailureCause, blame: float = 1.0) -> None:
        """Remove a dead worker and start a replacement, unless start-up keeps failing.

        A worker that was ready is always replaced: the resources it used are free again.

        Args:
            worker: The dead worker.
            cause: How it died.
            blame: If it died before it was ready: how strongly its death suggests that workers cannot start, 0 to 1.

        Raises:
            RunError: Start-up keeps failing, and no other worker is ready.
        """
        self._remove(worker)
        self._events.append(Died(worker, tuple(worker.tasks.values()), cause))
        if worker.replaced and self.workers:
            return
        if not worker.ready:
            self._start_deaths += blame
        if worker.ready or self._start_deaths < MAX_START_DEATHS:
            self._start()
        elif not any(other.ready for other in self.workers):
            advice = self._advice(worker, cause.error)
            raise RunError(f"workers keep dying during start-up; the last: {cause.error}. {advice}")
        # Otherwise the ready workers do the rest: there may be no memory for more.

    def _find_stalled(self) -> bool:
        """Replace workers that made no progress for too long. Returns whether the check was due."""
        now = time.monotonic()
        elapsed_s = now - self._watched_at
        # Less often with thousands of workers.
        interval = max(POLL_INTERVAL_S, len(self.workers) / 50)
        if elapsed_s < interval:
            return False
        self._watched_at = now
        stall_s, shard_s = self._options.stall_timeout, self._options.shard_timeout
        for worker in list(self.workers):
            if elapsed_s > 10 * interval:
                # This process was suspended, not the worker.
                worker.progress_at += elapsed_s
                worker.began_at += elapsed_s
            idle_s = now - worker.progress_at
            if worker.placed and not worker.ready and idle_s > LOAD_TIMEOUT_S:
                self._replace_dead(
                    worker, FailureCause("WorkerHung", f"it did not load the detector within {LOAD_TIMEOUT_S:g} s")
                )
            elif worker.tasks and idle_s > stall_s:
                self._replace_dead(worker, _hung("image", stall_s))
            elif worker.tasks and now - worker.began_at > shard_s:
                self._replace_dead(worker, _hung("shard", shard_s))
        return True


def require_cpus_for_streams(options: LabelOptions, gpus: float) -> None:
    """Check that each stream of a worker without a GPU has a CPU: several on one are no faster, and starve others.

    Args:
        options: Options of the run.
        gpus: GPUs of each worker, possibly a fraction.

    Raises:
        ConfigError: It has fewer.
    """
    streams, each = options.streams, options.cpus_per_worker
    if streams > 1 and streams > each and not gpus:
        raise ConfigError(
            f"--streams {streams} needs as many CPUs in a worker without a GPU, but --cpus-per-worker is {each:g}: use "
            f"--cpus-per-worker {streams}, or " + (f"--streams {int(each)}" if each >= 2 else "remove --streams")
        )


def _hung(unit: str, seconds: float) -> FailureCause:
    return FailureCause("WorkerHung", f"no {unit} was finished within {seconds:g} s; the worker was killed")
