"""Lists of images: `.txt`, `.csv`, `.jsonl`, `.parquet` and COCO datasets, read as streams.

    photos.txt                 photos.csv                          photos.jsonl
    a.jpg                      uri,image_id                        {"uri": "a.jpg"}
    s3://bucket/b.jpg          a.jpg,                              {"uri": "s3://bucket/b.jpg", "image_id": "b"}
    /data/c.jpg                s3://bucket/b.jpg,b                 {"uri": "/data/c.jpg"}

- `.txt` has one path or URL per line. There are no comments: a file name may begin with `#` or a space. Empty lines are
  skipped.
- The columns of a CSV file are separated by commas, semicolons, tabs or `|`.
- The other lists have a column `uri` and optionally `image_id`; an empty `image_id` counts as missing. Further columns
  are ignored. A COCO dataset provides `images[].file_name`.
- A relative entry is a file name below `image_root`, by default the folder of the list, and is also the `image_id`. For
  a web server it is percent-encoded to make the URL. The `image_id` of an absolute entry is its address without scheme,
  user, password and, on the web, query.
- If URLs in a list differ only in their queries (`img?id=1`, `img?id=2`), the names and `image_id`s of those with a
  query end in a digest of it (`img-d9fc91d45c09`, `a-d9fc91d45c09.jpg`). Signatures in queries do not count, so a list
  that is signed again names the same images. With `--add-new`, images already in the plan keep their names even if
  the list now has others that differ only in the query.
- A list on a web server must not name local files.

`list_columns` reads the same files, but COCO datasets, for lists of other things: their lines, or the columns it names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import posixpath
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.errors import SourceError
from prelabel.image_ref import ImageRef
from prelabel.mapping_files import unique
from prelabel.source.formats import IMAGE_EXTENSIONS
from prelabel.source.json_stream import JsonStreamError, array_items
from prelabel.storage.address import SCHEME, Address, describe, is_http, is_local, protocol_of, redact, without_secrets
from prelabel.storage.files import Storage, is_known_protocol

LIST_EXTENSIONS = frozenset((".txt", ".csv", ".jsonl", ".parquet"))

#: Longest line in bytes. Without a limit, a file without line ends would be read into memory completely.
_LONGEST_LINE = 1 << 20

#: Largest Parquet list on a web server, in bytes. It is read completely, since web servers need not serve byte ranges.
_LARGEST_WEB_PARQUET = 1 << 30

_CHUNK = 1 << 20
_BATCH_ROWS = 16_384
_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")

#: The columns of a list of images: the second one is optional.
_COLUMNS = ("uri", "image_id")

# Position in the list (`line 7`), value of the first column, value of the second or "".
_Entry = tuple[str, str, str]


def list_entries(
    address: Address,
    storage: Storage,
    *,
    image_root: Address | None = None,
    on_query: Callable[[], None] = lambda: None,
    on_read: Callable[[], None] = lambda: None,
) -> Iterator[ImageRef]:
    """Yield the images of a list or COCO dataset, in its order.

    The list is read twice: URLs that differ only in their queries must be known before the first image.

    Args:
        address: The list; its extension determines the format.
        storage: Opens the list.
        image_root: Folder of relative entries; by default the folder of the list.
        on_query: Called for each image that differs from another only by its query.
        on_read: Called for each piece of the list that is read. May raise to stop.

    Raises:
        SourceError: The list cannot be read, or an entry is invalid; the message names the file and position.
        OSError: Storage failed.
    """
    extension = posixpath.splitext(path_of_url(address.url))[1].lower()
    read = _READERS[extension]
    list_name = str(address)
    resolve = _resolver(image_root or _folder_of(address), from_web=address.is_http)
    ambiguous = _ambiguous_paths(read(address, storage, on_read), resolve)
    reachable: set[str] = set()
    for position, entry, image_id in read(address, storage, on_read):
        try:
            uri, path = resolve(entry)
        except ValueError as error:
            raise SourceError(f"{list_name}: {position}: {error}") from None
        protocol = protocol_of(uri)
        if protocol not in reachable:
            # Report a missing extra now rather than once per image.
            storage.filesystem(uri)
            reachable.add(protocol)
        if not image_id and hash(path) in ambiguous and (query := _query(uri)):
            path = _with_digest(path, query)
            on_query()
        if not path.isascii():
            require_unicode(path, f"{list_name}: {position}")
        if image_id and not image_id.isascii():
            require_unicode(image_id, f"{list_name}: {position}")
        yield ImageRef(image_id or path, uri, path)


def list_columns(address: Address, storage: Storage, columns: tuple[str, str]) -> Iterator[_Entry]:
    """Yield the position of each entry in a list (`line 7`) and its values in two columns, in the list's order.

    Args:
        address: The list, with one of the `LIST_EXTENSIONS`. A `.txt` list has only the first column.
        storage: Opens the list.
        columns: The names of both columns. The list must have the first; a missing value of the second is `""`.

    Raises:
        SourceError: The list cannot be read, or an entry is invalid; the message names the file and position.
        OSError: Storage failed.
    """
    extension = posixpath.splitext(path_of_url(address.url))[1].lower()
    return _READERS[extension](address, storage, lambda: None, columns)


def _ambiguous_paths(entries: Iterable[_Entry], resolve: Callable[[str], tuple[str, str]]) -> frozenset[int]:
    """Hashes of the paths shared by URLs whose queries differ. URLs with an `image_id` do not count.

    Needs 16 bytes of memory per URL.
    """
    paths, queries = array("q"), array("q")
    for _, entry, image_id in entries:
        if image_id or not is_http(entry):
            continue
        try:
            uri, path = resolve(entry)
        except ValueError:
            continue  # reported in the second pass
        paths.append(hash(path))
        queries.append(hash(_query(uri)))
    if not paths:
        return frozenset()
    order = np.lexsort((np.frombuffer(queries, np.int64), np.frombuffer(paths, np.int64)))
    sorted_paths, sorted_queries = np.frombuffer(paths, np.int64)[order], np.frombuffer(queries, np.int64)[order]
    differ = (sorted_paths[1:] == sorted_paths[:-1]) & (sorted_queries[1:] != sorted_queries[:-1])
    return frozenset(sorted_paths[1:][differ].tolist())


def alternative_id(ref: ImageRef) -> str | None:
    """The other `image_id` that an image without an explicit one may get: with or without the digest of its query.

    It depends on whether the list has further URLs that differ only in the query.

    Returns:
        The other id, or None if the image always gets the same one.
    """
    query, path = _query(ref.uri), path_of_url(ref.uri)
    if not query:
        return None
    names = (path, _with_digest(path, query))
    return names[1 - names.index(ref.image_id)] if ref.image_id in names else None


def _query(uri: str) -> str:
    """The query of a URL, without secrets."""
    return without_secrets(uri).partition("#")[0].partition("?")[2] if is_http(uri) else ""


def _with_digest(path: str, query: str) -> str:
    digest = hashlib.sha256(query.encode(errors="surrogatepass")).hexdigest()[:12]
    stem, extension = posixpath.splitext(path)
    return f"{stem}-{digest}{extension}" if extension.lower() in IMAGE_EXTENSIONS else f"{path}-{digest}"


def path_of_url(url: str) -> str:
    """An absolute address as a path: without scheme, leading slash, user, password and, on the web, query."""
    url = without_secrets(url)
    scheme = SCHEME.match(url)
    path = url[scheme.end() :] if scheme else url
    if is_http(url):
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    return path.lstrip("/")


def require_unicode(name: str, location: str) -> None:
    """Raise SourceError for a name that cannot be stored since it is not valid Unicode (unpaired surrogates).

    Args:
        name: The name.
        location: Where the name was found, for the message.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{location}: the name {name!r} is not valid Unicode and cannot be stored") from None


def _folder_of(address: Address) -> Address:
    """The folder of a list. The query of a URL is not part of it."""
    return Address.of(address.url.partition("?")[0]).parent if address.is_http else address.parent


def _resolver(root: Address, *, from_web: bool) -> Callable[[str], tuple[str, str]]:
    """Make a function from an entry to its address and path. It raises ValueError, with a reason, if invalid."""
    web, local, below_root = root.is_http, root.is_local, root.url

    def resolve(entry: str) -> tuple[str, str]:
        if entry.startswith("/") or SCHEME.match(entry):
            if not is_known_protocol(protocol_of(entry)):
                raise ValueError(f"unknown protocol {protocol_of(entry)}:// in {redact(entry)[:200]!r}")
            if from_web and is_local(entry):
                raise ValueError(f"a list on a web server must not name the local file {entry[:200]!r}")
            path = path_of_url(entry)
            if not path:
                raise ValueError(f"{redact(entry)[:200]!r} names no file")
            return entry, path
        if not entry:
            raise ValueError("the path or URL is empty")
        below = quote(entry) if web else entry
        uri = f"{below_root}/{below}"
        if not local and _DOTS.search(entry):
            # Object stores and web servers do not resolve `..`.
            start = uri.find("://") + 3
            uri = uri[:start] + posixpath.normpath(uri[start:])
        return uri, entry

    return resolve


def _lines(address: Address, storage: Storage, on_read: Callable[[], None]) -> Iterator[bytes]:
    """Yield the lines of a file with their line ends, reading it in large chunks."""
    rest, number = b"", 0
    with storage.open(address) as file:
        while chunk := file.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                on_read()
                yield line + b"\n"
            number += len(lines)
            if len(rest) > _LONGEST_LINE:
                raise SourceError(f"{address}: line {number + 1}: longer than {_LONGEST_LINE:,} bytes")
    if rest:
        yield rest


def _text_lines(address: Address, storage: Storage, on_read: Callable[[], None]) -> Iterator[str]:
    for number, line in enumerate(_lines(address, storage, on_read), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{address}: line {number}: not UTF-8 ({error.reason})") from None
        # Some programs write a byte order mark at the start of UTF-8 files.
        yield text.removeprefix("\ufeff") if number == 1 else text


def _read_txt(
    address: Address, storage: Storage, on_read: Callable[[], None], columns: tuple[str, str] = _COLUMNS
) -> Iterator[_Entry]:
    for number, line in enumerate(_text_lines(address, storage, on_read), start=1):
        entry = line.removesuffix("\n").removesuffix("\r")
        if entry and not entry.isspace():
            yield f"line {number}", entry, ""


def _read_csv(
    address: Address, storage: Storage, on_read: Callable[[], None], columns: tuple[str, str] = _COLUMNS
) -> Iterator[_Entry]:
    lines = _text_lines(address, storage, on_read)
    first_line = next(lines, "")
    delimiter = _delimiter_of(first_line, columns[0])
    reader = csv.reader(itertools.chain([first_line], lines), delimiter=delimiter, strict=True)
    list_name = str(address)
    try:
        header = next(reader, [])
        names = [name.strip() for name in header]
        if columns[0] not in names:
            raise SourceError(f"{list_name}: line 1: must name a column {columns[0]}, got {str(header[:10])[:200]}")
        _require_unique_columns(names, columns, f"{list_name}: line 1")
        first, second = names.index(columns[0]), names.index(columns[1]) if columns[1] in names else None
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise SourceError(
                    f"{list_name}: line {reader.line_num}: has {len(row)} columns, but the first line has {len(names)}"
                )
            yield f"line {reader.line_num}", row[first], "" if second is None else row[second]
    except csv.Error as error:
        raise SourceError(f"{list_name}: line {reader.line_num}: invalid CSV: {error}") from None


def _delimiter_of(header: str, column: str) -> str:
    """The first delimiter that yields a column of this name in a header; spreadsheets of many countries write `;`."""
    for delimiter in ",;\t|":
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            continue  # reported when the file is read
        if column in map(str.strip, names):
            return delimiter
    return ","


def _read_jsonl(
    address: Address, storage: Storage, on_read: Callable[[], None], columns: tuple[str, str] = _COLUMNS
) -> Iterator[_Entry]:
    list_name = str(address)
    for number, line in enumerate(_text_lines(address, storage, on_read), start=1):
        if line.isspace():
            continue
        position = f"line {number}"
        try:
            values = json.loads(line, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{list_name}: {position}: invalid JSON: {describe(error)}") from None
        first, second = columns
        if not isinstance(values, dict) or not isinstance(values.get(first), str):
            raise SourceError(
                f'{list_name}: {position}: expected an object with a string "{first}", got {line.strip()[:80]!r}'
            )
        value = values.get(second)
        if not isinstance(value, str | None):
            raise SourceError(f'{list_name}: {position}: "{second}" must be a string, got {value!r:.80}')
        yield position, values[first], value or ""


def _read_parquet(
    address: Address, storage: Storage, on_read: Callable[[], None], columns: tuple[str, str] = _COLUMNS
) -> Iterator[_Entry]:
    list_name = str(address)
    try:
        with _seekable(address, storage) as file, pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            first, second = columns
            if first not in names:
                images = " or one with the bytes of images (binary)" if columns == _COLUMNS else ""
                raise SourceError(f"{list_name}: must have a column {first}{images}, got {', '.join(names[:10])[:200]}")
            _require_unique_columns(names, columns, list_name)
            present = [name for name in columns if name in names]
            row = 0
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=present):
                on_read()
                entries = _strings(batch, first, list_name)
                values: Iterable[str | None] = (
                    _strings(batch, second, list_name) if len(present) == 2 else [""] * len(entries)
                )
                for entry, value in zip(entries, values, strict=True):
                    row += 1
                    if entry is None:
                        raise SourceError(f"{list_name}: row {row}: the {first} is null")
                    yield f"row {row}", entry, value or ""
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{list_name}: not a readable Parquet file: {describe(error)}") from error


def _require_unique_columns(names: list[str], columns: tuple[str, str], location: str) -> None:
    for name in columns:
        if names.count(name) > 1:
            raise SourceError(f"{location}: {names.count(name)} columns are named {name}: keep only one")


def _seekable(address: Address, storage: Storage) -> Any:
    if not address.is_http:
        return storage.open(address)
    with storage.open(address) as file:
        data = bytearray()
        while chunk := file.read(_CHUNK):
            data += chunk
            if len(data) > _LARGEST_WEB_PARQUET:
                raise SourceError(
                    f"{address}: a Parquet list on a web server is limited to {_LARGEST_WEB_PARQUET:,} bytes"
                )
    return io.BytesIO(data)


def _strings(batch: pa.RecordBatch, name: str, list_name: str) -> list[str | None]:
    column = batch.column(name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise SourceError(f"{list_name}: {name} must be a string column, got {column.type}")
    values: list[str | None] = column.to_pylist()
    return values


def _read_coco(
    address: Address, storage: Storage, on_read: Callable[[], None], columns: tuple[str, str] = _COLUMNS
) -> Iterator[_Entry]:
    list_name = str(address)
    with storage.open(address) as file:

        def read(size: int) -> bytes:
            on_read()
            return file.read(size)  # type: ignore[no-any-return]

        try:
            for index, image in enumerate(array_items(read, "images")):
                if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
                    raise SourceError(f'{list_name}: images[{index}]: must be an object with a string "file_name"')
                yield f"images[{index}]", image["file_name"], ""
        except JsonStreamError as error:
            raise SourceError(f"{list_name}: not a COCO dataset: {error}") from None


_READERS = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".json": _read_coco,
}
