"""Conversion of any Pillow image to 8-bit sRGB on white.

    gray, 1-bit                 the gray value in all three channels
    palette, alpha              looked up, then composited on white
    16-bit integer              divided by 257, so that the type's maximum is white; a 12-bit TIFF, or one that declares
                                its largest value, is scaled by that value instead
    32-bit integer              0..255 unchanged; 0..65535 divided by 257; otherwise minimum..maximum stretched
    float                       0..1 times 255 (values up to 1.125 are allowed, and those above 1 are white); 0..255
                                unchanged if the largest value is 16 or more; otherwise minimum..maximum stretched
    CMYK, LAB                   through the embedded profile, if any; otherwise plain ink arithmetic, or CIELAB D50
    any with an ICC profile     to sRGB with the profile's perceptual intent, unless it is sRGB already or unusable

A stretched range depends on the image alone, so the same file always gives the same pixels.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from prelabel.source.calibration import Calibration, calibrated_gray, calibrated_rgb

#: Single-channel modes of more than 8 bits.
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_GRAY_MODES = frozenset({"1", "L", "LA", "La"})

#: Modes to which an ICC profile can be applied.
_PROFILE_MODES = frozenset({"RGB", "L", "CMYK", "LAB"})

#: Float images count as 0..1 if their maximum is at most the first value, and as 0..255 if it is at least the second.
_ABOUT_1, _LEAST_OF_255 = 1.125, 16.0

#: Number of pixels converted at a time.
_BAND_PIXELS = 1 << 20


def to_rgb(
    image: Image.Image, calibration: Calibration | None = None, low_bytes: Image.Image | None = None
) -> Image.Image:
    """Convert a loaded image of any mode to RGB: apply its profile and composite it on white.

    Args:
        image: The image, with its profile in `info`.
        calibration: Numeric color information of the file, which replaces the profile.
        low_bytes: Lower bytes of the samples, for a file with 16 bits per sample.

    Returns:
        The converted image; the argument itself if there is nothing to convert.
    """
    is_deep = image.mode in _DEEP_MODES
    color, alpha = _deep_to_gray(image, calibration) if is_deep else _split(image)
    if calibration is None:
        rgb = _to_srgb(color, image.info.get("icc_profile"))
    else:
        rgb = color.convert("RGB") if is_deep else _calibrated(color, calibration, low_bytes)
    return _composited(rgb, alpha)


def parts_to_rgb(color: Image.Image, opacity: Image.Image | None, profile: bytes | None) -> Image.Image:
    """Convert 8-bit color (mode RGB, L, CMYK or LAB) and opacity (mode L) to RGB on white, applying the profile."""
    return _composited(_to_srgb(color, profile), opacity)


def _composited(rgb: Image.Image, opacity: Image.Image | None) -> Image.Image:
    return rgb if opacity is None else on_white(rgb, rgb.size, (0, 0, *rgb.size), opacity)


def on_white(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], alpha: Image.Image | None = None
) -> Image.Image:
    """Paste an RGB image into `box` on a white canvas of width and height `size`."""
    canvas = Image.new("RGB", size, (255, 255, 255))
    canvas.paste(image, box, alpha)
    return canvas


def is_profile(data: bytes) -> bool:
    """Whether `data` is a readable ICC profile."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return False
    return True


def srgb_pixels(pixels: npt.NDArray[np.uint8], profile: object) -> npt.NDArray[np.uint8]:
    """Convert (H, W, 3) RGB pixels from an embedded ICC profile to sRGB.

    Returns:
        The converted pixels; the argument itself if there is no profile or it is sRGB.
    """
    transform = _transform(profile, "RGB") if isinstance(profile, bytes) and profile else None
    if transform is None:
        return pixels
    # Band by band: Pillow's copies of the whole image would take three times its size.
    converted = np.empty_like(pixels)
    rows = max(1, _BAND_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        band = slice(top, top + rows)
        converted[band] = np.asarray(transform.apply(Image.fromarray(pixels[band])))
    return converted


def _calibrated(color: Image.Image, calibration: Calibration, low_bytes: Image.Image | None) -> Image.Image:
    """Convert an image of mode RGB or L to sRGB by its calibration."""
    if color.mode != "RGB":
        return Image.fromarray(calibrated_gray(np.asarray(color), calibration)).convert("RGB")
    low = None if low_bytes is None else np.asarray(low_bytes)
    return Image.fromarray(calibrated_rgb(np.asarray(color), calibration, low))


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Split an image into color (mode RGB, L, CMYK or LAB) and opacity (mode L, or None)."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        # Gray stays a single channel: a gray profile cannot be applied to three.
        color = rgba.getchannel("R") if image.mode in _GRAY_MODES else rgba.convert("RGB")
        return color, rgba.getchannel("A")
    if image.mode in _PROFILE_MODES:
        return image, None
    return image.convert("L" if image.mode in _GRAY_MODES else "RGB"), None


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Convert an image of mode RGB, L, CMYK or LAB to sRGB by its ICC profile."""
    transform = _transform(profile, image.mode) if isinstance(profile, bytes) and profile else None
    if transform is None and image.mode == "LAB":
        transform = _lab_transform()
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from an embedded profile to sRGB, or None if there is nothing to convert.

    None is returned for an unusable profile: one that cannot be read, is for another color space than the pixels'
    (Little CMS refuses), or maps all colors to about the same one. It is also returned for a profile that changes no
    color of a 9 x 9 x 9 grid by more than a rounding error: that is sRGB, whatever its name, as in most photos.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = _build(source, mode)
        probe = _color_grid(mode)
        converted = np.asarray(transform.apply(probe)).astype(np.int16)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if int(converted.max()) - int(converted.min()) < 16:
        return None
    if mode in ("RGB", "L") and np.abs(converted - np.asarray(probe.convert("RGB"))).max() <= 1:
        return None
    return transform


@functools.lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return _build(_profile("LAB"), "LAB")


def _build(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    # Without its one-pixel cache, a transform has no state and threads can share it. This costs nothing on photos.
    return ImageCms.ImageCmsTransform(source, _profile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE)


@functools.lru_cache(maxsize=2)
def _profile(space: Any) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space))


def _color_grid(mode: str) -> Image.Image:
    """One row of pixels with every combination of nine values per channel."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    channels = len(Image.new(mode, (1, 1)).getbands())
    grid = np.stack(np.meshgrid(*[steps] * channels, indexing="ij"), -1).reshape(-1, channels)
    return Image.frombytes(mode, (len(grid), 1), grid.tobytes())


def _deep_to_gray(image: Image.Image, calibration: Calibration | None) -> tuple[Image.Image, Image.Image | None]:
    """Convert a single-channel 16-bit, 32-bit or float image to mode L, with opacity if one value is transparent."""
    values = np.asarray(image)
    if calibration is not None:
        gray = calibrated_gray(values.astype(np.uint16), calibration)
    elif image.mode.startswith("I;16"):
        gray = scale_to_8_bits(values, 65535)
    elif image.format == "PPM" and image.mode == "I":
        gray = scale_to_8_bits(values, 65535)  # Pillow has scaled the file's maximum to 16 bits
    else:
        gray = _scale_by_own_range(values)
    transparent = image.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255)))
    return Image.fromarray(gray), alpha


def scale_to_8_bits(values: npt.NDArray[Any], white: int) -> npt.NDArray[np.uint8]:
    """Scale unsigned values 0..`white` of up to 16 bits to 0..255, rounded; larger values become 255."""
    if white == 255 and values.dtype == np.uint8:
        return values
    gray: npt.NDArray[np.uint8] = _scaling_table(white)[values if values.dtype.itemsize <= 2 else values.clip(0, 65535)]
    return gray


@functools.lru_cache(maxsize=16)
def _scaling_table(white: int) -> npt.NDArray[np.uint8]:
    return np.minimum((np.arange(65536, dtype=np.uint32) * 255 + white // 2) // white, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Range:
    """A range of values that is mapped to 0..255.

    Attributes:
        low: Smallest finite value in the image; minus infinity counts as this.
        high: Largest finite value in the image; infinity counts as this.
        offset: Value that becomes 0.
        span: Distance from `offset` to the value that becomes 255.
    """

    low: float
    high: float
    offset: float
    span: float


def range_of(low: float, high: float, kind: str) -> Range:
    """The range by which values are scaled: 0..1 or 0..255 (floats), 0..255 or 0..65535 (integers), or their own.

    Filters and rounding push floats slightly above 1, and few images of 0..255 have no value above 16. A float maximum
    between those fits neither range: the image would become almost black or all white.

    Args:
        low: Smallest finite value.
        high: Largest finite value.
        kind: `u`, `i` or `f`, as in NumPy's dtypes.
    """
    offset, span = low, high - low or 1.0
    if low >= 0 and kind == "f" and (high <= _ABOUT_1 or _LEAST_OF_255 <= high <= 255):
        offset, span = 0.0, 1.0 if high <= _ABOUT_1 else 255.0
    elif low >= 0 and kind != "f":
        offset, span = next(((0.0, top) for top in (255.0, 65535.0) if high <= top), (offset, span))
    return Range(low, high, offset, span)


def opacity_range_of(color: Range, low: float, high: float, kind: str, bits: int) -> Range:
    """The range by which opacity is scaled: from 0 to the type's value for opaque.

    Its own minimum and maximum are not used, since opacity is often constant.

    Args:
        color: Range of the color samples. If those are integers of 0..255 or 0..65535 in a larger type, opacity is
            assumed to use the same range.
        low: Smallest finite value.
        high: Largest finite value.
        kind: `u`, `i` or `f`, as in NumPy's dtypes.
        bits: Bits per sample.
    """
    if kind == "f":
        top = next((top for top in (_ABOUT_1, 255.0, 65535.0) if high <= top), high)
        return Range(low, high, 0.0, 1.0 if top == _ABOUT_1 else top)
    full = float(2 ** (bits - (kind == "i")) - 1)
    tops = [top for top in (255.0, 65535.0) if top < full and color.low >= 0]
    return Range(low, high, 0.0, next((top for top in tops if max(high, color.high) <= top), full))


def scale_from_range(values: npt.NDArray[Any], span: Range) -> npt.NDArray[np.uint8]:
    """Scale 32-bit integers or floats, (H, ...), from a range to 0..255. Not-a-number becomes 0."""
    pixels = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):  # row by row: a 64-bit copy of the whole image could take gigabytes
        line = np.nan_to_num(line.astype(np.float64), nan=span.low, posinf=span.high, neginf=span.low)
        pixels[row] = np.floor((line - span.offset) * 255 / span.span + 0.5).clip(0, 255)
    if values.dtype.kind == "f":
        pixels[np.isnan(values)] = 0
    return pixels


def _scale_by_own_range(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale integers or floats of one channel to 0..255 by the range that fits them."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return np.zeros(values.shape, np.uint8)
    return scale_from_range(values, range_of(float(finite.min()), float(finite.max()), values.dtype.kind))
