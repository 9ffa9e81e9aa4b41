"""Decoding failures: turns what Pillow raises into a DecodeError with a message for users."""

from __future__ import annotations

import io
import re
import struct
from typing import Literal

from PIL import ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.Image import DecompressionBombError

from prelabel.errors import (
    CorruptImageError,
    DecodeError,
    ImageTooLargeError,
    TruncatedImageError,
    UnknownFormatError,
)
from prelabel.source.formats import ITEMS_WITHIN, largest_item
from prelabel.source.jpeg import jpeg_frame

#: Words in messages of Pillow and its libraries about variants that they do not support.
_UNSUPPORTED_WORDS = (
    "cannot handle", "unknown pixel mode", "unsupported", "not supported", "not yet supported", "not been built in"
)  # fmt: skip
#: Words in their messages about truncated files.
_TRUNCATED_WORDS = (
    "truncat",
    "end of file",
    "end-of-file",
    "insufficient input",
    "cannot read full",
    "file size too small",
)

#: SOF markers of JPEGs that libjpeg supports, and None for a file without one.
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA, None})

#: Limits of libavif: pixels per side, pixels per image.
_AVIF_SIDE, _AVIF_PIXELS = 32_768, 16_384**2

#: Codecs of images in AVIF and HEIF containers, by item type.
_CODECS = {
    "av01": "AV1",
    "hvc1": "HEVC",
    "avc1": "AVC",
    "jpeg": "JPEG",
    "j2k1": "JPEG 2000",
    "vvc1": "VVC",
    "unci": "uncompressed",
}

_TIFF_OFFSETS_AND_SIZES = ((Tag.StripOffsets, Tag.StripByteCounts), (Tag.TileOffsets, Tag.TileByteCounts))


def explain(
    error: Exception,
    data: bytes,
    name: str,
    image: ImageFile.ImageFile | None,
    size: tuple[int, int] | None,
    file: io.BytesIO,
) -> DecodeError:
    """Convert an exception raised while an image was opened or loaded to a DecodeError.

    Args:
        error: The exception.
        data: The complete file.
        name: Its format, by Pillow's name.
        image: The opened image, or None if opening it failed.
        size: Stored width and height, or None if unknown.
        file: The stream that was read, positioned where the reader stopped.

    Returns:
        The error to raise, of the subclass that fits.
    """
    file_facts = describe_file(name, data, size)
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    if isinstance(error, MemoryError):
        return ImageTooLargeError(f"the image does not fit into memory ({file_facts})")
    if isinstance(error, DecompressionBombError):
        return ImageTooLargeError(f"part of the file has more pixels than --max-pixels allows ({file_facts})")
    width, height = largest_item(data) if name == "AVIF" else (0, 0)
    if "security limit" in reason.lower() or max(width, height) > _AVIF_SIDE or width * height > _AVIF_PIXELS:
        pixels = f"{width} x {height} " if width else ""
        return ImageTooLargeError(
            f"{pixels}exceeds the fixed limit of the {name} decoder, whatever --max-pixels allows ({file_facts})"
        )
    if is_truncation(error, data, name, image, file):
        return TruncatedImageError(f"the file is truncated ({file_facts})")
    if (content := _unsupported_content(name, data)) is not None:
        return UnknownFormatError(f"unsupported {name} variant: {content} ({file_facts})")
    # Pillow wraps errors caused by a bad header, and their texts are meant for programmers.
    cause = error.__cause__ or error
    if isinstance(cause, KeyError):
        reason = "unsupported pixel type or compression"
    elif isinstance(cause, (struct.error, IndexError, TypeError, AssertionError)):
        reason = "a header field is invalid"
    if any(words in reason.lower() for words in _UNSUPPORTED_WORDS):
        return UnknownFormatError(f"unsupported {name} variant: {reason} ({file_facts})")
    if isinstance(error, UnidentifiedImageError) or reason == "not identified by this driver":
        reason = "the header has no size or no pixel type"
    return CorruptImageError(f"corrupt {name} data: {reason} ({file_facts})")


def describe_file(name: str, data: bytes, size: tuple[int, int] | None) -> str:
    """Format, stored size and length of a file: `JPEG, 640 x 480, 48,197 bytes`."""
    pixels = "" if size is None else f"{size[0]} x {size[1]}, "
    return f"{name}, {pixels}{len(data):,} bytes"


def is_truncation(
    error: Exception, data: bytes, name: str, image: ImageFile.ImageFile | None, file: io.BytesIO
) -> bool:
    """Whether an error arose because the end of the file is missing, judged by its message and the format."""
    if any(words in str(error).lower() for words in _TRUNCATED_WORDS):
        return True
    if name == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if name == "JPEG2000":
        return b"\xff\xd9" not in data[-64:]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return tiff_ends_early(image.tag_v2, data)
    if name in ("AVIF", "HEIF"):
        return _boxes_end_early(data)  # their decoders read the complete file first: `file` is always at its end
    # The header could not be parsed and the reader stopped at the end of the file.
    return image is None and file.tell() >= len(data)


def _boxes_end_early(data: bytes) -> bool:
    """Whether a top-level box extends beyond the end of the file."""
    offset = 0
    while offset + 8 <= len(data):
        size = int.from_bytes(data[offset : offset + 4], "big")
        if size == 1:
            size = int.from_bytes(data[offset + 8 : offset + 16], "big")
        if size < 8:
            return False  # 0 means that the box extends to the end of the file; other values are invalid
        offset += size
    return offset != len(data)


def _unsupported_content(name: str, data: bytes) -> str | None:
    """Name the content of a valid file that its decoder does not support, or return None if that is unknown."""
    if name == "JPEG":
        kind = jpeg_frame(data)
        return None if kind in _JPEG_FRAMES else "lossless, hierarchical or JPEG-LS"
    if name == "PSD" and data[4:6] == b"\0\2":
        return "a large document (PSB)"
    if name not in ("AVIF", "HEIF"):
        return None
    head = data[:ITEMS_WITHIN]
    if b"meta" not in head:
        return "a video with an image's brand" if b"moov" in data else None
    types = {item.decode("latin-1") for item in re.findall(rb"infe[\x02\x03].{3}.{4}(....)", head, re.DOTALL)}
    supported = {"av01", "grid", "iovl", "tmap", "sato"} if name == "AVIF" else {"hvc1", "grid", "iovl", "iden", "tmap"}
    codecs = sorted(_CODECS[item_type] for item_type in types & set(_CODECS))
    return f"the image is encoded as {' and '.join(codecs)}" if codecs and not types & supported else None


def tiff_ends_early(tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes) -> bool:
    """Whether the directory, a strip or a tile extends beyond the end of the file. libtiff only reports a number."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    if data[2:4] in (b"*\x00", b"\x00*"):
        directory = int.from_bytes(data[4:8], order)
        entries = int.from_bytes(data[directory : directory + 2], order)
        if directory + 2 + entries * 12 + 4 > len(data):
            return True
    for offsets_tag, sizes_tag in _TIFF_OFFSETS_AND_SIZES:
        offsets, sizes = tags.get(offsets_tag, ()), tags.get(sizes_tag, ())
        if any(start + size > len(data) for start, size in zip(offsets, sizes, strict=False)):
            return True
    return False
