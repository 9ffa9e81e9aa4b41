"""Workers as Ray actors: started as resources appear, fed, watched, replaced when they die.

Only small values cross process borders here: tasks, records, progress. Pixels and masks stay in the actor.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

import ray
from ray import exceptions as ray_errors

from prelabel.engine import cluster
from prelabel.engine.crew import MAX_START_DEATHS, Crew
from prelabel.engine.events import IN_FLIGHT, Event, Handle
from prelabel.engine.metrics import MetricsReporter
from prelabel.engine.schedule import Culprit, LabelTask, ProbeTask, Task, TrialTask
from prelabel.engine.worker import Spec, Status, Worker
from prelabel.errors import PrelabelError, RunError
from prelabel.storage import describe
from prelabel.store.run import OptimizationRecord
from prelabel.store.shards import ShardRecord

#: Seconds between two looks at whether the cluster has grown.
GROWTH_INTERVAL_S = 15.0

#: What is said of a worker that was lost with its machine.
NODE_DIED = "the worker's node died"

F = TypeVar("F", bound=Callable[..., Any])


def _in_group(name: str) -> Callable[[F], F]:
    """`ray.method`, typed: the method runs on one of this group's threads."""
    return cast("Callable[[F], F]", ray.method(concurrency_group=name))


class PrelabelWorker:
    """What Ray runs: the worker, behind methods that Ray can place in two groups of threads.

    Ray shows it by the name of this class, in `ray list actors` and as `ray::PrelabelWorker` among processes.
    """

    def __init__(self, spec: Spec) -> None:
        self._worker = Worker(spec)
        self._run = spec.run_id[:8]

    def __repr__(self) -> str:
        return f"PrelabelWorker(run={self._run}, host={socket.gethostname()}, pid={os.getpid()})"

    @_in_group("status")
    def place(self) -> tuple[str, str, int]:
        """Node, host and process, as soon as the process runs."""
        return ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()

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
    def trial(self, task: TrialTask) -> OptimizationRecord:
        """Find out how the network is run fastest."""
        return self._worker.trial(task)

    @_in_group("work")
    def probe(self, task: ProbeTask) -> None:
        """Take one image through everything but writing."""
        self._worker.probe(task)


class Fleet(Crew):
    """Workers on Ray: as many as fit, more when the cluster grows.

    Args:
        spec: What every worker gets.
        most: More workers than this have nothing to do.
        alone: Whether Ray was started for this run on this machine, so that no node will ever join.

    Raises:
        ConfigError: A worker needs more than this machine has.
    """

    def __init__(self, spec: Spec, most: int, *, alone: bool) -> None:
        super().__init__(spec.options)
        self._cpus = spec.options.cpus_per_worker
        self._gpus = cluster.gpus_per_worker(spec.options)
        if alone:
            cluster.require_possible(self._cpus, self._gpus)
        self._spec = replace(spec, gpus=self._gpus)
        self._most = most
        self._waiting_for: dict[Any, tuple[Handle, str]] = {}
        self._grown_at = time.monotonic()
        for _ in range(min(most, self._options.workers or cluster.capacity(self._cpus, self._gpus))):
            self._start()

    def waiting(self) -> str:
        """What is being waited for, in words; empty when every worker is at work."""
        placed = sum(worker.placed for worker in self.workers)
        if placed < len(self.workers):
            need = f"{self._cpus:g} CPU" + (f" + {self._gpus:g} GPU" if self._gpus else "")
            have = cluster.offered()
            return (
                f"{len(self.workers) - placed} of {len(self.workers)} workers wait for resources "
                f"({need} each; the cluster has {have.get('CPU', 0):g} CPU, {have.get('GPU', 0):g} GPU)"
            )
        return self._loading()

    def submit(self, worker: Handle, task: Task) -> None:
        """Give a free worker a task."""
        actor = worker.actor
        method = {LabelTask: actor.label, ProbeTask: actor.probe, TrialTask: actor.trial}[type(task)]
        ref = method.remote(task)
        self._handed(worker, ref, task)
        self._waiting_for[ref] = (worker, "task")

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """What has happened since the last call, after at most `timeout_s`; see `Crew.wait`."""
        if self._waiting_for:
            # Ray copies the list; with thousands of workers, taking many at a time keeps the driver ahead.
            refs = list(self._waiting_for)
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
            if not done:
                done, _ = ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
            # What a worker has finished counts, even where its death is among the news.
            for ref in sorted(done, key=lambda ref: self._waiting_for[ref][1] != "task"):
                self._receive(ref)
        else:
            time.sleep(timeout_s)
        if self._watch():
            self._ask()
        self._grow()
        while self._events:
            yield self._events.popleft()

    def metrics(self) -> MetricsReporter:
        """Ray's own metrics, which its nodes show to Prometheus."""
        return MetricsReporter(self._spec.run_id, self._spec.detector.name)

    def stop(self) -> None:
        """End all workers at once."""
        for worker in self.workers:
            ray.kill(worker.actor, no_restart=True)
        self.workers.clear()
        self._waiting_for.clear()

    def _start(self) -> None:
        actor_class: Any = ray.remote(concurrency_groups={"work": IN_FLIGHT, "status": 1})(PrelabelWorker)
        actor = actor_class.options(
            num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0, max_task_retries=0
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
        except ray_errors.RayTaskError as error:
            refusal = _refusal(error, worker.tasks.get(ref))
            if kind == "load":
                self._refused(worker, refusal)
            elif kind == "task":
                self._failed(worker, ref, refusal)
            else:
                raise refusal from None
            return
        except ray_errors.RayError as error:
            # The answer cannot be had any more; mostly because process or node are gone.
            self._bury(worker, Culprit("WorkerDied", death(error)), blame(worker, error, len(self.workers)))
            return
        if kind == "place":
            worker.placed, (worker.node, worker.host, worker.pid) = True, value
            worker.moved_at = time.monotonic()
        elif kind == "load":
            self._loaded(worker)
        elif kind == "status":
            worker.asked = False
            self._said(worker, value)
        else:
            self._finished(worker, ref, value)

    def _end(self, worker: Handle) -> None:
        for ref in [ref for ref, (other, _) in self._waiting_for.items() if other is worker]:
            del self._waiting_for[ref]
        ray.kill(worker.actor, no_restart=True)

    def _ask(self) -> None:
        """Ask busy workers how far they are."""
        for worker in self.workers:
            if worker.tasks and not worker.asked:
                worker.asked = True
                self._waiting_for[worker.actor.status.remote()] = (worker, "status")

    def _grow(self) -> None:
        """Use what an autoscaling cluster has gained, where the number of workers was left to us."""
        now = time.monotonic()
        if self._options.workers or now - self._grown_at < GROWTH_INTERVAL_S:
            return
        self._grown_at = now
        if self._start_deaths < MAX_START_DEATHS:
            wanted = min(self._most, cluster.capacity(self._cpus, self._gpus)) - self._not_replaced
            while len(self.workers) < wanted:
                self._start()


def _refusal(error: ray_errors.RayTaskError, task: Task | None) -> PrelabelError:
    """What an exception inside a worker says."""
    cause = error.cause
    if isinstance(cause, PrelabelError):
        return cause
    where = f" at shard {task.shard}" if task else ""
    return RunError(f"a worker failed{where}: {describe(cause)}")


def death(error: ray_errors.RayError) -> str:
    """Why a worker is gone, in one line for a person; Ray says it in prose only."""
    if isinstance(error, ray_errors.RayActorError) and error.actor_init_failed:
        # The last line of a traceback: most likely something is not installed on that machine.
        return f"a worker cannot be started: {describe(RuntimeError(str(error).strip().splitlines()[-1]))}"
    if isinstance(error, ray_errors.ActorUnavailableError):
        # Ray has lost the connection and does not know yet what became of the other end.
        return "the worker's process or node died, or cannot be reached"
    if not isinstance(error, ray_errors.RayActorError):
        return f"the worker was lost: {describe(error)}"
    text = " ".join(str(error).split())
    if "NODE_OUT_OF_MEMORY" in text or "memory on the node" in text:
        return "the worker was ended because its node ran out of memory"
    if "NODE_DIED" in text or "node has died" in text or "node died" in text:
        return NODE_DIED
    return "the worker's process died"


def blame(worker: Handle, error: ray_errors.RayError, workers: int) -> float:
    """How much the death of a worker says about whether any can start, 0 to 1.

    A lost node takes many of the `workers` along; it is silent for some seconds before it is known to be dead.
    """
    if not worker.placed and death(error) == NODE_DIED:
        return 0.0  # Ray chose a node that it did not know yet to be dead: nothing of the worker ever ran
    unreachable = isinstance(error, ray_errors.ActorUnavailableError)
    lost = not worker.ready and (unreachable or (worker.node and worker.node not in cluster.alive_nodes()))
    return 1 / workers if lost else 1.0
