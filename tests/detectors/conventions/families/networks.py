"""Small networks with exactly the interfaces of the families. Built by a process of their own.

They see the colored boxes of `tests.models`. Entries past the number of detections hold a box with score 0.99: whoever
reads padding sees it.

`python -m tests.detectors.conventions.families.networks DIR` builds all of them.
"""

from __future__ import annotations

import json
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
    _model_garden(tf, folder / "garden")
    _model_garden(tf, folder / "garden_normalized", normalized=True)
    _model_garden(tf, folder / "garden_normalized_only", normalized=True, clipped=False)
    _model_garden(tf, folder / "garden_outer", outer=1.5)
    _model_garden(tf, folder / "garden_bytes", input_type="image_bytes")
    _model_garden(tf, folder / "garden_example", input_type="tf_example")
    _object_detection(tf, folder)
    _keras_hub(tf, folder / "keras_hub")
    _keras_hub(tf, folder / "keras_hub_stretched", "rel_xyxy", pad=False)
    _keras_hub(tf, folder / "keras_hub_unscaled", "center_xywh", scale=None, offset=None)
    _keras_hub(tf, folder / "keras_hub_heads", heads=True)


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


def _model_garden(
    tf: Any,
    path: Path,
    *,
    normalized: bool = False,
    clipped: bool = True,
    outer: float = 1.0,
    input_type: str = "image_tensor",
) -> None:
    """As `official/vision/serving` of tensorflow/models saves a detector with an input of 64 x 64.

    Args:
        tf: TensorFlow.
        path: Where to save it.
        normalized: As with `output_normalized_coordinates`.
        clipped: Whether normalized boxes are clipped to the image.
        outer: The masks cover boxes that are so many times as large.
        input_type: `image_tensor`, `image_bytes` or `tf_example`.
    """
    desired = tf.constant([64.0, 64.0])

    def one(image: Any) -> Any:
        values = found(tf, image)
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        scale = tf.round(size * tf.reduce_min(desired / size)) / size
        info = tf.stack([size, desired, scale, tf.zeros(2)])
        boxes = values["boxes"] * tf.tile(size * scale, [2])
        # Rows and columns 5 to 24 of 30 are the box if the mask covers 1.5 times its size.
        mask = tf.pad(tf.ones([20, 20]), [[5, 5], [5, 5]]) if outer > 1 else tf.ones([28, 28])
        masks = tf.tile(mask[None], [100, 1, 1])
        return boxes, values["scores"], tf.cast(values["numbers"], tf.int32), values["count"], masks, info

    def serve(images: Any) -> dict[str, Any]:
        types = (tf.float32, tf.float32, tf.int32, tf.int32, tf.float32, tf.float32)
        boxes, scores, numbers, count, masks, info = tf.map_fn(one, images, fn_output_signature=types)
        outputs = {"detection_scores": scores, "detection_classes": numbers, "num_detections": count}
        if outer > 1:
            middle, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
            outputs["detection_outer_boxes"] = tf.concat([middle - outer * half, middle + outer * half], -1)
        if normalized:
            boxes = boxes / tf.tile(info[:, 2:3, :], [1, 1, 2])
            height, width = info[:, 0:1, 0:1], info[:, 0:1, 1:2]
            sides = (
                boxes[..., 0:1] / height,
                boxes[..., 1:2] / width,
                boxes[..., 2:3] / height,
                boxes[..., 3:4] / width,
            )
            boxes = tf.concat(sides, axis=-1)
            boxes = tf.clip_by_value(boxes, 0.0, 1.0) if clipped else boxes
            return {**outputs, "detection_boxes": boxes, "image_info": info}
        return {**outputs, "detection_boxes": boxes, "detection_masks": masks, "image_info": info}

    def decoded(encoded: Any) -> Any:
        if input_type == "tf_example":
            features = {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
            encoded = tf.io.parse_single_example(encoded, features)["image/encoded"]
        image = tf.image.decode_image(encoded, channels=3)
        image.set_shape((None, None, 3))
        return image

    def serve_strings(inputs: Any) -> dict[str, Any]:
        images = tf.map_fn(decoded, inputs, fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8))
        return serve(tf.stack(images))

    is_image = input_type == "image_tensor"
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8) if is_image else tf.TensorSpec([None], tf.string)
    _save(tf, path, serve if is_image else serve_strings, spec, "inputs")


def _save(tf: Any, path: Path, serve: Any, spec: Any, name: str) -> None:
    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name=name)])
    tf.saved_model.save(module, str(path), signatures=module.serve)


def _object_detection(tf: Any, folder: Path) -> None:
    """As the TF Object Detection API saves them: with keypoints, and with inputs of encoded images."""

    def outputs(image: Any, **more: Any) -> dict[str, Any]:
        values = found(tf, image)
        return {
            "detection_boxes": values["boxes"][None],
            "detection_scores": values["scores"][None],
            "detection_classes": values["numbers"][None],
            "num_detections": tf.cast(values["count"], tf.float32)[None],
            **{name: make(values)[None] for name, make in more.items()},
        }

    def corners(values: Any) -> Any:
        y1, x1, y2, x2 = tf.unstack(values["boxes"], axis=1)
        return tf.stack([tf.stack(point, 1) for point in ((y1, x1), (y1, x2), (y2, x2), (y2 * float("nan"), x1))], 1)

    def corner_scores(values: Any) -> Any:
        return tf.tile(tf.constant([[1.0, 0.5, 0.0, 0.9]]), [tf.shape(values["boxes"])[0], 1])

    def image_of(encoded: Any, decode: Any) -> Any:
        return tf.map_fn(decode, encoded, fn_output_signature=tf.uint8)[0]

    any_size, string = tf.TensorSpec([1, None, None, 3], tf.uint8), tf.TensorSpec([None], tf.string)
    points = {"detection_keypoints": corners, "detection_keypoint_scores": corner_scores}
    forms: dict[str, tuple[Any, Any]] = {
        "keypoints": (any_size, lambda input_tensor: outputs(input_tensor[0], **points)),
        "keypoints_without_scores": (
            any_size,
            lambda input_tensor: outputs(input_tensor[0], detection_keypoints=corners),
        ),
        "keypoint_logits": (
            any_size,
            lambda input_tensor: outputs(
                input_tensor[0],
                detection_keypoints=corners,
                detection_keypoint_scores=lambda values: 7 * corner_scores(values),
            ),
        ),
        "encoded_jpeg": (string, lambda x: outputs(image_of(x, lambda data: tf.io.decode_jpeg(data, channels=3)))),
        "encoded_png": (tf.TensorSpec([], tf.string), lambda x: outputs(tf.io.decode_png(x, channels=3))),
        "encoded_bmp": (tf.TensorSpec([], tf.string), lambda x: outputs(tf.io.decode_bmp(x, channels=3))),
        "paths": (tf.TensorSpec([], tf.string), lambda x: outputs(tf.io.decode_png(tf.io.read_file(x), channels=3))),
        "several_strings": (tf.TensorSpec([2], tf.string), lambda x: outputs(tf.io.decode_png(x[0], channels=3))),
        "unused_string": (
            tf.TensorSpec([], tf.string),
            lambda x: outputs(tf.zeros([8, 8, 3], tf.uint8) + tf.cast(tf.strings.length(x) > 9**9, tf.uint8)),
        ),
    }
    for name, (spec, serve) in forms.items():
        _save(tf, folder / name, serve, spec, "input_tensor")


def _keras_hub(
    tf: Any,
    path: Path,
    form: str = "yxyx",
    *,
    pad: bool = True,
    scale: float | None = 1 / 255,
    offset: tuple[float, ...] | None = (-0.485, -0.456, -0.406),
    heads: bool = False,
) -> None:
    """As a user saves the RetinaNet of KerasHub with an image converter to 72 x 96, in the folder of its preset.

    Args:
        tf: TensorFlow.
        path: Where to save it.
        form: Its `bounding_box_format`.
        pad: Whether its converter keeps the aspect ratio.
        scale: Of its converter.
        offset: Of its converter.
        heads: Save the heads, as `export` does.
    """
    height, width = 72, 96

    def serve(images: Any) -> dict[str, Any]:
        inputs = images if scale is None else images * scale + tf.constant(offset)
        if heads:
            return {"bbox_regression": tf.zeros([1, 9, 4]) + tf.reduce_mean(inputs), "cls_logits": tf.zeros([1, 9, 3])}
        values = found(tf, inputs[0] if scale is None else (inputs[0] - tf.constant(offset)) / scale)
        y1, x1, y2, x2 = tf.unstack(values["boxes"] * [height, width, height, width], axis=1)
        boxes = {
            "yxyx": (y1, x1, y2, x2),
            "rel_xyxy": (x1 / width, y1 / height, x2 / width, y2 / height),
            "center_xywh": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
        }[form]
        real = tf.range(100) < values["count"]
        return {
            "boxes": tf.where(real[:, None], tf.stack(boxes, 1), -1.0)[None],
            "confidence": tf.where(real, values["scores"], -1.0)[None],
            "labels": tf.where(real, tf.cast(values["numbers"], tf.int32), -1)[None],
            "num_detections": values["count"][None],
        }

    _save(tf, path, serve, tf.TensorSpec([1, height, width, 3], tf.float32), "images")
    converter = {
        **{"image_size": [height, width], "scale": scale, "offset": offset, "interpolation": "bilinear"},
        **{"antialias": False, "crop_to_aspect_ratio": False, "pad_to_aspect_ratio": pad},
    }
    preprocessor = {"config": {"image_converter": {"class_name": "RetinaNetImageConverter", "config": converter}}}
    config = {"bounding_box_format": form, "num_classes": 91, "preprocessor": preprocessor}
    (path / "task.json").write_text(json.dumps({"class_name": "RetinaNetObjectDetector", "config": config}))


if __name__ == "__main__":
    build_networks(Path(sys.argv[1]))
