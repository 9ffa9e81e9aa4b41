"""The driver: hands out shards to workers until every shard is finished or given up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from prelabel.detectors.base import Optimization
from prelabel.engine.progress import LostWorker, Reporter, Throughput, failure_example
from prelabel.engine.resume import WorkList
from prelabel.engine.runner import Runner
from prelabel.engine.schedule import ErrorTracker, Schedule, TrialTask
from prelabel.engine.shard import publish_unlabeled
from prelabel.engine.worker import WorkerSpec, WorkerStatus
from prelabel.engine.worker_pool import Died, Event, Failed, Ready, WorkerHandle, WorkerPool
from prelabel.errors import OutputInUseError, RunError, RunInterrupted
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.plan import Plan
from prelabel.store.shards import ShardRecord

#: Seconds the loop waits for an event at most; a signal may go unnoticed for that long.
_WAIT_S = 0.2


class Driver:
    """Runs one call's tasks on a pool of workers.

    Args:
        spec: Settings of every worker.
        storage: Opens the output, for shards that are given up.
        plan: The images of each shard.
        work: What is left to do, in one shard at least.
        throughput: Counts finished images.
        reporter: Receives the run's events.
        stop: Ends the run when set.
        links: Full addresses of images whose address in the plan lacks its signature or password.
        on_ready: Called when the first worker has loaded the detector, before any shard is handed out. Its argument is
            the fastest way to run the model, or None without `try_faster`.
        runner: Provides the workers.
        try_faster: Whether the first worker measures the fastest way to run the model.

    Attributes:
        workers: Highest number of workers that were ready at the same time.
        retried: Shards whose worker was considered dead: more than one worker may have published them.
        lost: Workers that died, hung, were lost or were excluded, in order.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        storage: Storage,
        plan: Plan,
        work: WorkList,
        throughput: Throughput,
        reporter: Reporter,
        stop: threading.Event,
        links: Links,
        on_ready: Callable[[Optimization | None], None],
        runner: Runner,
        *,
        try_faster: bool = False,
    ) -> None:
        self._spec = spec
        self._storage = storage
        self._plan = plan
        self._schedule = Schedule(work.tasks(), len(work))
        self._errors = ErrorTracker()
        self._max_workers = len(work)
        self._throughput = throughput
        self._reporter = reporter
        self._reporters = [reporter]
        self._stop = stop
        self._links = links
        self._on_ready = on_ready
        self._runner = runner
        self._started = False
        self._trial = TrialTask(int(work.shards[0]), int(work.images.sum())) if try_faster else None
        self._trial_started = False
        self._handed_out: dict[int, float] = {}
        self._failures: Counter[str] = Counter()
        self._failed_in: dict[str, ShardRecord] = {}
        self._reported_at = 0.0
        self.workers = 0
        self.retried: set[int] = set()
        self.lost: list[LostWorker] = []

    def run(self) -> Iterator[ShardRecord]:
        """Yield the records of finished shards, in the order in which they finish.

        Raises:
            RunInterrupted: `stop` was set.
            PrelabelError: No worker can work, no worker can finish some of the shards, workers keep dying during
                start-up, or another job has taken over the output.
        """
        with self._runner.pool(self._spec, self._max_workers, self._reporter.message) as pool:
            if (metrics := pool.metrics()) is not None:
                self._reporters.append(metrics)
            while not self._schedule.finished:
                if self._stop.is_set():
                    raise RunInterrupted("stopped")
                for event in pool.wait(_WAIT_S):
                    yield from self._handle(event, pool)
                self._hand_out(pool)
                yield from self._give_up()
                # Not in every round once labeling has begun: with thousands of workers, a round handles few events.
                is_time = time.monotonic() - self._reported_at >= _WAIT_S
                if is_time or not self._started or self._schedule.finished:
                    self._report_progress(pool)
                    self._reported_at = time.monotonic()
        if self._schedule.refused:
            raise self._refusal(self._schedule.refused)

    def _report_progress(self, pool: WorkerPool) -> None:
        """Report the progress of all workers.

        Raises:
            RunError: More images have failed than `--max-failed` allows.
        """
        ready = sum(worker.ready for worker in pool.workers)
        self.workers = max(self.workers, ready)
        statuses = [worker.status for worker in pool.workers]
        if too_many := self._throughput.too_many_failed(statuses):
            raise RunError(
                f"{too_many}{self._most_frequent(statuses)}. Finished shards are kept. Fix the cause and run the same "
                "command with --retry-failed, which also retries their failed images"
            )
        snapshot = self._throughput.snapshot(statuses, ready, pool.waiting())
        for reporter in self._reporters:
            reporter.progress(snapshot)

    def _handle(self, event: Event, pool: WorkerPool) -> Iterator[ShardRecord]:
        if isinstance(event, Ready):
            if self._trial is None:
                self._start(None)
        elif isinstance(event, Died):
            self._worker_died(event)
        elif isinstance(event, Failed):
            self._worker_failed(event, pool)
        elif isinstance(event.record, Optimization):
            self._reporter.message(f"running the model as: {event.record}")
            self._start(event.record)
        else:
            self._schedule.done(event.task)
            if isinstance(event.record, ShardRecord):
                self._errors.succeeded(event.worker.number, event.task.shard)
                self._published(event.record, event.worker.name)
                yield event.record

    def _published(self, record: ShardRecord, worker: str) -> None:
        self._throughput.finished(record)
        self._failures.update(record.failures)
        self._failed_in.update(dict.fromkeys(record.failures, record))
        now = time.monotonic()
        seconds = now - self._handed_out.pop(record.shard, now)
        for reporter in self._reporters:
            reporter.shard(record, seconds, worker=worker)

    def _worker_died(self, event: Died) -> None:
        """Retry the tasks of a dead worker, and report it."""
        error, shards = event.cause.error, {}
        for task in event.tasks:
            if isinstance(task, TrialTask):
                shards[task.shard] = self._end_trial(error)
            else:
                self.retried.add(task.shard)
                shards[task.shard] = self._schedule.died(task, event.cause)
        self._report_lost(event.worker, error, shards, is_excluded=False)

    def _worker_failed(self, event: Failed, pool: WorkerPool) -> None:
        """Retry the task on another worker, and exclude a worker that reports one error after another.

        Raises:
            PrelabelError: The reported error, if no usable worker remains or the error concerns the whole run.
        """
        worker, task, error = event.worker, event.task, event.error
        if isinstance(error, OutputInUseError):
            raise error
        if task is None:
            self._report_lost(worker, f"it cannot load the detector: {error}", {}, is_excluded=True)
            return
        self._errors.failed(worker.number, task.shard)
        if isinstance(task, TrialTask):
            self._end_trial(str(error))
        else:
            is_proven = self._errors.is_proven(worker.number)
            action = self._schedule.failed(task, worker.number, str(error), is_proven=is_proven)
            self._reporter.message(f"worker {worker.name} reported an error: {error}; {action}", shard=task.shard)
        if self._errors.all_failing(pool.usable):
            raise error
        if self._errors.must_exclude(worker.number) and not worker.retiring:
            pool.exclude(worker)
            self._report_lost(worker, f"too many errors in a row, the last: {error}", {}, is_excluded=True)
            if all(other.retiring for other in pool.workers):
                raise error

    def _report_lost(self, worker: WorkerHandle, cause: str, shards: Mapping[int, str], *, is_excluded: bool) -> None:
        lost = LostWorker(worker.name, worker.host, worker.pid, cause, is_excluded, shards)
        self.lost.append(lost)
        for reporter in self._reporters:
            reporter.lost(lost)

    def _end_trial(self, error: str) -> str:
        """Run the model exactly, because measuring faster ways failed."""
        why = f"{error} while faster ways to run the model were measured"
        self._reporter.message(why)
        self._start(Optimization("exact", why=why))
        return "running the model exactly"

    def _refusal(self, refused: Mapping[int, str]) -> RunError:
        """The error that ends a run when the only shards left are those at which workers report errors."""
        shard, error = next(iter(sorted(refused.items())))
        which = f"shard {shard}" if len(refused) == 1 else f"{len(refused)} shards, such as {shard},"
        return RunError(
            f"{which} failed on workers that finished other shards: {error}. "
            "All other shards are finished and kept. Fix the cause and run the same command to resume"
        )

    def _start(self, optimization: Optimization | None) -> None:
        """Report that a worker is ready, and begin to hand out shards; the run exists from now on."""
        if not self._started:
            self._started = True
            self._on_ready(optimization)
            self._throughput.start()

    def _try_faster(self, pool: WorkerPool, trial: TrialTask) -> None:
        """Let the first ready worker measure the fastest way to run the model; the others wait."""
        ready = next(iter(pool.available[0]), None)
        if ready is not None and not self._trial_started:
            self._trial_started = True
            self._reporter.message("a worker is measuring the fastest way to run the model")
            images_per_worker = trial.images / len(pool.workers)
            pool.submit(ready, replace(trial, images=images_per_worker, links=self._links.of(trial.shard)))

    def _hand_out(self, pool: WorkerPool) -> None:
        if not self._started:
            if self._trial is not None:
                self._try_faster(pool, self._trial)
            return
        if not self._schedule.waiting:
            return
        schedule = self._schedule
        # Idle workers come first, then those with one task, and so on. The others, mostly nearly all, are left out.
        allowed = pool.available[: schedule.tasks_per_worker(len(pool.usable))]
        for has, worker in ((has, worker) for has, workers in enumerate(allowed) for worker in list(workers)):
            if has >= schedule.tasks_per_worker(len(pool.usable)):
                break
            self._give_next(worker, pool)
        for worker in pool.running_out(schedule.tasks_per_worker(len(pool.usable))):
            if not schedule.waiting:
                return
            self._give_next(worker, pool)

    def _give_next(self, worker: WorkerHandle, pool: WorkerPool) -> None:
        """Give a worker the next task, if there is one for it."""
        task = self._schedule.next_task(
            worker.number, pool.usable, worker_is_idle=not worker.tasks, most_images=worker.room
        )
        if task:
            self._handed_out[task.shard] = time.monotonic()
            self._errors.handed_out(worker.number, task.shard)
            pool.submit(worker, replace(task, links=self._links.of(task.shard)))

    def _most_frequent(self, statuses: Sequence[WorkerStatus]) -> str:
        """The most frequent error class and an example image, as a clause for a message."""
        counts = Counter(self._failures)
        examples: dict[str, str] = {}
        for status in statuses:
            for name, (count, example) in status.failures.items():
                counts[name] = max(counts[name], count)  # includes unpublished shards
                examples[name] = example
        if not counts:
            return ""
        (name, _), *_ = counts.most_common(1)
        if name not in examples:
            examples[name] = failure_example(self._failed_in[name], name, self._spec.options.output, self._storage)
        return f"; most often {name}, for example {examples[name][:300]}"

    def _give_up(self) -> Iterator[ShardRecord]:
        while self._schedule.given_up:
            shard, (task, reason) = self._schedule.given_up.popitem()
            self._reporter.message(f"given up: {reason}", shard=shard)
            record = publish_unlabeled(task, self._spec, self._storage, self._plan)
            self._published(record, "driver")
            yield record
