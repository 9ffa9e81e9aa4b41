"""The records of a run's shards: held as columns, written and read as the lines of `manifest.json`.

A job holds a record for each shard that it has finished. As columns they take about 170 bytes each, so that one process
holds those of millions of shards; as objects they would take seven times as much.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from prelabel.store.rows import STAGES
from prelabel.store.shards import ShardRecord, shard_name

#: Stages whose seconds are kept.
_STAGES = (*STAGES, "write")

#: The counts of a record.
_COUNTS = ("rows", "failed", "detections", "bytes", "dropped", "views")

#: Counts that manifests of early releases lack.
_LATER_COUNTS = ("dropped", "views")

#: Number of slowest shards that are named.
_SLOWEST = 5

#: Bytes of a SHA-256 checksum.
_DIGEST = 32

#: Records that are written, parsed or made room for at once.
_BATCH = 4096


class ShardRecords(Mapping[int, ShardRecord]):
    """The records of shards by number, in ascending order.

    Args:
        named: The class numbers that the label map names, as text: their detections are left out of `unnamed`. None if
            the model itself names its classes: then all are.
    """

    def __init__(self, named: frozenset[str] | None = frozenset()) -> None:
        self._named = named
        self._is_present = bytearray()
        self._counts = {name: array("q") for name in _COUNTS}
        self._digests = bytearray()
        self._seconds = {stage: array("d") for stage in _STAGES}  # NaN if there are none
        self._failures, self._unnamed = _CountsByName(), _CountsByName()
        self._len = 0

    @classmethod
    def of(cls, records: Iterable[ShardRecord]) -> ShardRecords:
        """These records. Raises ValueError if a checksum is not one."""
        shards = cls()
        for record in records:
            shards.add(record)
        return shards

    def add(self, record: ShardRecord) -> None:
        """Add a record, or replace the one of the same shard. Raises ValueError if its checksum is not one."""
        shard = record.shard
        digest = _digests([record.sha256])
        self._make_room(shard + 1)
        self._len += not self._is_present[shard]
        self._is_present[shard] = 1
        for name, column in self._counts.items():
            column[shard] = getattr(record, name)
        self._digests[_DIGEST * shard : _DIGEST * (shard + 1)] = digest
        for stage, of_stage in self._seconds.items():
            of_stage[shard] = record.seconds.get(stage, np.nan)
        self._failures.set(shard, record.failures)
        named, unnamed = self._named, record.unnamed
        self._unnamed.set(shard, {} if named is None else {n: unnamed[n] for n in unnamed if n not in named})

    def add_missing(self, others: ShardRecords) -> None:
        """Add the records of `others` for shards that have none here."""
        for record in others.each():
            if record.shard not in self:
                self.add(record)

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers.tolist())

    def __contains__(self, shard: object) -> bool:
        return isinstance(shard, int) and 0 <= shard < len(self._is_present) and bool(self._is_present[shard])

    def __getitem__(self, shard: int) -> ShardRecord:
        if shard not in self:
            raise KeyError(shard)
        (record,) = self._slice(shard, shard + 1)
        return record

    def _slice(self, first: int, end: int) -> Iterator[ShardRecord]:
        """Yield the records of a range of shards, of which none is missing."""
        counts = zip(*(self._counts[name][first:end] for name in _COUNTS), strict=True)
        seconds = zip(*(of_stage[first:end] for of_stage in self._seconds.values()), strict=True)
        digests = self._digests[_DIGEST * first : _DIGEST * end].hex()
        failures, unnamed = self._failures.slice(first, end), self._unnamed.slice(first, end)
        for shard, (rows, failed, detections, size, dropped, views), of_stages in zip(
            range(first, end), counts, seconds, strict=True
        ):
            begin = 2 * _DIGEST * (shard - first)
            yield ShardRecord(
                shard,
                rows,
                failed,
                detections,
                size,
                digests[begin : begin + 2 * _DIGEST],
                failures.get(shard, {}),
                # NaN is not equal to itself.
                {stage: value for stage, value in zip(_STAGES, of_stages, strict=True) if value == value},
                dropped,
                unnamed.get(shard, {}),
                views,
            )

    def _slices(self) -> Iterator[Iterator[ShardRecord]]:
        """Yield the records in order, some thousand at a time."""
        numbers = self.numbers
        gaps = np.flatnonzero(np.diff(numbers) > 1) + 1
        for part in np.split(numbers, gaps):
            for begin in range(0, len(part), _BATCH):
                piece = part[begin : begin + _BATCH]
                yield self._slice(int(piece[0]), int(piece[-1]) + 1)

    def each(self) -> Iterator[ShardRecord]:
        """Yield the records in order; faster than `values`."""
        return itertools.chain.from_iterable(self._slices())

    def __repr__(self) -> str:
        return f"<records of {len(self):,} shards>"

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """`(len,)` the numbers of the shards, ascending."""
        return np.flatnonzero(np.frombuffer(self._is_present, np.uint8))

    def counts(self, name: str) -> npt.NDArray[np.int64]:
        """`(len,)` a count of each shard: `rows`, `failed`, `detections`, `bytes`, `dropped` or `views`."""
        return np.frombuffer(self._counts[name], np.int64)[self.numbers]

    def failed_with(self, name: str) -> npt.NDArray[np.int64]:
        """`(len,)` the number of images of each shard that failed with an error class."""
        return self._failures.of(name, len(self._is_present))[self.numbers]

    def slowest(self) -> dict[str, float]:
        """The seconds of the slowest shards, summed over stages, by file name; slowest first."""
        numbers, seconds = self.numbers, np.zeros(len(self))
        for of_stage in self._seconds.values():
            seconds += np.nan_to_num(np.frombuffer(of_stage, np.float64)[numbers])
        first = np.argsort(-seconds, kind="stable")[:_SLOWEST]
        return {shard_name(int(numbers[n])): round(float(seconds[n]), 3) for n in first}

    def seconds_by_stage(self) -> dict[str, float]:
        """The seconds of each stage that any shard has, summed over shards."""
        columns = {stage: np.frombuffer(column, np.float64)[self.numbers] for stage, column in self._seconds.items()}
        return {s: float(np.nansum(column)) for s, column in columns.items() if not np.isnan(column).all()}

    def first_failed(self) -> dict[str, int]:
        """The first shard with an image that failed, by error class."""
        return self._failures.first_shards()

    def unnamed(self) -> Counter[str]:
        """Number of detections whose label is their class number, by that number."""
        return self._unnamed.totals()

    def totals(self) -> dict[str, Any]:
        """Number of shards, and the sum of each count over them; of failures, by error class, too."""
        sums = {name: int(self.counts(name).sum()) for name in ("rows", "failed", "detections", "dropped")}
        sums |= {name: int(self.counts(name).sum()) for name in ("bytes", "views")}
        return {"shards": len(self), **sums, "failures": dict(sorted(self._failures.totals().items()))}

    def lines(self) -> Iterator[bytes]:
        """Yield the records as JSON, a line for each with a comma between them, some thousand at a time."""
        separator = b""
        for records in self._slices():
            yield separator + b",\n".join(_dumped(record.to_json()) for record in records)
            separator = b",\n"

    def add_entries(self, entries: Sequence[Any]) -> None:
        """Add records as parsed from JSON. Their numbers continue those of the records that are here.

        Unknown keys are ignored: later releases may have more.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, OverflowError: They are invalid.
        """
        first = len(self)
        if [entry["shard"] for entry in entries] != list(range(first, first + len(entries))):
            raise ValueError(f"it does not name each of the shards from {first} on once, in their order")
        for name, column in self._counts.items():
            is_later = name in _LATER_COUNTS
            column.extend(_checked([entry.get(name, 0) if is_later else entry[name] for entry in entries], "iu"))
        self._digests += _digests([entry["sha256"] for entry in entries])
        for stage, of_stage in self._seconds.items():
            of_stage.extend(_checked([entry["seconds"].get(stage, np.nan) for entry in entries], "iuf"))
        for counts, key in ((self._failures, "failures"), (self._unnamed, "unnamed")):
            by_shard = {shard: by_name for shard, entry in enumerate(entries, first) if (by_name := entry.get(key))}
            _checked([count for by_name in by_shard.values() for count in by_name.values()], "iu")
            counts.make_room(first + len(entries))
            for shard, by_name in by_shard.items():
                counts.set(shard, by_name)
        self._is_present += b"\1" * len(entries)
        self._len += len(entries)

    def _make_room(self, shards: int) -> None:
        missing = shards - len(self._is_present)
        if missing <= 0:
            return
        missing = max(missing, len(self._is_present) // 8)  # so that records added one by one are rarely copied
        self._is_present += bytes(missing)
        self._digests += bytes(_DIGEST * missing)
        for column in self._counts.values():
            column.frombytes(bytes(column.itemsize * missing))
        for of_stage in self._seconds.values():
            of_stage.frombytes(bytes(of_stage.itemsize * missing))
        for counts in (self._failures, self._unnamed):
            counts.make_room(len(self._is_present))


class _CountsByName:
    """Numbers by name for each of many shards, most of which have few or none."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        # The entries of each shard follow each other. Those whose shard has got others since do not count.
        self._shards, self._names, self._counts = array("q"), array("i"), array("q")
        self._starts, self._lengths = array("q"), array("i")

    def make_room(self, shards: int) -> None:
        for column in (self._starts, self._lengths):
            column.frombytes(bytes(column.itemsize * max(0, shards - len(column))))

    def set(self, shard: int, counts: Mapping[str, int]) -> None:
        """Set the numbers of a shard, for which there is room, in place of those it had."""
        self._starts[shard], self._lengths[shard] = len(self._shards), len(counts)
        for name, count in counts.items():
            self._shards.append(shard)
            self._names.append(self._number_of.setdefault(name, len(self._number_of)))
            self._counts.append(count)

    def slice(self, first: int, end: int) -> dict[int, dict[str, int]]:
        """The numbers of those of a range of shards that have any, by shard."""
        if not any(self._lengths[first:end]):
            return {}
        names = list(self._number_of)
        return {
            shard: {names[self._names[n]]: self._counts[n] for n in range(start, start + length)}
            for shard, start, length in zip(
                range(first, end), self._starts[first:end], self._lengths[first:end], strict=True
            )
            if length
        }

    def totals(self) -> Counter[str]:
        """The sums over all shards."""
        _, names, counts = self._entries()
        sums = np.zeros(len(self._number_of), np.int64)
        np.add.at(sums, names, counts)
        has_any = np.bincount(names, minlength=len(sums)) > 0
        return Counter({name: n for name, n, has in zip(self._number_of, sums.tolist(), has_any, strict=True) if has})

    def of(self, name: str, shards: int) -> npt.NDArray[np.int64]:
        """`(shards,)` the number of each shard for a name."""
        of_shard = np.zeros(shards, np.int64)
        owners, names, counts = self._entries()
        is_name = names == self._number_of.get(name, -1)
        of_shard[owners[is_name]] = counts[is_name]
        return of_shard

    def first_shards(self) -> dict[str, int]:
        """The lowest shard that has each name."""
        owners, names, _ = self._entries()
        first = np.full(len(self._number_of), np.iinfo(np.int64).max)
        np.minimum.at(first, names, owners)
        has_any = np.bincount(names, minlength=len(first)) > 0
        return {name: n for name, n, has in zip(self._number_of, first.tolist(), has_any, strict=True) if has}

    def _entries(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Shard, number of the name and count of each entry that counts."""
        shards, names = np.frombuffer(self._shards, np.int64), np.frombuffer(self._names, np.int32)
        starts, lengths = np.frombuffer(self._starts, np.int64), np.frombuffer(self._lengths, np.int32)
        place = np.arange(len(shards)) - starts[shards]
        counts = (place >= 0) & (place < lengths[shards])
        return shards[counts], names[counts], np.frombuffer(self._counts, np.int64)[counts]


def _digests(sha256: Sequence[str]) -> bytes:
    """The bytes of checksums, one after the other. Raises ValueError or TypeError if one is not a checksum."""
    digests = bytes.fromhex("".join(sha256))  # ignores spaces, so each has its length only if there are none
    if len(digests) != _DIGEST * len(sha256) or any(len(text) != 2 * _DIGEST for text in sha256):
        raise ValueError("a checksum does not have 64 hexadecimal digits")
    return digests


def _checked(values: list[Any], kinds: str) -> list[Any]:
    """The same numbers. Raises ValueError if some are not numbers of these kinds (of numpy), or negative."""
    array = np.array(values)
    if len(values) and (array.dtype.kind not in kinds or array.ndim != 1 or (array < 0).any()):
        raise ValueError("a count or a time is not a number of 0 or more")
    return values


def _dumped(values: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(values)
    except TypeError:  # orjson refuses an unpaired surrogate in a name
        return json.dumps(values).encode()
