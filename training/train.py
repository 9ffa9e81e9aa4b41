"""Train the network of `demo-shapes`.

    python training/train.py --cache /tmp/scenes --checkpoint /tmp/demo_shapes_ckpt --steps 14000

Started again with the same `--checkpoint` it goes on where it stopped, with other batches than it saw before.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import checkpoint
import numpy as np
import tensorflow as tf
from data import batches
from evaluate import evaluate
from export import Detector
from loss import losses
from network import TrainableConvs, forward, mask_weights

from prelabel.synth.shapes import CLASS_NAMES

PEAK_RATE = 2e-3
WEIGHT_DECAY = 0.02
WARM_UP = 300
SMOOTHING = 0.999
PLAN = [(16, 320), (16, 320), (7, 512)]
HELD_OUT_SEED = 770001


class Trainer:
    """Network, AdamW and the running average of the weights, with one compiled step for each size of batch."""

    def __init__(self, seed: int) -> None:
        self.convs = TrainableConvs(seed)
        self.convs.training = False
        outputs = forward(self.convs, tf.zeros([1, 64, 64, 3]), len(CLASS_NAMES))
        mask_weights(self.convs, outputs.cells[0])
        self.convs.training = True
        self.names = sorted(self.convs.weights)
        self.variables = [self.convs.weights[name] for name in self.names]
        self.first, self.second = (
            {name: tf.Variable(tf.zeros_like(self.convs.weights[name]), trainable=False) for name in self.names}
            for _ in range(2)
        )
        everything = {**self.convs.weights, **self.convs.averages}
        self.smooth = {name: tf.Variable(value, trainable=False) for name, value in everything.items()}
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """Everything a checkpoint holds."""
        return {
            "weights": self.convs.weights,
            "averages": self.convs.averages,
            "first": self.first,
            "second": self.second,
            "smooth": self.smooth,
        }

    def numpy(self) -> dict[str, dict[str, np.ndarray]]:
        """The same as arrays."""
        return {group: {k: v.numpy() for k, v in values.items()} for group, values in self.groups.items()}

    def restore(self, path: Path) -> None:
        """Take everything from a checkpoint."""
        groups, step = checkpoint.load(path)
        for group, values in self.groups.items():
            for name, variable in values.items():
                # What the architecture has gained since the checkpoint starts as it is.
                if name in groups[group]:
                    variable.assign(groups[group][name])
        self.step.assign(step)

    @tf.function(reduce_retracing=False)
    def train(self, images: Any, instance_maps: Any, classes: Any, xyxy: Any, rate: Any) -> Any:
        """One step of AdamW with the gradient's norm limited to 10; returns the losses as a vector."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.variables)
            outputs = forward(self.convs, tf.cast(images, tf.float32) / 127.5 - 1.0, len(CLASS_NAMES))
            parts = losses(self.convs, outputs, instance_maps, classes, xyxy)
        gradients, norm = tf.clip_by_global_norm(tape.gradient(parts.total, self.variables), 10.0)
        self.step.assign_add(1)
        t = tf.cast(self.step, tf.float32)
        fix1, fix2 = 1 - tf.pow(0.9, t), 1 - tf.pow(0.999, t)
        for name, variable, gradient in zip(self.names, self.variables, gradients, strict=True):
            first, second = self.first[name], self.second[name]
            first.assign(0.9 * first + 0.1 * gradient)
            second.assign(0.999 * second + 0.001 * tf.square(gradient))
            update = (first / fix1) / (tf.sqrt(second / fix2) + 1e-8)
            if name.endswith("/kernel"):
                update += WEIGHT_DECAY * variable
            variable.assign_sub(rate * update)
        keep = tf.minimum(SMOOTHING, (1 + t) / (10 + t))
        for name, value in self.smooth.items():
            source = self.convs.weights[name] if name in self.convs.weights else self.convs.averages[name]
            value.assign(keep * value + (1 - keep) * source)
        return tf.stack([*parts, norm])


def _rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP)
    return PEAK_RATE * warm * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(1.0, step / steps))))


def main() -> None:
    """Train until the last step, with a checkpoint and a small evaluation every so often."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, required=True, help="Scenes drawn by training/data.py.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Directory for checkpoints and the log.")
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--evaluate-every", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(arguments.seed)
    trainer = Trainer(arguments.seed)
    latest = arguments.checkpoint / "latest.npz"
    if latest.exists():
        trainer.restore(latest)
    start = step = int(trainer.step.numpy())
    started, recent = time.monotonic(), []
    with (arguments.checkpoint / "log.jsonl").open("a") as log:

        def note(**values: Any) -> None:
            log.write(json.dumps({"step": step, "seconds": round(time.monotonic() - started), **values}) + "\n")
            log.flush()

        for batch in batches(arguments.cache, arguments.seed + start, PLAN):
            if step >= arguments.steps:
                break
            recent.append(
                trainer.train(*map(tf.constant, batch), tf.constant(_rate(step, arguments.steps), tf.float32))
            )
            step += 1
            if step % 50 == 0:
                total, score, box, distance, mask, norm = np.mean([v.numpy() for v in recent], axis=0).round(4).tolist()
                note(loss=total, score=score, box=box, distance=distance, mask=mask, norm=norm)
                recent.clear()
            if step % arguments.save_every == 0 or step == arguments.steps:
                checkpoint.save(latest, trainer.numpy(), step)
            if step % arguments.evaluate_every == 0 or step == arguments.steps:
                scores = evaluate(Detector(trainer.numpy()["smooth"]), HELD_OUT_SEED, 100)
                note(**{name: value for name, value in scores.items() if "/" not in name})


if __name__ == "__main__":
    main()
