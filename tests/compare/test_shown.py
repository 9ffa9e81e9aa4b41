"""What people were shown: by their annotations, by what exports wrote down, by what is stated, or assumed and said."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from prelabel import rle
from prelabel.cli import main
from prelabel.compare.comparison import compare
from prelabel.compare.files import write_comparison
from prelabel.compare.options import CompareOptions
from prelabel.compare.result import Comparison
from prelabel.compare.shown import numbers_by_id
from prelabel.errors import ConfigError, EvaluateError
from prelabel.export.label_studio import export_label_studio
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.reading import Rows, RunInfo
from prelabel.export.regions import region_id
from prelabel.storage import Storage
from prelabel.store.exports import ExportRecord, read_exports, write_export
from prelabel.store.run import open_run
from tests.compare.test_compare import FOUR, Tasks, counts, large, regions, run
from tests.rows import INFO, found, rows

RUNS = Path(__file__).parents[1] / "data" / "runs"


def exported(
    tmp_path: Path,
    every: Rows,
    edit: Callable[[Tasks], None] = lambda tasks: None,
    info: RunInfo = INFO,
    **options: Any,
) -> Path:
    """Label Studio's own export of tasks that people submitted: each annotation keeps the prediction it began with."""
    made = LabelStudioOptions(**options)
    export_label_studio(info, every, str(tmp_path / "tasks"), made, Storage())
    tasks = json.loads((tmp_path / "tasks" / "tasks-00000.json").read_text())
    for number, task in enumerate(tasks, start=1):
        (prediction,) = task["predictions"]
        task.update(id=number, predictions=[100 + number], drafts=[])
        task["annotations"] = [
            {
                "id": 10 + number,
                "completed_by": 1,
                "was_cancelled": False,
                "ground_truth": False,
                "updated_at": "2026-11-02T00:00:00Z",
                "lead_time": 10.0,
                "prediction": {"id": 100 + number, **copy.deepcopy(prediction)},
                "parent_prediction": 100 + number,
                "result": copy.deepcopy(prediction["result"]),
            }
        ]
    edit(tasks)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    return path


def without_prediction(tasks: Tasks) -> None:
    for task in tasks:
        for key in ("prediction", "parent_prediction"):
            del task["annotations"][0][key]


def record(**options: Any) -> ExportRecord:
    made = LabelStudioOptions(**options)
    names = ("score_threshold", "class_threshold", "max_detections", "class_map")
    selection = {name: getattr(made, name) for name in names}
    shapes = {"polygon_tolerance": made.polygon_tolerance, "polygon_min_area": made.polygon_min_area}
    told = {"run_id": "run-1", "model_version": INFO.model_version, "to": "out", "at": "2026-11-01T00:00:00+00:00"}
    return ExportRecord(kind="label-studio", selection=selection, shapes=shapes, **told)


def recorded(every: Rows, path: Path, *records: ExportRecord, **options: Any) -> Comparison:
    return compare(INFO, every, CompareOptions(predictions="o", annotations=str(path), **options), Storage(), records)


#: 40 images: on each a dog at 0.9 to 0.5, and a person whose scores go down to 0.1.
PERSON = {"category_id": 2, "mid": ""}
MANY = rows(
    *(
        large(
            f"{n}.jpg",
            found("Dog", 0.9 - n / 100, (0, 0, 50, 50)),
            found("Person", 0.9 - n / 50, (60, 0, 100, 40), **PERSON),
        )
        for n in range(40)
    )
)
MANY_INFO = replace(INFO, classes=None)
THRESHOLDS = {"Person": 0.38, "Dog": 0.6}


def many(path: Path, *records: ExportRecord, **options: Any) -> Comparison:
    options = {"predictions": "o", "annotations": str(path), **options}
    return compare(MANY_INFO, MANY, CompareOptions(**options), Storage(), records)


@pytest.mark.parametrize("basis", ["annotations", "recorded", "stated"])
def test_the_floor_is_each_class_s_own(tmp_path: Path, basis: str) -> None:
    edit = (lambda tasks: None) if basis == "annotations" else without_prediction
    path = exported(tmp_path, MANY, edit, MANY_INFO, class_threshold=THRESHOLDS)
    records = [record(class_threshold=THRESHOLDS)] if basis == "recorded" else []
    done = many(path, *records, **({"class_threshold": THRESHOLDS} if basis == "stated" else {}))
    # Persons from 0.38 on are on the first 27 images, dogs from 0.6 on on the first 31; all were kept.
    assert counts(done, "Person") == [27, 0, 0, 0, 0]
    assert counts(done, "Dog") == [31, 0, 0, 0, 0]
    for name, least in THRESHOLDS.items():
        floor = done.floors[name]
        assert floor is not None
        assert least - 1e-6 <= floor < least + 0.02
        # All of them were right, and all the same nobody knows what people would think of lower ones.
        assert done.work.by_class[name].suggested.threshold >= least
    assert any(
        "the lowest score of what people were shown is suggested" in note and "Person" in note for note in done.notes
    )
    assert any("corrections per 100 images where they had no part in choosing" in note for note in done.notes)
    write_comparison(done, str(tmp_path / "out"), Storage())
    thresholds = yaml.safe_load((tmp_path / "out" / "thresholds.yaml").read_text())
    assert thresholds.get("Person", thresholds["*"]) >= 0.38
    assert thresholds.get("Dog", thresholds["*"]) >= 0.6


def test_detections_below_the_floor_neither_count_as_deleted_nor_lower_it(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        without_prediction(tasks)
        for task in tasks[20:]:  # persons below 0.5, and dogs below 0.7
            task["annotations"][0]["result"] = []

    path = exported(tmp_path, MANY, edit, MANY_INFO, class_threshold=THRESHOLDS)
    done = many(path, record(class_threshold=THRESHOLDS))
    assert counts(done, "Person") == [20, 0, 0, 7, 0]
    assert counts(done, "Dog") == [20, 0, 0, 11, 0]
    # By the whole run these would be 40 and 40.
    assert done.total.shown == 27 + 31
    for name, last_kept in (("Person", 0.52), ("Dog", 0.71)):
        assert THRESHOLDS[name] < done.work.by_class[name].suggested.threshold <= last_kept


def test_one_detection_shown_below_all_others_does_not_make_the_floor(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        # On one image, a batch of an earlier export, a person of 0.12 was shown.
        low = copy.deepcopy(regions(tasks, 0)[1])
        low.update(id=region_id(INFO.model_version, "39.jpg", 1), score=0.12)
        tasks[39]["annotations"][0]["prediction"]["result"].append(low)
        tasks[39]["annotations"][0]["result"].append(copy.deepcopy(low))

    done = many(exported(tmp_path, MANY, edit, MANY_INFO, class_threshold=THRESHOLDS))
    assert counts(done, "Person") == [28, 0, 0, 0, 0]
    floor = done.floors["Person"]
    assert floor is not None
    assert floor > 0.36
    assert done.work.by_class["Person"].suggested.threshold >= 0.36


def test_what_annotations_began_with_needs_no_selection(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, lambda tasks: regions(tasks).pop(), score_threshold=0.65, class_map={"Dog": "pet"})
    done = run(FOUR, path)
    assert counts(done) == [2, 0, 0, 1, 0]
    assert done.by_class["pet"].shown == 3
    assert (done.by_annotations, done.shown) == (2, "what the annotations began with")
    assert not any("ASSUMED" in note for note in done.notes)


def test_a_box_that_was_resized_and_a_mask_that_was_not_are_told_by_what_was_shown(tmp_path: Path) -> None:
    blob = np.zeros((100, 200), bool)
    y, x = np.mgrid[:100, :200]
    blob |= np.hypot(x - 60, y - 50) < 30
    every = rows(large("a.jpg", found(xyxy=(30, 20, 90, 80), mask=rle.encode(blob))))
    # So coarse that the polygon overlaps its mask by less than 0.95: without the prediction it would count as moved.
    path = exported(tmp_path, every, polygon_tolerance=9.0)
    assert counts(run(every, path)) == [1, 0, 0, 0, 0]
    # The tolerance is written down, too.
    path = exported(tmp_path, every, without_prediction, polygon_tolerance=9.0)
    assert counts(run(every, path)) == [0, 1, 0, 0, 0]
    assert counts(recorded(every, path, record(polygon_tolerance=9.0))) == [1, 0, 0, 0, 0]
    assert counts(recorded(every, path, record(polygon_tolerance=9.0), polygon_tolerance=2.0)) == [0, 1, 0, 0, 0]


def test_what_was_written_down_is_taken_where_annotations_do_not_say(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, without_prediction, score_threshold=0.65)
    done = recorded(FOUR, path, record(score_threshold=0.65))
    assert counts(done) == [3, 0, 0, 0, 0]
    assert (done.basis, done.by_annotations) == ("recorded", 0)
    assert "scores from 0.65 on" in done.shown
    # Of several the latest; that there are others is said. Those for other tools do not count.
    earlier, later = record(score_threshold=0.05), replace(record(score_threshold=0.65), at="2026-11-02T00:00:00+00:00")
    coco = replace(record(score_threshold=0.9), kind="coco", at="2026-11-03T00:00:00+00:00")
    done = recorded(FOUR, path, earlier, later, coco)
    assert counts(done) == [3, 0, 0, 0, 0]
    (note,) = [note for note in done.notes if note.startswith("ASSUMED")]
    assert "the latest of 2 exports of this run that are written down, with 2 different selections" in note
    assert "scores from 0.65 on (label-studio of 2026-11-02" in note
    assert "scores from 0.05 on (label-studio of 2026-11-01" in note
    assert "--score-threshold" in note
    assert done.shown.startswith("assumed, the latest of 2 different selections")
    # Several of one selection are one candidate, and need no word.
    done = recorded(FOUR, path, replace(later, to="a"), later)
    assert not any("ASSUMED" in note for note in done.notes)
    done = recorded(FOUR, path, earlier, replace(earlier, to="a"), later, replace(later, to="b"))
    assert any("the latest of 4 exports" in note and "2 different selections" in note for note in done.notes)


def test_what_is_assumed_is_said_loudly(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, without_prediction, score_threshold=0.65)
    done = run(FOUR, path)
    assert counts(done) == [3, 0, 0, 2, 0]
    assert done.basis == "assumed"
    assert any(note.startswith("ASSUMED: people were shown scores from 0.3 on") for note in done.notes)
    assert done.shown == "assumed: scores from 0.3 on"


def test_a_selection_that_contradicts_what_people_left_is_said(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, without_prediction, score_threshold=0.3)
    done = recorded(FOUR, path, record(score_threshold=0.65))
    assert counts(done) == [5, 0, 0, 0, 0]
    assert any("2 detections were shown although the selection (recorded) leaves them out" in one for one in done.notes)
    # A stated one against what the annotations began with.
    done = run(FOUR, exported(tmp_path, FOUR, score_threshold=0.3), score_threshold=0.65)
    assert done.basis == "stated"
    assert any("2 detections were shown although the selection (stated)" in note for note in done.notes)


def test_images_begun_with_another_model_s_predictions_are_left_out(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        annotation = tasks[1]["annotations"][0]
        annotation["prediction"]["model_version"] = "other-1"
        for region in [*annotation["prediction"]["result"], *annotation["result"]]:
            region["id"] += "x"

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.other_model) == (1, 1)
    assert any("1 images are left out: people began with predictions of other-1" in note for note in done.notes)

    def both(tasks: Tasks) -> None:
        edit(tasks)
        edit(tasks[::-1])

    with pytest.raises(
        EvaluateError, match=r"did not begin with this run's predictions \(stub-0123abcd\) but with .*other-1"
    ):
        run(FOUR, exported(tmp_path, FOUR, both))


def test_images_begun_with_nothing_did_not_delete_everything(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        tasks[0]["annotations"][0].update(prediction={}, parent_prediction=None)
        for region in regions(tasks):
            region["id"] = region["id"][:-1] + "Z"

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.blank, counts(done)) == (1, 1, [1, 0, 0, 0, 0])
    assert any("1 images are left out: people began with no prediction, e.g. on 'a.jpg'" in note for note in done.notes)
    # A region with the id of a detection proves that it was shown all the same.
    done = run(
        FOUR,
        exported(
            tmp_path, FOUR, lambda tasks: tasks[0]["annotations"][0].update(prediction={}, parent_prediction=None)
        ),
    )
    assert (done.images, done.blank) == (2, 0)


def test_the_prediction_that_was_made_into_the_annotation_counts(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        annotation = tasks[0]["annotations"][0]
        shown = annotation["prediction"]
        other = {"id": 999, "model_version": "other-1", "result": []}
        tasks[0]["predictions"] = [other, shown]
        annotation["prediction"] = other

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.by_annotations, counts(done)) == (2, 2, [5, 0, 0, 0, 0])


def test_an_image_on_which_nothing_was_shown_says_so(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        tasks[0]["annotations"][0]["prediction"]["result"] = []
        regions(tasks)[:] = [{**regions(tasks)[0], "id": "hand"}]

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert counts(done) == [1, 0, 0, 0, 1]


def test_several_people_ground_truth_and_drafts(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        mine = tasks[0]["annotations"][0]
        later = {**copy.deepcopy(mine), "completed_by": 2, "result": [], "updated_at": "2026-11-05T00:00:00Z"}
        tasks[0]["annotations"].append(later)
        tasks[1].update(annotations=[], drafts=[{"id": 1}])

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.open, counts(done)) == (1, 1, [0, 0, 0, 4, 0])
    assert any(note.startswith("1 annotations of tasks that several people worked on") for note in done.notes)
    assert any(note.startswith("1 tasks have drafts") for note in done.notes)

    def judged(tasks: Tasks) -> None:
        edit(tasks)
        tasks[0]["annotations"][0]["ground_truth"] = True

    assert counts(run(FOUR, exported(tmp_path, FOUR, judged))) == [4, 0, 0, 0, 0]


@pytest.mark.parametrize("basis", ["annotations", "stated"])
def test_one_part_of_several_that_got_another_class_is_seen(tmp_path: Path, basis: str) -> None:
    two = np.zeros((100, 200), bool)
    two[10:40, 10:40] = two[60:90, 100:150] = True
    every = rows(large("a.jpg", found(xyxy=(10, 10, 150, 90), mask=rle.encode(two))))

    def edit(tasks: Tasks) -> None:
        assert len(regions(tasks)) == 2
        regions(tasks)[1]["value"]["polygonlabels"] = ["Cat"]

    options = {"score_threshold": 0.3} if basis == "stated" else {}
    done = run(every, exported(tmp_path, every, edit, mask_parts="split"), **options)
    assert counts(done) == [0, 0, 1, 0, 0]
    assert done.relabelled == [("Dog", "Cat", 1)]
    assert (done.total.shown, done.by_class["Dog"].objects, done.by_class["Cat"].objects) == (1, 1, 1)
    assert done.corrections == 1


def test_a_region_whose_label_was_removed_is_not_relabelled(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        regions(tasks)[0]["value"]["rectanglelabels"] = []
        del regions(tasks)[1]["value"]["rectanglelabels"]
        regions(tasks)[2]["id"] = "without-id"
        regions(tasks)[2]["value"]["rectanglelabels"] = []

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert counts(done, "Dog") == [0, 0, 0, 0, 0]
    assert done.by_class["Dog"].counts["unlabelled"] == 3
    assert (done.relabelled, done.corrections, done.by_class["Dog"].objects) == ([], 3, 0)


def test_no_more_is_hashed_than_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def counted(*key: Any) -> str:
        hashed.append(key)
        return region_id(*key)

    monkeypatch.setattr("prelabel.compare.shown.region_id", counted)
    ragged = rle.encode(np.eye(100, 200, dtype=bool))
    row = large("a.jpg", *(found(score=0.9, xyxy=(0, 0, 50, 50), mask=ragged) for _ in range(100)))
    assert row.detections is not None

    def numbers(ids: set[str]) -> tuple[dict[str, int], int]:
        hashed.clear()
        made = dict(numbers_by_id("m", "a.jpg", row.detections, ids))
        assert len(set(hashed)) == len(hashed)
        return made, len(hashed)

    # The first parts of all; then each part once, as long as one is missing.
    first = {region_id("m", "a.jpg", n, 0): n for n in range(100)}
    assert numbers(set(first)) == (first, 100)
    assert numbers({*first, "Ab3_x-9Q2z", ""}) == (first, 100)
    second = {region_id("m", "a.jpg", n, 1): n for n in range(100)}
    assert numbers({*second}) == (second, 200)
    assert numbers({region_id("m", "a.jpg", 7, 12)})[0] == {region_id("m", "a.jpg", 7, 12): 7}
    # Nothing of it is ours: made by hand, or of another model.
    assert numbers({"Ab3_x-9Q2z"}) == ({}, 0)
    assert numbers({region_id("other", "a.jpg", 0, 0)})[1] <= 100 * 18


@pytest.mark.parametrize("odd", [None, [], {}, "x", 1e999, -1, True])
def test_odd_sizes_and_predictions_of_an_export_are_none(tmp_path: Path, odd: Any) -> None:
    def edit(tasks: Tasks) -> None:
        for task in tasks:
            task["predictions"] = odd
            for region in task["annotations"][0]["result"]:
                region["original_width"] = odd

    assert counts(run(FOUR, exported(tmp_path, FOUR, edit))) == [5, 0, 0, 0, 0]


def test_records_are_read_back_in_order_and_others_are_passed_over(tmp_path: Path) -> None:
    out, storage = str(tmp_path), Storage()
    assert read_exports(out, storage, "run-1") == ([], [])
    later = replace(record(score_threshold=0.4), at="2026-11-02T00:00:00+00:00")
    for one in (later, record(), replace(record(), run_id="run-2")):
        write_export(out, storage, one)
    (tmp_path / "exports" / "tasks-00000.json").write_text("[]")
    (tmp_path / "exports" / "export-20261101T000000Z-00000000.json").write_text("[1]")
    records, notes = read_exports(out, storage, "run-1")
    assert [one.selection["score_threshold"] for one in records] == [0.3, 0.4]
    assert len(notes) == 1
    assert "export-20261101T000000Z-00000000.json is no record of an export" in notes[0]


DAMAGED = {
    "selection": [[1], {"score_threshold": "high"}, {"score_threshold": 7}, {"class_threshold": {"Dog": [1]}}, None],
    "kind": [5, None],
    "at": [5, None],
    "to": [["a"]],
    "shapes": [[1], {"polygon_tolerance": 10**400}, {"polygon_tolerance": -1}, {"polygon_min_area": float("nan")}],
    "left_out": [[1], {"without an area": "two"}, {"without an area": [2]}],
    "images": ["many", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in DAMAGED for value in DAMAGED[name]])
def test_a_damaged_record_is_a_note_and_no_reason_to_compare_nothing(name: str, value: object, tmp_path: Path) -> None:
    out, storage = tmp_path / "run", Storage()
    write_export(str(out), storage, record(score_threshold=0.4))
    (sound,) = (out / "exports").iterdir()
    broken = {**json.loads(sound.read_text()), "at": "2026-11-03T00:00:00+00:00", name: value}
    (out / "exports" / "export-20261103T000000Z-00000000.json").write_text(json.dumps(broken))
    records, notes = read_exports(str(out), storage, "run-1")
    done = recorded(FOUR, exported(tmp_path, FOUR, without_prediction), *records)
    assert done.basis == "recorded"
    assert "label-studio of 2026-11-01T00:00:00+00:00: scores from 0.4 on" in done.shown
    told = [
        note
        for note in (*notes, *done.notes)
        if "export-20261103T000000Z-00000000.json is no record of an export" in note
        or note.startswith("the record of the export of 2026-11-03T00:00:00+00:00 is left out: ")
    ]
    assert len(told) == 1


def test_a_rule_of_a_later_release_is_a_note(tmp_path: Path) -> None:
    out, storage = tmp_path / "run", Storage()
    write_export(str(out), storage, record(score_threshold=0.4))
    (path,) = (out / "exports").iterdir()
    values = json.loads(path.read_text())
    values["selection"]["soft_nms"] = 0.5
    path.write_text(json.dumps({**values, "of_tomorrow": 1}))
    records, notes = read_exports(str(out), storage, "run-1")
    assert notes == []
    done = recorded(FOUR, exported(tmp_path, FOUR, without_prediction), *records)
    assert "scores from 0.4 on" in done.shown
    assert [note for note in done.notes if "whose rules soft_nms are not known here" in note]


def test_records_stand_in_object_stores_too() -> None:
    storage = Storage()
    write_export("memory://records/run", storage, record(score_threshold=0.4))
    records, notes = read_exports("memory://records/run", storage, "run-1")
    assert ([one.selection["score_threshold"] for one in records], notes) == ([0.4], [])


def test_commands_write_down_what_they_export_and_compare_takes_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(RUNS / "finished", out)
    opened = open_run(str(out), Storage())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    options = ["--score-threshold", "0.6", "--storage-options", '{"key": "hunter2"}']
    runner = CliRunner()
    for command in (
        ["coco", str(out), "--to", str(tmp_path / "c.json")],
        ["yolo", str(out), "--to", str(tmp_path / "y")],
    ):
        result = runner.invoke(main, ["export", *command, *options])
        assert result.exit_code == 0, result.output
    records, notes = read_exports(str(out), Storage(), opened.record.run_id)
    assert ([one.kind for one in records], notes) == (["coco", "yolo"], [])
    assert {one.selection["score_threshold"] for one in records} == {0.6}
    assert records[0].to.endswith("c.json")
    text = "".join(path.read_text() for path in (out / "exports").iterdir())
    assert "hunter2" not in text
    assert {path: path.read_bytes() for path in before} == before
    assert runner.invoke(main, ["verify", str(out)]).exit_code == 0
    content = json.loads((tmp_path / "c.json").read_text())
    result = runner.invoke(main, ["compare", "--predictions", str(out), "--annotations", str(tmp_path / "c.json")])
    assert result.exit_code == 0, result.output
    assert "ASSUMED" not in result.output
    done = json.loads((out / "comparison" / "comparison.json").read_text())
    assert done["total"]["kept"] == done["total"]["shown"] == len(content["annotations"]) > 0
    assert done["shown"]["others"] == "recorded"


def test_an_export_of_a_run_that_cannot_be_written_to_is_as_good_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "read-only file system")

    monkeypatch.setattr("prelabel.store.exports.write_json", refuse)
    result = CliRunner().invoke(main, ["export", "coco", str(RUNS / "finished"), "--to", str(tmp_path / "c.json")])
    assert result.exit_code == 0, result.output
    assert "could not be written down beside the run" in result.output
    assert (tmp_path / "c.json").exists()
    assert not (RUNS / "finished" / "exports").exists()


@pytest.mark.parametrize("written", [True, False])
def test_a_class_of_which_everything_was_shown_has_no_floor_of_its_own(tmp_path: Path, written: bool) -> None:
    # Dogs are on every image at 0.9 and 0.42, and at 0.2, which nobody saw; the one frisbee is at 0.847.
    every = rows(
        *(
            large(
                f"{n}.jpg",
                found("Dog", 0.9, (0, 0, 50, 50)),
                found("Dog", 0.42, (60, 0, 100, 40)),
                found("Dog", 0.2, (110, 0, 150, 40)),
                *([found("Frisbee", 0.847, (0, 60, 20, 90), **PERSON)] if n == 3 else []),
            )
            for n in range(12)
        )
    )
    path = exported(tmp_path, every, info=MANY_INFO, score_threshold=0.4)
    options = CompareOptions(predictions="o", annotations=str(path))
    records = [record(score_threshold=0.4)] if written else []
    done = compare(MANY_INFO, every, options, Storage(), records)
    floor = 0.4 if written else 0.42
    assert {name: value and round(value, 4) for name, value in done.floors.items()} == {"Dog": floor, "Frisbee": floor}
    assert done.work.by_class["Frisbee"].suggested.threshold <= 0.5
    # A record that contradicts what was withheld is none of these annotations'.
    done = compare(MANY_INFO, every, options, Storage(), [record(score_threshold=0.1)])
    assert round(done.floors["Dog"] or 0, 4) == 0.42


def test_the_archive_that_label_studio_downloads_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04\x14\x00\x08\x00\x08\x00\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.zip is a ZIP file.*unpack it.*result\.json"):
        run(FOUR, path)
