"""Draw a scene: an image of shapes and letters, with the instance that each pixel shows.

    scene = draw_scene(seed=7, index=0)
    scene.pixels            # (height, width, 3) uint8
    scene.instance_map      # (height, width) uint8: 0 background, k the k-th instance, visible pixels only
    scene.category_ids[k - 1], scene.xyxy[k - 1]

A scene depends only on its seed and index, so any process can draw it.

A shape counts as an instance if at least a quarter of it (as drawn, cropped at the image border) is visible, and the
box of its visible part is at least 8 pixels wide and high. Almost all shapes do, since a later shape is placed so that
it hides at most 30% of an earlier one: half of a cross could look like an arrow or a rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from prelabel.synth.shapes import CLASS_NAMES, FloatArray, Outline, background, random_outline, shape_fill

MIN_VISIBLE_SHARE = 0.25
MIN_REMAINING_SHARE = 0.7
MIN_BOX_SIDE = 8
LONG_SIDE_RANGE = (240, 512)


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and its ground truth.

    Attributes:
        pixels: `(height, width, 3)` uint8 RGB.
        instance_map: `(height, width)` uint8, 0 for the background, else 1 + the index of the visible instance.
        category_ids: `(N,)` int32, 1-based positions in `CLASS_NAMES`.
        xyxy: `(N, 4)` float32 pixels x1 y1 x2 y2, the box of the visible mask.
    """

    pixels: npt.NDArray[np.uint8]
    instance_map: npt.NDArray[np.uint8]
    category_ids: npt.NDArray[np.int32]
    xyxy: npt.NDArray[np.float32]


@dataclass(slots=True)
class _Canvas:
    """An unfinished scene.

    Attributes:
        colors: `(height, width, 3)` RGB in 0..255.
        owner: `(height, width)` the visible shape per pixel, counted from 1; 0 for the background.
        category_ids: The class of each shape.
        drawn: The number of pixels of each shape when it was drawn.
    """

    colors: FloatArray
    owner: npt.NDArray[np.uint8]
    category_ids: list[int]
    drawn: list[int]


def draw_scene(seed: int, index: int) -> Scene:
    """Draw scene `index` of a seed; equal arguments give equal arrays."""
    rng = np.random.default_rng([seed, index])
    long = int(rng.integers(LONG_SIDE_RANGE[0], LONG_SIDE_RANGE[1] + 1))
    short = round(long * rng.uniform(0.5, 1.0))
    height, width = (short, long) if rng.random() < 0.6 else (long, short)
    canvas = _Canvas(background(rng, height, width), np.zeros((height, width), np.uint8), [], [])
    count = int(rng.integers(1, 13))
    sizes = np.exp(rng.uniform(np.log(10), np.log(0.8 * short), count))
    if rng.random() < 0.15:
        sizes[0] = rng.uniform(0.7, 1.0) * np.sqrt(short * long)
    # Draw most large shapes before the small ones, which they would otherwise hide.
    for size in sorted(sizes, key=lambda value: -value * rng.uniform(0.4, 1.6)):
        _try_to_add(rng, canvas, size)
    return _finish(rng, canvas)


def _coverage(outline: Outline, left: int, top: int, width: int, height: int, fine: int) -> FloatArray:
    """The share of each pixel of a window that is ink, 0..1: drawn `fine` times larger and averaged."""
    large = Image.new("L", (width * fine, height * fine))
    draw = ImageDraw.Draw(large)
    for points, ink in outline:
        # Subtract half a pixel, since Pillow's integer coordinates are pixel centers.
        moved = (points - (left, top)) * fine - 0.5
        draw.polygon([(x, y) for x, y in moved.tolist()], fill=255 * ink)
    return np.asarray(np.asarray(large.reduce(fine), np.float32) / 255, dtype=np.float32)


def _try_to_add(rng: np.random.Generator, canvas: _Canvas, size: float) -> None:
    """Add a shape where it does not hide another one too much; after six attempts the shape is skipped."""
    height, width = canvas.owner.shape
    category_id = int(rng.integers(1, len(CLASS_NAMES) + 1))
    outline = random_outline(rng, category_id, size)
    inked = np.concatenate([points for points, ink in outline if ink])
    (low_x, low_y), (high_x, high_y) = inked.min(axis=0), inked.max(axis=0)
    # A shape that is wider or higher than the image is shrunk to 1.1 times the image.
    shrink = min(1.0, 1.1 * width / (high_x - low_x), 1.1 * height / (high_y - low_y))
    # Make every shape large enough to count as an instance.
    shrink = max(shrink, (MIN_BOX_SIDE + 0.5) / min(high_x - low_x, high_y - low_y))
    outline = [(points * shrink, ink) for points, ink in outline]
    half_x, half_y = (high_x - low_x) / 2 * shrink, (high_y - low_y) / 2 * shrink
    for _ in range(6):
        # Most shapes are completely inside the image; one in eight may extend outside by up to a third.
        out = rng.uniform(0, 0.67) if rng.random() < 0.125 else 0.0
        x = _position(rng, half_x * (1 - out), width)
        y = _position(rng, half_y * (1 - out), height)
        left, top = max(0, int(np.floor(x - half_x)) - 1), max(0, int(np.floor(y - half_y)) - 1)
        right, bottom = min(width, int(np.ceil(x + half_x)) + 1), min(height, int(np.ceil(y + half_y)) + 1)
        moved = [(points + np.array([x, y]), ink) for points, ink in outline]
        alpha = _coverage(moved, left, top, right - left, bottom - top, 4 if size < 100 else 2)
        window = (slice(top, bottom), slice(left, right))
        solid = alpha >= 0.5
        if solid.any() and _leaves_others_visible(canvas, window, solid):
            _paint(rng, canvas, window, alpha, solid)
            canvas.category_ids.append(category_id)
            canvas.drawn.append(int(np.count_nonzero(solid)))
            return


def _position(rng: np.random.Generator, half: float, length: int) -> float:
    return float(rng.uniform(half, length - half)) if 2 * half < length else length / 2


def _leaves_others_visible(canvas: _Canvas, window: tuple[slice, slice], solid: npt.NDArray[np.bool_]) -> bool:
    """Whether every earlier shape remains visible enough to be recognized."""
    hidden = np.bincount(canvas.owner[window][solid], minlength=len(canvas.drawn) + 1)[1:]
    if not hidden.any():
        return True
    seen = np.bincount(canvas.owner.ravel(), minlength=len(canvas.drawn) + 1)[1:]
    remaining = seen - hidden
    return not np.any((hidden > 0) & (remaining < MIN_REMAINING_SHARE * np.array(canvas.drawn)))


def _paint(
    rng: np.random.Generator,
    canvas: _Canvas,
    window: tuple[slice, slice],
    alpha: FloatArray,
    solid: npt.NDArray[np.bool_],
) -> None:
    if rng.random() < 0.3:
        _cast_shadow(rng, canvas, window, alpha)
    below = canvas.colors[window]
    height, width = alpha.shape
    surroundings = below[:: max(1, height // 16), :: max(1, width // 16)].mean(axis=(0, 1))
    fill = shape_fill(rng, height, width, surroundings)
    below += (fill - below) * alpha[..., None]
    canvas.owner[window][solid] = len(canvas.drawn) + 1


def _cast_shadow(rng: np.random.Generator, canvas: _Canvas, window: tuple[slice, slice], alpha: FloatArray) -> None:
    height, width = canvas.owner.shape
    side = min(alpha.shape)
    reach = int(np.clip(side * rng.uniform(0.05, 0.25), 1, 14))
    dy, dx = rng.integers(-reach, reach + 1, 2)
    strength = np.float32(rng.uniform(0.2, 0.55))
    rows, columns = window
    top, left = rows.start + dy - reach, columns.start + dx - reach
    padded = Image.fromarray((np.pad(alpha, reach) * 255).astype(np.uint8))
    dark = np.asarray(padded.filter(ImageFilter.BoxBlur(reach / 2)), np.float32)
    y1, x1 = max(0, top), max(0, left)
    y2, x2 = min(height, top + dark.shape[0]), min(width, left + dark.shape[1])
    if y1 < y2 and x1 < x2:
        part = dark[y1 - top : y2 - top, x1 - left : x2 - left, None]
        canvas.colors[y1:y2, x1:x2] *= 1 - part * (strength / 255)


def _finish(rng: np.random.Generator, canvas: _Canvas) -> Scene:
    """Add camera noise and blur to the image, and select the instances by the rule in the module docstring."""
    colors = canvas.colors
    height, width = canvas.owner.shape
    if rng.random() < 0.4:
        colors += rng.standard_normal((height, width, 1 if rng.random() < 0.5 else 3), np.float32) * np.float32(
            rng.uniform(1, 14)
        )
    if rng.random() < 0.3:
        ramp = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.8, 1.2), width, dtype=np.float32)
        colors *= ramp[None, :, None]
    image = Image.fromarray(np.clip(colors, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3)))
    seen = np.bincount(canvas.owner.ravel(), minlength=len(canvas.drawn) + 1)
    renumber = np.zeros(len(canvas.drawn) + 1, np.uint8)
    category_ids, boxes = [], []
    for number, (category_id, drawn) in enumerate(zip(canvas.category_ids, canvas.drawn, strict=True), start=1):
        if seen[number] < MIN_VISIBLE_SHARE * drawn:
            continue
        mask = canvas.owner == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        if min(x2 - x1, y2 - y1) < MIN_BOX_SIDE:
            continue
        category_ids.append(category_id)
        boxes.append((x1, y1, x2, y2))
        renumber[number] = len(boxes)
    return Scene(
        pixels=np.asarray(image),
        instance_map=renumber[canvas.owner],
        category_ids=np.array(category_ids, np.int32),
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
    )
