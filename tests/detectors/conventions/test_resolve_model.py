"""Networks that are easily misread: read right, or refused with the option that decides."""

from __future__ import annotations

import re
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
from prelabel.detectors.conventions.resolve_model import PreparedModel, ReadingOptions, prepare
from prelabel.detectors.inspect import format_report, inspect_model
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import load_detector, scaled_to_range
from prelabel.errors import DetectorError
from prelabel.options import INPUT_RANGES
from prelabel.select import Selection
from tests.detectors.networks import BOXES
from tests.messages import tells, told

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

#: Grey values whose classes are 0, 1 and 2.
DARK, MIDDLE, BRIGHT = 10, 115, 230


def answers(
    folder: Path, values: Sequence[int] = (DARK, MIDDLE, BRIGHT), label_map: str | None = None, **reading: str
) -> Any:
    """What the detector class makes of flat pictures of these grey values."""
    model = prepare(str(folder), reading=ReadingOptions(**reading), label_map=label_map)
    options = DetectorOptions(selection=Selection(score_threshold=0.01))
    detector = load_detector(model, options, warm_up=None)
    return [detector.detect_in([np.full((48, 64, 3), value, np.uint8)])[0] for value in values]


def decided(folder: Path, **reading: str) -> dict[str, str]:
    return {
        about: decision.value
        for about, decision in prepare(str(folder), reading=ReadingOptions(**reading)).decisions.items()
    }


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
def test_detectors_see_the_actual_brightness(name: str, networks: Path) -> None:
    for value, result in zip((DARK, MIDDLE, BRIGHT), answers(networks / name), strict=True):
        np.testing.assert_allclose(result.detections.score, [value / 255, 0.9 * value / 255], rtol=2e-3)
        expected = np.array(BOXES)[:, [1, 0, 3, 2]] * [64, 48, 64, 48]
        np.testing.assert_allclose(result.detections.xyxy, expected, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["keras3", "softmax", "softmax_by_hand", "softmax_of_halves", "log_softmax", "uint8_classifier", "hub_classifier"],
)
def test_classifiers_tell_dark_from_bright(name: str, networks: Path) -> None:
    results = answers(networks / name, (DARK, BRIGHT))
    assert [result.image_labels[0].category_id for result in results] == [0, 2]
    for result in results:
        assert sum(label.score for label in result.image_labels) == pytest.approx(1, abs=2e-3)


def test_a_keras_classifier_returns_the_probabilities_of_keras(networks: Path) -> None:
    # Softmax of [2, 2, 8] * 3 channels * value / 255 and the bias, by hand.
    for value, result in zip((DARK, MIDDLE, BRIGHT), answers(networks / "keras3"), strict=True):
        logits = 3 * value / 255 * np.array([0, 2, 8]) + [6, 2, -9]
        expected = np.exp(logits) / np.exp(logits).sum()
        assert {label.category_id: label.score for label in result.image_labels} == pytest.approx(
            dict(enumerate(expected)), abs=1e-5
        )


def test_independent_probabilities_are_unchanged(networks: Path) -> None:
    (result,) = answers(networks / "multilabel_sigmoid", (MIDDLE,), input_range="0..1", activation="sigmoid")
    assert [(label.category_id, round(label.score, 3)) for label in result.image_labels] == [
        (0, 0.953),
        (1, 0.924),
        (3, 0.731),
        (2, 0.018),
    ]
    assert decided(networks / "keras2_tags")["activation"] == "sigmoid"


@pytest.mark.parametrize(("stated", "total"), [("logits", 1.0), ("multilabel-logits", None)])
def test_logits_are_interpreted_as_the_option_says(stated: str, total: float | None, networks: Path) -> None:
    with pytest.raises(DetectorError, match=r"MatMul .*--activation softmax, sigmoid, logits, multilabel"):
        prepare(str(networks / "logits"))
    (result,) = answers(networks / "logits", (BRIGHT,), activation=stated)
    assert result.image_labels[0].category_id == 2
    assert (sum(label.score for label in result.image_labels) == pytest.approx(1)) is (total is not None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("detector_of_floats", "float32 .*--input-range 0..1, 0..255, -1..1"),
        ("multilabel_sigmoid", "--input-range"),
        ("keras_nothing", "--input-range"),
        ("logits", "logits .*--activation"),
        ("keras_dense", "feature vector.*--activation"),
        ("box_regressor", "regression.*--activation"),
        ("feature_vector", "1280 numbers .*feature vector"),
        ("pooled_features", "feature vector.* Mean"),
        ("relu_features", "feature vector.* Relu"),
        ("unit_embedding", "feature vector"),
        ("keras_bbox", "features or a regression .*last layer"),
        ("named_box_sigmoid", "features or a regression .*bounding_box"),
        ("one_number", "one number"),
        ("depth", "a map .*depth"),
        ("segmentation", "a map .*segmentation"),
        ("int_classes", "detector.*boxes, classes, confidence.*detection_boxes"),
        ("channels_unknown", "--input-layout channels-last .*channels-first"),
        ("masks_of_prototypes", "160 x 160.*--mask-frame box .*image"),
        ("softmax_times_two", " Mul.*--activation"),
    ],
)
def test_ambiguous_models_are_refused_with_the_option_that_helps(name: str, words: str, networks: Path) -> None:
    with pytest.raises(DetectorError, match=words) as caught:
        prepare(str(networks / name))
    assert "\n" not in str(caught.value)
    # And so says `inspect`, which never calls such a model one that names its classes.
    report = inspect_model(str(networks / name))
    text = format_report(report)
    assert report.refusal
    assert "\nrefused      " in text
    assert "returns class names" not in text
    assert "\nlabel map    none\n" in text


@pytest.mark.parametrize("value", [MIDDLE, BRIGHT])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pixel_boxes", r"detection_boxes .*51\.2"),
        ("corner_and_size", r"1 of 2 detection_boxes .*\["),
        ("logit_scores", "detection_scores .*-2 .*5"),
        ("two_softmaxes", " 2,.* softmax"),
    ],
)
def test_contradictory_outputs_fail_the_image(name: str, words: str, value: int, networks: Path) -> None:
    with pytest.raises(DetectorError, match=words):
        answers(networks / name, (value,))


def decode(result: Any) -> list[np.ndarray[Any, Any]]:
    return [
        coco_mask.decode({"size": [48, 64], "counts": counts.encode()}).astype(bool)
        for counts in result.detections.mask
    ]


@pytest.mark.parametrize("name", ["masks_of_image", "masks_of_image_uint8"])
def test_masks_of_the_image_fill_their_boxes(name: str, networks: Path) -> None:
    (result,) = answers(networks / name, (BRIGHT,))
    for mask, (top, left, bottom, right) in zip(decode(result), BOXES, strict=True):
        rows, columns = (np.arange(48) + 0.5) / 48, (np.arange(64) + 0.5) / 64
        inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]
        np.testing.assert_array_equal(mask, inside)


def test_masks_of_a_fixed_input_are_resized_to_the_image(networks: Path) -> None:
    (result,) = answers(networks / "masks_of_fixed_image", (BRIGHT,))
    for mask, (top, left, bottom, right) in zip(decode(result), BOXES, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [rows[0] / 48, columns[0] / 64, (rows[-1] + 1) / 48, (columns[-1] + 1) / 64]
        np.testing.assert_allclose(box, [top, left, bottom, right], atol=0.03)


def test_masks_of_bytes_are_accepted(networks: Path) -> None:
    (result,) = answers(networks / "masks_uint8", (BRIGHT,))
    areas = [mask.sum() for mask in decode(result)]
    np.testing.assert_allclose(areas, [0.25 * 48 * 64, 0.3 * 48 * 64], rtol=0.1)


def test_large_masks_cover_what_the_option_says(networks: Path) -> None:
    (boxed,) = answers(networks / "masks_of_prototypes", (BRIGHT,), mask_frame="box")
    (whole,) = answers(networks / "masks_of_prototypes", (BRIGHT,), mask_frame="image")
    assert [mask.all() for mask in decode(whole)] == [True, True]
    assert [mask.mean() < 0.4 for mask in decode(boxed)] == [True, True]


@pytest.mark.parametrize("value", [DARK, BRIGHT])
def test_channels_are_where_the_option_says(value: int, networks: Path) -> None:
    assert decided(networks / "channels_unknown", input_layout="channels-first") == {
        "input layout": "channels-first",
        "input range": "0..1",
    }
    (result,) = answers(networks / "channels_unknown", (value,), input_layout="channels-first")
    np.testing.assert_allclose(result.detections.score[0], value / 255, rtol=1e-3)
    with pytest.raises(DetectorError, match="cannot be channels-last"):
        prepare(str(networks / "channels_first"), reading=ReadingOptions(input_layout="channels-last"))


def test_options_take_precedence_and_contradictions_are_noted(networks: Path) -> None:
    model = prepare(str(networks / "keras3"), reading=ReadingOptions(input_range="0..1", activation="logits"))
    assert model.decisions["input range"].value == "0..1"
    scaling, activation = model.notes
    assert tells(scaling, "--input-range 0..1", "x / 255", "0..255")
    assert tells(activation, "--activation logits", "Softmax")
    assert prepare(str(networks / "keras3"), reading=ReadingOptions(input_range="0..255")).notes == ()
    with pytest.raises(DetectorError, match=r"--input-range .*0\.\.255"):
        prepare(str(networks / "fixed_uint8"), reading=ReadingOptions(input_range="0..1"))
    with pytest.raises(DetectorError, match="--activation"):
        prepare(str(networks / "fixed_uint8"), reading=ReadingOptions(activation="softmax"))
    with pytest.raises(DetectorError, match="--mask-frame"):
        prepare(str(networks / "fixed_uint8"), reading=ReadingOptions(mask_frame="box"))


def test_outputs_that_are_not_used_are_noted(networks: Path) -> None:
    notes = prepare(str(networks / "embeddings")).notes
    assert told(notes, "detection_embeddings: float32 [1, 2, 17, 2]", "not used")
    assert not any("raw_detection_boxes" in note for note in notes)
    (note,) = prepare(str(networks / "masks_complex")).notes
    assert tells(note, "detection_masks: complex64", "not used")
    text = format_report(inspect_model(str(networks / "embeddings")))
    assert re.search(r"\nwarning      .*detection_embeddings: float32 \[1, 2, 17, 2\].* not used\n", text)


def names(folder: Path, classes: Sequence[str]) -> str:
    (folder / "names.txt").write_text("\n".join(classes))
    return str(folder / "names.txt")


def test_class_0_of_1001_is_a_class_by_default(networks: Path, tmp_path: Path) -> None:
    path = networks / "classes_1001"
    (result,) = answers(path, (DARK,))
    assert result.image_labels[0].category_id == 0
    assert "class 0" in prepare(str(path)).notes[0]
    things = [f"thing {number}" for number in range(1001)]
    (result,) = answers(path, (DARK,), names(tmp_path, things))
    assert (result.image_labels[0].category_id, result.image_labels[0].label) == (0, "thing 0")
    background = names(tmp_path, ["background", *things[1:]])
    (result,) = answers(path, (DARK,), background)
    assert 0 not in [label.category_id for label in result.image_labels]
    assert "'background'" in prepare(str(path), label_map=background).decisions["background"].why


def test_classes_that_the_label_map_does_not_name_are_noted(networks: Path, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("1,middle\n2,bright\n")
    notes = prepare(str(networks / "softmax"), label_map=str(tmp_path / "names.csv")).notes
    assert [re.findall(r"\d", note) for note in notes] == [["2", "3", "0"]]


@pytest.mark.parametrize(
    ("file", "lines", "words"),
    [
        # Class 0 would be the background, and every name the next one's.
        ("names.txt", ["background", "dark", "middle", "bright"], "3 .'bright'.* 0 to 2"),
        ("names.txt", ["a", "b", "c", "d", "e"], "3 .'c'. .*2"),
        ("names.csv", ["1,dark", "2,middle", "3,bright"], "3 .'bright'.* 0 to 2"),
        ("names.csv", [f"{number},name {number}" for number in range(6)], "3 .'name 3'. .*2"),
    ],
)
def test_label_map_with_too_many_classes_is_refused(
    file: str, lines: list[str], words: str, networks: Path, tmp_path: Path
) -> None:
    (tmp_path / file).write_text("\n".join(lines))
    with pytest.raises(DetectorError, match=f"{words}.* --label-map"):
        prepare(str(networks / "softmax"), label_map=str(tmp_path / file))


def test_four_sigmoids_may_be_a_box_and_need_an_option(networks: Path, tmp_path: Path) -> None:
    path = str(networks / "multilabel_sigmoid")
    with pytest.raises(DetectorError, match=r"a box.* 4 classes.* --activation sigmoid"):
        prepare(path, reading=ReadingOptions(input_range="0..1"))
    few, all_named = tmp_path / "few.csv", tmp_path / "all.txt"
    few.write_text("0,cat\n1,dog\n")
    all_named.write_text("cat\ndog\ncow\nhen\n")
    with pytest.raises(DetectorError, match=r"a box.* 4 classes"):
        prepare(path, label_map=str(few), reading=ReadingOptions(input_range="0..1"))
    named = prepare(path, label_map=str(all_named), reading=ReadingOptions(input_range="0..1"))
    assert named.decisions["activation"].value == "sigmoid"


def test_the_reasons_go_into_the_record(networks: Path) -> None:
    model: PreparedModel = prepare(str(networks / "keras3"))
    assert model.record.model_version == f"keras3-{model.record.fingerprint[:8]}"
    reading = model.record.reading
    assert reading is not None
    assert reading["input range"].value == "0..255"
    assert "x / 255" in reading["input range"].why
    assert reading["activation"].value == "softmax"
    text = format_report(inspect_model(str(networks / "keras3")))
    assert "\ninput range  0..255: the graph computes x / 255 first\n" in text
    assert "\nactivation   softmax: the graph ends in Softmax (" in text


@pytest.mark.parametrize("name", INPUT_RANGES)
def test_pixels_reach_the_ends_of_each_range_on_offer(name: str) -> None:
    black, white = scaled_to_range(np.array([0, 255], np.uint8), name)
    assert (black, white) == INPUT_RANGES[name]


@pytest.mark.parametrize(
    "option", [other for other in fields(ReadingOptions) if other.name != "adapter"], ids=lambda option: option.name
)
def test_label_and_inspect_have_the_same_reading_options(option: Field[str]) -> None:
    of_label = next(field for field in fields(LabelOptions) if field.name == option.name).metadata["choices"]
    of_inspect = next(parameter for parameter in inspect.params if parameter.name == option.name).type
    assert isinstance(of_inspect, click.Choice)
    assert tuple(of_inspect.choices) == of_label
