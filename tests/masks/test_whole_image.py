"""Masks of a model's whole input, which may show a part of the image."""

from __future__ import annotations

import numpy as np
import pytest

from prelabel.masks import rle
from prelabel.masks.paste import whole_image_masks
from tests.rows import mask_of


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((0, 0, 5, 4), "#####|#####|#####|#####"),
        ((1, 1, 3, 3), ".....|.##..|.##..|....."),
        ((3, 2, 7, 6), ".....|.....|...##|...##"),  # beyond the image
        ((-2, -2, 1, 1), "#....|.....|.....|....."),
        ((5, 4, 9, 8), ".....|.....|.....|....."),  # outside
        ((0.6, 0, 2.4, 4), ".#...|.#...|.#...|.#..."),  # the centers of the pixels decide
    ],
)
def test_a_mask_ends_where_the_input_ends(window: tuple[float, float, float, float], expected: str) -> None:
    (counts,) = whole_image_masks(np.ones((1, 2, 2), np.float32), window, 4, 5)
    assert counts == mask_of(*expected.split("|"))


def test_a_mask_keeps_its_pixels_at_its_place() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (1, 6, 9)).astype(np.float32)
    (counts,) = whole_image_masks(mask, (7, 3, 16, 9), 20, 30)
    expected = np.zeros((20, 30), bool)
    expected[3:9, 7:16] = mask[0] > 0
    assert rle.decode(counts, 20, 30).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("scores", "window", "shown", "expected"),
    [
        ((-9, 1, -9), (-4, 8), (0, 4), "####"),  # padding takes whole mask pixels: no mix with it
        ((-9, 1, 1, -9), (-5, 11), (0, 6), "######"),  # centers at -3, 1, 5 and 9
        ((-1, 1), (-1, 7), (0, 6), "...###"),  # partly padding, but its center at 1 is in the image
        ((-1, 1), (-2, 6), (0, 6), "..####"),  # a center on the edge counts
        ((-9, 1, -9), (-8, 16), (0, 2), "##"),  # an image without a center has the nearest one, at 4
        ((1, 1, 1), (-4, 8), (0, 4), "####.."),  # a tile ends before the image does
        ((1,) * 6, (0, 6), (0, 4), "####.."),
    ],
)
def test_scores_in_the_padding_do_not_count(
    scores: tuple[int, ...], window: tuple[int, int], shown: tuple[int, int], expected: str
) -> None:
    """With mask pixels of 4 image pixels, but in the last two cases, along either axis."""
    row, size = np.array([[scores]], np.float32), len(expected)
    (counts,) = whole_image_masks(
        row, (window[0], 0, window[1], 1), 1, size, 0, image_window=(shown[0], 0, shown[1], 1)
    )
    assert counts == mask_of(expected)
    column = row.transpose(0, 2, 1)
    (counts,) = whole_image_masks(
        column, (0, window[0], 1, window[1]), size, 1, 0, image_window=(0, shown[0], 1, shown[1])
    )
    assert counts == mask_of(*expected)


def test_masks_of_the_whole_image_end_at_their_boxes() -> None:
    """Of 4 x 6 pixels, the box 1.2 0.5 4 3.1 has columns 2 and 3 and rows 1 to 3."""
    ones = np.ones((2, 4, 6), np.float32)
    boxes = np.array([[1.2, 0.5, 4, 3.1], [-3, -3, 99, 99]])
    part, whole = whole_image_masks(ones, (0, 0, 6, 4), 4, 6, inside=boxes)
    assert rle.decode(part, 4, 6).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
    ]
    assert rle.decode(whole, 4, 6).all()
    # The same if the masks have another size, or cover only a part of the image: columns 2 to 3.
    (part,) = whole_image_masks(ones[:1, :2, :3], (0, 0, 6, 4), 4, 6, inside=boxes[:1])
    assert rle.decode(part, 4, 6).sum() == 6
    (part,) = whole_image_masks(ones[:1], (3, 2, 9, 8), 4, 6, inside=boxes[:1])
    assert rle.decode(part, 4, 6).astype(int).tolist() == [
        *([[0] * 6] * 2),
        *([[0, 0, 0, 1, 0, 0]] * 2),
    ]
    (nothing,) = whole_image_masks(ones[:1], (0, 0, 6, 4), 4, 6, inside=np.array([[9, 9, 12, 12]]))
    assert not rle.decode(nothing, 4, 6).any()


def test_interpolated_masks_end_at_their_boxes() -> None:
    random = np.random.default_rng(7)
    masks = random.uniform(-1, 1, (20, 5, 7)).astype(np.float32)
    low = random.uniform(-5, 40, (20, 2))
    boxes = np.concatenate((low, low + random.uniform(0, 30, (20, 2))), axis=1)
    window = (-4.0, -7.5, 45.0, 61.0)
    everywhere = whole_image_masks(masks, window, 50, 40, 0.0)
    for box, whole, part in zip(
        boxes, everywhere, whole_image_masks(masks, window, 50, 40, 0.0, inside=boxes), strict=True
    ):
        x, y = np.arange(40), np.arange(50)[:, np.newaxis]
        inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
        expected = rle.decode(whole, 50, 40).astype(bool) & inside
        np.testing.assert_array_equal(rle.decode(part, 50, 40).astype(bool), expected)
