"""What is known of a model's inputs and outputs: its convention. Needs no TensorFlow.

A convention is found by `recognize.py` or declared by the user, completed by `resolve_model.py`, and applied by
`prelabel.detectors.running`:

    image -> fitted into the network's input -> outputs by name -> `decode` -> Candidates, in shares of the image
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prelabel.detectors.base import Decision
from prelabel.detectors.conventions.boxes import NORMALIZED_YXYX, STRETCH, BoxForm, Fit, Shown
from prelabel.detectors.conventions.protos import Signature, Tensor
from prelabel.keypoints import KeypointSet
from prelabel.labels.maps import LabelMap

FLOATS = ("float32", "float16", "bfloat16", "float64")
INTEGERS = ("uint8", "int32", "int64", "int16", "uint16")

#: Masks of a box are squares of 14 to 56 pixels; larger ones cover the image.
LARGEST_BOX_MASK = 56

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """The image input of a signature.

    Attributes:
        signature: Name of the signature to call, or `CALL`.
        input: The input tensor.
        batch_dimension: Whether the input has a leading batch dimension.
        size: Fixed height and width of the input, or None.
        channels_first: Whether images have the layout `[3, h, w]`.
        is_encoded: Whether the graph decodes images itself: the input is a string, the bytes of a PNG.
    """

    signature: str
    input: Tensor
    batch_dimension: bool
    size: tuple[int, int] | None
    channels_first: bool = False
    is_encoded: bool = False


def takes_batches(image: ImageInput, outputs: Iterable[tuple[Tensor, int]]) -> bool:
    """Whether the number of images is open in the input and in all outputs that are used.

    Args:
        image: The input.
        outputs: These outputs, each with its number of dimensions for one image. One that has no dimension for the
            images may have an open first dimension as well: the number of detections.
    """
    return image.batch_dimension and all(
        tensor.shape is not None and len(tensor.shape) == rank + 1 and tensor.shape[0] is None
        for tensor, rank in [(image.input, 3), *outputs]
    )


@dataclass(frozen=True, kw_only=True)
class Convention(ImageInput):
    """How to call a model and what its outputs mean.

    Attributes:
        kind: Detection of objects, or classification of whole images.
        outputs: Role (`boxes`, `scores`, `numbers`, `count`, `masks`, `multiclass_scores`, `keypoints`,
            `keypoint_scores`, `rows`) -> output's name. A family with a `decode` of its own may have other roles.
        strings: Names of the outputs with class names or MIDs as strings.
        classes: Number of classes, numbered from 0, if the signature or the model's files tell.
        why: How the convention was recognized, in words.
        unused: Outputs that may be of interest but are not used.
        notes: Remarks for users, one line each.
        box_form: Order and unit of the boxes.
        fit: How images are fitted into an input of fixed size.
        decode: Turns the outputs for one image into candidates; None for one output per role (`named_outputs.py`).
        batches: Whether several images can be run at a time.
        known: Decisions that the family makes on its own, such as the range of the input, by subject.
        labels: The classes that the model's own files name, beyond the usual label maps; or None.
        keypoints: The keypoints of each detection, or None if it returns none.
        input_range: Range of a float input; see `resolve_model.py`.
        bgr: Whether the input has the color channels in the order blue, green, red.
        mean: Subtracted from the pixels in `input_range`, per channel of the input; empty for nothing.
        deviation: What the difference is divided by, per channel of the input; empty for nothing.
        activation: Activation of a classifier's output; see `activation.py`.
        background: Whether class 0 of a classifier is the background.
        mask_frame: The area that masks cover: their `"box"`, the whole `"image"`, or `"by-size"`: the image if they
            have its size, else their box.
    """

    kind: Literal["detection", "classification"]
    outputs: Mapping[str, str]
    strings: tuple[str, ...] = ()
    classes: int | None = None
    why: str = field(default="", compare=False)
    unused: tuple[Tensor, ...] = ()
    notes: tuple[str, ...] = ()
    box_form: BoxForm = NORMALIZED_YXYX
    fit: Fit = STRETCH
    decode: Decode | None = None
    batches: bool = False
    known: Mapping[str, Decision] = field(default_factory=dict)
    labels: LabelMap | None = None
    keypoints: KeypointSet | None = None
    input_range: str = ""
    bgr: bool = False
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    activation: str = ""
    background: bool = False
    mask_frame: str = "box"

    @property
    def masks(self) -> bool:
        """Whether it returns instance masks."""
        return "masks" in self.outputs

    def __str__(self) -> str:
        return f"{self.why}; input {self.input}"


#: Masks of the candidates at these indices.
MaskSource = Callable[[npt.NDArray[np.intp]], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a network detected in one image, before anything is selected.

    Attributes:
        arrays: Arrays of N entries by role: `boxes` `(N, 4)` y1 x1 y2 x2 in shares of the image, `scores` `(N,)`,
            `numbers` `(N,)` class numbers, `masks`, `multiclass_scores` `(N, C)`, `keypoints` `(N, K, 2)` y x in shares
            of the image with `keypoint_scores` `(N, K)`, and class names as strings by the name of their output. Masks
            of boxes cover `mask_boxes`, like `boxes`, if there are such. All arrays of numbers except keypoints, those
            of other roles as well, must be finite.
        masks: Masks of the candidates at these indices, `(N, h, w)`, if that is no array of `arrays`.
        mask_logits: The same as logits that cover the whole input and end at the boxes.
    """

    arrays: Arrays
    masks: MaskSource | None = None
    mask_logits: MaskSource | None = None


#: Turns outputs by name for one image, with or without a leading dimension of 1, into candidates. The last argument is
#: the lowest score that matters: candidates below it may be left out.
Decode = Callable[[Arrays, Convention, Shown, float], Candidates]


@dataclass(frozen=True, slots=True)
class Question:
    """What a family has to recognize.

    Attributes:
        image: The image input of the signature.
        outputs: Its outputs by name, in order.
        signature: The signature.
        folder: The folder of the model, whose files may tell more; None if only the signature is known.
        is_classifier: Whether `--activation` declares the model a classifier.
    """

    image: ImageInput
    outputs: Mapping[str, Tensor]
    signature: Signature
    folder: Path | None = None
    is_classifier: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """Networks whose inputs and outputs have the same form.

    Attributes:
        form: The name of the family, followed by inputs and outputs in parentheses, for messages.
        claims: Whether a model can belong to no other family.
        match: Returns the convention; or, in words, what the model looks like and why that is not accepted.
    """

    form: str
    claims: Callable[[Question], bool]
    match: Callable[[Question], Convention | str]
