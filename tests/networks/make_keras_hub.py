"""Save a KerasHub detector as docs/how-to/detectors.md says, and write what it predicts; run by KerasHub's environment.

python make_keras_hub.py {letterbox,stretch} FOLDER PHOTO...    see comparison.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from PIL import Image

#: Height and width of the input; neither square nor of the shape of a photo.
SIZE = (256, 352)
CLASSES = 7


def build(kind: str) -> Any:
    """A RetinaNet with random weights."""
    keras.utils.set_random_seed(1)
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(*SIZE, 3),
    )
    backbone = keras_hub.models.RetinaNetBackbone(
        image_encoder=encoder, min_level=3, max_level=5, use_p5=False, image_shape=(*SIZE, 3)
    )
    boxes = {"letterbox": "yxyx", "stretch": "xywh"}[kind]
    converter = keras_hub.layers.RetinaNetImageConverter(
        image_size=SIZE,
        scale=[1 / 255 / deviation for deviation in (0.229, 0.224, 0.225)],
        offset=[-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        crop_to_aspect_ratio=False,
        pad_to_aspect_ratio=kind == "letterbox",
        antialias=kind == "stretch",
        bounding_box_format=boxes,
    )
    return keras_hub.models.RetinaNetObjectDetector(
        backbone=backbone,
        num_classes=CLASSES,
        bounding_box_format=boxes,
        preprocessor=keras_hub.models.RetinaNetObjectDetectorPreprocessor(image_converter=converter),
        prediction_decoder=keras_hub.layers.NonMaxSuppression(
            bounding_box_format=boxes, from_logits=True, confidence_threshold=0.0
        ),
    )


def spread(detector: Any, photo: np.ndarray) -> None:
    """Give the heads weights with which scores and sizes differ, but none is 0 or 1."""
    inputs = detector.preprocessor.image_converter(photo[None].astype("float32"))
    for head, name, deviation, mean in (
        (detector.classification_head, "cls_logits", 1.5, -1.0),
        (detector.box_head, "bbox_regression", 0.4, 0.0),
    ):
        kernel, bias = head.prediction_layer.kernel, head.prediction_layer.bias
        generator = np.random.default_rng(2)
        kernel.assign(generator.normal(size=kernel.shape).astype("float32"))
        bias.assign(np.zeros(bias.shape, "float32"))
        values = keras.ops.convert_to_numpy(detector(inputs)[name])
        kernel.assign(keras.ops.convert_to_numpy(kernel) * deviation / values.std())
        bias.assign(np.full(bias.shape, mean - values.mean() * deviation / values.std(), "float32"))


def save(detector: Any, folder: str) -> None:
    """The recipe of docs/how-to/detectors.md."""
    converter = detector.preprocessor.image_converter

    class Serving(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector

        @tf.function(input_signature=[tf.TensorSpec([1, *converter.image_size, 3], tf.float32, name="images")])
        def serve(self, images: Any) -> Any:
            inputs = converter(images)
            return self.detector.decode_predictions(self.detector(inputs), inputs)

    serving = Serving()
    detector.save_to_preset(folder)
    tf.saved_model.save(serving, folder, signatures=serving.serve)


def measured(resizing: Any, size: tuple[int, ...], axis: int) -> tuple[float, float]:
    """The scale and offset of an axis: a photo that grows brighter along it is 1 brighter per pixel before resizing.

    Interpolation is linear, so in the middle of the input, the brightness is exactly the place in the photo. The filter
    against aliasing averages pixels around that place, and their mean is up to a tenth of a pixel beside it.
    """
    ramp = np.broadcast_to(np.expand_dims(np.arange(size[axis]), 1 - axis)[..., None], (*size, 3)).astype("float32")
    antialias, resizing.antialias = resizing.antialias, False
    moved = keras.ops.convert_to_numpy(resizing(ramp))[..., 0]
    resizing.antialias = antialias
    line = moved[SIZE[0] // 2] if axis else moved[:, SIZE[1] // 2]
    first, last = len(line) * 7 // 16, len(line) * 9 // 16
    # The value at the center of pixel i of the input is the place in the photo, minus half a pixel.
    slope = float(line[last] - line[first]) / (last - first)
    return 1 / slope, first + 0.5 - (float(line[first]) + 0.5) / slope


def predict(detector: Any, photo: np.ndarray) -> dict[str, Any]:
    """What `predict` finds in a photo, in pixels of the photo.

    It returns boxes in pixels of the input, in the detector's format, and nothing that moves them back to the photo. So
    the way back is measured: photos of one bright column or row show where Keras moves the edges of a photo.
    """
    found = detector.predict(photo[None].astype("float32"), verbose=0)
    count = int(found["num_detections"][0])
    boxes = keras.utils.bounding_boxes.convert_format(
        found["boxes"][0, :count], source=detector.bounding_box_format, target="xyxy"
    )
    boxes = keras.ops.convert_to_numpy(boxes).astype(np.float64)
    resizing = detector.preprocessor.image_converter.resizing
    scale_x, left = measured(resizing, photo.shape[:2], 1)
    scale_y, top = measured(resizing, photo.shape[:2], 0)
    of_photo = (boxes - np.array([left, top] * 2)) / np.array([scale_x, scale_y] * 2)
    return {
        "xyxy": of_photo.tolist(),
        "score": found["confidence"][0, :count].astype(float).tolist(),
        "category_id": found["labels"][0, :count].tolist(),
    }


def main(kind: str, folder: Path, photos: list[Path]) -> None:
    detector = build(kind)
    pixels = {photo.name: np.asarray(Image.open(photo).convert("RGB")) for photo in photos}
    spread(detector, next(iter(pixels.values())))
    save(detector, str(folder / "model"))
    images = {name: predict(detector, photo) for name, photo in pixels.items()}
    report = {"library": f"KerasHub {keras_hub.__version__}", "images": images}
    (folder / "predictions.json").write_text(json.dumps(report))


if __name__ == "__main__":
    kind, folder, *photos = sys.argv[1:]
    main(kind, Path(folder), list(map(Path, photos)))
