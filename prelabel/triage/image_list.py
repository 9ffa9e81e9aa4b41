"""Lists of images of a run, by `image_id`: what `prelabel select` writes, and what users write themselves.

    list.csv                          list.txt
    image_id,rank,score,part          night/17.jpg
    night/17.jpg,1,5.2,work           day/03.jpg
    day/03.jpg,2,,random

The order of the entries is the order of the images. A `part` names some of them. Other columns are ignored. Ids are
kept as their digests, so a list takes 16 bytes of memory per image, and is read again to name an entry in a message.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.errors import ConfigError, SourceError
from prelabel.source.lists import list_columns, require_unicode
from prelabel.storage.address import Address, describe
from prelabel.storage.files import Storage
from prelabel.store.plan import digests_of
from prelabel.store.run import Run, RunRows
from prelabel.store.subset import ABSENT, ImageOrder, Positions, Subset
from prelabel.triage.options import ImageListOptions, require_list_name

#: How many entries a message names, and how many parts.
_MOST_NAMED = 3
_MOST_PARTS = 8

#: Entries whose digests are computed at once.
_BATCH = 8192


@dataclass(frozen=True, slots=True)
class ImageList:
    """A list of images.

    Attributes:
        address: The file.
        part: The part that is used; `""` for all.
        digests: `(N,)` `digests_of` the ids, in the order of the list; no id is there twice.
        storage: Opens the file.
        flag: The option that named the list, for messages.
    """

    address: Address
    part: str
    digests: npt.NDArray[np.bytes_]
    storage: Storage
    flag: str = "--images"

    @classmethod
    def read(cls, path: str, part: str, storage: Storage, flag: str = "--images") -> ImageList:
        """Read a list.

        Raises:
            ConfigError: It does not exist, or the part is not in it.
            SourceError: It cannot be read, is empty, has no column `image_id`, or has an id twice.
        """
        require_list_name(path, flag)
        address = Address.of(path)
        digests, parts = _digests_and_parts(address, part, storage, flag)
        if not len(digests):
            raise SourceError(f"{address}: the list is empty")
        order = digests.argsort(kind="stable")
        again = order[1:][digests[order[1:]] == digests[order[:-1]]]
        if len(again):
            raise SourceError(_duplicate(address, int(again.min()), storage, flag))
        if part:
            digests = digests[_in_part(parts, part, address)]
        return cls(address, part, digests, storage, flag)

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def sha256(self) -> str:
        """A checksum of the ids in their order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()

    def subset_of(self, run: Run) -> Subset:
        """The images of the list in a finished run. Raises ConfigError if the run does not have one of them."""
        plan = run.plan()
        positions = self.positions_in(ImageOrder.of(plan.digests()), run)
        return Subset.of(positions, plan, ImageOrder.of(self.digests))

    def positions_in(self, planned: ImageOrder, run: Run) -> Positions:
        """`(N,)` the position of each image in the plan of a run, given by the order of its images.

        Raises ConfigError if the run does not have one of them.
        """
        positions = planned.places_of(self.digests)
        self.require_found(positions != ABSENT, f"the run {run.root}")
        return positions

    def require_found(self, found: npt.NDArray[np.bool_], place: str) -> None:
        """Raise ConfigError unless all images were found; the message names the first of the others.

        Args:
            found: `(N,)` whether each image was found.
            place: Where they were looked for, for the message.
        """
        missing = np.flatnonzero(~found).tolist()
        if not missing:
            return
        first = set(missing[:_MOST_NAMED])
        entries = (entry for entry in _entries(self.address, self.storage, self.flag) if self.part in ("", entry[2]))
        named = [f"{image_id!r} ({where})" for n, (where, image_id, _) in enumerate(entries) if n in first]
        more = f" and {len(missing) - len(named):,} more" if len(missing) > len(named) else ""
        header = "; a .txt list has no header" if named[:1] == ["'image_id' (line 1)"] else ""
        count = f"{len(missing):,} of {len(self):,} images"
        raise ConfigError(
            f"{self.flag} {self.address}: {count} are not in {place}: {', '.join(named)}{more}. Ids must be as in the "
            f"column image_id of a run: the path below the source{header}"
        )


def listed_rows(run: Run, options: ImageListOptions) -> RunRows:
    """The rows of a finished run that a command works on: those of `--images`, or all.

    Raises:
        ConfigError: The list does not exist, or the run does not have an image of the list.
        SourceError: The list cannot be read, or has an id twice.
    """
    if not options.images:
        return run.rows
    return run.rows.of_images(ImageList.read(options.images, options.part, run.storage).subset_of(run))


def _digests_and_parts(
    address: Address, part: str, storage: Storage, flag: str
) -> tuple[npt.NDArray[np.bytes_], list[str]]:
    """The digests of all ids and, if a part is wanted, the part of each."""
    digests, parts = [np.empty(0, "S16")], []
    entries = _entries(address, storage, flag)
    while batch := list(itertools.islice(entries, _BATCH)):
        digests.append(digests_of([image_id for _, image_id, _ in batch]))
        if part:
            parts += [name for _, _, name in batch]
    return np.concatenate(digests), parts


def _in_part(parts: list[str], part: str, address: Address) -> npt.NDArray[np.bool_]:
    """Whether each image is in the part. Raises ConfigError if none is."""
    chosen = np.array([name == part for name in parts])
    if not chosen.any():
        names = sorted({*parts} - {""})[:_MOST_PARTS]
        there = f"its parts are {', '.join(map(repr, names))}" if names else "it has no column part"
        raise ConfigError(f"--part {part}: {address} has no such part; {there}")
    return chosen


def _entries(address: Address, storage: Storage, flag: str) -> Iterator[tuple[str, str, str]]:
    """Where each entry is (`line 7`), its id and its part."""
    try:
        for where, image_id, part in list_columns(address, storage, ("image_id", "part")):
            if not image_id:
                raise SourceError(f"{address}: {where}: the image_id is empty")
            if not image_id.isascii():
                require_unicode(image_id, f"{address}: {where}")
            yield where, image_id, part
    except FileNotFoundError:
        raise ConfigError(f"{flag} {address}: no such file") from None
    except OSError as error:
        raise SourceError(f"cannot read {address}: {describe(error)}") from error


def _duplicate(address: Address, position: int, storage: Storage, flag: str) -> str:
    """The message about an entry whose id an earlier entry has."""
    first: dict[str, str] = {}
    for n, (where, image_id, _) in enumerate(_entries(address, storage, flag)):
        if n == position:
            return f"{address}: {where}: {image_id!r} is already in {first[image_id]}: remove the duplicate"
        first[image_id] = where
    raise SourceError(f"{address} changed while it was read")
