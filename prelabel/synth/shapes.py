"""The fourteen classes of the synthetic world, as outlines drawn by this project: no font, no clip art.

An outline is a list of closed polygons in a unit frame (x to the right, y down, about -1..1), painted one over the
other with 1 (ink) or 0 (a hole). A triangle, the smallest example:

    [(array([[0, -1], [1, 1], [-1, 1]]), 1)]

The classes were chosen so that they stay different when small, turned, stretched or partly hidden: no square beside a
diamond, no hexagon beside a circle, no Z beside an S.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Outline = list[tuple[Points, int]]


def _circle(radius_x: float, radius_y: float, steps: int = 72, centre: tuple[float, float] = (0.0, 0.0)) -> Points:
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([centre[0] + radius_x * np.cos(angle), centre[1] + radius_y * np.sin(angle)], axis=1)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> Points:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _stroke(path: Points, width: float) -> Outline:
    """A pen of the given width drawn along a path: one quadrilateral a segment and a round joint between two."""
    ink: Outline = []
    for start, end in itertools.pairwise(path):
        along = (end - start) / np.hypot(*(end - start))
        aside = np.array([-along[1], along[0]]) * width / 2
        ink.append((np.array([start + aside, end + aside, end - aside, start - aside]), 1))
    ink += [(_circle(width / 2, width / 2, 12, (x, y)), 1) for x, y in path[1:-1]]
    return ink


def _ellipse(rng: np.random.Generator) -> Outline:
    return [(_circle(1, 1), 1)]


def _ring(rng: np.random.Generator) -> Outline:
    inner = rng.uniform(0.5, 0.74)
    return [(_circle(1, 1), 1), (_circle(inner, inner), 0)]


def _triangle(rng: np.random.Generator) -> Outline:
    return [(np.array([[rng.uniform(-0.3, 0.3), -1], [1, 0.8], [-1, 0.8]]), 1)]


def _rectangle_class(rng: np.random.Generator) -> Outline:
    return [(_rectangle(-1, -1, 1, 1), 1)]


def _frame(rng: np.random.Generator) -> Outline:
    inner = rng.uniform(0.5, 0.74)
    return [(_rectangle(-1, -1, 1, 1), 1), (_rectangle(-inner, -inner, inner, inner), 0)]


def _cross(rng: np.random.Generator) -> Outline:
    half = rng.uniform(0.24, 0.36)
    return [(_rectangle(-half, -1, half, 1), 1), (_rectangle(-1, -half, 1, half), 1)]


def _star(rng: np.random.Generator) -> Outline:
    inner = rng.uniform(0.36, 0.48)
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, inner)
    return [(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), 1)]


def _arrow(rng: np.random.Generator) -> Outline:
    shaft, head = rng.uniform(0.2, 0.32), rng.uniform(-0.15, 0.25)
    points = [[-1, -shaft], [head, -shaft], [head, -0.8], [1, 0], [head, 0.8], [head, shaft], [-1, shaft]]
    return [(np.array(points), 1)]


def _heart(rng: np.random.Generator) -> Outline:
    # The well-known closed curve 16 sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled to the unit frame.
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [(np.stack([x / 16, (y - 2.5) / 14.5], axis=1), 1)]


def _crescent(rng: np.random.Generator) -> Outline:
    # Everything right of the outer circle's rim and outside of a smaller circle shifted to the right.
    shift, radius = rng.uniform(0.42, 0.55), rng.uniform(0.78, 0.86)
    return [(_circle(1, 1), 1), (_circle(radius, radius, centre=(shift, 0.0)), 0)]


def _bolt(rng: np.random.Generator) -> Outline:
    points = np.array([[0.1, -1], [-0.75, 0.2], [-0.1, 0.2], [-0.3, 1], [0.75, -0.3], [0.1, -0.3], [0.55, -1]])
    return [(points * np.array([rng.choice([-1.0, 1.0]), 1.0]), 1)]


def _letter_a(rng: np.random.Generator) -> Outline:
    width, bar = rng.uniform(0.3, 0.46), rng.uniform(0.25, 0.45)
    legs = _stroke(np.array([[-0.85, 1], [0, -0.85], [0.85, 1.0]]), width)
    return [*legs, *_stroke(np.array([[-0.6, bar], [0.6, bar]]), width * 0.8)]


def _letter_e(rng: np.random.Generator) -> Outline:
    half = rng.uniform(0.13, 0.2)
    bars = [_rectangle(-0.8, y - half, x, y + half) for y, x in ((-1 + half, 0.8), (0, 0.65), (1 - half, 0.8))]
    return [(_rectangle(-0.8, -1, -0.8 + 2.2 * half, 1), 1), *((bar, 1) for bar in bars)]


def _letter_s(rng: np.random.Generator) -> Outline:
    upper = np.linspace(np.deg2rad(-25), np.deg2rad(-270), 16)
    lower = np.linspace(np.deg2rad(-90), np.deg2rad(155), 16)
    top = np.stack([0.62 * np.cos(upper), -0.42 + 0.42 * np.sin(upper)], axis=1)
    bottom = np.stack([0.62 * np.cos(lower), 0.42 + 0.42 * np.sin(lower)], axis=1)
    return _stroke(np.concatenate([top, bottom[1:]]), rng.uniform(0.26, 0.38))


_SHAPES: dict[str, tuple[Callable[[np.random.Generator], Outline], float, float]] = {
    # name: outline, greatest aspect ratio it is stretched to, greatest turn in degrees
    "ellipse": (_ellipse, 4.0, 180),
    "ring": (_ring, 2.5, 180),
    "triangle": (_triangle, 2.5, 180),
    "rectangle": (_rectangle_class, 5.0, 180),
    "frame": (_frame, 2.5, 180),
    "cross": (_cross, 2.0, 180),
    "star": (_star, 1.6, 180),
    "arrow": (_arrow, 2.5, 180),
    "heart": (_heart, 1.6, 180),
    "crescent": (_crescent, 1.6, 180),
    "bolt": (_bolt, 2.0, 40),
    "letter A": (_letter_a, 2.0, 25),
    "letter E": (_letter_e, 2.0, 25),
    "letter S": (_letter_s, 2.0, 25),
}

CLASS_NAMES: tuple[str, ...] = tuple(_SHAPES)
"""Class names; the category id of a class is its place here counted from 1."""


def random_outline(rng: np.random.Generator, category_id: int, size: float) -> Outline:
    """One instance of a class: its outline stretched, turned and scaled, in pixels around (0, 0).

    Args:
        rng: Where every choice comes from.
        category_id: 1-based place in `CLASS_NAMES`.
        size: Wanted geometric mean of the width and height of the outline's box, in pixels.
    """
    make, greatest_aspect, greatest_turn = _SHAPES[CLASS_NAMES[category_id - 1]]
    outline = make(rng)
    # Triangular in the logarithm: most instances are near their natural shape, some reach the limit.
    aspect = np.exp(rng.triangular(-1, 0, 1) * np.log(greatest_aspect) / 2)
    turn = np.deg2rad(rng.uniform(-greatest_turn, greatest_turn))
    stretch = np.array([[aspect, 0], [0, 1 / aspect]])
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = [(points @ stretch @ rotate.T, ink) for points, ink in outline]
    every = np.concatenate([points for points, ink in turned if ink])
    low, high = every.min(axis=0), every.max(axis=0)
    scale = size / np.sqrt(np.prod(high - low))
    return [((points - (low + high) / 2) * scale, ink) for points, ink in turned]
