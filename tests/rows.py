"""Small rows of a run, written down by hand, for the tests of everything that reads shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from prelabel import rle
from prelabel.detections import Detections, ImageLabel
from prelabel.export.reading import RunInfo
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName

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
) -> dict[str, Any]:
    """One detection; by default a dog on the left half of an image of 4 x 6 pixels."""
    return {"label": label, "score": score, "xyxy": xyxy, "category_id": category_id, "mid": mid, "mask": mask}


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
    with_masks = any(one["mask"] is not None for one in detections) if masks is None else masks
    return ImageRow(
        image_id=image_id,
        uri=f"s3://bucket/photos/{image_id}" if uri is None else uri,
        file_name=image_id,
        detector=INFO.detector,
        model_version=INFO.model_version,
        detections=Detections(
            height=height,
            width=width,
            xyxy=[one["xyxy"] for one in detections],
            category_id=[one["category_id"] for one in detections],
            score=[one["score"] for one in detections],
            label=[one["label"] for one in detections],
            mid=[one["mid"] for one in detections],
            mask=[one["mask"] for one in detections] if with_masks else None,
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


def rows(*every: ImageRow) -> Callable[[], Iterator[ImageRow]]:
    """Rows as an exporter takes them: a callable that begins anew each time."""
    return lambda: iter(every)
