"""What the export writes, taken in by a real server with its checks on, and read back through its API."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prelabel
from prelabel.export.base import RunInfo
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.masks import rle
from prelabel.store.run import Run
from prelabel.synth import make_scenes
from tests.archives import tar_of
from tests.tools.conftest import Photos
from tests.tools.environment import needed
from tests.tools.label_studio import Server

SHAPES = [("ssd", "rectangle"), ("mask", "rectangle"), ("mask", "polygon"), ("mask", "brush")]


def imported(
    server: Server, photos: Photos, run: Run, shape: str, folder: Path, **options: Any
) -> list[dict[str, Any]]:
    """The tasks of a new project, as the server gives them back, after an export of the run into it."""
    chosen = LabelStudioOptions.of(document_root=str(photos.root), shape=shape, **options)
    report = export_label_studio(RunInfo.of(run), run.rows, str(folder), chosen, run.storage)
    project = server.project((folder / "label_config.xml").read_text(), f"{run.record.detector.name} {shape}")
    server.serve(project, photos.root / "coco val")
    sent = 0
    for path in report.files[:-1]:
        tasks = json.loads(Path(path).read_text())
        answer = server.api("POST", f"projects/{project}/import", tasks)
        assert (answer["task_count"], answer["prediction_count"]) == (len(tasks), len(tasks))
        sent += len(tasks)
    back = server.tasks(project)
    assert len(back) == sent
    return back


def boxes_in_pixels(prediction: dict[str, Any]) -> Iterator[tuple[str, float, list[float]]]:
    for region in prediction["result"]:
        value, kind = region["value"], region["type"]
        wide, high = region["original_width"] / 100, region["original_height"] / 100
        x, y = value["x"] * wide, value["y"] * high
        box = [x, y, x + value["width"] * wide, y + value["height"] * high]
        yield value[kind][0], region["score"], box


@pytest.mark.parametrize("name", ["ssd", "mask"])
def test_every_box_comes_back_within_half_a_pixel(
    label_studio: Server, photos: Photos, tmp_path: Path, name: str
) -> None:
    run = photos.runs[name]
    back = {
        task["data"]["image_id"]: task
        for task in imported(label_studio, photos, run, "rectangle", tmp_path, score_threshold=0.0)
    }
    assert len(back) == 80
    compared = 0
    for row in run.rows():
        (prediction,) = back[row.image_id]["predictions"]
        assert prediction["model_version"] == run.record.detector.model_version
        detections = row.detections
        assert detections is not None
        order = np.argsort(-detections.score, kind="stable")
        regions = list(boxes_in_pixels(prediction))
        assert [label for label, _, _ in regions] == list(detections.label[order])
        if regions:
            np.testing.assert_allclose([score for _, score, _ in regions], detections.score[order], atol=1e-6)
            np.testing.assert_allclose([box for _, _, box in regions], detections.xyxy[order], atol=0.5)
            assert prediction["score"] == pytest.approx(np.mean(detections.score), abs=1e-5)
        compared += len(regions)
    assert compared == sum(len(row) for row in run.rows()) > 1000


def test_brush_masks_come_back_as_the_stored_masks(label_studio: Server, photos: Photos, tmp_path: Path) -> None:
    decode = needed("label_studio_sdk.converter.brush").decode_rle
    run = photos.runs["mask"]
    back = {
        task["data"]["image_id"]: task
        for task in imported(label_studio, photos, run, "brush", tmp_path, score_threshold=0.0)
    }
    compared = 0
    for row in run.rows():
        (prediction,) = back[row.image_id]["predictions"]
        detections = row.detections
        assert detections is not None
        assert detections.mask is not None
        order = np.argsort(-detections.score, kind="stable")
        masks = [detections.mask[i] for i in order if rle.area(detections.mask[i], detections.height, detections.width)]
        assert len(prediction["result"]) == len(masks)
        for region, counts in zip(prediction["result"], masks, strict=True):
            size = (region["original_height"], region["original_width"])
            visible = np.asarray(decode(region["value"]["rle"]), np.uint8).reshape(*size, 4)[..., 3] > 0
            assert size == (detections.height, detections.width)
            assert rle.encode(visible) == counts
            compared += 1
    assert compared > 1000


def test_polygons_come_back_as_they_were_sent_and_cover_their_masks(
    label_studio: Server, photos: Photos, tmp_path: Path
) -> None:
    from PIL import Image, ImageDraw

    run = photos.runs["mask"]
    options = {"score_threshold": 0.3, "polygon_min_area": 0.0, "max_points": 100_000}
    back = {t["data"]["image_id"]: t for t in imported(label_studio, photos, run, "polygon", tmp_path, **options)}
    sent = {task["data"]["image_id"]: task for task in json.loads((tmp_path / "tasks-00000.json").read_text())}
    overlaps = []
    for row in run.rows():
        (prediction,) = back[row.image_id]["predictions"]
        (wanted,) = sent[row.image_id]["predictions"]
        assert prediction["result"] == wanted["result"]
        detections = row.detections
        assert detections is not None
        assert detections.mask is not None
        drawn: dict[float, np.ndarray[Any, Any]] = {}
        for region in prediction["result"]:
            canvas = Image.new("1", (detections.width * 4, detections.height * 4))
            points = [
                (x * detections.width / 25 - 0.5, y * detections.height / 25 - 0.5)
                for x, y in region["value"]["points"]
            ]
            ImageDraw.Draw(canvas).polygon(points, fill=1)
            drawn[region["score"]] = drawn.get(region["score"], False) | np.asarray(canvas)
        for index in np.flatnonzero(detections.score >= np.float32(0.3)):
            score = float(str(detections.score[index]))
            mask = (
                np.repeat(
                    np.repeat(rle.decode(detections.mask[index], detections.height, detections.width), 4, 0), 4, 1
                )
                > 0
            )
            if np.count_nonzero(detections.score == detections.score[index]) == 1 and mask.sum() > 16 * 400:
                overlaps.append((mask & drawn[score]).sum() / (mask | drawn[score]).sum())
    assert len(overlaps) > 200
    assert min(overlaps) > 0.85
    assert np.mean(overlaps) > 0.97


def test_images_extracted_from_an_archive_are_served(label_studio: Server, document_root: Path, tmp_path: Path) -> None:
    """A server cannot show the members of a tar; the tasks of extracted files show exactly the bytes of the members."""
    make_scenes(tmp_path / "scenes", 3, 0)
    members = {f"day 1/{path.name}": path.read_bytes() for path in (tmp_path / "scenes").glob("*.jpg")}
    archive, run, files = tmp_path / "scenes.tar", str(tmp_path / "run"), document_root / "extracted"
    archive.write_bytes(tar_of(members))
    prelabel.label(str(archive), detector="demo-shapes", output=run, runner="local", workers=1)
    prelabel.extract(run, to=str(files))
    prelabel.export_label_studio(
        run, to=str(tmp_path / "tasks"), extracted=str(files), document_root=str(document_root)
    )
    project = label_studio.project((tmp_path / "tasks" / "label_config.xml").read_text(), "extracted")
    label_studio.serve(project, files)
    label_studio.api(
        "POST", f"projects/{project}/import", json.loads((tmp_path / "tasks/tasks-00000.json").read_text())
    )
    tasks = label_studio.tasks(project)
    assert len(tasks) == len(members) == 3
    for task in tasks:
        assert task["predictions"][0]["result"]
        request = urllib.request.Request(  # noqa: S310 - the server started here
            label_studio.url + task["data"]["image"], headers={"Authorization": f"Token {label_studio.token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            assert answer.read() == members[task["data"]["image_id"].removeprefix("scenes.tar/")]
