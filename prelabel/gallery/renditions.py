"""Makes a thumbnail and a larger rendition of each image in the gallery, which is read again from its source.

Renditions are RGB and have the orientation in which browsers show the file. Boxes and masks are not drawn on them,
because the page draws overlays that can be filtered and hidden. Metadata such as places and owners' names is removed.
"""

from __future__ import annotations

import io

from PIL import Image

from prelabel.errors import DecodeError, ExportError, SourceError
from prelabel.export.reread import browser_pixels
from prelabel.storage.address import describe
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow

#: Attempts to read an image: a missing image is better than a long wait.
_ATTEMPTS = 2


def renditions_of(row: ImageRow, thumbnail_size: int, picture_size: int, storage: Storage) -> tuple[bytes, ...] | str:
    """Read an image and scale it. Several threads may call this at the same time.

    Args:
        row: The image, in the frame of browsers. The file must still have the byte size and pixel size in the row.
        thumbnail_size: Longer side of the thumbnail in pixels.
        picture_size: Longer side of the larger rendition in pixels.
        storage: Opens the image.

    Returns:
        The larger rendition and the thumbnail as JPEG, or only the larger rendition if the image is no larger than a
        thumbnail. If the image is no longer available, one line with the reason.

    Raises:
        CredentialsError: Storage rejected the credentials, so it would reject every other image as well.
    """
    if row.width is None or row.height is None:
        return "its size is unknown"
    try:
        image = Image.fromarray(browser_pixels(row, storage, attempts=_ATTEMPTS))
    except (SourceError, DecodeError) as error:
        return describe(error).partition(": ")[2] or type(error).__name__
    except ExportError as error:
        return f"it {error}"
    large = _scaled(image, picture_size)
    large_jpeg = _jpeg(large, quality=84)
    if max(image.size) <= thumbnail_size:
        return (large_jpeg,)
    return large_jpeg, _jpeg(_scaled(large, thumbnail_size), quality=80)


def _scaled(image: Image.Image, longer_side: int) -> Image.Image:
    factor = longer_side / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()
