"""Which orientation is applied, and which one browsers apply, wherever and however a file states it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from prelabel.source.decode import decode
from tests.source import oriented

FILES = oriented.files(with_avif=features.check("avif"))

#: From stored pixels to upright ones, with numpy alone, after the table of the EXIF standard.
TURNS: dict[int, Any] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("name", FILES)
def test_orientations_are_told_from_the_file(name: str) -> None:
    data, applied, browser = FILES[name]
    image = decode(data)
    assert (image.exif_orientation, image.browser_orientation) == (applied, browser)
    turned = TURNS[applied or 1](np.asarray(oriented.stored()))
    assert image.pixels.shape == turned.shape
    assert np.abs(image.pixels.astype(np.int16) - turned).mean() < 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_what_is_applied_is_what_pillow_applies(name: str) -> None:
    """Programs that turn with Pillow, CVAT's server among them, see the same picture as the detector."""
    data, applied, _ = FILES[name]
    try:
        with Image.open(io.BytesIO(data)) as image:
            by_pillow = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # noqa: BLE001 - metadata that Pillow itself stumbles over, so that it shows no picture at all
        assert applied is None or "check sum" in name
        return
    turned = TURNS[applied or 1](np.asarray(oriented.stored()))
    assert by_pillow.shape == turned.shape
    assert np.abs(by_pillow.astype(np.int16) - turned).mean() < 4


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "PPM", "TGA"])
def test_formats_that_browsers_do_not_show_have_one_frame(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = decode(oriented.save(kind, **({"exif": exif} if kind == "TIFF" else {})))
    assert image.exif_orientation == (6 if kind == "TIFF" else None)
    assert image.browser_orientation == (image.exif_orientation or 1)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_heic_is_turned_by_its_reader_and_its_frames_are_one(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra prelabel[heif] is not installed")
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    heif.from_pillow(oriented.stored()).save(file, exif=exif.tobytes(), quality=95)
    image = decode(file.getvalue())
    assert image.pixels.shape[:2] == ((32, 48) if orientation == 3 else (48, 32))
    assert (image.exif_orientation or 1, image.browser_orientation) == (1, 1)
