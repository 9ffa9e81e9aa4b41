"""The rows of a shard, one per image, also for failed images: the schema, `ImageRow`, and conversion to and from Arrow.

Every Parquet file is written with the explicit `SHARD_SCHEMA`. Otherwise the lists of a shard without detections would
become `list<null>`, and the shard could not be read together with others.

New columns are added at the end as optional ones (`OPTIONAL_COLUMNS`): if a file lacks one, its rows have the default
of `ImageRow`; unknown columns of a file are ignored. The version only increases when the meaning of a column changes,
so runs of all earlier releases stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prelabel.detections import Detections, ImageLabel
from prelabel.errors import ExportError, StoreError
from prelabel.frames import orientation_to, oriented_detections, oriented_size
from prelabel.image_ref import ImageRef
from prelabel.storage.address import without_secrets

#: Increases when a reader of the previous version would misinterpret a file.
SCHEMA_VERSION = 1

#: Processing stages of an image, in order; a row has the seconds of each.
STAGES = ("read", "decode", "detect", "encode")

OK = "ok"
FAILED = "failed"

#: The `error_type` of an image that is no longer in the source (`--gone fail`).
GONE = "ImageGone"

SHARD_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("error_stage", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("exif_orientation", pa.int8()),
        pa.field("frames", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("classes", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("mids", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("masks", pa.list_(pa.string())),
        pa.field("multiclass_scores", pa.list_(pa.list_(pa.float32()))),
        pa.field(
            "image_labels",
            pa.list_(
                pa.struct(
                    [
                        pa.field("class", pa.int32()),
                        pa.field("label", pa.string()),
                        pa.field("mid", pa.string()),
                        pa.field("score", pa.float32()),
                    ]
                )
            ),
        ),
        pa.field("detector", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("seconds", pa.struct([pa.field(stage, pa.float32()) for stage in STAGES])),
        pa.field("browser_orientation", pa.int8()),
        pa.field("dropped", pa.int32()),
        pa.field("views", pa.list_(pa.int32())),
        pa.field("views_shown", pa.int32()),
        pa.field(
            "keypoints",
            pa.list_(pa.list_(pa.struct([pa.field(name, pa.float32()) for name in ("x", "y", "score")]))),
        ),
        pa.field("location", pa.string()),
        pa.field("revision", pa.int32()),
    ]
)

#: Columns added after the first release of the schema. They are nullable; null stands for the default.
OPTIONAL_COLUMNS = frozenset(
    {"browser_orientation", "dropped", "views", "views_shown", "keypoints", "location", "revision"}
)

#: EXIF orientations without rotation. Most rows have them, and all their frames are the same.
_UNROTATED = (None, 1)

_HEIF_EXTENSIONS = (".heic", ".heics", ".heif", ".heifs", ".hif")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image of a run, without its detections.

    Attributes:
        image_id: Unique id of the image in the run.
        uri: Full URL or path. Shards store it without password and signature, see `address.without_secrets`.
        file_name: File name for exports.
        detector: Name of the detector.
        model_version: Version of the model.
        image_labels: Labels of the whole image, from a classifier; None from a detector.
        error_type: Error class of a failed image; None if the image is ok.
        error: Message of the error.
        error_stage: Stage at which the image failed.
        height: Pixels in the display frame. Values that were known before an image failed are kept, here and below.
        width: Pixels in the display frame.
        exif_orientation: EXIF orientation (1..8) that was applied to the stored pixels before detection.
        browser_orientation: EXIF orientation (1..8) that browsers apply to the file; None if it is the same.
        frames: Number of frames of the file.
        bytes: Size of the file.
        sha256: Checksum of the file.
        seconds: Seconds by stage.
        dropped: Detections dropped because a number is not finite or the box has no area inside the image.
        views_shown: Number of views of the image that the detector saw.
        location: Where the image lies inside its archive, see `ImageRef`; None for a file of its own.
        revision: The `ImageRef.revision` that was labeled. If the plan has another one, the row is outdated.
    """

    image_id: str
    uri: str
    file_name: str
    detector: str
    model_version: str
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
    views_shown: int = 1
    location: str | None = None
    revision: int = 0

    @property
    def status(self) -> str:
        """`"ok"` or `"failed"`."""
        return OK if self.error_type is None else FAILED

    @property
    def ref(self) -> ImageRef:
        """The image as `source.fetch` reads it."""
        return ImageRef(self.image_id, self.uri, self.file_name, size=self.bytes, location=self.location)

    def orientation_to(self, frame: str) -> int:
        """Return the orientation, 1..8, that converts the display frame to another frame; see `prelabel.frames`.

        Raises:
            StoreError: An orientation is not 1..8.
        """
        if self.exif_orientation in _UNROTATED and self.browser_orientation in _UNROTATED:
            return 1
        try:
            return orientation_to(frame, self.exif_orientation, self.browser_orientation)
        except ValueError as error:
            raise StoreError(f"image {self.image_id!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class ImageRow(ImageFacts):
    """One image of a run with its detections, which are None for a failed image."""

    detections: Detections | None = None

    def __len__(self) -> int:
        return 0 if self.detections is None else len(self.detections)

    def in_frame(self, frame: str) -> ImageRow:
        """Convert size, boxes, masks and keypoints from the display frame, as stored in shards, to another frame.

        Raises:
            StoreError: An orientation is not 1..8, or a mask does not fit the image or is too complex to be rotated.
        """
        orientation = self.orientation_to(frame)
        if orientation == 1:
            return self
        height, width = self.height, self.width
        if height is not None and width is not None:
            height, width = oriented_size(height, width, orientation)
        try:
            rotated = None if self.detections is None else oriented_detections(self.detections, orientation)
        except (StoreError, ExportError) as error:
            raise StoreError(f"image {self.image_id!r}: {error}") from None
        return replace(self, height=height, width=width, detections=rotated)


#: The attributes of `ImageFacts`; the columns have the same names.
FACTS = tuple(attribute.name for attribute in fields(ImageFacts))

#: Facts in optional columns, with the defaults that null stands for.
_USUAL = {attribute.name: attribute.default for attribute in fields(ImageFacts) if attribute.name in OPTIONAL_COLUMNS}

#: The default of each attribute that has one, besides `seconds`, which is a new dictionary for each image.
_DEFAULTS = {attribute.name: attribute.default for attribute in fields(ImageFacts) if attribute.default is not MISSING}

#: Columns with one entry per detection, and the attributes of `Detections` that they hold; without `keypoints`, whose
#: entries are nested.
_PER_DETECTION = {
    "boxes": "xyxy",
    "classes": "category_id",
    "labels": "label",
    "mids": "mid",
    "scores": "score",
    "masks": "mask",
    "multiclass_scores": "multiclass_score",
    "views": "views",
}


def rows_to_table(rows: Sequence[ImageRow]) -> pa.Table:
    """Convert rows to an Arrow table of `SHARD_SCHEMA`, in the same order."""
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in ("status", *FACTS)}
    columns["uri"] = [without_secrets(row.uri) for row in rows]
    columns["seconds"] = [{stage: row.seconds.get(stage) for stage in STAGES} for row in rows]
    for name, usual in _USUAL.items():
        columns[name] = [None if value == usual else value for value in columns[name]]
    columns["image_labels"] = [
        None
        if row.image_labels is None
        else [
            {"class": label.category_id, "label": label.label, "mid": label.mid, "score": label.score}
            for label in row.image_labels
        ]
        for row in rows
    ]
    for name, attribute in _PER_DETECTION.items():
        empty: Any = None if SHARD_SCHEMA.field(name).nullable else []
        per_row = (getattr(row.detections, attribute, None) for row in rows)
        columns[name] = [empty if array is None else array.tolist() for array in per_row]
    arrays = {name: pa.array(values, type=SHARD_SCHEMA.field(name).type) for name, values in columns.items()}
    arrays["keypoints"] = _keypoint_column(rows)
    return pa.Table.from_arrays([arrays[name] for name in SHARD_SCHEMA.names], schema=SHARD_SCHEMA)


def revisions(table: pa.Table) -> list[int]:
    """Return the revision of each row of a table, which may lack the column."""
    if "revision" not in table.column_names:
        return [0] * table.num_rows
    return pc.fill_null(table["revision"], 0).to_pylist()  # type: ignore[no-any-return]


def merge_tables(kept: pa.Table, fresh: pa.Table, image_ids: Sequence[str]) -> pa.Table:
    """Return the rows of images in this order: those of `kept`, unchanged, and `fresh` ones for all others.

    Args:
        kept: Rows of a shard, maybe of an earlier release: columns may be missing, and rows that are not asked for.
        fresh: A table of `SHARD_SCHEMA`; its rows count if both have an image.
        image_ids: The images.

    Raises:
        StoreError: An image is in neither.
    """
    columns = {
        field.name: kept[field.name] if field.name in kept.column_names else pa.nulls(kept.num_rows, field.type)
        for field in SHARD_SCHEMA
    }
    table = pa.concat_tables([pa.table(columns, schema=SHARD_SCHEMA), fresh.cast(SHARD_SCHEMA)])
    position = {image_id: number for number, image_id in enumerate(table["image_id"].to_pylist())}
    missing = [image_id for image_id in image_ids if image_id not in position]
    if missing:
        raise StoreError(f"no row of image {missing[0]!r}")
    return table.take(pa.array([position[image_id] for image_id in image_ids], pa.int64())).combine_chunks()


def _keypoint_column(rows: Sequence[ImageRow]) -> pa.Array:
    """The column `keypoints`, made from arrays: a shard may have a million points."""
    column = SHARD_SCHEMA.field("keypoints").type
    per_row = [None if row.detections is None else row.detections.keypoints for row in rows]
    known = [keypoints for keypoints in per_row if keypoints is not None]
    points = np.concatenate([keypoints.reshape(-1, 3) for keypoints in known] or [np.empty((0, 3), np.float32)])
    fields_of_point = [pa.array(np.ascontiguousarray(values)) for values in points.T]
    flat = pa.StructArray.from_arrays(fields_of_point, fields=list(column.value_type.value_type))
    per_detection = [keypoints.shape[1] for keypoints in known for _ in range(len(keypoints))]
    by_detection = pa.ListArray.from_arrays(_offsets(per_detection), flat, type=column.value_type)
    number = [0 if keypoints is None else len(keypoints) for keypoints in per_row]
    absent = pa.array([keypoints is None for keypoints in per_row], pa.bool_())
    return pa.ListArray.from_arrays(_offsets(number), by_detection, type=column, mask=absent)


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.append(0, np.cumsum(lengths, dtype=np.int64)).astype(np.int32))


def image_facts(batch: pa.RecordBatch) -> list[ImageFacts]:
    """Read the facts of each row of an Arrow batch; columns for which `ImageFacts` has a default may be missing.

    Early releases, which did not record `browser_orientation`, recorded an EXIF orientation for HEIC files that the
    reader had already applied. It is ignored, since the stored pixels are those that the detector saw.
    """
    columns = {name: _values(batch[name], name) for name in FACTS if name in batch.schema.names}
    exif = columns.get("exif_orientation", [])
    browser = columns.get("browser_orientation", [None] * len(exif))
    for n, orientation in enumerate(exif):
        is_rotated = orientation not in _UNROTATED and browser[n] is None
        if is_rotated and columns["file_name"][n].lower().endswith(_HEIF_EXTENSIONS):
            exif[n] = None
    # By position: with names, making the objects would take twice as long.
    if "seconds" not in columns:
        columns["seconds"] = [{} for _ in range(batch.num_rows)]
    return list(
        map(ImageFacts, *(columns[name] if name in columns else [_DEFAULTS[name]] * batch.num_rows for name in FACTS))
    )


def _values(column: pa.Array, name: str) -> list[Any]:
    values: list[Any] = [None] * len(column) if column.null_count == len(column) else column.to_pylist()
    if name == "seconds":
        return [{k: v for k, v in (seconds or {}).items() if v is not None} for seconds in values]
    if (usual := _USUAL.get(name)) is not None:
        return [usual if value is None else value for value in values]
    if name == "image_labels":
        return [labels and tuple(ImageLabel(*label.values()) for label in labels) for labels in values]
    return values
