"""Networks that no family recognizes, through adapters: every form of boxes, scores, masks and inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prelabel.detections import Detections
from prelabel.detectors.conventions.adapter import Adapter
from prelabel.detectors.conventions.resolve_model import PreparedModel, ReadingOptions, prepare
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import load_detector
from prelabel.errors import DetectorError
from prelabel.select import Selection
from tests.detectors.adapter_networks import BYTES_MEAN, DEVIATION, MEAN
from tests.messages import facts, told

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

ORDERS = ("xyxy", "yxyx", "xywh", "cxcywh")
INPUTS: Mapping[str, Mapping[str, Any]] = {
    "stretch": {"colors": "rgb", "range": "0..1", "mean": [*MEAN], "deviation": [*DEVIATION], "fit": "stretch"},
    "letterbox": {
        **{"colors": "rgb", "range": "0..1", "mean": [*MEAN], "deviation": [*DEVIATION]},
        **{"fit": "letterbox", "fill": 114},
    },
    "corner": {
        **{"colors": "rgb", "range": "0..1", "mean": [*MEAN], "deviation": [*DEVIATION]},
        **{"fit": "corner", "fill": 0},
    },
    "keep": {"colors": "rgb", "range": "0..255", "fit": "keep"},
    "caffe": {
        **{"colors": "bgr", "layout": "channels-first", "range": "0..255", "mean": [*BYTES_MEAN]},
        **{"size": [60, 50], "fit": "letterbox", "fill": 128},
    },
}
NETWORKS = {"keep": "open", "caffe": "caffe"}
#: Pixels of the image are for networks that get it in its own size; for others, an adapter with them is refused.
BOX_FORMS = [
    (kind, order, unit)
    for unit in ("normalized", "input-pixels", "image-pixels")
    for order in ORDERS
    for kind in (("keep",) if unit == "image-pixels" else INPUTS)
]
RED, GREEN = 230, 200
#: Height and width of images: wide and tall, even and odd.
SIZES = ((90, 200), (151, 77), (48, 64))


def adapter(kind: str, suppression: Any = None, labels: Any = None, **outputs: Any) -> dict[str, Any]:
    """An adapter for the network of this kind of input: of `xyxy_pixels`, `scores` and `classes`, unless replaced."""
    usual: dict[str, Any] = {
        "boxes": {"tensor": "xyxy_pixels", "order": "xyxy", "unit": "input-pixels"},
        "scores": {"tensor": "scores", "activation": "none"},
        "classes": {"tensor": "classes", "offset": 1},
    }
    values: dict[str, Any] = {
        "input": deepcopy(INPUTS[kind]),
        "outputs": {name: part for name, part in {**usual, **outputs}.items() if part is not None},
        "suppression": suppression or {"iou": 0.3, "classes": "separate"},
    }
    return values if labels is None else {**values, "labels": labels}


def prepared(networks: Path, kind: str, values: Mapping[str, Any]) -> PreparedModel:
    folder = str(networks / NETWORKS.get(kind, "fixed"))
    return prepare(folder, reading=ReadingOptions(adapter=Adapter.of(values)))


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Gray pixels with a red and a green rectangle, and their boxes x1 y1 x2 y2."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    red = [width // 10, height // 5, width // 2, height * 3 // 5]
    green = [width * 3 // 5, height // 2, width * 9 // 10, height * 9 // 10]
    for channel, value, (x1, y1, x2, y2) in ((0, RED, red), (1, GREEN, green)):
        pixels[y1:y2, x1:x2] = 0
        pixels[y1:y2, x1:x2, channel] = value
    return pixels, np.array([red, green], np.float64)


def tolerance(kind: str, height: int, width: int) -> float:
    """A pixel and a half of the input, in pixels of the image."""
    size = {"keep": (height, width), "caffe": (60, 50)}.get(kind, (48, 64))
    return 1.5 * max(1.0, height / size[0], width / size[1])


def detect(
    networks: Path, kind: str, values: Mapping[str, Any], threshold: float = 0.1
) -> Iterator[tuple[Detections, np.ndarray, float]]:
    """What is detected in images of all sizes, the boxes that are there, and a tolerance."""
    options = DetectorOptions(selection=Selection(score_threshold=threshold))
    detector = load_detector(prepared(networks, kind, values), options, warm_up=None)
    for size in SIZES:
        pixels, boxes = picture(*size)
        yield detector.detect([pixels])[0], boxes, tolerance(kind, *size)


@pytest.mark.parametrize(("kind", "order", "unit"), BOX_FORMS)
def test_boxes_of_every_order_and_unit_in_every_fit(adapter_networks: Path, kind: str, order: str, unit: str):
    form = "normalized" if unit == "normalized" else "pixels"
    values = adapter(kind, boxes={"tensor": f"{order}_{form}", "order": order, "unit": unit})
    for detections, boxes, near in detect(adapter_networks, kind, values):
        assert detections.category_id.tolist() == [1, 2]
        np.testing.assert_allclose(detections.xyxy, boxes, atol=near)
        np.testing.assert_allclose(detections.score, [RED / 255, GREEN / 255], atol=0.05)


LOGITS = {"tensor": "logits", "activation": "sigmoid"}
PER_CLASS = {"scores": {"tensor": "class_scores", "activation": "none"}, "classes": None}
WITH_BACKGROUND = {
    "scores": {"tensor": "class_logits", "activation": "softmax"},
    "classes": {"background": 0},
}
#: The rows of this network are fewer than its columns, so it must be said that they are rows.
ROWS = {
    "boxes": {"tensor": "rows", "columns": "0..3", "transposed": False, "order": "xyxy", "unit": "input-pixels"},
    "scores": {"tensor": "rows", "columns": 4, "transposed": False, "activation": "none"},
    "classes": {"tensor": "rows", "columns": 5, "transposed": False, "offset": 1},
}
TRANSPOSED = {
    "boxes": {
        **{"tensor": "transposed", "columns": "0..3", "transposed": True},
        **{"order": "cxcywh", "unit": "input-pixels"},
    },
    "scores": {"tensor": "transposed", "columns": "4..", "transposed": True, "activation": "none"},
    "classes": {"offset": 1},
}


@pytest.mark.parametrize("kind", ["letterbox", "keep", "caffe"])
@pytest.mark.parametrize(
    "outputs",
    [{"scores": LOGITS}, {**PER_CLASS, "classes": {"offset": 1}}, WITH_BACKGROUND, ROWS, TRANSPOSED],
    ids=["logits", "per-class", "softmax-with-background", "rows", "transposed"],
)
def test_scores_and_classes_of_every_form(adapter_networks: Path, kind: str, outputs: Mapping[str, Any]):
    for detections, boxes, near in detect(adapter_networks, kind, adapter(kind, **outputs)):
        assert detections.category_id.tolist() == [1, 2]
        np.testing.assert_allclose(detections.xyxy, boxes, atol=near)
        np.testing.assert_allclose(detections.score, [RED / 255, GREEN / 255], atol=0.05)


def test_scores_are_multiplied_with_objectness(adapter_networks: Path):
    part = {"tensor": "with_objectness"}
    outputs = {
        "boxes": {**part, "columns": "0..3", "order": "cxcywh", "unit": "input-pixels"},
        "objectness": {**part, "columns": 4, "activation": "none"},
        "scores": {**part, "columns": "5..6", "activation": "none"},
        "classes": {"offset": 3},
    }
    # The rows of this network are fewer than its columns.
    for name in ("boxes", "objectness", "scores"):
        outputs[name]["transposed"] = False
    for detections, _, _ in detect(adapter_networks, "keep", adapter("keep", **outputs)):
        assert detections.category_id.tolist() == [3, 4]
        np.testing.assert_allclose(detections.score, [RED / 510, GREEN / 510], atol=0.02)


def test_without_suppression_every_box_is_kept_and_with_a_count_the_first(adapter_networks: Path):
    values = adapter("keep", "none")
    assert [len(found) for found, _, _ in detect(adapter_networks, "keep", values)] == [4, 4, 4]
    values = adapter("keep", "none", count={"tensor": "count"})
    for detections, _, _ in detect(adapter_networks, "keep", values):
        assert sorted(detections.category_id.tolist()) == [1, 1, 2]


def test_suppression_keeps_the_best_boxes(adapter_networks: Path):
    values = adapter("keep", {"iou": 0.3, "classes": "separate", "max": 1})
    for detections, _, _ in detect(adapter_networks, "keep", values):
        assert detections.category_id.tolist() == [1]


def test_one_class_and_names_as_classes(adapter_networks: Path):
    for detections, _, _ in detect(adapter_networks, "keep", adapter("keep", classes={"number": 7})):
        assert detections.category_id.tolist() == [7, 7]
    for detections, _, _ in detect(adapter_networks, "keep", adapter("keep", classes={"tensor": "names"})):
        assert detections.label.tolist() == ["rot", "gruen"]


def test_labels_are_a_list_from_class_0_or_numbers_with_names(adapter_networks: Path):
    labels: tuple[Any, ...] = (["red", "green"], {"1": "red", "2": "green"})
    for given in labels:
        for detections, _, _ in detect(adapter_networks, "keep", adapter("keep", labels=given)):
            assert detections.label.tolist() == ["red", "green"]


def rectangle_mask(size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    mask = np.zeros(size, bool)
    x1, y1, x2, y2 = np.rint(box).astype(int)
    mask[y1:y2, x1:x2] = True
    return mask


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "masks",
    [
        {"tensor": "box_masks", "frame": "box", "activation": "none"},
        {"tensor": "mask_logits", "frame": "box", "activation": "sigmoid"},
        {"tensor": "image_masks", "frame": "image", "activation": "none"},
    ],
    ids=["box", "logits", "image"],
)
def test_masks_of_boxes_and_images_in_every_fit(adapter_networks: Path, kind: str, masks: Mapping[str, Any]):
    for detections, boxes, near in detect(adapter_networks, kind, adapter(kind, masks=masks)):
        size = detections.height, detections.width
        for encoded, box in zip(detections.mask, boxes, strict=True):
            mask = coco_mask.decode({"size": size, "counts": encoded}).astype(bool)
            expected = box.copy()
            if masks["frame"] == "box":  # the left half
                expected[2] = (box[0] + box[2]) / 2
            whole = rectangle_mask(size, expected)
            perimeter = 2 * (expected[2] - expected[0] + expected[3] - expected[1])
            assert np.count_nonzero(mask ^ whole) <= near * perimeter


def test_images_are_batched_only_if_inputs_and_outputs_are(adapter_networks: Path):
    assert prepared(adapter_networks, "stretch", adapter("stretch")).convention.batches
    assert not prepared(adapter_networks, "keep", adapter("keep")).convention.batches


def test_what_is_declared_is_recorded_as_decisions_and_what_is_left_out_as_notes(adapter_networks: Path):
    model = prepared(adapter_networks, "caffe", adapter("caffe", **TRANSPOSED))
    values = {about: decision.value for about, decision in model.decisions.items()}
    assert values == {
        "input range": "0..255",
        "input layout": "channels-first",
        "colors": "bgr",
        "mean": "103, 116, 123",
        "fit": "letterbox to 60 x 50 (height x width), filled with 128",
        "boxes": "center x y width height, pixels of the input, in transposed columns 0..3 transposed",
        "scores": "transposed columns 4.. transposed",
        "classes": "the best column of the scores plus 1",
        "suppression": "above IoU 0.3 within each class",
    }
    assert all("--adapter" in decision.why for decision in model.decisions.values())
    assert told(model.notes, "rows", "not used")
    model = prepared(adapter_networks, "keep", adapter("keep", **{**ROWS, "classes": {"number": 1}}))
    assert told(model.notes, "columns", "rows", "5", "not used")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": {"tensor": "boxes"}}, ["outputs.boxes.tensor", "boxes", "xyxy_pixels: float32 [1, 4, 4]"]),
        ({"boxes": {"tensor": "image_masks"}}, ["outputs.boxes", "image_masks: float32 [1, 4, ?, ?]", "[N, columns]"]),
        ({"boxes": {"tensor": "rows"}}, ["outputs.boxes.columns", "4", "6", "rows: float32 [1, 4, 6]"]),
        ({"boxes": {"tensor": "rows", "columns": "3..6"}}, ["outputs.boxes.columns", "6"]),
        ({"boxes": {"tensor": "rows", "columns": "3.."}}, ["outputs.boxes.columns", "4"]),
        (
            {"boxes": {"tensor": "with_objectness", "columns": "0..3"}},
            ["outputs.boxes.transposed", "true", "false", "with_objectness: float32 [1, 4, 7]"],
        ),
        ({"scores": {"tensor": "classes"}}, ["outputs.scores", "float32", "classes: int64 [1, 4]"]),
        ({"scores": {"tensor": "class_scores"}}, ["outputs.scores", "[N]", "class_scores: float32 [1, 4, 2]"]),
        ({"classes": {"tensor": "names"}}, ["outputs.classes", "names", "offset"]),
        ({"count": {"tensor": "image_masks"}}, ["outputs.count", "one number", "image_masks"]),
        ({"masks": {"tensor": "scores", "frame": "box", "activation": "none"}}, ["outputs.masks", "height"]),
    ],
)
def test_an_output_that_does_not_fit_is_refused_with_its_key_and_what_there_is(
    adapter_networks: Path, change: dict[str, Any], words: list[str]
):
    values = adapter("keep")
    for name, part in change.items():
        values["outputs"].setdefault(name, {}).update(part)
    with pytest.raises(DetectorError, match=facts(*words)):
        prepared(adapter_networks, "keep", values)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("stretch", {"size": [64, 64]}, ["input.size", "64 x 64", "[?, 48, 64, 3]"]),
        ("stretch", {"fit": "keep"}, ["input.fit", "keep", "[?, 48, 64, 3]"]),
        ("keep", {"fit": "stretch"}, ["input.size", "stretch", "[1, ?, ?, 3]"]),
        ("keep", {"layout": "channels-first"}, ["serving_default", "channels-first"]),
    ],
)
def test_an_input_that_does_not_fit_is_refused_with_its_key(
    adapter_networks: Path, kind: str, change: dict[str, Any], words: list[str]
):
    values = adapter(kind)
    values["input"].update(change)
    with pytest.raises(DetectorError, match=facts(*words)):
        prepared(adapter_networks, kind, values)


def test_a_float_input_without_a_range_is_refused(adapter_networks: Path):
    values = adapter("keep")
    del values["input"]["range"]
    # The network divides by 255 itself.
    assert prepared(adapter_networks, "keep", values).decisions["input range"].value == "0..255"
    values = adapter("stretch")
    for key in ("range", "mean", "deviation"):
        del values["input"][key]
    with pytest.raises(DetectorError, match=facts("--adapter input.range", "0..255")):
        prepared(adapter_networks, "stretch", values)


def test_an_unknown_signature_is_refused(adapter_networks: Path):
    with pytest.raises(DetectorError, match=facts("signature", "serve", "serving_default")):
        prepared(adapter_networks, "keep", {"signature": "serve", **adapter("keep")})


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"scores": {"tensor": "logits", "activation": "none"}}, ["logits", "0..1"]),
        (
            {"boxes": {"tensor": "xyxy_normalized", "order": "xyxy", "unit": "input-pixels"}},
            ["xyxy_normalized", "normalized"],
        ),
        ({"boxes": {"tensor": "xyxy_pixels", "order": "xyxy", "unit": "normalized"}}, ["xyxy_pixels", "pixels"]),
        ({"boxes": {"tensor": "cxcywh_pixels", "order": "xyxy", "unit": "input-pixels"}}, ["cxcywh_pixels", "center"]),
        ({"masks": {"tensor": "mask_logits", "frame": "box", "activation": "none"}}, ["mask_logits", "0..1"]),
        ({"masks": {"tensor": "box_masks", "frame": "box", "activation": "sigmoid"}}, ["box_masks", "sigmoid"]),
    ],
)
def test_an_image_fails_if_its_arrays_contradict_the_adapter(
    adapter_networks: Path, outputs: dict[str, Any], words: list[str]
):
    with pytest.raises(DetectorError, match=facts(*words)):
        list(detect(adapter_networks, "keep", adapter("keep", **outputs)))
