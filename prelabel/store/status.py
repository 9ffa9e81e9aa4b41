"""How far a run is, read from what is stored: from any machine, while the job runs or after, without disturbing it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from prelabel.errors import StoreError
from prelabel.storage import Storage, join, redact
from prelabel.store.lock import STALE_S, read_lock
from prelabel.store.plan import Plan
from prelabel.store.run import RUN, Manifest, RunRecord, read_manifest, read_run
from prelabel.store.shards import ShardRecord, shard_name, shard_outcome

#: Shards read at the same time; each costs a few short ranges of its file.
_THREADS = 16

#: Unfinished runs of more finished shards are judged by so many of them, evenly spread: a look must not take minutes.
_MOST_READ = 1000

#: The rate of a running job is taken over the shards of so many seconds before the newest one.
_RATE_WINDOW_S = 600.0

#: Slowest shards named.
_SLOWEST = 5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        state: `finished`, with every shard there; `working`, while a job holds the output; `stopped` otherwise.
        held_by: The job that holds the output: process, machine and since when; `""` where none does.
        images: Images planned.
        done: Rows in finished shards.
        shards: Shards planned.
        finished_shards: Shards that are there.
        read_shards: Of these, those whose content was looked at for the figures below.
        failed: Failed images in the shards looked at.
        failures: Their number by error class, most frequent first.
        dropped: Detections left out in the shards looked at because a number of theirs was not finite, or their box has
            no size inside the image.
        images_per_s: Over the last ten minutes of work, all workers together; None while fewer than two shards tell.
        left_s: Seconds left at this rate; None while the rate is unknown or nothing is under way.
        newest_s: Seconds since the newest shard appeared, or since the run was finished; None where the store keeps no
            times.
        slowest: Names of the shards that took most worker seconds, with these seconds; of the shards looked at.
    """

    state: Literal["finished", "working", "stopped"]
    held_by: str
    images: int
    done: int
    shards: int
    finished_shards: int
    read_shards: int
    failed: int
    failures: Mapping[str, int]
    dropped: int
    images_per_s: float | None
    left_s: float | None
    newest_s: float | None
    slowest: tuple[tuple[str, float], ...]


def progress_of(output: str, storage: Storage, *, now: float | None = None) -> Progress:
    """Look at a run from outside.

    Args:
        output: Root of the run's output.
        storage: Opens it.
        now: Seconds since 1970; by default this machine's clock, which the store's times are compared with. A job that
            has not renewed its lock for a minute by that clock counts as dead.

    Raises:
        StoreError: There is no run, or `run.json` cannot be read.
    """
    now = time.time() if now is None else now
    run = read_run(output, storage)
    if run is None:
        raise StoreError(
            f"no run at {redact(output)}: {RUN} is missing; it appears when the first worker has loaded the detector"
        )
    manifest = read_manifest(output, storage)
    if manifest is not None and manifest.run_id != run.run_id:
        manifest = None
    plan = Plan.open(output, run.parts, storage)
    times = storage.times(join(output, "shards"))
    there = [shard for shard in range(run.shards) if shard_name(shard) in times]
    written = {shard: at for shard in there if (at := times[shard_name(shard)]) is not None}
    records = _records(output, storage, run, manifest, there)
    rate = _rate(plan, written)
    newest = max(0.0, now - max(written.values())) if written else None
    holder = read_lock(output, storage)
    working = holder is not None and holder.silent_s <= STALE_S
    finished = manifest is not None and not working and len(there) == run.shards
    failures: Counter[str] = Counter()
    for record in records:
        failures.update(record.failures)
    done = sum(plan.count(shard) for shard in there)
    slowest = sorted(records, key=lambda record: -sum(record.seconds.values()))[:_SLOWEST]
    return Progress(
        state="finished" if finished else "working" if working else "stopped",
        held_by=str(holder) if working else "",
        images=run.images,
        done=done,
        shards=run.shards,
        finished_shards=len(there),
        read_shards=len(records),
        failed=sum(record.failed for record in records),
        failures=dict(failures.most_common()),
        dropped=sum(record.dropped for record in records),
        images_per_s=rate,
        left_s=(run.images - done) / rate if rate and working else None,
        newest_s=newest,
        slowest=tuple((record.name, round(sum(record.seconds.values()), 3)) for record in slowest),
    )


def _records(
    output: str, storage: Storage, run: RunRecord, manifest: Manifest | None, there: Sequence[int]
) -> list[ShardRecord]:
    """What finished shards hold: from the manifest, or, while there is none, from the shards themselves."""
    if manifest is not None:
        present = set(there)
        return [record for record in manifest.shards if record.shard in present]
    step = max(1, math.ceil(len(there) / _MOST_READ))

    def read(shard: int) -> ShardRecord | None:
        try:
            return shard_outcome(output, shard, storage, run.run_id)
        except StoreError:  # damaged or of an older run: it will be made again, and is not counted
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return [record for record in pool.map(read, there[::step]) if record is not None]


def _rate(plan: Plan, written: Mapping[int, float]) -> float | None:
    """Images a second between the first and the last shard of the newest ten minutes of work."""
    if not written:
        return None
    ordered = sorted(written, key=lambda shard: written[shard])
    last = written[ordered[-1]]
    recent = [shard for shard in ordered if last - written[shard] <= _RATE_WINDOW_S]
    span = last - written[recent[0]]
    return sum(plan.count(shard) for shard in recent[1:]) / span if span > 0 else None
