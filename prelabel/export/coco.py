"""COCO files from finished shards: a dataset with annotations and, if wanted, a results file for `loadRes`.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    {"info": {...}, "licenses": [],
     "images":      [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4, "image_id": "a.jpg"}],
     "categories":  [{"id": 1, "name": "Dog", "supercategory": "", "mid": "/m/0bt9lr"}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 3.0, 4.0], "area": 12.0,
                      "iscrowd": 0, "segmentation": {"size": [4, 6], "counts": "0<<"}, "score": 0.9}]}

and in the results file `[{"image_id": 1, "category_id": 1, "bbox": [...], "score": 0.9, "segmentation": {...}}]`.

Where masks are written, boxes are widened to contain them, by up to a pixel: a mask's pixels are whole, and FiftyOne
cuts masks to their boxes. With `segmentation none`, and in all other formats, boxes are the detector's own.

Left out and counted: failed images (their size is not known, and no annotations would read as "nothing on it"), boxes
without area, and, where masks are written, detections whose mask is empty. Files are streamed: memory does not grow
with the number of images.
"""

from __future__ import annotations

import contextlib
import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from prelabel.errors import ExportError
from prelabel.export.class_list import categories_for
from prelabel.export.coco_entries import Entries, EntriesOf, ImageEntries, numbered
from prelabel.export.coco_files import chunks, dataset_file, delete_later_parts, list_file, numbered_name
from prelabel.export.coco_options import CocoOptions
from prelabel.export.image_ids import Numbering, numbering
from prelabel.export.kept import lowest_threshold, selection_words
from prelabel.export.known_names import KnownNames
from prelabel.export.option_rules import require_distinct_files
from prelabel.export.parts import UNUSED, each_part, in_frame, row_at, without
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally, strict_json
from prelabel.select import Selection
from prelabel.storage import Storage, absolute, describe, redact
from prelabel.store.run import ClassName


def export_coco(info: RunInfo, rows: Rows, to: str, options: CocoOptions, storage: Storage) -> ExportReport:
    """Write the dataset file at `to` (with `split` its numbered files: `x.json` -> `x-00000.json`, ...).

    The order of images and annotations is the plan's, within an image by descending score; ids count over all files.
    With `SpreadRows` several processes work, and the files are the same.

    Raises:
        ConfigError: An option names a class that the detector does not have, or two files would be one.
        ExportError: Detections of classes that `categories` does not have, image ids that cannot be had, masks that
            do not fit their image, or a file that cannot be written. Nothing is written under a final name then,
            except whole files of a split export.
    """
    require_distinct_files(
        options,
        {"to": to, "results": options.results},
        read=("categories", "image_ids"),
        numbered="to" if options.split is not None else "",
        run=info.output,
    )
    rows = in_frame(without(rows, *UNUSED), options.frame)
    if options.segmentation == "none":
        rows = without(rows, "masks")
    names = KnownNames(info, options)
    tally = Tally()
    categories = categories_for(info, rows, options, storage)
    numbers = numbering(options.image_ids, storage)
    head = _head(info, options, numbers)

    def listed() -> list[dict[str, Any]]:
        return [entry.to_json() for entry in categories.entries]

    images = _Images(rows, EntriesOf(options, categories, names), numbers, tally)
    annotations = 0
    try:
        with contextlib.ExitStack() as stack:
            results = stack.enter_context(list_file(storage, options.results)) if options.results else None
            for number, some in enumerate(chunks(images, options.split)):
                url = to if options.split is None else numbered_name(to, number)
                with dataset_file(storage, url, head, listed) as file:
                    for image_id, image, entries in some:
                        file.images.add([image])
                        prefix = b'"image_id":%d,' % image_id
                        made = numbered(entries.annotations, prefix, annotations + 1)
                        annotations += len(made)
                        file.annotations.add(made)
                        if results is not None:
                            results.add(numbered(entries.results, prefix))
                tally.files.append(url)
        if options.results:
            tally.files.append(absolute(options.results))
        if options.split is not None:
            delete_later_parts(to, len(tally.files) - bool(options.results), storage)
    except OSError as error:
        raise ExportError(f"cannot write {redact(to)}: {describe(error)}") from error
    tally.warnings += [*names.warnings, *categories.notes, *images.size_notes(), *tally.frame_notes(options.frame)]
    _warn(tally, options, info, images.twins())
    return tally.report()


def _head(info: RunInfo, options: CocoOptions, numbers: Numbering) -> dict[str, Any]:
    provenance = {
        "run_id": info.run_id,
        "detector": info.detector,
        "model_version": info.model_version,
        "fingerprint": info.fingerprint,
        "prelabel_version": info.version,
        "frame": options.frame,
        "selection": {f.name: asdict(options)[f.name] for f in fields(Selection)},
    }
    about: dict[str, Any] = {
        "description": f"Pre-annotations made by {info.model_version}",
        "version": info.model_version,
        "year": int(info.created[:4]) if info.created[:4].isdigit() else 0,
        "contributor": f"prelabel {info.version}".strip(),
        "date_created": info.created,
        "url": "",
        "prelabel": provenance,
    }
    if numbers.description is not None:
        about["source_info"] = numbers.description
    return {"info": about, "licenses": list(numbers.licenses)}


class _Images:
    """The images of a dataset with their entries, counted; remembers enough of the names to find equal stems later."""

    def __init__(self, rows: Rows, work: EntriesOf, numbers: Numbering, tally: Tally) -> None:
        self._rows = rows
        self._work = work
        self._numbers = numbers
        self._tally = tally
        self._stems = array("q")
        self._other_sizes = 0
        self._other_size = ""

    def __iter__(self) -> Iterator[tuple[int, bytes, ImageEntries]]:
        """Number and finished entry of each image, and the rest of its entries."""
        masks: set[int] = set()
        for part in self._parts():
            for one in part.images:
                position = len(self._stems)
                self._stems.append(hash(re.sub(r"\.[^./]*$", "", one.file_name)))
                if not one.image:
                    continue
                # Readers look at the first entry of a results file only to tell masks from boxes.
                masks.update(one.masks)
                if len(masks) > 1:
                    image_id = json.loads(b"{%b}" % one.image)["image_id"]
                    raise ExportError(
                        f"image {image_id!r} has detections {'with' if b'm' in one.masks else 'without'} masks, "
                        "unlike those before it; a results file cannot mix them: say segmentation none"
                    )
                image_id = self._numbers.number(position, one.file_name)
                self._hold_size(image_id, one)
                carried = self._numbers.carried.get(image_id)
                more = b"," + strict_json(carried)[1:-1] if carried else b""
                yield image_id, b'{"id":%d,%b%b}' % (image_id, one.image, more), one

    def _hold_size(self, image_id: int, one: ImageEntries) -> None:
        """Beside the one that the dataset of the ids states: boxes of two frames are compared without a word by all."""
        stated = self._numbers.sizes.get(image_id)
        if stated is None:
            return
        image = json.loads(b"{%b}" % one.image)
        if (image["height"], image["width"]) != stated:
            self._other_sizes += 1
            self._other_size = self._other_size or (
                f"{one.file_name!r}: {image['width']} x {image['height']}, there {stated[1]} x {stated[0]}"
            )

    def size_notes(self) -> list[str]:
        """A line where images have another size in the dataset that their ids are from."""
        if not self._other_sizes:
            return []
        return [
            f"{self._other_sizes:,} images have another size in {self._numbers.shown} (e.g. {self._other_size}): its "
            "boxes cannot be compared with these; where its sizes are those of the pixels as stored, say frame stored"
        ]

    def _parts(self) -> Iterator[Entries]:
        """Of all rows; what they tell is added up."""
        for part in each_part(self._rows, self._work, self._contradicts):
            self._tally.add(part.tally)
            self._work.names.add(part.names)
            yield part

    def _contradicts(self, part: Entries) -> bool:
        """Whether parts made side by side gave one number to two new classes, or two to one."""
        id_of = self._work.categories.id_of
        return any(id_of(ClassName(*one)) != category_id for one, category_id in part.ids.items())

    def twins(self) -> tuple[int, str]:
        """How many images share their path without ending with an earlier one, and the first such name."""
        _, first = np.unique(np.asarray(self._stems), return_index=True)
        again = np.setdiff1d(np.arange(len(self._stems)), first)
        return (len(again), row_at(self._rows, int(again[0])).file_name) if len(again) else (0, "")


def _warn(tally: Tally, options: CocoOptions, info: RunInfo, twins: tuple[int, str]) -> None:
    if options.results and info.kept is not None and lowest_threshold(options) > lowest_threshold(info.kept):
        tally.warnings.append(
            f"the results file has detections {selection_words(options, info.kept)}: to score the detector, write all "
            "with score-threshold 0"
        )
    if not tally.detections:
        tally.warnings.append("no detection was kept" + ("; loadRes fails on an empty list" if options.results else ""))
    count, name = twins
    if count:
        tally.warnings.append(
            f"{count} images share their name up to the ending with another one, e.g. {name!r}: CVAT and Datumaro take "
            "them for the same image"
        )
