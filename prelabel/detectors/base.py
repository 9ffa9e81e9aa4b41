"""The interface of a detector, and the values it exchanges with the engine. Needs no TensorFlow.

The engine sees a model only as a `Detector`: `info` describes it, `batch_size` is the number of images per call, and
`detect` turns pixels into boxes, masks and labels. Any class with these three is a detector, whatever library it uses:

    class Brightest:
        info = DetectorInfo("brightest", "brightest", "0" * 64, "brightest-1", "the brightest pixel", masks=False)
        batch_size = 1

        def detect(self, images, frames=None):
            return [DetectionResult(brightest_of(pixels)) for pixels in images]

`prelabel.detectors.running.savedmodel` has the detector for SavedModels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName, Detections, ImageLabel

Pixels = npt.NDArray[np.uint8]


class Detector(Protocol):
    """A loaded model: pixels in, detections of the displayed image out."""

    @property
    def info(self) -> DetectorInfo:
        """Description of this detector, as `run.json` stores it."""

    @property
    def batch_size(self) -> int:
        """The largest number of images per call of `detect`; 1 for models that do not batch."""

    def detect(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        """Run the model on up to `batch_size` images.

        Args:
            images: `(H, W, 3)` uint8 RGB arrays; their sizes may differ.
            frames: The displayed image that each array of pixels belongs to; by default the pixels are that image.

        Returns:
            One result per image, in order. Boxes and masks are in pixels of the displayed image.
        """


@dataclass(frozen=True, slots=True)
class Frame:
    """The displayed image that an array of pixels belongs to, which may have been decoded at a reduced size.

    Attributes:
        height: Height of the displayed image, in pixels.
        width: Width of the displayed image, in pixels.
        window: x1 y1 x2 y2 of the area that the array shows, in pixels of the displayed image; may exceed it by a few.
    """

    height: int
    width: int
    window: tuple[int, int, int, int]

    @classmethod
    def of(cls, pixels: Pixels) -> Frame:
        """The frame of an array that is the displayed image itself."""
        height, width = pixels.shape[:2]
        return cls(height, width, (0, 0, width, height))


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """The result of a detector for one image.

    Attributes:
        detections: Boxes and masks in pixels of the displayed image; empty for a classifier.
        image_labels: Labels of the whole image from a classifier, else None.
        seconds: Seconds per stage: `detect` (the model) and `encode` (masks to RLE).
        dropped: Number of detections that were dropped because a number is not finite or the box has no size inside the
            image.
        views: Number of views of the image that the detector saw.
    """

    detections: Detections
    image_labels: tuple[ImageLabel, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    dropped: int = 0
    views: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision on how a model's inputs or outputs are read, and the reason in words."""

    value: str
    why: str


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """Description of a detector, stored in `run.json` and compared when the run is resumed.

    Attributes:
        name: Catalog name, or the name of its folder or archive.
        address: Where it came from, as the user gave it (without secrets).
        fingerprint: SHA-256 over the model's files, in hex.
        model_version: Version that annotation tools show: the name and the first digits of the fingerprint.
        convention: The recognized convention of inputs and outputs, in words.
        masks: Whether it returns masks.
        classes: Its label map, by number, or None if the model itself returns class names.
        reading: Decisions on how inputs and outputs are read, by subject (the range of the input, the activation of a
            classifier, the area of masks); None for runs of early releases, which did not store them.
        notes: Remarks for users: unused outputs, options that contradict the graph.
    """

    name: str
    address: str
    fingerprint: str
    model_version: str
    convention: str
    masks: bool
    classes: tuple[ClassName, ...] | None = None
    reading: Mapping[str, Decision] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Optimization:
    """How a model is run: decided once per run, and the same for all workers and for calls that resume the run.

    Two objects are equal if they run the model in the same way, whatever was measured.

    Attributes:
        numbers: `"off"` (as loaded), `"exact"` (as one constant graph, if possible), `"bfloat16"` or `"float16"` (as
            one constant graph with its largest convolutions in that type).
        share: Share of the convolutions' work that is done in that type; 1 for `"off"` and `"exact"`.
        gain: Speed relative to exact, or None if not measured.
        images: Number of the run's images on which it was compared with exact.
        why: Reason for the choice, in words; empty if there was none.
    """

    numbers: str = "off"
    share: float = 1.0
    gain: float | None = field(default=None, compare=False)
    images: int = field(default=0, compare=False)
    why: str = field(default="", compare=False)

    @property
    def uses_half_precision(self) -> bool:
        """Whether part of the model is computed in half precision."""
        return self.numbers not in ("off", "exact")

    @property
    def way(self) -> str:
        """The way of running in words, without measurements and reason."""
        if not self.uses_half_precision:
            return self.numbers
        return f"{self.numbers} in {self.share:.0%} of the convolutions' work"

    def __str__(self) -> str:
        text = f"{self.way}, {self.gain or 1:.2f} x faster" if self.uses_half_precision else self.way
        return f"{text}; {self.why}" if self.why else text


OFF, EXACT = Optimization("off"), Optimization("exact")
