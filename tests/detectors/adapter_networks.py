"""Networks that no family recognizes: they find a red and a green rectangle, and return them in every form.

Their inputs are normalized, in BGR, with channels first, of fixed or open size. They undo what the adapter must do, and
look for the pixels that are red or green. For each color they return the box twice, the second time one pixel smaller
at each side and with nine tenths of the score, the brightness of the color. A color that is absent has empty boxes with
a score of 0. Rows: red, red again, green, green again.

`python -m tests.detectors.adapter_networks DIR` builds all of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
BYTES_MEAN = (103.0, 116.0, 123.0)


@dataclass(frozen=True)
class Input:
    """The input of a network: its shape, and what it makes of pixels."""

    shape: tuple[int | None, ...]
    bgr: bool = False
    channels_first: bool = False
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 255.0


INPUTS = {
    "fixed": Input((None, 48, 64, 3), mean=MEAN, deviation=DEVIATION, scale=1.0),
    "open": Input((1, None, None, 3)),
    "caffe": Input((None, 3, None, None), bgr=True, channels_first=True, mean=BYTES_MEAN),
}


def build_networks(folder: Path) -> None:
    """Save all networks below a folder, each under its name."""
    import tensorflow as tf

    for name, kind in INPUTS.items():
        _save(folder / name, kind, tf)


def _save(path: Path, kind: Input, tf: Any) -> None:
    model = tf.Module()
    spec = tf.TensorSpec(kind.shape, tf.float32, name="picture")
    model.f = tf.function(lambda picture: outputs(picture, kind, tf), input_signature=[spec])
    tf.saved_model.save(model, str(path), signatures=model.f.get_concrete_function())


def outputs(picture: Any, kind: Input, tf: Any) -> dict[str, Any]:
    """All forms of what is found in a batch of pictures."""
    if kind.channels_first:
        picture = tf.transpose(picture, [0, 2, 3, 1])
    rgb = (picture * kind.deviation + kind.mean) / kind.scale
    rgb = rgb[..., ::-1] if kind.bgr else rgb
    height, width = tf.shape(rgb)[1], tf.shape(rgb)[2]
    ys, xs = tf.cast(tf.range(height), tf.float32), tf.cast(tf.range(width), tf.float32)
    boxes, scores, masks = [], [], []
    for channel, others in ((0, (1, 2)), (1, (0, 2))):
        here = rgb[..., channel] - tf.reduce_max(tf.gather(rgb, others, axis=3), 3) > 0.3
        weight = tf.cast(here, tf.float32)
        count = tf.reduce_sum(weight, [1, 2])
        rows, columns = tf.reduce_any(here, 2), tf.reduce_any(here, 1)
        top = tf.reduce_min(tf.where(rows, ys, 1e6), 1)
        bottom = tf.reduce_max(tf.where(rows, ys + 1, 0.0), 1)
        left = tf.reduce_min(tf.where(columns, xs, 1e6), 1)
        right = tf.reduce_max(tf.where(columns, xs + 1, 0.0), 1)
        found = tf.cast(count > 0, tf.float32)[:, None]
        box = tf.stack([left, top, right, bottom], 1)
        inner = box + tf.constant([1.0, 1.0, -1.0, -1.0])
        score = tf.math.divide_no_nan(tf.reduce_sum(rgb[..., channel] * weight, [1, 2]), count)
        boxes += [box * found, inner * found]
        scores += [score, 0.9 * score]
        masks += [weight, weight]
    xyxy, score = tf.stack(boxes, 1), tf.stack(scores, 1)
    corner, opposite = xyxy[..., :2], xyxy[..., 2:]
    forms = {
        "xyxy": xyxy,
        "yxyx": tf.gather(xyxy, [1, 0, 3, 2], axis=2),
        "xywh": tf.concat([corner, opposite - corner], 2),
        "cxcywh": tf.concat([(corner + opposite) / 2, opposite - corner], 2),
    }
    batch = tf.shape(rgb)[0]
    sides = tf.cast(tf.stack([width, height, width, height]), tf.float32)
    logit = tf.math.log(tf.clip_by_value(score, 1e-6, 1 - 1e-6)) - tf.math.log1p(
        -tf.clip_by_value(score, 1e-6, 1 - 1e-6)
    )
    classes = tf.tile(tf.constant([[0, 0, 1, 1]], tf.int64), [batch, 1])
    is_class = tf.one_hot(classes, 2)
    rest = (1 - score)[..., None]
    with_background = tf.concat([rest, is_class * score[..., None]], 2)  # column 0 is the background
    left_half = tf.concat([tf.ones([batch, 4, 8, 4]), tf.zeros([batch, 4, 8, 4])], 3)
    result = {f"{order}_pixels": form for order, form in forms.items()}
    result |= {
        f"{order}_normalized": form / (tf.gather(sides, [1, 0, 3, 2]) if order == "yxyx" else sides)
        for order, form in forms.items()
    }
    return result | {
        "scores": score,
        "logits": logit,
        "classes": classes,
        "names": tf.gather(tf.constant(["rot", "gruen"]), classes),
        "class_scores": is_class * score[..., None],
        "class_logits": tf.math.log(with_background + 1e-6) + 7.0,
        "rows": tf.concat([xyxy, score[..., None], tf.cast(classes, tf.float32)[..., None]], 2),
        "transposed": tf.transpose(tf.concat([forms["cxcywh"], is_class * score[..., None]], 2), [0, 2, 1]),
        "with_objectness": tf.concat([forms["cxcywh"], tf.fill([batch, 4, 1], 0.5), is_class * score[..., None]], 2),
        "count": tf.fill([batch], 3),
        "box_masks": left_half,
        "mask_logits": 10 * (2 * left_half - 1),
        "image_masks": tf.stack(masks, 1),
    }


if __name__ == "__main__":
    build_networks(Path(sys.argv[1]))
