"""What people made of pre-annotations: tiny cases whose counts are known, and an export edited as people edit it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from prelabel import rle
from prelabel.cli import main
from prelabel.compare.comparison import compare
from prelabel.compare.files import write_comparison
from prelabel.compare.label_studio import read_tasks
from prelabel.compare.options import CompareOptions
from prelabel.compare.result import Comparison
from prelabel.compare.tables import tables
from prelabel.errors import ConfigError, EvaluateError
from prelabel.evaluate.threshold_files import threshold_file
from prelabel.export.brush import brush_from_rle
from prelabel.export.coco import export_coco
from prelabel.export.coco_options import CocoOptions
from prelabel.export.label_studio import export_label_studio
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.reading import Rows, RunInfo
from prelabel.storage import Storage
from tests.rows import INFO, failed_row, found, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "comparison.schema.json").read_text())
CAT = {"category_id": 2, "mid": "/m/01yrx"}
Tasks = list[dict[str, Any]]


def large(image_id: str, *detections: dict[str, Any]) -> Any:
    return row(image_id, *detections, height=100, width=200)


def annotated(tmp_path: Path, every: Rows, edit: Callable[[Tasks], None], **options: Any) -> Path:
    """An export for Label Studio whose predictions became annotations, edited."""
    export_label_studio(INFO, every, str(tmp_path / "tasks"), LabelStudioOptions(**options), Storage())
    tasks = json.loads((tmp_path / "tasks" / "tasks-00000.json").read_text())
    for number, task in enumerate(tasks):
        result = copy.deepcopy(task["predictions"][0]["result"])
        for region in result:
            region["origin"] = "prediction"
        task["id"] = number + 1
        task["annotations"] = [{"id": 10 + number, "was_cancelled": False, "lead_time": 10.0, "result": result}]
    edit(tasks)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    return path


def run(every: Rows, path: Path, info: RunInfo = INFO, **options: Any) -> Comparison:
    done = compare(info, every, CompareOptions(predictions="out", annotations=str(path), **options), Storage())
    jsonschema.validate(done.to_json(), SCHEMA)
    return done


def counts(done: Comparison, name: str | None = None) -> list[int]:
    one = done.total if name is None else done.by_class[name]
    return [one.counts[fate] for fate in ("kept", "moved", "relabelled", "deleted", "added")]


def regions(tasks: Tasks, task: int = 0) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = tasks[task]["annotations"][0]["result"]
    return result


FOUR = rows(
    large(
        "a.jpg",
        found(score=0.9, xyxy=(0, 0, 50, 50)),
        found(score=0.8, xyxy=(60, 0, 100, 40)),
        found(score=0.7, xyxy=(110, 0, 150, 40)),
        found("Cat", 0.6, (150, 50, 200, 100), **CAT),
    ),
    large("b.jpg", found("Cat", 0.5, (10, 10, 20, 20), **CAT)),
)


def edit_four(tasks: Tasks) -> None:
    first, second, third, fourth = regions(tasks)
    assert first["value"]["width"] == 25
    second["value"]["x"] += 5  # 10 of its 40 pixels
    third["value"]["rectanglelabels"] = ["Cat"]
    regions(tasks).remove(fourth)
    new = copy.deepcopy(first)
    new.update(id="made-by-hand", origin="manual")
    new["value"].update(x=10, y=60, width=10, height=10)
    del new["score"]
    regions(tasks).append(new)


def test_kept_moved_relabelled_deleted_added(tmp_path: Path) -> None:
    done = run(FOUR, annotated(tmp_path, FOUR, edit_four))
    assert counts(done) == [2, 1, 1, 1, 1]
    assert counts(done, "Dog") == [1, 1, 1, 0, 1]
    assert counts(done, "Cat") == [1, 0, 0, 1, 0]
    assert (done.by_class["Dog"].shown, done.by_class["Dog"].objects) == (3, 3)
    assert (done.by_class["Cat"].shown, done.by_class["Cat"].objects) == (2, 2)
    assert done.relabelled == [("Dog", "Cat", 1)]
    assert done.corrections == 4
    # Overlaps of 1, 1 and 30 of 50.
    assert [place for place, count in enumerate(done.total.overlaps) for _ in range(count)] == [12, 19, 19]
    assert done.times is not None
    assert (done.times.images, done.times.total, done.times.median) == (2, 20.0, 10.0)


def test_nothing_touched_is_all_kept_whatever_the_tool(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    y, x = np.mgrid[:100, :200]
    blobs = []
    for _ in range(12):
        cx, cy, r = random.integers(20, 180), random.integers(20, 80), random.integers(3, 20)
        angle = np.arctan2(y - cy, x - cx)
        blob = np.hypot(x - cx, y - cy) < r * (1 + 0.3 * np.sin(3 * angle))
        blob[2:4, 2:4] = True  # a second part, too small to become a polygon
        box = (cx - r, cy - r, cx + r, cy + r)
        blobs.append(
            found(
                score=float(random.uniform(0.3, 0.9)), xyxy=np.clip(box, 0, (200, 100, 200, 100)), mask=rle.encode(blob)
            )
        )
    every = rows(large("a.jpg", *blobs))
    for shape in ("rectangle", "polygon", "brush"):
        done = run(every, annotated(tmp_path, every, lambda tasks: None, shape=shape))
        assert counts(done) == [12, 0, 0, 0, 0], shape


def test_every_part_of_a_mask_belongs_to_its_detection(tmp_path: Path) -> None:
    two = np.zeros((100, 200), bool)
    two[10:40, 10:40] = two[60:90, 100:150] = True
    every = rows(large("a.jpg", found(xyxy=(10, 10, 150, 90), mask=rle.encode(two))))
    for parts in ("bridge", "split"):
        assert counts(run(every, annotated(tmp_path, every, lambda tasks: None, mask_parts=parts))) == [1, 0, 0, 0, 0]
    split = annotated(tmp_path, every, lambda tasks: regions(tasks).pop(), mask_parts="split")
    done = run(every, split)
    assert counts(done) == [0, 1, 0, 0, 0]
    assert done.total.overlaps[12] == 1  # 1500 of 2400 pixels


def test_without_common_ids_overlap_decides_within_the_class_first(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        edit_four(tasks)
        for task in range(2):
            for number, region in enumerate(regions(tasks, task)):
                region["id"] = f"x{number}"

    assert counts(run(FOUR, annotated(tmp_path, FOUR, edit))) == [2, 1, 1, 1, 1]
    every = rows(large("a.jpg", found("Cat", 0.9, (0, 0, 50, 50), **CAT), found("Dog", 0.4, (0, 0, 50, 40))))

    def swap(tasks: Tasks) -> None:
        for region in regions(tasks):
            region["id"] += "x"
        regions(tasks).reverse()

    assert counts(run(every, annotated(tmp_path, every, swap))) == [2, 0, 0, 0, 0]


def test_a_region_with_the_id_of_a_detection_is_that_one_wherever_it_was_moved(tmp_path: Path) -> None:
    def far(tasks: Tasks) -> None:
        regions(tasks, 1)[0]["value"].update(x=80, y=80)

    done = run(FOUR, annotated(tmp_path, FOUR, far))
    assert counts(done, "Cat") == [1, 1, 0, 0, 0]
    assert done.total.overlaps[0] == 1


def test_only_what_was_shown_counts_as_deleted(tmp_path: Path) -> None:
    path = annotated(tmp_path, FOUR, lambda tasks: None, score_threshold=0.65)
    assert counts(run(FOUR, path, score_threshold=0.65)) == [3, 0, 0, 0, 0]
    # The tasks have the predictions that were shown: no selection has to be repeated.
    assert counts(run(FOUR, path)) == [3, 0, 0, 0, 0]
    # One that is stated wins, and that both contradict each other is said.
    wrong = run(FOUR, path, score_threshold=0.05)
    assert counts(wrong) == [3, 0, 0, 2, 0]
    assert any(note.startswith("2 detections that the selection given keeps were not shown") for note in wrong.notes)
    # Ids prove what was shown, whatever threshold is given.
    assert counts(run(FOUR, annotated(tmp_path, FOUR, lambda tasks: None), score_threshold=0.65)) == [5, 0, 0, 0, 0]


def test_classes_are_compared_under_the_names_people_saw(tmp_path: Path) -> None:
    path = annotated(tmp_path, FOUR, lambda tasks: None, class_map={"Dog": "pet"})
    assert counts(run(FOUR, path, class_map={"Dog": "pet"}), "pet") == [3, 0, 0, 0, 0]
    # Nobody has to repeat it where the tasks say what was shown, and a selection without it is believed.
    assert counts(run(FOUR, path), "pet") == [3, 0, 0, 0, 0]
    assert counts(run(FOUR, path, score_threshold=0.1))[2] == 3

    def shout(tasks: Tasks) -> None:
        for region in regions(tasks):
            region["value"]["rectanglelabels"] = [region["value"]["rectanglelabels"][0].upper()]

    assert counts(run(FOUR, annotated(tmp_path, FOUR, shout))) == [5, 0, 0, 0, 0]


def test_open_and_refused_tasks_and_earlier_annotations(tmp_path: Path) -> None:
    every = rows(*(large(f"{name}.jpg", found(xyxy=(0, 0, 50, 50))) for name in "abcd"), failed_row("broken.jpg"))

    def edit(tasks: Tasks) -> None:
        tasks[0]["annotations"] = []
        tasks[1]["annotations"][0]["was_cancelled"] = True
        earlier = {**copy.deepcopy(tasks[2]["annotations"][0]), "result": [], "updated_at": "2026-01-01T00:00:00Z"}
        tasks[2]["annotations"][0]["updated_at"] = "2026-01-02T00:00:00Z"
        tasks[2]["annotations"].append(earlier)
        again = copy.deepcopy(tasks[3])
        again["annotations"][0].update(result=[], updated_at="2026-01-03T00:00:00Z")
        tasks.append(again)
        tasks.append({"id": 77, "data": {"image": "x/else.jpg"}, "annotations": [{"result": []}]})

    done = run(every, annotated(tmp_path, every, edit))
    assert (done.images, done.open, done.skipped, done.only_annotations) == (2, 1, 1, 1)
    assert counts(done) == [1, 0, 0, 1, 0]
    assert any(note.startswith("1 earlier annotations of tasks with several") for note in done.notes)
    assert any(note.startswith("1 tasks are of an image that another task has") for note in done.notes)


def test_tasks_that_know_only_an_address(tmp_path: Path) -> None:
    addresses = [
        "/data/local-files/?d=set/sub%20dir/%C3%A4.jpg",
        "s3://bucket/photos/b%20c.jpg",
        "https://h/9/z.png?q=1",
    ]
    every = rows(
        large("sub dir/\u00e4.jpg", found(xyxy=(0, 0, 50, 50))),
        large("b%20c.jpg", found(xyxy=(0, 0, 50, 50))),
        large("photos/z.jpg", found(xyxy=(0, 0, 50, 50))),
    )

    def edit(tasks: Tasks) -> None:
        for task, address in zip(tasks, addresses, strict=True):
            task["data"] = {"image": address}

    done = run(every, annotated(tmp_path, every, edit))
    assert (done.images, counts(done)) == (3, [3, 0, 0, 0, 0])


def test_a_failed_image_on_which_people_drew(tmp_path: Path) -> None:
    box = {
        "id": "h",
        "type": "rectanglelabels",
        "value": {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["Dog"]},
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": {"image_id": "broken.jpg"}, "annotations": [{"result": [box]}]}]))
    done = run(rows(failed_row("broken.jpg")), path)
    assert (done.images, done.failed, counts(done), done.times) == (1, 1, [0, 0, 0, 0, 1], None)


def coco_of(tmp_path: Path, every: Rows, edit: Callable[[dict[str, Any]], None], **options: Any) -> Path:
    path = tmp_path / "coco.json"
    export_coco(INFO, every, str(path), CocoOptions(**options), Storage())
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def test_a_coco_dataset_edited_by_people(tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        first, second, third, fourth, _ = content["annotations"]
        second["bbox"][0] += 10
        third["category_id"] = 2
        content["annotations"].remove(fourth)
        content["annotations"].append({**first, "id": 99, "bbox": [20, 60, 20, 10]})
        for one in content["annotations"]:
            one.pop("score")

    done = run(FOUR, coco_of(tmp_path, FOUR, edit))
    assert counts(done) == [2, 1, 1, 1, 1]
    assert done.times is None
    assert any("all images of the COCO dataset count as worked on" in note for note in done.notes)


@pytest.mark.parametrize("segmentation", ["rle", "polygon", "none"])
def test_a_coco_dataset_left_as_it_was(tmp_path: Path, segmentation: str) -> None:
    hole = np.zeros((100, 200), bool)
    hole[10:60, 20:90] = True
    hole[20:40, 30:50] = False
    every = rows(large("a.jpg", found(xyxy=(20.4, 10, 89.7, 60), mask=rle.encode(hole))), large("b.jpg"))
    done = run(every, coco_of(tmp_path, every, lambda content: None, segmentation=segmentation))
    assert counts(done) == [1, 0, 0, 0, 0]


def test_images_of_another_size_are_left_out(tmp_path: Path) -> None:
    path = coco_of(tmp_path, FOUR, lambda content: content["images"][1].update(width=100))
    done = run(FOUR, path)
    assert done.images == 1
    assert any("1 images are left out: another size in the annotations, e.g. 'b.jpg'" in note for note in done.notes)


def test_thresholds_follow_evaluates_rule(tmp_path: Path) -> None:
    right = [large(f"r{i}.jpg", found(score=0.9 - i / 100, xyxy=(0, 0, 50, 50))) for i in range(20)]
    wrong = [large(f"w{i}.jpg", found(score=0.6 - i / 100, xyxy=(0, 0, 50, 50))) for i in range(20)]
    every = rows(*right, *wrong)

    def edit(tasks: Tasks) -> None:
        for task in tasks[20:]:
            task["annotations"][0]["result"] = []

    done = run(every, annotated(tmp_path, every, edit))
    assert 0.6 < done.work.common.threshold <= 0.71
    assert (done.work.common.right, done.work.common.delete, done.work.common.draw) == (20, 0, 0)
    files = write_comparison(done, str(tmp_path / "out"), Storage())
    assert [Path(name).name for name in files] == ["comparison.json", "comparison.html", "thresholds.yaml"]
    thresholds = yaml.safe_load((tmp_path / "out" / "thresholds.yaml").read_text())
    assert thresholds == {"*": done.work.common.threshold}


def test_the_page_escapes_names_and_loads_nothing(tmp_path: Path) -> None:
    hostile = '</style><script>alert("x")</script>\u202e'
    info = replace(INFO, classes=None, model_version=hostile)
    every = rows(large("a.jpg", found(hostile, xyxy=(0, 0, 50, 50), mid="")))
    box = {
        "id": "h",
        "type": "rectanglelabels",
        "value": {"x": 0, "y": 0, "width": 25, "height": 50, "rectanglelabels": [hostile + "2"]},
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": {"image_id": "a.jpg"}, "annotations": [{"result": [box], "lead_time": 3}]}]))
    done = run(every, path, info)
    assert counts(done) == [0, 0, 1, 0, 0]
    write_comparison(done, str(tmp_path / "out"), Storage())
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<script" not in page
    assert "\u202e" not in page
    assert not re.search(r'(src|href)="', page)
    assert yaml.safe_load(threshold_file(hostile, 0.5, [(hostile, 0.25)])) == {"*": 0.5, hostile: 0.25}


def test_numbers_of_401_digits_are_none(tmp_path: Path) -> None:
    every = rows(large("a.jpg", found(xyxy=(0, 0, 50, 50))))
    value = {"x": 0, "y": 0, "width": 25, "height": 50, "rectanglelabels": ["Dog"]}
    box = {"id": "h", "type": "rectanglelabels", "value": value, "score": 10**400}
    task = {"data": {"image_id": "a.jpg"}, "annotations": [{"result": [box], "lead_time": 10**400}]}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    done = run(every, path)
    assert not any("time per image" in str(line) for line in tables(done)[0].rows)


def test_tables_say_what_became_of_them(tmp_path: Path) -> None:
    done = run(FOUR, annotated(tmp_path, FOUR, edit_four))
    images, became, classes, relabelled = tables(done)
    assert ("time per image", "10.0 s (median of 2)") in images.rows
    assert became.rows[:4] == (
        ("kept as they were", "2", "40%"),
        ("moved or resized", "1", "20%"),
        ("given another class", "1", "20%"),
        ("deleted", "1", "20%"),
    )
    assert classes.rows[0][:8] == ("Dog", "3", "1", "1", "1", "0", "1", "3")
    assert classes.rows[1][8] == "0.95 to 1"  # untouched boxes are not said to have moved
    assert relabelled.rows == (("Dog", "Cat", "1"),)


def shapes(*items: dict[str, Any]) -> list[Any]:
    tasks = [{"data": {"image_id": "a"}, "annotations": [{"result": list(items)}]}]
    (image,) = read_tasks(tasks, "x").images
    return [region.area(100, 200) for region in image.regions]


def item(kind: str, **value: Any) -> dict[str, Any]:
    return {"id": kind, "type": kind, "original_width": 200, "original_height": 100, "value": value}


def test_every_shape_of_a_person_is_read() -> None:
    (box,) = shapes(item("rectanglelabels", x=10, y=20, width=30, height=40, rotation=0, rectanglelabels=["Dog"]))
    assert box.xyxy == pytest.approx((20, 20, 80, 60))
    assert box.pixels is None
    # Turned clockwise around its top left corner by a quarter: it now hangs down to the left of it.
    (turned,) = shapes(item("rectanglelabels", x=50, y=10, width=10, height=20, rotation=90, rectanglelabels=["Dog"]))
    assert turned.xyxy == pytest.approx((80, 10, 100, 30))
    (round_,) = shapes(item("ellipselabels", x=50, y=50, radiusX=10, radiusY=10, rotation=0, ellipselabels=["Dog"]))
    assert round_.xyxy == pytest.approx((80, 40, 120, 60))
    assert round_.pixels is not None
    assert round_.pixels.sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)
    (polygon,) = shapes(item("polygonlabels", points=[[0, 0], [50, 0], [50, 50], [0, 50]], polygonlabels=["Dog"]))
    assert polygon.xyxy == (0, 0, 100, 50)
    mask = np.zeros((100, 200), bool)
    mask[3:9, 5:50] = True
    (brush,) = shapes(item("brushlabels", rle=list(brush_from_rle(rle.encode(mask), 100, 200)), brushlabels=["Dog"]))
    assert brush.xyxy == (5, 3, 50, 9)


def test_names_of_a_separate_tool_belong_to_the_shape_of_their_id() -> None:
    shape = {**item("rectangle", x=0, y=0, width=10, height=10), "id": "r"}
    label = {**item("labels", x=0, y=0, width=10, height=10, labels=["Dog"]), "id": "r"}
    tasks = [{"data": {"image_id": "a"}, "annotations": [{"result": [shape, label, item("choices", choices=["x"])]}]}]
    done = read_tasks(tasks, "x")
    assert {region.labels for region in done.images[0].regions} == {("Dog",)}
    assert done.notes == ("1 regions are neither boxes, outlines nor masks and are not looked at",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"^annotations .*export\.json cannot be read: JSONDecodeError"),
        ("{}", r"is neither Label Studio's JSON export \(a list of tasks\) nor a COCO dataset$"),
        (
            '[{"image": "a", "label": []}]',
            r"task 0 has no data: is this Label Studio's JSON export \(not JSON-MIN\)\?$",
        ),
        ('[{"id": 5, "data": {}}]', r"task 5 has no annotations: export as JSON \(not JSON-MIN\)$"),
        ('[{"data": {}, "annotations": [{"result": 3}]}]', r"task 0: the result of an annotation must be a list$"),
        ('[{"data": {}, "annotations": []}]', r"has no image that somebody is done with \(1 are open\)$"),
        (
            '[{"data": {"image_id": "q"}, "annotations": [{"result": []}]}]',
            r"export\.json is in the run: the run has 'a\.jpg', 'b\.jpg', \.\.\., the annotations 'q', \.\.\.$",
        ),
        (
            '[{"data": {}, "annotations": [{"result": [{"id": "r", "value": {"rle": [1]}}]}]}]',
            r"task 0, region r cannot be read: ",
        ),
        (
            '[{"data": {}, "annotations": [{"result": [{"id": "r", "value": '
            '{"points": [[null, 1], [2, 3], [4, 5]]}}]}]}]',
            r"task 0, region r cannot be read: a coordinate is no number$",
        ),
        (
            '[{"data": {}, "annotations": [{"result": [{"id": "r", "value": '
            '{"x": NaN, "y": 0, "width": 1, "height": 1}}]}]}]',
            r"task 0, region r cannot be read: a coordinate is no number$",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(content)
    with pytest.raises(EvaluateError, match=message):
        run(FOUR, path)


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^annotations '.*none\.json': no such file$"):
        run(FOUR, tmp_path / "none.json")
    for options, message in (
        ({"annotations": "x"}, "predictions is missing: name the output of the run people worked on"),
        ({"predictions": "x"}, "annotations is missing: name the file that people's work was exported to"),
        ({"predictions": "x", "annotations": "x", "iou": 0.0}, "iou must be above 0 and at most 1, got 0.0"),
        (
            {"predictions": "x", "annotations": "x", "kept_iou": 0.4},
            "kept-iou must be from iou (0.5) to 1, got 0.4",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            CompareOptions(**options)
        assert str(error.value) == message


def test_the_command_writes_its_files_and_prints_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = annotated(tmp_path, FOUR, edit_four)

    class Opened:
        output, rows, storage = str(tmp_path / "run"), staticmethod(FOUR), Storage()
        record = SimpleNamespace(run_id="run-1")

    monkeypatch.setattr(RunInfo, "of", classmethod(lambda cls, run: INFO))
    monkeypatch.setattr("prelabel.store.run.open_run", lambda *_: Opened)
    arguments = ["compare", "--predictions", str(tmp_path / "run"), "--annotations", str(path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "kept as they were" in result.output
    assert sorted(one.name for one in (tmp_path / "run" / "comparison").iterdir()) == [
        "comparison.html",
        "comparison.json",
        "thresholds.yaml",
    ]
    result = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "none.json")])
    assert result.exit_code == 2
    assert "no such file" in result.output
