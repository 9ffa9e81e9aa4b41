"""Many masks' run-length encodings at once: a column of them is checked and measured without a call for each.

The counts of all masks lie one after the other in one array of characters, as Arrow keeps a column of strings. The two
masks `344M` and `9` (3 x 4 pixels with 5 ones, and 3 x 3 without any) are

    characters  3 4 4 M 9
    bounds      0 4 5
    runs        3 4 4 1 9      with the bounds 0 4 5

The format itself is explained in `prelabel.rle`, whose functions say of one mask what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel.errors import StoreError
from prelabel.rle import MAX_GROUPS, MAX_PIXELS, BoolArray, Int64Array

#: The value of a number's last group of five bits, whose highest bit is the sign.
_SIGNED: Int64Array = np.tile(np.concatenate((np.arange(16), np.arange(-16, 0))), 8)

Sizes = npt.NDArray[np.integer[Any]]

#: Characters that can be decoded at a time: with more, a running sum over hostile numbers of 35 bits passes 63 bits.
MOST_CHARACTERS = 1 << 26

#: Characters that are decoded at a time: each takes some hundred bytes of memory meanwhile.
_AT_A_TIME = 1 << 18


class ManyRuns(NamedTuple):
    """The runs of many masks.

    Attributes:
        runs: Those of the first mask, zeros first, then those of the second and so on; 0 where a mask is not sound.
        bounds: `(N + 1,)` where each mask's runs begin.
        sound: `(N,)` whether the counts are those of a mask of the size stated.
    """

    runs: Int64Array
    bounds: Int64Array
    sound: BoolArray


def joined(counts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], Int64Array]:
    """Characters and bounds of counts that are Python strings; one that is not ASCII becomes one illegal character."""
    some = [one if one.isascii() else "\0" for one in counts]
    bounds = np.zeros(len(some) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in some], out=bounds[1:])
    return np.frombuffer("".join(some).encode("ascii"), dtype=np.uint8), bounds


def measure(
    characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes
) -> tuple[BoolArray, Int64Array, Int64Array]:
    """Of any number of masks: whether each is sound, its ones, and the box around them; see `decode_many`, `extents`.

    Raises:
        StoreError: A single mask has more than `MOST_CHARACTERS`.
    """
    number = len(bounds) - 1
    sound, area, xywh = np.zeros(number, dtype=bool), np.zeros(number, np.int64), np.zeros((number, 4), np.int64)
    for some, many in _decoded(characters, bounds, height, width):
        sound[some] = many.sound
        area[some], xywh[some] = extents(many, height[some])
    return sound, area, xywh


def are_sound(characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes) -> BoolArray:
    """`(N,)` whether each of any number of masks is one of its image's size. Raises StoreError as `measure` does."""
    parts = [many.sound for _, many in _decoded(characters, bounds, height, width)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def _decoded(
    characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes
) -> Iterator[tuple[slice, ManyRuns]]:
    start, number = 0, len(bounds) - 1
    while start < number:
        stop = max(int(bounds.searchsorted(bounds[start] + _AT_A_TIME, side="right")) - 1, start + 1)
        some, first, last = slice(start, stop), bounds[start], bounds[stop]
        yield some, decode_many(characters[first:last], bounds[start : stop + 1] - first, height[some], width[some])
        start = stop


def decode_many(characters: npt.NDArray[np.uint8], bounds: Int64Array, height: Sizes, width: Sizes) -> ManyRuns:
    """Runs of compressed counts, each proved to fill an image of its size exactly.

    Args:
        characters: At most `MOST_CHARACTERS`.
        bounds: `(N + 1,)` where each mask's characters begin.
        height: `(N,)` pixels of each mask's image.
        width: `(N,)`.

    Raises:
        StoreError: There are too many characters.
    """
    if len(characters) > MOST_CHARACTERS:
        raise StoreError(f"masks of {len(characters)} characters; at most {MOST_CHARACTERS} are decoded at a time")
    pixels = np.asarray(height, np.int64) * np.asarray(width, np.int64)
    length = np.diff(bounds)
    # Anything below '0' wraps around to a large number, so one comparison finds both sides.
    groups = characters - np.uint8(48)
    wrong = (np.asarray(height) < 1) | (np.asarray(width) < 1) | (pixels > MAX_PIXELS) | (length == 0)
    illegal = np.flatnonzero(groups > 63)
    wrong[_owner(bounds, illegal)] = True
    filled = np.flatnonzero(length)
    wrong[filled[groups[bounds[filled + 1] - 1] >= 32]] = True
    if wrong.any():
        # Every character of an unsound mask becomes a number of its own, so that the others' stay within their bounds.
        groups[np.repeat(wrong, length)] = 0
    last = np.flatnonzero(groups < 32)
    number_bounds = last.searchsorted(bounds)
    size = np.diff(last, prepend=-1)
    if len(endless := np.flatnonzero(size > MAX_GROUPS)):
        wrong[_owner(number_bounds, endless)] = True
        size[endless] = MAX_GROUPS
    # The last group has the sign; most numbers have no other.
    values = _SIGNED[groups[last]]
    longer, place = np.flatnonzero(size > 1), 0
    if len(longer):
        values[longer] <<= 5 * (size[longer] - 1)
    while len(longer):
        values[longer] += (groups[last[longer] - size[longer] + 1 + place] & 31).astype(np.int64) << 5 * place
        place += 1
        longer = longer[size[longer] > place + 1]
    runs = _undone(values, number_bounds)
    if len(runs) and (runs.min() < 0 or runs.max() > pixels.min()):
        bad = np.flatnonzero((runs < 0) | (runs > np.repeat(pixels, np.diff(number_bounds))))
        wrong[_owner(number_bounds, bad)] = True
    if wrong.any():
        # Their sums could pass 63 bits.
        runs[np.repeat(wrong, np.diff(number_bounds))] = 0
    uneven = ~wrong & (_sums(runs, number_bounds) != pixels)
    if uneven.any():
        wrong |= uneven
        runs[np.repeat(wrong, np.diff(number_bounds))] = 0
    return ManyRuns(runs, number_bounds, ~wrong)


def extents(many: ManyRuns, height: Sizes) -> tuple[Int64Array, Int64Array]:
    """`(N,)` number of ones and `(N, 4)` x y width height around them, in whole pixels; all 0 where there are none."""
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
    """Whether each run is one of ones: the second, fourth, ... of its mask."""
    place = np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))
    return (place & 1).astype(bool)


def _undone(values: Int64Array, bounds: Int64Array) -> Int64Array:
    """Runs from the numbers written: from a mask's fourth on, each is the difference to the run two before."""
    starts = bounds[:-1][np.diff(bounds) > 0]
    if len(starts) == 0:
        return values
    ends = np.append(starts[1:], len(values))
    plain = values[starts]
    runs: Int64Array = values.copy()
    runs[starts] = 0
    # Two chains, of the numbers at even places and at odd ones, go through all masks; a mask's first number is in none.
    for chain in (0, 1):
        np.cumsum(runs[chain::2], out=runs[chain::2])
    for chain in (0, 1):
        # What a chain has come to before a mask stands at its first place, or at the one before that.
        before = starts - ((starts & 1) != chain)
        come_to = np.where(before < 0, 0, runs[before])
        number = (ends + 1 - chain) // 2 - (starts + 1 - chain) // 2
        runs[chain::2] -= np.repeat(come_to, number)
    runs[starts] = plain
    return runs


def _sums(values: Int64Array, bounds: Int64Array) -> Int64Array:
    total = np.append(0, np.cumsum(values))
    sums: Int64Array = total[bounds[1:]] - total[bounds[:-1]]
    return sums


def _owner(bounds: Int64Array, places: Int64Array) -> Int64Array:
    """The mask to which each place belongs."""
    return bounds.searchsorted(places, side="right") - 1
