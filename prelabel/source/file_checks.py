"""Whether a file is the planned one, by its version, and no larger than allowed.

A version identifies the content of a file. The listing stores it in the plan:

| storage | version |
|---|---|
| S3, Azure | the object's ETag, compared by the store itself |
| GCS | its generation, compared by the store itself |
| disk | `mtime_ns-` and the time of its last modification in nanoseconds |
| others | what their listing reports: an ETag, a checksum, a generation, the time of modification or of creation |

Listings of web servers report no version, and neither do lists: then only sizes, if known, are compared. The same holds
for plans of earlier releases, which contain `mtime-...` for a disk and an ETag for GCS.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from prelabel.errors import FetchError, ImageTooLargeError

#: Keys under which fsspec's file systems report the version of a file, most reliable first.
_VERSION_KEYS = (
    *("ETag", "etag", "generation", "sha256", "md5", "checksum"),
    *("mtime", "LastModified", "last_modified", "modified", "updated", "created"),
)

_ON_DISK = re.compile(r"mtime_ns-(-?\d+)")

#: Resolutions, in nanoseconds, in which file systems and archives store times. The time of a copy may be truncated.
_STEPS_NS = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)


def version_of(entry: Mapping[str, Any]) -> str | None:
    """The version in a file's entry in an fsspec listing, or None if it has none."""
    for name in _VERSION_KEYS:
        value = entry.get(name)
        if isinstance(value, str) and value:
            return value.strip('"')
        # One file system reports times as numbers in listings but as dates for single files.
        seconds = value.timestamp() if isinstance(value, datetime) else value
        if isinstance(seconds, (int, float)):
            return f"{name}-{seconds:.6f}"
    return None


def version_on_disk(status: os.stat_result) -> str:
    """The version of a file on a disk."""
    return f"mtime_ns-{status.st_mtime_ns}"


def is_same_on_disk(version: str, status: os.stat_result) -> bool:
    """Whether a file on a disk is the planned one, or a copy with its time at the file system's resolution."""
    if (match := _ON_DISK.fullmatch(version)) is None:
        return True
    planned, now = int(match.group(1)), status.st_mtime_ns
    return any(planned // step * step == now or now // step * step == planned for step in _STEPS_NS)


def open_on_disk(path: str) -> int:
    """Open a file on a disk for reading, and return its descriptor.

    It does not block: a named pipe, which `require_regular` refuses, would otherwise block a worker forever.
    """
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def require_regular(status: os.stat_result) -> None:
    """Raise OSError for a folder, and for a pipe or a device."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")


def changed(difference: str) -> FetchError:
    """The error for a file that is no longer the planned one."""
    return FetchError(f"changed since it was listed: {difference}")


def too_large(size: int | None, max_bytes: int) -> ImageTooLargeError:
    """The error for a file of `size` bytes, or of an unknown number of bytes above the limit."""
    if size is None:
        return ImageTooLargeError(f"the file has more bytes than the limit of {max_bytes:,} (--max-bytes)")
    return ImageTooLargeError(f"the file has {size:,} bytes; the limit is {max_bytes:,} (--max-bytes)")
