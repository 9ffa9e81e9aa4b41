"""Colour and pattern: what shapes are filled with and what they lie on. Arrays of float32 in 0..255, RGB."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]

_PATTERNS = ("flat", "linear", "radial", "stripes", "checker", "noise")
# Patterns with hard edges of their own are rarer on backgrounds than on shapes, yet not absent.
_ON_SHAPES = (0.32, 0.22, 0.1, 0.12, 0.06, 0.18)
_ON_BACKGROUNDS = (0.0, 0.25, 0.15, 0.1, 0.05, 0.45)


def random_colour(rng: np.random.Generator) -> FloatArray:
    """`(3,)` RGB, spread evenly over the cube."""
    return rng.uniform(8, 247, 3).astype(np.float32)


def distinct_colour(rng: np.random.Generator, other: FloatArray, distance: float) -> FloatArray:
    """A colour at least `distance` (Euclidean, RGB) from another one; the farthest of twenty tries if none is."""
    best = random_colour(rng)
    for _ in range(20):
        if np.linalg.norm(best - other) >= distance:
            break
        candidate = random_colour(rng)
        if np.linalg.norm(candidate - other) > np.linalg.norm(best - other):
            best = candidate
    return best


def _noise(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Clouds: a coarse random grid blown up smoothly, with a finer and fainter one over it."""
    cells = int(rng.integers(2, 9))
    total = np.zeros((height, width), np.float32)
    for octave, weight in ((cells, 0.65), (cells * 4, 0.35)):
        grid = rng.random((octave, octave), dtype=np.float32)
        smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
        total += weight * np.asarray(smooth)
    return total


def _limited(share: npt.NDArray[Any]) -> FloatArray:
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def _pattern(rng: np.random.Generator, height: int, width: int, chances: tuple[float, ...]) -> FloatArray:
    """`(height, width)` (or `(1, 1)` when flat) in 0..1: how much of the second colour lies where."""
    kind = _PATTERNS[int(rng.choice(len(_PATTERNS), p=chances))]
    if kind == "flat":
        return np.zeros((1, 1), np.float32)
    if kind == "noise":
        return _noise(rng, height, width)
    angle = rng.uniform(0, 2 * math.pi)
    # Python's own floats beside float32 arrays: any NumPy keeps float32, and so the same picture.
    cos, sin = math.cos(angle), math.sin(angle)
    side = float(max(height, width))
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / side
    x = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / side
    along = cos * x + sin * y
    if kind == "linear":
        return _limited(along + 0.5)
    if kind == "radial":
        cx, cy = rng.uniform(-0.4, 0.4, 2).tolist()
        return _limited(np.sqrt((x - cx) ** 2 + (y - cy) ** 2) * rng.uniform(0.8, 1.6))
    period = rng.uniform(5, max(6.0, side / 3)) / side
    stripes = along * (2 * math.pi / period)
    if kind == "stripes":
        return _limited(0.5 + np.sin(stripes) * rng.uniform(0.6, 3))
    across = (cos * y - sin * x) * (2 * math.pi / period)
    return np.asarray((np.sin(stripes) * np.sin(across)) > 0, dtype=np.float32)


def shape_fill(rng: np.random.Generator, height: int, width: int, surroundings: FloatArray) -> FloatArray:
    """What a shape is filled with: `(height, width, 3)`, or `(1, 1, 3)` where it is one colour.

    Args:
        rng: Where every choice comes from.
        height: Pixels of the shape's box.
        width: Pixels of the shape's box.
        surroundings: `(3,)` mean colour of what it will lie on; the fill keeps a distance from it.
    """
    first = distinct_colour(rng, surroundings, rng.uniform(70, 140))
    second = np.clip(first + rng.uniform(-70, 70, 3), 0, 255).astype(np.float32)
    if np.linalg.norm(second - surroundings) < 50:
        second = first
    return first + (second - first) * _pattern(rng, height, width, _ON_SHAPES)[..., None]


def background(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """A background of one to three patterns that is never flat: `(height, width, 3)`."""
    first, second = random_colour(rng), random_colour(rng)
    second = first + (second - first) * np.float32(rng.uniform(0.25, 0.8))
    ground = first + (second - first) * _pattern(rng, height, width, _ON_BACKGROUNDS)[..., None]
    if rng.random() < 0.5:
        third = np.clip(first + rng.uniform(-60, 60, 3), 0, 255).astype(np.float32)
        ground = ground + (third - ground) * (0.6 * _pattern(rng, height, width, _ON_BACKGROUNDS)[..., None])
    return np.array(np.broadcast_to(ground, (height, width, 3)), dtype=np.float32, order="C")
