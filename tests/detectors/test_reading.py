"""Networks that are easily misread: read right, or refused with the option that decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prelabel.cli.models import inspect
from prelabel.config import LabelOptions
from prelabel.detectors.answers import DetectorOptions
from prelabel.detectors.inspect import format_report, inspect_model
from prelabel.detectors.prepare import PreparedModel, prepare
from prelabel.detectors.reading import Stated
from prelabel.detectors.savedmodel import in_range, load_detector
from prelabel.errors import DetectorError
from prelabel.options import INPUT_RANGES
from prelabel.select import Selection
from tests.detectors.networks import BOXES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

#: Grey values whose classes are 0, 1 and 2.
DARK, MIDDLE, BRIGHT = 10, 115, 230


def answers(
    folder: Path, values: Sequence[int] = (DARK, MIDDLE, BRIGHT), label_map: str | None = None, **said: str
) -> Any:
    """What the detector class makes of flat pictures of these grey values."""
    model = prepare(str(folder), stated=Stated(**said), label_map=label_map)
    options = DetectorOptions(selection=Selection(score_threshold=0.01))
    detector = load_detector(model, options, warm_up=None)
    return [detector.detect([np.full((48, 64, 3), value, np.uint8)])[0] for value in values]


def decided(folder: Path, **said: str) -> dict[str, str]:
    return {about: one.value for about, one in prepare(str(folder), stated=Stated(**said)).reading.decisions.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("keras_rescaling", "0..255"),
        ("keras_rescaling_offset", "0..255"),
        ("keras_normalization", "0..1"),
        ("keras_normalization_adapted", "0..255"),
        ("keras_caffe", "0..255"),
        ("keras_torch", "0..255"),
        ("keras_tf", "0..255"),
        ("keras_mobilenet_v3", "0..255"),
        ("keras2_tags", "0..255"),
        ("od_api_float", "0..255"),
        ("half_floats", "0..255"),
        ("hub_classifier", "0..1"),
        ("int32", "0..255"),
    ],
)
def test_the_range_is_known_by_graph_or_format(name: str, expected: str, networks: Path) -> None:
    assert decided(networks / name)["input range"] == expected


@pytest.mark.parametrize("name", ["od_api_float", "half_floats", "int32", "fixed_uint8", "channels_first"])
def test_detectors_see_the_brightness_that_is_there(name: str, networks: Path) -> None:
    for value, found in zip((DARK, MIDDLE, BRIGHT), answers(networks / name), strict=True):
        np.testing.assert_allclose(found.detections.score, [value / 255, 0.9 * value / 255], rtol=2e-3)
        expected = np.array(BOXES)[:, [1, 0, 3, 2]] * [64, 48, 64, 48]
        np.testing.assert_allclose(found.detections.xyxy, expected, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["keras3", "softmax", "softmax_by_hand", "softmax_of_halves", "log_softmax", "uint8_classifier", "hub_classifier"],
)
def test_classifiers_tell_dark_from_bright(name: str, networks: Path) -> None:
    found = answers(networks / name, (DARK, BRIGHT))
    assert [one.image_labels[0].category_id for one in found] == [0, 2]
    for one in found:
        assert sum(label.score for label in one.image_labels) == pytest.approx(1, abs=2e-3)


def test_a_keras_classifier_says_what_keras_says(networks: Path) -> None:
    # Softmax of [2, 2, 8] * 3 channels * value / 255 and the bias, by hand.
    for value, found in zip((DARK, MIDDLE, BRIGHT), answers(networks / "keras3"), strict=True):
        logits = 3 * value / 255 * np.array([0, 2, 8]) + [6, 2, -9]
        expected = np.exp(logits) / np.exp(logits).sum()
        assert {one.category_id: one.score for one in found.image_labels} == pytest.approx(
            dict(enumerate(expected)), abs=1e-5
        )


def test_independent_probabilities_stay_what_they_are(networks: Path) -> None:
    (found,) = answers(networks / "multilabel_sigmoid", (MIDDLE,), input_range="0..1", activation="sigmoid")
    assert [(one.category_id, round(one.score, 3)) for one in found.image_labels] == [
        (0, 0.953),
        (1, 0.924),
        (3, 0.731),
        (2, 0.018),
    ]
    assert decided(networks / "keras2_tags")["activation"] == "sigmoid"


@pytest.mark.parametrize(("stated", "total"), [("logits", 1.0), ("multilabel-logits", None)])
def test_logits_are_what_the_user_says(stated: str, total: float | None, networks: Path) -> None:
    with pytest.raises(
        DetectorError, match=r"ends in MatMul .*state --activation softmax, sigmoid, logits, multilabel"
    ):
        prepare(str(networks / "logits"))
    (found,) = answers(networks / "logits", (BRIGHT,), activation=stated)
    assert found.image_labels[0].category_id == 2
    assert (sum(one.score for one in found.image_labels) == pytest.approx(1)) is (total is not None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("detector_of_floats", "float32 and nothing says in which range: .* state --input-range 0..1, 0..255, -1..1"),
        ("multilabel_sigmoid", "nothing says in which range"),
        ("keras_nothing", "nothing says in which range"),
        ("logits", "logits of a classifier; .* state --activation"),
        ("keras_dense", "without an activation: a feature vector, .* state --activation"),
        ("box_regressor", "without an activation: a feature vector, a regression"),
        ("feature_vector", "1280 numbers .* looks like a feature vector"),
        ("pooled_features", "looks like a feature vector: it ends in Mean"),
        ("relu_features", "looks like a feature vector: it ends in Relu"),
        ("unit_embedding", "looks like a feature vector"),
        ("keras_bbox", "looks like features or a regression by the name of its last layer"),
        ("named_box_sigmoid", "looks like features or a regression by its output bounding_box"),
        ("one_number", "one number for an image"),
        ("depth", "a map of each picture's parts"),
        ("segmentation", "a map of each picture's parts"),
        ("int_classes", "looks like a detector whose outputs have names of their own .boxes, classes, confidence."),
        ("channels_unknown", "state --input-layout channels-last or channels-first"),
        ("masks_of_prototypes", "masks of 160 x 160: .* state --mask-frame box or image"),
        ("softmax_times_two", "it ends in Mul"),
    ],
)
def test_what_cannot_be_known_is_refused_with_the_way_out(name: str, words: str, networks: Path) -> None:
    with pytest.raises(DetectorError, match=words) as caught:
        prepare(str(networks / name))
    assert "\n" not in str(caught.value)
    # And so says `inspect`, which never calls such a model one that names its classes.
    report = inspect_model(str(networks / name))
    text = format_report(report)
    assert report.refusal
    assert "\nrefused      " in text
    assert "names its classes itself" not in text
    assert "\nlabel map    none\n" in text


@pytest.mark.parametrize("value", [MIDDLE, BRIGHT])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pixel_boxes", "detection_boxes reach to 51.2: they must be shares of the image"),
        ("corner_and_size", "1 of 2 detection_boxes end before they begin"),
        ("logit_scores", "detection_scores range from -2 to 5"),
        ("two_softmaxes", "sums to 2, which contradicts the activation softmax"),
    ],
)
def test_answers_that_are_not_understood_fail(name: str, words: str, value: int, networks: Path) -> None:
    with pytest.raises(DetectorError, match=words):
        answers(networks / name, (value,))


def decode(found: Any) -> list[np.ndarray[Any, Any]]:
    return [
        coco_mask.decode({"size": [48, 64], "counts": counts.encode()}).astype(bool) for counts in found.detections.mask
    ]


@pytest.mark.parametrize("name", ["masks_of_image", "masks_of_image_uint8"])
def test_masks_of_the_image_fill_their_boxes(name: str, networks: Path) -> None:
    (found,) = answers(networks / name, (BRIGHT,))
    for mask, (top, left, bottom, right) in zip(decode(found), BOXES, strict=True):
        rows, columns = (np.arange(48) + 0.5) / 48, (np.arange(64) + 0.5) / 64
        inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]
        np.testing.assert_array_equal(mask, inside)


def test_masks_of_a_fixed_input_are_brought_to_the_image(networks: Path) -> None:
    (found,) = answers(networks / "masks_of_fixed_image", (BRIGHT,))
    for mask, (top, left, bottom, right) in zip(decode(found), BOXES, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [rows[0] / 48, columns[0] / 64, (rows[-1] + 1) / 48, (columns[-1] + 1) / 64]
        np.testing.assert_allclose(box, [top, left, bottom, right], atol=0.03)


def test_masks_of_bytes_are_taken(networks: Path) -> None:
    (found,) = answers(networks / "masks_uint8", (BRIGHT,))
    areas = [mask.sum() for mask in decode(found)]
    np.testing.assert_allclose(areas, [0.25 * 48 * 64, 0.3 * 48 * 64], rtol=0.1)


def test_large_masks_are_what_the_user_says(networks: Path) -> None:
    (boxed,) = answers(networks / "masks_of_prototypes", (BRIGHT,), mask_frame="box")
    (whole,) = answers(networks / "masks_of_prototypes", (BRIGHT,), mask_frame="image")
    assert [mask.all() for mask in decode(whole)] == [True, True]
    assert [mask.mean() < 0.4 for mask in decode(boxed)] == [True, True]


@pytest.mark.parametrize("value", [DARK, BRIGHT])
def test_channels_lie_where_the_user_says(value: int, networks: Path) -> None:
    assert decided(networks / "channels_unknown", input_layout="channels-first") == {
        "input layout": "channels-first",
        "input range": "0..1",
    }
    (found,) = answers(networks / "channels_unknown", (value,), input_layout="channels-first")
    np.testing.assert_allclose(found.detections.score[0], value / 255, rtol=1e-3)
    with pytest.raises(DetectorError, match="cannot be channels-last"):
        prepare(str(networks / "channels_first"), stated=Stated(input_layout="channels-last"))


def test_what_is_stated_wins_and_a_contradiction_is_noted(networks: Path) -> None:
    model = prepare(str(networks / "keras3"), stated=Stated(input_range="0..1", activation="logits"))
    assert model.reading.decisions["input range"].value == "0..1"
    scaling, activation = model.reading.notes
    assert scaling == "--input-range 0..1 is stated, though the graph computes x / 255 first, as for 0..255"
    assert activation.startswith("--activation logits is stated, though the graph ends in Softmax (")
    assert prepare(str(networks / "keras3"), stated=Stated(input_range="0..255")).reading.notes == ()
    with pytest.raises(DetectorError, match=r"whole numbers: --input-range can only be 0\.\.255"):
        prepare(str(networks / "fixed_uint8"), stated=Stated(input_range="0..1"))
    with pytest.raises(DetectorError, match="--activation is about the rows of classifiers"):
        prepare(str(networks / "fixed_uint8"), stated=Stated(activation="softmax"))
    with pytest.raises(DetectorError, match="no masks that --mask-frame could be about"):
        prepare(str(networks / "fixed_uint8"), stated=Stated(mask_frame="box"))


def test_outputs_that_are_not_used_are_noted(networks: Path) -> None:
    notes = prepare(str(networks / "keypoints")).reading.notes
    assert "the output detection_keypoints: float32 [1, 2, 17, 2] is there and is not used" in notes
    assert not any("raw_detection_boxes" in note for note in notes)
    (note,) = prepare(str(networks / "masks_complex")).reading.notes
    assert note.startswith("the output detection_masks: complex64")
    text = format_report(inspect_model(str(networks / "keypoints")))
    assert "beware       the output detection_keypoints: float32 [1, 2, 17, 2] is there and is not used" in text


def names(folder: Path, classes: Sequence[str]) -> str:
    (folder / "names.txt").write_text("\n".join(classes))
    return str(folder / "names.txt")


def test_class_0_of_1001_is_a_class_unless_somebody_says_otherwise(networks: Path, tmp_path: Path) -> None:
    path = networks / "classes_1001"
    (found,) = answers(path, (DARK,))
    assert found.image_labels[0].category_id == 0
    assert "class 0 is one like the others" in prepare(str(path)).reading.notes[0]
    things = [f"thing {number}" for number in range(1001)]
    (found,) = answers(path, (DARK,), names(tmp_path, things))
    assert (found.image_labels[0].category_id, found.image_labels[0].label) == (0, "thing 0")
    background = names(tmp_path, ["background", *things[1:]])
    (found,) = answers(path, (DARK,), background)
    assert 0 not in [one.category_id for one in found.image_labels]
    assert prepare(str(path), label_map=background).reading.decisions["background"].why == (
        "the label map calls it 'background'"
    )


def test_classes_that_the_label_map_does_not_name_are_noted(networks: Path, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("1,middle\n2,bright\n")
    notes = prepare(str(networks / "softmax"), label_map=str(tmp_path / "names.csv")).reading.notes
    assert notes == ("the label map names 2 of 3 classes, not 0: these are called by their numbers",)


@pytest.mark.parametrize(
    ("file", "lines", "words"),
    [
        # Class 0 would be the background, and every name the next one's.
        ("names.txt", ["background", "dark", "middle", "bright"], "names class 3 .'bright'., .* classes are 0 to 2"),
        ("names.txt", ["a", "b", "c", "d", "e"], "names class 3 .'c'. and 2 more"),
        ("names.csv", ["1,dark", "2,middle", "3,bright"], "names class 3 .'bright'., .* counts otherwise"),
        ("names.csv", [f"{number},name {number}" for number in range(6)], "names class 3 .'name 3'. and 2 more"),
    ],
)
def test_a_label_map_that_names_more_than_there_is_is_refused(
    file: str, lines: list[str], words: str, networks: Path, tmp_path: Path
) -> None:
    (tmp_path / file).write_text("\n".join(lines))
    with pytest.raises(DetectorError, match=f"{words}.* state with --label-map"):
        prepare(str(networks / "softmax"), label_map=str(tmp_path / file))


def test_four_sigmoids_may_be_a_box_and_are_asked_for(networks: Path, tmp_path: Path) -> None:
    path = str(networks / "multilabel_sigmoid")
    with pytest.raises(DetectorError, match=r"a box, or scores of 4 classes; .* state --activation sigmoid"):
        prepare(path, stated=Stated(input_range="0..1"))
    few, all_named = tmp_path / "few.csv", tmp_path / "all.txt"
    few.write_text("0,cat\n1,dog\n")
    all_named.write_text("cat\ndog\ncow\nhen\n")
    with pytest.raises(DetectorError, match="a box, or scores of 4 classes"):
        prepare(path, label_map=str(few), stated=Stated(input_range="0..1"))
    named = prepare(path, label_map=str(all_named), stated=Stated(input_range="0..1"))
    assert named.reading.decisions["activation"].value == "sigmoid"


def test_the_reasons_go_into_the_record(networks: Path) -> None:
    model: PreparedModel = prepare(str(networks / "keras3"))
    assert model.info.reading["input range"] == ("0..255", "the graph computes x / 255 first")
    assert model.info.reading["activation"][0] == "softmax"
    text = format_report(inspect_model(str(networks / "keras3")))
    assert "\ninput range  0..255: the graph computes x / 255 first\n" in text
    assert "\nactivation   softmax: the graph ends in Softmax (" in text


@pytest.mark.parametrize("name", INPUT_RANGES)
def test_pixels_reach_the_ends_of_each_range_on_offer(name: str) -> None:
    black, white = in_range(np.array([0, 255], np.uint8), name)
    assert (black, white) == INPUT_RANGES[name]


@pytest.mark.parametrize("option", fields(Stated), ids=lambda option: option.name)
def test_what_can_be_stated_is_offered_alike_by_label_and_inspect(option: Field[str]) -> None:
    of_label = next(one for one in fields(LabelOptions) if one.name == option.name).metadata["choices"]
    of_inspect = next(one for one in inspect.params if one.name == option.name).type
    assert isinstance(of_inspect, click.Choice)
    assert tuple(of_inspect.choices) == of_label
