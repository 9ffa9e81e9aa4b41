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
from adamw import AdamW
from data import batches
from evaluate import evaluate
from export import Detector
from loss import losses
from network import TrainableConvs, forward, mask_weights

from prelabel.synth.shapes import CLASS_NAMES

PEAK_RATE = 2e-3
WARM_UP = 300
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
        self.adamw = AdamW(self.convs.weights, self.convs.averages)

    @tf.function(reduce_retracing=False)
    def train(self, images: Any, instance_maps: Any, classes: Any, xyxy: Any, rate: Any) -> Any:
        """One step of AdamW; returns the losses as a vector."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([self.convs.weights[name] for name in self.adamw.names])
            outputs = forward(self.convs, tf.cast(images, tf.float32) / 127.5 - 1.0, len(CLASS_NAMES))
            parts = losses(self.convs, outputs, instance_maps, classes, xyxy)
        norm = self.adamw.apply(tape, parts.total, rate)
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
        trainer.adamw.step.assign(checkpoint.restore(latest, trainer.adamw.groups))
    start = step = int(trainer.adamw.step.numpy())
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
                checkpoint.save(latest, trainer.adamw.groups, step)
            if step % arguments.evaluate_every == 0 or step == arguments.steps:
                smooth = {name: value.numpy() for name, value in trainer.adamw.smooth.items()}
                scores = evaluate(Detector(smooth), HELD_OUT_SEED, 100)
                note(**{name: value for name, value in scores.items() if "/" not in name})


if __name__ == "__main__":
    main()
