"""One shard is one Parquet file: written whole, read back row by row, summed up in a `ShardRecord`."""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prelabel.errors import StoreError
from prelabel.storage import Storage, describe, join, redact
from prelabel.store.rows import ImageRow, rows_to_table, table_to_rows
from prelabel.store.schema import FAILED, OPTIONAL_COLUMNS, SCHEMA_VERSION, SHARD_SCHEMA, STAGES

#: Small enough that a reader of a few columns or rows does not unpack a whole shard of masks, large enough to compress.
ROWS_PER_GROUP = 256

#: Columns of few distinct values; the others (masks, scores, hashes) only grow by a dictionary.
_DICTIONARY_COLUMNS = [
    "status",
    "error_type",
    "error_stage",
    "labels.list.element",
    "mids.list.element",
    "classes.list.element",
    "detector",
    "model_version",
]

#: Bytes a reader of a few small columns fetches at once from a remote store.
_SHORT_READ = 1 << 16

_RUN_ID = b"prelabel.run_id"
_SHARD = b"prelabel.shard"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What one finished shard reports: small enough to hold one of each in the driver and in `manifest.json`.

    `dropped` counts detections left out because a number of theirs was not finite, or their box has no size inside the
    image. `unnamed` counts those that are called by their class number, by that number; in a manifest only those of
    classes that the label map does not have. Its `seconds` by stage are those of the call that wrote the file, where
    it is known what that took over.
    """

    shard: int
    name: str
    rows: int
    failed: int
    detections: int
    bytes: int
    sha256: str
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    dropped: int = 0
    unnamed: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in `manifest.json`."""
        return asdict(self)

    def with_names(self, numbers: Collection[int] | None) -> ShardRecord:
        """The same beside a label map that has classes of these numbers; None where the network names its classes."""
        named = None if numbers is None else set(map(str, numbers))
        unnamed = {} if named is None else {number: n for number, n in self.unnamed.items() if number not in named}
        return replace(self, unnamed=unnamed)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShardRecord:
        """The record of a manifest's entry. Raises StoreError for one with other keys."""
        try:
            return cls(**values)
        except TypeError:
            raise StoreError(f"manifest.json: not a shard record: {str(values)[:80]}") from None


def shard_name(shard: int) -> str:
    """`shard-00012.parquet`: the same number, the same name, on every machine and in every rerun."""
    return f"shard-{shard:05d}.parquet"


def shard_url(output: str, shard: int) -> str:
    """Address of a shard's file below the output root."""
    return join(output, "shards", shard_name(shard))


def write_shard(
    rows: Sequence[ImageRow],
    output: str,
    storage: Storage,
    *,
    shard: int,
    run_id: str,
    taken_over: Collection[str] = (),
) -> ShardRecord:
    """Encode rows in memory and publish them whole as the shard's file.

    Args:
        rows: The rows in plan order.
        output: Root of the run's output.
        storage: Opens the output.
        shard: Its number.
        run_id: Identity of the run, kept in the footer so that a later run never takes over a foreign file.
        taken_over: Ids of images whose rows stood in the file before, as they are.

    Returns:
        The shard's record; its seconds are what was spent now, by stage: that of the rows that were not taken over, and
        `write`, encoding and publishing the file.

    Raises:
        StoreError: It cannot be written.
    """
    start = time.perf_counter()
    record = write_table(rows_to_table(rows), output, storage, shard=shard, run_id=run_id)
    fresh = [row for row in rows if row.image_id not in taken_over]
    seconds = {stage: sum(row.seconds.get(stage, 0.0) for row in fresh) for stage in STAGES}
    seconds["write"] = time.perf_counter() - start
    return replace(record, seconds={stage: round(value, 3) for stage, value in seconds.items()})


def write_table(table: pa.Table, output: str, storage: Storage, *, shard: int, run_id: str) -> ShardRecord:
    """The same from a table of `SHARD_SCHEMA`; the record's seconds are those that stand in the table.

    Raises:
        StoreError: It cannot be written.
    """
    metadata = {"prelabel.schema_version": str(SCHEMA_VERSION), _RUN_ID: run_id, _SHARD: str(shard)}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=_DICTIONARY_COLUMNS,
        write_statistics=["image_id", "status", "height", "width"],
        store_schema=True,
        write_page_checksum=True,
    )
    data = sink.getvalue()
    storage.publish(shard_url(output, shard), data)
    return _record_of(shard, table, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def read_shard(url: str, storage: Storage, columns: Sequence[str] | None = None) -> Iterator[ImageRow]:
    """Rows of one shard file, in order, a row group in memory at a time.

    Args:
        url: Address of the file.
        storage: Opens it.
        columns: Leave out the costly columns that are not wanted (`masks`, `multiclass_scores`), or others for which
            `ImageRow` has a default; all others are read.

    Raises:
        StoreError: The file is missing, damaged, or of another schema.
    """
    try:
        with storage.open(url) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            check_schema(parquet.schema_arrow, url)
            names = [name for name in columns or SHARD_SCHEMA.names if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=ROWS_PER_GROUP, columns=names, use_threads=False):
                yield from table_to_rows([batch])
    except FileNotFoundError:
        raise StoreError(f"{redact(url)} is missing; the same `prelabel label` command makes it again") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{redact(url)} cannot be read ({describe(error)}): if it is damaged, the same `prelabel label` command "
            "makes it again"
        ) from None


def failure_example(record: ShardRecord, error_type: str, output: str, storage: Storage) -> str:
    """The first image of a shard that failed with an error class, and what was wrong with it. Raises StoreError."""
    columns = [name for name in SHARD_SCHEMA.names if name not in ("masks", "multiclass_scores")]
    rows = read_shard(shard_url(output, record.shard), storage, columns)
    row = next(row for row in rows if row.error_type == error_type)
    return f"{row.image_id}: {row.error}"


def dropped_example(record: ShardRecord, output: str, storage: Storage) -> str:
    """The first image of a shard with detections that were left out. Raises StoreError."""
    columns = [name for name in SHARD_SCHEMA.names if name not in ("masks", "multiclass_scores")]
    rows = read_shard(shard_url(output, record.shard), storage, columns)
    return next((row.image_id for row in rows if row.dropped), "")


def check_schema(schema: pa.Schema, url: str) -> None:
    """Raise StoreError unless a file has the columns of `SHARD_SCHEMA`, in any order.

    Optional ones may be missing; those of a later release may stand beside them.
    """
    wrong = [wanted.name for wanted in SHARD_SCHEMA if not _fits(schema, wanted)]
    wrong += {name for name in schema.names if schema.names.count(name) > 1}
    if wrong:
        raise StoreError(f"{redact(url)} is not a shard of this version: differing {', '.join(sorted(set(wrong)))}")


def _fits(schema: pa.Schema, wanted: pa.Field) -> bool:
    if wanted.name not in schema.names:
        return wanted.name in OPTIONAL_COLUMNS
    return schema.names.count(wanted.name) == 1 and bool(schema.field(wanted.name) == wanted)


def shard_outcome(output: str, shard: int, storage: Storage, run_id: str) -> ShardRecord:
    """What became of a shard's images, read from a few small columns; its size and hash are not looked at.

    Raises:
        StoreError: Missing, damaged, of another schema or of another run.
    """
    url = shard_url(output, shard)
    try:
        with storage.open(url, block_size=_SHORT_READ) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            check_schema(parquet.schema_arrow, url)
            if (parquet.metadata.metadata or {}).get(_RUN_ID) != run_id.encode():
                raise StoreError(f"{redact(url)} was written by another run")
            columns = ["status", "error_type", "scores", "seconds", "dropped"]
            table = parquet.read(columns=[name for name in columns if name in parquet.schema_arrow.names])
    except FileNotFoundError:
        raise StoreError(f"{redact(url)} is missing") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{redact(url)} cannot be read: {describe(error)}") from None
    return _record_of(shard, table, size=0, sha256="")


def _record_of(shard: int, table: pa.Table, *, size: int, sha256: str) -> ShardRecord:
    failed = table.filter(pc.equal(table["status"], FAILED))
    failures = Counter(failed["error_type"].to_pylist())
    seconds = table["seconds"].combine_chunks()
    dropped = pc.sum(table["dropped"]).as_py() if "dropped" in table.column_names else None
    return ShardRecord(
        shard=shard,
        name=shard_name(shard),
        rows=table.num_rows,
        failed=failed.num_rows,
        detections=int(np.sum(pc.list_value_length(table["scores"]).to_numpy())),
        bytes=size,
        sha256=sha256,
        failures={str(k): n for k, n in sorted(failures.items(), key=str)},
        seconds={s: round(pc.sum(seconds.field(s)).as_py() or 0.0, 3) for s in STAGES},
        dropped=dropped or 0,
        unnamed=_called_by_number(table) if {"classes", "labels"}.issubset(table.column_names) else {},
    )


def _called_by_number(table: pa.Table) -> dict[str, int]:
    numbers, labels = pc.list_flatten(table["classes"]), pc.list_flatten(table["labels"])
    if len(numbers) != len(labels):
        return {}  # of a damaged file
    numbers = pc.cast(numbers, pa.string())
    return dict(sorted(Counter(numbers.filter(pc.equal(numbers, labels)).to_pylist()).items()))


@dataclass(frozen=True, slots=True)
class ShardContent:
    """A whole shard as read for checking: its record as recomputed, its run, its table."""

    record: ShardRecord
    run_id: str
    table: pa.Table


def load_shard(output: str, shard: int, storage: Storage) -> ShardContent:
    """Read a shard's file whole and recompute its record from what is in it.

    Raises:
        StoreError: Missing, damaged or of another schema.
    """
    url = shard_url(output, shard)
    try:
        data = storage.read(url)
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        check_schema(parquet.schema_arrow, url)
        table = parquet.read()
    except FileNotFoundError:
        raise StoreError(f"{redact(url)} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{redact(url)} cannot be read: {describe(error)}") from None
    metadata = parquet.metadata.metadata or {}
    record = _record_of(shard, table, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return ShardContent(record=record, run_id=metadata.get(_RUN_ID, b"").decode("ascii", "replace"), table=table)
