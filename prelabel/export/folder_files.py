"""The files of a part of the rows, one for each image, made without knowing what the other parts hold.

The file of photos/a.jpg is photos/a.txt (or .xml): tools find one by the other. Therefore of two images that differ in
their ending alone only the first can be in a folder. Whether an earlier part has the first one is known where all parts
come together, and a part that has a second one is made anew without it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from prelabel.errors import ExportError
from prelabel.export import parts
from prelabel.export.categories import Categories
from prelabel.export.coco_shapes import Shaping
from prelabel.export.instances import Instance, Instances
from prelabel.export.known_names import KnownNames
from prelabel.export.reading import Rows, Tally
from prelabel.select import Selection
from prelabel.store.rows import ImageRow

#: Columns that such exports do not write, nor need for copying images.
UNUSED = tuple(name for name in parts.UNUSED if name != "bytes")

UNLISTED = "images whose names cannot stand in a list of files"


class FileFormat(Protocol):
    """What is in a file, and which images cannot have one."""

    def unfit(self, file_name: str) -> str:
        """Why an image of this name is left out, in the words of the report, or `""`."""

    def content(self, file_name: str, size: tuple[int, int], every: Sequence[Instance]) -> bytes:
        """The file of an image of this height and width."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image of the export.

    Attributes:
        row: Without its detections.
        stem: Its name without the ending; no other image has it.
        content: Of its file.
    """

    row: ImageRow
    stem: str
    content: bytes


@dataclass(frozen=True, slots=True)
class FolderPart:
    """What a part of the rows becomes, and what was seen on the way.

    Attributes:
        images: In order.
        tally: Of this part.
        names: Of this part.
        twin: The first image that is left out because another one has its name up to the ending, or `""`.
    """

    images: list[ImageFile]
    tally: Tally
    names: KnownNames
    twin: str


@dataclass(frozen=True, slots=True)
class FilesOf:
    """Makes the files of a part of the rows.

    Attributes:
        form: Of the files.
        categories: Of all classes that occur.
        selection: Which detections are kept.
        shaping: How masks are written.
        names: Only what to look for.
        taken: Names without ending that images of several parts ask for and the first one has.
    """

    form: FileFormat
    categories: Categories
    selection: Selection
    shaping: Shaping
    names: KnownNames
    taken: set[str] = field(default_factory=set)

    def __call__(self, rows: Iterable[ImageRow]) -> FolderPart:
        """Raises ExportError where a name leads out of the folder or a mask does not fit its image."""
        part = FolderPart([], Tally(), self.names.fresh(), "")
        fitting = _Fitting(self.form, self.taken, part.tally)
        instances = Instances(self.categories, self.selection, self.shaping, part.tally)
        for row, every in instances.each(fitting(rows)):
            if (found := row.detections) is not None:
                part.names.see(found)
                part.tally.add_image(row)
                content = self.form.content(row.file_name, (found.height, found.width), every)
                part.images.append(ImageFile(replace(row, detections=None), stem_of(row.file_name), content))
        return replace(part, twin=fitting.twin)


class _Fitting:
    """The rows of a part that can have a file; counts the others."""

    def __init__(self, form: FileFormat, taken: set[str], tally: Tally) -> None:
        self._form = form
        self._taken = set(taken)
        self._tally = tally
        self.twin = ""

    def __call__(self, rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
        for row in rows:
            if row.detections is None:
                self._tally.failed += 1
            elif reason := self._form.unfit(row.file_name) or _unlistable(row.file_name):
                self._tally.left_out[reason] += 1
            elif (stem := stem_of(row.file_name)) in self._taken:
                self._tally.left_out["images whose name up to the ending another image has"] += 1
                self.twin = self.twin or row.file_name
            else:
                self._taken.add(stem)
                yield row


def _unlistable(name: str) -> str:
    folders = name.split("/")
    if name.startswith("/") or ".." in folders or "\0" in name:
        raise ExportError(f"image {name!r} has a name that leads out of the export's folder")
    return UNLISTED if len(name.splitlines()) != 1 or "" in folders or "." in folders else ""


def stem_of(file_name: str) -> str:
    """`photos/a` for photos/a.jpg."""
    folder, name = posixpath.split(file_name)
    return posixpath.join(folder, name.rpartition(".")[0] or name)


def each_file(rows: Rows, work: FilesOf, tally: Tally) -> Iterator[ImageFile]:
    """The images of an export in the order of the plan, with their files; what is told on the way is added up."""
    seen: set[int] = set()
    twin = ""

    def doubles(part: FolderPart) -> bool:
        again = {one.stem for one in part.images if hash(one.stem) in seen}
        work.taken.update(again)
        return bool(again)

    for part in parts.each_part(rows, work, doubles):
        tally.add(part.tally)
        work.names.add(part.names)
        twin = twin or part.twin
        for one in part.images:
            seen.add(hash(one.stem))
            yield one
    if twin:
        tally.warnings.append(f"{twin!r} is left out: another image has its name up to the ending")
