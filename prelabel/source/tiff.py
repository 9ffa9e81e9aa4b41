"""The sample layout of a TIFF, derived from its tags; `tiff_samples` reads the samples.

Pillow supports only some combinations of bits, sample format, planes, byte order and compression, and returns noise for
others. Here Pillow only unpacks bytes; their meaning is derived from the tags. Images that are not arrays of samples
(JPEG, fax, YCbCr) are left to Pillow. Variants that neither reads correctly are refused.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from numbers import Real

import numpy as np
import numpy.typing as npt
from PIL import TiffImagePlugin
from PIL.ExifTags import Base as Tag

from prelabel.errors import CorruptImageError, ImageTooLargeError, UnknownFormatError

#: The tags of one image by number, as Pillow reads them.
Tags = TiffImagePlugin.ImageFileDirectory_v2

#: Names of the compressions that pack arrays of samples.
PACKED = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34925: "LZMA", 50000: "Zstandard"}
#: Names of unsupported compressions.
_UNSUPPORTED = {
    32766: "NeXT", 32809: "ThunderScan", 32771: "CCITT with word alignment", 33003: "JPEG 2000", 33004: "JPEG 2000",
    33005: "JPEG 2000", 34661: "JBIG", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 34712: "JPEG 2000", 34887: "LERC",
    34892: "lossy JPEG of DNG", 34926: "old Zstandard", 34927: "WebP", 34933: "PNG", 34934: "JPEG XR", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip

WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB, PALETTE, _CMYK, _YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
_CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, _RGB: 3, PALETTE: 1, _CMYK: 4, LAB: 3}
#: Compressions that Pillow decodes (fax, two kinds of JPEG), each with the color types that it decodes correctly.
_FAX, _JPEG = (WHITE_IS_ZERO, BLACK_IS_ZERO), (WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR)
_BY_PILLOW = {2: _FAX, 3: _FAX, 4: _FAX, 6: _JPEG, 7: _JPEG}
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_KIND_WORDS = {"u": "unsigned", "i": "signed", "f": "floating-point", "": "complex or unknown"}

_NO_PHOTOMETRIC = "tag 262 (PhotometricInterpretation) is missing, so the meaning of its samples is unknown"

#: Types of extra samples that are opacity: premultiplied, not premultiplied, and Corel Draw's not premultiplied.
_PREMULTIPLIED, _OPACITY = 1, frozenset({1, 2, 999})

#: Longest tile side, in pixels, that may exceed twice the image's side.
_MOST_TILE = 4096

#: Limit on the unpacked bytes of a strip or tile, per pixel that `max_pixels` allows (four 16-bit samples), and its
#: smallest value.
_BYTES_PER_PIXEL, _LEAST_BLOCK_LIMIT = 8, 64 << 20
#: Number of copies of a strip or tile in memory while it is unpacked: Pillow's, the bytes, the samples.
_COPIES = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """The sample layout of a TIFF.

    Attributes:
        width: Stored width in pixels.
        height: Stored height in pixels.
        photometric: Color type (TIFF tag 262).
        channels: Number of color channels.
        samples: Number of samples per pixel: color channels and extra ones.
        opacity: Index of the opacity channel, or None.
        is_premultiplied: Whether color is multiplied by opacity.
        bits: Bits per sample.
        kind: Sample type, as in NumPy's dtypes: `u`, `i` or `f`.
        order: Byte order, `<` or `>`.
        is_planar: Whether each channel is stored separately.
        predictor: 1 (none), 2 (differences) or 3 (differences of the bytes of floats).
        compression: Compression (TIFF tag 259).
        fill_order: 1, or 2 if the bits of each byte are reversed.
        block: Width and height of a strip or tile.
        is_tiled: Whether blocks are tiles of equal size rather than strips.
        offsets: File offsets of the strips or tiles.
        sizes: Sizes of the strips or tiles in bytes.
        white: Largest sample value, as declared in the file or as allowed by the bits.
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


def read_directory(file: io.BytesIO) -> Tags:
    """Read the tags of the first image.

    Raises:
        UnknownFormatError: The file is a big-endian BigTIFF.
    """
    head = file.getvalue()[:16]
    if head.startswith(b"MM\0+"):
        raise unsupported_variant("big-endian BigTIFF")
    directory = Tags(head if head[2:3] == b"+" else head[:8])
    file.seek(directory.next)
    directory.load(file)
    return directory


def count_images(data: bytes) -> int:
    """Count the images of a TIFF: the directories in its chain, up to the first invalid one; at least 1."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = b"+" in data[2:4]
    head, count_format, entry, next_format = (8, "Q", 20, "Q") if is_big else (4, "H", 12, "I")
    seen: set[int] = set()
    try:
        (offset,) = struct.unpack_from(order + next_format, data, head)
        while offset and offset not in seen:
            (entries,) = struct.unpack_from(order + count_format, data, offset)
            end = offset + struct.calcsize(order + count_format) + entry * entries
            (following,) = struct.unpack_from(order + next_format, data, end)
            seen.add(offset)
            offset = following
    except struct.error:
        pass
    return max(1, len(seen))


def layout_of(tags: Tags, data: bytes) -> Layout | None:
    """Derive the sample layout from the tags of an image.

    Returns:
        The layout, or None for an image that is not an array of samples, which Pillow decodes.

    Raises:
        UnknownFormatError: The variant is not supported.
        CorruptImageError: The tags contradict each other.
    """
    compression = _number(tags, Tag.Compression, 1)
    photometric = _number(tags, Tag.PhotometricInterpretation, WHITE_IS_ZERO)
    if compression not in PACKED:
        if compression not in _BY_PILLOW:
            name = _UNSUPPORTED.get(compression, "unknown")
            raise unsupported_variant(f"{name} compression ({compression})")
        if compression == 7 and Tag.PhotometricInterpretation not in tags:
            raise unsupported_variant(_NO_PHOTOMETRIC)
        if photometric not in _BY_PILLOW[compression]:
            raise unsupported_variant(f"color type {photometric} with compression {compression}")
        return None
    if photometric == _YCBCR:
        if _number(tags, Tag.PlanarConfiguration, 1) != 1 or (
            compression == 1 and _numbers(tags, Tag.YCbCrSubSampling, (2, 2)) != (1, 1)
        ):
            raise unsupported_variant("planar YCbCr, or uncompressed YCbCr with chroma subsampling")
        return None
    if photometric not in _CHANNELS:
        raise unsupported_variant(f"color type {photometric}")
    return _layout(tags, data, compression, photometric)


def _layout(tags: Tags, data: bytes, compression: int, photometric: int) -> Layout:
    width, height = declared_size(tags)
    samples = _number(tags, Tag.SamplesPerPixel, 1)
    if width < 1 or height < 1:
        raise CorruptImageError("corrupt TIFF data: the image size is missing")
    if Tag.PhotometricInterpretation not in tags:
        raise unsupported_variant(_NO_PHOTOMETRIC)
    channels, extra = _CHANNELS[photometric], _numbers(tags, Tag.ExtraSamples, ())
    if samples < channels or samples > 64:
        raise CorruptImageError(f"corrupt TIFF data: {samples} samples per pixel for {channels} channels")
    if photometric == _RGB and samples == 4 and not extra:
        extra = (2,)  # Corel Draw omits the tag
    if channels == 1 and samples > 2:
        raise unsupported_variant(f"{samples} channels that are not declared as colors")
    extra = (*extra, *[0] * samples)[: samples - channels]
    opacity = next((number for number, meaning in enumerate(extra, channels) if meaning in _OPACITY), None)
    bits, formats = _numbers(tags, Tag.BitsPerSample, (1,)), _numbers(tags, Tag.SampleFormat, (1,))
    if len(set(bits)) > 1 or len(set(formats)) > 1:
        raise unsupported_variant("channels of different sample types")
    kind = _KINDS.get(formats[0], "")
    tiled = Tag.TileOffsets in tags
    rows = _number(tags, Tag.RowsPerStrip, height)
    if tiled:
        block = _number(tags, Tag.TileWidth, 0), _number(tags, Tag.TileLength, 0)
        # Tiles may extend beyond the image, so its pixel limit does not bound them.
        if min(block) < 1 or (max(block) > _MOST_TILE and (block[0] > 2 * width or block[1] > 2 * height)):
            raise CorruptImageError(f"corrupt TIFF data: tiles of {block[0]} x {block[1]} pixels")
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
        is_planar=_number(tags, Tag.PlanarConfiguration, 1) == 2 and samples > 1,
        predictor=_number(tags, Tag.Predictor, 1) if compression != 1 else 1,
        compression=compression,
        fill_order=_number(tags, Tag.FillOrder, 1),
        block=block,
        is_tiled=tiled,
        offsets=_numbers(tags, Tag.TileOffsets if tiled else Tag.StripOffsets, ()),
        sizes=_numbers(tags, Tag.TileByteCounts if tiled else Tag.StripByteCounts, ()),
        white=_white(tags, bits[0]),
    )
    _refuse_unknown(layout, tags)
    return layout


def _refuse_unknown(layout: Layout, tags: Tags) -> None:
    """Raise UnknownFormatError for samples that cannot be read correctly."""
    bits, kind = layout.bits, layout.kind
    is_known = {"u": 1 <= bits <= 16 or bits in (24, 32, 64), "i": bits in (8, 16, 32, 64), "f": bits in (16, 32, 64)}
    if not is_known.get(kind, False):
        raise unsupported_variant(f"{bits}-bit {_KIND_WORDS[kind]} samples")
    deep = kind != "u" or bits > 16
    if (layout.photometric in (PALETTE, _CMYK) and deep) or (layout.photometric == LAB and bits not in (8, 16)):
        raise unsupported_variant(f"{bits}-bit samples with color type {layout.photometric}")
    if layout.photometric == LAB and kind == "f":
        raise unsupported_variant("floating-point CIELAB")
    if layout.photometric == _CMYK and _number(tags, Tag.InkSet, 1) != 1:
        raise unsupported_variant("inks other than cyan, magenta, yellow and black")
    possible = {1: True, 2: kind != "f" and bits in (8, 16, 32, 64), 3: kind == "f"}
    if not possible.get(layout.predictor, False):
        raise unsupported_variant(f"predictor {layout.predictor} with {bits}-bit samples")
    if layout.fill_order not in (1, 2):
        raise CorruptImageError(f"corrupt TIFF data: the bit order is {layout.fill_order}, not 1 or 2")


def refuse_large_blocks(layout: Layout, max_pixels: int) -> None:
    """Raise ImageTooLargeError if unpacking a strip or tile needs too much memory for an image of `max_pixels`."""
    size, limit = _block_bytes(layout), max(_BYTES_PER_PIXEL * max_pixels, _LEAST_BLOCK_LIMIT)
    if size > limit:
        raise ImageTooLargeError(
            f"strips or tiles have {size:,} bytes once unpacked; the limit is {limit:,} "
            f"({_BYTES_PER_PIXEL} per pixel for --max-pixels {max_pixels})"
        )


def unpacking_bytes(layout: Layout) -> int:
    """Memory in bytes that reading the samples needs in addition to the decoded pixels."""
    return _COPIES * _block_bytes(layout)


def _block_bytes(layout: Layout) -> int:
    """Size in bytes of the samples of a strip or tile, over all planes."""
    width, height = layout.block
    return width * height * layout.samples * -(-layout.bits // 8)


def color_map(layout: Layout, tags: Tags) -> npt.NDArray[np.uint8]:
    """Read the palette: (2**bits, 3) uint8 RGB."""
    numbers = _numbers(tags, Tag.ColorMap, ())
    if len(numbers) != 3 << layout.bits:
        raise CorruptImageError(f"corrupt TIFF data: the palette has {len(numbers) // 3} colors")
    colors = np.array(numbers, np.int64).reshape(3, -1).T
    # Some programs write 8-bit values instead of 16-bit ones.
    table: npt.NDArray[np.uint8] = (colors if colors.max() < 256 else colors >> 8).clip(0, 255).astype(np.uint8)
    return table


def _white(tags: Tags, bits: int) -> int:
    """The sample value of white: as declared in the file, or the largest that the bits allow."""
    most: int = 2 ** min(bits, 64) - 1
    declared = max(_numbers(tags, Tag.MaxSampleValue, (0,)))
    return declared if 8 < bits <= 16 and 0 < declared <= most else most


# --- tags -------------------------------------------------------------------------------------------------------------


def declared_size(tags: Tags) -> tuple[int, int]:
    """Stored width and height; 0 if missing."""
    return _number(tags, Tag.ImageWidth, 0), _number(tags, Tag.ImageLength, 0)


def profile_of(tags: Tags) -> bytes | None:
    """The ICC profile, or None."""
    profile = tags.get(Tag.InterColorProfile)
    return profile if isinstance(profile, bytes) else None


def _number(tags: Tags, tag: int, default: int) -> int:
    return (*_numbers(tags, tag, ()), default)[0]


def _numbers(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    numbers = value if isinstance(value, tuple) else (value,)
    return tuple(number for number in numbers if isinstance(number, int))


def reals(tags: Tags, tag: int) -> list[float]:
    """The real numbers in a tag; values of other types are skipped."""
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return [float(number) for number in values if isinstance(number, Real)]


def unsupported_variant(variant: str) -> UnknownFormatError:
    """The error for a TIFF variant that cannot be read correctly."""
    return UnknownFormatError(f"unsupported TIFF variant: {variant}")
