"""Turns of pictures, sizes, points, boxes and masks, against literal pictures, NumPy, Pillow and pycocotools."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps
from pycocotools import mask as coco

from prelabel import rle
from prelabel.detections import Detections
from prelabel.errors import StoreError
from prelabel.frames import (
    after_each_other,
    inverse,
    turned_boxes,
    turned_counts,
    turned_detections,
    turned_masks,
    turned_points,
    turned_rows,
    turned_size,
    way_to,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

#: A picture of two rows and three columns, as each orientation shows it.
SHOWN = {
    1: ["abc", "def"],
    2: ["cba", "fed"],
    3: ["fed", "cba"],
    4: ["def", "abc"],
    5: ["ad", "be", "cf"],
    6: ["da", "eb", "fc"],
    7: ["fc", "eb", "da"],
    8: ["cf", "be", "ad"],
}
PAIRS = list(itertools.product(range(1, 9), repeat=2))


def picture(orientation: int) -> np.ndarray:
    return np.array([list(row) for row in SHOWN[orientation]])


def place(shown: np.ndarray, letter: str) -> tuple[int, int]:
    """Row and column."""
    ((row,), (column,)) = np.nonzero(shown == letter)
    return int(row), int(column)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(orientation: int) -> None:
    assert turned_rows(picture(1), orientation).tolist() == picture(orientation).tolist()
    assert turned_size(2, 3, orientation) == picture(orientation).shape
    stored = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        by_pillow = np.asarray(ImageOps.exif_transpose(image))
    assert turned_rows(stored, orientation).tolist() == by_pillow.tolist()


@pytest.mark.parametrize(("applied", "browser"), PAIRS)
def test_of_all_pairs_of_orientations_the_way_from_one_picture_to_the_other_is_right(
    applied: int, browser: int
) -> None:
    upright, shown = picture(applied), picture(browser)
    way = way_to("browser", applied, browser)
    assert turned_rows(upright, way).tolist() == shown.tolist()
    assert turned_rows(upright, way_to("stored", applied, browser)).tolist() == picture(1).tolist()
    assert way_to("display", applied, browser) == 1
    height, width = upright.shape
    assert turned_size(height, width, way) == shown.shape
    for letter in "abcdef":
        row, column = place(upright, letter)
        there, across = place(shown, letter)
        # The pixel as a box, its middle as a point, and as a mask.
        box = turned_boxes(np.array([[column, row, column + 1, row + 1]]), height, width, way)
        assert box.tolist() == [[across, there, across + 1, there + 1]]
        point = turned_points(np.array([[column + 0.5, row + 0.5]]), height, width, way)
        assert point.tolist() == [[across + 0.5, there + 0.5]]
        counts = turned_counts(rle.encode(upright == letter), height, width, way)
        assert rle.decode(counts, *shown.shape).tolist() == (shown == letter).tolist()
    # A box that is no square, with one corner outside every pixel's middle.
    box = turned_boxes(np.array([[0.25, 0.5, 1.75, 2.0]]), height, width, way)
    corners = turned_points(np.array([[0.25, 0.5], [1.75, 2.0]]), height, width, way)
    assert box.tolist() == [[*corners.min(axis=0), *corners.max(axis=0)]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_turns_after_each_other_are_one(first: int, second: int) -> None:
    both = turned_rows(turned_rows(picture(1), first), second)
    assert turned_rows(picture(1), after_each_other(first, second)).tolist() == both.tolist()


@pytest.mark.parametrize("turn", range(1, 9))
def test_each_turn_can_be_undone(turn: int) -> None:
    assert after_each_other(turn, inverse(turn)) == after_each_other(inverse(turn), turn) == 1


def test_no_orientation_is_as_stored_and_browsers_do_the_same_unless_stated() -> None:
    assert way_to("browser", None, None) == way_to("stored", None, None) == 1
    assert way_to("browser", 6, None) == 1
    assert way_to("browser", 6, 1) == way_to("stored", 6, None) == 8
    assert way_to("browser", None, 6) == 6


@pytest.mark.parametrize("wrong", [0, 9, -1, 99])
def test_an_orientation_that_is_none_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        way_to("stored", wrong, None)
    with pytest.raises(ValueError, match="1 to 8"):
        way_to("browser", 1, wrong)
    with pytest.raises(ValueError, match="frame must be"):
        way_to("upright", 1, 1)


def test_a_box_of_a_photo_is_turned_to_literal_pixels() -> None:
    # 400 x 300 (width x height) upright; the file holds 300 x 400 that orientation 6 turns clockwise.
    box = np.array([[10.5, 20, 110.25, 70]], np.float32)
    assert turned_boxes(box, 300, 400, way_to("stored", 6, None)).tolist() == [[20, 289.75, 70, 389.5]]
    assert turned_boxes(box, 300, 400, way_to("stored", 3, None)).tolist() == [[289.75, 230, 389.5, 280]]
    assert turned_boxes(box, 300, 400, way_to("stored", 2, None)).tolist() == [[289.75, 20, 389.5, 70]]


@given(
    hnp.arrays(np.float32, (5, 4), elements=st.floats(0, 4000, width=32)),
    st.integers(4000, 5000),
    st.integers(4000, 5000),
    st.integers(1, 8),
)
def test_boxes_there_and_back_are_where_they_were(values: np.ndarray, height: int, width: int, turn: int) -> None:
    boxes = np.concatenate((np.minimum(values[:, :2], values[:, 2:]), np.maximum(values[:, :2], values[:, 2:])), axis=1)
    there = turned_boxes(boxes, height, width, turn)
    assert (there[:, :2] <= there[:, 2:]).all()
    back = turned_boxes(there, *turned_size(height, width, turn), inverse(turn))
    np.testing.assert_allclose(back, boxes, rtol=0, atol=1e-9)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(1, 8))
def test_any_mask_is_turned_as_numpy_turns_it_and_encoded_as_pycocotools_does(mask: np.ndarray, turn: int) -> None:
    height, width = mask.shape
    turned = turned_rows(mask, turn)
    counts = turned_counts(rle.encode(mask), height, width, turn)
    theirs = coco.encode(np.asfortranarray(turned.astype(np.uint8)))
    assert {"size": [*turned.shape], "counts": counts} == {**theirs, "counts": theirs["counts"].decode()}
    assert turned_counts(counts, *turned.shape, inverse(turn)) == rle.encode(mask)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("shape", [(3000, 4000), (1, 700), (700, 1)])
def test_large_and_thin_masks_are_turned(turn: int, shape: tuple[int, int]) -> None:
    y, x = np.ogrid[: shape[0], : shape[1]]
    mask = (x / shape[1] - 0.6) ** 2 + (y / shape[0] - 0.3) ** 2 < 0.16
    mask[::50, ::70] ^= True
    for each in (mask, ~mask, np.ones(shape, bool), np.zeros(shape, bool)):
        assert turned_counts(rle.encode(each), *shape, turn) == rle.encode(turned_rows(each, turn))


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(StoreError, match="cover"):
        turned_counts("344M", 3, 5, 6)


def test_detections_are_turned_whole() -> None:
    left = np.array([[1, 1, 0], [1, 1, 0]])
    found = Detections(
        height=2,
        width=3,
        xyxy=np.array([[0, 0, 2, 2], [1, 0, 3, 1]]),
        category_id=np.array([1, 2]),
        score=np.array([0.9, 0.8]),
        label=["Dog", "Cat"],  # type: ignore[arg-type]
        mid=["", ""],  # type: ignore[arg-type]
        mask=[rle.encode(left), None],  # type: ignore[arg-type]
    )
    turned = turned_detections(found, 6)
    assert (turned.height, turned.width) == (3, 2)
    assert turned.xyxy.tolist() == [[0, 0, 2, 2], [1, 1, 2, 3]]
    assert turned.xyxy.dtype == np.float32
    assert turned.mask is not None
    assert rle.decode(turned.mask[0], 3, 2).tolist() == [[True, True], [True, True], [False, False]]
    assert turned.mask[1] is None
    assert turned.label.tolist() == ["Dog", "Cat"]
    assert turned_detections(found, 1) is found
    assert turned_masks([None], 2, 3, 6) == [None]
