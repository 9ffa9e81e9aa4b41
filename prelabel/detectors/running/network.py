"""A model's network as a function that computes the wanted outputs only: as loaded, or as one constant graph.

In a constant graph, variables are constants, and only the nodes that the wanted outputs need are left. Grappler folds
constants: batch normalization after a convolution becomes part of it. The graph is cached beside the models, so
that the next worker neither reads the checkpoint nor traces the model. A cached graph is one line of JSON (its key, its
checksum, its feed and outputs), followed by the bytes of a GraphDef.

Two private modules of TensorFlow are used here and nowhere else; the reasons are given at their imports.
`tests/detectors/running/test_network.py` fails if they have moved.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.graph import name_of
from prelabel.detectors.conventions.protos import CALL
from prelabel.detectors.conventions.resolve_model import PreparedModel
from prelabel.detectors.models.cache import cache_root
from prelabel.errors import DetectorError
from prelabel.storage.address import describe
from prelabel.storage.files import Storage

#: An input tensor -> output tensors by name.
Network = Callable[[Any], Mapping[str, Any]]

#: Errors that TensorFlow raises for a corrupt model or graph, depending on what it meets first.
LOAD_ERRORS = (OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, AssertionError)

#: Version of how graphs are frozen; a graph that was cached by another version is made again.
_FREEZE_VERSION = 2

_MAX_HEADER_BYTES = 1 << 16


def load_network(model: PreparedModel, wanted: Sequence[str], tf: Any) -> tuple[Any, Network]:
    """Load a model. Returns the loaded object, which must live as long as the network is used, and the network.

    Raises:
        DetectorError: TensorFlow cannot load the model.
    """
    try:
        # For a local folder, `hub.load` only adds `tags=[]` for hub modules, and those are their `chosen_tags`.
        loaded = tf.saved_model.load(str(model.local.path), tags=list(model.graph.chosen_tags))
        return loaded, _network(loaded, model.convention, wanted, tf)
    except (tf.errors.OpError, *LOAD_ERRORS) as error:
        raise DetectorError(f"{model.local.path}: TensorFlow cannot load this model: {describe(error)}") from error


def input_spec(convention: Convention, tf: Any) -> Any:
    """The TensorSpec of the network's input."""
    return tf.TensorSpec(convention.input.shape, getattr(tf, convention.input.dtype))


def is_tf1(loaded: Any, convention: Convention) -> bool:
    """Whether the network comes from a TF1 graph, whose signatures can be pruned."""
    return convention.signature != CALL and hasattr(loaded.signatures[convention.signature], "prune")


def _network(loaded: Any, convention: Convention, wanted: Sequence[str], tf: Any) -> Network:
    """A function of one tensor that computes the wanted outputs and nothing else.

    A TF1 graph is pruned. A TF2 signature is wrapped in a function that returns the wanted outputs only; TensorFlow
    inlines the call and drops everything else.
    """
    if convention.signature == CALL:
        call = loaded
    else:
        signature = loaded.signatures[convention.signature]
        if is_tf1(loaded, convention):
            feed = next(tensor for tensor in signature.inputs if tensor.dtype != tf.resource)
            outputs = {name: signature.structured_outputs[name] for name in wanted}
            pruned = signature.prune(feed, outputs)

            def run(image: Any) -> Mapping[str, Any]:
                values: Mapping[str, Any] = pruned(image)
                return values

            return run

        def call(image: Any) -> Any:
            return signature(**{convention.input.name: image})

    spec = input_spec(convention, tf)

    def needed(image: Any) -> dict[str, Any]:
        values = call(image)
        if not isinstance(values, Mapping):
            parts = values if isinstance(values, tuple | list) else [values]
            values = {f"output_{i}": part for i, part in enumerate(parts)}
        return {name: values[name] for name in wanted}

    network: Network = tf.function(needed, input_signature=[spec], autograph=False).get_concrete_function()
    return network


@dataclass(frozen=True, slots=True)
class FrozenGraph:
    """A constant graph.

    Attributes:
        graph: The GraphDef.
        feed: Name of the input tensor.
        outputs: Name of each output -> name of its tensor.
    """

    graph: Any
    feed: str
    outputs: Mapping[str, str]

    def network(self, tf: Any, extra: Mapping[str, Callable[[Any], Any]] | None = None) -> Network:
        """The graph as a function of the image.

        Args:
            tf: TensorFlow.
            extra: Additional outputs: name -> function that makes the output from the imported graph.

        Raises:
            ValueError: The graph is not valid.
        """
        v1 = tf.compat.v1

        def build(image: Any) -> dict[str, Any]:
            fetched = v1.import_graph_def(
                self.graph, input_map={self.feed: image}, return_elements=list(self.outputs.values()), name=""
            )
            graph = v1.get_default_graph()
            return {
                **dict(zip(self.outputs, fetched, strict=True)),
                **{name: make(graph) for name, make in (extra or {}).items()},
            }

        # Not tf.function: the control dependencies that it adds break lowered loops.
        return cast("Network", v1.wrap_function(build, [self.input_spec(tf)]))

    def input_spec(self, tf: Any) -> Any:
        """The TensorSpec of the input."""
        node = next(node for node in self.graph.node if node.name == name_of(self.feed))
        shape = [None if dim.size < 0 else dim.size for dim in node.attr["shape"].shape.dim]
        return tf.TensorSpec(shape, tf.dtypes.as_dtype(node.attr["dtype"].type))


def freeze(network: Network, spec: Any, wanted: Sequence[str], tf: Any) -> FrozenGraph:
    """Turn a network into a constant graph.

    Args:
        network: The network of the loaded model.
        spec: The TensorSpec of its input.
        wanted: Names of the outputs that are needed.
        tf: TensorFlow.

    Raises:
        ValueError: The network depends on something other than its input and its variables, a table for example.
    """
    # Private, since the public function of that name is for TF1 and needs a session. TF Lite's converter uses this one.
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    @tf.function(input_signature=[spec], autograph=False)  # type: ignore[untyped-decorator]
    def needed(image: Any) -> list[Any]:
        values = network(image)
        return [values[name] for name in wanted]

    frozen = convert_variables_to_constants_v2(needed.get_concrete_function())
    if len(frozen.inputs) != 1:
        raise ValueError(f"the graph has inputs other than the image: {[tensor.name for tensor in frozen.inputs[1:]]}")
    outputs = {name: tensor.name for name, tensor in zip(wanted, frozen.outputs, strict=True)}
    return FrozenGraph(frozen.graph.as_graph_def(), frozen.inputs[0].name, outputs)


def freeze_tf1(path: Path, tags: Sequence[str], convention: Convention, wanted: Sequence[str], tf: Any) -> FrozenGraph:
    """Turn a TF1 model into a constant graph. Its variables may be of a kind that TF2 functions cannot capture.

    Args:
        path: The model's folder.
        tags: Tags of the graph in it.
        convention: The signature to call, and its input.
        wanted: Names of the outputs that are needed.
        tf: TensorFlow.

    Raises:
        ValueError: A variable cannot be read.
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(config=v1.ConfigProto(device_count={"GPU": 0})) as session:
        meta = v1.saved_model.load(session, list(tags), str(path))
        signature = meta.signature_def[convention.signature]
        feed = signature.inputs[convention.input.name].name
        outputs = {name: signature.outputs[name].name for name in wanted}
        nodes = sorted({name_of(tensor) for tensor in outputs.values()})
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), nodes)
    return FrozenGraph(frozen, feed, outputs)


def fold_constants(frozen: FrozenGraph, tf: Any) -> FrozenGraph:
    """The same graph with all constant expressions computed, and without nodes that are not needed.

    TensorFlow does the same when it first runs a graph. Done here, it is done once: the cached graph has half of the
    nodes, and code that rewrites the graph sees the constants.
    """
    from tensorflow.core.protobuf import config_pb2, device_properties_pb2, rewriter_config_pb2

    # Private, since the public API optimizes graphs only as they run, and does not return the result.
    from tensorflow.python.grappler import cluster, tf_optimizer

    off = rewriter_config_pb2.RewriterConfig.OFF
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.min_graph_nodes = -1  # optimize small graphs, too
    # These two specialize a graph for its device, which is only known when the graph runs.
    rewrite.layout_optimizer = rewrite.remapping = off
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.import_graph_def(frozen.graph, name="")
    meta = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    meta.collection_def["train_op"].node_list.value.extend([frozen.feed, *frozen.outputs.values()])
    # Without a synthetic device, it would start a session on the real devices, and allocate their memory.
    cpu = device_properties_pb2.NamedDevice(
        name="/device:CPU:0", properties=device_properties_pb2.DeviceProperties(type="CPU", num_cores=1, frequency=2000)
    )
    optimized = tf_optimizer.OptimizeGraph(config, meta, cluster=cluster.Cluster(devices=[cpu]))
    # Folded constants keep control dependencies on their former inputs. A dependency on the image is always satisfied.
    dependency = f"^{name_of(frozen.feed)}"
    for node in optimized.node:
        if dependency in node.input:
            inputs = [name for name in node.input if name != dependency]
            del node.input[:]
            node.input.extend(inputs)
    return FrozenGraph(optimized, frozen.feed, frozen.outputs)


def frozen_key(fingerprint: str, wanted: Sequence[str], tf: Any) -> dict[str, Any]:
    """The key of a cached graph: the graph is used only if all of these are equal."""
    return {"way": _FREEZE_VERSION, "fingerprint": fingerprint, "tensorflow": tf.__version__, "wanted": list(wanted)}


def frozen_path(key: Mapping[str, Any], cache_dir: str | os.PathLike[str] | None) -> Path:
    """The file of the cached graph with this key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_root(cache_dir).parent / "frozen" / f"{key['fingerprint'][:16]}-{digest[:16]}.pb"


def read_frozen(path: Path, key: Mapping[str, Any]) -> FrozenGraph | None:
    """The cached graph, or None if there is none, if it has another key, or if it is corrupt."""
    from tensorflow.core.framework import graph_pb2

    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(_MAX_HEADER_BYTES))
            data = file.read()
        if header["key"] != key or header["sha256"] != hashlib.sha256(data).hexdigest():
            return None
        return FrozenGraph(graph_pb2.GraphDef.FromString(data), header["feed"], header["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_frozen(frozen: FrozenGraph, path: Path, key: Mapping[str, Any]) -> None:
    """Write a graph to the cache, completely or not at all. Does nothing if the cache cannot be written.

    Graphs of the same model for other versions of TensorFlow are removed.
    """
    try:
        data = frozen.graph.SerializeToString()
    except ValueError:  # protocol buffers are limited to 2 GB
        return
    header = {
        "key": dict(key),
        "sha256": hashlib.sha256(data).hexdigest(),
        "feed": frozen.feed,
        "outputs": dict(frozen.outputs),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Storage().publish(str(path), json.dumps(header).encode() + b"\n" + data)
        for other in path.parent.glob(f"{key['fingerprint'][:16]}-*.pb"):
            if other != path and _tensorflow_of(other) != key["tensorflow"]:
                other.unlink(missing_ok=True)
    except OSError:
        return


def _tensorflow_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return str(json.loads(file.readline(_MAX_HEADER_BYTES))["key"]["tensorflow"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
