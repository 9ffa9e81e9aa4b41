"""COCO files from finished shards: a dataset with annotations and, if wanted, a results file for `loadRes`.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    {"info": {...}, "licenses": [],
     "images":      [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4, "image_id": "a.jpg"}],
     "categories":  [{"id": 1, "name": "Dog", "supercategory": "", "mid": "/m/0bt9lr"}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 3.0, 4.0], "area": 12.0,
                      "iscrowd": 0, "segmentation": {"size": [4, 6], "counts": "0<<"}, "score": 0.9}]}

and in the results file `[{"image_id": 1, "category_id": 1, "bbox": [...], "score": 0.9, "segmentation": {...}}]`.

Left out and counted: failed images (their size is not known, and no annotations would read as "nothing on it"), boxes
without area, and, where masks are written, detections whose mask is empty. Files are streamed: memory does not grow
with the number of images.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from prelabel.errors import ExportError
from prelabel.export.class_list import categories_for
from prelabel.export.coco_files import JsonList, chunks, dataset_file, delete_later_parts, list_file, numbered_name
from prelabel.export.coco_options import CocoOptions
from prelabel.export.image_ids import Numbering, numbering
from prelabel.export.instances import Instance, Instances
from prelabel.export.known_names import KnownNames
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally
from prelabel.options import require
from prelabel.select import Selection
from prelabel.storage import Storage, describe, redact
from prelabel.store.rows import ImageRow


def export_coco(info: RunInfo, rows: Rows, to: str, options: CocoOptions, storage: Storage) -> ExportReport:
    """Write the dataset file at `to` (with `split` its numbered files: `x.json` -> `x-00000.json`, ...).

    The order of images and annotations is the plan's, within an image by descending score; ids count over all files.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: Detections of classes that `categories` does not have, image ids that cannot be had, masks that
            do not fit their image, or a file that cannot be written. Nothing is written under a final name then,
            except whole files of a split export.
    """
    require(options.results != to, f"results and to are the same file {redact(to)!r}")
    names = KnownNames(info, options)
    tally = Tally()
    categories = categories_for(info, rows, options, storage)
    numbers = numbering(options.image_ids, storage)
    head = _head(info, options, numbers)

    def listed() -> list[dict[str, Any]]:
        return [entry.to_json() for entry in categories.entries]

    images = _Images(rows(), numbers, tally)
    instances = Instances(categories, options, options, tally)
    try:
        with contextlib.ExitStack() as stack:
            results = _Results(stack.enter_context(list_file(storage, options.results)) if options.results else None)
            for number, some in enumerate(chunks(images, options.split)):
                url = to if options.split is None else numbered_name(to, number)
                with dataset_file(storage, url, head, listed) as file:
                    for image, row in some:
                        file.images.add(image)
                        names.see(row.detections)
                        for one in instances(row):
                            file.annotations.add(_dataset_entry(tally.detections, image["id"], one, options))
                            results.add(image["id"], one, row)
                tally.files.append(url)
        if options.results:
            tally.files.append(options.results)
        if options.split is not None:
            delete_later_parts(to, len(tally.files) - bool(options.results), storage)
    except OSError as error:
        raise ExportError(f"cannot write {redact(to)}: {describe(error)}") from error
    tally.warnings += names.warnings
    _warn(tally, options, images.twins(rows))
    return tally.report()


def _head(info: RunInfo, options: CocoOptions, numbers: Numbering) -> dict[str, Any]:
    provenance = {
        "run_id": info.run_id,
        "detector": info.detector,
        "model_version": info.model_version,
        "fingerprint": info.fingerprint,
        "prelabel_version": info.version,
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
    """The images of a dataset with their rows, counted; remembers enough of the names to find equal stems later."""

    def __init__(self, rows: Iterable[ImageRow], numbers: Numbering, tally: Tally) -> None:
        self._rows = rows
        self._numbers = numbers
        self._tally = tally
        self._stems = array("q")

    def __iter__(self) -> Iterator[tuple[dict[str, Any], ImageRow]]:
        for position, row in enumerate(self._rows):
            self._stems.append(hash(re.sub(r"\.[^./]*$", "", row.file_name)))
            if row.detections is None:
                self._tally.failed += 1
                continue
            self._tally.images += 1
            image_id = self._numbers.number(position, row.file_name)
            size = {"width": row.detections.width, "height": row.detections.height}
            image = {"id": image_id, "file_name": row.file_name, **size, "image_id": row.image_id}
            yield {**image, **self._numbers.carried.get(image_id, {})}, row

    def twins(self, rows: Rows) -> tuple[int, str]:
        """How many images share their path without ending with an earlier one, and the first such name."""
        _, first = np.unique(np.asarray(self._stems), return_index=True)
        again = np.setdiff1d(np.arange(len(self._stems)), first)
        if not len(again):
            return 0, ""
        return len(again), next(itertools.islice(rows(), int(again[0]), None)).file_name


def _dataset_entry(number: int, image_id: int, one: Instance, options: CocoOptions) -> dict[str, Any]:
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": one.category_id,
        "bbox": one.shape.bbox,
        "area": one.shape.area,
        "iscrowd": 0,
        "segmentation": one.shape.segmentation,
        "score": one.score,
    }
    return {**entry, "attributes": {"score": one.score}} if options.score == "attribute" else entry


class _Results:
    """Fills a results file, or nothing where none is wanted, with entries that are all alike."""

    def __init__(self, entries: JsonList | None) -> None:
        self._entries = entries
        self._with_masks: bool | None = None

    def add(self, image_id: int, one: Instance, row: ImageRow) -> None:
        """One more entry. Raises ExportError for a mixture of boxes and masks."""
        if self._entries is None:
            return
        # Readers look at the first entry of a results file only to tell masks from boxes.
        with_mask = one.shape.rle is not None
        if self._with_masks not in (None, with_mask):
            raise ExportError(
                f"image {row.image_id!r} has detections {'with' if with_mask else 'without'} masks, unlike those "
                "before it; a results file cannot mix them: say segmentation none"
            )
        self._with_masks = with_mask
        entry = {"image_id": image_id, "category_id": one.category_id, "bbox": one.shape.bbox, "score": one.score}
        self._entries.add({**entry, "segmentation": one.shape.rle} if with_mask else entry)


def _warn(tally: Tally, options: CocoOptions, twins: tuple[int, str]) -> None:
    if not tally.detections:
        tally.warnings.append("no detection was kept" + ("; loadRes fails on an empty list" if options.results else ""))
    count, name = twins
    if count:
        tally.warnings.append(
            f"{count} images share their name up to the ending with another one, e.g. {name!r}: CVAT and Datumaro take "
            "them for the same image"
        )
