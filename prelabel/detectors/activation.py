"""What a classifier's rows are, told from the last operations of its graph: probabilities, or something before them.

The output is followed backwards through everything that only hands on or reshapes it, out of called functions and into
them, to the operation that made its values.
"""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.detectors.nodes import Node, index_of, name_of
from prelabel.detectors.scopes import Entry, Scope

_HANDS_ON = frozenset(
    (
        *("Identity", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape", "CheckNumerics"),
        *("Cast", "Reshape", "Squeeze", "ExpandDims"),
    )
)

#: What a layer without an activation ends in.
_LINEAR = frozenset(
    (
        *("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv2D", "_FusedMatMul", "_FusedConv2D"),
        *("BiasAdd", "Add", "AddV2", "FusedBatchNormV3", "FusedBatchNorm"),
    )
)
#: What features end in: pooling, and activations that give no probabilities.
_FEATURES = frozenset(
    ("Mean", "Max", "Sum", "AvgPool", "MaxPool", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Tanh", "Softplus")
)

_MOST_STEPS = 500


@dataclass(frozen=True, slots=True)
class RowsEnd:
    """How a network's rows end.

    Attributes:
        activation: One of `options.ACTIVATIONS` where the graph says which, else None.
        operation: The operation that made the values, or `""` where it was not found.
        node: Its name.
    """

    activation: str | None
    operation: str
    node: str

    @property
    def is_linear(self) -> bool:
        """Whether they end in a layer without an activation: logits, or features."""
        return self.operation in _LINEAR

    @property
    def looks_like_features(self) -> bool:
        """Whether they end as features do, which are no scores of classes."""
        return self.operation in _FEATURES


def rows_end(entry: Entry, output: str) -> RowsEnd:
    """How the rows of an output end."""
    reference = entry.outputs.get(output, "")
    return _end(entry.scope, reference) if reference else RowsEnd(None, "", "")


def _end(scope: Scope, reference: str, *, of_part: bool = False) -> RowsEnd:
    for _ in range(_MOST_STEPS):
        node = scope.body.nodes.get(name_of(reference))
        if node is None:
            # An argument of the function: on in the body that calls it.
            if name_of(reference) not in scope.given:
                return RowsEnd(None, "", "")
            scope, reference = scope.given[name_of(reference)]
            continue
        inside = scope.called(node)
        if inside is not None:
            returned = inside.body.returned
            if index_of(reference) >= len(returned):
                return RowsEnd(None, node.operation, node.name)
            scope, reference = inside, returned[index_of(reference)]
        elif node.operation in _HANDS_ON and node.tensors:
            reference = node.tensors[0]
        else:
            return RowsEnd(_activation(scope, node, of_part), node.operation, node.name)
    return RowsEnd(None, "", "")


def _activation(scope: Scope, node: Node, of_part: bool) -> str | None:
    if node.operation == "Softmax":
        return "softmax"
    if node.operation in ("Sigmoid", "_FusedSigmoid"):
        return "sigmoid"
    if node.operation == "LogSoftmax":
        return "logits"  # the softmax of logarithms of probabilities are these probabilities
    if node.operation in ("RealDiv", "Div") and len(node.tensors) == 2:
        above, below = (scope.body.nodes.get(name_of(one)) for one in node.tensors)
        # As Keras writes a softmax along another axis than the last.
        if above is not None and below is not None and (above.operation, below.operation) == ("Exp", "Sum"):
            return "softmax" if name_of(below.tensors[0]) == above.name else None
    if node.operation == "ConcatV2" and not of_part:
        ends = {_end(scope, one, of_part=True).activation for one in node.tensors[:-1]}
        return "sigmoid" if ends == {"sigmoid"} else None
    return None
