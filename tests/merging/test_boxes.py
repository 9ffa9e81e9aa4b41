"""Merging boxes: fusion, suppression and merging, compared with their definition and with recorded results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelabel.merging import boxes as boxes_module
from prelabel.merging import neighbors as neighbors_module
from prelabel.merging.boxes import METHODS, MergedBoxes, Method, merge_boxes
from prelabel.merging.neighbors import Neighbors, Reach, overlap_reach, shared_reach
from tests.merging import reference

RECORDED = json.loads((Path(__file__).parent / "data" / "recorded.json").read_text())


def merged(
    xyxy: Sequence[Sequence[float]],
    score: Sequence[float],
    *,
    group: Sequence[int] | None = None,
    source: Sequence[int] | None = None,
    weights: Sequence[float] = (1,),
    method: Method = "wbf",
    iou: float = 0.5,
) -> MergedBoxes:
    zeros = np.zeros(len(xyxy), np.int64)
    return merge_boxes(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array(score),
        zeros if group is None else np.array(group),
        zeros if source is None else np.array(source),
        weights,
        method=method,
        iou=iou,
    )


def members(result: MergedBoxes) -> list[list[int]]:
    return [result.member[a:b].tolist() for a, b in itertools.pairwise(result.bounds)]


def crowd(seed: int, number: int, side: int, *, classes: int = 2, views: int = 3) -> tuple[np.ndarray, ...]:
    """Boxes of objects that several views saw, each at a slightly different place."""
    random = np.random.default_rng(seed)
    size = random.uniform(8, 60, (number // views, 2))
    corner = random.uniform(0, 1, size.shape) * (side - size)
    boxes = np.repeat(np.concatenate((corner, corner + size), axis=1), views, axis=0)
    boxes += random.normal(0, 0.08, boxes.shape) * np.tile(np.repeat(size, views, axis=0), 2)
    boxes = np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])), axis=1)
    group = np.repeat(random.integers(0, classes, len(size)), views)
    return boxes, random.uniform(0.01, 1, len(boxes)), group, np.tile(np.arange(views), len(size))


def test_a_fused_box_is_the_mean_weighted_by_score_and_weight():
    # Strengths 0.8 and 0.4 * 2: both count the same.
    result = merged([[0, 0, 10, 10], [2, 0, 12, 10]], [0.8, 0.4], source=[0, 1], weights=[1, 2])
    assert result.xyxy.tolist() == [[1, 0, 11, 10]]
    assert result.score == pytest.approx([(0.8 + 2 * 0.4) / 3])
    # Strengths 0.9 and 0.3: three quarters of the way to the first.
    result = merged([[0, 0, 10, 10], [2, 0, 12, 10]], [0.9, 0.3], source=[0, 1], weights=[1, 1])
    assert result.xyxy == pytest.approx(np.array([[0.5, 0, 10.5, 10]]))
    assert (result.best.tolist(), result.member.tolist()) == ([0], [0, 1])


def test_a_source_contributes_its_best_score_once():
    result = merged([[0, 0, 10, 10]] * 3, [0.8, 0.6, 0.4], source=[0, 0, 1], weights=[2, 1, 1])
    assert result.score == pytest.approx([(2 * 0.8 + 0.4) / 4])


def test_only_sources_that_could_see_a_box_count_for_its_score():
    """The third source knows only the second group, so the first is divided by 2 + 1, and the second by 2 + 1 + 3."""
    arguments: dict[str, Any] = {"method": "wbf", "iou": 0.5}
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 0, 60, 10]], np.float32)
    score, group, source = np.array([0.9, 0.6, 0.6]), np.array([0, 0, 1]), np.array([0, 1, 0])
    electorate = np.array([3.0, 3.0, 6.0])
    result = merge_boxes(boxes, score, group, source, [2, 1, 3], electorate=electorate, **arguments)
    assert result.score == pytest.approx([(2 * 0.9 + 0.6) / 3, 2 * 0.6 / 6])
    whole = merge_boxes(boxes, score, group, source, [2, 1, 3], **arguments)
    assert whole.score == pytest.approx([(2 * 0.9 + 0.6) / 6, 2 * 0.6 / 6])
    with pytest.raises(ValueError, match="electorate"):
        merge_boxes(boxes, score, group, source, [2, 1, 3], electorate=electorate[:2], **arguments)


def test_a_box_joins_the_cluster_that_overlaps_it_most_so_far():
    # The third box overlaps the first two with 0.6 and 0.54. The fourth overlaps the first by 0.48, and only its
    # fused box, moved by the third, by more than the threshold.
    boxes = [[0, 0, 10, 10], [5.5, 0, 15.5, 10], [2.5, 0, 12.5, 10], [3.5, 0, 13.5, 10]]
    assert members(merged(boxes[::2], [0.9, 0.8], iou=0.5)) == [[0, 1]]
    assert members(merged(boxes[::3], [0.9, 0.7], iou=0.5)) == [[0], [1]]
    assert members(merged([boxes[0], *boxes[2:]], [0.9, 0.8, 0.7], iou=0.5)) == [[0, 1, 2]]
    assert members(merged(boxes[:3], [0.9, 0.85, 0.8], iou=0.5)) == [[0, 2], [1]]


def test_overlap_must_exceed_the_threshold():
    half = [[0, 0, 10, 10], [0, 0, 10, 5]]
    for method in METHODS:
        assert len(merged(half, [0.9, 0.8], method=method, iou=0.5).score) == 2
        assert len(merged(half, [0.9, 0.8], method=method, iou=0.49).score) == 1


def test_suppression_keeps_the_strongest_box_and_its_score():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]]
    result = merged(boxes, [0.6, 0.9, 0.95], method="nms")
    assert result.xyxy.tolist() == [[50, 0, 60, 10], [1, 0, 11, 10]]
    assert result.score.tolist() == [0.95, 0.9]
    assert members(result) == [[2], [1, 0]]


def test_a_suppressed_box_suppresses_nothing():
    boxes = [[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]
    assert members(merged(boxes, [0.9, 0.8, 0.7], method="nms", iou=0.5)) == [[0, 1], [2]]


def test_merging_covers_all_members_and_keeps_the_best_score():
    result = merged([[0, 0, 10, 10], [1, 1, 11, 10], [2, 0, 10, 12]], [0.6, 0.9, 0.5], method="nmm")
    assert result.xyxy.tolist() == [[0, 0, 11, 12]]
    assert (result.score.tolist(), result.best.tolist()) == ([0.9], [1])


@pytest.mark.parametrize("method", METHODS)
def test_boxes_of_different_groups_never_meet(method: Method):
    assert len(merged([[0, 0, 10, 10]] * 2, [0.9, 0.8], group=[-7, 600], method=method).score) == 2


@pytest.mark.parametrize("method", METHODS)
def test_no_boxes_and_boxes_without_area_or_score(method: Method):
    empty = merged([], [], method=method)
    assert (empty.xyxy.shape, empty.score.shape, empty.bounds.tolist()) == ((0, 4), (0,), [0])
    assert members(merged([[5, 5, 5, 9]] * 2, [0.9, 0.8], method=method)) == [[0], [1]]
    result = merged([[0, 0, 10, 10], [2, 0, 12, 10]], [0, 0], source=[0, 1], weights=[1, 1], method=method)
    assert result.score.tolist() == [0]
    assert np.isfinite(result.xyxy).all()


def test_invalid_arguments_are_refused():
    box = np.array([[0.0, 0, 1, 1]])
    good: dict[str, Any] = {"xyxy": box, "score": [0.5], "group": [0], "source": [0], "weights": [1.0]}
    for name, value in {
        "xyxy": np.array([[2.0, 0, 1, 1]]),
        "score": [1.5],
        "group": [0, 1],
        "source": [1],
        "weights": [0.0],
        "method": "soft",
        "iou": 1.0,
    }.items():
        arguments = {**good, "method": "wbf", "iou": 0.5, name: value}
        with pytest.raises(ValueError, match=name):
            merge_boxes(**{key: np.array(item) if isinstance(item, list) else item for key, item in arguments.items()})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", [7, 256])
def test_crowds_are_merged_as_defined(method: Method, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(boxes_module, "_LEAST_BLOCK", block)
    monkeypatch.setattr(boxes_module, "_MOST_BLOCK", block)
    for limit in ("_STRIPS", "_CANDIDATES", "_COMPARED"):
        monkeypatch.setattr(neighbors_module, limit, block * 4)
    weights = [2.0, 2.0, 1.0]
    for seed, threshold in enumerate((0.05, 0.2, 0.35, 0.5, 0.55, 0.7, 0.9)):
        arrays = crowd(seed, 90, 130)
        expected = reference.clusters(*arrays, weights, method=method, threshold=threshold)
        result = merge_boxes(*arrays, weights, method=method, iou=threshold)
        assert sorted(members(result)) == sorted(cluster for cluster, _ in expected)
        by_first = {cluster[0]: (cluster, box) for cluster, box in expected}
        for best, box, score in zip(result.best.tolist(), result.xyxy, result.score, strict=True):
            assert box == pytest.approx(by_first[best][1])
            fused = reference.fused_score(by_first[best][0], arrays[1], arrays[3], weights)
            assert score == pytest.approx(fused if method == "wbf" else arrays[1][best])


def test_a_cluster_that_has_moved_away_from_its_first_box_is_found(monkeypatch: pytest.MonkeyPatch):
    """Each box overlaps the fused box just enough, until boxes are too far from the first to be its neighbors."""
    monkeypatch.setattr(boxes_module, "_LEAST_BLOCK", 1)
    monkeypatch.setattr(boxes_module, "_MOST_BLOCK", 1)
    score = np.linspace(0.9, 0.7, 12)
    left = [0.0]
    for number in range(1, 12):
        left.append(np.average(left, weights=score[:number]) + 110)
    xyxy = np.array([[x, 0, x + 1000, 500] for x in left])
    zeros = np.zeros(12, np.int64)
    result = merge_boxes(xyxy, score, zeros, zeros, [1], method="wbf", iou=0.8)
    assert reference.iou(xyxy[0], xyxy[-1]) < 2 * 0.8 - 1
    assert members(result) == [list(range(12))]


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.4, 0.5, 0.55, 0.8])
def test_boxes_that_a_third_can_overlap_are_neighbors(threshold: float):
    random = np.random.default_rng(3)
    third = np.array([500.0, 400, 600, 460])
    near = [third]
    # Boxes at the limit on each side, on one axis: shorter, longer, moved to either side.
    for length in (threshold + 0.01, 1 / (threshold + 0.01)):
        for begin in (0, 1 - length):
            near.append(np.array([500 + 100 * begin, 400, 500 + 100 * (begin + length), 460]))
            near.append(np.array([500, 400 + 60 * begin, 600, 400 + 60 * (begin + length)]))
    while len(near) < 40:
        candidate = third + random.normal(0, 60 * (1 - threshold), 4)
        if (candidate[:2] < candidate[2:]).all() and reference.iou(candidate, third) > threshold:
            near.append(candidate)
    assert all(reference.iou(box, third) > threshold for box in near)
    pairs = set(itertools.combinations(range(len(near)), 2))
    index = np.arange(len(near))
    search = Neighbors(np.array(near), np.zeros(len(near), np.int64), shared_reach(threshold))
    searched, query, neighbor = search.earlier(index, index)
    assert searched == len(near)
    assert set(zip(neighbor.tolist(), query.tolist(), strict=True)) == pairs


@pytest.mark.parametrize(("limit", "most"), [("_STRIPS", 1), ("_STRIPS", 20), ("_CANDIDATES", 1), ("_CANDIDATES", 20)])
@pytest.mark.parametrize("threshold", [0.05, 0.6])
def test_a_search_within_limits_goes_on_where_it_ended(
    limit: str, most: int, threshold: float, monkeypatch: pytest.MonkeyPatch
):
    xyxy, _, group, _ = crowd(5, 60, 130)
    index = np.arange(len(xyxy))
    search = Neighbors(xyxy, group, overlap_reach(threshold))
    searched, *expected = search.earlier(index, index)
    monkeypatch.setattr(neighbors_module, limit, most)
    pairs: list[np.ndarray] = []
    numbers = []
    while len(index):
        searched, *found = search.earlier(index, np.arange(len(xyxy)))
        assert set(found[0]) <= set(index[:searched])
        pairs.append(np.array(found))
        numbers.append(searched)
        index = index[searched:]
    assert np.concatenate(pairs, axis=1).tolist() == np.array(expected).tolist()
    assert len(numbers) == 60 if most == 1 else len(numbers) > 3


@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 8)] * 2, st.integers(1, 3), *[st.integers(0, 1)] * 2),
        max_size=12,
    ),
    method=st.sampled_from(METHODS),
    threshold=st.sampled_from((0.1, 0.3, 0.45, 0.6)),
    random=st.randoms(use_true_random=False),
)
def test_the_order_of_boxes_does_not_matter(boxes: list[Any], method: Method, threshold: float, random: Any):
    """Small numbers, so that ties of score and coordinates are frequent."""
    shuffled = random.sample(boxes, len(boxes))
    results = []
    for order in (boxes, shuffled):
        table = np.array(order, float).reshape(-1, 7)
        xyxy = np.concatenate((table[:, :2], table[:, :2] + table[:, 2:4]), axis=1)
        group, source = table[:, 5:].astype(int).T
        result = merge_boxes(xyxy, table[:, 4] / 4, group, source, [1, 2], method=method, iou=threshold)
        expected = reference.clusters(xyxy, table[:, 4] / 4, group, source, [1, 2], method=method, threshold=threshold)
        boxes_of_clusters = np.array([box for _, box in expected]).reshape(-1, 4)
        assert np.sort(result.xyxy, axis=0) == pytest.approx(np.sort(boxes_of_clusters, axis=0))
        results.append((result.xyxy, result.score, result.bounds, table[result.member]))
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


def test_fused_boxes_are_those_of_ensemble_boxes():
    """Recorded with `weighted_boxes_fusion` of ensemble-boxes 1.0.9, which rounds to 32 bits."""
    case = {name: np.array(RECORDED[name]) for name in ("xyxy", "score", "group", "source", "weights")}
    result = merge_boxes(**case, method="wbf", iou=RECORDED["iou"])
    group = case["group"][result.best]
    expected = RECORDED["ensemble_boxes_1_0_9"]
    ours = np.column_stack((group, result.xyxy))
    theirs = np.column_stack((expected["group"], expected["xyxy"]))
    assert len(ours) < len(case["xyxy"])
    assert ours[np.lexsort(ours.T)] == pytest.approx(theirs[np.lexsort(theirs.T)], abs=0.01)


def test_suppression_and_the_clusters_of_merging_are_those_of_sahi():
    """Recorded with the NumPy functions for NMS and GREEDYNMM of SAHI 0.12.8, with IOU."""
    case = {name: np.array(RECORDED[name]) for name in ("xyxy", "score", "group", "source")}
    kept = merge_boxes(**case, weights=[1, 1, 1], method="nms", iou=RECORDED["iou"])
    assert sorted(kept.best.tolist()) == RECORDED["sahi_0_12_8_nms"]
    clusters = members(merge_boxes(**case, weights=[1, 1, 1], method="nmm", iou=RECORDED["iou"]))
    assert sorted(clusters) == sorted(RECORDED["sahi_0_12_8_greedy_nmm"])


def test_few_pairs_are_known_at_a_time_even_if_all_boxes_overlap(monkeypatch: pytest.MonkeyPatch):
    number, limit, known, earlier = 2000, 1 << 16, [], Neighbors.earlier

    def counted(self: Neighbors, queries: np.ndarray, base: np.ndarray) -> Any:
        searched, query, neighbor = earlier(self, queries, base)
        known.append(len(query))
        return searched, query, neighbor

    monkeypatch.setattr(neighbors_module, "_CANDIDATES", limit)
    monkeypatch.setattr(Neighbors, "earlier", counted)
    random = np.random.default_rng(0)
    xyxy = np.array([0, 0, 100, 100]) + random.uniform(0, 3, (number, 4))
    zeros = np.zeros(number, np.int64)
    result = merge_boxes(xyxy, random.uniform(0, 1, number), zeros, zeros, [1], method="nms", iou=0.5)
    assert len(result.score) == 1
    assert limit / 4 < max(known) <= limit < number**2 / 4


@pytest.mark.parametrize("method", ["nms", "nmm"])
def test_the_best_score_is_kept_whatever_the_weights(method: Method):
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    merged = merge_boxes(boxes, [0.5, 0.9], [0, 0], [0, 1], [2.0, 1.0], method=method, iou=0.5)
    assert merged.score.tolist() == [0.9]


@pytest.mark.parametrize("reach", [overlap_reach(0.05), overlap_reach(0.6), shared_reach(0.55)])
def test_later_neighbors_are_the_same_pairs_seen_from_the_earlier_box(reach: Reach):
    xyxy, _, group, _ = crowd(5, 60, 130)
    search = Neighbors(xyxy, group, reach)
    some, others = np.arange(0, len(xyxy), 2), np.arange(len(xyxy))
    _, query, neighbor = search.earlier(some, others)
    _, *later = search.later(others, some)
    assert 0 < len(query) < len(xyxy) ** 2
    assert sorted(zip(*later, strict=True)) == sorted(zip(neighbor, query, strict=True))
