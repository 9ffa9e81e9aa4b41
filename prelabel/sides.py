"""The upright sides of a mask's outline, straight from its runs: what polygons and row-major runs are made of.

In an image read column by column, a line between two columns is a side of the mask wherever exactly one of the two
has a pixel there. The mask

    # #
    # .

has three sides: x=0 from row 0 to 2, x=1 from row 1 to 2, x=2 from row 0 to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prelabel import rle
from prelabel.errors import ExportError
from prelabel.rle import BoolArray, Int64Array

#: Pixels along all sides of one mask. No picture of a thing has as many; a short RLE of stripes can have billions.
_LONGEST_SIDES = 20_000_000


class Sides(NamedTuple):
    """All sides, ordered by x, then by y; on one line none continues another of the same kind.

    Attributes:
        x: `(S,)` the line: the left edge of pixel column x.
        top: `(S,)` first row.
        bottom: `(S,)` row after the last.
        right: `(S,)` whether the mask ends here (it lies to the left of this line) or begins.
    """

    x: Int64Array
    top: Int64Array
    bottom: Int64Array
    right: BoolArray


def sides_of(starts: Int64Array, ends: Int64Array, height: int) -> Sides:
    """Sides from a mask's runs of ones, as `rle.spans` gives them, in an image with columns of `height` pixels."""
    first, last = starts // height, (ends - 1) // height
    if np.any(first != last):
        # Runs that go on in the next column are cut at its top.
        number = last - first + 1
        begin = np.cumsum(number) - number
        column = np.repeat(first - begin, number) + np.arange(number.sum())
        top, bottom = column * height, (column + 1) * height
        top[begin], bottom[begin + number - 1] = starts, ends
    else:
        column, top, bottom = first, starts, ends
    # On the line x the mask changes where column x does (on its right) and where column x - 1 does (on its left).
    # One more place a column than pixels: a column's end is not the next one's begin. The lowest bit says "left".
    on_line = np.concatenate((top + column, bottom + column)) * 2
    places = np.concatenate((on_line, on_line + (2 * height + 3)))
    places.sort(kind="stable")
    left = places & 1
    places >>= 1
    inside_left = left.cumsum() & 1
    # Of the places up to here an odd number on either side, or on both: then exactly one side is inside, or none.
    differs = np.arange(1, len(left) + 1) & 1
    chosen = np.flatnonzero(differs[:-1] & (places[1:] > places[:-1]))
    x = places[chosen] // (height + 1)
    base = x * (height + 1)
    return Sides(x, places[chosen] - base, places[chosen + 1] - base, inside_left[chosen].astype(bool))


def rows_of(sides: Sides) -> Int64Array:
    """`(S,)` how many rows each side has.

    Raises:
        ExportError: They are too many to go through row by row.
    """
    length = sides.bottom - sides.top
    if (total := int(length.sum())) > _LONGEST_SIDES:
        raise ExportError(f"a mask with {total} pixels of upright outline is too ragged; {_LONGEST_SIDES} are allowed")
    return length


def transposed_edges(starts: Int64Array, ends: Int64Array, height: int, width: int) -> Int64Array:
    """Edges of the same mask read row by row, from its runs of ones read column by column.

    With height and width exchanged it is the way back.

    Args:
        starts: `(R,)` first pixel of each run, counted down the columns; ascending, no two runs touch.
        ends: `(R,)` pixel after each run.
        height: Pixels of the image.
        width: Pixels of the image.

    Returns:
        Positions, counted along the rows, at which a pixel differs from the one before it; none at the image's end.

    Raises:
        ExportError: See `rows_of`.
    """
    return transposed_many(starts, ends, height, width, 1)[0]


def transposed_many(
    starts: Int64Array, ends: Int64Array, height: int, width: int, masks: int
) -> tuple[Int64Array, Int64Array]:
    """The same for many masks that lie side by side in one wide image, with an empty column after each.

    Args:
        starts: `(R,)` as above; those of mask m come after `m * height * (width + 1)`.
        ends: `(R,)`.
        height: Pixels of each image.
        width: Pixels of each image.
        masks: How many.

    Returns:
        Edges of all masks, each counted from its own image's first pixel, and `(masks + 1,)` where each mask's begin.

    Raises:
        ExportError: See `rows_of`, for all masks together.
    """
    sides = sides_of(starts, ends, height)
    length = rows_of(sides)
    end, pixels = length.cumsum(), height * width
    # Row by row is `width` on: from the k-th place of all sides to where side s, of which the e-th is the last, has it.
    # Each mask has a place more than pixels: one's end is not the next one's begin.
    begin = (sides.top - end + length) * width + sides.x
    if masks > 1:
        begin += sides.x // (width + 1) * (pixels + 1 - (width + 1))
    edges = begin.repeat(length)
    edges += np.arange(0, len(edges) * width, width)
    edges.sort(kind="stable")
    edges = rle.without_pairs(edges)
    firsts = np.arange(masks + 1) * (pixels + 1)
    bounds = edges.searchsorted(firsts)
    last = bounds[1:][bounds[1:] > bounds[:-1]] - 1
    at_end = last[(edges[last] + 1) % (pixels + 1) == 0]
    if len(at_end):
        edges = np.delete(edges, at_end)
        bounds = edges.searchsorted(firsts)
    if masks > 1:
        edges -= np.repeat(firsts[:-1], np.diff(bounds))
    return edges, bounds
