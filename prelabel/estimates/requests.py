"""The requests of a run to web servers and object stores, computed from how the engine works, without retries.

`tests/estimates/test_requests.py` compares them with those that a server receives.
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

_KINDS = ("LIST", "HEAD", "GET", "PUT")

#: Objects per page of a listing, of S3 and GCS; Azure's pages are larger.
_PER_PAGE = 1000

#: Requests that do not depend on the size of the run, for a call that begins it (True) and for one that goes on:
#: listings of the output's folders, looks for `run.json`, and writing it and `manifest.json`.
_CHECKS = {True: {"LIST": 7, "GET": 3, "PUT": 2}, False: {"LIST": 4, "GET": 4, "PUT": 1}}

#: The lock is read this often besides renewals and shards: when it is created, required and removed.
_LOCK_READ = {True: 6, False: 5}


@dataclass(frozen=True, slots=True, repr=False)
class RequestEstimate:
    """Requests by kind (`LIST`, `HEAD`, `GET`, `PUT`), computed and without retries; empty for disks.

    Attributes:
        source: Requests for listing and reading the images.
        output: Requests for the plan, the lock, the shards and the run's other files.
        purposes: The same requests by what they are for: `listing` and `images` of the source; `plan`, `lock`,
            `shards`, and `checks` of the output, which include `run.json` and `manifest.json`.
    """

    source: Mapping[str, int]
    output: Mapping[str, int]
    purposes: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, source: Mapping[str, Mapping[str, int]], output: Mapping[str, Mapping[str, int]]) -> RequestEstimate:
        """The estimate of requests by purpose and kind."""
        purposes = {name: _positive(counts) for name, counts in {**source, **output}.items()}
        return cls(_total(source), _total(output), {name: counts for name, counts in purposes.items() if counts})

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
        return RequestEstimate.of(source, {})
    parts, renewals = len(record.parts), renewals_in(seconds)
    # Workers read small parts as a whole, and so does the driver of a run that goes on. Of others, a worker reads the
    # end of each before its shards. Up to six threads may do so at once, but mostly two: the shards of such parts are
    # too large for more.
    large = sum(not part.is_small for part in record.parts)
    large_reads = large + 2 * workers * large + (shards + finished_shards if large else 0)
    small_reads = (parts - large) * (workers + (not is_new))
    return RequestEstimate.of(
        source,
        {
            "plan": {"HEAD": large_reads, "GET": small_reads + large_reads, "PUT": parts if is_new else 0},
            "lock": {"GET": _LOCK_READ[is_new] + renewals + shards, "PUT": 1 + renewals},
            "shards": {"GET": finished_shards, "PUT": shards},
            "checks": _CHECKS[is_new],
        },
    )


def _of_source(
    record: RunRecord, left: ImagesLeft, shards: int, workers: int, *, is_listed: bool
) -> dict[str, dict[str, int]]:
    pages = heads = 0
    sources = record.source.get("sources", ())
    archives = sum(source.get("archives", 0) for source in sources)
    for source in sources if is_listed else ():
        if source["kind"] in ("directory", "glob") and Storage.store(source["source"]) is not None:
            entries = source.get("archives") or source["images"] + sum(source["ignored"].values())
            pages += 1 + max(1, math.ceil(entries / _PER_PAGE))
            heads += 1
    remote = [ref for ref in left.sample if _is_remote(ref.uri)]
    alone = sum(ref.location is None for ref in remote)
    lists = reads = 0
    if alone < len(remote):
        # Archives are listed with one request each. One worker reads each with one request, several with one per shard.
        lists = archives * is_listed
        reads = max(shards, archives) if workers > 1 else max(1, archives)
    if remote:
        reads += round(left.images * alone / len(left.sample))
    return {"listing": {"LIST": pages, "HEAD": heads, "GET": lists}, "images": {"GET": reads}}


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in counts.items() if count}


def _total(purposes: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Requests of all purposes by kind, in the order LIST, HEAD, GET, PUT."""
    return _positive({kind: sum(counts.get(kind, 0) for counts in purposes.values()) for kind in _KINDS})


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
