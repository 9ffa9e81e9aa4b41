"""Models that are no detectors, or whose outputs cannot be used: each is refused in one line with a way out."""

from __future__ import annotations

import pytest

from prelabel.detectors.conventions.protos import Signature, Tensor
from prelabel.detectors.conventions.recognize import recognize
from prelabel.errors import DetectorError
from tests.messages import facts

IMAGE = Tensor("x", "float32", (None, 224, 224, 3))


def signature(*outputs: Tensor, inputs: tuple[Tensor, ...] = (IMAGE,)) -> Signature:
    return Signature("serving_default", inputs, outputs)


def floats(name: str, *shape: int | None) -> Tensor:
    return Tensor(name, "float32", (None, *shape))


ROWS = floats("output_0", 521)

WRONG = {
    "audio": (signature(ROWS, inputs=(Tensor("waveform", "float32", (None,)),)), ["waveform", "not an image"]),
    "spectrogram": (signature(ROWS, inputs=(floats("x", 96, 64, 1),)), ["1 channel", "3"]),
    "text": (signature(ROWS, inputs=(Tensor("text", "string", (None,)),)), ["strings", "does not decode"]),
    "video": (signature(ROWS, inputs=(floats("x", 16, 224, 224, 3),)), ["not an image"]),
    "two inputs": (signature(ROWS, inputs=(IMAGE, floats("mask", 224, 224, 1))), ["2 inputs", "one image"]),
    "feature extractor": (signature(floats("feature_vector", 1280)), ["features", "--activation"]),
    "regression": (signature(floats("age", 1)), ["regression", "age"]),
    "segmentation": (signature(floats("output_0", 224, 224, 21)), ["map", "segmentation"]),
    "depth": (signature(floats("depth", 224, 224, 1)), ["map", "depth"]),
    "picture to picture": (signature(floats("output_0", None, None, 3)), ["map"]),
    "heat maps of a pose": (signature(floats("heatmaps", 48, 48, 17)), ["map", "heatmaps"]),
    "anchors and classes": (
        signature(floats("box_outputs", 49104, 4), floats("class_outputs", 49104, 90)),
        ["box_outputs", "detection_boxes"],
    ),
    "YOLO without metadata": (
        signature(
            Tensor("output_0", "float32", (1, 84, 8400)), inputs=(Tensor("images", "float32", (1, 640, 640, 3)),)
        ),
        ["metadata.yaml"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_model_is_refused_in_one_line_that_names_ways_out(name: str) -> None:
    wrong, words = WRONG[name]
    with pytest.raises(DetectorError, match=facts(*words, "--adapter", "--detector package.module:factory")) as refused:
        recognize([wrong])
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 900
