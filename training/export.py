"""From trained weights to the shipped SavedModel: resizing, decoding, suppression and masks inside the graph.

python training/export.py --checkpoint /tmp/demo_shapes_ckpt/latest.npz --to prelabel/detectors/demo_shapes
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from network import (
    MASK_SIZE,
    FoldedConvs,
    cell_centres,
    decode_boxes,
    forward,
    mask_logits,
    mask_weights,
)

from prelabel.synth.shapes import CLASS_NAMES

LONG_SIDE = 512
CANDIDATES = 300
MAX_DETECTIONS = 100
LEAST_SCORE = 0.01
SAME_OBJECT_IOU = 0.6


class Detector(tf.Module):
    """A callable `uint8 [1, h, w, 3] -> dict` with the outputs of the TF Object Detection API's Mask R-CNN.

    Args:
        values: Name -> array, the weights and moving averages of a `TrainableConvs`.
    """

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        super().__init__()
        self._convs = FoldedConvs(values)

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
        boxes = decode_boxes(tf.gather(outputs.distances[0], cell), tf.gather(points, cell), tf.gather(strides, cell))
        limit = tf.cast(tf.reverse(inner, [0]), tf.float32)
        boxes = tf.clip_by_value(boxes, 0.0, tf.tile(limit, [2])[None])
        # Classes are moved apart so that one suppression serves all of them.
        apart = tf.cast(category, tf.float32)[:, None] * (2.0 * LONG_SIDE)
        kept = tf.image.non_max_suppression(
            boxes + apart, top.values, MAX_DETECTIONS, iou_threshold=SAME_OBJECT_IOU, score_threshold=LEAST_SCORE
        )
        boxes, cell = tf.gather(boxes, kept), tf.gather(cell, kept)
        normalised = boxes / tf.tile(limit, [2])
        weights = mask_weights(self._convs, tf.gather(outputs.cells[0], cell))
        where = _paste_indices(normalised, size, inner)
        masks = tf.sigmoid(mask_logits(outputs.mask_features, tf.zeros_like(cell), where, weights))

        all_scores = tf.gather(scores, cell)
        nothing = 1 - tf.reduce_max(all_scores, axis=1, keepdims=True)
        results = {
            "detection_boxes": tf.gather(normalised, [1, 0, 3, 2], axis=1),
            "detection_classes": tf.cast(tf.gather(category, kept) + 1, tf.float32),
            "detection_scores": tf.gather(top.values, kept),
            "detection_masks": tf.reshape(masks, [-1, MASK_SIZE, MASK_SIZE]),
            "detection_multiclass_scores": tf.concat([nothing, all_scores], axis=1),
        }
        padded = {name: _pad(value) for name, value in results.items()}
        return {**padded, "num_detections": tf.cast(tf.shape(kept), tf.float32)}


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
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    from checkpoint import averaged_weights

    export(averaged_weights(arguments.checkpoint), arguments.to)
