from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prelabel.detections import Detections
from tests.networks.comparison import Comparison, assert_same, pair_detections

BOXES = [[10, 10, 50, 90], [20, 15, 60, 95], [100, 0, 200, 40]]
MINE = Detections(
    height=100,
    width=200,
    xyxy=np.array(BOXES, np.float32),
    category_id=np.array([1, 1, 2], np.int32),
    score=np.array([0.9, 0.8, 0.7], np.float32),
    label=np.array(["a", "a", "b"], object),
    mid=np.array(["", "", ""], object),
    keypoints=np.array([[[10, 20, 0.5]], [[30, 40, 0]], [[150, 20, 1]]], np.float32),
)
THEIRS: dict[str, Any] = {
    "xyxy": [[100, -7, 230, 40], BOXES[1], BOXES[0], [300, 0, 400, 10], [0, 0, 9, 9]],
    "score": [0.7, 0.8, 0.8995, 0.6, 0.01],
    "category_id": [2, 1, 1, 1, 1],
    "keypoints": [[[150, 20, 1]], [[0, 0, 0]], [[10, 22, 0.5]], [[0, 0, 0]], [[0, 0, 0]]],
}
SAME = Comparison("L 1", "a family", "--detector FOLDER", 1, 30, 30, 0.999, 1e-5, (), (), 0.97, 0.98)


def test_detections_are_paired_by_class_and_overlap_within_the_photo_and_above_the_threshold() -> None:
    pairs = pair_detections("a.png", MINE, THEIRS, 0.05)
    assert sorted(pairs.iou.round(4)) == [1, 1, 1]
    assert max(pairs.score_difference) == pytest.approx(0.0005, abs=1e-6)
    assert pairs.distance is not None
    assert sorted(pairs.distance) == pytest.approx([0, 2 / 200])
    assert (pairs.missed, pairs.added) == ((), ())


@pytest.mark.parametrize(("key", "value"), [("category_id", [3, 1, 1, 1, 1]), ("score", [0.1, 0.8, 0.8995, 0.6, 0.01])])
def test_another_class_or_score_leaves_both_detections_alone(key: str, value: list[float]) -> None:
    pairs = pair_detections("a.png", MINE, {**THEIRS, key: value}, 0.05)
    assert (len(pairs.iou), len(pairs.missed), len(pairs.added)) == (2, 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"missed": ("a.png class 1 0.9",)},
        {"added": ("a.png class 1 0.9",)},
        {"fewest": 19},
        {"smallest_iou": 0.98},
        {"score_difference": 0.002},
        {"smallest_mask_iou": 0.5},
        {"mean_mask_iou": 0.5},
        {"point_distance": 0.01},
    ],
)
def test_each_difference_fails(change: dict[str, Any]) -> None:
    assert_same(SAME)
    with pytest.raises(AssertionError):
        assert_same(replace(SAME, **change))
