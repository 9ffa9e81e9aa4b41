"""Reading the images of archives one after another, with one open archive."""

from __future__ import annotations

from collections.abc import Callable

from prelabel.errors import FetchError
from prelabel.image_ref import ImageRef
from prelabel.source.archives import FORMATS
from prelabel.source.archives.base import OpenArchive
from prelabel.source.archives.ranges import open_ranges
from prelabel.storage.address import Address, split_member
from prelabel.storage.files import Storage


def reads_on(before: ImageRef, ref: ImageRef) -> bool:
    """Whether an image lies in the same archive as another one, and is read behind it without another request."""
    first, second = split_member(before.uri), split_member(ref.uri)
    if first is None or second is None or before.location is None or ref.location is None:
        return False
    if (first.archive, before.version) != (second.archive, ref.version) or second.protocol not in FORMATS:
        return False
    return FORMATS[second.protocol].reads_on(before.location, ref.location)


class ArchiveReader:
    """Reads images of archives. The archive of the last image stays open, so that the next image follows at once.

    Not thread-safe. Images should be read in the order of the plan, which is that of the archives.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._name: tuple[str, str | None] = ("", None)
        self._open: OpenArchive | None = None

    def read(self, ref: ImageRef, max_bytes: int, attempts: int, on_bytes: Callable[[int], None]) -> bytes:
        """Read an image.

        Args:
            ref: The image; it has a location.
            max_bytes: Largest accepted size in bytes.
            attempts: Maximum number of attempts for a part that cannot be read again alone.
            on_bytes: Called with the number of bytes received.

        Raises:
            OSError: Storage failed; the call may be repeated.
            FetchError: The image or its archive is damaged, or the archive has changed.
            ImageTooLargeError: The image has more than `max_bytes` bytes.
        """
        member = split_member(ref.uri)
        if member is None or ref.location is None or member.protocol not in FORMATS:
            raise FetchError("the plan has a location in an archive, but the URL is not that of an archive")
        name = (member.archive, ref.version)
        if self._open is None or name != self._name:
            self.close()
            file = open_ranges(Address.of(member.archive), self._storage, ref.version)
            self._name, self._open = name, FORMATS[member.protocol].open(file, attempts)
        return self._open.read(ref.location, max_bytes, on_bytes)

    def close(self) -> None:
        """End open requests. Further images may be read."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
