"""COCO's run-length encoding (RLE) of masks, computed from runs without decoding; NumPy only.

A mask of 3 x 4 pixels (height x width), ones marked `#`:

    . # # .
    . # . .
    . # . #

is read column by column, top to bottom, as `000 111 100 001`. Its runs, of which the first is always of zeros, are

    runs    3 4 4 1

If a mask starts with a one, its first run has length 0. A mask without ones is a single run. The compressed form
writes the first three runs unchanged, and every later run as its difference to the run two before (the previous run of
the same value, typically in the previous column), here

    deltas  3 4 4 -3

Each number is written in groups of five bits, lowest first, as many as its two's complement needs. 32 is added to every
group except the last of a number, and 48 makes it printable. The `counts` of this mask are therefore `"344M"` (-3 is 29
in five bits, and 29 + 48 is `M`). pycocotools reads and writes `{"size": [3, 4], "counts": "344M"}`.

Below, *edges* are the positions in column order at which a pixel differs from the pixel before it (before the first
pixel there is a zero): here 3, 7, 11. *Spans* are the runs of ones as start and end (exclusive): 3-7 and 11-12.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import StoreError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: Maximum number of pixels of a mask: pycocotools stores runs in 32 bits.
MAX_PIXELS = 2**32 - 1

#: Maximum number of characters of one run.
MAX_GROUPS = 7


def encode(mask: npt.NDArray[Any]) -> str:
    """Compressed counts of a `(height, width)` mask; every nonzero value is a one."""
    height, width = _shape_of(mask)
    return encode_crop(mask, 0, 0, height, width)


def encode_crop(crop: npt.NDArray[Any], y0: int, x0: int, height: int, width: int) -> str:
    """Compressed counts of a `(height, width)` mask that is zero outside a crop, without allocating the whole mask.

    Args:
        crop: `(h, w)` mask; every nonzero value is a one.
        y0: Image row of the first row of the crop.
        x0: Image column of the first column of the crop.
        height: Pixels of the whole image.
        width: Pixels of the whole image.

    Raises:
        ValueError: The crop does not have two dimensions, or does not lie inside the image.
    """
    if crop.ndim != 2:
        raise ValueError(f"a mask must have shape (height, width), got {crop.shape}")
    h, w = crop.shape
    if y0 < 0 or x0 < 0 or y0 + h > height or x0 + w > width:
        raise ValueError(f"a crop of {h} x {w} at y={y0} x={x0} does not fit into an image of {height} x {width}")
    # A row of zeros above and below each column keeps its edges apart from those of the neighbor columns.
    columns = np.zeros((w, h + 2), dtype=bool)
    columns[:, 1:-1] = crop.T
    column, row = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), h + 1)
    edges = without_pairs((column + x0) * height + row + y0)
    edges = edges[edges < height * width]
    return encode_edges(edges, np.array([len(edges)]), height * width)[0]


def without_pairs(positions: Int64Array) -> Int64Array:
    """Sorted positions without those that occur an even number of times; the others are kept once.

    Two edges at one position cancel: a column ends with a one and the next column starts with a one.
    """
    same = np.flatnonzero(positions[1:] == positions[:-1])
    if len(same) == 0:
        return positions
    keep: BoolArray = np.ones(len(positions), dtype=bool)
    keep[same] = False
    # This keeps the last position of every group of equal positions. It is removed, too, if the group is even.
    gap = np.flatnonzero(np.diff(same) > 1)
    begin, end = same[np.append(0, gap + 1)], same[np.append(gap, -1)] + 1
    keep[end[(end - begin) % 2 == 1]] = False
    return positions[keep]


def encode_edges(edges: Int64Array, edges_per_mask: Int64Array, pixels: int) -> list[str]:
    """Compressed counts of many masks of one size, from their edges.

    Args:
        edges: The edges of the first mask, then those of the second and so on; strictly increasing within a mask,
            each at least 0 and less than `pixels`.
        edges_per_mask: `(N,)` number of edges of each mask.
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
    """Compressed counts of many masks from their concatenated `runs`; `runs_per_mask` is `(N,)`, at least 1 each."""
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
    # A number of k groups lies in -2**(5k-1) .. 2**(5k-1)-1. Folding negative numbers allows a single comparison.
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
    """The runs of compressed counts, zeros first; they are checked to fill an image of that size exactly.

    Time and memory are proportional to the length of the string, even for invalid strings. Runs of length 0 are kept.

    Raises:
        StoreError: The size is invalid, the string has an illegal character or ends inside a number, a run is negative,
            or the sum of the runs is not `height * width`.
    """
    pixels = height * width
    if height < 1 or width < 1 or pixels > MAX_PIXELS:
        raise StoreError(
            f"an RLE's size must be at least 1 x 1 and at most {MAX_PIXELS} pixels, got {height} x {width}"
        )
    prefix = f"RLE for {height} x {width}"
    if len(counts) > MAX_GROUPS * (pixels + 1):
        raise StoreError(f"{prefix}: {len(counts)} characters are more than any mask of this size needs")
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError as error:
            raise StoreError(f"{prefix}: illegal character at {error.start}; '0' to 'o' are allowed") from None
    # Characters below '0' wrap around to large numbers, so one comparison covers both ends.
    characters = np.frombuffer(counts, dtype=np.uint8) - np.uint8(48)
    illegal = characters > 63
    if illegal.any():
        raise StoreError(f"{prefix}: illegal character at {int(illegal.argmax())}; '0' to 'o' are allowed")
    last = np.flatnonzero(characters < 32)
    if len(last) == 0 or last[-1] != len(characters) - 1:
        raise StoreError(f"{prefix}: the string {'ends inside a number' if len(characters) else 'is empty'}")
    first = np.concatenate(([0], last[:-1] + 1))
    groups = last - first + 1
    if groups.max() > MAX_GROUPS:
        raise StoreError(f"{prefix}: a number of {int(groups.max())} characters; at most {MAX_GROUPS} are possible")
    values: Int64Array = (characters[first] & 31).astype(np.int64)
    longer = np.flatnonzero(groups > 1)
    place = 1
    while len(longer):
        values[longer] |= (characters[first[longer] + place] & 31).astype(np.int64) << 5 * place
        place += 1
        longer = longer[groups[longer] > place]
    values -= ((characters[last] & 16) != 0) * (np.int64(1) << 5 * groups)
    # From the fourth number on, each is the difference to the run two before. Two running sums, over even and odd
    # positions, add them up.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise StoreError(f"{prefix}: run {int(values.argmin())} has the negative length {int(values.min())}")
    if values.max() > pixels or int(values.sum()) != pixels:
        # Hostile runs can overflow a sum of 64 bits, so the largest run is checked, too, and the message sums floats.
        raise StoreError(f"{prefix}: the runs cover {values.sum(dtype=float):.0f} pixels, not {pixels}")
    return values


def validate(counts: str | bytes, height: int, width: int) -> None:
    """Raise StoreError with the reason if these are not compressed counts of a mask of that size."""
    decode_runs(counts, height, width)


def spans(counts: str | bytes, height: int, width: int) -> tuple[Int64Array, Int64Array]:
    """Starts and ends (exclusive) of the runs of ones in column order; no run is empty, and no two touch.

    Raises:
        StoreError: See `decode_runs`.
    """
    bounds = np.cumsum(decode_runs(counts, height, width))
    pairs = len(bounds) // 2
    edges = bounds[: 2 * pairs]
    if np.any(edges[1:] == edges[:-1]):
        # Empty runs are useless, but pycocotools allows them.
        edges = without_pairs(edges)
    return edges[::2], edges[1::2]


def cut_at_columns(starts: Int64Array, ends: Int64Array, height: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Cut runs of ones at column borders: `(R,)` the column, start and end (exclusive) of each piece.

    Args:
        starts: `(S,)` as `spans` returns them.
        ends: `(S,)` exclusive.
        height: Pixels of a column.
    """
    first, last = starts // height, (ends - 1) // height
    if not np.any(first != last):
        return first, starts, ends
    number = last - first + 1
    begin = np.cumsum(number) - number
    column = np.repeat(first - begin, number) + np.arange(number.sum())
    top, bottom = column * height, (column + 1) * height
    top[begin], bottom[begin + number - 1] = starts, ends
    return column, top, bottom


def decode(counts: str | bytes, height: int, width: int) -> BoolArray:
    """The `(height, width)` bool mask of compressed counts.

    It allocates the whole mask: check the size first if it comes from an untrusted source.

    Raises:
        StoreError: See `decode_runs`.
    """
    runs = decode_runs(counts, height, width)
    ones = np.arange(len(runs)) % 2 == 1
    mask: BoolArray = np.repeat(ones, runs).reshape(width, height).T
    return mask


def area(counts: str | bytes, height: int, width: int) -> int:
    """The number of ones. Raises StoreError as `decode_runs` does."""
    return int(decode_runs(counts, height, width)[1::2].sum())


def bbox_xywh(counts: str | bytes, height: int, width: int) -> tuple[int, int, int, int]:
    """The bounding box x, y, width, height of all ones in pixels, like pycocotools' `toBbox`; 0 0 0 0 without ones.

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
        raise ValueError(f"a mask must have shape (height, width) with at least one pixel, got {mask.shape}")
    return mask.shape[0], mask.shape[1]
