"""The worker pool on Ray: each worker is an actor, started as soon as the cluster has the resources for it.

Only small values cross process boundaries: tasks, records, statuses. Pixels and masks stay in the actor.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

import ray
from ray import exceptions as ray_errors

from prelabel.detectors.base import Optimization
from prelabel.engine import cluster
from prelabel.engine.cluster import MetricsReporter
from prelabel.engine.measurement import Measurement
from prelabel.engine.schedule import FailureCause, LabelTask, MeasureTask, ProbeTask, Task, TrialTask
from prelabel.engine.worker import Worker, WorkerSpec, WorkerStatus
from prelabel.engine.worker_pool import (
    MAX_START_DEATHS,
    MOST_IN_FLIGHT,
    Event,
    WorkerHandle,
    WorkerPool,
    require_cpus_for_streams,
)
from prelabel.errors import PrelabelError, RunError
from prelabel.storage.address import describe, one_line
from prelabel.store.shards import ShardRecord

#: Seconds between two checks whether the cluster has grown.
GROWTH_INTERVAL_S = 15.0

#: Cause of death of a worker that was lost together with its machine.
NODE_DIED = "the worker's node died"

#: The last line of a traceback.
_RAISED = re.compile(r"^(\w+(?:Error|Exception): .+)$", re.MULTILINE)

F = TypeVar("F", bound=Callable[..., Any])


def _in_group(name: str) -> Callable[[F], F]:
    """A typed `ray.method`: the method runs on a thread of the concurrency group `name`."""
    return cast("Callable[[F], F]", ray.method(concurrency_group=name))


class PrelabelWorker:
    """The actor: a `Worker` whose methods run in two of Ray's concurrency groups.

    Ray shows this class's name in `ray list actors`, and as `ray::PrelabelWorker` in process lists.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = Worker(spec)
        self._run = spec.run_id[:8]

    def __repr__(self) -> str:
        return f"PrelabelWorker(run={self._run}, host={socket.gethostname()}, pid={os.getpid()})"

    @_in_group("status")
    def place(self) -> tuple[str, str, int]:
        """Return node id, host name and process id; answered as soon as the process runs."""
        return ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()

    @_in_group("status")
    def status(self) -> WorkerStatus:
        """Return the worker's status; answered while the other methods run."""
        return self._worker.status()

    @_in_group("work")
    def load(self) -> None:
        self._worker.load()

    @_in_group("work")
    def label(self, task: LabelTask) -> ShardRecord:
        return self._worker.label(task)

    @_in_group("work")
    def trial(self, task: TrialTask) -> Optimization:
        return self._worker.trial(task)

    @_in_group("work")
    def probe(self, task: ProbeTask) -> None:
        self._worker.probe(task)

    @_in_group("work")
    def measure(self, task: MeasureTask) -> Measurement:
        return self._worker.measure(task)


class RayPool(WorkerPool):
    """Workers on Ray: `--workers`, or as many as fit the cluster, and more when it grows.

    Args:
        spec: Settings of every worker.
        max_workers: Upper limit, since more workers would have nothing to do.
        is_local: Whether Ray was started on this machine for this run, so that no node will ever join.

    Raises:
        ConfigError: A worker needs more resources than this machine has, or its streams more CPUs than it is given.
    """

    def __init__(self, spec: WorkerSpec, max_workers: int, *, is_local: bool) -> None:
        super().__init__(spec.options)
        self._cpus = spec.options.cpus_per_worker
        self.gpus_per_worker = cluster.gpus_per_worker(spec.options)
        require_cpus_for_streams(spec.options, self.gpus_per_worker)
        if is_local:
            cluster.require_possible(self._cpus, self.gpus_per_worker)
        self._spec = replace(spec, gpus=self.gpus_per_worker)
        self._max_workers = max_workers
        self._pending: dict[Any, tuple[WorkerHandle, str]] = {}
        self._grown_at = time.monotonic()
        for _ in range(min(max_workers, self._options.workers or cluster.capacity(self._cpus, self.gpus_per_worker))):
            self._start()

    def waiting(self) -> str:
        """See `WorkerPool`; workers that wait for resources come first."""
        placed = sum(worker.placed for worker in self.workers)
        if placed < len(self.workers):
            need = f"{self._cpus:g} CPU" + (f" + {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else "")
            have = ray.cluster_resources()
            return (
                f"{len(self.workers) - placed} of {len(self.workers)} workers are waiting for resources "
                f"({need} each; the cluster has {have.get('CPU', 0):g} CPU, {have.get('GPU', 0):g} GPU)"
            )
        return super().waiting()

    def places(self) -> list[int]:
        return cluster.places(self._cpus, self.gpus_per_worker)

    def submit(self, worker: WorkerHandle, task: Task) -> None:
        actor = worker.actor
        methods: dict[type[Task], Any] = {
            LabelTask: actor.label,
            ProbeTask: actor.probe,
            TrialTask: actor.trial,
            MeasureTask: actor.measure,
        }
        ref = methods[type(task)].remote(task)
        self._task_given(worker, ref, task)
        self._pending[ref] = (worker, "task")

    def wait(self, timeout_s: float) -> Iterator[Event]:
        if self._pending:
            # Ray copies the list: with thousands of workers, the driver only keeps up by taking many results at a time.
            refs = list(self._pending)
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
            if not done:
                done, _ = ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
            # Finished tasks first: they count even if the same worker's death is among the results.
            for ref in sorted(done, key=lambda ref: self._pending[ref][1] != "task"):
                self._receive(ref)
        else:
            time.sleep(timeout_s)
        if self._find_stalled():
            self._request_statuses()
        self._grow()
        while self._events:
            yield self._events.popleft()

    def metrics(self) -> MetricsReporter:
        """Ray's metrics, which its nodes export to Prometheus."""
        return MetricsReporter(self._spec.run_id, self._spec.detector.name, self._spec.options.streams)

    def stop(self) -> None:
        for worker in self.workers:
            ray.kill(worker.actor, no_restart=True)
        self.workers.clear()
        self._pending.clear()

    def _start(self) -> None:
        actor_class: Any = ray.remote(concurrency_groups={"work": MOST_IN_FLIGHT, "status": 1})(PrelabelWorker)
        actor = actor_class.options(
            num_cpus=self._cpus, num_gpus=self.gpus_per_worker, max_restarts=0, max_task_retries=0
        ).remote(self._spec)
        worker = WorkerHandle(next(self._numbers), actor)
        self._add(worker)
        self._pending[actor.place.remote()] = (worker, "place")
        self._pending[actor.load.remote()] = (worker, "load")

    def _receive(self, ref: Any) -> None:
        entry = self._pending.pop(ref, None)
        if entry is None:
            return  # from a worker that is already known to be dead
        worker, kind = entry
        try:
            value = ray.get(ref)
        except ray_errors.RayTaskError as error:
            failure = _worker_error(error, worker.tasks.get(ref))
            if kind == "load":
                self._load_failed(worker, failure)
            elif kind == "task":
                self._task_failed(worker, ref, failure)
            else:
                raise failure from None
            return
        except ray_errors.RayError as error:
            # The result is lost, mostly because the process or the node died.
            if not worker.placed:
                worker.host, worker.pid = _place_of(error)
            self._replace_dead(
                worker, FailureCause("WorkerDied", death(error)), blame(worker, error, len(self.workers))
            )
            return
        if kind == "place":
            self._placed(worker, *value)
        elif kind == "load":
            self._detector_loaded(worker)
        elif kind == "status":
            worker.status_requested = False
            self._status_received(worker, value)
        else:
            self._task_finished(worker, ref, value)

    def _end(self, worker: WorkerHandle) -> None:
        for ref in [ref for ref, (other, _) in self._pending.items() if other is worker]:
            del self._pending[ref]
        ray.kill(worker.actor, no_restart=True)

    def _advice(self, worker: WorkerHandle, cause: str) -> str:
        files = f"{cluster.log_folder()}/worker-*{worker.pid or ''}.err"
        host = f" on {worker.host}" if worker.host else ""
        return (
            f"Its output is in {files}{host}. Every machine of the cluster needs the same prelabel and TensorFlow, "
            "and memory for the detector; --runner local runs without Ray"
        )

    def _request_statuses(self) -> None:
        """Ask busy workers for their status."""
        for worker in self.workers:
            if worker.tasks and not worker.status_requested:
                worker.status_requested = True
                self._pending[worker.actor.status.remote()] = (worker, "status")

    def _grow(self) -> None:
        """Start more workers on a cluster that has grown, unless `--workers` is given."""
        now = time.monotonic()
        if self._options.workers or now - self._grown_at < GROWTH_INTERVAL_S:
            return
        self._grown_at = now
        if self._start_deaths < MAX_START_DEATHS:
            target = min(self._max_workers, cluster.capacity(self._cpus, self.gpus_per_worker)) - self._not_replaced
            while len(self.workers) < target:
                self._start()


def _worker_error(error: ray_errors.RayTaskError, task: Task | None) -> PrelabelError:
    """Convert an exception that was raised inside a worker."""
    cause = error.cause
    if isinstance(cause, PrelabelError):
        return cause
    where = f" at shard {task.shard}" if task else ""
    return RunError(f"a worker failed{where}: {describe(cause)}")


def death(error: ray_errors.RayError) -> str:
    """Return why a worker died, in one line; Ray only gives a paragraph of text."""
    if isinstance(error, ray_errors.RayActorError) and error.actor_init_failed:
        # The last line of a traceback: most likely something is not installed on that machine.
        return f"a worker failed to start: {one_line(str(error).strip().splitlines()[-1])}"
    if isinstance(error, ray_errors.ActorUnavailableError):
        # Ray has lost the connection, and does not know yet whether the process is alive.
        return "the worker process or its node died, or cannot be reached"
    if not isinstance(error, ray_errors.RayActorError):
        return f"the worker was lost: {describe(error)}"
    text = " ".join(str(error).split())
    if "NODE_OUT_OF_MEMORY" in text or "memory on the node" in text:
        return "the worker was killed because its node ran out of memory"
    if "NODE_DIED" in text or "node has died" in text or "node died" in text:
        return NODE_DIED
    # Ray's text ends with the worker's traceback if a module could not be imported there.
    raised = _RAISED.findall(str(error))
    return f"the worker process died: {one_line(raised[-1])}" if raised else "the worker process died"


def _place_of(error: ray_errors.RayError) -> tuple[str, int]:
    """The address and process id of a dead worker in Ray's text; `""` and 0 if it names none."""
    values = dict(re.findall(r"^\t(ip|pid): (\S+)$", str(error), re.MULTILINE))
    return values.get("ip", ""), int(values.get("pid", 0))


def blame(worker: WorkerHandle, error: ray_errors.RayError, workers: int) -> float:
    """Return how strongly a worker's death suggests that workers cannot start, 0 to 1.

    A lost node takes many of the `workers` with it, and Ray needs some seconds to notice that it is dead.
    """
    if not worker.placed and death(error) == NODE_DIED:
        return 0.0  # Ray chose a node that it did not know to be dead: the worker never started
    unreachable = isinstance(error, ray_errors.ActorUnavailableError)
    lost = not worker.ready and (unreachable or (worker.node and worker.node not in cluster.alive_nodes()))
    return 1 / workers if lost else 1.0
