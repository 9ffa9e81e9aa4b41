"""A worker: one process that holds one loaded detector and labels shard after shard. Plain Python; Ray hosts it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from prelabel.config import LabelOptions
from prelabel.detectors.answers import DetectorOptions
from prelabel.detectors.choice import EXACT, Choice
from prelabel.detectors.fetch import fetch_model
from prelabel.detectors.prepare import PreparedModel, look_at
from prelabel.detectors.reading import require_readable
from prelabel.detectors.resize import working_size
from prelabel.engine.detector import stated_by
from prelabel.engine.reader import Reader, Reading
from prelabel.engine.schedule import LabelTask, ProbeTask, Task, TrialTask
from prelabel.engine.shard import label_images, label_shard, set_aside_row
from prelabel.errors import DetectorError
from prelabel.image_ref import ImageRef
from prelabel.labels.maps import ClassName, LabelMap
from prelabel.source.decode import DecodeOptions
from prelabel.storage import Storage, redact
from prelabel.store.lock import require_held
from prelabel.store.plan import Plan, PlanPart
from prelabel.store.rows import ImageRow
from prelabel.store.run import DetectorRecord, OptimizationRecord, read_run
from prelabel.store.schema import FAILED, OK
from prelabel.store.shards import ShardRecord, read_shard, shard_url, write_shard

if TYPE_CHECKING:
    from prelabel.detectors.base import Detector, Pixels

#: Pixels along each side that a reduced picture keeps for one that the detector looks at: it resizes by itself, and
#: with less would invent what it looks at.
KEPT_FOR_DETECTOR = 2

#: Requests to the output's store are tried again for so long; after that nobody believes that an answer will come.
PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything a worker needs, the same for all workers of a run; travels by pickle and may hold secrets.

    Attributes:
        options: Of the run.
        run_id: Written into each shard.
        parts: The plan.
        detector: As the driver knows it from the model's files; a worker that finds other bytes refuses to work.
        owner: Who holds the output's lock; a worker writes nothing while somebody else does.
        gpus: GPUs of this worker; 0 hides them all.
        is_retry: Whether a run that was begun before goes on with its failed images: files are taken as they are now.
    """

    options: LabelOptions
    run_id: str
    parts: tuple[PlanPart, ...]
    detector: DetectorRecord
    owner: str
    gpus: float = 0.0
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """How far a worker is, cheap to ask for at any moment.

    Attributes:
        images: Images finished since it started; only ever grows.
        beats: Grows whenever the worker is asked while what it waits for is a store that is within its own patience: a
            download that makes progress or tries again, a shard that is being published.
        shards: Of its unfinished shards: images finished and failed.
        failures: Images that have failed since it started, by error class: how many, and what was wrong with the first.
    """

    images: int
    shards: Mapping[int, tuple[int, int]]
    failures: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    beats: int = 0


class Worker:
    """Holds one detector. `label` may be called from two threads: one shard is read ahead while another is run."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._storage = Storage(spec.options.storage_options)
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._images = 0
        self._partial: dict[int, list[int]] = {}
        self._failures: dict[str, tuple[int, str]] = {}
        self._model: PreparedModel | None = None
        self._detector: Detector | None = None
        self._choosing = threading.Lock()
        self._is_chosen = False
        self._working_size: int | None = None
        self._built_reader: Reader | None = None
        self._built_plan: Plan | None = None
        self._asking: dict[object, float] = {}
        self._beats = 0

    def load(self) -> None:
        """Load the detector and run it once.

        Raises:
            DetectorError: The model cannot be had, is not recognised, or differs from the one the run began with.
        """
        options = self._spec.options
        if not self._spec.gpus:
            # Without a share of a GPU, Ray leaves every GPU of the node visible.
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        wanted = self._spec.detector
        local = fetch_model(options.detector, self._storage, cache_dir=options.model_cache)
        if local.fingerprint != wanted.fingerprint:
            raise DetectorError(
                f"the model at {wanted.address} differs between machines: fingerprint {local.fingerprint[:12]} on "
                f"{socket.gethostname()}, {wanted.fingerprint[:12]} where the job began"
            )
        # A label map may be a file that only the driver's machine has.
        named = {one.id: ClassName(one.name, one.mid) for one in wanted.classes or ()}
        source = redact(options.label_map) if options.label_map else f"of {wanted.name}"
        model = look_at(local, LabelMap(named, source) if named else None, stated_by(options))
        require_readable(model.reading, local.address)
        decided = {about: one.value for about, one in model.reading.decisions.items()}
        began = wanted.reading
        if began is not None and decided != {about: one["value"] for about, one in began.items()}:
            raise DetectorError(
                f"{socket.gethostname()} reads the model at {wanted.address} differently from the run: {decided}; "
                "all machines must have the same version of prelabel"
            )
        if options.decode_scale == "auto":
            self._working_size = working_size(model)
        self._model = model
        way = self._way()
        self._is_chosen = way is not None
        self._load(way or EXACT)

    def _load(self, choice: Choice) -> None:
        from prelabel.detectors.savedmodel import load_detector  # TensorFlow starts after the environment is set

        self._detector = load_detector(self._prepared(), self._detector_options, choice=choice, **self._process)

    @property
    def _detector_options(self) -> DetectorOptions:
        options = self._spec.options
        return DetectorOptions(
            selection=options, mask_threshold=options.mask_threshold, keep=options.keep, top_k=options.top_k
        )

    @property
    def _process(self) -> dict[str, Any]:
        """What the detector is told of this process and machine."""
        return {"threads": self.threads, "gpus": self._spec.gpus, "cache_dir": self._spec.options.model_cache}

    def _prepared(self) -> PreparedModel:
        if self._model is None:
            raise DetectorError("the detector is not loaded yet")
        return self._model

    def _way(self) -> Choice | None:
        """How the run's network is run; None while that is being found out. `run.json` says it to every worker."""
        if self._spec.options.optimize != "auto":
            return Choice(self._spec.options.optimize)
        record = read_run(self._spec.options.output, self._storage)
        if record is None or record.run_id != self._spec.run_id:
            return None
        return Choice(record.optimization.numbers, record.optimization.share)

    @property
    def threads(self) -> int:
        """CPU threads this worker may keep busy."""
        return max(1, int(self._spec.options.cpus_per_worker))

    # Built once, under a lock: two shards begin at the same moment, in two threads, and two readers would hold twice
    # what one may. `functools.cached_property` has no lock of its own from Python 3.12 on.

    @property
    def _reader(self) -> Reader:
        with self._lock:
            if self._built_reader is None:
                reading = reading_of(self._spec, self._storage, self._working_size)
                self._built_reader = Reader(reading, decode_threads=self.threads)
            return self._built_reader

    @property
    def _plan(self) -> Plan:
        with self._lock:
            if self._built_plan is None:
                self._built_plan = Plan.open(self._spec.options.output, self._spec.parts, self._storage)
            return self._built_plan

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Around requests to the output's store, which are tried again as long as a run can afford to wait."""
        request = object()
        self._asking[request] = time.monotonic()
        try:
            yield
        finally:
            del self._asking[request]

    def _waits_for_store(self) -> bool:
        now = time.monotonic()
        if any(now - since < PATIENCE_S for since in list(self._asking.values())):
            return True
        return self._built_reader is not None and self._built_reader.awaits_download()

    def label(self, task: LabelTask) -> ShardRecord:
        """Label one shard and publish it.

        Raises:
            StoreError: It cannot be written, or the plan or, for a retry, the shard's old file cannot be read.
        """
        detector = self._loaded()
        refs = self._refs(task)
        with self._patience():
            done = finished_rows(self._spec, self._storage, task)
        partial = self._partial.setdefault(task.shard, [0, 0])

        def on_image(row: ImageRow) -> None:
            with self._lock:
                self._images += 1
                partial[0] += 1
                partial[1] += row.status == FAILED
                if row.error_type is not None:
                    count, first = self._failures.get(row.error_type, (0, f"{row.image_id}: {row.error}"))
                    self._failures[row.error_type] = count + 1, first

        try:
            rows = label_shard(
                refs,
                self._reader,
                detector,
                set_aside=task.set_aside,
                done=done,
                turn=self._turn,
                on_image=on_image,
            )
            with self._patience():
                return publish(rows, self._spec, self._storage, task.shard, done.keys())
        finally:
            del self._partial[task.shard]

    def _refs(self, task: Task) -> list[ImageRef]:
        """The images of a task's shard, under the addresses by which they can be fetched."""
        with self._patience():
            refs = self._plan.read(task.shard)
        if self._spec.is_retry:
            # What failed, or had not come to its turn, may have been mended since: files are not held to the size and
            # version of the plan.
            refs = [replace(ref, size=None, version=None) for ref in refs]
        return [replace(ref, uri=task.links.get(position, ref.uri)) for position, ref in enumerate(refs)]

    def _loaded(self) -> Detector:
        with self._choosing:
            if not self._is_chosen and (way := self._way()):
                if way != EXACT:
                    self._load(way)
                self._is_chosen = True
        if self._detector is None:
            raise DetectorError("the detector is not loaded yet")
        return self._detector

    def trial(self, task: TrialTask) -> OptimizationRecord:
        """Find out on images from a shard on how the network is run fastest; this worker runs it so from then on.

        Raises:
            DetectorError: The model cannot be loaded any more.
        """
        from prelabel.detectors.optimize import try_faster
        from prelabel.detectors.savedmodel import SavedModelDetector

        if not isinstance(self._detector, SavedModelDetector):
            raise DetectorError("the detector is not loaded yet")

        def refs() -> Iterator[ImageRef]:
            yield from self._refs(task)
            # Where a shard is small; without links, which are those of the first.
            for shard in range(task.shard + 1, self._plan.shards):
                with self._patience():
                    further = self._plan.read(shard)
                yield from further

        def pictures() -> Iterator[Pixels]:
            with self._reader.read(refs()) as read:
                for picture in read:
                    self._images += 1
                    if picture.pixels is not None:
                        yield picture.pixels

        found, self._detector = try_faster(
            self._detector, self._prepared(), self._detector_options, pictures, task.images, **self._process
        )
        self._is_chosen = True
        gain = None if found.gain is None else round(found.gain, 3)
        return OptimizationRecord(found.choice.numbers, found.choice.share, gain, found.images, found.why)

    def probe(self, task: ProbeTask) -> None:
        """Take one image through everything but writing: whether the process survives it is the answer."""
        detector = self._loaded()
        ref = self._refs(task)[task.position]
        with self._turn, self._reader.read([ref]) as pictures:
            for _ in label_images(pictures, detector):
                self._images += 1

    def status(self) -> Status:
        """How far this worker is; answers while `label` runs."""
        partial = {shard: (done, failed) for shard, (done, failed) in list(self._partial.items())}
        if self._waits_for_store():
            self._beats += 1
        return Status(self._images, partial, dict(self._failures), self._beats)


def reading_of(spec: Spec, storage: Storage, working_size: int | None = None) -> Reading:
    """How the images of a run are fetched and decoded, for a detector that looks at shorter sides of `working_size`."""
    options = spec.options
    reduced_for = working_size if options.decode_scale == "auto" else None
    decoding = DecodeOptions(
        max_pixels=options.max_pixels,
        max_bytes=options.max_bytes,
        allow_truncated=options.allow_truncated,
        shortest_side=KEPT_FOR_DETECTOR * reduced_for if reduced_for else None,
    )
    return Reading(storage, decoding, spec.detector.name, spec.detector.model_version)


def finished_rows(spec: Spec, storage: Storage, task: LabelTask) -> dict[str, ImageRow]:
    """Rows that a retry takes over: those of the shard's old file that are ok."""
    if not task.retry_failed:
        return {}
    rows = read_shard(shard_url(spec.options.output, task.shard), storage)
    return {row.image_id: row for row in rows if row.status == OK}


def publish(rows: list[ImageRow], spec: Spec, storage: Storage, shard: int, taken_over: Collection[str]) -> ShardRecord:
    """Write a shard, some of whose rows may stand in its old file, unless another job has taken the output over.

    Raises:
        OutputInUseError: It has: this process belongs to a job that was taken for dead.
        StoreError: It cannot be written.
    """
    require_held(spec.options.output, storage, spec.owner)
    output = spec.options.output
    return write_shard(rows, output, storage, shard=shard, run_id=spec.run_id, taken_over=taken_over)


def publish_given_up(task: LabelTask, spec: Spec, storage: Storage, plan: Plan) -> ShardRecord:
    """Write a shard that cannot be labelled: each image that is not done already becomes a failed row that says why."""
    done = finished_rows(spec, storage, task)
    reading = reading_of(spec, storage)
    rows = [
        done.get(ref.image_id) or set_aside_row(ref, reading, task.set_aside[position])
        for position, ref in enumerate(plan.read(task.shard))
    ]
    return publish(rows, spec, storage, task.shard, done.keys())
