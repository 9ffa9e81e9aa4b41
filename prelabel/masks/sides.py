"""The vertical sides of a mask's contour, computed from its runs. Polygons and runs in row order are made from them.

The line between two pixel columns is a side of the mask wherever exactly one of the two pixels belongs to the mask. The
mask

    # #
    # .

has three sides: x=0 from row 0 to 2, x=1 from row 1 to 2, x=2 from row 0 to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prelabel.errors import ExportError
from prelabel.masks import rle
from prelabel.masks.rle import BoolArray, Int64Array

#: Maximum number of rows of all sides of a mask. No real object has that many, but a short RLE of stripes can have
#: billions.
_MAX_ROWS = 20_000_000


class Sides(NamedTuple):
    """The sides of a mask, ordered by x, then by y. Adjacent sides of the same kind are merged.

    Attributes:
        x: `(S,)` x coordinates, where x is the left edge of pixel column x.
        top: `(S,)` first rows.
        bottom: `(S,)` last rows, exclusive.
        right: `(S,)` bool, whether the mask lies to the left of the side, which is then its right boundary.
    """

    x: Int64Array
    top: Int64Array
    bottom: Int64Array
    right: BoolArray


def sides_of(starts: Int64Array, ends: Int64Array, height: int) -> Sides:
    """The sides of a mask from its runs of ones, as `rle.spans` returns them, in an image of this height."""
    column, top, bottom = rle.cut_at_columns(starts, ends, height)
    # Along the line x, the mask changes where column x changes (on its right) or column x - 1 (on its left). A column
    # has one more place than pixels, so that its end differs from the start of the next. The lowest bit means "left".
    on_line = np.concatenate((top + column, bottom + column)) * 2
    places = np.concatenate((on_line, on_line + (2 * height + 3)))
    places.sort(kind="stable")
    left = places & 1
    places >>= 1
    inside_left = left.cumsum() & 1
    # After an odd number of changes exactly one of the two columns is inside; after an even number both or none.
    differs = np.arange(1, len(left) + 1) & 1
    chosen = np.flatnonzero(differs[:-1] & (places[1:] > places[:-1]))
    x = places[chosen] // (height + 1)
    base = x * (height + 1)
    return Sides(x, places[chosen] - base, places[chosen + 1] - base, inside_left[chosen].astype(bool))


def rows_of(sides: Sides) -> Int64Array:
    """The number of rows of each side, `(S,)`.

    Raises:
        ExportError: The sides have too many rows to process.
    """
    length = sides.bottom - sides.top
    if (total := int(length.sum())) > _MAX_ROWS:
        raise ExportError(f"the vertical contour of a mask has {total} pixels, more than the {_MAX_ROWS} allowed")
    return length


def transposed_edges(starts: Int64Array, ends: Int64Array, height: int, width: int) -> Int64Array:
    """The edges of a mask in row order, from its runs of ones in column order.

    With height and width swapped, it converts from row order to column order.

    Args:
        starts: `(R,)` first pixel of each run in column order, ascending; no two runs touch.
        ends: `(R,)` pixel after each run.
        height: Pixels of the image.
        width: Pixels of the image.

    Returns:
        Positions in row order at which a pixel differs from the pixel before it, without the end of the image.

    Raises:
        ExportError: See `rows_of`.
    """
    return transposed_many(starts, ends, height, width, 1)[0]


def transposed_many(
    starts: Int64Array, ends: Int64Array, height: int, width: int, masks: int
) -> tuple[Int64Array, Int64Array]:
    """The edges of many masks in row order, from masks side by side in one wide image, an empty column after each.

    Args:
        starts: `(R,)` as for `transposed_edges`; those of mask m are at least `m * height * (width + 1)`.
        ends: `(R,)` as for `transposed_edges`.
        height: Pixels of each image.
        width: Pixels of each image.
        masks: Number of masks.

    Returns:
        The edges of all masks, each counted from the first pixel of its image, and `(masks + 1,)` the bounds of each
        mask in them.

    Raises:
        ExportError: See `rows_of`; it applies to all masks together.
    """
    sides = sides_of(starts, ends, height)
    length = rows_of(sides)
    end, pixels = length.cumsum(), height * width
    # With k counting the rows of all sides, row k of a side is at `begin + k * width`: one row down is `width` further.
    # A mask has one more place than pixels, so that its end differs from the start of the next.
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
