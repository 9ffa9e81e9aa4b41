"""Many masks at once say what `prelabel.rle` says of each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelabel import rle, rle_many
from prelabel.errors import StoreError


def decoded(counts: list[str], sizes: list[tuple[int, int]]) -> rle_many.ManyRuns:
    height, width = np.array(sizes).reshape(-1, 2).T
    return rle_many.decode_many(*rle_many.joined(counts), height, width)


def test_the_runs_of_two_masks_lie_side_by_side():
    many = decoded(["344M", "9"], [(3, 4), (3, 3)])
    assert many.runs.tolist() == [3, 4, 4, 1, 9]
    assert many.bounds.tolist() == [0, 4, 5]
    assert many.sound.all()


def test_areas_and_boxes_are_in_whole_pixels():
    many = decoded(["344M", "9"], [(3, 4), (3, 3)])
    area, xywh = rle_many.extents(many, np.array([3, 3]))
    assert area.tolist() == [5, 0]
    assert xywh.tolist() == [[1, 0, 3, 3], [0, 0, 0, 0]]


def test_no_mask_at_all():
    many = decoded([], [])
    assert many.runs.tolist() == []
    assert [part.tolist() for part in rle_many.extents(many, np.array([], int))] == [[], []]


@pytest.mark.parametrize("wrong", ["", "34", "344m", "344\x1f", "3é4M", "344N", "o" * 9 + "0", "3O4M", "344M0000001"])
def test_an_unsound_mask_harms_none_beside_it(wrong: str):
    with pytest.raises(StoreError):
        rle.validate(wrong, 3, 4)
    many = decoded(["344M", wrong, "344M", wrong], [(3, 4)] * 4)
    assert many.sound.tolist() == [True, False, True, False]
    area, _ = rle_many.extents(many, np.full(4, 3))
    assert area.tolist() == [5, 0, 5, 0]


def test_a_mask_without_pixels_is_unsound():
    assert decoded(["0", "9"], [(0, 3), (3, 3)]).sound.tolist() == [False, True]


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
def test_every_mask_is_judged_as_by_itself(given_masks: list[tuple[str | int, int, int]]):
    counts, sizes = [], []
    for one, height, width in given_masks:
        sizes.append((height, width))
        if isinstance(one, int):
            one = rle.encode(np.random.default_rng(one).random((height, width)) < 0.5)
        counts.append(one)
    many = decoded(counts, sizes)
    area, xywh = rle_many.extents(many, np.array([h for h, _ in sizes], int))
    for n, (one, (height, width)) in enumerate(zip(counts, sizes, strict=True)):
        try:
            runs = rle.decode_runs(one, height, width)
        except StoreError:
            assert not many.sound[n]
            continue
        assert many.sound[n]
        assert many.runs[many.bounds[n] : many.bounds[n + 1]].tolist() == runs.tolist()
        assert area[n] == rle.area(one, height, width)
        assert tuple(xywh[n].tolist()) == rle.bbox_xywh(one, height, width)
