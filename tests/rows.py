"""Small literal rows of a run, for the tests of all code that reads shards."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from prelabel.detections import ClassName, Detections, FloatArray, ImageLabel, as_objects
from prelabel.export.base import RunInfo
from prelabel.frames import DISPLAY
from prelabel.masks import rle
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts, ImageRow
from prelabel.store.subset import ImageOrder

INFO = RunInfo(
    detector="stub",
    model_version="stub-0123abcd",
    classes=(ClassName(1, "Dog", "/m/0bt9lr"), ClassName(2, "Cat", "/m/01yrx")),
    created="2026-11-20T12:00:00+00:00",
    run_id="run-1",
    fingerprint="0123abcd",
    version="0.1.0",
)


def mask_of(*lines: str) -> str:
    """Compressed counts of a drawn mask: `mask_of("##.", "...")` is 2 x 3 pixels, `#` is a one."""
    return rle.encode(np.array([[character == "#" for character in line] for line in lines]))


def found(
    label: str = "Dog",
    score: float = 0.9,
    xyxy: Sequence[float] = (0, 0, 3, 4),
    *,
    category_id: int = 1,
    mid: str = "/m/0bt9lr",
    mask: str | None = None,
    keypoints: Sequence[tuple[float, float, float]] | None = None,
) -> dict[str, Any]:
    """One detection; by default a dog on the left half of an image of 4 x 6 pixels."""
    names = {"label": label, "score": score, "xyxy": xyxy, "category_id": category_id, "mid": mid}
    return {**names, "mask": mask, "keypoints": keypoints}


def row(
    image_id: str = "a.jpg",
    *detections: dict[str, Any],
    height: int = 4,
    width: int = 6,
    image_labels: Sequence[ImageLabel] | None = None,
    masks: bool | None = None,
    uri: str | None = None,
) -> ImageRow:
    """An image (by default 4 pixels high and 6 wide, at `s3://bucket/photos/`) with the given detections."""
    with_keypoints = any(detection["keypoints"] is not None for detection in detections)
    with_masks = any(detection["mask"] is not None for detection in detections) if masks is None else masks
    return ImageRow(
        image_id=image_id,
        uri=f"s3://bucket/photos/{image_id}" if uri is None else uri,
        file_name=image_id,
        detector=INFO.detector,
        model_version=INFO.model_version,
        detections=Detections(
            height=height,
            width=width,
            xyxy=[detection["xyxy"] for detection in detections],
            category_id=[detection["category_id"] for detection in detections],
            score=[detection["score"] for detection in detections],
            label=[detection["label"] for detection in detections],
            mid=[detection["mid"] for detection in detections],
            mask=[detection["mask"] for detection in detections] if with_masks else None,
            keypoints=[detection["keypoints"] for detection in detections] if with_keypoints else None,
        ),
        image_labels=None if image_labels is None else tuple(image_labels),
        height=height,
        width=width,
    )


def failed_row(image_id: str = "broken.jpg") -> ImageRow:
    """An image that could not be decoded."""
    return ImageRow(
        image_id=image_id,
        uri=f"s3://bucket/photos/{image_id}",
        file_name=image_id,
        detector=INFO.detector,
        model_version=INFO.model_version,
        error_type="TruncatedImageError",
        error="the end of the image's data is missing",
        error_stage="decode",
    )


class ListedRows:
    """Rows for an exporter, from memory rather than from a shard, so they may have any shape."""

    def __init__(self, image_rows: Sequence[ImageRow]) -> None:
        self._every = image_rows
        self._frame = DISPLAY
        self._excluded: frozenset[str] = frozenset()

    def __call__(self) -> Iterator[ImageRow]:
        return (_without(self._excluded, row).in_frame(self._frame) for row in self._every)

    def __len__(self) -> int:
        return len(self._every)

    def batches(self) -> Iterator[DetectionBatch]:
        return batch_of(list(self())).split() if self._every else iter(())

    def classes(self) -> set[ClassName]:
        columns = (batch_of([row]) for row in self._every)
        return {
            ClassName(*names)
            for batch in columns
            for names in zip(batch.category_id.tolist(), batch.label, batch.mid, strict=True)
        }

    @property
    def order(self) -> ImageOrder | None:
        return None

    def of_all_images(self) -> ListedRows:
        return self

    def without(self, *names: str) -> ListedRows:
        other = copy.copy(self)
        other._excluded = self._excluded | {*names}
        return other

    def in_frame(self, frame: str) -> ListedRows:
        other = copy.copy(self)
        other._frame = frame
        return other

    def by_shard(self) -> list[ListedRows]:
        return [self]


def _without(excluded: Collection[str], row: ImageRow) -> ImageRow:
    """The row as it is read without some columns; only those of masks and keypoints are left out."""
    absent = {name: None for column, name in (("masks", "mask"), ("keypoints", "keypoints")) if column in excluded}
    if row.detections is None or not absent:
        return row
    return replace(row, detections=replace(row.detections, **absent))


def batch_of(image_rows: Sequence[ImageRow]) -> DetectionBatch:
    """The detections of rows as one batch."""
    facts = [field.name for field in fields(ImageFacts)]
    all_of = [row.detections or Detections.empty(0, 0) for row in image_rows]
    number = [len(detections) for detections in all_of]
    masks = [
        detections.mask if detections.mask is not None else as_objects([None] * len(detections))
        for detections in all_of
    ]
    return DetectionBatch(
        images=[ImageFacts(**{name: getattr(row, name) for name in facts}) for row in image_rows],
        failed=[row.detections is None for row in image_rows],
        masked=np.array([row.detections is not None and row.detections.mask is not None for row in image_rows], bool),
        multiclass_score=None,
        image=np.repeat(np.arange(len(image_rows)), number),
        place=np.concatenate([np.arange(n) for n in number]),
        height=np.repeat([detections.height for detections in all_of], number),
        width=np.repeat([detections.width for detections in all_of], number),
        xyxy=np.concatenate([detections.xyxy for detections in all_of]),
        category_id=np.concatenate([detections.category_id for detections in all_of]),
        score=np.concatenate([detections.score for detections in all_of]),
        label=np.concatenate([detections.label for detections in all_of]),
        mid=np.concatenate([detections.mid for detections in all_of]),
        mask=None if all(detections.mask is None for detections in all_of) else np.concatenate(masks),
        keypoints=_keypoints_of(all_of),
    )


def _keypoints_of(all_of: Sequence[Detections]) -> FloatArray | None:
    """The keypoints of all detections, 0 0 0 for detections without; None if there are none."""
    number = max((0 if each.keypoints is None else each.keypoints.shape[1] for each in all_of), default=0)
    empty = [np.zeros((len(each), number, 3), np.float32) for each in all_of]
    parts = [zeros if each.keypoints is None else each.keypoints for each, zeros in zip(all_of, empty, strict=True)]
    return np.concatenate(parts) if number else None


def rows(*image_rows: ImageRow) -> ListedRows:
    """Rows for an exporter: a callable that starts over at every call."""
    return ListedRows(image_rows)
