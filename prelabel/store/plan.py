"""The plan: the images of each shard, stored as Parquet files in which each row group is a shard.

    OUT/plan/plan-00000-1a2b3c4d.parquet      row group 0 = shard 0, row group 1 = shard 1, ...
    OUT/plan/plan-01000-1a2b3c4d.parquet      row group 0 = shard 1000, ...

A plan is written part by part while the source is being listed, and read one shard at a time: neither the driver nor a
worker ever holds all of it. `run.json` names the files of a run's plan. A file never changes: `--add-new` appends
parts, and `--changed` and `--gone` replace parts by others for the same shards (`plan_update.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import math
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.errors import SourceError, StoreError
from prelabel.image_ref import ImageRef
from prelabel.storage.address import Address, AddressLike, describe, redact, without_secrets
from prelabel.storage.files import Storage

if TYPE_CHECKING:
    from prelabel.store.links import Links

PLAN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("location", pa.string()),
        pa.field("revision", pa.int32()),
        pa.field("is_gone", pa.bool_()),
    ]
)

#: Columns that plans of earlier releases lack. Null stands for the default of `ImageRef`.
_OPTIONAL = {"location": None, "revision": 0, "is_gone": False}

#: Shards per file of the plan. The footer, which must be read before any shard, stays below a megabyte.
SHARDS_PER_PART = 1000

#: Without `--shard-size` the images are spread over at least this many shards, within the limits below: with fewer, a
#: small set would leave workers idle. A shard costs about 2.5 ms of CPU time whatever its size (2 for writing Parquet,
#: 0.5 for reading the plan); four images with a small model cost 100 ms.
_AUTOMATIC_SHARDS = 48
_SMALLEST, _LARGEST = 4, 512

#: Without `--shard-size` the last shards become smaller, so that all workers finish at nearly the same time: a shard
#: has at most a sixteenth of the images that are left, but at least 2, and at least a quarter of the first shard's.
#: This makes at most 24 shards more than equal ones would. With more and smaller shards, more than 16 workers would
#: finish close together, but a slow object store takes longer to publish a small shard than a detector to label it.
_PARTS_LEFT = 16
_PARTS_OF_FIRST, _SMALLEST_LAST = 4, 2

#: Number of equal hashes checked in one pass. In practice each is a real duplicate, and the first one ends the run.
_SUSPECTS = 1000

#: Folder of the plan in the output.
PLAN_FOLDER = "plan"

#: Number of footers that a `Plan` keeps in memory.
_FOOTERS = 8

#: Most images of a small part, which has about two megabytes, and number of small parts that a `Plan` keeps.
_SMALL_PART, _CONTENTS = 1 << 16, 2

#: Images per batch when the whole plan is read.
_BATCH = 8192


@dataclass(frozen=True, slots=True)
class PlanPart:
    """One file of a plan: its name in `plan/`, its shards (numbered from `first_shard` on), and its checksum."""

    name: str
    first_shard: int
    shards: int
    images: int
    sha256: str

    @property
    def is_small(self) -> bool:
        """Whether it is read as a whole, with one request."""
        return self.images <= _SMALL_PART


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The result of `write_plan`. `shard_size` is the number of images of the first shard, if there are enough."""

    images: int
    shards: int
    shard_size: int
    parts: tuple[PlanPart, ...]


def automatic_shard_size(images: int, views: int = 1) -> int:
    """Return the default number of images per shard.

    It depends on the number of images and on the settings only, so that shard names are the same everywhere:
    `ceil(images / 48)`, at least 4 and at most 512 divided by the number of views of an image. The last shards are
    smaller, see `shard_images`.
    """
    return min(max(math.ceil(images / _AUTOMATIC_SHARDS), _SMALLEST), max(_LARGEST // views, _SMALLEST))


def shard_images(left: int, size: int) -> int:
    """Return the number of images of the next shard of an automatic size, if so many images are left.

    >>> [shard_images(left, 64) for left in (5000, 1024, 1000, 512, 128, 20, 5)]
    [64, 64, 63, 32, 16, 16, 5]
    """
    smallest = max(_SMALLEST_LAST, size // _PARTS_OF_FIRST)
    return min(left, size, max(smallest, math.ceil(left / _PARTS_LEFT)))


def _shards(refs: Iterator[ImageRef], size: int, *, is_exact: bool) -> Iterator[list[ImageRef]]:
    """Divide images into shards, in their order. Unless `is_exact`, the last shards become smaller.

    It holds the images of one shard; unless `is_exact`, of `_PARTS_LEFT` shards, to know early that the end is near.
    """
    ahead: deque[ImageRef] = deque()
    most = size if is_exact else _PARTS_LEFT * size
    while True:
        ahead.extend(itertools.islice(refs, most - len(ahead)))
        if not ahead:
            return
        count = min(len(ahead), size) if is_exact else shard_images(len(ahead), size)
        yield [ahead.popleft() for _ in range(count)]


def write_plan(
    refs: Iterable[ImageRef],
    output: AddressLike,
    storage: Storage,
    *,
    shard_size: int | None,
    is_exact: bool = True,
    views: int = 1,
    first_shard: int = 0,
    plan_id: str,
    links: Links | None = None,
) -> PlanSummary:
    """Distribute images over shards in their order, and write the plan part by part.

    Args:
        refs: The images; consumed as a stream, keeping one hash per image.
        output: Root of the output.
        storage: Opens the output.
        shard_size: Images per shard; or None for `automatic_shard_size`, with smaller shards at the end.
        is_exact: Whether only the last shard may be smaller than a given `shard_size`. Otherwise it was an automatic
            size: no shard is larger, as `Plan.counts` requires, but there are smaller shards at the end.
        views: Usual number of views of an image, for `automatic_shard_size`.
        first_shard: Number of the first shard, above 0 if the parts extend a plan.
        plan_id: Eight hexadecimal digits in the file names, so that a new plan never overwrites one in use.
        links: Receives the full addresses; the plan stores them without passwords and signatures.

    Returns:
        Totals and parts; no file is written if there are no images.

    Raises:
        SourceError: Two images have the same `image_id`. The written parts are removed, as after any other failure.
        StoreError: A part cannot be written or read back.
    """
    if shard_size is not None and shard_size < 1:
        raise StoreError(f"shard_size must be at least 1, got {shard_size}")
    stream = iter(refs)
    start: list[ImageRef] = []
    if shard_size is None:
        is_exact = False
        start = list(itertools.islice(stream, _AUTOMATIC_SHARDS * _LARGEST))
        shard_size = automatic_shard_size(len(start), views)
    folder = Address.of_folder(output).join(PLAN_FOLDER)
    writer = PlanWriter(folder, storage, first_shard, plan_id, links)
    # Python's string hash has 64 bits and a random key per process, so that nobody can prepare names that collide.
    hashes = array("q")
    try:
        for shard in _shards(itertools.chain(start, stream), shard_size, is_exact=is_exact):
            hashes.extend(hash(ref.image_id) for ref in shard)
            writer.add(shard)
        writer.publish()
        _refuse_duplicates(hashes, output, storage, writer.parts)
    except BaseException:
        writer.remove()
        raise
    return PlanSummary(
        images=len(hashes),
        shards=sum(part.shards for part in writer.parts),
        shard_size=shard_size,
        parts=tuple(writer.parts),
    )


class PlanWriter:
    """Writes the parts of a plan. The current part is in memory, as compressed Parquet of about ten megabytes.

    Args:
        folder: Folder of the plan.
        storage: Opens the folder.
        first_shard: Number of the first shard.
        plan_id: Eight hexadecimal digits in the file names.
        links: Receives full addresses.

    Attributes:
        parts: The published parts.
    """

    def __init__(
        self, folder: Address, storage: Storage, first_shard: int, plan_id: str, links: Links | None = None
    ) -> None:
        self._folder, self._storage, self._plan_id, self._links = folder, storage, plan_id, links
        self._first_shard = first_shard
        self._begin()
        self.parts: list[PlanPart] = []

    def _begin(self) -> None:
        self._buffer = io.BytesIO()
        self._parquet: Any = None
        self._shards = self._images = 0

    def add(self, refs: Sequence[ImageRef]) -> None:
        """Write one shard as one row group."""
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(
                self._buffer,
                PLAN_SCHEMA,
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        stored = [without_secrets(ref.uri) for ref in refs]
        if self._links is not None:
            pairs = enumerate(zip(refs, stored, strict=True))
            full = {position: ref.uri for position, (ref, uri) in pairs if ref.uri != uri}
            self._links.add(self._first_shard + self._shards, full)
        columns = {name: [getattr(ref, name) for ref in refs] for name in PLAN_SCHEMA.names}
        columns["uri"] = stored
        for name, usual in _OPTIONAL.items():
            columns[name] = [None if value == usual else value for value in columns[name]]
        arrays = [pa.array(columns[field.name], type=field.type) for field in PLAN_SCHEMA]
        table = pa.Table.from_arrays(arrays, schema=PLAN_SCHEMA)
        self._parquet.write_table(table, row_group_size=max(1, len(refs)))  # a shard may have lost all its images
        self._shards += 1
        self._images += len(refs)
        if self._shards == SHARDS_PER_PART:
            self.publish()

    def publish(self) -> None:
        """Publish the current part, if there is one."""
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
        self._storage.publish(self._folder.join(part.name), data)
        self.parts.append(part)
        self._first_shard += self._shards
        self._begin()

    def remove(self) -> None:
        """Delete the published parts; nothing refers to them yet."""
        remove_parts(self.parts, self._folder.parent, self._storage)


def remove_parts(parts: Iterable[PlanPart], output: AddressLike, storage: Storage) -> None:
    """Delete parts that no `run.json` names, after an error that matters more than that they stay."""
    with contextlib.suppress(OSError):
        for part in parts:
            storage.delete(Address.of_folder(output).join(PLAN_FOLDER, part.name))


def _refuse_duplicates(hashes: array[int], output: AddressLike, storage: Storage, parts: Sequence[PlanPart]) -> None:
    """Raise SourceError if two images have the same id. Ids with equal hashes are read back from the plan."""
    ordered = np.frombuffer(hashes, dtype=np.int64).copy() if len(hashes) else np.empty(0, np.int64)
    ordered.sort()
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    for start in range(0, len(suspects), _SUSPECTS):
        hashes_to_check = set(suspects[start : start + _SUSPECTS].tolist())
        seen: dict[str, ImageRef] = {}
        for ref in Plan.open(output, parts, storage):
            if hash(ref.image_id) not in hashes_to_check:
                continue
            if ref.image_id in seen:
                raise SourceError(_duplicate(seen[ref.image_id], ref, len(suspects)))
            seen[ref.image_id] = ref


def _duplicate(first: ImageRef, second: ImageRef, count: int) -> str:
    """The error about two images with the same id, the first of so many."""
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    if first.uri == second.uri and first.location != second.location:
        return (
            f"{redact(first.uri)!r} is in its archive twice{more}: write the archive again with unique names (in "
            "TFRecord files: image/filename), or unpack it and label the folder"
        )
    if first.uri == second.uri:
        advice = "remove the duplicate" if first.location is None else "name its archive only once"
        return f"{redact(first.uri)!r} is listed twice{more}: {advice}"
    return (
        f"image_id {first.image_id!r} belongs to two images, {redact(first.uri)!r} and {redact(second.uri)!r}{more}: "
        "use a common parent folder as the source, or a list (CSV, JSONL or Parquet) with columns uri and image_id "
        "that gives each image a unique id"
    )


class Plan:
    """A stored plan, read one shard at a time. Thread-safe.

    Of a few parts, it keeps the footers in memory, and small parts as they are: reading them as a whole takes one
    request, while each shard of a large part takes two.
    """

    def __init__(self, output: AddressLike, parts: Sequence[PlanPart], storage: Storage) -> None:
        self._output, self._storage = Address.of_folder(output), storage
        self._folder = self._output.join(PLAN_FOLDER)
        self._parts = sorted(parts, key=lambda part: part.first_shard)
        self._starts = [part.first_shard for part in self._parts]
        self._footers: OrderedDict[str, Any] = OrderedDict()
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._lock, self._contents_lock = threading.Lock(), threading.Lock()

    @classmethod
    def open(cls, output: AddressLike, parts: Iterable[PlanPart], storage: Storage) -> Plan:
        """Open the plan that consists of these parts; no file is read yet.

        Raises:
            StoreError: A shard is missing from the parts, or duplicated.
        """
        plan = cls(output, tuple(parts), storage)
        expected = 0 if not plan._parts else plan._parts[0].first_shard
        for part in plan._parts:
            if part.first_shard != expected:
                raise StoreError(f"plan of {plan._output}: {part.name} must start at shard {expected}")
            expected += part.shards
        return plan

    @property
    def parts(self) -> Sequence[PlanPart]:
        """The files of the plan, in the order of their shards."""
        return tuple(self._parts)

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

    def counts(self, shards: npt.NDArray[np.int64], shard_size: int) -> npt.NDArray[np.int64]:
        """Return `(N,)` the number of images of each of `(N,)` shards, in ascending order.

        Parts whose shards are all full are not read.

        Args:
            shards: The numbers of the shards.
            shard_size: Most images of a shard, as in `run.json`.

        Raises:
            IndexError: There is no such shard.
            StoreError: The plan cannot be read.
        """
        counts = np.full(len(shards), shard_size, np.int64)
        for part, begin, end in self._by_part(shards):
            if part.images != part.shards * shard_size:
                counts[begin:end] = self._rows_of(part)[shards[begin:end] - part.first_shard]
        return counts

    def images_of(self, shards: npt.NDArray[np.int64], shard_size: int) -> int:
        """Return the number of images of some shards together, see `counts`. Of whole parts, nothing is read."""
        images = 0
        for part, begin, end in self._by_part(shards):
            is_whole = end - begin == part.shards
            images += part.images if is_whole else int(self.counts(shards[begin:end], shard_size).sum())
        return images

    def _by_part(self, shards: npt.NDArray[np.int64]) -> Iterator[tuple[PlanPart, int, int]]:
        """Yield each part that has some of these shards, and the range of their positions."""
        if len(shards):
            self._locate(int(shards[0]))
            self._locate(int(shards[-1]))
        bounds = np.searchsorted(shards, [*self._starts, self.shards + min(self._starts, default=0)])
        for part, (begin, end) in zip(self._parts, itertools.pairwise(bounds.tolist()), strict=True):
            if begin < end:
                yield part, begin, end

    def starts(self) -> npt.NDArray[np.int64]:
        """Return `(shards + 1,)` the number of images before each shard, and of all images."""
        return np.cumsum(np.concatenate([[0], *map(self._rows_of, self._parts)]))

    def _rows_of(self, part: PlanPart) -> npt.NDArray[np.int64]:
        """The number of images of each shard of a part."""
        with self._reading(part):
            footer = self._footer(part)
            return np.array([footer.row_group(n).num_rows for n in range(part.shards)], np.int64)

    def read(self, shard: int) -> list[ImageRef]:
        """Read the images of a shard, in their order.

        Raises:
            IndexError: There is no such shard.
            StoreError: The plan's file is missing or corrupt.
        """
        with self._row_group(shard) as rows:
            return list(_refs(rows))

    def ids_and_revisions(self, shard: int) -> tuple[list[str], list[int]]:
        """Read the ids of the images of a shard and their revisions, in their order.

        The other columns are read and checked, too, but without making an `ImageRef` per image.

        Raises:
            IndexError: There is no such shard.
            StoreError: The plan's file is missing or corrupt.
        """
        with self._row_group(shard) as rows:
            rows.validate(full=True)
            return list(_values(rows, "image_id")), list(_values(rows, "revision"))

    @contextlib.contextmanager
    def _row_group(self, shard: int) -> Iterator[pa.Table]:
        """The rows of a shard; errors of the block, too, become StoreErrors that name the file."""
        part, index = self._locate(shard)
        with self._reading(part):
            footer = self._footer(part)
            with self._open(part) as file, _parquet(file, footer) as parquet:
                yield parquet.read_row_group(index)

    def shards_of(self, part: PlanPart) -> Iterator[list[ImageRef]]:
        """Yield the images of each shard of a part, which is read in one request.

        Raises:
            StoreError: The plan's file is missing or corrupt.
        """
        with self._reading(part):
            footer = self._footer(part)
            data = io.BytesIO(self._storage.read(self._folder.join(part.name)))
            with _parquet(data, footer) as parquet:
                for index in range(part.shards):
                    yield list(_refs(parquet.read_row_group(index)))

    def __iter__(self) -> Iterator[ImageRef]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[ImageRef]]:
        """Yield all images in order, thousands at a time."""
        for batch in self._batches(PLAN_SCHEMA.names):
            yield list(_refs(batch))

    def digests(self) -> npt.NDArray[np.bytes_]:
        """Return `digests_of` the ids of all images, in order: 16 bytes per image."""
        return self._digests(batch.column("image_id").to_pylist() for batch in self._batches(["image_id"]))

    def address_digests(self) -> npt.NDArray[np.bytes_]:
        """Return `digests_of` the ids and addresses of all images, `{image_id}\\0{uri}`: 16 bytes per image."""
        batches = (batch.to_pydict() for batch in self._batches(["image_id", "uri"]))
        return self._digests(
            [f"{image_id}\0{uri}" for image_id, uri in zip(batch["image_id"], batch["uri"], strict=True)]
            for batch in batches
        )

    def _digests(self, batches: Iterable[list[str]]) -> npt.NDArray[np.bytes_]:
        digests = np.empty(self.images, dtype="S16")
        filled = 0
        for texts in batches:
            digests[filled : filled + len(texts)] = digests_of(texts)
            filled += len(texts)
        return digests

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        for part in self._parts:
            with self._reading(part):
                footer = self._footer(part)
                with self._open(part) as file, _parquet(file, footer) as parquet:
                    present = [name for name in columns if name in parquet.schema_arrow.names]
                    batches = parquet.iter_batches(batch_size=_BATCH, columns=present)
                    while (batch := next(batches, None)) is not None:
                        yield batch

    def _locate(self, shard: int) -> tuple[PlanPart, int]:
        position = bisect_right(self._starts, shard) - 1
        part = self._parts[position] if position >= 0 else None
        if part is None or shard >= part.first_shard + part.shards:
            raise IndexError(f"the plan has {self.shards} shards, got shard {shard}")
        return part, shard - part.first_shard

    def _open(self, part: PlanPart) -> Any:
        address = self._folder.join(part.name)
        if not part.is_small:
            # Small blocks: a shard is a few kilobytes in a file of megabytes.
            return self._storage.open(address, block_size=1 << 17)
        with self._contents_lock:
            if part.name not in self._contents:
                self._contents[part.name] = self._storage.read(address)
                while len(self._contents) > _CONTENTS:
                    self._contents.popitem(last=False)
            return io.BytesIO(self._contents[part.name])

    def _footer(self, part: PlanPart) -> Any:
        with self._lock:
            if part.name in self._footers:
                self._footers.move_to_end(part.name)
                return self._footers[part.name]
        with self._open(part) as file:
            footer = pq.read_metadata(file)
        if footer.num_row_groups != part.shards or footer.num_rows != part.images:
            actual = f"{footer.num_row_groups} shards with {footer.num_rows} images"
            raise pa.ArrowInvalid(f"{actual} instead of {part.shards} with {part.images}")
        columns = footer.schema.to_arrow_schema()
        if not columns.equals(pa.schema([field for field in PLAN_SCHEMA if _is_required(field, columns)])):
            raise pa.ArrowInvalid("its columns are not those of a plan")
        with self._lock:
            self._footers[part.name] = footer
            while len(self._footers) > _FOOTERS:
                self._footers.popitem(last=False)
        return footer

    @contextlib.contextmanager
    def _reading(self, part: PlanPart) -> Iterator[None]:
        """Convert errors on a part's file into a StoreError that names the file."""
        address = self._folder.join(part.name)
        advice = "restore it from a backup, or start again with --overwrite"
        try:
            yield
        except FileNotFoundError:
            raise StoreError(f"{address} is missing, but run.json names it: {advice}") from None
        # Arrow reports corrupt files as OSError, too, but so does storage that cannot be reached.
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise StoreError(f"{address} is corrupt ({describe(error)}): {advice}") from error
        except OSError as error:
            raise StoreError(f"{address} cannot be read ({describe(error)}): if it is corrupt, {advice}") from error


def digests_of(image_ids: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Return 128-bit digests of ids. Among a hundred million, any two are equal with a chance of about 1 in 10^22."""
    digests = b"".join(hashlib.blake2b(image_id.encode(), digest_size=16).digest() for image_id in image_ids)
    return np.frombuffer(digests, dtype="S16")


def _is_required(field: pa.Field, columns: pa.Schema) -> bool:
    return field.name not in _OPTIONAL or field.name in columns.names


def _parquet(file: Any, footer: Any) -> Any:
    return pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)


def _refs(rows: Any) -> Iterator[ImageRef]:
    return itertools.starmap(ImageRef, zip(*(_values(rows, name) for name in PLAN_SCHEMA.names), strict=True))


def _values(rows: Any, name: str) -> Sequence[Any]:
    if name not in _OPTIONAL:
        return rows.column(name).to_pylist()  # type: ignore[no-any-return]
    usual = _OPTIONAL[name]
    if name not in rows.schema.names or rows.column(name).null_count == rows.num_rows:
        return [usual] * rows.num_rows
    return [usual if value is None else value for value in rows.column(name).to_pylist()]
