"""COCO RLE: literal cases, round trips, hostile strings, and the reference library."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from prelabel.errors import StoreError
from prelabel.masks import rle
from tests.messages import facts

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20))


def reference(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def ones_at(height: int, width: int, *points: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for y, x in points:
        mask[y, x] = True
    return mask


def test_the_example_in_the_module_docstring() -> None:
    mask = ones_at(3, 4, (0, 1), (1, 1), (2, 1), (0, 2), (2, 3))
    assert rle.encode(mask) == "344M"
    assert rle.decode_runs("344M", 3, 4).tolist() == [3, 4, 4, 1]
    assert [edge.tolist() for edge in rle.spans("344M", 3, 4)] == [[3, 11], [7, 12]]
    assert rle.area("344M", 3, 4) == 5
    assert rle.bbox_xywh("344M", 3, 4) == (1, 0, 3, 3)


def test_empty_mask_is_one_run_of_zeros() -> None:
    assert rle.decode_runs(rle.encode(np.zeros((4, 6), bool)), 4, 6).tolist() == [24]
    assert rle.bbox_xywh(rle.encode(np.zeros((4, 6), bool)), 4, 6) == (0, 0, 0, 0)


def test_full_mask_starts_with_an_empty_run() -> None:
    assert rle.encode(np.ones((4, 6), bool)) == "0h0"
    assert rle.decode_runs("0h0", 4, 6).tolist() == [0, 24]


def test_order_is_column_by_column() -> None:
    assert rle.decode_runs(rle.encode(ones_at(2, 3, (1, 0))), 2, 3).tolist() == [1, 1, 4]
    assert rle.decode_runs(rle.encode(ones_at(2, 3, (0, 1))), 2, 3).tolist() == [2, 1, 3]


@settings(deadline=None)
@given(masks)
def test_encoding_equals_the_reference_library(mask: np.ndarray) -> None:
    counts = rle.encode(mask)
    height, width = mask.shape
    assert counts == reference(mask)["counts"].decode()
    np.testing.assert_array_equal(rle.decode(counts, height, width), mask)
    assert rle.area(counts, height, width) == mask.sum()
    assert list(rle.bbox_xywh(counts, height, width)) == coco.toBbox(reference(mask)).tolist()


@settings(deadline=None)
@given(masks, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_a_crop_is_encoded_as_the_whole_image_would_be(
    crop: np.ndarray, above: int, left: int, below: int, right: int
) -> None:
    whole = np.pad(crop, ((above, below), (left, right)))
    assert rle.encode_crop(crop, above, left, *whole.shape) == reference(whole)["counts"].decode()


def test_an_empty_crop_is_an_empty_mask() -> None:
    assert rle.encode_crop(np.zeros((0, 0), bool), 2, 2, 4, 6) == rle.encode(np.zeros((4, 6), bool))


@pytest.mark.parametrize(("y0", "x0"), [(-1, 0), (0, -1), (3, 0), (0, 5)])
def test_a_crop_outside_the_image_is_refused(y0: int, x0: int) -> None:
    with pytest.raises(ValueError, match=facts("2 x 2", str(y0), str(x0), "4 x 6")):
        rle.encode_crop(np.ones((2, 2), bool), y0, x0, 4, 6)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3)])
def test_a_mask_that_is_not_two_dimensional_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=facts("shape", str(shape))):
        rle.encode(np.zeros(shape, bool))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**28), min_size=1, max_size=12), max_size=6))
@example([[0, 15, 16, 511, 512, 16383, 16384, 2**31]])
def test_runs_of_any_size_survive_in_one_batch(many: list[list[int]]) -> None:
    many = [runs if sum(runs) else [*runs, 7] for runs in many]
    texts = rle.encode_runs(
        np.array(list(itertools.chain(*many)), np.int64), np.array([len(runs) for runs in many], np.int64)
    )
    assert len(texts) == len(many)
    for text, runs in zip(texts, many, strict=True):
        assert rle.decode_runs(text, sum(runs), 1).tolist() == runs


def test_long_runs_equal_the_reference_library() -> None:
    mask = np.zeros((3000, 1000), bool)
    mask[1234:2345, 20:900:7] = True
    assert rle.encode(mask) == reference(mask)["counts"].decode()


def test_runs_around_an_empty_run_are_merged() -> None:
    counts = rle.encode_runs(np.array([2, 1, 0, 2, 0, 0, 1]), np.array([7]))[0]
    assert [edge.tolist() for edge in rle.spans(counts, 6, 1)] == [[2], [5]]
    assert rle.bbox_xywh(counts, 6, 1) == (0, 2, 1, 3)
    np.testing.assert_array_equal(rle.decode(counts, 6, 1)[:, 0], [0, 0, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ("", ("string", "empty")),
        ("34 4", ("character", "2", "'0'", "'o'")),
        ("34é", ("character", "2", "'0'", "'o'")),
        ("34\udc80", ("character", "2", "'0'", "'o'")),
        ("34\x00", ("character", "2", "'0'", "'o'")),
        ("344p", ("character", "'0'", "'o'")),
        ("344m", ("string", "number")),
        ("344", ("pixels", "11", "12")),
        ("3445", ("pixels", "20", "12")),
        ("3O9", ("negative", "length", "-1")),
        ("344KMMMM", ("negative", "length", "-7")),
        ("ooooooooooooooo0", ("characters", "16", "7")),
        ("oooooo?" * 10, ("pixels", "446676598758", "12")),
    ],
)
def test_an_invalid_string_is_refused_with_the_reason(counts: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(StoreError, match=facts("3 x 4", *expected)) as caught:
        rle.validate(counts, 3, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("height", "width"), [(0, 4), (3, -4), (2**20, 2**20)])
def test_an_impossible_size_is_refused(height: int, width: int) -> None:
    with pytest.raises(StoreError, match=facts("size", f"{height} x {width}")):
        rle.validate("344M", height, width)


def test_a_swapped_size_is_refused_and_bytes_are_accepted() -> None:
    rle.validate(b"344M", 3, 4)
    with pytest.raises(StoreError, match=facts("3 x 5", "pixels", "12", "15")):
        rle.validate("344M", 3, 5)


def test_a_huge_string_for_a_small_image_is_refused_without_decoding_it() -> None:
    with pytest.raises(StoreError, match=facts("3 x 4", "characters", "10000000|10,000,000")):
        rle.validate("0" * 10_000_000, 3, 4)


def test_runs_whose_sum_overflows_64_bits_are_refused() -> None:
    # Deltas of 2**33 add up to runs whose sum overflows 64 bits.
    huge = rle.encode_runs(np.arange(1, 100_001, dtype=np.int64) * 2**32, np.array([100_000]))[0]
    with pytest.raises(StoreError, match=facts("pixels", "900000000|900,000,000")):
        rle.validate(huge, 30_000, 30_000)


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_any_string_gives_a_mask_or_a_store_error(counts: str, height: int, width: int) -> None:
    try:
        mask = rle.decode(counts, height, width)
    except StoreError:
        return
    assert mask.shape == (height, width)
    assert rle.area(counts, height, width) == mask.sum()
    assert rle.decode(rle.encode(mask), height, width).tolist() == mask.tolist()
