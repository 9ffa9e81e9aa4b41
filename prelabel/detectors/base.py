"""The interface of a detector, and the values it exchanges with the engine. Needs no TensorFlow.

Any object with `info`, `batch_size` and `detect` is a `Detector`, whatever library it uses:

    class Brightest:
        info = DetectorInfo("brightest-pixel", classes=[ClassName(1, "bright")])
        batch_size = 1

        def detect(self, images):
            return [box_around_brightest(pixels) for pixels in images]  # Detections in pixels of that array

An array may be a part of an image, mirrored, or decoded at a reduced size. The engine calls a `FrameDetector`, which is
told what each array shows, and returns what is kept in pixels of the displayed image. `detectors/plugins/detector.py`
makes one from any `Detector`; the detector for SavedModels (`detectors/running/savedmodel.py`) is both.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName, Detections, ImageLabel
from prelabel.keypoints import KeypointSet

Pixels = npt.NDArray[np.uint8]

#: Names of detectors: they become part of file names and of the model version that annotation tools show.
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Detector(Protocol):
    """A loaded detector: any object with these three members.

    `prelabel` decodes, turns, cuts, mirrors and batches the images, converts what is detected to the displayed image,
    and applies thresholds and all other options that select detections.
    """

    @property
    def info(self) -> DetectorInfo:
        """What the detector says about itself; always the same."""

    @property
    def batch_size(self) -> int:
        """The largest number of images per call of `detect`; 1 for detectors that do not batch."""

    def detect(self, images: Sequence[Pixels]) -> list[Detections]:
        """Detect objects in up to `batch_size` images. Calls never overlap, but may come from different threads.

        Args:
            images: `(H, W, 3)` uint8 RGB arrays, C-contiguous and read-only; their sizes may differ.

        Returns:
            One `Detections` per image, in order: `height` and `width` are those of the array, and boxes and masks are
            in pixels of the array. Boxes may extend beyond it. `multiclass_score` and `views` are not stored.

        Raises:
            Exception: The image fails with the class and message of the error, and the run goes on. If there were
                several images, each is first tried again alone.
        """


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """What a detector says about itself.

    Attributes:
        name: Name of the detector, of letters, digits, `.`, `_` and `-`; annotation tools show it with the first digits
            of the fingerprint.
        classes: All classes that it can return, or None if they are known only while it runs. Every detection must then
            have the number, label and MID of one of them.
        masks: Whether it returns masks; then each detection must have one.
        files: Paths of the files that decide what it detects, such as weights. Their content is part of the
            fingerprint.
        input_size: Pixels of the shorter side to which it resizes images; None if it does not resize them, or if this
            is unknown. `--views auto`, `--tile-size auto` and `--decode-scale auto` need it.
        notes: Remarks for users, one line each.
        keypoints: The keypoints of each detection, or None if it returns none.

    Raises:
        ValueError: A value is not allowed; the message names the attribute.
    """

    name: str
    classes: Sequence[ClassName] | None = None
    masks: bool = False
    files: Sequence[str | os.PathLike[str]] = ()
    input_size: int | None = None
    notes: Sequence[str] = ()
    keypoints: KeypointSet | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"name must consist of letters, digits, '.', '_' and '-', got {self.name!r}")
        for name, kind, expected in (
            ("classes", ClassName, "ClassName objects"),
            ("files", str | os.PathLike, "paths"),
            ("notes", str, "texts"),
        ):
            values = getattr(self, name)
            if values is None and name == "classes":
                continue
            if isinstance(values, str) or not all(isinstance(value, kind) for value in values):
                raise ValueError(f"{name} must be a list of {expected}, got {values!r}")
            object.__setattr__(self, name, tuple(values))
        if self.classes is not None:
            object.__setattr__(self, "classes", _checked_classes(self.classes))
        if self.input_size is not None:
            object.__setattr__(self, "input_size", whole_number(self.input_size, "input_size"))


def _checked_classes(classes: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """The classes with numbers of Python's own type, so that they can be stored. Raises ValueError."""
    try:
        numbers = [operator.index(class_name.id) for class_name in classes]
    except TypeError:
        raise ValueError(f"the numbers of classes must be whole, got {[known.id for known in classes]}") from None
    if len(set(numbers)) < len(numbers) or any(not 0 <= number < 1 << 31 for number in numbers):
        raise ValueError(f"the numbers of classes must differ and be at least 0, got {numbers}")
    for class_name in classes:
        if not isinstance(class_name.name, str) or not class_name.name.strip():
            raise ValueError(f"class {class_name.id} must have a name, got {class_name.name!r}")
    return tuple(
        ClassName(number, str(known.name), str(known.mid)) for number, known in zip(numbers, classes, strict=True)
    )


def whole_number(value: object, name: str) -> int:
    """A number of at least 1, as an int. Raises ValueError that names the attribute."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return number


class FrameDetector(Protocol):
    """A detector as the engine calls it: it returns what is kept, in pixels of the displayed image."""

    @property
    def batch_size(self) -> int:
        """The largest number of images per call of `detect_in`."""

    def detect_in(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        """Detect objects in up to `batch_size` images. With `--streams`, calls overlap.

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
        dropped: Number of detections that were dropped because a number is not finite or the box has no area inside the
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
class DetectorRecord:
    """A detector as `run.json` records it, compared when the run is resumed.

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
        keypoints: The keypoints of each detection, or None if it returns none.
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
    keypoints: KeypointSet | None = None


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
