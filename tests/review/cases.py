"""Helpers: write small truths, and evaluate rows against them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prelabel.export.base import RunInfo
from prelabel.labels.class_tree import open_images_tree
from prelabel.review.evaluation import Evaluation, evaluate
from prelabel.review.options import EvaluateOptions
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.rows import INFO, found, row, rows

CATEGORIES = ({"id": 1, "name": "dog"}, {"id": 2, "name": "cat"})


def image(number: int = 1, file_name: str = "a.jpg", *, height: int = 40, width: int = 60) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "height": height, "width": width}


def thing(
    bbox: Sequence[float], category_id: int = 1, *, image_id: int = 1, crowd: bool = False, **more: Any
) -> dict[str, Any]:
    """An annotation of a truth; `write_truth` adds its id."""
    area = bbox[2] * bbox[3]
    shape = {"category_id": category_id, "bbox": list(bbox), "area": area, "iscrowd": int(crowd)}
    return {"image_id": image_id, **shape, **more}


def write_truth(
    folder: Path,
    annotations: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]] = (),
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
) -> str:
    path = folder / "truth.json"
    content = {
        "images": list(images or [image()]),
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
        "categories": list(categories),
    }
    path.write_text(json.dumps(content))
    return str(path)


def evaluated(truth: str, *image_rows: ImageRow, info: RunInfo = INFO, **options: Any) -> Evaluation:
    return evaluate(info, rows(*image_rows), EvaluateOptions.of(truth=truth, **options), Storage())


def rows_of(file: Path, images: Iterable[str] = (), size: int = 1024) -> list[ImageRow]:
    """Rows of a run from a file of detections in Open Images' format; `images` are rows without any."""
    by_image: dict[str, list[dict[str, Any]]] = {image: [] for image in images}
    for values in csv.DictReader(file.read_text().splitlines()):
        corners = [float(values[name]) * size for name in ("XMin", "YMin", "XMax", "YMax")]
        entry = open_images_tree().find(values["LabelName"])
        detection = found(entry.name if entry else "?", float(values["Score"]), corners, mid=values["LabelName"])
        by_image.setdefault(values["ImageID"], []).append(detection)
    return [row(f"{image}.jpg", *detections, height=size, width=size) for image, detections in by_image.items()]


def images_in(*paths: Path) -> list[str]:
    return sorted({entry["ImageID"] for path in paths for entry in csv.DictReader(path.read_text().splitlines())})
