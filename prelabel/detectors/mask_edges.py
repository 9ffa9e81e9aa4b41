"""Where a mask begins and ends on each pixel column, found on the few cells of the small mask that its outline crosses.

A cell lies between two neighbouring rows and two neighbouring columns of a box's mask. If all its four corners are
above the threshold, or all below, so is everything between them. See `prelabel.detectors.masks` for the formulas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel import rle

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

#: Bound of the reference's rounding error within one cell, relative to the largest score (5 roundings of 2**-24).
_ROUNDING = 2.0**-21


class Axis(NamedTuple):
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


def axis_of(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_], size: int, m: int
) -> Axis:
    """The formula of `at`: `low` and `high` are a box's sides in pixels, `size` the image's."""
    one, cells = np.float32(1), np.float32(m - 1)
    lo = np.where(usable, low / size, 0).astype(np.float32)
    hi = np.where(usable, high / size, 1).astype(np.float32)
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
    return Axis(box, pixel, at, ends, origin, scale)


def find_edges(
    masks: FloatArray, xs: Axis, ys: Axis, height: int, width: int, threshold: np.float32
) -> tuple[IntArray, IntArray, IntArray]:
    """Edges of all masks as `rle.encode_edges` takes them, and the masks for which they say nothing.

    Returns:
        `(E,)` edges, `(N,)` edges per mask, and the numbers of the masks that have to be computed pixel by pixel: some
        score on a pixel column is too near the threshold to tell which side rounding puts its neighbours on.
    """
    number, rows, columns = masks.shape
    largest = max(float(np.abs(masks).max()), float(threshold))
    margin = np.float32(largest * _ROUNDING)
    # Score and slope towards the next mask column, with a line of a mask from top to bottom in one piece. A row far
    # below the threshold, above and below, makes a column's begin and end changes like any other.
    score: FloatArray = np.full((number, columns, rows + 2), -1 - largest, dtype=np.float32)
    score[:, :, 1:-1] = masks.transpose(0, 2, 1)
    slope: FloatArray = np.zeros_like(score)
    np.subtract(score[:, 1:], score[:, :-1], out=slope[:, :-1])
    crossed = _crossed(score, threshold, 2 * margin)

    # Each pixel column with each crossed cell that it goes through, from top to bottom.
    lines = xs.at.astype(np.int64)
    share = xs.at - lines.astype(np.float32)
    lines += xs.box * columns
    places = np.flatnonzero(crossed)
    line_of_place = places // (rows + 1)
    # From here on a place is that of the cell's upper end in `score`, which has one row more than there are cells.
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

    plain = ys.scale <= 0
    above, below = top > threshold + margin, bottom > threshold + margin
    near = (top > threshold - margin) != above
    near |= (bottom > threshold - margin) != below
    if near.any():
        plain[xs.box[column[near]]] = True
    changes = np.flatnonzero(above != below)
    column = column[changes]
    cell = at[changes] - lines[column] * (rows + 2) - 1
    cells = _cells(ys, rows, largest)
    row = _first_changed_row(top[changes], bottom[changes], cell, xs.box[column], cells, threshold)
    row += (xs.box * (height * width + 1) + xs.pixel * height)[column]
    return _sort_out(row, plain, number, height * width)


def _crossed(score: FloatArray, threshold: np.float32, margin: np.float32) -> npt.NDArray[np.bool_]:
    """`(N, m, m + 1)` cells that are not clearly above or clearly below the threshold as a whole."""
    crossed = np.zeros((score.shape[0], score.shape[1], score.shape[2] - 1), dtype=bool)
    for clearly in (score > threshold + margin, score < threshold - margin):
        both = clearly[:, :, 1:] & clearly[:, :, :-1]
        # The last mask column has no neighbour: pixels can only lie on it.
        both[:, :-1] &= both[:, 1:]
        crossed |= both
    return ~crossed


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
        doubt: How far rounding may move a change in any box, in pixel rows, whatever the scores.
        doubt_by_rise: The same for a rise of 1 from mask row to mask row.
        ys: The pixel rows themselves.
    """

    lower: IntArray
    upper: IntArray
    per_mask_row: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    doubt: float
    doubt_by_rise: float
    ys: Axis


def _cells(ys: Axis, rows: int, largest: float) -> _Cells:
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
        doubt=float(((np.abs(ys.origin) + rows) * per_row).max()) * 2.0**-21,
        doubt_by_rise=float(per_row.max()) * largest * _ROUNDING,
        ys=ys,
    )


def _first_changed_row(
    top: FloatArray, bottom: FloatArray, cell: IntArray, box: IntArray, cells: _Cells, threshold: np.float32
) -> IntArray:
    """The first pixel row on the other side of the threshold, for each change.

    Args:
        top: `(E,)` score on the pixel column at the mask row above the change.
        bottom: `(E,)` the same below it.
        cell: `(E,)` its cell, see `_Cells`.
        box: `(E,)` its box.
        cells: What is known of the boxes.
        threshold: Where the change is.
    """
    slot = box * (len(cells.lower) // len(cells.per_mask_row)) + cell
    lower, upper = cells.lower[slot], cells.upper[slot]
    # At a mask's begin and end the cell has no pixels: lower and upper leave no choice.
    rise = bottom - top
    mask_row = (threshold - top) / rise
    mask_row += cell
    exact = mask_row * cells.per_mask_row[box]
    exact += cells.origin[box]
    row: IntArray = np.ceil(exact).astype(np.int64)
    exact -= np.rint(exact)
    unsure = np.flatnonzero(np.abs(exact) <= cells.doubt + cells.doubt_by_rise / np.abs(rise))
    np.maximum(row, lower, out=row)
    np.minimum(row, upper, out=row)
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
    ys: Axis,
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
