"""The interface of a kind of archives: which members there are, and the bytes of one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prelabel.source.archives.ranges import MAX_GAP, RandomFile


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Its name, valid Unicode.
        size: Bytes, or None if the archive does not say.
        location: Where it lies, for `ArchiveFormat.read`; `""` if it cannot be read.
        file_name: Its file name, in archives all of whose members are images. `""` for `name`, in those with other
            files.
        problem: Why it cannot be read, as a key of ignored files such as `(link)`; `""` if it can.
    """

    name: str
    size: int | None
    location: str
    problem: str = ""
    file_name: str = ""


class OpenArchive(Protocol):
    """An archive opened for reading its members one after another. Not thread-safe."""

    def read(self, location: str, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
        """Read a member.

        Args:
            location: From the listing.
            max_bytes: Largest accepted size, before and after decompression.
            on_bytes: Called with the number of bytes received.

        Raises:
            OSError: Storage failed; the call may be repeated.
            FetchError: The member is damaged, or the archive has changed.
            ImageTooLargeError: The member has more than `max_bytes` bytes.
        """

    def close(self) -> None:
        """End open requests."""


@dataclass(frozen=True, slots=True)
class ArchiveFormat:
    """A kind of archives.

    Attributes:
        protocol: The protocol in the addresses of its members.
        members: Lists an archive. Members follow each other as they lie in the file. Raises FetchError where the
            archive is damaged, after the members before the damage, and OSError if storage fails. The second argument
            names the column with the images, in kinds with columns; None if there is only one.
        open: Opens an archive for reading members, with the number of attempts for parts that cannot be repeated alone.
        reads_on: Whether the member at the second location is read behind that at the first without another request.
    """

    protocol: str
    members: Callable[[RandomFile, str | None], Iterator[Member]]
    open: Callable[[RandomFile, int], OpenArchive]
    reads_on: Callable[[str, str], bool]


#: The beginning of most locations: `OFFSET+SIZE`, or `gzip:OFFSET+SIZE` in the decompressed file.
_PLACE = re.compile(r"(?:(\w+):)?(\d{1,19})\+(\d{1,19})")


def reads_on(before: str, location: str) -> bool:
    """As in `ArchiveFormat`, for locations that begin with `OFFSET+SIZE`."""
    first, second = _PLACE.match(before), _PLACE.match(location)
    if first is None or second is None or first[1] != second[1]:
        return False
    gap = int(second[2]) - int(first[2]) - int(first[3])
    # The beginning of a compressed file would have to be decompressed again.
    return gap >= 0 and (first[1] is not None or gap <= MAX_GAP)


def unicode_name(name: bytes) -> str:
    """A name as text. Bytes that are not UTF-8 are percent-encoded, since names are stored as text."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in text)
