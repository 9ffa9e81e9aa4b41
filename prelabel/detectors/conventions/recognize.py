"""Recognize the convention of a model by its signatures and files.

Each signature with an image as its input is shown to the families of `families/`. Images may have any numeric type,
with channels last or first. What a signature does not tell (the range of the input, the activation of a classifier) is
decided in `resolve_model.py`. Nothing here uses TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prelabel.detectors.conventions.convention import FLOATS, INTEGERS, Convention, ImageInput, Question, takes_batches
from prelabel.detectors.conventions.families import FAMILIES, NAMES
from prelabel.detectors.conventions.graph import entry_of
from prelabel.detectors.conventions.input_range import first_operations
from prelabel.detectors.conventions.named_outputs import RANKS
from prelabel.detectors.conventions.protos import CALL, Signature, sizes_in_words
from prelabel.errors import DetectorError
from prelabel.options import INPUT_LAYOUTS

PREFERRED = ("serving_default", "default")

#: Numbers of channels other than 3: gray, and images with transparency.
_OTHER_CHANNELS = (1, 2, 4)

#: Operations that decode a PNG. In TensorFlow, these three are one kernel, which looks at the first bytes to know the
#: format, whatever the name of the operation (`tensorflow/core/kernels/image/decode_image_op.cc`).
_DECODERS = frozenset(("DecodeImage", "DecodePng", "DecodeJpeg"))

#: Operations by which `tf.image.decode_image` of early versions looks at the first bytes, and others that only look.
_STRING_QUERIES = frozenset(("Substr", "StringLength", "Equal", "NotEqual", "Assert", "DecodeGif", "DecodeBmp"))

#: What helps with a model that is not recognized, by option. A reason that names the option says more about it.
_WAYS_OUT = {
    "--adapter": "describe the model with --adapter",
    "--detector": "run it as Python code with --detector package.module:factory",
}


def recognize(
    signatures: Sequence[Signature],
    *,
    folder: Path | None = None,
    layout: str | None = None,
    is_classifier: bool = False,
) -> Convention:
    """Recognize the convention of a model.

    The signature `serving_default` comes first, then `default`, then another one if it is the only match, then the
    model's own call. If a signature accepts an image, but its outputs are refused, the call is not tried: it returns
    the same outputs without their names.

    Args:
        signatures: The signatures of the model.
        folder: The folder of the model, whose files may tell more than its signatures.
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
        image = image_input(signature, layout, folder)
        fit = image if isinstance(image, str) else _match(image, signature, folder, is_classifier)
        if isinstance(fit, Convention):
            recognized.setdefault(signature.name, fit)
            continue
        reasons.setdefault(signature.name, fit)
        if not isinstance(image, str):
            refused[signature.name] = fit
    for name in PREFERRED:
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
            f"serving_default. Found: {signatures_in_words(signatures)}"
        )
    raise _unknown(reasons, signatures)


def _unknown(reasons: Mapping[str, str], signatures: Sequence[Signature]) -> DetectorError:
    details = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    why = f": {_short(details, 1500)}" if details else ""
    listing = _short(signatures_in_words(signatures))
    ways = ", or ".join(way for option, way in _WAYS_OUT.items() if option not in why)
    return DetectorError(
        f"no signature of the model is supported{why}. Found: {listing}. Supported: {NAMES}{'; ' * bool(ways)}{ways}"
    )


def signatures_in_words(signatures: Sequence[Signature]) -> str:
    """Signatures with their inputs and outputs, for messages."""
    return "; ".join(map(str, signatures)) or "no signature"


def _short(text: str, most: int = 3000) -> str:
    return text if len(text) <= most else text[:most] + " ..."


def _match(image: ImageInput, signature: Signature, folder: Path | None, is_classifier: bool) -> Convention | str:
    """The convention of a signature with an image input; or, in words, why no family accepts it."""
    outputs = {output.name: output for output in signature.outputs}
    question = Question(image, outputs, signature, folder, is_classifier)
    fit = next(family for family in FAMILIES if family.claims(question)).match(question)
    if isinstance(fit, Convention) and fit.kind == "detection":
        used = [(outputs[name], RANKS.get(role, 1)) for role, name in fit.outputs.items()]
        return replace(fit, batches=takes_batches(image, [*used, *((outputs[name], 1) for name in fit.strings)]))
    return fit


def image_input(
    signature: Signature, layout: str | None, folder: Path | None = None, option: str = "--input-layout"
) -> ImageInput | str:
    """The image input of a signature; or, in words, why it has none.

    Args:
        signature: The signature.
        layout: One of `INPUT_LAYOUTS` if given explicitly.
        folder: The folder of the model, whose graph may decode images; None if only the signature is known.
        option: What gives the layout, for messages.
    """
    if len(signature.inputs) != 1:
        return f"has {len(signature.inputs)} inputs instead of one image"
    image = signature.inputs[0]
    if image.dtype == "string":
        return _encoded_input(signature, folder)
    if image.dtype not in (*FLOATS, *INTEGERS) or image.shape is None or image.rank not in (3, 4):
        return f"has the input {image}, not an image of shape [batch, height, width, 3] or [height, width, 3]"
    *batch, first, middle, last = image.shape
    layout_or_reason = _layout((first, middle, last), layout, option)
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


def _encoded_input(signature: Signature, folder: Path | None) -> ImageInput | str:
    """The input of a signature that decodes images itself; or, in words, what it does with its strings."""
    image = signature.inputs[0]
    if image.shape not in ((), (1,), (None,)):
        return f"accepts strings of another shape ({image}) than one encoded image, or a batch of them"
    operations: set[str] = set()
    if folder is not None:
        with entry_of(folder, signature) as entry:
            operations = first_operations(entry) if entry is not None else set()
    others = operations - _DECODERS - _STRING_QUERIES
    if others or not operations & _DECODERS:
        use = f"the graph passes them to {', '.join(sorted(others))}" if others else "the graph does not decode them"
        return f"accepts strings that are not encoded images: {use}; export the model with an image as its input"
    return ImageInput(
        signature=signature.name, input=image, batch_dimension=image.shape != (), size=None, is_encoded=True
    )


def _layout(shape: tuple[int | None, ...], given: str | None, option: str) -> str:
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
        return f"accepts images with {channels} channel{'s' * (channels != 1)} instead of 3"
    if given is not None:
        return given if given in possible else f"accepts images that cannot be {given}: shape {list(shape)}"
    if len(possible) == 2:
        return (
            f"does not tell which dimension of its images is the channels (shape {sizes_in_words(shape)}): give "
            f"{option} channels-last or channels-first"
        )
    return possible[0]
