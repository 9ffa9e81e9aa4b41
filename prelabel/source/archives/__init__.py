"""Archives of images: their members as images of a source, listed and read with few requests.

To add a kind, write a file with an `ArchiveFormat` (`base.py`), and list it here with the extensions of its files. The
protocol of its members stands in `prelabel.storage.address`, too.
"""

from __future__ import annotations

import re

from prelabel.source.archives.base import ArchiveFormat
from prelabel.source.archives.parquet import PARQUET
from prelabel.source.archives.tar import TAR
from prelabel.source.archives.tfrecord import TFRECORD
from prelabel.source.archives.zip import ZIP
from prelabel.source.formats import TFRECORD_EXTENSIONS, extension_of

#: All kinds by the protocol of the addresses of their members.
FORMATS: dict[str, ArchiveFormat] = {kind.protocol: kind for kind in (TAR, ZIP, PARQUET, TFRECORD)}

#: The protocol of a kind by the extensions of its files.
_BY_EXTENSION = {
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"), "tar"),
    ".zip": "zip",
    ".parquet": "parquet",
    **dict.fromkeys((f"{name}{end}" for name in TFRECORD_EXTENSIONS for end in ("", ".gz")), "tfrecord"),
}

#: Which shard of how many a TFRecord file is, behind its extension or in place of one: `train.record-00000-of-00010`.
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")

#: An extension of archives in a glob, also before further wildcards: `*.tar`, `*.tar*`; or a number of shards.
_IN_GLOB = re.compile(rf"(?:{'|'.join(map(re.escape, _BY_EXTENSION))})(?![a-z0-9])|-of-[\d?*\[]", re.IGNORECASE)


def without_shard(name: str) -> str:
    """The name of a file without the number of its shard: `train.record` for `train.record-00000-of-00010`."""
    return _SHARD.sub("", name)


def kind_of(name: str) -> str | None:
    """The protocol of the members of a file with this name, or None if it is not an archive."""
    name = name.rpartition("/")[2].lower()
    if _SHARD.search(name):
        name = without_shard(name)
        return "tfrecord" if "." not in name or _BY_EXTENSION.get(extension_of(name)) == "tfrecord" else None
    return next((kind for extension, kind in _BY_EXTENSION.items() if name.endswith(extension)), None)


def names_archives(glob: str) -> bool:
    """Whether a glob asks for archives: only then are those that it matches opened."""
    return _IN_GLOB.search(glob.rpartition("/")[2]) is not None
