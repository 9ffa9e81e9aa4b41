"""Every export preserves the ground truth of 80 real photos, stored like the detections of a detector."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.detections import ClassName
from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.label_studio.regions import region_id
from prelabel.masks import rle
from prelabel.masks.brush import rle_from_brush
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.rows import ListedRows, found, row

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

INFO = RunInfo(detector="truth", model_version="truth-1", masks=True)
Truth = tuple[Path, COCO, list[ImageRow]]


@pytest.fixture(scope="module")
def truth(assets: Path) -> Truth:
    path = assets / "images" / "coco-val80-instances.json"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    rows = []
    for image in coco.loadImgs(coco.getImgIds()):
        detections = []
        for annotation in coco.imgToAnns[image["id"]]:
            x, y, w, h = annotation["bbox"]
            mask = coco.annToMask(annotation)
            if annotation["iscrowd"] or not mask.any():
                continue
            name = coco.cats[annotation["category_id"]]["name"]
            box = (x, y, min(x + w, image["width"]), min(y + h, image["height"]))
            detections.append(
                found(name, 0.9, box, category_id=annotation["category_id"], mid="", mask=rle.encode(mask))
            )
        rows.append(row(image["file_name"], *detections, height=image["height"], width=image["width"], masks=True))
    return path, coco, rows


def repeatable(rows: list[ImageRow]) -> Callable[[], Iterator[ImageRow]]:
    return ListedRows(rows)


def test_coco_results_of_the_truth_have_an_ap_of_one(truth: Truth, tmp_path: Path) -> None:
    path, coco, rows = truth
    options = CocoOptions(image_ids=str(path), categories=str(path), results=str(tmp_path / "results.json"))
    report = export_coco(INFO, repeatable(rows), str(tmp_path / "coco.json"), options, Storage())
    assert report.images == 80
    assert report.detections == sum(len(image) for image in rows)
    with contextlib.redirect_stdout(io.StringIO()):
        results = coco.loadRes(str(tmp_path / "results.json"))
        for kind, lowest in (("bbox", 0.99), ("segm", 0.999)):
            evaluation = COCOeval(coco, results, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] > lowest
    with contextlib.redirect_stdout(io.StringIO()):
        written = COCO(str(tmp_path / "coco.json"))
    stored = [(image.image_id, mask) for image in rows for mask in image.detections.mask]
    assert len(written.anns) == len(stored)
    for annotation, (name, mask) in zip(written.anns.values(), stored, strict=True):
        image = written.imgs[annotation["image_id"]]
        assert image["file_name"] == name
        assert np.array_equal(written.annToMask(annotation), rle.decode(mask, image["height"], image["width"]))


def tasks_of(folder: Path, rows: list[ImageRow], **options: Any) -> list[dict[str, Any]]:
    export_label_studio(INFO, repeatable(rows), str(folder), LabelStudioOptions.of(**options), Storage())
    return [task for path in sorted(folder.glob("tasks-*.json")) for task in json.loads(path.read_text())]


def test_rectangles_in_percent_convert_back_to_the_same_pixels(truth: Truth, tmp_path: Path) -> None:
    _, _, rows = truth
    tasks = tasks_of(tmp_path, rows, shape="rectangle")
    assert len(tasks) == 80
    for image, task in zip(rows, tasks, strict=True):
        result = task["predictions"][0]["result"]
        assert len({region["id"] for region in result}) == len(result) == len(image)
        for region, xyxy, label in zip(result, image.detections.xyxy, image.detections.label, strict=True):
            value, w, h = region["value"], region["original_width"], region["original_height"]
            corners = (value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"])
            pixels = np.array(corners) * (w, h, w, h) / 100
            assert np.abs(pixels - xyxy).max() < 0.01
            assert value["rectanglelabels"] == [label]


def test_brush_masks_are_the_stored_masks(truth: Truth, tmp_path: Path) -> None:
    _, _, rows = truth
    tasks = tasks_of(tmp_path, rows[:20], shape="brush")
    for image, task in zip(rows, tasks, strict=False):
        result = task["predictions"][0]["result"]
        assert len(result) == len(image)
        for region, mask in zip(result, image.detections.mask, strict=True):
            size = region["original_height"], region["original_width"]
            assert rle_from_brush(region["value"]["rle"], *size) == mask


def test_polygons_fill_the_stored_masks_within_the_tolerance(truth: Truth, tmp_path: Path) -> None:
    _, _, rows = truth
    overlaps = []
    for image, task in zip(rows, tasks_of(tmp_path, rows, shape="polygon", max_points=10**6), strict=True):
        key, drawn = "", dict[str, list[list[float]]]()
        assert image.detections is not None
        height, width = image.detections.height, image.detections.width
        ids = [region_id("truth-1", image.image_id, index) for index in range(len(image))]
        for region in task["predictions"][0]["result"]:
            if region["id"] in ids:
                key = region["id"]
            pixels = np.array(region["value"]["points"]) * (width, height) / 100
            drawn.setdefault(key, []).append(pixels.ravel().tolist())
        for key, mask in zip(ids, image.detections.mask, strict=True):
            polygons = coco_mask.merge(coco_mask.frPyObjects(drawn[key], height, width))
            stored = {"size": [height, width], "counts": mask}
            overlaps.append(float(coco_mask.iou([polygons], [stored], [0])[0][0]))
    assert np.median(overlaps) > 0.95
    assert np.quantile(overlaps, 0.05) > 0.8


def test_the_classes_of_the_truth_are_numbered_as_in_coco(truth: Truth, tmp_path: Path) -> None:
    _, coco, rows = truth
    classes = tuple(ClassName(number, category["name"]) for number, category in coco.cats.items())
    info = RunInfo(detector="truth", model_version="truth-1", masks=True, classes=classes)
    export_coco(info, repeatable(rows), str(tmp_path / "coco.json"), CocoOptions(categories="coco"), Storage())
    written = json.loads((tmp_path / "coco.json").read_text())
    assert {(c["id"], c["name"]) for c in written["categories"]} == {(n, c["name"]) for n, c in coco.cats.items()}
