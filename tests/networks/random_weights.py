"""Random weights with which the outputs of a network differ; imported by scripts that run with TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def spread(layer: Any, run: Callable[[], object], deviation: float, mean: float) -> None:
    """Give a Keras layer weights with which each channel of its outputs has this deviation and mean in a run.

    With one scale for all channels, random weights would give nearly all detections to one class.
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
    scale = deviation / values.std(axis=0)
    kernel.assign(weights * scale)
    for each in bias:
        each.assign(mean - values.mean(axis=0) * scale)
