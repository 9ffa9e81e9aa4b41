"""Writes a preview: `index.html`, and beside it `preview-files/` with the pictures under numbers of our own.

DIR/index.html                      the page with its data, written last: a preview is there when this file is
DIR/preview-files/00001.jpg         the first image shown, opened
DIR/preview-files/00001-small.jpg   its thumbnail
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from prelabel.errors import ExportError
from prelabel.export.kept import beyond_kept
from prelabel.export.option_rules import require_distinct_files
from prelabel.export.parts import in_frame
from prelabel.export.reading import Rows, RunInfo, Tally
from prelabel.frames import BROWSER
from prelabel.preview.content import card, class_numbers, classes, run_facts, totals
from prelabel.preview.options import PreviewOptions
from prelabel.preview.page import GENERATOR, page
from prelabel.preview.pictures import renditions_of
from prelabel.preview.survey import below_of, kept_of, survey
from prelabel.storage import Storage, describe, join, redact
from prelabel.store.rows import ImageRow

INDEX = "index.html"
FOLDER = "preview-files"

_OWN_NAME = re.compile(r"[0-9]{5,}(-small)?\.jpg")

#: Told after each picture: how many are done, of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewReport:
    """What a preview shows; named as an export's report.

    Attributes:
        files: The address to open.
        images: Images shown (failed ones not counted).
        failed: Images of the run that failed; all are counted, and up to 500 listed.
        detections: Detections and labels shown.
        left_out: Images that are not shown, by reason.
        warnings: What the user should know, one line each.
        bytes: Size of everything written.
    """

    files: tuple[str, ...]
    images: int
    failed: int
    detections: int
    left_out: dict[str, int]
    warnings: tuple[str, ...]
    bytes: int


def write_preview(
    info: RunInfo,
    rows: Rows,
    to: str,
    options: PreviewOptions,
    storage: Storage,
    progress: Progress | None = None,
) -> PreviewReport:
    """Write the gallery of a run into the folder `to`; an earlier preview there is replaced.

    The rows are read twice: once for totals and the sample, then for what is shown. An image that cannot be read any
    more is shown without its picture, with the reason.

    Args:
        info: Of the run.
        rows: Of the run; equal each time they are read.
        to: Folder, on any store.
        options: What to show.
        storage: Where the images are, and the folder.
        progress: Told after each picture.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: `to` holds a page of somebody else, or a mask does not fit its image.
        StoreError: A shard is damaged, or a file cannot be written.
    """
    require_distinct_files(options, {"to": to}, run=info.output)
    if info.classes is not None:
        options.require_known_names((one.name for one in info.classes), (one.mid for one in info.classes))
    index = join(to, INDEX)
    earlier = _is_preview(index, storage)
    found = survey(rows(), options)
    in_browser = in_frame(rows, BROWSER)
    if earlier:
        # Its pictures are about to change.
        storage.delete(index)
    numbers = class_numbers(found)
    chosen, wanted = set(found.chosen), {*found.chosen, *found.listed}
    pictures = _Pictures(to, storage, options)
    cards: list[dict[str, Any]] = []
    shown = Tally()
    try:
        for position, row in _at(in_browser(), wanted):
            if row.error_type is None:
                shown.add_image(row)
            cards.append(card(row, kept_of(row, options), below_of(row, options), numbers, options.picture_size))
            # A failed image that was once decoded may well be shown.
            if position in chosen or row.width is not None:
                pictures.begin(len(cards), row)
        unreadable = pictures.finish(cards, progress)
    finally:
        pictures.close()
    data = {
        "run": run_facts(info, options),
        "totals": totals(found),
        "classes": classes(found),
        "sampled": len(chosen) < found.images - found.failed,
        "cards": cards,
    }
    html = page(data).encode()
    storage.publish(index, html)
    _clear(to, storage, pictures.names)
    left_out = {
        "images beyond the limit": found.images - found.failed - len(chosen),
        "failed images beyond the listed": found.failed - len(found.listed),
    }
    return PreviewReport(
        files=(index,),
        images=len(chosen),
        failed=found.failed,
        detections=sum(len(one.get("found", ())) for one in cards),
        left_out={reason: count for reason, count in left_out.items() if count},
        warnings=(
            *beyond_kept(options, info.kept, info.classes),
            *shown.frame_notes(BROWSER, choosable=False),
            *([f"{unreadable} of the pictures cannot be read any more: the page says why"] if unreadable else ()),
        ),
        bytes=len(html) + pictures.bytes,
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where the renditions of a card are, and the files that were written for them."""

    picture: str
    thumbnail: str
    names: tuple[str, ...] = ()
    bytes: int = 0


class _Pictures:
    """Renditions in the making, in threads; written as soon as they are made, or kept for the page."""

    def __init__(self, to: str, storage: Storage, options: PreviewOptions) -> None:
        self._to, self._storage, self._options = to, storage, options
        threads = options.threads or max(4, os.cpu_count() or 1)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="preview")
        self._begun: dict[Future[_Placed | str], int] = {}
        self.names: set[str] = set()
        self.bytes = 0

    def begin(self, number: int, row: ImageRow) -> None:
        """Queue an image, the card's number counted from 1."""
        # The masks are not needed, and need not wait in the queue.
        self._begun[self._executor.submit(self._make, number, replace(row, detections=None))] = number

    def _make(self, number: int, row: ImageRow) -> _Placed | str:
        made = renditions_of(row, self._options.thumbnail_size, self._options.picture_size, self._storage)
        if isinstance(made, str):
            return made
        contents = {f"{number:05d}.jpg": made.picture}
        if made.thumbnail is not made.picture:
            contents[f"{number:05d}-small.jpg"] = made.thumbnail
        if self._options.single_file:
            addresses = [_data_address(content) for content in contents.values()]
            return _Placed(addresses[0], addresses[-1])
        for name, content in contents.items():
            self._storage.publish(join(self._to, FOLDER, name), content)
        addresses = [f"{FOLDER}/{name}" for name in contents]
        return _Placed(addresses[0], addresses[-1], tuple(contents), sum(map(len, contents.values())))

    def finish(self, cards: list[dict[str, Any]], progress: Progress | None) -> int:
        """Wait for all, put their addresses or what is wrong into the cards, and return how many were not readable."""
        unreadable = 0
        for done, future in enumerate(as_completed(self._begun), start=1):
            made, one = future.result(), cards[self._begun[future] - 1]
            if isinstance(made, _Placed):
                one.update(picture=made.picture, thumbnail=made.thumbnail)
                self.names.update(made.names)
                self.bytes += made.bytes
            elif "error" not in one:
                one["missing"] = made
                unreadable += 1
            if progress is not None:
                progress(done, len(self._begun))
        return unreadable

    def close(self) -> None:
        """End the threads; what was not begun is not done."""
        self._executor.shutdown(cancel_futures=True)


def _data_address(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _at(rows: Iterator[ImageRow], wanted: set[int]) -> Iterator[tuple[int, ImageRow]]:
    """The rows at these positions; nothing is read beyond the last."""
    last = max(wanted, default=-1)
    if last < 0:
        return
    for position, row in enumerate(rows):
        if position in wanted:
            yield position, row
        if position >= last:
            return


def _is_preview(url: str, storage: Storage) -> bool:
    """Whether an earlier preview is there. Raises ExportError for a page of somebody else."""
    try:
        old = storage.read(url)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ExportError(f"cannot write {redact(url)}: {describe(error)}") from error
    if GENERATOR.encode() not in old[:4096]:
        raise ExportError(f"{redact(url)} is no preview and would be overwritten: choose another folder")
    return True


def _clear(to: str, storage: Storage, names: set[str]) -> None:
    """Delete pictures of an earlier preview that this one does not have."""
    folder = join(to, FOLDER)
    try:
        for name in storage.names(folder):
            if name not in names and _OWN_NAME.fullmatch(name):
                storage.delete(join(folder, name))
    except OSError as error:
        raise ExportError(f"cannot delete old pictures in {redact(folder)}: {describe(error)}") from error
