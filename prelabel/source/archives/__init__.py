"""Archives of images: their members as images of a source, listed and read with few requests.

To add a kind, write a file with an `ArchiveFormat` (`base.py`), and list it here with the extensions of its files. The
protocol of its members stands in `prelabel.storage.address`, too.
"""

from __future__ import annotations

import re

from prelabel.source.archives.base import ArchiveFormat
from prelabel.source.archives.parquet import PARQUET
from prelabel.source.archives.tar import TAR
from prelabel.source.archives.zip import ZIP

#: All kinds by the protocol of the addresses of their members.
FORMATS: dict[str, ArchiveFormat] = {archive_format.protocol: archive_format for archive_format in (TAR, ZIP, PARQUET)}

#: The protocol of a kind by the extensions of its files.
_BY_EXTENSION = {
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"), "tar"),
    ".zip": "zip",
    ".parquet": "parquet",
}

#: An extension of archives in a glob, also before further wildcards: `*.tar`, `*.tar*`.
_IN_GLOB = re.compile(rf"(?:{'|'.join(map(re.escape, _BY_EXTENSION))})(?![a-z0-9])", re.IGNORECASE)


def kind_of(name: str) -> str | None:
    """The protocol of the members of a file with this name, or None if it is not an archive."""
    name = name.rpartition("/")[2].lower()
    return next((kind for extension, kind in _BY_EXTENSION.items() if name.endswith(extension)), None)


def names_archives(glob: str) -> bool:
    """Whether a glob asks for archives: only then are those that it matches opened."""
    return _IN_GLOB.search(glob.rpartition("/")[2]) is not None
