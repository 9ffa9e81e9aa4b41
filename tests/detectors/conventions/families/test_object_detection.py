from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.detectors.conventions.boxes import BoxForm, Fit, Shown
from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.named_outputs import decode_named
from prelabel.detectors.conventions.protos import Tensor
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.errors import DetectorError
from prelabel.keypoints import KeypointSet
from tests.detectors.conventions.families.scenes import SCENES, check, check_rows, detect, save_scenes
from tests.messages import told
from tests.models import picture


def test_keypoints_are_recognized(family_networks: Path) -> None:
    model = prepare(str(family_networks / "keypoints"))
    assert model.convention.keypoints == model.record.keypoints == KeypointSet.unnamed(4)
    assert "4 keypoints" in model.convention.why
    assert model.notes == ()


def test_keypoints_without_scores_are_not_used(family_networks: Path) -> None:
    model = prepare(str(family_networks / "keypoints_without_scores"))
    assert model.convention.keypoints is None
    assert told(model.notes, "detection_keypoints: float32", "not used")


@pytest.mark.parametrize(
    ("form", "points"),
    [
        (BoxForm("yxyx", "shares"), [[0.75, 0.5]]),
        (BoxForm("xyxy", "input"), [[75.0, 50.0]]),
    ],
)
def test_keypoints_have_the_unit_of_the_boxes(form: BoxForm, points: list[list[float]]) -> None:
    convention = Convention(
        kind="detection",
        signature="serving_default",
        input=Tensor("x", "uint8", (1, 100, 100, 3)),
        batch_dimension=True,
        size=(100, 100),
        outputs={"boxes": "b", "scores": "s", "numbers": "n", "keypoints": "k", "keypoint_scores": "ks"},
        box_form=form,
        fit=Fit("letterbox"),
    )
    outputs = {
        "b": np.array([[[0, 0, 100, 100]]], np.float32),
        "s": np.array([[0.9]], np.float32),
        "n": np.array([[1]], np.float32),
        "k": np.array([[points]], np.float32),
        "ks": np.array([[[0.5]]], np.float32),
    }
    # The image takes rows 25 to 75 of the input: its last row is 0.75 of the input.
    shown = Shown.of((200, 400), (100, 100), convention.fit)
    assert decode_named(outputs, convention, shown, 0.0).arrays["keypoints"].tolist() == [[[1.0, 0.5]]]


def test_keypoints_are_pixels_of_the_image(family_networks: Path) -> None:
    size, boxes = SCENES[0]
    detections = detect(family_networks / "keypoints", picture(*size, *boxes))
    check(detections, boxes)
    assert detections.keypoints is not None
    for points, (_, x1, y1, x2, _) in zip(detections.keypoints, boxes, strict=True):
        # The third has the score 0, and the fourth is not finite: the detector does not give them.
        expected = [[x1, y1, 1], [x2, y1, 0.5], [0, 0, 0], [0, 0, 0]]
        np.testing.assert_allclose(points, expected, atol=1e-3)
    empty = detect(family_networks / "keypoints", picture(64, 48))
    assert empty.keypoints is not None
    assert empty.keypoints.shape == (0, 4, 3)


def test_scores_of_keypoints_beyond_1_fail(family_networks: Path) -> None:
    size, boxes = SCENES[0]
    with pytest.raises(DetectorError, match=r"scores of detection_keypoints must lie within 0\.\.1, got 0 to 7"):
        detect(family_networks / "keypoint_logits", picture(*size, *boxes))


def test_rows_of_keypoints(family_networks: Path, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]]) -> None:
    labelled = rows(save_scenes(tmp_path / "photos"), family_networks / "keypoints")
    check_rows(labelled)
    point = labelled[0]["keypoints"][0][1]
    assert list(point.values() if isinstance(point, dict) else point) == pytest.approx([20, 10, 0.5], abs=1e-3)


@pytest.mark.parametrize("name", ["encoded_jpeg", "encoded_png"])
def test_encoded_images(name: str, family_networks: Path) -> None:
    decision = prepare(str(family_networks / name)).decisions["input encoding"]
    assert (decision.value, "decodes" in decision.why) == ("png", True)
    for size, boxes in SCENES:
        check(detect(family_networks / name, picture(*size, *boxes)), boxes)


def test_rows_of_encoded_images(
    family_networks: Path, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]]
) -> None:
    check_rows(rows(save_scenes(tmp_path / "photos"), family_networks / "encoded_jpeg"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("paths", "not encoded images: the graph passes them to ReadFile"),
        ("encoded_bmp", "not encoded images: the graph does not decode them"),
        ("unused_string", "not encoded images: the graph does not decode them"),
        ("several_strings", "strings of another shape .*one encoded image"),
    ],
)
def test_other_strings_are_refused(name: str, reason: str, family_networks: Path) -> None:
    with pytest.raises(DetectorError, match=reason):
        prepare(str(family_networks / name))


def test_options_of_pixels_contradict_encoded_images(family_networks: Path) -> None:
    from prelabel.detectors.conventions.resolve_model import ReadingOptions

    with pytest.raises(DetectorError, match="decodes images itself: remove --input-range"):
        prepare(str(family_networks / "encoded_png"), reading=ReadingOptions(input_range="0..1"))
