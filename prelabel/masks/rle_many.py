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
    if len(groups) and groups.max() > 63:
        wrong[_owner(bounds, np.flatnonzero(groups > 63))] = True
    filled = np.flatnonzero(length)
    wrong[filled[groups[bounds[filled + 1] - 1] >= 32]] = True
    if wrong.any():
        # Every character of an invalid mask becomes a separate number, so that the other numbers keep their bounds.
        groups[np.repeat(wrong, length)] = 0
    # Most numbers have only one group. `more` are the groups that others follow, and `number` the numbers of these.
    more = np.flatnonzero(groups >= 32)
    number = more - np.arange(len(more))
    number_bounds = bounds - more.searchsorted(bounds)
    longer, first = np.unique(number, return_index=True)
    size = np.diff(first, append=len(more))
    if len(too_long := np.flatnonzero(size >= MAX_GROUPS)):
        wrong[_owner(number_bounds, longer[too_long])] = True
    # The highest of the five bits of a number's last group is its sign.
    values = ((groups[groups < 32] ^ np.uint8(16)) - np.uint8(16)).view(np.int8).astype(np.int64)
    if len(longer):
        place = np.arange(len(more)) - np.repeat(first, size)
        lower = np.where(place < MAX_GROUPS - 1, groups[more] & 31, 0) << 5 * np.minimum(place, MAX_GROUPS - 1)
        values[longer] <<= 5 * np.minimum(size, MAX_GROUPS - 1)
        values[longer] += np.add.reduceat(lower, first)
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
    ones = _ones(many.bounds)
    run, mask = many.runs[ones], np.repeat(np.arange(len(many.bounds) - 1), np.diff(many.bounds) // 2)
    if len(run) and run.min() == 0:
        ones, mask, run = (array[run > 0] for array in (ones, mask, run))
    total = np.zeros(len(many.runs) + 1, np.int64)
    np.cumsum(many.runs, out=total[1:])
    start = total[ones] - total[many.bounds[mask]]
    area, xywh = np.zeros(len(many.bounds) - 1, np.int64), np.zeros((len(many.bounds) - 1, 4), np.int64)
    owner, first = np.unique(mask, return_index=True)
    if len(owner):
        area[owner] = np.add.reduceat(run, first)
        tall = np.asarray(height, np.int64)[owner]
        # Division by one number is several times as fast as by many.
        divisor = tall[0] if (tall == tall[0]).all() else np.asarray(height, np.int64)[mask]
        top = start - start // divisor * divisor
        last = np.append(first[1:], len(run)) - 1
        left, right = start[first] // tall, (start[last] + run[last] - 1) // tall
        top, bottom = np.minimum.reduceat(top, first), np.maximum.reduceat(top + run, first)
        # A run that goes beyond the lower end of its column continues at the top of the next.
        top[bottom > tall] = 0
        box = left, top, right + 1 - left, np.minimum(bottom, tall) - top
        xywh[owner] = np.stack(box, axis=1)
    return area, xywh


def _ones(bounds: Int64Array) -> Int64Array:
    """The positions of the runs of ones: the second, fourth, ... of each mask."""
    number = np.diff(bounds) // 2
    before = np.append(0, np.cumsum(number))
    positions: Int64Array = 2 * np.arange(before[-1]) + np.repeat(bounds[:-1] + 1 - 2 * before[:-1], number)
    return positions


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
    filled = np.flatnonzero(np.diff(bounds))
    sums = np.zeros(len(bounds) - 1, np.int64)
    if len(filled):
        sums[filled] = np.add.reduceat(values, bounds[filled])
    return sums


def _owner(bounds: Int64Array, places: Int64Array) -> Int64Array:
    """The mask to which each position belongs."""
    return bounds.searchsorted(places, side="right") - 1
