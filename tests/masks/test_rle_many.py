"""Many masks decoded together give the same results as `prelabel.masks.rle` for each of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelabel.errors import StoreError
from prelabel.masks import rle, rle_many


def decoded(counts: list[str], sizes: list[tuple[int, int]]) -> rle_many.ManyRuns:
    height, width = np.array(sizes).reshape(-1, 2).T
    return rle_many.decode_many(*rle_many.join_counts(counts), height, width)


def test_the_runs_of_two_masks_are_concatenated():
    many = decoded(["344M", "9"], [(3, 4), (3, 3)])
    assert many.runs.tolist() == [3, 4, 4, 1, 9]
    assert many.bounds.tolist() == [0, 4, 5]
    assert many.valid.all()


def test_areas_and_boxes_are_in_whole_pixels():
    many = decoded(["344M", "9"], [(3, 4), (3, 3)])
    area, xywh = rle_many.extents(many, np.array([3, 3]))
    assert area.tolist() == [5, 0]
    assert xywh.tolist() == [[1, 0, 3, 3], [0, 0, 0, 0]]


def test_no_masks():
    many = decoded([], [])
    assert many.runs.tolist() == []
    assert [part.tolist() for part in rle_many.extents(many, np.array([], int))] == [[], []]


@pytest.mark.parametrize("wrong", ["", "34", "344m", "344\x1f", "3é4M", "344N", "o" * 9 + "0", "3O4M", "344M0000001"])
def test_an_invalid_mask_does_not_affect_the_others(wrong: str):
    with pytest.raises(StoreError):
        rle.validate(wrong, 3, 4)
    many = decoded(["344M", wrong, "344M", wrong], [(3, 4)] * 4)
    assert many.valid.tolist() == [True, False, True, False]
    area, _ = rle_many.extents(many, np.full(4, 3))
    assert area.tolist() == [5, 0, 5, 0]


@pytest.mark.parametrize("groups", range(1, 10))
def test_a_number_has_at_most_seven_groups(groups: int):
    """The number 4, in more groups than it needs."""
    four = "4" if groups == 1 else "T" + "P" * (groups - 2) + "0"
    counts = f"3{four}4M"
    many = decoded(["344M", counts, "344M"], [(3, 4)] * 3)
    assert many.valid.tolist() == [True, groups <= 7, True]
    if groups <= 7:
        assert many.runs.tolist() == [3, 4, 4, 1] * 3
        rle.validate(counts, 3, 4)
    else:
        with pytest.raises(StoreError):
            rle.validate(counts, 3, 4)


def test_runs_without_pixels_are_no_part_of_the_box():
    """The first run of ones has none, the second 4."""
    counts = rle.encode_runs(np.array([3, 0, 0, 4, 5]), np.array([5]))[0]
    many = decoded([counts, "9"], [(3, 4), (3, 3)])
    area, xywh = rle_many.extents(many, np.array([3, 3]))
    assert area.tolist() == [4, 0]
    assert tuple(xywh[0].tolist()) == rle.bbox_xywh(counts, 3, 4)


def test_a_mask_without_pixels_is_invalid():
    assert decoded(["0", "9"], [(0, 3), (3, 3)]).valid.tolist() == [False, True]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.text("0123456789:;<=>?@AOPQRm", max_size=8), st.integers(0, 2**32)),
            st.integers(1, 6),
            st.integers(1, 6),
        ),
        max_size=6,
    )
)
def test_masks_measured_together_equal_masks_measured_separately(given_masks: list[tuple[str | int, int, int]]):
    counts, sizes = [], []
    for mask_counts, height, width in given_masks:
        sizes.append((height, width))
        if isinstance(mask_counts, int):
            mask_counts = rle.encode(np.random.default_rng(mask_counts).random((height, width)) < 0.5)
        counts.append(mask_counts)
    many = decoded(counts, sizes)
    area, xywh = rle_many.extents(many, np.array([h for h, _ in sizes], int))
    for n, (mask_counts, (height, width)) in enumerate(zip(counts, sizes, strict=True)):
        try:
            runs = rle.decode_runs(mask_counts, height, width)
        except StoreError:
            assert not many.valid[n]
            continue
        assert many.valid[n]
        assert many.runs[many.bounds[n] : many.bounds[n + 1]].tolist() == runs.tolist()
        assert area[n] == rle.area(mask_counts, height, width)
        assert tuple(xywh[n].tolist()) == rle.bbox_xywh(mask_counts, height, width)
