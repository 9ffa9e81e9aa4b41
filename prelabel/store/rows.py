"""`ImageRow`: one row of a shard as Python, and its way into and out of Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prelabel.detections import Detections, ImageLabel, as_objects
from prelabel.errors import ExportError, StoreError
from prelabel.frames import turned_detections, turned_size, way_to
from prelabel.storage import without_secrets
from prelabel.store.schema import FAILED, OK, SHARD_SCHEMA, STAGES

#: Orientations that turn nothing: those of most rows, whose frames are all the same.
_AS_STORED = (None, 1)

_HEIF_ENDINGS = (".heic", ".heics", ".heif", ".heifs", ".hif")


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a run: where it is, what became of it, and what was found on it.

    In a shard `uri` stands without password and without a signed link's signature, see `storage.without_secrets`.
    A failed image has `error_type`, `error` and `error_stage` and no detections; everything known before it failed
    (bytes, sha256, sometimes the size) is kept.

    `exif_orientation` is the turn that was applied to the stored pixels before detection, `browser_orientation` the one
    that browsers apply when they show the file; None means that both are the same. `dropped` counts the detections that
    were left out because a number of theirs was not finite, or their box has no size inside the image.
    """

    image_id: str
    uri: str
    file_name: str
    detector: str
    model_version: str
    detections: Detections | None = None
    image_labels: tuple[ImageLabel, ...] | None = None
    error_type: str | None = None
    error: str | None = None
    error_stage: str | None = None
    height: int | None = None
    width: int | None = None
    exif_orientation: int | None = None
    frames: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    browser_orientation: int | None = None
    dropped: int = 0

    @property
    def status(self) -> str:
        """`"ok"` or `"failed"`."""
        return OK if self.error_type is None else FAILED

    def __len__(self) -> int:
        return 0 if self.detections is None else len(self.detections)

    def way_to(self, frame: str) -> int:
        """The turn, 1..8, that leads from the upright picture to another frame; see `prelabel.frames`.

        Raises:
            StoreError: An orientation is not 1..8.
        """
        if self.exif_orientation in _AS_STORED and self.browser_orientation in _AS_STORED:
            return 1
        try:
            return way_to(frame, self.exif_orientation, self.browser_orientation)
        except ValueError as error:
            raise StoreError(f"image {self.image_id!r}: {error}") from None

    def in_frame(self, frame: str) -> ImageRow:
        """The same with its size, boxes and masks in another frame; this row must be upright, as shards hold it.

        Raises:
            StoreError: An orientation is not 1..8, or a mask does not fit the image or is too ragged to be turned.
        """
        turn = self.way_to(frame)
        if turn == 1:
            return self
        height, width, found = self.height, self.width, self.detections
        if height is not None and width is not None:
            height, width = turned_size(height, width, turn)
        try:
            turned = None if found is None else turned_detections(found, turn)
        except (StoreError, ExportError) as error:
            raise StoreError(f"image {self.image_id!r}: {error}") from None
        return replace(self, height=height, width=width, detections=turned)


def rows_to_table(rows: Sequence[ImageRow]) -> pa.Table:
    """Rows in order as an Arrow table of `SHARD_SCHEMA`."""
    columns: dict[str, list[Any]] = {name: [] for name in SHARD_SCHEMA.names}
    for row in rows:
        for name, value in _row_to_values(row).items():
            columns[name].append(value)
    arrays = [pa.array(columns[field.name], type=field.type) for field in SHARD_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SHARD_SCHEMA)


def _row_to_values(row: ImageRow) -> dict[str, Any]:
    found = row.detections
    labels = row.image_labels
    return {
        "image_id": row.image_id,
        "uri": without_secrets(row.uri),
        "file_name": row.file_name,
        "status": row.status,
        "error_type": row.error_type,
        "error": row.error,
        "error_stage": row.error_stage,
        "height": row.height,
        "width": row.width,
        "exif_orientation": row.exif_orientation,
        "frames": row.frames,
        "bytes": row.bytes,
        "sha256": row.sha256,
        "boxes": [] if found is None else found.xyxy.tolist(),
        "classes": [] if found is None else found.category_id.tolist(),
        "labels": [] if found is None else found.label.tolist(),
        "mids": [] if found is None else found.mid.tolist(),
        "scores": [] if found is None else found.score.tolist(),
        "masks": None if found is None or found.mask is None else found.mask.tolist(),
        "multiclass_scores": (
            None if found is None or found.multiclass_score is None else found.multiclass_score.tolist()
        ),
        "image_labels": (
            None
            if labels is None
            else [{"class": one.category_id, "label": one.label, "mid": one.mid, "score": one.score} for one in labels]
        ),
        "detector": row.detector,
        "model_version": row.model_version,
        "seconds": {stage: row.seconds.get(stage) for stage in STAGES},
        "browser_orientation": row.browser_orientation,
        "dropped": row.dropped or None,
    }


def table_to_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[ImageRow]:
    """Rows of Arrow batches of `SHARD_SCHEMA`, in order; columns for which `ImageRow` has a default may be left out.

    Releases that did not record how browsers show a file gave for HEIC the turn that its reader had done already; there
    the stored pixels are those that the detector saw, so that it counts for none.

    Raises:
        pa.ArrowInvalid: A value is null where every detection has one.
    """
    for batch in batches:
        columns = {name: _values(batch, name) for name in _PLAIN if name in batch.schema.names}
        names = list(columns)
        found = _detections(batch)
        labels = _image_labels(batch)
        for values, detections, image_labels in zip(zip(*columns.values(), strict=True), found, labels, strict=True):
            row = ImageRow(**dict(zip(names, values, strict=True)), detections=detections, image_labels=image_labels)
            yield _without_heif_turn(row)


def _without_heif_turn(row: ImageRow) -> ImageRow:
    if row.exif_orientation in _AS_STORED or row.browser_orientation is not None:
        return row
    return replace(row, exif_orientation=None) if row.file_name.lower().endswith(_HEIF_ENDINGS) else row


#: Columns that are attributes of `ImageRow` as they are.
_PLAIN = (
    *("image_id", "uri", "file_name", "detector", "model_version", "error_type", "error", "error_stage"),
    *("height", "width", "exif_orientation", "frames", "bytes", "sha256", "seconds", "browser_orientation", "dropped"),
)


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    values: list[Any] = batch[name].to_pylist()
    if name == "seconds":
        return [{k: v for k, v in (one or {}).items() if v is not None} for one in values]
    if name == "dropped":
        return [value or 0 for value in values]
    return values


def _detections(batch: pa.RecordBatch) -> Iterator[Detections | None]:
    """Of each row, cut out of whole columns; None of a failed image."""
    boxes, box_bounds = _flat(batch["boxes"])
    columns = {
        "xyxy": (_numbers(boxes.flatten(), 4 * len(boxes)).reshape(-1, 4), box_bounds),
        "category_id": _number_lists(batch["classes"]),
        "score": _number_lists(batch["scores"]),
        "label": _text_lists(batch["labels"]),
        "mid": _text_lists(batch["mids"]),
    }
    masks = batch["masks"] if "masks" in batch.schema.names else None
    classes = batch["multiclass_scores"] if "multiclass_scores" in batch.schema.names else None
    has_mask = [False] * len(batch) if masks is None else masks.is_valid().to_pylist()
    if any(has_mask):
        flat, bounds = _flat(masks)
        counts = (flat.to_numpy(zero_copy_only=False), bounds)
    ok = pc.equal(batch["status"], OK).to_pylist()
    sizes = zip(batch["height"].to_pylist(), batch["width"].to_pylist(), strict=True)
    for row, (height, width) in enumerate(sizes):
        if not ok[row]:
            yield None
            continue
        scores = None if classes is None else classes[row].as_py()
        yield Detections(
            height=height,
            width=width,
            mask=_of(counts, row) if has_mask[row] else None,
            multiclass_score=None if scores is None else np.asarray(scores, np.float32).reshape(len(scores), -1),
            **{name: _of(column, row) for name, column in columns.items()},
        )


_Column = tuple[npt.NDArray[Any], list[int]]


def _of(column: _Column, row: int) -> npt.NDArray[Any]:
    values, bounds = column
    return values[bounds[row] : bounds[row + 1]]


def _flat(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """The values of a column of lists side by side, and where each row's begin; null is an empty list."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return column.flatten(), np.append(0, np.cumsum(lengths)).tolist()


def _numbers(flat: pa.Array, expected: int) -> npt.NDArray[Any]:
    if flat.null_count or len(flat) != expected:
        raise pa.ArrowInvalid("a detection has null for a number")
    values: npt.NDArray[Any] = flat.to_numpy()
    return values


def _number_lists(column: pa.Array) -> _Column:
    flat, bounds = _flat(column)
    return _numbers(flat, len(flat)), bounds


def _text_lists(column: pa.Array) -> _Column:
    flat, bounds = _flat(column)
    # Few distinct texts: each becomes one Python object, however often it occurs.
    coded = flat.dictionary_encode()
    if flat.null_count:
        raise pa.ArrowInvalid("a detection has null for a text")
    return as_objects(coded.dictionary.to_pylist())[coded.indices.to_numpy()], bounds


def _image_labels(batch: pa.RecordBatch) -> list[tuple[ImageLabel, ...] | None]:
    column = batch["image_labels"] if "image_labels" in batch.schema.names else None
    if column is None or column.null_count == len(column):
        return [None] * len(batch)
    return [
        None
        if labels is None
        else tuple(ImageLabel(one["class"], one["label"], one["mid"], one["score"]) for one in labels)
        for labels in column.to_pylist()
    ]
