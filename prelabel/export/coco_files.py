"""Streaming JSON files of COCO's two shapes: nothing is held in memory but the entry being written."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from prelabel.export.reading import strict_json
from prelabel.storage import Storage


class JsonList:
    """Writes the entries of a JSON list, a line each."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._any = False

    def add(self, entries: Sequence[bytes]) -> None:
        """More entries, each as compact JSON."""
        if entries:
            self._stream.write((b",\n" if self._any else b"\n") + b",\n".join(entries))
            self._any = True


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """The two lists of a dataset that grow side by side."""

    images: JsonList
    annotations: JsonList


@contextlib.contextmanager
def dataset_file(
    storage: Storage, url: str, head: dict[str, Any], categories: Callable[[], Sequence[Any]]
) -> Iterator[DatasetFile]:
    """Two lists of one JSON file to be filled side by side: the second waits on disk until the first is complete.

    The categories are asked for when the block ends.
    """
    with storage.publishing(url) as stream, tempfile.TemporaryFile() as waiting:
        stream.write(strict_json(head)[:-1] + b',\n"images":[')
        yield DatasetFile(JsonList(stream), JsonList(waiting))
        stream.write(b'],\n"categories":' + strict_json(categories()))
        stream.write(b',\n"annotations":[')
        waiting.seek(0)
        shutil.copyfileobj(waiting, stream, 1 << 20)
        stream.write(b"]}\n")


@contextlib.contextmanager
def list_file(storage: Storage, url: str) -> Iterator[JsonList]:
    """A file that is one JSON list, published when the block ends well."""
    with storage.publishing(url) as stream:
        stream.write(b"[")
        yield JsonList(stream)
        stream.write(b"]\n")


def chunks(images: Iterable[Any], size: int | None) -> Iterator[Iterable[Any]]:
    """The images in lots of `size`; at least one lot, so that an export of nothing is a file too."""
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
    base, dot, ending = url.rpartition(".")
    if not dot or "/" in ending:
        base, dot, ending = url, "", ""
    return f"{base}-{number:05d}{dot}{ending}"


def delete_later_parts(to: str, parts: int, storage: Storage) -> None:
    """Files of an earlier export in more parts would be taken for the end of this one."""
    while storage.exists(numbered_name(to, parts)):
        storage.delete(numbered_name(to, parts))
        parts += 1
