from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.detectors.conventions.boxes import BoxForm, Fit, Shown
from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.named_outputs import decode_named
from prelabel.detectors.conventions.protos import Signature, Tensor
from prelabel.detectors.conventions.recognize import recognize
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.models.cache import fingerprint_of
from prelabel.errors import DetectorError
from tests.detectors.conventions.families.scenes import Box, check, detect
from tests.messages import facts, tells
from tests.models import picture

SIGNATURE = Signature(
    "serving_default",
    (Tensor("images", "float32", (1, 100, 200, 3)),),
    (
        Tensor("boxes", "float32", (1, 100, 4)),
        Tensor("confidence", "float32", (1, 100)),
        Tensor("labels", "int32", (1, 100)),
        Tensor("num_detections", "int32", (1,)),
    ),
)
CONVERTER = {
    **{"image_size": [100, 200], "scale": 1 / 255, "offset": None, "interpolation": "bilinear", "antialias": False},
    **{"crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True},
}

#: Not square; boxes that are still there at 72 x 96.
SCENES: tuple[tuple[tuple[int, int], tuple[Box, ...]], ...] = (
    ((141, 67), (("red", 3, 10, 30, 101), ("blue", 35, 60, 67, 141))),
    ((153, 411), (("red", 100, 0, 311, 53), ("green", 20, 81, 402, 150))),
    ((72, 96), (("green", 0, 0, 96, 32),)),
    ((48, 64), ()),
)


def task(folder: Path, form: str = "yxyx", kind: str = "RetinaNetObjectDetector", **changes: Any) -> Path:
    """Write `task.json` with a converter that has these changes."""
    preprocessor = {"config": {"image_converter": {"config": {**CONVERTER, **changes}}}}
    config = {"bounding_box_format": form, "preprocessor": preprocessor}
    (folder / "task.json").write_text(json.dumps({"class_name": kind, "config": config}))
    return folder


def recognized(folder: Path) -> Convention:
    return recognize([SIGNATURE], folder=folder)


def decoded(convention: Convention, box: list[float]) -> list[float]:
    """A box of an image of 100 x 100, which takes the middle of the input of 100 x 200, in shares of the image."""
    outputs = {
        "boxes": np.array([[box, [-1] * 4]], np.float32),
        "confidence": np.array([[0.9, -1]], np.float32),
        "labels": np.array([[2, -1]], np.int32),
        "num_detections": np.array([1], np.int32),
    }
    candidates = decode_named(outputs, convention, Shown.of((100, 100), (100, 200), convention.fit), 0.0)
    assert candidates.arrays["numbers"].tolist() == [2]
    (shares,) = candidates.arrays["boxes"].tolist()
    return [round(share, 6) for share in shares]


@pytest.mark.parametrize(
    ("form", "expected", "box"),
    [
        ("yxyx", BoxForm("yxyx", "input"), [10, 60, 50, 130]),
        ("xyxy", BoxForm("xyxy", "input"), [60, 10, 130, 50]),
        ("xywh", BoxForm("xywh", "input"), [60, 10, 70, 40]),
        ("center_xywh", BoxForm("cxcywh", "input"), [95, 30, 70, 40]),
        ("rel_yxyx", BoxForm("yxyx", "shares"), [0.1, 0.3, 0.5, 0.65]),
        ("rel_xyxy", BoxForm("xyxy", "shares"), [0.3, 0.1, 0.65, 0.5]),
    ],
)
def test_the_form_of_boxes_is_that_of_the_task(form: str, expected: BoxForm, box: list[float], tmp_path: Path) -> None:
    convention = recognized(task(tmp_path, form))
    assert convention.box_form == expected
    assert convention.fit == Fit("pad", antialias=False)
    assert convention.why == "KerasHub RetinaNetObjectDetector by signature 'serving_default' and task.json"
    assert decoded(convention, box) == [0.1, 0.1, 0.5, 0.8]


def test_the_fit_is_that_of_the_image_converter(tmp_path: Path) -> None:
    convention = recognized(task(tmp_path, pad_to_aspect_ratio=False, antialias=True))
    assert convention.fit == Fit("stretch")
    assert convention.known["resizing"].value == "stretched"
    assert "input range" not in convention.known
    assert decoded(convention, [10, 60, 50, 130]) == [0.1, 0.3, 0.5, 0.65]
    unscaled = recognized(task(tmp_path, scale=None))
    assert (unscaled.known["input range"].value, unscaled.known["resizing"].value) == (
        "0..255",
        "in the center, filled up to the aspect ratio of the input, without antialiasing",
    )


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda folder: None, r"order and unit of its boxes are not known \(the folder has no task\.json\)"),
        (lambda folder: (folder / "task.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "task.json").write_text("[" * 99999), "cannot be read as JSON"),
        (lambda folder: (folder / "task.json").write_text("[]"), "does not describe a RetinaNetObjectDetector"),
        (lambda folder: (folder / "task.json").write_text(" " * (5 << 20)), "larger than 4,194,304 bytes"),
        (lambda folder: task(folder, kind="ImageClassifier"), "does not describe a RetinaNetObjectDetector"),
        (lambda folder: task(folder, "center_yxhw"), "bounding_box_format is center_yxhw: save it with yxyx"),
        (lambda folder: task(folder, "xyxy", "DFineObjectDetector"), "bounding_box_format is xyxy: save it with yxyx"),
        (lambda folder: task(folder, crop_to_aspect_ratio=True), "crops images.* crop_to_aspect_ratio=False"),
        (lambda folder: task(folder, interpolation="bicubic"), "'bicubic'.* interpolation='bilinear'"),
        (lambda folder: task(folder, image_size=[200, 100]), r"images of \[200, 100\] .*\[100, 200\]"),
        (lambda folder: task(folder, image_size=None), r"images of None pixels"),
    ],
)
def test_what_is_not_known_or_supported_is_refused(
    write: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(DetectorError, match=reason) as refused:
        recognized(tmp_path)
    assert tells(str(refused.value), "--adapter", "--detector package.module:factory")


def test_a_label_map_with_more_classes_than_the_model_is_refused(family_networks: Path, tmp_path: Path) -> None:
    shutil.copytree(family_networks / "keras_hub", tmp_path / "copy")
    task_file = tmp_path / "copy" / "task.json"
    content = json.loads(task_file.read_text())
    for number, is_refused in ((80, True), (91, False)):
        content["config"]["num_classes"] = number
        task_file.write_text(json.dumps(content))
        with pytest.raises(DetectorError, match=facts("coco", "--label-map")) if is_refused else nullcontext():
            assert prepare(str(tmp_path / "copy"), label_map="coco").convention.classes == number


def test_other_inputs_and_outputs_are_refused(tmp_path: Path) -> None:
    task(tmp_path)
    with pytest.raises(DetectorError, match="not the fixed size of its image converter"):
        recognize([replace(SIGNATURE, inputs=(Tensor("x", "uint8", (1, None, None, 3)),))], folder=tmp_path)
    wrong = (Tensor("boxes", "float32", (1, 4)), *SIGNATURE.outputs[1:])
    with pytest.raises(DetectorError, match=r"output boxes: float32 \[1, 4\] is of another type or shape"):
        recognize([replace(SIGNATURE, outputs=wrong)], folder=tmp_path)


@pytest.mark.parametrize("names", [("pred_boxes", "logits"), ("bbox_regression", "cls_logits")])
def test_heads_are_refused_and_their_maker_is_named_only_if_it_is_known(names: tuple[str, str], tmp_path: Path) -> None:
    heads = tuple(Tensor(name, "float32", (1, 9, size)) for name, size in zip(names, (4, 80), strict=True))
    ways_out = (*names, "decode_predictions", "--adapter", "--detector package.module:factory")
    with pytest.raises(DetectorError, match=facts(*ways_out, "if it is of KerasHub")) as refused:
        recognize([replace(SIGNATURE, outputs=heads)], folder=tmp_path)
    assert str(refused.value).count("--adapter") == 1
    task(tmp_path, kind="DFineObjectDetector")
    with pytest.raises(DetectorError, match=facts(*ways_out, "KerasHub DFineObjectDetector")):
        recognize([replace(SIGNATURE, outputs=heads)], folder=tmp_path)


def test_the_heads_that_keras_exports_are_refused(family_networks: Path) -> None:
    with pytest.raises(DetectorError, match=facts("decode_predictions", "--adapter", "--detector")):
        prepare(str(family_networks / "keras_hub_heads"))


def test_decisions_are_recorded(family_networks: Path) -> None:
    decisions = {
        name: {about: decision.value for about, decision in prepare(str(family_networks / name)).decisions.items()}
        for name in ("keras_hub", "keras_hub_stretched", "keras_hub_unscaled")
    }
    center = "in the center, filled up to the aspect ratio of the input, without antialiasing"
    stretched = "stretched, without antialiasing"
    assert decisions == {
        "keras_hub": {
            "input range": "0..255",
            "boxes": "y1 x1 y2 x2, pixels of the input",
            "resizing": center,
        },
        "keras_hub_stretched": {
            "input range": "0..255",
            "boxes": "x1 y1 x2 y2, normalized to 0..1",
            "resizing": stretched,
        },
        "keras_hub_unscaled": {
            "input range": "0..255",
            "boxes": "center x y width height, pixels of the input",
            "resizing": center,
        },
    }


def test_the_task_is_part_of_the_fingerprint(family_networks: Path, tmp_path: Path) -> None:
    shutil.copytree(family_networks / "keras_hub", tmp_path / "copy")
    before = fingerprint_of(tmp_path / "copy")
    assert before == fingerprint_of(family_networks / "keras_hub")
    task(tmp_path / "copy")
    assert fingerprint_of(tmp_path / "copy") != before


@pytest.mark.parametrize("name", ["keras_hub", "keras_hub_stretched", "keras_hub_unscaled"])
def test_it_finds_boxes(name: str, family_networks: Path) -> None:
    for size, boxes in SCENES:
        # An edge may be a pixel of the input away, where a box begins between two pixels.
        pixel = max(1, size[0] / 72, size[1] / 96)
        check(detect(family_networks / name, picture(*size, *boxes)), boxes, within=1.1 * pixel, score_within=0.03)


def test_an_image_that_would_become_huge_is_refused(family_networks: Path) -> None:
    with pytest.raises(DetectorError, match=facts("1 x 400000", "72 x 96")):
        detect(family_networks / "keras_hub", np.zeros((1, 400_000, 3), np.uint8))


def test_rows(family_networks: Path, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]]) -> None:
    (tmp_path / "photos").mkdir()
    (size, boxes) = SCENES[0]
    Image.fromarray(picture(*size, *boxes)).save(tmp_path / "photos" / "0.png")
    (row,) = rows(tmp_path / "photos", family_networks / "keras_hub", "--label-map", "coco")
    assert (row["error"], row["labels"]) == (None, ["dog", "toothbrush"])
    np.testing.assert_allclose(row["boxes"], [box[1:] for box in boxes], atol=2.2)
