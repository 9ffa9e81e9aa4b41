"""One annotation file per image in a folder, as YOLO and Pascal VOC have it, and the image itself beside it.

The annotations of photos/a.jpg are in photos/a.txt (or .xml). Tools match the two files by their stem, so two images
whose names differ only in the extension (a.jpg, a.png) conflict. The first image keeps its name. The others are

    written under another name (a-3f8a5f0e.png)    if the export also writes the images (`--image-files link` or `copy`)
    dropped                                        otherwise

and `name-conflicts.csv` in the folder lists all of them.

`FilesOf` makes the files of one part of the rows without knowing the other parts. `make_files` collects the parts in
order; it repeats a part if one of its images conflicts with an image of an earlier part. `folder_writer` publishes the
files, in the process that collects them. Other processes publish the files that they make, too, but not those of parts
with a name that another image might have as well (`parts_apart`).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import unicodedata
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prelabel.errors import DecodeError, ExportError, SourceError
from prelabel.export import parallel
from prelabel.export.annotations import GeometryOptions, Instance, Instances
from prelabel.export.base import Rows, Tally, frame_option, links_option
from prelabel.export.categories import Categories, ClassListOptions
from prelabel.export.file_names import stem_of, with_digest
from prelabel.export.parallel import Part, SpreadRows
from prelabel.keypoints import KeypointSet
from prelabel.options import option
from prelabel.processes import is_child, raise_if_stopped
from prelabel.select import Selection
from prelabel.source.archives.reader import ArchiveReader
from prelabel.storage.address import absolute, describe, is_local, join, redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts

#: Columns that such exports do not write, nor need for copying images.
UNUSED = parallel.UNUSED_BUT_REREAD

UNLISTED = "images whose names cannot be written in a list of files"
_CONFLICT = "images with the same name as another one except for the extension"

#: The file that lists the images whose names conflict, each with the name under which it is written.
CONFLICTS_NAME = "name-conflicts.csv"

_GROUP = "Images"


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ClassListOptions):
    """Options of exports with one file per image."""

    image_files: str = option(
        "none",
        "Leave the images where they are (none), add symbolic links to them (link; only on a disk) or copy them.",
        choices=("none", "link", "copy"),
        heading=_GROUP,
        first=True,
    )
    frame: str = frame_option()
    links: tuple[str, ...] = links_option(heading=_GROUP)


class FileFormat(Protocol):
    """The format of an image's annotation file."""

    def unfit(self, file_name: str) -> str:
        """Why an image with this name is dropped, as worded in the report, or `""`."""

    def content(self, file_name: str, size: tuple[int, int], detections: Sequence[Instance]) -> bytes:
        """The annotation file of an image; `size` is its height and width in pixels."""

    def paths(self, file_name: str, image_id: str) -> tuple[str, str]:
        """The paths of the annotation file and of the image below the folder of the export."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image of the export.

    Attributes:
        image: The image in the run.
        name: Its file name in the export, or `""` if it is dropped because its name conflicts with another image's.
        content: Content of its annotation file, `b""` if that is published.
        is_published: Whether its files are published.
    """

    image: ImageFacts
    name: str
    content: bytes = b""
    is_published: bool = False

    @property
    def stem(self) -> str:
        """The file name without its extension; no other image of the export has the same."""
        return stem_of(self.name)


@dataclass(frozen=True, slots=True)
class FilesOf:
    """Makes the annotation files of a part of the rows.

    Attributes:
        file_format: The format of the files.
        categories: The categories of all classes that occur.
        selection: Which detections are kept.
        geometry: How masks are written.
        keypoints: The keypoints that are written, or None.
        to: Path or URL of the folder.
        storage: Writes into it.
        image_files: What is done with the images, as in `FolderOptions`.
        taken: Stems that images in several parts have; they belong to the image in the earliest part.
    """

    file_format: FileFormat
    categories: Categories
    selection: Selection
    geometry: GeometryOptions
    to: str
    storage: Storage
    image_files: str
    keypoints: KeypointSet | None = None
    taken: set[str] = field(default_factory=set)

    def __call__(self, batches: Iterable[DetectionBatch], part: Part[ImageFile], is_apart: bool) -> None:
        """Make the files of a part, and publish them if this is not the process that collects the parts.

        Args:
            batches: The rows.
            part: Receives the files.
            is_apart: Whether no other part has an image of the same stem, see `parts_apart`. Only then are they
                published.

        Raises:
            ExportError: A name leads out of the folder, or a mask does not fit its image.
        """
        instances = Instances(self.categories, self.selection, self.geometry, part.tally, self.keypoints)
        taken = set(self.taken)
        for batch in batches:
            images = zip(batch.images, batch.failed, strict=True)
            names = [self._name_of(image, failed, taken, part.tally) for image, failed in images]
            written = batch.only_images(np.array([bool(name) for name in names]))
            part.names.see(written.label, written.mid)
            for image, name, detections in zip(batch.images, names, instances.of(written).by_image(), strict=True):
                if name:
                    part.tally.add_image(image)
                    content = self.file_format.content(name, (image.height or 0, image.width or 0), detections)
                    part.items.append(ImageFile(image, name, content))
                elif name is not None:
                    part.items.append(ImageFile(image, ""))
        if is_apart and is_child():
            with folder_writer(self.to, self.storage) as writer:
                for image_file in part.items:
                    raise_if_stopped()
                    self.write(image_file, writer)
            part.items = [replace(image_file, content=b"", is_published=True) for image_file in part.items]

    def write(self, image_file: ImageFile, writer: FolderWriter) -> None:
        """Publish the annotations of an image, unless it is dropped, and link or copy the image."""
        if image_file.name:
            annotations, image = self.file_format.paths(image_file.name, image_file.image.image_id)
            writer.add(annotations, image_file.content)
            writer.add_image(image, image_file.image, self.image_files)

    @property
    def rename(self) -> bool:
        """Whether images whose names conflict are written under other names instead of being dropped."""
        return self.image_files != "none"

    def _name_of(self, image: ImageFacts, failed: bool, taken: set[str], tally: Tally) -> str | None:
        """The name of an image in the export: `""` if it conflicts, None if it is dropped for another reason."""
        name = image.file_name
        stem = stem_of(name)
        if failed:
            tally.failed += 1
            return None
        if reason := self.file_format.unfit(name) or _unlistable(name):
            tally.drop(reason)
            return None
        if stem in taken:
            if not self.rename:
                tally.drop(_CONFLICT)
                return ""
            name = f"{with_digest(stem, image.image_id)}{name[len(stem) :]}"
        taken.add(stem_of(name))
        return name


def _unlistable(name: str) -> str:
    folders = name.split("/")
    if name.startswith("/") or ".." in folders or "\0" in name:
        raise ExportError(f"the name of image {name!r} leads out of the export's folder")
    return UNLISTED if len(name.splitlines()) != 1 or "" in folders or "." in folders else ""


class NameConflicts:
    """The images of an export whose names conflict with another image's, in the order of the plan."""

    def __init__(self) -> None:
        self._images: list[ImageFile] = []

    def add(self, image: ImageFile) -> None:
        """Note an image that is dropped or written under a different name."""
        self._images.append(image)

    def publish(self, to: str, storage: Storage) -> list[str]:
        """Write the list of conflicts into the folder `to`, or delete the list of an earlier export.

        Returns:
            The file that was written, if any.
        """
        url = join(to, CONFLICTS_NAME)
        if not self._images:
            if storage.exists(url):
                storage.delete(url)
            return []
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(("image_id", "file_name", "written_as"))
        lines.writerows((image.image.image_id, image.image.file_name, image.name) for image in self._images)
        storage.publish(url, text.getvalue().encode("utf-8", "surrogateescape"))
        return [url]

    @property
    def notes(self) -> list[str]:
        """What happened to these images, in one line, if there are any."""
        if not self._images:
            return []
        count, first = len(self._images), self._images[0]
        why = f"another image has the same name except for the extension. {CONFLICTS_NAME} lists all of them"
        if first.name:
            return [f"{count:,} images are written under other names (e.g. {first.name!r}): {why}"]
        hint = "--image-files link or --image-files copy writes them under other names"
        return [f"{count:,} images are dropped (e.g. {first.image.file_name!r}): {why}; {hint}"]


def parts_apart(rows: Rows) -> list[bool]:
    """Whether each part has only stems that no other image has, or would have under another name (`with_digest`).

    The files of such a part can be written at any time, by any process. Stems that differ only in case or in Unicode
    normalization count as equal, since some disks take them for one. The rows are read for it, unless one process does
    everything.
    """
    if not isinstance(rows, SpreadRows) or not rows.processes.several:
        return [False] * len(rows.by_shard())
    of_parts = list(parallel.map_parts(rows.without("masks", "keypoints", *parallel.UNUSED), _possible_stems))
    digests, counts = np.unique(np.concatenate([np.empty(0, np.int64), *of_parts]), return_counts=True)
    contested = digests[counts > 1]
    return [not _are_any_in(of_part, contested) for of_part in of_parts]


def _are_any_in(some: npt.NDArray[np.int64], ascending: npt.NDArray[np.int64]) -> bool:
    """Whether any of some numbers is among others; `np.isin` would sort all of these each time."""
    places = np.searchsorted(ascending, some)
    inside = places < len(ascending)
    return bool((ascending[places[inside]] == some[inside]).any())


def _possible_stems(batches: Iterable[DetectionBatch]) -> npt.NDArray[np.int64]:
    """Digests of the stems that the images of a part have or would have, the same in all processes."""
    stems = (
        possible
        for batch in batches
        for image in batch.images
        for stem in [stem_of(image.file_name)]
        for possible in (stem, with_digest(stem, image.image_id))
    )
    texts = (unicodedata.normalize("NFC", stem).casefold().encode("utf-8", "surrogatepass") for stem in stems)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts), np.int64)


def make_files(rows: Rows, work: FilesOf, whole: Part[ImageFile], conflicts: NameConflicts) -> Generator[ImageFile]:
    """The images of an export in the order of the plan; after the last, all their files are published.

    Close it if an error ends the export earlier: then nothing is being published any more.

    Args:
        rows: The rows of the run.
        work: Makes the files of a part.
        whole: Receives the counts of all parts.
        conflicts: Receives the images that are dropped or renamed because of their names.
    """
    seen: set[int] = set()

    def has_conflict(part: Part[ImageFile]) -> bool:
        stems = {image.stem for image in part.items if image.name and hash(image.stem) in seen}
        work.taken.update(stems)
        return bool(stems)

    with folder_writer(work.to, work.storage) as writer:
        for image in parallel.make_items(rows, work, whole, has_conflict, parts_apart(rows)):
            if image.name != image.image.file_name:
                conflicts.add(image)
            if not image.is_published:
                work.write(image, writer)
            if image.name:
                seen.add(hash(image.stem))
                yield image


#: Most unfinished files, and the threads that write them: object storage is slow but handles many requests.
_MOST_PENDING, _THREADS = 64, 8


class FolderWriter:
    """Publishes files, several at a time, and links or copies images."""

    def __init__(self, to: str, storage: Storage, threads: ThreadPoolExecutor) -> None:
        self._to = to
        self._storage = storage
        self._threads = threads
        self._pending: deque[Future[None]] = deque()
        self._archives = ArchiveReader(storage)

    def add(self, name: str, data: bytes) -> None:
        """Publish a file at `name` below the folder; waits while too many are unfinished."""
        self._submit(self._threads.submit(self._storage.publish, join(self._to, name), data))

    def add_image(self, name: str, image: ImageFacts, mode: str) -> None:
        """Put an image at `name` below the folder.

        Args:
            name: Path below the folder.
            image: The image.
            mode: `link`, `copy`, or `none` to do nothing.

        Raises:
            ExportError: A link is impossible because image or folder are not on a disk, or an earlier image cannot be
                read.
        """
        if mode == "copy" and image.location is not None:
            # Images of an archive follow each other: they are read here, in order, and not each by a thread.
            data = _bytes_of(image, self._storage, self._archives)
            self._submit(self._threads.submit(self._storage.publish, join(self._to, name), data))
        elif mode == "copy":
            self._submit(self._threads.submit(self._copy, image, join(self._to, name)))
        elif mode == "link":
            if not (is_local(image.uri) and is_local(self._to)):
                raise ExportError(
                    f"image {image.file_name!r} cannot be linked, because it is not a file on this disk: use "
                    "--image-files copy"
                )
            _link(Path(absolute(image.uri)), Path(join(absolute(self._to), name)))

    def finish(self) -> None:
        """Wait until all files are written."""
        self._archives.close()
        while self._pending:
            self._pending.popleft().result()

    def _submit(self, file: Future[None]) -> None:
        if len(self._pending) == _MOST_PENDING:
            self._pending.popleft().result()
        self._pending.append(file)

    def _copy(self, image: ImageFacts, url: str) -> None:
        self._storage.publish(url, _bytes_of(image, self._storage))


def _bytes_of(image: ImageFacts, storage: Storage, archives: ArchiveReader | None = None) -> bytes:
    from prelabel.export.reread import image_bytes  # slow to import

    try:
        return image_bytes(image, storage, archives=archives)
    except (SourceError, DecodeError) as error:
        reason = describe(error).partition(": ")[2]
        raise ExportError(f"cannot read image {image.file_name!r} from {redact(image.uri)}: {reason}") from error


@contextlib.contextmanager
def folder_writer(to: str, storage: Storage) -> Iterator[FolderWriter]:
    """A writer of files below `to`; when the block ends without an error, all files are written."""
    with ThreadPoolExecutor(_THREADS) as threads:
        writer = FolderWriter(to, storage, threads)
        yield writer
        writer.finish()


def _link(target: Path, link: Path) -> None:
    if link.resolve() == target.resolve() and not link.is_symlink():
        raise ExportError(f"{str(link)!r} is the image itself: export into another folder")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
