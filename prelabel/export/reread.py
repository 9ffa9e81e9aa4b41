"""Reads the pixels of an image of a run again, for the gallery and for display copies.

This is a module of its own because the decoder takes a tenth of a second to import, which most exports do without.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prelabel.errors import ExportError
from prelabel.frames import BROWSER, oriented_pixels
from prelabel.source.decode import DecodeOptions, decode
from prelabel.source.fetch import MAX_BYTES, fetch
from prelabel.storage.files import Storage
from prelabel.storage.retries import IMAGE_ATTEMPTS
from prelabel.store.rows import ImageFacts


def browser_pixels(image: ImageFacts, storage: Storage, *, attempts: int = IMAGE_ATTEMPTS) -> npt.NDArray[np.uint8]:
    """Read an image again. Several threads may call this at the same time.

    Args:
        image: The image, in the frame of browsers. The file must still have the byte size and pixel size of the run.
        storage: Opens the image.
        attempts: How often to try to fetch it.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous, in the orientation in which browsers show the file.

    Raises:
        SourceError: The image cannot be fetched.
        DecodeError: The image cannot be decoded.
        ExportError: It has another size than in the run; the message continues a sentence that names the image.
    """
    width, height = image.width or 0, image.height or 0
    max_bytes = MAX_BYTES if image.bytes is None else max(image.bytes, 1)
    # The run has decoded this image, so the limits that protect from large images do not apply again.
    max_pixels = max(DecodeOptions.max_pixels, width * height)
    limits = DecodeOptions(max_pixels=max_pixels, max_bytes=max_bytes, allow_truncated=True)
    decoded = decode(fetch(image.ref, storage, max_bytes, attempts=attempts), limits)
    # `decode` returns the display frame, in which the detector saw the image.
    pixels = oriented_pixels(decoded.pixels, image.orientation_to(BROWSER))
    if pixels.shape[:2] != (height, width):
        raise ExportError(f"is now {pixels.shape[1]} x {pixels.shape[0]} pixels; the run saw {width} x {height}")
    return np.ascontiguousarray(pixels)
