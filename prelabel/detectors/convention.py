"""Which kind of network a model is, told from its signature: the names, types and shapes of what goes in and out.

Known conventions:

- TF Object Detection: an image in, `detection_boxes` (y1 x1 y2 x2 as shares of the image), `detection_scores` and
  classes out, as numbers (`detection_classes`, `detection_class_labels`) or as strings (`detection_class_entities`,
  `detection_class_names`, `detection_classes`); perhaps `num_detections` (or `valid_detections`), `detection_masks`,
  `detection_multiclass_scores`; each with or without a leading batch dimension of 1.
- Image classification: a batch of images in, one row of class scores an image out.

Images are numbers of any type, channels last or first. What a signature does not say (the range of the numbers, what a
row of scores is) is decided in `reading.py`. Plain data in, plain data out: nothing here knows TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prelabel.errors import DetectorError
from prelabel.options import INPUT_LAYOUTS

#: Name given to the call of a model that has no signature.
CALL = "__call__"
_PREFERRED = ("serving_default", "default")
_NUMBERS = ("detection_class_labels", "detection_classes")
_STRINGS = ("detection_class_entities", "detection_class_names", "detection_class_text", "detection_classes")
#: Outputs that are the same rows in several forms where they are of one size, in order of preference.
_FORMS = ("probabilities", "logits", "predictions", "default")
_COUNTS = ("num_detections", "valid_detections")
#: What else a count of the detections may be called; it is not ignored, since rows past it would be taken for boxes.
_LIKE_A_COUNT = re.compile(r"(^|_)(counts?|nums?|n|number|valid)(_|$)|^num[A-Z]|Count$")
_OF_OTHER_THINGS = re.compile("class|proposal|anchor|keypoint|^raw_|^rpn_")
FLOATS = ("float32", "float16", "bfloat16", "float64")
_WHOLE = ("uint8", "int32", "int64", "int16", "uint16")
_INTEGERS = (*_WHOLE, "int8", "uint32", "float32", "float16")
#: Types of class numbers that are no scores.
_CLASSES = (*_WHOLE, "int8", "uint32", "uint64")
_MASKS = (*FLOATS, "uint8", "bool", "int8", "int32", "int64")

#: Outputs of TF Object Detection exports that are steps on the way to the others; every other one may be wanted.
_STEPS = re.compile(
    "raw_|rpn_|refined_box_|proposal_boxes|num_proposals|anchors$|final_anchors$|detection_anchor_indices$|image_shape$|"
    "box_classifier_features$|class_predictions_with_background$|mask_predictions$"
)
_BOXES = re.compile(r"(^|_)(n?bbox(es)?|box(es)?|rois?|nmsed_boxes)(_|$|\d)")
#: Names that people give to numbers that are no scores of classes.
NO_SCORES = re.compile(
    r"feature|embed|bottleneck|pooled|(^|[_/])(n?bbox(es)?|box(es)?|bounding|coord\w*|regress\w*|keypoints?|landmarks?|pose|age|"
    r"depth|offsets?|anchors?)([_/\d]|$)"
)

KNOWN = (
    "TF Object Detection (image [1, h, w, 3] or [h, w, 3] -> detection_boxes, detection_scores, "
    "detection_classes or detection_class_*, optionally num_detections and detection_masks); "
    "image classification (images [batch, h, w, 3] -> logits or probabilities [batch, classes])"
)

#: Masks that are cut out along their box are squares of 14 to 56; what is larger is a picture, or made from one.
LARGEST_BOX_MASK = 56

#: Sizes that are those of channels: grey, and with transparency.
_OTHER_CHANNELS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output: name, type (`"float32"`), and shape with None for unknown sizes; None for unknown rank."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "[...]" if self.shape is None else f"[{', '.join('?' if n is None else str(n) for n in self.shape)}]"
        return f"{self.name}: {self.dtype} {sizes}"

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None."""
        return None if self.shape is None else len(self.shape)


@dataclass(frozen=True, slots=True)
class Signature:
    """One way of calling a model.

    Attributes:
        name: `CALL` for the object itself.
        inputs: By name.
        outputs: By name.
        function: Of the object's call, the function of the graph that it runs; else `""`.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    function: str = field(default="", compare=False)

    def __str__(self) -> str:
        inputs = ", ".join(map(str, self.inputs)) or "nothing"
        outputs = ", ".join(map(str, self.outputs)) or "nothing"
        return f"{self.name}({inputs}) -> {outputs}"


@dataclass(frozen=True, slots=True)
class Convention:
    """How to call a model and what its outputs mean.

    Attributes:
        kind: What it answers with.
        signature: Name of the signature to call, or `CALL`.
        input: The image input.
        batch_dimension: Whether the input has a leading batch dimension.
        batches: Whether that dimension may be larger than 1.
        size: Fixed height and width of the input, or None.
        outputs: Role (`boxes`, `scores`, `numbers`, `count`, `masks`, `multiclass_scores`, `rows`) -> output's name.
        strings: Outputs that hold names or MIDs of the classes as strings.
        classes: Outputs of a classifier, where its signature states their number.
        why: How it was recognised, in words.
        channels_first: Whether an image is given as `[3, h, w]`.
        unused: Outputs that hold something people want and nothing here reads.
        input_range: Where the image's numbers are floats, the range that they are given in; see `reading.py`.
        activation: What the rows of a classifier are; see `activation.py`.
        background: Whether class 0 of a classifier is no class but the absence of all.
        mask_frame: What masks show: their `"box"`, the whole `"image"`, or `"by-size"`, the image where they have its
            size.
    """

    kind: Literal["detection", "classification"]
    signature: str
    input: Tensor
    batch_dimension: bool
    batches: bool
    size: tuple[int, int] | None
    outputs: Mapping[str, str]
    strings: tuple[str, ...] = ()
    classes: int | None = None
    why: str = field(default="", compare=False)
    channels_first: bool = False
    unused: tuple[Tensor, ...] = ()
    input_range: str = ""
    activation: str = ""
    background: bool = False
    mask_frame: str = "box"

    @property
    def masks(self) -> bool:
        """Whether it gives instance masks."""
        return "masks" in self.outputs

    def __str__(self) -> str:
        return f"{self.why}; input {self.input}"


def recognise(signatures: Sequence[Signature], *, layout: str | None = None, is_classifier: bool = False) -> Convention:
    """The convention a model follows.

    `serving_default` is looked at first, then `default`, then the others if one alone fits, then the model's own call.
    One that takes an image and is refused for what it gives stays refused: the call gives the same without its names.

    Args:
        signatures: Of the model.
        layout: One of `INPUT_LAYOUTS` where somebody has stated it.
        is_classifier: Whether somebody has stated that rows of numbers are scores of classes.

    Raises:
        DetectorError: None fits; the message says what the model looks like, the signatures found and those known.
    """
    fits = [(signature, _fit(signature, layout, is_classifier)) for signature in signatures]
    found = {signature.name: fit for signature, fit in reversed(fits) if isinstance(fit, Convention)}
    refused = {one.name: fit for one, fit in fits if isinstance(fit, str) and _takes_an_image(one, layout)}
    for name in _PREFERRED:
        if name in found:
            return found[name]
        if name in refused:
            raise _unknown({name: refused[name]}, signatures)
    others = [fit for name, fit in found.items() if name != CALL]
    if len(others) == 1:
        return others[0]
    if not others and CALL in found and not refused.keys() - {CALL}:
        return found[CALL]
    if len(others) > 1:
        names = ", ".join(sorted(fit.signature for fit in others))
        raise DetectorError(f"which signature is meant is not clear: {names} all fit. Found: {_found(signatures)}")
    reasons: dict[str, str] = {}
    for signature, fit in fits:
        if isinstance(fit, str):
            reasons.setdefault(signature.name, fit)
    raise _unknown(reasons, signatures)


def _unknown(reasons: Mapping[str, str], signatures: Sequence[Signature]) -> DetectorError:
    listed = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    why = f": {_short(listed, 1500)}" if listed else ""
    found = _short(_found(signatures))
    return DetectorError(f"the model's signature is of no known kind{why}. Found: {found}. Known: {KNOWN}")


def _found(signatures: Sequence[Signature]) -> str:
    return "; ".join(map(str, signatures)) or "no signature at all"


def _short(text: str, most: int = 3000) -> str:
    return text if len(text) <= most else text[:most] + " ..."


@dataclass(frozen=True, slots=True)
class _Input:
    """How a signature takes its image."""

    image: Tensor
    batch: list[int | None]
    size: tuple[int, int] | None
    channels_first: bool


def _takes_an_image(signature: Signature, layout: str | None) -> bool:
    return isinstance(_input(signature, layout), _Input)


def _fit(signature: Signature, layout: str | None, is_classifier: bool) -> Convention | str:
    """The convention of one signature, or what it looks like and why that is not taken, in words."""
    given = _input(signature, layout)
    if isinstance(given, str):
        return given
    outputs = {one.name: one for one in signature.outputs}
    if any(name.startswith("detection_") for name in outputs):
        return _detection(signature.name, given, outputs)
    return _classification(signature.name, given, outputs, is_classifier)


def _input(signature: Signature, layout: str | None) -> _Input | str:
    """How a signature takes its image, or why it takes none, in words."""
    if len(signature.inputs) != 1:
        return f"takes {len(signature.inputs)} inputs, not one image"
    image = signature.inputs[0]
    if image.dtype == "string":
        return "takes text: encoded images, or their paths"
    if image.dtype not in (*FLOATS, *_WHOLE) or image.shape is None or image.rank not in (3, 4):
        return f"takes {image}, which is no image of shape [batch, height, width, 3] or [height, width, 3]"
    *batch, first, middle, last = image.shape
    found_layout = _layout((first, middle, last), layout)
    if found_layout not in INPUT_LAYOUTS:
        return found_layout
    channels_first = found_layout == "channels-first"
    height, width = (middle, last) if channels_first else (first, middle)
    size = (height, width) if height is not None and width is not None else None
    if batch not in ([], [1], [None]):
        return f"takes {batch[0]} images at once, and nothing but that number"
    return _Input(image, batch, size, channels_first)


def _layout(shape: tuple[int | None, ...], stated: str | None) -> str:
    """One of `INPUT_LAYOUTS`, or why it is neither.

    A size that is stated and is not 3 cannot be the channels'. Where that leaves both ends, nothing but somebody's word
    tells which it is.
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
        return f"takes images of {channels} channels, not of 3"
    if stated is not None:
        return stated if stated in possible else f"takes images that cannot be {stated}: shape {list(shape)}"
    if len(possible) == 2:
        return (
            f"does not say where its images have their channels (shape {_shown(shape)}): state --input-layout "
            "channels-last or channels-first"
        )
    return possible[0]


def _shown(shape: Iterable[int | None]) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


def _detection(signature: str, given: _Input, outputs: Mapping[str, Tensor]) -> Convention | str:
    wanted = (
        ("boxes", ("detection_boxes",), FLOATS, (2, 3)),
        ("scores", ("detection_scores",), FLOATS, (1, 2)),
        ("count", _COUNTS, (*_INTEGERS, "uint64", "float64", "bfloat16"), (0, 1, 2)),
        ("masks", ("detection_masks",), _MASKS, (3, 4)),
        ("multiclass_scores", ("detection_multiclass_scores",), FLOATS, (2, 3)),
        ("numbers", _NUMBERS, _INTEGERS, (1, 2)),
    )
    roles = {}
    for role, names, dtypes, ranks in wanted:
        name = next((name for name in names if _is(outputs.get(name), dtypes, ranks)), None)
        if name is not None:
            roles[role] = name
    strings = tuple(one for one in _STRINGS if _is(outputs.get(one), ("string",), (1, 2)))
    missing = [role for role in ("boxes", "scores") if role not in roles]
    missing += ["classes"] * (not strings and "numbers" not in roles)
    if missing:
        return f"looks like a detector, without detection_{', detection_'.join(missing)} of a known type and shape"
    shape = outputs["detection_boxes"].shape
    if shape and shape[-1] not in (4, None):
        return f"looks like a detector whose boxes have {shape[-1]} numbers, not 4"
    counts = [name for name in outputs if _LIKE_A_COUNT.search(name) and not _OF_OTHER_THINGS.search(name)]
    if counts and "count" not in roles:
        return (
            f"looks like a detector whose count of detections cannot be read ({outputs[counts[0]]}): it must be a "
            f"number called {' or '.join(_COUNTS)}"
        )
    used = {*roles.values(), *strings}
    unused = tuple(one for name, one in outputs.items() if name not in used and not _STEPS.match(name))
    parts = [given.image.dtype, *["channels first"] * given.channels_first]
    parts += (
        ["class numbers"] * ("numbers" in roles) + ["class strings"] * bool(strings) + ["masks"] * ("masks" in roles)
    )
    why = f"TF Object Detection by signature {signature!r} ({', '.join(parts)})"
    return Convention(
        kind="detection",
        signature=signature,
        input=given.image,
        batch_dimension=bool(given.batch),
        batches=False,
        size=given.size,
        outputs=roles,
        strings=strings,
        why=why,
        channels_first=given.channels_first,
        unused=unused,
    )


def _classification(name: str, given: _Input, outputs: Mapping[str, Tensor], is_classifier: bool) -> Convention | str:
    if len(outputs) > 1 and any(_BOXES.search(one) for one in outputs):
        return (
            f"looks like a detector whose outputs have names of their own ({', '.join(outputs)}): they must be "
            "detection_boxes, detection_scores and detection_classes"
        )
    if not given.batch:
        return "takes one image without a batch dimension, and is no detector by its outputs"
    rows = [one for one in outputs.values() if one.dtype in FLOATS and one.rank == 2]
    of_any_name = [one for one in rows if _at_least_two(one)]
    fitting = [one for one in of_any_name if not NO_SCORES.search(one.name)]
    if is_classifier and not fitting:
        fitting = of_any_name
    chosen = _chosen(fitting)
    if chosen is None:
        return _no_classifier(outputs, rows, fitting)
    contradiction = _contradiction(chosen, outputs.values())
    if contradiction:
        return contradiction
    classes = _last(chosen)
    why = (
        f"image classification by signature {name!r} ({classes or 'an unstated number of'} classes in {chosen.name!r})"
    )
    return Convention(
        kind="classification",
        signature=name,
        input=given.image,
        batch_dimension=True,
        batches=given.batch[0] is None,
        size=given.size,
        outputs={"rows": chosen.name},
        classes=classes,
        why=why,
        channels_first=given.channels_first,
        unused=tuple(one for one in outputs.values() if one not in fitting),
    )


def _chosen(fitting: Sequence[Tensor]) -> Tensor | None:
    """The only one, or the preferred one of several forms of the same rows."""
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    forms = {one.name: one for one in fitting if one.name in _FORMS}
    if len(forms) < len(fitting) or len({_last(one) for one in fitting}) > 1:
        return None
    return next(forms[name] for name in _FORMS if name in forms)


def _contradiction(rows: Tensor, outputs: Iterable[Tensor]) -> str:
    """What the other outputs say the rows are instead of scores of classes, or `""`."""
    length = _last(rows)
    for one in outputs:
        other = _last(one)
        if one.rank == 2 and one.dtype in (*_CLASSES, "string") and (other is None or length in (other, None)):
            return (
                f"looks like a classifier that gives the best classes of an image in order: {one.name} holds their "
                f"numbers or names, so that the columns of {rows.name} are no class numbers; save it with the scores "
                "of all classes as its only output"
            )
        if one.rank == 3 and one.shape and one.dtype in FLOATS:
            each = one.shape[1]
            if other == 4 or ((other is None or other > 4) and (each is None or length is None or each == length)):
                return (
                    f"looks like a detector: {one} beside {rows}; the outputs of detectors must be detection_boxes, "
                    "detection_scores and detection_classes"
                )
    return ""


def _no_classifier(outputs: Mapping[str, Tensor], rows: Sequence[Tensor], fitting: Sequence[Tensor]) -> str:
    if len(fitting) > 1:
        names = ", ".join(one.name for one in fitting)
        return f"has several outputs that may be scores of classes: {names}; save it with the one that is meant"
    suspicious = [one for one in rows if NO_SCORES.search(one.name)]
    if suspicious:
        return (
            f"looks like features or a regression by its output {suspicious[0]}, not like a classifier; if these are "
            "scores of classes, state --activation"
        )
    if rows:
        return f"gives one number for an image ({rows[0]}): a regression, or a classifier of two classes in one number"
    maps = [one for one in outputs.values() if one.rank in (3, 4)]
    if maps:
        return f"looks like a map of each picture's parts (segmentation, depth, features): {maps[0]}"
    return "has no output that is a row of numbers for each image"


def _last(one: Tensor) -> int | None:
    return one.shape[-1] if one.shape else None


def _at_least_two(one: Tensor) -> bool:
    last = _last(one)
    return last is None or last >= 2


def _is(one: Tensor | None, dtypes: Iterable[str], ranks: Iterable[int]) -> bool:
    return one is not None and one.dtype in dtypes and (one.rank is None or one.rank in ranks)
