"""Colors of classes are assigned by frequency and can be told apart."""

from __future__ import annotations

import itertools

import numpy as np

from prelabel.labels.colors import PALETTE, colors_by_frequency


def linear(color: str) -> np.ndarray:
    """Linear RGB of `#rrggbb`."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(color: str) -> np.ndarray:
    to_cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(to_lab) @ np.cbrt(np.array(to_cones) @ linear(color))


def test_the_most_frequent_class_gets_the_first_color() -> None:
    colors = colors_by_frequency({"dog": 3, "absent": 0, "person": 90, "cat": 3})
    assert list(colors.items()) == list(zip(("person", "cat", "dog", "absent"), PALETTE, strict=False))


def test_colors_repeat_only_after_the_last_one() -> None:
    colors = colors_by_frequency({f"{n:03d}": 1 for n in range(len(PALETTE) + 1)})
    assert list(colors.values()) == [*PALETTE, PALETTE[0]]


def test_any_two_colors_differ_and_the_first_ones_differ_most() -> None:
    labs = [oklab(color) for color in PALETTE]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(labs, 2)]
    assert min(distances) > 0.095
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(labs[:8], 2)) > 0.19


def test_white_text_is_legible_on_every_color_and_none_is_nearly_black() -> None:
    for color in PALETTE:
        luminance = float(linear(color) @ (0.2126, 0.7152, 0.0722))
        assert 1.05 / (luminance + 0.05) >= 3
        assert luminance >= 0.07
