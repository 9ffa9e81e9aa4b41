"""CenterNet of the TF Object Detection API, with keypoints, saved by its own export."""

from __future__ import annotations

from pathlib import Path

from tests.networks.comparison import assert_same, compare, make_network


def test_boxes_and_keypoints_are_those_of_its_evaluation(photos: list[Path], tmp_path: Path) -> None:
    make_network("tf-models", "make_object_detection.py", tmp_path, photos)
    assert_same(compare(tmp_path, photos))
