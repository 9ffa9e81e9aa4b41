"""Which kind of network a model is, told from its signature: the names, types and shapes of what goes in and out.

Known conventions:

- TF Object Detection: an image in (uint8, or float32 in 0..1), `detection_boxes` (y1 x1 y2 x2 as shares of the image),
  `detection_scores` and classes out, as numbers (`detection_classes`, `detection_class_labels`) or as strings
  (`detection_class_entities`, `detection_class_names`, `detection_classes`); perhaps `num_detections`,
  `detection_masks`, `detection_multiclass_scores`; each with or without a leading batch dimension of 1.
- Image classification: a batch of float32 images in 0..1 in, one row of logits or probabilities an image out.

Plain data in, plain data out: nothing here knows TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prelabel.errors import DetectorError

#: Name given to the call of a model that has no signature.
CALL = "__call__"
_PREFERRED = ("serving_default", "default")
_NUMBERS = ("detection_class_labels", "detection_classes")
_STRINGS = ("detection_class_entities", "detection_class_names", "detection_class_text", "detection_classes")
#: Outputs of a classifier in order of preference, where it has several of the right shape.
_ROWS = ("logits", "probabilities", "predictions", "default", "output_0")
_INTEGERS = ("int32", "int64", "int16", "int8", "uint8", "uint32", "float32", "float16")

KNOWN = (
    "TF Object Detection (uint8 or float32 image [1, h, w, 3] or [h, w, 3] -> detection_boxes, detection_scores, "
    "detection_classes or detection_class_*, optionally num_detections and detection_masks); "
    "image classification (float32 [batch, h, w, 3] -> logits or probabilities [batch, classes])"
)


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
    """One way of calling a model: its name (`CALL` for the object itself), its inputs and outputs."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

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

    @property
    def masks(self) -> bool:
        """Whether it gives instance masks."""
        return "masks" in self.outputs

    def __str__(self) -> str:
        return f"{self.why}; input {self.input}"


def recognise(signatures: Sequence[Signature]) -> Convention:
    """The convention a model follows.

    `serving_default` is looked at first, then `default`, then the others if one alone fits, then the model's own call.

    Raises:
        DetectorError: None fits; the message shows the signatures found and the conventions known.
    """
    by_name = {signature.name: signature for signature in signatures if signature.name != CALL}
    for name in _PREFERRED:
        found = _fit(by_name.pop(name, None))
        if found:
            return found
    others = [found for found in map(_fit, by_name.values()) if found]
    if len(others) == 1:
        return others[0]
    calls = [found for found in map(_fit, (one for one in signatures if one.name == CALL)) if found]
    if not others and calls:
        return calls[0]
    shown = "; ".join(map(str, signatures)) or "no signature at all"
    if len(others) > 1:
        names = ", ".join(found.signature for found in others)
        raise DetectorError(f"which signature is meant is not clear: {names} all fit. Found: {shown}")
    raise DetectorError(f"the model's signature is of no known kind. Found: {_short(shown)}. Known: {KNOWN}")


def _short(text: str, most: int = 3000) -> str:
    return text if len(text) <= most else text[:most] + " ..."


def _fit(signature: Signature | None) -> Convention | None:
    """The convention of one signature, or None."""
    if signature is None or len(signature.inputs) != 1:
        return None
    image = signature.inputs[0]
    if image.dtype not in ("uint8", "float32") or image.rank not in (3, 4) or image.shape is None:
        return None
    *batch, height, width, channels = image.shape
    if channels not in (3, None) or (height == 3 and channels is None):  # the latter has its channels first
        return None
    size = (height, width) if height is not None and width is not None else None
    outputs = {one.name: one for one in signature.outputs}
    return _detection(signature.name, image, batch, size, outputs) or _classification(
        signature.name, image, batch, size, outputs
    )


def _detection(
    signature: str, image: Tensor, batch: list[int | None], size: tuple[int, int] | None, outputs: Mapping[str, Tensor]
) -> Convention | None:
    wanted = (
        ("boxes", "detection_boxes", ("float32",), (2, 3)),
        ("scores", "detection_scores", ("float32",), (1, 2)),
        ("count", "num_detections", _INTEGERS, (0, 1)),
        ("masks", "detection_masks", ("float32",), (3, 4)),
        ("multiclass_scores", "detection_multiclass_scores", ("float32",), (2, 3)),
    )
    roles = {role: name for role, name, dtypes, ranks in wanted if _is(outputs.get(name), dtypes, ranks)}
    numbers = _first(outputs, _NUMBERS, _INTEGERS)
    strings = tuple(one for one in _STRINGS if _is(outputs.get(one), ("string",), (1, 2)))
    if "boxes" not in roles or "scores" not in roles or not (numbers or strings) or batch not in ([], [1], [None]):
        return None
    if outputs["detection_boxes"].shape and outputs["detection_boxes"].shape[-1] not in (4, None):
        return None
    if numbers:
        roles["numbers"] = numbers
    parts = ["uint8" if image.dtype == "uint8" else "float32 in 0..1"]
    parts += ["class numbers"] * bool(numbers) + ["class strings"] * bool(strings) + ["masks"] * ("masks" in roles)
    why = f"TF Object Detection by signature {signature!r} ({', '.join(parts)})"
    return Convention("detection", signature, image, bool(batch), False, size, roles, strings, None, why)


def _classification(
    name: str, image: Tensor, batch: list[int | None], size: tuple[int, int] | None, outputs: Mapping[str, Tensor]
) -> Convention | None:
    if image.dtype != "float32" or not batch or batch[0] not in (1, None):
        return None
    if any(one.startswith("detection_") for one in outputs):
        return None
    fitting = [
        one.name
        for one in outputs.values()
        if one.dtype == "float32" and one.rank == 2 and "feature" not in one.name and _at_least_two(one)
    ]
    chosen = next((one for one in _ROWS if one in fitting), fitting[0] if len(fitting) == 1 else None)
    if chosen is None:
        return None
    classes = (outputs[chosen].shape or (None,))[-1]
    why = f"image classification by signature {name!r} ({classes or 'an unstated number of'} classes in {chosen!r})"
    return Convention("classification", name, image, True, batch[0] is None, size, {"rows": chosen}, (), classes, why)


def _at_least_two(one: Tensor) -> bool:
    last = one.shape[-1] if one.shape else None
    return last is None or last >= 2


def _is(one: Tensor | None, dtypes: Iterable[str], ranks: Iterable[int]) -> bool:
    return one is not None and one.dtype in dtypes and (one.rank is None or one.rank in ranks)


def _first(outputs: Mapping[str, Tensor], names: Iterable[str], dtypes: Iterable[str]) -> str | None:
    return next((name for name in names if _is(outputs.get(name), dtypes, (1, 2))), None)
