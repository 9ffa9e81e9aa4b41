"""Decoding of a PNG from its chunks to RGB, with Pillow."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, PngImagePlugin

from prelabel.source.calibration import Calibration, from_code_points, from_gamma
from prelabel.source.color import is_profile, on_white, to_rgb
from prelabel.source.png_chunks import PngChunks, fills_all_rows

#: Pillow keeps the upper half of 16-bit color samples: its names for those layouts, and for those that keep the lower.
_LOWER_LAYOUTS = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


def open_png(chunks: PngChunks) -> PngImagePlugin.PngImageFile:
    """Open the pixels of a PNG without loading them, with its metadata in `info`."""
    image = PngImagePlugin.PngImageFile(io.BytesIO(chunks.pixels))
    image.info.update(chunks.metadata)
    image.decodermaxblock = len(chunks.pixels)  # read all data in one block
    return image


def has_all_rows(image: Image.Image, chunks: PngChunks) -> bool:
    """Whether a loaded PNG had data for its last row. Pillow leaves missing rows black and raises no error."""
    width, height = image.size
    if not image.info.get("interlace") and np.asarray(image.crop((0, height - 1, width, height))).any():
        return True
    return fills_all_rows(chunks.pixels)


def png_rgb(image: Image.Image, chunks: PngChunks) -> Image.Image:
    """Convert a loaded PNG, or the first frame of an animated one, to RGB on white at the size of the image."""
    _fit_transparency_to_8_bits(image, chunks.bits)
    profile, calibration = _colors(chunks)
    if profile is not None:
        image.info["icc_profile"] = profile
    transparent = image.info.get("transparency")
    clear = transparent if image.mode == "RGB" and isinstance(transparent, tuple) else None
    is_needed = chunks.bits == 16 and (calibration is not None or clear is not None)
    low_bytes = _low_bytes(chunks) if is_needed else None
    if low_bytes is not None and clear is not None:
        image = _make_transparent(image, low_bytes, clear)
    rgb = to_rgb(image, calibration, low_bytes)
    return rgb if rgb.size == chunks.size else on_white(rgb, chunks.size, chunks.frame)


def _colors(chunks: PngChunks) -> tuple[bytes | None, Calibration | None]:
    """The ICC profile or the calibration that applies, in the browsers' order of precedence."""
    calibration = None if chunks.code_points is None else from_code_points(*chunks.code_points)
    if calibration is not None:
        return None, calibration
    if chunks.profile is not None and is_profile(chunks.profile):
        return chunks.profile, None
    return None, None if chunks.is_srgb else from_gamma(chunks.gamma, chunks.chromaticities)


def _low_bytes(chunks: PngChunks) -> Image.Image | None:
    """The lower bytes of 16-bit color samples, of which Pillow keeps the upper ones; None for other pixels."""
    image = PngImagePlugin.PngImageFile(io.BytesIO(chunks.pixels))
    lower_layout = _LOWER_LAYOUTS.get(str(image.tile[0].args))
    if lower_layout is None:
        return None
    image.tile = [image.tile[0]._replace(args=lower_layout)]
    image.load()
    return image


def _make_transparent(image: Image.Image, low_bytes: Image.Image, transparent: tuple[int, ...]) -> Image.Image:
    """Convert a 16-bit image to mode RGBA, transparent where all 16 bits per sample equal the `transparent` color."""
    upper = np.asarray(image)
    color = np.array(transparent, np.uint16)
    is_clear = ((upper == color >> 8) & (np.asarray(low_bytes)[..., :3] == (color & 255))).all(-1)
    rgba = Image.fromarray(np.dstack([upper, np.where(is_clear, np.uint8(0), np.uint8(255))]))
    rgba.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return rgba


def _fit_transparency_to_8_bits(image: Image.Image, bits: int) -> None:
    """Scale the transparent value of a gray PNG with 2 or 4 bits per sample to 8 bits.

    Pillow scales such samples to 8 bits but not the transparent value, which would match no pixel or a wrong one.
    """
    value = image.info.get("transparency")
    if image.mode == "L" and bits in (2, 4) and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2**bits - 1)
