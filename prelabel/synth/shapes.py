"""The building blocks of synthetic scenes: the outlines of fourteen classes, and the colors and patterns of surfaces.

Everything is drawn by this project, without fonts or clip art. An outline is a list of closed polygons in a unit frame
(x to the right, y down, about -1..1), painted on top of each other with 1 (ink) or 0 (a hole). The smallest example is
a triangle:

    [(array([[0, -1], [1, 1], [-1, 1]]), 1)]

The classes remain distinct when they are small, rotated, stretched or partly hidden: there is no square with a diamond,
no hexagon with a circle, and no Z with an S.

Surfaces fill shapes and the background. They are arrays of float32 RGB in 0..255.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Outline = list[tuple[Points, int]]


def _circle(radius: float, steps: int = 72, center: tuple[float, float] = (0.0, 0.0)) -> Points:
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> Points:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _stroke(path: Points, width: float) -> Outline:
    """The stroke of a pen of this width along a path: a quadrilateral per segment, and round joints between them."""
    ink: Outline = []
    for start, end in itertools.pairwise(path):
        along = (end - start) / np.hypot(*(end - start))
        aside = np.array([-along[1], along[0]]) * width / 2
        ink.append((np.array([start + aside, end + aside, end - aside, start - aside]), 1))
    ink += [(_circle(width / 2, 12, (x, y)), 1) for x, y in path[1:-1]]
    return ink


def _ring(rng: np.random.Generator) -> Outline:
    inner = rng.uniform(0.5, 0.74)
    return [(_circle(1), 1), (_circle(inner), 0)]


def _triangle(rng: np.random.Generator) -> Outline:
    return [(np.array([[rng.uniform(-0.3, 0.3), -1], [1, 0.8], [-1, 0.8]]), 1)]


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
    # A circle minus a smaller circle that is shifted to the right.
    shift, radius = rng.uniform(0.42, 0.55), rng.uniform(0.78, 0.86)
    return [(_circle(1), 1), (_circle(radius, center=(shift, 0.0)), 0)]


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
    # name: outline, largest aspect ratio after stretching, largest rotation in degrees
    "ellipse": (lambda _: [(_circle(1), 1)], 4.0, 180),
    "ring": (_ring, 2.5, 180),
    "triangle": (_triangle, 2.5, 180),
    "rectangle": (lambda _: [(_rectangle(-1, -1, 1, 1), 1)], 5.0, 180),
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
"""Class names; the category id of a class is its position here, counted from 1."""


def random_outline(rng: np.random.Generator, category_id: int, size: float) -> Outline:
    """A random instance of a class: its outline stretched, rotated and scaled, in pixels around (0, 0).

    Args:
        rng: Source of all random choices.
        category_id: 1-based position in `CLASS_NAMES`.
        size: Geometric mean of the width and height of the outline's box, in pixels.
    """
    make_outline, max_aspect, max_rotation = _SHAPES[CLASS_NAMES[category_id - 1]]
    outline = make_outline(rng)
    # Triangular in the logarithm: most instances are close to their natural shape, and some reach the limit.
    aspect = np.exp(rng.triangular(-1, 0, 1) * np.log(max_aspect) / 2)
    angle = np.deg2rad(rng.uniform(-max_rotation, max_rotation))
    stretch = np.array([[aspect, 0], [0, 1 / aspect]])
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    transformed = [(points @ stretch @ rotate.T, ink) for points, ink in outline]
    inked = np.concatenate([points for points, ink in transformed if ink])
    low, high = inked.min(axis=0), inked.max(axis=0)
    scale = size / np.sqrt(np.prod(high - low))
    return [((points - (low + high) / 2) * scale, ink) for points, ink in transformed]


_PATTERNS = ("flat", "linear", "radial", "stripes", "checker", "noise")
# Patterns with hard edges are rarer on backgrounds than on shapes.
_ON_SHAPES = (0.32, 0.22, 0.1, 0.12, 0.06, 0.18)
_ON_BACKGROUNDS = (0.0, 0.25, 0.15, 0.1, 0.05, 0.45)


def random_color(rng: np.random.Generator) -> FloatArray:
    """`(3,)` RGB, spread evenly over the cube."""
    return rng.uniform(8, 247, 3).astype(np.float32)


def distinct_color(rng: np.random.Generator, other: FloatArray, distance: float) -> FloatArray:
    """A color at least `distance` (Euclidean, RGB) from another color, or the farthest of twenty random colors."""
    best = random_color(rng)
    for _ in range(20):
        if np.linalg.norm(best - other) >= distance:
            break
        candidate = random_color(rng)
        if np.linalg.norm(candidate - other) > np.linalg.norm(best - other):
            best = candidate
    return best


def _noise(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Clouds: a coarse random grid, smoothly enlarged, plus a finer and fainter one."""
    cells = int(rng.integers(2, 9))
    total = np.zeros((height, width), np.float32)
    for octave, weight in ((cells, 0.65), (cells * 4, 0.35)):
        grid = rng.random((octave, octave), dtype=np.float32)
        smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
        total += weight * np.asarray(smooth)
    return total


def _clipped(share: npt.NDArray[Any]) -> FloatArray:
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def _pattern(rng: np.random.Generator, height: int, width: int, chances: tuple[float, ...]) -> FloatArray:
    """The share of the second color, 0..1, as `(height, width)`, or `(1, 1)` for a flat pattern."""
    kind = _PATTERNS[int(rng.choice(len(_PATTERNS), p=chances))]
    if kind == "flat":
        return np.zeros((1, 1), np.float32)
    if kind == "noise":
        return _noise(rng, height, width)
    angle = rng.uniform(0, 2 * math.pi)
    # Python floats leave float32 arrays in float32 in every version of NumPy, so all versions draw the same image.
    cos, sin = math.cos(angle), math.sin(angle)
    side = float(max(height, width))
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / side
    x = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / side
    along = cos * x + sin * y
    if kind == "linear":
        return _clipped(along + 0.5)
    if kind == "radial":
        cx, cy = rng.uniform(-0.4, 0.4, 2).tolist()
        return _clipped(np.sqrt((x - cx) ** 2 + (y - cy) ** 2) * rng.uniform(0.8, 1.6))
    period = rng.uniform(5, max(6.0, side / 3)) / side
    stripes = along * (2 * math.pi / period)
    if kind == "stripes":
        return _clipped(0.5 + np.sin(stripes) * rng.uniform(0.6, 3))
    across = (cos * y - sin * x) * (2 * math.pi / period)
    return np.asarray((np.sin(stripes) * np.sin(across)) > 0, dtype=np.float32)


def shape_fill(rng: np.random.Generator, height: int, width: int, surroundings: FloatArray) -> FloatArray:
    """The fill of a shape: `(height, width, 3)`, or `(1, 1, 3)` if it is a single color.

    Args:
        rng: Source of all random choices.
        height: Pixels of the shape's box.
        width: Pixels of the shape's box.
        surroundings: `(3,)` mean color around the shape; the fill differs from it.
    """
    first = distinct_color(rng, surroundings, rng.uniform(70, 140))
    second = np.clip(first + rng.uniform(-70, 70, 3), 0, 255).astype(np.float32)
    if np.linalg.norm(second - surroundings) < 50:
        second = first
    return first + (second - first) * _pattern(rng, height, width, _ON_SHAPES)[..., None]


def background(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """A `(height, width, 3)` background of one to three patterns, never flat."""
    first, second = random_color(rng), random_color(rng)
    second = first + (second - first) * np.float32(rng.uniform(0.25, 0.8))
    ground = first + (second - first) * _pattern(rng, height, width, _ON_BACKGROUNDS)[..., None]
    if rng.random() < 0.5:
        third = np.clip(first + rng.uniform(-60, 60, 3), 0, 255).astype(np.float32)
        ground = ground + (third - ground) * (0.6 * _pattern(rng, height, width, _ON_BACKGROUNDS)[..., None])
    return np.array(np.broadcast_to(ground, (height, width, 3)), dtype=np.float32, order="C")
