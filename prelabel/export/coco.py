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
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from prelabel.errors import ExportError
from prelabel.export.categories import Categories, ListedCategories, NumberedCategories, read_categories
from prelabel.export.coco_files import chunks, dataset_file, delete_later_parts, list_file, numbered_name
from prelabel.export.coco_options import CocoOptions
from prelabel.export.coco_shapes import Shape, shape_of
from prelabel.export.image_ids import Numbering, numbering
from prelabel.export.known_names import KnownNames
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally, shortest
from prelabel.options import require
from prelabel.select import Selection
from prelabel.storage import Storage, describe, redact
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName


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
    categories = _categories(info, rows, options, storage)
    numbers = numbering(options.image_ids, storage)
    head = _head(info, options, numbers)

    def listed() -> list[dict[str, Any]]:
        return [entry.to_json() for entry in categories.entries]

    images = _Images(rows(), numbers, tally)
    annotate = _Annotator(categories, options, tally)
    try:
        with contextlib.ExitStack() as stack:
            results = stack.enter_context(list_file(storage, options.results)) if options.results else None
            for number, some in enumerate(chunks(images, options.split)):
                url = to if options.split is None else numbered_name(to, number)
                with dataset_file(storage, url, head, listed) as file:
                    for image, row in some:
                        file.images.add(image)
                        names.see(row.detections)
                        for annotation in annotate(image["id"], row):
                            file.annotations.add(annotation.dataset_entry(options))
                            if results is not None:
                                results.add(annotation.results_entry())
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


def _categories(info: RunInfo, rows: Rows, options: CocoOptions, storage: Storage) -> Categories:
    if not options.categories:
        # Without a class list the numbers come from all detections, whatever their scores, and so stay the same.
        return NumberedCategories(info.classes or _classes_in(rows(), None), options)
    categories = ListedCategories(read_categories(options.categories, storage), options)
    if options.unlisted == "error":
        unlisted = [one for one in _classes_in(rows(), options) if categories.id_of(one) is None]
        missing = sorted({f"{one.name} ({one.mid})" if one.mid else one.name for one in unlisted})
        if missing:
            shown = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
            raise ExportError(
                f"{redact(options.categories)} has no category for {shown}: rename with class-map, leave out with "
                "exclude-class, or say unlisted drop"
            )
    return categories


def _classes_in(rows: Iterable[ImageRow], selection: Selection | None) -> set[ClassName]:
    """The classes of all detections, or of those that a selection keeps."""
    classes: set[ClassName] = set()
    for row in rows:
        found = row.detections
        if found is None or not len(found):
            continue
        if selection is not None:
            found = found[selection.indices(found.score, found.label, found.mid, found.xyxy)]
        classes.update(map(ClassName, found.category_id.tolist(), found.label, found.mid))
    return classes


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


@dataclass(frozen=True, slots=True)
class _Annotation:
    id: int
    image_id: int
    category_id: int
    score: float
    shape: Shape

    def dataset_entry(self, options: CocoOptions) -> dict[str, Any]:
        entry = {
            "id": self.id,
            "image_id": self.image_id,
            "category_id": self.category_id,
            "bbox": self.shape.bbox,
            "area": self.shape.area,
            "iscrowd": 0,
            "segmentation": self.shape.segmentation,
            "score": self.score,
        }
        return {**entry, "attributes": {"score": self.score}} if options.score == "attribute" else entry

    def results_entry(self) -> dict[str, Any]:
        entry = {
            "image_id": self.image_id,
            "category_id": self.category_id,
            "bbox": self.shape.bbox,
            "score": self.score,
        }
        return {**entry, "segmentation": self.shape.rle} if self.shape.rle is not None else entry


class _Annotator:
    """Makes the annotations of one image after another and counts them."""

    def __init__(self, categories: Categories, options: CocoOptions, tally: Tally) -> None:
        self._categories = categories
        self._options = options
        self._tally = tally
        self._with_masks: bool | None = None

    def __call__(self, image_id: int, row: ImageRow) -> Iterator[_Annotation]:
        found = row.detections
        if found is None or not len(found):
            return
        scores = shortest(found.score)
        for index in self._options.indices(found.score, found.label, found.mid, found.xyxy).tolist():
            one = ClassName(int(found.category_id[index]), found.label[index], found.mid[index])
            category_id = self._categories.id_of(one)
            if category_id is None:
                self._leave_out("of classes that are not in the list of categories")
                continue
            counts = None if found.mask is None else found.mask[index]
            shape = shape_of(row.image_id, found.xyxy[index], counts, (found.height, found.width), self._options)
            if isinstance(shape, str):
                self._leave_out(shape)
                continue
            self._require_alike(shape.rle is not None, row)
            self._tally.detections += 1
            yield _Annotation(self._tally.detections, image_id, category_id, scores[index], shape)

    def _leave_out(self, reason: str) -> None:
        self._tally.left_out[f"detections {reason}"] += 1

    def _require_alike(self, with_mask: bool, row: ImageRow) -> None:
        # Readers look at the first entry of a results file only to tell masks from boxes.
        if self._with_masks is None:
            self._with_masks = with_mask
        if self._with_masks != with_mask and self._options.results:
            raise ExportError(
                f"image {row.image_id!r} has detections {'with' if with_mask else 'without'} masks, unlike those "
                "before it; a results file cannot mix them: say segmentation none"
            )


def _warn(tally: Tally, options: CocoOptions, twins: tuple[int, str]) -> None:
    if not tally.detections:
        tally.warnings.append("no detection was kept" + ("; loadRes fails on an empty list" if options.results else ""))
    count, name = twins
    if count:
        tally.warnings.append(
            f"{count} images share their name up to the ending with another one, e.g. {name!r}: CVAT and Datumaro take "
            "them for the same image"
        )
