"""The loop that keeps workers busy until every shard is done, tried again, or given up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from prelabel.engine.crew import Crew
from prelabel.engine.events import Died, Event, Ready
from prelabel.engine.meter import Meter
from prelabel.engine.progress import Reporter, Several
from prelabel.engine.runner import Runner
from prelabel.engine.schedule import LabelTask, Schedule, TrialTask
from prelabel.engine.worker import Spec, Status, publish_given_up
from prelabel.errors import RunError, RunInterrupted
from prelabel.storage import Storage
from prelabel.store.links import Links
from prelabel.store.plan import Plan
from prelabel.store.run import OptimizationRecord
from prelabel.store.shards import ShardRecord, failure_example

#: Seconds the loop waits at most for something to happen; so long a signal may go unnoticed.
_WAIT_S = 0.2


class Driver:
    """Drives one call's tasks over a crew of workers.

    Args:
        spec: What every worker gets.
        storage: Opens the output, for shards that are given up.
        plan: Which image is in which shard.
        tasks: First tries, each with its shard's number of images.
        meter: Counts what is done.
        reporter: Hears of progress.
        stop: Ends the run when set.
        links: Addresses that the plan has without their signatures.
        on_ready: Called when the first worker has loaded the detector, before any shard is handed out; with what a
            worker has found out about how the network is run fastest, where that was asked for.
        runner: Provides the workers.
        try_faster: Whether to ask the first worker for that.

    Attributes:
        workers: Most workers that were ready at the same time.
        tried_again: Shards whose worker was taken for dead: more than one may have published them.
    """

    def __init__(
        self,
        spec: Spec,
        storage: Storage,
        plan: Plan,
        tasks: Sequence[tuple[LabelTask, int]],
        meter: Meter,
        reporter: Reporter,
        stop: threading.Event,
        links: Links,
        on_ready: Callable[[OptimizationRecord | None], None],
        runner: Runner,
        *,
        try_faster: bool = False,
    ) -> None:
        self._spec = spec
        self._storage = storage
        self._plan = plan
        self._schedule = Schedule(tasks)
        self._most = len(tasks)
        self._meter = meter
        self._reporter = reporter
        self._stop = stop
        self._links = links
        self._on_ready = on_ready
        self._runner = runner
        self._started = False
        self._trial = TrialTask(tasks[0][0].shard, sum(images for _, images in tasks)) if try_faster else None
        self._is_tried = False
        self._handed_out: dict[int, float] = {}
        self._failures: Counter[str] = Counter()
        self._failed_in: dict[str, ShardRecord] = {}
        self._looked_at = 0.0
        self.workers = 0
        self.tried_again: set[int] = set()

    def run(self) -> Iterator[ShardRecord]:
        """Records of finished shards, in the order in which they finish.

        Raises:
            RunInterrupted: `stop` was set.
            PrelabelError: A worker cannot work at all, or workers die while they start.
        """
        with self._runner.crew(self._spec, self._most) as crew:
            if (metrics := crew.metrics()) is not None:
                self._reporter = Several(self._reporter, metrics)
            while not self._schedule.finished:
                if self._stop.is_set():
                    raise RunInterrupted("stopped")
                for event in crew.wait(_WAIT_S):
                    yield from self._hear(event)
                self._hand_out(crew)
                yield from self._give_up()
                # Not every time once shards come in: with thousands of workers the loop goes round for a few of them.
                is_time = time.monotonic() - self._looked_at >= _WAIT_S
                if is_time or not self._started or self._schedule.finished:
                    self._look(crew)
                    self._looked_at = time.monotonic()

    def _look(self, crew: Crew) -> None:
        """Tell how far all workers are, and end a run in which too much fails."""
        ready = sum(worker.ready for worker in crew.workers)
        self.workers = max(self.workers, ready)
        statuses = [worker.status for worker in crew.workers]
        if said := self._meter.too_many_failed(statuses):
            raise RunError(
                f"{said}{self._most_frequent(statuses)}. Finished shards stay: mend the cause and give the "
                "same command again, with --retry-failed for the failures they hold"
            )
        self._reporter.progress(self._meter.snapshot(statuses, ready, crew.waiting()))

    def _hear(self, event: Event) -> Iterator[ShardRecord]:
        if isinstance(event, Ready):
            if self._trial is None:
                self._start(None)
        elif isinstance(event, Died):
            error = event.culprit.error
            self._reporter.died(event.worker.name, error, shards=[task.shard for task in event.tasks])
            for task in event.tasks:
                if isinstance(task, TrialTask):
                    why = f"{error} while faster ways were tried"
                    self._reporter.message(why)
                    self._start(OptimizationRecord("exact", why=why))
                else:
                    self.tried_again.add(task.shard)
                    self._reporter.message(f"{error}; {self._schedule.died(task, event.culprit)}", shard=task.shard)
        elif isinstance(event.record, OptimizationRecord):
            self._reporter.message(f"the network is run as: {event.record}")
            self._start(event.record)
        else:
            self._schedule.done(event.task)
            if event.record is not None:
                self._meter.finished(event.record)
                self._failures.update(event.record.failures)
                self._failed_in.update(dict.fromkeys(event.record.failures, event.record))
                seconds = time.monotonic() - self._handed_out.pop(event.task.shard)
                self._reporter.shard(event.record, seconds, worker=event.worker.name)
                yield event.record

    def _start(self, optimization: OptimizationRecord | None) -> None:
        """From here on there is a run, and shards are handed out."""
        if not self._started:
            self._started = True
            self._on_ready(optimization)
            self._meter.start()

    def _try_faster(self, crew: Crew, trial: TrialTask) -> None:
        """Have one worker find out how the network is run fastest, as soon as one is ready; the others wait."""
        ready = next((worker for worker in crew.workers if worker.free), None)
        if ready is not None and not self._is_tried:
            self._is_tried = True
            self._reporter.message("a worker finds out how the network is run fastest")
            each = trial.images / len(crew.workers)
            crew.submit(ready, replace(trial, images=each, links=self._links.of(trial.shard)))

    def _hand_out(self, crew: Crew) -> None:
        if not self._started:
            if self._trial is not None:
                self._try_faster(crew, self._trial)
            return
        if not self._schedule.waiting:
            return
        for worker in list(crew.takers):
            while worker.free and (task := self._schedule.next_task(worker_is_idle=not worker.tasks)):
                self._handed_out[task.shard] = time.monotonic()
                crew.submit(worker, replace(task, links=self._links.of(task.shard)))

    def _most_frequent(self, statuses: Sequence[Status]) -> str:
        """The error class that most images failed with, and one of them."""
        counts = Counter(self._failures)
        examples: dict[str, str] = {}
        for status in statuses:
            for name, (count, example) in status.failures.items():
                counts[name] = max(counts[name], count)  # of unpublished shards, too
                examples[name] = example
        if not counts:
            return ""
        (name, _), *_ = counts.most_common(1)
        if name not in examples:
            examples[name] = failure_example(self._failed_in[name], name, self._spec.options.output, self._storage)
        return f"; most often {name}, as {examples[name][:300]}"

    def _give_up(self) -> Iterator[ShardRecord]:
        while self._schedule.given_up:
            shard, (task, reason) = self._schedule.given_up.popitem()
            self._handed_out.pop(shard, None)
            self._reporter.message(f"given up: {reason}", shard=shard)
            record = publish_given_up(task, self._spec, self._storage, self._plan)
            self._meter.finished(record)
            yield record
