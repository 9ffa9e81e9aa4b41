"""From mask scores to COCO RLE of the whole image. Masks of the whole image are `whole_image_masks`; what follows is
about scores inside boxes: TensorFlow's reference to the pixel, from the outlines only.

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
at most one change between them and its place is a division. Only where the outline crosses the small mask are values
computed at all, and the places where the mask begins and ends are already the edges that the RLE is made of.

Why it is exact: rounding is monotonic, so the float32 values along the line are monotonic too and still change once;
where the division comes near a whole pixel the kernel's own formula decides, and a mask with a value too near the
threshold for this reasoning is computed pixel by pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel import rle
from prelabel.detectors.mask_edges import Axis, axis_of, find_edges

FloatArray = npt.NDArray[np.float32]

#: Pixel columns of the masks worked on together. Small enough for the arrays to stay in a core's cache and to be taken
#: from the heap: larger ones come fresh from the system, page by page, which costs as much as the arithmetic.
_COLUMNS_TOGETHER = 6000

#: Coordinates and scores beyond this are no better than infinite ones; float32 arithmetic with these does not overflow.
_MOST = 1e9


def paste_masks(
    masks: FloatArray, xyxy: npt.NDArray[Any], height: int, width: int, threshold: float = 0.5
) -> list[str]:
    """Masks given inside their boxes, as COCO compressed counts of the whole image.

    A pixel belongs to the mask where the interpolated score is greater than (not equal to) the threshold. The result
    may reach one pixel beyond the box; `prelabel.rle.bbox_xywh` gives its own box. A box that is empty, inverted, not
    finite (nor within 1e9 pixels) or outside the image, or that falls between two pixel centres, gives an empty mask.
    Scores that are no numbers (or beyond 1e9) count as 0.

    Args:
        masks: `(N, m, m)` float32 scores, first row at the top of the box.
        xyxy: `(N, 4)` pixels x1 y1 x2 y2 of the displayed image, not clipped to it: a clipped box squeezes its mask.
            The reference computes with shares of the image in float32. Multiplied by the size in float64, such a share
            comes back exactly; in float32 it does not, and at 12 megapixels 3 masks in 100 move by up to 2 pixels.
        height: Pixels of the image.
        width: Pixels of the image.
        threshold: Score above which a pixel belongs to the mask; at least 0, since outside its box a mask is 0.

    Returns:
        N strings for `{"size": [height, width], "counts": ...}`.

    Raises:
        ValueError: Shapes that do not fit together, a threshold below 0, or no pixels.
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
    sane = np.abs(masks) <= _MOST
    if not sane.all():
        masks = np.where(sane, masks, np.float32(0))
    usable = (np.abs(xyxy) <= _MOST).all(axis=1) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    counts: list[str] = []
    for part in _parts(np.where(usable[:, None], xyxy, 0), width):
        some = masks[part]
        xs = axis_of(xyxy[part, 0], xyxy[part, 2], usable[part], width, masks.shape[2])
        ys = axis_of(xyxy[part, 1], xyxy[part, 3], usable[part], height, masks.shape[1])
        edges, edges_per_mask, plain = find_edges(some, xs, ys, height, width, np.float32(threshold))
        encoded = rle.encode_edges(edges, edges_per_mask, height * width)
        for index in plain.tolist():
            encoded[index] = _paste_plainly(some[index], index, xs, ys, height, width, np.float32(threshold))
        counts += encoded
    return counts


def whole_image_masks(
    masks: FloatArray, window: tuple[int, int, int, int], height: int, width: int, threshold: float = 0.5
) -> list[str]:
    """Masks that show the whole picture a network was given, as COCO compressed counts of the whole image.

    A pixel belongs to the mask where the score, interpolated between the centres of the mask's pixels, is greater than
    the threshold. A mask as large as the image is taken as it is.

    Args:
        masks: `(N, h, w)` float32 scores.
        window: x1 y1 x2 y2 of the image that they show.
        height: Pixels of the image.
        width: Pixels of the image.
        threshold: Score above which a pixel belongs to the mask.

    Returns:
        N strings for `{"size": [height, width], "counts": ...}`.
    """
    left, top, right, bottom = window
    rows = _between_centres(height, top, bottom, masks.shape[1])
    columns = _between_centres(width, left, right, masks.shape[2])
    counts = []
    for mask in masks:
        # Only where the mask is: rows of the image and the part of its columns that can be above the threshold.
        values = mask if rows is None else _interpolated(mask, *rows)
        down = np.flatnonzero((values > threshold).any(axis=1))
        first, last = (int(down[0]), int(down[-1]) + 1) if len(down) else (0, 1)
        values = values[first:last]
        values = values if columns is None else _interpolated(values.T, *columns).T
        counts.append(rle.encode_crop(values > threshold, first, 0, height, width))
    return counts


def _between_centres(size: int, low: int, high: int, cells: int) -> tuple[Any, Any, Any] | None:
    """For each pixel of an axis the two cells it lies between and how far it is on the way; None where it is a cell."""
    if (low, high, cells) == (0, size, size):
        return None
    at = np.clip((np.arange(size) + 0.5 - low) / (high - low) * cells - 0.5, 0, cells - 1)
    before = np.floor(at).astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (at - before).astype(np.float32)


def _interpolated(values: FloatArray, before: Any, after: Any, way: Any) -> FloatArray:
    """The values between rows."""
    mixed: FloatArray = values[before] + (values[after] - values[before]) * way[:, None]
    return mixed


def _parts(xyxy: npt.NDArray[np.float64], width: int) -> Iterator[slice]:
    """Consecutive masks that together have about `_COLUMNS_TOGETHER` pixel columns."""
    columns = np.clip(xyxy[:, 2] - xyxy[:, 0], 0, width)
    group = np.cumsum(columns) // _COLUMNS_TOGETHER
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(xyxy)]
    return (slice(a, b) for a, b in itertools.pairwise(cuts) if a < b)


def _paste_plainly(
    mask: FloatArray, index: int, xs: Axis, ys: Axis, height: int, width: int, threshold: np.float32
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
