"""Durations, counts, shares and saved work as people read them."""

from __future__ import annotations

import pytest

from prelabel.words import counted, duration, rounded, saving, share


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (75, "1 min 15 s"),
        (599.6, "10 min"),
        (1008, "17 min"),
        (3599, "1 h"),
        (3723, "1 h 2 min"),
        (86_399, "1 d"),
        (200_000, "2 d 8 h"),
        (1e8, "1,157 d 10 h"),
    ],
)
def test_a_duration_has_the_units_that_matter(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "whole", "text"),
    [
        *((0, 5, "0%"), (5, 5, "100%"), (62, 100, "62%"), (163, 100, "163%"), (0, 0, "-"), (3, 0, "-")),
        *((1, 1000, "<1%"), (999, 1000, ">99%"), (1001, 1000, "100%")),
    ],
)
def test_only_nothing_is_0_percent_and_only_everything_100(count: int, whole: int, text: str):
    assert share(count, whole) == text


def test_counts_have_separators_and_a_noun_that_agrees():
    assert [counted(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [counted(n, "box", "boxes") for n in (1, 2)] == ["1 box", "2 boxes"]


def test_numbers_from_10_on_have_no_decimals():
    assert [rounded(value) for value in (0, 0.44, 2.0, 9.96, 225.0, 974.3, 1234.5)] == [
        *("0", "0.4", "2", "10", "225", "974", "1,234")
    ]


@pytest.mark.parametrize(
    ("corrections", "words"),
    [
        *((0, "100% less work"), (99, "1% less work"), (100, "as much work"), (101, "1% more work")),
        *((163, "63% more work"), (200, "100% more work"), (1630, "1,530% more work")),
    ],
)
def test_work_is_compared_with_drawing_all_boxes(corrections: int, words: str):
    assert saving(corrections, 100) == words


def test_a_small_difference_is_not_called_none():
    assert (saving(999, 1000), saving(1001, 1000), saving(1, 1000)) == (
        *("<1% less work", "<1% more work", ">99% less work"),
    )
