"""What a run kept beside what is asked of it: nothing is asked for in vain without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import ConfigError
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.kept import beyond_kept, kept_selection, lowest_threshold, selection_words
from prelabel.export.label_studio import export_label_studio
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.select import ExportSelection, Selection
from prelabel.storage import Storage
from prelabel.store.run import ClassName
from tests.rows import INFO, found, row, rows

CLASSES = (ClassName(1, "Dog", "/m/0bt9lr"), ClassName(2, "Cat", "/m/01yrx"), ClassName(3, "Fox", ""))
KEPT = kept_selection({"score_threshold": 0.05}, CLASSES)


@pytest.mark.parametrize(
    ("asked", "kept", "words"),
    [
        ({}, {"score_threshold": 0.05}, "at 0.3 and above; the run keeps 0.05"),
        ({"score_threshold": 0.5}, {"score_threshold": 0.3}, "at 0.5 and above; the run keeps 0.3"),
        (
            {"class_threshold": {"Dog": 0.6}},
            {"score_threshold": 0.05, "class_threshold": {"Dog": 0.2, "Cat": 0.1}},
            "at 0.3 and above (1 class with a threshold of its own); "
            "the run keeps 0.05 (2 classes with a threshold of their own)",
        ),
    ],
)
def test_what_is_shown_and_what_is_kept_in_words(asked: dict[str, Any], kept: dict[str, Any], words: str) -> None:
    assert selection_words(ExportSelection(**asked), kept_selection(kept, CLASSES)) == words


def test_a_run_that_does_not_say_what_it_kept() -> None:
    assert selection_words(ExportSelection(), None) == "at 0.3 and above"
    assert beyond_kept(ExportSelection(), None, CLASSES) == []
    assert kept_selection({}, CLASSES).score_threshold == 0
    with pytest.raises(ConfigError, match="score-threshold must be a number"):
        kept_selection({"score_threshold": "high"}, CLASSES)


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_less_than_was_kept_is_said_once_for_all_classes(classes: tuple[ClassName, ...] | None) -> None:
    (line,) = beyond_kept(ExportSelection(score_threshold=0.01), KEPT, classes)
    assert "from 0.05 on" in line
    assert "between 0.01 and 0.05" in line
    assert beyond_kept(ExportSelection(score_threshold=0.05), KEPT, classes) == []
    # Scores are float32: what both sides write as 0.7 is the same threshold.
    assert beyond_kept(ExportSelection(score_threshold=float("0.7")), replace(KEPT, score_threshold=0.7), classes) == []


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_classes_are_named_where_not_all_are_concerned(classes: tuple[ClassName, ...] | None) -> None:
    kept = kept_selection({"score_threshold": 0.05, "class_threshold": {"Dog": 0.2}}, CLASSES)
    (line,) = beyond_kept(ExportSelection(score_threshold=0.1), kept, classes)
    assert "of Dog from 0.2 on" in line
    assert "Cat" not in line
    assert beyond_kept(ExportSelection(score_threshold=0.1, class_threshold={"dog": 0.2}), kept, classes) == []
    (line,) = beyond_kept(ExportSelection(class_threshold={"Cat": 0.02}), kept, classes)
    assert "of Cat from 0.05 on" in line
    assert "between 0.02 and 0.05" in line


def test_classes_that_are_left_out_are_not_asked_for() -> None:
    kept = kept_selection({"score_threshold": 0.05, "class_threshold": {"Dog": 0.5}}, CLASSES)
    assert beyond_kept(ExportSelection(exclude_class=("Dog",)), kept, CLASSES) == []


def test_thresholds_of_a_run_that_renamed_its_classes_hold_for_the_names_in_its_rows() -> None:
    settings = {"score_threshold": 0.05, "class_threshold": {"Dog": 0.4, "/m/01yrx": 0.2}, "class_map": {"Dog": "pet"}}
    kept = kept_selection(settings, CLASSES)
    assert kept.threshold_of("pet", "") == 0.4
    assert kept.threshold_of("Cat", "/m/01yrx") == 0.2
    assert lowest_threshold(kept) == 0.05


def test_other_rules_of_the_run_cannot_be_taken_back_either() -> None:
    kept = kept_selection({"exclude_class": ["Cat"], "max_detections": 20, "nms_iou": 0.5, "shard_size": None}, CLASSES)
    asked = ExportSelection(include_class=("Cat", "Dog"), max_detections=50, nms_iou=0.7)
    left_out, most, overlap = beyond_kept(asked, kept, CLASSES)
    assert "Cat" in left_out
    assert "Dog" not in left_out
    assert "at most 20 detections" in most
    assert "0.5" in overlap
    assert beyond_kept(ExportSelection(include_class=("Dog",), max_detections=20, nms_iou=0.5), kept, CLASSES) == []


def test_exports_say_it(tmp_path: Path) -> None:
    info = replace(INFO, kept=Selection(score_threshold=0.3))
    every = rows(row("a.jpg", found()))
    coco = export_coco(info, every, str(tmp_path / "a.json"), CocoOptions(score_threshold=0.1), Storage())
    tasks = export_label_studio(info, every, str(tmp_path), LabelStudioOptions(score_threshold=0.1), Storage())
    for report in (coco, tasks):
        assert any("between 0.1 and 0.3" in note for note in report.warnings)
    coco = export_coco(info, every, str(tmp_path / "a.json"), CocoOptions(), Storage())
    assert coco.warnings == ()


@pytest.mark.parametrize(("number", "said"), [(30, False), (31, True)])
def test_tasks_with_more_regions_than_people_can_work_with_are_counted(tmp_path: Path, number: int, said: bool) -> None:
    every = rows(row("a.jpg", *[found()] * number), row("b.jpg", found()))
    report = export_label_studio(INFO, every, str(tmp_path), LabelStudioOptions(), Storage())
    notes = [note for note in report.warnings if "regions" in note]
    assert bool(notes) == said
    assert not said or ("1 of 2 tasks" in notes[0] and "up to 31" in notes[0] and "score-threshold" in notes[0])
