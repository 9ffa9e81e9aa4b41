"""Reads Open Images' own annotations: the CSV file of boxes, and that of image-level labels verified by people.

    boxes     ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,...
    labels    ImageID,Source,LabelName,Confidence

A file is recognized by its header. Of its columns, those in `BOX_COLUMNS` or `LABEL_COLUMNS` are read. Coordinates are
fractions of the width and height of the stored image: Open Images says by how much an image *and its boxes* have to be
rotated. `Confidence` of a label is 1 if the image shows the class and 0 if it does not.

Files are read in blocks, and boxes and labels become arrays: 90 MB for 125,436 images with 625,282 boxes, as many as
the test set of V4 has. Which classes are verified on which image is kept as bits, 76 bytes per image.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from prelabel.errors import ConfigError, EvaluateError, PrelabelError
from prelabel.review.openimages.classes import Indices, OpenImagesClasses
from prelabel.storage.address import describe, redact
from prelabel.storage.files import Storage

#: The columns that are read, with their types.
BOX_COLUMNS = {
    "ImageID": pa.string(),
    "LabelName": pa.string(),
    "XMin": pa.float64(),
    "XMax": pa.float64(),
    "YMin": pa.float64(),
    "YMax": pa.float64(),
    "IsGroupOf": pa.int64(),
}
LABEL_COLUMNS = {"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float64()}

_BLOCK_BYTES = 4 << 20
_LONGEST_HEADER = 64 << 10

#: Boxes may reach beyond the image by this share of its size.
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class TruthBoxes:
    """Boxes for matching: each box once for its class and once for each class above it, ordered by `key`.

    Boxes of one key have the order of the file.

    Attributes:
        key: `(N,)` position of the image times the number of classes, plus the position of the class; ascending.
        xyxy: `(N, 4)` fractions of the image's width and height.
        per_image: Number of boxes on each image, each box counted once.
    """

    key: npt.NDArray[np.int64]
    xyxy: npt.NDArray[np.float64]
    per_image: Indices

    def count_by_class(self, images: Indices, classes: int) -> Indices:
        """Number of boxes of each of the classes on some of the images."""
        image, category = np.divmod(self.key, classes)
        return np.bincount(category[np.isin(image, images)], minlength=classes)


@dataclass(frozen=True, slots=True)
class OpenImagesTruth:
    """The annotations of a set of images.

    Attributes:
        images: Position of each image by its id; the ids are in ascending order.
        classes: The classes.
        objects: Boxes of single objects.
        groups: Boxes around groups of objects (`IsGroupOf`).
        verified: `(images, bytes)` a bit for each class: whether people verified that the image shows it or does not
            show it. None if every class counts as verified on every image.
        notes: Notes for the user on how the files were read, one line each.
    """

    images: dict[str, int]
    classes: OpenImagesClasses
    objects: TruthBoxes
    groups: TruthBoxes
    verified: npt.NDArray[np.uint8] | None
    notes: tuple[str, ...] = ()

    def is_verified(self, image: Indices, category: Indices) -> npt.NDArray[np.bool_]:
        """Whether each class is verified on each image; both are `(N,)` positions."""
        if self.verified is None:
            return np.ones(len(image), bool)
        bit = (128 >> (category & 7)).astype(np.uint8)
        verified: npt.NDArray[np.bool_] = self.verified[image, category >> 3] & bit != 0
        return verified


def read_open_images(
    boxes: str, labels: str, storage: Storage, classes: OpenImagesClasses, *, expand: bool
) -> OpenImagesTruth:
    """Read the annotations.

    Args:
        boxes: URL or path of the boxes.
        labels: URL or path of the image-level labels; `""` if every class counts as verified on every image.
        storage: Opens them.
        classes: The classes.
        expand: Whether boxes count for all classes above theirs, too.

    Raises:
        ConfigError: A file does not exist, or it is of the other kind.
        EvaluateError: A file cannot be read, or something in it is invalid.
    """
    images: dict[str, int] = {}
    image, category, xyxy, group = _read_boxes(boxes, storage, classes, images)
    notes: list[str] = []
    if np.any(group < 0):
        notes.append(
            f"{np.count_nonzero(group < 0):,} boxes of {redact(boxes)} have an unknown IsGroupOf (-1): they count as "
            "groups, as in the Object Detection API"
        )
    marks, unknown = (None, 0) if not labels else _read_labels(labels, storage, classes, images)
    if unknown:
        notes.append(f"{unknown:,} labels of {redact(labels)} are of classes without boxes: they are not used")
    # In ascending order of ids, so that equal scores are ranked the same, whatever the order of the files.
    ids = sorted(images)
    position = np.empty(len(ids), np.intp)
    position[[images[id_] for id_ in ids]] = np.arange(len(ids))
    image = position[image]
    entry, expanded = np.arange(len(category)), category
    if expand:
        entry, expanded = classes.with_ancestors(category)
    key = image[entry].astype(np.int64) * len(classes) + expanded
    grouped = group[entry] != 0
    verified = None
    if marks is not None:
        verified = np.empty_like(marks)
        verified[position] = marks
        np.bitwise_or.at(verified, (image[entry], expanded >> 3), (128 >> (expanded & 7)).astype(np.uint8))
    return OpenImagesTruth(
        images={id_: number for number, id_ in enumerate(ids)},
        classes=classes,
        objects=_ordered(key[~grouped], xyxy[entry[~grouped]], np.bincount(image[group == 0], minlength=len(ids))),
        groups=_ordered(key[grouped], xyxy[entry[grouped]], np.bincount(image[group != 0], minlength=len(ids))),
        verified=verified,
        notes=tuple(notes),
    )


def _ordered(key: npt.NDArray[np.int64], xyxy: npt.NDArray[np.float64], per_image: Indices) -> TruthBoxes:
    order = np.argsort(key, kind="stable")
    return TruthBoxes(key[order], xyxy[order], per_image)


def _read_boxes(
    url: str, storage: Storage, classes: OpenImagesClasses, images: dict[str, int]
) -> tuple[Indices, Indices, npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Position of the image and of the class, corners and `IsGroupOf` of every box; adds the images to `images`."""
    parts: list[tuple[Any, ...]] = []
    for number, batch in _blocks(url, storage, BOX_COLUMNS, "boxes"):
        xyxy = np.stack([batch[name].to_numpy() for name in ("XMin", "YMin", "XMax", "YMax")], axis=1)
        category = _classes_of(batch, classes)
        _require(url, number, np.flatnonzero(category < 0), batch["LabelName"], "is none of the classes of Open Images")
        outside = np.flatnonzero(~((xyxy >= -_TOLERANCE) & (xyxy <= 1 + _TOLERANCE)).all(axis=1))
        _require(url, number, outside, xyxy.tolist(), "is no box: corners are fractions from 0 to 1")
        parts.append((_images_of(batch, images), category, xyxy, batch["IsGroupOf"].to_numpy()))
    if not parts:
        raise EvaluateError(f"{redact(url)} has no boxes: there is nothing to compare the run with")
    image, category, xyxy, group = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return image, category, xyxy, group


def _read_labels(
    url: str, storage: Storage, classes: OpenImagesClasses, images: dict[str, int]
) -> tuple[npt.NDArray[np.uint8], int]:
    """The verified classes of each image as bits, and how many labels are of other classes.

    Images that have no boxes are added to `images`.
    """
    if_present, if_absent = np.packbits(classes.above, axis=1), np.packbits(classes.above.T, axis=1)
    marks = np.zeros((len(images), if_present.shape[1]), np.uint8)
    unknown = 0
    for number, batch in _blocks(url, storage, LABEL_COLUMNS, "image-level labels"):
        confidence = batch["Confidence"].to_numpy()
        unverified = np.flatnonzero((confidence != 0) & (confidence != 1))
        _require(
            url,
            number,
            unverified,
            batch["Confidence"],
            "is no Confidence of a verified label, which is 0 or 1: labels made by machines do not count, give the "
            "file human-imagelabels",
        )
        category = _classes_of(batch, classes)
        known = np.flatnonzero(category >= 0)
        unknown += len(category) - len(known)
        image = _images_of(batch, images)[known]
        missing = len(images) - len(marks)
        if missing:
            marks = np.concatenate((marks, np.zeros((max(missing, len(marks) // 4), marks.shape[1]), np.uint8)))
        if not len(known):
            continue
        category = category[known]
        bits = np.where((confidence[known] == 1)[:, None], if_present[category], if_absent[category])
        order = np.argsort(image, kind="stable")
        labeled, begin = np.unique(image[order], return_index=True)
        marks[labeled] |= np.bitwise_or.reduceat(bits[order], begin)
    return marks[: len(images)], unknown


def _blocks(
    url: str, storage: Storage, columns: dict[str, pa.DataType], what: str
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some rows at a time, with these columns, and the number of rows before them."""
    display_url = redact(url)
    try:
        with storage.open(url) as file:
            _require_columns(file.readline(_LONGEST_HEADER), columns, what, display_url)
            file.seek(0)
            reader = pa_csv.open_csv(
                file,
                read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
                convert_options=pa_csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
            )
            number = 0
            for batch in reader:
                for name in columns:
                    empty = np.flatnonzero(batch[name].is_null().to_numpy(zero_copy_only=False))
                    _require(url, number, empty, batch[name], f"is missing in column {name}")
                yield number, batch
                number += len(batch)
    except FileNotFoundError:
        raise ConfigError(f"{display_url!r}: no such file") from None
    except PrelabelError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise EvaluateError(f"{what} {display_url} cannot be read: {describe(error)}") from None


def is_open_images_csv(url: str, storage: Storage) -> bool:
    """Whether a file begins with the header of Open Images' boxes or labels; False if it cannot be read."""
    try:
        with storage.open(url) as file:
            line = file.readline(_LONGEST_HEADER)
    except (OSError, PrelabelError):
        return False
    return any(not _missing_columns(line, columns) for columns in (BOX_COLUMNS, LABEL_COLUMNS))


def _require_columns(line: bytes, columns: dict[str, pa.DataType], what: str, display_url: str) -> None:
    """Check the header of a file; a file of the other kind gets its own message."""
    missing = _missing_columns(line, columns)
    # A file of boxes has the columns of labels, too.
    if columns is LABEL_COLUMNS and not _missing_columns(line, BOX_COLUMNS):
        raise ConfigError(f"{display_url} has boxes, no {what}: give it as --truth")
    names = _names(line)
    twice = next((name for name in columns if names.count(name) > 1), None)
    if twice is not None:
        raise EvaluateError(f"{display_url} has the column {twice} twice")
    if not missing:
        return
    if columns is BOX_COLUMNS and not _missing_columns(line, LABEL_COLUMNS) and not {"XMin", "XMax"} - {*missing}:
        raise ConfigError(f"{display_url} has image-level labels, no {what}: give it as --image-labels")
    hint = "; a COCO dataset is for --metric coco" if line.lstrip()[:1] == b"{" else ""
    lacking = f"column {missing[0]}" if len(missing) == 1 else f"columns {', '.join(missing)}"
    raise EvaluateError(f"{display_url} is no CSV file of Open Images' {what}: it has no {lacking}{hint}")


def _missing_columns(line: bytes, columns: dict[str, pa.DataType]) -> list[str]:
    """The columns that a header lacks, in order."""
    names = _names(line)
    return [name for name in columns if name not in names]


def _names(line: bytes) -> list[str]:
    """The columns that a header names; none if it is no line of a CSV file."""
    try:
        return next(csv.reader([line.decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _classes_of(batch: pa.RecordBatch, classes: OpenImagesClasses) -> Indices:
    """Position of the class of each row; -1 for other classes."""
    return _positions(batch["LabelName"], lambda mid: classes.positions.get(mid, -1))


def _images_of(batch: pa.RecordBatch, images: dict[str, int]) -> Indices:
    """Position of the image of each row; new images are added to `images`."""
    return _positions(batch["ImageID"], lambda image_id: images.setdefault(image_id, len(images)))


def _positions(column: pa.Array, position: Callable[[str], int]) -> Indices:
    coded = column.dictionary_encode()
    distinct = np.fromiter(map(position, coded.dictionary.to_pylist()), np.intp)
    positions: Indices = distinct[coded.indices.to_numpy()]
    return positions


def _require(url: str, number: int, wrong: Indices, values: Sequence[Any] | pa.Array, problem: str) -> None:
    """Raise EvaluateError for the first of the wrong rows of a block that has `number` rows before it."""
    if len(wrong):
        row = int(wrong[0])
        value = values[row].as_py() if isinstance(values, pa.Array) else values[row]
        what = "a value" if value is None else repr(value)[:80]
        # The header is line 1.
        raise EvaluateError(f"{redact(url)}, line {number + row + 2}: {what} {problem}")
