"""Writes a preview: `index.html`, and the numbered images in `preview-files/`.

DIR/index.html                      the page with its data; written last, so that a preview with this file is complete
DIR/preview-files/00001.jpg         the larger rendition of the first image
DIR/preview-files/00001-small.jpg   its thumbnail
"""

from __future__ import annotations

import base64
import itertools
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from prelabel.errors import ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo, Tally, links_option, require_distinct_files
from prelabel.export.keypoints import unread_keypoints, written_keypoints
from prelabel.export.options import KeypointOptions
from prelabel.export.run_selection import selection_notes
from prelabel.frames import BROWSER
from prelabel.gallery.content import GENERATOR, card, class_numbers, classes, page, run_facts, totals
from prelabel.gallery.renditions import renditions_of
from prelabel.gallery.survey import kept_predictions, predictions_below, survey
from prelabel.options import group_of, option
from prelabel.select import ExportSelection
from prelabel.storage.address import describe, join, redact
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.triage.options import ImageListOptions

INDEX = "index.html"
FOLDER = "preview-files"

_RENDITION_NAME = re.compile(r"[0-9]{5,}(-small)?\.jpg")

#: Called after each image with the number of finished images and the total.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(KeypointOptions):
    """The options of `preview`."""

    listed: ImageListOptions = group_of(ImageListOptions)
    selection: ExportSelection = group_of(ExportSelection)
    limit: int = option(
        200,
        "Show at most N images, chosen so that every class and score range appears; 0 shows all.",
        metavar="N",
        min=0,
        heading="Preview",
        first=True,
    )
    seed: int = option(
        0, "Set the random seed of the sample; the same seed chooses the same images.", metavar="N", first=True
    )
    thumbnail_size: int = option(
        400,
        "Limit the longer side of thumbnails; images are never enlarged.",
        metavar="PIXELS",
        min=32,
        max=8192,
        first=True,
    )
    picture_size: int = option(
        1280,
        "Limit the longer side of opened images; they are never enlarged.",
        metavar="PIXELS",
        min=32,
        max=8192,
        first=True,
    )
    threads: int | None = option(
        None, "Read and scale N images at the same time (default: one per CPU, at least 4).", min=1, first=True
    )
    links: tuple[str, ...] = links_option(first=True)
    single_file: bool = option(False, "Embed the images in index.html, so that it is the only file.", first=True)


def write_preview(
    info: RunInfo,
    rows: Rows,
    to: str,
    options: PreviewOptions,
    storage: Storage,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the gallery of a run into the folder `to`, replacing an earlier preview there.

    Rows are read twice: first for the totals and the sample, then for the images in the gallery. If an image is no
    longer available, the gallery has a placeholder with the reason.

    Args:
        info: The run.
        rows: Reads the rows of the run, from the start each time it is called.
        to: The folder, on any storage.
        options: Which images and detections to show.
        storage: Opens the images and the folder.
        progress: Called after each image.

    Returns:
        The page as the only file, the numbers of images and detections in the gallery, and the number of failed images
        in the run.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: `to` holds a page that is not a preview, or a mask does not fit its image.
        StoreError: A shard is corrupt, or a file cannot be written.
    """
    require_distinct_files(options, {"to": to}, run=info.output)
    if info.classes is not None:
        options.selection.require_known_names(info.classes)
    index = join(to, INDEX)
    exists = _is_preview(index, storage)
    counts = survey(rows.without("keypoints")(), options.selection, options.limit, options.seed)
    in_browser = rows.without(*unread_keypoints(info, options)).in_frame(BROWSER)
    keypoints = written_keypoints(info, options)
    lowest_keypoint_score = None if keypoints is None else options.lowest_keypoint_score
    if exists:
        # The page must not stay while its images are being replaced.
        storage.delete(index)
    numbers = class_numbers(counts)
    chosen, with_card = set(counts.chosen), {*counts.chosen, *counts.listed}
    renditions = _Renditions(to, storage, options)
    cards: list[dict[str, Any]] = []
    tally = Tally()
    try:
        for position, row in enumerate(itertools.islice(in_browser(), max(with_card, default=-1) + 1)):
            if position not in with_card:
                continue
            if row.error_type is None:
                tally.add_image(row)
            kept, below = kept_predictions(row, options.selection), predictions_below(row, options.selection)
            cards.append(card(row, kept, below, numbers, options.picture_size, lowest_keypoint_score))
            # A failed image with a known size could be decoded, so it can be shown.
            if position in chosen or row.width is not None:
                renditions.queue(len(cards), row)
        unreadable = renditions.finish(cards, progress)
    finally:
        renditions.close()
    data = {
        "run": run_facts(info, options.selection),
        "totals": totals(counts),
        "classes": classes(counts),
        "sampled": len(chosen) < counts.images - counts.failed,
        "cards": cards,
        **({} if keypoints is None else {"keypoints": {"edges": [list(edge) for edge in keypoints.edges]}}),
    }
    storage.publish(index, page(data).encode())
    _delete_old_renditions(to, storage, renditions.urls)
    dropped = {
        "images beyond the limit": counts.images - counts.failed - len(chosen),
        "failed images beyond the listed": counts.failed - len(counts.listed),
    }
    return ExportReport(
        files=(index,),
        images=len(chosen),
        failed=counts.failed,
        detections=sum(len(values.get("detections", ())) for values in cards),
        dropped={reason: count for reason, count in dropped.items() if count},
        warnings=(
            *selection_notes(options.selection, info.kept, info.classes),
            *tally.frame_notes(BROWSER, has_frame_option=False),
            *(
                [f"{unreadable:,} image{'s' * (unreadable != 1)} cannot be read again: the page says why"]
                if unreadable
                else ()
            ),
        ),
    )


class _Renditions:
    """Makes renditions in threads, and writes them or keeps them for the page."""

    def __init__(self, to: str, storage: Storage, options: PreviewOptions) -> None:
        self._to, self._storage, self._options = to, storage, options
        threads = options.threads or max(4, os.cpu_count() or 1)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="preview")
        self._card_numbers: dict[Future[list[str] | str], int] = {}
        self.urls: set[str] = set()

    def queue(self, number: int, row: ImageRow) -> None:
        """Queue an image. `number` is the number of its card, from 1."""
        # The detections are removed, because masks would take memory in the queue.
        self._card_numbers[self._executor.submit(self._make, number, replace(row, detections=None))] = number

    def _make(self, number: int, row: ImageRow) -> list[str] | str:
        """URLs of the larger rendition and of the thumbnail (one if they are the same), or why there are none."""
        jpegs = renditions_of(row, self._options.thumbnail_size, self._options.picture_size, self._storage)
        if isinstance(jpegs, str):
            return jpegs
        contents = {f"{number:05d}{size}.jpg": jpeg for size, jpeg in zip(("", "-small"), jpegs, strict=False)}
        if self._options.single_file:
            encoded = (base64.b64encode(content).decode("ascii") for content in contents.values())
            return [f"data:image/jpeg;base64,{text}" for text in encoded]
        for name, content in contents.items():
            self._storage.publish(join(self._to, FOLDER, name), content)
        return [f"{FOLDER}/{name}" for name in contents]

    def finish(self, cards: list[dict[str, Any]], progress: Progress | None) -> int:
        """Wait for all images, put their URLs or errors into the cards, and return the number of unreadable images."""
        unreadable = 0
        for done, future in enumerate(as_completed(self._card_numbers), start=1):
            urls, image_card = future.result(), cards[self._card_numbers[future] - 1]
            if not isinstance(urls, str):
                image_card.update(picture=urls[0], thumbnail=urls[-1])
                self.urls.update(urls)
            elif "error" not in image_card:
                image_card["missing"] = urls
                unreadable += 1
            if progress is not None:
                progress(done, len(self._card_numbers))
        return unreadable

    def close(self) -> None:
        """Stop the threads and drop the queue."""
        self._executor.shutdown(cancel_futures=True)


def _is_preview(url: str, storage: Storage) -> bool:
    """Whether the page exists and is a preview. Raises ExportError for any other page."""
    try:
        old = storage.read(url)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ExportError(f"cannot write {redact(url)}: {describe(error)}") from error
    if GENERATOR.encode() not in old[:4096]:
        raise ExportError(f"{redact(url)} is not a preview and would be overwritten: choose another folder")
    return True


def _delete_old_renditions(to: str, storage: Storage, urls: set[str]) -> None:
    """Delete images of an earlier preview that this preview does not have."""
    folder = join(to, FOLDER)
    try:
        for name in storage.names(folder):
            if f"{FOLDER}/{name}" not in urls and _RENDITION_NAME.fullmatch(name):
                storage.delete(join(folder, name))
    except OSError as error:
        raise ExportError(f"cannot delete old images in {redact(folder)}: {describe(error)}") from error
