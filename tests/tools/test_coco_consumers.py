"""Exports of 80 real photos by both real detectors, read by the tools that people load them with.

Those are not among this project's dependencies, and do not go into one environment: `make test-tools` makes one for
each group of them, and says in the Makefile what is in it. The variables below name other places.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from prelabel.masks import rle
from prelabel.select import ExportSelection
from tests.tools.conftest import Photos
from tests.tools.environment import missing

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

ROOT = Path(__file__).parents[2]
THRESHOLD = "0.2"

#: Where a reader is installed, if not with the others: the folder, and the variable that names another one. These are
#: large, and read by `make test-tools` only.
OTHERS = (".venv-consumers", "CONSUMERS_VENV")
PLACES = {
    "fiftyone": (".venv-fiftyone", "FIFTYONE_VENV"),
    "datumaro-0.3-coco": (".venv-datumaro-cvat", "CVAT_DATUMARO_VENV"),
    "ultralytics": (".venv-ultralytics", "ULTRALYTICS_VENV"),
    "ultralytics-segments": (".venv-ultralytics", "ULTRALYTICS_VENV"),
}


@dataclass(frozen=True)
class Real:
    """A finished run and what an export of it must hold."""

    output: Path
    masks: bool
    images: Path
    expected: list[dict[str, Any]]


@pytest.fixture(scope="module", params=["ssd", "mask"])
def real(request: pytest.FixtureRequest, photos: Photos) -> Real:
    run = photos.runs[request.param]
    selection = ExportSelection(score_threshold=float(THRESHOLD))
    expected = []
    for row in run.rows():
        assert row.detections is not None
        kept = selection.apply(row.detections)
        for index in range(len(kept)):
            detection = {
                "image": Path(row.file_name).stem,
                "label": kept.label[index],
                "xyxy": kept.xyxy[index].tolist(),
                "score": float(kept.score[index]),
                "mask": None if kept.mask is None else kept.mask[index],
                "size": (kept.height, kept.width),
            }
            if detection["mask"] is None or rle.area(detection["mask"], *detection["size"]):
                expected.append(detection)
    assert len(expected) > 300
    return Real(run.root.path, request.param == "mask", photos.root / "coco val", expected)


def prelabel(*arguments: Any) -> None:
    command = [sys.executable, "-m", "prelabel", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def export(real: Real, form: str, to: Path, *options: str) -> None:
    prelabel("export", form, real.output, "--to", to, "--score-threshold", THRESHOLD, *options)


def read(reader: str, path: Path, images: Path) -> list[dict[str, Any]]:
    """What a tool reads, in its environment."""
    folder, variable = PLACES.get(reader, OTHERS)
    python = Path(os.environ.get(variable, ROOT / folder)) / "bin" / "python"
    if not python.exists():
        missing(f"no environment with the tools at {python} ({variable} names another one)")
    script = Path(__file__).with_name("read_exports.py")
    # What some keep between runs stays out of the home of who runs the tests, and nobody is told of it.
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "FIFTYONE_DATABASE_DIR": f"{home}/database",
            "FIFTYONE_DEFAULT_DATASET_DIR": f"{home}/datasets",
            "FIFTYONE_DO_NOT_TRACK": "true",
            "YOLO_CONFIG_DIR": home,
            "YOLO_OFFLINE": "true",
        }
        command = [python, script, reader, path, images]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads(done.stdout)
    assert isinstance(content, list)
    return content


def same_kind(detections: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """As many of each class on each image."""
    assert Counter((detection["image"], detection["label"]) for detection in detections) == Counter(
        (detection["image"], detection["label"]) for detection in expected
    )


def same(detections: list[dict[str, Any]], real: Real, *, boxes: float | None = 0.011, scores: bool = True) -> None:
    """The same detections in the same order of scores: class, box within a tolerance, score, and mask to the pixel."""
    same_kind(detections, real.expected)
    by_image: dict[str, list[dict[str, Any]]] = {}
    for detection in detections:
        by_image.setdefault(detection["image"], []).append(detection)
    place: Counter[str] = Counter()
    for wanted in real.expected:
        got = by_image[wanted["image"]][place[wanted["image"]]]
        place[wanted["image"]] += 1
        assert got["label"] == wanted["label"]
        if scores:
            assert got["score"] == pytest.approx(wanted["score"], abs=1e-6)
        if wanted["mask"] is not None and got["mask"] is not None:
            mine, read_mask = (rle.decode(counts, *wanted["size"]) for counts in (wanted["mask"], got["mask"]))
            assert np.array_equal(mine, read_mask)
        elif boxes is not None:
            assert got["xyxy"] == pytest.approx(wanted["xyxy"], abs=boxes)


FIFTYONE = pytest.param("fiftyone", marks=pytest.mark.extra)
ULTRALYTICS = pytest.param("ultralytics", marks=pytest.mark.extra)
ULTRALYTICS_SEGMENTS = pytest.param("ultralytics-segments", marks=pytest.mark.extra)


@pytest.mark.parametrize("reader", ["faster-coco-eval", FIFTYONE, "supervision-coco"])
def test_coco_datasets_are_read_whole(real: Real, tmp_path: Path, reader: str) -> None:
    export(real, "coco", tmp_path / "coco.json")
    detections = read(reader, tmp_path / "coco.json", real.images)
    assert len(detections) == len(real.expected)
    same(detections, real, scores=not reader.startswith("supervision"), boxes=0.02)
    if real.masks:
        assert all(detection["mask"] for detection in detections)


def coco_folder(real: Real, tmp_path: Path, *options: str) -> Path:
    folder = tmp_path / "coco"
    export(real, "coco", folder / "annotations" / "instances_train.json", *options)
    shutil.copytree(real.images, folder / "images" / "train")
    return folder


@pytest.mark.parametrize("options", [(), ("--score-field", "attribute")])
def test_datumaro_reads_coco_with_scores_and_masks(real: Real, tmp_path: Path, options: tuple[str, ...]) -> None:
    detections = read("datumaro-coco", coco_folder(real, tmp_path, *options), real.images)
    # It begins at the end of the file, and of an RLE makes a mask and a box beside it.
    detections = [detection for detection in detections[::-1] if (detection["mask"] is not None) == real.masks]
    assert len(detections) == len(real.expected)
    same(detections, real)


@pytest.mark.extra
@pytest.mark.parametrize("options", [(), ("--score-field", "attribute")])
def test_the_datumaro_release_that_cvat_forked_reads_coco(real: Real, tmp_path: Path, options: tuple[str, ...]) -> None:
    """CVAT's fork is not published; it began at 0.3 and has left the COCO importer as it was for detections."""
    detections = read("datumaro-0.3-coco", coco_folder(real, tmp_path, *options), real.images)
    assert len(detections) == len(real.expected)
    same(detections, real)
    if real.masks:
        assert all(detection["mask"] for detection in detections)


@pytest.mark.parametrize("segmentation", ["polygon", "none"])
def test_every_way_to_write_masks_is_read(real: Real, tmp_path: Path, segmentation: str) -> None:
    export(real, "coco", tmp_path / "coco.json", "--segmentation", segmentation)
    for reader in ("faster-coco-eval", "supervision-coco"):
        detections = read(reader, tmp_path / "coco.json", real.images)
        same_kind(detections, real.expected)
        if segmentation == "none":
            assert not any(detection["mask"] for detection in detections if reader != "supervision-coco")
    folder = coco_folder(real, tmp_path, "--segmentation", segmentation)
    detections = read("datumaro-coco", folder, real.images)
    assert {(detection["image"], detection["label"]) for detection in detections} == {
        (detection["image"], detection["label"]) for detection in real.expected
    }


@pytest.mark.extra
def test_fiftyone_reads_polygons(real: Real, tmp_path: Path) -> None:
    export(real, "coco", tmp_path / "coco.json", "--segmentation", "polygon")
    same_kind(read("fiftyone", tmp_path / "coco.json", real.images), real.expected)


def test_pycocotools_reads_every_mask_as_it_is_stored(real: Real, tmp_path: Path) -> None:
    export(real, "coco", tmp_path / "coco.json", "--results", str(tmp_path / "results.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco.json"))
        loaded = coco.loadRes(str(tmp_path / "results.json"))
    assert len(coco.anns) == len(loaded.anns) == len(real.expected)
    for wanted, annotation, result in zip(real.expected, coco.anns.values(), loaded.anns.values(), strict=True):
        assert Path(coco.imgs[annotation["image_id"]]["file_name"]).stem == wanted["image"]
        assert coco.cats[annotation["category_id"]]["name"] == wanted["label"]
        if wanted["mask"] is not None:
            stored = rle.decode(wanted["mask"], *wanted["size"])
            assert np.array_equal(coco.annToMask(annotation), stored)
            assert np.array_equal(loaded.annToMask(result), stored)
            assert annotation["area"] == stored.sum()


def test_files_of_a_split_export_together_hold_the_same(real: Real, tmp_path: Path) -> None:
    export(real, "coco", tmp_path / "coco.json", "--split", "17")
    parts = sorted(tmp_path.glob("coco-*.json"))
    assert len(parts) == 5
    detections = [detection for part in parts for detection in read("faster-coco-eval", part, real.images)]
    same(detections, real, boxes=0.02)
    contents = [json.loads(part.read_text()) for part in parts]
    for key in ("images", "annotations"):
        ids = [entry["id"] for content in contents for entry in content[key]]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("reader", ["datumaro-cvat", "cvat-sdk"])
def test_cvat_reads_boxes_masks_and_scores(real: Real, tmp_path: Path, reader: str) -> None:
    export(real, "cvat", tmp_path / "annotations.xml")
    (tmp_path / "images").symlink_to(real.images)
    detections = read(reader, tmp_path / "annotations.xml" if reader == "cvat-sdk" else tmp_path, real.images)
    assert len(detections) == len(real.expected)
    same(detections, real)


def test_cvat_reads_polygons(real: Real, tmp_path: Path) -> None:
    export(real, "cvat", tmp_path / "annotations.xml", "--segmentation", "polygon")
    (tmp_path / "images").symlink_to(real.images)
    detections = read("datumaro-cvat", tmp_path, real.images)
    assert {(detection["image"], detection["label"]) for detection in detections} == {
        (detection["image"], detection["label"]) for detection in real.expected
    }
    assert len(detections) >= len(real.expected)


@pytest.mark.parametrize("reader", [ULTRALYTICS, "datumaro-yolo", "supervision-yolo"])
def test_yolo_boxes_are_read(real: Real, tmp_path: Path, reader: str) -> None:
    export(real, "yolo", tmp_path, "--segmentation", "none", "--image-files", "link")
    detections = read(reader, tmp_path, real.images)
    assert len(detections) == len(real.expected)
    same([{**detection, "mask": None} for detection in detections], real, scores=False)


@pytest.mark.parametrize("reader", [ULTRALYTICS_SEGMENTS, "supervision-yolo"])
def test_yolo_segments_are_the_masks(real: Real, tmp_path: Path, reader: str) -> None:
    if not real.masks:
        pytest.skip("this detector has no masks")
    export(real, "yolo", tmp_path, "--image-files", "link", "--polygon-tolerance", "0")
    detections = read(reader, tmp_path, real.images)
    same_kind(detections, real.expected)
    by_image: dict[str, list[dict[str, Any]]] = {}
    for detection in detections:
        by_image.setdefault(detection["image"], []).append(detection)
    overlaps = []
    for wanted in real.expected:
        got = by_image[wanted["image"]].pop(0)
        mine, read_mask = (rle.decode(counts, *wanted["size"]) for counts in (wanted["mask"], got["mask"]))
        overlaps.append((mine & read_mask).sum() / (mine | read_mask).sum())
    # They fill the corners' own pixels too: a rim of a pixel on two sides.
    assert np.median(overlaps) > 0.9


@pytest.mark.parametrize(
    ("reader", "coordinates", "within"),
    [("datumaro-voc", "zero", 0.011), ("datumaro-voc-one", "one", 1.0), ("supervision-voc", "one", 1.0)],
)
def test_voc_boxes_are_read(real: Real, tmp_path: Path, reader: str, coordinates: str, within: float) -> None:
    # Datumaro refuses links that lead out of the dataset.
    export(real, "voc", tmp_path, "--image-files", "copy", "--coordinates", coordinates)
    detections = read(reader, tmp_path, real.images)
    assert len(detections) == len(real.expected)
    same(
        [{**detection, "mask": None} for detection in detections],
        real,
        boxes=within + 1e-3,
        scores=reader.startswith("datumaro"),
    )
