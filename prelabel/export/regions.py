"""Label Studio's regions: one item of a prediction's `result` each.

A dog on the left half of an image of 4 x 6 pixels (height x width), as a rectangle in percent of the image:

    {"id": "3f8a5f0e9d21", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
     "original_width": 6, "original_height": 4, "image_rotation": 0, "score": 0.9,
     "value": {"x": 0.0, "y": 0.0, "width": 50.0, "height": 100.0, "rotation": 0, "rectanglelabels": ["Dog"]}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detections import FloatArray
from prelabel.export.coco_shapes import rounded
from prelabel.export.label_config import Control

#: Decimals of a percentage: a hundredth of a pixel on an image of 10,000.
DECIMALS = 4

Region = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """The image that regions lie on: its size in pixels as displayed, and the name of its tag in the config."""

    height: int
    width: int
    to_name: str


def region_id(model_version: str, image_id: str, index: int | str, part: int = 0) -> str:
    """The same for the same detection in every export, whatever else is kept; 12 hexadecimal digits.

    Args:
        model_version: Of the prediction.
        image_id: Of the run.
        index: Position of the detection in the row of the shard, before any selection.
        part: Counts the regions that one detection becomes.
    """
    text = f"{model_version}\0{image_id}\0{index}\0{part}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def rectangle(
    id_: str, control: Control, frame: Frame, label: str, score: float, percent: Sequence[float]
) -> Region | None:
    """A rectangle from one of `percents`, or None for a box without area (in percent, after rounding)."""
    x, y, width, height = percent
    if not (width > 0 and height > 0):
        return None
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    return _region(id_, control, frame, label, score, value)


def polygon(id_: str, control: Control, frame: Frame, label: str, score: float, points: Sequence[float]) -> Region:
    """A closed polygon from its corners `[x1, y1, x2, y2, ...]` in pixels."""
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    shares = _shares(corners, np.array([frame.width, frame.height], np.float64))
    return _region(id_, control, frame, label, score, {"points": shares.tolist(), "closed": True})


def brush(id_: str, control: Control, frame: Frame, label: str, score: float, rle: Iterable[int]) -> Region:
    """A brush mask from the bytes of its run-length encoding."""
    return _region(id_, control, frame, label, score, {"format": "rle", "rle": list(rle)})


def choice(id_: str, control: Control, frame: Frame, labels: Iterable[str], score: float) -> Region:
    """The labels of the whole image: of one control they are one item, however many."""
    names = {"from_name": control.name, "to_name": frame.to_name}
    return {"id": id_, "type": control.type, **names, "score": score, "value": {control.type: list(labels)}}


def _region(id_: str, control: Control, frame: Frame, label: str, score: float, value: dict[str, Any]) -> Region:
    return {
        "id": id_,
        "type": control.type,
        "from_name": control.name,
        "to_name": frame.to_name,
        "original_width": frame.width,
        "original_height": frame.height,
        "image_rotation": 0,
        "score": score,
        "value": {**value, control.type: [label]},
    }


def percents(xyxy: FloatArray, height: npt.NDArray[np.int64], width: npt.NDArray[np.int64]) -> list[list[float]]:
    """x, y, width and height in percent of boxes in pixels; x + width is at most 100 as a computer adds them, too.

    Args:
        xyxy: `(N, 4)` pixels.
        height: `(N,)` pixels of the images.
        width: `(N,)`.
    """
    sizes = np.stack((width, height), axis=1).astype(np.float64)
    start, end = (_shares(xyxy[:, side].astype(np.float64), sizes) for side in (slice(0, 2), slice(2, 4)))
    extent = rounded(end - start, DECIMALS)
    while (beyond := start + extent > 100).any():
        # Clamped after rounding, by the least step that is written.
        extent[beyond] = rounded(extent[beyond] - 10**-DECIMALS, DECIMALS)
    every: list[list[float]] = np.concatenate((start, extent), axis=1).tolist()
    return every


def _shares(values: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = np.clip(rounded(100 * values / sizes, DECIMALS), 0, 100) + 0.0
    return shares
