"""Reading a stored plan: a shard at a time, or all of it as a stream."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.errors import StoreError
from prelabel.image_ref import ImageRef
from prelabel.storage import Storage, describe, join, redact

PLAN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("version", pa.string()),
    ]
)

#: Footers kept in memory by one `Plan`.
_FOOTERS = 8

#: Images read at a time when all are.
_BATCH = 8192


@dataclass(frozen=True, slots=True)
class PlanPart:
    """One file of a plan: its name under `plan/`, its shards `first_shard, first_shard + 1, ...`, its checksum."""

    name: str
    first_shard: int
    shards: int
    images: int
    sha256: str


class Plan:
    """A stored plan, read a shard at a time. Safe to use from several threads; holds some footers, never the rows."""

    def __init__(self, out_url: str, parts: Sequence[PlanPart], storage: Storage) -> None:
        self._out_url, self._storage = out_url, storage
        self._parts = sorted(parts, key=lambda part: part.first_shard)
        self._starts = [part.first_shard for part in self._parts]
        self._footers: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, out_url: str, parts: Iterable[PlanPart], storage: Storage) -> Plan:
        """The plan made of these parts; their files are first touched when they are read.

        Raises:
            StoreError: The parts leave out shards or hold some twice.
        """
        plan = cls(out_url, tuple(parts), storage)
        expected = 0 if not plan._parts else plan._parts[0].first_shard
        for part in plan._parts:
            if part.first_shard != expected:
                raise StoreError(f"plan of {redact(out_url)}: {part.name} must start at shard {expected}")
            expected += part.shards
        return plan

    @property
    def shards(self) -> int:
        """Number of shards."""
        return sum(part.shards for part in self._parts)

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(part.images for part in self._parts)

    def count(self, shard: int) -> int:
        """Number of images in a shard."""
        part, index = self._locate(shard)
        with self._reading(part):
            return int(self._footer(part).row_group(index).num_rows)

    def read(self, shard: int) -> list[ImageRef]:
        """The images of a shard, in their order.

        Raises:
            IndexError: There is no such shard.
            StoreError: Its file is missing or damaged.
        """
        part, index = self._locate(shard)
        with self._reading(part):
            footer = self._footer(part)
            with self._open(part) as file, _parquet(file, footer) as parquet:
                return list(_refs(parquet.read_row_group(index)))

    def __iter__(self) -> Iterator[ImageRef]:
        for batch in self._batches(PLAN_SCHEMA.names):
            yield from _refs(batch)

    def image_ids(self) -> Iterator[list[str]]:
        """The ids of all images in order, some thousands at a time."""
        for batch in self._batches(["image_id"]):
            yield batch.column("image_id").to_pylist()

    def digests(self) -> npt.NDArray[np.bytes_]:
        """`digests_of` the ids of all images, in order: 16 bytes each."""
        return self._digests(self.image_ids())

    def address_digests(self) -> npt.NDArray[np.bytes_]:
        """`digests_of` what names each image and where it is, `{image_id}\\0{uri}`, in order: 16 bytes each."""
        batches = (batch.to_pydict() for batch in self._batches(["image_id", "uri"]))
        return self._digests(
            [f"{image_id}\0{uri}" for image_id, uri in zip(batch["image_id"], batch["uri"], strict=True)]
            for batch in batches
        )

    def _digests(self, batches: Iterable[list[str]]) -> npt.NDArray[np.bytes_]:
        found = np.empty(self.images, dtype="S16")
        filled = 0
        for texts in batches:
            found[filled : filled + len(texts)] = digests_of(texts)
            filled += len(texts)
        return found

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        for part in self._parts:
            with self._reading(part):
                footer = self._footer(part)
                with self._open(part) as file, _parquet(file, footer) as parquet:
                    batches = parquet.iter_batches(batch_size=_BATCH, columns=list(columns))
                    while (batch := next(batches, None)) is not None:
                        yield batch

    def _locate(self, shard: int) -> tuple[PlanPart, int]:
        position = bisect_right(self._starts, shard) - 1
        part = self._parts[position] if position >= 0 else None
        if part is None or shard >= part.first_shard + part.shards:
            raise IndexError(f"the plan has {self.shards} shards, got shard {shard}")
        return part, shard - part.first_shard

    def _open(self, part: PlanPart) -> Any:
        # Small reads: a shard is some kilobytes of a file of megabytes.
        return self._storage.open(join(self._out_url, "plan", part.name), block_size=1 << 17)

    def _footer(self, part: PlanPart) -> Any:
        with self._lock:
            if part.name in self._footers:
                self._footers.move_to_end(part.name)
                return self._footers[part.name]
        with self._open(part) as file:
            footer = pq.read_metadata(file)
        if footer.num_row_groups != part.shards or footer.num_rows != part.images:
            raise pa.ArrowInvalid(
                f"{footer.num_row_groups} shards of {footer.num_rows} images, {part.shards} of {part.images} expected"
            )
        if not footer.schema.to_arrow_schema().equals(PLAN_SCHEMA):
            raise pa.ArrowInvalid("other columns than a plan has")
        with self._lock:
            self._footers[part.name] = footer
            while len(self._footers) > _FOOTERS:
                self._footers.popitem(last=False)
        return footer

    @contextlib.contextmanager
    def _reading(self, part: PlanPart) -> Iterator[None]:
        """What goes wrong with a part's file inside the block becomes a StoreError that names it."""
        shown = redact(join(self._out_url, "plan", part.name))
        advice = "put it back from a copy, or start anew with --overwrite"
        try:
            yield
        except FileNotFoundError:
            raise StoreError(f"{shown} is missing, although run.json names it: {advice}") from None
        # Arrow reports damage as OSError too, and a store that cannot be reached is no damage.
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise StoreError(f"{shown} is damaged ({describe(error)}): {advice}") from error
        except OSError as error:
            raise StoreError(f"{shown} cannot be read ({describe(error)}): if it is damaged, {advice}") from error


def digests_of(image_ids: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """128-bit digests of ids, of which two of a hundred million are equal with a chance of 1 in 10^22."""
    digests = b"".join(hashlib.blake2b(image_id.encode(), digest_size=16).digest() for image_id in image_ids)
    return np.frombuffer(digests, dtype="S16")


def _parquet(file: Any, footer: Any) -> Any:
    return pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)


def _refs(rows: Any) -> Iterator[ImageRef]:
    return itertools.starmap(ImageRef, zip(*(rows.column(name).to_pylist() for name in PLAN_SCHEMA.names), strict=True))
