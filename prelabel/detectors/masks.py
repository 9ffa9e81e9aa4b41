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

#: Pixel columns of the masks worked on together, and of those whose scores are looked at in one go. Small enough for
#: the arrays to stay in a core's cache and to be taken from the heap: larger ones come fresh from the system, page by
#: page, which costs as much as the arithmetic.
_COLUMNS_TOGETHER = 10_000
_COLUMNS_IN_ONE_GO = 1500

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
    usable = np.isfinite(xyxy).all(axis=1) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    workspace = _Workspace.of(masks.shape[1])
    counts: list[str] = []
    for part in _parts(np.where(usable[:, None], xyxy, 0), width):
        some = masks[part]
        xs = _axis(xyxy[part, 0], xyxy[part, 2], usable[part], width, masks.shape[2])
        ys = _axis(xyxy[part, 1], xyxy[part, 3], usable[part], height, masks.shape[1])
        edges, edges_per_mask, plain = _find_edges(some, xs, ys, height, width, np.float32(threshold), workspace)
        encoded = rle.encode_edges(edges, edges_per_mask, height * width)
        for index in plain.tolist():
            encoded[index] = _paste_plainly(some[index], index, xs, ys, height, width, np.float32(threshold))
        counts += encoded
    return counts


def _parts(xyxy: npt.NDArray[Any], width: int) -> Iterator[slice]:
    """Consecutive masks that together have about `_COLUMNS_TOGETHER` pixel columns."""
    columns = np.clip(xyxy[:, 2].astype(float) - xyxy[:, 0], 0, width)
    group = np.cumsum(columns) // _COLUMNS_TOGETHER
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(xyxy)]
    return (slice(a, b) for a, b in itertools.pairwise(cuts) if a < b)


class _Workspace(NamedTuple):
    """Room for the scores of some pixel columns at the heights of the m mask rows, used again and again.

    Attributes:
        profiles: `(C, m)` float32.
        base: `(C, m)` float32.
        above: `(C, m + 2)` bool, in a frame of zeros, which makes a column's begin and end edges like any other.
    """

    profiles: FloatArray
    base: FloatArray
    above: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, m: int) -> _Workspace:
        profiles, base = np.empty((2, _COLUMNS_IN_ONE_GO, m), dtype=np.float32)
        return cls(profiles, base, np.zeros((_COLUMNS_IN_ONE_GO, m + 2), dtype=bool))


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


def _find_edges(
    masks: FloatArray, xs: _Axis, ys: _Axis, height: int, width: int, threshold: np.float32, workspace: _Workspace
) -> tuple[IntArray, IntArray, IntArray]:
    """Edges of all masks as `rle.encode_edges` takes them, and the masks for which they say nothing.

    Returns:
        `(E,)` edges, `(N,)` edges per mask, and the numbers of the masks that have to be computed pixel by pixel.
    """
    number, rows, columns = masks.shape
    # Score and slope towards the next mask column, with a line of a mask from top to bottom in one piece.
    score = np.ascontiguousarray(masks.transpose(0, 2, 1))
    slope = np.zeros_like(score)
    np.subtract(score[:, 1:], score[:, :-1], out=slope[:, :-1])
    score, slope = score.reshape(-1, rows), slope.reshape(-1, rows)
    whole = xs.at.astype(np.int64)
    line, share = xs.box * columns + whole, (xs.at - whole.astype(np.float32))[:, None]
    place = xs.box * (height * width + 1) + xs.pixel * height

    largest = max(float(np.abs(score).max(initial=0)), float(threshold))
    margin = np.float32(largest * _ROUNDING)
    cells = _cells(ys, rows, largest)
    plain = ys.scale <= 0

    positions = [np.empty(0, np.int64)]
    for start in range(0, len(line), _COLUMNS_IN_ONE_GO):
        part = slice(start, start + _COLUMNS_IN_ONE_GO)
        profiles, base, above = (array[: len(line[part])] for array in workspace)
        # `top` and `bottom` of the formula: scores down each pixel column at the heights of the mask rows.
        np.take(slope, line[part], axis=0, out=profiles, mode="clip")
        np.take(score, line[part], axis=0, out=base, mode="clip")
        profiles *= share[part]
        profiles += base
        np.greater(profiles, threshold + margin, out=above[:, 1:-1])
        near = (profiles > threshold - margin) != above[:, 1:-1]
        if near.any():
            plain[xs.box[part][near.any(axis=1)]] = True
        changes = np.flatnonzero(above[:, 1:] != above[:, :-1])
        column = changes // (rows + 1)
        cell = changes - column * (rows + 1)
        row = _first_changed_row(profiles.ravel(), changes - column, cell, xs.box[part][column], cells, threshold)
        positions.append(rle.without_pairs(place[part][column] + row))
    return _sort_out(np.concatenate(positions), plain, number, height * width)


def _sort_out(
    positions: IntArray, plain: npt.NDArray[np.bool_], number: int, pixels: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Edges by mask from ascending positions, each counted from `mask * (pixels + 1)`; see `_find_edges`."""
    offsets = np.arange(number + 1) * (pixels + 1)
    positions = rle.without_pairs(positions)
    ends = np.searchsorted(positions, offsets)
    # The end of the image is no edge: nothing comes after it.
    last = np.maximum(ends[1:] - 1, 0)
    doomed = last[(np.diff(ends) > 0) & (positions[last] == offsets[1:] - 1)] if len(positions) else last[:0]
    if plain.any():
        doomed = np.concatenate((doomed, np.flatnonzero(plain[positions // (pixels + 1)])))
    if len(doomed):
        positions = np.delete(positions, doomed)
        ends = np.searchsorted(positions, offsets)
    edges_per_mask = np.diff(ends)
    return positions - np.repeat(offsets[:-1], edges_per_mask), edges_per_mask, np.flatnonzero(plain)


class _Cells(NamedTuple):
    """What every change between two mask rows needs to know of its box.

    Attributes:
        lower: `(N * (m + 1),)` the first pixel row of each cell; cell 0 is what lies above the mask, cell j what lies
            between mask rows j-1 and j, cell m the end of the mask.
        upper: `(N * (m + 1),)` the first pixel row after each cell.
        per_mask_row: `(N,)` pixel rows from one mask row to the next.
        origin: `(N,)` where mask row -1 lies, in pixel rows.
        doubt: `(N,)` how far rounding may move a change, in pixel rows, whatever the scores.
        doubt_by_rise: `(N,)` the same for a rise of 1 from mask row to mask row.
        ys: The pixel rows themselves.
    """

    lower: IntArray
    upper: IntArray
    per_mask_row: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    doubt: npt.NDArray[np.float64]
    doubt_by_rise: npt.NDArray[np.float64]
    ys: _Axis


def _cells(ys: _Axis, rows: int, largest: float) -> _Cells:
    # First pixel row at or below each mask row, for all boxes in one search: boxes are set apart by more than m.
    spacing = float(2 * rows)
    wanted = np.arange(len(ys.ends))[:, None] * spacing + np.arange(rows)
    found = np.searchsorted(ys.box * spacing + ys.at, wanted)
    end = np.append(ys.pixel, -1)[ys.ends - 1][:, None] + 1
    first = np.where(found >= ys.ends[:, None], end, np.append(ys.pixel, 0)[found])
    lower = np.concatenate((first[:, :1], first[:, :-1], end), axis=1)
    upper = np.concatenate((first, end), axis=1)
    per_row = 1 / np.where(ys.scale > 0, ys.scale, 1).astype(float)
    return _Cells(
        lower=lower.ravel(),
        upper=upper.ravel(),
        per_mask_row=per_row,
        origin=(-1 - ys.origin) * per_row,
        doubt=(np.abs(ys.origin) + rows) * 2.0**-22 * per_row,
        doubt_by_rise=largest * _ROUNDING * per_row,
        ys=ys,
    )


def _first_changed_row(
    profiles: FloatArray, index: IntArray, cell: IntArray, box: IntArray, cells: _Cells, threshold: np.float32
) -> IntArray:
    """The first pixel row on the other side of the threshold, for each change.

    Args:
        profiles: Scores down the pixel columns at the heights of the mask rows, one column after the other.
        index: `(E,)` where the score below each change is; the one above it is just before.
        cell: `(E,)` its cell, see `_Cells`.
        box: `(E,)` its box.
        cells: What is known of the boxes.
        threshold: Where the change is.
    """
    slot = box * (len(cells.lower) // len(cells.per_mask_row)) + cell
    lower, upper = cells.lower[slot], cells.upper[slot]
    # At a mask's begin and end there is no score above or below; whatever is taken, lower and upper leave no choice.
    top, bottom = profiles.take(index - 1, mode="clip"), profiles.take(index, mode="clip")
    per_row = cells.per_mask_row[box]
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = bottom.astype(float) - top
        exact = (cell + (float(threshold) - top) / rise) * per_row + cells.origin[box]
        row: IntArray = np.ceil(exact).astype(np.int64)
        doubt = cells.doubt[box] + cells.doubt_by_rise[box] / np.abs(rise)
        unsure = np.flatnonzero((np.abs(exact - np.rint(exact)) <= doubt) & (lower < upper))
    row = np.minimum(np.maximum(row, lower), upper)
    if len(unsure):
        row[unsure] = _bisect(
            lower[unsure],
            upper[unsure],
            top[unsure],
            bottom[unsure],
            cell[unsure] - 1,
            box[unsure],
            cells.ys,
            threshold,
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
