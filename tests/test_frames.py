"""Oriented pixels, sizes, points, boxes and masks, compared with literal images, NumPy, Pillow and pycocotools."""

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

from prelabel.detections import Detections
from prelabel.errors import StoreError
from prelabel.frames import (
    compose,
    inverse,
    orientation_to,
    oriented_boxes,
    oriented_counts,
    oriented_detections,
    oriented_masks,
    oriented_pixels,
    oriented_points,
    oriented_size,
)
from prelabel.masks import rle
from tests.messages import telling

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

#: An image of two rows and three columns, after applying each orientation.
LETTERS = {
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


def letters(orientation: int) -> np.ndarray:
    return np.array([list(row) for row in LETTERS[orientation]])


def place(image: np.ndarray, letter: str) -> tuple[int, int]:
    """Row and column of a letter."""
    ((row,), (column,)) = np.nonzero(image == letter)
    return int(row), int(column)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_oriented_as_by_pillow(orientation: int) -> None:
    assert oriented_pixels(letters(1), orientation).tolist() == letters(orientation).tolist()
    assert oriented_size(2, 3, orientation) == letters(orientation).shape
    stored = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        by_pillow = np.asarray(ImageOps.exif_transpose(image))
    assert oriented_pixels(stored, orientation).tolist() == by_pillow.tolist()


@pytest.mark.parametrize(("applied", "browser"), PAIRS)
def test_every_pair_of_orientations_converts_pixels_boxes_points_and_masks(applied: int, browser: int) -> None:
    displayed, in_browser = letters(applied), letters(browser)
    orientation = orientation_to("browser", applied, browser)
    assert oriented_pixels(displayed, orientation).tolist() == in_browser.tolist()
    assert oriented_pixels(displayed, orientation_to("stored", applied, browser)).tolist() == letters(1).tolist()
    assert orientation_to("display", applied, browser) == 1
    height, width = displayed.shape
    assert oriented_size(height, width, orientation) == in_browser.shape
    for letter in "abcdef":
        row, column = place(displayed, letter)
        browser_row, browser_column = place(in_browser, letter)
        # The pixel as a box, its center as a point, and the pixel as a mask.
        box = oriented_boxes(np.array([[column, row, column + 1, row + 1]]), height, width, orientation)
        assert box.tolist() == [[browser_column, browser_row, browser_column + 1, browser_row + 1]]
        point = oriented_points(np.array([[column + 0.5, row + 0.5]]), height, width, orientation)
        assert point.tolist() == [[browser_column + 0.5, browser_row + 0.5]]
        counts = oriented_counts(rle.encode(displayed == letter), height, width, orientation)
        assert rle.decode(counts, *in_browser.shape).tolist() == (in_browser == letter).tolist()
    # A box that is not a square, whose corners are not pixel centers.
    box = oriented_boxes(np.array([[0.25, 0.5, 1.75, 2.0]]), height, width, orientation)
    corners = oriented_points(np.array([[0.25, 0.5], [1.75, 2.0]]), height, width, orientation)
    assert box.tolist() == [[*corners.min(axis=0), *corners.max(axis=0)]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_orientations_compose_to_one(first: int, second: int) -> None:
    both = oriented_pixels(oriented_pixels(letters(1), first), second)
    assert oriented_pixels(letters(1), compose(first, second)).tolist() == both.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_has_an_inverse(orientation: int) -> None:
    assert compose(orientation, inverse(orientation)) == compose(inverse(orientation), orientation) == 1


def test_the_default_orientation_is_1_and_browsers_apply_the_same_unless_given() -> None:
    assert orientation_to("browser", None, None) == orientation_to("stored", None, None) == 1
    assert orientation_to("browser", 6, None) == 1
    assert orientation_to("browser", 6, 1) == orientation_to("stored", 6, None) == 8
    assert orientation_to("browser", None, 6) == 6


@pytest.mark.parametrize("wrong", [0, 9, -1, 99])
def test_an_invalid_orientation_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=telling("orientation", "1", "8", str(wrong))):
        orientation_to("stored", wrong, None)
    with pytest.raises(ValueError, match=telling("orientation", "1", "8", str(wrong))):
        orientation_to("browser", 1, wrong)
    with pytest.raises(ValueError, match=telling("frame", "stored", "upright")):
        orientation_to("upright", 1, 1)


def test_literal_pixels_of_an_oriented_box() -> None:
    # The displayed image is 400 x 300 (width x height). The file holds 300 x 400; orientation 6 rotates it clockwise.
    box = np.array([[10.5, 20, 110.25, 70]], np.float32)
    assert oriented_boxes(box, 300, 400, orientation_to("stored", 6, None)).tolist() == [[20, 289.75, 70, 389.5]]
    assert oriented_boxes(box, 300, 400, orientation_to("stored", 3, None)).tolist() == [[289.75, 230, 389.5, 280]]
    assert oriented_boxes(box, 300, 400, orientation_to("stored", 2, None)).tolist() == [[289.75, 20, 389.5, 70]]


@given(
    hnp.arrays(np.float32, (5, 4), elements=st.floats(0, 4000, width=32)),
    st.integers(4000, 5000),
    st.integers(4000, 5000),
    st.integers(1, 8),
)
def test_boxes_survive_the_round_trip(values: np.ndarray, height: int, width: int, orientation: int) -> None:
    boxes = np.concatenate((np.minimum(values[:, :2], values[:, 2:]), np.maximum(values[:, :2], values[:, 2:])), axis=1)
    oriented = oriented_boxes(boxes, height, width, orientation)
    assert (oriented[:, :2] <= oriented[:, 2:]).all()
    back = oriented_boxes(oriented, *oriented_size(height, width, orientation), inverse(orientation))
    np.testing.assert_allclose(back, boxes, rtol=0, atol=1e-9)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(1, 8))
def test_any_oriented_mask_equals_numpy_and_pycocotools(mask: np.ndarray, orientation: int) -> None:
    height, width = mask.shape
    oriented = oriented_pixels(mask, orientation)
    counts = oriented_counts(rle.encode(mask), height, width, orientation)
    expected = coco.encode(np.asfortranarray(oriented.astype(np.uint8)))
    assert {"size": [*oriented.shape], "counts": counts} == {**expected, "counts": expected["counts"].decode()}
    assert oriented_counts(counts, *oriented.shape, inverse(orientation)) == rle.encode(mask)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(3000, 4000), (1, 700), (700, 1)])
def test_large_and_thin_masks_are_oriented(orientation: int, shape: tuple[int, int]) -> None:
    y, x = np.ogrid[: shape[0], : shape[1]]
    mask = (x / shape[1] - 0.6) ** 2 + (y / shape[0] - 0.3) ** 2 < 0.16
    mask[::50, ::70] ^= True
    for variant in (mask, ~mask, np.ones(shape, bool), np.zeros(shape, bool)):
        assert oriented_counts(rle.encode(variant), *shape, orientation) == rle.encode(
            oriented_pixels(variant, orientation)
        )


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(StoreError, match=telling("pixels?", "15")):
        oriented_counts("344M", 3, 5, 6)


def test_all_parts_of_detections_are_oriented() -> None:
    left = np.array([[1, 1, 0], [1, 1, 0]])
    detections = Detections(
        height=2,
        width=3,
        xyxy=np.array([[0, 0, 2, 2], [1, 0, 3, 1]]),
        category_id=np.array([1, 2]),
        score=np.array([0.9, 0.8]),
        label=["Dog", "Cat"],  # type: ignore[arg-type]
        mid=["", ""],  # type: ignore[arg-type]
        mask=[rle.encode(left), None],  # type: ignore[arg-type]
    )
    oriented = oriented_detections(detections, 6)
    assert (oriented.height, oriented.width) == (3, 2)
    assert oriented.xyxy.tolist() == [[0, 0, 2, 2], [1, 1, 2, 3]]
    assert oriented.xyxy.dtype == np.float32
    assert oriented.mask is not None
    assert rle.decode(oriented.mask[0], 3, 2).tolist() == [[True, True], [True, True], [False, False]]
    assert oriented.mask[1] is None
    assert oriented.label.tolist() == ["Dog", "Cat"]
    assert oriented_detections(detections, 1) is detections
    assert oriented_masks([None], 2, 3, 6) == [None]
