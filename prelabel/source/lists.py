"""Lists of images: `.txt`, `.csv`, `.jsonl`, `.parquet` and COCO datasets, read as streams.

    photos.txt                 photos.csv                          photos.jsonl
    a.jpg                      uri,image_id                        {"uri": "a.jpg"}
    s3://bucket/b.jpg          a.jpg,                              {"uri": "s3://bucket/b.jpg", "image_id": "b"}
    /data/c.jpg                s3://bucket/b.jpg,b                 {"uri": "/data/c.jpg"}

- `.txt` holds one address per line, nothing else: a file name may begin with `#` or a space. Empty lines are skipped.
- The others have a column `uri` and optionally `image_id`; an empty `image_id` counts as not given. More columns do
  no harm. A COCO dataset gives `images[].file_name`.
- A relative entry is a file name below `image_root`, else below the folder of the list, and is its own `image_id`; on
  a web server it is percent-encoded on the way into the address. An absolute entry's `image_id` is its address without
  scheme, without user and password, and without query on the web.
- Where web addresses of a list differ in their query only (`img?id=1`, `img?id=2`), name and `image_id` of those with a
  query end in a digest of it (`img-d9fc91d45c09`, `a-d9fc91d45c09.jpg`). Signatures in queries do not count, so that
  a list that was signed anew names the same images.
  `--add-new` leaves images of the plan their names, though the list may have got others that differ in their query.
- A list from a web server may name nothing on the local disk.
"""

from __future__ import annotations

import csv
import hashlib
import io
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
from prelabel.mapping_files import once
from prelabel.source.endings import IMAGE_EXTENSIONS
from prelabel.source.json_stream import JsonStreamError, array_items
from prelabel.storage import (
    Storage,
    absolute,
    describe,
    is_http,
    is_known,
    is_local,
    protocol_of,
    redact,
    without_secrets,
)

LIST_EXTENSIONS = frozenset((".txt", ".csv", ".jsonl", ".parquet"))

#: A longer line is no address; without a limit a file without line ends would be read into memory whole.
_LONGEST_LINE = 1 << 20

#: A Parquet list on a web server is read whole, since such servers need not serve parts of a file.
_LARGEST_WEB_PARQUET = 1 << 30

_CHUNK = 1 << 20
_BATCH_ROWS = 16_384
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")

# The place in the list (`line 7`), the entry, and its image_id or "".
_Entry = tuple[str, str, str]


def list_entries(
    url: str,
    storage: Storage,
    *,
    image_root: str | None = None,
    on_query: Callable[[], None] = lambda: None,
    on_read: Callable[[], None] = lambda: None,
) -> Iterator[ImageRef]:
    """The images that a list or COCO dataset names, in its order.

    It is read twice: which addresses differ in their query only has to be known before the first image.

    Args:
        url: The list; its extension tells its format.
        storage: Where the list is.
        image_root: Folder of relative entries; by default the folder of the list.
        on_query: Called for each image whose query tells it from another.
        on_read: Called for each piece of the list that is read, whatever is in it; may raise to end it.

    Raises:
        SourceError: The list cannot be read, or an entry is not usable; the message names file and place.
        OSError: The store failed.
    """
    extension = posixpath.splitext(identity_of(url))[1].lower()
    read = {".txt": _txt, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".json": _coco}[extension]
    shown = redact(url)
    root = absolute(image_root) if image_root else url.partition("?")[0].rpartition("/")[0] if is_http(url) else ""
    resolve = _resolver(root or url.rpartition("/")[0], from_web=is_http(url))
    ambiguous = _ambiguous(read(url, storage, on_read), resolve)
    reachable: set[str] = set()
    for place, entry, image_id in read(url, storage, on_read):
        try:
            uri, path = resolve(entry)
        except ValueError as error:
            raise SourceError(f"{shown}: {place}: {error}") from None
        protocol = protocol_of(uri)
        if protocol not in reachable:
            # A missing extra is told now, not by every image of the run.
            storage.filesystem(uri)
            reachable.add(protocol)
        if not image_id and hash(path) in ambiguous and (query := _query(uri)):
            path = _with_digest(path, query)
            on_query()
        if not path.isascii():
            check_text(path, f"{shown}: {place}")
        if image_id and not image_id.isascii():
            check_text(image_id, f"{shown}: {place}")
        yield ImageRef(image_id or path, uri, path)


def _ambiguous(entries: Iterable[_Entry], resolve: Callable[[str], tuple[str, str]]) -> frozenset[int]:
    """Hashes of the paths that web addresses without an `image_id` share, although their queries differ.

    Holds 16 bytes for each of those addresses.
    """
    paths, queries = array("q"), array("q")
    for _, entry, image_id in entries:
        if image_id or not is_http(entry):
            continue
        try:
            uri, path = resolve(entry)
        except ValueError:
            continue  # is said when it comes to be its turn
        paths.append(hash(path))
        queries.append(hash(_query(uri)))
    if not paths:
        return frozenset()
    order = np.lexsort((np.frombuffer(queries, np.int64), np.frombuffer(paths, np.int64)))
    sorted_paths, sorted_queries = np.frombuffer(paths, np.int64)[order], np.frombuffer(queries, np.int64)[order]
    differ = (sorted_paths[1:] == sorted_paths[:-1]) & (sorted_queries[1:] != sorted_queries[:-1])
    return frozenset(sorted_paths[1:][differ].tolist())


def other_name(ref: ImageRef) -> str | None:
    """What a list with more or fewer addresses would name an image that it gives no `image_id`, or None: the same."""
    query, path = _query(ref.uri), identity_of(ref.uri)
    if not query:
        return None
    names = (path, _with_digest(path, query))
    return names[1 - names.index(ref.image_id)] if ref.image_id in names else None


def _query(uri: str) -> str:
    """The query of a web address, without what is secret in it."""
    return without_secrets(uri).partition("#")[0].partition("?")[2] if is_http(uri) else ""


def _with_digest(path: str, query: str) -> str:
    digest = hashlib.sha256(query.encode(errors="surrogatepass")).hexdigest()[:12]
    stem, ending = posixpath.splitext(path)
    return f"{stem}-{digest}{ending}" if ending.lower() in IMAGE_EXTENSIONS else f"{path}-{digest}"


def identity_of(url: str) -> str:
    """An absolute address as a path: without scheme, leading slash, user and password, and query on the web."""
    url = without_secrets(url)
    scheme = _SCHEME.match(url)
    path = url[scheme.end() :] if scheme else url
    if is_http(url):
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    return path.lstrip("/")


def check_text(name: str, where: str) -> None:
    """Raise SourceError for a name that is not Unicode text (unpaired surrogates) and so cannot be stored."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{where}: the name {name!r} is not valid Unicode and cannot be stored") from None


def _resolver(root: str, *, from_web: bool) -> Callable[[str], tuple[str, str]]:
    """How an entry becomes its address and its path; raises ValueError that says what is wrong with the entry."""
    web = is_http(root)
    local = is_local(root)

    def resolve(entry: str) -> tuple[str, str]:
        if entry.startswith("/") or _SCHEME.match(entry):
            if not is_known(entry):
                raise ValueError(f"unknown kind of address {protocol_of(entry)}:// in {redact(entry)[:200]!r}")
            if from_web and is_local(entry):
                raise ValueError(f"a list from the web may not name the local file {entry[:200]!r}")
            path = identity_of(entry)
            if not path:
                raise ValueError(f"{redact(entry)[:200]!r} names no file")
            return entry, path
        if not entry:
            raise ValueError("the address is empty")
        below = quote(entry) if web else entry
        uri = f"{root}/{below}"
        if not local and _DOTS.search(entry):
            # Object stores and web servers know no `..`.
            start = root.find("://") + 3
            uri = uri[:start] + posixpath.normpath(uri[start:])
        return uri, entry

    return resolve


def _lines(url: str, storage: Storage, on_read: Callable[[], None]) -> Iterator[bytes]:
    """The lines of a file with their ends, read in large pieces."""
    kept = b""
    number = 0
    with storage.open(url) as file:
        while True:
            chunk = file.read(_CHUNK)
            if not chunk:
                break
            lines = (kept + chunk).split(b"\n")
            kept = lines.pop()
            for line in lines:
                on_read()
                yield line + b"\n"
            number += len(lines)
            if len(kept) > _LONGEST_LINE:
                raise SourceError(f"{redact(url)}: line {number + 1}: longer than {_LONGEST_LINE} bytes")
    if kept:
        yield kept


def _text_lines(url: str, storage: Storage, on_read: Callable[[], None]) -> Iterator[str]:
    for number, line in enumerate(_lines(url, storage, on_read), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{redact(url)}: line {number}: not UTF-8 ({error.reason})") from None
        # Some programs mark the start of UTF-8 files.
        yield text.removeprefix("\ufeff") if number == 1 else text


def _txt(url: str, storage: Storage, on_read: Callable[[], None]) -> Iterator[_Entry]:
    for number, line in enumerate(_text_lines(url, storage, on_read), start=1):
        entry = line.removesuffix("\n").removesuffix("\r")
        if entry and not entry.isspace():
            yield f"line {number}", entry, ""


def _csv(url: str, storage: Storage, on_read: Callable[[], None]) -> Iterator[_Entry]:
    reader = csv.reader(_text_lines(url, storage, on_read), strict=True)
    shown = redact(url)
    try:
        header = next(reader, [])
        names = [name.strip() for name in header]
        if "uri" not in names:
            raise SourceError(f"{shown}: line 1: the first line must name a column uri, got {str(header[:10])[:200]}")
        _require_one_each(names, f"{shown}: line 1")
        uri, image_id = names.index("uri"), names.index("image_id") if "image_id" in names else None
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise SourceError(
                    f"{shown}: line {reader.line_num}: {len(row)} columns where the first line has {len(names)}"
                )
            yield f"line {reader.line_num}", row[uri], "" if image_id is None else row[image_id]
    except csv.Error as error:
        raise SourceError(f"{shown}: line {reader.line_num}: not CSV: {error}") from None


def _jsonl(url: str, storage: Storage, on_read: Callable[[], None]) -> Iterator[_Entry]:
    shown = redact(url)
    for number, line in enumerate(_text_lines(url, storage, on_read), start=1):
        if line.isspace():
            continue
        place = f"line {number}"
        try:
            values = json.loads(line, object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{shown}: {place}: not JSON: {describe(error)}") from None
        if not isinstance(values, dict) or not isinstance(values.get("uri"), str):
            raise SourceError(f'{shown}: {place}: must be an object with a text "uri", got {line.strip()[:80]!r}')
        image_id = values.get("image_id")
        if not isinstance(image_id, str | None):
            raise SourceError(f'{shown}: {place}: "image_id" must be text, got {image_id!r:.80}')
        yield place, values["uri"], image_id or ""


def _parquet(url: str, storage: Storage, on_read: Callable[[], None]) -> Iterator[_Entry]:
    shown = redact(url)
    try:
        with _seekable(url, storage) as file, pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if "uri" not in names:
                raise SourceError(f"{shown}: must have a column uri, got {', '.join(names[:10])[:200]}")
            _require_one_each(names, shown)
            columns = [name for name in ("uri", "image_id") if name in names]
            row = 0
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                on_read()
                uris = _strings(batch.column("uri"), shown)
                ids: Iterable[str | None] = (
                    _strings(batch.column("image_id"), shown) if len(columns) == 2 else [""] * len(uris)
                )
                for uri, image_id in zip(uris, ids, strict=True):
                    row += 1
                    if uri is None:
                        raise SourceError(f"{shown}: row {row}: the uri is null")
                    yield f"row {row}", uri, image_id or ""
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{shown}: not a Parquet file that can be read: {describe(error)}") from error


def _require_one_each(names: list[str], where: str) -> None:
    for name in ("uri", "image_id"):
        if names.count(name) > 1:
            raise SourceError(f"{where}: {names.count(name)} columns are called {name}: leave one of them")


def _seekable(url: str, storage: Storage) -> Any:
    if not is_http(url):
        return storage.open(url)
    with storage.open(url) as file:
        data = bytearray()
        while chunk := file.read(_CHUNK):
            data += chunk
            if len(data) > _LARGEST_WEB_PARQUET:
                raise SourceError(f"{redact(url)}: a Parquet list from the web may have {_LARGEST_WEB_PARQUET} bytes")
    return io.BytesIO(data)


def _strings(column: pa.Array, shown: str) -> list[str | None]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise SourceError(f"{shown}: uri and image_id must be text columns, got {column.type}")
    values: list[str | None] = column.to_pylist()
    return values


class _Watched:
    """A file that tells when it is read."""

    def __init__(self, file: Any, on_read: Callable[[], None]) -> None:
        self._file, self._on_read = file, on_read

    def read(self, size: int, /) -> bytes:
        self._on_read()
        data: bytes = self._file.read(size)
        return data


def _coco(url: str, storage: Storage, on_read: Callable[[], None]) -> Iterator[_Entry]:
    shown = redact(url)
    with storage.open(url) as file:
        try:
            for index, image in enumerate(array_items(_Watched(file, on_read), "images")):
                if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
                    raise SourceError(f'{shown}: images[{index}]: must be an object with a text "file_name"')
                yield f"images[{index}]", image["file_name"], ""
        except JsonStreamError as error:
            raise SourceError(f"{shown}: not a COCO dataset: {error}") from None
