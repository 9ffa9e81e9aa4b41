from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prelabel.detections import ClassName
from prelabel.detectors.base import DetectionResult, Frame
from prelabel.detectors.conventions.boxes import STRETCH, Shown
from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.protos import Tensor
from prelabel.detectors.running.postprocess import DetectorOptions, to_image_labels, to_result, wanted_outputs
from prelabel.errors import DetectorError
from prelabel.labels.maps import LabelMap
from prelabel.select import Selection

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

IMAGE = Tensor("images", "float32", (1, None, None, 3))
NUMBERED = Convention(
    kind="detection",
    signature="default",
    input=IMAGE,
    batch_dimension=True,
    size=None,
    outputs={"boxes": "detection_boxes", "scores": "detection_scores", "numbers": "detection_classes"},
)
COUNTED = replace(NUMBERED, outputs={**NUMBERED.outputs, "count": "num_detections"})
NAMED = replace(
    NUMBERED,
    outputs={"boxes": "detection_boxes", "scores": "detection_scores"},
    strings=("detection_class_entities", "detection_class_names"),
)
ALL = DetectorOptions(selection=Selection(score_threshold=0.0))
LABELS = LabelMap({18: ClassName(18, "dog", "/m/0bt9lr"), 90: ClassName(90, "toothbrush", "")})


def found_of(
    arrays: dict[str, Any],
    convention: Convention,
    height: int,
    width: int,
    labels: LabelMap | None,
    options: DetectorOptions,
    *,
    window: tuple[int, int, int, int] | None = None,
    fed: tuple[int, int] | None = None,
) -> DetectionResult:
    """What is found on an image that the network was given whole, unless stated otherwise."""
    frame = Frame(height, width, window or (0, 0, width, height))
    return to_result(arrays, convention, frame, labels, options, Shown.of((height, width), fed, STRETCH))


def outputs(**arrays: Any) -> dict[str, Any]:
    """Two entries, a full-height left half and the lower right quarter, unless stated otherwise."""
    return {
        "detection_boxes": np.array([[0, 0, 1, 0.5], [0.5, 0.5, 1, 1]], np.float32),
        "detection_scores": np.array([0.75, 0.5], np.float32),
        "detection_classes": np.array([18, 90], np.float32),
    } | {name: np.asarray(value) for name, value in arrays.items()}


def test_normalized_yxyx_becomes_xyxy_pixels() -> None:
    detections = found_of(outputs(), NUMBERED, 60, 100, LABELS, ALL).detections
    assert detections.xyxy.tolist() == [[0, 0, 50, 60], [50, 30, 100, 60]]
    assert detections.category_id.tolist() == [18, 90]
    assert detections.label.tolist() == ["dog", "toothbrush"]
    assert detections.mid.tolist() == ["/m/0bt9lr", ""]
    assert detections.mask is None


def test_boxes_are_relative_to_the_window_of_the_frame() -> None:
    # 131 x 67 pixels at 1/8, turned by 180 degrees: 17 x 9 of them stand for 136 x 72 that begin before the image.
    boxes = [[0, 0, 1, 1], [4 / 9, 8 / 17, 5 / 9, 9 / 17]]
    result = found_of(
        outputs(detection_boxes=np.array(boxes, np.float32)), NUMBERED, 67, 131, None, ALL, window=(-5, -5, 131, 67)
    )
    np.testing.assert_allclose(result.detections.xyxy, [[0, 0, 131, 67], [59, 27, 67, 35]], atol=1e-4)
    assert (result.detections.height, result.detections.width) == (67, 131)


def test_masks_are_pasted_into_the_window_of_the_frame() -> None:
    convention = replace(NUMBERED, outputs={**NUMBERED.outputs, "masks": "detection_masks"})
    arrays = outputs(
        detection_boxes=np.array([[0, 0.5, 1, 1]], np.float32),
        detection_scores=np.array([0.75], np.float32),
        detection_classes=np.array([18], np.float32),
        detection_masks=np.ones((1, 5, 5), np.float32),
    )
    detections = found_of(arrays, convention, 40, 60, None, ALL, window=(-4, 0, 60, 40)).detections
    mask = coco_mask.decode({"size": [40, 60], "counts": detections.mask[0].encode()})
    assert mask.shape == (40, 60)
    assert np.flatnonzero(mask.any(axis=0)).tolist() == list(range(28, 60))


def test_batch_dimension_is_removed() -> None:
    batched = {name: value[None] for name, value in outputs().items()}
    assert found_of(batched, NUMBERED, 60, 100, None, ALL).detections.xyxy.tolist() == [
        [0, 0, 50, 60],
        [50, 30, 100, 60],
    ]


@pytest.mark.parametrize("count", [1, 1.0, [1], [1.0], [[1]], np.uint64(1), [[np.float64(1)]]])
def test_entries_past_the_count_are_padding(count: Any) -> None:
    detections = found_of(outputs(num_detections=count), COUNTED, 60, 100, None, ALL).detections
    assert detections.category_id.tolist() == [18]


@pytest.mark.parametrize("count", [0, 0.0])
def test_no_detections(count: float) -> None:
    result = found_of(outputs(num_detections=count), COUNTED, 60, 100, None, ALL)
    assert len(result.detections) == 0
    assert (result.detections.height, result.detections.width) == (60, 100)


def test_padding_without_a_count_is_boxes_without_size() -> None:
    padded = outputs(detection_boxes=[[0, 0, 1, 0.5], [0, 0, 0, 0]], detection_scores=[0.75, 0.0])
    assert found_of(padded, NUMBERED, 60, 100, None, ALL).detections.category_id.tolist() == [18]


def test_boxes_are_clipped_to_the_image_and_those_outside_dropped() -> None:
    reaching = outputs(detection_boxes=[[-0.5, -0.1, 0.5, 1.2], [1.1, 0, 1.3, 1]])
    assert found_of(reaching, NUMBERED, 60, 100, None, ALL).detections.xyxy.tolist() == [[0, 0, 100, 30]]


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
def test_detections_that_are_not_finite_are_dropped_and_counted(arrays: dict[str, Any]) -> None:
    result = found_of(outputs(**arrays), NUMBERED, 60, 100, None, ALL)
    assert (result.detections.category_id.tolist(), result.dropped) == ([90], 1)


def test_image_fails_if_most_detections_are_not_finite() -> None:
    boxes = [[0, 0, 1, 1], [0, 0, NAN, 1], [0, 0, 1, NAN]]
    arrays = outputs(detection_boxes=boxes, detection_scores=[0.9, 0.8, 0.2], detection_classes=[1, 2, 3])
    with pytest.raises(DetectorError, match=r"2 of 3 .*finite"):
        found_of(arrays, NUMBERED, 60, 100, None, ALL)
    # What nobody asked for may be anything.
    options = DetectorOptions(selection=Selection(score_threshold=0.5))
    result = found_of(arrays, NUMBERED, 60, 100, None, options)
    assert (result.detections.category_id.tolist(), result.dropped) == ([1], 1)
    with pytest.raises(DetectorError, match="finite"):
        found_of(outputs(detection_scores=[NAN, NAN]), NUMBERED, 60, 100, None, ALL)


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_a_mask_that_is_not_finite_drops_only_its_detection(value: float) -> None:
    masks = np.ones((3, 33, 33), np.float32)
    masks[0, 5, 7] = value
    arrays = outputs(
        detection_boxes=[[0, 0, 1, 1]] * 3,
        detection_scores=[0.9, 0.8, 0.7],
        detection_classes=[18, 18, 90],
        detection_masks=masks,
    )
    best = DetectorOptions(selection=Selection(score_threshold=0.0, nms_iou=0.5, max_detections=1))
    result = found_of(arrays, MASKED, 60, 100, None, best)
    # The one of score 0.8 takes its place: it was not there to be chosen.
    assert (result.detections.score.tolist(), result.dropped) == ([np.float32(0.8)], 1)
    masks[1, 0, 0] = value
    with pytest.raises(DetectorError, match=r"2 of 3 .*finite"):
        found_of(arrays, MASKED, 60, 100, None, ALL)


def test_a_reversed_box_with_a_low_score_drops_no_other_box() -> None:
    boxes = [[0.1, 0.2, 0.5, 0.5], [0.6, 0.7, 0.2, 0.2]]
    result = found_of(padded(boxes, [0.9, 0.06]), NUMBERED, 48, 64, None, ALL)
    assert (result.detections.score.tolist(), result.dropped) == ([np.float32(0.9)], 1)
    for scores in ([0.06, 0.9], [0.5, 0.5]):
        with pytest.raises(DetectorError, match="1 of 2 detection_boxes"):
            found_of(padded(boxes, scores), NUMBERED, 48, 64, None, ALL)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"detection_scores": [12.0, -3.0]}, "detection_scores .*-3 .*12"),
        ({"detection_boxes": [[0, 0, 60, 50], [30, 50, 60, 100]]}, "detection_boxes .*100"),
        ({"detection_boxes": [[0, 0, 1], [0, 0, 1]]}, r"detection_boxes .*\[N, 4\].*\[2, 3\]"),
        ({"detection_boxes": [[0, 0, 1, 1]]}, "detection_boxes .*1.*detection_scores 2"),
        ({"detection_boxes": np.zeros((2, 2, 4))}, r"detection_boxes .*\[2, 2, 4\]"),
        ({"detection_boxes": [[0, 0, 1, 1]] * 8}, "detection_boxes .*8.*detection_scores 2"),
        ({"detection_classes": [18] * 80}, "detection_classes .*80.*detection_scores 2"),
        ({"detection_classes": [18] * 80, "num_detections": 1}, "detection_classes .*80"),
        ({"detection_boxes": [[0, 0, 1, 1]], "num_detections": 1}, "detection_boxes .*1"),
        ({"num_detections": [1, 1]}, r"num_detections .*\[2\]"),
        ({"detection_classes": [1.5, 2]}, r"detection_classes .*1\.5"),
        ({"detection_classes": [-1, 2]}, "detection_classes .*-1"),
        ({"num_detections": [3]}, "num_detections .*2.*3"),
        ({"num_detections": [float("nan")]}, "num_detections .*nan"),
    ],
)
def test_contradictory_outputs_are_refused(arrays: dict[str, Any], message: str) -> None:
    convention = COUNTED if "num_detections" in arrays else NUMBERED
    with pytest.raises(DetectorError, match=message):
        found_of(outputs(**arrays), convention, 60, 100, None, ALL)


@pytest.mark.parametrize("swapped", [False, True])
def test_mids_and_names_are_distinguished_by_their_form(swapped: bool) -> None:
    names, mids = [b"Dog", "Bücher".encode()], [b"/m/0bt9lr", b"/g/11b7c7"]
    strings = {
        "detection_class_entities": mids if swapped else names,
        "detection_class_names": names if swapped else mids,
    }
    detections = found_of(outputs(**strings), NAMED, 60, 100, None, ALL).detections
    assert detections.label.tolist() == ["Dog", "Bücher"]
    assert detections.mid.tolist() == ["/m/0bt9lr", "/g/11b7c7"]


def test_classes_without_numbers_get_the_label_maps_or_a_stable_one() -> None:
    strings = {"detection_class_entities": [b"dog", b"owl"], "detection_class_names": [b"", b""]}
    detections = found_of(outputs(**strings), NAMED, 60, 100, LABELS, ALL).detections
    assert detections.category_id.tolist() == [18, zlib.crc32(b"owl") & 0x7FFFFFFF]
    assert detections.label.tolist() == ["dog", "owl"]
    assert detections.mid.tolist() == ["/m/0bt9lr", ""]


def test_class_without_a_name_is_labeled_with_its_number() -> None:
    result = found_of(outputs(), NUMBERED, 60, 100, LabelMap({18: ClassName(18, "dog", "")}), ALL).detections
    assert result.label.tolist() == ["dog", "90"]


def test_selection_is_applied_with_the_mapped_names() -> None:
    options = DetectorOptions(
        selection=Selection(score_threshold=0.6, class_threshold={"toothbrush": 0.4}, class_map={"dog": "pet"})
    )
    detections = found_of(outputs(), NUMBERED, 60, 100, LABELS, options).detections
    assert detections.label.tolist() == ["pet", "toothbrush"]
    assert detections.score.tolist() == [0.75, 0.5]


MASKED = replace(
    NUMBERED,
    outputs={**NUMBERED.outputs, "masks": "detection_masks", "multiclass_scores": "detection_multiclass_scores"},
)


def test_rolled_up_detections_have_the_label_and_mid_of_the_class_above_and_the_models_number() -> None:
    options = DetectorOptions(selection=Selection(score_threshold=0.0, roll_up=("Animal", "Tool")))
    found = found_of(outputs(), NUMBERED, 60, 100, LABELS, options).detections
    assert found is not None
    assert found.label.tolist() == ["Animal", "Tool"]
    assert found.mid.tolist() == ["/m/0jbk", "/m/07k1x"]
    assert found.category_id.tolist() == [18, 90]


def test_masks_follow_their_boxes_through_the_selection() -> None:
    masks = np.zeros((2, 33, 33), np.float32)
    masks[0] = 1.0
    masks[1, :, 17:] = 1.0  # the right half of its box
    arrays = outputs(detection_masks=masks, detection_multiclass_scores=np.eye(2, 91), detection_scores=[0.5, 0.75])
    detections = found_of(arrays, MASKED, 60, 100, None, ALL).detections
    assert detections.category_id.tolist() == [90, 18]
    assert detections.multiclass_score is None
    assert detections.mask is not None
    right, left = (coco_mask.decode({"size": [60, 100], "counts": counts.encode()}) for counts in detections.mask)
    assert coco_mask.area(coco_mask.encode(np.asfortranarray(left))) == pytest.approx(50 * 60, rel=0.05)
    assert right[:, :74].sum() == 0
    assert right[35:58, 78:98].all()


def test_masks_of_dropped_detections_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def paste(masks: Any, *rest: Any) -> list[str]:
        seen.append(len(masks))
        return ["0"] * len(masks)

    monkeypatch.setattr("prelabel.detectors.running.postprocess.paste_masks", paste)
    arrays = outputs(detection_masks=np.zeros((2, 33, 33)))
    found_of(arrays, MASKED, 60, 100, None, DetectorOptions(selection=Selection(score_threshold=0.6)))
    assert seen == [1]


def test_mask_of_a_box_beyond_the_image_is_not_squeezed() -> None:
    masks = np.zeros((2, 33, 33), np.float32)
    masks[:, :, :17] = 1.0  # the left half of each box
    arrays = outputs(detection_boxes=[[0, -0.5, 1, 0.5], [0, 0, 1, 1]], detection_masks=masks)
    detections = found_of(arrays, MASKED, 60, 100, None, ALL).detections
    assert detections.mask is not None
    assert detections.xyxy[0].tolist() == [0, 0, 50, 60]
    inside = coco_mask.decode({"size": [60, 100], "counts": detections.mask[0].encode()})
    assert inside[:, 3:].sum() == 0  # its left half lies outside the image


def test_multiclass_scores_are_kept_if_requested() -> None:
    arrays = outputs(detection_masks=np.zeros((2, 33, 33)), detection_multiclass_scores=np.eye(2, 91))
    options = DetectorOptions(selection=Selection(score_threshold=0.6), keep=("multiclass-scores",))
    detections = found_of(arrays, MASKED, 60, 100, None, options).detections
    assert detections.multiclass_score is not None
    assert detections.multiclass_score.tolist() == [np.eye(2, 91)[0].tolist()]
    assert "detection_multiclass_scores" in wanted_outputs(MASKED, options)
    assert "detection_multiclass_scores" not in wanted_outputs(MASKED, ALL)
    with pytest.raises(DetectorError, match="detection_multiclass_scores"):
        wanted_outputs(NUMBERED, options)


def rows(activation: str, *, background: bool = False) -> Convention:
    return replace(NUMBERED, kind="classification", activation=activation, background=background)


def scores(row: Any, activation: str) -> dict[int, float]:
    labels = to_image_labels(np.asarray(row), rows(activation), None, ALL)
    return {label.category_id: round(label.score, 3) for label in labels}


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
def test_a_row_is_interpreted_by_its_activation(activation: str, row: Any, expected: list[float]) -> None:
    assert scores(row, activation) == dict(enumerate(expected))


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_low_precision_softmaxes_are_accepted(dtype: Any) -> None:
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
        ("softmax", [0.9, 0.9, 0.1], r"1\.9.* softmax"),
        ("softmax", [3.0, -1.0, -1.0], "-1 .*3.* softmax"),
        ("sigmoid", [0.5, 1.5], r"0\.5 .*1\.5.* sigmoid"),
        ("none", [0.5, -0.5], "-0.5 .* none"),
        ("logits", [0.25, 0.25, 0.5], " 1,.* logits"),
        ("multilabel-logits", [0.25, 0.75], " 1,.* multilabel-logits"),
        ("softmax", [0.0, np.nan], "finite"),
        ("logits", [0.0, np.inf], "finite"),
    ],
)
def test_a_row_that_contradicts_the_activation_is_refused_and_both_are_named(
    activation: str, row: Any, message: str
) -> None:
    with pytest.raises(DetectorError, match=message):
        to_image_labels(np.asarray(row), rows(activation), None, ALL)


def test_class_0_is_the_background_only_if_that_is_known() -> None:
    logits = np.zeros(1001)
    logits[0], logits[7] = 20, 19
    labels = to_image_labels(logits, rows("logits", background=True), None, DetectorOptions(top_k=2))
    assert labels[0].category_id == 7
    assert labels[0].score == pytest.approx(1 / (1 + np.e), rel=1e-3)  # the background takes its share
    assert 0 not in [label.category_id for label in labels]
    assert to_image_labels(logits, rows("logits"), None, ALL)[0].category_id == 0


@pytest.mark.parametrize("activation", ["sigmoid", "multilabel-logits"])
def test_independent_classes_that_are_likely_are_kept_beyond_top_k(activation: str) -> None:
    probabilities = np.array([0.9, 0.2, 0.5, 0.8, 0.49])
    row = probabilities if activation == "sigmoid" else np.log(probabilities / (1 - probabilities))

    def kept(top_k: int, **selection: Any) -> list[int]:
        options = DetectorOptions(selection=Selection(**selection), top_k=top_k)
        return [label.category_id for label in to_image_labels(row, rows(activation), None, options)]

    assert kept(1) == [0, 3, 2]
    assert kept(4) == [0, 3, 2, 4]
    assert kept(1, exclude_class=("0",)) == [3, 2]
    assert kept(1, max_detections=2) == [0, 3]


def test_classes_that_exclude_each_other_are_limited_to_top_k() -> None:
    row = np.array([0.5, 0.5])
    assert len(to_image_labels(row, rows("softmax"), None, DetectorOptions(top_k=1))) == 1


def test_top_k_is_taken_after_the_class_rules() -> None:
    logits = np.arange(5.0)
    labels = LabelMap({i: ClassName(i, f"c{i}") for i in range(5)})
    options = DetectorOptions(selection=Selection(exclude_class=("c4", "c2")), top_k=2)
    assert [label.label for label in to_image_labels(logits, rows("logits"), labels, options)] == ["c3", "c1"]


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
    with pytest.raises(DetectorError, match=r"detection_boxes .*51\.2"):
        found_of(padded(boxes, [0.9, 0.8]), NUMBERED, 48, 64, None, ALL)
    shares = np.array(boxes) / [48, 64, 48, 64]
    detections = found_of(padded(shares, [0.9, 0.8]), NUMBERED, 48, 64, None, ALL).detections
    np.testing.assert_allclose(detections.xyxy, [[12.8, 4.8, 44.8, 28.8], [19.2, 14.4, 51.2, 43.2]], atol=1e-4)


@pytest.mark.parametrize(("row", "score"), [([0, 0, 0, 0], 1e-4), ([0, 0, 0, 0], 0.01), ([0, 0, 1, 1], 0)])
def test_pixel_boxes_are_refused_whatever_the_padding_holds(row: list[float], score: float) -> None:
    arrays = outputs(
        detection_boxes=np.array([[10, 20, 60, 70], *[row] * 5], np.float32),
        detection_scores=np.array([0.9, *[score] * 5], np.float32),
        detection_classes=np.full(6, 18, np.float32),
    )
    for options in (ALL, DetectorOptions(selection=Selection(score_threshold=0.5))):
        with pytest.raises(DetectorError, match=r"detection_boxes .*70"):
            found_of(arrays, NUMBERED, 100, 100, None, options)


def test_padding_may_have_the_score_minus_one() -> None:
    arrays = padded([[0, 0, 1, 0.5]], [0.9])
    arrays["detection_scores"][1:] = -1
    assert len(found_of(arrays, NUMBERED, 48, 64, None, ALL).detections) == 1


def test_corners_with_height_and_width_are_refused_rather_than_dropped() -> None:
    boxes = [[0.1, 0.2, 0.5, 0.5], [0.6, 0.7, 0.2, 0.2], [0.3, 0.8, 0.4, 0.1]]
    with pytest.raises(DetectorError, match=r"2 of 3 detection_boxes .*\["):
        found_of(padded(boxes, [0.9, 0.8, 0.7]), NUMBERED, 48, 64, None, ALL)
    # What nobody asked for may be anything, and one edge may be twice the same with a rounding.
    selection = DetectorOptions(selection=Selection(score_threshold=0.85))
    assert len(found_of(padded(boxes, [0.9, 0.8, 0.7]), NUMBERED, 48, 64, None, selection).detections) == 1
    found_of(padded([[0.1, 0.2, 0.5, 0.5], [0.3, 0.5, 0.2999, 0.6]], [0.9, 0.8]), NUMBERED, 48, 64, None, ALL)


def test_boxes_without_visible_area_are_counted_and_refused_if_they_are_the_majority() -> None:
    far = [[2, 2, 3, 3], [0.5, 0.5, 0.5, 0.6]]
    result = found_of(padded([[0, 0, 1, 1], [0, 0, 0.5, 1], *far], [0.9] * 4), NUMBERED, 48, 64, None, ALL)
    assert (len(result.detections), result.dropped) == (2, 2)
    with pytest.raises(DetectorError, match=r"2 of 3 detection_boxes .*outside"):
        found_of(padded([[0, 0, 1, 1], *far], [0.9] * 3), NUMBERED, 48, 64, None, ALL)


def test_boxes_that_the_network_clipped_to_an_edge_of_the_image_are_counted_and_never_refused() -> None:
    edges = [[0.2, 1, 0.6, 1], [0, 0.2, 0, 0.6], [1, 0.2, 1, 0.6]]
    result = found_of(padded([[0.1, 0.1, 0.4, 0.5], *edges], [0.9, 0.8, 0.7, 0.6]), NUMBERED, 60, 100, None, ALL)
    assert (len(result.detections), result.dropped) == (1, 3)
    for lines in ([[0.2, 0.5, 0.6, 0.5]] * 3, [[0, 0, 0, 0]] * 3, [[0.2, 1.1, 0.6, 1.2]] * 3):
        with pytest.raises(DetectorError, match="3 of 4"):
            found_of(padded([[0.1, 0.1, 0.4, 0.5], *lines], [0.9, 0.8, 0.7, 0.6]), NUMBERED, 60, 100, None, ALL)


def test_the_count_of_detections_must_be_an_integer() -> None:
    convention = replace(NUMBERED, outputs={**NUMBERED.outputs, "count": "valid_detections"})
    assert len(found_of(outputs(valid_detections=[1]), convention, 60, 100, None, ALL).detections) == 1
    with pytest.raises(DetectorError, match=r"valid_detections .*2.*1\.5"):
        found_of(outputs(valid_detections=[1.5]), convention, 60, 100, None, ALL)


def test_a_class_0_that_the_label_map_does_not_have_is_refused_not_renamed() -> None:
    arrays = outputs(detection_classes=[0, 1])
    from_one = LabelMap({1: ClassName(1, "person", ""), 2: ClassName(2, "bicycle", "")}, "names.txt")
    with pytest.raises(DetectorError, match=r"class 0.* names\.txt .*class 1"):
        found_of(arrays, NUMBERED, 60, 100, from_one, ALL)
    from_zero = LabelMap({0: ClassName(0, "person", ""), 1: ClassName(1, "bicycle", "")})
    assert found_of(arrays, NUMBERED, 60, 100, from_zero, ALL).detections.label.tolist() == ["person", "bicycle"]
    assert found_of(arrays, NUMBERED, 60, 100, None, ALL).detections.label.tolist() == ["0", "1"]
    # Padding has no class.
    found_of(padded([[0, 0, 1, 1]], [0.9]), NUMBERED, 60, 100, from_one, ALL)


MASKS = replace(NUMBERED, outputs={**NUMBERED.outputs, "masks": "detection_masks"})


def decoded(result: Any, index: int = 0) -> np.ndarray[Any, Any]:
    detections = result.detections
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
def test_masks_of_every_type_are_accepted(dtype: str, high: float) -> None:
    arrays = outputs(detection_boxes=[[0, 0, 1, 1], [0, 0, 1, 0.5]])
    expected = found_of(arrays | {"detection_masks": half(20, 20, "float32", min(high, 1))}, MASKS, 60, 100, None, ALL)
    result = found_of(arrays | {"detection_masks": half(20, 20, dtype, high)}, MASKS, 60, 100, None, ALL)
    np.testing.assert_array_equal(decoded(result), decoded(expected))
    assert 0.4 < decoded(result).mean() < 0.6


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (half(20, 20, "uint8", 200), "detection_masks .*uint8 .*200"),
        (half(20, 20, "int8", -1), "detection_masks .*int8"),
        (half(20, 20, "float32", 8), "detection_masks .*0 to 8"),
        (half(20, 20, "float32", -8), "detection_masks .*-8 to 0"),
        (half(20, 20, "float32", float("nan")), "2 of 2 .*finite"),
    ],
)
def test_masks_that_are_not_scores_are_refused(masks: Any, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        found_of(outputs(detection_masks=masks), MASKS, 60, 100, None, ALL)


@pytest.mark.parametrize("frame", ["image", "by-size"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool"])
def test_masks_of_the_whole_image_keep_every_pixel(frame: str, dtype: str) -> None:
    random = np.random.default_rng(0)
    masks = (random.random((2, 60, 100)) > 0.5).astype(dtype)
    result = found_of(outputs(detection_masks=masks), replace(MASKS, mask_frame=frame), 60, 100, None, ALL)
    for index in range(2):
        np.testing.assert_array_equal(decoded(result, index), masks[index].astype(bool))


def test_masks_of_the_image_are_recognized_by_the_size_of_the_input() -> None:
    convention = replace(MASKS, mask_frame="by-size")
    # Squeezed to 32 x 48 for the network: the mask's left half is the image's.
    result = found_of(outputs(detection_masks=half(32, 48, "float32")), convention, 60, 100, None, ALL, fed=(32, 48))
    np.testing.assert_array_equal(decoded(result), np.arange(100)[None].repeat(60, 0) < 50)
    # As large as nothing that is known: neither.
    with pytest.raises(DetectorError, match=r"60 x 100.* 32 x 48.* --mask-frame"):
        found_of(outputs(detection_masks=half(60, 100, "float32")), convention, 60, 100, None, ALL, fed=(32, 48))
    # Small squares are of their box, but for a picture of that size, where nothing tells.
    result = found_of(outputs(detection_masks=half(33, 33, "float32")), convention, 60, 100, None, ALL)
    assert decoded(result, 1)[:, :50].sum() == 0
    with pytest.raises(DetectorError, match=r"33 x 33.* --mask-frame"):
        found_of(outputs(detection_masks=half(33, 33, "float32")), convention, 33, 33, None, ALL)


def test_masks_of_the_image_lie_inside_the_window() -> None:
    # Decoded at 1/4, turned: 16 x 10 pixels stand for 64 x 40 that begin 4 before the image.
    convention = replace(MASKS, mask_frame="image")
    masks = half(10, 16, "float32")
    result = found_of(
        outputs(detection_masks=masks), convention, 40, 60, None, ALL, window=(-4, 0, 60, 40), fed=(10, 16)
    )
    np.testing.assert_array_equal(decoded(result), np.arange(60)[None].repeat(40, 0) < 28)


def test_faint_broken_detections_do_not_make_an_image_fail() -> None:
    arrays = outputs(
        detection_boxes=np.array([[0, 0, 1, 0.5], [0.5, 0.5, 0.5, 1], [0.2, 0.5, 0.2, 1]], np.float32),
        detection_scores=np.array([0.9, 0.02, 0.02], np.float32),
        detection_classes=np.array([18.0, 18.0, 18.0], np.float32),
    )
    with pytest.raises(DetectorError, match="2 of 3"):
        found_of(arrays, NUMBERED, 4, 6, LABELS, ALL)
    result = found_of(arrays, NUMBERED, 4, 6, LABELS, replace(ALL, decisive_score=0.05))
    assert (len(result.detections), result.dropped) == (1, 2)
