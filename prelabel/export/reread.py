"""Reads the bytes or the pixels of an image of a run again, for the gallery and for copies.

This is a module of its own because the decoder takes a tenth of a second to import, which most exports do without.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from prelabel.errors import ExportError, FetchError
from prelabel.frames import BROWSER, oriented_pixels
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.decode import DecodeOptions, decode
from prelabel.source.fetch import MAX_BYTES, fetch
from prelabel.storage.files import Storage
from prelabel.storage.retries import IMAGE_ATTEMPTS
from prelabel.store.rows import ImageFacts


def image_bytes(
    image: ImageFacts, storage: Storage, *, attempts: int = IMAGE_ATTEMPTS, archives: ArchiveReader | None = None
) -> bytes:
    """Read the file of an image again.

    Args:
        image: The image. The file must still have the size in bytes and the checksum of the run, as far as its row has
            them.
        storage: Opens the image.
        attempts: How often to try to fetch it.
        archives: Reads images in archives one after another; by default, the archive is opened for this image alone.

    Raises:
        SourceError: The image cannot be fetched, or is another one.
        DecodeError: The image has more bytes than in the run.
    """
    max_bytes = MAX_BYTES if image.bytes is None else max(image.bytes, 1)
    data = fetch(image.ref, storage, max_bytes, attempts=attempts, archives=archives)
    if image.sha256 is not None and hashlib.sha256(data).hexdigest() != image.sha256:
        in_archive = ": another image lies at its place in the archive" if image.location is not None else ""
        raise FetchError(f"changed since it was labeled{in_archive}")
    return data


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
    return _pixels(image, image_bytes(image, storage, attempts=attempts), image.orientation_to(BROWSER))


def display_pixels(image: ImageFacts, data: bytes) -> npt.NDArray[np.uint8]:
    """The pixels that the detector saw: `browser_pixels`, but for an image and its size in the display frame.

    Args:
        image: The image, in the display frame.
        data: Its file.

    Raises:
        DecodeError: As for `browser_pixels`.
        ExportError: As for `browser_pixels`.
    """
    return _pixels(image, data, 1)


def _pixels(image: ImageFacts, data: bytes, orientation: int) -> npt.NDArray[np.uint8]:
    width, height = image.width or 0, image.height or 0
    # The run has decoded this image, so the limits that protect from large images do not apply again.
    max_pixels = max(DecodeOptions.max_pixels, width * height)
    decoded = decode(data, DecodeOptions(max_pixels=max_pixels, max_bytes=len(data), allow_truncated=True))
    # `decode` returns the display frame, in which the detector saw the image.
    pixels = oriented_pixels(decoded.pixels, orientation)
    if pixels.shape[:2] != (height, width):
        raise ExportError(f"is now {pixels.shape[1]} x {pixels.shape[0]} pixels; the run saw {width} x {height}")
    return np.ascontiguousarray(pixels)
