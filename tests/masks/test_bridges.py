"""Joined contours fill exactly the area of the contours, by the even-odd and the nonzero rule, over short bridges."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from prelabel.errors import ExportError
from prelabel.masks import rle
from prelabel.masks.bridges import MOST_CORNERS, join_contours
from prelabel.masks.polygons import FRAGMENT_SHARE, PolygonRules, mask_parts, object_polygons
from tests.masks.test_polygons import filled, from_pycocotools, iou, masks


def square(x: float, y: float, size: float = 2) -> np.ndarray:
    return np.array([(x, y), (x + size, y), (x + size, y + size), (x, y + size)], float)


def area(outline: np.ndarray) -> float:
    x, y = outline.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def bridge_length(outline: np.ndarray, rings: list[np.ndarray]) -> float:
    """Total length of the bridges: the part of the outline that does not follow the rings, in one direction."""
    whole = sum(np.hypot(*(ring - np.roll(ring, -1, axis=0)).T).sum() for ring in rings)
    return float(np.hypot(*(outline - np.roll(outline, -1, axis=0)).T).sum() - whole) / 2


def spanning_length(rings: list[np.ndarray]) -> float:
    """The smallest total length of lines between corners that join all rings (Kruskal), from all pairs of rings."""
    edges = sorted(
        (float(np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)).min()), i, j)
        for (i, a), (j, b) in itertools.combinations(enumerate(rings), 2)
    )
    group = list(range(len(rings)))
    total = 0.0
    for length, i, j in edges:
        if group[i] != group[j]:
            total += length
            group = [group[i] if number == group[j] else number for number in group]
    return total


def test_literal_corners_of_two_joined_squares() -> None:
    left, right = square(0, 0), square(4, 0)
    assert join_contours([left]).tolist() == left.tolist()
    assert join_contours([left, right]).tolist() == [
        [0, 0],
        [2, 0],
        [4, 0],
        [6, 0],
        [6, 2],
        [4, 2],
        [4, 0],
        [2, 0],
        [2, 2],
        [0, 2],
    ]
    # Two bridges start at one corner, and one at a square that is itself attached to another.
    assert area(join_contours([left, right, square(2, 5), square(9, 0)])) == 16


@settings(deadline=None, max_examples=200)
@given(masks)
def test_the_joined_polygon_fills_exactly_the_mask(mask: np.ndarray) -> None:
    polygons, undrawn = object_polygons(rle.encode(mask), *mask.shape, PolygonRules(0, parts="bridge"))
    assert len(polygons) == bool(mask.any())
    assert undrawn == 0
    np.testing.assert_array_equal(filled(polygons, *mask.shape), mask)  # by winding: 1 inside, never 2 or -1
    if polygons:
        np.testing.assert_array_equal(from_pycocotools(polygons, *mask.shape), mask)


@settings(deadline=None, max_examples=50)
@given(masks, st.integers(7, 4000), st.integers(7, 4000))
def test_a_polygon_rounded_to_percent_still_fills_the_mask(mask: np.ndarray, height: int, width: int) -> None:
    """Both passes of a bridge are rounded to the same points."""
    polygons, _ = object_polygons(rle.encode(mask), *mask.shape, PolygonRules(0, parts="bridge"))
    scale = np.array((width / mask.shape[1], height / mask.shape[0]))
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2)) * scale
        percent = np.round(100 * points / (width, height), 4)
        assert abs(abs(area(percent / 100)) - mask.sum() / mask.size) < 1e-5
        back = (percent / 100 * mask.shape[::-1]).ravel().tolist()
        np.testing.assert_array_equal(filled([back], *mask.shape) % 2 == 1, mask)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12, unique=True))
def test_bridges_have_the_smallest_possible_total_length(places: list[tuple[int, int]]) -> None:
    rings = [square(3 * x, 3 * y) for x, y in places]
    outline = join_contours(rings)
    assert bridge_length(outline, rings) == pytest.approx(spanning_length(rings), abs=1e-6)
    assert area(outline) == pytest.approx(4 * len(rings))


def test_bridges_end_at_the_nearest_corners_even_if_corners_are_sampled() -> None:
    angle = np.linspace(0, 2 * np.pi, 3 * MOST_CORNERS, endpoint=False)
    left = 100 * np.stack((np.cos(angle + 0.4), np.sin(angle + 0.4)), axis=1)
    right = 100 * np.stack((np.cos(angle + 1.1), np.sin(angle + 1.1)), axis=1) + (205, 3)
    assert bridge_length(join_contours([left, right]), [left, right]) == pytest.approx(
        spanning_length([left, right]), rel=1e-4
    )


@pytest.mark.parametrize(("number", "seconds"), [(400, 0.3), (MOST_CORNERS + 1, 3.0), (10_000, 10.0)])
def test_joining_hundreds_or_thousands_of_parts_is_fast(number: int, seconds: float) -> None:
    side = int(np.ceil(number**0.5))
    rings = [square(3 * (n % side), 3 * (n // side)) for n in range(number)]
    best = np.inf
    for _ in range(3):
        start = time.process_time()
        outline = join_contours(rings)
        best = min(best, time.process_time() - start)
    assert area(outline) == pytest.approx(4 * number)
    assert bridge_length(outline, rings) < 1.2 * (number - 1)
    assert best < seconds


def test_a_long_chain_of_parts_does_not_overflow_the_stack() -> None:
    rings = [square(3 * n, 0) for n in range(1500)]
    assert area(join_contours(rings)) == 6000


def ellipses(seed: int, height: int = 300, width: int = 400) -> np.ndarray:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(12):
        cx, cy, a, b = random.uniform((0, 0, 5, 5), (width, height, 60, 60))
        ring = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2
        mask |= (ring < 1) & (ring > random.choice([0, 0.3]))
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_a_simplified_and_bridged_polygon_differs_from_the_mask_only_at_its_edge(seed: int) -> None:
    """By both rules of filling: even-odd (Pillow, OpenCV, COCO) and nonzero (a browser's canvas and SVG)."""
    mask = ellipses(seed)
    parts, _ = mask_parts(rle.encode(mask), *mask.shape, PolygonRules(1.0))
    ((polygon,), _) = object_polygons(rle.encode(mask), *mask.shape, PolygonRules(1.0, parts="bridge"))
    winding = filled([polygon], *mask.shape)
    several = sum(filled([join_contours(part).ravel().tolist()], *mask.shape) for part in parts)
    np.testing.assert_array_equal(winding, several)  # the bridges between parts change no pixel
    assert iou(winding != 0, mask) > 0.97
    assert iou(winding % 2 == 1, mask) > 0.97
    assert iou(winding != 0, winding % 2 == 1) > 0.999
    assert iou(from_pycocotools([polygon], *mask.shape), mask) > 0.96
    # Pillow draws the outline, too, which shows the bridges as lines one pixel wide.
    joined, separate = (Image.new("1", mask.shape[::-1]) for _ in range(2))
    ImageDraw.Draw(joined).polygon(polygon, fill=1)
    for part in parts:
        ImageDraw.Draw(separate).polygon(join_contours(part).ravel().tolist(), fill=1)
    rings = [join_contours(part) for part in parts]
    length = bridge_length(np.reshape(polygon, (-1, 2)), rings) + len(parts)
    assert np.count_nonzero(np.array(joined) != np.array(separate)) <= length


def test_small_fragments_are_dropped_and_counted() -> None:
    mask = np.zeros((40, 60), bool)
    mask[2:32, 2:32] = True  # 900 pixels
    mask[5:15, 40:55] = True  # 150
    mask[20, 40:50] = True  # 10 of 1,069: less than 1%
    mask[25:28, 40:43] = True  # 9
    counts = rle.encode(mask)
    for parts, number, undrawn in [("bridge", 1, 2), ("split", 2, 2), ("largest", 1, 3)]:
        made = object_polygons(counts, 40, 60, PolygonRules(0, 0, FRAGMENT_SHARE, parts))
        assert (len(made.polygons), made.undrawn) == (number, undrawn)
    joined, _ = object_polygons(counts, 40, 60, PolygonRules(0, 0, FRAGMENT_SHARE, "bridge"))
    assert filled(joined, 40, 60).sum() == 1050
    assert object_polygons(counts, 40, 60, PolygonRules(0)).undrawn == 0


def test_a_part_of_one_percent_is_kept_and_its_holes_do_not_count_as_pixels() -> None:
    mask = np.zeros((20, 60), bool)
    mask[0:11, 0:9] = True  # 99 pixels
    mask[15, 20] = True  # 1 of 100
    assert object_polygons(rle.encode(mask), 20, 60, PolygonRules(0, 0, FRAGMENT_SHARE)).undrawn == 0
    mask[12, 0] = True  # 1 of 101
    assert object_polygons(rle.encode(mask), 20, 60, PolygonRules(0, 0, FRAGMENT_SHARE)).undrawn == 2
    frame = np.zeros((100, 200), bool)
    frame[0:90, 0:100] = True
    frame[10:40, 120:150] = True
    frame[11:39, 121:149] = False  # a frame of 116 pixels around 784
    assert object_polygons(rle.encode(frame), 100, 200, PolygonRules(0, 0, FRAGMENT_SHARE)).undrawn == 0
    frame[0:99, 0:119] = True  # 11,781
    made = object_polygons(rle.encode(frame), 100, 200, PolygonRules(0, 0, FRAGMENT_SHARE, "bridge"))
    assert made.undrawn == 1
    assert filled(made.polygons, 100, 200).sum() == 11_781  # and no hole of it is left


def test_the_largest_part_is_kept_whatever_its_share() -> None:
    mask = np.indices((40, 40)).sum(axis=0) % 2 == 0
    mask[0, 1] = True
    made = object_polygons(rle.encode(mask), 40, 40, PolygonRules(0, 0, FRAGMENT_SHARE, "bridge"))
    assert filled(made.polygons, 40, 40).sum() == 4
    assert made.undrawn == 797


@pytest.mark.parametrize("wrong", [{"parts": "glue"}, {"min_share": -0.1}, {"min_share": 2}, {"tolerance": -1}])
def test_rules_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ExportError):
        PolygonRules(**wrong)
