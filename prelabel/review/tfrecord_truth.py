"""Reads the ground truth from TFRecord files, as TensorFlow's Object Detection API and its Model Garden write them.

    image/height, image/width                 size that the boxes belong to; by default, that of the stored image
    image/object/bbox/{xmin,xmax,ymin,ymax}   fractions of that width and height
    image/object/class/{text,label}           names and numbers of the classes
    image/object/{is_crowd,area}              as in a COCO dataset
    image/object/{group_of,difficult}         1 for what Open Images marks as a group, Pascal VOC as difficult: as in
                                              a crowd, detections in it are neither correct nor false
    image/object/mask                         a PNG of that size for each object, in which all but 0 is the object
    image/object/keypoint/{x,y,visibility}    as many for each object: fractions, and COCO's visibility; without it,
                                              all points that are numbers are visible

The files name only classes that occur. A label map tells the others, and names classes that have only a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import ConfigError, DecodeError, EvaluateError, FetchError, SourceError, first_of
from prelabel.export.categories import Category, read_categories
from prelabel.frames import oriented_size
from prelabel.labels.maps import is_mid
from prelabel.masks import rle
from prelabel.review.truth import Truth, TruthImage, TruthObject
from prelabel.source.archives import kind_of, names_archives
from prelabel.source.archives.ranges import open_ranges
from prelabel.source.archives.tf_example import byte_values, float_values, integer_values, text_of
from prelabel.source.archives.tfrecord import Example, examples
from prelabel.source.decode import DecodeOptions, decode
from prelabel.source.listing import list_archives
from prelabel.storage.address import Address, describe, one_line, redact
from prelabel.storage.files import Storage

#: Largest coordinate, as a fraction of the image. Boxes may be rounded; larger coordinates are pixels, not fractions.
_LARGEST = 1.1

#: Marks of objects in which detections are neither correct nor false, and how a note calls such objects.
_MARKS = {"group_of": "groups", "difficult": "difficult"}

#: Most classes that a note names.
_MOST_NAMED = 8


def is_tfrecord(url: str) -> bool:
    """Whether a URL names TFRecord files, or a glob or braces may name them."""
    kind = kind_of(url)
    return kind == "tfrecord" or (kind is None and names_archives(url) and not url.endswith((".json", ".csv")))


def read_tfrecord_truth(url: str, storage: Storage, labels: str = "", *, masks: bool = True) -> Truth:
    """Read TFRecord files.

    Args:
        url: URL or path of a file; a glob or braces stand for several.
        storage: Opens them.
        labels: URL, path or name of a label map with all classes; `""` for none.
        masks: Whether to read masks, which takes a millisecond or more for each object.

    Raises:
        ConfigError: A file does not exist, or the label map cannot be read.
        EvaluateError: A file cannot be read, or is damaged, or its features contradict each other.
    """
    display_url = redact(url)
    classes = _Classes(display_url, read_categories(labels, storage) if labels else [], redact(labels))
    marked: Counter[str] = Counter()
    records: list[_Record] = []
    try:
        archives = list(list_archives(url, storage))
    except SourceError as error:
        raise ConfigError(f"--truth: {error}") from None
    for archive in archives:
        address = Address.of(archive.uri)
        if kind_of(archive.file_name) != "tfrecord":
            raise EvaluateError(f"{address} is not a TFRecord file: give a COCO dataset, or TFRecord files with boxes")
        try:
            with open_ranges(address, storage, archive.version, archive.size) as file:
                for example in examples(file):
                    where = f"{address}, record {example.number:,} ({redact(example.file_name)})"
                    reader = _Reader(example, where, classes, marked, masks=masks)
                    records.append(reader.record(f"{archive.file_name}/{example.file_name}"))
        except FileNotFoundError:
            raise ConfigError(f"truth {str(address)!r}: no such file") from None
        except (OSError, FetchError) as error:
            problem = str(error) if isinstance(error, FetchError) else describe(error)
            raise EvaluateError(f"truth {address} cannot be read: {problem}") from None
    if not records:
        raise EvaluateError(f"{display_url} has no records")
    if all(annotation.crowd for record in records for annotation in record.image.objects):
        names = one_line(first_of(sorted(example.features), 20))
        raise EvaluateError(
            f"{display_url} has no objects in image/object/bbox: there is nothing to compare the run with (its last "
            f"record has {names})"
        )
    if all(record.source_id.isdecimal() for record in records):
        records.sort(key=lambda record: int(record.source_id))  # as COCO evaluates the images of a dataset
    categories, ids, notes = classes.numbered()
    images = tuple(
        replace(
            record.image,
            objects=tuple(replace(o, category_id=ids[o.category_id]) for o in record.image.objects),
        )
        for record in records
    )
    notes += [
        f"{count:,} objects of {display_url} are marked as {_MARKS[mark]}: detections in them are neither correct nor "
        "false"
        for mark, count in marked.items()
    ]
    return Truth(display_url, images, categories, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Record:
    """The image of a record, whose objects have positions of classes as category ids, and its `image/source_id`."""

    image: TruthImage
    source_id: str


@dataclass(slots=True)
class _Classes:
    """The classes of the objects: text and number as the records have them, by position."""

    display_url: str
    listed: Sequence[Category]
    listed_in: str
    positions: dict[tuple[str, int | None], int] = field(default_factory=dict)

    def position_of(self, text: str, number: int | None) -> int:
        """The position of a class, which is added if it is new."""
        return self.positions.setdefault((text, number), len(self.positions))

    def numbered(self) -> tuple[tuple[Category, ...], list[int], list[str]]:
        """The categories by id, the category id of each position, and notes.

        A class of the label map has its id and its name there. Others have their number in the records if it is theirs
        alone.
        """
        by_number = {category.id: category for category in self.listed}
        by_name = {category.name.casefold(): category for category in reversed(self.listed)}
        by_mid = {category.mid: category for category in reversed(self.listed) if category.mid}
        chosen: dict[tuple[str, int | None], Category] = {}
        unlisted: dict[str, set[int | None]] = {}
        for text, number in self.positions:
            category = by_mid.get(text) or by_name.get(text.casefold()) if text else by_number.get(number or 0)
            if category is None:
                unlisted.setdefault(text or str(number), set()).add(number)
            else:
                chosen[text, number] = category
        numbers = _numbers_of(unlisted, by_number)
        added = {name: Category(numbers[name], name, name if is_mid(name) else "") for name in unlisted}
        ids = [(chosen.get(key) or added[key[0] or str(key[1])]).id for key in self.positions]
        categories = sorted((*self.listed, *added.values()), key=lambda category: category.id)
        return tuple(categories), ids, self._notes(list(added))

    def _notes(self, unlisted: Sequence[str]) -> list[str]:
        if not self.listed:
            return [
                f"{self.display_url} names only the classes of its objects: detections of other classes are ignored, "
                "and do not count as false. Name all classes with a label map (--truth-labels) to count them"
            ]
        names = first_of(list(map(repr, unlisted)), _MOST_NAMED)
        return [f"{self.listed_in} lacks classes of {self.display_url}: {names}"] if unlisted else []


def _numbers_of(names: Mapping[str, set[int | None]], taken: Mapping[int, Category]) -> dict[str, int]:
    """Category ids for classes by name: their own numbers if these are unique, else numbers in order of the names."""
    own = [number for numbers in names.values() for number in numbers if number is not None and number >= 0]
    if len(own) == len({*own}) == len(names) and not taken and all(len(numbers) == 1 for numbers in names.values()):
        return dict(zip(names, own, strict=True))
    return {name: number for number, name in enumerate(sorted(names), max(taken, default=0) + 1)}


class _Reader:
    """Reads the features of a record."""

    def __init__(self, example: Example, where: str, classes: _Classes, marked: Counter[str], *, masks: bool) -> None:
        self._example, self._where, self._classes, self._marked, self._masks = example, where, classes, marked, masks
        self._features = example.features

    def record(self, file_name: str) -> _Record:
        """The record as an image of the truth.

        Raises:
            EvaluateError: A feature is damaged, or two contradict each other.
        """
        try:
            height, width = self._size()
            objects = tuple(self._objects(height, width))
            return _Record(
                TruthImage(file_name, height, width, objects), text_of(self._features.get("image/source_id"))
            )
        except ValueError as error:
            raise EvaluateError(f"{self._where} is damaged: {error}") from None

    def _size(self) -> tuple[int, int]:
        """Height and width that the boxes belong to."""
        sides = [integer_values(self._features.get(f"image/{side}")) for side in ("height", "width")]
        if all(len(side) == 1 and 0 < side[0] < 1 << 31 for side in sides):
            return sides[0][0], sides[1][0]
        try:
            image = decode(bytes(self._example.image), DecodeOptions())
        except DecodeError as error:
            raise EvaluateError(f"{self._where} has no image/height and image/width, and its image: {error}") from None
        return oriented_size(image.height, image.width, image.exif_orientation or 1)

    def _objects(self, height: int, width: int) -> Iterator[TruthObject]:
        x1, x2, y1, y2 = (self._floats(f"bbox/{side}") for side in ("xmin", "xmax", "ymin", "ymax"))
        count = len(x1)
        self._require(len(x2) == len(y1) == len(y2) == count, "bbox/xmin, xmax, ymin and ymax have different lengths")
        corners = np.stack((x1, y1, x2, y2), axis=1)
        fractions = (corners >= 1 - _LARGEST) & (corners <= _LARGEST)
        self._require(bool(fractions.all()), "bbox has coordinates that are not fractions from 0 to 1")
        texts = [bytes(text).decode("utf-8", "replace") for text in byte_values(self._feature("class/text"))]
        numbers = integer_values(self._feature("class/label"))
        areas, crowd = self._floats("area").tolist(), integer_values(self._feature("is_crowd"))
        marks = {mark: integer_values(self._feature(mark)) for mark in _MARKS}
        masks = self._mask_files(count)
        per_object = {"class/text": texts, "class/label": numbers, "area": areas, "is_crowd": crowd, **marks}
        for name, values in per_object.items():
            self._require(len(values) in (0, count), f"{name} has {len(values):,} values for {count:,} boxes")
        self._require(not count or bool(texts or numbers), "class/text and class/label are missing")
        keypoints = self._keypoints(count, height, width)
        for n, (left, top, right, bottom) in enumerate(corners.tolist()):
            self._require(right >= left and bottom >= top, f"box {n} ends before it begins")
            marked = [mark for mark, values in marks.items() if values and values[n]]
            self._marked.update(marked)
            category = self._classes.position_of(texts[n] if texts else "", numbers[n] if numbers else None)
            box = (left * width, top * height, (right - left) * width, (bottom - top) * height)
            area = areas[n] if areas and 0 <= areas[n] < float("inf") else None
            segmentation, invalid = (None, False) if not masks else _segmentation(masks[n], height, width)
            is_crowd = bool(crowd and crowd[n]) or bool(marked)
            yield TruthObject(category, box, is_crowd, area, segmentation, invalid, keypoints[n])

    def _feature(self, name: str) -> Any:
        return self._features.get(f"image/object/{name}")

    def _floats(self, name: str) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # of damaged records, whose values are checked
            return float_values(self._feature(name)).astype(np.float64)

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            raise EvaluateError(f"{self._where}: image/object/{problem}")

    def _mask_files(self, count: int) -> list[memoryview]:
        """The masks, if they are wanted and there are some."""
        files = byte_values(self._feature("mask")) if self._masks else []
        self._require(len(files) in (0, count), f"mask has {len(files):,} values for {count:,} boxes")
        return files

    def _keypoints(self, count: int, height: int, width: int) -> list[tuple[float, ...]]:
        """x, y, v of the keypoints of each object; `()` for objects of which none is labeled."""
        x, y = self._floats("keypoint/x"), self._floats("keypoint/y")
        visible = np.array(integer_values(self._feature("keypoint/visibility")), np.float64)
        self._require(len(x) == len(y) and len(visible) in (0, len(x)), "keypoint/x, y and visibility differ in length")
        self._require(len(x) % max(count, 1) == 0, f"keypoint/x has {len(x):,} values for {count:,} boxes")
        if not count or not len(x):
            return [()] * count
        if not len(visible):
            visible = np.where(np.isfinite(x) & np.isfinite(y), 2.0, 0.0)
        points = np.nan_to_num(np.stack((x * width, y * height, visible), axis=1)).reshape(count, -1, 3)
        return [tuple(of_object.ravel().tolist()) if of_object[:, 2].any() else () for of_object in points]


def _segmentation(file: memoryview, height: int, width: int) -> tuple[Any, bool]:
    """A mask as an RLE in COCO's form, and whether it is invalid."""
    try:
        mask = decode(bytes(file), DecodeOptions(max_pixels=height * width)).pixels.any(axis=2)
    except DecodeError:
        return None, True
    if mask.shape != (height, width):
        return None, True
    return {"size": [height, width], "counts": rle.encode(mask)}, False
