"""Detect the activation of a classifier's output from the last operations of its graph, and apply activations.

The output is followed backwards, into and out of functions, through operations that only pass on or reshape it, to the
operation that computed its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detectors.conventions.graph import Entry, Node, Scope, index_of, name_of

_PASSES_ON = frozenset(
    (
        *("Identity", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape", "CheckNumerics"),
        *("Cast", "Reshape", "Squeeze", "ExpandDims"),
    )
)

#: Last operations of a layer without an activation.
_LINEAR = frozenset(
    (
        *("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv2D", "_FusedMatMul", "_FusedConv2D"),
        *("BiasAdd", "Add", "AddV2", "FusedBatchNormV3", "FusedBatchNorm"),
    )
)
#: Last operations of feature vectors: pooling, and activations that do not return probabilities.
_FEATURES = frozenset(
    ("Mean", "Max", "Sum", "AvgPool", "MaxPool", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Tanh", "Softplus")
)

_DIVISIONS = frozenset(("RealDiv", "Div", "DivNoNan"))
#: What `tf.clip_by_value` consists of; the first input is what is clipped.
_CLIPS = frozenset(("Minimum", "Maximum", "ClipByValue"))

_MOST_STEPS = 500


@dataclass(frozen=True, slots=True)
class RowsEnd:
    """The operation that computed the rows of an output.

    Attributes:
        activation: One of `options.ACTIVATIONS` if the operation is one, else None.
        operation: Type of the operation, or `""` if it was not found.
        node: Name of its node.
    """

    activation: str | None
    operation: str
    node: str

    @property
    def is_linear(self) -> bool:
        """Whether the rows come from a layer without an activation: logits, or features."""
        return self.operation in _LINEAR

    @property
    def looks_like_features(self) -> bool:
        """Whether the rows end as feature vectors do, which are not class scores."""
        return self.operation in _FEATURES


def rows_end(entry: Entry, output: str) -> RowsEnd:
    """Find the operation that computed the rows of an output."""
    return _end(entry.scope, entry.outputs.get(output, ""))


def is_normalized_by_division(entry: Entry, output: str) -> bool:
    """Whether an output joins the results of divisions, as boxes do that were divided by the size of the image.

    The boxes may be clipped afterwards.
    """
    origin = _origin(entry.scope, entry.outputs.get(output, ""))
    for _ in range(2):
        if origin is not None and origin[1].operation in _CLIPS:
            origin = _origin(origin[0], origin[1].tensors[0])
    if origin is None or origin[1].operation != "ConcatV2":
        return False
    scope, joined = origin
    parts = [_origin(scope, part) for part in joined.tensors[:-1]]
    return bool(parts) and all(part is not None and part[1].operation in _DIVISIONS for part in parts)


def _end(scope: Scope, reference: str, *, of_part: bool = False) -> RowsEnd:
    origin = _origin(scope, reference)
    if origin is None:
        return RowsEnd(None, "", "")
    scope, node = origin
    return RowsEnd(_activation(scope, node, of_part), node.operation, node.name)


def _origin(scope: Scope, reference: str) -> tuple[Scope, Node] | None:
    """The operation that computed the values of a tensor, with its scope; None if it was not found."""
    for _ in range(_MOST_STEPS):
        node = scope.body.nodes.get(name_of(reference))
        if node is None:
            # An argument of the function: continue in the body that calls it.
            if name_of(reference) not in scope.given:
                return None
            scope, reference = scope.given[name_of(reference)]
            continue
        inside = scope.called(node)
        if inside is not None:
            returned = inside.body.returned
            if index_of(reference) >= len(returned):
                return scope, node
            scope, reference = inside, returned[index_of(reference)]
        elif node.operation in _PASSES_ON and node.tensors:
            reference = node.tensors[0]
        else:
            return scope, node
    return None


def _activation(scope: Scope, node: Node, of_part: bool) -> str | None:
    if node.operation == "Softmax":
        return "softmax"
    if node.operation in ("Sigmoid", "_FusedSigmoid"):
        return "sigmoid"
    if node.operation == "LogSoftmax":
        return "logits"  # the softmax of the logarithms of probabilities returns the probabilities
    if node.operation in ("RealDiv", "Div") and len(node.tensors) == 2:
        dividend, divisor = (scope.body.nodes.get(name_of(tensor)) for tensor in node.tensors)
        # Keras writes a softmax along an axis other than the last like this.
        if dividend is not None and divisor is not None and (dividend.operation, divisor.operation) == ("Exp", "Sum"):
            return "softmax" if name_of(divisor.tensors[0]) == dividend.name else None
    if node.operation == "ConcatV2" and not of_part:
        ends = {_end(scope, part, of_part=True).activation for part in node.tensors[:-1]}
        return "sigmoid" if ends == {"sigmoid"} else None
    return None


def sigmoid(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The sigmoid of each value, in float32 or wider."""
    floats = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    return np.asarray(0.5 * (1 + np.tanh(floats / 2)))


def softmax(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The softmax over the last axis. Rows that are not finite stay so."""
    logits = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
