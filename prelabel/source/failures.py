"""Why an image file could not be decoded: what Pillow raised, as one of our errors with words for a person."""

from __future__ import annotations

import io
import struct
from typing import Literal

from PIL import ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.Image import DecompressionBombError

from prelabel.errors import (
    CorruptImageError,
    DecodeError,
    ImageTooLargeError,
    TruncatedImageError,
    UnknownFormatError,
)

#: How Pillow and the libraries under it speak of a variant they do not read.
_VARIANT_WORDS = ("cannot handle", "unknown pixel mode", "unsupported", "not supported", "not yet supported")
_END_WORDS = ("truncat", "end of file", "end-of-file", "insufficient input", "cannot read full")

_TIFF_OFFSETS_AND_SIZES = ((273, 279), (324, 325))  # strips, tiles


def explain(
    error: Exception,
    data: bytes,
    name: str,
    image: ImageFile.ImageFile | None,
    size: tuple[int, int] | None,
    file: io.BytesIO,
) -> DecodeError:
    """The DecodeError for an exception raised while a file was opened or loaded.

    Args:
        error: What was raised.
        data: The whole file.
        name: Its format.
        image: The opened image, or None where already opening it failed.
        size: Its width and height in the file.
        file: The stream it was read from, wherever the reader stopped.
    """
    what = describe(name, data, size)
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    if isinstance(error, MemoryError):
        return ImageTooLargeError(f"the picture does not fit into memory ({what})")
    if isinstance(error, DecompressionBombError):
        return ImageTooLargeError(f"a part of the file has more pixels than the limit (max-pixels) allows ({what})")
    if is_cut(error, data, name, image, file):
        return TruncatedImageError(f"the file ends before the picture does ({what})")
    # Pillow wraps what a header made it stumble over; the texts of these are for programmers.
    stumble = error.__cause__ or error
    if isinstance(stumble, KeyError):
        reason = "unsupported kind of pixel or compression"
    elif isinstance(stumble, (struct.error, IndexError, TypeError, AssertionError)):
        reason = "a field of its header makes no sense"
    if any(words in reason.lower() for words in _VARIANT_WORDS):
        return UnknownFormatError(f"a variant of {name} that is not read: {reason} ({what})")
    if isinstance(error, UnidentifiedImageError) or reason == "not identified by this driver":
        reason = "its header states no size or no kind of pixel"
    return CorruptImageError(f"the {name} data is broken: {reason} ({what})")


def describe(name: str, data: bytes, size: tuple[int, int] | None) -> str:
    """`JPEG, 640 x 480, 48,197 bytes`, with what is known."""
    pixels = "" if size is None else f"{size[0]} x {size[1]}, "
    return f"{name}, {pixels}{len(data):,} bytes"


def is_cut(error: Exception, data: bytes, name: str, image: ImageFile.ImageFile | None, file: io.BytesIO) -> bool:
    """Whether an error comes from the end of the file being missing, as far as format and message tell."""
    if any(words in str(error).lower() for words in _END_WORDS):
        return True
    if name == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if name == "JPEG2000":
        return b"\xff\xd9" not in data[-64:]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return tiff_ends_early(image.tag_v2, data)
    # A header that could not be understood, and a reader that stands at the end of the file.
    return image is None and file.tell() >= len(data)


def tiff_ends_early(tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes) -> bool:
    """Whether the directory, a strip or a tile reaches beyond the end of the file; libtiff's error is a mere number."""
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
