"""Write the images of a run as files: the bytes that were labeled, or turned as they are displayed (`--upright`).

    image_id                  file below PREFIX
    shard.tar/a.jpg           shard.tar/a.jpg
    shard.tar/A.jpg           shard.tar/A-3f8a5f0e.jpg      some disks ignore case
    train.parquet/0           train.parquet/0.png           the extension says what the file is

The record `extracted.parquet` is published last (`extraction_record.py`). A call that is repeated writes only what is
missing. An image whose bytes are not those that were labeled is reported, and not written.

Images in archives follow each other, so one thread reads them, in order. Other images are read by many threads.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import posixpath
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from prelabel.errors import DecodeError, PrelabelError, SourceError
from prelabel.export.base import links_option, require_distinct_files, same_file
from prelabel.export.extraction_record import ExtractionRecord
from prelabel.export.file_names import DistinctStems, stem_of
from prelabel.export.from_run import rows_to_fetch
from prelabel.export.parallel import UNUSED_BUT_REREAD
from prelabel.frames import BROWSER, STORED
from prelabel.options import Options, group_of, option, require
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.formats import extension_of_content, image_format
from prelabel.storage.address import join, redact
from prelabel.storage.files import Storage
from prelabel.store.extracted import EXTRACTED, ExtractedFile
from prelabel.store.rows import ImageFacts
from prelabel.store.run import Run, RunRows
from prelabel.triage.image_list import listed_rows
from prelabel.triage.options import ImageListOptions

#: Most unfinished files, and the threads that write them: object storage is slow but handles many requests.
_MOST_PENDING, _THREADS = 64, 16

#: Most bytes of images from archives that wait for a thread.
_MOST_BYTES = 256 << 20

#: Most images that are decoded at a time.
_DECODED = 4

#: Extensions that browsers and tools know, beside the usual one of a format. All others are replaced.
_ALSO_KNOWN = {"JPEG": (".jpeg",), "TIFF": (".tiff",), "HEIF": (".heif",), "PPM": (".pgm", ".pbm", ".pnm")}


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(Options):
    """Options of `extract`."""

    listed: ImageListOptions = group_of(ImageListOptions)
    upright: bool = option(
        False,
        "Rotate images that have an orientation, as browsers show them: JPEGs are encoded again (quality 95), and "
        "others as PNG. Without this option, all files are exact copies.",
        heading="Images",
        first=True,
    )
    links: tuple[str, ...] = links_option(first=True)


@dataclass(frozen=True, slots=True)
class UnextractedImage:
    """An image that did not fail, but could not be extracted, and why."""

    image_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """The result of an extraction.

    Attributes:
        to: Folder or prefix of the files, without secrets.
        record: Path or URL of the record, without secrets.
        images: Images that were asked for and have a file now.
        written: Those that this call wrote.
        bytes: Size of the files that this call wrote.
        turned: Those of `images` whose file is turned.
        renamed: Those of `images` whose file has another name, apart from the extension.
        failed: Images of the run that failed, and are not extracted.
        unextracted: Images that have changed since they were labeled, or cannot be read.
        warnings: What the user should know, one line each.
    """

    to: str
    record: str
    images: int
    written: int
    bytes: int = field(repr=False)
    turned: int = field(repr=False)
    renamed: int = field(repr=False)
    failed: int
    unextracted: tuple[UnextractedImage, ...]
    warnings: tuple[str, ...] = field(default=(), repr=False)

    @property
    def complete(self) -> bool:
        """Whether every image that did not fail has a file."""
        return not self.unextracted


def extract_images(run: Run, to: str, options: ExtractOptions, progress: Callable[[int, int], None]) -> ExtractReport:
    """Write the images of a finished run as files, and the record that exports read with `--extracted`.

    Args:
        run: The finished run.
        to: Absolute path, or URL, of the folder or prefix.
        options: Which images, and how.
        progress: Called with the number of images done and the total.

    Raises:
        ConfigError: `to` belongs to the run, has the images of another run or other files, or the list does not fit the
            run.
        ExportError: `to` cannot be listed.
        StoreError: A file cannot be written, or the run is corrupt.
        CredentialsError: Storage rejected the credentials.
    """
    require_distinct_files(options, {"to": to}, read=("images", "links"), run=run.output)
    require(same_file(to) != same_file(run.output), f"--to {redact(to)} is the run itself: choose another place")
    rows, notes = rows_to_fetch(run, listed_rows(run, options.listed), options.links)
    record = ExtractionRecord(to, run)
    counts = _Counts()
    total, done = len(rows), 0
    with _writing(to, run.storage, record, counts) as files:
        for image, failed, stem, existing in _images(run, rows, record):
            turned = options.upright and _can_be_turned(image)
            counts.unlike_browsers += options.upright and not failed and image.orientation_to(BROWSER) != 1
            if failed:
                record.forget(image.image_id)
                counts.failed += 1
            elif existing is not None and (existing.labeled_sha256, existing.turned) == (image.sha256, turned):
                counts.add(existing)
            else:
                record.forget(image.image_id)
                files.add(image, stem, turned)
            done += 1
            progress(done, total)
    record.publish()
    return ExtractReport(
        to=redact(to),
        record=redact(join(to, EXTRACTED)),
        images=counts.images,
        written=counts.written,
        bytes=counts.bytes,
        turned=counts.turned,
        renamed=counts.renamed,
        failed=counts.failed,
        unextracted=tuple(counts.unextracted),
        warnings=(*notes, *counts.notes),
    )


def _images(
    run: Run, rows: RunRows, record: ExtractionRecord
) -> Iterator[tuple[ImageFacts, bool, str, ExtractedFile | None]]:
    """The images of rows in the order of the plan: whether each failed, the stem of its file, and its file so far."""
    by_shard = {part.shards[0][0]: part for part in rows.without("masks", "keypoints", *UNUSED_BUT_REREAD).by_shard()}
    plan, names = run.plan(), DistinctStems()
    for part in plan.parts:
        for shard, refs in enumerate(plan.shards_of(part), start=part.first_shard):
            # All images of the plan get a stem, so that it does not depend on the list of images.
            stems = {ref.image_id: names.stem(ref.image_id) for ref in refs}
            existing = record.find(refs, list(stems.values()))
            for batch in by_shard[shard].batches() if shard in by_shard else ():
                for image, failed in zip(batch.images, batch.failed, strict=True):
                    yield image, failed, stems[image.image_id], existing.get(image.image_id)


def _can_be_turned(image: ImageFacts) -> bool:
    """Whether an image is stored in another orientation than displayed, and browsers display it like that.

    If they do not, Label Studio's annotations of the image and of a turned file would be in different frames.
    """
    return image.orientation_to(STORED) != 1 and image.orientation_to(BROWSER) == 1


@dataclass(slots=True)
class _Counts:
    """As in `ExtractReport`."""

    images: int = 0
    written: int = 0
    bytes: int = 0
    turned: int = 0
    renamed: int = 0
    renamed_example: str = ""
    failed: int = 0
    unlike_browsers: int = 0
    unextracted: list[UnextractedImage] = field(default_factory=list)

    def add(self, file: ExtractedFile) -> None:
        """Count an image that has a file."""
        self.images += 1
        self.turned += file.turned
        stem = stem_of(file.uri)
        if stem not in (file.image_id, stem_of(file.image_id)):
            self.renamed += 1
            self.renamed_example = self.renamed_example or file.uri

    def add_written(self, file: ExtractedFile) -> None:
        """Count an image whose file this call wrote."""
        self.add(file)
        self.written += 1
        self.bytes += file.bytes

    def add_unextracted(self, image: ImageFacts, error: Exception) -> None:
        """Count an image that cannot be extracted."""
        self.unextracted.append(UnextractedImage(image.image_id, redact(str(error))))

    @property
    def notes(self) -> list[str]:
        """What the user should know, one line each."""
        notes = []
        if self.renamed:
            notes.append(
                f"renamed {self.renamed:,} (e.g. {self.renamed_example!r}), because another image has the same name "
                f"apart from case or extension, or some disks do not allow it: {EXTRACTED} lists all names"
            )
        if self.unlike_browsers:
            are = "images are" if self.unlike_browsers > 1 else "image is"
            notes.append(
                f"{self.unlike_browsers:,} {are} not rotated: browsers ignore the orientation, so annotations of a "
                "rotated file would not fit the image"
            )
        return notes


class _Files:
    """Writes files, several at a time, and adds them to the record."""

    def __init__(self, to: str, storage: Storage, record: ExtractionRecord, counts: _Counts) -> None:
        self._to, self._storage, self._record, self._counts = to, storage, record, counts
        self._threads = ThreadPoolExecutor(_THREADS)
        self._pending: deque[tuple[ImageFacts, int, Future[ExtractedFile]]] = deque()
        self._bytes = 0
        self._decoding = threading.Semaphore(_DECODED)
        self._archives = ArchiveReader(storage)

    def add(self, image: ImageFacts, stem: str, turned: bool) -> None:
        """Write the file of an image; waits while too many are unfinished."""
        from prelabel.export.reread import image_bytes  # slow to import

        self._record.begin()
        read: Callable[[], bytes] = functools.partial(image_bytes, image, self._storage)
        size = 0
        if image.location is not None:
            try:
                data = image_bytes(image, self._storage, archives=self._archives)
            except (SourceError, DecodeError) as error:
                self._counts.add_unextracted(image, error)
                return
            read, size = functools.partial(bytes, data), len(data)
        while len(self._pending) == _MOST_PENDING or (self._pending and self._bytes + size > _MOST_BYTES):
            self._finish_first()
        self._bytes += size
        self._pending.append((image, size, self._threads.submit(self._write, image, read, stem, turned)))

    def finish(self) -> None:
        """Wait until all files are written."""
        while self._pending:
            self._finish_first()

    def give_up(self) -> None:
        """Record the files that are written, and begin no others."""
        self._threads.shutdown(cancel_futures=True)
        for _, _, file in self._pending:
            if not file.cancelled() and file.exception() is None:
                self._record.add(file.result())
        self._record.save()

    def close(self) -> None:
        """End threads and open requests."""
        self._threads.shutdown(cancel_futures=True)
        self._archives.close()

    def _write(self, image: ImageFacts, read: Callable[[], bytes], stem: str, turned: bool) -> ExtractedFile:
        labeled = content = read()
        if turned:
            from prelabel.export.display_copies import upright_copy  # slow to import

            with self._decoding:
                content = upright_copy(image, labeled)
        name = stem + _extension(content, image)
        self._storage.publish(join(self._to, name), content)
        labeled_sha256, sha256 = (hashlib.sha256(data).hexdigest() for data in (labeled, content))
        return ExtractedFile(image.image_id, name, len(content), sha256, labeled_sha256, turned)

    def _finish_first(self) -> None:
        image, size, file = self._pending.popleft()
        self._bytes -= size
        try:
            written = file.result()
        except (SourceError, DecodeError) as error:
            self._counts.add_unextracted(image, error)
        else:
            self._record.add(written)
            self._counts.add_written(written)


@contextlib.contextmanager
def _writing(to: str, storage: Storage, record: ExtractionRecord, counts: _Counts) -> Iterator[_Files]:
    """Write files below `to`; in the end without an error, all are in the record."""
    files = _Files(to, storage, record, counts)
    try:
        yield files
        files.finish()
    except BaseException:
        # A failed clean-up must not hide the error.
        with contextlib.suppress(PrelabelError, OSError):
            files.give_up()
        raise
    finally:
        files.close()


def _extension(data: bytes, image: ImageFacts) -> str:
    """The extension of an image's file: its own, if browsers and tools know it for this format, or the usual one."""
    usual = extension_of_content(data)
    own = posixpath.splitext(image.image_id)[1]
    return own if own.lower() in (usual, *_ALSO_KNOWN.get(image_format(data) or "", ())) else usual
