"""Stream COCO's two kinds of JSON files; only the current entry is in memory."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from prelabel.export.text import strict_json
from prelabel.storage.files import Storage

#: Between two entries of a list.
BETWEEN_ENTRIES = ",\n"


class JsonList:
    """Writes the entries of a JSON list, one per line."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._has_entries = False

    def add(self, entries: bytes) -> None:
        """Add entries as compact JSON, with `BETWEEN_ENTRIES` between them; may be empty."""
        if entries:
            self._stream.write(b",\n" if self._has_entries else b"\n")
            self._stream.write(entries)
            self._has_entries = True


@contextlib.contextmanager
def dataset_file(
    storage: Storage, url: str, head: dict[str, Any], categories: Callable[[], Sequence[Any]]
) -> Iterator[tuple[JsonList, JsonList]]:
    """Open a dataset file, and yield its lists of images and annotations.

    Entries can be added to both lists in any order: annotations are kept in a temporary file until the block ends.
    `categories` is called then.
    """
    with storage.publishing(url) as stream, tempfile.TemporaryFile(buffering=1 << 20) as annotations:
        stream.write(strict_json(head)[:-1] + b',\n"images":[')
        yield JsonList(stream), JsonList(annotations)
        stream.write(b'],\n"categories":' + strict_json(categories()))
        stream.write(b',\n"annotations":[')
        annotations.seek(0)
        shutil.copyfileobj(annotations, stream, 1 << 20)
        stream.write(b"]}\n")


@contextlib.contextmanager
def list_file(storage: Storage, url: str) -> Iterator[JsonList]:
    """Open a file with a single JSON list; it is published when the block ends without an error."""
    with storage.publishing(url) as stream:
        stream.write(b"[")
        yield JsonList(stream)
        stream.write(b"]\n")


def chunks(images: Iterable[Any], size: int | None) -> Iterator[Iterable[Any]]:
    """Split the images into chunks of `size`. There is at least one chunk, so that an empty export has a file, too."""
    rest = iter(images)
    if size is None:
        yield rest
        return
    first = list(itertools.islice(rest, 1))
    yield itertools.chain(first, itertools.islice(rest, size - len(first)))
    for image in rest:
        yield itertools.chain([image], itertools.islice(rest, size - 1))


def numbered_name(url: str, number: int) -> str:
    """`out/x.json`, 3 -> `out/x-00003.json`."""
    base, extension = split_extension(url)
    return f"{base}-{number:05d}{extension}"


def split_extension(url: str) -> tuple[str, str]:
    """`out/x.json` -> `out/x`, `.json`; unlike `posixpath.splitext`, also `out/.x` -> `out/`, `.x`."""
    base, dot, extension = url.rpartition(".")
    return (base, dot + extension) if dot and "/" not in extension else (url, "")


def delete_later_parts(to: str, parts: int, storage: Storage) -> None:
    """Delete later parts of an earlier export, which would look like parts of this one."""
    while storage.exists(numbered_name(to, parts)):
        storage.delete(numbered_name(to, parts))
        parts += 1
