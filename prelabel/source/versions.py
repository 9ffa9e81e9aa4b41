"""What identifies the content of a file: written into the plan by the listing, compared when the image is fetched.

| store | version |
|---|---|
| S3, Azure | the object's ETag, compared by the store itself (`stores/`) |
| GCS | its generation, compared by the store itself (`stores/`) |
| disk | `mtime_ns-` and the time of its last change in nanoseconds |
| others | what their listing tells: an ETag, a checksum, a generation, the time of the last change or of creation |

Web servers' listings tell nothing, and lists name no versions: there is nothing to compare then.
Plans of earlier releases hold `mtime-...` of a disk and an ETag of GCS, under the promise that sizes alone are
compared: so they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

#: What fsspec's file systems call what tells two contents of one name apart, the surest first.
_NAMES = (
    *("ETag", "etag", "generation", "sha256", "md5", "checksum"),
    *("mtime", "LastModified", "last_modified", "modified", "updated", "created"),
)

_ON_DISK = re.compile(r"mtime_ns-(-?\d+)")

#: Nanoseconds in the steps that file systems and archives keep times in; a copy has its original's time cut to one.
_STEPS_NS = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)


def version_of(entry: Mapping[str, Any]) -> str | None:
    """The version of a file that fsspec describes, or None where it tells nothing."""
    for name in _NAMES:
        value = entry.get(name)
        if isinstance(value, str) and value:
            return value.strip('"')
        # One file system gives a time as a number in listings and as a date for a single file.
        seconds = value.timestamp() if isinstance(value, datetime) else value
        if isinstance(seconds, (int, float)):
            return f"{name}-{seconds:.6f}"
    return None


def version_on_disk(status: os.stat_result) -> str:
    """The version of a file on a disk."""
    return f"mtime_ns-{status.st_mtime_ns}"


def is_same_on_disk(version: str, status: os.stat_result) -> bool:
    """Whether a file on a disk is the planned one, or a copy that kept its time as exactly as its file system can."""
    if (match := _ON_DISK.fullmatch(version)) is None:
        return True
    planned, now = int(match.group(1)), status.st_mtime_ns
    return any(planned // step * step == now or now // step * step == planned for step in _STEPS_NS)
