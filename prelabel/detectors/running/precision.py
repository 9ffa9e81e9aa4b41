"""Half-precision convolutions: whether they are faster on this machine, and how a graph is rewritten to use them.

`lower_precision_type` returns the type in which this machine computes faster than in float32. `lower` rewrites a
constant graph, with the convolutions that `most_rewarding` chooses by their `work_per_convolution`. TensorFlow's own
rewriting also lowers whatever lies between convolutions: box coordinates are then computed with eight binary digits,
and boxes jump by pixels. Here only a convolution and its bias are lowered; the input is rounded before them and the
output widened after them. Convolutions that do much work and have few other convolutions behind them go first: work
brings the speed, and everything computed from a rounded result carries its error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prelabel.detectors.conventions.graph import name_of
from prelabel.detectors.running.network import FrozenGraph

#: Processor flags of bfloat16 instructions; without these it is emulated, which is slower than float32.
_BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))

#: Compute capability of the first GPUs with tensor cores for float16.
_FLOAT16_GPU = (7, 0)

#: Height and width of the image on which the convolutions' work is counted, the same in all workers.
_COUNTED_SIZE = (480, 640)

#: How much deeper in branches and loops a node's outputs are nested than its inputs. Nested nodes may not run.
_DEPTH_CHANGE = {"Switch": 1, "Enter": 1, "Merge": -1, "Exit": -2}


def lower_precision_type(tf: Any, cpu_flags: frozenset[str] | None = None) -> str | None:
    """The half-precision type in which this process computes faster than in float32, or None.

    TensorFlow may be configured not to use what the processor supports, so one convolution is tried.

    Args:
        tf: TensorFlow, configured. If a GPU is visible, the processor does not matter.
        cpu_flags: Flags of the processor; None reads them.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        is_supported = all((gpu.get("compute_capability") or (0, 0)) >= _FLOAT16_GPU for gpu in details)
        return "float16" if is_supported else None
    flags = processor_flags() if cpu_flags is None else cpu_flags
    return "bfloat16" if flags & _BFLOAT16_FLAGS and _can_convolve(tf.bfloat16, tf) else None


def _can_convolve(numbers: Any, tf: Any) -> bool:
    try:
        tf.nn.conv2d(tf.ones([1, 8, 8, 8], numbers), tf.ones([3, 3, 8, 8], numbers), 1, "SAME")
    except tf.errors.OpError:
        return False
    return True


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The flags of the first processor; empty if the system does not list them."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, values = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(values.split())
    except OSError:
        pass
    return frozenset()


def work_per_convolution(frozen: FrozenGraph, tf: Any) -> dict[str, float]:
    """The number of multiplications per convolution with constant weights, by node name, for one gray image.

    Convolutions inside branches and loops are neither counted nor lowered: whether they run depends on the image.
    """
    names = _always_run(frozen.graph)
    if not names:
        return {}
    sizes = {name: _shapes(name, tf) for name in names}
    network = frozen.network(tf, sizes)
    spec = frozen.input_spec(tf)
    height, width = (fixed or default for fixed, default in zip(spec.shape[-3:-1], _COUNTED_SIZE, strict=True))
    gray = np.full((*[1] * (len(spec.shape) - 3), height, width, 3), 128 if spec.dtype == tf.uint8 else 0.5)
    values = network(tf.constant(gray, spec.dtype))
    work = {}
    for name in names:
        _, out_height, out_width, _, *weights = (float(n) for n in values[name].numpy())
        work[name] = out_height * out_width * float(np.prod(weights))
    return work


def most_rewarding(frozen: FrozenGraph, work: Mapping[str, float], share: float) -> frozenset[str]:
    """The convolutions to lower first, until they do `share` of all work.

    Those with the most work, relative to the number of convolutions behind them, come first.

    Args:
        frozen: The graph that contains them.
        work: From `work_per_convolution`.
        share: Share of the work, 0..1.
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
    """The graph with these convolutions in half precision, and with them the biases and paddings that only they use.

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
            # The image is rounded before it is padded, so that TensorFlow can still fuse padding and convolution.
            source = copied(before, [narrowed(before.input[0]), before.input[1]])
        else:
            source = narrowed(image)
        result, last = copied(node, [source, narrowed(weights)]), node
        bias = biases[node.name]
        if bias is not None:
            added = next(tensor for tensor in bias.input if tensor != node.name)
            result, last = copied(bias, [result, narrowed(added)]), bias
        cast(result, last.name, narrow=False)
    return replace(frozen, graph=graph)


def _shapes(name: str, tf: Any) -> Any:
    def make(graph: Any) -> Any:
        node = graph.get_operation_by_name(name)
        return tf.concat([tf.shape(node.outputs[0]), tf.shape(node.inputs[1])], 0)

    return make


def _users(frozen: FrozenGraph) -> dict[str, list[str]]:
    """The names of the nodes that use each node's outputs; `""` stands for an output of the graph."""
    users: dict[str, list[str]] = defaultdict(list)
    for node in frozen.graph.node:
        for tensor in node.input:
            users[name_of(tensor)].append(node.name)
    for tensor in frozen.outputs.values():
        users[name_of(tensor)].append("")
    return users


def _behind(frozen: FrozenGraph, names: Collection[str]) -> Iterator[int]:
    """Per node in `names`, how many of the others depend on its outputs, directly or indirectly."""
    users = _users(frozen)
    for name in names:
        seen, stack = {name}, [name]
        while stack:
            new = set(users[stack.pop()]) - seen
            seen |= new
            stack.extend(new)
        yield sum(other in seen for other in names) - 1


def _bias(name: str, nodes: Mapping[str, Any], users: Mapping[str, list[str]]) -> Any:
    """The node that adds a constant bias to a convolution, if nothing else uses the convolution, else None."""
    if len(users[name]) != 1:
        return None
    node = nodes.get(users[name][0])
    if node is None or node.op not in ("AddV2", "Add", "BiasAdd") or len(node.input) != 2 or name not in node.input:
        return None
    (other,) = [tensor for tensor in node.input if tensor != name] or [None]
    constant = nodes.get(other) if other else None
    return node if constant is not None and constant.op == "Const" else None


def _always_run(graph: Any) -> list[str]:
    """The float32 convolutions with constant weights that run for every image, in the order of the graph."""
    nodes = {node.name: node for node in graph.node}
    depth: dict[str, int] = {}
    for start in nodes:
        stack = [start]
        while stack:
            name = stack[-1]
            node = nodes[name]
            before = [name_of(tensor) for tensor in node.input]
            outer = [other for other in before if nodes[other].op != "NextIteration"]  # the back edge of a loop
            missing = [other for other in outer if other not in depth]
            if missing and name not in depth:
                stack.extend(missing)
                continue
            stack.pop()
            has_back_edge = len(outer) < len(before)
            change = 0 if has_back_edge else _DEPTH_CHANGE.get(node.op, 0)
            depth[name] = max((depth[other] for other in outer), default=0) + change
    return [
        node.name
        for node in graph.node
        if node.op == "Conv2D"
        and node.attr["T"].type == 1  # DT_FLOAT
        and node.attr["data_format"].s in (b"", b"NHWC")
        and depth[node.name] == 0
        and nodes[name_of(node.input[1])].op == "Const"
    ]
