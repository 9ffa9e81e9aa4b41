"""A PNG by Pillow, from its chunks to RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, PngImagePlugin

from prelabel.source.calibration import Calibration, from_code_points, from_gamma
from prelabel.source.color import is_profile, on_white, to_rgb
from prelabel.source.png_chunks import PngChunks, fills_all_rows

#: Pillow's names for the layouts of 16-bit samples of which it keeps the upper half, and for the same with the other.
_OTHER_HALVES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


def open_png(chunks: PngChunks) -> PngImagePlugin.PngImageFile:
    """The pixels of a PNG, not yet loaded, with what else is known of it in `info`."""
    image = PngImagePlugin.PngImageFile(io.BytesIO(chunks.pixels))
    image.info.update(chunks.metadata)
    image.decodermaxblock = len(chunks.pixels)  # in one go
    return image


def has_all_rows(image: Image.Image, chunks: PngChunks) -> bool:
    """Whether the data of a loaded PNG reached to its last row: Pillow leaves the rest black, and does not mind."""
    width, height = image.size
    if not image.info.get("interlace") and np.asarray(image.crop((0, height - 1, width, height))).any():
        return True
    return fills_all_rows(chunks.pixels)


def png_rgb(image: Image.Image, chunks: PngChunks) -> Image.Image:
    """A loaded PNG, or the first frame of one at its place, in RGB on white."""
    _fit_transparency_to_8_bits(image, chunks.bits)
    profile, calibration = _colours(chunks)
    if profile is not None:
        image.info["icc_profile"] = profile
    transparent = image.info.get("transparency")
    clear = transparent if image.mode == "RGB" and isinstance(transparent, tuple) else None
    is_needed = chunks.bits == 16 and (calibration is not None or clear is not None)
    low_bytes = _low_bytes(chunks) if is_needed else None
    if low_bytes is not None and clear is not None:
        image = _without_colour(image, low_bytes, clear)
    rgb = to_rgb(image, calibration, low_bytes)
    return rgb if rgb.size == chunks.size else on_white(rgb, chunks.size, chunks.frame)


def _colours(chunks: PngChunks) -> tuple[bytes | None, Calibration | None]:
    """The profile or the numbers that say what the colours are, by the order of browsers."""
    calibration = None if chunks.code_points is None else from_code_points(*chunks.code_points)
    if calibration is not None:
        return None, calibration
    if chunks.profile is not None and is_profile(chunks.profile):
        return chunks.profile, None
    return None, None if chunks.is_srgb else from_gamma(chunks.gamma, chunks.chromaticities)


def _low_bytes(chunks: PngChunks) -> Image.Image | None:
    """The lower halves of 16-bit samples of colour, of which Pillow keeps the upper ones."""
    again = PngImagePlugin.PngImageFile(io.BytesIO(chunks.pixels))
    other = _OTHER_HALVES.get(str(again.tile[0].args))
    if other is None:
        return None
    again.tile = [again.tile[0]._replace(args=other)]
    again.load()
    return again


def _without_colour(image: Image.Image, low_bytes: Image.Image, transparent: tuple[int, ...]) -> Image.Image:
    """A picture of 16 bits in mode RGBA, transparent where all bits of a pixel are those of one colour."""
    upper = np.asarray(image)
    colour = np.array(transparent, np.uint16)
    is_clear = ((upper == colour >> 8) & (np.asarray(low_bytes)[..., :3] == (colour & 255))).all(-1)
    rgba = Image.fromarray(np.dstack([upper, np.where(is_clear, np.uint8(0), np.uint8(255))]))
    rgba.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return rgba


def _fit_transparency_to_8_bits(image: Image.Image, bits: int) -> None:
    """Mend the transparent value of a grey PNG whose samples had 2 or 4 bits.

    Pillow brings such samples to 8 bits and leaves the one transparent value of the file as it was, so that it would
    match no pixel or a wrong one.
    """
    value = image.info.get("transparency")
    if image.mode == "L" and bits in (2, 4) and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2**bits - 1)
