"""Why an image file could not be decoded: what Pillow raised, as one of our errors with words for a person."""

from __future__ import annotations

import io
import re
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
from prelabel.source.jpeg import jpeg_frame
from prelabel.source.sniff import largest_item

#: How Pillow and the libraries under it speak of a variant they do not read.
_VARIANT_WORDS = (
    "cannot handle", "unknown pixel mode", "unsupported", "not supported", "not yet supported", "not been built in"
)  # fmt: skip
_END_WORDS = ("truncat", "end of file", "end-of-file", "insufficient input", "cannot read full", "file size too small")

#: SOF markers of JPEGs that libjpeg reads, and where there is none.
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA, None})

#: What libavif takes at most.
_AVIF_SIDE, _AVIF_PIXELS = 32_768, 16_384**2

#: How pictures in the containers of AVIF and HEIC are coded, and how far into a file that is looked for.
_CODECS = {
    "av01": "AV1",
    "hvc1": "HEVC",
    "avc1": "AVC",
    "jpeg": "JPEG",
    "j2k1": "JPEG 2000",
    "vvc1": "VVC",
    "unci": "uncompressed",
}
_ITEMS_WITHIN = 1 << 16

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
    width, height = largest_item(data) if name == "AVIF" else (0, 0)
    if "security limit" in reason.lower() or max(width, height) > _AVIF_SIDE or width * height > _AVIF_PIXELS:
        stated = f"{width} x {height}: " if width else ""
        return ImageTooLargeError(f"{stated}more than the reader of {name} takes, whatever max-pixels allows ({what})")
    if is_cut(error, data, name, image, file):
        return TruncatedImageError(f"the file ends before the picture does ({what})")
    if (other := _other_content(name, data)) is not None:
        return UnknownFormatError(f"a variant of {name} that is not read: {other} ({what})")
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
    if name in ("AVIF", "HEIF"):
        return _boxes_end_early(data)  # their readers take the whole file before they look at it
    # A header that could not be understood, and a reader that stands at the end of the file.
    return image is None and file.tell() >= len(data)


def _boxes_end_early(data: bytes) -> bool:
    """Whether a box of the outermost level reaches beyond the end of the file."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:
            return False  # the last one, or none
        at += size
    return at != len(data)


def _other_content(name: str, data: bytes) -> str | None:
    """What a sound file holds that its reader does not take for what it is, if that can be told."""
    if name == "JPEG":
        kind = jpeg_frame(data)
        return None if kind in _JPEG_FRAMES else "lossless, hierarchical or JPEG-LS"
    if name == "PSD" and data[4:6] == b"\0\2":
        return "a large document (PSB)"
    if name not in ("AVIF", "HEIF"):
        return None
    head = data[:_ITEMS_WITHIN]
    if b"meta" not in head:
        return "a video with the name of a picture" if b"moov" in data else None
    coded = {kind.decode("latin-1") for kind in re.findall(rb"infe[\x02\x03].{3}.{4}(....)", head, re.DOTALL)}
    wanted = {"av01", "grid", "iovl", "tmap", "sato"} if name == "AVIF" else {"hvc1", "grid", "iovl", "iden", "tmap"}
    names = sorted(_CODECS[kind] for kind in coded & set(_CODECS))
    return f"its picture is coded as {' and '.join(names)}" if names and not coded & wanted else None


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
