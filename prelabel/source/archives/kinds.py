"""The kinds of archives, recognized by the names of files."""

from __future__ import annotations

import re

from prelabel.source.archives.base import ArchiveFormat
from prelabel.source.archives.parquet import PARQUET
from prelabel.source.archives.tar import TAR
from prelabel.source.archives.zip import ZIP

#: All kinds by the protocol of the addresses of their members.
FORMATS: dict[str, ArchiveFormat] = {archive_format.protocol: archive_format for archive_format in (TAR, ZIP, PARQUET)}

#: The protocol of a kind by the end of its files' names, in lower case.
_BY_NAME = (
    (re.compile(r"\.(?:tar|tar\.gz|tgz|tar\.zst|tar\.zstd|tzst)\Z"), "tar"),
    (re.compile(r"\.zip\Z"), "zip"),
    (re.compile(r"\.parquet\Z"), "parquet"),
)

#: An extension of archives in a glob, also before further wildcards: `*.tar`, `*.tar*`.
_IN_GLOB = re.compile(r"\.(?:tar|tgz|tzst|zip|parquet)(?![a-z0-9])", re.IGNORECASE)


def kind_of(name: str) -> str | None:
    """The protocol of the members of a file with this name, or None if it is not an archive."""
    name = name.rpartition("/")[2].lower()
    return next((protocol for pattern, protocol in _BY_NAME if pattern.search(name)), None)


def names_archives(glob: str) -> bool:
    """Whether a glob asks for archives: only then are those that it matches opened."""
    return _IN_GLOB.search(glob.rpartition("/")[2]) is not None
