"""Find where a mask starts and ends in each pixel column, from the few cells that its contour crosses.

A cell lies between two adjacent rows and two adjacent columns of a box's mask. If its four corners are all above or all
below the threshold, so is everything inside. See `prelabel.masks.paste` for the formulas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel.masks import rle

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

#: Upper bound of the reference's rounding error in a cell, relative to the largest score: 5 roundings of 2**-24 each.
_ROUNDING = 2.0**-21


class Axis(NamedTuple):
    """The positions of the pixels of one axis in the masks: for each box the pixels inside it, box by box.

    Attributes:
        box: `(P,)` the box of each pixel.
        pixel: `(P,)` its row or column in the image, ascending within a box.
        at: `(P,)` float32 its position in the mask, 0..m-1.
        ends: `(N,)` the end of each box in these arrays.
        origin: `(N,)` float32; `at` is `origin + pixel * scale`, rounded after each step.
        scale: `(N,)` float32.
    """

    box: IntArray
    pixel: IntArray
    at: FloatArray
    ends: IntArray
    origin: FloatArray
    scale: FloatArray


def axis_of(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_], size: int, m: int
) -> Axis:
    """Apply the formula of `at` to the sides `low` and `high` of boxes, in pixels of an image of this `size`."""
    cells = np.float32(m - 1)
    lo = np.where(usable, low / size, 0).astype(np.float32)
    hi = np.where(usable, high / size, 1).astype(np.float32)
    d = np.maximum(hi - lo, np.float32(1e-4))
    start, end = -lo / d, (np.float32(1) - lo) / d
    if size > 1:
        origin = start * cells
        scale = (end - start) * cells / np.float32(size - 1)
    else:
        origin = (0.5 * (start + end).astype(float) * (m - 1)).astype(np.float32)
        scale = np.zeros_like(origin)
    # Include one more pixel at each end, then check exactly, since rounding can move the ends. A scale of 0 maps all
    # pixels to one position.
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
    return Axis(box, pixel, at, ends, origin, scale)


def find_edges(
    masks: FloatArray, xs: Axis, ys: Axis, height: int, width: int, threshold: np.float32
) -> tuple[IntArray, IntArray, IntArray]:
    """The edges of all masks for `rle.encode_edges`, and the masks that must be computed pixel by pixel instead.

    Returns:
        `(E,)` edges, `(N,)` the number of edges per mask, and the indices of the masks that must be computed pixel by
        pixel: a score in one of their pixel columns is so close to the threshold that rounding decides on which side
        its neighbors are.
    """
    number, rows, columns = masks.shape
    largest = max(float(np.abs(masks).max()), float(threshold))
    margin = np.float32(largest * _ROUNDING)
    # The score, and its slope towards the next mask column, stored column by column. A row far below the threshold
    # before and after each column makes the start and end of the column changes like all others.
    score: FloatArray = np.full((number, columns, rows + 2), -1 - largest, dtype=np.float32)
    score[:, :, 1:-1] = masks.transpose(0, 2, 1)
    slope: FloatArray = np.zeros_like(score)
    np.subtract(score[:, 1:], score[:, :-1], out=slope[:, :-1])
    crossed = _crossed(score, threshold, 2 * margin)

    # Pairs of a pixel column and a crossed cell that it passes through, from top to bottom.
    lines = xs.at.astype(np.int64)
    share = xs.at - lines.astype(np.float32)
    lines += xs.box * columns
    places = np.flatnonzero(crossed)
    line_of_place = places // (rows + 1)
    # From here on, a place is the upper end of the cell in `score`, which has one row more than cells.
    places += line_of_place
    cells_of_line = np.bincount(line_of_place, minlength=number * columns)
    number_of_cells = cells_of_line[lines]
    first_cell = cells_of_line.cumsum()[lines] - number_of_cells.cumsum()
    column = np.arange(len(lines)).repeat(number_of_cells)
    at = places[np.arange(len(column)) + first_cell[column]]
    share = share[column]
    score, slope = score.ravel(), slope.ravel()
    top = slope[at] * share
    top += score[at]
    at += 1
    bottom = slope[at] * share
    bottom += score[at]

    by_pixel = ys.scale <= 0
    above, below = top > threshold + margin, bottom > threshold + margin
    near = (top > threshold - margin) != above
    near |= (bottom > threshold - margin) != below
    if near.any():
        by_pixel[xs.box[column[near]]] = True
    changes = np.flatnonzero(above != below)
    column = column[changes]
    cell = at[changes] - lines[column] * (rows + 2) - 1
    cells = _cells(ys, rows, largest)
    row = _first_changed_row(top[changes], bottom[changes], cell, xs.box[column], cells, threshold)
    row += (xs.box * (height * width + 1) + xs.pixel * height)[column]
    return _edges_by_mask(row, by_pixel, number, height * width)


def _crossed(score: FloatArray, threshold: np.float32, margin: np.float32) -> npt.NDArray[np.bool_]:
    """`(N, m, m + 1)` bool, the cells that are neither clearly above nor clearly below the threshold."""
    uncrossed = np.zeros((score.shape[0], score.shape[1], score.shape[2] - 1), dtype=bool)
    for is_clear in (score > threshold + margin, score < threshold - margin):
        all_clear = is_clear[:, :, 1:] & is_clear[:, :, :-1]
        # The last mask column has no neighbor: pixels can only lie on it.
        all_clear[:, :-1] &= all_clear[:, 1:]
        uncrossed |= all_clear
    return ~uncrossed


def _edges_by_mask(
    positions: IntArray, by_pixel: npt.NDArray[np.bool_], number: int, pixels: int
) -> tuple[IntArray, IntArray, IntArray]:
    """The result of `find_edges` from ascending positions, where mask i starts at `i * (pixels + 1)`."""
    offsets = np.arange(number + 1) * (pixels + 1)
    positions = rle.without_pairs(positions)
    ends = np.searchsorted(positions, offsets)
    # The end of the image is not an edge, since no pixel follows.
    last = np.maximum(ends[1:] - 1, 0)
    dropped = last[(np.diff(ends) > 0) & (positions[last] == offsets[1:] - 1)] if len(positions) else last[:0]
    if by_pixel.any():
        dropped = np.concatenate((dropped, np.flatnonzero(by_pixel[positions // (pixels + 1)])))
    if len(dropped):
        positions = np.delete(positions, dropped)
        ends = np.searchsorted(positions, offsets)
    edges_per_mask = np.diff(ends)
    return positions - np.repeat(offsets[:-1], edges_per_mask), edges_per_mask, np.flatnonzero(by_pixel)


class _Cells(NamedTuple):
    """Properties of the boxes for changes between two mask rows.

    Attributes:
        lower: `(N * (m + 1),)` the first pixel row of each cell; cell 0 lies above the mask, cell j between mask rows
            j-1 and j, and cell m at the end of the mask.
        upper: `(N * (m + 1),)` the first pixel row below each cell.
        per_mask_row: `(N,)` pixel rows per mask row.
        origin: `(N,)` the position of mask row -1, in pixel rows.
        uncertainty: The distance by which rounding may move a change in any box, in pixel rows, whatever the scores.
        uncertainty_by_rise: The additional distance if the score rises by 1 between two mask rows; it is divided by the
            rise.
        ys: The pixel rows.
    """

    lower: IntArray
    upper: IntArray
    per_mask_row: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    uncertainty: float
    uncertainty_by_rise: float
    ys: Axis


def _cells(ys: Axis, rows: int, largest: float) -> _Cells:
    # Find the first pixel row at or below each mask row, by one search for all boxes, which are spaced by more than m.
    spacing = float(2 * rows)
    mask_rows = np.arange(len(ys.ends))[:, None] * spacing + np.arange(rows)
    index = np.searchsorted(ys.box * spacing + ys.at, mask_rows)
    end = np.append(ys.pixel, -1)[ys.ends - 1][:, None] + 1
    first = np.where(index >= ys.ends[:, None], end, np.append(ys.pixel, 0)[index])
    lower = np.concatenate((first[:, :1], first[:, :-1], end), axis=1)
    upper = np.concatenate((first, end), axis=1)
    per_row = 1 / np.where(ys.scale > 0, ys.scale, 1).astype(float)
    return _Cells(
        lower=lower.ravel(),
        upper=upper.ravel(),
        per_mask_row=per_row,
        origin=(-1 - ys.origin) * per_row,
        uncertainty=float(((np.abs(ys.origin) + rows) * per_row).max()) * 2.0**-21,
        uncertainty_by_rise=float(per_row.max()) * largest * _ROUNDING,
        ys=ys,
    )


def _first_changed_row(
    top: FloatArray, bottom: FloatArray, cell: IntArray, box: IntArray, cells: _Cells, threshold: np.float32
) -> IntArray:
    """The first pixel row on the other side of the threshold, for each change.

    Args:
        top: `(E,)` score in the pixel column at the mask row above the change.
        bottom: `(E,)` score at the mask row below the change.
        cell: `(E,)` cell of the change, see `_Cells`.
        box: `(E,)` box of the change.
        cells: Properties of the boxes.
        threshold: The score at which the mask changes.
    """
    slot = box * (len(cells.lower) // len(cells.per_mask_row)) + cell
    lower, upper = cells.lower[slot], cells.upper[slot]
    # At the start and end of a mask the cell has no pixels, so lower and upper are equal.
    rise = bottom - top
    mask_row = (threshold - top) / rise
    mask_row += cell
    exact = mask_row * cells.per_mask_row[box]
    exact += cells.origin[box]
    row: IntArray = np.ceil(exact).astype(np.int64)
    exact -= np.rint(exact)  # the distance to the nearest whole row
    uncertain = np.flatnonzero(np.abs(exact) <= cells.uncertainty + cells.uncertainty_by_rise / np.abs(rise))
    np.maximum(row, lower, out=row)
    np.minimum(row, upper, out=row)
    if len(uncertain):
        row[uncertain] = _bisect(
            lower[uncertain],
            upper[uncertain],
            top[uncertain],
            bottom[uncertain],
            cell[uncertain] - 1,
            box[uncertain],
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
    ys: Axis,
    threshold: np.float32,
) -> IntArray:
    """The first pixel row in `low..high` on the other side by the kernel's formula, or `high` if there is none."""
    origin, scale, start = ys.origin[box], ys.scale[box], top > threshold
    rise, cell32 = bottom - top, cell.astype(np.float32)
    while (undecided := low < high).any():
        middle = (low + high) // 2
        share = origin + middle.astype(np.float32) * scale - cell32
        changed = (top + rise * share > threshold) != start
        high = np.where(undecided & changed, middle, high)
        low = np.where(undecided & ~changed, middle + 1, low)
    return low
