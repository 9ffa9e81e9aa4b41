"""Shard files: write a shard as one Parquet file, read it, and summarize it as a `ShardRecord`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prelabel.detections import ClassName
from prelabel.errors import StoreError
from prelabel.storage.address import Address, AddressLike, describe
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import (
    FAILED,
    OPTIONAL_COLUMNS,
    SCHEMA_VERSION,
    SHARD_SCHEMA,
    STAGES,
    ImageRow,
    merge_tables,
    rows_to_table,
)

#: Small enough to read a few rows without decompressing all masks of a shard, large enough to compress well.
ROWS_PER_GROUP = 256

#: Columns with few distinct values. A dictionary would only make the others (masks, scores, hashes) larger.
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

#: Bytes per request to remote storage when only a few small columns are read.
_SHORT_READ = 1 << 16

#: What to do about a shard that is missing or corrupt.
_REPAIR = "run the same `prelabel label` or `prelabel fuse` command that made the run, to write it again"

#: The checksum in the record of a shard that was not read completely.
NO_CHECKSUM = "0" * 64

_RUN_ID = b"prelabel.run_id"
_SHARD = b"prelabel.shard"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The summary of one finished shard. `manifest.json` has one per shard; `ShardRecords` holds many.

    Attributes:
        shard: Number of the shard.
        rows: Number of rows.
        failed: Number of failed images.
        detections: Number of detections.
        bytes: Size of the file.
        sha256: Checksum of the file.
        failures: Number of failed images by error class.
        seconds: Seconds by stage, of the call that wrote the file. Rows kept from an earlier file do not count, if it
            is known which they are.
        dropped: Detections dropped because a number is not finite or the box has no area inside the image.
        views: Number of views of images that the detector saw; 0 in manifests of earlier releases.
        unnamed: Number of detections whose label is their class number, by that number. In `ShardRecords` only those
            of classes that the label map does not name.
    """

    shard: int
    rows: int
    failed: int
    detections: int
    bytes: int
    sha256: str
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    dropped: int = 0
    unnamed: Mapping[str, int] = field(default_factory=dict)
    views: int = 0

    @property
    def name(self) -> str:
        """Name of the file."""
        return shard_name(self.shard)

    def to_json(self) -> dict[str, Any]:
        """Return the shard's entry in `manifest.json`."""
        return {
            "shard": self.shard,
            "name": self.name,
            "rows": self.rows,
            "failed": self.failed,
            "detections": self.detections,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "failures": self.failures,
            "seconds": self.seconds,
            "dropped": self.dropped,
            "unnamed": self.unnamed,
            "views": self.views,
        }


#: Folder of the shards in the output.
SHARD_FOLDER = "shards"


def shard_name(shard: int) -> str:
    """Return the file name, `shard-00012.parquet`: the same on every machine and in every call."""
    return f"shard-{shard:05d}.parquet"


def shard_url(output: AddressLike, shard: int) -> Address:
    """Return the address of a shard's file."""
    return Address.of_folder(output).join(SHARD_FOLDER, shard_name(shard))


def write_shard(
    rows: Sequence[ImageRow],
    output: AddressLike,
    storage: Storage,
    *,
    shard: int,
    run_id: str,
    kept: pa.Table | None = None,
    image_ids: Sequence[str] | None = None,
) -> ShardRecord:
    """Encode rows in memory and publish them as the shard's file.

    Args:
        rows: The new rows, in plan order.
        output: Root of the run's output.
        storage: Opens the output.
        shard: Number of the shard.
        run_id: Id of the run, stored in the footer so that no run accepts a file of another one.
        kept: Rows of the existing file, for the images that have no new row.
        image_ids: All images of the shard in plan order; by default those of `rows`.

    Returns:
        The shard's record. Its seconds by stage are those of the new rows, and `write` for encoding and publishing the
        file.

    Raises:
        StoreError: The file cannot be written.
    """
    start = time.perf_counter()
    table = rows_to_table(rows)
    if kept is not None:
        table = merge_tables(kept, table, [row.image_id for row in rows] if image_ids is None else image_ids)
    record = write_table(table, output, storage, shard=shard, run_id=run_id)
    seconds = {stage: sum(row.seconds.get(stage, 0.0) for row in rows) for stage in STAGES}
    seconds["write"] = time.perf_counter() - start
    return replace(record, seconds={stage: round(value, 3) for stage, value in seconds.items()})


def write_table(table: pa.Table, output: AddressLike, storage: Storage, *, shard: int, run_id: str) -> ShardRecord:
    """Publish a table of `SHARD_SCHEMA` as the shard's file. The record's seconds are the sums over the table.

    Raises:
        StoreError: The file cannot be written.
    """
    data = encode_shard(table, shard=shard, run_id=run_id)
    storage.publish(shard_url(output, shard), data)
    return _record_of(shard, table, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def encode_shard(table: pa.Table, *, shard: int, run_id: str) -> bytes:
    """Return the file of a shard that holds a table of `SHARD_SCHEMA`."""
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
    return sink.getvalue()


def read_shard(url: AddressLike, storage: Storage, columns: Sequence[str] | None = None) -> Iterator[ImageRow]:
    """Yield the rows of one shard file, in order, with one row group in memory at a time.

    Args:
        url: Address of the file.
        storage: Opens the file.
        columns: Columns to read; all by default. Only `masks`, `multiclass_scores` (the largest ones) and columns for
            which `ImageRow` has a default may be omitted.

    Raises:
        StoreError: The file is missing, corrupt, or has another schema.
    """
    for batch in read_batches(url, storage, columns):
        yield from batch.rows()


def read_batches(
    url: AddressLike,
    storage: Storage,
    columns: Sequence[str] | None = None,
    positions: npt.NDArray[np.int64] | None = None,
) -> Iterator[DetectionBatch]:
    """Yield the same rows as batches of detections, of at most `ROWS_PER_GROUP` rows each.

    Args:
        url: Address of the file.
        storage: Opens the file.
        columns: See `read_shard`.
        positions: Ascending positions of the rows to read, from 0; all by default. Row groups without any are skipped.

    Raises:
        StoreError: See `read_shard`. The file has fewer rows than a position demands.
    """
    with _opened(url, storage) as parquet:
        present = frozenset(parquet.schema_arrow.names)
        names = [name for name in columns or SHARD_SCHEMA.names if name in present]
        batches = (
            parquet.iter_batches(batch_size=ROWS_PER_GROUP, columns=names, use_threads=False)
            if positions is None
            else _rows_at(parquet, names, positions, url)
        )
        for batch in batches:
            yield from DetectionBatch.from_arrow(batch).split()


def _rows_at(
    parquet: pq.ParquetFile, names: list[str], positions: npt.NDArray[np.int64], url: AddressLike
) -> Iterator[pa.RecordBatch]:
    """Yield the rows at ascending positions, from one row group at a time."""
    counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    starts = np.cumsum([0, *counts])
    if len(positions) and positions[-1] >= starts[-1]:
        raise StoreError(f"{url} has {starts[-1]:,} rows, fewer than the plan: check the run with `prelabel verify`")
    for group, (begin, end) in enumerate(itertools.pairwise(np.searchsorted(positions, starts).tolist())):
        if begin < end:
            rows = parquet.read_row_group(group, columns=names, use_threads=False)
            taken = rows.take(positions[begin:end] - starts[group]).combine_chunks()
            yield from taken.to_batches(max_chunksize=ROWS_PER_GROUP)


def read_classes(url: AddressLike, storage: Storage) -> set[ClassName]:
    """Return the classes of all detections of one shard file, from three small columns.

    Raises:
        StoreError: See `read_shard`.
    """
    names = ["classes", "labels", "mids"]
    classes: set[ClassName] = set()
    with _opened(url, storage) as parquet:
        for batch in parquet.iter_batches(columns=names, use_threads=False):
            columns = [batch[name].flatten() for name in names]
            if any(column.null_count for column in columns):
                raise pa.ArrowInvalid("a value of a detection is null")
            if len({len(column) for column in columns}) > 1:
                raise pa.ArrowInvalid("an image has different numbers of classes, labels and mids")
            # Grouping the rows of a table would import a quarter of a second of other packages.
            coded = [column.dictionary_encode() for column in columns]
            values = [column.dictionary.to_pylist() for column in coded]
            shape = [len(names) for names in values]
            if all(shape):
                codes = [column.indices.to_numpy() for column in coded]
                distinct = np.unravel_index(np.unique(np.ravel_multi_index(codes, shape)), shape)
                classes.update(
                    ClassName(*(names[code] for names, code in zip(values, of_class, strict=True)))
                    for of_class in zip(*(place.tolist() for place in distinct), strict=True)
                )
    return classes


@contextlib.contextmanager
def _opened(url: AddressLike, storage: Storage) -> Iterator[pq.ParquetFile]:
    """Open a shard file and check its schema; errors of the block, too, become StoreErrors that say what to do."""
    url = Address.of(url)
    try:
        with storage.open(url) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            check_schema(parquet.schema_arrow, url)
            yield parquet
    except FileNotFoundError:
        raise StoreError(f"{url} is missing: {_REPAIR}") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{url} cannot be read ({describe(error)}): if it is corrupt, {_REPAIR}") from None


def read_table(url: AddressLike, storage: Storage, without: Collection[str] = ()) -> pa.Table:
    """Return the rows of one shard file as a table, without some columns.

    Raises:
        StoreError: See `read_shard`.
    """
    with _opened(url, storage) as parquet:
        present = frozenset(parquet.schema_arrow.names)
        names = [name for name in SHARD_SCHEMA.names if name in present and name not in without]
        return parquet.read(columns=names, use_threads=False)


def first_row(
    record: ShardRecord, output: AddressLike, storage: Storage, condition: Callable[[ImageRow], bool]
) -> ImageRow | None:
    """Return the first row of a shard that fulfills a condition, without masks, keypoints and scores of all classes.

    Raises:
        StoreError: The shard is missing or corrupt.
    """
    columns = [name for name in SHARD_SCHEMA.names if name not in ("masks", "multiclass_scores", "keypoints")]
    return next(filter(condition, read_shard(shard_url(output, record.shard), storage, columns)), None)


def check_schema(schema: pa.Schema, url: Address) -> None:
    """Check that a file has the columns of `SHARD_SCHEMA`, in any order.

    Optional columns may be missing, and unknown columns of later releases are allowed.

    Raises:
        StoreError: A column is missing, duplicated or of another type.
    """
    count_of = Counter(schema.names)
    wrong = {name for name, count in count_of.items() if count > 1}
    for expected in SHARD_SCHEMA:
        count = count_of[expected.name]
        if count == 1 and schema.field(expected.name) != expected:
            wrong.add(expected.name)
        if count == 0 and expected.name not in OPTIONAL_COLUMNS:
            wrong.add(expected.name)
    if wrong:
        raise StoreError(f"{url} does not have the columns of a shard; different: {', '.join(sorted(wrong))}")


def shard_outcome(output: AddressLike, shard: int, storage: Storage, run_id: str) -> ShardRecord:
    """Read a shard's record from a few small columns, without its size and with `NO_CHECKSUM`.

    Raises:
        StoreError: The file is missing, corrupt, or has another schema or belongs to another run.
    """
    url = shard_url(output, shard)
    try:
        with storage.open(url, block_size=_SHORT_READ) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            schema = parquet.schema_arrow  # converted anew on each access
            check_schema(schema, url)
            if (parquet.metadata.metadata or {}).get(_RUN_ID) != run_id.encode():
                raise StoreError(f"{url} was written by another run")
            columns = ["status", "error_type", "scores", "seconds", "dropped", "views_shown"]
            present = frozenset(schema.names)
            table = parquet.read(columns=[name for name in columns if name in present], use_threads=False)
    except FileNotFoundError:
        raise StoreError(f"{url} is missing") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{url} cannot be read: {describe(error)}") from None
    return _record_of(shard, table, size=0, sha256=NO_CHECKSUM)


def _record_of(shard: int, table: pa.Table, *, size: int, sha256: str) -> ShardRecord:
    failed = table.filter(pc.equal(table["status"], FAILED))
    failures = Counter(failed["error_type"].to_pylist())
    seconds = table["seconds"].combine_chunks()
    dropped = pc.sum(_optional_column(table, "dropped")).as_py()
    more_views = pc.sum(pc.subtract(_optional_column(table, "views_shown"), 1)).as_py()
    return ShardRecord(
        shard=shard,
        rows=table.num_rows,
        failed=failed.num_rows,
        detections=int(np.sum(pc.list_value_length(table["scores"]).to_numpy())),
        bytes=size,
        sha256=sha256,
        failures={str(k): n for k, n in sorted(failures.items(), key=str)},
        seconds={s: round(pc.sum(seconds.field(s)).as_py() or 0.0, 3) for s in STAGES},
        dropped=dropped or 0,
        views=table.num_rows - failed.num_rows + (more_views or 0),
        unnamed=_labeled_by_number(table) if {"classes", "labels"}.issubset(table.column_names) else {},
    )


def _optional_column(table: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    """A column that files of earlier releases lack: then it has only nulls."""
    return table[name] if name in table.column_names else pa.nulls(table.num_rows, SHARD_SCHEMA.field(name).type)


def _labeled_by_number(table: pa.Table) -> dict[str, int]:
    numbers, labels = pc.list_flatten(table["classes"]), pc.list_flatten(table["labels"])
    if len(numbers) != len(labels):
        return {}  # a corrupt file
    numbers = pc.cast(numbers, pa.string())
    return dict(sorted(Counter(numbers.filter(pc.equal(numbers, labels)).to_pylist()).items()))


@dataclass(frozen=True, slots=True)
class ShardContent:
    """A completely read shard: its recomputed record, its run and its table."""

    record: ShardRecord
    run_id: str
    table: pa.Table


def load_shard(output: AddressLike, shard: int, storage: Storage) -> ShardContent:
    """Read a shard's file completely and recompute its record.

    Raises:
        StoreError: The file is missing, corrupt, or has another schema.
    """
    url = shard_url(output, shard)
    try:
        data = storage.read(url)
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        check_schema(parquet.schema_arrow, url)
        table = parquet.read()
    except FileNotFoundError:
        raise StoreError(f"{url} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{url} cannot be read: {describe(error)}") from None
    metadata = parquet.metadata.metadata or {}
    record = _record_of(shard, table, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return ShardContent(record=record, run_id=metadata.get(_RUN_ID, b"").decode("ascii", "replace"), table=table)
