"""Open Images' metrics: the same results as the Object Detection API's, and clear messages about the files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

import prelabel
from prelabel.cli import main
from prelabel.detections import ClassName
from prelabel.errors import ConfigError, EvaluateError
from prelabel.export.base import RunInfo
from prelabel.review.metrics import evaluate_by_metric
from prelabel.review.openimages.evaluation import OpenImagesEvaluation, evaluate_open_images
from prelabel.review.options import EvaluateOptions
from prelabel.review.report.openimages import open_images_json
from prelabel.select import Selection
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from tests.messages import facts, tells, told
from tests.review.cases import images_in, rows_of, thing, write_truth
from tests.review.openimages_cases import (
    BOX_HEADER,
    BOXES,
    CASES,
    DETECTIONS,
    LABEL_HEADER,
    LABELS,
    LEFT,
    REFERENCE,
    RIGHT,
    Case,
    mid,
    write_csv,
)
from tests.rows import INFO, failed_row, found, row, rows
from tests.runs import write_run

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "openimages.schema.json").read_text())
EXPECTED = json.loads(REFERENCE.read_text())

#: The metrics of the reference's results, as options.
METRICS = {
    "openimages": {"metric": "openimages"},
    "openimages, expanded": {"metric": "openimages", "expand_detections": True},
    "openimages-v2": {"metric": "openimages-v2"},
}

ONE = CASES["one correct detection"]


def evaluated(
    boxes: Path | str, labels: Path | str, *image_rows: ImageRow, info: RunInfo | None = None, **options: Any
) -> OpenImagesEvaluation:
    options = {"metric": "openimages", "truth": str(boxes)} | options
    if options["metric"] == "openimages":
        options["image_labels"] = str(labels)
    unknown = RunInfo(detector="stub", model_version="stub-0123abcd")
    return evaluate_open_images(info or unknown, rows(*image_rows), EvaluateOptions.of(**options), Storage())


def results(evaluation: OpenImagesEvaluation) -> dict[str, Any]:
    return {
        "mean_ap": evaluation.mean_ap,
        "ap": {entry.mid: entry.ap for entry in evaluation.classes if entry.ap is not None},
    }


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", CASES)
def test_each_rule_gives_the_results_of_the_reference(tmp_path: Path, name: str, metric: str):
    boxes, labels, detections = CASES[name].write(tmp_path)
    image_rows = rows_of(detections, images_in(boxes, labels), size=64)
    expected = EXPECTED[name][metric]
    got = results(evaluated(boxes, labels, *image_rows, **METRICS[metric]))
    assert got["mean_ap"] == pytest.approx(expected["mean_ap"], abs=1e-9)
    assert got["ap"] == pytest.approx(expected["ap"], abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backward", [False, True])
def test_a_sample_gives_the_results_of_the_reference(metric: str, backward: bool):
    image_rows = rows_of(DETECTIONS, images_in(BOXES, LABELS))
    got = results(evaluated(BOXES, LABELS, *(image_rows[::-1] if backward else image_rows), **METRICS[metric]))
    expected = EXPECTED["sample"][metric]
    assert got["mean_ap"] == pytest.approx(expected["mean_ap"], abs=1e-9)
    assert got["ap"] == pytest.approx(expected["ap"], abs=1e-9)


def test_blocks_of_a_file_and_batches_of_a_run_do_not_change_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    image_rows = rows_of(DETECTIONS, images_in(BOXES, LABELS))
    monkeypatch.setattr("prelabel.review.openimages.truth._BLOCK_BYTES", 1000)
    run = open_run(write_run(tmp_path / "run", [image_rows[:20], image_rows[20:]]), Storage())
    options = EvaluateOptions.of(metric="openimages", truth=str(BOXES), image_labels=str(LABELS))
    got = results(evaluate_open_images(RunInfo.of(run), run.rows, options, Storage()))
    assert got["ap"] == pytest.approx(EXPECTED["sample"]["openimages"]["ap"], abs=1e-9)


def test_counts_tell_what_was_compared_and_what_was_ignored(tmp_path: Path):
    case = Case(
        [("a", "Dog", LEFT), ("a", "Dog", RIGHT, True), ("b", "Cat", LEFT), ("c", "Cat", LEFT)],
        [("a", "Dog", 1)],
        [("a", "Dog", 0.75, LEFT), ("a", "Cat", 0.5, LEFT), ("z", "Dog", 0.25, LEFT)],
    )
    boxes, labels, detections = case.write(tmp_path)
    other = found("Unicorn", 0.25, (0, 0, 4, 4), mid="")
    image_rows = [*rows_of(detections, size=64), row("c.jpg", other, height=64, width=64), failed_row("b.png")]
    done = evaluated(boxes, labels, *image_rows)
    assert (done.images.matched, done.images.failed, done.images.only_run, done.images.only_truth) == (3, 1, 1, 0)
    assert (done.boxes, done.detections, done.unverified, done.other_classes) == ((3, 1), 3, 1, {"Unicorn": 1})
    classes = {entry.name: entry for entry in done.classes}
    dog, animal = classes["Dog"], classes["Animal"]
    assert (dog.objects, dog.groups, dog.detections, dog.correct, dog.ap) == (1, 1, 1, 1, 0.5)
    assert (animal.objects, animal.groups, animal.detections) == (3, 1, 0)


def test_only_admitted_classes_are_in_the_mean(tmp_path: Path):
    boxes, labels, detections = CASES["box counts for the classes above"].write(tmp_path)
    done = evaluated(boxes, labels, *rows_of(detections, size=64), include_class=("Dog", mid("Cat")))
    assert [(entry.name, entry.ap) for entry in done.classes] == [("Cat", 0.0), ("Dog", 1.0)]
    assert done.mean_ap == 0.5


def test_boxes_are_for_the_stored_pixels_unless_a_frame_is_given(tmp_path: Path):
    boxes, labels, _ = ONE.write(tmp_path)
    # Stored upright at 64 x 64 pixels, displayed after a quarter turn clockwise: the left upper corner is right upper.
    turned = replace(
        row("a.jpg", found("Car", 0.5, (48, 0, 64, 16), mid=mid("Car")), height=64, width=64), exif_orientation=6
    )
    done = evaluated(boxes, labels, turned, include_class=("Car",))
    assert done.mean_ap == 1
    assert told(done.notes, "1", "EXIF", "stored", "--truth-frame")
    assert evaluated(boxes, labels, turned, truth_frame="display").mean_ap == 0


def test_notes_tell_what_changes_the_figure(tmp_path: Path):
    boxes, labels, _ = CASES["no detection"].write(tmp_path)
    kept = replace(INFO, classes=(ClassName(1, "Car", mid("Car")),), kept=Selection(score_threshold=0.3))
    car = row("a.jpg", found("Car", 0.5, LEFT, mid=mid("Car")), height=64, width=64)
    verified = [("a", mid("Car"), 1), ("b", mid("Car"), 0), ("a", "/m/0nothing", 1)]
    write_csv(labels, LABEL_HEADER, [(image, "v", name, confidence) for image, name, confidence in verified])
    write_csv(boxes, BOX_HEADER, [("a", "x", mid("Car"), 1, 0, 0.25, 0, 0.25, 0, 0, -1, 0, 0)])
    done = evaluated(boxes, labels, car, info=kept)
    assert told(done.notes, "1", "of", "2", "images")
    assert told(done.notes, "--expand-detections")
    assert told(done.notes, "0.3", "score")
    assert told(done.notes, "1", "labels.csv", "class|classes")
    assert told(done.notes, "1", "IsGroupOf", "-1", "group")
    assert not told(evaluated(boxes, labels, car, info=kept, metric="openimages-v2").notes, "--expand-detections")


def broken(tmp_path: Path, **change: Any) -> Path:
    """A file of one box, with other values in some columns; None drops the column."""
    values = dict(zip(BOX_HEADER, ("a", "x", mid("Car"), 1, 0, 0.25, 0, 0.25, 0, 0, 0, 0, 0), strict=True)) | change
    values = {name: value for name, value in values.items() if value is not None}
    write_csv(tmp_path / "boxes.csv", list(values), [list(values.values())])
    return tmp_path / "boxes.csv"


@pytest.mark.parametrize(
    ("change", "told_facts"),
    [
        ({"IsGroupOf": None}, ("boxes.csv", "IsGroupOf")),
        ({"XMin": None, "YMax": None}, ("boxes.csv", "XMin", "YMax")),
        ({"LabelName": "/m/0nothing"}, ("boxes.csv", "line 2", "/m/0nothing")),
        ({"XMax": 640}, ("boxes.csv", "line 2", "640.0")),
        ({"XMax": "nan"}, ("boxes.csv", "line 2", "XMax")),
        ({"XMax": "wide"}, ("boxes.csv", "wide")),
        ({"XMin": ""}, ("boxes.csv", "line 2", "XMin")),
    ],
)
def test_an_invalid_file_is_refused_with_the_column_or_line(
    tmp_path: Path, change: dict[str, Any], told_facts: tuple[str, ...]
):
    with pytest.raises(EvaluateError, match=facts(*told_facts)):
        evaluated(broken(tmp_path, **change), LABELS, row())


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path):
    boxes, labels, _ = ONE.write(tmp_path)
    boxes.write_text(boxes.read_text().replace("Source", "XMin", 1))
    with pytest.raises(EvaluateError, match=facts("boxes.csv", "XMin", "twice")):
        evaluated(boxes, labels, row())


def test_labels_that_machines_made_are_refused(tmp_path: Path):
    boxes, labels, _ = ONE.write(tmp_path)
    write_csv(labels, LABEL_HEADER, [("a", "v", mid("Car"), 1), ("a", "machine", mid("Car"), 0.7)])
    with pytest.raises(EvaluateError, match=facts("labels.csv", "line 3", "0.7", "Confidence", "human-imagelabels")):
        evaluated(boxes, labels, row())


def test_a_file_of_another_kind_is_recognized_by_its_header(tmp_path: Path):
    boxes, labels, _ = ONE.write(tmp_path)
    coco = write_truth(tmp_path, [thing((0, 0, 3, 4))])
    with pytest.raises(ConfigError, match=facts("labels.csv", "image-level", "--image-labels")):
        evaluated(labels, labels, row())
    with pytest.raises(ConfigError, match=facts("boxes.csv", "--truth")):
        evaluated(boxes, boxes, row())
    with pytest.raises(EvaluateError, match=facts("truth.json", "ImageID", "--metric coco")):
        evaluated(coco, labels, row())
    with pytest.raises(ConfigError, match=facts("boxes.csv", "--metric openimages")):
        evaluate_by_metric(INFO, rows(row()), EvaluateOptions.of(truth=str(boxes)), Storage())
    with pytest.raises(ConfigError, match=facts("nowhere.csv")):
        evaluated("nowhere.csv", labels, row())


def test_a_file_without_boxes_is_refused(tmp_path: Path):
    boxes, labels, _ = ONE.write(tmp_path)
    write_csv(boxes, BOX_HEADER, [])
    with pytest.raises(EvaluateError, match=facts("boxes.csv", "no box|no boxes")):
        evaluated(boxes, labels, row())


@pytest.mark.parametrize(
    ("options", "told_facts"),
    [
        ({"metric": "openimages"}, ("--metric openimages", "--image-labels")),
        ({"metric": "openimages-v2", "image_labels": "l.csv"}, ("--image-labels", "openimages", "openimages-v2")),
        ({"image_labels": "l.csv"}, ("--image-labels", "openimages", "coco")),
        ({"metric": "openimages-v2", "iou": 0.75}, ("--iou", "coco")),
        ({"metric": "openimages-v2", "class_map": {"Dog": "Cat"}}, ("--class-map", "coco")),
        ({"metric": "openimages-v2", "match": "path"}, ("--match path", "coco")),
        ({"expand_detections": True}, ("--expand-detections", "openimages")),
    ],
)
def test_options_that_a_metric_does_not_use_are_refused(options: dict[str, Any], told_facts: tuple[str, ...]):
    with pytest.raises(ConfigError, match=facts(*told_facts)):
        EvaluateOptions.of(truth="boxes.csv", **options)


def test_images_and_classes_without_a_match_are_refused(tmp_path: Path):
    boxes, labels, _ = ONE.write(tmp_path)
    car = found("Car", 0.5, LEFT, mid=mid("Car"))
    with pytest.raises(EvaluateError, match=facts("x/b.jpg", "boxes.csv", "a", "ImageID")):
        evaluated(boxes, labels, row("x/b.jpg", car))
    with pytest.raises(EvaluateError, match=facts("x/a.jpg", "y/a.png")):
        evaluated(boxes, labels, row("x/a.jpg", car), row("y/a.png"))
    with pytest.raises(EvaluateError, match=facts("Unicorn", "MID", "--label-map")):
        evaluated(boxes, labels, row("a.jpg", found("Unicorn", mid="")))
    with pytest.raises(EvaluateError, match=facts("Unicorn", "MID", "--label-map")):
        evaluated(boxes, labels, row("a.jpg"), info=replace(INFO, classes=(ClassName(1, "Unicorn"),)))


def test_the_command_prints_tables_and_writes_json_and_a_page(tmp_path: Path):
    run = write_run(tmp_path / "run", [rows_of(DETECTIONS, images_in(BOXES, LABELS))])
    arguments = ["evaluate", run, "--metric", "openimages", "--truth", str(BOXES), "--image-labels", str(LABELS)]
    done = CliRunner().invoke(main, [*arguments, "--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert tells(done.output, "38", "mean AP", "0.276", "openimages.json", "openimages.html", "Clothing")
    content = json.loads((tmp_path / "out" / "openimages.json").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    assert content["mean_ap"] == pytest.approx(EXPECTED["sample"]["openimages"]["mean_ap"], abs=1e-9)
    page = (tmp_path / "out" / "openimages.html").read_text()
    aps = [float(value) for value in re.findall(r"<tr><th>[^<]*</th><td>(\d\.\d+)</td>", page)]
    assert len(aps) == sum(entry["ap"] is not None for entry in content["classes"])
    assert aps == sorted(aps, reverse=True)


def test_the_schema_allows_nothing_else(tmp_path: Path):
    boxes, labels, detections = ONE.write(tmp_path)
    content = open_images_json(evaluated(boxes, labels, *rows_of(detections, size=64)))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert validator.is_valid(content)
    for change in ({"extra": 1}, {"images": {}}, {"mean_ap": 2}):
        assert not validator.is_valid({**content, **change})


def test_python_returns_the_mean_ap_and_no_thresholds(tmp_path: Path):
    run = write_run(tmp_path / "run", [rows_of(DETECTIONS, images_in(BOXES, LABELS))])
    done = prelabel.evaluate(run, metric="openimages-v2", truth=BOXES, to=tmp_path / "out")
    assert done.box_ap == pytest.approx(EXPECTED["sample"]["openimages-v2"]["mean_ap"], abs=1e-9)
    assert (done.metric, done.thresholds, done.corrections_per_100_images) == ("openimages-v2", {}, None)
    assert [Path(file).name for file in done.files] == ["openimages-v2.json", "openimages-v2.html"]
