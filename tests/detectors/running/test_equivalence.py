"""What counts as the same answer, on literal answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prelabel.detections import Detections, ImageLabel
from prelabel.detectors.base import DetectionResult
from prelabel.detectors.running.equivalence import ResultPair, difference, lenient_options
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.masks import rle
from prelabel.select import Selection

BOX = [10.0, 10, 50, 90]


def found(*rows: tuple[list[float], int, float], masks: list[Any] | None = None) -> DetectionResult:
    return DetectionResult(
        Detections(
            height=100,
            width=100,
            xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
            category_id=[row[1] for row in rows],
            score=[row[2] for row in rows],
            label=["dog"] * len(rows),
            mid=[""] * len(rows),
            mask=None if masks is None else [rle.encode(mask) for mask in masks],
        )
    )


def answer(*rows: tuple[list[float], int, float], threshold: float = 0.3, **more: Any) -> ResultPair:
    """What a run with that threshold keeps of the rows, and all of them."""
    return ResultPair(found(*(row for row in rows if row[2] >= threshold), **more), found(*rows, **more))


def test_equal_results_have_no_difference() -> None:
    assert difference(answer((BOX, 1, 0.5)), answer((BOX, 1, 0.5))) == ""
    assert difference(answer(), answer()) == ""


@pytest.mark.parametrize(
    "other",
    [
        (BOX, 1, 0.519),  # the score may differ by 0.02
        ([10.0, 10, 50, 86.5], 1, 0.5),  # 76.5 of 80 pixels overlap
    ],
)
def test_small_changes_are_equivalent(other: tuple[list[float], int, float]) -> None:
    assert difference(answer((BOX, 1, 0.5)), answer(other)) == ""


def with_keypoints(*points: tuple[float, float, float]) -> ResultPair:
    result = found((BOX, 1, 0.5))
    result = replace(result, detections=replace(result.detections, keypoints=[points]))
    return ResultPair(result, result)


@pytest.mark.parametrize(
    ("points", "is_same"),
    [
        ([(20.5, 20, 0.9), (30, 30, 0.05)], True),  # the size of the box is 56 pixels
        ([(20.7, 20, 0.9), (30, 30, 0.05)], False),
        ([(20, 20, 0.87), (30, 30, 0.05)], False),  # another score
        ([(20, 20, 0.9), (80, 80, 0.05)], True),  # a guess
        ([(20, 20, 0.9), (0, 0, 0)], False),
    ],
)
def test_keypoints_count(points: list[tuple[float, float, float]], is_same: bool) -> None:
    first = with_keypoints((20, 20, 0.9), (30, 30, 0.05))
    assert (difference(first, with_keypoints(*points)) == "") is is_same
    assert difference(first, answer((BOX, 1, 0.5))) != ""


@pytest.mark.parametrize(
    "other",
    [
        (BOX, 1, 0.53),
        (BOX, 2, 0.5),  # another class
        ([10.0, 10, 50, 85], 1, 0.5),  # 75 of 80 pixels overlap
    ],
)
def test_changes_are_found_in_both_directions(other: tuple[list[float], int, float]) -> None:
    assert "is not found" in difference(answer((BOX, 1, 0.5)), answer(other))
    assert difference(answer(other), answer((BOX, 1, 0.5)))


def test_lost_and_new_detections_are_named() -> None:
    single, two = answer((BOX, 1, 0.5)), answer((BOX, 1, 0.5), ([60.0, 60, 90, 90], 1, 0.4))
    assert difference(two, single) == "dog 0.40 at [60, 60, 90, 90] is not found"
    assert difference(single, two) == "dog 0.40 at [60, 60, 90, 90] is new"


def test_a_score_may_cross_the_threshold_by_little() -> None:
    assert difference(answer((BOX, 1, 0.301)), answer((BOX, 1, 0.299))) == ""
    assert difference(answer((BOX, 1, 0.299)), answer((BOX, 1, 0.301))) == ""


def test_two_detections_have_two_counterparts() -> None:
    assert "is new" in difference(answer((BOX, 1, 0.5)), answer((BOX, 1, 0.5), (BOX, 1, 0.5)))


@pytest.mark.parametrize(("rows", "same"), [(80, True), (77, True), (75, False), (40, False)])
def test_masks_are_compared_like_boxes(rows: int, same: bool) -> None:
    whole, part = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    whole[10:90, 10:50] = part[10 : 10 + rows, 10:50] = True
    first, other = (answer((BOX, 1, 0.5), masks=[mask]) for mask in (whole, part))
    assert (difference(first, other) == "") == same
    assert (difference(other, first) == "") == same


def labels(*scores: tuple[int, float]) -> DetectionResult:
    return DetectionResult(
        Detections.empty(4, 4), tuple(ImageLabel(number, str(number), "", score) for number, score in scores)
    )


def test_labels_of_a_classifier() -> None:
    pair = ResultPair(labels((1, 0.6), (2, 0.1)), labels((1, 0.6), (2, 0.1), (3, 0.09)))
    swapped = ResultPair(labels((1, 0.61), (3, 0.1)), labels((1, 0.61), (3, 0.1), (2, 0.09)))
    assert difference(pair, swapped) == ""
    assert difference(pair, ResultPair(labels((1, 0.57)), labels((1, 0.57), (2, 0.1), (3, 0.09)))) != ""


def test_lenient_options_keep_detections_just_below_a_threshold() -> None:
    options = DetectorOptions(
        selection=Selection(score_threshold=0.01, class_threshold={"Dog": 0.5}, max_detections=3, nms_iou=0.5)
    )
    selection = lenient_options(options).selection
    assert selection.score_threshold == 0
    assert selection.class_threshold == {"Dog": pytest.approx(0.48)}
    assert selection.max_detections is None
    assert selection.nms_iou == 0.5
