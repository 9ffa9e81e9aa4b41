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
