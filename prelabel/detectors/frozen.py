"""A network as one constant graph: its variables have become constants, and only what the wanted outputs need is left.

Grappler folds constants it can see: batch normalisation behind a convolution disappears into it. The graph is kept
beside the models, so that the next worker neither reads the checkpoint nor traces anything.

A kept graph is one line of JSON (what it is made of, its checksum, its feed and outputs) and the bytes of a GraphDef.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prelabel.detectors.cache import cache_root
from prelabel.detectors.convention import Convention
from prelabel.storage import Storage

#: An input tensor -> output tensors by name.
Network = Callable[[Any], Mapping[str, Any]]

#: Counts ways of freezing; a graph kept by another one is made again.
_WAY = 2

_LONGEST_HEADER = 1 << 16


@dataclass(frozen=True, slots=True)
class FrozenGraph:
    """A constant graph.

    Attributes:
        graph: A GraphDef.
        feed: Name of the tensor that takes the image.
        outputs: Output's name -> name of its tensor.
    """

    graph: Any
    feed: str
    outputs: Mapping[str, str]

    def network(self, tf: Any, further: Mapping[str, Callable[[Any], Any]] | None = None) -> Network:
        """The graph as a function of the image.

        Args:
            tf: TensorFlow.
            further: Name -> what makes a further output of the imported graph.

        Raises:
            ValueError: It is no valid graph.
        """
        v1 = tf.compat.v1

        def build(image: Any) -> dict[str, Any]:
            fetched = v1.import_graph_def(
                self.graph, input_map={self.feed: image}, return_elements=list(self.outputs.values()), name=""
            )
            graph = v1.get_default_graph()
            return {
                **dict(zip(self.outputs, fetched, strict=True)),
                **{name: make(graph) for name, make in (further or {}).items()},
            }

        # Not tf.function: what it adds to keep side effects in order gets in the way of lowered loops.
        return cast("Network", v1.wrap_function(build, [self.takes(tf)]))

    def takes(self, tf: Any) -> Any:
        """What the feed takes, as a TensorSpec."""
        node = next(node for node in self.graph.node if node.name == self.feed.partition(":")[0])
        shape = [None if dim.size < 0 else dim.size for dim in node.attr["shape"].shape.dim]
        return tf.TensorSpec(shape, tf.dtypes.as_dtype(node.attr["dtype"].type))


def freeze(network: Network, spec: Any, wanted: Sequence[str], tf: Any) -> FrozenGraph:
    """The constant graph of a network.

    Args:
        network: Of the loaded model.
        spec: What it takes, as a TensorSpec.
        wanted: Names of its outputs that are needed.
        tf: TensorFlow.

    Raises:
        ValueError: It depends on something else than its input and its variables, a table for example.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    @tf.function(input_signature=[spec], autograph=False)  # type: ignore[untyped-decorator]
    def needed(image: Any) -> list[Any]:
        answer = network(image)
        return [answer[name] for name in wanted]

    frozen = convert_variables_to_constants_v2(needed.get_concrete_function())
    if len(frozen.inputs) != 1:
        raise ValueError(f"the graph needs {[one.name for one in frozen.inputs[1:]]} beside the image")
    outputs = {name: tensor.name for name, tensor in zip(wanted, frozen.outputs, strict=True)}
    return FrozenGraph(frozen.graph.as_graph_def(), frozen.inputs[0].name, outputs)


def freeze_tf1(path: Path, tags: Sequence[str], convention: Convention, wanted: Sequence[str], tf: Any) -> FrozenGraph:
    """The constant graph of a TF1 model, whose variables may be of the kind that TF2 functions cannot capture.

    Args:
        path: The model's folder.
        tags: Of the graph in it.
        convention: Which signature is asked for, and its image.
        wanted: Names of its outputs that are needed.
        tf: TensorFlow.

    Raises:
        ValueError: A variable cannot be had.
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(config=v1.ConfigProto(device_count={"GPU": 0})) as session:
        meta = v1.saved_model.load(session, list(tags), str(path))
        signature = meta.signature_def[convention.signature]
        feed = signature.inputs[convention.input.name].name
        outputs = {name: signature.outputs[name].name for name in wanted}
        nodes = sorted({tensor.partition(":")[0] for tensor in outputs.values()})
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), nodes)
    return FrozenGraph(frozen, feed, outputs)


def folded(frozen: FrozenGraph, tf: Any) -> FrozenGraph:
    """The same graph with everything computed that can be computed now, and nothing that is not needed.

    TensorFlow does the same when it first runs a graph. Done before, it is done once, a graph with half the nodes is
    kept, and whoever wants to change the graph sees the constants.
    """
    from tensorflow.core.protobuf import config_pb2, device_properties_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import cluster, tf_optimizer

    off = rewriter_config_pb2.RewriterConfig.OFF
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.min_graph_nodes = -1  # small graphs, too
    # These two bind a graph to the device it will run on, which is known when it runs.
    rewrite.layout_optimizer = rewrite.remapping = off
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.import_graph_def(frozen.graph, name="")
    meta = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    meta.collection_def["train_op"].node_list.value.extend([frozen.feed, *frozen.outputs.values()])
    # Without a made-up device it would start a session, and take memory, on the devices there are.
    cpu = device_properties_pb2.NamedDevice(
        name="/device:CPU:0", properties=device_properties_pb2.DeviceProperties(type="CPU", num_cores=1, frequency=2000)
    )
    optimized = tf_optimizer.OptimizeGraph(config, meta, cluster=cluster.Cluster(devices=[cpu]))
    # Folded constants wait for what they were computed from; an image is there before anything runs.
    waits = f"^{frozen.feed.partition(':')[0]}"
    for node in optimized.node:
        if waits in node.input:
            kept = [one for one in node.input if one != waits]
            del node.input[:]
            node.input.extend(kept)
    return FrozenGraph(optimized, frozen.feed, frozen.outputs)


def key_of(fingerprint: str, wanted: Sequence[str], tf: Any) -> dict[str, Any]:
    """What a kept graph was made of: it serves only where all of this is the same."""
    return {"way": _WAY, "fingerprint": fingerprint, "tensorflow": tf.__version__, "wanted": list(wanted)}


def kept_at(key: Mapping[str, Any], cache_dir: str | os.PathLike[str] | None) -> Path:
    """Where the graph of that key is kept."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_root(cache_dir).parent / "frozen" / f"{key['fingerprint'][:16]}-{digest[:16]}.pb"


def read_kept(path: Path, key: Mapping[str, Any]) -> FrozenGraph | None:
    """The kept graph, or None where there is none, it was made of something else, or a byte of it is wrong."""
    from tensorflow.core.framework import graph_pb2

    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(_LONGEST_HEADER))
            data = file.read()
        if header["key"] != key or header["sha256"] != hashlib.sha256(data).hexdigest():
            return None
        return FrozenGraph(graph_pb2.GraphDef.FromString(data), header["feed"], header["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(frozen: FrozenGraph, path: Path, key: Mapping[str, Any]) -> None:
    """Write a graph whole or not at all; nothing happens where the cache cannot be written.

    Graphs of the same model for another TensorFlow are removed: nobody asks for them again.
    """
    try:
        data = frozen.graph.SerializeToString()
    except ValueError:  # protocol buffers end at 2 GB
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
            return str(json.loads(file.readline(_LONGEST_HEADER))["key"]["tensorflow"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
