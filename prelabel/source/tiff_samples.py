"""Reading the samples of a TIFF, by its `tiff.Layout`, as 8-bit color and opacity.

    strips, tiles -> bytes of rows -> (predictor) -> samples -> 8 bits -> color and opacity

Strips and tiles are passed to Pillow, and through it to libtiff, as gray images with one pixel per byte of a row, which
Pillow cannot misread.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base as Tag

from prelabel.errors import CorruptImageError, TruncatedImageError
from prelabel.source.color import Range, opacity_range_of, range_of, scale_from_range, scale_to_8_bits
from prelabel.source.failures import describe_file
from prelabel.source.tiff import (
    BLACK_IS_ZERO,
    LAB,
    PACKED,
    PALETTE,
    WHITE_IS_ZERO,
    Layout,
    Tags,
    color_map,
    reals,
    unsupported_variant,
)

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_MODES = {1: "L", 3: "RGB", 4: "CMYK"}

#: Number of sample bytes unpacked at a time, if strips and tiles allow it.
_BAND_BYTES = 2 << 20


def read_samples(
    layout: Layout, tags: Tags, data: bytes, keep_truncated: bool
) -> tuple[Image.Image, Image.Image | None]:
    """Read the stored samples of an image.

    Args:
        layout: Layout of the samples.
        tags: Tags of the image, for its palette.
        data: The complete file.
        keep_truncated: Fill missing samples of a truncated file with zeros.

    Returns:
        8-bit color (mode L, RGB, CMYK or LAB) and 8-bit opacity (mode L, or None).

    Raises:
        TruncatedImageError: The file is truncated.
        CorruptImageError: A strip or tile cannot be unpacked.
    """
    table = color_map(layout, tags) if layout.photometric == PALETTE else None
    channels = 3 if table is not None else layout.channels
    color: Bytes = np.zeros((layout.height, layout.width, channels), np.uint8)
    opacity = None if layout.opacity is None else np.zeros((layout.height, layout.width), np.uint8)
    ranges = _ranges(layout, tags, data, keep_truncated)
    for top, left, block in _blocks(layout, data, keep_truncated):
        area = slice(top, top + block.shape[0]), slice(left, left + block.shape[1])
        alpha = None
        if opacity is not None:
            alpha = opacity[area] = _to_8_bits(block[..., layout.opacity], layout, ranges[1])
        pixels = block[..., : layout.channels]
        if table is not None:
            eight_bit = table[pixels[..., 0]]
        elif layout.photometric == LAB:
            eight_bit = _to_pillow_lab(pixels, layout.bits)
        else:
            eight_bit = _to_8_bits(pixels, layout, ranges[0])
        if layout.is_premultiplied and alpha is not None:
            eight_bit = _unpremultiplied(eight_bit, alpha)
        color[area] = 255 - eight_bit if layout.photometric == WHITE_IS_ZERO else eight_bit
    mode = "LAB" if layout.photometric == LAB else _MODES[channels]
    image = Image.frombuffer(mode, (layout.width, layout.height), color, "raw", mode, 0, 1)
    return image, None if opacity is None else Image.fromarray(opacity)


def _ranges(layout: Layout, tags: Tags, data: bytes, keep_truncated: bool) -> tuple[Range | None, Range | None]:
    """Ranges by which color and opacity are scaled; None for short unsigned integers, which are scaled by the type."""
    if layout.kind == "u" and layout.bits <= 16:
        return None, None
    extremes: tuple[list[float], list[float]] = ([], [])
    for _, _, block in _blocks(layout, data, keep_truncated):
        parts = [block[..., : layout.channels], *([] if layout.opacity is None else [block[..., layout.opacity]])]
        for minmax, values in zip(extremes, parts, strict=False):
            finite = values[np.isfinite(values)] if layout.kind == "f" else values
            if finite.size:
                minmax += [float(finite.min()), float(finite.max())]
    (low, high), (least, most) = ((min(minmax, default=0.0), max(minmax, default=0.0)) for minmax in extremes)
    opacity = opacity_range_of(range_of(low, high, layout.kind), least, most, layout.kind, layout.bits)
    return _declared_range(layout, tags, low, high) or range_of(low, high, layout.kind), opacity


def _declared_range(layout: Layout, tags: Tags, low: float, high: float) -> Range | None:
    """The range that the file declares for its samples; None if it declares none, or if samples exceed it."""
    least = min(reals(tags, Tag.SMinSampleValue), default=0.0)
    largest = max(reals(tags, Tag.SMaxSampleValue), default=0.0)
    full = 1e30 if layout.kind == "f" else 2 ** (layout.bits - (layout.kind == "i")) - 1
    if not largest < full:  # the maximum of the type is not a declaration
        return None
    return Range(low, high, least, largest - least) if least <= low and high <= largest and least < largest else None


def _blocks(layout: Layout, data: bytes, keep_truncated: bool) -> Iterator[tuple[int, int, Array]]:
    """Yield parts that together cover the image: first row, first column, samples (H, W, samples)."""
    width, height = layout.block
    across, down = -(-layout.width // width), -(-layout.height // height)
    planes = layout.samples if layout.is_planar else 1
    if len(layout.offsets) < across * down * planes:
        raise CorruptImageError(
            f"corrupt TIFF data: too few strips or tiles ({len(layout.offsets)} of {across * down * planes})"
        )
    row_bytes = (width * (1 if layout.is_planar else layout.samples) * layout.bits + 7) // 8
    # Strips are unpacked in bands. Tiles, and strips that may be missing, are unpacked one by one.
    strips_at_once = 1 if layout.is_tiled or keep_truncated else max(1, _BAND_BYTES // (height * row_bytes))
    for first in range(0, across * down, strips_at_once):
        row, column = divmod(first, across)
        top, left = row * height, column * width
        count = min(strips_at_once, down - row)
        rows = height if layout.is_tiled else min(top + count * height, layout.height) - top
        parts = [
            _to_samples(
                layout, _unpack(layout, data, plane * across * down + first, count, (rows, row_bytes), keep_truncated)
            )
            for plane in range(planes)
        ]
        samples = np.concatenate(parts, -1) if layout.is_planar else parts[0]
        yield top, left, samples[: layout.height - top, : layout.width - left]


def _unpack(layout: Layout, data: bytes, first: int, count: int, shape: tuple[int, int], keep_truncated: bool) -> Bytes:
    """Unpack consecutive strips, or one tile, to rows of bytes of the given shape."""
    rows, row_bytes = shape
    parts = []
    missing = 0
    for number in range(first, first + count):
        start = layout.offsets[number]
        size = layout.sizes[number] if number < len(layout.sizes) else len(data) - start
        if start == 0 and size == 0:  # omitted from a sparse file: all zeros
            missing += 1
        elif start == 0:
            raise CorruptImageError("corrupt TIFF data: a strip or tile has offset 0")
        if layout.compression == 1:
            size = min(rows - (number - first) * layout.block[1], layout.block[1]) * row_bytes
            if missing and start == 0:
                parts.append(bytes(size))
                continue
        if (start < 0 or start + size > len(data)) and not keep_truncated:
            file_facts = describe_file("TIFF", data, (layout.width, layout.height))
            raise TruncatedImageError(f"the file is truncated ({file_facts})")
        parts.append(data[max(start, 0) : max(start, 0) + max(size, 0)])
    if layout.compression == 1:
        flat = np.frombuffer(b"".join(parts).ljust(rows * row_bytes, b"\0"), np.uint8)
        flat = _REVERSED[flat] if layout.fill_order == 2 else flat
        return flat.reshape(rows, row_bytes)
    if missing == count:
        return np.zeros(shape, np.uint8)
    if missing:
        raise unsupported_variant("omitted strips among compressed ones")
    return _unpack_by_libtiff(layout, parts, shape, keep_truncated)


def _unpack_by_libtiff(layout: Layout, parts: list[bytes], shape: tuple[int, int], keep_truncated: bool) -> Bytes:
    """Unpack strips or a tile with libtiff: wrap them in a gray TIFF with one pixel per byte, and decode that."""
    rows, row_bytes = shape
    values: dict[int, list[int]] = {
        Tag.ImageWidth: [row_bytes],
        Tag.ImageLength: [rows],
        Tag.BitsPerSample: [8],
        Tag.Compression: [layout.compression],
        Tag.PhotometricInterpretation: [BLACK_IS_ZERO],
        Tag.FillOrder: [layout.fill_order],
        Tag.StripOffsets: [],
        Tag.SamplesPerPixel: [1],
        Tag.RowsPerStrip: [layout.block[1]],
        Tag.StripByteCounts: [len(part) for part in parts],
    }
    offset = 8 + 2 + 12 * len(values) + 4 + 8 * len(parts)
    for part in parts:
        values[Tag.StripOffsets].append(offset)
        offset += len(part)
    entries, long_values = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            offset = 8 + 2 + 12 * len(values) + 4 + len(long_values)
            packed, long_values = struct.pack("<I", offset), long_values + packed
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    header = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)
    file = b"".join([header, long_values.ljust(8 * len(parts), b"\0"), *parts])
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(file))
    try:
        image.load()
    except OSError as error:
        if not keep_truncated:
            compression = PACKED[layout.compression]
            raise CorruptImageError(f"corrupt TIFF data: a strip or tile cannot be unpacked ({compression})") from error
        image.tile = []  # an image without tiles left to decode counts as loaded, as far as it goes
        image.load()
    return np.asarray(image)


def _to_samples(layout: Layout, raw: Bytes) -> Array:
    """Convert rows of bytes to samples (H, W, samples) in native byte order."""
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
    """Unpack `count` values of 1 to 15 bits per row, highest bit first."""
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
    return scale_to_8_bits(values, layout.white) if span is None else scale_from_range(values, span)


def _to_pillow_lab(pixels: Array, bits: int) -> Bytes:
    """Convert CIELAB to Pillow's form: L* as 0..255, a* and b* as signed bytes."""
    if bits == 8:
        return np.asarray(pixels.view(np.uint8))
    light = scale_to_8_bits(pixels[..., :1].view(np.uint16), 65535)
    return np.concatenate([light, (pixels[..., 1:].view(np.uint16) >> 8).astype(np.uint8)], -1)


def _unpremultiplied(pixels: Bytes, opacity: Bytes) -> Bytes:
    """Undo the multiplication of color by opacity."""
    divisor = np.maximum(opacity, 1).astype(np.uint16)[..., None]
    divided = (pixels.astype(np.uint32) * 255 + divisor // 2) // divisor
    return np.asarray(np.minimum(divided, 255).astype(np.uint8))


_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
