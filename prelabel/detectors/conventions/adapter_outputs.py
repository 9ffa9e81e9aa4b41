"""The outputs that an adapter names, compared with those of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from prelabel.detectors.conventions.convention import FLOATS, INTEGERS
from prelabel.detectors.conventions.declared_outputs import DeclaredOutputs, Part, Suppression
from prelabel.detectors.conventions.protos import Tensor
from prelabel.errors import DetectorError

_NUMBERS = (*FLOATS, *INTEGERS, "int8", "uint32", "uint64")
_MASKS = (*_NUMBERS, "bool")


def refuse(key: str, text: str) -> NoReturn:
    """Raise DetectorError about a key of an adapter that does not fit the model."""
    raise DetectorError(f"--adapter: {key}: {text}")


@dataclass(frozen=True)
class DeclaredBy:
    """What an adapter says about the outputs of a signature.

    Attributes:
        values: The content of the adapter.
        tensors: The outputs of the signature by name.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def outputs(self) -> tuple[DeclaredOutputs, tuple[str, ...]]:
        """What the outputs mean, and notes.

        Raises:
            DetectorError: The signature has no such output, or one of another type or shape; the message names the key
                and the outputs.
        """
        values = self.values["outputs"]
        classes, objectness, masks = (values.get(name) for name in ("classes", "objectness", "masks"))
        classes = classes or {}
        has_tensor, per_class = "tensor" in classes, not {"tensor", "number"} & set(classes)
        names = has_tensor and self._tensor("classes").dtype == "string"
        if names and {"offset", "background"} & set(classes):
            refuse("outputs.classes", f"the output {self._tensor('classes')} has names, which have no offset")
        suppression = self.values["suppression"]
        count = values.get("count")
        if count is not None:
            self._require("count", _NUMBERS, (0, 1, 2), "one number")
        if masks is not None:
            kinds = _MASKS if masks["activation"] == "none" else FLOATS
            self._require("masks", kinds, (3, 4), "[N, height, width]")
        declared = DeclaredOutputs(
            boxes=self._part("boxes", FLOATS, 2, 4),
            scores=self._part("scores", FLOATS, 2 if per_class else 1, None if per_class else 1),
            activation=values["scores"]["activation"],
            objectness=(self._part("objectness", FLOATS, 1, 1), objectness["activation"]) if objectness else None,
            classes=self._part("classes", ("string",) if names else _NUMBERS, 1, 1) if has_tensor else None,
            has_names=names,
            number=classes.get("number"),
            offset=classes.get("offset", 0),
            background=classes.get("background"),
            count=None if count is None else count["tensor"],
            masks=None if masks is None else (masks["tensor"], masks["activation"]),
            suppression=None
            if suppression == "none"
            else Suppression(suppression["iou"], suppression["classes"] == "separate", suppression.get("max")),
        )
        return declared, tuple(self._unused_columns(declared))

    def _tensor(self, name: str) -> Tensor:
        tensor = self.values["outputs"][name]["tensor"]
        if tensor not in self.tensors:
            refuse(f"outputs.{name}.tensor", f"the model has no output {tensor!r}; it has {self._listing()}")
        return self.tensors[tensor]

    def _listing(self) -> str:
        return ", ".join(map(str, self.tensors.values())) or "none"

    def _require(self, name: str, dtypes: Sequence[str], ranks: tuple[int, ...], form: str) -> Tensor:
        tensor = self._tensor(name)
        if not tensor.may_be(dtypes, ranks):
            kind = "numbers" if tensor.dtype in dtypes else f"{'text' if dtypes == ('string',) else dtypes[0]}"
            refuse(f"outputs.{name}", f"the output must have {kind} of shape {form}, but it is {tensor}")
        return tensor

    def _part(self, name: str, dtypes: Sequence[str], rank: int, width: int | None) -> Part:
        """An output or its columns, which have this rank without a leading dimension of 1, and this width."""
        part = part_of(self.values["outputs"][name])
        needed = part.rank(rank)
        form = {1: "[N]", 2: "[N, columns]"}[needed] if not part.transposed else "[columns, N]"
        tensor = self._require(name, dtypes, (needed, needed + 1), form)
        if needed != 2 or tensor.shape is None:
            return part
        rows, columns = tensor.shape[-2:] if not part.transposed else tensor.shape[:-3:-1]
        last = part.last if part.last is not None else part.first
        if columns is not None and last is not None and last >= columns:
            refuse(f"outputs.{name}.columns", f"the output has {columns} columns ({tensor}), numbered from 0")
        if part.first is None and width is not None and columns not in (None, width):
            refuse(f"outputs.{name}.columns", f"name which {width} of the {columns} columns of {tensor} to use")
        is_open = part.first is not None and part.last is None
        if is_open and width is not None and columns is not None and columns - (part.first or 0) != width:
            refuse(f"outputs.{name}.columns", f"name which {width} columns of {tensor} to use")
        is_stated = "transposed" in self.values["outputs"][name]
        if rows is not None and columns is not None and rows < columns and not is_stated and part.first is not None:
            refuse(
                f"outputs.{name}.transposed",
                f"of {tensor}, the last dimension is the larger one; give true if it counts boxes, else false",
            )
        return part

    def _unused_columns(self, declared: DeclaredOutputs) -> Iterator[str]:
        """Notes on columns of outputs that are used only in part."""
        parts = [declared.boxes, declared.scores, declared.classes, *(declared.objectness or ())[:1]]
        by_tensor: dict[str, list[Part]] = {}
        for part in parts:
            if isinstance(part, Part):
                by_tensor.setdefault(part.tensor, []).append(part)
        for name, of_tensor in by_tensor.items():
            shape = self.tensors[name].shape
            if shape is None or any(part.first is None for part in of_tensor):
                continue
            columns = shape[-2] if of_tensor[0].transposed else shape[-1]
            if columns is None:
                continue
            used: set[int] = set()
            for part in of_tensor:
                used.update(range(part.first or 0, columns if part.last is None else part.last + 1))
            unused = [column for column in range(columns) if column not in used]
            if unused:
                listed = ", ".join(map(str, unused[:5])) + (", ..." if len(unused) > 5 else "")
                yield f"columns of the output {name} are not used: {listed} ({len(unused)} of {columns})"


def part_of(values: Mapping[str, Any]) -> Part:
    """The output, or the columns of it, that a key of `outputs` names."""
    columns, transposed = values.get("columns"), values.get("transposed", False)
    if columns is None:
        return Part(values["tensor"], transposed=transposed)
    first, _, last = str(columns).partition("..")
    stop = first if isinstance(columns, int) else last
    return Part(values["tensor"], int(first), int(stop) if stop else None, transposed)


def roles_of(declared: DeclaredOutputs) -> dict[str, str]:
    """The outputs by role, as in `Convention.outputs`."""
    numbers = declared.scores if declared.classes is None or declared.has_names else declared.classes
    roles = {"boxes": declared.boxes.tensor, "scores": declared.scores.tensor, "numbers": numbers.tensor}
    if declared.has_names:
        del roles["numbers"]
    if declared.objectness:
        roles["objectness"] = declared.objectness[0].tensor
    if declared.count:
        roles["count"] = declared.count
    if declared.masks:
        roles["masks"] = declared.masks[0]
    return roles


def ranks_of(declared: DeclaredOutputs) -> dict[str, int]:
    """The outputs that are used, each with its number of dimensions for one image."""
    per_class = 2 if declared.has_class_scores else 1
    ranks = {declared.boxes.tensor: declared.boxes.rank(2), declared.scores.tensor: declared.scores.rank(per_class)}
    if declared.classes is not None:
        ranks[declared.classes.tensor] = declared.classes.rank(1)
    if declared.objectness:
        ranks[declared.objectness[0].tensor] = declared.objectness[0].rank(1)
    if declared.count:
        ranks[declared.count] = 0
    if declared.masks:
        ranks[declared.masks[0]] = 3
    return ranks


def with_activation(part: Part | str, activation: str) -> str:
    """An output and its activation in words."""
    return f"{part}" if activation == "none" else f"{activation} of {part}"


def classes_in_words(declared: DeclaredOutputs) -> str:
    """Where class numbers come from, in words."""
    if declared.number is not None:
        return f"class {declared.number} for every box"
    text = "the best column of the scores" if declared.classes is None else str(declared.classes)
    text += f" plus {declared.offset}" if declared.offset else ""
    return text + (f", without {declared.background} (background)" if declared.background is not None else "")
