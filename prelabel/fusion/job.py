"""The whole call: finished runs in, one new run out, written shard by shard like a run of `prelabel label`."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prelabel.errors import ConfigError, OutputInUseError, RunInterrupted, StoreError
from prelabel.fusion.classes import FusedClasses
from prelabel.fusion.images import ImageFuser, is_proven_the_same
from prelabel.fusion.index import ImageIndex
from prelabel.fusion.inputs import classes_of, fused_detector, fused_runs, fused_source, require_fusible, run_notes
from prelabel.fusion.options import FuseOptions, differences
from prelabel.fusion.reading import RowsByPosition
from prelabel.image_ref import ImageRef
from prelabel.processes import Processes
from prelabel.storage.address import Address
from prelabel.storage.files import Storage
from prelabel.store.lock import Lock, require_held
from prelabel.store.output import Finished, Output, find_finished, installed_versions, read_valid_manifest
from prelabel.store.plan import Plan, write_plan
from prelabel.store.records import ShardRecords
from prelabel.store.rows import OK, rows_to_table
from prelabel.store.run import FusedRun, Manifest, Run, RunRecord, read_run, utc_now
from prelabel.store.shards import ShardRecord, read_table, shard_url, write_table
from prelabel.store.subset import ABSENT, Positions


@dataclass(frozen=True, slots=True, repr=False)
class FusionSummary:
    """The result of `fuse`.

    Attributes:
        output: Path or URL of the new run, without secrets.
        runs: The runs that were fused, in order, with their weights and counts.
        images: Number of images of the new run.
        in_one_run: Number of images that only one of the runs has.
        failed: Number of images that failed in every run that has them.
        failures: The same by error class.
        failed_in_some: Number of images that failed in a run, but not in another: the rows of the others were used.
        detections: Number of detections of the new run.
        by_runs: Number of detections of the new run that exactly 1, 2, ... of the runs have.
        of_one_run: The labels that only one of the runs knows, by run.
        unproven: Number of images written by this call that several runs have, but not all with the checksum of the
            file: only size and orientation were compared.
        skipped_shards: Number of shards that an earlier call had finished.
        wall_s: Seconds of this call.
        notes: What the user should know, one line each.
    """

    output: str
    runs: tuple[FusedRun, ...]
    images: int
    in_one_run: int
    failed: int
    failures: Mapping[str, int]
    failed_in_some: int
    detections: int
    by_runs: tuple[int, ...]
    of_one_run: Mapping[str, tuple[str, ...]]
    unproven: int
    skipped_shards: int
    wall_s: float
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """The counts, in one line."""
        counts = f"images={self.images}, failed={self.failed}, detections={self.detections}"
        return f"FusionSummary({len(self.runs)} runs, {counts}, output={self.output!r})"


@dataclass(frozen=True, slots=True)
class Progress:
    """How a job reports to the user, and learns that it should stop.

    Attributes:
        notify: Receives messages, one line each.
        count: Called with the number of images written and of all images.
        stop: Set it to end early; finished shards are kept.
    """

    notify: Callable[[str], None] = lambda text: None
    count: Callable[[int, int], None] = lambda done, total: None
    stop: threading.Event = field(default_factory=threading.Event)


def fuse_runs(runs: Sequence[Run], options: FuseOptions, processes: Processes, progress: Progress) -> FusionSummary:
    """Merge the detections of finished runs into a new run, or resume an earlier call.

    Args:
        runs: The finished runs, in the order of `options.weights`; the storage of the first writes the new run.
        options: How they are merged, and where to.
        processes: Processes that merge and write shards.
        progress: See `Progress`.

    Raises:
        PrelabelError: See `prelabel.errors`. Finished shards are kept, and a later call resumes from them.
    """
    return _Job(runs, options, processes, progress).run()


class _Job:
    def __init__(self, runs: Sequence[Run], options: FuseOptions, processes: Processes, progress: Progress) -> None:
        self._runs, self._options, self._processes, self._progress = runs, options, processes, progress
        self._root = Address.of_folder(options.to)
        self._storage = runs[0].storage
        self._started = time.perf_counter()

    def run(self) -> FusionSummary:
        options, root = self._options, self._root
        require_fusible(self._runs, root)
        self._parts = fused_runs(self._runs, options.weights)
        earlier = None if options.overwrite else read_run(root, self._storage)
        if earlier is not None:
            _require_same(earlier, self._parts, options, root)
        classes = FusedClasses.of([classes_of(run, self._processes) for run in self._runs], options.selection)
        self._notes: tuple[str, ...] = (*run_notes(self._parts, options, classes), *classes.notes)
        plans = [run.plan() for run in self._runs]
        index = ImageIndex.of(plans)
        if not (index.runs_of_image > 1).any():
            self._notes += (
                "no image is in more than one of the runs: images are matched by image_id, their path below the source",
            )
        # All checks that do not change the output come before this line.
        with Lock(root, self._storage, self._progress.notify, self._progress.stop) as lock:
            if not options.overwrite and read_run(root, self._storage) != earlier:
                raise OutputInUseError(f"another job has just changed {root}; run the command again")
            output = Output(root, self._storage, lock, has_run=earlier is not None)
            record = earlier or self._plan(classes, plans, index)
            try:
                return self._work(record, classes, index, output, lock)
            except RunInterrupted:
                if lock.lost:
                    raise lock.lost from None
                raise
            finally:
                if not output.has_run:
                    output.discard_plan(record)

    def _plan(self, classes: FusedClasses, plans: Sequence[Plan], index: ImageIndex) -> RunRecord:
        """Write the plan of a new run: its shards are at most as large as those of the first run."""
        run_id = uuid.uuid4().hex
        size = 0

        def counted(ref: ImageRef) -> ImageRef:
            nonlocal size
            size += ref.size or 0
            return ref

        plan = write_plan(
            map(counted, index.refs(plans)),
            self._root,
            self._storage,
            shard_size=self._runs[0].record.shard_size,
            is_exact=self._runs[0].record.settings.get("shard_size", 0) is not None,
            plan_id=run_id[:8],
        )
        return RunRecord(
            run_id=run_id,
            created=utc_now("seconds"),
            settings=self._options.settings(),
            source=fused_source(self._runs, plan.images, size),
            detector=fused_detector(self._parts, self._options, classes, self._notes),
            shard_size=plan.shard_size,
            parts=plan.parts,
            versions=installed_versions(),
            fused=self._parts,
        )

    def _work(
        self, record: RunRecord, classes: FusedClasses, index: ImageIndex, output: Output, lock: Lock
    ) -> FusionSummary:
        """The part of the job that writes the run, under its lock."""
        notify, stop = self._progress.notify, self._progress.stop
        plan = Plan.open(self._root, record.parts, self._storage)
        starts = plan.starts()
        finished = Finished()
        if output.has_run:
            manifest = read_valid_manifest(self._root, self._storage, record, notify)
            finished = find_finished(self._root, self._storage, record, plan, manifest, notify, stop)
        else:
            output.begin(record)
        left = [shard for shard in range(record.shards) if shard not in finished.shards]
        if left and output.has_run:
            output.reopen()
        elif not left:
            notify("nothing left to do")
        write = ShardWriter(
            fuser=ImageFuser(
                self._options,
                classes,
                record.detector.name,
                record.detector.model_version,
                has_keypoints=record.detector.keypoints is not None,
            ),
            runs=tuple(map(RowsByPosition.of, self._runs)),
            output=self._root,
            storage=self._storage,
            run_id=record.run_id,
            owner=lock.owner,
        )
        items = [
            ShardItem(shard, tuple(p[starts[shard] : starts[shard + 1]] for p in index.positions)) for shard in left
        ]
        tally = ShardTally.empty(len(self._runs))
        for shard in finished.shards:
            count = index.runs_of_image[starts[shard] : starts[shard + 1]]
            table = read_table(shard_url(self._root, shard), self._storage, without=("boxes", "masks", "keypoints"))
            tally += tally_of(table, count, len(self._runs))
        fresh = ShardRecords(record.class_numbers)
        done = int(finished.shards.counts("rows").sum())
        self._progress.count(done, len(index))
        for shard_record, shard_tally in self._processes.map(write, items):
            fresh.add(shard_record)
            tally += shard_tally
            done += shard_record.rows
            self._progress.count(done, len(index))
            if stop.is_set():
                raise RunInterrupted(
                    f"stopped: {len(fresh) + len(finished.shards):,} of {record.shards:,} shards are finished and "
                    "kept. Run the same command to resume"
                )
        return self._finish(record, classes, index, output, finished, fresh, tally)

    def _finish(
        self,
        record: RunRecord,
        classes: FusedClasses,
        index: ImageIndex,
        output: Output,
        finished: Finished,
        fresh: ShardRecords,
        tally: ShardTally,
    ) -> FusionSummary:
        """Write `manifest.json`, the run's last file, and return the summary."""
        wall_s = time.perf_counter() - self._started
        seconds = {"wall": round(wall_s, 3), **fresh.seconds_by_stage()}
        must_write = bool(fresh) or not finished.has_manifest
        fresh.add_missing(finished.shards)
        manifest = Manifest(record.run_id, utc_now("seconds"), fresh, seconds, "local")
        if must_write:
            output.finish(record, manifest)
        totals = manifest.totals
        return FusionSummary(
            output=str(self._root),
            runs=self._parts,
            images=totals["rows"],
            in_one_run=int((index.runs_of_image == 1).sum()),
            failed=totals["failed"],
            failures=totals["failures"],
            failed_in_some=tally.failed_in_some,
            detections=totals["detections"],
            by_runs=tally.by_runs,
            of_one_run=classes.of_one_run,
            unproven=tally.unproven,
            skipped_shards=len(finished.shards),
            wall_s=wall_s,
            notes=self._notes,
        )


def _require_same(earlier: RunRecord, parts: Sequence[FusedRun], options: FuseOptions, root: Address) -> None:
    """Raise ConfigError unless the run in the output was fused from the same runs with the same settings."""
    if not earlier.fused:
        lines = ["it was made by `prelabel label`"]
    else:
        lines = differences(earlier.settings, options.settings())
        before, now = ([run.run_id for run in runs] for runs in (earlier.fused, parts))
        if before != now:
            lines.append(f"it was fused from {', '.join(run.run for run in earlier.fused)}")
        else:
            pairs = zip(earlier.fused, parts, strict=True)
            lines += [f"{part.run} was changed since" for was, part in pairs if was.finished != part.finished]
    if lines:
        raise ConfigError(
            f"{root} holds a run with other settings: {'; '.join(lines)}. Use the same runs and settings to resume it, "
            "another --to, or --overwrite to start again"
        )


@dataclass(frozen=True, slots=True)
class ShardItem:
    """A shard of the new run: its number, and for each run the positions of its images or `ABSENT`."""

    shard: int
    positions: tuple[Positions, ...]


@dataclass(frozen=True, slots=True)
class ShardTally:
    """What the summary counts in shards; `FusionSummary` explains the attributes."""

    failed_in_some: int
    by_runs: tuple[int, ...]
    unproven: int = 0

    @classmethod
    def empty(cls, runs: int) -> ShardTally:
        """The tally of no shard."""
        return cls(0, (0,) * runs)

    def __add__(self, other: ShardTally) -> ShardTally:
        return ShardTally(
            self.failed_in_some + other.failed_in_some,
            tuple(a + b for a, b in zip(self.by_runs, other.by_runs, strict=True)),
            self.unproven + other.unproven,
        )


def tally_of(table: pa.Table, count: Positions, runs: int) -> ShardTally:
    """Count in the rows of a shard of the new run.

    Args:
        table: The rows.
        count: `(N,)` the number of runs that have each image.
        runs: Number of runs.
    """
    ok = pc.equal(table["status"], OK).to_numpy()
    shown = pc.fill_null(table["views_shown"], 1).to_numpy()
    detections = pc.list_value_length(table["scores"]).to_numpy()
    alone = int(detections[shown == 1].sum())
    views = pc.list_flatten(table["views"]).to_numpy()
    by_runs = np.bincount(views, minlength=runs + 1)[1:]
    by_runs[0] += alone
    return ShardTally(int((ok & (shown < count)).sum()), tuple(by_runs.tolist()))


@dataclass(frozen=True)
class ShardWriter:
    """Merges the rows of a shard and publishes it. Can be sent to another process."""

    fuser: ImageFuser
    runs: tuple[RowsByPosition, ...]
    output: Address
    storage: Storage
    run_id: str
    owner: str

    def __call__(self, item: ShardItem) -> tuple[ShardRecord, ShardTally]:
        """Write a shard.

        Raises:
            OutputInUseError: Another job has taken over the output.
            StoreError: A row cannot be read, rows of an image cannot be merged, or the shard cannot be written.
        """
        present = [positions != ABSENT for positions in item.positions]
        columns = [
            run.read(positions[has]) for run, positions, has in zip(self.runs, item.positions, present, strict=True)
        ]
        rows = []
        unproven = 0
        for image in range(len(item.positions[0])):
            of_image = {run: next(column) for run, column in enumerate(columns) if present[run][image]}
            if len({row.image_id for row in of_image.values()}) > 1:
                names = " and ".join(self.runs[run].name for run in of_image)
                raise StoreError(f"{names} do not agree with their plans: check both with `prelabel verify`")
            unproven += not is_proven_the_same(of_image)
            rows.append(self.fuser.fuse(of_image))
        require_held(self.output, self.storage, self.owner)
        table = rows_to_table(rows)
        record = write_table(table, self.output, self.storage, shard=item.shard, run_id=self.run_id)
        tally = tally_of(table, np.sum(present, axis=0), len(self.runs))
        return record, replace(tally, unproven=unproven)
