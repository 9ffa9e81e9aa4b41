"""JPEG copies of images that most browsers cannot show: TIFF, JPEG 2000, HEIC, PSD and a few more.

A copy has the size in pixels that the run recorded, with the EXIF orientation applied, so that boxes and masks lie on
it as on the image. It is named after the image and its id (`scan-3f8a5f0e9d21.jpg`), the same in every export.

`upright_copy` makes those of `prelabel extract --upright`, for tools that ignore the orientation.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from prelabel.errors import DecodeError, ExportError, SourceError
from prelabel.source.formats import image_format
from prelabel.storage.address import absolute, describe, join, redact
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageFacts

#: Extensions of formats that Chromium and Firefox do not show; Safari shows some of them.
NOT_SHOWN = frozenset(
    {
        *(".tif", ".tiff", ".btf", ".tf8"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".heic", ".heics", ".heif", ".heifs", ".hif"),
        *(".psd", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst"),
    }
)

QUALITY = 92

#: Quality of upright copies. They are higher, since models may be trained on them.
_UPRIGHT_QUALITY = 95

#: Pixels per side that a JPEG can have.
_LONGEST_SIDE = 65_500

#: Copies that one process makes at a time; each holds a decoded image.
_THREADS = 4


class DisplayCopies:
    """Counts the images that browsers do not show and, if there is a folder, writes copies of them.

    Attributes:
        written: How many copies were written.
    """

    def __init__(self, folder: str, storage: Storage) -> None:
        """Write nothing yet.

        Args:
            folder: Path or URL of the folder for the copies, or `""` to only count.
            storage: Reads the images and writes the copies.
        """
        self.folder = absolute(folder) if folder else ""
        self.written = 0
        self._storage = storage
        self._extensions: Counter[str] = Counter()
        self._too_large = 0
        self._images = 0

    def fresh(self) -> DisplayCopies:
        """An object with the same folder and storage, without counts."""
        return DisplayCopies(self.folder, self._storage)

    def add(self, other: DisplayCopies) -> None:
        """Add the counts of another part of the images."""
        self.written += other.written
        self._extensions.update(other._extensions)
        self._too_large += other._too_large
        self._images += other._images

    def write(self, images: Iterable[tuple[ImageFacts, str]]) -> dict[str, str]:
        """Count the images that browsers do not show, and write copies of them.

        Args:
            images: Images in the browser frame that did not fail, each with the extension of the file that a browser
                would load.

        Returns:
            The URL of the copy by image id, for the images that have one.

        Raises:
            ExportError: An image cannot be read, or has another size than the run recorded.
            OSError: A copy cannot be written.
        """
        unshown = []
        for image, extension in images:
            self._images += 1
            if extension.lower() in NOT_SHOWN:
                self._extensions[extension.lower()] += 1
                unshown.append(image)
        if not self.folder or not unshown:
            return {}
        small = [image for image in unshown if max(image.height or 0, image.width or 0) <= _LONGEST_SIDE]
        self._too_large += len(unshown) - len(small)
        with ThreadPoolExecutor(_THREADS) as threads:
            urls = list(threads.map(self._write, small))
        self.written += len(urls)
        return {image.image_id: url for image, url in zip(small, urls, strict=True)}

    def _write(self, image: ImageFacts) -> str:
        url = join(self.folder, copy_name(image))
        self._storage.publish(url, _jpeg_of(image, self._storage))
        return url

    @property
    def notes(self) -> list[str]:
        """What the user should know, one line each."""
        if not self._extensions:
            return []
        count = self._extensions.total()
        formats = ", ".join(f"{extension} {number:,}" for extension, number in self._extensions.most_common())
        images = f"{count:,} of {self._images:,} images are in formats that most browsers do not show ({formats})"
        if not self.folder:
            return [
                f"{images}: annotators see no image. --display-copies DIR writes JPEG copies of them and makes the "
                "tasks show these"
            ]
        notes = [f"{images}: their tasks show JPEG copies (quality {QUALITY}) in {redact(self.folder)}"]
        if self._too_large:
            notes.append(f"{self._too_large:,} of them have no copy: a side is longer than {_LONGEST_SIDE:,} pixels")
        return notes


def copy_name(image: ImageFacts) -> str:
    """The file name of an image's copy: safe on every disk, and unique by the image's id."""
    stem = posixpath.splitext(posixpath.basename(image.file_name))[0]
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-")[:60]
    digest = hashlib.blake2b(image.image_id.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{safe or 'image'}-{digest}.jpg"


def _jpeg_of(image: ImageFacts, storage: Storage) -> bytes:
    """The image in the browser frame, as a JPEG."""
    from prelabel.export.reread import browser_pixels  # slow to import

    try:
        pixels = browser_pixels(image, storage)
    except (SourceError, DecodeError) as error:
        reason = describe(error).partition(": ")[2]
        raise ExportError(
            f"cannot read image {image.file_name!r} from {redact(image.uri)} for its display copy: {reason}"
        ) from error
    except ExportError as error:
        raise ExportError(f"image {image.file_name!r} {error}") from None
    return _encoded(pixels, "JPEG", quality=QUALITY, subsampling=0)


def upright_copy(image: ImageFacts, data: bytes) -> bytes:
    """The image as displayed, encoded again: a JPEG as JPEG, any other as PNG. It declares no orientation.

    Args:
        image: The image, in the display frame.
        data: Its file.

    Raises:
        DecodeError: The image cannot be decoded, or has another size than in the run.
    """
    from prelabel.export.reread import display_pixels  # slow to import

    try:
        pixels = display_pixels(image, data)
    except ExportError as error:
        raise DecodeError(str(error)) from None
    if image_format(data) == "JPEG" and max(pixels.shape) <= _LONGEST_SIDE:
        return _encoded(pixels, "JPEG", quality=_UPRIGHT_QUALITY, subsampling=0)
    return _encoded(pixels, "PNG")


def _encoded(pixels: npt.NDArray[np.uint8], kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
