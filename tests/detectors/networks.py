"""Small networks that are easily misread, saved as their makers save them. Built by a process of their own.

Their world is flat grey pictures: a classifier answers 0 for dark ones, 1 for middle ones and 2 for bright ones; a
detector finds the two boxes of `BOXES`, with the picture's brightness (0..1) and nine tenths of it as scores, whatever
the range of its input.

`python -m tests.detectors.networks DIR` builds all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: y1 x1 y2 x2, as shares.
BOXES = ((0.1, 0.2, 0.6, 0.7), (0.3, 0.3, 0.9, 0.8))
#: What Ultralytics writes beside a network of oriented boxes.
ORIENTED_BOXES = """
author: Ultralytics
task: obb
imgsz: [32, 32]
names: {0: plane, 1: ship, 2: storage tank}
"""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_networks(folder: Path) -> None:
    """Save all networks below a folder, each under its name."""
    import tensorflow as tf

    for name, (shape, dtype, tensor, answer) in _functions(tf).items():
        model = tf.Module()
        spec = tf.TensorSpec(shape, dtype, name=tensor)
        model.f = tf.function(answer, input_signature=[spec])
        tf.saved_model.save(model, str(folder / name), signatures=model.f.get_concrete_function())
    (folder / "oriented_boxes" / "metadata.yaml").write_text(ORIENTED_BOXES)
    _hub_classifier(tf, folder / "hub_classifier")
    _keras(folder)


def _functions(tf: Any) -> Mapping[str, tuple[list[int | None], Any, str, Callable[..., Any]]]:
    """Shape, type and name of the input, and what is answered."""
    floats, whole = tf.float32, tf.uint8

    def brightness(x: Any) -> Any:
        return tf.reduce_mean(tf.cast(x, floats), [1, 2, 3])

    def kinds(share: Any) -> Any:
        """Logits of dark, middle and bright."""
        return 12 * tf.stack([0 * share + 0.3, 1 - 2 * tf.abs(share - 0.45), 2 * (share - 0.2)], 1)

    def found(share: Any, factor: Any = 1.0, pad: int = 0, **more: Any) -> dict[str, Any]:
        boxes = tf.pad(tf.constant(BOXES) * factor, [[0, pad], [0, 0]])[None]
        scores = tf.pad(tf.stack([share, share * 0.9]), [[0, pad]])[None]
        classes = tf.pad(tf.constant([1.0, 2.0]), [[0, pad]])[None]
        return {"detection_boxes": boxes, "detection_scores": scores, "detection_classes": classes, **more}

    def whole_masks(x: Any, dtype: Any) -> Any:
        height, width = tf.shape(x)[1], tf.shape(x)[2]
        ys = (tf.cast(tf.range(height), floats)[:, None] + 0.5) / tf.cast(height, floats)
        xs = (tf.cast(tf.range(width), floats)[None] + 0.5) / tf.cast(width, floats)
        masks = [(ys >= b[0]) & (ys < b[2]) & (xs >= b[1]) & (xs < b[3]) for b in BOXES]
        return tf.cast(tf.stack(masks)[None], dtype)

    def brightest(x: Any, count: Any) -> dict[str, Any]:
        """The box of the pixels above 200 of each image. Its score is the brightness of the image, or 0."""
        light = tf.cast(tf.reduce_max(x, 3) > 200, floats)
        sides = []
        for axis in (1, 2):
            line = tf.reduce_max(light, 3 - axis)
            size = tf.cast(tf.shape(line)[1], floats)
            at = tf.range(size)
            sides.append(tf.reduce_min(tf.where(line > 0, at, size), 1) / size)
            sides.append((tf.reduce_max(tf.where(line > 0, at, -1.0), 1) + 1) / size)
        boxes = tf.stack([sides[0], sides[2], sides[1], sides[3]], 1)[:, None]
        scores = brightness(x)[:, None] / 255 * tf.reduce_max(light, [1, 2])[:, None]
        return {
            "detection_boxes": boxes,
            "detection_scores": scores,
            "detection_classes": tf.ones([count, 1]),
            "num_detections": tf.ones([count]),
        }

    def as_bytes(x: Any) -> Any:
        return found(brightness(x)[0] / 255)

    any_size, square = [1, None, None, 3], [None, 32, 32, 3]
    two = tf.constant([2.0])
    return {
        # Floats in 0..255.
        "od_api_float": (
            any_size,
            floats,
            "input_tensor",
            lambda input_tensor: {**as_bytes(input_tensor), "num_detections": two},
        ),
        "detector_of_floats": (any_size, floats, "images", lambda images: as_bytes(images)),
        "half_floats": (any_size, tf.float16, "x", lambda x: found(tf.reduce_mean(tf.cast(x / 255, floats)))),
        "int32": (any_size, tf.int32, "x", lambda x: as_bytes(x)),
        "fixed_uint8": ([1, 40, 60, 3], whole, "x", lambda x: as_bytes(x)),
        # Rows.
        "multilabel_sigmoid": (
            square,
            floats,
            "x",
            lambda x: {
                "output_0": tf.sigmoid(
                    tf.tile([[3.0, 2.5, -4.0, 1.0]], [tf.shape(x)[0], 1]) + 0 * brightness(x)[:, None]
                )
            },
        ),
        "softmax": (square, floats, "x", lambda x: {"output_0": tf.nn.softmax(kinds(brightness(x / 255)))}),
        "softmax_by_hand": (
            square,
            floats,
            "x",
            lambda x: {"output_0": _softmax_by_hand(tf, kinds(brightness(x / 255)))},
        ),
        "softmax_of_halves": (
            square,
            floats,
            "x",
            lambda x: {"output_0": tf.nn.softmax(tf.cast(kinds(brightness(x / 255)), tf.float16))},
        ),
        "log_softmax": (square, floats, "x", lambda x: {"output_0": tf.nn.log_softmax(kinds(brightness(x / 255)))}),
        "logits": (square, floats, "x", lambda x: {"logits": kinds(brightness(x / 255)) @ tf.eye(3)}),
        "uint8_classifier": (square, whole, "x", lambda x: {"output_0": tf.nn.softmax(kinds(brightness(x) / 255))}),
        "softmax_times_two": (
            square,
            floats,
            "x",
            lambda x: {"output_0": 2 * tf.nn.softmax(kinds(brightness(x / 255)))},
        ),
        "two_softmaxes": (
            square,
            floats,
            "x",
            lambda x: {
                "output_0": tf.reshape(tf.nn.softmax(tf.tile(kinds(brightness(x / 255))[:, None], [1, 2, 1])), [-1, 6])
            },
        ),
        "classes_1001": (
            square,
            floats,
            "x",
            lambda x: {
                "output_0": tf.nn.softmax(tf.pad(kinds(brightness(x / 255)), [[0, 0], [0, 998]], constant_values=-99.0))
            },
        ),
        # No classifiers.
        "feature_vector": (
            square,
            floats,
            "x",
            lambda x: {"output_0": tf.tile(brightness(x / 255)[:, None], [1, 1280])},
        ),
        "pooled_features": (
            square,
            floats,
            "x",
            lambda x: {"output_0": tf.reduce_mean(tf.nn.conv2d(x / 255, tf.ones([3, 3, 3, 64]), 1, "SAME"), [1, 2])},
        ),
        "relu_features": (
            square,
            floats,
            "x",
            lambda x: {"output_0": tf.nn.relu(tf.tile(brightness(x / 255)[:, None], [1, 64]) @ tf.eye(64))},
        ),
        "unit_embedding": (
            square,
            floats,
            "x",
            lambda x: {"output_0": tf.math.l2_normalize(tf.tile(brightness(x / 255)[:, None], [1, 64]), 1)},
        ),
        "box_regressor": (
            square,
            floats,
            "x",
            lambda x: {"output_0": tf.tile(brightness(x / 255)[:, None], [1, 4]) @ tf.eye(4) + 0.5},
        ),
        "named_box_sigmoid": (
            square,
            floats,
            "x",
            lambda x: {"bounding_box": tf.sigmoid(tf.tile(brightness(x / 255)[:, None], [1, 4]))},
        ),
        "one_number": (square, floats, "x", lambda x: {"output_0": tf.sigmoid(brightness(x / 255)[:, None])}),
        "depth": (square, floats, "x", lambda x: {"output_0": tf.reduce_mean(x / 255, -1, keepdims=True)}),
        "segmentation": (
            square,
            floats,
            "x",
            lambda x: {"output_0": tf.nn.softmax(tf.nn.conv2d(x / 255, tf.ones([1, 1, 3, 21]), 1, "SAME"))},
        ),
        "heat_maps": (square, floats, "x", lambda x: {"heatmaps": tf.tile(x[..., :1] / 255, [1, 1, 1, 17])}),
        "video": ([None, 16, 32, 32, 3], floats, "x", lambda x: {"output_0": tf.reduce_mean(x, [1, 2, 3])}),
        "audio": ([None], floats, "waveform", lambda waveform: {"output_0": tf.tile(waveform[:1, None], [1, 521])}),
        "text": (
            [None],
            tf.string,
            "text",
            lambda text: {"output_0": tf.one_hot(tf.strings.to_hash_bucket_fast(text, 8), 8)},
        ),
        "oriented_boxes": (
            [1, 32, 32, 3],
            floats,
            "images",
            lambda images: {"output_0": tf.zeros([1, 8, 21]) + tf.reduce_mean(images)},
        ),
        "int_classes": (
            square,
            floats,
            "x",
            lambda x: dict(
                zip(
                    ("boxes", "confidence", "classes"),
                    (
                        tf.constant(BOXES)[None],
                        tf.tile(brightness(x)[:1, None], [1, 2]),
                        tf.constant([[1, 2]], tf.int64),
                    ),
                    strict=True,
                )
            ),
        ),
        # Boxes and masks.
        "pixel_boxes": (
            any_size,
            whole,
            "input_tensor",
            lambda input_tensor: {
                **found(brightness(input_tensor)[0] / 255, [48.0, 64.0, 48.0, 64.0], 98),
                "valid_detections": tf.constant([2]),
            },
        ),
        "corner_and_size": (
            any_size,
            whole,
            "input_tensor",
            lambda input_tensor: {
                **found(brightness(input_tensor)[0] / 255),
                "detection_boxes": tf.constant([[[0.6, 0.7, 0.2, 0.2], [0.1, 0.2, 0.3, 0.3]]]),
            },
        ),
        "logit_scores": (
            any_size,
            whole,
            "x",
            lambda x: {**as_bytes(x), "detection_scores": tf.constant([[5.0, -2.0]])},
        ),
        "masks_of_image": (any_size, whole, "x", lambda x: {**as_bytes(x), "detection_masks": whole_masks(x, floats)}),
        "masks_of_image_uint8": (
            any_size,
            whole,
            "x",
            lambda x: {**as_bytes(x), "detection_masks": whole_masks(x, whole)},
        ),
        "masks_of_fixed_image": (
            [1, 40, 60, 3],
            whole,
            "x",
            lambda x: {**as_bytes(x), "detection_masks": tf.ensure_shape(whole_masks(x, tf.bool), [1, 2, 40, 60])},
        ),
        "masks_of_prototypes": (
            any_size,
            whole,
            "x",
            lambda x: {**as_bytes(x), "detection_masks": tf.ones([1, 2, 160, 160])},
        ),
        "masks_uint8": (
            any_size,
            whole,
            "x",
            lambda x: {**as_bytes(x), "detection_masks": tf.ones([1, 2, 15, 15], whole)},
        ),
        "masks_complex": (
            any_size,
            whole,
            "x",
            lambda x: {**as_bytes(x), "detection_masks": tf.ones([1, 2, 15, 15], tf.complex64)},
        ),
        "embeddings": (
            any_size,
            whole,
            "x",
            lambda x: {
                **as_bytes(x),
                "detection_embeddings": tf.zeros([1, 2, 17, 2]),
                "raw_detection_boxes": tf.zeros([1, 2, 4]),
            },
        ),
        # Several images.
        "batches": ([None, None, None, 3], whole, "x", lambda x: brightest(x, tf.shape(x)[0])),
        "batches_of_one": (
            [None, None, None, 3],
            whole,
            "x",
            lambda x: brightest(x[: tf.minimum(1, tf.shape(x)[0])], tf.minimum(1, tf.shape(x)[0])),
        ),
        "mixed_batches": (
            [None, 48, 64, 3],
            floats,
            "x",
            lambda x: brightest(tf.cast(0 * x + tf.reduce_mean(x, 0), whole), tf.shape(x)[0]),
        ),
        # Layouts.
        "channels_unknown": (
            [1, None, None, None],
            floats,
            "x",
            lambda x: found(tf.reduce_mean(tf.transpose(x, [0, 2, 3, 1])[..., :1] * 255) / 255),
        ),
        "channels_first": (
            [1, 3, None, None],
            floats,
            "x",
            lambda x: found(tf.reduce_mean(tf.transpose(x, [0, 2, 3, 1])[:, :, :, 0] / 255)),
        ),
    }


def _softmax_by_hand(tf: Any, x: Any) -> Any:
    """As Keras computes it along other axes than the last."""
    powers = tf.exp(x - tf.reduce_max(x, 1, keepdims=True))
    return powers / tf.reduce_sum(powers, 1, keepdims=True)


def _hub_classifier(tf: Any, path: Path) -> None:
    """A TF1 hub module for classification: `images` in 0..1, whatever the graph says."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, [None, 32, 32, 3], name="images")
        share = tf.reduce_mean(images, [1, 2, 3])
        scores = tf.nn.softmax(12 * tf.stack([0 * share + 0.3, 1 - 2 * tf.abs(share - 0.45), 2 * (share - 0.2)], 1))
        signature = v1.saved_model.predict_signature_def({"images": images}, {"default": scores})
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, tags=[], signature_def_map={"default": signature})
        builder.save()
    (path / "tfhub_module.pb").write_bytes(b"\x08\x03")


def _keras(folder: Path) -> None:
    """Exports of Keras 3, and a SavedModel of Keras 2: preprocessing inside, as in `keras.applications`."""
    import keras
    import numpy as np
    import tf_keras

    layers = keras.layers
    random = np.random.default_rng(0)
    adapted = layers.Normalization()
    adapted.adapt(random.uniform(0, 255, (16, 32, 32, 3)).astype(np.float32))
    variance = [deviation**2 for deviation in IMAGENET_STD]
    heads = {
        "rescaling": layers.Rescaling(1 / 255.0),
        "rescaling_offset": layers.Rescaling(1 / 127.5, offset=-1),
        "normalization": layers.Normalization(mean=IMAGENET_MEAN, variance=variance),
        "normalization_adapted": adapted,
        "caffe": lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="caffe"),
        "torch": lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="torch"),
        "tf": lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="tf"),
        "nothing": lambda x: x,
    }
    for name, head in heads.items():
        image = keras.Input((32, 32, 3))
        pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(head(image)))
        model = keras.Model(image, layers.Dense(3, activation="softmax")(pooled))
        model.export(folder / f"keras_{name}", verbose=False)
    image = keras.Input((32, 32, 3))
    dense = layers.Dense(3, activation="softmax")
    model = keras.Model(image, dense(layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255.0)(image))))
    dense.set_weights([np.array([[0, 2, 8]] * 3, np.float32), np.array([6, 2, -9.0], np.float32)])
    model.export(folder / "keras3", verbose=False)
    for name, layer in {"dense": layers.Dense(64), "bbox": layers.Dense(4, activation="sigmoid", name="bbox")}.items():
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, layer(layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255.0)(image))))
        model.export(folder / f"keras_{name}", verbose=False)
    keras.applications.MobileNetV3Small(input_shape=(32, 32, 3), weights=None, classes=5, minimalistic=True).export(
        folder / "keras_mobilenet_v3", verbose=False
    )
    image = tf_keras.Input((32, 32, 3))
    pooled = tf_keras.layers.GlobalAveragePooling2D()(tf_keras.layers.Rescaling(1 / 255.0)(image))
    tags = tf_keras.layers.Dense(3, activation="sigmoid", name="tags")(pooled)
    tf_keras.Model(image, tags).save(folder / "keras2_tags", save_format="tf")


if __name__ == "__main__":
    build_networks(Path(sys.argv[1]))
