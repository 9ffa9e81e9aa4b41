"""A graph's nodes and functions as they lie in a `saved_model.pb`, and its constants. No TensorFlow.

The field numbers are those of node_def, function and tensor.proto in tensorflow/core/framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from prelabel.detectors import wire

_T = TypeVar("_T")

Array = npt.NDArray[Any]

#: Types of constants that are read: their numbers in types.proto, as NumPy's; bfloat16 (14) is widened.
_NUMPY = {
    **{1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 17: "<u2", 19: "<f2"},
    **{22: "<u4", 23: "<u8"},
}
_BFLOAT16, _HALF = 14, 19

#: Field of a TensorProto that holds its values one by one, by type; half and bfloat16 are bit patterns there.
_VALUES = {1: 5, 2: 6, 3: 7, 4: 7, 5: 7, 6: 7, 9: 10, 10: 11, 14: 13, 17: 7, 19: 13, 22: 16, 23: 17}

#: Constants with more values are not looked at: what a picture is scaled by has few.
_MOST_VALUES = 1 << 16


@dataclass(frozen=True, slots=True)
class Node:
    """An operation of a graph: its name, the tensors it takes (control inputs have a `^`), its attributes unread."""

    name: str
    operation: str
    inputs: Sequence[str]
    parts: Sequence[memoryview]

    def attributes(self) -> dict[str, memoryview]:
        """Its attributes, each an AttrValue, by name."""
        return {wire.text(part, 1): wire.only(part, 2) for part in self.parts}

    def attribute(self, name: str) -> memoryview:
        """One attribute, empty where there is none."""
        return next((wire.only(part, 2) for part in self.parts if wire.text(part, 1) == name), memoryview(b""))

    @property
    def tensors(self) -> list[str]:
        """The tensors it takes, in order, without control inputs."""
        return [one for one in self.inputs if not one.startswith("^")]


@dataclass(frozen=True, slots=True)
class Body:
    """The main graph or a function.

    Attributes:
        nodes: By name.
        arguments: Names of a function's arguments, in order.
        returned: What a function returns, in order: references to its own tensors.
        implements: What it says it implements, or `""`.
    """

    nodes: Mapping[str, Node]
    arguments: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()
    implements: str = ""

    def is_own(self, reference: str, own: frozenset[str]) -> bool:
        """Whether a tensor is one of some named ones, handed on unchanged."""
        seen = set()
        while (name := name_of(reference)) not in own:
            node = self.nodes.get(name)
            if node is None or node.operation != "Identity" or not node.inputs or name in seen:
                return False
            seen.add(name)
            reference = node.inputs[0]
        return True


def name_of(reference: str) -> str:
    """The node or argument that a reference names."""
    return reference.removeprefix("^").partition(":")[0]


def index_of(reference: str) -> int:
    """Which of its outputs: `name:1` in a main graph, `name:output:1` in a function, else the first."""
    last = reference.rpartition(":")[2]
    return int(last) if ":" in reference and last.isascii() and last.isdigit() and len(last) < 6 else 0


def read_body(
    nodes: Iterable[memoryview], arguments: Sequence[str] = (), returned: Sequence[str] = (), implements: str = ""
) -> Body:
    """A body of nodes. Raises ValueError where two have one name."""
    read = ((node.name, node) for node in map(_node, nodes))
    return Body(dict(once(read)), tuple(arguments), tuple(returned), implements)


def read_function(message: memoryview) -> Body:
    """A FunctionDef."""
    signature = wire.only(message, 1)
    arguments = [wire.text(one, 1) for one in wire.messages(signature, 2)]
    outputs = [wire.text(one, 1) for one in wire.messages(signature, 3)]
    returns = {wire.text(one, 1): wire.text(one, 2) for one in wire.messages(message, 4)}
    implements = wire.text(wire.entries(message, 5).get("api_implements", memoryview(b"")), 2)
    return read_body(wire.messages(message, 3), arguments, [returns.get(name, "") for name in outputs], implements)


def read_functions(graph: memoryview) -> dict[str, Body]:
    """The functions of a GraphDef by name. Raises ValueError where two have one name."""
    functions = ((wire.text(wire.only(one, 1), 1), one) for one in wire.messages(wire.only(graph, 2), 1))
    return {name: read_function(one) for name, one in once(functions)}


def once(named: Iterable[tuple[str, _T]]) -> Iterator[tuple[str, _T]]:
    """Raises ValueError for a name that is there twice: what is looked at must be what TensorFlow takes."""
    seen = set()
    for name, value in named:
        if name in seen:
            raise ValueError(f"two nodes or functions of one name, {name[:80]!r}")
        seen.add(name)
        yield name, value


def constant(node: Node) -> Array | None:
    """The value of a `Const`, or None where it is of a type or size that is not read."""
    tensor = wire.only(node.attribute("value"), 8)
    kind = wire.number(tensor, 1)
    shape = [wire.number(dim, 1) for dim in wire.messages(wire.only(tensor, 2), 2)]
    size = 1
    for side in shape:
        size *= side
    if kind not in _VALUES or not 0 < size <= _MOST_VALUES or min(shape, default=1) < 1:
        return None
    content = bytes(wire.only(tensor, 4))
    values = _from_bytes(content, kind) if content else _one_by_one(tensor, kind)
    if values is None or not 0 < len(values) <= size:
        return None
    # Of values that are all the same, or end so, only the first ones are written down.
    return np.concatenate([values, np.repeat(values[-1:], size - len(values))]).reshape(shape)


def _from_bytes(content: bytes, kind: int) -> Array | None:
    if kind == _BFLOAT16:
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4") if len(content) % 2 == 0 else None
    dtype = np.dtype(_NUMPY[kind])
    return np.frombuffer(content, dtype) if len(content) % dtype.itemsize == 0 else None


def _one_by_one(tensor: memoryview, kind: int) -> Array | None:
    found: list[int] = []
    raw = b""
    for number, value in wire.fields(tensor):
        if number == _VALUES[kind]:
            if isinstance(value, int):
                found.append(value)
            elif kind in (1, 2):
                raw += bytes(value)  # packed or not, the bytes are those of the numbers
            else:
                found += wire.packed(value)
    if kind in (1, 2):
        return _from_bytes(raw, kind)
    if kind in (_HALF, _BFLOAT16):
        return _from_bytes(np.array(found, np.uint64).astype("<u2").tobytes(), kind)
    return np.array(found, np.uint64).astype(np.int64).astype(_NUMPY[kind])


def _node(message: memoryview) -> Node:
    # In one pass: a network has tens of thousands of nodes.
    found: dict[int, list[memoryview]] = {1: [], 2: [], 3: [], 5: []}
    for number, value in wire.fields(message):
        if number in found and not isinstance(value, int):
            found[number].append(value)
    names, operations, inputs = ([str(one, "utf-8", "replace") for one in found[number]] for number in (1, 2, 3))
    return Node("".join(names[-1:]), "".join(operations[-1:]), inputs, found[5])
