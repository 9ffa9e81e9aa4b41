"""Small networks with exactly the interfaces of the families. Built by a process of their own.

They see the colored boxes of `tests.models`. Entries past the number of detections hold a box with score 0.99: whoever
reads padding sees it.

`python -m tests.detectors.conventions.families.networks DIR` builds all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.detectors.conventions.families.ultralytics_networks import build_ultralytics
from tests.models import COCO_IDS, find_colors, pad


def build_networks(folder: Path) -> None:
    """Save all networks below a folder, each under its name."""
    import tensorflow as tf

    _efficientdet(tf, folder / "efficientdet")
    _efficientdet(tf, folder / "unnamed", parts=("head",))
    build_ultralytics(folder)


def found(tf: Any, image: Any) -> dict[str, Any]:
    """What is in an image `(H, W, 3)` in 0..255, by decreasing score, padded to 100 entries.

    Returns:
        `boxes` y1 x1 y2 x2 in shares, `scores`, `numbers`, `count`, `masks`.
    """
    boxes, scores, masks = find_colors(tf.cast(image, tf.float32) / 255)
    scores, order = tf.math.top_k(scores, 3)
    count = tf.reduce_sum(tf.cast(scores > 0, tf.int32))
    real = tf.range(100) < count
    return {
        "boxes": tf.where(real[:, None], pad(tf.gather(boxes, order)), [[0.0, 0.0, 1.0, 1.0]]),
        "scores": tf.where(real, pad(scores), 0.99),
        "numbers": pad(tf.gather(tf.constant(COCO_IDS, tf.float32), order), 1.0),
        "count": count,
        "masks": pad(tf.gather(masks, order)),
    }


def _sides(tf: Any, image: Any) -> Any:
    """Height, width, height, width of an image."""
    return tf.tile(tf.cast(tf.shape(image)[:2], tf.float32), [2])


def _efficientdet(
    tf: Any, path: Path, parts: tuple[str, ...] = ("backbone", "fpn_cells", "class_net", "box_net")
) -> None:
    """As `KerasDriver.export` of google/automl saves it, with its three signatures."""
    any_size = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    fixed = tf.TensorSpec([1, 64, 64, 3], tf.float32, name="images")

    class Export(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = tf.Module()
            for part in parts:
                setattr(self.model, part, tf.Module())
                getattr(self.model, part).weight = tf.Variable(1.0)

        @tf.function(input_signature=[any_size])  # type: ignore[misc]
        def __call__(self, imgs: Any) -> Any:
            def one(image: Any) -> Any:
                values = found(tf, image)
                boxes = values["boxes"] * _sides(tf, image) * getattr(self.model, parts[-1]).weight
                return boxes, values["scores"], values["numbers"], values["count"]

            types = (tf.float32, tf.float32, tf.float32, tf.int32)
            return tf.map_fn(one, imgs, fn_output_signature=types)

        @tf.function(input_signature=[fixed])  # type: ignore[misc]
        def predict(self, imgs: Any) -> Any:
            return [tf.zeros([1, 8, 8, 810]) + tf.reduce_mean(imgs), tf.zeros([1, 8, 8, 36])]

    export = Export()
    signatures = {"serving_default": export.__call__, "predict": export.predict}
    tf.saved_model.save(export, str(path), signatures=signatures)


if __name__ == "__main__":
    build_networks(Path(sys.argv[1]))
