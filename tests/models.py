"""SavedModels with exactly the interfaces of the catalog's models, made of TensorFlow ops that examine the pixels.

They know three colors on a gray background. For each color in the image, the detectors return the box around all its
pixels, its class, the mean brightness of the color as score (255 -> 1.0), and a mask sampled inside the box:

    red   "Dog"         /m/0bt9lr   Open Images id 446   COCO id 18
    green "Cat"         /m/01yrx    Open Images id 122   COCO id 17
    blue  "Toothbrush"  /m/012xff   Open Images id 8     COCO id 90 (the last, after the gaps)

A wrong channel order gives a wrong class; a wrong scale or dtype gives nothing or an impossible score; swapped axes, a
resize or a crop give a wrong box. The classifier depends on the position of red; see `CLASSIFIER_PLACES`.

`python -m tests.models DIR` builds all of them, so that a test process need not import TensorFlow.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MASK_SIZE = 33
PADDED_TO = 100
#: Per color (red, green, blue): Open Images name, MID and id, and COCO id.
NAMES = ("Dog", "Cat", "Toothbrush")
MIDS = ("/m/0bt9lr", "/m/01yrx", "/m/012xff")
OPENIMAGES_IDS = (446, 122, 8)
COCO_IDS = (18, 17, 90)
#: The brightness of each color in `picture`: the score times 255, so that red comes first and blue last.
LEVELS = {"red": 230, "green": 200, "blue": 170}

#: The class number that the classifier returns for red in a part of its 128 x 128 input (top, left, bottom, right).
CLASSIFIER_PLACES = {
    101: (0, 0, 128, 64),  # left half
    102: (0, 64, 128, 128),  # right half
    201: (0, 0, 64, 128),  # top half
    202: (64, 0, 128, 128),  # bottom half
    301: (0, 0, 128, 8),  # the leftmost columns, which a center crop would lose
}


@dataclass(frozen=True)
class Models:
    """The path of each test model."""

    hub_module: Path
    mask_rcnn: Path
    classifier: Path

    @classmethod
    def below(cls, directory: Path) -> Models:
        """The paths that `build_all` uses."""
        return cls(directory / "hub-module", directory / "mask-rcnn", directory / "classifier")


def build_all(directory: Path) -> Models:
    """Build all three models below a directory."""
    models = Models.below(directory)
    build_hub_module(models.hub_module)
    build_mask_rcnn(models.mask_rcnn)
    build_classifier(models.classifier)
    return models


def picture(height: int, width: int, *boxes: tuple[str, int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Gray pixels `(height, width, 3)` with filled boxes `("red", x1, y1, x2, y2)`; scores are `LEVELS / 255`."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    for color, x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 0
        pixels[y1:y2, x1:x2, list(LEVELS).index(color)] = LEVELS[color]
    return pixels


def find_colors(image: Any) -> tuple[Any, Any, Any]:
    """`(H, W, 3)` float in 0..1 -> yxyx `(3, 4)`, score `(3,)` (0: color absent), mask `(3, 33, 33)`."""
    import tensorflow as tf

    size = tf.cast(tf.shape(image)[:2], tf.float32)
    variables_found = []
    for channel in range(3):
        others = tf.reduce_max(tf.gather(image, [c for c in range(3) if c != channel], axis=2), axis=2)
        here = tf.logical_and(image[..., channel] > 0.2, others < 0.1)
        weight = tf.cast(here, tf.float32)
        count = tf.reduce_sum(weight)
        where = tf.cast(tf.where(here), tf.float32)  # (K, 2) y x
        low = tf.reduce_min(tf.concat([where, size[None]], 0), 0)
        high = tf.reduce_max(tf.concat([where + 1.0, [[0.0, 0.0]]], 0), 0)
        score = tf.math.divide_no_nan(tf.reduce_sum(image[..., channel] * weight), count)
        # Samples lie in the middle of 33 equal steps; crop_and_resize places pixel centers in steps of size - 1.
        step = (high - low) / MASK_SIZE
        first = (low + step / 2 - 0.5) / (size - 1)
        last = (high - step / 2 - 0.5) / (size - 1)
        mask = tf.image.crop_and_resize(
            weight[None, :, :, None], tf.concat([first, last], 0)[None], [0], [MASK_SIZE, MASK_SIZE]
        )
        yxyx = tf.where(count > 0, tf.concat([low / size, high / size], 0), tf.zeros(4))
        variables_found.append((yxyx, score, mask[0, :, :, 0]))
    boxes, scores, masks = (tf.stack(list(column)) for column in zip(*variables_found, strict=True))
    return boxes, scores, masks


def pad(values: Any, fill: float = 0.0) -> Any:
    import tensorflow as tf

    rest = [[0, PADDED_TO - values.shape[0]]] + [[0, 0]] * (values.shape.rank - 1)
    return tf.pad(values, rest, constant_values=tf.cast(fill, values.dtype))


def build_hub_module(path: Path, *, variables: str = "full", swapped: bool = False) -> Path:
    """A TF1 hub module like the Open Images detectors: no tags, one signature `default`, `tfhub_module.pb`.

    Args:
        path: Where to build it; must not exist.
        variables: `"full"`, `"empty"` (a folder without files) or `"absent"`: all three occur.
        swapped: Put MIDs in `detection_class_entities`, as the models' pages say; as published it is the other way.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, [1, None, None, 3], name="images")
        variable = v1.get_variable("one", initializer=1.0, use_resource=False) if variables == "full" else 1.0
        boxes, scores, _ = find_colors(images[0] * variable)
        scores, order = tf.math.top_k(scores, 3)
        names = tf.gather(tf.constant(NAMES), order)
        mids = tf.gather(tf.constant(MIDS), order)
        outputs = {
            "detection_boxes": pad(tf.gather(boxes, order)),
            "detection_scores": pad(scores),
            "detection_class_labels": pad(tf.gather(tf.constant(OPENIMAGES_IDS, tf.int64), order)),
            "detection_class_entities": tf.concat([mids if swapped else names, [""] * (PADDED_TO - 3)], 0),
            "detection_class_names": tf.concat([names if swapped else mids, [""] * (PADDED_TO - 3)], 0),
        }
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"images": images}, outputs)
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, tags=[], signature_def_map={"default": signature})
        builder.save()
    (path / "tfhub_module.pb").write_bytes(b"\x08\x03")
    folder = path / "variables"
    if variables == "empty":
        folder.mkdir(exist_ok=True)
    elif variables == "absent" and folder.is_dir():
        folder.rmdir()
    return path


def build_mask_rcnn(
    path: Path,
    *,
    masks: bool = True,
    signatures: bool = True,
    batch_dimension: bool = True,
    float_input: bool = False,
    raw_rows: int = 1000,
) -> Path:
    """A TF2 SavedModel like the Mask R-CNN of the catalog: callable, uint8, batched outputs, padding, raw tensors.

    Entries past `num_detections` hold a box of the whole image with score 0.99: whoever reads padding sees it.

    Args:
        path: Where to build it.
        masks: Whether it has `detection_masks`.
        signatures: Whether `serving_default` exists; otherwise the model is only callable.
        batch_dimension: Whether input and outputs lead with a dimension of 1.
        float_input: Whether the input is float32 in 0..255 instead of uint8, as exporters offer both.
        raw_rows: Rows of the raw tensors, each of 90 float32.
    """
    import tensorflow as tf

    shape = [1, None, None, 3] if batch_dimension else [None, None, 3]
    spec = tf.TensorSpec(shape, tf.float32 if float_input else tf.uint8, name="input_tensor")

    class Model(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.one = tf.Variable(1.0)

        @tf.function(input_signature=[spec])  # type: ignore[misc]
        def __call__(self, input_tensor: Any) -> dict[str, Any]:
            image = input_tensor[0] if batch_dimension else input_tensor
            image = tf.cast(image, tf.float32) / 255.0
            boxes, scores, mask = find_colors(image * self.one)
            scores, order = tf.math.top_k(scores, 3)
            number = tf.reduce_sum(tf.cast(scores > 0, tf.int32))
            real = tf.range(PADDED_TO) < number
            padded = tf.where(real[:, None], pad(tf.gather(boxes, order)), [[0.0, 0.0, 1.0, 1.0]])
            classes = pad(tf.gather(tf.constant(COCO_IDS, tf.float32), order), 1.0)
            padded_scores = tf.where(real, pad(scores), 0.99)
            distribution = tf.one_hot(tf.cast(classes, tf.int32), 91) * padded_scores[:, None]
            raw = tf.reshape(tf.range(raw_rows * 90, dtype=tf.float32), [raw_rows, 90]) * tf.reduce_mean(image)
            outputs = {
                "detection_boxes": padded,
                "detection_classes": classes,
                "detection_scores": padded_scores,
                "num_detections": tf.cast(number, tf.float32),
                "detection_multiclass_scores": distribution,
                "detection_anchor_indices": tf.cast(pad(order), tf.float32),
                "raw_detection_boxes": raw[:, :4],
                "raw_detection_scores": tf.sort(raw, axis=1),
                "rpn_box_encodings": tf.exp(-raw),
                "image_shape": tf.cast(tf.shape(input_tensor), tf.float32),
            }
            if masks:
                outputs["detection_masks"] = pad(tf.gather(mask, order))
            return {name: value[None] if batch_dimension else value for name, value in outputs.items()}

    model = Model()
    tf.saved_model.save(model, str(path), signatures=model.__call__ if signatures else None)
    return path


def build_classifier(
    path: Path, *, size: int | None = 128, probabilities: bool = False, signatures: bool = True
) -> Path:
    """A TF2 SavedModel like the MobileNetV2 classifier: float32 `[B, 128, 128, 3]` in 0..1 -> logits `[B, 1001]`.

    Like it, it begins by bringing 0..1 to -1..1.

    The logit of each class of `CLASSIFIER_PLACES` is 20 x the mean redness there, that of class 0 (background) is 13.

    Args:
        path: Where to build it.
        size: Height and width of the input, or None for an unstated size.
        probabilities: Whether the output is softmaxed already.
        signatures: Whether `serving_default` exists; otherwise the model is only callable.
    """
    import tensorflow as tf

    spec = tf.TensorSpec([None, size, size, 3], tf.float32, name="inputs")

    class Model(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.gain = tf.Variable(20.0)

        @tf.function(input_signature=[spec])  # type: ignore[misc]
        def __call__(self, inputs: Any) -> Any:
            scaled = inputs * 2.0 - 1.0
            red = tf.maximum(scaled[..., 0] - scaled[..., 1], 0.0) / 2
            rows = tf.shape(inputs)[0]
            logits = tf.concat([tf.fill([rows, 1], 13.0), tf.zeros([rows, 1000])], 1)
            scale = tf.shape(inputs)[1] / 128
            for number, place in CLASSIFIER_PLACES.items():
                top, left, bottom, right = (tf.cast(tf.cast(edge, tf.float64) * scale, tf.int32) for edge in place)
                mean = tf.reduce_mean(red[:, top:bottom, left:right], [1, 2])
                logits += self.gain * mean[:, None] * tf.one_hot(number, 1001)
            return tf.nn.softmax(logits) if probabilities else logits

    model = Model()

    @tf.function(input_signature=[spec])  # type: ignore[misc]
    def serve(inputs: Any) -> dict[str, Any]:
        return {"probabilities" if probabilities else "logits": model(inputs)}

    tf.saved_model.save(model, str(path), signatures={"serving_default": serve} if signatures else None)
    return path


if __name__ == "__main__":
    build_all(Path(sys.argv[1]))
