"""An adapter: a file in which users declare how a network that is not recognized is called and what its outputs mean.

    values of a file -> `Adapter` (checked without a model) -> `Adapter.convention` (checked with its signatures)

`adapter_schema.py` has the keys, `adapter_outputs.py` compares `outputs` with those of the model, and
`declared_outputs.py` turns them into candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prelabel.detections import ClassName
from prelabel.detectors.base import Decision
from prelabel.detectors.conventions.adapter_outputs import (
    DeclaredBy,
    classes_in_words,
    part_of,
    ranks_of,
    refuse,
    roles_of,
    with_activation,
)
from prelabel.detectors.conventions.adapter_schema import UNANSWERED, check, unanswered
from prelabel.detectors.conventions.boxes import BoxForm, Fit
from prelabel.detectors.conventions.convention import FLOATS, Convention, ImageInput, takes_batches
from prelabel.detectors.conventions.declared_outputs import DeclaredOutputs
from prelabel.detectors.conventions.protos import CALL, Signature
from prelabel.detectors.conventions.recognize import PREFERRED, image_input, signatures_in_words
from prelabel.errors import ConfigError, first_of
from prelabel.labels.maps import LabelMap, read_label_map
from prelabel.options import INPUT_RANGES

#: The unit of `BoxForm` by its name in adapters.
UNITS: Mapping[str, Literal["shares", "input", "image"]] = {
    "normalized": "shares",
    "input-pixels": "input",
    "image-pixels": "image",
}
#: Subject of `labels` in messages.
_SOURCE = "of the adapter"


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter, checked as far as that is possible without a model.

    Attributes:
        values: The content, as plain JSON.
        labels: The names that it gives to class numbers, or None.
    """

    values: Mapping[str, Any]
    labels: LabelMap | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Adapter:
        """Check the content of a file.

        Raises:
            ConfigError: A key is unknown or missing, a value is not allowed, or keys contradict each other; the message
                names the key.
        """
        if open_keys := unanswered(values):
            raise ConfigError(f"--adapter: replace {UNANSWERED} in {first_of(open_keys, most=3)}")
        check(values)
        _check_input(values["input"])
        _check_outputs(values["outputs"], values["input"])
        return cls(values, _labels(values))

    @property
    def input_range(self) -> str | None:
        """`input.range`."""
        return self._of_input("range")

    @property
    def input_layout(self) -> str | None:
        """`input.layout`."""
        return self._of_input("layout")

    @property
    def mask_frame(self) -> str | None:
        """`outputs.masks.frame`."""
        masks = self.values["outputs"].get("masks")
        return None if masks is None else str(masks["frame"])

    def _of_input(self, key: str) -> str | None:
        value = self.values["input"].get(key)
        return None if value is None else str(value)

    def convention(self, signatures: Sequence[Signature]) -> Convention:
        """How the model with these signatures is called, and what its outputs mean.

        Raises:
            DetectorError: The model does not have what the adapter names; the message names the key and what there is.
        """
        signature = self._signature(signatures)
        if any(tensor.dtype == "string" for tensor in signature.inputs):
            refuse("signature", f"{signature.name} accepts strings, but an adapter describes an input of pixels")
        image = image_input(signature, self.input_layout, option="input.layout")
        if isinstance(image, str):
            refuse("signature", f"{signature.name} {image}")
        image = self._sized(image)
        values, outputs = self.values["input"], {output.name: output for output in signature.outputs}
        declared, notes = DeclaredBy(self.values, outputs).outputs()
        is_float = image.input.dtype in FLOATS
        if not is_float and (values.get("mean") or values.get("deviation")):
            refuse("input.mean and input.deviation", f"need a float input, but the input is {image.input}")
        ranks = ranks_of(declared)
        if unused := [name for name in outputs if name not in ranks]:
            notes = (*notes, f"outputs of the model are not used: {', '.join(unused)}")
        convention = Convention(
            **vars(image),
            kind="detection",
            outputs=roles_of(declared),
            strings=(declared.classes.tensor,) if declared.classes is not None and declared.has_names else (),
            why=f"declared by --adapter, for signature {signature.name!r}",
            notes=notes,
            box_form=_box_form(self.values["outputs"]["boxes"]),
            fit=_fit(values),
            decode=declared,
            batches=takes_batches(image, [(outputs[name], rank) for name, rank in ranks.items()]),
            bgr=values["colors"] == "bgr",
            mean=tuple(map(float, values.get("mean", ()))),
            deviation=tuple(map(float, values.get("deviation", ()))),
        )
        return replace(convention, known=dict(self._decisions(convention, declared)))

    def _signature(self, signatures: Sequence[Signature]) -> Signature:
        name = self.values.get("signature")
        existing = f"Found: {signatures_in_words(signatures)}"
        chosen = usual_signature(signatures)
        if name is not None:
            chosen = next((signature for signature in signatures if signature.name == name), None)
            if chosen is None:
                refuse("signature", f"the model has no signature {name!r}. {existing}")
        if chosen is None:
            refuse("signature", f"name the signature to call. {existing}")
        return chosen

    def _sized(self, image: ImageInput) -> ImageInput:
        """The input with the size that images get."""
        values = self.values["input"]
        fit, given = values["fit"], tuple(values.get("size", ()))
        if fit == "keep":
            if image.size is not None:
                refuse("input.fit", f"keep is not possible: the input has a fixed size ({image.input})")
            return image
        if image.size is None:
            if not given:
                refuse("input.size", f"{fit} needs a size, and the signature has none ({image.input})")
            height, width = _sides(image)
            if (height or given[0], width or given[1]) != given:
                refuse("input.size", f"{_as_size(given)} is not possible: the input is {image.input}")
            return replace(image, size=(given[0], given[1]))
        if given and given != image.size:
            refuse("input.size", f"{_as_size(given)} is not possible: the input is {image.input}")
        return image

    def _decisions(self, convention: Convention, declared: DeclaredOutputs) -> Iterator[tuple[str, Decision]]:
        """What `inspect` and `run.json` show of the adapter, beyond ranges, layouts and the area of masks."""
        values, fit = self.values["input"], convention.fit
        entries: dict[str, tuple[str, str]] = {"colors": (str(values["colors"]), "input.colors")}
        if convention.mean:
            entries["mean"] = _as_numbers(convention.mean), "input.mean"
        if convention.deviation:
            entries["deviation"] = _as_numbers(convention.deviation), "input.deviation"
        if convention.size is None:
            entries["fit"] = "keep the size of the image", "input.fit"
        else:
            filled = "" if fit.mode == "stretch" else f", filled with {fit.fill:g}"
            entries["fit"] = f"{fit.mode} to {_as_size(convention.size)}{filled}", "input.fit"
        entries["boxes"] = f"{convention.box_form}, in {declared.boxes}", "outputs.boxes"
        entries["scores"] = with_activation(declared.scores, declared.activation), "outputs.scores"
        if declared.objectness:
            entries["objectness"] = with_activation(*declared.objectness), "outputs.objectness"
        entries["classes"] = classes_in_words(declared), "outputs.classes"
        if declared.count:
            entries["count"] = declared.count, "outputs.count"
        if declared.masks:
            entries["mask scores"] = with_activation(*declared.masks), "outputs.masks"
        entries["suppression"] = str(declared.suppression or "none"), "suppression"
        for about, (value, key) in entries.items():
            yield about, Decision(value, f"given by --adapter ({key})")


def usual_signature(signatures: Sequence[Signature]) -> Signature | None:
    """The signature that is called if none is named; None if that is unclear."""
    for name in PREFERRED:
        if preferred := [signature for signature in signatures if signature.name == name]:
            return preferred[0]
    others = [signature for signature in signatures if signature.name != CALL] or list(signatures)
    return others[0] if len(others) == 1 else None


def _check_input(values: Mapping[str, Any]) -> None:
    """Check keys of `input` that depend on each other. Raises ConfigError."""
    fit, given_range = values["fit"], values.get("range")
    if fit in ("letterbox", "corner") and "fill" not in values:
        raise ConfigError(
            f"--adapter: input.fill is missing: {fit} fills the rest of the input with a number in 0..255"
        )
    if fit in ("stretch", "keep") and "fill" in values:
        raise ConfigError(f"--adapter: input.fill: {fit} fills nothing; remove it, or set input.fit")
    if fit == "keep" and "size" in values:
        raise ConfigError("--adapter: input.size: keep leaves images at their size; remove it, or set input.fit")
    for key in ("mean", "deviation"):
        if key in values and given_range is None:
            raise ConfigError(f"--adapter: input.range is missing: input.{key} is in the unit of the range")
    if given_range is not None:
        low, high = INPUT_RANGES[given_range]
        if any(not low <= number <= high for number in values.get("mean", ())):
            raise ConfigError(
                f"--adapter: input.mean must lie within the input.range {given_range}, got "
                f"{_as_numbers(values['mean'])}"
            )


def _check_outputs(values: Mapping[str, Any], image: Mapping[str, Any]) -> None:
    """Check keys of `outputs` that depend on each other. Raises ConfigError."""
    if values["boxes"]["unit"] == "image-pixels" and image["fit"] != "keep":
        raise ConfigError(
            f"--adapter: outputs.boxes.unit image-pixels contradicts input.fit {image['fit']}: the network cannot know "
            "the size of an image that was fitted into its input; use input-pixels"
        )
    classes = values.get("classes", {})
    if "number" in classes and (others := sorted(set(classes) - {"number"})):
        raise ConfigError(f"--adapter: outputs.classes.number excludes outputs.classes.{others[0]}: remove one of them")
    if "tensor" not in classes:
        for key in ("columns", "transposed"):
            if key in classes:
                raise ConfigError(f"--adapter: outputs.classes.{key} needs outputs.classes.tensor")
    per_class = not {"tensor", "number"} & set(classes)
    if values["scores"]["activation"] == "softmax" and not per_class:
        raise ConfigError(
            "--adapter: outputs.scores.activation softmax needs a score per class, but outputs.classes has a "
            f"{'tensor' if 'tensor' in classes else 'number'}: remove it, or use sigmoid or none"
        )
    by_tensor: dict[str, tuple[str, bool]] = {}
    for name in ("boxes", "scores", "objectness", "classes"):
        part = values.get(name, {})
        if "columns" in part:
            first, transposed = by_tensor.setdefault(part["tensor"], (name, part.get("transposed", False)))
            if transposed != part.get("transposed", False):
                raise ConfigError(
                    f"--adapter: outputs.{first}.transposed and outputs.{name}.transposed must be equal: both are of "
                    f"{part['tensor']}"
                )
    widths = {"boxes": 4, "scores": None if per_class else 1, "objectness": 1, "classes": 1}
    for name, width in widths.items():
        part = values.get(name, {})
        if "tensor" not in part:
            continue
        columns = part_of(part)
        if columns.first is not None and columns.last is not None and columns.last < columns.first:
            raise ConfigError(f"--adapter: outputs.{name}.columns {part['columns']} end before they begin")
        if width and columns.first is not None and columns.width not in (None, width):
            raise ConfigError(
                f"--adapter: outputs.{name}.columns must be {width} column{'s' * (width > 1)}, got {part['columns']}"
            )
        if width == 1 and columns.first is not None and columns.last is None:
            raise ConfigError(f"--adapter: outputs.{name}.columns must be 1 column, got {part['columns']}")
        if width == 1 and columns.transposed and columns.first is None:
            raise ConfigError(f"--adapter: outputs.{name}.transposed needs outputs.{name}.columns")


def _labels(values: Mapping[str, Any]) -> LabelMap | None:
    """The names of class numbers that the adapter gives."""
    given = values.get("labels")
    if given is None or given == "coco":
        return None if given is None else read_label_map("coco")
    if isinstance(given, Mapping):
        names = {int(number): str(name) for number, name in given.items()}
    else:
        offset = values["outputs"].get("classes", {}).get("offset", 0)
        names = {number + offset: str(name) for number, name in enumerate(given)}
        if min(names) < 0:
            raise ConfigError(f"--adapter: labels: outputs.classes.offset {offset} gives class 0 the number {offset}")
    return LabelMap({number: ClassName(number, name) for number, name in names.items()}, _SOURCE)


def _box_form(values: Mapping[str, Any]) -> BoxForm:
    return BoxForm(values["order"], UNITS[values["unit"]])


def _fit(values: Mapping[str, Any]) -> Fit:
    return Fit() if values["fit"] in ("stretch", "keep") else Fit(values["fit"], float(values["fill"]))


def _sides(image: ImageInput) -> tuple[int | None, int | None]:
    shape = image.input.shape or (None, None, None)
    height, width = shape[-2:] if image.channels_first else shape[-3:-1]
    return height, width


def _as_size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"


def _as_numbers(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
