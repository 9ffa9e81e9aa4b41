"""The requests of a run to web servers and object stores, computed from how the engine works, without retries.

`tests/estimates/test_requests.py` counts those of a small run and compares them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from prelabel.estimates.sample import ImagesLeft
from prelabel.storage.address import Address, split_member
from prelabel.storage.files import Storage
from prelabel.store.lock import RENEW_S
from prelabel.store.run import RunRecord

#: Objects per page of a listing, of S3 and GCS; Azure's pages are larger.
_PER_PAGE = 1000

#: Listings of the output's folders, during the checks of a run and at its end.
_LISTED = 7

#: The lock is read this often besides renewals and shards: when it is created, required and removed.
_LOCK_READ = 6

#: The driver looks for `run.json` this often before it is written.
_RUN_READ = 3


@dataclass(frozen=True, slots=True, repr=False)
class RequestEstimate:
    """Requests by kind (`LIST`, `HEAD`, `GET`, `PUT`), computed and without retries; empty for disks.

    Attributes:
        source: Requests for listing and reading the images.
        output: Requests for the plan, the lock, the shards and the run's other files.
    """

    source: Mapping[str, int]
    output: Mapping[str, int]

    def __repr__(self) -> str:
        return f"RequestEstimate(source={dict(self.source)}, output={dict(self.output)})"


def requests_of(
    record: RunRecord,
    output: str,
    left: ImagesLeft,
    *,
    is_listed: bool,
    is_new: bool,
    shards: int,
    finished_shards: int,
    workers: int,
    seconds: float,
) -> RequestEstimate:
    """Compute the requests of a call.

    Args:
        record: Record of the run, with its sources and plan.
        output: Root of the output.
        left: The images to label.
        is_listed: Whether the call lists the source.
        is_new: Whether the call begins a run.
        shards: Number of shards to label.
        finished_shards: Number of shards that are finished, which the call checks.
        workers: Number of workers.
        seconds: Seconds that the call takes, for the heartbeats of the lock.
    """
    source = _of_source(record, left, shards, workers, is_listed=is_listed)
    if Storage.store(output) is None:
        return RequestEstimate(source, {})
    parts, renewals = len(record.parts), renewals_in(seconds)
    # Driver and workers read small parts as a whole. Of others, a worker reads the end of each before its shards. Up to
    # six threads may do so at once, but mostly two: the shards of such parts are too large for more.
    large = sum(not part.is_small for part in record.parts)
    large_reads = large + 2 * workers * large + (shards + finished_shards if large else 0)
    return RequestEstimate(
        source,
        {
            "LIST": _LISTED,
            **({"HEAD": heads} if (heads := large_reads + finished_shards) else {}),
            "GET": (parts - large) * (1 + workers) + heads + _LOCK_READ + renewals + shards + _RUN_READ,
            "PUT": shards + (parts if is_new else 0) + 1 + renewals + 2,
        },
    )


def _of_source(record: RunRecord, left: ImagesLeft, shards: int, workers: int, *, is_listed: bool) -> dict[str, int]:
    requests = {"LIST": 0, "HEAD": 0, "GET": 0}
    sources = record.source.get("sources", ())
    archives = sum(source.get("archives", 0) for source in sources)
    for source in sources if is_listed else ():
        if source["kind"] in ("directory", "glob") and Storage.store(source["source"]) is not None:
            entries = source.get("archives") or source["images"] + sum(source["ignored"].values())
            requests["LIST"] += 1 + max(1, math.ceil(entries / _PER_PAGE))
            requests["HEAD"] += 1
    remote = [ref for ref in left.sample if _is_remote(ref.uri)]
    alone = sum(ref.location is None for ref in remote)
    if remote:
        requests["GET"] += round(left.images * alone / len(left.sample))
    if alone < len(remote):
        # Archives are listed with one request each. One worker reads each with one request, several with one per shard.
        requests["GET"] += archives * is_listed + (max(shards, archives) if workers > 1 else max(1, archives))
    return {kind: count for kind, count in requests.items() if count}


def _is_remote(uri: str) -> bool:
    """Whether an image, or the archive that it lies in, is not on a disk."""
    member = split_member(uri)
    return not Address.of(uri if member is None else member.archive).is_local


def renewals_in(seconds: float) -> int:
    """How often a job renews its lock: after 1 s, then after pauses that double up to `RENEW_S`.

    >>> [renewals_in(seconds) for seconds in (0.5, 1.5, 20, 3600)]
    [0, 1, 4, 362]
    """
    pauses = itertools.takewhile(lambda pause: pause < RENEW_S, (2.0**n for n in itertools.count()))
    renewals = 0
    for pause in pauses:
        if seconds < pause:
            return renewals
        seconds -= pause
        renewals += 1
    return renewals + int(seconds / RENEW_S)
