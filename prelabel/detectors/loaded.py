"""A model's network as TensorFlow loads it: a function that computes the wanted outputs only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prelabel.detectors import runtime
from prelabel.detectors.convention import CALL, Convention
from prelabel.detectors.frozen import Network
from prelabel.detectors.prepare import PreparedModel
from prelabel.errors import DetectorError
from prelabel.storage import describe

#: What TensorFlow raises for a damaged model or graph depends on where it stumbles.
STUMBLES = (OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, AssertionError)


def as_loaded(model: PreparedModel, wanted: Sequence[str], tf: Any) -> tuple[Any, Network]:
    """The loaded model, which must be kept as long as its network is used, and the network.

    Raises:
        DetectorError: TensorFlow cannot load it.
    """
    hub = runtime.tensorflow_hub()
    try:
        loaded = hub.load(str(model.local.path), tags=list(model.graph.chosen_tags))
        return loaded, _network(loaded, model.convention, wanted, tf)
    except (tf.errors.OpError, *STUMBLES) as error:
        raise DetectorError(f"{model.local.path}: TensorFlow cannot load this model: {describe(error)}") from error


def spec_of(convention: Convention, tf: Any) -> Any:
    """What the network takes, as a TensorSpec."""
    return tf.TensorSpec(convention.input.shape, getattr(tf, convention.input.dtype))


def is_tf1(loaded: Any, convention: Convention) -> bool:
    """Whether the network comes from a graph of TF1, whose signatures can be cut."""
    return convention.signature != CALL and hasattr(loaded.signatures[convention.signature], "prune")


def _network(loaded: Any, convention: Convention, wanted: Sequence[str], tf: Any) -> Network:
    """A function of one tensor that computes the wanted outputs and nothing else.

    Of a TF1 graph the rest is cut off. A TF2 signature is wrapped in a function that returns the wanted outputs only;
    TensorFlow inlines the call and drops what leads nowhere else.
    """
    if convention.signature == CALL:
        call = loaded
    else:
        signature = loaded.signatures[convention.signature]
        if is_tf1(loaded, convention):
            feed = next(one for one in signature.inputs if one.dtype != tf.resource)
            outputs = {name: signature.structured_outputs[name] for name in wanted}
            pruned = signature.prune(feed, outputs)

            def run(image: Any) -> Mapping[str, Any]:
                answer: Mapping[str, Any] = pruned(image)
                return answer

            return run

        def call(image: Any) -> Any:
            return signature(**{convention.input.name: image})

    spec = spec_of(convention, tf)

    def needed(image: Any) -> dict[str, Any]:
        answer = call(image)
        if not isinstance(answer, Mapping):
            parts = answer if isinstance(answer, tuple | list) else [answer]
            answer = {f"output_{i}": part for i, part in enumerate(parts)}
        return {name: answer[name] for name in wanted}

    network: Network = tf.function(needed, input_signature=[spec], autograph=False).get_concrete_function()
    return network
