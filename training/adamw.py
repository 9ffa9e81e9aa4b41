"""AdamW with a running average of the weights."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

WEIGHT_DECAY = 0.02
SMOOTHING = 0.999


class AdamW:
    """Everything that changes with a step, the weights themselves apart.

    Args:
        weights: Variables by name; those named `.../kernel` decay.
        averages: Variables that others set, to be averaged with the weights.
    """

    def __init__(self, weights: dict[str, Any], averages: dict[str, Any]) -> None:
        self.names = sorted(weights)
        self.weights, self.averages = weights, averages
        self.sources = {**weights, **averages}
        self.first, self.second = (
            {name: tf.Variable(tf.zeros_like(weights[name]), trainable=False) for name in self.names} for _ in range(2)
        )
        self.smooth = {name: tf.Variable(value, trainable=False) for name, value in self.sources.items()}
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """Everything a checkpoint holds."""
        return {
            "weights": self.weights,
            "averages": self.averages,
            "first": self.first,
            "second": self.second,
            "smooth": self.smooth,
        }

    def apply(self, tape: Any, loss: Any, rate: Any) -> Any:
        """One step, with the gradient's norm limited to 10; returns the norm."""
        gradients = tape.gradient(loss, [self.weights[name] for name in self.names])
        gradients, norm = tf.clip_by_global_norm(gradients, 10.0)
        self.step.assign_add(1)
        t = tf.cast(self.step, tf.float32)
        fix1, fix2 = 1 - tf.pow(0.9, t), 1 - tf.pow(0.999, t)
        for name, gradient in zip(self.names, gradients, strict=True):
            first, second, variable = self.first[name], self.second[name], self.weights[name]
            first.assign(0.9 * first + 0.1 * gradient)
            second.assign(0.999 * second + 0.001 * tf.square(gradient))
            update = (first / fix1) / (tf.sqrt(second / fix2) + 1e-8)
            if name.endswith("/kernel"):
                update += WEIGHT_DECAY * variable
            variable.assign_sub(rate * update)
        keep = tf.minimum(SMOOTHING, (1 + t) / (10 + t))
        for name, value in self.smooth.items():
            value.assign(keep * value + (1 - keep) * self.sources[name])
        return norm
