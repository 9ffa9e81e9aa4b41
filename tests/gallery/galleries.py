"""Helpers: small runs over existing images, for the tests of the preview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from prelabel.export.base import ExportReport, RunInfo
from prelabel.gallery.preview import PreviewOptions, write_preview
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.rows import INFO, ListedRows, row

STORAGE = Storage()

#: A run whose model names its classes itself, so that any label can occur.
OPEN_INFO = replace(INFO, classes=None)

#: Colors of the left and the right half of every image.
LEFT, RIGHT = (200, 30, 30), (30, 30, 200)


def picture(path: Path, width: int = 60, height: int = 40, exif_orientation: int | None = None) -> Path:
    """A JPEG, its left half red and its right half blue as the file stores it."""
    image = Image.new("RGB", (width, height), RIGHT)
    image.paste(LEFT, (0, 0, width // 2, height))
    exif = Image.Exif()
    if exif_orientation is not None:
        exif[274] = exif_orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=95, exif=exif)
    return path


def photo(
    folder: Path, image_id: str, *detections: dict[str, Any], name: str = "", width: int = 60, height: int = 40
) -> ImageRow:
    """Write an image into the folder, under its id or another name, and return its row."""
    path = picture(folder / (name or image_id), width, height)
    image_row = row(image_id, *detections, height=height, width=width, uri=str(path))
    return replace(image_row, bytes=path.stat().st_size)


def preview(
    rows: Sequence[ImageRow], to: Path, info: RunInfo = OPEN_INFO, storage: Storage = STORAGE, **options: Any
) -> ExportReport:
    """Write the preview of some rows."""
    return write_preview(info, ListedRows(rows), str(to), PreviewOptions.of(**options), storage)
