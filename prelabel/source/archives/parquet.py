"""Parquet files with the bytes of images in a column, as Hugging Face's `datasets` writes them.

The column is binary, or a struct with the fields `bytes` and `path`. A listing reads the footer only. Each row is an
image, also one without bytes, which then fails. Reading goes row group by row group, and holds a page of the column.

The key of an image is its row, from 0; its location is `GROUP:ROW:SIZE:COLUMN`: the row group, the row in it, the size
of the file in bytes, and the column.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.errors import FetchError, first_of
from prelabel.source.archives.base import ArchiveFormat, Member
from prelabel.source.archives.ranges import RandomFile, SequentialView
from prelabel.source.file_checks import too_large
from prelabel.source.formats import IMAGE_EXTENSIONS, extension_of, extension_of_content
from prelabel.storage.address import describe
from prelabel.storage.retries import PATIENT_ATTEMPTS, retry

#: Bytes at the end of a file that are read first; most footers are shorter.
_TAIL = 1 << 16

#: Longest footer, and longest part of a column that is read at once, in bytes.
_LONGEST_FOOTER, _LONGEST_READ = 1 << 28, 1 << 31

#: Rows that are read from a column at a time. Pages of images hold few.
_ROWS = 4

#: Bytes of a column that the decoder requests at a time.
_BUFFER = 1 << 16

#: Number of footers that a process keeps: each shard of a file needs it.
_FOOTERS = 8

_LOCATION = re.compile(r"(\d{1,9}):(\d{1,12}):(\d{1,19}):(.+)", re.DOTALL)


def read_schema(file: RandomFile) -> pa.Schema:
    """The columns of a Parquet file. Raises FetchError if it is none, and OSError if storage fails."""
    return _schema_of(_footer_and_size(file)[0])


def _footer_and_size(file: RandomFile) -> tuple[Any, int]:
    size = retry(lambda: file.size, attempts=PATIENT_ATTEMPTS)
    return _footer(file, size, PATIENT_ATTEMPTS), size


def _schema_of(footer: Any) -> pa.Schema:
    try:
        return footer.schema.to_arrow_schema()
    except (pa.ArrowException, ValueError) as error:
        raise FetchError(f"its footer is damaged ({describe(error)})") from None


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that may hold the bytes of images: binary ones, and structs with a binary field `bytes`."""
    return [field.name for field in schema if _leaf(field) is not None]


def _leaf(field: pa.Field) -> str | None:
    """The path of the column with the bytes, or None if the field has none."""
    if pa.types.is_struct(field.type):
        index = field.type.get_field_index("bytes")
        return f"{field.name}.bytes" if index >= 0 and _is_binary(field.type.field(index).type) else None
    return field.name if _is_binary(field.type) else None


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def members(file: RandomFile, column: str | None) -> Iterator[Member]:
    """As in `ArchiveFormat`."""
    footer, size = _footer_and_size(file)
    schema = _schema_of(footer)
    columns = image_columns(schema)
    if column is None and len(columns) != 1:
        names = ", ".join(schema.names[:20])[:300]
        if not columns:
            raise FetchError(f"no column holds the bytes of images: the columns are {names}")
        raise FetchError(f"several columns may hold images ({first_of(columns, 10)}): choose with --image-column")
    name = columns[0] if column is None else column
    if name not in columns:
        others = f"these do: {first_of(columns, 10)}" if columns else "no column does"
        raise FetchError(f"column {name!r} does not hold the bytes of images; {others} (--image-column)")
    extension = _extension(file, footer, size, name)
    row = 0
    for group in range(footer.num_row_groups):
        for position in range(footer.row_group(group).num_rows):
            yield Member(str(row), None, f"{group}:{position}:{size}:{name}", file_name=f"{row}{extension}")
            row += 1


def _extension(file: RandomFile, footer: Any, size: int, column: str) -> str:
    """The extension of the paths or, without paths, of the first image: most files hold one format."""
    return _extension_of_paths(footer, f"{column}.path") or _extension_of_first(file, footer, size, column)


def _extension_of_paths(footer: Any, column: str) -> str:
    """The extension that the least and the greatest path have by the statistics of each row group, or ""."""
    extensions: set[str] = set()
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunks = (group.column(index) for index in range(group.num_columns))
        statistics = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
        if statistics is None or not statistics.has_min_max:
            return ""
        extensions.update(extension_of(str(path)) for path in (statistics.min, statistics.max))
    return extensions.pop() if len(extensions) == 1 and extensions <= IMAGE_EXTENSIONS else ""


def _extension_of_first(file: RandomFile, footer: Any, size: int, column: str) -> str:
    groups = range(footer.num_row_groups)
    group = next((number for number in groups if footer.row_group(number).num_rows), None)
    if group is None:
        return ""
    try:
        images = _Images(file, footer, size, group, column, PATIENT_ATTEMPTS)
        for row in range(min(_ROWS, footer.row_group(group).num_rows)):
            if data := images.take(row):
                return extension_of_content(data)
    except FetchError:
        return ""
    return ""


def _footer(file: RandomFile, size: int, attempts: int) -> Any:
    tail_start = max(0, size - _TAIL)
    tail = retry(lambda: file.read_at(tail_start, size - tail_start), attempts=attempts)
    length = int.from_bytes(tail[-8:-4], "little")
    if size < 12 or tail[-4:] != b"PAR1":
        raise FetchError("it is not a Parquet file, or its end is cut off")
    if length > min(_LONGEST_FOOTER, size - 12):
        raise FetchError(f"its footer is damaged: it has {length:,} bytes")
    if length + 8 > len(tail):
        start = size - 8 - length
        tail = retry(lambda: file.read_at(start, length + 8), attempts=attempts)
    try:
        return pq.read_metadata(pa.BufferReader(_as_file(tail[-8 - length :])))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FetchError(f"its footer is damaged ({describe(error)})") from None


def _as_file(footer: bytes) -> bytes:
    """A file of a footer alone: Arrow requires the mark at the beginning."""
    return b"PAR1" + footer


class _Images:
    """The images of a row group, read in order."""

    def __init__(self, file: RandomFile, footer: Any, size: int, group: int, column: str, attempts: int) -> None:
        self.place = (group, column)
        self.next_row = 0
        view = _KeepsError(SequentialView(file, attempts=attempts, most=_LONGEST_READ), size)
        self._view = view
        self._rows: list[Any] = []
        try:
            parquet = pq.ParquetFile(
                pa.PythonFile(view, mode="r"),
                metadata=footer,
                pre_buffer=False,
                buffer_size=_BUFFER,
                page_checksum_verification=True,
            )
            leaf = _leaf(footer.schema.to_arrow_schema().field(column))
            self._is_struct = leaf != column
            self._batches = parquet.iter_batches(
                batch_size=_ROWS, row_groups=[group], columns=[leaf], use_threads=False
            )
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise view.error or FetchError(f"its archive is damaged ({describe(error)})") from None

    def take(self, row: int) -> bytes | None:
        """The bytes of an image, None for null. Rows must ascend."""
        while True:
            if self._rows and row < self.next_row + len(self._rows):
                data: Any = self._rows[row - self.next_row]
                return None if data is None else bytes(data.as_buffer())
            self.next_row += len(self._rows)
            try:
                batch = next(self._batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._view.error or FetchError(f"its archive is damaged ({describe(error)})") from None
            if batch is None:
                raise FetchError("its archive is damaged: the row group has fewer rows than its footer says")
            values = batch.column(self.place[1])  # the path of a field may be the name of another column, too
            values = values.field("bytes") if self._is_struct else values
            self._rows = [value if value.is_valid else None for value in values]


class _KeepsError:
    """Tells an error of storage from one of the decoder: Arrow reports both as OSError."""

    closed = False

    def __init__(self, view: SequentialView, size: int) -> None:
        self._view, self._size = view, size
        self.error: Exception | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._view.read(size)
        except Exception as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._view.seek(self._size + offset) if whence == 2 else self._view.seek(offset, whence)

    def tell(self) -> int:
        return self._view.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing: the file is closed by its owner."""


class _OpenParquet:
    def __init__(self, file: RandomFile, attempts: int) -> None:
        self._file, self._attempts = file, attempts
        self._images: _Images | None = None

    def read(self, location: str, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
        match = _LOCATION.fullmatch(location)
        if match is None:
            raise FetchError(f"the plan's location {location[:80]!r} is not a location in a Parquet file")
        group, row, size, column = int(match[1]), int(match[2]), int(match[3]), match[4]
        self._file.on_bytes = on_bytes
        images, self._images = self._images, None  # lost if this fails: a stream cannot be continued
        if images is None or images.place != (group, column) or row < images.next_row:
            footer = _known_footer(self._file, size, self._attempts)
            if group >= footer.num_row_groups:
                raise FetchError(f"its archive has changed: it has {footer.num_row_groups} row groups")
            images = _Images(self._file, footer, size, group, column, self._attempts)
        data = images.take(row)
        self._images = images
        if data is None:
            raise FetchError(f"row {row} of row group {group} has no bytes in column {column!r}")
        if len(data) > max_bytes:
            raise too_large(len(data), max_bytes)
        return data

    def close(self) -> None:
        self._images = None
        self._file.close()


_footers: OrderedDict[tuple[str, str | None], Any] = OrderedDict()
_footers_lock = threading.Lock()


def _known_footer(file: RandomFile, size: int, attempts: int) -> Any:
    """The footer of a file, from memory if this process has read it at the same version."""
    key = (file.name, file.version)
    with _footers_lock:
        if file.version is not None and key in _footers:
            _footers.move_to_end(key)
            return _footers[key]
    footer = _footer(file, size, attempts)
    with _footers_lock:
        _footers[file.name, file.version] = footer
        while len(_footers) > _FOOTERS:
            _footers.popitem(last=False)
    return footer


def _reads_on(before: str, location: str) -> bool:
    """As in `ArchiveFormat`: in a row group, rows can only be read in their order; the next one follows it."""
    first, second = _LOCATION.fullmatch(before), _LOCATION.fullmatch(location)
    if first is None or second is None or first.group(3, 4) != second.group(3, 4):
        return False
    groups, rows = int(second[1]) - int(first[1]), int(second[2]) - int(first[2])
    return groups == 1 or (groups == 0 and rows > 0)


PARQUET = ArchiveFormat("parquet", members, _OpenParquet, _reads_on)
