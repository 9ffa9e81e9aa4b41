"""The whole job, in the order in which it happens: settings, detector, plan, what is done, workers, manifest."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from prelabel.config import LabelOptions, raised
from prelabel.engine.detector import look_at_detector
from prelabel.engine.drive import Driver
from prelabel.engine.meter import Meter
from prelabel.engine.output import Output
from prelabel.engine.planning import Planner, now
from prelabel.engine.progress import LostWorker, Reporter
from prelabel.engine.resume import (
    Finished,
    as_begun,
    find_finished,
    require_same_detector,
    require_same_settings,
    tasks_left,
)
from prelabel.engine.runner import WHERE, Runner
from prelabel.engine.schedule import LabelTask
from prelabel.engine.summary import LOST, Summary, failure_examples, first_dropped, unnamed_notes
from prelabel.engine.worker import Spec
from prelabel.errors import OutputInUseError, RunInterrupted
from prelabel.storage import Storage, absolute, redact
from prelabel.store.lock import Lock
from prelabel.store.plan import Plan
from prelabel.store.run import DetectorRecord, Manifest, OptimizationRecord, RetryRecord, RunRecord, read_run
from prelabel.store.shards import ShardRecord


def run(options: LabelOptions, reporter: Reporter, stop: threading.Event | None = None) -> Summary:
    """Label everything the options name, or go on with what an earlier call left.

    Args:
        options: Of the run.
        reporter: Hears of progress.
        stop: Set from a signal handler or another thread to end early; finished shards stay.

    Raises:
        PrelabelError: See `prelabel.errors`; what was finished before stays and a later call goes on with it.
    """
    output = absolute(options.output)
    earlier = None if options.overwrite else read_run(output, Storage(options.storage_options))
    options = options if earlier is None else as_begun(options, earlier)
    options = replace(options, output=output, source=tuple(map(absolute, options.source)))
    with Runner(options) as runner:
        return _Job(options, reporter, stop or threading.Event(), runner).run()


class _Job:
    def __init__(self, options: LabelOptions, reporter: Reporter, stop: threading.Event, runner: Runner) -> None:
        self._options = options
        self._runner = runner
        self._storage = Storage(options.storage_options)
        self._reporter = reporter
        self._stop = stop
        self._planner = Planner(options, self._storage, reporter, stop)
        self._started = time.perf_counter()
        self._is_changed = False

    def run(self) -> Summary:
        options, output = self._options, self._options.output
        earlier = None if options.overwrite else read_run(output, self._storage)
        if earlier is None:
            self._runner.start()
        else:
            require_same_settings(earlier, options)
        if earlier is None or options.add_new:
            self._planner.look()
        detector = look_at_detector(options, self._storage, self._reporter.message)
        # Everything that can be refused without touching the output has been.
        with Lock(output, self._storage, self._reporter.message, self._stop) as lock:
            if not options.overwrite and read_run(output, self._storage) != earlier:
                raise OutputInUseError(f"another job has just changed {redact(output)}: give the command again")
            self._output = Output(output, self._storage, lock, has_run=earlier is not None)
            try:
                return self._work(lock.owner, earlier, detector)
            except RunInterrupted:
                if lock.lost:
                    raise lock.lost from None
                raise

    def _work(self, owner: str, earlier: RunRecord | None, detector: DetectorRecord) -> Summary:
        """What changes the output, which this job holds."""
        self._record = self._planner.plan(detector) if earlier is None else self._goes_on(earlier, detector)
        try:
            self._reporter.started(self._record.run_id)
            plan = Plan.open(self._options.output, self._record.parts, self._storage)
            finished = Finished() if earlier is None else self._find_finished(plan)
            tasks = tasks_left(self._record, plan, finished.shards, retry_failed=self._options.retry_failed)
            if tasks and earlier is not None:
                self._record = self._with_limits(self._record)
            if not tasks:
                hint = "" if self._options.add_new else "; --add-new looks for new images"
                self._reporter.message(f"nothing is left to do{hint}")
            elif earlier is not None:
                self._planner.find_links(self._record, plan)
            return self._label(owner, plan, tasks, finished)
        finally:
            if not self._output.has_run:
                self._output.discard_plan(self._record)

    def _goes_on(self, earlier: RunRecord, detector: DetectorRecord) -> RunRecord:
        """The run as it was begun, or with the images its source has got since."""
        require_same_detector(earlier.detector, detector, self._options.output)
        grown = self._planner.add_new(earlier) if self._options.add_new else None
        if grown is not None:
            self._output.grow(grown)
        return grown or earlier

    def _find_finished(self, plan: Plan) -> Finished:
        say = self._reporter.message
        return find_finished(self._options.output, self._storage, self._record, plan, say, self._stop)

    def _label(self, owner: str, plan: Plan, tasks: list[tuple[LabelTask, int]], finished: Finished) -> Summary:
        fresh: dict[int, ShardRecord] = {}
        done = finished.shards
        work = [(task, done[task.shard].failed if task.retry_failed else images) for task, images in tasks]
        meter = Meter(self._record.images, work, self._options.max_failed)
        workers, is_new = 0, not self._output.has_run
        lost: tuple[LostWorker, ...] = ()
        if tasks:
            if not is_new:
                self._output.reopen()
            self._reporter.message(f"starting workers {WHERE[self._runner.name]}")
            driver = Driver(
                Spec(
                    self._options,
                    self._record.run_id,
                    self._record.parts,
                    self._record.detector,
                    owner,
                    is_retry=self._options.retry_failed and not is_new,
                ),
                self._storage,
                plan,
                tasks,
                meter,
                self._reporter,
                self._stop,
                self._planner.links,
                on_ready=lambda found: self._begin(found) if is_new else self._resume(),
                runner=self._runner,
                try_faster=is_new and self._options.optimize == "auto",
            )
            try:
                for shard in driver.run():
                    fresh[shard.shard] = shard
            except RunInterrupted:
                there = self._output.count(self._record, but=finished.unsound - fresh.keys())
                raise RunInterrupted(
                    f"stopped: {there:,} of {self._record.shards:,} shards are finished and stay; "
                    "the same command goes on from there"
                ) from None
            workers, lost = driver.workers, tuple(driver.lost)
            for number in sorted(driver.tried_again):
                fresh[number] = self._output.as_published(fresh[number])
        return self._finish(finished, fresh, meter, workers, lost)

    def _with_limits(self, record: RunRecord) -> RunRecord:
        """The record of a run that goes on, with the limits that were raised for its failed images."""
        limits = raised(record.settings, self._options.settings())
        if not limits or any(retry.settings == limits for retry in record.retries):
            return record
        words = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in limits.items())
        self._reporter.message(f"failed images are run again with {words}; rows that are ok stay as they are")
        self._is_changed = True
        return replace(record, retries=(*record.retries, RetryRecord(now(), limits)))

    def _resume(self) -> None:
        """Write down with what limits failed images are run again, before any is."""
        if self._is_changed:
            self._output.grow(self._record)

    def _begin(self, found: OptimizationRecord | None) -> None:
        """Write down the run with how its network is run."""
        self._record = replace(self._record, optimization=found or OptimizationRecord(self._options.optimize))
        self._output.begin(self._record)

    def _finish(
        self,
        finished: Finished,
        fresh: Mapping[int, ShardRecord],
        meter: Meter,
        workers: int,
        lost: tuple[LostWorker, ...],
    ) -> Summary:
        """Write `manifest.json`, the run's last file, and sum up."""
        records = {**finished.shards, **fresh}
        classes = self._record.detector.classes
        numbers = None if classes is None else {one.id for one in classes}
        shards = tuple(records[shard].with_names(numbers) for shard in sorted(records))
        seconds = Counter({"list": round(self._planner.seconds, 3)})
        for one in fresh.values():
            seconds.update(one.seconds)
        wall_s, runner = time.perf_counter() - self._started, self._runner.name
        took = {"wall": round(wall_s, 3), **seconds}
        manifest = Manifest(self._record.run_id, now(), shards, took, runner)
        if fresh or not finished.has_manifest:
            self._output.finish(self._record, manifest)
        totals = manifest.totals
        return Summary(
            output=redact(self._options.output),
            images=totals["rows"],
            failed=totals["failed"],
            failures=totals["failures"],
            examples=failure_examples(shards, self._options.output, self._storage),
            lost=sum(totals["failures"].get(name, 0) for name in LOST),
            detections=totals["detections"],
            dropped=totals["dropped"],
            dropped_example=first_dropped(shards, self._options.output, self._storage),
            labelled=meter.worked,
            skipped_shards=len(records) - len(fresh),
            wall_s=wall_s,
            label_s=meter.seconds,
            workers=workers,
            runner=runner,
            busy=min(1.0, seconds["detect"] / (workers * meter.seconds)) if workers and meter.seconds else 0.0,
            seconds=dict(seconds),
            optimization=str(self._record.optimization),
            lost_workers=lost,
            notes=(*self._record.detector.notes, *unnamed_notes(shards)),
        )
