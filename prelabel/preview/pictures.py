"""A thumbnail and a larger rendition of each shown image, read again from where the run read it.

The renditions are RGB pictures as a browser would show the file itself, without overlays: those are drawn by the page,
so that they can be switched and filtered there. Metadata (places, names of owners) does not go along.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from prelabel.errors import DecodeError, SourceError
from prelabel.frames import BROWSER, turned_rows
from prelabel.image_ref import ImageRef
from prelabel.source.decode import DecodeOptions, decode
from prelabel.source.fetch import fetch
from prelabel.storage import Storage, describe
from prelabel.store.rows import ImageRow

#: Of a file whose length the run did not note.
_MAX_BYTES = 512 << 20

#: Tries for one image: a preview rather lacks a picture than keeps people waiting.
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Renditions:
    """Two JPEG files of one image; both are the same where the image is no larger than a thumbnail."""

    thumbnail: bytes
    picture: bytes


def renditions_of(row: ImageRow, thumbnail_size: int, picture_size: int, storage: Storage) -> Renditions | str:
    """The renditions of an image, or one line that says why there are none (any more).

    Safe to call from several threads at once.

    Args:
        row: Of the run, in the frame of browsers; the file must have the length and the picture the size that it
            states.
        thumbnail_size: Longest side in pixels.
        picture_size: Longest side in pixels.
        storage: Where the image is.
    """
    if row.width is None or row.height is None:
        return "its size is not known"
    ref = ImageRef(row.image_id, row.uri, row.file_name, size=row.bytes)
    max_bytes = _MAX_BYTES if row.bytes is None else max(row.bytes, 1)
    # What the run could decode is decoded here, whatever limits it had.
    max_pixels = max(DecodeOptions.max_pixels, row.width * row.height)
    allowed = DecodeOptions(max_pixels=max_pixels, max_bytes=max_bytes, allow_truncated=True)
    try:
        decoded = decode(fetch(ref, storage, max_bytes, attempts=_ATTEMPTS), allowed)
    except (SourceError, DecodeError) as error:
        return describe(error).partition(": ")[2] or type(error).__name__
    # Decoded upright, as the run saw it.
    pixels = turned_rows(decoded.pixels, row.way_to(BROWSER))
    height, width = pixels.shape[:2]
    if (width, height) != (row.width, row.height):
        return f"it is now {width} x {height} pixels; the run saw {row.width} x {row.height}"
    image = Image.fromarray(np.ascontiguousarray(pixels))
    picture = _scaled(image, picture_size)
    large = _jpeg(picture, quality=84)
    if max(image.size) <= thumbnail_size:
        return Renditions(large, large)
    return Renditions(_jpeg(_scaled(picture, thumbnail_size), quality=80), large)


def _scaled(image: Image.Image, longest: int) -> Image.Image:
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()
