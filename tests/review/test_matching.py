"""COCO's greedy matching: small cases, and random boxes compared with COCOeval."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.review import matching
from prelabel.review.gather import ImageDetections, ImagePair
from prelabel.review.matching import IGNORED, WRONG, match, outcomes, overlaps
from prelabel.review.truth import TruthObject

NO_CROWD = np.zeros(2, bool)


def test_iou_of_boxes_counts_the_common_area_once():
    detections = np.array([[0, 0, 4, 4]])
    objects = np.array([[0, 0, 4, 4], [2, 0, 4, 4], [4, 0, 4, 4]])
    assert overlaps(detections, objects, np.zeros(3, bool)).tolist() == [[1.0, 8 / 24, 0.0]]


def test_overlap_with_a_crowd_region_is_the_share_of_the_detection():
    assert overlaps(np.array([[0, 0, 4, 4]]), np.array([[2, 0, 100, 100]]), np.array([True])).tolist() == [[0.5]]


def test_two_boxes_without_area_do_not_overlap():
    assert overlaps(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 0]]), np.array([False])).tolist() == [[0.0]]


def test_the_second_detection_of_one_object_is_wrong():
    assert match(np.array([[0.9], [1.0]]), np.zeros(1, bool), 0.5).tolist() == [0, WRONG]


def test_a_detection_with_a_higher_score_chooses_first_and_takes_the_largest_overlap():
    assert match(np.array([[0.6, 0.8], [0.1, 0.9]]), NO_CROWD, 0.5).tolist() == [1, WRONG]
    assert match(np.array([[0.6, 0.8], [0.7, 0.9]]), NO_CROWD, 0.5).tolist() == [1, 0]


def test_of_equal_overlaps_the_last_object_is_taken():
    assert match(np.array([[0.8, 0.8]]), NO_CROWD, 0.5).tolist() == [1]


def test_overlap_of_exactly_the_threshold_is_enough():
    assert match(np.array([[0.5]]), np.zeros(1, bool), 0.5).tolist() == [0]
    assert match(np.array([[0.4999]]), np.zeros(1, bool), 0.5).tolist() == [WRONG]
    assert match(np.array([[1.0]]), np.zeros(1, bool), 1.0).tolist() == [0]


def test_a_box_is_right_at_iou_1_although_its_sides_are_rounded():
    box = np.array([[0.1, 0.2, 0.3, 0.7]])
    iou = overlaps(box, np.array([[0.1, 0.2, 0.30000000000001, 0.7]]), np.zeros(1, bool))
    assert iou[0, 0] < 1
    assert match(iou, np.zeros(1, bool), 1.0).tolist() == [0]


def test_any_number_of_detections_in_a_crowd_region_is_ignored():
    assert match(np.array([[0.9], [0.8], [0.3]]), np.array([True]), 0.5).tolist() == [IGNORED, IGNORED, WRONG]


def test_an_object_wins_over_a_crowd_region_that_overlaps_more():
    iou = np.array([[0.6, 1.0], [0.6, 1.0]])
    assert match(iou, np.array([False, True]), 0.5).tolist() == [0, IGNORED]


def test_matching_without_objects_or_detections():
    assert match(np.zeros((0, 3)), np.zeros(3, bool), 0.5).tolist() == []
    assert match(np.zeros((2, 0)), np.zeros(0, bool), 0.5).tolist() == [WRONG, WRONG]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("seed", range(30))
def test_random_boxes_match_as_in_cocoeval(seed: int):
    random = np.random.default_rng(seed)
    # Few positions and sizes, so that equal overlaps and duplicates are common.
    objects = np.concatenate([random.integers(0, 6, (8, 2)), random.integers(3, 9, (8, 2))], axis=1) * 2.0
    detections = np.concatenate([random.integers(0, 6, (20, 2)), random.integers(3, 9, (20, 2))], axis=1) * 2.0
    crowd = random.random(8) < 0.25
    iou = random.choice([0.3, 0.5, 0.75])
    score = np.sort(random.random(20))[::-1]
    matches = match(overlaps(detections, objects, crowd), crowd, iou)

    truth, results = COCO(), COCO()
    base = {"images": [{"id": 1}], "categories": [{"id": 1}]}
    truth.dataset = {
        **base,
        "annotations": [_entry(n, b, iscrowd=int(c)) for n, (b, c) in enumerate(zip(objects, crowd, strict=True))],
    }
    results.dataset = {
        **base,
        "annotations": [_entry(n, b, score=s) for n, (b, s) in enumerate(zip(detections, score, strict=True))],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
    seen = evaluation.evalImgs[0]
    by_pycocotools = np.where(seen["dtIgnore"][0], IGNORED, seen["dtMatches"][0].astype(int) - 1)
    assert matches.tolist() == by_pycocotools.tolist()


@pytest.mark.parametrize("most_pairs", [1, 2, 7, 100_000])
@pytest.mark.parametrize("seed", range(5))
def test_many_images_match_as_each_class_of_each_image_alone(
    seed: int, most_pairs: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(matching, "_MAX_PAIRS", most_pairs)
    random = np.random.default_rng(seed)
    pairs = [_pair(random, *counts) for counts in [(9, 6), (0, 4), (5, 0), (12, 8), (0, 0), (1, 1)]]
    seen = outcomes(pairs, 0.4)
    targets: list[int] = []
    before = 0
    for pair in pairs:
        crowd = np.array([annotation.crowd for annotation in pair.objects], bool)
        target = np.full(len(pair.detections.score), WRONG)
        for category in (1, 2, 3):
            in_run = np.flatnonzero(pair.detections.category == category)
            in_truth = np.array([n for n, o in enumerate(pair.objects) if o.category_id == category], int)
            boxes = np.array([pair.objects[n].bbox for n in in_truth]).reshape(-1, 4)
            matches = match(overlaps(pair.detections.xywh[in_run], boxes, crowd[in_truth]), crowd[in_truth], 0.4)
            numbers = np.append(before + (np.cumsum(~crowd) - 1)[in_truth], 0)
            target[in_run] = np.where(matches >= 0, numbers[np.maximum(matches, -1)], matches)
        targets += target.tolist()
        before += int((~crowd).sum())
    assert seen.target.tolist() == targets
    assert {WRONG, IGNORED} < set(targets)
    assert len(seen.object_category) == before == len(seen.object_image) == len(seen.object_xywh)


def _pair(random: np.random.Generator, detections: int, objects: int) -> ImagePair:
    """An image with few positions, sizes and classes, so that equal overlaps are common."""

    def boxes(count: int) -> np.ndarray:
        return np.concatenate([random.integers(0, 4, (count, 2)), random.integers(3, 7, (count, 2))], axis=1) * 2.0

    return ImagePair(
        file_name="a.jpg",
        height=40,
        width=40,
        objects=tuple(
            TruthObject(int(random.integers(1, 4)), tuple(box), bool(random.random() < 0.3), None, None)
            for box in boxes(objects).tolist()
        ),
        detections=ImageDetections(
            random.integers(1, 4, detections),
            boxes(detections),
            np.sort(random.random(detections).astype(np.float32))[::-1],
            (None,) * detections,
            np.ones(detections, bool),
        ),
    )


def _entry(number: int, bbox: np.ndarray, **more: object) -> dict[str, object]:
    area = float(bbox[2] * bbox[3])
    return {
        "id": number + 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": bbox.tolist(),
        "area": area,
        "iscrowd": 0,
        **more,
    }
