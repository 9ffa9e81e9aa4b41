"""The loop that keeps workers busy until every shard is done, tried again, or given up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from prelabel.engine.crew import Crew
from prelabel.engine.events import Died, Event, Failed, Handle, Ready
from prelabel.engine.meter import Meter
from prelabel.engine.progress import LostWorker, Reporter, Several
from prelabel.engine.runner import Runner
from prelabel.engine.schedule import LabelTask, Schedule, Standing, TrialTask
from prelabel.engine.worker import Spec, Status, publish_given_up
from prelabel.errors import OutputInUseError, RunError, RunInterrupted
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
        lost: Workers that are gone or were left out, in order.
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
        self._standing = Standing()
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
        self.lost: list[LostWorker] = []

    def run(self) -> Iterator[ShardRecord]:
        """Records of finished shards, in the order in which they finish.

        Raises:
            RunInterrupted: `stop` was set.
            PrelabelError: Whatever keeps all workers from working, or some shards from being finished by any; workers
                die while they start; another job holds the output.
        """
        with self._runner.crew(self._spec, self._most) as crew:
            if (metrics := crew.metrics()) is not None:
                self._reporter = Several(self._reporter, metrics)
            while not self._schedule.finished:
                if self._stop.is_set():
                    raise RunInterrupted("stopped")
                for event in crew.wait(_WAIT_S):
                    yield from self._hear(event, crew)
                self._hand_out(crew)
                yield from self._give_up()
                # Not every time once shards come in: with thousands of workers the loop goes round for a few of them.
                is_time = time.monotonic() - self._looked_at >= _WAIT_S
                if is_time or not self._started or self._schedule.finished:
                    self._look(crew)
                    self._looked_at = time.monotonic()
        if self._schedule.refused:
            raise self._refusal(self._schedule.refused)

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

    def _hear(self, event: Event, crew: Crew) -> Iterator[ShardRecord]:
        if isinstance(event, Ready):
            if self._trial is None:
                self._start(None)
        elif isinstance(event, Died):
            self._bury(event)
        elif isinstance(event, Failed):
            self._judge(event, crew)
        elif isinstance(event.record, OptimizationRecord):
            self._reporter.message(f"the network is run as: {event.record}")
            self._start(event.record)
        else:
            self._schedule.done(event.task)
            if event.record is not None:
                self._standing.succeeded(event.worker.number)
                self._meter.finished(event.record)
                self._failures.update(event.record.failures)
                self._failed_in.update(dict.fromkeys(event.record.failures, event.record))
                seconds = time.monotonic() - self._handed_out.pop(event.task.shard)
                self._reporter.shard(event.record, seconds, worker=event.worker.name)
                yield event.record

    def _bury(self, event: Died) -> None:
        """A worker is gone: what it had is tried again."""
        error, shards = event.culprit.error, {}
        for task in event.tasks:
            if isinstance(task, TrialTask):
                shards[task.shard] = self._end_trial(error)
            else:
                self.tried_again.add(task.shard)
                shards[task.shard] = self._schedule.died(task, event.culprit)
        self._lose(event.worker, error, shards, is_left_out=False)

    def _judge(self, event: Failed, crew: Crew) -> None:
        """A worker reports an error: what it had is tried elsewhere, and one that goes on so is left out.

        Raises:
            PrelabelError: That error, where no worker is able to work, or where it is about the whole run.
        """
        worker, task, error = event.worker, event.task, event.error
        if isinstance(error, OutputInUseError):
            raise error
        if task is None:
            self._lose(worker, f"it cannot be used: {error}", {}, is_left_out=True)
            return
        self._standing.failed(worker.number, task.shard)
        if isinstance(task, TrialTask):
            self._end_trial(str(error))
        else:
            is_proven = self._standing.is_proven(worker.number)
            then = self._schedule.failed(task, worker.number, str(error), is_proven=is_proven)
            self._reporter.message(f"worker {worker.name} reports: {error}; {then}", shard=task.shard)
        if self._standing.nobody_is_able([other.number for other in crew.workers if _may_work(other)]):
            raise error
        if self._standing.is_hopeless(worker.number) and not worker.retiring:
            crew.leave_out(worker)
            self._lose(worker, f"it reports one error after the other, at last: {error}", {}, is_left_out=True)
            if not any(not other.retiring for other in crew.workers):
                raise error

    def _lose(self, worker: Handle, cause: str, shards: Mapping[int, str], *, is_left_out: bool) -> None:
        lost = LostWorker(worker.name, worker.host, worker.pid, cause, is_left_out, shards)
        self.lost.append(lost)
        self._reporter.lost(lost)

    def _end_trial(self, error: str) -> str:
        """Faster ways of running the network were not found: it is run exactly."""
        why = f"{error} while faster ways were tried"
        self._reporter.message(why)
        self._start(OptimizationRecord("exact", why=why))
        return "the network is run exactly"

    def _refusal(self, refused: Mapping[int, str]) -> RunError:
        """What ends a run in which all is done but some shards, at which workers report errors."""
        shard, error = next(iter(sorted(refused.items())))
        which = f"shard {shard}" if len(refused) == 1 else f"{len(refused)} shards, such as {shard},"
        return RunError(
            f"{which} could not be finished by workers that finished others: {error}. "
            "The others stay: mend the cause, and the same command goes on from there"
        )

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
        able = {worker.number for worker in crew.workers if _may_work(worker)} if self._schedule.has_errors else ()
        for worker in list(crew.takers):
            while worker.free and (
                task := self._schedule.next_task(worker.number, able, worker_is_idle=not worker.tasks)
            ):
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


def _may_work(worker: Handle) -> bool:
    """Whether a worker takes tasks, or will when it has loaded its detector."""
    return worker.placed and not worker.retiring
