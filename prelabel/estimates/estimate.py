"""`prelabel label --dry-run`: what a call would do and take, measured on a sample without writing anything.

It goes the way of the job (`job.py`): the same checks, the same listing and plan, the same workers. But the plan is in
a temporary folder on this machine, the workers measure a sample instead of labeling shards (`measured_pool.py`), and
the output is only read.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prelabel.config import LabelOptions
from prelabel.detectors.base import DetectorRecord
from prelabel.detectors.description import describe_detector
from prelabel.detectors.plugins.addresses import find_factory
from prelabel.engine.job import check_run, settled_options
from prelabel.engine.planning import Planner, inspect_detector
from prelabel.engine.progress import Reporter
from prelabel.engine.resume import WorkList, require_same_detector, work_left
from prelabel.engine.runner import Runner
from prelabel.engine.schedule import LabelTask
from prelabel.engine.shard import kept_rows
from prelabel.engine.worker import WorkerSpec
from prelabel.errors import StoreError
from prelabel.estimates.forecast import (
    Speed,
    TimeEstimate,
    label_seconds,
    nodes_for,
    output_bytes,
    speed_of,
    time_of,
)
from prelabel.estimates.measured_pool import PoolMeasurement, measure_on_pool
from prelabel.estimates.options import EstimateOptions
from prelabel.estimates.requests import RequestEstimate, requests_of
from prelabel.estimates.sample import survey
from prelabel.estimates.sample_facts import SampleFacts, facts_of, warnings_about
from prelabel.image_ref import ImageRef
from prelabel.storage.address import Address, describe, redact
from prelabel.storage.files import Storage
from prelabel.store.lock import read_lock
from prelabel.store.output import Finished, find_finished, read_valid_manifest
from prelabel.store.plan import PLAN_FOLDER, Plan
from prelabel.store.run import RunRecord, read_run

#: Share of a machine's memory from which the workers may not fit, since images may be larger than in the sample.
_MEMORY_SHARE = 0.8

#: Share of the time below which a detector waits for images more than is worth a warning.
_BUSY = 0.6


@dataclass(frozen=True, slots=True, repr=False)
class WorkerEstimate:
    """The workers of the run.

    Attributes:
        runner: Where they run: `"local"` (processes on this machine) or `"ray"`.
        workers: Number that would start.
        measured: Number that measured the sample, all at the same time.
        nodes: Number of machines that they need.
        cpus_per_worker: CPUs of each.
        gpus_per_worker: GPUs of each, possibly a fraction.
        images_per_s: Images per second of one worker while all of them work; 0 if no image could be timed.
        stage_seconds: Mean seconds of an image by stage (read, decode, detect, encode). A worker reads and decodes
            images while the detector runs on another.
        memory_bytes: Most memory that a worker used.
        node_memory_bytes: Memory of a machine; 0 if unknown.
    """

    runner: str
    workers: int
    measured: int
    nodes: int
    cpus_per_worker: float
    gpus_per_worker: float
    images_per_s: float
    stage_seconds: Mapping[str, float]
    memory_bytes: int
    node_memory_bytes: int

    def __repr__(self) -> str:
        return f"WorkerEstimate(workers={self.workers}, images_per_s={self.images_per_s:.1f})"


@dataclass(frozen=True, slots=True, repr=False)
class CostEstimate:
    """What the run costs in its expected time. In the range of the time, all figures change in proportion.

    Attributes:
        core_hours: CPUs of all workers, times hours.
        gpu_hours: GPUs of all workers, times hours.
        node_hours: Machines that the workers need, times hours.
        price: Price of the machines; None if no price per hour was given.
        price_low: The same for the low end of the time.
        price_high: The same for the high end of the time.
    """

    core_hours: float
    gpu_hours: float
    node_hours: float
    price: float | None = None
    price_low: float | None = None
    price_high: float | None = None

    def __repr__(self) -> str:
        price = "" if self.price is None else f", price={self.price:.2f}"
        return f"CostEstimate(core_hours={self.core_hours:.3g}, gpu_hours={self.gpu_hours:.3g}{price})"


@dataclass(frozen=True, slots=True, repr=False)
class Estimate:
    """What a call of `label` would do and take. What is unknown is None.

    Attributes:
        output: URL or path of the run.
        images: Images that the call would label.
        shards: Shards that these images are in.
        finished_images: Rows of the run that are finished already and kept.
        finished_shards: Shards that are finished already and kept.
        bytes: Size of the files of the images to label, as far as the listing reports sizes.
        unsized: Number of these images whose size the listing does not report.
        extensions: Number of these images by file extension, most frequent first.
        sample: What the sample shows; None if there is nothing to label.
        workers: The workers; None if there is nothing to label.
        time: The time of the call; None if there is nothing to label, or no image of the sample could be timed.
        cost: What that time costs; None like `time`.
        output_bytes: Size of the shards that the call writes; None like `time`.
        requests: Requests to web servers and object stores; None like `time`.
        warnings: What the user may want to know or change, one line each.
    """

    output: str
    images: int
    shards: int
    finished_images: int
    finished_shards: int
    bytes: int
    unsized: int
    extensions: Mapping[str, int]
    sample: SampleFacts | None = None
    workers: WorkerEstimate | None = None
    time: TimeEstimate | None = None
    cost: CostEstimate | None = None
    output_bytes: int | None = None
    requests: RequestEstimate | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = [f"images={self.images}", *([f"time={self.time!r}"] if self.time else []), f"output={self.output!r}"]
        return f"Estimate({', '.join(parts)})"


def estimate(options: EstimateOptions, reporter: Reporter, stop: threading.Event | None = None) -> Estimate:
    """Estimate what `run` would do and take. Writes nothing to the output, and no lock.

    Args:
        options: The run, and how to estimate it.
        reporter: Receives messages and the progress of the listing.
        stop: Set it from a signal handler or another thread to end early.

    Raises:
        PrelabelError: `run` would refuse the options, or no worker can label the sample.
    """
    with tempfile.TemporaryDirectory(prefix="prelabel-plan-") as folder, Runner(options.run) as runner:
        runner.start()
        options = replace(options, run=settled_options(options.run))
        return _Estimator(options, reporter, stop or threading.Event(), runner, folder).estimate()


class _Estimator:
    def __init__(
        self, options: EstimateOptions, reporter: Reporter, stop: threading.Event, runner: Runner, folder: str
    ) -> None:
        self._how = options
        self._options = options.run
        self._root = Address.of_folder(options.run.output)
        self._storage = Storage(options.run.storage_options)
        self._reporter = reporter
        self._stop = stop
        self._runner = runner
        self._folder = folder
        self._planner = Planner(options.run, self._storage, reporter, stop, plan_folder=folder)
        self._list_s = 0.0
        self._checked_shards = 0

    def estimate(self) -> Estimate:
        options, storage, notify = self._options, self._storage, self._reporter.message
        earlier, detector = check_run(options, self._planner, storage, notify, self._stop)
        record, work = self._work_left(earlier, detector)
        work = work.where(work.to_label > 0)
        tasks = [task for task, _ in work.tasks()]
        spec = WorkerSpec.of(options, record, owner="", is_new=earlier is None)

        def kept(task: LabelTask, refs: Sequence[ImageRef]) -> frozenset[str]:
            return kept_rows(spec, storage, task, refs).image_ids

        plan = Plan.open(self._folder, record.parts, storage)
        left = survey(plan, tasks, self._planner.links, self._how.sample, self._how.seed, kept, self._stop)
        result = Estimate(
            output=redact(str(self._root)),
            images=left.images,
            shards=len(tasks),
            finished_images=record.images - int(work.to_label.sum()),
            finished_shards=record.shards - len(tasks),
            bytes=left.bytes,
            unsized=left.unsized,
            extensions=left.extensions,
            warnings=tuple(self._warnings_about_output(record, earlier)),
        )
        if not left.images:
            return result
        measured = measure_on_pool(self._runner, spec, len(tasks), left, self._reporter, self._stop)
        shards: list[int] = work.to_label.tolist()
        result = self._with_measurement(result, measured, shards)
        if result.workers is None or result.time is None:
            return result
        requests = requests_of(
            record,
            options.output,
            left,
            is_listed=earlier is None or options.compares_source,
            is_new=earlier is None,
            shards=len(tasks),
            finished_shards=self._checked_shards,
            workers=result.workers.workers,
            seconds=result.time.total_s,
        )
        return replace(result, requests=requests)

    def _work_left(self, earlier: RunRecord | None, detector: DetectorRecord) -> tuple[RunRecord, WorkList]:
        """Plan as a run would, into the temporary folder, and return the record of the run and what is left to do."""
        planner, options = self._planner, self._options
        if earlier is None:
            record = planner.plan(detector)
            self._list_s = planner.seconds
            return record, work_left(record, self._open_plan(record), Finished(), retry_failed=False)
        require_same_detector(earlier.detector, detector, options.output)
        start, notify = time.perf_counter(), self._reporter.message
        self._copy_plan(earlier)
        manifest = read_valid_manifest(self._root, self._storage, earlier, notify)
        record, to_read = earlier, None
        if options.compares_source:
            update = planner.update(earlier)
            record, to_read = update.record, update.shards if manifest is not None else None
        plan = self._open_plan(record)
        finished = find_finished(self._root, self._storage, record, plan, manifest, notify, self._stop, to_read=to_read)
        checked = len(finished.shards) + len(finished.outdated)
        self._checked_shards = checked if to_read is None else len(to_read)
        work = work_left(record, plan, finished, retry_failed=options.retry_failed)
        if len(work):
            planner.find_links(record, plan)
        self._list_s = time.perf_counter() - start
        return record, work

    def _open_plan(self, record: RunRecord) -> Plan:
        return Plan.open(self._folder, record.parts, self._storage)

    def _copy_plan(self, earlier: RunRecord) -> None:
        """Copy the plan of an earlier call to the temporary folder, where new images are added to it."""
        folder = Path(self._folder, PLAN_FOLDER)
        folder.mkdir()
        for part in earlier.parts:
            address = self._root.join(PLAN_FOLDER, part.name)
            try:
                (folder / part.name).write_bytes(self._storage.read(address))
            except OSError as error:
                raise StoreError(f"{address} cannot be read ({describe(error)})") from error

    def _with_measurement(self, result: Estimate, measured: PoolMeasurement, shards: Sequence[int]) -> Estimate:
        """Add what follows from the sample to an estimate. `shards` are the numbers of images to label in each."""
        by_worker, options = measured.by_worker, self._options
        check_s, input_size, notes = self._inspect_again()
        # With more workers than images in the sample, several workers measured the same image.
        sample = list({image.image_id: image for measurement in by_worker for image in measurement.images}.values())
        speed = speed_of(by_worker, result.images)
        workers = _workers_of(options, self._runner.name, measured, speed, len(shards))
        time_estimate = None
        if speed is not None:
            label_s = label_seconds(shards, workers.workers, speed.images_per_s)
            if options.max_images_per_worker:
                restarts = result.images // options.max_images_per_worker
                label_s += restarts * measured.start_s / workers.workers
            time_estimate = time_of(
                check_s=check_s,
                list_s=self._list_s,
                start_s=measured.start_s,
                label_s=label_s,
                end_s=measured.end_s,
                relative_error=speed.relative_error,
            )
        warnings = (
            *result.warnings,
            *notes,
            *measured.notes,
            *warnings_about(sample, options, input_size),
            *_warnings_about_workers(options, workers, measured.places, len(shards)),
        )
        return replace(
            result,
            sample=facts_of(sample, self._how.seed, result.images) if sample else None,
            workers=workers,
            time=time_estimate,
            cost=_cost_of(workers, time_estimate, self._how.price_per_hour) if time_estimate else None,
            output_bytes=output_bytes(by_worker, shards),
            warnings=warnings,
        )

    def _inspect_again(self) -> tuple[float, int | None, list[str]]:
        """Inspect the detector once more: the model is on this machine by now, as it will be when the run begins.

        Returns:
            The seconds that it takes, the size at which the detector looks at images, and notes for the user.
        """
        notes: list[str] = []
        start = time.perf_counter()
        inspect_detector(self._options, self._storage, notes.append, self._stop)
        seconds = time.perf_counter() - start
        if find_factory(self._options.detector) is not None:
            return seconds, None, notes
        sized = replace(self._options, decode_scale="auto")  # asks for the size
        return seconds, describe_detector(sized, self._storage, lambda text: None, self._stop).input_size, notes

    def _warnings_about_output(self, record: RunRecord, earlier: RunRecord | None) -> list[str]:
        """What the output holds besides this run."""
        warnings = []
        if earlier is None and self._options.overwrite:
            try:
                replaced = read_run(self._root, self._storage)
            except StoreError:
                replaced = None  # corrupt, and overwritten anyway
            if replaced is not None:
                warnings.append(f"{self._root} holds a run of {replaced.images:,} images, which --overwrite replaces")
        holder = read_lock(self._root, self._storage)
        if holder is not None:
            warnings.append(f"{self._root} is locked by {holder}: if that job still runs, this one is refused")
        return warnings


def _workers_of(
    options: LabelOptions, runner: str, measured: PoolMeasurement, speed: Speed | None, shards: int
) -> WorkerEstimate:
    """The workers that a run of so many shards starts."""
    by_worker, places = measured.by_worker, measured.places
    workers = max(1, min(shards, options.workers or sum(places), sum(places) or 1))
    timed = sum(m.timed for m in by_worker)
    stages = dict.fromkeys(stage for m in by_worker for stage in m.stage_seconds)
    return WorkerEstimate(
        runner=runner,
        workers=workers,
        measured=len(by_worker),
        nodes=nodes_for(workers, places),
        cpus_per_worker=options.cpus_per_worker,
        gpus_per_worker=measured.gpus_per_worker,
        images_per_s=speed.images_per_s if speed else 0.0,
        stage_seconds={
            stage: sum(m.stage_seconds.get(stage, 0.0) * m.timed for m in by_worker) / timed for stage in stages
        },
        memory_bytes=max(m.memory_bytes for m in by_worker),
        node_memory_bytes=min(m.node_memory_bytes for m in by_worker),
    )


def _warnings_about_workers(
    options: LabelOptions, workers: WorkerEstimate, places: Sequence[int], shards: int
) -> list[str]:
    """What the user may want to change about the workers, or to know about how they were measured."""
    warnings = []
    fit = options.workers or sum(places)
    if shards < fit:
        warnings.append(
            f"there {'is' if shards == 1 else 'are'} only {shards} shard{'s' * (shards != 1)} for {fit} workers: a "
            "smaller --shard-size lets all of them work"
        )
    if options.workers and options.workers > sum(places):
        warnings.append(f"only {workers.workers} of --workers {options.workers} fit the cluster as it is now")
    if workers.measured < workers.workers:
        warnings.append(
            f"{workers.measured} of {workers.workers} workers measured: the estimate assumes that the others are as "
            "fast, and that storage serves all of them"
        )
    on_node = min(workers.workers, max(places, default=1))
    need = on_node * workers.memory_bytes
    if workers.node_memory_bytes and need > _MEMORY_SHARE * workers.node_memory_bytes:
        warnings.append(
            f"{on_node} workers on one machine need about {need / 2**30:.1f} GB of its "
            f"{workers.node_memory_bytes / 2**30:.1f} GB of memory: use fewer --workers, or give each more "
            "--cpus-per-worker"
        )
    if options.optimize == "auto":
        warnings.append(
            "--optimize auto: measured with the exact model; a run also tries lower precision, and may be faster"
        )
    busy_s = workers.stage_seconds.get("detect", 0.0) + workers.stage_seconds.get("encode", 0.0)
    busy_s /= options.streams
    if workers.images_per_s and busy_s * workers.images_per_s < _BUSY:
        slow, slow_s = max(
            ((stage, workers.stage_seconds.get(stage, 0.0)) for stage in ("read", "decode")), key=lambda item: item[1]
        )
        if slow_s > (1 / workers.images_per_s - busy_s) / 2:  # otherwise, other processes keep the worker waiting
            hint = "; --decode-scale auto decodes large JPEGs faster" if slow == "decode" else ""
            warnings.append(
                f"the detector runs only {busy_s * workers.images_per_s:.0%} of the time, since it waits for images: "
                f"most of that is the time to {slow} them{hint}"
            )
    return warnings


def _cost_of(workers: WorkerEstimate, duration: TimeEstimate, price_per_hour: float | None) -> CostEstimate:
    hours = duration.total_s / 3600
    cost = CostEstimate(
        core_hours=workers.workers * workers.cpus_per_worker * hours,
        gpu_hours=workers.workers * workers.gpus_per_worker * hours,
        node_hours=workers.nodes * hours,
    )
    if price_per_hour is None:
        return cost
    low, middle, high = (
        price_per_hour * workers.nodes * seconds / 3600
        for seconds in (duration.low_s, duration.total_s, duration.high_s)
    )
    return replace(cost, price=middle, price_low=low, price_high=high)
