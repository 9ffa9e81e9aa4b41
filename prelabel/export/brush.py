"""Label Studio's brush masks from COCO RLE and back, from run to run, without an image.

The brush format is a bit stream over the image's RGBA values (four equal ones a pixel, row by row, 255 or 0), most
significant bit first:

    32 bits  number of values, height * width * 4
     5 bits  bits of a value, less 1: 7
    4 x 4    the widths of the run lengths, each less 1: 2 3 7 15
    packets  1 bit    1 for a run, 0 for single values
             2 bits   which of the four widths the length has
             length, less 1
             8 bits   the value of a run, or `length` values one by one

and zeros up to a full byte. An image of 1 x 2 pixels whose left one is in the mask is 8 values, 4 of 255 and 4 of 0:
`00 00 00 08 39 1B FC 7F F1 80 00`. The encoder of label-studio-sdk writes the same bytes, with its run lengths of up
to 65,536 and its whole byte of zeros after a stream that needs none; so does this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from prelabel import rle
from prelabel.errors import ExportError, StoreError
from prelabel.rle import BoolArray, Int64Array
from prelabel.rle_many import decode_many, joined
from prelabel.sides import transposed_edges, transposed_many

_WIDTHS = (3, 4, 8, 16)
_WIDTHS_ARRAY = np.array(_WIDTHS)
#: The longest run of each width but the last.
_REACHES = 1 << _WIDTHS_ARRAY[:-1]
_LONGEST = 1 << _WIDTHS[-1]
_VALUE_BITS = 8
_HEADER_BITS = 32 + 5 + 16

#: Characters of the masks that are worked on together; beyond this a mask costs no less.
_AT_A_TIME = 1 << 16

#: A pixel is in the mask from this alpha on.
_OPAQUE = 128


def brush_from_rle(counts: str | bytes, height: int, width: int) -> bytes:
    """The brush mask of COCO compressed counts; Label Studio wants `list(...)` of it as `value.rle`.

    Raises:
        ExportError: The counts are none of this size, the mask is absurdly ragged, or the image has too many pixels for
            the format (2**30).
    """
    return brushes_from_rle([counts], height, width)[0]


def brushes_from_rle(counts: Sequence[str | bytes], height: int, width: int) -> list[bytes]:
    """The brush masks of many COCO compressed counts of images of one size; less than half the work of one by one.

    Raises:
        ExportError: See `brush_from_rle`.
    """
    values = _number_of_values(height, width)
    brushes: list[bytes] = []
    for some in _lots(counts):
        starts, ends = _side_by_side(some, height, width)
        try:
            edges, bounds = transposed_many(starts, ends, height, width, len(some))
        except ExportError:
            if len(some) == 1:
                raise
            # Together they are too ragged; which one it is by itself, if one is, is found one by one.
            for one in some:
                brushes += brushes_from_rle([one], height, width)
            continue
        brushes += _pack(values, *_runs(edges, bounds, height * width))
    return brushes


def _lots(counts: Sequence[str | bytes]) -> Iterator[Sequence[str | bytes]]:
    lot, characters = 0, 0
    for number, one in enumerate(counts):
        if number > lot and characters + len(one) > _AT_A_TIME:
            yield counts[lot:number]
            lot, characters = number, 0
        characters += len(one)
    if len(counts) > lot:
        yield counts[lot:]


def _side_by_side(counts: Sequence[str | bytes], height: int, width: int) -> tuple[Int64Array, Int64Array]:
    """Runs of ones of all masks in one wide image, with an empty column after each mask's."""
    text = [one if isinstance(one, str) else one.decode("latin-1") for one in counts]
    size = np.full(len(text), 1)
    many = decode_many(*joined(text), size * height, size * width)
    for unsound in np.flatnonzero(~many.sound).tolist():
        try:
            rle.validate(counts[unsound], height, width)
        except StoreError as error:
            raise ExportError(f"no brush mask can be made: {error}") from None
    number = np.diff(many.bounds)
    ends = many.runs.cumsum()
    # All runs of a mask fill its image: the next mask's begin by an empty column more.
    ends += np.repeat(np.arange(len(text)) * height, number)
    # A last run of zeros ends nothing.
    edges = np.delete(ends, many.bounds[1:][number % 2 == 1] - 1)
    if np.any(edges[1:] == edges[:-1]):
        edges = rle.without_pairs(edges)
    return edges[::2], edges[1::2]


def _runs(edges: Int64Array, bounds: Int64Array, pixels: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Lengths of all runs of values, whether they are inside, and `(N,)` how many each mask has; none is empty."""
    masks = len(bounds) - 1
    # Before each mask's edges comes 0, after them the number of pixels.
    place = np.arange(len(edges)) + np.repeat(np.arange(masks), np.diff(bounds))
    ends: Int64Array = np.full(len(edges) + masks, pixels)
    ends[place] = edges
    first = bounds[:-1] + np.arange(masks)
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    lengths[first] = ends[first]
    lengths *= 4
    number = np.diff(bounds) + 1
    inside = (np.arange(len(ends)) - np.repeat(first, number)) & 1
    empty = first[lengths[first] == 0]
    if len(empty):
        number = number - (lengths[first] == 0)
        lengths, inside = np.delete(lengths, empty), np.delete(inside, empty)
    if lengths.max() > _LONGEST:
        full = (lengths - 1) // _LONGEST
        last = np.cumsum(full + 1) - 1
        rest = lengths - full * _LONGEST
        added = np.add.reduceat(full, number.cumsum() - number)
        lengths, inside = np.full(int(last[-1]) + 1, _LONGEST), np.repeat(inside, full + 1)
        lengths[last] = rest
        number = number + added
    return lengths, inside, number


def _pack(values: int, lengths: Int64Array, inside: Int64Array, number: Int64Array) -> list[bytes]:
    """The streams of masks with `number` runs each; every stream begins at a word of 32 bits of its own."""
    which = _REACHES.searchsorted(lengths)
    length_bits = _WIDTHS_ARRAY[which]
    packets = (((4 | which) << length_bits | (lengths - 1)) << _VALUE_BITS) | inside * 255
    bits = length_bits + (3 + _VALUE_BITS)
    ends = bits.cumsum()
    last = number.cumsum() - 1
    size = np.diff(ends[last], prepend=0) + _HEADER_BITS
    words = size // 32 + 2
    begin = words.cumsum() - words
    ends += np.repeat(begin * 32 + _HEADER_BITS - (ends[last] - size + _HEADER_BITS), number)
    first = ends - bits
    # A packet has at most 27 bits and so lies in one or two words of 32; where it shares a word, the bits are others',
    # and adding is the same as putting side by side.
    both = packets << (64 - bits - (first & 31))
    word, total = first >> 5, int(words.sum())
    high = np.bincount(word, both >> 32 & 0xFFFF_FFFF, total) + np.bincount(word + 1, both & 0xFFFF_FFFF, total)
    header = values << 21 | (_VALUE_BITS - 1) << 16 | sum(width - 1 << 12 - 4 * i for i, width in enumerate(_WIDTHS))
    stream = high.astype(np.int64)
    stream[begin] |= header >> 21
    stream[begin + 1] |= (header & 0x1F_FFFF) << 11
    data = stream.astype(">u4").tobytes()
    cuts = zip((4 * begin).tolist(), (4 * begin + size // 8 + 1).tolist(), strict=True)
    return [data[start:stop] for start, stop in cuts]


def rle_from_brush(values: Iterable[int], height: int, width: int) -> str:
    """COCO compressed counts of a brush mask; a pixel is in the mask where its alpha is at least 128.

    Takes time in proportion to the bytes given, whatever they are.

    Args:
        values: The bytes, e.g. `value.rle` of a Label Studio region.
        height: Pixels of the image (`original_height` of the region).
        width: Pixels of the image.

    Raises:
        ExportError: No bytes, another number of values than the image has, a stream that is cut off or goes on too
            long, or values of more or less than 8 bits.
    """
    wanted = _number_of_values(height, width)
    try:
        data = bytes(values)
    except (TypeError, ValueError):
        raise ExportError("a brush mask must be a list of whole numbers from 0 to 255") from None
    if len(data) * 8 < _HEADER_BITS:
        raise ExportError(f"a brush mask has at least 7 bytes, got {len(data)}")
    header = int.from_bytes(data[:7], "big") >> 3
    if header >> 21 != wanted:
        raise ExportError(
            f"a brush mask of an image of {height} x {width} has {wanted} values, this one says {header >> 21}"
        )
    if (header >> 16 & 31) + 1 != _VALUE_BITS:
        raise ExportError(f"a brush mask's values have {_VALUE_BITS} bits, this one says {(header >> 16 & 31) + 1}")
    lengths, inside = _unpack(data, [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)], wanted)
    bounds = np.concatenate(([0], lengths.cumsum()))
    change = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
    edges = bounds[change]
    across = transposed_edges(edges[::2], edges[1::2], width, height)
    return rle.encode_edges(across, np.array([len(across)]), height * width)[0]


def _unpack(data: bytes, widths: list[int], wanted: int) -> tuple[Int64Array, BoolArray]:
    """Pixels of each run and whether they are opaque, row by row; together `wanted / 4` pixels, none of them empty."""
    lengths: list[int] = []
    inside: list[bool] = []
    position, done, size = _HEADER_BITS, 0, len(data) * 8
    while done < wanted:
        # 7 bits before the packet in its first byte and at most 3 + 16 + 8 of its own.
        window = int.from_bytes(data[position >> 3 : (position >> 3) + 5].ljust(5, b"\0"), "big")
        window = window << (position & 7) & 0xFF_FFFF_FFFF
        length_bits = widths[window >> 37 & 3]
        length = (window >> (37 - length_bits) & ((1 << length_bits) - 1)) + 1
        is_run = window >> 39
        first, position = position + 3 + length_bits, position + 3 + length_bits
        position += _VALUE_BITS * (1 if is_run else length)
        if position > size:
            raise ExportError(f"a brush mask is cut off: after {len(data)} bytes {wanted - done} values are missing")
        if done + length > wanted:
            raise ExportError(f"a brush mask goes on too long: {done + length} values of {wanted}")
        # Pixel p lasts from value 4p to 4p + 3, and its alpha is the last of them.
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
        raise ExportError(f"a brush mask's image must have 1 x 1 to 2**30 pixels, got {height} x {width}")
    return height * width * 4
