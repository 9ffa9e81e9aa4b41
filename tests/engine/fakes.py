"""A detector that answers without a network: one box per image, computed from the pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prelabel.detections import Detections
from prelabel.detectors.base import DetectorInfo, Found, Pixels


class BrightestCorner:
    """Finds one `corner` on every image: the 1 x 1 box at its brightest pixel."""

    def __init__(self, batch_size: int = 1, before: Callable[[Sequence[Pixels]], None] = lambda images: None) -> None:
        self.batch_size = batch_size
        self.info = DetectorInfo("brightest", "brightest-00000000", "0" * 64, "test", masks=False)
        self.batches: list[int] = []
        self._before = before

    def detect(self, images: Sequence[Pixels]) -> list[Found]:
        self.batches.append(len(images))
        self._before(images)
        return [self._one(image) for image in images]

    def _one(self, image: Pixels) -> Found:
        height, width = image.shape[:2]
        y, x = np.unravel_index(int(image.sum(axis=2, dtype=np.int64).argmax()), (height, width))
        return Found(
            Detections(
                height=height,
                width=width,
                xyxy=np.array([[x, y, x + 1, y + 1]], np.float32),
                category_id=[1],
                score=[0.5],
                label=["corner"],
                mid=["/m/corner"],
            )
        )
