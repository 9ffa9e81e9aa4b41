"""Convert mask scores of a model to COCO RLE of the image.

`whole_image_masks` converts scores of the whole image. `paste_masks` converts scores inside boxes. Its result equals
TensorFlow's reference in every pixel, but is computed only along the contours.

The reference is `reframe_box_masks_to_image_masks` of the TensorFlow Object Detection API (its utils/ops.py):
`tf.image.crop_and_resize` of each small mask, where the "crop" is the image in coordinates of the box, compared with
`> 0.5` as in the tutorials for these models. Its CPU kernel (tensorflow/core/kernels/image/crop_and_resize_op.cc)
computes, in float32 and in this order, for pixel row y of `height` and a mask of m rows whose box spans lo..hi as a
share of the image,

    d  = max(hi - lo, 1e-4)
    at = (0 - lo) / d * (m - 1) + y * (((1 - lo) / d - (0 - lo) / d) * (m - 1) / (height - 1))

and likewise for columns. Outside 0..m-1 the value is 0 (extrapolation); inside it is

    top    = tl + (tr - tl) * (at_x - floor(at_x))          bottom likewise, one mask row below
    value  = top + (bottom - top) * (at_y - floor(at_y))

Mask row 0 lies on the upper edge of the box and row m-1 on the lower edge. The lower edge of the image is pixel
`height - 1`, not `height`.

Why it is fast: in a pixel column, the values between two adjacent mask rows lie on a straight line, so they cross the
threshold at most once, at a position given by one division. Values are computed only where the contour crosses the
small mask, and the positions where the mask starts and ends are the edges that the RLE consists of.

Why it is exact: rounding is monotonic, so the float32 values along the line are monotonic, too, and cross the threshold
once. If the division is close to a whole pixel, the formula of the kernel decides. If a value is too close to the
threshold for this argument, the mask is computed pixel by pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.masks import rle
from prelabel.masks.paste_edges import Axis, axis_of, find_edges

FloatArray = npt.NDArray[np.float32]

#: Pixel columns of the masks in a batch. The arrays of a batch fit into a core's cache and come from the heap: the
#: system allocates larger ones page by page, which takes as long as the arithmetic.
_BATCH_COLUMNS = 6000

#: Coordinates and scores beyond this are treated as infinite; float32 arithmetic within it does not overflow.
_LARGEST = 1e9


def paste_masks(
    masks: FloatArray, xyxy: npt.NDArray[Any], height: int, width: int, threshold: float = 0.5
) -> list[str]:
    """COCO compressed counts of the image for masks given inside their boxes.

    A pixel belongs to the mask if its interpolated score is greater than (not equal to) the threshold. The mask may
    extend one pixel beyond the box; `rle.bbox_xywh` returns the bounding box of the mask. The mask is empty if the box
    is empty, inverted, not finite, beyond 1e9 pixels, outside the image, or between two pixel centers. Scores that are
    not finite or beyond 1e9 count as 0.

    Args:
        masks: `(N, m, m)` float32 scores, first row at the top of the box.
        xyxy: `(N, 4)` pixels x1 y1 x2 y2 of the displayed image, not clipped to it, since a clipped box would squeeze
            its mask. The reference computes with float32 shares of the image. A share that was multiplied by the size
            in float64 is recovered exactly. In float32 it is not, and at 12 megapixels 3 of 100 masks move by up to 2
            pixels.
        height: Pixels of the image.
        width: Pixels of the image.
        threshold: Score above which a pixel belongs to the mask; at least 0, since outside its box a mask is 0.

    Returns:
        N strings for `{"size": [height, width], "counts": ...}`.

    Raises:
        ValueError: The shapes do not match, the threshold is below 0, or the image has no pixels.
    """
    masks, xyxy = np.asarray(masks, np.float32), np.asarray(xyxy, np.float64)
    if masks.ndim != 3 or min(masks.shape[1:]) < 2:
        raise ValueError(f"masks must have shape (N, m, m) with m >= 2, got {masks.shape}")
    if xyxy.shape != (len(masks), 4):
        raise ValueError(f"xyxy must have shape ({len(masks)}, 4) like masks, got {xyxy.shape}")
    if height < 1 or width < 1:
        raise ValueError(f"an image must have at least 1 x 1 pixels, got {height} x {width}")
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    finite = np.abs(masks) <= _LARGEST
    if not finite.all():
        masks = np.where(finite, masks, np.float32(0))
    usable = (np.abs(xyxy) <= _LARGEST).all(axis=1) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    counts: list[str] = []
    for part in _parts(np.where(usable[:, None], xyxy, 0), width):
        part_masks = masks[part]
        xs = axis_of(xyxy[part, 0], xyxy[part, 2], usable[part], width, masks.shape[2])
        ys = axis_of(xyxy[part, 1], xyxy[part, 3], usable[part], height, masks.shape[1])
        edges, edges_per_mask, plain = find_edges(part_masks, xs, ys, height, width, np.float32(threshold))
        encoded = rle.encode_edges(edges, edges_per_mask, height * width)
        for index in plain.tolist():
            encoded[index] = _paste_by_pixel(part_masks[index], index, xs, ys, height, width, np.float32(threshold))
        counts += encoded
    return counts


def whole_image_masks(
    masks: FloatArray,
    window: tuple[float, float, float, float],
    height: int,
    width: int,
    threshold: float = 0.5,
    *,
    image_window: tuple[float, float, float, float] | None = None,
    inside: npt.NDArray[Any] | None = None,
) -> list[str]:
    """COCO compressed counts of the image for masks that cover the whole input of a model.

    A pixel belongs to the mask if its score, interpolated between the centers of mask pixels, is greater than the
    threshold. A mask of the size of the image is not interpolated. Pixels whose center is outside the window are 0.

    Scores in the padding beside an image say nothing about the image: mask pixels with their center there are not
    used, and beyond the last center in the image its score holds. Otherwise, a mask that reaches the edge of the image
    would end up to half a mask pixel before it.

    Args:
        masks: `(N, h, w)` float32 scores.
        window: x1 y1 x2 y2, the area that the masks cover, in pixels of the image; may exceed the image.
        height: Pixels of the image.
        width: Pixels of the image.
        threshold: Score above which a pixel belongs to the mask.
        image_window: x1 y1 x2 y2, the part of the window that shows the image, in pixels of the image; the rest is
            padding. None if there is no padding.
        inside: `(N, 4)` boxes x1 y1 x2 y2 in pixels of the image: only columns x1 <= x < x2 and rows y1 <= y < y2, as
            whole numbers, can belong to the mask. None for all pixels.

    Returns:
        N strings for `{"size": [height, width], "counts": ...}`.
    """
    (left, top, right, bottom), (x1, y1, x2, y2) = window, image_window or window
    y0, rows = _between_centers(height, (top, bottom), (y1, y2), masks.shape[1])
    x0, columns = _between_centers(width, (left, right), (x1, x2), masks.shape[2])
    shown_rows, shown_columns = height if rows is None else len(rows[0]), width if columns is None else len(columns[0])
    counts = []
    for number, mask in enumerate(masks):
        part_y, part_x = slice(0, shown_rows), slice(0, shown_columns)
        if inside is not None:
            x1, y1, x2, y2 = np.ceil(inside[number])
            part_y, part_x = _part(y1 - y0, y2 - y0, shown_rows), _part(x1 - x0, x2 - x0, shown_columns)
        # Interpolate columns only in rows that can be above the threshold.
        values = mask[part_y] if rows is None else _interpolated(mask, *(each[part_y] for each in rows))
        down = np.flatnonzero((values > threshold).any(axis=1))
        first, last = (int(down[0]), int(down[-1]) + 1) if len(down) else (0, 0)
        values = values[first:last]
        across = None if columns is None else [each[part_x] for each in columns]
        values = values[:, part_x] if across is None else _interpolated(values.T, *across).T
        counts.append(rle.encode_crop(values > threshold, y0 + part_y.start + first, x0 + part_x.start, height, width))
    return counts


def _part(low: float, high: float, size: int) -> slice:
    """The entries `low` to before `high` of an axis, as far as it has them."""
    begin = int(np.clip(low, 0, size))
    return slice(begin, int(np.clip(high, begin, size)))


def _between_centers(
    size: int, window: tuple[float, float], image_window: tuple[float, float], cells: int
) -> tuple[int, tuple[Any, Any, Any] | None]:
    """The pixels of an axis with a center within `window` and `image_window`, and where they lie between cells.

    Args:
        size: Pixels of the axis.
        window: What all cells cover together, in pixels.
        image_window: The part of it without padding.
        cells: Number of cells.

    Returns:
        The first of these pixels; the two cells around each of them and the share of the second. None in place of the
        last three if each pixel is a cell.
    """
    low, high = window
    begin, end = max(low, image_window[0]), min(high, image_window[1])
    if (begin, end, cells) == (low, high, size) == (0, size, size):
        return 0, None
    first = min(max(0, math.ceil(begin - 0.5)), size)
    centers = np.arange(first, max(first, min(size, math.ceil(end - 0.5)))) + 0.5

    def cell_at(pixel: Any) -> Any:
        return (pixel - low) / (high - low) * cells - 0.5

    # A center on the edge counts, whatever the rounding. An image between two centers has the nearer one.
    first_cell, last_cell = math.ceil(cell_at(begin) - 1e-6), math.floor(cell_at(end) + 1e-6)
    if first_cell > last_cell:
        first_cell = last_cell = round(cell_at((begin + end) / 2))
    lowest, highest = (min(max(cell, 0), cells - 1) for cell in (first_cell, last_cell))
    at = np.clip(cell_at(centers), lowest, highest)
    before = np.floor(at).astype(np.int64)
    return first, (before, np.minimum(before + 1, highest), (at - before).astype(np.float32))


def _interpolated(values: FloatArray, before: Any, after: Any, share: Any) -> FloatArray:
    """Rows of `values`, interpolated between the rows `before` and `after`; `share` is the share of `after`."""
    mixed: FloatArray = values[before] + (values[after] - values[before]) * share[:, None]
    return mixed


def _parts(xyxy: npt.NDArray[np.float64], width: int) -> Iterator[slice]:
    """Slices of consecutive masks, each with about `_BATCH_COLUMNS` pixel columns in total."""
    columns = np.clip(xyxy[:, 2] - xyxy[:, 0], 0, width)
    group = np.cumsum(columns) // _BATCH_COLUMNS
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(xyxy)]
    return (slice(a, b) for a, b in itertools.pairwise(cuts) if a < b)


def _paste_by_pixel(
    mask: FloatArray, index: int, xs: Axis, ys: Axis, height: int, width: int, threshold: np.float32
) -> str:
    """The counts of a mask, computed for every pixel of its box in the kernel's order of operations."""
    across, down = xs.box == index, ys.box == index
    if not across.any() or not down.any():
        return rle.encode_edges(np.empty(0, np.int64), np.zeros(1, np.int64), height * width)[0]
    at_x, at_y = xs.at[across], ys.at[down]
    left, top = np.floor(at_x).astype(np.int64), np.floor(at_y).astype(np.int64)
    right, bottom = np.ceil(at_x).astype(np.int64), np.ceil(at_y).astype(np.int64)
    lines = mask[:, left] + (mask[:, right] - mask[:, left]) * (at_x - left.astype(np.float32))
    values = lines[top] + (lines[bottom] - lines[top]) * (at_y - top.astype(np.float32))[:, None]
    return rle.encode_crop(values > threshold, int(ys.pixel[down][0]), int(xs.pixel[across][0]), height, width)
