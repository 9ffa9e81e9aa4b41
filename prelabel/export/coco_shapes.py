"""The geometry of one COCO annotation: bbox, area and segmentation from a box and a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from prelabel import rle
from prelabel.detections import FloatArray
from prelabel.errors import ExportError, StoreError
from prelabel.export.polygons import polygons_from_rle

#: Decimals of pixels kept of coordinates.
DECIMALS = 2


class Shaping(Protocol):
    """What of the options of an export concerns geometry."""

    @property
    def segmentation(self) -> str:
        """`rle`, `polygon`, or `none` for boxes alone."""

    @property
    def polygon_tolerance(self) -> float:
        """How far, in pixels, a polygon may be from its mask's outline."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotation's geometry.

    Attributes:
        bbox: x y width height in pixels; contains the mask.
        area: Pixels of the mask, else of the box.
        segmentation: As a dataset has it: an RLE, a list of polygons, or `[]`.
        rle: `{"size": [height, width], "counts": str}`, as results have it, or None without a mask.
    """

    bbox: list[float]
    area: float
    segmentation: Any
    rle: dict[str, Any] | None


def shape_of(
    image_id: str, xyxy: FloatArray, counts: str | None, size: tuple[int, int], options: Shaping
) -> Shape | str:
    """The geometry of one detection, or why it is left out.

    Args:
        image_id: For messages.
        xyxy: `(4,)` pixels.
        counts: Compressed counts of the mask, or None.
        size: Height and width of the image.
        options: `segmentation` and `polygon_tolerance`.

    Raises:
        ExportError: The mask does not fit the image.
    """
    height, width = size
    x1, y1, x2, y2 = (round(float(value), DECIMALS) for value in xyxy)
    if counts is None or options.segmentation == "none":
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        bbox = _bbox(x1, y1, x2, y2)
        if bbox[2] <= 0 or bbox[3] <= 0:
            return "without area"
        return Shape(bbox, round(bbox[2] * bbox[3], DECIMALS), [], None)
    try:
        area = rle.area(counts, height, width)
        left, top, w, h = rle.bbox_xywh(counts, height, width)
    except StoreError as error:
        raise ExportError(f"image {image_id!r}: {error}") from None
    if area == 0:
        return "with an empty mask"
    # A mask's pixels are whole: it can stand out of the box by less than one. Some readers cut masks to the bbox.
    x1, y1 = max(min(x1, left), 0.0), max(min(y1, top), 0.0)
    x2, y2 = min(max(x2, left + w), float(width)), min(max(y2, top + h), float(height))
    mask: dict[str, Any] = {"size": [height, width], "counts": counts}
    written: Any = mask
    if options.segmentation == "polygon":
        written = polygons_from_rle(counts, height, width, options.polygon_tolerance)
    return Shape(_bbox(x1, y1, x2, y2), float(area), written, mask)


def _bbox(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [float(x1), float(y1), round(x2 - x1, DECIMALS), round(y2 - y1, DECIMALS)]
