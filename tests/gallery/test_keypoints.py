"""Keypoints in the preview: the data of the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from prelabel.keypoints import KeypointSet
from tests.gallery.galleries import OPEN_INFO, photo, preview
from tests.rows import found

INFO = replace(OPEN_INFO, keypoints=KeypointSet.named(["nose", "left_eye", "right_eye"], edges=((0, 1), (0, 2))))
#: A nose, an eye below the threshold, and an eye outside the image.
POINTS = [(15, 10.26, 0.9), (20, 8, 0.2), (-4, 8, 0.9)]


def data_of(folder: Path, **options: Any) -> dict[str, Any]:
    preview([photo(folder, "a.jpg", found(xyxy=(0, 0, 30, 40), keypoints=POINTS))], folder / "out", INFO, **options)
    page = (folder / "out" / "index.html").read_text()
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(text)
    return data


def test_the_page_has_the_points_that_are_shown_and_the_skeleton(tmp_path: Path):
    data = data_of(tmp_path)
    assert data["keypoints"] == {"edges": [[0, 1], [0, 2]]}
    assert data["cards"][0]["detections"] == [[0, 0.9, 0.0, 0.0, 30.0, 40.0, "", [[0, 15.0, 10.3]]]]


def test_the_threshold_decides_which_points_are_shown(tmp_path: Path):
    data = data_of(tmp_path, keypoint_threshold=0.1)
    assert data["cards"][0]["detections"][0][7] == [[0, 15.0, 10.3], [1, 20.0, 8.0]]
    data = data_of(tmp_path, keypoint_threshold=0.95)
    assert len(data["cards"][0]["detections"][0]) == 7


def test_keypoints_can_be_left_out(tmp_path: Path):
    data = data_of(tmp_path, keypoints=False)
    assert "keypoints" not in data
    assert len(data["cards"][0]["detections"][0]) == 7
