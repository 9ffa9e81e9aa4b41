"""Validate and measure the run-length encodings of many masks together, without a call per mask.

The counts of all masks are concatenated in one array of characters, as Arrow stores a column of strings. The two masks
`344M` and `9` (3 x 4 pixels with 5 ones, and 3 x 3 pixels without ones) are

    characters  3 4 4 M 9
    bounds      0 4 5
    runs        3 4 4 1 9      with the bounds 0 4 5

`prelabel.masks.rle` explains the format, and its decoder of one mask reports the error of an invalid mask. There are
two decoders because each is two to three times as fast as the other at its task (`benchmarks/masks.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel.errors import StoreError
from prelabel.masks.rle import MAX_GROUPS, MAX_PIXELS, BoolArray, Int64Array

#: The value of the last group of five bits of a number; its highest bit is the sign.
_SIGNED: Int64Array = np.tile(np.concatenate((np.arange(16), np.arange(-16, 0))), 8)

Sizes = npt.NDArray[np.integer[Any]]

#: Maximum number of characters decoded together: with more, a running sum of hostile numbers of 35 bits could exceed
#: 63 bits.
MOST_CHARACTERS = 1 << 26

#: Characters in a batch of `measure` and `are_valid`: decoding takes on the order of 100 bytes of memory per character.
_BATCH_CHARACTERS = 1 << 18


class ManyRuns(NamedTuple):
    """The runs of many masks.

    Attributes:
        runs: The runs of the first mask, zeros first, then of the second and so on; 0 for invalid masks.
        bounds: `(N + 1,)` the start of each mask in `runs`.
        valid: `(N,)` bool, whether the counts are a mask of the given size.
    """

    runs: Int64Array
    bounds: Int64Array
    valid: BoolArray


def join_counts(counts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], Int64Array]:
    """The characters and bounds of counts; a string that is not ASCII becomes one illegal character."""
    texts = [text if text.isascii() else "\0" for text in counts]
    bounds = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=bounds[1:])
    return np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8), bounds


def measure(
    characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes
) -> tuple[BoolArray, Int64Array, Int64Array]:
    """Whether each of any number of masks is valid, its number of ones, and its box; see `decode_many`, `extents`.

    Raises:
        StoreError: A mask has more than `MOST_CHARACTERS`.
    """
    number = len(bounds) - 1
    valid, area, xywh = np.zeros(number, dtype=bool), np.zeros(number, np.int64), np.zeros((number, 4), np.int64)
    for masks, many in _decoded(characters, bounds, height, width):
        valid[masks] = many.valid
        area[masks], xywh[masks] = extents(many, height[masks])
    return valid, area, xywh


def are_valid(characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes) -> BoolArray:
    """`(N,)` whether each of any number of masks fits the size of its image. Raises StoreError like `measure`."""
    parts = [many.valid for _, many in _decoded(characters, bounds, height, width)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def _decoded(
    characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes
) -> Iterator[tuple[slice, ManyRuns]]:
    start, number = 0, len(bounds) - 1
    while start < number:
        stop = max(int(bounds.searchsorted(bounds[start] + _BATCH_CHARACTERS, side="right")) - 1, start + 1)
        masks, first, last = slice(start, stop), bounds[start], bounds[stop]
        yield masks, decode_many(characters[first:last], bounds[start : stop + 1] - first, height[masks], width[masks])
        start = stop


def decode_many(characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes) -> ManyRuns:
    """The runs of compressed counts; each mask is checked to fill an image of its size exactly.

    Args:
        characters: At most `MOST_CHARACTERS`.
        bounds: `(N + 1,)` the start of each mask in `characters`.
        height: `(N,)` pixels of the image of each mask.
        width: `(N,)` pixels of the image of each mask.

    Raises:
        StoreError: There are too many characters.
    """
    if len(characters) > MOST_CHARACTERS:
        raise StoreError(f"masks of {len(characters)} characters; at most {MOST_CHARACTERS} are decoded at a time")
    pixels = np.asarray(height, np.int64) * np.asarray(width, np.int64)
    length = np.diff(bounds)
    # Characters below '0' wrap around to large numbers, so one comparison covers both ends.
    groups = characters - np.uint8(48)
    wrong = (np.asarray(height) < 1) | (np.asarray(width) < 1) | (pixels > MAX_PIXELS) | (length == 0)
    illegal = np.flatnonzero(groups > 63)
    wrong[_owner(bounds, illegal)] = True
    filled = np.flatnonzero(length)
    wrong[filled[groups[bounds[filled + 1] - 1] >= 32]] = True
    if wrong.any():
        # Every character of an invalid mask becomes a separate number, so that the other numbers keep their bounds.
        groups[np.repeat(wrong, length)] = 0
    last = np.flatnonzero(groups < 32)
    number_bounds = last.searchsorted(bounds)
    size = np.diff(last, prepend=-1)
    if len(too_long := np.flatnonzero(size > MAX_GROUPS)):
        wrong[_owner(number_bounds, too_long)] = True
        size[too_long] = MAX_GROUPS
    # The last group of a number has the sign; most numbers have only one group.
    values = _SIGNED[groups[last]]
    longer, place = np.flatnonzero(size > 1), 0
    if len(longer):
        values[longer] <<= 5 * (size[longer] - 1)
    while len(longer):
        values[longer] += (groups[last[longer] - size[longer] + 1 + place] & 31).astype(np.int64) << 5 * place
        place += 1
        longer = longer[size[longer] > place + 1]
    runs = _from_differences(values, number_bounds)
    if len(runs) and (runs.min() < 0 or runs.max() > pixels.min()):
        bad = np.flatnonzero((runs < 0) | (runs > np.repeat(pixels, np.diff(number_bounds))))
        wrong[_owner(number_bounds, bad)] = True
    if wrong.any():
        # The sums of invalid masks could exceed 63 bits.
        runs[np.repeat(wrong, np.diff(number_bounds))] = 0
    uneven = ~wrong & (_sums(runs, number_bounds) != pixels)
    if uneven.any():
        wrong |= uneven
        runs[np.repeat(wrong, np.diff(number_bounds))] = 0
    return ManyRuns(runs, number_bounds, ~wrong)


def extents(many: ManyRuns, height: Sizes) -> tuple[Int64Array, Int64Array]:
    """`(N,)` numbers of ones and `(N, 4)` bounding boxes x y width height in pixels, all 0 without ones."""
    odd = _odd(many.bounds)
    area = _sums(np.where(odd, many.runs, 0), many.bounds)
    ends = np.cumsum(many.runs)
    mask = np.repeat(np.arange(len(area)), np.diff(many.bounds))
    chosen = np.flatnonzero(odd & (many.runs > 0))
    before = np.append(0, ends)[many.bounds[:-1]]
    mask, end = mask[chosen], ends[chosen] - before[mask[chosen]]
    tall = np.asarray(height, np.int64)[mask]
    left, top = np.divmod(end - many.runs[chosen], tall)
    right, bottom = np.divmod(end - 1, tall)
    across = left < right
    top[across], bottom[across] = 0, tall[across] - 1
    xywh = np.zeros((len(area), 4), dtype=np.int64)
    owner, starts = np.unique(mask, return_index=True)
    if len(starts):
        low = np.stack((left[starts], np.minimum.reduceat(top, starts)), axis=1)
        high = np.stack((np.maximum.reduceat(right, starts), np.maximum.reduceat(bottom, starts)), axis=1)
        xywh[owner] = np.concatenate((low, high - low + 1), axis=1)
    return area, xywh


def _odd(bounds: Int64Array) -> BoolArray:
    """Whether each run is a run of ones: the second, fourth, ... of its mask."""
    place = np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))
    return (place & 1).astype(bool)


def _from_differences(values: Int64Array, bounds: Int64Array) -> Int64Array:
    """Runs from the written numbers: from the fourth of a mask on, each is the difference to the run two before it."""
    starts = bounds[:-1][np.diff(bounds) > 0]
    if len(starts) == 0:
        return values
    ends = np.append(starts[1:], len(values))
    plain = values[starts]
    runs: Int64Array = values.copy()
    runs[starts] = 0
    # Two running sums, over even and odd positions, span all masks. The first number of a mask belongs to neither.
    for chain in (0, 1):
        np.cumsum(runs[chain::2], out=runs[chain::2])
    for chain in (0, 1):
        # Subtract the value that the sum had before the mask: at the first position of the mask, or one before it.
        before = starts - ((starts & 1) != chain)
        sum_before = np.where(before < 0, 0, runs[before])
        number = (ends + 1 - chain) // 2 - (starts + 1 - chain) // 2
        runs[chain::2] -= np.repeat(sum_before, number)
    runs[starts] = plain
    return runs


def _sums(values: Int64Array, bounds: Int64Array) -> Int64Array:
    total = np.append(0, np.cumsum(values))
    sums: Int64Array = total[bounds[1:]] - total[bounds[:-1]]
    return sums


def _owner(bounds: Int64Array, places: Int64Array) -> Int64Array:
    """The mask to which each position belongs."""
    return bounds.searchsorted(places, side="right") - 1
