"""The orientation that is applied here and by browsers, for every place and form in which a file may have one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from prelabel.source.decode import decode
from tests.source import oriented

FILES = oriented.files(with_avif=features.check("avif"))

#: From stored to displayed pixels, with NumPy alone, by the table in the EXIF standard.
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
def test_orientations_are_read_from_the_file(name: str) -> None:
    data, applied, browser = FILES[name]
    image = decode(data)
    assert (image.exif_orientation, image.browser_orientation) == (applied, browser)
    rotated = TURNS[applied or 1](np.asarray(oriented.stored()))
    assert image.pixels.shape == rotated.shape
    assert np.abs(image.pixels.astype(np.int16) - rotated).mean() < 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_applied_orientation_is_that_of_pillow(name: str) -> None:
    """Programs that rotate with Pillow, such as CVAT's server, see the same image as the detector."""
    data, applied, _ = FILES[name]
    try:
        with Image.open(io.BytesIO(data)) as image:
            by_pillow = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # noqa: BLE001 - metadata that Pillow itself stumbles over, so that it shows no picture at all
        assert applied is None or "check sum" in name
        return
    rotated = TURNS[applied or 1](np.asarray(oriented.stored()))
    assert by_pillow.shape == rotated.shape
    assert np.abs(by_pillow.astype(np.int16) - rotated).mean() < 4


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "PPM", "TGA"])
def test_browser_orientation_of_formats_that_browsers_do_not_show_is_the_applied_one(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = decode(oriented.save(kind, **({"exif": exif} if kind == "TIFF" else {})))
    assert image.exif_orientation == (6 if kind == "TIFF" else None)
    assert image.browser_orientation == (image.exif_orientation or 1)


@pytest.mark.parametrize("orientation", [3, 6])
def test_heic_is_rotated_by_its_decoder(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra prelabel[heif] is not installed")
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    heif.from_pillow(oriented.stored()).save(file, exif=exif.tobytes(), quality=95)
    image = decode(file.getvalue())
    assert image.pixels.shape[:2] == ((32, 48) if orientation == 3 else (48, 32))
    assert (image.exif_orientation or 1, image.browser_orientation) == (1, 1)
