"""Write COCO files from finished shards: a dataset with annotations and optionally a results file for `loadRes`.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    {"info": {...}, "licenses": [],
     "images":      [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4, "image_id": "a.jpg"}],
     "categories":  [{"id": 1, "name": "Dog", "supercategory": "", "mid": "/m/0bt9lr"}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 3.0, 4.0], "area": 12.0,
                      "iscrowd": 0, "segmentation": {"size": [4, 6], "counts": "0<<"}, "score": 0.9}]}

and in the results file `[{"image_id": 1, "category_id": 1, "bbox": [...], "score": 0.9, "segmentation": {...}}]`.

Keypoints are added as COCO has them: names and skeleton to the categories, and to an annotation a flat list of x, y, v
and the number of points with v = 2. Points below the threshold or outside the image are 0, 0, 0. The results file has
all points, since evaluation looks at each point of the truth, with their scores instead of v.

If masks are written, boxes are enlarged by up to a pixel to contain them: a mask consists of whole pixels, and FiftyOne
clips masks to their boxes. With `segmentation none`, and in all other formats, boxes are the detector's own.

Failed images are counted but not written: their size is unknown, and an image without annotations would mean that it
shows nothing. Boxes without area are dropped, and detections with an empty mask if masks are written. Files are
streamed, so memory does not grow with the number of images.
"""

from __future__ import annotations

import contextlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prelabel.errors import ExportError
from prelabel.export.annotations import InstanceColumns, Instances
from prelabel.export.base import ExportReport, Rows, RunInfo, Tally, frame_option, require_distinct_files
from prelabel.export.categories import Categories, ClassListOptions, categories_for
from prelabel.export.coco_files import (
    BETWEEN_ENTRIES,
    chunks,
    dataset_file,
    delete_later_parts,
    list_file,
    numbered_name,
    split_extension,
)
from prelabel.export.image_ids import Numbering, numbering
from prelabel.export.keypoints import (
    coco_definition,
    ids_with_keypoints,
    unread_keypoints,
    written_keypoints,
)
from prelabel.export.options import KeypointOptions, extracted_option
from prelabel.export.parallel import UNUSED, Part, make_items, row_at
from prelabel.export.run_selection import KnownNames, selection_words
from prelabel.export.text import json_numbers, strict_json
from prelabel.keypoints import KeypointSet
from prelabel.masks.polygons import PolygonRules
from prelabel.options import option, values_of
from prelabel.storage.address import absolute, describe, redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch

_GROUP = "COCO"


@dataclass(frozen=True, kw_only=True)
class CocoOptions(KeypointOptions, ClassListOptions):
    """Options of `export coco`."""

    segmentation: str = option(
        "rle",
        "Write masks in this form, and widen boxes to contain them; none writes only the detector's own boxes.",
        choices=("rle", "polygon", "none"),
        heading=_GROUP,
        first=True,
    )
    polygon_tolerance: float = option(
        1.0, "Let polygons deviate from the mask's contour by up to this.", metavar="PIXELS", min=0
    )
    results: str = option(
        "",
        "Also write the detections as a results file (a bare list, for loadRes). To compute AP from it, add "
        "--score-threshold 0, and for AP of boxes --segmentation none.",
        metavar="PATH",
        first=True,
    )
    image_ids: str = option(
        "sequential",
        "Number images from 1 (sequential), by file names that are numbers (stem), or as in a COCO dataset (FILE).",
        metavar="sequential|stem|FILE",
        first=True,
    )
    extracted: str = extracted_option("Name", heading=_GROUP)
    frame: str = frame_option()
    split: int | None = option(
        None, "Start a new file after every N images.", metavar="N", min=1, heading=_GROUP, first=True
    )
    score_field: str = option(
        "key",
        "Write an annotation's score as a key, or also as an attribute, for CVAT.",
        choices=("key", "attribute"),
        was="score",
    )

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons: an annotation may have several, and no part of the mask is dropped."""
        return PolygonRules(self.polygon_tolerance)


def export_coco(info: RunInfo, rows: Rows, to: str, options: CocoOptions, storage: Storage) -> ExportReport:
    """Write the dataset file at `to`, or with `split` its numbered files (`x.json` becomes `x-00000.json`, ...).

    Images are in the order of the plan, and annotations of an image by descending score. Ids are consecutive over all
    files. With `SpreadRows` several processes work; the files are the same.

    Raises:
        ConfigError: An option names a class that the detector does not have, or two files would be the same.
        ExportError: `categories` lacks classes of detections, an image has no id, a mask does not fit its image, or a
            file cannot be written. Nothing is published then, except complete files of a split export.
    """
    require_distinct_files(
        options,
        {"to": to, "results": options.results},
        read=("categories", "image_ids", "images"),
        numbered="to" if options.split is not None else "",
        run=info.output,
    )
    rows = rows.without(*UNUSED, *unread_keypoints(info, options)).in_frame(options.frame)
    if options.segmentation == "none":
        rows = rows.without("masks")
    whole: Part[ImageEntries] = Part(names=KnownNames(options.selection, info.classes, info.kept))
    tally = whole.tally
    categories = categories_for(info, rows, options, storage)
    numbers = numbering(options.image_ids, storage)
    head = _head(info, options, numbers)

    keypoints = written_keypoints(info, options)
    having_keypoints = ids_with_keypoints(info, categories, options.selection)

    def category_entries() -> list[dict[str, Any]]:
        return [
            {**entry.to_json(), **coco_definition(keypoints)}
            if keypoints is not None and (having_keypoints is None or entry.id in having_keypoints)
            else entry.to_json()
            for entry in categories.entries
        ]

    images = _Images(rows, EntriesOf(options, categories, keypoints), numbers, whole)
    annotations = 0
    try:
        with contextlib.ExitStack() as stack:
            results = stack.enter_context(list_file(storage, options.results)) if options.results else None
            for number, images_of_file in enumerate(chunks(images, options.split)):
                url = to if options.split is None else numbered_name(to, number)
                with dataset_file(storage, url, head, category_entries) as (image_list, annotation_list):
                    for image_id, image, entries in images_of_file:
                        image_list.add(strict_json(image))
                        annotation_list.add(entries.numbered_annotations(image_id, annotations + 1))
                        annotations += entries.detections
                        if results is not None:
                            results.add(entries.numbered_results(image_id))
                tally.files.append(url)
        if options.results:
            tally.files.append(absolute(options.results))
        if options.split is not None:
            delete_later_parts(to, len(tally.files) - bool(options.results), storage)
    except OSError as error:
        raise ExportError(f"cannot write {redact(to)}: {describe(error)}") from error
    tally.warnings += [
        *whole.names.warnings,
        *categories.notes,
        *images.size_notes(),
        *tally.frame_notes(options.frame),
    ]
    _add_warnings(tally, options, info, images.equal_stems())
    return tally.report()


def _head(info: RunInfo, options: CocoOptions, numbers: Numbering) -> dict[str, Any]:
    provenance = {
        "run_id": info.run_id,
        "detector": info.detector,
        "model_version": info.model_version,
        "fingerprint": info.fingerprint,
        "prelabel_version": info.version,
        "frame": options.frame,
        "selection": values_of(options.selection),
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
    """The images of a dataset with their entries. Counts them, and keeps hashes of their stems to find equal stems."""

    def __init__(self, rows: Rows, work: EntriesOf, numbers: Numbering, whole: Part[ImageEntries]) -> None:
        self._rows = rows
        self._work = work
        self._numbers = numbers
        self._whole = whole
        self._stems = array("q")
        self._other_sizes = 0
        self._other_size = ""

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any], ImageEntries]]:
        """The id and entry of each image, and the entries of its detections."""
        masked: set[bool] = set()
        for entries in make_items(self._rows, self._work, self._whole):
            position = len(self._stems)
            self._stems.append(hash(split_extension(entries.file_name)[0]))
            if entries.image is None:
                continue
            # Readers look only at the first entry of a results file to tell masks from boxes.
            masked |= entries.masked
            if len(masked) > 1:
                have = "with" if True in entries.masked else "without"
                raise ExportError(
                    f"image {entries.image['image_id']!r} has detections {have} masks, unlike the images before it. A "
                    "results file cannot have both: use --segmentation none"
                )
            image_id = self._numbers.number(position, entries.file_name)
            self._compare_size(image_id, entries.image)
            yield image_id, {"id": image_id, **entries.image, **self._numbers.extra_keys.get(image_id, {})}, entries

    def _compare_size(self, image_id: int, image: Mapping[str, Any]) -> None:
        """Compare the size with that in the dataset of the ids, since no tool notices boxes in different frames."""
        expected = self._numbers.sizes.get(image_id)
        if expected is not None and (image["height"], image["width"]) != expected:
            self._other_sizes += 1
            self._other_size = self._other_size or (
                f"{image['file_name']!r}: {image['width']} x {image['height']}, not {expected[1]} x {expected[0]}"
            )

    def size_notes(self) -> list[str]:
        """A note if images have a different size in the dataset that their ids come from."""
        if not self._other_sizes:
            return []
        return [
            f"{self._other_sizes:,} images have a different size than in {self._numbers.address} (e.g. "
            f"{self._other_size}): its boxes cannot be compared with these. If its sizes are those of the pixels as "
            "stored, use --frame stored"
        ]

    def equal_stems(self) -> tuple[int, str]:
        """The number of images whose path without extension equals an earlier one, and the file name of the first."""
        stems = np.asarray(self._stems)
        _, first = np.unique(stems, return_index=True)
        count = len(stems) - len(first)
        if not count:
            return 0, ""
        repeated = np.ones(len(stems), dtype=bool)
        repeated[first] = False
        return count, row_at(self._rows, int(repeated.argmax())).file_name


def _add_warnings(tally: Tally, options: CocoOptions, info: RunInfo, equal_stems: tuple[int, str]) -> None:
    selection, kept = options.selection, info.kept
    if options.results and kept is not None and selection.lowest_threshold > kept.lowest_threshold:
        tally.warnings.append(
            f"the results file has detections {selection_words(selection, kept)}: to evaluate the detector, write all "
            "with --score-threshold 0"
        )
    if not tally.detections:
        tally.warnings.append("no detection was kept" + ("; loadRes fails on an empty list" if options.results else ""))
    count, name = equal_stems
    if count:
        tally.warnings.append(
            f"{count} images have the same name as another image except for the extension, e.g. {name!r}: CVAT and "
            "Datumaro treat these as the same image"
        )


@dataclass(frozen=True, slots=True)
class ImageEntries:
    """The entries of an image and its detections, without ids.

    Ids are consecutive over the whole file, while the entries are made by several processes. Annotations and results
    are therefore encoded as JSON by these processes, and the writing process only inserts the ids in front. If it had
    to encode all entries, it would be the bottleneck from three processes on.

    Attributes:
        file_name: File name of the image.
        image: Entry of the image, or None if the image failed.
        detections: Number of its detections.
        annotations: Annotations of its detections as JSON, with `%d` for each one's id and the image's id.
        results: Entries for a results file in the same form, with `%d` for the image's id, if one is written.
        masked: Whether the results have masks: True, False or both.
    """

    file_name: str
    image: dict[str, Any] | None = None
    detections: int = 0
    annotations: bytes = b""
    results: bytes = b""
    masked: frozenset[bool] = frozenset()

    def numbered_annotations(self, image_id: int, first: int) -> bytes:
        """The annotations with the id of their image and their own ids, which count from `first`."""
        ids = [image_id] * (2 * self.detections)
        ids[::2] = range(first, first + self.detections)
        return self.annotations % tuple(ids)

    def numbered_results(self, image_id: int) -> bytes:
        """The results with the id of their image."""
        return self.results % ((image_id,) * self.detections)


@dataclass(frozen=True, slots=True)
class EntriesOf:
    """Makes the entries of the images in a part of the rows."""

    options: CocoOptions
    categories: Categories
    keypoints: KeypointSet | None

    def __call__(self, batches: Iterable[DetectionBatch], part: Part[ImageEntries]) -> None:
        """Raises ExportError if a mask does not fit its image."""
        instances = Instances(self.categories, self.options.selection, self.options, part.tally, self.keypoints)
        for batch in batches:
            part.names.see(batch.label, batch.mid)
            columns = instances.of(batch)
            annotations = _annotations(columns, self.options)
            results = _results(columns) if self.options.results else []
            bounds = itertools.pairwise(columns.bounds)
            for image, failed, (begin, end) in zip(batch.images, batch.failed, bounds, strict=True):
                if failed:
                    part.tally.failed += 1
                    part.items.append(ImageEntries(image.file_name))
                    continue
                part.tally.add_image(image)
                size = {"width": image.width, "height": image.height}
                entries = ImageEntries(
                    image.file_name,
                    {"file_name": image.file_name, **size, "image_id": image.image_id},
                    end - begin,
                    BETWEEN_ENTRIES.join(annotations[begin:end]).encode("ascii"),
                    BETWEEN_ENTRIES.join(results[begin:end]).encode("ascii"),
                    frozenset(mask is not None for mask in columns.mask[begin:end] if results),
                )
                part.items.append(entries)


_BACKSLASH, _ESCAPED = "\\", "\\\\"


def _annotations(columns: InstanceColumns, options: CocoOptions) -> list[str]:
    """The annotations as JSON, with `%d` for their ids; see `ImageEntries`."""
    if options.segmentation == "polygon":
        segmentation = [strict_json(polygons).decode("ascii") for polygons in columns.polygons]
    else:
        segmentation = [mask or "[]" for mask in _masks(columns)]
    score = json_numbers(columns.score)
    fields: dict[str, Sequence[object]] = {
        '"category_id":%s': columns.category_id,
        '"bbox":[%s]': json_numbers(columns.bbox),
        '"area":%s': json_numbers(columns.area),
        '"iscrowd":0,"segmentation":%s': segmentation,
        '"score":%s': score,
    }
    if any(columns.keypoints):
        points = [[(point.x, point.y, 2) if point.shown else (0, 0, 0) for point in row] for row in columns.keypoints]
        fields['"keypoints":%s'] = [_flat_json(row) for row in points]
        fields['"num_keypoints":%s'] = [sum(point.shown for point in row) for row in columns.keypoints]
    if options.score_field == "attribute":
        fields['"attributes":{"score":%s}'] = score
    return _entries('"id":%%d,"image_id":%%d', fields)


def _results(columns: InstanceColumns) -> list[str]:
    """The entries of a results file as JSON, with `%d` for the image's id; see `ImageEntries`."""
    fields: dict[str, Sequence[object]] = {
        '"category_id":%s': columns.category_id,
        '"bbox":[%s]': json_numbers(columns.bbox),
        '"score":%s': [
            f'{score},"segmentation":{mask}' if mask else score
            for score, mask in zip(json_numbers(columns.score), _masks(columns), strict=True)
        ],
    }
    if any(columns.keypoints):
        points = [[(point.x, point.y, point.score) for point in row] for row in columns.keypoints]
        fields['"keypoints":%s'] = [_flat_json(row) for row in points]
    return _entries('"image_id":%%d', fields)


def _entries(ids: str, fields: Mapping[str, Sequence[object]]) -> list[str]:
    """Entries made from templates of their fields and the values of all entries, which contain no `%`."""
    template = f"{{{ids},{','.join(fields)}}}"
    return [template % values for values in zip(*fields.values(), strict=True)]


def _masks(columns: InstanceColumns) -> list[str]:
    """Each mask as JSON, `""` for an instance without one."""
    masks = zip(columns.mask, columns.height.tolist(), columns.width.tolist(), strict=True)
    # A backslash is the only character of counts that JSON escapes.
    return [
        "" if mask is None else f'{{"size":[{height},{width}],"counts":"{mask.replace(_BACKSLASH, _ESCAPED)}"}}'
        for mask, height, width in masks
    ]


def _flat_json(points: Iterable[Sequence[float]]) -> str:
    return strict_json(list(itertools.chain.from_iterable(points))).decode("ascii")
