"""Thresholds of one class: small cases, and a comparison with all thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from prelabel.review.thresholds import Ranking, best_f1, cut_at, fewest_corrections, precision_recall


def ranked(right: str, *score: float, objects: int) -> Ranking:
    """`ranked("yn", 0.9, 0.2, objects=3)`: a right and a wrong detection, on one image with three objects."""
    verdict = np.array([letter == "y" for letter in right], bool)
    return Ranking(np.array(score, np.float32), verdict, np.zeros(len(score), np.int64), np.array([objects]))


EXAMPLE = ranked("yynynn", 0.9, 0.8, 0.7, 0.6, 0.3, 0.2, objects=5)


@pytest.mark.parametrize(
    ("threshold", "right", "delete", "draw", "f1"),
    [(0.75, 2, 0, 3, 4 / 7), (0.5, 3, 1, 2, 6 / 9), (0.1, 3, 3, 2, 6 / 11)],
)
def test_the_example_in_the_docstring(threshold: float, right: int, delete: int, draw: int, f1: float):
    cut = cut_at(EXAMPLE, threshold)
    assert (cut.right, cut.delete, cut.draw) == (right, delete, draw)
    assert cut.corrections == delete + draw
    assert cut.precision == right / (right + delete)
    assert cut.recall == right / 5
    assert cut.f1 == pytest.approx(f1)


def test_a_score_equal_to_the_threshold_is_kept_as_float32():
    assert cut_at(ranked("y", 0.7, objects=1), 0.7).right == 1


def test_of_equally_good_cuts_the_nearest_is_taken():
    # 2 correct and 0 false (3 corrections), or 3 correct and 1 false (3 corrections).
    assert fewest_corrections(EXAMPLE, 0.5).threshold == 0.5
    assert fewest_corrections(EXAMPLE, 0.75).threshold == 0.75
    assert fewest_corrections(EXAMPLE, 0.95).right == 2


def test_a_cut_lies_between_two_scores():
    cut = fewest_corrections(ranked("yyn", 0.9, 0.8, 0.6, objects=2), 0.2)
    assert (cut.threshold, cut.corrections) == (0.7, 0)


def test_a_class_that_is_always_wrong_is_cut_off():
    cut = fewest_corrections(ranked("nn", 0.8, 0.6, objects=3), 0.5)
    assert (cut.threshold, cut.right, cut.delete, cut.draw) == (0.9, 0, 0, 3)


def test_detections_of_score_1_cannot_be_cut_off():
    cut = fewest_corrections(ranked("n", 1.0, objects=0), 0.5)
    assert cut.threshold <= 1
    assert cut.delete == 1


def test_a_class_that_is_always_right_gets_a_threshold_just_below_its_lowest_score():
    cut = fewest_corrections(ranked("yy", 0.8, 0.314159, objects=2), 0.5)
    assert (cut.threshold, cut.corrections) == (0.31, 0)


def test_scores_that_hardly_differ_are_separated():
    low, high = 0.3, float(np.nextafter(np.float32(0.3), np.float32(1)))
    cut = fewest_corrections(ranked("yn", high, low, objects=1), 0.9)
    assert cut.corrections == 0


def test_without_detections_the_given_threshold_is_kept():
    cut = fewest_corrections(ranked("", objects=3), 0.37)
    assert (cut.threshold, cut.draw) == (0.37, 3)
    assert cut.precision is None


def test_without_correct_detections_there_is_no_best_f1():
    assert best_f1(ranked("n", 0.9, objects=3), 0.5) is None
    assert best_f1(ranked("", objects=0), 0.5) is None


def test_best_f1_keeps_more_than_fewest_corrections():
    hard = ranked("yynnynny", 0.9, 0.8, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3, objects=10)
    f1, work = best_f1(hard, 0.5), fewest_corrections(hard, 0.5)
    assert f1 is not None
    assert (f1.right + f1.delete, work.right + work.delete) == (8, 2)


def test_precision_and_recall_after_each_detection():
    recall, precision = precision_recall(ranked("yny", 0.9, 0.5, 0.2, objects=4))
    assert recall.tolist() == [0.25, 0.25, 0.5]
    assert precision.tolist() == [1.0, 0.5, 2 / 3]


@pytest.mark.parametrize("seed", range(40))
def test_no_threshold_is_better_than_the_best(seed: int):
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 15))
    score = np.sort(random.choice(np.linspace(0, 1, 12), count))[::-1].astype(np.float32)
    right = random.random(count) < 0.5
    ranking = Ranking(
        score, right, np.zeros(count, np.int64), np.array([int(right.sum()) + int(random.integers(0, 4))])
    )
    near = float(random.random())
    cuts = [cut_at(ranking, threshold) for threshold in np.linspace(0, 1, 501)]
    cut = fewest_corrections(ranking, near)
    assert cut.corrections == min(other.corrections for other in cuts)
    assert 0 <= cut.threshold <= 1
    f1 = best_f1(ranking, near)
    if f1 is not None and f1.f1 is not None:
        assert f1.f1 == pytest.approx(max(other.f1 or 0 for other in cuts))
