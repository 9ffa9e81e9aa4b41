"""The job, step by step: settings, detector, plan, finished shards, workers, manifest."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from prelabel.config import LabelOptions, changed_limits
from prelabel.detectors.base import DetectorRecord, Optimization
from prelabel.detectors.description import with_detector_defaults
from prelabel.engine.driver import Driver
from prelabel.engine.planning import Planner, inspect_detector
from prelabel.engine.progress import (
    LOST,
    LostWorker,
    Reporter,
    Summary,
    Throughput,
    failure_examples,
    first_dropped,
    unnamed_notes,
)
from prelabel.engine.resume import (
    WorkList,
    require_labeled,
    require_same_detector,
    require_same_settings,
    with_former_threshold,
    work_left,
)
from prelabel.engine.runner import Runner
from prelabel.engine.shard import publish_unlabeled
from prelabel.engine.worker import WorkerSpec
from prelabel.errors import OutputInUseError, RunInterrupted
from prelabel.storage.address import Address, absolute
from prelabel.storage.files import Storage
from prelabel.store.lock import Lock
from prelabel.store.output import Finished, Output, find_finished, read_valid_manifest
from prelabel.store.plan import Plan
from prelabel.store.records import ShardRecords
from prelabel.store.run import Manifest, RetryRecord, RunRecord, read_run, utc_now
from prelabel.store.shards import ShardRecord
from prelabel.store.source_check import SourceCheck

#: Shards that need no detector, written at the same time.
_WRITE_THREADS = 8


def run(
    options: LabelOptions, reporter: Reporter, stop: threading.Event | None = None, runner: Runner | None = None
) -> Summary:
    """Label all images of the sources, or resume an earlier run.

    Args:
        options: Options of the run.
        reporter: Receives the run's events.
        stop: Set it from a signal handler or another thread to end early; finished shards are kept.
        runner: A runner for these options whose first worker may have been started already.

    Raises:
        PrelabelError: See `prelabel.errors`. Finished shards are kept, and a later call resumes from them.
    """
    with runner or Runner(options) as started:
        started.start()  # its imports take longer than all checks and the plan of a small run
        return _Job(settled_options(options), reporter, stop or threading.Event(), started).run()


def settled_options(options: LabelOptions) -> LabelOptions:
    """The options as the driver and all workers need them: with defaults of the detector, and absolute addresses.

    Raises:
        ConfigError: An option does not fit the detector, or the output holds a run that was not labeled.
        StoreError: The output cannot be read.
    """
    options = with_detector_defaults(options)
    output = Address.of_folder(options.output)
    earlier = None if options.overwrite else read_run(output, Storage(options.storage_options))
    if earlier is not None:
        require_labeled(earlier, output)
        options = with_former_threshold(options, earlier)
    return replace(options, output=output.url, source=tuple(map(absolute, options.source)))


def check_run(
    options: LabelOptions,
    planner: Planner,
    storage: Storage,
    notify: Callable[[str], None],
    stop: threading.Event,
) -> tuple[RunRecord | None, DetectorRecord]:
    """Make all checks of a call that change nothing.

    Returns:
        The record of the run that the call resumes, or None; and the detector.

    Raises:
        PrelabelError: The call would be refused.
    """
    earlier = None if options.overwrite else read_run(Address.of_folder(options.output), storage)
    if earlier is not None:
        require_same_settings(earlier, options)
    if earlier is None or options.compares_source:
        planner.check()
    return earlier, inspect_detector(options, storage, notify, stop)


class _Job:
    def __init__(self, options: LabelOptions, reporter: Reporter, stop: threading.Event, runner: Runner) -> None:
        self._options = options
        self._root = Address.of_folder(options.output)
        self._runner = runner
        self._storage = Storage(options.storage_options)
        self._reporter = reporter
        self._stop = stop
        self._planner = Planner(options, self._storage, reporter, stop)
        self._started = time.perf_counter()
        self._is_changed = False
        self._check: SourceCheck | None = None

    def run(self) -> Summary:
        options, output, notify = self._options, self._root, self._reporter.message
        earlier, detector = check_run(options, self._planner, self._storage, notify, self._stop)
        # All checks that do not change the output come before this line.
        with Lock(output, self._storage, notify, self._stop) as lock:
            if not options.overwrite and read_run(output, self._storage) != earlier:
                raise OutputInUseError(f"another job has just changed {output}; run the command again")
            self._output = Output(output, self._storage, lock, has_run=earlier is not None)
            try:
                return self._work(lock.owner, earlier, detector)
            except RunInterrupted:
                if lock.lost:
                    raise lock.lost from None
                raise

    def _work(self, owner: str, earlier: RunRecord | None, detector: DetectorRecord) -> Summary:
        """The part of the job that changes the output, under its lock."""
        if earlier is None:
            self._record, finished = self._planner.plan(detector), Finished()
        else:
            require_same_detector(earlier.detector, detector, self._options.output)
            self._record, finished = self._resume(earlier)
        try:
            self._reporter.started(self._record.run_id)
            plan = Plan.open(self._root, self._record.parts, self._storage)
            left = work_left(self._record, plan, finished, retry_failed=self._options.retry_failed)
            if not len(left):
                hint = "" if self._options.compares_source else "; use --add-new to look for new images"
                self._reporter.message(f"nothing left to do{hint}")
            elif earlier is not None:
                self._record = self._note_raised_limits(self._record)
                if left.to_label.any():
                    self._planner.find_links(self._record, plan)
            return self._label(owner, plan, left, finished)
        finally:
            if not self._output.has_run:
                self._output.discard_plan(self._record)

    def _resume(self, earlier: RunRecord) -> tuple[RunRecord, Finished]:
        """Check the finished shards of an earlier run, after updating its plan if its source is listed again."""
        notify, storage = self._reporter.message, self._storage
        manifest = read_valid_manifest(self._root, storage, earlier, notify)
        record, to_read = earlier, None
        if self._options.compares_source:
            update = self._planner.update(earlier)
            self._check = update.check
            record = update.record
            if manifest is not None:
                to_read = update.shards  # the rows of a finished run are those of its plan
            if record != earlier:
                self._output.grow(record)
            self._output.record_check(update.check)  # says what was done, so it comes after it
        plan = Plan.open(self._root, record.parts, storage)
        finished = find_finished(self._root, storage, record, plan, manifest, notify, self._stop, to_read=to_read)
        return record, replace(finished, has_manifest=finished.has_manifest and record == earlier)

    def _label(self, owner: str, plan: Plan, left: WorkList, finished: Finished) -> Summary:
        fresh = ShardRecords(self._record.class_numbers)
        to_label = left.where(left.to_label > 0)
        throughput = Throughput(self._record.images, to_label, self._options.max_failed)
        workers, is_new = 0, not self._output.has_run
        lost: tuple[LostWorker, ...] = ()
        if len(left):
            if not is_new:
                self._output.reopen()
            spec = WorkerSpec.of(self._options, self._record, owner=owner, is_new=is_new)
            try:
                for shard in self._publish_unlabeled(left.where(left.to_label == 0), spec, plan):
                    fresh.add(shard)
                if len(to_label):
                    driver = Driver(
                        spec,
                        self._storage,
                        plan,
                        to_label,
                        throughput,
                        self._reporter,
                        self._stop,
                        self._planner.links,
                        on_ready=self._write_record,
                        runner=self._runner,
                        try_faster=is_new and self._options.optimize == "auto",
                    )
                    for shard in driver.run():
                        fresh.add(shard)
                    workers, lost = driver.workers, tuple(driver.lost)
                    for number in sorted(driver.retried):
                        fresh.add(self._output.published_record(fresh[number]))
            except RunInterrupted:
                unfinished = (finished.invalid | finished.outdated.keys()) - fresh.keys()
                count = self._output.count_shards(self._record, exclude=unfinished)
                raise RunInterrupted(
                    f"stopped: {count:,} of {self._record.shards:,} shards are finished and kept. "
                    "Run the same command to resume"
                ) from None
        return self._finish(finished, fresh, throughput, workers, lost)

    def _publish_unlabeled(self, left: WorkList, spec: WorkerSpec, plan: Plan) -> Iterator[ShardRecord]:
        """Write shards that need no detector, since images only left them or are marked as gone.

        Raises:
            RunInterrupted: The job was told to stop.
        """
        tasks = (work.task for work in left)
        with ThreadPoolExecutor(_WRITE_THREADS) as pool:
            while batch := list(itertools.islice(tasks, _WRITE_THREADS * 4)):
                if self._stop.is_set():
                    raise RunInterrupted("stopped")
                yield from pool.map(lambda task: publish_unlabeled(task, spec, self._storage, plan), batch)

    def _note_raised_limits(self, record: RunRecord) -> RunRecord:
        """Add the limits that this call raises for failed images to the record of a resumed run."""
        limits = changed_limits(record.settings, self._options.settings())
        if not limits or any(retry.settings == limits for retry in record.retries):
            return record
        flags = ", ".join(_as_option(name, value) for name, value in limits.items())
        self._reporter.message(f"retrying failed images with {flags}; rows that are ok are kept")
        self._is_changed = True
        return replace(record, retries=(*record.retries, RetryRecord(utc_now("seconds"), limits)))

    def _write_record(self, optimization: Optimization | None) -> None:
        """Write `run.json`: of a new run with the way its model is run, of a resumed run with its raised limits."""
        if not self._output.has_run:
            self._record = replace(self._record, optimization=optimization or Optimization(self._options.optimize))
            self._output.begin(self._record)
        elif self._is_changed:
            self._output.grow(self._record)

    def _finish(
        self,
        finished: Finished,
        fresh: ShardRecords,
        throughput: Throughput,
        workers: int,
        lost: tuple[LostWorker, ...],
    ) -> Summary:
        """Write `manifest.json`, the run's last file, and return the summary."""
        seconds = {"list": round(self._planner.seconds, 3), **fresh.seconds_by_stage()}
        must_write = bool(fresh) or not finished.has_manifest
        fresh_shards = len(fresh)
        shards = fresh
        shards.add_missing(finished.shards)
        wall_s, runner = time.perf_counter() - self._started, self._runner.name
        all_seconds = {"wall": round(wall_s, 3), **seconds}
        manifest = Manifest(self._record.run_id, utc_now("seconds"), shards, all_seconds, runner)
        if must_write:
            self._output.finish(self._record, manifest)
        totals, stream_s = manifest.totals, workers * self._options.streams * throughput.seconds
        return Summary(
            output=str(self._root),
            images=totals["rows"],
            failed=totals["failed"],
            failures=totals["failures"],
            examples=failure_examples(shards, self._root, self._storage),
            lost=sum(totals["failures"].get(name, 0) for name in LOST),
            detections=totals["detections"],
            dropped=totals["dropped"],
            dropped_example=first_dropped(shards, self._root, self._storage),
            views=totals["views"],
            labeled=throughput.labeled,
            skipped_shards=len(shards) - fresh_shards,
            wall_s=wall_s,
            label_s=throughput.seconds,
            workers=workers,
            runner=runner,
            busy=min(1.0, seconds.get("detect", 0.0) / stream_s) if stream_s else 0.0,
            seconds=seconds,
            optimization=str(self._record.optimization),
            lost_workers=lost,
            notes=(*self._record.detector.notes, *unnamed_notes(shards)),
            source_check=self._check,
        )


def _as_option(name: str, value: object) -> str:
    """`max_pixels`, 5 -> `--max-pixels 5`."""
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"
