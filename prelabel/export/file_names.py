"""Names of files made from names of images, which come from outside and may be anything.

    image_id                                safe stem
    photos/a.jpg                            photos/a
    ../../etc/passwd                        _/_/etc/passwd
    /abs/a.jpg                              abs/a
    C:\\photos\\a?.jpg                        C__photos_a_
    aux/.hidden.png                         _aux/_hidden
    a.jpg/b.png                             a.jpg_/b              since a file may be called a.jpg

A stem is a name without the extension. Of two images with the same stem, the second is renamed (`with_digest`), since
tools match files by their stems, and since some disks ignore case and Unicode forms (`name_key`).
"""

from __future__ import annotations

import functools
import hashlib
import posixpath
import re
import unicodedata

from prelabel.source.formats import IMAGE_EXTENSIONS
from prelabel.store.extracted import EXTRACTED

#: Characters that disks, object stores or URLs do not accept or give a meaning to; also all that are not printable.
_NOT_IN_NAMES = frozenset('\\:*?"<>|%#')

#: Names of which every character is good; nearly all are.
_USUAL = re.compile(r"[\w .()+,=@-]*", re.ASCII)

#: Names that Windows keeps for devices, with any extension.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})

#: Most bytes of a part of a path and of a whole stem. Disks allow 255 and object stores 1,024, from which come digests,
#: extensions and temporary names.
_LONGEST_PART, _LONGEST_STEM = 150, 700

#: The folder of images whose own folders have too long names.
_LONG_NAMES = "long-names"


def stem_of(file_name: str) -> str:
    """The file name without its extension: `photos/a` for photos/a.jpg."""
    folder, name = posixpath.split(file_name)
    return posixpath.join(folder, name.rpartition(".")[0] or name)


def name_key(name: str) -> str:
    """A text that is equal for names that some disk takes for the same: it ignores case and the form of accents."""
    return name if name.isascii() and name.islower() else unicodedata.normalize("NFC", name.casefold())


def with_digest(stem: str, image_id: str, size: int = 4) -> str:
    """The stem with a hyphen and `size` bytes of the id's digest: `photos/a-3f8a5f0e`, the same in every export."""
    return f"{stem}-{hashlib.blake2b(image_id.encode('utf-8', 'surrogatepass'), digest_size=size).hexdigest()}"


def safe_stem(image_id: str) -> str:
    """A stem for the file of an image: a relative path that stays below its folder, and a valid one on every storage.

    Only extensions of images are removed. Different ids may have the same stem.
    """
    *folders, name = [part for part in image_id.split("/") if part not in ("", ".")] or ["_"]
    folders = [_safe_folder(folder) for folder in folders]
    stem = posixpath.join(*folders, _safe_part(_without_extension(name)))
    return stem if len(stem.encode()) <= _LONGEST_STEM else posixpath.join(_LONG_NAMES, posixpath.basename(stem))


def _without_extension(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem if stem and f"{dot}{extension.rstrip().lower()}" in IMAGE_EXTENSIONS else name


@functools.lru_cache(4096)
def _safe_folder(name: str) -> str:
    safe = _safe_part(name)
    extension = posixpath.splitext(safe)[1].lower()
    # Files have no other extensions; the Parquet file is that of an extraction.
    is_like_a_file = extension in IMAGE_EXTENSIONS or safe.lower() == EXTRACTED
    return f"{safe}_" if is_like_a_file else safe


def _safe_part(name: str) -> str:
    if not _USUAL.fullmatch(name):
        name = unicodedata.normalize("NFC", name)
        name = "".join(c if c.isprintable() and c not in _NOT_IN_NAMES else "_" for c in name)
    # Windows drops dots and blanks at the end; a dot in front hides a file.
    name = name.encode()[:_LONGEST_PART].decode(errors="ignore").strip(" ").rstrip(". ")
    if name.startswith(".") or not name or name.partition(".")[0].rstrip().lower() in _DEVICES:
        name = f"_{name.removeprefix('.')}"
    return name


class DistinctStems:
    """Safe stems of images, each of which only one image has.

    Ids must come in the order of the plan, and all of them: then an image has the same stem whichever images are
    written, also after `--add-new`.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def stem(self, image_id: str) -> str:
        """The stem of the next image."""
        safe = stem = safe_stem(image_id)
        size = 4
        while (key := hash(name_key(stem))) in self._taken:
            stem, size = with_digest(safe, image_id, size), size + 4
        self._taken.add(key)
        return stem
