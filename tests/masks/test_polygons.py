"""Polygons from RLE: literal corners, exact filling, bounds on the loss by simplification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from prelabel.errors import ExportError
from prelabel.masks import rle
from prelabel.masks.polygons import PolygonRules, object_polygons
from tests.messages import facts

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16))


def polygons(mask: np.ndarray, tolerance: float = 0.0, min_area: float = 0.0) -> list[list[float]]:
    return object_polygons(rle.encode(mask), *mask.shape, PolygonRules(tolerance, min_area)).polygons


def filled(rings: list[list[float]], height: int, width: int) -> np.ndarray:
    """`(height, width)` winding number of each pixel's center, summed over the polygons; a scan line per row."""
    winding = np.zeros((height, width), int)
    for ring in rings:
        x, y = np.array(ring).reshape(-1, 2).T
        for x1, y1, x2, y2 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
            for row in range(height):
                center = row + 0.5
                if min(y1, y2) <= center < max(y1, y2):
                    crossing = x1 + (center - y1) / (y2 - y1) * (x2 - x1)
                    winding[row, np.arange(width) + 0.5 > crossing] += 1 if y2 < y1 else -1
    return winding


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def from_pycocotools(rings: list[list[float]], height: int, width: int) -> np.ndarray:
    return rle.decode(coco.merge(coco.frPyObjects(rings, height, width))["counts"], height, width)


def blob(seed: int, height: int = 300, width: int = 400, radius: float = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - height / 2, x - width / 2)
    edge = radius * (1 + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(7 * angle + rng.uniform(0, 6)))
    return np.hypot(y - height / 2, x - width / 2) < edge


def test_one_pixel_is_a_square() -> None:
    assert polygons(np.array([[True, False], [False, False]])) == [[0, 0, 1, 0, 1, 1, 0, 1]]


def test_an_empty_mask_has_no_polygon() -> None:
    assert polygons(np.zeros((3, 4), bool)) == []


def test_a_full_mask_is_the_image_with_any_tolerance() -> None:
    for tolerance in (0, 1, 50):
        (ring,) = polygons(np.ones((30, 40), bool), tolerance)
        assert sorted(zip(ring[::2], ring[1::2], strict=True)) == [(0, 0), (0, 30), (40, 0), (40, 30)]


def test_straight_edges_have_no_corners_in_between() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:8, 1:5] = mask[5:8, 1:9] = True
    (ring,) = polygons(mask)
    assert len(ring) == 12
    assert max(ring[::2]) == 9


def test_pixels_that_touch_only_at_a_corner_are_two_parts() -> None:
    for mask in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        assert [len(ring) for ring in polygons(mask)] == [8, 8]


def test_parts_come_largest_first() -> None:
    mask = np.zeros((5, 9), bool)
    mask[0, 0] = mask[2:5, 2:5] = mask[1:3, 7] = True
    assert [filled([ring], 5, 9).sum() for ring in polygons(mask)] == [9, 2, 1]


def test_a_hole_is_cut_out_by_a_bridge() -> None:
    mask = np.ones((7, 7), bool)
    mask[2:4, 3:5] = False
    rings = polygons(mask)
    assert len(rings) == 1
    np.testing.assert_array_equal(filled(rings, 7, 7), mask)
    np.testing.assert_array_equal(from_pycocotools(rings, 7, 7), mask)


def test_an_island_in_a_hole_is_a_separate_part() -> None:
    mask = np.ones((9, 9), bool)
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    rings = polygons(mask)
    assert len(rings) == 2
    np.testing.assert_array_equal(filled(rings, 9, 9), mask)


@settings(deadline=None, max_examples=200)
@given(masks)
def test_polygons_without_simplification_fill_exactly_the_mask(mask: np.ndarray) -> None:
    rings = polygons(mask)
    np.testing.assert_array_equal(filled(rings, *mask.shape), mask)
    assert all(len(ring) >= 6 for ring in rings)
    if rings:
        np.testing.assert_array_equal(from_pycocotools(rings, *mask.shape), mask)


@settings(deadline=None, max_examples=100)
@given(masks, st.floats(0.1, 5), st.floats(0, 9))
def test_simplification_keeps_every_part(mask: np.ndarray, tolerance: float, min_area: float) -> None:
    exact, simple = polygons(mask, 0, min_area), polygons(mask, tolerance, min_area)
    assert len(exact) == len(simple)
    assert all(len(ring) >= 6 for ring in simple)
    if mask.any():
        assert len(simple) >= 1
    for ring in simple:
        x, y = np.array(ring).reshape(-1, 2).T
        assert x.min() >= 0 <= y.min()
        assert x.max() <= mask.shape[1]
        assert y.max() <= mask.shape[0]


def test_holes_are_assigned_to_the_right_one_of_adjacent_parts() -> None:
    mask = np.zeros((12, 40), bool)
    for x in (0, 20):
        mask[1:11, x + 1 : x + 18] = True
        for hole in (3, 7, 11):
            mask[3:9, x + hole : x + hole + 3] = False
        mask[5, x + 8] = True
    rings = polygons(mask)
    assert [filled([ring], 12, 40).sum() for ring in rings] == [116, 116, 1, 1]
    np.testing.assert_array_equal(filled(rings, 12, 40), mask)


def test_small_parts_are_dropped_and_small_holes_are_filled() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[5, 5] = False
    mask[15:17, 15] = True
    rings = polygons(mask, 0, 3)
    assert len(rings) == 1
    assert filled(rings, 20, 20).sum() == 100
    assert len(polygons(mask[13:], 0, 3)) == 1


@pytest.mark.parametrize("seed", range(8))
def test_one_pixel_of_tolerance_keeps_the_shape_with_far_fewer_points(seed: int) -> None:
    mask = blob(seed)
    exact, simple = polygons(mask), polygons(mask, 1.0)
    assert sum(map(len, simple)) < 0.2 * sum(map(len, exact))
    assert iou(from_pycocotools(simple, *mask.shape), mask) > 0.98


@pytest.mark.parametrize("radius", [3, 6, 12])
def test_small_masks_keep_their_shape(radius: int) -> None:
    mask = blob(1, 40, 40, radius)
    assert iou(filled(polygons(mask, 1.0), 40, 40) > 0, mask) > 0.8


def test_every_corner_of_the_mask_is_within_the_tolerance() -> None:
    mask = blob(3)
    (exact,), (simple,) = polygons(mask), polygons(mask, 2.0)
    a = np.array(simple).reshape(-1, 2)
    along = np.roll(a, -1, axis=0) - a
    for corner in np.array(exact).reshape(-1, 2):
        share = np.clip(((corner - a) * along).sum(axis=1) / (along**2).sum(axis=1), 0, 1)
        assert np.hypot(*(a + share[:, None] * along - corner).T).min() <= 2.0 + 1e-9


def test_thin_lines_are_kept() -> None:
    mask = np.zeros((50, 60), bool)
    mask[20, 5:55] = True
    mask[np.arange(30, 50), np.arange(10, 30)] = True
    simple = polygons(mask, 1.0)
    assert len(simple) == 21
    assert (filled(simple, 50, 60) > 0)[20, 5:55].all()


def test_a_narrow_band_keeps_its_area() -> None:
    mask = np.zeros((60, 60), bool)
    for step in range(50):
        mask[5 + step : 7 + step, 5 + step] = True
    assert iou(filled(polygons(mask, 1.0), 60, 60) > 0, mask) > 0.6


@pytest.mark.parametrize(("tolerance", "min_area"), [(-1, 0), (float("nan"), 0), (float("inf"), 0), (0, -1)])
def test_a_tolerance_or_area_out_of_range_is_refused(tolerance: float, min_area: float) -> None:
    with pytest.raises(ExportError, match=facts("tolerance", "min_area", "0", str(tolerance), str(min_area))):
        polygons(np.ones((2, 2), bool), tolerance, min_area)


def test_invalid_counts_raise_an_export_error() -> None:
    with pytest.raises(ExportError, match=facts("polygon", "pixels", "11", "12")):
        object_polygons("344", 3, 4, PolygonRules())
