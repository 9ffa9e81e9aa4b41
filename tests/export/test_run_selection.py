"""The selection of a run compared with the requested one: every request that the run cannot fulfill gives a note."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.api import open_run
from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.run_selection import beyond_kept, kept_selection, selection_words
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.select import ExportSelection, Selection
from prelabel.storage.files import Storage
from tests.messages import facts, tells, told
from tests.rows import INFO, found, row, rows
from tests.runs import write_run

CLASSES = (ClassName(1, "Dog", "/m/0bt9lr"), ClassName(2, "Cat", "/m/01yrx"), ClassName(3, "Fox", ""))
ANIMALS = (ClassName(1, "Animal", "/m/0jbk"),)
KEPT = kept_selection({"score_threshold": 0.05}, CLASSES)


@pytest.mark.parametrize(
    ("requested", "kept", "expected"),
    [
        ({}, {"score_threshold": 0.05}, ("0.3", "run", "0.05")),
        ({"score_threshold": 0.5}, {"score_threshold": 0.3}, ("0.5", "run", "0.3")),
        (
            {"class_threshold": {"Dog": 0.6}},
            {"score_threshold": 0.05, "class_threshold": {"Dog": 0.2, "Cat": 0.1}},
            ("0.3", "1 class", "run", "0.05", "2 classes"),
        ),
    ],
)
def test_selection_words_state_the_requested_and_the_kept_thresholds(
    requested: dict[str, Any], kept: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert tells(selection_words(ExportSelection(**requested), kept_selection(kept, CLASSES)), *expected)


def test_without_a_recorded_selection_only_the_request_is_stated() -> None:
    assert tells(selection_words(ExportSelection(), None), "0.3")
    assert not tells(selection_words(ExportSelection(), None), "run")
    assert beyond_kept(ExportSelection(), None, CLASSES) == []
    assert kept_selection({}, CLASSES).score_threshold == 0
    with pytest.raises(ConfigError, match=facts("score-threshold", "number", "'high'")):
        kept_selection({"score_threshold": "high"}, CLASSES)


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_a_threshold_below_that_of_the_run_gives_one_note_for_all_classes(
    classes: tuple[ClassName, ...] | None,
) -> None:
    (line,) = beyond_kept(ExportSelection(score_threshold=0.01), KEPT, classes)
    assert tells(line, "0.01", "0.05")
    assert not tells(line, "Dog|Cat|Fox")
    assert beyond_kept(ExportSelection(score_threshold=0.05), KEPT, classes) == []
    # Scores are float32: thresholds that are both written as 0.7 are the same.
    assert beyond_kept(ExportSelection(score_threshold=float("0.7")), replace(KEPT, score_threshold=0.7), classes) == []


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_a_note_names_the_classes_unless_it_concerns_all(classes: tuple[ClassName, ...] | None) -> None:
    kept = kept_selection({"score_threshold": 0.05, "class_threshold": {"Dog": 0.2}}, CLASSES)
    (line,) = beyond_kept(ExportSelection(score_threshold=0.1), kept, classes)
    assert tells(line, "Dog", "0.1", "0.2")
    assert "Cat" not in line
    assert beyond_kept(ExportSelection(score_threshold=0.1, class_threshold={"dog": 0.2}), kept, classes) == []
    (line,) = beyond_kept(ExportSelection(class_threshold={"Cat": 0.02}), kept, classes)
    assert tells(line, "Cat", "0.02", "0.05")


def test_excluded_classes_give_no_note() -> None:
    kept = kept_selection({"score_threshold": 0.05, "class_threshold": {"Dog": 0.5}}, CLASSES)
    assert beyond_kept(ExportSelection(exclude_class=("Dog",)), kept, CLASSES) == []


def test_thresholds_of_a_run_with_a_class_map_apply_to_the_names_in_its_rows() -> None:
    settings = {"score_threshold": 0.05, "class_threshold": {"Dog": 0.4, "/m/01yrx": 0.2}, "class_map": {"Dog": "pet"}}
    kept = kept_selection(settings, CLASSES)
    assert kept.threshold_of("pet", "") == 0.4
    assert kept.threshold_of("Cat", "/m/01yrx") == 0.2
    assert kept.lowest_threshold == 0.05


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_thresholds_of_a_run_with_a_roll_up_apply_to_the_names_in_its_rows(
    classes: tuple[ClassName, ...] | None,
) -> None:
    settings = {"score_threshold": 0.05, "class_threshold": {"Dog": 0.4, "Cat": 0.2}, "roll_up": ["Animal"]}
    kept = kept_selection(settings, classes)
    assert kept.threshold_of("Animal", "/m/0jbk") == 0.4
    assert beyond_kept(ExportSelection(score_threshold=0.3, class_threshold={"Animal": 0.4}), kept, ANIMALS) == []


def test_classes_are_those_of_the_rows_after_the_roll_up_of_the_run(tmp_path: Path) -> None:
    output = write_run(tmp_path / "run", [[row("a.jpg", found("Animal", mid="/m/0jbk"))]])
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["settings"] = {"roll_up": ["Animal"]}
    record["detector"]["classes"] = [{"id": 1, "name": "Dog", "mid": "/m/0bt9lr"}, {"id": 3, "name": "Fox", "mid": ""}]
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    classes = RunInfo.of(open_run(output)).classes
    assert classes == (ClassName(1, "Animal", "/m/0jbk"), ClassName(3, "Animal", "/m/0jbk"))


def test_names_are_matched_with_the_class_tree_once_all_classes_were_seen(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found("dog", mid="")))
    info = replace(INFO, classes=None)
    options = CocoOptions(selection=ExportSelection(roll_up=("Animal", "Tool")))
    warnings = export_coco(info, every, str(tmp_path / "out.json"), options, Storage()).warnings
    assert told(warnings, "ASSUMED", "dog as Dog", "Animal")
    assert told(warnings, "no", "detection", "'Tool'", "below")
    assert not any("'Animal'" in line for line in warnings)


def test_a_note_on_the_options_alone_is_given_once_if_classes_are_known_late(tmp_path: Path) -> None:
    info = replace(INFO, classes=None)
    options = CocoOptions(selection=ExportSelection(include_class=("Widget",), with_subclasses=True))
    warnings = export_coco(info, rows(row("a.jpg", found())), str(tmp_path / "out.json"), options, Storage()).warnings
    assert len([line for line in warnings if tells(line, "with-subclasses", "Widget")]) == 1


def test_other_limits_of_the_run_that_cannot_be_undone_give_notes() -> None:
    kept = kept_selection({"exclude_class": ["Cat"], "max_detections": 20, "nms_iou": 0.5, "shard_size": None}, CLASSES)
    requested = ExportSelection(include_class=("Cat", "Dog"), max_detections=50, nms_iou=0.7)
    excluded, most, overlap = beyond_kept(requested, kept, CLASSES)
    assert "Cat" in excluded
    assert "Dog" not in excluded
    assert tells(most, "20", "detections")
    assert "0.5" in overlap
    assert beyond_kept(ExportSelection(include_class=("Dog",), max_detections=20, nms_iou=0.5), kept, CLASSES) == []


def test_a_run_of_an_earlier_version_may_have_an_nms_iou_of_zero() -> None:
    assert kept_selection({"nms_iou": 0.0}, CLASSES).nms_iou == pytest.approx(0.0)


def test_exports_report_the_notes(tmp_path: Path) -> None:
    info = replace(INFO, kept=Selection(score_threshold=0.3))
    image_rows = rows(row("a.jpg", found()))
    coco = export_coco(info, image_rows, str(tmp_path / "a.json"), CocoOptions.of(score_threshold=0.1), Storage())
    tasks = export_label_studio(info, image_rows, str(tmp_path), LabelStudioOptions.of(score_threshold=0.1), Storage())
    for report in (coco, tasks):
        assert told(report.warnings, "0.1", "0.3")
    coco = export_coco(info, image_rows, str(tmp_path / "a.json"), CocoOptions(), Storage())
    assert coco.warnings == ()


@pytest.mark.parametrize(("number", "has_note"), [(30, False), (31, True)])
def test_tasks_with_too_many_regions_for_annotators_are_counted(tmp_path: Path, number: int, has_note: bool) -> None:
    image_rows = rows(row("a.jpg", *[found()] * number), row("b.jpg", found()))
    report = export_label_studio(INFO, image_rows, str(tmp_path), LabelStudioOptions(), Storage())
    notes = [note for note in report.warnings if tells(note, "regions|score-threshold")]
    assert bool(notes) == has_note
    assert not has_note or tells(notes[0], "1 of 2", "regions", "31", "score-threshold")
