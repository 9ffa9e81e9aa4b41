"""The plan: which image is in which shard, stored as Parquet files whose row groups are the shards.

    OUT/plan/plan-00000-1a2b3c4d.parquet      row group 0 = shard 0, row group 1 = shard 1, ...
    OUT/plan/plan-01000-1a2b3c4d.parquet      row group 0 = shard 1000, ...

A plan is written once, a part at a time, while the source is being listed, and read a shard at a time: neither the
driver nor a worker ever holds all of it. Which files make up a run's plan stands in `run.json`; `--add-new` appends
further parts.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.errors import SourceError, StoreError
from prelabel.image_ref import ImageRef
from prelabel.storage import Storage, join, redact, without_secrets
from prelabel.store.links import Links
from prelabel.store.plan_reader import PLAN_SCHEMA, Plan, PlanPart, digests_of

__all__ = ["PLAN_SCHEMA", "Plan", "PlanPart", "PlanSummary", "automatic_shard_size", "new_refs", "write_plan"]

#: Shards in one file of the plan: its footer, which has to be read before any shard, stays below a megabyte.
SHARDS_PER_PART = 1000

#: Without a stated size the images are spread over at least this many shards, as far as the limits below allow: fewer,
#: and a small set leaves workers idle. A shard costs some 2.5 ms of processor time whatever its size (its rows as
#: Parquet 2, reading the plan 0.5), four images with a light network 100.
_AUTOMATIC_SHARDS = 32
_SMALLEST, _LARGEST = 4, 512

#: Images whose ids are compared with the plan at a time.
_BATCH = 8192

#: Equal hashes looked into at a time; in practice every one of them is a true duplicate, and the first ends the run.
_SUSPECTS = 1000


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What `write_plan` wrote."""

    images: int
    shards: int
    shard_size: int
    parts: tuple[PlanPart, ...]


def automatic_shard_size(images: int) -> int:
    """Images per shard when nobody states it: from the number of images alone, so that names are the same everywhere.

    `ceil(images / 32)`, at least 4 and at most 512: 80 images are 20 shards, 1,000 are 32, a million 1,954.
    """
    return min(max(math.ceil(images / _AUTOMATIC_SHARDS), _SMALLEST), _LARGEST)


def write_plan(
    refs: Iterable[ImageRef],
    out_url: str,
    storage: Storage,
    *,
    shard_size: int | None,
    first_shard: int = 0,
    plan_id: str,
    links: Links | None = None,
) -> PlanSummary:
    """Deal images to shards in their order and store that under `out_url/plan/`, part by part.

    Args:
        refs: The images; consumed as a stream, of each only a hash is kept.
        out_url: Output root.
        storage: Where that is.
        shard_size: Images per shard, or None for `automatic_shard_size`.
        first_shard: Number of the first shard, above 0 where a plan is continued.
        plan_id: Eight hexadecimal digits in the files' names, so that a new plan never overwrites one in use.
        links: Is given the whole addresses; they are stored without passwords and signatures.

    Returns:
        Totals and parts; nothing was written where there were no images.

    Raises:
        SourceError: Two images have one `image_id`. The parts written are removed, as after any other failure.
        StoreError: A part cannot be written or read back.
    """
    if shard_size is not None and shard_size < 1:
        raise StoreError(f"shard_size must be at least 1, got {shard_size}")
    stream = iter(refs)
    start: list[ImageRef] = []
    if shard_size is None:
        start = list(itertools.islice(stream, _AUTOMATIC_SHARDS * _LARGEST))
        shard_size = automatic_shard_size(len(start))
    writer = _Writer(out_url, storage, first_shard, plan_id, links or Links())
    # Python's own string hash: 64 bits, keyed anew in every process, so that nobody can prepare names that collide.
    hashes = array("q")
    try:
        shard: list[ImageRef] = []
        for ref in itertools.chain(start, stream):
            shard.append(ref)
            hashes.append(hash(ref.image_id))
            if len(shard) == shard_size:
                writer.add(shard)
                shard = []
        if shard:
            writer.add(shard)
        writer.publish()
        _refuse_duplicates(hashes, out_url, storage, writer.parts)
    except BaseException:
        writer.remove()
        raise
    return PlanSummary(
        images=len(hashes),
        shards=sum(part.shards for part in writer.parts),
        shard_size=shard_size,
        parts=tuple(writer.parts),
    )


class _Writer:
    """The part that is being filled, in memory as compressed Parquet (some ten megabytes), and those published."""

    def __init__(self, out_url: str, storage: Storage, first_shard: int, plan_id: str, links: Links) -> None:
        self._out_url, self._storage, self._plan_id, self._links = out_url, storage, plan_id, links
        self._first_shard = first_shard
        self._begin()
        self.parts: list[PlanPart] = []

    def _begin(self) -> None:
        self._buffer = io.BytesIO()
        self._parquet: Any = None
        self._shards = self._images = 0

    def add(self, refs: Sequence[ImageRef]) -> None:
        """One shard as one row group."""
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(
                self._buffer,
                PLAN_SCHEMA,
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        self._links.add(self._first_shard + self._shards, refs)
        refs = [replace(ref, uri=without_secrets(ref.uri)) if "://" in ref.uri else ref for ref in refs]
        columns = [[getattr(ref, name) for ref in refs] for name in PLAN_SCHEMA.names]
        arrays = [pa.array(column, type=kind) for column, kind in zip(columns, PLAN_SCHEMA.types, strict=True)]
        self._parquet.write_table(pa.Table.from_arrays(arrays, schema=PLAN_SCHEMA), row_group_size=len(refs))
        self._shards += 1
        self._images += len(refs)
        if self._shards == SHARDS_PER_PART:
            self.publish()

    def publish(self) -> None:
        """Write the part at hand, if there is one, whole under its name."""
        if self._parquet is None:
            return
        self._parquet.close()
        data = self._buffer.getvalue()
        part = PlanPart(
            name=f"plan-{self._first_shard:05d}-{self._plan_id}.parquet",
            first_shard=self._first_shard,
            shards=self._shards,
            images=self._images,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        self._storage.publish(join(self._out_url, "plan", part.name), data)
        self.parts.append(part)
        self._first_shard += self._shards
        self._begin()

    def remove(self) -> None:
        """Take back what was published: nothing refers to it yet."""
        for part in self.parts:
            try:
                self._storage.delete(join(self._out_url, "plan", part.name))
            except OSError:
                # The error that led here says more; an unnamed part does no harm.
                return


def _refuse_duplicates(hashes: array[int], out_url: str, storage: Storage, parts: Sequence[PlanPart]) -> None:
    ordered = np.frombuffer(hashes, dtype=np.int64).copy() if len(hashes) else np.empty(0, np.int64)
    ordered.sort()
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    for start in range(0, len(suspects), _SUSPECTS):
        some = set(suspects[start : start + _SUSPECTS].tolist())
        seen: dict[str, str] = {}
        for ref in Plan.open(out_url, parts, storage):
            if hash(ref.image_id) not in some:
                continue
            if ref.image_id in seen:
                raise SourceError(_duplicate(ref.image_id, seen[ref.image_id], ref.uri, len(suspects)))
            seen[ref.image_id] = ref.uri


def _duplicate(image_id: str, first: str, second: str, count: int) -> str:
    more = f" (and {count - 1} more)" if count > 1 else ""
    if first == second:
        return f"{redact(first)!r} is listed twice{more}: leave one out"
    return (
        f"image_id {image_id!r} belongs to two images, {redact(first)!r} and {redact(second)!r}{more}: "
        "name a common parent folder as the source, or a list (CSV, JSONL or Parquet) with columns uri and image_id "
        "that gives each its own"
    )


def new_refs(refs: Iterable[ImageRef], plan: Plan) -> Iterator[ImageRef]:
    """Those images whose `image_id` the plan does not hold, in their order.

    An image is known by its `image_id` alone: one with a known id and another address is not new. Ids are compared by
    their digests, 16 bytes of memory per planned image. Two new images with one id both pass: `write_plan` refuses
    them.
    """
    held = plan.digests()
    held.sort()
    stream = iter(refs)
    while batch := list(itertools.islice(stream, _BATCH)):
        digests = digests_of([ref.image_id for ref in batch])
        if not len(held):
            yield from batch
            continue
        nearest = np.minimum(np.searchsorted(held, digests), len(held) - 1)
        for ref, known in zip(batch, (held[nearest] == digests).tolist(), strict=True):
            if not known:
                yield ref
