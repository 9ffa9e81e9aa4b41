"""Train the second look of `demo-shapes` (`refine.py`) on the features of a trained network, which stays as it is.

    python training/train_refine.py --cache /tmp/scenes --checkpoint /tmp/demo_shapes_ckpt --steps 5000

Takes `latest.npz` of the checkpoint, writes `refine.npz` beside it, and goes on from there when started again. The
features of a batch are computed once and looked at several times, each time at other boxes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import checkpoint
import numpy as np
import tensorflow as tf
from adamw import AdamW
from data import Batch, batches
from evaluate import evaluate
from export import Detector
from loss import overlap, spread_cross_entropy
from network import EARLY, NECK, FoldedConvs, TrainableConvs, cell_centres, decode_boxes, forward
from refine import PLACES, places, refine

from prelabel.synth.shapes import CLASS_NAMES

HELD_OUT_SEED = 770001
WARM_UP = 200
PLAN = [(16, 320), (7, 512)]
FOUND_PER_IMAGE = 48
LOOKS_PER_IMAGE = 24
LOOKS_PER_BATCH = 5
KEPT_BATCHES = 200
FAIR_IOU = 0.5
LARGE_SIDE = 96.0
LARGE_WEIGHT = 2.0


class Seen(NamedTuple):
    """A batch of B pictures as the network sees them, with F boxes each, drawn at random by their scores.

    Attributes:
        early: `(B, S/4, S/4, EARLY)` float16.
        pyramid: `(B, S/8, S/8, NECK)` float16.
        found: `(B, F, 4)` boxes, pixels.
        cells: `(B, F, NECK)` features of their cells.
        xyxy: `(B, G, 4)` boxes of the truth.
    """

    early: Any
    pyramid: Any
    found: Any
    cells: Any
    xyxy: Any


class Losses(NamedTuple):
    """Scalars: their weighted sum, the parts, and the mean IoU of fair boxes before and after."""

    total: Any
    box: Any
    distance: Any
    before: Any
    after: Any


class Looker:
    """The frozen network and the second look in training."""

    def __init__(self, network: dict[str, np.ndarray], seed: int) -> None:
        self.network = FoldedConvs(network)
        self.convs = TrainableConvs(seed)
        self.convs.training = False
        nothing = Seen(*(tf.zeros(shape) for shape in ([1, 16, 16, EARLY], [1, 8, 8, NECK], *[[1, 1, 4]] * 3)))
        refine(self.convs, nothing, tf.zeros([1], tf.int32), tf.zeros([1, 4]), tf.zeros([1, NECK]))
        self.convs.training = True
        self.adamw = AdamW(self.convs.weights, self.convs.averages)

    def see(self, batch: Batch) -> Seen:
        """What the frozen network makes of a batch."""
        early, pyramid, found, cells = self._see(tf.constant(batch.images), tf.constant(batch.instance_maps))
        return Seen(early, pyramid, found, cells, tf.constant(batch.xyxy))

    @tf.function
    def _see(self, images: Any, instance_maps: Any) -> Any:
        outputs = forward(self.network, tf.cast(images, tf.float32) / 127.5 - 1.0, len(CLASS_NAMES))
        side = tf.shape(images)[1]
        points, strides = cell_centres(side, side)
        at_cell = tf.cast(points, tf.int32)
        flat_maps = tf.reshape(instance_maps, [tf.shape(images)[0], -1])
        ignored = tf.gather(flat_maps, at_cell[:, 1] * side + at_cell[:, 0], axis=1) == 255
        best = tf.reduce_max(outputs.logits, -1)
        # The highest of values with such noise are draws without replacement, likely where the score is high.
        noise = -tf.math.log(-tf.math.log(tf.random.uniform(tf.shape(best), 1e-6, 1 - 1e-6)))
        cell = tf.math.top_k(tf.where(ignored, -1e4, best + noise), FOUND_PER_IMAGE).indices
        found = decode_boxes(
            tf.gather(outputs.distances, cell, batch_dims=1), tf.gather(points, cell), tf.gather(strides, cell)
        )
        return (
            tf.cast(outputs.early, tf.float16),
            tf.cast(outputs.pyramid, tf.float16),
            tf.clip_by_value(found, 0.0, tf.cast(side, tf.float32)),
            tf.gather(outputs.cells, cell, batch_dims=1),
        )

    @tf.function
    def train(self, seen: Seen, rate: Any) -> Any:
        """One step on some of the boxes; returns the losses as a vector."""
        count = tf.shape(seen.found)[0]
        some = tf.random.shuffle(tf.range(FOUND_PER_IMAGE))[:LOOKS_PER_IMAGE]
        image_index = tf.repeat(tf.range(count), LOOKS_PER_IMAGE)
        first, cells = (tf.reshape(tf.gather(v, some, axis=1), [-1, v.shape[-1]]) for v in (seen.found, seen.cells))
        seen = seen._replace(early=tf.cast(seen.early, tf.float32), pyramid=tf.cast(seen.pyramid, tf.float32))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([self.convs.weights[name] for name in self.adamw.names])
            parts = self._losses(seen, image_index, first, cells)
        norm = self.adamw.apply(tape, parts.total, rate)
        return tf.stack([*parts, norm])

    def _losses(self, seen: Seen, image_index: Any, first: Any, cells: Any) -> Losses:
        refined = refine(self.convs, seen, image_index, first, cells)
        truths = tf.gather(seen.xyxy, image_index)
        iou, _ = overlap(first[:, None], truths)
        best, before = tf.argmax(iou, -1, output_type=tf.int32), tf.reduce_max(iou, -1)
        wanted = tf.gather(truths, best, batch_dims=1)
        large = tf.reduce_max(wanted[:, 2:] - wanted[:, :2], -1) >= LARGE_SIDE
        weight = tf.where(before > FAIR_IOU, tf.where(large, LARGE_WEIGHT, 1.0), 0.0)
        weight /= tf.maximum(tf.reduce_sum(weight), 1.0)
        after, generalised = overlap(refined.xyxy, wanted)
        box = tf.reduce_sum((1 - generalised) * weight)
        distance = tf.reduce_sum(spread_cross_entropy(refined.sides, places(first, wanted), PLACES) * weight)
        return Losses(
            2.0 * box + 0.5 * distance, box, distance, tf.reduce_sum(before * weight), tf.reduce_sum(after * weight)
        )


def _rate(step: int, steps: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / WARM_UP)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(1.0, step / steps))))


def main() -> None:
    """Train until the last step, with a checkpoint every so often."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, required=True, help="Scenes drawn by training/data.py.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Directory with the latest.npz of train.py.")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=2e-3, help="Highest learning rate.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(arguments.seed)
    network = checkpoint.averaged_weights(arguments.checkpoint / "latest.npz")
    looker = Looker(network, arguments.seed)
    target = arguments.checkpoint / "refine.npz"
    if target.exists():
        looker.adamw.step.assign(checkpoint.restore(target, looker.adamw.groups))
    start = step = int(looker.adamw.step.numpy())
    rng = np.random.default_rng([arguments.seed, start])
    started, recent, kept = time.monotonic(), [], []
    with (arguments.checkpoint / "refine.jsonl").open("a") as log:
        for batch in batches(arguments.cache, arguments.seed + start + 1, PLAN):
            if len(kept) == KEPT_BATCHES:
                kept.pop(0)
            kept.append(looker.see(batch))
            for _ in range(LOOKS_PER_BATCH):
                rate = tf.constant(_rate(step, arguments.steps, arguments.rate), tf.float32)
                recent.append(looker.train(kept[rng.integers(len(kept))], rate))
                step += 1
                if step % 50 == 0:
                    means = np.mean([v.numpy() for v in recent], axis=0)
                    parts = {n: round(float(v), 4) for n, v in zip((*Losses._fields, "norm"), means, strict=True)}
                    log.write(json.dumps({"step": step, "seconds": round(time.monotonic() - started), **parts}) + "\n")
                    log.flush()
                    recent.clear()
                if step % arguments.save_every == 0 or step == arguments.steps:
                    checkpoint.save(target, looker.adamw.groups, step)
                if step >= arguments.steps:
                    smooth = {name: value.numpy() for name, value in looker.adamw.smooth.items()}
                    scores = evaluate(Detector({**network, **smooth}), HELD_OUT_SEED, 100)
                    log.write(json.dumps({"step": step, **scores}) + "\n")
                    return


if __name__ == "__main__":
    main()
