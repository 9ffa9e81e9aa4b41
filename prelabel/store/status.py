"""A run's status, read from its output: from any machine, during the run or after, without affecting it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from prelabel.errors import StoreError
from prelabel.storage.address import Address, AddressLike
from prelabel.storage.files import Storage
from prelabel.store.lock import STALE_S, read_lock
from prelabel.store.plan import Plan
from prelabel.store.records import ShardRecords
from prelabel.store.run import RUN, RunRecord, read_manifest, read_manifest_head, read_run
from prelabel.store.shards import SHARD_FOLDER, ShardRecord, shard_name, shard_outcome
from prelabel.store.source_check import SourceCheck, read_source_check

#: Shards read at the same time; each takes a few small range requests.
_THREADS = 16

#: Most finished shards that are read of an unfinished run, evenly spread, so that a status does not take minutes.
_MAX_READ = 500

#: Most shards whose time of writing is read from a disk. Of more, the rate and the newest shard are those of a sample.
_MAX_TIMES = 20_000

#: Seconds before the newest shard over which the rate is measured.
_RATE_WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The status of a run.

    Attributes:
        state: `finished` if all shards are; `working` while a job holds the output's lock; `stopped` otherwise.
        held_by: The job that holds the lock: process, machine and start time; `""` if none does.
        images: Number of images planned.
        done: Number of rows in finished shards.
        shards: Number of shards planned.
        finished_shards: Number of shards that are finished.
        read_shards: Number of finished shards that were read for the following values.
        failed: Number of failed images in the shards read.
        failures: Number of failed images by error class, most frequent first.
        dropped: Number of detections in the shards read that were dropped because one of their numbers is not finite or
            their box has no area inside the image.
        images_per_s: Rate of all workers over the last ten minutes of work; None while there are fewer than two shards.
        left_s: Seconds left at this rate; None if the rate is unknown or no job is working.
        newest_s: Seconds since the newest shard was published; None if the storage has no modification times.
        slowest: Names and worker seconds of the slowest of the shards read.
        source_check: What had changed when the source was last compared with the plan (`--add-new`, `--changed`,
            `--gone`); None if it never was.
    """

    state: Literal["finished", "working", "stopped"]
    held_by: str
    images: int
    done: int
    shards: int
    finished_shards: int
    read_shards: int = field(repr=False)
    failed: int
    failures: Mapping[str, int] = field(repr=False)
    dropped: int = field(repr=False)
    images_per_s: float | None
    left_s: float | None
    newest_s: float | None = field(repr=False)
    slowest: tuple[tuple[str, float], ...] = field(repr=False)
    source_check: SourceCheck | None = field(default=None, repr=False)


def read_status(output: AddressLike, storage: Storage, *, now: float | None = None) -> RunStatus:
    """Read the status of a run.

    Args:
        output: Root of the run's output.
        storage: Opens the output.
        now: Seconds since 1970, by default from this machine's clock. Compared with the storage's modification times,
            and with the lock's heartbeat: a job without a heartbeat for a minute is considered dead.

    Raises:
        StoreError: There is no run, or `run.json` cannot be read.
    """
    now = time.time() if now is None else now
    output = Address.of_folder(output)
    run = read_run(output, storage)
    if run is None:
        raise StoreError(
            f"no run at {output}: {RUN} is missing (use the --output of `prelabel label`, which writes it when the "
            "first worker has loaded the detector)"
        )
    head = read_manifest_head(output, storage)
    has_manifest = head is not None and head.run_id == run.run_id
    plan = Plan.open(output, run.parts, storage)
    present, written = _present_shards(output, storage, run)
    if head is not None and has_manifest and len(present) == run.shards:
        totals, slowest, read_shards = head.totals, head.slowest, run.shards
    else:
        records = _records(output, storage, run, present, has_manifest=has_manifest)
        totals, slowest, read_shards = records.totals(), records.slowest(), len(records)
    rate = _rate(plan, run.shard_size, present, written)
    holder = read_lock(output, storage)
    working = holder is not None and holder.heartbeat_age_s <= STALE_S
    finished = has_manifest and not working and len(present) == run.shards
    failures = Counter(totals["failures"])
    done = plan.images_of(present, run.shard_size)
    return RunStatus(
        state="finished" if finished else "working" if working else "stopped",
        held_by=str(holder) if working else "",
        images=run.images,
        done=done,
        shards=run.shards,
        finished_shards=len(present),
        read_shards=read_shards,
        failed=totals["failed"],
        failures=dict(failures.most_common()),
        dropped=totals["dropped"],
        images_per_s=rate,
        left_s=(run.images - done) / rate if rate and working else None,
        newest_s=None if np.isnan(written).all() else max(0.0, now - float(np.nanmax(written))),
        slowest=tuple(slowest.items()),
        source_check=read_source_check(output, storage, run.run_id),
    )


def _records(
    output: AddressLike, storage: Storage, run: RunRecord, present: npt.NDArray[np.int64], *, has_manifest: bool
) -> ShardRecords:
    """Return the records of finished shards, from the manifest or, while there is none, from the shards."""
    records = ShardRecords()
    if has_manifest and (manifest := read_manifest(output, storage)) is not None:
        for shard in present.tolist():
            if (record := manifest.shards.get(shard)) is not None:
                records.add(record)
        return records
    step = max(1, math.ceil(len(present) / _MAX_READ))

    def read(shard: int) -> ShardRecord | None:
        try:
            return shard_outcome(output, shard, storage, run.run_id)
        except StoreError:  # corrupt or from another run: it will be labeled again, and does not count
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        for record in pool.map(read, present[::step].tolist()):
            if record is not None:
                records.add(record)
    return records


def _present_shards(
    output: Address, storage: Storage, run: RunRecord
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return `(N,)` the numbers of the planned shards that exist, and `(N,)` when they were written; NaN if unknown."""
    written = storage.times(output.join(SHARD_FOLDER), most=_MAX_TIMES)
    present: list[int] = []
    times: list[float | None] = []
    for shard in range(run.shards):
        if (name := shard_name(shard)) in written:
            present.append(shard)
            times.append(written[name])
    return np.array(present, np.int64), np.array(times, np.float64)  # None becomes NaN


def _rate(
    plan: Plan, shard_size: int, present: npt.NDArray[np.int64], written: npt.NDArray[np.float64]
) -> float | None:
    """Return the images per second between the first and the last shard of the last ten minutes of work."""
    if np.isnan(written).all():
        return None
    last = np.nanmax(written)
    is_recent = last - written <= _RATE_WINDOW_S  # NaN compares false
    times, shards = written[is_recent], present[is_recent]
    first = np.lexsort((shards, times))[0]
    span = float(last - times[first])
    images = plan.images_of(np.delete(shards, first), shard_size)
    of_each = len(written) / np.count_nonzero(~np.isnan(written))  # above 1 if only some times are known
    return images * of_each / span if span > 0 else None
