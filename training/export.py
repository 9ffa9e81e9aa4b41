"""From trained weights to the shipped SavedModel: resizing, decoding, suppression and masks inside the graph.

python training/export.py --checkpoint /tmp/demo_shapes_ckpt --to prelabel/detectors/models/demo_shapes
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from checkpoint import averaged_weights
from loss import overlap
from network import (
    MASK_SIZE,
    FoldedConvs,
    cell_centres,
    decode_boxes,
    deviations,
    forward,
    mask_logits,
    mask_weights,
)
from refine import refine

from prelabel.synth.shapes import CLASS_NAMES

LONG_SIDE = 512
CANDIDATES = 300
MAX_DETECTIONS = 100
LEAST_SCORE = 0.01
SAME_OBJECT_IOU = 0.6
AGREED_IOU = 0.65
SCORE_PER_DOUBT = 0.2
USUAL_DOUBT = 1.5
LEAST_LOOKED_AT = 0.05


class Detector(tf.Module):
    """A callable `uint8 [1, h, w, 3] -> dict` with the outputs of the TF Object Detection API's Mask R-CNN.

    Args:
        values: Name -> array, the weights and moving averages of a `TrainableConvs`; without those of `refine`
            boxes are given as first seen.
    """

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        super().__init__()
        self._convs = FoldedConvs(values)
        self._looks_again = any(name.startswith("refine/") for name in values)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor")])
    def __call__(self, input_tensor: Any) -> dict[str, Any]:
        """Boxes are yxyx in 0..1; masks are scores inside their box; entries past `num_detections` are zero."""
        size = tf.shape(input_tensor)[1:3]
        image, inner = _fit(input_tensor, size)
        outputs = forward(self._convs, image, len(CLASS_NAMES))
        scores = tf.sigmoid(outputs.logits[0])
        points, strides = cell_centres(tf.shape(image)[1], tf.shape(image)[2])

        top = tf.math.top_k(tf.reshape(scores, [-1]), tf.minimum(CANDIDATES, tf.size(scores)))
        cell, category = top.indices // len(CLASS_NAMES), top.indices % len(CLASS_NAMES)
        distances, strides = tf.gather(outputs.distances[0], cell), tf.gather(strides, cell)
        boxes = decode_boxes(distances, tf.gather(points, cell), strides)
        limit = tf.cast(tf.reverse(inner, [0]), tf.float32)
        boxes = tf.clip_by_value(boxes, 0.0, tf.tile(limit, [2])[None])
        # Classes are moved apart so that one suppression serves all of them.
        apart = tf.cast(category, tf.float32)[:, None] * (2.0 * LONG_SIDE)
        kept = tf.image.non_max_suppression(
            boxes + apart, top.values, MAX_DETECTIONS, iou_threshold=SAME_OBJECT_IOU, score_threshold=LEAST_SCORE
        )
        doubt = deviations(distances) * strides[:, None]
        boxes = _agreed(boxes, boxes + apart, top.values, doubt, kept)
        cell = tf.gather(cell, kept)
        boxes, fit = self._look_again(outputs, boxes, cell, tf.gather(top.values, kept))
        all_scores = tf.gather(scores, cell) * fit[:, None]
        score, order = tf.math.top_k(tf.gather(top.values, kept) * fit, tf.size(kept))
        boxes = tf.clip_by_value(tf.gather(boxes, order), 0.0, tf.tile(limit, [2])[None])
        cell, category = tf.gather(cell, order), tf.gather(category, tf.gather(kept, order))
        all_scores = tf.gather(all_scores, order)
        normalised = boxes / tf.tile(limit, [2])
        weights = mask_weights(self._convs, tf.gather(outputs.cells[0], cell))
        where = _paste_indices(normalised, size, inner)
        masks = tf.sigmoid(mask_logits(outputs.mask_features, tf.zeros_like(cell), where, weights))

        nothing = 1 - tf.reduce_max(all_scores, axis=1, keepdims=True)
        results = {
            "detection_boxes": tf.gather(normalised, [1, 0, 3, 2], axis=1),
            "detection_classes": tf.cast(category + 1, tf.float32),
            "detection_scores": score,
            "detection_masks": tf.reshape(masks, [-1, MASK_SIZE, MASK_SIZE]),
            "detection_multiclass_scores": tf.concat([nothing, all_scores], axis=1),
        }
        padded = {name: _pad(value) for name, value in results.items()}
        return {**padded, "num_detections": tf.cast(tf.shape(kept), tf.float32)}

    def _look_again(self, outputs: Any, boxes: Any, cell: Any, score: Any) -> tuple[Any, Any]:
        """Corrected boxes, and `(N,)` what to multiply their scores by; `score` descends."""
        if not self._looks_again:
            return boxes, tf.ones_like(boxes[:, 0])
        # The hardly likely ones stay as they are: there are many, and nobody looks at their sides.
        looked = tf.reduce_sum(tf.cast(score >= LEAST_LOOKED_AT, tf.int32))
        some, others = boxes[:looked], boxes[looked:]
        # One box more than asked for: of none at all, convolutions make the wrong shape.
        some, cell = tf.pad(some, [[0, 1], [0, 0]]), tf.pad(cell[:looked], [[0, 1]])
        refined = refine(self._convs, outputs, tf.zeros_like(cell), some, tf.gather(outputs.cells[0], cell))
        # A box whose sides are not certain is likely to fit less well than its class score says.
        fit = tf.exp(-SCORE_PER_DOUBT * tf.reduce_mean(deviations(refined.sides), axis=-1))
        lowest = tf.fill([tf.shape(others)[0]], tf.exp(-SCORE_PER_DOUBT * USUAL_DOUBT))
        return tf.concat([refined.xyxy[:-1], others], 0), tf.concat([fit[:-1], lowest], 0)


def _agreed(boxes: Any, apart: Any, scores: Any, doubt: Any, kept: Any) -> Any:
    """The boxes kept, each side where the boxes that say the same have it, by their scores and certainty.

    Args:
        boxes: `(N, 4)` pixels.
        apart: `(N, 4)` the same, far from each other where they are of different classes.
        scores: `(N,)`.
        doubt: `(N, 4)` pixels.
        kept: `(K,)` int32 which of the N.
    """
    iou, _ = overlap(tf.gather(apart, kept)[:, None], apart)
    agree = tf.where(iou > AGREED_IOU, scores, 0.0)
    weight = agree[..., None] / tf.square(1 + doubt)
    return tf.reduce_sum(weight * boxes, 1) / (tf.reduce_sum(weight, 1) + 1e-9)


def _fit(input_tensor: Any, size: Any) -> tuple[Any, Any]:
    """The picture as the network takes it, and its height and width inside of the padding."""
    long = tf.reduce_max(size)
    scale = tf.minimum(1.0, LONG_SIDE / tf.cast(long, tf.float32))
    inner = tf.maximum(tf.cast(tf.round(tf.cast(size, tf.float32) * scale), tf.int32), 1)

    def shrunk() -> Any:
        # Averaging over all pixels costs five times as much and matters from half the size on.
        return tf.cond(
            long > 2 * LONG_SIDE,
            lambda: tf.image.resize(input_tensor, inner, antialias=True),
            lambda: tf.image.resize(input_tensor, inner),
        )

    image = tf.cond(long > LONG_SIDE, shrunk, lambda: tf.cast(input_tensor, tf.float32)) * (1 / 127.5) - 1.0
    missing = -inner % 64
    image = tf.pad(image, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
    return tf.ensure_shape(image, [1, None, None, 3]), inner


def _paste_indices(normalised: Any, size: Any, inner: Any) -> Any:
    """Where a mask's outermost samples lie, as pixel indices of the network's picture.

    TensorFlow pastes masks so that 0..1 runs from the centre of the first pixel to the centre of the last one: 0..1 of
    the box stands for the indices (h - 1) * y of the *displayed* picture, which are then taken to the inner one.
    """
    displayed, inside = (tf.tile(tf.reverse(tf.cast(s, tf.float32), [0]), [2]) for s in (size, inner))
    return (normalised * (displayed - 1) + 0.5) * (inside / displayed) - 0.5


def _pad(value: Any) -> Any:
    missing = MAX_DETECTIONS - tf.shape(value)[0]
    padded = tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1))
    return tf.ensure_shape(padded[None], [1, MAX_DETECTIONS, *value.shape[1:]])


def export(values: dict[str, np.ndarray], to: Path) -> None:
    """Write the SavedModel directory anew, with its label map; a model card that is there is kept."""
    detector = Detector(values)
    # One traced function under both names; traced twice, the weights would be in the file twice.
    signature = detector.__call__.get_concrete_function()
    detector.__dict__["__call__"] = signature
    for part in ("variables", "assets"):
        shutil.rmtree(to / part, ignore_errors=True)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(detector, str(to), signatures={"serving_default": signature}, options=options)
    items = (
        f'item {{\n  name: "{name}"\n  id: {number}\n  display_name: "{name}"\n}}\n'
        for number, name in enumerate(CLASS_NAMES, start=1)
    )
    (to / "assets").mkdir(exist_ok=True)
    (to / "assets" / "label_map.pbtxt").write_text("".join(items), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Export a checkpoint as the bundled detector.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Directory with latest.npz and refine.npz.")
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    export(
        {
            **averaged_weights(arguments.checkpoint / "latest.npz"),
            **averaged_weights(arguments.checkpoint / "refine.npz"),
        },
        arguments.to,
    )
