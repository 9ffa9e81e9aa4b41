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


@pytest.mark.parametrize("count", [1, 1.0, [1], [1.0], [[1]], np.uint64(1), [[np.float64(1)]]])
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


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "arrays",
    [
        {"detection_scores": [NAN, 0.5]},
        {"detection_scores": [INFINITE, 0.5]},
        {"detection_boxes": [[0, 0, INFINITE, 1], [0, 0, 1, 1]]},
        {"detection_classes": [NAN, 90]},
    ],
)
def test_what_is_not_finite_is_dropped_and_counted(arrays: dict[str, Any]) -> None:
    found = to_found(outputs(**arrays), NUMBERED, 60, 100, None, ALL)
    assert (found.detections.category_id.tolist(), found.dropped) == ([90], 1)


def test_where_most_is_not_finite_the_image_fails() -> None:
    boxes = [[0, 0, 1, 1], [0, 0, NAN, 1], [0, 0, 1, NAN]]
    arrays = outputs(detection_boxes=boxes, detection_scores=[0.9, 0.8, 0.2], detection_classes=[1, 2, 3])
    with pytest.raises(DetectorError, match=r"2 of 3 detections .* not finite"):
        to_found(arrays, NUMBERED, 60, 100, None, ALL)
    # What nobody asked for may be anything.
    options = DetectorOptions(selection=Selection(score_threshold=0.5))
    found = to_found(arrays, NUMBERED, 60, 100, None, options)
    assert (found.detections.category_id.tolist(), found.dropped) == ([1], 1)
    with pytest.raises(DetectorError, match="not finite"):
        to_found(outputs(detection_scores=[NAN, NAN]), NUMBERED, 60, 100, None, ALL)


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_a_mask_that_is_not_finite_costs_its_detection_and_no_other(value: float) -> None:
    masks = np.ones((3, 33, 33), np.float32)
    masks[0, 5, 7] = value
    arrays = outputs(
        detection_boxes=[[0, 0, 1, 1]] * 3,
        detection_scores=[0.9, 0.8, 0.7],
        detection_classes=[18, 18, 90],
        detection_masks=masks,
    )
    best = DetectorOptions(selection=Selection(score_threshold=0.0, nms_iou=0.5, max_detections=1))
    found = to_found(arrays, MASKED, 60, 100, None, best)
    # The one of score 0.8 takes its place: it was not there to be chosen.
    assert (found.detections.score.tolist(), found.dropped) == ([np.float32(0.8)], 1)
    masks[1, 0, 0] = value
    with pytest.raises(DetectorError, match=r"2 of 3 detections .* not finite"):
        to_found(arrays, MASKED, 60, 100, None, ALL)


def test_a_weak_box_that_ends_before_it_begins_costs_no_other() -> None:
    boxes = [[0.1, 0.2, 0.5, 0.5], [0.6, 0.7, 0.2, 0.2]]
    found = to_found(padded(boxes, [0.9, 0.06]), NUMBERED, 48, 64, None, ALL)
    assert (found.detections.score.tolist(), found.dropped) == ([np.float32(0.9)], 1)
    for scores in ([0.06, 0.9], [0.5, 0.5]):
        with pytest.raises(DetectorError, match="1 of 2 detection_boxes end before they begin"):
            to_found(padded(boxes, scores), NUMBERED, 48, 64, None, ALL)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"detection_scores": [12.0, -3.0]}, "range from -3 to 12, not within 0..1"),
        ({"detection_boxes": [[0, 0, 60, 50], [30, 50, 60, 100]]}, "shares of the image"),
        ({"detection_boxes": [[0, 0, 1], [0, 0, 1]]}, r"\[2, 3\], not \[N, 4\]"),
        ({"detection_boxes": [[0, 0, 1, 1]]}, "detection_boxes has 1 entries, detection_scores 2"),
        ({"detection_boxes": np.zeros((2, 2, 4))}, "detection_boxes has shape"),
        ({"detection_boxes": [[0, 0, 1, 1]] * 8}, "detection_boxes has 8 entries, detection_scores 2: what belongs"),
        ({"detection_classes": [18] * 80}, "detection_classes has 80 entries, detection_scores 2"),
        ({"detection_classes": [18] * 80, "num_detections": 1}, "detection_classes has 80 entries"),
        ({"detection_boxes": [[0, 0, 1, 1]], "num_detections": 1}, "detection_boxes has 1 entries"),
        ({"num_detections": [1, 1]}, r"num_detections has shape \[2\], not one number"),
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


def rows(activation: str, *, background: bool = False) -> Convention:
    return replace(NUMBERED, kind="classification", activation=activation, background=background)


def scores(row: Any, activation: str) -> dict[int, float]:
    labels = to_image_labels(np.asarray(row), rows(activation), None, ALL)
    return {one.category_id: round(one.score, 3) for one in labels}


@pytest.mark.parametrize(
    ("activation", "row", "expected"),
    [
        ("softmax", [0.2, 0.7, 0.1], [0.2, 0.7, 0.1]),
        ("sigmoid", [0.953, 0.924, 0.018, 0.731], [0.953, 0.924, 0.018, 0.731]),
        ("sigmoid", [0.2, 0.7, 0.1], [0.2, 0.7, 0.1]),
        ("none", [0.9, 0.9, 0.0], [0.9, 0.9, 0.0]),
        ("logits", np.log([0.2, 0.7, 0.1]) + 5, [0.2, 0.7, 0.1]),
        ("logits", np.log([0.2, 0.7, 0.1]), [0.2, 0.7, 0.1]),  # logarithms of probabilities
        ("logits", [0.953, 0.924, 0.731, 0.018], [0.316, 0.307, 0.253, 0.124]),
        ("multilabel-logits", [0.0, 3.0, -4.0], [0.5, 0.953, 0.018]),
        ("multilabel-logits", [800.0, -800.0], [1.0, 0.0]),
        ("logits", [1e4, 0.0, -1e4], [1.0, 0.0, 0.0]),
    ],
)
def test_a_row_is_what_its_activation_says(activation: str, row: Any, expected: list[float]) -> None:
    assert scores(row, activation) == dict(enumerate(expected))


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_softmaxes_of_few_digits_are_taken_as_they_are(dtype: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    random = np.random.default_rng(0)
    for classes in (3, 80, 1000):
        logits = random.normal(0, 3, classes)
        exact = np.exp(logits) / np.exp(logits).sum()
        row = exact.astype(np.float32).astype(dtype)
        (best, *_) = to_image_labels(row, rows("softmax"), None, ALL)
        assert best.category_id == exact.argmax()
        assert best.score == pytest.approx(exact.max(), rel=0.01)


@pytest.mark.parametrize(
    ("activation", "row", "message"),
    [
        ("softmax", [0.9, 0.9, 0.1], "sums to 1.9, which contradicts the activation softmax"),
        ("softmax", [3.0, -1.0, -1.0], "ranges from -1 to 3, which contradicts the activation softmax"),
        ("sigmoid", [0.5, 1.5], "ranges from 0.5 to 1.5, which contradicts the activation sigmoid"),
        ("none", [0.5, -0.5], "contradicts the activation none"),
        ("logits", [0.25, 0.25, 0.5], "sums to 1, as after a softmax, which contradicts the activation logits"),
        ("multilabel-logits", [0.25, 0.75], "contradicts the activation multilabel-logits"),
        ("softmax", [0.0, np.nan], "not finite"),
        ("logits", [0.0, np.inf], "not finite"),
    ],
)
def test_a_row_that_contradicts_the_activation_is_refused_with_both(activation: str, row: Any, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        to_image_labels(np.asarray(row), rows(activation), None, ALL)


def test_class_0_is_the_background_where_that_is_known_and_nowhere_else() -> None:
    logits = np.zeros(1001)
    logits[0], logits[7] = 20, 19
    labels = to_image_labels(logits, rows("logits", background=True), None, DetectorOptions(top_k=2))
    assert labels[0].category_id == 7
    assert labels[0].score == pytest.approx(1 / (1 + np.e), rel=1e-3)  # the background takes its share
    assert 0 not in [one.category_id for one in labels]
    assert to_image_labels(logits, rows("logits"), None, ALL)[0].category_id == 0


def test_top_k_is_taken_after_the_class_rules() -> None:
    logits = np.arange(5.0)
    labels = LabelMap({i: ClassName(f"c{i}", "") for i in range(5)})
    options = DetectorOptions(selection=Selection(exclude_class=("c4", "c2")), top_k=2)
    assert [one.label for one in to_image_labels(logits, rows("logits"), labels, options)] == ["c3", "c1"]


def padded(boxes: Any, scores: Any, to: int = 100) -> dict[str, Any]:
    """Boxes and scores, and zeros behind them."""
    more = to - len(scores)
    return outputs(
        detection_boxes=np.pad(np.array(boxes, np.float32), [(0, more), (0, 0)]),
        detection_scores=np.pad(np.array(scores, np.float32), (0, more)),
        detection_classes=np.pad(np.full(len(scores), 18, np.float32), (0, more)),
    )


def test_pixels_behind_zero_padding_are_refused() -> None:
    boxes = [[4.8, 12.8, 28.8, 44.8], [14.4, 19.2, 43.2, 51.2]]
    with pytest.raises(DetectorError, match=r"reach to 51\.2: they must be shares of the image"):
        to_found(padded(boxes, [0.9, 0.8]), NUMBERED, 48, 64, None, ALL)
    shares = np.array(boxes) / [48, 64, 48, 64]
    found = to_found(padded(shares, [0.9, 0.8]), NUMBERED, 48, 64, None, ALL).detections
    np.testing.assert_allclose(found.xyxy, [[12.8, 4.8, 44.8, 28.8], [19.2, 14.4, 51.2, 43.2]], atol=1e-4)


@pytest.mark.parametrize(("row", "score"), [([0, 0, 0, 0], 1e-4), ([0, 0, 0, 0], 0.01), ([0, 0, 1, 1], 0)])
def test_pixels_are_refused_whatever_most_rows_are_filled_with(row: list[float], score: float) -> None:
    arrays = outputs(
        detection_boxes=np.array([[10, 20, 60, 70], *[row] * 5], np.float32),
        detection_scores=np.array([0.9, *[score] * 5], np.float32),
        detection_classes=np.full(6, 18, np.float32),
    )
    for options in (ALL, DetectorOptions(selection=Selection(score_threshold=0.5))):
        with pytest.raises(DetectorError, match="reach to 70: they must be shares of the image"):
            to_found(arrays, NUMBERED, 100, 100, None, options)


def test_padding_may_have_the_score_minus_one() -> None:
    arrays = padded([[0, 0, 1, 0.5]], [0.9])
    arrays["detection_scores"][1:] = -1
    assert len(to_found(arrays, NUMBERED, 48, 64, None, ALL).detections) == 1


def test_corners_with_height_and_width_are_refused_not_lost() -> None:
    boxes = [[0.1, 0.2, 0.5, 0.5], [0.6, 0.7, 0.2, 0.2], [0.3, 0.8, 0.4, 0.1]]
    with pytest.raises(DetectorError, match="2 of 3 detection_boxes end before they begin"):
        to_found(padded(boxes, [0.9, 0.8, 0.7]), NUMBERED, 48, 64, None, ALL)
    # What nobody asked for may be anything, and one edge may be twice the same with a rounding.
    selection = DetectorOptions(selection=Selection(score_threshold=0.85))
    assert len(to_found(padded(boxes, [0.9, 0.8, 0.7]), NUMBERED, 48, 64, None, selection).detections) == 1
    to_found(padded([[0.1, 0.2, 0.5, 0.5], [0.3, 0.5, 0.2999, 0.6]], [0.9, 0.8]), NUMBERED, 48, 64, None, ALL)


def test_boxes_that_nobody_can_see_are_counted_and_refused_where_they_are_most() -> None:
    far = [[2, 2, 3, 3], [0.5, 0.5, 0.5, 0.6]]
    found = to_found(padded([[0, 0, 1, 1], [0, 0, 0.5, 1], *far], [0.9] * 4), NUMBERED, 48, 64, None, ALL)
    assert (len(found.detections), found.dropped) == (2, 2)
    with pytest.raises(DetectorError, match="2 of 3 detection_boxes have no size or lie outside of the image"):
        to_found(padded([[0, 0, 1, 1], *far], [0.9] * 3), NUMBERED, 48, 64, None, ALL)


def test_a_count_is_a_whole_number_whatever_it_is_called() -> None:
    convention = replace(NUMBERED, outputs={**NUMBERED.outputs, "count": "valid_detections"})
    assert len(to_found(outputs(valid_detections=[1]), convention, 60, 100, None, ALL).detections) == 1
    with pytest.raises(DetectorError, match=r"valid_detections is 1\.5 beside 2 scores"):
        to_found(outputs(valid_detections=[1.5]), convention, 60, 100, None, ALL)


def test_a_class_0_that_the_label_map_does_not_have_is_refused_not_renamed() -> None:
    arrays = outputs(detection_classes=[0, 1])
    from_one = LabelMap({1: ClassName("person", ""), 2: ClassName("bicycle", "")}, "names.txt")
    with pytest.raises(DetectorError, match=r"class 0, and the label map names\.txt begins with class 1"):
        to_found(arrays, NUMBERED, 60, 100, from_one, ALL)
    from_zero = LabelMap({0: ClassName("person", ""), 1: ClassName("bicycle", "")})
    assert to_found(arrays, NUMBERED, 60, 100, from_zero, ALL).detections.label.tolist() == ["person", "bicycle"]
    assert to_found(arrays, NUMBERED, 60, 100, None, ALL).detections.label.tolist() == ["0", "1"]
    # Padding has no class.
    to_found(padded([[0, 0, 1, 1]], [0.9]), NUMBERED, 60, 100, from_one, ALL)


MASKS = replace(NUMBERED, outputs={**NUMBERED.outputs, "masks": "detection_masks"})


def decoded(found: Any, index: int = 0) -> np.ndarray[Any, Any]:
    detections = found.detections
    size = [detections.height, detections.width]
    return np.asarray(coco_mask.decode({"size": size, "counts": detections.mask[index].encode()}), bool)


def half(height: int, width: int, dtype: Any, high: float = 1) -> np.ndarray[Any, Any]:
    """Two masks whose left half is set."""
    masks = np.zeros((2, height, width), dtype)
    masks[:, :, : width // 2] = high
    return masks


@pytest.mark.parametrize(
    ("dtype", "high"),
    [("uint8", 1), ("uint8", 255), ("bool", 1), ("int32", 1), ("int64", 1), ("float16", 1), ("float64", 0.9)],
)
def test_masks_of_every_type_are_taken(dtype: str, high: float) -> None:
    arrays = outputs(detection_boxes=[[0, 0, 1, 1], [0, 0, 1, 0.5]])
    expected = to_found(arrays | {"detection_masks": half(20, 20, "float32", min(high, 1))}, MASKS, 60, 100, None, ALL)
    found = to_found(arrays | {"detection_masks": half(20, 20, dtype, high)}, MASKS, 60, 100, None, ALL)
    np.testing.assert_array_equal(decoded(found), decoded(expected))
    assert 0.4 < decoded(found).mean() < 0.6


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (half(20, 20, "uint8", 200), "uint8 of up to 200: such masks must be 0 and 1, or 0 and 255"),
        (half(20, 20, "int8", -1), "such masks must be 0 and 1"),
        (half(20, 20, "float32", 8), "ranges from 0 to 8, not within 0..1"),
        (half(20, 20, "float32", -8), "ranges from -8 to 0"),
        (half(20, 20, "float32", float("nan")), "2 of 2 detections .* not finite"),
    ],
)
def test_masks_that_are_no_scores_are_refused(masks: Any, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        to_found(outputs(detection_masks=masks), MASKS, 60, 100, None, ALL)


@pytest.mark.parametrize("frame", ["image", "by-size"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool"])
def test_masks_of_the_whole_image_are_taken_to_the_pixel(frame: str, dtype: str) -> None:
    random = np.random.default_rng(0)
    masks = (random.random((2, 60, 100)) > 0.5).astype(dtype)
    found = to_found(outputs(detection_masks=masks), replace(MASKS, mask_frame=frame), 60, 100, None, ALL)
    for index in range(2):
        np.testing.assert_array_equal(decoded(found, index), masks[index].astype(bool))


def test_masks_of_the_image_are_known_by_the_size_of_what_the_network_was_given() -> None:
    convention = replace(MASKS, mask_frame="by-size")
    # Squeezed to 32 x 48 for the network: the mask's left half is the image's.
    found = to_found(outputs(detection_masks=half(32, 48, "float32")), convention, 60, 100, None, ALL, fed=(32, 48))
    np.testing.assert_array_equal(decoded(found), np.arange(100)[None].repeat(60, 0) < 50)
    # As large as nothing that is known: neither.
    with pytest.raises(DetectorError, match="60 x 100, beside an image of 32 x 48: state --mask-frame"):
        to_found(outputs(detection_masks=half(60, 100, "float32")), convention, 60, 100, None, ALL, fed=(32, 48))
    # Small squares are of their box, but for a picture of that size, where nothing tells.
    found = to_found(outputs(detection_masks=half(33, 33, "float32")), convention, 60, 100, None, ALL)
    assert decoded(found, 1)[:, :50].sum() == 0
    with pytest.raises(DetectorError, match="33 x 33, which is the image's size and also one of masks cut out"):
        to_found(outputs(detection_masks=half(33, 33, "float32")), convention, 33, 33, None, ALL)


def test_masks_of_the_image_lie_where_the_shown_part_lies() -> None:
    # Decoded at 1/4, turned: 16 x 10 pixels stand for 64 x 40 that begin 4 before the image.
    convention = replace(MASKS, mask_frame="image")
    masks = half(10, 16, "float32")
    found = to_found(
        outputs(detection_masks=masks), convention, 40, 60, None, ALL, window=(-4, 0, 60, 40), fed=(10, 16)
    )
    np.testing.assert_array_equal(decoded(found), np.arange(60)[None].repeat(40, 0) < 28)
