"""Which boxes are dropped because of others that overlap them."""

from __future__ import annotations

import numpy as np
import pytest

from prelabel.overlaps import keep_most_specific, suppress


def suppressed(boxes: np.ndarray, iou: float) -> list[int]:
    return suppress(boxes, iou, np.zeros(len(boxes), np.intp)).tolist()


def most_specific(boxes: np.ndarray, iou: float, number: object, below: np.ndarray) -> list[int]:
    return keep_most_specific(boxes, iou, np.array(number, np.intp), below, np.zeros(len(boxes), np.intp)).tolist()


def test_nms_drops_only_above_the_limit() -> None:
    # Two boxes of area 10 that share 5: IoU = 5 / 15.
    boxes = np.array([[0, 0, 2, 5], [1, 0, 3, 5]], np.float64)
    assert suppressed(boxes, 1 / 3) == [0, 1]
    assert suppressed(boxes, 0.33) == [0]


def test_nms_is_greedy_a_dropped_box_drops_nothing() -> None:
    boxes = np.array([[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]], np.float64)
    assert suppressed(boxes, 0.4) == [0, 2]


def test_boxes_without_area_or_overlap_survive_nms() -> None:
    boxes = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [5, 5, 6, 6], [6, 5, 7, 6]], np.float64)
    assert suppressed(boxes, 0.0) == [0, 1, 2, 3]
    assert suppressed(np.empty((0, 4)), 0.5) == []


def test_boxes_of_other_groups_and_images_drop_nothing() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]], np.float64)
    assert suppress(boxes, 0.5, np.array([7, 1 << 40, 7])).tolist() == [0, 1]
    kept = keep_most_specific(boxes, 0.5, np.array([0, 1, 0]), BELOW, np.array([4, 4, 9]))
    assert kept.tolist() == [1, 2]


@pytest.mark.parametrize("wrong", [[0, 0, np.nan, 10], [0, 0, np.inf, 10], [0, 0, 1e38, 1e38], [10, 10, 0, 0]])
def test_corrupt_boxes_drop_nothing_and_are_kept(wrong: list[float]) -> None:
    boxes = np.array([wrong, [0, 0, 10, 10], wrong, [0, 0, 10, 9]], np.float64)
    assert suppressed(boxes, 0.5) == [0, 1, 2]
    assert most_specific(boxes, 0.5, [1, 0, 0, 1], BELOW) == [0, 2, 3]


#: Classes 0 Person, 1 Man (below Person), 2 Car.
BELOW = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ([0, 1], [1]),
        ([1, 0], [0]),
        ([0, 0], [0, 1]),
        ([1, 1], [0, 1]),
        ([0, 2], [0, 1]),
        ([1, 2], [0, 1]),
    ],
)
def test_only_the_more_general_of_two_classes_on_one_path_is_dropped(number: list[int], kept: list[int]) -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], np.float64)
    assert most_specific(boxes, 0.5, number, BELOW) == kept


def test_a_general_box_is_dropped_only_above_the_limit() -> None:
    boxes = np.array([[0, 0, 2, 5], [1, 0, 3, 5]], np.float64)
    assert most_specific(boxes, 1 / 3, [0, 1], BELOW) == [0, 1]
    assert most_specific(boxes, 0.33, [0, 1], BELOW) == [1]


def test_a_box_that_is_dropped_itself_still_drops_more_general_ones() -> None:
    # Each of three boxes overlaps its neighbor by 6 of 14; the first and the last overlap by 2 of 18.
    boxes = np.array([[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]], np.float64)
    below = np.tril(np.ones((3, 3), bool), -1)
    assert most_specific(boxes, 0.4, [0, 1, 2], below) == [2]
    assert most_specific(boxes, 0.4, [2, 0, 1], below) == [0, 2]


def test_boxes_without_area_are_of_no_object() -> None:
    assert most_specific(np.zeros((2, 4)), 0.1, [0, 1], BELOW) == [0, 1]
    assert most_specific(np.empty((0, 4)), 0.5, [], BELOW) == []


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    return float(width * height / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - width * height))


@pytest.mark.parametrize("limit", [5e-324, 0.1, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("block", [20, 1024])
def test_many_boxes_of_several_images_are_suppressed_as_in_a_plain_loop(
    limit: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelabel.overlaps._FIRST", block)
    monkeypatch.setattr("prelabel.overlaps._MOST", 2 * block)
    random = np.random.default_rng(8)
    corner = random.uniform(0, 20, (150, 2))
    boxes = np.hstack((corner, corner + random.uniform(1, 12, (150, 2))))
    boxes[100:110] = boxes[:10]
    group = random.integers(0, 3, 150)
    kept: list[int] = []
    for i in range(150):
        if not any(group[k] == group[i] and iou_of(boxes[k], boxes[i]) > limit for k in kept):
            kept.append(i)
    assert suppress(boxes, limit, group).tolist() == kept
    assert suppress(boxes, limit, group, most=7).tolist() == kept[:7]
    assert suppress(boxes, limit, group, most=len(kept) + 1).tolist() == kept
    assert (len(kept) < 150) == (limit < 1)


def test_many_boxes_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelabel.merging.neighbors._CANDIDATES", 300)
    random = np.random.default_rng(7)
    corner = random.uniform(0, 20, (150, 2))
    boxes = np.hstack((corner, corner + random.uniform(1, 12, (150, 2))))
    number = random.integers(0, 5, 150)
    below = np.zeros((5, 5), bool)
    below[[1, 2, 2, 3], [0, 0, 1, 0]] = True

    specific = [(boxes[i], below[number[i]]) for i in range(150)]
    kept = [
        i for i in range(150) if not any(above[number[i]] and iou_of(boxes[i], box) > 0.4 for box, above in specific)
    ]
    assert most_specific(boxes, 0.4, number, below) == kept
    assert 0 < len(kept) < 150
