"""Ultralytics' own `predict` on its exported SavedModels, compared with prelabel on the same ones.

Some differences are meant. `predict` drops boxes whose mask is empty, which prelabel keeps, and moves keypoints outside
of the photo to its edge. If the gray beside an image does not take whole prototypes, `predict` enlarges them two or
four times, cuts the gray off and interpolates again (`process_mask_native`), which smooths details as small as a
prototype; prelabel interpolates once. On prototypes enlarged in the same way, both agree (mean IoU of 0.9994 or more).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prelabel.masks.rle import area
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.networks.comparison import assert_same, compare, make_network, pair_detections

THRESHOLD = 0.1

NETWORKS = {
    "detect": ("yolo11n.yaml", "640", "{}"),
    "pose": ("yolo11n-pose.yaml", "416x320", "{}"),
    "without suppression": ("yolo26n.yaml", "320", '{"nms": false}'),
    "with suppression in the network": ("yolo11n.yaml", "320", '{"nms": true, "conf": 0.2}'),
}


def make(photos: list[Path], folder: Path, *arguments: str) -> Path:
    return make_network("ultralytics", "make_ultralytics.py", folder, photos, *arguments)


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_and_keypoints_are_those_of_predict(name: str, photos: list[Path], tmp_path: Path) -> None:
    # One of the boxes below is a thousandth of a pixel high.
    threshold = 0.25 if name == "pose" else THRESHOLD
    assert_same(compare(make(photos, tmp_path, *NETWORKS[name]), photos, threshold=threshold))


def test_masks_are_those_of_predict(photos: list[Path], tmp_path: Path) -> None:
    folder = make(photos, tmp_path, "yolo11n-seg.yaml", "320x416", "{}")
    comparison = compare(folder, photos, threshold=THRESHOLD)
    predicted = json.loads((folder / "predictions.json").read_text())["images"]
    without_mask, by_size = 0, {}
    for row in open_run(str(folder / "run"), Storage()).rows():
        detections = row.detections
        assert detections is not None
        assert detections.mask is not None
        without_mask += sum(area(mask, detections.height, detections.width) == 0 for mask in detections.mask)
        iou = pair_detections(row.file_name, detections, predicted[row.file_name], THRESHOLD).mask_iou
        assert iou is not None
        by_size.setdefault((detections.width, detections.height), []).extend(iou)
    assert len(comparison.added) == without_mask
    assert_same(replace(comparison, added=()), min_mask_iou=0)
    mean = {size: float(np.mean(iou)) for size, iou in by_size.items()}
    # Their gray takes whole prototypes: both interpolate once.
    assert min(mean.pop((640, 480)), mean.pop((500, 375))) >= 0.995
    assert min(mean.values()) >= 0.85


def test_probabilities_of_classes_are_those_of_predict(photos: list[Path], tmp_path: Path) -> None:
    folder = make(photos, tmp_path, "yolo11n-cls.yaml", "224", "{}")
    predicted = json.loads((folder / "predictions.json").read_text())["images"]
    command = [sys.executable, "-m", "prelabel", "label", photos[0].parent, "--detector", folder / "model"]
    options = ["--top-k", "1000", "--workers", "1", "--output", folder / "run", "--quiet"]
    subprocess.run([*command, *options], check=True, timeout=600)
    rows = list(open_run(str(folder / "run"), Storage()).rows())
    assert len(rows) == len(predicted) == len(photos)
    for row in rows:
        theirs = predicted[row.file_name]["probabilities"]
        assert row.image_labels is not None
        assert len(row.image_labels) == len(theirs) == 1000
        for label in row.image_labels:
            assert label.score == pytest.approx(theirs[label.category_id], abs=1e-4)
