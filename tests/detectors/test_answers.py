from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prelabel.detectors.answers import DetectorOptions, to_found, to_image_labels, wanted_outputs
from prelabel.detectors.convention import Convention, Tensor
from prelabel.errors import DetectorError
from prelabel.labels.maps import ClassName, LabelMap
from prelabel.select import Selection

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

IMAGE = Tensor("images", "float32", (1, None, None, 3))
NUMBERED = Convention(
    "detection",
    "default",
    IMAGE,
    True,
    False,
    None,
    {"boxes": "detection_boxes", "scores": "detection_scores", "numbers": "detection_classes"},
)
COUNTED = Convention("detection", "default", IMAGE, True, False, None, {**NUMBERED.outputs, "count": "num_detections"})
NAMED = Convention(
    "detection",
    "default",
    IMAGE,
    True,
    False,
    None,
    {"boxes": "detection_boxes", "scores": "detection_scores"},
    ("detection_class_entities", "detection_class_names"),
)
ALL = DetectorOptions(selection=Selection(score_threshold=0.0))
LABELS = LabelMap({18: ClassName("dog", "/m/0bt9lr"), 90: ClassName("toothbrush", "")})


def outputs(**arrays: Any) -> dict[str, Any]:
    """Two entries, a full-height left half and the lower right quarter, unless stated otherwise."""
    return {
        "detection_boxes": np.array([[0, 0, 1, 0.5], [0.5, 0.5, 1, 1]], np.float32),
        "detection_scores": np.array([0.75, 0.5], np.float32),
        "detection_classes": np.array([18, 90], np.float32),
    } | {name: np.asarray(value) for name, value in arrays.items()}


def test_yxyx_shares_become_xyxy_pixels() -> None:
    found = to_found(outputs(), NUMBERED, 60, 100, LABELS, ALL).detections
    assert found.xyxy.tolist() == [[0, 0, 50, 60], [50, 30, 100, 60]]
    assert found.category_id.tolist() == [18, 90]
    assert found.label.tolist() == ["dog", "toothbrush"]
    assert found.mid.tolist() == ["/m/0bt9lr", ""]
    assert found.mask is None


def test_shares_are_those_of_what_the_network_was_shown() -> None:
    # 131 x 67 pixels at 1/8, turned by 180 degrees: 17 x 9 of them stand for 136 x 72 that begin before the image.
    boxes = [[0, 0, 1, 1], [4 / 9, 8 / 17, 5 / 9, 9 / 17]]
    found = to_found(
        outputs(detection_boxes=np.array(boxes, np.float32)), NUMBERED, 67, 131, None, ALL, window=(-5, -5, 131, 67)
    )
    np.testing.assert_allclose(found.detections.xyxy, [[0, 0, 131, 67], [59, 27, 67, 35]], atol=1e-4)
    assert (found.detections.height, found.detections.width) == (67, 131)


def test_masks_are_pasted_where_the_shown_part_lies() -> None:
    convention = replace(NUMBERED, outputs={**NUMBERED.outputs, "masks": "detection_masks"})
    arrays = outputs(
        detection_boxes=np.array([[0, 0.5, 1, 1]], np.float32),
        detection_scores=np.array([0.75], np.float32),
        detection_classes=np.array([18], np.float32),
        detection_masks=np.ones((1, 5, 5), np.float32),
    )
    found = to_found(arrays, convention, 40, 60, None, ALL, window=(-4, 0, 60, 40)).detections
    mask = coco_mask.decode({"size": [40, 60], "counts": found.mask[0].encode()})
    assert mask.shape == (40, 60)
    assert np.flatnonzero(mask.any(axis=0)).tolist() == list(range(28, 60))


def test_batch_dimension_is_taken_off() -> None:
    batched = {name: value[None] for name, value in outputs().items()}
    assert to_found(batched, NUMBERED, 60, 100, None, ALL).detections.xyxy.tolist() == [
        [0, 0, 50, 60],
        [50, 30, 100, 60],
    ]


@pytest.mark.parametrize("count", [1, 1.0, [1], [1.0]])
def test_entries_past_the_count_are_padding(count: Any) -> None:
    found = to_found(outputs(num_detections=count), COUNTED, 60, 100, None, ALL).detections
    assert found.category_id.tolist() == [18]


@pytest.mark.parametrize("count", [0, 0.0])
def test_nothing_found(count: float) -> None:
    found = to_found(outputs(num_detections=count), COUNTED, 60, 100, None, ALL)
    assert len(found.detections) == 0
    assert (found.detections.height, found.detections.width) == (60, 100)


def test_padding_without_a_count_is_boxes_without_size() -> None:
    padded = outputs(detection_boxes=[[0, 0, 1, 0.5], [0, 0, 0, 0]], detection_scores=[0.75, 0.0])
    assert to_found(padded, NUMBERED, 60, 100, None, ALL).detections.category_id.tolist() == [18]


def test_boxes_are_clipped_to_the_image_and_those_outside_dropped() -> None:
    reaching = outputs(detection_boxes=[[-0.5, -0.1, 0.5, 1.2], [1.1, 0, 1.3, 1]])
    assert to_found(reaching, NUMBERED, 60, 100, None, ALL).detections.xyxy.tolist() == [[0, 0, 100, 30]]


def test_what_is_not_finite_is_dropped_and_counted() -> None:
    nan = float("nan")
    found = to_found(outputs(detection_scores=[nan, 0.5]), NUMBERED, 60, 100, None, ALL)
    assert (found.detections.category_id.tolist(), found.dropped) == ([90], 1)
    found = to_found(outputs(detection_boxes=[[0, 0, float("inf"), 1], [0, 0, 1, 1]]), NUMBERED, 60, 100, None, ALL)
    assert (found.detections.category_id.tolist(), found.dropped) == ([90], 1)
    with pytest.raises(DetectorError, match="not finite"):
        to_found(outputs(detection_scores=[nan, nan]), NUMBERED, 60, 100, None, ALL)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"detection_scores": [12.0, -3.0]}, "range from -3 to 12, not within 0..1"),
        ({"detection_boxes": [[0, 0, 60, 50], [30, 50, 60, 100]]}, "shares of the image"),
        ({"detection_boxes": [[0, 0, 1], [0, 0, 1]]}, r"\[2, 3\], not \[N, 4\]"),
        ({"detection_boxes": [[0, 0, 1, 1]]}, "detection_boxes has 1 entries, detection_scores 2"),
        ({"detection_boxes": np.zeros((2, 2, 4))}, "detection_boxes has shape"),
        ({"detection_classes": [1.5, 2]}, "1.5, which is no class number"),
        ({"detection_classes": [-1, 2]}, "no class number"),
        ({"num_detections": [3]}, "num_detections is 3 beside 2 scores"),
        ({"num_detections": [float("nan")]}, "num_detections is nan"),
    ],
)
def test_answers_that_cannot_be_are_refused(arrays: dict[str, Any], message: str) -> None:
    convention = COUNTED if "num_detections" in arrays else NUMBERED
    with pytest.raises(DetectorError, match=message):
        to_found(outputs(**arrays), convention, 60, 100, None, ALL)


@pytest.mark.parametrize("swapped", [False, True])
def test_mid_and_name_are_told_apart_by_their_look(swapped: bool) -> None:
    names, mids = [b"Dog", "Bücher".encode()], [b"/m/0bt9lr", b"/g/11b7c7"]
    strings = {
        "detection_class_entities": mids if swapped else names,
        "detection_class_names": names if swapped else mids,
    }
    found = to_found(outputs(**strings), NAMED, 60, 100, None, ALL).detections
    assert found.label.tolist() == ["Dog", "Bücher"]
    assert found.mid.tolist() == ["/m/0bt9lr", "/g/11b7c7"]


def test_classes_without_numbers_get_the_label_maps_or_a_stable_one() -> None:
    strings = {"detection_class_entities": [b"dog", b"owl"], "detection_class_names": [b"", b""]}
    found = to_found(outputs(**strings), NAMED, 60, 100, LABELS, ALL).detections
    assert found.category_id.tolist() == [18, zlib.crc32(b"owl") & 0x7FFFFFFF]
    assert found.label.tolist() == ["dog", "owl"]
    assert found.mid.tolist() == ["/m/0bt9lr", ""]


def test_class_without_a_name_is_called_by_its_number() -> None:
    found = to_found(outputs(), NUMBERED, 60, 100, LabelMap({18: ClassName("dog", "")}), ALL).detections
    assert found.label.tolist() == ["dog", "90"]


def test_selection_is_applied_with_the_mapped_names() -> None:
    options = DetectorOptions(
        selection=Selection(score_threshold=0.6, class_threshold={"toothbrush": 0.4}, class_map={"dog": "pet"})
    )
    found = to_found(outputs(), NUMBERED, 60, 100, LABELS, options).detections
    assert found.label.tolist() == ["pet", "toothbrush"]
    assert found.score.tolist() == [0.75, 0.5]


MASKED = Convention(
    "detection",
    "default",
    IMAGE,
    True,
    False,
    None,
    {**NUMBERED.outputs, "masks": "detection_masks", "multiclass_scores": "detection_multiclass_scores"},
)


def test_masks_follow_their_boxes_through_the_selection() -> None:
    masks = np.zeros((2, 33, 33), np.float32)
    masks[0] = 1.0
    masks[1, :, 17:] = 1.0  # the right half of its box
    arrays = outputs(detection_masks=masks, detection_multiclass_scores=np.eye(2, 91), detection_scores=[0.5, 0.75])
    found = to_found(arrays, MASKED, 60, 100, None, ALL).detections
    assert found.category_id.tolist() == [90, 18]
    assert found.multiclass_score is None
    assert found.mask is not None
    right, left = (coco_mask.decode({"size": [60, 100], "counts": one.encode()}) for one in found.mask)
    assert coco_mask.area(coco_mask.encode(np.asfortranarray(left))) == pytest.approx(50 * 60, rel=0.05)
    assert right[:, :74].sum() == 0
    assert right[35:58, 78:98].all()


def test_masks_of_what_is_not_kept_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def paste(masks: Any, *rest: Any) -> list[str]:
        seen.append(len(masks))
        return ["0"] * len(masks)

    monkeypatch.setattr("prelabel.detectors.answers.paste_masks", paste)
    arrays = outputs(detection_masks=np.zeros((2, 33, 33)))
    to_found(arrays, MASKED, 60, 100, None, DetectorOptions(selection=Selection(score_threshold=0.6)))
    assert seen == [1]


def test_mask_of_a_box_beyond_the_image_is_not_squeezed() -> None:
    masks = np.zeros((2, 33, 33), np.float32)
    masks[:, :, :17] = 1.0  # the left half of each box
    arrays = outputs(detection_boxes=[[0, -0.5, 1, 0.5], [0, 0, 1, 1]], detection_masks=masks)
    found = to_found(arrays, MASKED, 60, 100, None, ALL).detections
    assert found.mask is not None
    assert found.xyxy[0].tolist() == [0, 0, 50, 60]
    inside = coco_mask.decode({"size": [60, 100], "counts": found.mask[0].encode()})
    assert inside[:, 3:].sum() == 0  # its left half lies outside the image


def test_multiclass_scores_are_kept_when_asked_for() -> None:
    arrays = outputs(detection_masks=np.zeros((2, 33, 33)), detection_multiclass_scores=np.eye(2, 91))
    options = DetectorOptions(selection=Selection(score_threshold=0.6), keep=("multiclass-scores",))
    found = to_found(arrays, MASKED, 60, 100, None, options).detections
    assert found.multiclass_score is not None
    assert found.multiclass_score.tolist() == [np.eye(2, 91)[0].tolist()]
    assert "detection_multiclass_scores" in wanted_outputs(MASKED, options)
    assert "detection_multiclass_scores" not in wanted_outputs(MASKED, ALL)
    with pytest.raises(DetectorError, match="has no output detection_multiclass_scores"):
        wanted_outputs(NUMBERED, options)


def test_logits_are_softmaxed_and_probabilities_left_alone() -> None:
    logits = np.log(np.array([0.2, 0.7, 0.1])) + 5
    one, two, three = to_image_labels(logits, None, ALL)
    assert [one.category_id, two.category_id, three.category_id] == [1, 0, 2]
    assert one.score == pytest.approx(0.7)
    assert to_image_labels(np.array([0.2, 0.7, 0.1]), None, ALL)[0].score == pytest.approx(0.7)


def test_background_of_imagenet_is_no_label() -> None:
    logits = np.zeros(1001)
    logits[0], logits[7] = 20, 19
    labels = to_image_labels(logits, None, DetectorOptions(top_k=2))
    assert labels[0].category_id == 7
    assert labels[0].score == pytest.approx(1 / (1 + np.e), rel=1e-3)
    assert 0 not in [one.category_id for one in labels]
    assert to_image_labels(logits[:1000], None, ALL)[0].category_id == 0


def test_top_k_is_taken_after_the_class_rules() -> None:
    logits = np.arange(5.0)
    labels = LabelMap({i: ClassName(f"c{i}", "") for i in range(5)})
    options = DetectorOptions(selection=Selection(exclude_class=("c4", "c2")), top_k=2)
    assert [one.label for one in to_image_labels(logits, labels, options)] == ["c3", "c1"]


def test_class_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DetectorError, match="not finite"):
        to_image_labels(np.array([0.0, np.nan]), None, ALL)
