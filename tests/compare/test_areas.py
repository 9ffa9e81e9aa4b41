"""Areas: what outlines fill, and overlaps of boxes and pixels."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prelabel import rle
from prelabel.compare.areas import Area, iou, of_mask, of_outlines, union
from prelabel.export.polygons import polygons_from_rle
from tests.rows import mask_of


def outline(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


def drawn(area: Area, height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width), bool)
    assert area.pixels is not None
    h, w = area.pixels.shape
    image[area.top : area.top + h, area.left : area.left + w] = area.pixels
    return image


def test_a_triangle_has_the_pixels_whose_middle_lies_inside() -> None:
    area = of_outlines([outline((0, 0), (4, 0), (0, 4))], 4, 4)
    assert rle.encode(drawn(area, 4, 4)) == mask_of("###.", "##..", "#...", "....")
    assert area.xyxy == (0, 0, 4, 4)


def test_outlines_of_masks_fill_the_masks() -> None:
    random = np.random.default_rng(5)
    for _ in range(60):
        height, width = random.integers(3, 30, 2)
        mask = random.random((height, width)) < random.uniform(0.2, 0.95)
        mask[1, 1] = True
        counts = rle.encode(mask)
        parts = [np.array(one).reshape(-1, 2) for one in polygons_from_rle(counts, height, width, 0)]
        assert np.array_equal(drawn(of_outlines(parts, height, width), height, width), mask)
        assert iou(of_outlines(parts, height, width), of_mask(counts, height, width)) == 1


def test_what_leaves_the_image_is_cut_off() -> None:
    area = of_outlines([outline((-5, -5), (3, -5), (3, 3), (-5, 3))], 4, 4)
    assert area.xyxy == (0, 0, 3, 3)
    assert drawn(area, 4, 4).sum() == 9


def test_overlap_of_pixels_is_cocos() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        masks = [random.random((12, 17)) < 0.4 for _ in range(2)]
        for mask in masks:
            mask[5, 5] = True
        areas = [of_mask(rle.encode(mask), 12, 17) for mask in masks]
        coded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
        assert iou(*areas) == pytest.approx(coco_mask.iou([coded[0]], [coded[1]], [0])[0, 0])


def test_overlap_of_boxes() -> None:
    assert iou(Area((0, 0, 2, 2)), Area((1, 0, 3, 2))) == pytest.approx(1 / 3)
    assert iou(Area((0, 0, 2, 2)), Area((2, 0, 3, 2))) == 0
    assert iou(Area((1, 1, 1, 1)), Area((1, 1, 1, 1))) == 0


def test_a_box_and_pixels_are_compared_as_boxes() -> None:
    pixels = of_mask(mask_of("##..", "#...", "....", "...."), 4, 4)
    assert iou(Area((0, 0, 2, 2)), pixels) == 1


def test_a_union_has_the_pixels_of_all() -> None:
    both = union(
        [of_mask(mask_of("#...", "....", "....", "...."), 4, 4), of_mask(mask_of(*["...."] * 3, "...#"), 4, 4)]
    )
    assert rle.encode(drawn(both, 4, 4)) == mask_of("#...", "....", "....", "...#")
    assert both.xyxy == (0, 0, 4, 4)
    assert union([both, Area((0, 0, 1, 1))]).pixels is None
