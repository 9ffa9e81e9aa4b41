"""`ImageRow`: one row of a shard as Python, and its way into and out of Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from prelabel.detections import Detections, ImageLabel
from prelabel.storage import without_secrets
from prelabel.store.schema import FAILED, OK, SHARD_SCHEMA, STAGES


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a run: where it is, what became of it, and what was found on it.

    In a shard `uri` stands without password and without a signed link's signature, see `storage.without_secrets`.
    A failed image has `error_type`, `error` and `error_stage` and no detections; everything known before it failed
    (bytes, sha256, sometimes the size) is kept.
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

    @property
    def status(self) -> str:
        """`"ok"` or `"failed"`."""
        return OK if self.error_type is None else FAILED

    def __len__(self) -> int:
        return 0 if self.detections is None else len(self.detections)


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
    }


def table_to_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[ImageRow]:
    """Rows of Arrow batches of `SHARD_SCHEMA`, in order; `masks` and `multiclass_scores` may be left out."""
    for batch in batches:
        for values in batch.to_pylist():
            yield _values_to_row(values)


def _values_to_row(values: Mapping[str, Any]) -> ImageRow:
    ok = values["status"] == OK
    scores = values.get("multiclass_scores")
    labels = values["image_labels"]
    return ImageRow(
        image_id=values["image_id"],
        uri=values["uri"],
        file_name=values["file_name"],
        detector=values["detector"],
        model_version=values["model_version"],
        detections=Detections(
            height=values["height"],
            width=values["width"],
            xyxy=values["boxes"],
            category_id=values["classes"],
            score=values["scores"],
            label=values["labels"],
            mid=values["mids"],
            mask=values.get("masks"),
            multiclass_score=None if scores is None else np.asarray(scores, np.float32).reshape(len(scores), -1),
        )
        if ok
        else None,
        image_labels=None
        if labels is None
        else tuple(ImageLabel(one["class"], one["label"], one["mid"], one["score"]) for one in labels),
        error_type=values["error_type"],
        error=values["error"],
        error_stage=values["error_stage"],
        height=values["height"],
        width=values["width"],
        exif_orientation=values["exif_orientation"],
        frames=values["frames"],
        bytes=values["bytes"],
        sha256=values["sha256"],
        seconds={k: v for k, v in (values["seconds"] or {}).items() if v is not None},
    )
