"""COCO's run-length encoding (RLE) of masks, on the runs themselves; NumPy only.

A mask of 3 x 4 pixels (height x width), ones marked `#`:

    . # # .
    . # . .
    . # . #

is read column by column, top to bottom, as `000 111 100 001`. Its runs, the first one always of zeros, are

    runs    3 4 4 1

A mask that starts with a one begins with a run of length 0; a mask without ones is one single run. The compressed
form writes the first three runs as they are and every later one as the difference to the run two before it (to the
last run of the same kind, which is the previous column's), here

    deltas  3 4 4 -3

and each number in groups of five bits, lowest first, as many as its two's complement needs: 32 is added to every group
but a number's last one, 48 to make it printable. So the `counts` of this mask are `"344M"` (-3 is 29 in five bits, and
29 + 48 is `M`). `{"size": [3, 4], "counts": "344M"}` is what pycocotools reads and writes.

Below, *edges* are the positions in this column order at which a pixel differs from the one before it (the one before
the first pixel is a zero): here 3, 7, 11. *Spans* are the runs of ones as start and end (exclusive): 3-7 and 11-12.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import StoreError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: pycocotools keeps runs in 32 bits.
MAX_PIXELS = 2**32 - 1

#: Characters that one run of at most MAX_PIXELS can need.
MAX_GROUPS = 7


def encode(mask: npt.NDArray[Any]) -> str:
    """Compressed counts of a `(height, width)` mask; whatever is not zero is a one."""
    height, width = _shape_of(mask)
    return encode_crop(mask, 0, 0, height, width)


def encode_crop(crop: npt.NDArray[Any], y0: int, x0: int, height: int, width: int) -> str:
    """Compressed counts of a `(height, width)` image that is zero outside a crop, without making that image.

    Args:
        crop: `(h, w)` mask; whatever is not zero is a one.
        y0: Row of the image in which the crop's first row lies.
        x0: Column of the image in which the crop's first column lies.
        height: Pixels of the whole image.
        width: Pixels of the whole image.

    Raises:
        ValueError: The crop is no matrix or does not lie inside the image.
    """
    if crop.ndim != 2:
        raise ValueError(f"a mask must have shape (height, width), got {crop.shape}")
    h, w = crop.shape
    if y0 < 0 or x0 < 0 or y0 + h > height or x0 + w > width:
        raise ValueError(f"a crop of {h} x {w} at y={y0} x={x0} does not fit into an image of {height} x {width}")
    # A row of zeros above and below makes every column's edges its own: none can be hidden by the neighbour column.
    columns = np.zeros((w, h + 2), dtype=bool)
    columns[:, 1:-1] = crop.T
    column, row = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), h + 1)
    edges = without_pairs((column + x0) * height + row + y0)
    edges = edges[edges < height * width]
    return encode_edges(edges, np.array([len(edges)]), height * width)[0]


def without_pairs(positions: Int64Array) -> Int64Array:
    """Sorted positions without those that occur an even number of times, and once those that occur oddly often.

    Two edges at one place are none: the end of a column of ones whose neighbour starts with a one.
    """
    same = np.flatnonzero(positions[1:] == positions[:-1])
    if len(same) == 0:
        return positions
    keep: BoolArray = np.ones(len(positions), dtype=bool)
    keep[same] = False
    # That leaves the last of every group of equals; where the group is even, it goes too.
    gap = np.flatnonzero(np.diff(same) > 1)
    begin, end = same[np.append(0, gap + 1)], same[np.append(gap, -1)] + 1
    keep[end[(end - begin) % 2 == 1]] = False
    return positions[keep]


def encode_edges(edges: Int64Array, edges_per_mask: Int64Array, pixels: int) -> list[str]:
    """Compressed counts of many masks of one size at once, from their edges.

    Args:
        edges: The edges of the first mask, then those of the second and so on; strictly increasing within a mask,
            each at least 0 and less than `pixels`.
        edges_per_mask: `(N,)` how many of them belong to each mask.
        pixels: Height times width.
    """
    runs_per_mask = np.asarray(edges_per_mask, np.int64) + 1
    ends = np.cumsum(runs_per_mask)
    bounds = np.full(len(edges) + len(ends), pixels, dtype=np.int64)
    is_edge = np.ones(len(bounds), dtype=bool)
    is_edge[ends - 1] = False
    bounds[is_edge] = edges
    runs = bounds.copy()
    runs[1:] -= bounds[:-1]
    starts = ends - runs_per_mask
    runs[starts] = bounds[starts]
    return encode_runs(runs, runs_per_mask)


def encode_runs(runs: Int64Array, runs_per_mask: Int64Array) -> list[str]:
    """Compressed counts of many masks at once; `runs` are theirs one after the other, `runs_per_mask` `(N,)` >= 1."""
    ends = np.cumsum(runs_per_mask)
    starts = ends - runs_per_mask
    if len(starts) == 0:
        return []
    values = runs.copy()
    values[3:] -= runs[1:-2]
    plain = starts[:, None] + np.arange(3)
    plain = plain[plain < ends[:, None]]
    values[plain] = runs[plain]

    groups, several = np.ones(len(values), dtype=np.int64), []
    # A number of k groups lies in -2**(5k-1) .. 2**(5k-1)-1; folding the negative ones makes that one comparison.
    folded = values ^ (values >> 63)
    longer = np.flatnonzero(folded >= 16)
    while len(longer):
        several.append(longer)
        groups[longer] += 1
        longer = longer[folded[longer] >= 16 << 5 * len(several)]
    offsets = np.cumsum(groups)
    characters = np.empty(offsets[-1], dtype=np.uint8)
    offsets -= groups
    characters[offsets] = (values & 31) + np.where(groups > 1, 80, 48)
    for done, longer in enumerate(several, start=1):
        more = np.where(groups[longer] > done + 1, 80, 48)
        characters[offsets[longer] + done] = (values[longer] >> 5 * done & 31) + more
    text = characters.tobytes().decode("ascii")
    cuts = [*offsets[starts].tolist(), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


def decode_runs(counts: str | bytes, height: int, width: int) -> Int64Array:
    """Runs of compressed counts, zeros first, proved to fill an image of that size exactly.

    Takes time and memory in proportion to the string, whatever the string is. Runs of length 0 are kept.

    Raises:
        StoreError: The size is none, the string has a foreign character or ends inside a number, a run is negative,
            or the runs together are not `height * width`.
    """
    pixels = height * width
    if height < 1 or width < 1 or pixels > MAX_PIXELS:
        raise StoreError(
            f"an RLE's size must be at least 1 x 1 and at most {MAX_PIXELS} pixels, got {height} x {width}"
        )
    what = f"RLE for {height} x {width}"
    if len(counts) > MAX_GROUPS * (pixels + 1):
        raise StoreError(f"{what}: {len(counts)} characters are more than any mask of this size needs")
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError as error:
            raise StoreError(f"{what}: illegal character at {error.start}; '0' to 'o' are allowed") from None
    # Anything below '0' wraps around to a large number, so one comparison finds both sides.
    characters = np.frombuffer(counts, dtype=np.uint8) - np.uint8(48)
    illegal = characters > 63
    if illegal.any():
        raise StoreError(f"{what}: illegal character at {int(illegal.argmax())}; '0' to 'o' are allowed")
    last = np.flatnonzero(characters < 32)
    if len(last) == 0 or last[-1] != len(characters) - 1:
        raise StoreError(f"{what}: the string {'ends inside a number' if len(characters) else 'is empty'}")
    first = np.concatenate(([0], last[:-1] + 1))
    groups = last - first + 1
    if groups.max() > MAX_GROUPS:
        raise StoreError(f"{what}: a number of {int(groups.max())} characters; at most {MAX_GROUPS} are possible")
    values: Int64Array = (characters[first] & 31).astype(np.int64)
    longer = np.flatnonzero(groups > 1)
    place = 1
    while len(longer):
        values[longer] |= (characters[first[longer] + place] & 31).astype(np.int64) << 5 * place
        place += 1
        longer = longer[groups[longer] > place]
    values -= ((characters[last] & 16) != 0) * (np.int64(1) << 5 * groups)
    # From the fourth on, a number is the difference to the run two before: two chains, each a running sum.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise StoreError(f"{what}: run {int(values.argmin())} has the negative length {int(values.min())}")
    if values.max() > pixels or int(values.sum()) != pixels:
        # Hostile runs can overflow a sum in 64 bits: hence the look at the largest, and floats in the message.
        raise StoreError(f"{what}: the runs cover {values.sum(dtype=float):.0f} pixels, not {pixels}")
    return values


def validate(counts: str | bytes, height: int, width: int) -> None:
    """Raise StoreError, which says what is wrong, unless these are compressed counts of a mask of that size."""
    decode_runs(counts, height, width)


def spans(counts: str | bytes, height: int, width: int) -> tuple[Int64Array, Int64Array]:
    """Starts and ends (exclusive) of the runs of ones in column order; none is empty, no two touch.

    Raises:
        StoreError: See `decode_runs`.
    """
    bounds = np.cumsum(decode_runs(counts, height, width))
    pairs = len(bounds) // 2
    edges = bounds[: 2 * pairs]
    if np.any(edges[1:] == edges[:-1]):
        # Empty runs, which nobody needs but pycocotools allows.
        edges = without_pairs(edges)
    return edges[::2], edges[1::2]


def decode(counts: str | bytes, height: int, width: int) -> BoolArray:
    """The `(height, width)` bool mask of compressed counts.

    Takes memory for the whole image: where the size itself is not to be trusted, check it first.

    Raises:
        StoreError: See `decode_runs`.
    """
    runs = decode_runs(counts, height, width)
    ones = np.arange(len(runs)) % 2 == 1
    mask: BoolArray = np.repeat(ones, runs).reshape(width, height).T
    return mask


def area(counts: str | bytes, height: int, width: int) -> int:
    """Number of ones. Raises StoreError as `decode_runs` does."""
    return int(decode_runs(counts, height, width)[1::2].sum())


def bbox_xywh(counts: str | bytes, height: int, width: int) -> tuple[int, int, int, int]:
    """The smallest x, y, width, height in whole pixels that holds all ones, as pycocotools' `toBbox`; 0 0 0 0 if none.

    Raises:
        StoreError: See `decode_runs`.
    """
    starts, ends = spans(counts, height, width)
    if len(starts) == 0:
        return 0, 0, 0, 0
    first_column, first_row = np.divmod(starts, height)
    last_column, last_row = np.divmod(ends - 1, height)
    top, bottom = int(first_row.min()), int(last_row.max())
    if np.any(first_column < last_column):
        top, bottom = 0, height - 1
    left, right = int(first_column[0]), int(last_column[-1])
    return left, top, right - left + 1, bottom - top + 1


def _shape_of(mask: npt.NDArray[Any]) -> tuple[int, int]:
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a mask must have shape (height, width) of at least one pixel, got {mask.shape}")
    return mask.shape[0], mask.shape[1]
