"""What the rest of the project knows of a detector: no TensorFlow here, so that drivers and tests can do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, ImageLabel

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """The displayed image that pixels belong to, which may have been decoded reduced.

    Attributes:
        height: Of the whole image, in pixels.
        width: Of the whole image, in pixels.
        window: x1 y1 x2 y2 that the pixels show, in pixels of the whole image; may reach a few beyond it.
    """

    height: int
    width: int
    window: tuple[int, int, int, int]

    @classmethod
    def of(cls, pixels: Pixels) -> Frame:
        """Of pixels that are the whole image."""
        height, width = pixels.shape[:2]
        return cls(height, width, (0, 0, width, height))


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector says of one image.

    Attributes:
        detections: Boxes and masks in pixels of the displayed image; none for a classifier.
        image_labels: Labels of the whole image from a classifier, else None.
        seconds: Seconds spent by stage: `detect` (the network) and `encode` (masks to RLE).
        dropped: Detections left out because a number of theirs was not finite, or because their box has no size inside
            the image.
    """

    detections: Detections
    image_labels: tuple[ImageLabel, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """What is known of a loaded detector and goes into `run.json`.

    Attributes:
        name: Catalogue name, or the name of its folder or archive.
        model_version: The name and the start of the fingerprint, as annotation tools show it.
        fingerprint: SHA-256 over the model's files, hex.
        convention: Which convention of inputs and outputs was recognised, in words.
        masks: Whether it gives masks.
        reading: How its numbers are read: what a decision is about -> its value and why, in words.
        notes: What somebody should know who reads the run.
    """

    name: str
    model_version: str
    fingerprint: str
    convention: str
    masks: bool
    reading: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Detector(Protocol):
    """A loaded model: pixels in, detections of the displayed image out."""

    @property
    def info(self) -> DetectorInfo:
        """What this detector is."""

    @property
    def batch_size(self) -> int:
        """How many images `detect` takes at once; 1 for networks that do not batch."""

    def detect(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[Found]:
        """Run up to `batch_size` images, each `(H, W, 3)` uint8 RGB of its own size; one answer each, in order.

        Boxes and masks are those of the `frames`, one for each image; left out, the pixels are the images.
        """
