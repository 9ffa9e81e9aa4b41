"""Convert COCO RLE to Label Studio's brush masks and back, directly from runs to runs, without decoding to pixels.

The brush format is a bit stream of the image's RGBA values (four equal values per pixel, row by row, 255 or 0), most
significant bit first:

    32 bits  number of values, height * width * 4
     5 bits  bits of a value, minus 1: 7
    4 x 4    the widths of run lengths, each minus 1: 2 3 7 15
    packets  1 bit    1 for a run, 0 for single values
             2 bits   index of the width of the length
             length, minus 1
             8 bits   the value of the run, or `length` single values

followed by zeros up to a full byte. An image of 1 x 2 pixels with only the left one in the mask has 8 values, 4 of 255
and 4 of 0: `00 00 00 08 39 1B FC 7F F1 80 00`. The encoder of label-studio-sdk writes the same bytes: run lengths are
at most 65,536, and a stream that already ends with a full byte is followed by a byte of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from prelabel.errors import ExportError, StoreError
from prelabel.masks import rle
from prelabel.masks.rle import BoolArray, Int64Array
from prelabel.masks.rle_many import decode_many, join_counts
from prelabel.masks.sides import transposed_edges, transposed_many

_WIDTHS = (3, 4, 8, 16)
_WIDTHS_ARRAY = np.array(_WIDTHS)
#: The longest run of each width except the last.
_LONGEST_OF_WIDTH = 1 << _WIDTHS_ARRAY[:-1]
_LONGEST = 1 << _WIDTHS[-1]
_VALUE_BITS = 8
_HEADER_BITS = 32 + 5 + 16

#: Characters of the masks in a batch; larger batches are not faster.
_BATCH_CHARACTERS = 1 << 16

#: The smallest alpha of a pixel in the mask.
_OPAQUE = 128


def brush_from_rle(counts: str | bytes, height: int, width: int) -> bytes:
    """The brush mask of COCO compressed counts; Label Studio expects `list(...)` of it as `value.rle`.

    Raises:
        ExportError: The counts are not a mask of this size, the contour of the mask is too long, or the image has too
            many pixels for the format (2**30).
    """
    return brushes_from_rle([counts], height, width)[0]


def brushes_from_rle(counts: Sequence[str | bytes], height: int, width: int) -> list[bytes]:
    """The brush masks of many COCO compressed counts of one image size, in less than half the time of a call per mask.

    Raises:
        ExportError: See `brush_from_rle`.
    """
    values = _number_of_values(height, width)
    brushes: list[bytes] = []
    for batch in _batches(counts):
        starts, ends = _in_one_image(batch, height, width)
        try:
            edges, bounds = transposed_many(starts, ends, height, width, len(batch))
        except ExportError:
            if len(batch) == 1:
                raise
            # The contours of all masks together are too long. Convert the masks one by one: each alone may be short.
            for mask in batch:
                brushes += brushes_from_rle([mask], height, width)
            continue
        brushes += _pack(values, *_runs(edges, bounds, height * width))
    return brushes


def _batches(counts: Sequence[str | bytes]) -> Iterator[Sequence[str | bytes]]:
    start, characters = 0, 0
    for number, mask in enumerate(counts):
        if number > start and characters + len(mask) > _BATCH_CHARACTERS:
            yield counts[start:number]
            start, characters = number, 0
        characters += len(mask)
    if len(counts) > start:
        yield counts[start:]


def _in_one_image(counts: Sequence[str | bytes], height: int, width: int) -> tuple[Int64Array, Int64Array]:
    """The runs of ones of all masks side by side in one wide image, with an empty column after each."""
    text = [mask if isinstance(mask, str) else mask.decode("latin-1") for mask in counts]
    size = np.full(len(text), 1)
    many = decode_many(*join_counts(text), size * height, size * width)
    for invalid in np.flatnonzero(~many.valid).tolist():
        try:
            rle.validate(counts[invalid], height, width)
        except StoreError as error:
            raise ExportError(f"cannot make a brush mask: {error}") from None
    runs_per_mask = np.diff(many.bounds)
    ends = many.runs.cumsum()
    # The runs of a mask fill its image, and the next mask starts after an empty column.
    ends += np.repeat(np.arange(len(text)) * height, runs_per_mask)
    # The end of a last run of zeros is not an edge.
    edges = np.delete(ends, many.bounds[1:][runs_per_mask % 2 == 1] - 1)
    if np.any(edges[1:] == edges[:-1]):
        edges = rle.without_pairs(edges)
    return edges[::2], edges[1::2]


def _runs(edges: Int64Array, bounds: Int64Array, pixels: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """The runs of the values of all masks; no run is empty.

    Returns:
        `(R,)` lengths, `(R,)` 1 inside the mask and 0 outside, and `(N,)` runs per mask.
    """
    masks = len(bounds) - 1
    # The bounds of a mask are its edges, between 0 and the number of pixels.
    place = np.arange(len(edges)) + np.repeat(np.arange(masks), np.diff(bounds))
    ends: Int64Array = np.full(len(edges) + masks, pixels)
    ends[place] = edges
    first = bounds[:-1] + np.arange(masks)
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    lengths[first] = ends[first]
    lengths *= 4
    runs_per_mask = np.diff(bounds) + 1
    inside = (np.arange(len(ends)) - np.repeat(first, runs_per_mask)) & 1
    empty = first[lengths[first] == 0]
    if len(empty):
        # A mask that starts at its first pixel has no run of zeros before it.
        runs_per_mask = runs_per_mask - (lengths[first] == 0)
        lengths, inside = np.delete(lengths, empty), np.delete(inside, empty)
    if lengths.max() > _LONGEST:
        full = (lengths - 1) // _LONGEST
        last = np.cumsum(full + 1) - 1
        rest = lengths - full * _LONGEST
        added = np.add.reduceat(full, runs_per_mask.cumsum() - runs_per_mask)
        lengths, inside = np.full(int(last[-1]) + 1, _LONGEST), np.repeat(inside, full + 1)
        lengths[last] = rest
        runs_per_mask = runs_per_mask + added
    return lengths, inside, runs_per_mask


def _pack(values: int, lengths: Int64Array, inside: Int64Array, runs_per_mask: Int64Array) -> list[bytes]:
    """The streams of masks from their runs, as `_runs` returns them. Each stream starts at a new word of 32 bits."""
    width_index = _LONGEST_OF_WIDTH.searchsorted(lengths)
    length_bits = _WIDTHS_ARRAY[width_index]
    packets = (((4 | width_index) << length_bits | (lengths - 1)) << _VALUE_BITS) | inside * 255
    bits = length_bits + (3 + _VALUE_BITS)
    ends = bits.cumsum()
    last = runs_per_mask.cumsum() - 1
    size = np.diff(ends[last], prepend=0) + _HEADER_BITS
    words = size // 32 + 2
    begin = words.cumsum() - words
    ends += np.repeat(begin * 32 + _HEADER_BITS - (ends[last] - size + _HEADER_BITS), runs_per_mask)
    first = ends - bits
    # A packet has at most 27 bits and lies in one or two words of 32 bits. Packets in the same word use different bits,
    # so adding them concatenates them.
    two_words = packets << (64 - bits - (first & 31))
    word, total = first >> 5, int(words.sum())
    high = np.bincount(word, two_words >> 32 & 0xFFFF_FFFF, total)
    high += np.bincount(word + 1, two_words & 0xFFFF_FFFF, total)
    header = values << 21 | (_VALUE_BITS - 1) << 16 | sum(width - 1 << 12 - 4 * i for i, width in enumerate(_WIDTHS))
    stream = high.astype(np.int64)
    stream[begin] |= header >> 21
    stream[begin + 1] |= (header & 0x1F_FFFF) << 11
    data = stream.astype(">u4").tobytes()
    cuts = zip((4 * begin).tolist(), (4 * begin + size // 8 + 1).tolist(), strict=True)
    return [data[start:stop] for start, stop in cuts]


def rle_from_brush(values: Iterable[int], height: int, width: int) -> str:
    """COCO compressed counts of a brush mask; a pixel is in the mask if its alpha is at least 128.

    The time is proportional to the number of bytes, even for invalid bytes.

    Args:
        values: The bytes, e.g. `value.rle` of a Label Studio region.
        height: Pixels of the image (`original_height` of the region).
        width: Pixels of the image.

    Raises:
        ExportError: The values are not bytes, their number does not match the image, the stream is too short or too
            long, or its values do not have 8 bits.
    """
    expected = _number_of_values(height, width)
    try:
        data = bytes(values)
    except (TypeError, ValueError):
        raise ExportError("a brush mask must be a list of whole numbers from 0 to 255") from None
    if len(data) * 8 < _HEADER_BITS:
        raise ExportError(f"a brush mask has at least 7 bytes, got {len(data)}")
    header = int.from_bytes(data[:7], "big") >> 3
    if header >> 21 != expected:
        raise ExportError(
            f"a brush mask of an image of {height} x {width} has {expected} values, but this one has {header >> 21}"
        )
    if (header >> 16 & 31) + 1 != _VALUE_BITS:
        raise ExportError(
            f"the values of a brush mask have {_VALUE_BITS} bits, but these have {(header >> 16 & 31) + 1}"
        )
    lengths, inside = _unpack(data, [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)], expected)
    bounds = np.concatenate(([0], lengths.cumsum()))
    change = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
    edges = bounds[change]
    across = transposed_edges(edges[::2], edges[1::2], width, height)
    return rle.encode_edges(across, np.array([len(across)]), height * width)[0]


def _unpack(data: bytes, widths: list[int], expected: int) -> tuple[Int64Array, BoolArray]:
    """The pixels of each run in row order and whether they are opaque; in total `expected / 4` pixels, no run empty."""
    lengths: list[int] = []
    inside: list[bool] = []
    position, done, size = _HEADER_BITS, 0, len(data) * 8
    while done < expected:
        # Up to 7 bits of its first byte come before the packet, which has at most 3 + 16 + 8 bits.
        window = int.from_bytes(data[position >> 3 : (position >> 3) + 5].ljust(5, b"\0"), "big")
        window = window << (position & 7) & 0xFF_FFFF_FFFF
        length_bits = widths[window >> 37 & 3]
        length = (window >> (37 - length_bits) & ((1 << length_bits) - 1)) + 1
        is_run = window >> 39
        first, position = position + 3 + length_bits, position + 3 + length_bits
        position += _VALUE_BITS * (1 if is_run else length)
        if position > size:
            raise ExportError(
                f"a brush mask is truncated: {expected - done} values are missing after {len(data)} bytes"
            )
        if done + length > expected:
            raise ExportError(f"a brush mask is too long: it has {done + length} values instead of {expected}")
        # Pixel p has the values 4p to 4p + 3, of which the last is its alpha.
        pixels = (done + length) // 4 - done // 4
        if is_run:
            lengths.append(pixels)
            inside.append((window >> (29 - length_bits) & 255) >= _OPAQUE)
        elif pixels:
            bits = np.unpackbits(np.frombuffer(data[first >> 3 : (position + 7) >> 3], dtype=np.uint8))
            single = np.packbits(bits[first & 7 : (first & 7) + _VALUE_BITS * length])
            lengths += [1] * pixels
            inside += (single[3 - done % 4 :: 4] >= _OPAQUE).tolist()
        done += length
    number = np.array(lengths, dtype=np.int64)
    return number[number > 0], np.array(inside, dtype=bool)[number > 0]


def _number_of_values(height: int, width: int) -> int:
    if height < 1 or width < 1 or height * width >= 1 << 30:
        raise ExportError(f"the image of a brush mask must have 1 x 1 to 2**30 pixels, got {height} x {width}")
    return height * width * 4
