"""Finding what annotators were shown: from annotations, recorded exports, given options, or an assumption."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from prelabel.cli import main
from prelabel.errors import ConfigError, EvaluateError
from prelabel.export.base import Rows, RunInfo
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.label_studio.regions import region_id
from prelabel.masks import rle
from prelabel.review.basis import basis_of
from prelabel.review.comparison import Comparison, compare
from prelabel.review.options import CompareOptions
from prelabel.review.preannotations import numbers_by_id
from prelabel.review.report.files import write_comparison
from prelabel.storage.files import Storage
from prelabel.store.exports import ExportRecord, read_exports, write_export
from prelabel.store.run import open_run
from tests.messages import facts, tells, told
from tests.review.test_compare import FOUR, Tasks, counts, large, regions, run
from tests.rows import INFO, found, rows

RUNS = Path(__file__).parents[1] / "data" / "runs"


def exported(
    tmp_path: Path,
    image_rows: Rows,
    edit: Callable[[Tasks], None] = lambda tasks: None,
    info: RunInfo = INFO,
    **options: Any,
) -> Path:
    """Label Studio's export of submitted tasks, in which each annotation has the prediction that it started from."""
    made = LabelStudioOptions.of(**options)
    export_label_studio(info, image_rows, str(tmp_path / "tasks"), made, Storage())
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
    made = LabelStudioOptions.of(**options)
    names = ("score_threshold", "class_threshold", "max_detections", "class_map")
    selection = {name: getattr(made.selection, name) for name in names}
    shapes = {"polygon_tolerance": made.polygon_tolerance, "polygon_min_area": made.polygon_min_area}
    told = {"run_id": "run-1", "model_version": INFO.model_version, "to": "out", "at": "2026-11-01T00:00:00+00:00"}
    return ExportRecord(kind="label-studio", selection=selection, shapes=shapes, **told)


def recorded(image_rows: Rows, path: Path, *records: ExportRecord, **options: Any) -> Comparison:
    return compare(
        INFO, image_rows, CompareOptions.of(predictions="o", annotations=str(path), **options), Storage(), records
    )


def test_a_preview_does_not_tell_what_annotators_were_shown() -> None:
    export, look = record(score_threshold=0.2), replace(record(score_threshold=0.6), kind="preview")
    chosen = basis_of(CompareOptions.of(predictions="o", annotations="a"), [export, look], any_tool=True)
    assert (chosen.source, chosen.selection.score_threshold) == ("recorded", 0.2)


#: 40 images, each with a dog with a score from 0.9 to 0.5 and a person with a score down to 0.1.
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
    return compare(MANY_INFO, MANY, CompareOptions.of(**options), Storage(), records)


@pytest.mark.parametrize("basis", ["annotations", "recorded", "stated"])
def test_each_class_has_its_own_floor(tmp_path: Path, basis: str) -> None:
    edit = (lambda tasks: None) if basis == "annotations" else without_prediction
    path = exported(tmp_path, MANY, edit, MANY_INFO, class_threshold=THRESHOLDS)
    records = [record(class_threshold=THRESHOLDS)] if basis == "recorded" else []
    done = many(path, *records, **({"class_threshold": THRESHOLDS} if basis == "stated" else {}))
    # Persons with 0.38 or more are on the first 27 images, dogs with 0.6 or more on the first 31; all were kept.
    assert counts(done, "Person") == [27, 0, 0, 0, 0]
    assert counts(done, "Dog") == [31, 0, 0, 0, 0]
    for name, least in THRESHOLDS.items():
        floor = done.floors[name]
        assert floor is not None
        assert least - 1e-6 <= floor < least + 0.02
        # All of them were correct, but lower scores remain unknown.
        assert done.work.by_class[name].suggested.threshold >= least
    assert told(done.notes, "lowest", "score", "shown", "Person")
    assert told(done.notes, "corrections", "held-out")
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
    # Counted over the whole run, these would be 40 and 40.
    assert done.total.shown == 27 + 31
    for name, last_kept in (("Person", 0.52), ("Dog", 0.71)):
        assert THRESHOLDS[name] < done.work.by_class[name].suggested.threshold <= last_kept


def test_a_single_detection_shown_below_all_others_does_not_lower_the_floor(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        # On one image, from an earlier export, a person with a score of 0.12 was shown.
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


def test_annotations_that_tell_their_prediction_need_no_selection(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, lambda tasks: regions(tasks).pop(), score_threshold=0.65, class_map={"Dog": "pet"})
    done = run(FOUR, path)
    assert counts(done) == [2, 0, 0, 1, 0]
    assert done.by_class["pet"].shown == 3
    assert done.by_annotations == 2
    assert tells(done.shown, "annotations", "started from")
    assert not any("ASSUMED" in note for note in done.notes)


def test_a_resized_box_and_an_unchanged_mask_are_compared_with_what_was_shown(tmp_path: Path) -> None:
    blob = np.zeros((100, 200), bool)
    y, x = np.mgrid[:100, :200]
    blob |= np.hypot(x - 60, y - 50) < 30
    image_rows = rows(large("a.jpg", found(xyxy=(30, 20, 90, 80), mask=rle.encode(blob))))
    # The tolerance is so high that the polygon has an IoU below 0.95 with its mask: only the prediction shows that it
    # was not moved.
    path = exported(tmp_path, image_rows, polygon_tolerance=9.0)
    assert counts(run(image_rows, path)) == [1, 0, 0, 0, 0]
    # The tolerance is recorded, too.
    path = exported(tmp_path, image_rows, without_prediction, polygon_tolerance=9.0)
    assert counts(run(image_rows, path)) == [0, 1, 0, 0, 0]
    assert counts(recorded(image_rows, path, record(polygon_tolerance=9.0))) == [1, 0, 0, 0, 0]
    assert counts(recorded(image_rows, path, record(polygon_tolerance=9.0), polygon_tolerance=2.0)) == [0, 1, 0, 0, 0]


def test_the_recorded_selection_is_used_if_annotations_do_not_tell(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, without_prediction, score_threshold=0.65)
    done = recorded(FOUR, path, record(score_threshold=0.65))
    assert counts(done) == [3, 0, 0, 0, 0]
    assert (done.basis, done.by_annotations) == ("recorded", 0)
    assert tells(done.shown, "0.65")
    # Of several exports, the latest is used, and a note names the others. Exports for other tools do not count.
    earlier, later = record(score_threshold=0.05), replace(record(score_threshold=0.65), at="2026-11-02T00:00:00+00:00")
    coco = replace(record(score_threshold=0.9), kind="coco", at="2026-11-03T00:00:00+00:00")
    done = recorded(FOUR, path, earlier, later, coco)
    assert counts(done) == [3, 0, 0, 0, 0]
    (note,) = [note for note in done.notes if note.startswith("ASSUMED")]
    assert re.search(r"0\.65\b.*2026-11-02.*0\.05\b.*2026-11-01", note)
    assert tells(note, "2", "exports", "selections", "label-studio", "--score-threshold")
    assert tells(done.shown, "assumed", "2", "selections")
    # Several exports with the same selection are one candidate, and need no note.
    done = recorded(FOUR, path, replace(later, to="a"), later)
    assert not any("ASSUMED" in note for note in done.notes)
    done = recorded(FOUR, path, earlier, replace(earlier, to="a"), later, replace(later, to="b"))
    assert told(done.notes, "ASSUMED", "4", "2")


def test_an_assumption_gives_a_prominent_note(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, without_prediction, score_threshold=0.65)
    done = run(FOUR, path)
    assert counts(done) == [3, 0, 0, 2, 0]
    assert done.basis == "assumed"
    assert told(done.notes, "ASSUMED", "0.3")
    assert tells(done.shown, "assumed", "0.3")


def test_a_selection_that_contradicts_the_annotations_is_reported(tmp_path: Path) -> None:
    path = exported(tmp_path, FOUR, without_prediction, score_threshold=0.3)
    done = recorded(FOUR, path, record(score_threshold=0.65))
    assert counts(done) == [5, 0, 0, 0, 0]
    assert told(done.notes, "2", "selection", "recorded")
    # A given selection contradicts the predictions that annotations started from.
    done = run(FOUR, exported(tmp_path, FOUR, score_threshold=0.3), score_threshold=0.65)
    assert done.basis == "stated"
    assert told(done.notes, "2", "selection", "stated")


def test_images_started_from_another_models_predictions_are_skipped(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        annotation = tasks[1]["annotations"][0]
        annotation["prediction"]["model_version"] = "other-1"
        for region in [*annotation["prediction"]["result"], *annotation["result"]]:
            region["id"] += "x"

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.other_model) == (1, 1)
    assert told(done.notes, "1", "skipped", "other-1")

    def both(tasks: Tasks) -> None:
        edit(tasks)
        edit(tasks[::-1])

    with pytest.raises(EvaluateError, match=facts("predictions", "stub-0123abcd", "other-1")):
        run(FOUR, exported(tmp_path, FOUR, both))


def test_images_started_without_predictions_do_not_count_as_all_deleted(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        tasks[0]["annotations"][0].update(prediction={}, parent_prediction=None)
        for region in regions(tasks):
            region["id"] = region["id"][:-1] + "Z"

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.blank, counts(done)) == (1, 1, [1, 0, 0, 0, 0])
    assert told(done.notes, "1", "without a prediction", "a.jpg")
    # Nevertheless, a region with the id of a detection proves that the detection was shown.
    done = run(
        FOUR,
        exported(
            tmp_path, FOUR, lambda tasks: tasks[0]["annotations"][0].update(prediction={}, parent_prediction=None)
        ),
    )
    assert (done.images, done.blank) == (2, 0)


def test_the_parent_prediction_of_the_annotation_counts(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        annotation = tasks[0]["annotations"][0]
        prediction = annotation["prediction"]
        other = {"id": 999, "model_version": "other-1", "result": []}
        tasks[0]["predictions"] = [other, prediction]
        annotation["prediction"] = other

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.by_annotations, counts(done)) == (2, 2, [5, 0, 0, 0, 0])


def test_an_empty_prediction_tells_that_nothing_was_shown(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        tasks[0]["annotations"][0]["prediction"]["result"] = []
        regions(tasks)[:] = [{**regions(tasks)[0], "id": "hand"}]

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert counts(done) == [1, 0, 0, 0, 1]


def test_several_annotators_ground_truth_and_drafts(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        mine = tasks[0]["annotations"][0]
        later = {**copy.deepcopy(mine), "completed_by": 2, "result": [], "updated_at": "2026-11-05T00:00:00Z"}
        tasks[0]["annotations"].append(later)
        tasks[1].update(annotations=[], drafts=[{"id": 1}])

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert (done.images, done.open, counts(done)) == (1, 1, [0, 0, 0, 4, 0])
    assert told(done.notes, "1", "several annotators")
    assert told(done.notes, "1", "drafts")

    def judged(tasks: Tasks) -> None:
        edit(tasks)
        tasks[0]["annotations"][0]["ground_truth"] = True

    assert counts(run(FOUR, exported(tmp_path, FOUR, judged))) == [4, 0, 0, 0, 0]


@pytest.mark.parametrize("basis", ["annotations", "stated"])
def test_a_part_of_a_detection_with_another_class_is_a_relabeled_object(tmp_path: Path, basis: str) -> None:
    two = np.zeros((100, 200), bool)
    two[10:40, 10:40] = two[60:90, 100:150] = True
    image_rows = rows(large("a.jpg", found(xyxy=(10, 10, 150, 90), mask=rle.encode(two))))

    def edit(tasks: Tasks) -> None:
        assert len(regions(tasks)) == 2
        regions(tasks)[1]["value"]["polygonlabels"] = ["Cat"]

    options = {"score_threshold": 0.3} if basis == "stated" else {}
    done = run(image_rows, exported(tmp_path, image_rows, edit, mask_parts="split"), **options)
    assert counts(done) == [0, 0, 1, 0, 0]
    assert done.relabeled == [("Dog", "Cat", 1)]
    assert (done.total.shown, done.by_class["Dog"].objects, done.by_class["Cat"].objects) == (1, 1, 1)
    assert done.total.corrections == 1


def test_a_region_whose_label_was_removed_is_not_relabeled(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        regions(tasks)[0]["value"]["rectanglelabels"] = []
        del regions(tasks)[1]["value"]["rectanglelabels"]
        regions(tasks)[2]["id"] = "without-id"
        regions(tasks)[2]["value"]["rectanglelabels"] = []

    done = run(FOUR, exported(tmp_path, FOUR, edit))
    assert counts(done, "Dog") == [0, 0, 0, 0, 0]
    assert done.by_class["Dog"].counts["unlabeled"] == 3
    assert (done.relabeled, done.total.corrections, done.by_class["Dog"].objects) == ([], 3, 0)


def test_no_more_ids_are_hashed_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def counted(*key: Any) -> str:
        hashed.append(key)
        return region_id(*key)

    monkeypatch.setattr("prelabel.review.preannotations.region_id", counted)
    ragged = rle.encode(np.eye(100, 200, dtype=bool))
    row = large("a.jpg", *(found(score=0.9, xyxy=(0, 0, 50, 50), mask=ragged) for _ in range(100)))
    assert row.detections is not None

    def numbers(ids: set[str]) -> tuple[dict[str, int], int]:
        hashed.clear()
        made = dict(numbers_by_id("m", "a.jpg", row.detections, ids))
        assert len(set(hashed)) == len(hashed)
        return made, len(hashed)

    # The first parts of all detections; then each further part once, while an id is missing.
    first = {region_id("m", "a.jpg", n, 0): n for n in range(100)}
    assert numbers(set(first)) == (first, 100)
    assert numbers({*first, "Ab3_x-9Q2z", ""}) == (first, 100)
    second = {region_id("m", "a.jpg", n, 1): n for n in range(100)}
    assert numbers({*second}) == (second, 200)
    assert numbers({region_id("m", "a.jpg", 7, 12)})[0] == {region_id("m", "a.jpg", 7, 12): 7}
    # No id is from this run: regions were drawn manually, or come from another model.
    assert numbers({"Ab3_x-9Q2z"}) == ({}, 0)
    assert numbers({region_id("other", "a.jpg", 0, 0)})[1] <= 100 * 18


@pytest.mark.parametrize("odd", [None, [], {}, "x", 1e999, -1, True])
def test_invalid_sizes_and_predictions_of_an_export_are_ignored(tmp_path: Path, odd: Any) -> None:
    def edit(tasks: Tasks) -> None:
        for task in tasks:
            task["predictions"] = odd
            for region in task["annotations"][0]["result"]:
                region["original_width"] = odd

    assert counts(run(FOUR, exported(tmp_path, FOUR, edit))) == [5, 0, 0, 0, 0]


def test_records_are_read_in_order_and_other_files_are_ignored(tmp_path: Path) -> None:
    out, storage = str(tmp_path), Storage()
    assert read_exports(out, storage, "run-1") == ([], [])
    later = replace(record(score_threshold=0.4), at="2026-11-02T00:00:00+00:00")
    for recorded_export in (later, record(), replace(record(), run_id="run-2")):
        write_export(out, storage, recorded_export)
    (tmp_path / "exports" / "tasks-00000.json").write_text("[]")
    (tmp_path / "exports" / "export-20261101T000000Z-00000000.json").write_text("[1]")
    records, notes = read_exports(out, storage, "run-1")
    assert [record.selection["score_threshold"] for record in records] == [0.3, 0.4]
    assert len(notes) == 1
    assert told(notes, "export-20261101T000000Z-00000000.json", "record")


def test_the_counts_of_earlier_records_are_read_by_their_earlier_name(tmp_path: Path) -> None:
    storage = Storage()
    write_export(str(tmp_path), storage, record(score_threshold=0.4))
    (file,) = (tmp_path / "exports").iterdir()
    values = json.loads(file.read_text())
    assert values.pop("dropped") == {}
    file.write_text(json.dumps({**values, "left_out": {"detections without area": 2}}))
    (earlier,), notes = read_exports(str(tmp_path), storage, "run-1")
    assert (earlier.dropped, notes) == ({"detections without area": 2}, [])


DAMAGED = {
    "selection": [[1], {"score_threshold": "high"}, {"score_threshold": 7}, {"class_threshold": {"Dog": [1]}}, None],
    "kind": [5, None],
    "at": [5, None],
    "to": [["a"]],
    "shapes": [[1], {"polygon_tolerance": 10**400}, {"polygon_tolerance": -1}, {"polygon_min_area": float("nan")}],
    "dropped": [[1], {"without an area": "two"}, {"without an area": [2]}],
    "images": ["many", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in DAMAGED for value in DAMAGED[name]])
def test_an_invalid_record_gives_a_note_and_does_not_stop_the_comparison(
    name: str, value: object, tmp_path: Path
) -> None:
    out, storage = tmp_path / "run", Storage()
    write_export(str(out), storage, record(score_threshold=0.4))
    (sound,) = (out / "exports").iterdir()
    broken = {**json.loads(sound.read_text()), "at": "2026-11-03T00:00:00+00:00", name: value}
    (out / "exports" / "export-20261103T000000Z-00000000.json").write_text(json.dumps(broken))
    records, notes = read_exports(str(out), storage, "run-1")
    done = recorded(FOUR, exported(tmp_path, FOUR, without_prediction), *records)
    assert done.basis == "recorded"
    assert tells(done.shown, "label-studio", "2026-11-01T00:00:00+00:00", "0.4")
    named = "export-20261103T000000Z-00000000.json|2026-11-03T00:00:00+00:00"
    assert len([note for note in (*notes, *done.notes) if tells(note, "record", named)]) == 1


def test_a_rule_of_a_later_release_gives_a_note(tmp_path: Path) -> None:
    out, storage = tmp_path / "run", Storage()
    write_export(str(out), storage, record(score_threshold=0.4))
    (path,) = (out / "exports").iterdir()
    values = json.loads(path.read_text())
    values["selection"]["soft_nms"] = 0.5
    path.write_text(json.dumps({**values, "of_tomorrow": 1}))
    records, notes = read_exports(str(out), storage, "run-1")
    assert notes == []
    done = recorded(FOUR, exported(tmp_path, FOUR, without_prediction), *records)
    assert tells(done.shown, "0.4")
    assert told(done.notes, "soft_nms")


def test_records_are_written_to_object_storage_too() -> None:
    storage = Storage()
    write_export("memory://records/run", storage, record(score_threshold=0.4))
    records, notes = read_exports("memory://records/run", storage, "run-1")
    assert ([record.selection["score_threshold"] for record in records], notes) == ([0.4], [])


def test_export_commands_record_their_selection_for_compare(tmp_path: Path) -> None:
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
    assert ([record.kind for record in records], notes) == (["coco", "yolo"], [])
    assert {record.selection["score_threshold"] for record in records} == {0.6}
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


def test_an_export_of_a_read_only_run_succeeds_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "read-only file system")

    monkeypatch.setattr("prelabel.store.exports.write_json", refuse)
    result = CliRunner().invoke(main, ["export", "coco", str(RUNS / "finished"), "--to", str(tmp_path / "c.json")])
    assert result.exit_code == 0, result.output
    assert told(result.output.splitlines(), "note", "recorded", "run", "read-only file system", "compare")
    assert (tmp_path / "c.json").exists()
    assert not (RUNS / "finished" / "exports").exists()


@pytest.mark.parametrize("written", [True, False])
def test_a_class_whose_detections_were_all_shown_has_no_separate_floor(tmp_path: Path, written: bool) -> None:
    # Dogs are on every image at 0.9 and 0.42, and at 0.2, which was not shown; the only frisbee is at 0.847.
    image_rows = rows(
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
    path = exported(tmp_path, image_rows, info=MANY_INFO, score_threshold=0.4)
    options = CompareOptions(predictions="o", annotations=str(path))
    records = [record(score_threshold=0.4)] if written else []
    done = compare(MANY_INFO, image_rows, options, Storage(), records)
    floor = 0.4 if written else 0.42
    assert {name: value and round(value, 4) for name, value in done.floors.items()} == {"Dog": floor, "Frisbee": floor}
    assert done.work.by_class["Frisbee"].suggested.threshold <= 0.5
    # A record that contradicts the hidden detections cannot be of the export that was annotated.
    done = compare(MANY_INFO, image_rows, options, Storage(), [record(score_threshold=0.1)])
    assert round(done.floors["Dog"] or 0, 4) == 0.42


def test_an_archive_downloaded_from_label_studio_is_recognized(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04\x14\x00\x08\x00\x08\x00\xff\xfe")
    with pytest.raises(ConfigError, match=facts("x.zip", "ZIP", "result.json")):
        run(FOUR, path)
