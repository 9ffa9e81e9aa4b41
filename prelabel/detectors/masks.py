"""From scores inside boxes to COCO RLE of the whole image: TensorFlow's reference to the pixel, from the outlines only.

The reference is `reframe_box_masks_to_image_masks` of the TensorFlow Object Detection API (its utils/ops.py):
`tf.image.crop_and_resize` of each small mask with the image's own frame as the "crop", seen from the box, thresholded
by `> 0.5` as in the tutorials for these models. Its CPU kernel (tensorflow/core/kernels/image/crop_and_resize_op.cc)
computes, in float32 and in this order, for pixel row y of `height` and a mask of m rows whose box spans the share
lo..hi of the image,

    d  = max(hi - lo, 1e-4)
    at = (0 - lo) / d * (m - 1) + y * (((1 - lo) / d - (0 - lo) / d) * (m - 1) / (height - 1))

likewise for columns; outside 0..m-1 the value is 0 (extrapolation), inside it is

    top    = tl + (tr - tl) * (at_x - floor(at_x))          bottom likewise, one mask row below
    value  = top + (bottom - top) * (at_y - floor(at_y))

Note that mask row 0 lies on the box's upper edge and row m-1 on its lower one, and that pixel `height - 1`, not
`height`, is the image's lower edge.

Why it is fast: down one pixel column the values between two neighbouring mask rows lie on a straight line, so there is
at most one change between them and its place is a division. Only m values a column are computed instead of all its
pixels, and the places where the mask begins and ends are already the edges that the RLE is made of. Why it is exact:
rounding is monotonic, so the float32 values along the line are monotonic too and still change once; where the division
comes near a whole pixel the kernel's own formula decides, and a mask with a value too near the threshold for this
reasoning is computed pixel by pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel import rle

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

#: Pixel columns worked on at a time: their values should stay in a core's own cache.
_COLUMNS_AT_ONCE = 8192

#: Bound of the reference's rounding error within one mask cell, relative to the largest value (5 roundings of 2**-24).
_ROUNDING = 2.0**-21


def paste_masks(
    masks: FloatArray, xyxy: npt.NDArray[Any], height: int, width: int, threshold: float = 0.5
) -> list[str]:
    """Masks given inside their boxes, as COCO compressed counts of the whole image.

    A pixel belongs to the mask where the interpolated score is greater than (not equal to) the threshold. The result
    may reach one pixel beyond the box; `prelabel.rle.bbox_xywh` gives its own box. A box that is empty, inverted, not
    finite or outside the image, or that falls between two pixel centres, gives an empty mask. Scores that are no
    numbers count as 0.

    Args:
        masks: `(N, m, m)` float32 scores, first row at the top of the box.
        xyxy: `(N, 4)` pixels x1 y1 x2 y2 of the displayed image, not clipped to it: a clipped box squeezes its mask.
            In float64 the product of a normalised float32 coordinate and the size is exact, and so is the result.
        height: Pixels of the image.
        width: Pixels of the image.
        threshold: Score above which a pixel belongs to the mask; at least 0, since outside its box a mask is 0.

    Returns:
        N strings for `{"size": [height, width], "counts": ...}`.

    Raises:
        ValueError: Shapes that do not fit together, a threshold below 0, or no pixels.
    """
    masks, xyxy = np.asarray(masks, np.float32), np.asarray(xyxy)
    if masks.ndim != 3 or min(masks.shape[1:]) < 2:
        raise ValueError(f"masks must have shape (N, m, m) with m >= 2, got {masks.shape}")
    if xyxy.shape != (len(masks), 4):
        raise ValueError(f"xyxy must have shape ({len(masks)}, 4) like masks, got {xyxy.shape}")
    if height < 1 or width < 1:
        raise ValueError(f"an image must have at least 1 x 1 pixels, got {height} x {width}")
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    if not np.isfinite(masks).all():
        masks = np.nan_to_num(masks, nan=0.0, posinf=0.0, neginf=0.0)
    counts: list[str] = []
    for part in _parts(xyxy, width):
        counts += _paste_part(masks[part], xyxy[part], height, width, np.float32(threshold))
    return counts


def _parts(xyxy: npt.NDArray[Any], width: int) -> Iterator[slice]:
    """Consecutive masks that together have about `_COLUMNS_AT_ONCE` pixel columns."""
    columns = np.nan_to_num(np.clip(xyxy[:, 2].astype(float) - xyxy[:, 0] + 2, 0, width))
    group = np.cumsum(columns) // _COLUMNS_AT_ONCE
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(xyxy)]
    return (slice(a, b) for a, b in itertools.pairwise(cuts) if a < b)


class _Axis(NamedTuple):
    """Where the pixels of one axis fall in the masks, for every box: the pixels inside it, one box after the other.

    Attributes:
        box: `(P,)` the box of each pixel.
        pixel: `(P,)` its row or column in the image, ascending within a box.
        at: `(P,)` float32 where it falls in the mask, 0..m-1.
        ends: `(N,)` end of each box in those.
        origin: `(N,)` float32; `at` is `origin + pixel * scale`, rounded after each step.
        scale: `(N,)` float32.
    """

    box: IntArray
    pixel: IntArray
    at: FloatArray
    ends: IntArray
    origin: FloatArray
    scale: FloatArray


def _axis(low: npt.NDArray[Any], high: npt.NDArray[Any], usable: npt.NDArray[np.bool_], size: int, m: int) -> _Axis:
    """The module's formula of `at`; `low` and `high` are a box's sides in pixels, `size` the image's."""
    one, cells = np.float32(1), np.float32(m - 1)
    lo = np.where(usable, low / float(size), 0).astype(np.float32)
    hi = np.where(usable, high / float(size), 1).astype(np.float32)
    d = np.maximum(hi - lo, np.float32(1e-4))
    start, end = -lo / d, (one - lo) / d
    if size > 1:
        origin = start * cells
        scale = (end - start) * cells / np.float32(size - 1)
    else:
        origin = (0.5 * (start + end).astype(float) * (m - 1)).astype(np.float32)
        scale = np.zeros_like(origin)
    # Generously first, then exactly: rounding can move the ends by a pixel. A scale of 0 maps all pixels to one place.
    step = np.where(scale > 0, scale, np.inf).astype(float)
    first = np.clip(np.floor(-origin / step) - 1, 0, size)
    last = np.clip(np.ceil((m - 1 - origin) / step) + 1, -1, size - 1)
    first[scale <= 0], last[scale <= 0] = 0, size - 1
    number = np.where(usable, np.maximum(last - first + 1, 0), 0).astype(np.int64)
    box = np.repeat(np.arange(len(lo)), number)
    pixel = np.arange(len(box)) + np.repeat(first.astype(np.int64) - (np.cumsum(number) - number), number)
    at = origin[box] + pixel.astype(np.float32) * scale[box]
    inside = (at >= 0) & (at <= cells)
    box, pixel, at = box[inside], pixel[inside], at[inside]
    ends = np.cumsum(np.bincount(box, minlength=len(lo)))
    return _Axis(box, pixel, at, ends, origin, scale)


def _paste_part(masks: FloatArray, xyxy: npt.NDArray[Any], height: int, width: int, threshold: np.float32) -> list[str]:
    rows, columns = masks.shape[1:]
    usable = np.isfinite(xyxy).all(axis=1) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    xs = _axis(xyxy[:, 0], xyxy[:, 2], usable, width, columns)
    ys = _axis(xyxy[:, 1], xyxy[:, 3], usable, height, rows)
    profiles = _profiles(masks, xs)

    largest = max(float(np.abs(masks).max()), float(threshold))
    margin = np.float32(largest * _ROUNDING)
    # A frame of zeros makes a column's begin and end edges like any other.
    above = np.zeros((len(profiles), rows + 2), dtype=bool)
    np.greater(profiles, threshold + margin, out=above[:, 1:-1])
    plain = ys.scale <= 0
    near = above[:, 1:-1] != (profiles > threshold - margin)
    if near.any():
        plain[xs.box[near.any(axis=1)]] = True
    if plain.any():
        above[plain[xs.box]] = False

    changes = np.flatnonzero(above[:, 1:] != above[:, :-1])
    column = changes // (rows + 1)
    cell = changes - column * (rows + 1) - 1
    row = _first_changed_row(profiles, column, cell, xs.box[column], ys, threshold, largest)

    pixels = height * width
    stride = pixels + 1
    offsets = np.arange(len(masks) + 1) * stride
    positions = rle.without_pairs((xs.box * stride + xs.pixel * height)[column] + row)
    # The end of the image is no edge: nothing comes after it.
    positions = positions[np.isin(positions, offsets[1:] - 1, invert=True)]
    edges_per_mask = np.diff(np.searchsorted(positions, offsets))
    counts = rle.encode_edges(positions - np.repeat(offsets[:-1], edges_per_mask), edges_per_mask, pixels)
    for index in np.flatnonzero(plain).tolist():
        counts[index] = _paste_plainly(masks[index], index, xs, ys, height, width, threshold)
    return counts


def _profiles(masks: FloatArray, xs: _Axis) -> FloatArray:
    """`(P, m)` scores down each pixel column at the heights of the mask rows: `top` and `bottom` of the formula."""
    number, rows, columns = masks.shape
    left = np.empty((number, columns, rows), dtype=np.float32)
    left[:] = masks.transpose(0, 2, 1)
    step = np.zeros_like(left)
    np.subtract(left[:, 1:], left[:, :-1], out=step[:, :-1])
    whole = xs.at.astype(np.int64)
    index = xs.box * columns + whole
    profiles: FloatArray = step.reshape(-1, rows).take(index, axis=0)
    profiles *= (xs.at - whole.astype(np.float32))[:, None]
    profiles += left.reshape(-1, rows).take(index, axis=0)
    return profiles


def _first_changed_row(
    profiles: FloatArray,
    column: IntArray,
    cell: IntArray,
    box: IntArray,
    ys: _Axis,
    threshold: np.float32,
    largest: float,
) -> IntArray:
    """The first pixel row on the other side of the threshold, for each change.

    Args:
        profiles: See `_profiles`.
        column: `(E,)` the pixel column of each change.
        cell: `(E,)` the mask row above it; -1 is the begin of the mask, m-1 its end.
        box: `(E,)` its box.
        ys: The pixel rows.
        threshold: Where the change is.
        largest: The largest score.
    """
    number, rows = len(ys.ends), profiles.shape[1]
    # First pixel row at or below each mask row, for all boxes in one search: boxes are set apart by more than m.
    spacing = float(2 * rows)
    wanted = np.arange(number)[:, None] * spacing + np.arange(rows)
    found = np.searchsorted(ys.box * spacing + ys.at, wanted)
    first = np.append(ys.pixel, 0)[found]
    at_end = found >= ys.ends[:, None]
    last_row = np.append(ys.pixel, -1)[ys.ends - 1] + 1
    first[at_end] = np.broadcast_to(last_row[:, None], first.shape)[at_end]
    # Of the cell between mask rows j-1 and j: where it starts and where the next one does.
    lower = np.concatenate((first[:, :1], first[:, :-1], last_row[:, None]), axis=1)
    upper = np.concatenate((first, last_row[:, None]), axis=1)
    slot = box * (rows + 1) + cell + 1
    lower, upper = lower.ravel()[slot], upper.ravel()[slot]

    flat = profiles.ravel()
    index = column * rows + cell
    top, bottom = flat.take(index, mode="clip"), flat.take(index + 1, mode="clip")
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = bottom.astype(float) - top
        per_pixel = 1 / ys.scale.astype(float)
        exact = (cell + (float(threshold) - top) / rise - ys.origin[box]) * per_pixel[box]
        row = np.ceil(exact).astype(np.int64)
        doubt = (np.abs(ys.origin) * 2.0**-22 + rows * 2.0**-22)[box] + largest * _ROUNDING / np.abs(rise)
        unsure = np.abs(exact - np.rint(exact)) <= doubt * per_pixel[box]
    row = np.minimum(np.maximum(row, lower), upper)
    unsure = np.flatnonzero(unsure & (lower < upper))
    if len(unsure):
        row[unsure] = _bisect(
            lower[unsure], upper[unsure], top[unsure], bottom[unsure], cell[unsure], box[unsure], ys, threshold
        )
    return row


def _bisect(
    low: IntArray,
    high: IntArray,
    top: FloatArray,
    bottom: FloatArray,
    cell: IntArray,
    box: IntArray,
    ys: _Axis,
    threshold: np.float32,
) -> IntArray:
    """First pixel row in `low..high` that the kernel's own formula puts on the other side; `high` where none is."""
    origin, scale, start = ys.origin[box], ys.scale[box], top > threshold
    rise, cell32 = bottom - top, cell.astype(np.float32)
    while (open_ := low < high).any():
        middle = (low + high) // 2
        share = origin + middle.astype(np.float32) * scale - cell32
        changed = (top + rise * share > threshold) != start
        high = np.where(open_ & changed, middle, high)
        low = np.where(open_ & ~changed, middle + 1, low)
    return low


def _paste_plainly(
    mask: FloatArray, index: int, xs: _Axis, ys: _Axis, height: int, width: int, threshold: np.float32
) -> str:
    """One mask, pixel by pixel over its box, in the kernel's order of operations."""
    across, down = xs.box == index, ys.box == index
    if not across.any() or not down.any():
        return rle.encode_edges(np.empty(0, np.int64), np.zeros(1, np.int64), height * width)[0]
    at_x, at_y = xs.at[across], ys.at[down]
    left, top = np.floor(at_x).astype(np.int64), np.floor(at_y).astype(np.int64)
    right, bottom = np.ceil(at_x).astype(np.int64), np.ceil(at_y).astype(np.int64)
    lines = mask[:, left] + (mask[:, right] - mask[:, left]) * (at_x - left.astype(np.float32))
    values = lines[top] + (lines[bottom] - lines[top]) * (at_y - top.astype(np.float32))[:, None]
    return rle.encode_crop(values > threshold, int(ys.pixel[down][0]), int(xs.pixel[across][0]), height, width)
