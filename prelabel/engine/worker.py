"""A worker: a process that holds one loaded detector and labels one shard after another, on Ray or without it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prelabel.config import LabelOptions
from prelabel.detectors.base import EXACT, DetectorRecord, Optimization
from prelabel.detectors.loading import Loader, loader_of
from prelabel.engine.measurement import Measurement, measure
from prelabel.engine.reader import Reader
from prelabel.engine.schedule import LabelTask, MeasureTask, ProbeTask, Task, TrialTask
from prelabel.engine.shard import kept_rows, label_images, label_shard, publish, read_settings
from prelabel.errors import DetectorError
from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store.plan import Plan, PlanPart
from prelabel.store.rows import FAILED, ImageRow
from prelabel.store.run import RunRecord, read_run
from prelabel.store.shards import ShardRecord

if TYPE_CHECKING:
    from prelabel.detectors.base import FrameDetector, Pixels

#: A worker that waits this long for a request to the output's storage is considered hung; until then it is retrying.
STORAGE_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """The settings of a worker, the same for all workers of a run. Sent by pickle; may contain secrets.

    Attributes:
        options: Options of the run.
        run_id: Id of the run, written into each shard.
        parts: Files of the plan.
        detector: The detector as the driver inspected it; a worker with other model files refuses to work.
        owner: The job that holds the output's lock; a worker writes nothing once another job holds it.
        gpus: GPUs of this worker, possibly a fraction; 0 hides all GPUs.
        is_retry: Whether an earlier run is resumed with its failed images: changed files are accepted.
    """

    options: LabelOptions
    run_id: str
    parts: tuple[PlanPart, ...]
    detector: DetectorRecord
    owner: str
    gpus: float = 0.0
    is_retry: bool = False

    @classmethod
    def of(cls, options: LabelOptions, record: RunRecord, *, owner: str, is_new: bool) -> WorkerSpec:
        """The settings of the workers of a call that begins a run (`is_new`) or resumes it."""
        # With `changed`, the plan has the images as they are now.
        is_retry = options.retry_failed and not is_new and not options.changed
        return cls(options, record.run_id, record.parts, record.detector, owner, is_retry=is_retry)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker's progress; cheap to request at any time.

    Attributes:
        images: Number of images finished since the worker started.
        shards: Per unfinished shard, the number of finished images and of failed ones among them.
        failures: Per error class, the number of failed images since the worker started, and the first with its error.
        beats: Heartbeats: rises whenever the status is requested while the worker waits for storage that has not timed
            out, such as a download that makes progress or is being retried, or a shard that is being published; and
            whenever the detector has finished views of an image.
        images_ahead: With how many images left the worker needs more, see `Reader.images_ahead`.
    """

    images: int
    shards: Mapping[int, tuple[int, int]]
    failures: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    beats: int = 0
    images_ahead: int = 0


class Worker:
    """Holds one detector. `label` may be called from up to `MOST_IN_FLIGHT` threads (`worker_pool.py`).

    One shard is run while the next is read and, if they are small, others are published.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        options = spec.options
        self._storage = Storage(options.storage_options)
        threads = max(1, int(options.cpus_per_worker))
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._images = 0
        self._partial: dict[int, list[int]] = {}
        self._failures: dict[str, tuple[int, str]] = {}
        self._loader: Loader | None = None
        self._detector: FrameDetector | None = None
        self._choosing = threading.Lock()
        self._is_chosen = False
        self._reader = Reader(read_settings(spec, self._storage), decode_threads=threads)
        self._plan = Plan.open(options.output, spec.parts, self._storage)
        self._requests: dict[object, float] = {}
        self._beats = 0

    def load(self) -> None:
        """Load the detector and run it once.

        Raises:
            DetectorError: The detector cannot be fetched or made, or differs from the one the run began with.
        """
        options = self._spec.options
        if not self._spec.gpus:
            # Without a share of a GPU, Ray leaves every GPU of the node visible.
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        self._loader = loader_of(options, self._storage, self._spec.detector, self._spec.gpus, self._on_views)
        if options.needs_working_size:
            self._reader.settings = read_settings(self._spec, self._storage, self._loader.input_size)
        optimization = self._run_optimization()
        self._is_chosen = optimization is not None
        self._detector = self._loader.load(optimization or EXACT)

    def _on_views(self) -> None:
        with self._lock:
            self._beats += 1

    def _run_optimization(self) -> Optimization | None:
        """Return how the run's model is run, as `run.json` records it; None until that is decided."""
        if self._spec.options.optimize != "auto":
            return Optimization(self._spec.options.optimize)
        record = read_run(self._spec.options.output, self._storage)
        return record.optimization if record is not None and record.run_id == self._spec.run_id else None

    @contextmanager
    def _awaiting_storage(self) -> Iterator[None]:
        """Mark requests to the output's storage, so that a worker that retries them is not considered hung."""
        request = object()
        self._requests[request] = time.monotonic()
        try:
            yield
        finally:
            del self._requests[request]

    def _waits_for_storage(self) -> bool:
        now = time.monotonic()
        return (
            any(now - since < STORAGE_TIMEOUT_S for since in list(self._requests.values()))
            or self._reader.awaits_download()
        )

    def label(self, task: LabelTask) -> ShardRecord:
        """Label one shard and publish it.

        Raises:
            StoreError: The shard cannot be written, or the plan (or, for a retry, its existing file) cannot be read.
        """
        detector = self._loaded()
        refs = self._refs(task)
        with self._awaiting_storage():
            kept = kept_rows(self._spec, self._storage, task, refs)
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
                done=kept.image_ids,
                turn=self._turn,
                on_image=on_image,
                streams=self._spec.options.streams,
            )
            with self._awaiting_storage():
                return publish(rows, self._spec, self._storage, task.shard, kept, refs)
        finally:
            del self._partial[task.shard]

    def _refs(self, task: Task) -> list[ImageRef]:
        """Return the images of a task, or of its shard, with the full addresses needed to fetch them."""
        if isinstance(task, MeasureTask):
            refs = list(task.images)
        else:
            with self._awaiting_storage():
                refs = self._plan.read(task.shard)
        if self._spec.is_retry:
            # The files may have been fixed since the run was planned: accept another size and version. In another
            # archive, another image may lie at the planned place.
            refs = [ref if ref.location is not None else replace(ref, size=None, version=None) for ref in refs]
        return [replace(ref, uri=task.links.get(position, ref.uri)) for position, ref in enumerate(refs)]

    def _loaded(self) -> FrameDetector:
        with self._choosing:
            if not self._is_chosen and (optimization := self._run_optimization()):
                if optimization != EXACT:
                    self._detector = self._known_loader().load(optimization)
                self._is_chosen = True
        if self._detector is None:
            raise DetectorError("the detector is not loaded yet")
        return self._detector

    def _known_loader(self) -> Loader:
        if self._loader is None:
            raise DetectorError("the detector is not loaded yet")
        return self._loader

    def trial(self, task: TrialTask) -> Optimization:
        """Measure which way to run the model is fastest, on the images of a shard and those after it.

        From then on this worker runs the model that way.

        Raises:
            DetectorError: The model can no longer be loaded.
        """
        loader = self._known_loader()

        def refs() -> Iterator[ImageRef]:
            yield from self._refs(task)
            # More shards, if this one is too small. The task has full addresses only for its own shard.
            for shard in range(task.shard + 1, self._plan.shards):
                with self._awaiting_storage():
                    more = self._plan.read(shard)
                yield from more

        def pixels() -> Iterator[Pixels]:
            with self._reader.read(refs()) as images:
                for image in images:
                    self._images += 1
                    if image.pixels is not None:
                        yield image.pixels

        optimization, self._detector = loader.try_faster(pixels, task.images)
        self._is_chosen = True
        return optimization

    def probe(self, task: ProbeTask) -> None:
        """Read, decode and run one image without writing anything, to find out whether the process survives."""
        detector = self._loaded()
        ref = self._refs(task)[task.position]
        with self._turn, self._reader.read([ref]) as images:
            for _ in label_images(images, detector):
                self._images += 1

    def measure(self, task: MeasureTask) -> Measurement:
        """Label a sample of images without writing anything, and return what they are and how long it took."""
        detector = self._loaded()

        def on_image(row: ImageRow) -> None:
            with self._lock:
                self._images += 1

        with self._turn:
            return measure(self._refs(task), task, self._reader, detector, on_image, self._spec.options.streams)

    def status(self) -> WorkerStatus:
        """Return this worker's progress. May be called while `label` runs."""
        partial = {shard: (done, failed) for shard, (done, failed) in list(self._partial.items())}
        if self._waits_for_storage():
            with self._lock:
                self._beats += 1
        return WorkerStatus(self._images, partial, dict(self._failures), self._beats, self._reader.images_ahead())
