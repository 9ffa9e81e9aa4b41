"""Recognize the convention of a model by its signature: the names, types and shapes of its inputs and outputs.

`CONVENTIONS` lists the known conventions; `recognize` finds the one that a model follows. To add a convention, write a
matcher and add an entry. A matcher receives the image input and the outputs of a signature, and returns their meaning
(a `Convention`), or the reason why they do not match.

Images may have any numeric type, with channels last or first. What a signature does not tell (the range of the input,
the activation of a classifier) is decided in `resolve_model.py`. Nothing here uses TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prelabel.detectors.conventions.protos import CALL, Signature, Tensor, sizes_in_words
from prelabel.errors import DetectorError
from prelabel.options import INPUT_LAYOUTS

FLOATS = ("float32", "float16", "bfloat16", "float64")
_INTEGER_TYPES = ("uint8", "int32", "int64", "int16", "uint16")

#: Masks of a box are squares of 14 to 56 pixels; larger ones cover the image.
LARGEST_BOX_MASK = 56

#: Common names of outputs that are not class scores.
NO_SCORES = re.compile(
    r"feature|embed|bottleneck|pooled|(^|[_/])(n?bbox(es)?|box(es)?|bounding|coord\w*|regress\w*|keypoints?|landmarks?|pose|age|"
    r"depth|offsets?|anchors?)([_/\d]|$)"
)

_PREFERRED = ("serving_default", "default")

#: Numbers of channels other than 3: gray, and images with transparency.
_OTHER_CHANNELS = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """The image input of a signature.

    Attributes:
        signature: Name of the signature to call, or `CALL`.
        input: The input tensor.
        batch_dimension: Whether the input has a leading batch dimension.
        size: Fixed height and width of the input, or None.
        channels_first: Whether images have the layout `[3, h, w]`.
    """

    signature: str
    input: Tensor
    batch_dimension: bool
    size: tuple[int, int] | None
    channels_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Convention(ImageInput):
    """How to call a model and what its outputs mean.

    Attributes:
        kind: Detection of objects, or classification of whole images.
        outputs: Role (`boxes`, `scores`, `numbers`, `count`, `masks`, `multiclass_scores`, `rows`) -> output's name.
        strings: Names of the outputs with class names or MIDs as strings.
        classes: Number of classes of a classifier, if its signature tells.
        why: How the convention was recognized, in words.
        unused: Outputs that may be of interest but are not used.
        input_range: Range of a float input; see `resolve_model.py`.
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
    input_range: str = ""
    activation: str = ""
    background: bool = False
    mask_frame: str = "box"

    @property
    def batches(self) -> bool:
        """Whether several images can be run at a time: only by classifiers whose batch dimension is not fixed."""
        return self.kind == "classification" and self.input.shape is not None and self.input.shape[0] is None

    @property
    def masks(self) -> bool:
        """Whether it returns instance masks."""
        return "masks" in self.outputs

    def __str__(self) -> str:
        return f"{self.why}; input {self.input}"


@dataclass(frozen=True, slots=True)
class KnownConvention:
    """An entry of `CONVENTIONS`.

    Attributes:
        form: Inputs and outputs in words, for messages.
        claims: Whether outputs with these names can follow no other convention.
        match: Returns the convention of a signature with this image and these outputs; or, in words, what it looks like
            and why that is not accepted. The last argument is whether `--activation` declares it a classifier.
    """

    form: str
    claims: Callable[[Mapping[str, Tensor]], bool]
    match: Callable[[ImageInput, Mapping[str, Tensor], bool], Convention | str]


_NUMBERS = ("detection_class_labels", "detection_classes")
_STRINGS = ("detection_class_entities", "detection_class_names", "detection_class_text", "detection_classes")
_COUNTS = ("num_detections", "valid_detections")

#: Other names that a count of the detections may have. Ignoring it would turn the padding into detections.
_LIKE_A_COUNT = re.compile(r"(^|_)(counts?|nums?|n|number|valid)(_|$)|^num[A-Z]|Count$")
_OF_OTHER_THINGS = re.compile("class|proposal|anchor|keypoint|^raw_|^rpn_")

_NUMBER_TYPES = (*_INTEGER_TYPES, "int8", "uint32", "float32", "float16")
_MASKS = (*FLOATS, "uint8", "bool", "int8", "int32", "int64")

#: Outputs of TF Object Detection exports that are intermediate results; all others may be of interest.
_STEPS = re.compile(
    "raw_|rpn_|refined_box_|proposal_boxes|num_proposals|anchors$|final_anchors$|detection_anchor_indices$|image_shape$|"
    "box_classifier_features$|class_predictions_with_background$|mask_predictions$"
)


def _detection(image: ImageInput, outputs: Mapping[str, Tensor], _: bool) -> Convention | str:
    """Match TF Object Detection.

    The input is an image. The outputs are `detection_boxes` (y1 x1 y2 x2, normalized to 0..1), `detection_scores`, and
    classes as numbers (`detection_classes`, `detection_class_labels`) or strings (`detection_class_entities`,
    `detection_class_names`, `detection_classes`); optionally `num_detections` (or `valid_detections`),
    `detection_masks` and `detection_multiclass_scores`. All may have a leading batch dimension of 1.
    """
    expected = (
        ("boxes", ("detection_boxes",), FLOATS, (2, 3)),
        ("scores", ("detection_scores",), FLOATS, (1, 2)),
        ("count", _COUNTS, (*_NUMBER_TYPES, "uint64", "float64", "bfloat16"), (0, 1, 2)),
        ("masks", ("detection_masks",), _MASKS, (3, 4)),
        ("multiclass_scores", ("detection_multiclass_scores",), FLOATS, (2, 3)),
        ("numbers", _NUMBERS, _NUMBER_TYPES, (1, 2)),
    )
    roles = {}
    for role, names, dtypes, ranks in expected:
        name = next((name for name in names if name in outputs and outputs[name].may_be(dtypes, ranks)), None)
        if name is not None:
            roles[role] = name
    strings = tuple(name for name in _STRINGS if name in outputs and outputs[name].may_be(("string",), (1, 2)))
    missing = [role for role in ("boxes", "scores") if role not in roles]
    missing += ["classes"] * (not strings and "numbers" not in roles)
    if missing:
        return f"looks like a detector, but has no detection_{', detection_'.join(missing)} of a known type and shape"
    shape = outputs["detection_boxes"].shape
    if shape and shape[-1] not in (4, None):
        return f"looks like a detector, but its boxes have {shape[-1]} numbers instead of 4"
    counts = [name for name in outputs if _LIKE_A_COUNT.search(name) and not _OF_OTHER_THINGS.search(name)]
    if counts and "count" not in roles:
        return (
            f"looks like a detector, but its count of detections ({outputs[counts[0]]}) must be a number with the name "
            f"{' or '.join(_COUNTS)}"
        )
    used = {*roles.values(), *strings}
    unused = tuple(tensor for name, tensor in outputs.items() if name not in used and not _STEPS.match(name))
    has = {"channels first": image.channels_first, "class numbers": "numbers" in roles, "class strings": bool(strings)}
    parts = [
        image.input.dtype,
        *(name for name, is_present in {**has, "masks": "masks" in roles}.items() if is_present),
    ]
    why = f"TF Object Detection by signature {image.signature!r} ({', '.join(parts)})"
    return Convention(**vars(image), kind="detection", outputs=roles, strings=strings, why=why, unused=unused)


#: Names of outputs that hold the same scores in several forms, if they have the same size; the preferred one first.
_FORMS = ("probabilities", "logits", "predictions", "default")

#: Types of outputs that hold class numbers rather than scores.
_CLASSES = (*_INTEGER_TYPES, "int8", "uint32", "uint64")
_BOXES = re.compile(r"(^|_)(n?bbox(es)?|box(es)?|rois?|nmsed_boxes)(_|$|\d)")


def _classification(image: ImageInput, outputs: Mapping[str, Tensor], is_classifier: bool) -> Convention | str:
    """Match image classification: the input is a batch of images, the output one row of class scores per image."""
    if len(outputs) > 1 and any(_BOXES.search(name) for name in outputs):
        return (
            f"looks like a detector, but its outputs ({', '.join(outputs)}) must have the names detection_boxes, "
            "detection_scores and detection_classes"
        )
    if not image.batch_dimension:
        return "accepts one image without a batch dimension, but does not have the outputs of a detector"
    rows = [output for output in outputs.values() if output.dtype in FLOATS and output.rank == 2]
    of_any_name = [row for row in rows if row.last is None or row.last >= 2]
    fitting = [row for row in of_any_name if not NO_SCORES.search(row.name)]
    if is_classifier and not fitting:
        fitting = of_any_name
    chosen = _chosen(fitting)
    if chosen is None:
        return _no_classifier(outputs, rows, fitting)
    contradiction = _contradiction(chosen, outputs.values())
    if contradiction:
        return contradiction
    classes = f"{chosen.last or 'an unknown number of'} classes in {chosen.name!r}"
    return Convention(
        **vars(image),
        kind="classification",
        outputs={"rows": chosen.name},
        classes=chosen.last,
        why=f"image classification by signature {image.signature!r} ({classes})",
        unused=tuple(output for output in outputs.values() if output not in fitting),
    )


def _chosen(fitting: Sequence[Tensor]) -> Tensor | None:
    """The only output, or the preferred one of several forms of the same scores."""
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    forms = {row.name: row for row in fitting if row.name in _FORMS}
    if len(forms) < len(fitting) or len({row.last for row in fitting}) > 1:
        return None
    return next(forms[name] for name in _FORMS if name in forms)


def _contradiction(rows: Tensor, outputs: Iterable[Tensor]) -> str:
    """Why the other outputs show that the rows are not class scores, or `""`."""
    length = rows.last
    for output in outputs:
        other = output.last
        if output.rank == 2 and output.dtype in (*_CLASSES, "string") and (other is None or length in (other, None)):
            return (
                f"looks like a classifier that returns the best classes of an image in order: {output.name} has their "
                f"numbers or names, so the columns of {rows.name} are not class numbers; save the model with the "
                "scores of all classes as its only output"
            )
        if output.rank == 3 and output.shape and output.dtype in FLOATS:
            boxes = output.shape[1]
            if other == 4 or ((other is None or other > 4) and (boxes is None or length is None or boxes == length)):
                return (
                    f"looks like a detector with the outputs {output} and {rows}: they must have the names "
                    "detection_boxes, detection_scores and detection_classes"
                )
    return ""


def _no_classifier(outputs: Mapping[str, Tensor], rows: Sequence[Tensor], fitting: Sequence[Tensor]) -> str:
    if len(fitting) > 1:
        names = ", ".join(row.name for row in fitting)
        return f"has several outputs that may be class scores ({names}): save the model with one of them"
    suspicious = [row for row in rows if NO_SCORES.search(row.name)]
    if suspicious:
        return (
            f"looks like features or a regression by the name of its output {suspicious[0]}; if these are class "
            "scores, give --activation"
        )
    if rows:
        return f"returns one number per image ({rows[0]}): a regression, or a binary classifier"
    maps = [output for output in outputs.values() if output.rank in (3, 4)]
    if maps:
        return f"looks like a map over the image (segmentation, depth, features): {maps[0]}"
    return "has no output with a row of numbers per image"


#: The known conventions. Those that are recognized by the names of their outputs come first.
CONVENTIONS = (
    KnownConvention(
        "TF Object Detection (image [1, h, w, 3] or [h, w, 3] -> detection_boxes, detection_scores, "
        "detection_classes or detection_class_*, optionally num_detections and detection_masks)",
        lambda outputs: any(name.startswith("detection_") for name in outputs),
        _detection,
    ),
    KnownConvention(
        "image classification (images [batch, h, w, 3] -> logits or probabilities [batch, classes])",
        lambda outputs: True,
        _classification,
    ),
)

KNOWN = "; ".join(convention.form for convention in CONVENTIONS)


def recognize(signatures: Sequence[Signature], *, layout: str | None = None, is_classifier: bool = False) -> Convention:
    """Recognize the convention of a model.

    The signature `serving_default` comes first, then `default`, then another one if it is the only match, then the
    model's own call. If a signature accepts an image, but its outputs are refused, the call is not tried: it returns
    the same outputs without their names.

    Args:
        signatures: The signatures of the model.
        layout: One of `INPUT_LAYOUTS` if given explicitly.
        is_classifier: Whether `--activation` declares the model a classifier.

    Raises:
        DetectorError: No convention fits. The message says what the model looks like, and lists its signatures and the
            known conventions.
    """
    recognized: dict[str, Convention] = {}
    refused: dict[str, str] = {}  # only signatures that accept an image
    reasons: dict[str, str] = {}
    for signature in signatures:
        image = _input(signature, layout)
        fit = image if isinstance(image, str) else _match(image, signature, is_classifier)
        if isinstance(fit, Convention):
            recognized.setdefault(signature.name, fit)
            continue
        reasons.setdefault(signature.name, fit)
        if not isinstance(image, str):
            refused[signature.name] = fit
    for name in _PREFERRED:
        if name in recognized:
            return recognized[name]
        if name in refused:
            raise _unknown({name: refused[name]}, signatures)
    others = [fit for name, fit in recognized.items() if name != CALL]
    if len(others) == 1:
        return others[0]
    if not others and CALL in recognized and not refused.keys() - {CALL}:
        return recognized[CALL]
    if len(others) > 1:
        names = ", ".join(sorted(fit.signature for fit in others))
        raise DetectorError(
            f"the model has several signatures that fit ({names}); save it with one of them, or name that "
            f"serving_default. Found: {_in_words(signatures)}"
        )
    raise _unknown(reasons, signatures)


def _unknown(reasons: Mapping[str, str], signatures: Sequence[Signature]) -> DetectorError:
    details = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    why = f": {_short(details, 1500)}" if details else ""
    listing = _short(_in_words(signatures))
    return DetectorError(f"no signature of the model is supported{why}. Found: {listing}. Supported: {KNOWN}")


def _in_words(signatures: Sequence[Signature]) -> str:
    return "; ".join(map(str, signatures)) or "no signature"


def _short(text: str, most: int = 3000) -> str:
    return text if len(text) <= most else text[:most] + " ..."


def _match(image: ImageInput, signature: Signature, is_classifier: bool) -> Convention | str:
    """The convention of a signature with an image input; or, in words, why none accepts it."""
    outputs = {output.name: output for output in signature.outputs}
    claiming = next(convention for convention in CONVENTIONS if convention.claims(outputs))
    return claiming.match(image, outputs, is_classifier)


def _input(signature: Signature, layout: str | None) -> ImageInput | str:
    """The image input of a signature; or, in words, why it has none."""
    if len(signature.inputs) != 1:
        return f"has {len(signature.inputs)} inputs instead of one image"
    image = signature.inputs[0]
    if image.dtype == "string":
        return "accepts strings: encoded images, or their paths"
    if image.dtype not in (*FLOATS, *_INTEGER_TYPES) or image.shape is None or image.rank not in (3, 4):
        return f"has the input {image}, not an image of shape [batch, height, width, 3] or [height, width, 3]"
    *batch, first, middle, last = image.shape
    layout_or_reason = _layout((first, middle, last), layout)
    if layout_or_reason not in INPUT_LAYOUTS:
        return layout_or_reason
    channels_first = layout_or_reason == "channels-first"
    height, width = (middle, last) if channels_first else (first, middle)
    size = (height, width) if height is not None and width is not None else None
    if batch not in ([], [1], [None]):
        return f"accepts batches of exactly {batch[0]} images, but the batch size must be 1 or any"
    return ImageInput(
        signature=signature.name, input=image, batch_dimension=bool(batch), size=size, channels_first=channels_first
    )


def _layout(shape: tuple[int | None, ...], given: str | None) -> str:
    """One of `INPUT_LAYOUTS`; or, in words, why the shape has neither, or either.

    A known size other than 3 cannot be the number of channels. If both ends remain possible, an option must decide.
    """
    first, _, last = shape
    possible = [
        name
        for name, channels, other in zip(INPUT_LAYOUTS, (last, first), (first, last), strict=True)
        if channels == 3 or (channels is None and other not in _OTHER_CHANNELS)
    ]
    if len(possible) == 2 and (first is None) != (last is None):
        possible = ["channels-last" if last == 3 else "channels-first"]
    if not possible:
        channels = first if last is None or (first in _OTHER_CHANNELS and last not in _OTHER_CHANNELS) else last
        return f"accepts images with {channels} channels instead of 3"
    if given is not None:
        return given if given in possible else f"accepts images that cannot be {given}: shape {list(shape)}"
    if len(possible) == 2:
        return (
            f"does not tell which dimension of its images is the channels (shape {sizes_in_words(shape)}): give "
            "--input-layout channels-last or channels-first"
        )
    return possible[0]
