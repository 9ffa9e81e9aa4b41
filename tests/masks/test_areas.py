"""Areas: the pixels of polygons, and the overlap of boxes and pixels."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prelabel.masks import rle
from prelabel.masks.areas import Area, area_of_mask, area_of_polygons, iou, union
from prelabel.masks.polygons import PolygonRules, object_polygons
from tests.rows import mask_of


def outline(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


def drawn(area: Area, height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width), bool)
    assert area.pixels is not None
    h, w = area.pixels.shape
    image[area.top : area.top + h, area.left : area.left + w] = area.pixels
    return image


def test_a_triangle_has_the_pixels_whose_center_lies_inside() -> None:
    area = area_of_polygons([outline((0, 0), (4, 0), (0, 4))], 4, 4)
    assert rle.encode(drawn(area, 4, 4)) == mask_of("###.", "##..", "#...", "....")
    assert area.xyxy == (0, 0, 4, 4)


def test_polygons_of_a_mask_fill_the_mask() -> None:
    random = np.random.default_rng(5)
    for _ in range(60):
        height, width = random.integers(3, 30, 2)
        mask = random.random((height, width)) < random.uniform(0.2, 0.95)
        mask[1, 1] = True
        counts = rle.encode(mask)
        parts = [
            np.array(polygon).reshape(-1, 2)
            for polygon in object_polygons(counts, height, width, PolygonRules(0)).polygons
        ]
        assert np.array_equal(drawn(area_of_polygons(parts, height, width), height, width), mask)
        assert iou(area_of_polygons(parts, height, width), area_of_mask(counts, height, width)) == 1


def test_polygons_are_clipped_to_the_image() -> None:
    area = area_of_polygons([outline((-5, -5), (3, -5), (3, 3), (-5, 3))], 4, 4)
    assert area.xyxy == (0, 0, 3, 3)
    assert drawn(area, 4, 4).sum() == 9


def test_iou_of_pixels_equals_pycocotools() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        masks = [random.random((12, 17)) < 0.4 for _ in range(2)]
        for mask in masks:
            mask[5, 5] = True
        areas = [area_of_mask(rle.encode(mask), 12, 17) for mask in masks]
        coded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
        assert iou(*areas) == pytest.approx(coco_mask.iou([coded[0]], [coded[1]], [0])[0, 0])


def test_iou_of_boxes() -> None:
    assert iou(Area((0, 0, 2, 2)), Area((1, 0, 3, 2))) == pytest.approx(1 / 3)
    assert iou(Area((0, 0, 2, 2)), Area((2, 0, 3, 2))) == 0
    assert iou(Area((1, 1, 1, 1)), Area((1, 1, 1, 1))) == 0


def test_a_box_and_pixels_are_compared_as_boxes() -> None:
    pixels = area_of_mask(mask_of("##..", "#...", "....", "...."), 4, 4)
    assert iou(Area((0, 0, 2, 2)), pixels) == 1


def test_a_union_has_the_pixels_of_all_its_areas() -> None:
    both = union(
        [
            area_of_mask(mask_of("#...", "....", "....", "...."), 4, 4),
            area_of_mask(mask_of(*["...."] * 3, "...#"), 4, 4),
        ]
    )
    assert rle.encode(drawn(both, 4, 4)) == mask_of("#...", "....", "....", "...#")
    assert both.xyxy == (0, 0, 4, 4)
    assert union([both, Area((0, 0, 1, 1))]).pixels is None
