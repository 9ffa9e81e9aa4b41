"""Random weights with which the outputs of a network differ; imported by scripts that run with TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def spread(layer: Any, run: Callable[[], object], deviation: float, mean: float, *, per_channel: bool = False) -> None:
    """Give a Keras layer weights with which its outputs have this deviation and mean in a run of the network.

    Args:
        layer: One with weights and maybe a bias.
        run: Runs the network.
        deviation: Of the outputs.
        mean: Of the outputs.
        per_channel: Whether each channel has this deviation and mean, so that all classes occur.
    """
    outputs: list[Any] = []
    call = layer.call

    def record(*arguments: Any, **keywords: Any) -> Any:
        outputs.append(call(*arguments, **keywords))
        return outputs[-1]

    layer.call = record
    kernel, *bias = layer.weights
    weights = np.random.default_rng(2).normal(size=kernel.shape).astype(np.float32)
    kernel.assign(weights)
    for each in bias:
        each.assign(np.zeros(each.shape, np.float32))
    run()
    layer.call = call
    values = np.concatenate([output.numpy().reshape(-1, output.shape[-1]) for output in outputs])
    axis = 0 if per_channel else None
    scale = deviation / values.std(axis=axis)
    kernel.assign(weights * scale)
    for each in bias:
        each.assign(np.broadcast_to(mean - values.mean(axis=axis) * scale, each.shape).astype(np.float32))
