"""Workers as Ray actors: started as resources appear, watched, replaced when they die. The one module that knows Ray.

Only small values cross process borders here: tasks, records, progress. Pixels and masks stay in the actor.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast

import ray
from ray import exceptions as ray_errors

from prelabel.config import LabelOptions
from prelabel.engine.schedule import Culprit, LabelTask, ProbeTask, Task
from prelabel.engine.worker import Spec, Status, Worker
from prelabel.errors import ConfigError, PrelabelError, RunError
from prelabel.store.shards import ShardRecord

#: Tasks a worker holds at once: one runs while the images of the next are read ahead.
IN_FLIGHT = 2

#: Workers may die so often in a row while they start (import, model) before the run is given up.
MAX_START_DEATHS = 3

#: Seconds between two looks at whether the cluster has grown.
GROWTH_INTERVAL_S = 15.0


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its detector."""

    worker: Handle


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has finished a task; a labelled shard comes with its record."""

    task: Task
    record: ShardRecord | None


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone, and with it the tasks it had."""

    tasks: tuple[Task, ...]
    culprit: Culprit


Event = Ready | Done | Died


@dataclass(slots=True, eq=False)
class Handle:
    """One actor and what the driver knows of it."""

    number: int
    actor: Any
    placed: bool = False
    ready: bool = False
    retiring: bool = False
    images: int = 0
    tasks: dict[Any, Task] = field(default_factory=dict)
    status: Status = field(default_factory=lambda: Status(0, {}))
    asked: bool = False
    moved_at: float = field(default_factory=time.monotonic)
    node: str = ""
    pid: int = 0

    @property
    def free(self) -> bool:
        """Whether it can take another task beside those it has."""
        alone = any(task.alone for task in self.tasks.values())
        return self.ready and not self.retiring and not alone and len(self.tasks) < IN_FLIGHT


F = TypeVar("F", bound=Callable[..., Any])


def _in_group(name: str) -> Callable[[F], F]:
    """`ray.method`, typed: the method runs on one of this group's threads."""
    return cast("Callable[[F], F]", ray.method(concurrency_group=name))


class _Actor:
    """What Ray runs: the worker, behind methods that Ray can place in two groups of threads."""

    def __init__(self, spec: Spec) -> None:
        self._worker = Worker(spec)

    @_in_group("status")
    def place(self) -> tuple[str, int]:
        """Node and process, as soon as the process runs."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    @_in_group("status")
    def status(self) -> Status:
        """Answers while the other methods work."""
        return self._worker.status()

    @_in_group("work")
    def load(self) -> None:
        """Load the detector."""
        self._worker.load()

    @_in_group("work")
    def label(self, task: LabelTask) -> ShardRecord:
        """Label and publish one shard."""
        return self._worker.label(task)

    @_in_group("work")
    def probe(self, task: ProbeTask) -> None:
        """Take one image through everything but writing."""
        self._worker.probe(task)


def connect(options: LabelOptions) -> Literal["found", "joined", "started"]:
    """Join the cluster this process is in, the one named, or start one on this machine.

    Returns:
        Whether this process was in a cluster already, has joined one, or has started Ray on this machine; in the last
        two cases `disconnect` leaves it.

    Raises:
        ConfigError: No cluster answers at the address.
    """
    if ray.is_initialized():
        return "found"
    # Workers tell what they do through the run, not through the driver's terminal.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if options.address != "local":
        try:
            ray.init(address=options.address, **quiet)
            return "joined"
        except (ConnectionError, RuntimeError, ValueError) as error:
            if options.address != "auto" or os.environ.get("RAY_ADDRESS"):
                where = os.environ.get("RAY_ADDRESS") if options.address == "auto" else options.address
                line = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise ConfigError(f"no Ray cluster answers at {where!r}: {line[:200]}") from None
    ray.init(address="local", include_dashboard=False, **quiet)
    return "started"


def disconnect() -> None:
    """Leave Ray, and stop it where `connect` started it."""
    ray.shutdown()


class Fleet:
    """Starts, feeds and watches workers.

    Args:
        spec: What every worker gets.
        most: More workers than this have nothing to do.
        alone: Whether Ray was started for this run on this machine, so that no node will ever join.
    """

    def __init__(self, spec: Spec, most: int, *, alone: bool) -> None:
        self._options = spec.options
        self._alone = alone
        self._gpus = self._gpus_per_worker()
        self._spec = replace(spec, gpus=self._gpus)
        self._most = most
        self._numbers = itertools.count()
        self._waiting_for: dict[Any, tuple[Handle, str]] = {}
        self._events: deque[Event] = deque()
        self._start_deaths = 0
        self._grown_at = time.monotonic()
        self._polled_at = 0.0
        self.workers: list[Handle] = []
        self._target = min(most, self._options.workers or self._capacity())
        self._require_possible()
        for _ in range(self._target):
            self._start()

    @property
    def target(self) -> int:
        """Workers wanted now."""
        return self._target

    def waiting(self) -> str:
        """What is being waited for, in words; empty when every worker is at work."""
        placed = sum(worker.placed for worker in self.workers)
        ready = sum(worker.ready for worker in self.workers)
        if placed < len(self.workers):
            need = f"{self._options.cpus_per_worker:g} CPU" + (f" + {self._gpus:g} GPU" if self._gpus else "")
            have = ray.cluster_resources()
            return (
                f"{len(self.workers) - placed} of {len(self.workers)} workers wait for resources "
                f"({need} each; the cluster has {have.get('CPU', 0):g} CPU, {have.get('GPU', 0):g} GPU)"
            )
        return f"{placed - ready} of {len(self.workers)} workers are loading the detector" if ready < placed else ""

    def submit(self, worker: Handle, task: Task) -> None:
        """Give a free worker a task."""
        method = worker.actor.label if isinstance(task, LabelTask) else worker.actor.probe
        if not worker.tasks:
            worker.moved_at = time.monotonic()
        ref = method.remote(task)
        worker.tasks[ref] = task
        self._waiting_for[ref] = (worker, "task")

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """What has happened since the last call, after at most `timeout_s`.

        Raises:
            PrelabelError: A worker refuses to work at all: the model cannot be used, a shard cannot be written.
            RunError: Workers die while they start.
        """
        if self._waiting_for:
            # Ray copies the list; with thousands of workers, taking many at a time keeps the driver ahead.
            refs = list(self._waiting_for)
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
            if not done:
                done, _ = ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
            for ref in done:
                self._receive(ref)
        else:
            time.sleep(timeout_s)
        self._poll()
        self._grow()
        while self._events:
            yield self._events.popleft()

    def _retire(self, worker: Handle) -> None:
        """Replace a worker when it has finished what it has."""
        worker.retiring = True
        if not worker.tasks:
            self._remove(worker)
            self._start()

    def stop(self) -> None:
        """End all workers at once."""
        for worker in self.workers:
            ray.kill(worker.actor, no_restart=True)
        self.workers.clear()
        self._waiting_for.clear()

    def _start(self) -> None:
        actor_class: Any = ray.remote(concurrency_groups={"work": IN_FLIGHT, "status": 1})(_Actor)
        actor = actor_class.options(
            num_cpus=self._options.cpus_per_worker,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
        ).remote(self._spec)
        worker = Handle(next(self._numbers), actor)
        self.workers.append(worker)
        self._waiting_for[actor.place.remote()] = (worker, "place")
        self._waiting_for[actor.load.remote()] = (worker, "load")

    def _receive(self, ref: Any) -> None:
        entry = self._waiting_for.pop(ref, None)
        if entry is None:
            return  # of a worker that is already known to be dead
        worker, kind = entry
        try:
            value = ray.get(ref)
        except ray_errors.RayActorError as error:
            self._bury(worker, Culprit("WorkerDied", death(error)))
            return
        except ray_errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, PrelabelError):
                raise cause from None
            raise RunError(f"a worker failed: {type(cause).__name__}: {str(cause).strip()[:500]}") from error
        if kind == "place":
            worker.placed, (worker.node, worker.pid) = True, value
        elif kind == "load":
            worker.ready, self._start_deaths = True, 0
            self._events.append(Ready(worker))
        elif kind == "status":
            worker.asked = False
            if value.images != worker.status.images:
                worker.moved_at = time.monotonic()
            worker.status = value
        else:
            worker.moved_at = time.monotonic()
            self._events.append(Done(worker.tasks.pop(ref), value))
            worker.images += value.rows if isinstance(value, ShardRecord) else 1
            limit = self._options.max_images_per_worker
            if worker.retiring or (limit is not None and worker.images >= limit):
                self._retire(worker)

    def _bury(self, worker: Handle, culprit: Culprit) -> None:
        tasks = tuple(worker.tasks.values())
        if not worker.ready:
            self._start_deaths += 1
            if self._start_deaths >= MAX_START_DEATHS:
                raise RunError(f"{self._start_deaths} workers in a row died while starting: {culprit.error}")
        self._remove(worker)
        self._events.append(Died(tasks, culprit))
        self._start()

    def _remove(self, worker: Handle) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
        for ref in [ref for ref, (other, _) in self._waiting_for.items() if other is worker]:
            del self._waiting_for[ref]
        ray.kill(worker.actor, no_restart=True)

    def _poll(self) -> None:
        """Ask busy workers how far they are; take one that has not moved for too long for dead."""
        now = time.monotonic()
        if now - self._polled_at < max(1.0, len(self.workers) / 50):
            return
        self._polled_at = now
        for worker in list(self.workers):
            if not worker.tasks:
                continue
            if now - worker.moved_at > self._options.stall_timeout:
                seconds = f"{self._options.stall_timeout:g} s"
                self._bury(worker, Culprit("WorkerHung", f"no image was finished for {seconds}; the worker was ended"))
            elif not worker.asked:
                worker.asked = True
                self._waiting_for[worker.actor.status.remote()] = (worker, "status")

    def _grow(self) -> None:
        """Use what an autoscaling cluster has gained, where the number of workers was left to us."""
        now = time.monotonic()
        if self._options.workers or now - self._grown_at < GROWTH_INTERVAL_S:
            return
        self._grown_at = now
        self._target = max(self._target, min(self._most, self._capacity()))
        while len(self.workers) < self._target:
            self._start()

    def _capacity(self) -> int:
        """Workers that fit the cluster as it is now, counted node by node."""
        fit = 0
        for node in ray.nodes():
            if node["Alive"]:
                have = node["Resources"]
                cpus = have.get("CPU", 0.0) / self._options.cpus_per_worker
                fit += int(min(cpus, _gpu_slots(have.get("GPU", 0.0), self._gpus)))
        return max(1, fit)

    def _gpus_per_worker(self) -> float:
        stated = self._options.gpus_per_worker
        if stated is not None:
            return stated
        return 1.0 if any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"]) else 0.0

    def _require_possible(self) -> None:
        """On a machine of one's own nothing will be added: what does not fit now is a mistake."""
        if not self._alone:
            return
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        if self._options.cpus_per_worker > cpus or self._gpus > gpus:
            raise ConfigError(
                f"a worker needs {self._options.cpus_per_worker:g} CPU and {self._gpus:g} GPU, "
                f"but this machine offers Ray {cpus:g} CPU and {gpus:g} GPU"
            )


def _gpu_slots(gpus: float, each: float) -> float:
    if each == 0:
        return math.inf
    # A fraction never spans two GPUs.
    return gpus * int(1 / each + 1e-9) if each < 1 else gpus // each


def death(error: ray_errors.RayActorError) -> str:
    """Why an actor died, in one line for a person; Ray says it in prose only."""
    text = " ".join(str(error).split())
    if isinstance(error, ray_errors.ActorUnavailableError):
        return "the worker could not be reached"
    if "NODE_OUT_OF_MEMORY" in text:
        return "the worker was ended because its node ran out of memory"
    if "NODE_DIED" in text or "node has died" in text or "node died" in text:
        return "the worker's node died"
    return "the worker's process died"
