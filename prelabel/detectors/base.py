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
class Found:
    """What a detector says of one image.

    Attributes:
        detections: Boxes and masks in pixels of the displayed image; none for a classifier.
        image_labels: Labels of the whole image from a classifier, else None.
        seconds: Seconds spent by stage: `detect` (the network) and `encode` (masks to RLE).
        dropped: Detections left out because a number of theirs was not finite.
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
    """

    name: str
    model_version: str
    fingerprint: str
    convention: str
    masks: bool


class Detector(Protocol):
    """A loaded model: pixels in, detections of the displayed image out."""

    @property
    def info(self) -> DetectorInfo:
        """What this detector is."""

    @property
    def batch_size(self) -> int:
        """How many images `detect` takes at once; 1 for networks that do not batch."""

    def detect(self, images: Sequence[Pixels]) -> list[Found]:
        """Run up to `batch_size` images, each `(H, W, 3)` uint8 RGB of its own size; one answer each, in order."""
