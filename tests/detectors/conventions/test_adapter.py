"""Adapters without a model: keys, values, contradictions; and the first one that `inspect` writes."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from prelabel.config import LabelOptions, differences, label_options
from prelabel.detectors.conventions.adapter import Adapter
from prelabel.detectors.conventions.adapter_schema import SCHEMA
from prelabel.detectors.conventions.boxes import STRETCH, BoxForm, Shown
from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.declared_outputs import DeclaredOutputs, Part, Suppression, activated
from prelabel.detectors.conventions.protos import Signature, Tensor
from prelabel.detectors.conventions.resolve_model import ReadingOptions
from prelabel.errors import ConfigError, DetectorError
from tests.messages import facts

ROWS = Signature(
    "serving_default",
    (Tensor("image", "float32", (1, 640, 640, 3)),),
    (Tensor("output_0", "float32", (1, 300, 6)),),
)
FULL: dict[str, Any] = {
    "signature": "serving_default",
    "input": {
        **{"colors": "bgr", "layout": "channels-last", "range": "0..1", "mean": [0.5, 0.5, 0.5]},
        **{"deviation": [0.2, 0.2, 0.2], "size": [640, 640], "fit": "letterbox", "fill": 114},
    },
    "outputs": {
        "boxes": {
            **{"tensor": "output_0", "columns": "0..3", "transposed": False},
            **{"order": "xyxy", "unit": "input-pixels"},
        },
        "scores": {"tensor": "output_0", "columns": 4, "activation": "sigmoid"},
        "objectness": {"tensor": "output_1", "activation": "none"},
        "classes": {"tensor": "output_0", "columns": 5, "offset": 1, "background": 80},
        "count": {"tensor": "output_2"},
        "masks": {"tensor": "output_3", "frame": "box", "activation": "sigmoid"},
    },
    "suppression": {"iou": 0.5, "classes": "together", "max": 100},
    "labels": {"1": "cat"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The full adapter with another value of a key, or without the key for None."""
    values = deepcopy(FULL)
    *above, name = path.split(".")
    inner = values
    for key in above:
        inner = inner[key]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return values


def test_every_key_of_the_schema_is_in_the_full_adapter_except_number():
    def keys(schema: dict[str, Any], path: str = "") -> set[str]:
        found = set()
        for option in schema.get("anyOf", [schema]):
            for name, part in option.get("properties", {}).items():
                found |= {f"{path}{name}", *keys(part, f"{path}{name}.")}
        return found

    def given(values: Any, path: str = "") -> set[str]:
        if not isinstance(values, dict) or path == "labels.":
            return set()
        return {f"{path}{name}" for name in values} | {
            key for name, value in values.items() for key in given(value, f"{path}{name}.")
        }

    Adapter.of(FULL)
    assert keys(SCHEMA) - given(FULL) == {
        *("outputs.classes.number", "outputs.classes.transposed", "outputs.scores.transposed"),
        *("outputs.objectness.columns", "outputs.objectness.transposed"),
    }


VALID = [
    FULL,
    changed("suppression", "none"),
    changed("labels", "coco"),
    changed("labels", ["cat", "dog"]),
    changed("outputs.scores.columns", "4..4"),
    changed("outputs.masks", None),
    changed("signature", None),
]
WRONG = [
    ("input.colors", "RGB", ["input.colors", "rgb", "bgr", "RGB"]),
    ("input.colors", None, ["input.colors", "missing", "rgb", "bgr"]),
    ("input.colours", "rgb", ["input.colours", "colors"]),
    ("input.range", "0-1", ["input.range", "0..1", "0-1"]),
    ("input.mean", [1, 2], ["input.mean", "3"]),
    ("input.mean", [1, 2, "x"], ["input.mean", "3"]),
    ("input.deviation", [1, 1, 0], ["input.deviation", "0"]),
    ("input.size", [640], ["input.size", "height", "width"]),
    ("input.size", [640.5, 640], ["input.size", "height", "width"]),
    ("input.fill", 256, ["input.fill", "0..255", "256"]),
    ("input.fill", float("nan"), ["input.fill", "0..255", "nan"]),
    ("input", "rgb", ["input", "colors", "fit"]),
    ("outputs.boxes.order", "xyyx", ["outputs.boxes.order", "cxcywh", "xyyx"]),
    ("outputs.boxes.columns", "0-3", ["outputs.boxes.columns", "first..last", "0-3"]),
    ("outputs.boxes.columns", -1, ["outputs.boxes.columns", "-1"]),
    ("outputs.boxes.transposed", "yes", ["outputs.boxes.transposed", "true", "false"]),
    ("outputs.boxes.tensor", 0, ["outputs.boxes.tensor", "name", "0"]),
    ("outputs.anchors", {"tensor": "a"}, ["outputs.anchors"]),
    ("outputs.scores", None, ["outputs.scores", "missing"]),
    ("suppression", None, ["suppression", "none", "iou"]),
    ("suppression", "no", ["suppression", "none", "iou", "no"]),
    ("suppression.iou", 1, ["suppression.iou", "0", "1"]),
    ("suppression.max", True, ["suppression.max", "True"]),
    ("suppression.classes", None, ["suppression.classes", "separate", "together"]),
    ("labels", [], ["labels", "coco"]),
    ("labels", {"cat": "1"}, ["labels", "numbers", "names"]),
    ("labels", "openimages", ["labels", "coco", "openimages"]),
]


@pytest.mark.parametrize("values", VALID, ids=range(len(VALID)))
def test_a_valid_adapter_is_accepted_by_the_check_and_by_its_json_schema(values: dict[str, Any]):
    jsonschema.validate(values, SCHEMA)
    Adapter.of(values)


def test_the_examples_are_valid():
    examples = sorted((Path(__file__).parents[3] / "examples" / "adapters").iterdir())
    assert len(examples) == 2
    for path in examples:
        adapter = options(adapter=str(path)).adapter
        assert adapter is not None
        jsonschema.validate(adapter, SCHEMA)
        Adapter.of(adapter)


@pytest.mark.parametrize(("path", "value", "words"), WRONG)
def test_a_wrong_key_or_value_is_refused_by_both_and_named(path: str, value: Any, words: list[str]):
    values = changed(path, value)
    with pytest.raises(ConfigError, match=facts("--adapter", *words)) as caught:
        Adapter.of(values)
    assert "\n" not in str(caught.value)
    if value != value:  # JSON has no NaN
        return
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input.fill": None}, ["input.fill", "letterbox"]),
        ({"input.fit": "stretch"}, ["input.fill", "stretch"]),
        ({"input.fit": "keep", "input.fill": None}, ["input.size", "keep"]),
        ({"input.range": None}, ["input.range", "input.mean"]),
        ({"input.mean": [123.7, 116.3, 103.5]}, ["input.mean", "input.range", "0..1", "123.7"]),
        ({"outputs.boxes.unit": "image-pixels"}, ["outputs.boxes.unit", "image-pixels", "letterbox", "input-pixels"]),
        ({"outputs.classes.number": 1}, ["outputs.classes.number", "outputs.classes.background"]),
        ({"outputs.classes.tensor": None}, ["outputs.classes.columns", "outputs.classes.tensor"]),
        ({"outputs.scores.activation": "softmax"}, ["outputs.scores.activation", "softmax", "outputs.classes"]),
        ({"outputs.boxes.columns": "0..4"}, ["outputs.boxes.columns", "4", "0..4"]),
        ({"outputs.boxes.columns": "3..0"}, ["outputs.boxes.columns", "3..0"]),
        ({"outputs.scores.columns": "4..5"}, ["outputs.scores.columns", "1", "4..5"]),
        ({"outputs.scores.columns": "4.."}, ["outputs.scores.columns", "1", "4.."]),
        ({"outputs.boxes.transposed": True}, ["outputs.boxes.transposed", "outputs.scores.transposed", "output_0"]),
        (
            {"labels": ["cat"], "outputs.classes.offset": -1},
            ["labels", "outputs.classes.offset", "-1"],
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(changes: dict[str, Any], words: list[str]):
    values = FULL
    for path, value in changes.items():
        values = _with(values, path, value)
    with pytest.raises(ConfigError, match=facts("--adapter", *words)):
        Adapter.of(values)


def _with(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy = deepcopy(values)
    *above, name = path.split(".")
    inner = copy
    for key in above:
        inner = inner[key]
    inner.pop(name, None)
    if value is not None:
        inner[name] = value
    return copy


def test_open_answers_are_listed_before_anything_else():
    values = changed("input.colors", "???")
    values["outputs"]["boxes"]["order"] = values["input"]["fit"] = values["outputs"]["scores"]["tensor"] = "???"
    with pytest.raises(ConfigError, match=facts("???", "input.colors", "rgb", "bgr", "input.fit", "1 more")):
        Adapter.of(values)


@pytest.mark.parametrize("option", ["input_range", "input_layout", "mask_frame", "activation"])
def test_an_option_beside_an_adapter_is_refused(option: str):
    with pytest.raises(ConfigError, match=facts(f"--{option.replace('_', '-')}", "--adapter")):
        ReadingOptions(**{option: "x"}, adapter=Adapter.of(FULL))


# The file.

TEXT = """
input: {colors: rgb, range: 0..1, mean: [0.5, 0.5, 0.5], fit: letterbox, fill: 114}
outputs:
  boxes: {tensor: output_0, columns: 0..3, order: xyxy, unit: input-pixels}
  scores: {tensor: output_0, columns: 4, activation: none}
  classes: {tensor: output_0, columns: 5}
suppression: none
labels: {0: no, 1: 1e3, 2: cat}
"""
NEEDED = {"source": ["photos"], "detector": "d", "output": "out"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(TEXT)
    return path


def options(**values: Any) -> LabelOptions:
    return label_options({**NEEDED, **values})


def test_a_file_and_its_content_are_the_same_option(file: Path, tmp_path: Path):
    by_path = options(adapter=str(file)).adapter
    assert by_path is not None
    assert by_path["input"]["mean"] == [0.5, 0.5, 0.5]
    assert by_path["labels"] == {"0": "no", "1": "1e3", "2": "cat"}
    assert json.loads(json.dumps(by_path)) == by_path
    assert options(adapter=by_path).adapter == by_path
    job = tmp_path / "job.yaml"
    job.write_text("adapter:" + TEXT.replace("\n", "\n  "))
    assert label_options(NEEDED, config=str(job)).adapter == by_path
    job.write_text(f"adapter: {file}\n")
    assert label_options(NEEDED, config=str(job)).adapter == by_path
    convention = Adapter.of(by_path).convention([ROWS])
    assert (convention.fit.mode, convention.fit.fill, convention.mean) == ("letterbox", 114.0, (0.5, 0.5, 0.5))
    assert convention.box_form == BoxForm("xyxy", "input")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("model.txt", "", ["--adapter", ".yaml", "model.txt"]),
        ("model.yaml", None, ["model.yaml"]),
        ("model.yaml", "input: [", ["model.yaml"]),
        ("model.yaml", "- a", ["model.yaml", "names"]),
        ("model.yaml", "a: 1\na: 2", ["model.yaml", "a", "twice"]),
        ("model.yaml", "# " + "x" * (1 << 20), ["model.yaml", "1,048,576"]),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str | None, words: list[str]
):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=facts(*words)) as caught:
        options(adapter=str(path))
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_an_adapter_without_its_keys(tmp_path: Path):
    path = tmp_path / "model.yaml"
    path.write_text("")
    adapter = options(adapter=str(path)).adapter
    assert adapter == {}
    with pytest.raises(ConfigError, match=facts("--adapter", "input", "missing")):
        Adapter.of(adapter)


def test_a_run_is_not_resumed_with_another_adapter(file: Path):
    was = json.loads(json.dumps(options(adapter=str(file)).settings()))
    file.write_text("# The same.\n" + TEXT)
    assert differences(was, options(adapter=str(file)).settings()) == []
    file.write_text(TEXT.replace("xyxy", "yxyx").replace("fill: 114", "fill: 0"))
    (line,) = differences(was, options(adapter=str(file)).settings())
    assert re.search(r"input\.fill was 114, now 0.*outputs\.boxes\.order was xyxy, now yxyx", line)
    (line,) = differences(was, options().settings())
    assert "now not given" in line


# Outputs as tiny arrays.


def decoded(declared: DeclaredOutputs, lowest: float = 0.1, **outputs: Any) -> dict[str, list[Any]]:
    convention = Convention(
        signature="s",
        input=Tensor("x", "uint8", (1, 100, 200, 3)),
        batch_dimension=True,
        size=(100, 200),
        kind="detection",
        outputs={},
        box_form=BoxForm("xyxy", "input"),
    )
    arrays = {name: np.array(value) for name, value in outputs.items()}
    candidates = declared(arrays, convention, Shown.of((100, 200), (100, 200), STRETCH), lowest)
    return {name: array.tolist() for name, array in candidates.arrays.items()}


def test_the_best_class_of_each_box_and_its_score():
    declared = DeclaredOutputs(Part("b"), Part("s"), "none", offset=1)
    found = decoded(declared, b=[[0, 0, 100, 50], [20, 50, 200, 100]], s=[[0.25, 0.5], [0.75, 0.5]])
    assert found == {"boxes": [[0, 0, 0.5, 0.5], [0.5, 0.1, 1, 1]], "scores": [0.5, 0.75], "numbers": [2, 1]}


def test_a_background_is_never_the_best_class_but_takes_its_share_of_a_softmax():
    declared = DeclaredOutputs(Part("b"), Part("s"), "softmax", background=0)
    logits = np.log([[0.5, 0.25, 0.25 * 0.8, 0.05]]).tolist()
    found = decoded(declared, b=[[0, 0, 100, 50]], s=logits)
    assert found["numbers"] == [1]
    np.testing.assert_allclose(found["scores"], [0.25], rtol=1e-6)
    with_classes = DeclaredOutputs(Part("b"), Part("s"), "none", classes=Part("c"), background=0, offset=10)
    found = decoded(with_classes, b=[[0, 0, 100, 50]] * 2, s=[0.5, 0.5], c=[0.0, 1.0])
    assert found["numbers"] == [11.0]


def test_columns_of_rows_and_of_transposed_rows():
    rows = [[[0, 0, 100, 50, 0.5, 7], [20, 50, 200, 100, 0.75, 8]]]
    parts = {"boxes": Part("r", 0, 3), "scores": Part("r", 4, 4), "classes": Part("r", 5, 5)}
    found = decoded(DeclaredOutputs(activation="none", **parts), r=rows)
    assert (found["scores"], found["numbers"]) == ([0.5, 0.75], [7, 8])
    turned = {name: Part("r", part.first, part.last, transposed=True) for name, part in parts.items()}
    assert decoded(DeclaredOutputs(activation="none", **turned), r=np.swapaxes(rows, 1, 2)) == found


def test_suppression_within_classes_and_among_all():
    boxes = [[0, 0, 100, 50], [0, 0, 100, 49], [0, 0, 99, 50]]
    scores, classes = [0.5, 0.75, 0.25], [1, 2, 1]
    for separate, most, kept in ((True, None, [0.75, 0.5]), (False, None, [0.75]), (True, 1, [0.75])):
        declared = DeclaredOutputs(
            Part("b"), Part("s"), "none", classes=Part("c"), suppression=Suppression(0.5, separate, most)
        )
        assert decoded(declared, b=boxes, s=scores, c=classes)["scores"] == kept


def test_boxes_below_the_lowest_score_are_left_out_and_broken_ones_are_not():
    declared = DeclaredOutputs(Part("b"), Part("s"), "none", number=3)
    found = decoded(declared, 0.5, b=[[0, 0, 100, 50]] * 3, s=[0.25, 0.5, float("nan")])
    assert len(found["scores"]) == 2
    assert found["numbers"] == [3, 3]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"b": [[0, 0, 1, 1]], "s": [0.5, 0.5], "c": [1, 1]}, ["b", "1", "2"]),
        ({"b": [[0, 0, 1, 1]] * 2, "s": [0.5, 0.5], "c": [1]}, ["c", "1", "2"]),
        ({"b": [[0, 0, 1]], "s": [0.5], "c": [1]}, ["b", "4", "3"]),
        ({"b": [[[[0, 0, 1, 1]]]], "s": [0.5], "c": [1]}, ["b", "[N, columns]", "[1, 1, 1, 4]"]),
    ],
)
def test_arrays_that_contradict_each_other_are_refused_by_name(outputs: dict[str, Any], words: list[str]):
    with pytest.raises(DetectorError, match=facts(*words)):
        decoded(DeclaredOutputs(Part("b"), Part("s"), "none", classes=Part("c")), **outputs)


def test_logits_that_are_scores_already_are_refused():
    scores = np.linspace(0, 1, 10)
    with pytest.raises(DetectorError, match=facts("s", "sigmoid", "none")):
        activated(scores, "sigmoid", "s")
    np.testing.assert_allclose(activated(scores - 0.5, "sigmoid", "s"), 1 / (1 + np.exp(0.5 - scores)))
    with pytest.raises(DetectorError, match=facts("s", "softmax", "none")):
        activated(np.full((4, 4), 0.25), "softmax", "s")


# A first adapter.


def test_a_first_adapter_marks_what_must_be_answered(adapter_networks: Path, tmp_path: Path):
    from prelabel.detectors.conventions.adapter_draft import draft_adapter
    from prelabel.detectors.inspect import inspect_model

    report = inspect_model(str(adapter_networks / "fixed"))
    assert report.prepared is None
    text = draft_adapter(report.model, report.graph, report.prepared)
    values = yaml.safe_load(text)
    assert values["signature"] == "serving_default"
    assert values["input"] == dict.fromkeys(("colors", "range", "fit"), "???")
    assert values["outputs"]["boxes"] == dict.fromkeys(("tensor", "order", "unit"), "???")
    assert "xyxy_normalized: float32 [?, 4, 4]" in text
    with pytest.raises(ConfigError, match=facts("???", "input.colors")):
        Adapter.of(values)


def test_a_first_adapter_of_a_recognized_model_reads_it_as_before(models: Any):
    from prelabel.detectors.conventions.adapter_draft import draft_adapter
    from prelabel.detectors.inspect import inspect_model

    for folder in (models.mask_rcnn, models.hub_module):
        report = inspect_model(str(folder))
        assert report.prepared is not None
        values = yaml.safe_load(draft_adapter(report.model, report.graph, report.prepared))
        convention = Adapter.of(values).convention(report.graph.signatures)
        before = report.prepared.convention
        assert {**convention.outputs}.items() <= {**before.outputs}.items()
        assert (convention.box_form, convention.fit, convention.bgr) == (before.box_form, before.fit, before.bgr)


def test_a_classifier_has_no_adapter(models: Any):
    from prelabel.detectors.conventions.adapter_draft import draft_adapter
    from prelabel.detectors.inspect import inspect_model

    report = inspect_model(str(models.classifier))
    with pytest.raises(DetectorError, match=facts("--write-adapter", "classifier")):
        draft_adapter(report.model, report.graph, report.prepared)
