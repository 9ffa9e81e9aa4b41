"""Conversion to sRGB of pixels whose PNG declares its colors by numbers: gAMA and cHRM, or the code points of cICP.

Browsers (observed in Chromium 156) prefer cICP to an ICC profile, an ICC profile to sRGB, and sRGB to gAMA and cHRM.
They ignore cHRM without gAMA, and gAMA alone within 5 % of 1/2.2. HDR images (PQ, HLG) are not converted, since every
browser tone-maps them in its own way.

    stored value -> linear light (the file's curve) -> light of sRGB primaries (a matrix) -> 8 bits (sRGB's curve)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Linear sRGB to XYZ under D50, from the ICC profile of sRGB.
_SRGB_TO_XYZ = np.array(
    [
        [0.436065674, 0.385147095, 0.143066406],
        [0.222488403, 0.716873169, 0.060607910],
        [0.013916016, 0.097076416, 0.714096069],
    ]
)
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

_D65 = (0.3127, 0.3290)
#: x and y of white, red, green and blue, by the code points of cICP (ITU-T H.273) that images use.
_PRIMARIES: dict[int, tuple[float, ...]] = {
    1: (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # BT.709, sRGB
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # BT.601 with 625 lines
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601 with 525 lines
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # SMPTE 240M
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}

#: Number of pixels converted at a time.
_BAND_PIXELS = 1 << 20


@dataclass(frozen=True)
class Calibration:
    """A conversion from stored values to sRGB.

    Attributes:
        curve: Maps stored values 0..1 to linear light, where 1 is white.
        matrix: (3, 3) from light of the file's primaries to light of sRGB's; None if they are the same.
    """

    curve: Callable[[Floats], Floats]
    matrix: npt.NDArray[np.float32] | None


def from_code_points(primaries: int, transfer: int, matrix: int, is_full: int) -> Calibration | None:
    """The calibration for the code points of cICP, or None if browsers ignore them."""
    curve, chromaticities = _TRANSFERS.get(transfer), _PRIMARIES.get(primaries)
    if matrix != 0 or is_full != 1 or curve is None or chromaticities is None:
        return None
    return Calibration(curve, None if primaries == 1 else _to_srgb(chromaticities))


def from_gamma(gamma: int, chromaticities: Sequence[int] | None) -> Calibration | None:
    """The calibration for gAMA and cHRM, both in 100,000ths, or None if there is nothing to convert."""
    if not gamma or (chromaticities is None and abs(gamma * 2.2e-5 - 1) < 0.05):
        return None
    matrix = None
    if chromaticities is not None and (matrix := _to_srgb([value / 100_000 for value in chromaticities])) is None:
        return None
    return Calibration(functools.partial(_power, exponent=100_000 / gamma), matrix)


def calibrated_gray(values: npt.NDArray[np.unsignedinteger], calibration: Calibration) -> npt.NDArray[np.uint8]:
    """Convert 8- or 16-bit gray of any shape to 8-bit sRGB. The primaries do not affect gray."""
    maximum = np.iinfo(values.dtype).max
    light = calibration.curve(np.arange(maximum + 1) / maximum)
    table: npt.NDArray[np.uint8] = np.floor(_encoded(light) * 255 + 0.5).astype(np.uint8)
    gray: npt.NDArray[np.uint8] = table[values]
    return gray


def calibrated_rgb(
    values: npt.NDArray[np.uint8], calibration: Calibration, low: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Convert color to 8-bit sRGB.

    Args:
        values: (H, W, 3), the 8-bit samples or the upper bytes of 16-bit samples.
        calibration: The conversion.
        low: (H, W, 3 or 4), the lower bytes of 16-bit samples.
    """
    if calibration.matrix is None and low is None:
        return calibrated_gray(values, calibration)
    maximum = 255 if low is None else 65535
    light = calibration.curve(np.arange(maximum + 1) / maximum).astype(np.float32)
    pixels = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND_PIXELS // max(1, values.shape[1]))
    for top in range(0, len(values), rows):
        band: npt.NDArray[Any] = values[top : top + rows]
        if low is not None:
            band = band.astype(np.uint16) << 8 | low[top : top + rows, :, :3]
        linear = light[band] if calibration.matrix is None else light[band] @ calibration.matrix.T
        pixels[top : top + rows] = _encoding()[(linear.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]
    return pixels


@functools.lru_cache(maxsize=1)
def _encoding() -> npt.NDArray[np.uint8]:
    """Table from linear light in 65,536 steps to 8-bit sRGB."""
    return np.floor(_encoded(np.arange(65536) / 65535) * 255 + 0.5).astype(np.uint8)


def _encoded(light: Floats) -> Floats:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.power(light, 1 / 2.4) - 0.055)


def _to_srgb(chromaticities: Sequence[float]) -> npt.NDArray[np.float32] | None:
    """The matrix from light of these primaries to light of sRGB's, with white adapted by Bradford.

    Args:
        chromaticities: x and y of white, red, green and blue.

    Returns:
        (3, 3), or None if the chromaticities are invalid.
    """
    (white_x, white_y), *colors = np.asarray(chromaticities, np.float64).reshape(4, 2)
    if not all(0 <= value <= 1 for value in chromaticities) or white_y == 0:
        return None
    white = np.array([white_x, white_y, 1 - white_x - white_y]) / white_y
    primaries = np.array([(x, y, 1 - x - y) for x, y in colors]).T
    try:
        to_xyz = primaries * np.linalg.solve(primaries, white)
    except np.linalg.LinAlgError:
        return None
    cone = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    adapted = np.linalg.inv(_BRADFORD) @ cone @ _BRADFORD @ to_xyz
    matrix = np.linalg.inv(_SRGB_TO_XYZ) @ adapted
    return matrix.astype(np.float32) if np.isfinite(matrix).all() and np.abs(matrix).max() < 1e6 else None


# --- from stored values to linear light -------------------------------------------------------------------------------


def _power(values: Floats, exponent: float) -> Floats:
    with np.errstate(under="ignore", over="ignore"):
        light: Floats = np.power(values, exponent)
    return light


def _srgb(values: Floats) -> Floats:
    return np.where(values <= 0.04045, values / 12.92, np.power((values + 0.055) / 1.055, 2.4))


#: The curve of BT.709 is for cameras; displays use a power of 2.4 (BT.1886).
_SCREEN = functools.partial(_power, exponent=2.4)

_TRANSFERS: dict[int, Callable[[Floats], Floats]] = {
    1: _SCREEN,
    4: functools.partial(_power, exponent=2.2),
    5: functools.partial(_power, exponent=2.8),
    6: _SCREEN,
    8: functools.partial(_power, exponent=1.0),
    13: _srgb,
    14: _SCREEN,
    15: _SCREEN,
}
