"""A signature's graph as it is called: bodies inside bodies, each knowing where its arguments come from, and what in
them is constant. No TensorFlow; `input_range` and `activation` look at networks through this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prelabel.detectors import wire
from prelabel.detectors.convention import CALL, Signature
from prelabel.detectors.nodes import Array, Body, Node, constant, index_of, name_of, read_body, read_functions

_CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))

#: Bodies inside bodies, and operations behind operations, are followed so far.
_DEEPEST = 60

#: Tensors of one graph that are asked whether they are constant: a few hundred, unless it was made to ask for ever.
_MOST_STEPS = 20_000

#: Operations on constants that are computed here: those with which scales and means are made.
_COMPUTED: Mapping[str, Callable[..., Array]] = {
    **dict.fromkeys(("Identity", "StopGradient", "Snapshot", "EnsureShape", "PreventGradient"), lambda x, *_: x),
    # The shape matters only where it says which axis is the channels', and vectors of three say that themselves.
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


class Functions:
    """The functions of a graph, and what has been found out about them; a graph may call one a million times."""

    def __init__(self, bodies: Mapping[str, Body]) -> None:
        self.bodies = bodies
        self.steps = 0
        self._consumers: dict[int, Mapping[str, Sequence[Node]]] = {}

    def consumers(self, body: Body) -> Mapping[str, Sequence[Node]]:
        """The nodes of a body that take something from a node or an argument, by its name."""
        known = self._consumers.get(id(body))
        if known is None:
            found: dict[str, list[Node]] = {}
            for node in body.nodes.values():
                for name in dict.fromkeys(map(name_of, node.tensors)):
                    found.setdefault(name, []).append(node)
            known = self._consumers[id(body)] = found
        return known


@dataclass(frozen=True, eq=False)
class Scope:
    """A body in the place where it is called.

    Attributes:
        body: The main graph or a function.
        functions: All of the graph.
        given: A function's argument -> the scope it is called from and the tensor given there.
        depth: How many calls it is in.
    """

    body: Body
    functions: Functions
    given: Mapping[str, tuple[Scope, str]] = field(default_factory=dict)
    depth: int = 0

    @property
    def consumers(self) -> Mapping[str, Sequence[Node]]:
        """The nodes that take something from a node or an argument, by its name."""
        return self.functions.consumers(self.body)

    def called(self, node: Node) -> Scope | None:
        """The scope that a call opens, or None where the node is no call, or one that cannot be followed."""
        name = wire.text(wire.only(node.attribute("f"), 10), 1) if node.operation in _CALLS else node.operation
        return self.inside(name, node.tensors)

    def inside(self, function: str, tensors: Sequence[str]) -> Scope | None:
        """The scope of a function that is given these tensors of this one; None where there is no such function."""
        body = self.functions.bodies.get(function)
        if body is None or self.depth >= _DEEPEST:
            return None
        given = {name: (self, tensor) for name, tensor in zip(body.arguments, tensors, strict=False)}
        return Scope(body, self.functions, given, self.depth + 1)

    def constant(self, reference: str, depth: int = 0) -> Array | None:
        """The value of a tensor that does not depend on the picture or on variables, else None."""
        node = self.body.nodes.get(name_of(reference))
        self.functions.steps += 1
        if depth > _DEEPEST or self.functions.steps > _MOST_STEPS:
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
        except (TypeError, ValueError):  # shapes or numbers of arguments that TensorFlow would refuse, too
            return None


@dataclass(frozen=True)
class Entry:
    """Where a signature's image goes into its graph, and where its outputs come out.

    Attributes:
        scope: The body in which both are.
        image: The tensor that is the image.
        outputs: Output's name -> its tensor.
    """

    scope: Scope
    image: str
    outputs: Mapping[str, str]


def enter(meta: memoryview, signature: Signature) -> Entry | None:
    """The entry of one signature of a MetaGraphDef, or None where it does not say where its tensors are.

    Raises:
        ValueError: The graph is damaged.
    """
    graph = wire.only(meta, 2)
    main = Scope(read_body(wire.messages(graph, 1)), Functions(read_functions(graph)))
    if signature.name == CALL:
        return _enter_call(wire.only(meta, 7), main, signature)
    message = wire.entries(meta, 5).get(signature.name, memoryview(b""))
    inputs = {name: wire.text(info, 1) for name, info in wire.entries(message, 1).items()}
    outputs = {name: wire.text(info, 1) for name, info in wire.entries(message, 2).items()}
    image = inputs.get(signature.inputs[0].name) if signature.inputs else None
    return Entry(main, image, outputs) if image else None


def _enter_call(objects: memoryview, main: Scope, signature: Signature) -> Entry | None:
    """Of the model's own call: a function whose last arguments are what it has captured."""
    body = main.functions.bodies.get(signature.function)
    if body is None or not body.arguments:
        return None
    nodes = list(wire.messages(objects, 1))
    traced = wire.entries(objects, 2).get(signature.function, memoryview(b""))
    captured = wire.numbers(traced, 2)
    first = len(body.arguments) - len(captured)
    given = {}
    for name, number in zip(body.arguments[max(first, 0) :], captured, strict=False):
        held = wire.text(wire.only(nodes[number], 9), 1) if 0 <= number < len(nodes) else ""
        if held:  # a constant of the main graph; variables and assets are not looked into
            given[name] = (main, held)
    outputs = {tensor.name: where for tensor, where in zip(signature.outputs, body.returned, strict=False)}
    return Entry(Scope(body, main.functions, given, 1), body.arguments[0], outputs)
