"""A detector in plain NumPy: bright areas, with their masks. `prelabel` does everything around it.

    prelabel label photos/ --detector numpy_detector:BrightAreas --detector-option threshold=180 --trust-model \
      --output out/run

Run it in this folder, or set PYTHONPATH to it, so that the module is found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prelabel import ClassName, Detections, DetectorInfo


class BrightAreas:
    """Finds connected areas of pixels at least as bright as a threshold; the score is their mean brightness."""

    info = DetectorInfo("bright-areas", classes=[ClassName(1, "bright area")], masks=True, input_size=160)
    batch_size = 8

    def __init__(self, threshold: str = "200") -> None:
        self._threshold = int(threshold)

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """One `Detections` per image, in pixels of its array."""
        return [self._detect(pixels) for pixels in images]

    def _detect(self, pixels: np.ndarray) -> Detections:
        height, width, _ = pixels.shape
        step = max(1, min(height, width) // self.info.input_size)
        brightness = pixels[::step, ::step].min(axis=2)
        areas = connected_areas(brightness >= self._threshold)
        numbers = [number for number in np.unique(areas) if number]
        places = [np.nonzero(areas == number) for number in numbers]
        full_size = areas.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]
        return Detections.of(
            height,
            width,
            xyxy=[[x.min() * step, y.min() * step, (x.max() + 1) * step, (y.max() + 1) * step] for y, x in places],
            score=[brightness[place].mean() / 255 for place in places],
            label=["bright area"] * len(numbers),
            category_id=[1] * len(numbers),
            masks=(full_size == number for number in numbers),
        )


def connected_areas(mask: np.ndarray) -> np.ndarray:
    """The number of each pixel's area, 0 outside: every pixel takes the largest number of its neighbors."""
    numbers = np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    while True:
        around = np.pad(numbers, 1)
        neighbors = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
        largest = np.maximum.reduce([numbers, *neighbors]) * mask
        if np.array_equal(largest, numbers):
            return numbers
        numbers = largest
