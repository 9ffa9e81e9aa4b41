"""From one detection to its regions: a rectangle, the polygons of its mask, or a brush mask, within a task's limits.

An annotator's browser chokes on thousands of polygon corners and on a hundred brush masks. Detections come by
descending score, so what the limits leave out is what is least likely right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prelabel import rle
from prelabel.detections import FloatArray
from prelabel.errors import ExportError, StoreError
from prelabel.export.brush import brush_from_rle
from prelabel.export.label_config import Control
from prelabel.export.label_studio_options import TaskOptions
from prelabel.export.polygons import polygons_from_rle
from prelabel.export.regions import Frame, Region, brush, polygon, rectangle


class Shaper:
    """Makes the regions of one task; counts what its limits leave out."""

    def __init__(self, image_id: str, frame: Frame, options: TaskOptions, left_out: Counter[str]) -> None:
        self._image_id = image_id
        self._frame = frame
        self._options = options
        self._left_out = left_out
        self._points = 0
        self._masks = 0

    def regions(
        self, ids: Iterator[str], control: Control, label: str, score: float, xyxy: FloatArray, counts: str | None
    ) -> list[Region]:
        """The regions of one detection; none where there is nothing to see of it or the task's limits are reached.

        Args:
            ids: Gives the id of each region.
            control: The tool.
            label: As the tool spells it.
            score: In 0..1.
            xyxy: `(4,)` pixels.
            counts: Compressed counts of the mask, or None.

        Raises:
            ExportError: The tool needs a mask and there is none, or the mask does not fit the image.
        """
        if control.kind == "rectangle":
            region = rectangle(next(ids), control, self._frame, label, score, xyxy)
            return [region] if region is not None else self._leave_out("without area")
        if counts is None:
            raise ExportError(f"image {self._image_id!r} has a detection without a mask for the tool {control.name!r}")
        try:
            if rle.area(counts, self._frame.height, self._frame.width) == 0:
                return self._leave_out("with an empty mask")
            if control.kind == "polygon":
                return self._polygons(ids, control, label, score, counts)
            return self._brush(ids, control, label, score, counts)
        except (StoreError, ExportError) as error:
            raise ExportError(f"image {self._image_id!r}: {error}") from None

    def _polygons(self, ids: Iterator[str], control: Control, label: str, score: float, counts: str) -> list[Region]:
        """A region for each part of the mask, the largest first; holes are cut out over a bridge."""
        tolerance, min_area = self._options.polygon_tolerance, self._options.polygon_min_area
        parts = polygons_from_rle(counts, self._frame.height, self._frame.width, tolerance, min_area)
        points = sum(len(part) // 2 for part in parts)
        if self._points + points > self._options.max_points:
            return self._leave_out("beyond max-points")
        self._points += points
        corners = [list(zip(part[::2], part[1::2], strict=True)) for part in parts]
        return [polygon(next(ids), control, self._frame, label, score, part) for part in corners]

    def _brush(self, ids: Iterator[str], control: Control, label: str, score: float, counts: str) -> list[Region]:
        if self._masks == self._options.max_masks:
            return self._leave_out("beyond max-masks")
        self._masks += 1
        data = brush_from_rle(counts, self._frame.height, self._frame.width)
        return [brush(next(ids), control, self._frame, label, score, data)]

    def _leave_out(self, reason: str) -> list[Region]:
        self._left_out[f"detections {reason}"] += 1
        return []
