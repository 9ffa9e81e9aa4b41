"""Networks with the interfaces that Ultralytics exports, which see the colored boxes of `tests.models`.

Red, green and blue are the classes 0, 1 and 2. Each box occurs twice: the second one is a little smaller, and its score
is nine tenths of the first. The other boxes have the score 0 and lie all over the input, as in a real network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.models import find_colors

#: Height and width of the input.
SIZE = (96, 128)
NAMES = ("Dog", "Cat", "Toothbrush")
#: Boxes of an input of this size, with steps of 8, 16 and 32 pixels.
COLUMNS = 12 * 16 + 6 * 8 + 3 * 4
#: Rows of a network that suppresses boxes itself.
ROWS = 30


def build_ultralytics(folder: Path) -> None:
    """Save all networks below a folder, each under its name."""
    _save(folder / "yolo", "detect", lambda x: _raw(*_found(x)))
    _save(folder / "yolo-suppressed", "detect", lambda x: _suppressed(*_found(x)), end2end=True)
    _save(folder / "yolo-masks", "segment", lambda x: {**_raw(*_found(x), masks=True), "output_1": _prototypes(x)})
    _save(
        folder / "yolo-masks-suppressed",
        "segment",
        lambda x: {"output_1": _suppressed(*_found(x), masks=True)["output_0"], "output_0": _prototypes(x)},
        end2end=True,
    )
    _save(folder / "yolo-points", "pose", lambda x: _raw(*_found(x), points=True), kpt_shape=[2, 3])
    _save(folder / "yolo-classes", "classify", lambda x: {"output_0": _colors(x)}, (96, 96), imgsz=[96, 96])
    _save(folder / "yolo-normalized", "detect", lambda x: _raw(*_found(x), in_pixels=False))


def metadata(task: str = "detect", **others: Any) -> dict[str, Any]:
    """The content of `metadata.yaml`."""
    return {
        **{"description": "Ultralytics test model", "author": "Ultralytics", "version": "8.4.190", "stride": 32},
        **{"task": task, "batch": 1, "imgsz": list(SIZE), "names": dict(enumerate(NAMES))},
        **{"args": {"batch": 1, "nms": False}, "channels": 3, "end2end": False, **others},
    }


def write_metadata(folder: Path, **values: Any) -> Path:
    """Write `metadata.yaml` as Ultralytics does, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata(**values), sort_keys=False, allow_unicode=True))
    return folder


def _save(path: Path, task: str, answer: Any, size: tuple[int, int] = SIZE, **others: Any) -> None:
    import tensorflow as tf

    model = tf.Module()
    spec = tf.TensorSpec([1, *size, 3], tf.float32, name="images")
    model.f = tf.function(lambda images: answer(images[0]), input_signature=[spec])
    tf.saved_model.save(model, str(path), signatures=model.f.get_concrete_function())
    write_metadata(path, task=task, **others)


def _found(image: Any) -> tuple[Any, Any]:
    """Center and size in shares `(6, 4)` and scores `(6, 3)` of the boxes: three colors, then once more."""
    import tensorflow as tf

    yxyx, scores, _ = find_colors(image)
    xy, size = (yxyx[:, 1::-1] + yxyx[:, :1:-1]) / 2, yxyx[:, :1:-1] - yxyx[:, 1::-1]
    boxes = tf.concat([tf.concat([xy, size], 1), tf.concat([xy, size * 0.95], 1)], 0)
    return boxes, tf.concat([tf.linalg.diag(scores), tf.linalg.diag(scores * 0.9)], 0)


def _raw(
    boxes: Any, scores: Any, *, in_pixels: bool = True, masks: bool = False, points: bool = False
) -> dict[str, Any]:
    """`[1, 4 + C, N]`, with the boxes found in the last columns."""
    import tensorflow as tf

    share = tf.linspace(0.01, 0.99, COLUMNS - len(boxes))[:, None]
    others = tf.concat([share, share, 0.1 * tf.ones_like(share), 0.1 * tf.ones_like(share)], 1)
    columns = tf.concat([others, boxes], 0) * (tf.constant([SIZE[1], SIZE[0]] * 2, tf.float32) if in_pixels else 1.0)
    scores = tf.pad(scores, [[COLUMNS - len(boxes), 0], [0, 0]])
    more = [_weights(scores)] if masks else [_corners(columns)] if points else []
    values = tf.concat([columns, scores, *more], 1)
    return {"output_0": tf.transpose(values)[None]}


def _suppressed(boxes: Any, scores: Any, *, masks: bool = False) -> dict[str, Any]:
    """`[1, N, 6]`: corners, score and class of the best box of each color, and zeros."""
    import tensorflow as tf

    pixels = boxes[:3] * tf.constant([SIZE[1], SIZE[0]] * 2, tf.float32)
    corners = tf.concat([pixels[:, :2] - pixels[:, 2:] / 2, pixels[:, :2] + pixels[:, 2:] / 2], 1)
    best = tf.reduce_max(scores[:3], 1)
    more = [_weights(scores[:3])] if masks else []
    rows = tf.concat([corners, best[:, None], tf.constant([[0.0], [1.0], [2.0]]), *more], 1)
    rows = tf.gather(rows, tf.argsort(best, direction="DESCENDING"))
    return {"output_0": tf.pad(tf.where(rows[:, 4:5] > 0, rows, 0.0), [[0, ROWS - 3], [0, 0]])[None]}


def _weights(scores: Any) -> Any:
    """`(N, 4)` weights of the prototypes: of the box's color, and of one that is 1 everywhere."""
    import tensorflow as tf

    return tf.concat([tf.cast(scores > 0, tf.float32) * 16, tf.fill([len(scores), 1], -8.0)], 1)


def _corners(boxes: Any) -> Any:
    """`(N, 6)` the upper left corner with the score 0.25 and the lower right one with 0.75 as keypoints."""
    import tensorflow as tf

    score = tf.ones_like(boxes[:, :1])
    first, last = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    return tf.concat([first, score * 0.25, last, score * 0.75], 1)


def _prototypes(image: Any) -> Any:
    """`[1, h / 4, w / 4, 4]` the share of each color, and ones."""
    import tensorflow as tf

    colors = tf.cast((image > 0.2) & (tf.reduce_sum(image, 2, keepdims=True) - image < 0.1), tf.float32)
    shares = tf.nn.avg_pool2d(colors[None], 4, 4, "VALID")
    return tf.concat([shares, tf.ones_like(shares[..., :1])], 3)


def _colors(image: Any) -> Any:
    """`[1, 3]` softmax of how much there is of each color."""
    import tensorflow as tf

    return tf.nn.softmax(10 * tf.reduce_mean(image, [0, 1]))[None]
