"""The whole job, in the order in which it happens: settings, detector, plan, what is done, workers, manifest."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from prelabel.config import LabelOptions, differences
from prelabel.detectors.prepare import prepare
from prelabel.detectors.reach import require_harmless
from prelabel.detectors.resize import working_size
from prelabel.engine.drive import Driver
from prelabel.engine.meter import Meter
from prelabel.engine.planning import Planner, now
from prelabel.engine.progress import Reporter
from prelabel.engine.runner import WHERE, Runner
from prelabel.engine.schedule import LabelTask
from prelabel.engine.worker import Spec
from prelabel.errors import ConfigError, OutputInUseError, RunInterrupted, StoreError
from prelabel.storage import Storage, absolute, join, redact
from prelabel.store.lock import LOCK, Lock
from prelabel.store.plan import Plan
from prelabel.store.run import (
    MANIFEST,
    RUN,
    ClassName,
    DetectorRecord,
    Manifest,
    OptimizationRecord,
    RunRecord,
    read_manifest,
    read_run,
    write_json,
)
from prelabel.store.shards import ShardRecord, failure_example, shard_name
from prelabel.store.verify import check_shard

#: Error classes of rows that speak of workers, not of the image: the run did not go well.
LOST = ("WorkerDied", "WorkerHung")

#: Error classes of which a summary shows an image.
_MOST_EXAMPLES = 8

#: Finished shards re-read at the same time when a run goes on.
_CHECK_THREADS = 8

#: Names of the files that runs write, and of what a killed process had not yet published under such a name.
_OURS = r"shard-\d{5,}\.parquet|plan-\d{5,}-[0-9a-f]{8}\.parquet|(?:run|manifest|lock)\.json"
_OUR_FILE = re.compile(rf"({_OURS})|\.({_OURS})\.[0-9a-f]+\.tmp")


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Attributes:
        output: Where it is.
        images: Rows in all, of this and earlier calls.
        failed: Failed images among them.
        failures: Their number by error class.
        examples: One failed image of each class and what was wrong with it, in words; of the first few classes.
        lost: Images that failed because their worker died or hung; not 0 means that the run did not go well.
        detections: Detections in all.
        labelled: Images that this call worked on.
        skipped_shards: Shards found finished and sound.
        wall_s: Seconds of this call.
        label_s: Seconds from the first worker's being ready to the last shard.
        workers: Most workers at work at the same time.
        runner: What they ran on: `"local"` (processes of this machine) or `"ray"`.
        busy: Share of the labelling time, 0 to 1, in which a worker's model was at work, over all workers; the rest
            went by waiting for pictures and for shards to be written.
        seconds: Seconds by stage (list, read, decode, detect, encode, write) summed over workers, of this call.
        optimization: How the network was run, in words.
    """

    output: str
    images: int
    failed: int
    failures: Mapping[str, int]
    examples: Mapping[str, str]
    lost: int
    detections: int
    labelled: int
    skipped_shards: int
    wall_s: float
    label_s: float
    workers: int
    runner: str
    busy: float
    seconds: Mapping[str, float]
    optimization: str

    @property
    def images_per_s(self) -> float:
        """Images of this call per second of its labelling time."""
        return self.labelled / self.label_s if self.label_s > 0 else 0.0


def run(options: LabelOptions, reporter: Reporter, stop: threading.Event | None = None) -> Summary:
    """Label everything the options name, or go on with what an earlier call left.

    Args:
        options: Of the run.
        reporter: Hears of progress.
        stop: Set from a signal handler or another thread to end early; finished shards stay.

    Raises:
        PrelabelError: See `prelabel.errors`; what was finished before stays and a later call goes on with it.
    """
    options = replace(options, output=absolute(options.output), source=tuple(map(absolute, options.source)))
    with Runner(options) as runner:
        return _Job(options, reporter, stop or threading.Event(), runner).run()


class _Job:
    def __init__(self, options: LabelOptions, reporter: Reporter, stop: threading.Event, runner: Runner) -> None:
        self._options = options
        self._runner = runner
        self._storage = Storage(options.storage_options)
        self._reporter = reporter
        self._stop = stop
        self._output = options.output
        self._planner = Planner(options, self._storage, reporter, stop)
        self._started = time.perf_counter()
        self._has_manifest = self._saved = False
        self._optimization = OptimizationRecord()
        self._unsound: set[int] = set()

    def run(self) -> Summary:
        options = self._options
        earlier = None if options.overwrite else read_run(self._output, self._storage)
        if earlier is None:
            self._runner.start()
        else:
            self._require_same_settings(earlier)
        if earlier is None or options.add_new:
            self._planner.look()
        detector = self._detector()
        # Everything that can be refused without touching the output has been.
        with Lock(self._output, self._storage, self._reporter.message, self._stop) as lock:
            if not options.overwrite and read_run(self._output, self._storage) != earlier:
                raise OutputInUseError(f"another job has just changed {redact(self._output)}: give the command again")
            try:
                return self._work(lock, earlier, detector)
            except RunInterrupted:
                if lock.lost:
                    raise lock.lost from None
                raise

    def _work(self, lock: Lock, earlier: RunRecord | None, detector: DetectorRecord) -> Summary:
        """What changes the output, which this job holds."""
        self._lock = lock
        if earlier is None:
            record = self._planner.plan(detector)
        else:
            self._saved = True
            self._optimization = earlier.optimization
            self._require_same_detector(earlier.detector, detector)
            record = self._grown(earlier) if self._options.add_new else earlier
        self._reporter.started(record.run_id)
        plan = Plan.open(self._output, record.parts, self._storage)
        finished = {} if earlier is None else self._finished_shards(record, plan)
        tasks = self._tasks(record, plan, finished)
        if tasks and earlier is not None:
            self._planner.find_links(record, plan)
        if not tasks:
            hint = "" if self._options.add_new else "; --add-new looks for new images"
            self._reporter.message(f"nothing is left to do{hint}")
        try:
            return self._label(record, plan, tasks, finished, is_new=earlier is None)
        finally:
            if not self._saved:
                self._discard_plan(record)

    def _require_same_settings(self, earlier: RunRecord) -> None:
        lines = differences(earlier.settings, self._options.settings())
        if self._options.add_new:  # the source may be named anew when it is to be looked through again
            lines = [line for line in lines if not line.startswith("source was")]
        self._refuse(lines)

    def _require_same_detector(self, was: DetectorRecord, now: DetectorRecord) -> None:
        if was.fingerprint != now.fingerprint:
            self._refuse(
                [f"detector was {was.address} ({was.fingerprint[:12]}), now {now.address} ({now.fingerprint[:12]})"]
            )
        self._refuse(["the label map has changed"] if was.classes != now.classes else [])

    def _refuse(self, lines: list[str]) -> None:
        if lines:
            raise ConfigError(
                f"{redact(self._output)} holds a run with other settings: {'; '.join(lines)}. "
                "Use the same settings to go on, another --output, or --overwrite to start anew"
            )

    def _detector(self) -> DetectorRecord:
        """What is known of the detector from its files alone; the driver never loads TensorFlow."""
        options = self._options
        model = prepare(
            options.detector,
            self._storage,
            label_map=options.label_map,
            cache_dir=options.model_cache,
            say=self._reporter.message,
        )
        if not options.trust_model:
            require_harmless(model)
        if model.labels is None and not model.convention.strings:
            self._reporter.message("the detector only numbers its classes; --label-map names them (a file, or `coco`)")
        if options.decode_scale == "auto" and working_size(model) is None:
            self._reporter.message(
                "decode-scale auto: the detector does not say what size it looks at, so all is decoded in full"
            )
        classes = None
        if model.labels is not None:
            named = model.labels.classes
            classes = tuple(ClassName(number, named[number].label, named[number].mid) for number in sorted(named))
            options.require_known_names([c.name for c in classes], [c.mid for c in classes])
        elif model.convention.strings and (names := options.unknown_names(())):
            self._reporter.message(
                "the detector names its classes only while it runs, so nobody has checked that it has "
                + ", ".join(map(repr, names))
            )
        info = model.info
        return DetectorRecord(
            name=info.name,
            address=model.local.address,
            fingerprint=info.fingerprint,
            model_version=info.model_version,
            convention=info.convention,
            masks=info.masks,
            classes=classes,
        )

    def _grown(self, earlier: RunRecord) -> RunRecord:
        """The run with the images its source has got since; what is done is not touched."""
        record = self._planner.add_new(earlier)
        if record is None:
            return earlier
        self._lock.require()
        self._storage.delete(join(self._output, MANIFEST))
        write_json(join(self._output, RUN), self._storage, record.to_json())
        return record

    def _finished_shards(self, record: RunRecord, plan: Plan) -> dict[int, ShardRecord]:
        """Shards that need not be labelled again: read back whole and found to be what the plan says."""
        present = self._storage.names(join(self._output, "shards"))
        try:
            manifest = read_manifest(self._output, self._storage)
        except StoreError as error:  # all it says stands in the shards, too
            self._reporter.message(f"{str(error).rstrip('.')}: it is made again")
            manifest = None
        self._has_manifest = manifest is not None and manifest.run_id == record.run_id
        recorded = {r.shard: r for r in manifest.shards} if manifest and manifest.run_id == record.run_id else {}
        candidates = [shard for shard in range(record.shards) if shard_name(shard) in present]
        finished: dict[int, ShardRecord] = {}

        def check(shard: int) -> tuple[ShardRecord | None, list[str]]:
            return check_shard(self._output, self._storage, plan, shard, record.run_id, recorded.get(shard))

        with ThreadPoolExecutor(_CHECK_THREADS) as pool:
            for start in range(0, len(candidates), _CHECK_THREADS * 4):
                if self._stop.is_set():
                    raise RunInterrupted("stopped while finished shards were being checked; nothing was changed")
                batch = candidates[start : start + _CHECK_THREADS * 4]
                for shard, (found, problems) in zip(batch, pool.map(check, batch), strict=True):
                    if found is not None and not problems:
                        # What writing took is known to the manifest only.
                        finished[shard] = recorded.get(shard, found)
                    else:
                        self._unsound.add(shard)
                        self._reporter.message(f"{problems[0].rstrip('.')}: it is made again")
        if finished:
            self._reporter.message(f"{len(finished):,} of {record.shards:,} shards are finished and sound")
        return finished

    def _tasks(self, record: RunRecord, plan: Plan, finished: Mapping[int, ShardRecord]) -> list[tuple[LabelTask, int]]:
        """First tries: shards that are not finished and, when failures are retried, those with failed images."""
        tasks = []
        for shard in range(record.shards):
            done = finished.get(shard)
            if done is None:
                tasks.append((LabelTask(shard), plan.count(shard)))
            elif self._options.retry_failed and done.failed:
                tasks.append((LabelTask(shard, retry_failed=True), plan.count(shard)))
        return tasks

    def _label(
        self,
        record: RunRecord,
        plan: Plan,
        tasks: list[tuple[LabelTask, int]],
        finished: Mapping[int, ShardRecord],
        *,
        is_new: bool,
    ) -> Summary:
        fresh: dict[int, ShardRecord] = {}
        work = [(task, finished[task.shard].failed if task.retry_failed else images) for task, images in tasks]
        meter = Meter(record.images, work, self._options.max_failed)
        workers = 0
        if tasks:
            if not is_new:
                # From here on the output changes; it is finished again when the manifest is written again.
                self._storage.delete(join(self._output, MANIFEST))
            self._reporter.message(f"starting workers {WHERE[self._runner.name]}")
            driver = Driver(
                Spec(self._options, record.run_id, record.parts, record.detector, self._lock.owner),
                self._storage,
                plan,
                tasks,
                meter,
                self._reporter,
                self._stop,
                self._planner.links,
                on_ready=lambda found: self._begin(record, found) if is_new else None,
                runner=self._runner,
                try_faster=is_new and self._options.optimize == "auto",
            )
            try:
                for shard in driver.run():
                    fresh[shard.shard] = shard
            except RunInterrupted:
                # Counted where they lie: a worker may have published one more before its end.
                there = self._storage.names(join(self._output, "shards")) if self._saved else {}
                unsound = self._unsound - fresh.keys()
                done = sum(shard_name(n) in there and n not in unsound for n in range(record.shards))
                raise RunInterrupted(
                    f"stopped: {done:,} of {record.shards:,} shards are finished and stay; "
                    "the same command goes on from there"
                ) from None
            workers = driver.workers
        return self._finish(record, {**finished, **fresh}, fresh, meter, workers)

    def _begin(self, record: RunRecord, found: OptimizationRecord | None) -> None:
        """Write down the run with how its network is run."""
        self._optimization = found or OptimizationRecord(self._options.optimize)
        self._save(replace(record, optimization=self._optimization))

    def _save(self, record: RunRecord) -> None:
        """Write `run.json`: from here on this is the run of the output, and what an older one left is removed."""
        self._lock.require()
        self._storage.delete(join(self._output, MANIFEST))
        write_json(join(self._output, RUN), self._storage, record.to_json())
        self._saved = True
        self._sweep(record, shards=0)

    def _sweep(self, record: RunRecord, shards: int) -> None:
        """Remove what killed processes and older runs have left; other people's files stay.

        Args:
            record: Its plan stays.
            shards: So many shards stay, from the first.
        """
        keep = {RUN, MANIFEST, LOCK, *map(shard_name, range(shards)), *(part.name for part in record.parts)}
        for folder in ("", "plan", "shards"):
            where = join(self._output, folder) if folder else self._output
            for name in self._storage.names(where):
                if name not in keep and _OUR_FILE.fullmatch(name):
                    self._storage.delete(join(where, name))

    def _discard_plan(self, record: RunRecord) -> None:
        """Take back the plan of a run that never came to be; the error that led here says more than one of this."""
        with contextlib.suppress(OSError):
            for part in record.parts:
                self._storage.delete(join(self._output, "plan", part.name))

    def _examples(self, shards: Sequence[ShardRecord]) -> dict[str, str]:
        """The first failed image of each error class, for a person; one shard is read for each."""
        wanted = {name: shard for shard in reversed(shards) for name in shard.failures}
        return {
            name: failure_example(wanted[name], name, self._output, self._storage)
            for name in sorted(wanted)[:_MOST_EXAMPLES]
        }

    def _finish(
        self,
        record: RunRecord,
        records: Mapping[int, ShardRecord],
        fresh: Mapping[int, ShardRecord],
        meter: Meter,
        workers: int,
    ) -> Summary:
        """Write `manifest.json`, the run's last file, and sum up."""
        seconds = Counter({"list": round(self._planner.seconds, 3)})
        for one in fresh.values():
            seconds.update(one.seconds)
        wall_s = time.perf_counter() - self._started
        shards = tuple(records[shard] for shard in sorted(records))
        manifest = Manifest(record.run_id, now(), shards, {"wall": round(wall_s, 3), **seconds})
        if fresh or not self._has_manifest:
            self._lock.require()
            self._sweep(record, record.shards)
            write_json(join(self._output, MANIFEST), self._storage, manifest.to_json())
        totals = manifest.totals
        return Summary(
            output=redact(self._output),
            images=totals["rows"],
            failed=totals["failed"],
            failures=totals["failures"],
            examples=self._examples(shards),
            lost=sum(totals["failures"].get(name, 0) for name in LOST),
            detections=totals["detections"],
            labelled=meter.worked,
            skipped_shards=len(records) - len(fresh),
            wall_s=wall_s,
            label_s=meter.seconds,
            workers=workers,
            runner=self._runner.name,
            busy=min(1.0, seconds["detect"] / (workers * meter.seconds)) if workers and meter.seconds else 0.0,
            seconds=dict(seconds),
            optimization=str(self._optimization),
        )
