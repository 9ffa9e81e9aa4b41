"""Any Pillow picture as 8-bit sRGB on white.

    grey, 1-bit                 the grey value in all three channels
    palette, alpha              looked up, then composited on white
    16-bit integer              divided by 257, so that the type's white is white; a TIFF of 12 bits, or one that states
                                its largest value, by that
    32-bit integer              0..255 as it is; 0..65535 divided by 257; else its own minimum..maximum stretched
    float                       0..1 times 255 (up to 1.125: what is above 1 is white); 0..255 as it is where the
                                largest value is 16 or more; else its own minimum..maximum stretched
    CMYK, LAB                   through the embedded profile, else plain ink arithmetic, else CIELAB D50
    any with an ICC profile     to sRGB with the profile's perceptual intent, unless it is sRGB already or unusable

A stretched range depends on the picture alone, so that the same file always gives the same pixels.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from prelabel.source.calibration import Calibration, calibrated_grey, calibrated_rgb

#: Modes of one channel that does not fit into 8 bits.
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_GREY_MODES = frozenset({"1", "L", "LA", "La"})

#: Modes an ICC profile can be applied to.
_PROFILE_MODES = frozenset({"RGB", "L", "CMYK", "LAB"})

#: Largest value of floats that are taken for 0..1, and least largest one of floats that are taken for 0..255.
_ABOUT_1, _LEAST_OF_255 = 1.125, 16.0

#: Pixels whose colours are converted at a time.
_BAND_PIXELS = 1 << 20


def to_rgb(
    image: Image.Image, calibration: Calibration | None = None, low_bytes: Image.Image | None = None
) -> Image.Image:
    """A loaded picture of any mode in mode RGB: profile applied, transparency on white.

    Args:
        image: Its profile is in its `info`.
        calibration: What its file states about its colours in the place of a profile.
        low_bytes: The lower halves of the samples of a picture whose file has 16 bits for each.

    Returns:
        The picture itself where it is RGB already and nothing is to be done.
    """
    is_deep = image.mode in _DEEP_MODES
    colour, alpha = _deep_to_grey(image, calibration) if is_deep else _split(image)
    if calibration is None:
        rgb = _to_srgb(colour, image.info.get("icc_profile"))
    else:
        rgb = colour.convert("RGB") if is_deep else _calibrated(colour, calibration, low_bytes)
    return _composited(rgb, alpha)


def parts_to_rgb(colour: Image.Image, opacity: Image.Image | None, profile: bytes | None) -> Image.Image:
    """Colour (mode RGB, L, CMYK or LAB) and opacity (mode L) of 8 bits in mode RGB: profile applied, on white."""
    return _composited(_to_srgb(colour, profile), opacity)


def _composited(rgb: Image.Image, opacity: Image.Image | None) -> Image.Image:
    return rgb if opacity is None else on_white(rgb, rgb.size, (0, 0, *rgb.size), opacity)


def on_white(
    picture: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], alpha: Image.Image | None = None
) -> Image.Image:
    """A picture in mode RGB at its place on a white canvas."""
    canvas = Image.new("RGB", size, (255, 255, 255))
    canvas.paste(picture, box, alpha)
    return canvas


def is_profile(data: bytes) -> bool:
    """Whether this is an ICC profile that can be read."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return False
    return True


def srgb_pixels(pixels: npt.NDArray[np.uint8], profile: object) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB pixels of a file with this embedded profile, if any, as sRGB; themselves where they are that."""
    transform = _transform(profile, "RGB") if isinstance(profile, bytes) and profile else None
    if transform is None:
        return pixels
    # In bands: Pillow's copies of a whole picture would be three times its size.
    converted = np.empty_like(pixels)
    rows = max(1, _BAND_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        band = slice(top, top + rows)
        converted[band] = np.asarray(transform.apply(Image.fromarray(pixels[band])))
    return converted


def _calibrated(colour: Image.Image, calibration: Calibration, low_bytes: Image.Image | None) -> Image.Image:
    """A picture of mode RGB or L as sRGB."""
    if colour.mode != "RGB":
        return Image.fromarray(calibrated_grey(np.asarray(colour), calibration)).convert("RGB")
    low = None if low_bytes is None else np.asarray(low_bytes)
    return Image.fromarray(calibrated_rgb(np.asarray(colour), calibration, low))


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colour of a picture in mode RGB, L, CMYK or LAB, and its opacity in mode L where it has any."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        # Grey stays one channel, since a grey profile cannot be applied to three.
        colour = rgba.getchannel("R") if image.mode in _GREY_MODES else rgba.convert("RGB")
        return colour, rgba.getchannel("A")
    if image.mode in _PROFILE_MODES:
        return image, None
    return image.convert("L" if image.mode in _GREY_MODES else "RGB"), None


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """A picture of mode RGB, L, CMYK or LAB as sRGB."""
    transform = _transform(profile, image.mode) if isinstance(profile, bytes) and profile else None
    if transform is None and image.mode == "LAB":
        transform = _lab_transform()
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from an embedded profile to sRGB; None where there is nothing to do or the profile is of no use.

    Of no use is a profile that cannot be read, is for another colour space than the pixels' (Little CMS refuses), or
    turns every colour into the same. Nothing to do is where no colour of a 9 x 9 x 9 grid moves by more than a rounding
    error: such profiles are sRGB, whatever their name, and most photos carry one.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = _build(source, mode)
        probe = _colour_grid(mode)
        seen = np.asarray(transform.apply(probe)).astype(np.int16)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if int(seen.max()) - int(seen.min()) < 16:
        return None
    if mode in ("RGB", "L") and np.abs(seen - np.asarray(probe.convert("RGB"))).max() <= 1:
        return None
    return transform


@functools.lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return _build(_profile("LAB"), "LAB")


def _build(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    # Without its one-pixel cache a transform has no state, and several threads can share it. Costs nothing on photos.
    return ImageCms.ImageCmsTransform(source, _srgb_profile(), mode, "RGB", flags=ImageCms.Flags.NOCACHE)


@functools.lru_cache(maxsize=1)
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    return _profile("sRGB")


def _profile(space: Any) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space))


def _colour_grid(mode: str) -> Image.Image:
    """One row of pixels with every combination of nine steps a channel."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    channels = len(Image.new(mode, (1, 1)).getbands())
    grid = np.stack(np.meshgrid(*[steps] * channels, indexing="ij"), -1).reshape(-1, channels)
    return Image.frombytes(mode, (len(grid), 1), grid.tobytes())


def _deep_to_grey(image: Image.Image, calibration: Calibration | None) -> tuple[Image.Image, Image.Image | None]:
    """A picture of one 16-bit, 32-bit or float channel in mode L, and its opacity where one value is transparent."""
    values = np.asarray(image)
    if calibration is not None:
        grey = calibrated_grey(values.astype(np.uint16), calibration)
    elif image.mode.startswith("I;16"):
        grey = spread(values, 65535)
    elif image.format == "PPM" and image.mode == "I":
        grey = spread(values, 65535)  # Pillow has spread the file's own maximum over 16 bits
    else:
        grey = _scale_by_range(values)
    transparent = image.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255)))
    return Image.fromarray(grey), alpha


def spread(values: npt.NDArray[Any], white: int) -> npt.NDArray[np.uint8]:
    """Unsigned values 0..white of up to 16 bits as 0..255, rounded; what lies beyond is white."""
    if white == 255 and values.dtype == np.uint8:
        return values
    grey: npt.NDArray[np.uint8] = _spreading(white)[values if values.dtype.itemsize <= 2 else values.clip(0, 65535)]
    return grey


@functools.lru_cache(maxsize=16)
def _spreading(white: int) -> npt.NDArray[np.uint8]:
    return np.minimum((np.arange(65536, dtype=np.uint32) * 255 + white // 2) // white, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Range:
    """Which values become 0..255.

    Attributes:
        low: Least finite value there is; what is less than any number counts as this.
        high: Largest finite value there is.
        offset: Becomes 0.
        span: This much above `offset` becomes 255.
    """

    low: float
    high: float
    offset: float
    span: float


def range_of(low: float, high: float, kind: str) -> Range:
    """The smallest range of 0..1 (floats, kind `f`), 0..255, 0..65535 (integers) that values fit, else their own.

    Filters and rounding take floats a little above 1, and few pictures of 0..255 have nothing above 16: what lies
    between is of neither range, and would be next to black or all white by them.
    """
    offset, span = low, high - low or 1.0
    if low >= 0 and kind == "f" and (high <= _ABOUT_1 or _LEAST_OF_255 <= high <= 255):
        offset, span = 0.0, 1.0 if high <= _ABOUT_1 else 255.0
    elif low >= 0 and kind != "f":
        offset, span = next(((0.0, top) for top in (255.0, 65535.0) if high <= top), (offset, span))
    return Range(low, high, offset, span)


def opacity_range_of(colour: Range, low: float, high: float, kind: str, bits: int) -> Range:
    """The range of opacity: from 0 to what the type has for opaque, never its own, which may well be flat.

    Args:
        colour: Range of the colours: integers of 0..255 or 0..65535 in a larger type have their opacity so, too.
        low: Least finite value.
        high: Largest finite value.
        kind: `u`, `i` or `f`.
        bits: Of one sample.
    """
    if kind == "f":
        top = next((top for top in (_ABOUT_1, 255.0, 65535.0) if high <= top), high)
        return Range(low, high, 0.0, 1.0 if top == _ABOUT_1 else top)
    full = float(2 ** (bits - (kind == "i")) - 1)
    tops = [top for top in (255.0, 65535.0) if top < full and colour.low >= 0]
    return Range(low, high, 0.0, next((top for top in tops if max(high, colour.high) <= top), full))


def scaled(values: npt.NDArray[Any], span: Range) -> npt.NDArray[np.uint8]:
    """32-bit integers or floats, (H, ...), as 0..255. Not-a-number is black."""
    pixels = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):  # line by line: a copy of the whole in 64 bits could be gigabytes
        line = np.nan_to_num(line.astype(np.float64), nan=span.low, posinf=span.high, neginf=span.low)
        pixels[row] = np.floor((line - span.offset) * 255 / span.span + 0.5).clip(0, 255)
    if values.dtype.kind == "f":
        pixels[np.isnan(values)] = 0
    return pixels


def _scale_by_range(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Integers or floats of one channel as 0..255 by their range."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return np.zeros(values.shape, np.uint8)
    return scaled(values, range_of(float(finite.min()), float(finite.max()), values.dtype.kind))
