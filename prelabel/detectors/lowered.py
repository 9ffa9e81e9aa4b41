"""Convolutions in numbers of half the size, everything else as it was.

TensorFlow's own rewriting lowers whatever lies between convolutions, too: the arithmetic on box coordinates then has
eight binary digits, and boxes jump by pixels. Here a convolution and its bias alone are lowered, their input is
rounded before and their output widened behind them. Those with most work for each convolution behind them go first:
work brings the speed, and whatever is computed from a rounded result carries its error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prelabel.detectors.frozen import FrozenGraph

#: Pixels of the picture on which the convolutions' work is counted, the same in every worker.
_COUNTED_ON = (480, 640)

#: How many branches and loops deeper a node's outputs lie than its inputs. What lies in one may not run.
_DEEPER = {"Switch": 1, "Enter": 1, "Merge": -1, "Exit": -2}


def work_of(frozen: FrozenGraph, tf: Any) -> dict[str, float]:
    """Multiplications of each convolution with constant weights, by node, on one grey picture.

    Convolutions inside branches and loops are not counted, nor lowered: whether they run depends on the picture.
    """
    names = _always_run(frozen.graph)
    if not names:
        return {}
    sizes = {name: _shapes(name, tf) for name in names}
    network = frozen.network(tf, sizes)
    spec = frozen.takes(tf)
    height, width = (own or usual for own, usual in zip(spec.shape[-3:-1], _COUNTED_ON, strict=True))
    grey = np.full((*[1] * (len(spec.shape) - 3), height, width, 3), 128 if spec.dtype == tf.uint8 else 0.5)
    answer = network(tf.constant(grey, spec.dtype))
    work = {}
    for name in names:
        _, out_height, out_width, _, *weights = (float(n) for n in answer[name].numpy())
        work[name] = out_height * out_width * float(np.prod(weights))
    return work


def rewarding(frozen: FrozenGraph, work: Mapping[str, float], share: float) -> frozenset[str]:
    """Convolutions that do so much of all work, those with most work for each convolution behind them first.

    Args:
        frozen: The graph they are in.
        work: From `work_of`.
        share: 0..1.
    """
    chosen, done, total = [], 0.0, sum(work.values())
    reward = {
        name: amount / (1 + behind) for (name, amount), behind in zip(work.items(), _behind(frozen, work), strict=True)
    }
    for name in sorted(work, key=lambda name: (-reward[name], name)):
        if done >= share * total:
            break
        chosen.append(name)
        done += work[name]
    return frozenset(chosen)


def lower(frozen: FrozenGraph, convolutions: frozenset[str], numbers: str, tf: Any) -> FrozenGraph:
    """The graph with these convolutions, and the biases and paddings that belong to them alone, in another type.

    Args:
        frozen: A graph in float32.
        convolutions: Names of Conv2D nodes.
        numbers: `"bfloat16"` or `"float16"`.
        tf: TensorFlow.
    """
    graph = type(frozen.graph)()
    graph.versions.CopyFrom(frozen.graph.versions)
    graph.library.CopyFrom(frozen.graph.library)
    nodes = {node.name: node for node in frozen.graph.node}
    users = _users(frozen)
    rounded: dict[str, str] = {}
    types = {True: getattr(tf, numbers).as_datatype_enum, False: tf.float32.as_datatype_enum}

    def cast(source: str, name: str, *, narrow: bool) -> str:
        node = graph.node.add(name=name, op="Cast", input=[source])
        node.attr["SrcT"].type, node.attr["DstT"].type = types[not narrow], types[narrow]
        return name

    def narrowed(tensor: str) -> str:
        if tensor not in rounded:
            rounded[tensor] = cast(tensor, f"{tensor.replace(':', '_')}/{numbers}", narrow=True)
        return rounded[tensor]

    def copied(node: Any, inputs: list[str]) -> str:
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"{node.name}/in_{numbers}"
        copy.attr["T"].type = types[True]
        del copy.input[:]
        copy.input.extend(inputs)
        return str(copy.name)

    biases = {name: _bias(name, nodes, users) for name in convolutions}
    with_bias = {bias.name for bias in biases.values() if bias is not None}
    for node in frozen.graph.node:
        if node.name in with_bias:
            continue
        if node.name not in convolutions:
            graph.node.add().CopyFrom(node)
            continue
        image, weights = node.input[:2]
        before = nodes.get(image)
        if before is not None and before.op == "Pad" and len(before.input) == 2:
            # Padded after it is rounded, so that padding and convolution can still become one operation.
            source = copied(before, [narrowed(before.input[0]), before.input[1]])
        else:
            source = narrowed(image)
        result, last = copied(node, [source, narrowed(weights)]), node
        bias = biases[node.name]
        if bias is not None:
            added = next(one for one in bias.input if one != node.name)
            result, last = copied(bias, [result, narrowed(added)]), bias
        cast(result, last.name, narrow=False)
    return replace(frozen, graph=graph)


def _shapes(name: str, tf: Any) -> Any:
    def make(graph: Any) -> Any:
        node = graph.get_operation_by_name(name)
        return tf.concat([tf.shape(node.outputs[0]), tf.shape(node.inputs[1])], 0)

    return make


def _users(frozen: FrozenGraph) -> dict[str, list[str]]:
    """Node -> those that use its outputs; an output of the graph is a use without a node's name."""
    users: dict[str, list[str]] = defaultdict(list)
    for node in frozen.graph.node:
        for tensor in node.input:
            users[_node_of(tensor)].append(node.name)
    for tensor in frozen.outputs.values():
        users[_node_of(tensor)].append("")
    return users


def _behind(frozen: FrozenGraph, names: Collection[str]) -> Iterator[int]:
    """For each of these nodes, how many others of them compute with what it says, directly or not."""
    users = _users(frozen)
    for name in names:
        seen, stack = {name}, [name]
        while stack:
            new = set(users[stack.pop()]) - seen
            seen |= new
            stack.extend(new)
        yield sum(other in seen for other in names) - 1


def _bias(name: str, nodes: Mapping[str, Any], users: Mapping[str, list[str]]) -> Any:
    """The addition of a constant row that is the only use of a convolution, or None."""
    if len(users[name]) != 1:
        return None
    node = nodes.get(users[name][0])
    if node is None or node.op not in ("AddV2", "Add", "BiasAdd") or len(node.input) != 2 or name not in node.input:
        return None
    (other,) = [one for one in node.input if one != name] or [None]
    constant = nodes.get(other) if other else None
    return node if constant is not None and constant.op == "Const" else None


def _always_run(graph: Any) -> list[str]:
    """Float32 convolutions with constant weights that run on every picture, in the graph's order."""
    nodes = {node.name: node for node in graph.node}
    depth: dict[str, int] = {}
    for start in nodes:
        stack = [start]
        while stack:
            name = stack[-1]
            node = nodes[name]
            before = [_node_of(tensor) for tensor in node.input]
            outer = [one for one in before if nodes[one].op != "NextIteration"]  # a loop's way back
            missing = [one for one in outer if one not in depth]
            if missing and name not in depth:
                stack.extend(missing)
                continue
            stack.pop()
            of_loop = len(outer) < len(before)
            deeper = 0 if of_loop else _DEEPER.get(node.op, 0)
            depth[name] = max((depth[one] for one in outer), default=0) + deeper
    return [
        node.name
        for node in graph.node
        if node.op == "Conv2D"
        and node.attr["T"].type == 1  # DT_FLOAT
        and node.attr["data_format"].s in (b"", b"NHWC")
        and depth[node.name] == 0
        and nodes[_node_of(node.input[1])].op == "Const"
    ]


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]
