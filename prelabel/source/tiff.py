"""The pixels of a TIFF whose picture is an array of samples, in whatever layout.

Pillow knows some of the combinations of bits, sample format, planes, byte order and compression, and gives noise for
others. Here it only unpacks: strips and tiles are handed to it, and through it to libtiff, as grey pictures of one byte
for each byte of a row, of which nothing can be misread. What the bytes mean is told from the tags here.

    strips, tiles -> bytes of rows -> (predictor) -> samples -> 8 bits -> colour and opacity

Pictures that are no such arrays (JPEG, fax, YCbCr) are left to Pillow; what nobody reads right is refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from prelabel.errors import CorruptImageError, ImageTooLargeError, TruncatedImageError, UnknownFormatError
from prelabel.source.color import Range, opacity_range_of, range_of, scaled, spread
from prelabel.source.failures import describe

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES, _MAX_VALUE, _PLANAR = 273, 277, 278, 279, 281, 284
_PREDICTOR, _COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 317, 320, 322, 323, 324, 325
_INK_SET, _EXTRA, _SAMPLE_FORMAT, _LEAST, _LARGEST, _SUBSAMPLING, _ICC_PROFILE = 332, 338, 339, 340, 341, 530, 34675

#: Compressions that keep arrays of samples, with the words for them.
_PACKED = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34925: "LZMA", 50000: "Zstandard"}
#: What else there is, by name.
_OTHERS = {
    32766: "NeXT", 32809: "ThunderScan", 32771: "CCITT with word alignment", 33003: "JPEG 2000", 33004: "JPEG 2000",
    33005: "JPEG 2000", 34661: "JBIG", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 34712: "JPEG 2000", 34887: "LERC",
    34892: "lossy JPEG of DNG", 34926: "old Zstandard", 34927: "WebP", 34933: "PNG", 34934: "JPEG XR", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_CHANNELS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _LAB: 3}
#: Compressions of pictures that Pillow reads itself (fax, JPEG of two kinds), and of which colours it does right.
_FAX, _JPEG = (_WHITE_IS_ZERO, _BLACK_IS_ZERO), (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR)
_BY_PILLOW = {2: _FAX, 3: _FAX, 4: _FAX, 6: _JPEG, 7: _JPEG}
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_KIND_WORDS = {"u": "unsigned", "i": "signed", "f": "floating-point", "": "complex or unknown"}

_NO_PHOTOMETRIC = "it does not say what its samples mean, nor whether 0 is black or white (no tag 262)"

#: Extra samples that are opacity: premultiplied, not premultiplied, and not premultiplied by Corel Draw.
_PREMULTIPLIED, _OPACITY = 1, frozenset({1, 2, 999})

#: A side of a tile, in pixels, that may be more than twice the picture's.
_MOST_TILE = 4096

#: Bytes of samples that are unpacked at a time, where strips and tiles allow it.
_BAND_BYTES = 2 << 20
#: Bytes that the samples of a strip or tile may have for each pixel that a picture may have (four of 16 bits), and that
#: they may have in any case.
_BYTES_A_PIXEL, _ANY_BLOCK = 8, 64 << 20
#: How often the bytes of a strip or tile are held while it is unpacked: by Pillow, as bytes, as samples.
_COPIES = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of a TIFF lie.

    Attributes:
        width: Of the picture as stored.
        height: Of the picture as stored.
        photometric: What the first channels mean.
        channels: How many those are.
        samples: Channels with the extra ones.
        opacity: Number of the channel that is opacity; None where there is none.
        is_premultiplied: Whether the colour is multiplied by it.
        bits: Of one sample.
        kind: `u`, `i` or `f`.
        order: `<` or `>`.
        is_planar: Whether each channel lies by itself.
        predictor: 1, 2 (differences) or 3 (of the bytes of floats).
        compression: As in the file.
        fill_order: 2 where the bits of bytes are the other way round.
        block: Width and height of a strip or tile.
        is_tiled: Whether blocks are tiles, all of one size, rather than strips.
        offsets: Of strips or tiles.
        sizes: Of them, in bytes.
        white: The largest value that the file states, or that the bits allow.
    """

    width: int
    height: int
    photometric: int
    channels: int
    samples: int
    opacity: int | None
    is_premultiplied: bool
    bits: int
    kind: str
    order: str
    is_planar: bool
    predictor: int
    compression: int
    fill_order: int
    block: tuple[int, int]
    is_tiled: bool
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    white: int


def read_directory(file: io.BytesIO) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first picture."""
    head = file.getvalue()[:16]
    if head.startswith(b"MM\0+"):
        raise _not_read("BigTIFF with the highest byte first")
    directory = TiffImagePlugin.ImageFileDirectory_v2(head if head[2:3] == b"+" else head[:8])
    file.seek(directory.next)
    directory.load(file)
    return directory


def count_pictures(data: bytes) -> int:
    """Directories in the chain that begins in the header of a file, as far as it makes sense."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = b"+" in data[2:4]
    head, count_format, entry, next_format = (8, "Q", 20, "Q") if is_big else (4, "H", 12, "I")
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + next_format, data, head)
        while at and at not in seen:
            (entries,) = struct.unpack_from(order + count_format, data, at)
            end = at + struct.calcsize(order + count_format) + entry * entries
            (following,) = struct.unpack_from(order + next_format, data, end)
            seen.add(at)
            at = following
    except struct.error:
        pass
    return max(1, len(seen))


def layout_of(tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes) -> Layout | None:
    """How the samples lie; None for a picture that is no array of samples, which Pillow reads.

    Raises:
        UnknownFormatError: Neither does.
        CorruptImageError: The tags contradict each other.
    """
    compression, photometric = _number(tags, _COMPRESSION, 1), _number(tags, _PHOTOMETRIC, _WHITE_IS_ZERO)
    if compression not in _PACKED:
        if compression not in _BY_PILLOW:
            name = _OTHERS.get(compression, "a compression that is not known")
            raise _not_read(f"its pixels are packed as {name} (compression {compression})")
        if compression == 7 and _PHOTOMETRIC not in tags:
            raise _not_read(_NO_PHOTOMETRIC)
        if photometric not in _BY_PILLOW[compression]:
            raise _not_read(f"its kind of colour ({photometric}) with its compression ({compression})")
        return None
    if photometric == _YCBCR:
        if _number(tags, _PLANAR, 1) != 1 or (compression == 1 and _numbers(tags, _SUBSAMPLING, (2, 2)) != (1, 1)):
            raise _not_read("YCbCr in planes, or with fewer samples of colour and no compression")
        return None
    if photometric not in _CHANNELS:
        raise _not_read(f"its kind of colour ({photometric})")
    return _layout(tags, data, compression, photometric)


def _layout(tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes, compression: int, photometric: int) -> Layout:
    width, height, samples = _number(tags, _WIDTH, 0), _number(tags, _HEIGHT, 0), _number(tags, _SAMPLES, 1)
    if width < 1 or height < 1:
        raise CorruptImageError("the TIFF data is broken: it states no size")
    if _PHOTOMETRIC not in tags:
        raise _not_read(_NO_PHOTOMETRIC)
    channels, extra = _CHANNELS[photometric], _numbers(tags, _EXTRA, ())
    if samples < channels or samples > 64:
        raise CorruptImageError(f"the TIFF data is broken: {samples} samples for a pixel of {channels} channels")
    if photometric == _RGB and samples == 4 and not extra:
        extra = (2,)  # Corel Draw leaves it out
    if channels == 1 and samples > 2:
        raise _not_read(f"{samples} channels, of which it does not say that they are colours")
    extra = (*extra, *[0] * samples)[: samples - channels]
    opacity = next((number for number, meaning in enumerate(extra, channels) if meaning in _OPACITY), None)
    bits, formats = _numbers(tags, _BITS, (1,)), _numbers(tags, _SAMPLE_FORMAT, (1,))
    if len(set(bits)) > 1 or len(set(formats)) > 1:
        raise _not_read("channels of different kinds")
    kind = _KINDS.get(formats[0], "")
    tiled = _TILE_OFFSETS in tags
    rows = _number(tags, _ROWS_PER_STRIP, height)
    if tiled:
        block = _number(tags, _TILE_WIDTH, 0), _number(tags, _TILE_HEIGHT, 0)
        # The limit for the picture does not hold for its tiles; they end at most one tile beyond it.
        if min(block) < 1 or (max(block) > _MOST_TILE and (block[0] > 2 * width or block[1] > 2 * height)):
            raise CorruptImageError(f"the TIFF data is broken: tiles of {block[0]} x {block[1]}")
    else:
        block = width, min(rows, height) if rows > 0 else height
    layout = Layout(
        width=width,
        height=height,
        photometric=photometric,
        channels=channels,
        samples=samples,
        opacity=opacity,
        is_premultiplied=opacity is not None and extra[opacity - channels] == _PREMULTIPLIED,
        bits=bits[0],
        kind=kind,
        order="<" if data[:1] == b"I" else ">",
        is_planar=_number(tags, _PLANAR, 1) == 2 and samples > 1,
        predictor=_number(tags, _PREDICTOR, 1) if compression != 1 else 1,
        compression=compression,
        fill_order=_number(tags, _FILL_ORDER, 1),
        block=block,
        is_tiled=tiled,
        offsets=_numbers(tags, _TILE_OFFSETS if tiled else _STRIP_OFFSETS, ()),
        sizes=_numbers(tags, _TILE_SIZES if tiled else _STRIP_SIZES, ()),
        white=_white(tags, bits[0]),
    )
    _refuse_unknown(layout, tags)
    return layout


def _refuse_unknown(layout: Layout, tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """Refuse kinds of sample that nobody would read right."""
    bits, kind = layout.bits, layout.kind
    is_known = {"u": 1 <= bits <= 16 or bits in (24, 32, 64), "i": bits in (8, 16, 32, 64), "f": bits in (16, 32, 64)}
    if not is_known.get(kind, False):
        raise _not_read(f"{bits} bits of {_KIND_WORDS[kind]} samples")
    deep = kind != "u" or bits > 16
    if (layout.photometric in (_PALETTE, _CMYK) and deep) or (layout.photometric == _LAB and bits not in (8, 16)):
        raise _not_read(f"{bits} bits of its kind of colour")
    if layout.photometric == _LAB and kind == "f":
        raise _not_read("CIELAB in floats")
    if layout.photometric == _CMYK and _number(tags, _INK_SET, 1) != 1:
        raise _not_read("inks other than cyan, magenta, yellow and black")
    possible = {1: True, 2: kind != "f" and bits in (8, 16, 32, 64), 3: kind == "f"}
    if not possible.get(layout.predictor, False):
        raise _not_read(f"predictor {layout.predictor} for {bits} bits")
    if layout.fill_order not in (1, 2):
        raise CorruptImageError("the TIFF data is broken: the order of its bits makes no sense")


def refuse_large_blocks(layout: Layout, max_pixels: int) -> None:
    """Raise ImageTooLargeError where unpacking a strip or tile takes more than suits pictures of so many pixels."""
    size, limit = _block_bytes(layout), max(_BYTES_A_PIXEL * max_pixels, _ANY_BLOCK)
    if size > limit:
        raise ImageTooLargeError(
            f"strips or tiles of {size:,} bytes once unpacked; the limit is {limit:,}, {_BYTES_A_PIXEL} for each of "
            f"{max_pixels:,} pixels (max-pixels)"
        )


def unpacking_bytes(layout: Layout) -> int:
    """Bytes that reading the samples takes beside the picture itself."""
    return _COPIES * _block_bytes(layout)


def _block_bytes(layout: Layout) -> int:
    """Of the samples of a strip or tile, over all planes."""
    width, height = layout.block
    return width * height * layout.samples * -(-layout.bits // 8)


def read_samples(
    layout: Layout, tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes, keep_cut: bool
) -> tuple[Image.Image, Image.Image | None]:
    """Colour (mode L, RGB, CMYK or LAB) and opacity (mode L) of a picture, in 8 bits, as stored.

    Args:
        layout: Of its samples.
        tags: For its palette.
        data: The whole file.
        keep_cut: Zeros in the place of what is missing, in a file whose end is.

    Raises:
        TruncatedImageError: The file ends before the picture does.
        CorruptImageError: A strip or tile cannot be unpacked.
    """
    table = _colour_map(layout, tags) if layout.photometric == _PALETTE else None
    channels = 3 if table is not None else layout.channels
    colour: Bytes = np.zeros((layout.height, layout.width, channels), np.uint8)
    opacity = None if layout.opacity is None else np.zeros((layout.height, layout.width), np.uint8)
    ranges = _ranges(layout, tags, data, keep_cut)
    for top, left, block in _blocks(layout, data, keep_cut):
        place = slice(top, top + block.shape[0]), slice(left, left + block.shape[1])
        alpha = None
        if opacity is not None:
            alpha = opacity[place] = _to_8_bits(block[..., layout.opacity], layout, ranges[1])
        pixels = block[..., : layout.channels]
        if table is not None:
            eight = table[pixels[..., 0]]
        elif layout.photometric == _LAB:
            eight = _lab(pixels, layout.bits)
        else:
            eight = _to_8_bits(pixels, layout, ranges[0])
        if layout.is_premultiplied and alpha is not None:
            eight = _divided(eight, alpha)
        colour[place] = 255 - eight if layout.photometric == _WHITE_IS_ZERO else eight
    mode = "LAB" if layout.photometric == _LAB else _MODES[channels]
    image = Image.frombuffer(mode, (layout.width, layout.height), colour, "raw", mode, 0, 1)
    return image, None if opacity is None else Image.fromarray(opacity)


def _ranges(
    layout: Layout, tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes, keep_cut: bool
) -> tuple[Range | None, Range | None]:
    """Range of colour and of opacity where it depends on the values: of floats, signed and long integers."""
    if layout.kind == "u" and layout.bits <= 16:
        return None, None
    ends: tuple[list[float], list[float]] = ([], [])
    for _, _, block in _blocks(layout, data, keep_cut):
        parts = [block[..., : layout.channels], *([] if layout.opacity is None else [block[..., layout.opacity]])]
        for found, values in zip(ends, parts, strict=False):
            finite = values[np.isfinite(values)] if layout.kind == "f" else values
            if finite.size:
                found += [float(finite.min()), float(finite.max())]
    (low, high), (least, most) = ((min(found, default=0.0), max(found, default=0.0)) for found in ends)
    opacity = opacity_range_of(range_of(low, high, layout.kind), least, most, layout.kind, layout.bits)
    return _stated_range(layout, tags, low, high) or range_of(low, high, layout.kind), opacity


def _stated_range(layout: Layout, tags: TiffImagePlugin.ImageFileDirectory_v2, low: float, high: float) -> Range | None:
    """The range that a file states for its samples; None where it states none, or one that they exceed."""
    least, largest = min(_reals(tags, _LEAST), default=0.0), max(_reals(tags, _LARGEST), default=0.0)
    full = 1e30 if layout.kind == "f" else 2 ** (layout.bits - (layout.kind == "i")) - 1
    if not largest < full:  # what the type allows says nothing
        return None
    return Range(low, high, least, largest - least) if least <= low and high <= largest and least < largest else None


# --- from the file to samples -----------------------------------------------------------------------------------------


def _blocks(layout: Layout, data: bytes, keep_cut: bool) -> Iterator[tuple[int, int, Array]]:
    """First row, first column, and samples (H, W, samples) of parts of the picture that cover it."""
    width, height = layout.block
    across, down = -(-layout.width // width), -(-layout.height // height)
    planes = layout.samples if layout.is_planar else 1
    if len(layout.offsets) < across * down * planes:
        raise CorruptImageError(f"the TIFF data is broken: {len(layout.offsets)} strips or tiles are too few")
    row_bytes = _row_bytes(layout)
    # As many strips at a time as make a band; tiles, and what may be missing, one by one.
    together = 1 if layout.is_tiled or keep_cut else max(1, _BAND_BYTES // (height * row_bytes))
    for first in range(0, across * down, together):
        row, column = divmod(first, across)
        top, left = row * height, column * width
        count = min(together, down - row)
        rows = height if layout.is_tiled else min(top + count * height, layout.height) - top
        parts = [
            _samples(layout, _unpacked(layout, data, plane * across * down + first, count, (rows, row_bytes), keep_cut))
            for plane in range(planes)
        ]
        samples = np.concatenate(parts, -1) if layout.is_planar else parts[0]
        yield top, left, samples[: layout.height - top, : layout.width - left]


def _row_bytes(layout: Layout) -> int:
    samples = 1 if layout.is_planar else layout.samples
    return (layout.block[0] * samples * layout.bits + 7) // 8


def _unpacked(layout: Layout, data: bytes, first: int, count: int, shape: tuple[int, int], keep_cut: bool) -> Bytes:
    """Rows of bytes of some strips that follow each other, or of one tile."""
    rows, row_bytes = shape
    parts = []
    missing = 0
    for number in range(first, first + count):
        start = layout.offsets[number]
        size = layout.sizes[number] if number < len(layout.sizes) else len(data) - start
        if start == 0 and size == 0:  # left out of a sparse file, where it is all zeros
            missing += 1
        elif start == 0:
            raise CorruptImageError("the TIFF data is broken: a strip or tile is said to begin where the file does")
        if layout.compression == 1:
            size = min(rows - (number - first) * layout.block[1], layout.block[1]) * row_bytes
            if missing and start == 0:
                parts.append(bytes(size))
                continue
        if (start < 0 or start + size > len(data)) and not keep_cut:
            what = describe("TIFF", data, (layout.width, layout.height))
            raise TruncatedImageError(f"the file ends before the picture does ({what})")
        parts.append(data[max(start, 0) : max(start, 0) + max(size, 0)])
    if layout.compression == 1:
        flat = np.frombuffer(b"".join(parts).ljust(rows * row_bytes, b"\0"), np.uint8)
        flat = _REVERSED[flat] if layout.fill_order == 2 else flat
        return flat.reshape(rows, row_bytes)
    if missing == count:
        return np.zeros(shape, np.uint8)
    if missing:
        raise _not_read("strips left out among others that are packed")
    return _by_libtiff(layout, parts, shape, keep_cut)


def _by_libtiff(layout: Layout, parts: list[bytes], shape: tuple[int, int], keep_cut: bool) -> Bytes:
    """Strips unpacked, as the rows of a grey picture that is a byte wide for each of theirs."""
    rows, row_bytes = shape
    values: dict[int, list[int]] = {
        _WIDTH: [row_bytes], _HEIGHT: [rows], _BITS: [8], _COMPRESSION: [layout.compression],
        _PHOTOMETRIC: [_BLACK_IS_ZERO], _FILL_ORDER: [layout.fill_order], _STRIP_OFFSETS: [], _SAMPLES: [1],
        _ROWS_PER_STRIP: [layout.block[1]], _STRIP_SIZES: [len(part) for part in parts],
    }  # fmt: skip
    at = 8 + 2 + 12 * len(values) + 4 + 8 * len(parts)
    for part in parts:
        values[_STRIP_OFFSETS].append(at)
        at += len(part)
    entries, behind = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, behind = struct.pack("<I", 8 + 2 + 12 * len(values) + 4 + len(behind)), behind + packed
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)
    file = b"".join([head, behind.ljust(8 * len(parts), b"\0"), *parts])
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(file))
    try:
        image.load()
    except OSError as error:
        if not keep_cut:
            packing = _PACKED[layout.compression]
            raise CorruptImageError(
                f"the TIFF data is broken: a strip or tile cannot be unpacked ({packing})"
            ) from error
        image.tile = []  # without any left to decode a picture counts as loaded, as far as it goes
        image.load()
    return np.asarray(image)


def _samples(layout: Layout, raw: Bytes) -> Array:
    """(H, W, samples) of native byte order, from rows of bytes."""
    samples = 1 if layout.is_planar else layout.samples
    rows, (width, _), bits = len(raw), layout.block, layout.bits
    shape = rows, width, samples
    if layout.predictor == 3:
        sums = np.add.accumulate(raw.reshape(rows, -1, samples), axis=1, dtype=np.uint8)
        inner = np.ascontiguousarray(sums.reshape(rows, bits // 8, width * samples).transpose(0, 2, 1))
        return np.asarray(inner.view(f">f{bits // 8}").astype(f"f{bits // 8}").reshape(shape))
    if bits % 8:
        return np.asarray(_from_bits(raw, width * samples, bits).reshape(shape))
    if bits == 24:
        triples = raw.reshape(*shape, 3).astype(np.uint32)
        low, middle, high = (triples[..., number] for number in ((0, 1, 2) if layout.order == "<" else (2, 1, 0)))
        values: Array = low | middle << 8 | high << 16
        return values
    values = np.ascontiguousarray(raw).view(f"{layout.order}{'u' if layout.predictor == 2 else layout.kind}{bits // 8}")
    values = values.astype(values.dtype.newbyteorder("="), copy=False).reshape(shape)
    if layout.predictor == 2:
        values = np.add.accumulate(values, axis=1, dtype=values.dtype).view(f"{layout.kind}{bits // 8}")
    return np.asarray(values)


def _from_bits(raw: Bytes, count: int, bits: int) -> Array:
    """`count` values of 1 to 15 bits in each row, the highest bit first."""
    if bits in (1, 2, 4):
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        return np.asarray(((raw[..., None] >> shifts) & (2**bits - 1)).reshape(len(raw), -1)[:, :count])
    values = np.zeros((len(raw), count), np.uint16)
    starts = np.arange(count) * bits
    padded = np.pad(raw, ((0, 0), (0, 2))).astype(np.uint32)
    words = padded[:, starts // 8] << 16 | padded[:, starts // 8 + 1] << 8 | padded[:, starts // 8 + 2]
    values[:] = words >> (24 - bits - starts % 8).astype(np.uint32) & (2**bits - 1)
    return values


# --- from samples to 8 bits -------------------------------------------------------------------------------------------


def _to_8_bits(values: Array, layout: Layout, span: Range | None) -> Bytes:
    return spread(values, layout.white) if span is None else scaled(values, span)


def _lab(pixels: Array, bits: int) -> Bytes:
    """CIELAB as Pillow takes it: L* of 0..255, a* and b* as signed bytes."""
    if bits == 8:
        return np.asarray(pixels.view(np.uint8))
    light = spread(pixels[..., :1].view(np.uint16), 65535)
    return np.concatenate([light, (pixels[..., 1:].view(np.uint16) >> 8).astype(np.uint8)], -1)


def _divided(pixels: Bytes, opacity: Bytes) -> Bytes:
    """Colour that was multiplied by its opacity, without that."""
    whole = np.maximum(opacity, 1).astype(np.uint16)[..., None]
    divided = (pixels.astype(np.uint32) * 255 + whole // 2) // whole
    return np.asarray(np.minimum(divided, 255).astype(np.uint8))


def _colour_map(layout: Layout, tags: TiffImagePlugin.ImageFileDirectory_v2) -> Bytes:
    """(2**bits, 3) colours."""
    numbers = _numbers(tags, _COLOUR_MAP, ())
    if len(numbers) != 3 << layout.bits:
        raise CorruptImageError(f"the TIFF data is broken: its palette has {len(numbers) // 3} colours")
    colours = np.array(numbers, np.int64).reshape(3, -1).T
    # Some programs write 8 bits where 16 belong.
    table: Bytes = (colours if colours.max() < 256 else colours >> 8).clip(0, 255).astype(np.uint8)
    return table


def _white(tags: TiffImagePlugin.ImageFileDirectory_v2, bits: int) -> int:
    """The value of white: what the file states, else what the bits allow."""
    most: int = 2 ** min(bits, 64) - 1
    stated = max(_numbers(tags, _MAX_VALUE, (0,)))
    return stated if 8 < bits <= 16 and 0 < stated <= most else most


# --- tags -------------------------------------------------------------------------------------------------------------


def stated_size(tags: TiffImagePlugin.ImageFileDirectory_v2) -> tuple[int, int]:
    """Width and height as stored; 0 where they are not stated."""
    return _number(tags, _WIDTH, 0), _number(tags, _HEIGHT, 0)


def profile_of(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bytes | None:
    """The ICC profile, if any."""
    profile = tags.get(_ICC_PROFILE)
    return profile if isinstance(profile, bytes) else None


def _number(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: int) -> int:
    return (*_numbers(tags, tag, ()), default)[0]


def _numbers(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    numbers = value if isinstance(value, tuple) else (value,)
    return tuple(number for number in numbers if isinstance(number, int))


def _reals(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int) -> list[float]:
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return [float(number) for number in values if isinstance(number, Real)]


def _not_read(what: str) -> UnknownFormatError:
    return UnknownFormatError(f"a variant of TIFF that is not read: {what}")


_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
