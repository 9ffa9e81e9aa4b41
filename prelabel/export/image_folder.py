"""A file for each image in a folder: how it is written, and the image itself beside it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prelabel.errors import DecodeError, ExportError, SourceError
from prelabel.export.class_list import ClassListOptions
from prelabel.export.option_rules import frame_option
from prelabel.image_ref import ImageRef
from prelabel.options import option
from prelabel.source.fetch import fetch
from prelabel.storage import Storage, absolute, describe, is_local, join, redact
from prelabel.store.rows import ImageRow

_GROUP = "Images"

#: Files under way at a time, and the threads that write them: object stores answer slowly but many at once.
_UNDER_WAY, _THREADS = 64, 8

#: Of an image whose length the run did not note.
_MAX_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ClassListOptions):
    """Options of the exports that have a file for each image."""

    images: str = option(
        "none",
        "What becomes of the images: none leaves them where they are, link makes symbolic links (on a disk), copy "
        "copies them.",
        choices=("none", "link", "copy"),
        group=_GROUP,
    )
    frame: str = frame_option()
    links: tuple[str, ...] = option(
        (),
        "A list of signed links by which images are read again: a run keeps no signatures.",
        metavar="LIST",
        group=_GROUP,
    )


class FolderWriter:
    """Publishes files, several at a time, and puts images beside them."""

    def __init__(self, to: str, storage: Storage, threads: ThreadPoolExecutor) -> None:
        self._to = to
        self._storage = storage
        self._threads = threads
        self._under_way: deque[Future[None]] = deque()

    def add(self, name: str, data: bytes) -> None:
        """One more file at `name` below the folder; waits while too many are under way."""
        self._submit(self._threads.submit(self._storage.publish, join(self._to, name), data))

    def add_image(self, name: str, row: ImageRow, how: str) -> None:
        """The image of a row at `name` below the folder, by `link` or `copy`, or not at all.

        Raises:
            ExportError: A link between two places that are not both on a disk, or an earlier image that cannot be read.
        """
        if how == "copy":
            self._submit(self._threads.submit(self._copy, row, join(self._to, name)))
        elif how == "link":
            if not (is_local(row.uri) and is_local(self._to)):
                raise ExportError(f"image {row.file_name!r} cannot be linked, only copied: it is not on this disk")
            _link(Path(absolute(row.uri)), Path(join(absolute(self._to), name)))

    def finish(self) -> None:
        """Wait for the rest."""
        while self._under_way:
            self._under_way.popleft().result()

    def _submit(self, one: Future[None]) -> None:
        if len(self._under_way) == _UNDER_WAY:
            self._under_way.popleft().result()
        self._under_way.append(one)

    def _copy(self, row: ImageRow, url: str) -> None:
        ref = ImageRef(row.image_id, row.uri, row.file_name, size=row.bytes)
        try:
            data = fetch(ref, self._storage, max_bytes=row.bytes or _MAX_BYTES)
        except (SourceError, DecodeError) as error:
            reason = describe(error).partition(": ")[2]
            raise ExportError(f"image {row.file_name!r} cannot be read from {redact(row.uri)}: {reason}") from error
        self._storage.publish(url, data)


@contextlib.contextmanager
def folder_writer(to: str, storage: Storage) -> Iterator[FolderWriter]:
    """A writer below `to`; when the block ends well, everything is written."""
    with ThreadPoolExecutor(_THREADS) as threads:
        writer = FolderWriter(to, storage, threads)
        yield writer
        writer.finish()


def _link(target: Path, place: Path) -> None:
    if place.resolve() == target.resolve() and not place.is_symlink():
        raise ExportError(f"{str(place)!r} is the image itself: export into another folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)
