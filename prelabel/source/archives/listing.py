"""Listing the images in archives, several archives at a time, in order.

The `image_id` of an image is that of its archive, a slash, and its name in the archive: `shard-000000.tar/cats/1.jpg`.
A slash at the beginning of a name and parts that are `.` are dropped, as tar does. Members whose names contain the part
`..` are not used.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from prelabel.errors import FetchError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.archives import FORMATS
from prelabel.source.archives.base import Member
from prelabel.source.archives.ranges import open_ranges
from prelabel.source.formats import ARCHIVES, HIDDEN, IMAGE_EXTENSIONS, NO_EXTENSION, extension_of
from prelabel.storage.address import Address, describe, member_url
from prelabel.storage.files import Storage

#: Keys of ignored files whose names lead out of their archive, and of archives in an archive.
UNSAFE, NESTED = "(unsafe name)", "(archive in an archive)"

#: Archives that are read at the same time, images per batch, and batches of an archive that may wait.
_ARCHIVES, _BATCH, _BATCHES = 8, 256, 32


class Counts(Protocol):
    """Receives what is found beside images."""

    def ignore(self, extension: str, count: int = 1) -> None:
        """Count ignored files."""

    def count_archive(self, damage: str = "") -> None:
        """Count an archive, and what is wrong with it."""


def with_members(
    files: Iterable[ImageRef],
    storage: Storage,
    kind_of: Callable[[ImageRef], str | None],
    counts: Counts,
    on_read: Callable[[], None] = lambda: None,
    image_column: str | None = None,
) -> Iterator[ImageRef]:
    """Yield files as they are, and the images of archives in place of the archives.

    A damaged archive yields the images before the damage.

    Args:
        files: Images and archives, in order.
        storage: Opens the archives.
        kind_of: The protocol of the members of an archive; None for a file that is none.
        counts: Receives counts, in order.
        on_read: Called from any thread for each member. May raise to stop.
        image_column: The column with the images in Parquet files; by default the only one that may hold images.

    Raises:
        SourceError: An archive does not exist, or storage failed.
    """
    stop = threading.Event()
    waiting: deque[ImageRef | _Scan] = deque()
    with ThreadPoolExecutor(_ARCHIVES, thread_name_prefix="archive") as pool:
        try:
            for file in files:
                if (kind := kind_of(file)) is None:
                    waiting.append(file)
                else:
                    waiting.append(scan := _Scan(file, kind, storage, on_read, stop, image_column))
                    pool.submit(scan.run)
                while waiting and (len(waiting) > _ARCHIVES or not isinstance(waiting[0], _Scan)):
                    yield from _images(waiting.popleft(), counts)
            while waiting:
                yield from _images(waiting.popleft(), counts)
        finally:
            stop.set()


def _images(entry: ImageRef | _Scan, counts: Counts) -> Iterator[ImageRef]:
    if isinstance(entry, ImageRef):
        yield entry
        return
    while True:
        images, ignored, end = entry.batches.get()
        yield from images
        for extension, count in ignored.items():
            counts.ignore(extension, count)
        if isinstance(end, FetchError):
            counts.count_archive(f"{Address.of(entry.archive.uri)}: {end}")
        elif isinstance(end, FileNotFoundError):
            raise SourceError(f"archive {Address.of(entry.archive.uri)} does not exist") from end
        elif isinstance(end, OSError):
            raise SourceError(f"cannot read archive {Address.of(entry.archive.uri)}: {describe(end)}") from end
        elif isinstance(end, Exception):
            raise end
        elif end:
            counts.count_archive()
        if end:
            return


class _Scan:
    """Lists one archive in a thread.

    Attributes:
        archive: The archive.
        batches: Images, counts of ignored members, and whether the listing has ended, or the error that ended it.
    """

    def __init__(
        self,
        archive: ImageRef,
        kind: str,
        storage: Storage,
        on_read: Callable[[], None],
        stop: threading.Event,
        image_column: str | None,
    ) -> None:
        self.archive = archive
        self.batches: queue.Queue[tuple[list[ImageRef], Counter[str], bool | Exception]] = queue.Queue(_BATCHES)
        self._kind, self._storage, self._on_read, self._stop = kind, storage, on_read, stop
        self._image_column = image_column
        self._images: list[ImageRef] = []
        self._ignored: Counter[str] = Counter()

    def run(self) -> None:
        try:
            archive = self.archive
            with open_ranges(Address.of(archive.uri), self._storage, archive.version, archive.size) as file:
                for member in FORMATS[self._kind].members(file, self._image_column):
                    self._on_read()
                    if self._stop.is_set():
                        return
                    self._add(member, file.version)
                    if len(self._images) == _BATCH:
                        self._put(end=False)
        except Exception as error:  # noqa: BLE001 - raised where the images are taken, not in this thread
            self._put(error)
        else:
            self._put(end=True)

    def _add(self, member: Member, version: str | None) -> None:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        name = "/".join(parts)
        extension = extension_of(name)
        if any(part.startswith(".") and part != ".." for part in parts) or "__MACOSX" in parts:
            self._ignored[HIDDEN] += 1
        elif extension not in IMAGE_EXTENSIONS and not member.file_name:
            self._ignored[NESTED if extension in ARCHIVES else extension or NO_EXTENSION] += 1
        elif ".." in parts:
            self._ignored[UNSAFE] += 1
        elif member.problem:
            self._ignored[member.problem] += 1
        else:
            archive = self.archive
            uri = member_url(self._kind, name, archive.uri)
            image_id, file_name = f"{archive.image_id}/{name}", f"{archive.file_name}/{member.file_name or name}"
            self._images.append(ImageRef(image_id, uri, file_name, member.size, version, member.location))

    def _put(self, end: bool | Exception) -> None:
        batch = (self._images, self._ignored, end)
        self._images, self._ignored = [], Counter()
        while not self._stop.is_set():
            try:
                self.batches.put(batch, timeout=0.5)
            except queue.Full:
                continue
            return
