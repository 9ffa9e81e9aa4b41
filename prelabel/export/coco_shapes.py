"""The geometry of one COCO annotation: bbox, area and segmentation from a box and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from prelabel import rle
from prelabel.detections import FloatArray
from prelabel.errors import ExportError, StoreError
from prelabel.export.polygons import PolygonRules, object_polygons
from prelabel.rle import BoolArray, Int64Array
from prelabel.rle_many import joined, measure

#: Decimals of pixels kept of coordinates.
DECIMALS = 2


class Shaping(Protocol):
    """What of the options of an export concerns geometry."""

    @property
    def segmentation(self) -> str:
        """`rle`, `polygon`, or `none` for boxes alone."""

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons."""


class Shape(NamedTuple):
    """One annotation's geometry.

    Attributes:
        bbox: x y width height in pixels; contains the mask.
        area: Pixels of the mask, else of the box.
        segmentation: As a dataset has it: an RLE, a list of polygons, or `[]`.
        rle: `{"size": [height, width], "counts": str}`, as results have it, or None without a mask.
        left_out_parts: Parts of the mask that are not among its polygons.
    """

    bbox: list[float]
    area: float
    segmentation: Any
    rle: dict[str, Any] | None
    left_out_parts: int = 0


def shapes_of(
    image_ids: Sequence[str],
    xyxy: FloatArray,
    counts: Sequence[str | None] | None,
    height: Int64Array,
    width: Int64Array,
    options: Shaping,
) -> list[Shape | str]:
    """The geometry of detections, or of each why it is left out.

    Args:
        image_ids: `N`, for messages.
        xyxy: `(N, 4)` pixels.
        counts: `N` compressed counts of masks or None; or None for none at all.
        height: `(N,)` pixels of the images.
        width: `(N,)`.
        options: `segmentation` and `polygon_rules`.

    Raises:
        ExportError: A mask does not fit its image.
    """
    limits = np.stack((width, height), axis=1).astype(np.float64)
    corners = rounded(xyxy.astype(np.float64), DECIMALS)
    masked: npt.NDArray[np.bool_] = np.zeros(len(xyxy), dtype=bool)
    if counts is not None and options.segmentation != "none":
        masked = np.array([one is not None for one in counts], dtype=bool)
    pixels = np.zeros(len(xyxy), dtype=np.int64)
    some = np.flatnonzero(masked)
    if counts is not None and len(some):
        chosen = [str(counts[n]) for n in some.tolist()]
        sound, pixels[some], xywh = measure(*joined(chosen), height[some], width[some])
        _require_sound(sound, chosen, [image_ids[n] for n in some.tolist()], height[some], width[some])
        # A mask's pixels are whole: it can stand out of the box by less than one. Some readers cut masks to the bbox.
        corners[some, :2] = np.minimum(corners[some, :2], xywh[:, :2])
        corners[some, 2:] = np.maximum(corners[some, 2:], xywh[:, :2] + xywh[:, 2:])
    # Adding zero makes the zero below zero, which a box just beyond the edge is rounded to, the one above it.
    corners[:, :2] = np.maximum(corners[:, :2], 0) + 0.0
    corners[:, 2:] = np.minimum(corners[:, 2:], limits)
    sides = rounded(corners[:, 2:] - corners[:, :2], DECIMALS)
    bboxes = np.concatenate((corners[:, :2], sides), axis=1).tolist()
    area = np.where(masked, pixels, rounded(sides[:, 0] * sides[:, 1], DECIMALS))
    nothing = np.where(masked, pixels == 0, (sides <= 0).any(axis=1)).tolist()
    shapes: list[Shape | str] = []
    for n, (bbox, size, is_nothing) in enumerate(zip(bboxes, area.tolist(), nothing, strict=True)):
        if is_nothing:
            shapes.append("with an empty mask" if masked[n] else "without area")
        elif counts is None or not masked[n]:
            shapes.append(Shape(bbox, size, [], None))
        else:
            h, w = int(height[n]), int(width[n])
            mask = {"size": [h, w], "counts": counts[n]}
            written: Any = mask
            left_out = 0
            if options.segmentation == "polygon":
                written, left_out = object_polygons(str(counts[n]), h, w, options.polygon_rules)
            shapes.append(Shape(bbox, size, written, mask, left_out))
    return shapes


def _require_sound(
    sound: BoolArray, counts: Sequence[str], image_ids: Sequence[str], height: Int64Array, width: Int64Array
) -> None:
    for n in np.flatnonzero(~sound).tolist():
        try:
            rle.validate(counts[n], int(height[n]), int(width[n]))
        except StoreError as error:
            raise ExportError(f"image {image_ids[n]!r}: {error}") from None


def rounded(values: npt.NDArray[np.float64], decimals: int) -> npt.NDArray[np.float64]:
    """Each value as Python's `round` has it: the float nearest to the decimal number nearest to the value."""
    scale = 10.0**decimals
    scaled = values * scale
    nearest = np.rint(scaled)
    result: npt.NDArray[np.float64] = nearest / scale
    # The product is not exact: where it is near the middle of two whole numbers, or large, it may not decide.
    doubtful = np.flatnonzero(~((np.abs(np.abs(scaled - nearest) - 0.5) > 1e-6) & (np.abs(scaled) < 2**31)))
    for n in doubtful.tolist():
        result.flat[n] = round(float(values.flat[n]), decimals)
    return result
