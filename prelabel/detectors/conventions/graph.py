"""Walk a model's graph, across function calls, and evaluate its constants. Needs no TensorFlow.

A graph consists of bodies of nodes: the main graph and its functions (`GraphBody`, `Node`). A `Scope` is a body at the
place where it is called, so that arguments can be followed to their origin, and calls to their functions. `enter`
returns the scope of a signature with its image and outputs; the modules for the input range, the activation and the
working size start there. The field numbers are those of node_def, function and tensor.proto in
tensorflow/core/framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from prelabel import protobuf
from prelabel.detectors.conventions.protos import CALL, Signature, chosen_meta_graph, open_saved_model

_T = TypeVar("_T")
Array = npt.NDArray[Any]

CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))

#: Limit of nested calls, and of operations in a chain.
_MAX_DEPTH = 60

#: Limit of tensors per graph that are checked for being constant. A few hundred are usual; a hostile graph has more.
_MAX_STEPS = 20_000

#: NumPy types of the supported constants, by their numbers in types.proto; bfloat16 (14) is handled separately.
_NUMPY = {
    **{1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 17: "<u2", 19: "<f2"},
    **{22: "<u4", 23: "<u8"},
}
_BFLOAT16, _HALF = 14, 19

#: The field of a TensorProto with its individual values, by type; float16 and bfloat16 are bit patterns there.
_VALUES = {1: 5, 2: 6, 3: 7, 4: 7, 5: 7, 6: 7, 9: 10, 10: 11, 14: 13, 17: 7, 19: 13, 22: 16, 23: 17}

#: Larger constants are ignored: factors and means of images have few values.
_MAX_VALUES = 1 << 16

#: Operations on constants that are evaluated: those that occur in factors and means.
_COMPUTED: Mapping[str, Callable[..., Array]] = {
    **dict.fromkeys(("Identity", "StopGradient", "Snapshot", "EnsureShape", "PreventGradient"), lambda x, *_: x),
    # The shape matters only to identify the axis of channels, and vectors of three identify it themselves.
    **dict.fromkeys(("Reshape", "ExpandDims", "Squeeze", "Cast"), lambda x, *_: x),
    **dict.fromkeys(("Add", "AddV2"), np.add),
    **dict.fromkeys(("RealDiv", "Div", "DivNoNan"), np.divide),
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    **dict.fromkeys(("Reciprocal", "Inv"), lambda x: 1 / x),
    "Square": np.square,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Pack": lambda *parts: np.stack([part.reshape(()) for part in parts]),
}


@dataclass(frozen=True)
class Entry:
    """The tensors of a signature's image and outputs in its graph.

    Attributes:
        scope: The body that contains them.
        image: The tensor of the image.
        outputs: Name of each output -> its tensor.
    """

    scope: Scope
    image: str
    outputs: Mapping[str, str]


def enter(meta: memoryview, signature: Signature) -> Entry | None:
    """The entry of a signature of a MetaGraphDef, or None if it does not name its tensors.

    Raises:
        ValueError: The graph is corrupt.
    """
    main = main_scope(protobuf.only(meta, 2))
    if signature.name == CALL:
        return _enter_call(protobuf.only(meta, 7), main, signature)
    message = protobuf.entry(meta, 5, signature.name)
    inputs = {name: protobuf.text(info, 1) for name, info in protobuf.entries(message, 1).items()}
    outputs = {name: protobuf.text(info, 1) for name, info in protobuf.entries(message, 2).items()}
    image = inputs.get(signature.inputs[0].name) if signature.inputs else None
    return Entry(main, image, outputs) if image else None


@contextmanager
def entry_of(folder: Path, signature: Signature) -> Iterator[Entry | None]:
    """The entry of a signature of the model in a folder; see `enter`. It must not be used after the block.

    Raises:
        DetectorError: The model is corrupt.
    """
    with open_saved_model(folder) as data:
        yield enter(chosen_meta_graph(data)[1], signature)


def _enter_call(objects: memoryview, main: Scope, signature: Signature) -> Entry | None:
    """The entry of the model's own call: a function whose last arguments are the tensors it has captured."""
    body = main.functions.bodies.get(signature.function)
    if body is None or not body.arguments:
        return None
    nodes = list(protobuf.messages(objects, 1))
    captured = protobuf.numbers(protobuf.entry(objects, 2, signature.function), 2)
    first = len(body.arguments) - len(captured)
    given = {}
    for name, number in zip(body.arguments[max(first, 0) :], captured, strict=False):
        constant_name = protobuf.text(protobuf.only(nodes[number], 9), 1) if 0 <= number < len(nodes) else ""
        if constant_name:  # a constant of the main graph; variables and assets are not followed
            given[name] = (main, constant_name)
    outputs = {tensor.name: reference for tensor, reference in zip(signature.outputs, body.returned, strict=False)}
    return Entry(Scope(body, main.functions, given, 1), body.arguments[0], outputs)


def main_scope(graph: memoryview) -> Scope:
    """The main graph of a GraphDef. Raises ValueError if it is corrupt."""
    main = GraphBody(_nodes(graph, 1))
    functions = _unique(
        (protobuf.text(protobuf.only(f, 1), 1), f) for f in protobuf.messages(protobuf.only(graph, 2), 1)
    )
    return Scope(main, Functions({name: _function(message) for name, message in functions}))


@dataclass(frozen=True, eq=False)
class Scope:
    """A body at the place where it is called.

    Attributes:
        body: The main graph or a function.
        functions: All functions of the graph.
        given: Name of each argument -> the calling scope, and the tensor that is passed there.
        depth: Number of nested calls.
    """

    body: GraphBody
    functions: Functions
    given: Mapping[str, tuple[Scope, str]] = field(default_factory=dict)
    depth: int = 0

    def called(self, node: Node) -> Scope | None:
        """The scope of the function that a node calls; None if it calls none, or one that cannot be followed."""
        return self.inside(node.function("f") if node.operation in CALLS else node.operation, node.tensors)

    def inside(self, function: str, tensors: Sequence[str]) -> Scope | None:
        """The scope of a function called with these tensors of this scope; None if there is no such function."""
        body = self.functions.bodies.get(function)
        if body is None or self.depth >= _MAX_DEPTH:
            return None
        given = {name: (self, tensor) for name, tensor in zip(body.arguments, tensors, strict=False)}
        return Scope(body, self.functions, given, self.depth + 1)

    def constant(self, reference: str, depth: int = 0) -> Array | None:
        """The value of a tensor, or None if it depends on the image or on variables."""
        node = self.body.nodes.get(name_of(reference))
        self.functions.steps += 1
        if depth > _MAX_DEPTH or self.functions.steps > _MAX_STEPS:
            return None
        if node is None:
            scope, outer = self.given.get(name_of(reference), (None, ""))
            return scope.constant(outer, depth + 1) if scope is not None else None
        if node.operation == "Const":
            return constant(node)
        callee = self.called(node)
        if callee is not None:
            index = index_of(reference)
            returned = callee.body.returned
            return callee.constant(returned[index], depth + 1) if index < len(returned) else None
        compute = _COMPUTED.get(node.operation)
        if compute is None or index_of(reference):
            return None
        values = []
        for tensor in node.tensors:
            value = self.constant(tensor, depth + 1)
            if value is None:
                return None
            values.append(value.astype(np.float64) if value.dtype.kind in "fiub" else value)
        try:
            with np.errstate(all="ignore"):
                return np.asarray(compute(*values))
        except (TypeError, ValueError):  # shapes or numbers of arguments that TensorFlow refuses, too
            return None


@dataclass(eq=False)
class Functions:
    """The functions of a graph by name, and the number of tensors that were checked for being constant."""

    bodies: Mapping[str, GraphBody]
    steps: int = 0


@dataclass(frozen=True)
class GraphBody:
    """The main graph or a function.

    Attributes:
        nodes: Its nodes by name.
        arguments: Names of a function's arguments, in order.
        returned: References to the tensors that a function returns, in order.
        implements: Name of the interface that a function implements, or `""`.
    """

    nodes: Mapping[str, Node]
    arguments: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()
    implements: str = ""

    @cached_property
    def consumers(self) -> Mapping[str, Sequence[Node]]:
        """The nodes that use an output of a node or an argument, by its name. Cached, as a body may be called often."""
        consumers: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in dict.fromkeys(map(name_of, node.tensors)):
                consumers.setdefault(name, []).append(node)
        return consumers

    def is_own(self, reference: str, own: frozenset[str]) -> bool:
        """Whether a tensor is one of those named in `own`, passed on unchanged."""
        seen = set()
        while (name := name_of(reference)) not in own:
            node = self.nodes.get(name)
            if node is None or node.operation != "Identity" or not node.inputs or name in seen:
                return False
            seen.add(name)
            reference = node.inputs[0]
        return True


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph: name, operation, inputs (control inputs begin with `^`), attributes as bytes."""

    name: str
    operation: str
    inputs: Sequence[str]
    parts: Sequence[memoryview]

    def attributes(self) -> dict[str, memoryview]:
        """Its attributes by name, as AttrValue messages."""
        return {protobuf.text(part, 1): protobuf.only(part, 2) for part in self.parts}

    def attribute(self, name: str) -> memoryview:
        """One attribute, as an AttrValue message; empty if absent."""
        return next((protobuf.only(part, 2) for part in self.parts if protobuf.text(part, 1) == name), memoryview(b""))

    def function(self, attribute: str) -> str:
        """The function that an attribute names, or `""`."""
        return protobuf.text(protobuf.only(self.attribute(attribute), 10), 1)

    def type(self, attribute: str) -> int:
        """The type in an attribute, as its number in types.proto."""
        return protobuf.number(self.attribute(attribute), 6)

    @property
    def tensors(self) -> list[str]:
        """Its inputs, in order, without control inputs."""
        return [reference for reference in self.inputs if not reference.startswith("^")]


def name_of(reference: str) -> str:
    """The name of the node or argument in a reference to a tensor."""
    return reference.removeprefix("^").partition(":")[0]


def index_of(reference: str) -> int:
    """The index of the output in a reference: 1 for `name:1` (main graph) and `name:output:1` (function), else 0."""
    last = reference.rpartition(":")[2]
    return int(last) if ":" in reference and last.isascii() and last.isdigit() and len(last) < 6 else 0


def _function(message: memoryview) -> GraphBody:
    signature = protobuf.only(message, 1)
    arguments = tuple(protobuf.text(argument, 1) for argument in protobuf.messages(signature, 2))
    outputs = [protobuf.text(output, 1) for output in protobuf.messages(signature, 3)]
    returns = {protobuf.text(pair, 1): protobuf.text(pair, 2) for pair in protobuf.messages(message, 4)}
    implements = protobuf.text(protobuf.entry(message, 5, "api_implements"), 2)
    return GraphBody(_nodes(message, 3), arguments, tuple(returns.get(name, "") for name in outputs), implements)


def _nodes(message: memoryview, field: int) -> dict[str, Node]:
    return dict(_unique((node.name, node) for node in map(_node, protobuf.messages(message, field))))


def _unique(named: Iterable[tuple[str, _T]]) -> Iterator[tuple[str, _T]]:
    """Pass on pairs, and raise ValueError for a duplicate name: the audit must see the same nodes as TensorFlow."""
    seen = set()
    for name, value in named:
        if name in seen:
            raise ValueError(f"two nodes or functions with the name {name[:80]!r}")
        seen.add(name)
        yield name, value


def _node(message: memoryview) -> Node:
    # In one pass, since a graph may have tens of thousands of nodes.
    values: dict[int, list[memoryview]] = {1: [], 2: [], 3: [], 5: []}
    for number, value in protobuf.fields(message):
        if number in values and not isinstance(value, int):
            values[number].append(value)
    names, operations, inputs = ([str(text, "utf-8", "replace") for text in values[number]] for number in (1, 2, 3))
    return Node("".join(names[-1:]), "".join(operations[-1:]), inputs, values[5])


def constant(node: Node) -> Array | None:
    """The value of a `Const`, or None if its type or size is not supported."""
    tensor = protobuf.only(node.attribute("value"), 8)
    kind = protobuf.number(tensor, 1)
    shape = [protobuf.number(dim, 1) for dim in protobuf.messages(protobuf.only(tensor, 2), 2)]
    size = 1
    for side in shape:
        size *= side
    if kind not in _VALUES or not 0 < size <= _MAX_VALUES or min(shape, default=1) < 1:
        return None
    content = bytes(protobuf.only(tensor, 4))
    values = _from_bytes(content, kind) if content else _from_values(tensor, kind)
    if values is None or not 0 < len(values) <= size:
        return None
    # A repeated last value is stored only once.
    return np.concatenate([values, np.repeat(values[-1:], size - len(values))]).reshape(shape)


def _from_bytes(content: bytes, kind: int) -> Array | None:
    if kind == _BFLOAT16:
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4") if len(content) % 2 == 0 else None
    dtype = np.dtype(_NUMPY[kind])
    return np.frombuffer(content, dtype) if len(content) % dtype.itemsize == 0 else None


def _from_values(tensor: memoryview, kind: int) -> Array | None:
    values: list[int] = []
    raw = b""
    for number, value in protobuf.fields(tensor):
        if number == _VALUES[kind]:
            if isinstance(value, int):
                values.append(value)
            elif kind in (1, 2):
                raw += bytes(value)  # the same bytes, whether packed or not
            else:
                values += protobuf.packed(value)
    if kind in (1, 2):
        return _from_bytes(raw, kind)
    if kind in (_HALF, _BFLOAT16):
        return _from_bytes(np.array(values, np.uint64).astype("<u2").tobytes(), kind)
    return np.array(values, np.uint64).astype(np.int64).astype(_NUMPY[kind])
