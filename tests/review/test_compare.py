"""Comparing a run with corrected pre-annotations: small cases with known counts, and an edited export."""

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

from prelabel.cli import main
from prelabel.errors import ConfigError, EvaluateError
from prelabel.export.base import Rows, RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.masks import rle
from prelabel.masks.brush import brush_from_rle
from prelabel.review.annotation_files import read_tasks
from prelabel.review.comparison import Comparison, compare
from prelabel.review.edits import EDITS
from prelabel.review.options import CompareOptions
from prelabel.review.report.files import comparison_json, thresholds_text, write_comparison
from prelabel.review.report.tables import comparison_sentence, comparison_tables
from prelabel.storage.address import Address
from prelabel.storage.files import Storage
from tests.messages import facts, tells, told
from tests.rows import INFO, failed_row, found, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "comparison.schema.json").read_text())
CAT = {"category_id": 2, "mid": "/m/01yrx"}
Tasks = list[dict[str, Any]]


def large(image_id: str, *detections: dict[str, Any]) -> Any:
    return row(image_id, *detections, height=100, width=200)


def annotated(tmp_path: Path, image_rows: Rows, edit: Callable[[Tasks], None], **options: Any) -> Path:
    """An export from Label Studio: its annotations are copies of the predictions, changed by `edit`."""
    export_label_studio(INFO, image_rows, str(tmp_path / "tasks"), LabelStudioOptions.of(**options), Storage())
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


def run(image_rows: Rows, path: Path, info: RunInfo = INFO, **options: Any) -> Comparison:
    done = compare(info, image_rows, CompareOptions.of(predictions="out", annotations=str(path), **options), Storage())
    jsonschema.validate(comparison_json(done), SCHEMA)
    return done


def counts(done: Comparison, name: str | None = None) -> list[int]:
    of_class = done.total if name is None else done.by_class[name]
    return [of_class.counts[fate] for fate in ("kept", "moved", "relabeled", "deleted", "added")]


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


def test_kept_moved_relabeled_deleted_added(tmp_path: Path) -> None:
    done = run(FOUR, annotated(tmp_path, FOUR, edit_four))
    assert counts(done) == [2, 1, 1, 1, 1]
    assert counts(done, "Dog") == [1, 1, 1, 0, 1]
    assert counts(done, "Cat") == [1, 0, 0, 1, 0]
    assert (done.by_class["Dog"].shown, done.by_class["Dog"].objects) == (3, 3)
    assert (done.by_class["Cat"].shown, done.by_class["Cat"].objects) == (2, 2)
    assert done.relabeled == [("Dog", "Cat", 1)]
    assert done.total.corrections == 4
    # Overlaps: twice 1, and 30 of 50 pixels in a row.
    assert [place for place, count in enumerate(done.total.overlaps) for _ in range(count)] == [12, 19, 19]
    assert done.times is not None
    assert (done.times.images, done.times.total, done.times.median) == (2, 20.0, 10.0)


def test_every_edit_has_its_box_and_a_moved_one_also_the_predicted_box(tmp_path: Path) -> None:
    done = run(FOUR, annotated(tmp_path, FOUR, edit_four))
    rounded = {
        key: [(box.image, [round(value) for value in box.xywh], box.before) for box in boxes]
        for key, boxes in done.edited.items()
    }
    assert rounded == {
        ("Dog", "moved"): [(0, [70, 0, 40, 40], (60, 0, 40, 40))],
        ("Dog", "relabeled"): [(0, [110, 0, 40, 40], None)],
        ("Dog", "added"): [(0, [20, 60, 20, 10], None)],
        ("Cat", "deleted"): [(0, [150, 50, 50, 50], None)],
    }
    assert [(image.image_id, image.height, image.width) for image in done.reviewed] == [
        *(("a.jpg", 100, 200), ("b.jpg", 100, 200)),
    ]


def test_boxes_that_would_not_fit_the_image_in_a_browser_are_not_drawn(tmp_path: Path) -> None:
    failed = rows(failed_row("a.jpg"))
    task = {
        "data": {"image_id": "a.jpg"},
        "annotations": [{"result": [item("rectanglelabels", x=0, y=0, width=10, height=10, rectanglelabels=["Dog"])]}],
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    done = run(failed, path)
    assert counts(done) == [0, 0, 0, 0, 1]
    assert (done.reviewed[0].height, done.reviewed[0].width) == (0, 0)


def test_unchanged_annotations_of_any_tool_are_all_kept(tmp_path: Path) -> None:
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
    image_rows = rows(large("a.jpg", *blobs))
    for shape in ("rectangle", "polygon", "brush"):
        done = run(image_rows, annotated(tmp_path, image_rows, lambda tasks: None, shape=shape))
        assert counts(done) == [12, 0, 0, 0, 0], shape


def test_every_part_of_a_mask_belongs_to_its_detection(tmp_path: Path) -> None:
    two = np.zeros((100, 200), bool)
    two[10:40, 10:40] = two[60:90, 100:150] = True
    image_rows = rows(large("a.jpg", found(xyxy=(10, 10, 150, 90), mask=rle.encode(two))))
    for parts in ("bridge", "split"):
        done = run(image_rows, annotated(tmp_path, image_rows, lambda tasks: None, mask_parts=parts))
        assert counts(done) == [1, 0, 0, 0, 0]
    split = annotated(tmp_path, image_rows, lambda tasks: regions(tasks).pop(), mask_parts="split")
    done = run(image_rows, split)
    assert counts(done) == [0, 1, 0, 0, 0]
    assert done.total.overlaps[12] == 1  # 1500 of 2400 pixels


def test_regions_without_known_ids_match_by_overlap_first_within_their_class(tmp_path: Path) -> None:
    def edit(tasks: Tasks) -> None:
        edit_four(tasks)
        for task in range(2):
            for number, region in enumerate(regions(tasks, task)):
                region["id"] = f"x{number}"

    assert counts(run(FOUR, annotated(tmp_path, FOUR, edit))) == [2, 1, 1, 1, 1]
    image_rows = rows(large("a.jpg", found("Cat", 0.9, (0, 0, 50, 50), **CAT), found("Dog", 0.4, (0, 0, 50, 40))))

    def swap(tasks: Tasks) -> None:
        for region in regions(tasks):
            region["id"] += "x"
        regions(tasks).reverse()

    assert counts(run(image_rows, annotated(tmp_path, image_rows, swap))) == [2, 0, 0, 0, 0]


def test_a_region_with_the_id_of_a_detection_belongs_to_it_wherever_it_was_moved(tmp_path: Path) -> None:
    def far(tasks: Tasks) -> None:
        regions(tasks, 1)[0]["value"].update(x=80, y=80)

    done = run(FOUR, annotated(tmp_path, FOUR, far))
    assert counts(done, "Cat") == [1, 1, 0, 0, 0]
    assert done.total.overlaps[0] == 1


def test_only_detections_that_were_shown_count_as_deleted(tmp_path: Path) -> None:
    path = annotated(tmp_path, FOUR, lambda tasks: None, score_threshold=0.65)
    assert counts(run(FOUR, path, score_threshold=0.65)) == [3, 0, 0, 0, 0]
    # The tasks contain the predictions that were shown, so no selection has to be given.
    assert counts(run(FOUR, path)) == [3, 0, 0, 0, 0]
    # A given selection wins, and a note reports that the annotations contradict it.
    wrong = run(FOUR, path, score_threshold=0.05)
    assert counts(wrong) == [3, 0, 0, 2, 0]
    assert told(wrong.notes, "2", "selection", "shown")
    # Ids prove what was shown, whatever threshold is given.
    assert counts(run(FOUR, annotated(tmp_path, FOUR, lambda tasks: None), score_threshold=0.65)) == [5, 0, 0, 0, 0]


def test_classes_are_compared_under_the_names_that_annotators_saw(tmp_path: Path) -> None:
    path = annotated(tmp_path, FOUR, lambda tasks: None, class_map={"Dog": "pet"})
    assert counts(run(FOUR, path, class_map={"Dog": "pet"}), "pet") == [3, 0, 0, 0, 0]
    # The class map need not be given if the tasks tell what was shown; a given selection without it is used.
    assert counts(run(FOUR, path), "pet") == [3, 0, 0, 0, 0]
    assert counts(run(FOUR, path, score_threshold=0.1))[2] == 3

    def shout(tasks: Tasks) -> None:
        for region in regions(tasks):
            region["value"]["rectanglelabels"] = [region["value"]["rectanglelabels"][0].upper()]

    assert counts(run(FOUR, annotated(tmp_path, FOUR, shout))) == [5, 0, 0, 0, 0]


def test_open_tasks_skipped_tasks_and_earlier_annotations_are_counted(tmp_path: Path) -> None:
    image_rows = rows(*(large(f"{name}.jpg", found(xyxy=(0, 0, 50, 50))) for name in "abcd"), failed_row("broken.jpg"))

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

    done = run(image_rows, annotated(tmp_path, image_rows, edit))
    assert (done.images, done.open, done.skipped, done.only_annotations) == (2, 1, 1, 1)
    assert counts(done) == [1, 0, 0, 1, 0]
    assert told(done.notes, "1", "earlier|older", "annotations")
    assert told(done.notes, "1", "another task")


def test_tasks_with_only_a_url_are_matched_by_its_path(tmp_path: Path) -> None:
    addresses = [
        "/data/local-files/?d=set/sub%20dir/%C3%A4.jpg",
        "s3://bucket/photos/b%20c.jpg",
        "https://h/9/z.png?q=1",
    ]
    image_rows = rows(
        large("sub dir/\u00e4.jpg", found(xyxy=(0, 0, 50, 50))),
        large("b%20c.jpg", found(xyxy=(0, 0, 50, 50))),
        large("photos/z.jpg", found(xyxy=(0, 0, 50, 50))),
    )

    def edit(tasks: Tasks) -> None:
        for task, address in zip(tasks, addresses, strict=True):
            task["data"] = {"image": address}

    done = run(image_rows, annotated(tmp_path, image_rows, edit))
    assert (done.images, counts(done)) == (3, [3, 0, 0, 0, 0])


def test_objects_drawn_on_a_failed_image_count_as_added(tmp_path: Path) -> None:
    box = {
        "id": "h",
        "type": "rectanglelabels",
        "value": {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["Dog"]},
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": {"image_id": "broken.jpg"}, "annotations": [{"result": [box]}]}]))
    done = run(rows(failed_row("broken.jpg")), path)
    assert (done.images, done.failed, counts(done), done.times) == (1, 1, [0, 0, 0, 0, 1], None)


def coco_of(tmp_path: Path, image_rows: Rows, edit: Callable[[dict[str, Any]], None], **options: Any) -> Path:
    path = tmp_path / "coco.json"
    export_coco(INFO, image_rows, str(path), CocoOptions.of(**options), Storage())
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def test_an_edited_coco_dataset_is_compared(tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        first, second, third, fourth, _ = content["annotations"]
        second["bbox"][0] += 10
        third["category_id"] = 2
        content["annotations"].remove(fourth)
        content["annotations"].append({**first, "id": 99, "bbox": [20, 60, 20, 10]})
        for annotation in content["annotations"]:
            annotation.pop("score")

    done = run(FOUR, coco_of(tmp_path, FOUR, edit))
    assert counts(done) == [2, 1, 1, 1, 1]
    assert done.times is None
    assert told(done.notes, "all images", "COCO")


@pytest.mark.parametrize("segmentation", ["rle", "polygon", "none"])
def test_an_unchanged_coco_dataset_is_all_kept(tmp_path: Path, segmentation: str) -> None:
    hole = np.zeros((100, 200), bool)
    hole[10:60, 20:90] = True
    hole[20:40, 30:50] = False
    image_rows = rows(large("a.jpg", found(xyxy=(20.4, 10, 89.7, 60), mask=rle.encode(hole))), large("b.jpg"))
    done = run(image_rows, coco_of(tmp_path, image_rows, lambda content: None, segmentation=segmentation))
    assert counts(done) == [1, 0, 0, 0, 0]


def test_images_of_another_size_are_skipped(tmp_path: Path) -> None:
    path = coco_of(tmp_path, FOUR, lambda content: content["images"][1].update(width=100))
    done = run(FOUR, path)
    assert done.images == 1
    assert told(done.notes, "1", "size", "b.jpg")


def test_thresholds_are_chosen_as_by_evaluate(tmp_path: Path) -> None:
    right = [large(f"r{i}.jpg", found(score=0.9 - i / 100, xyxy=(0, 0, 50, 50))) for i in range(20)]
    wrong = [large(f"w{i}.jpg", found(score=0.6 - i / 100, xyxy=(0, 0, 50, 50))) for i in range(20)]
    image_rows = rows(*right, *wrong)

    def edit(tasks: Tasks) -> None:
        for task in tasks[20:]:
            task["annotations"][0]["result"] = []

    done = run(image_rows, annotated(tmp_path, image_rows, edit))
    assert 0.6 < done.work.common.threshold <= 0.71
    assert (done.work.common.right, done.work.common.delete, done.work.common.draw) == (20, 0, 0)
    files = write_comparison(done, str(tmp_path / "out"), Storage())
    assert [Path(name).name for name in files] == ["comparison.json", "comparison.html", "thresholds.yaml"]
    thresholds = yaml.safe_load((tmp_path / "out" / "thresholds.yaml").read_text())
    assert thresholds == {"*": done.work.common.threshold}


def test_the_page_escapes_names_and_loads_nothing(tmp_path: Path) -> None:
    hostile = '</style><script>alert("x")</script>\u202e'
    info = replace(INFO, classes=None, model_version=hostile)
    image_rows = rows(large("a.jpg", found(hostile, xyxy=(0, 0, 50, 50), mid="")))
    box = {
        "id": "h",
        "type": "rectanglelabels",
        "value": {"x": 0, "y": 0, "width": 25, "height": 50, "rectanglelabels": [hostile + "2"]},
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": {"image_id": "a.jpg"}, "annotations": [{"result": [box], "lead_time": 3}]}]))
    done = run(image_rows, path, info)
    assert counts(done) == [0, 0, 1, 0, 0]
    write_comparison(done, str(tmp_path / "out"), Storage())
    page = (tmp_path / "out" / "comparison.html").read_text()
    # Two scripts: the data and the page's script.
    assert page.count("<script") == page.count("</script>") == 2
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert not re.search(r'(src|href)="', page)
    assert yaml.safe_load(thresholds_text(hostile, 0.5, [(hostile, 0.25)])) == {"*": 0.5, hostile: 0.25}


def test_numbers_of_401_digits_are_not_accepted_as_numbers(tmp_path: Path) -> None:
    image_rows = rows(large("a.jpg", found(xyxy=(0, 0, 50, 50))))
    value = {"x": 0, "y": 0, "width": 25, "height": 50, "rectanglelabels": ["Dog"]}
    box = {"id": "h", "type": "rectanglelabels", "value": value, "score": 10**400}
    task = {"data": {"image_id": "a.jpg"}, "annotations": [{"result": [box], "lead_time": 10**400}]}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    done = run(image_rows, path)
    assert not any("time per image" in str(line) for line in comparison_tables(done)[0].rows)


def test_tables_show_the_edits(tmp_path: Path) -> None:
    done = run(FOUR, annotated(tmp_path, FOUR, edit_four))
    images, became, classes, relabeled, _ = comparison_tables(done)
    assert ("time per image", "10 s (median of 2)") in images.rows
    assert [row[1:] for row in became.rows[:4]] == [("2", "40%"), ("1", "20%"), ("1", "20%"), ("1", "20%")]
    assert ["kept" in became.rows[0][0], "moved" in became.rows[1][0], "deleted" in became.rows[3][0]] == [True] * 3
    assert classes.rows[0][:8] == ("Dog", "3", "1", "1", "1", "0", "1", "3")
    assert classes.rows[1][8] == "0.95 to 1"  # unchanged boxes do not count as moved
    assert relabeled.rows == (("Dog", "Cat", "1"),)


@pytest.mark.parametrize(
    ("edits", "objects", "words"),
    [
        ({"kept": 100}, 100, ("no corrections", "100 objects", "100% less", "than drawing")),
        ({"kept": 51, "moved": 99}, 100, ("34%", "99 corrections", "1% less", "than drawing")),
        ({"moved": 100}, 100, ("0%", "100 corrections", "as much", "as drawing")),
        ({"kept": 1, "moved": 99, "deleted": 2}, 100, ("1%", "101 corrections", "1% more", "than drawing")),
        ({"deleted": 163}, 100, ("163 corrections", "63% more", "than drawing")),
        ({"deleted": 3}, 0, ("0%", "3 predicted boxes", "3 corrections", "no object")),
        ({"added": 1}, 1, ("no detection", "1 object")),
    ],
)
def test_the_sentence_compares_corrections_with_drawing_every_box(
    tmp_path: Path, edits: dict[str, int], objects: int, words: tuple[str, ...]
) -> None:
    done = run(FOUR, annotated(tmp_path, FOUR, edit_four))
    total = replace(done.total, counts={**dict.fromkeys(EDITS, 0), **edits}, objects=objects)
    sentence = comparison_sentence(replace(done, total=total))
    assert tells(sentence.casefold(), *words), sentence


def shapes(*items: dict[str, Any]) -> list[Any]:
    tasks = [{"data": {"image_id": "a"}, "annotations": [{"result": list(items)}]}]
    (image,) = read_tasks(tasks, "x").images
    return [region.area(100, 200) for region in image.regions]


def item(kind: str, **value: Any) -> dict[str, Any]:
    return {"id": kind, "type": kind, "original_width": 200, "original_height": 100, "value": value}


def test_every_shape_that_annotators_can_draw_is_read() -> None:
    (box,) = shapes(item("rectanglelabels", x=10, y=20, width=30, height=40, rotation=0, rectanglelabels=["Dog"]))
    assert box.xyxy == pytest.approx((20, 20, 80, 60))
    assert box.pixels is None
    # Rotated clockwise by 90 degrees around its top left corner: the box now lies below and to the left of it.
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


def test_labels_of_a_separate_tool_belong_to_the_shape_with_the_same_id() -> None:
    shape = {**item("rectangle", x=0, y=0, width=10, height=10), "id": "r"}
    label = {**item("labels", x=0, y=0, width=10, height=10, labels=["Dog"]), "id": "r"}
    tasks = [{"data": {"image_id": "a"}, "annotations": [{"result": [shape, label, item("choices", choices=["x"])]}]}]
    done = read_tasks(tasks, "x")
    assert {region.labels for region in done.images[0].regions} == {("Dog",)}
    assert len(done.notes) == 1
    assert told(done.notes, "1", "regions")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("[", ("export.json", "read")),
        ("{}", ("Label Studio", "COCO")),
        ('[{"image": "a", "label": []}]', ("task 0", "data", "JSON-MIN")),
        ('[{"id": 5, "data": {}}]', ("task 5", "annotations", "JSON-MIN")),
        ('[{"data": {}, "annotations": [{"result": 3}]}]', ("task 0", "result", "list")),
        ('[{"data": {}, "annotations": []}]', ("no", "annotated", "image", "1")),
        (
            '[{"data": {"image_id": "q"}, "annotations": [{"result": []}]}]',
            ("export.json", "'a.jpg'", "'b.jpg'", "'q'"),
        ),
        (
            '[{"data": {}, "annotations": [{"result": [{"id": "r", "value": {"rle": [1]}}]}]}]',
            ("task 0", "region r", "read"),
        ),
        (
            '[{"data": {}, "annotations": [{"result": [{"id": "r", "value": '
            '{"points": [[null, 1], [2, 3], [4, 5]]}}]}]}]',
            ("task 0", "region r", "coordinate"),
        ),
        (
            '[{"data": {}, "annotations": [{"result": [{"id": "r", "value": '
            '{"x": NaN, "y": 0, "width": 1, "height": 1}}]}]}]',
            ("task 0", "region r", "coordinate"),
        ),
    ],
)
def test_annotations_that_cannot_be_compared_give_a_message_of_one_line(
    tmp_path: Path, content: str, wanted: tuple[str, ...]
) -> None:
    path = tmp_path / "export.json"
    path.write_text(content)
    with pytest.raises(EvaluateError, match=facts(*wanted)):
        run(FOUR, path)


def test_invalid_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=facts("none.json", "no", "file")):
        run(FOUR, tmp_path / "none.json")
    for options, wanted in (
        ({"annotations": "x"}, ("predictions",)),
        ({"predictions": "x"}, ("annotations",)),
        ({"predictions": "x", "annotations": "x", "iou": 0.0}, ("iou", "0", "1", "0.0")),
        (
            {"predictions": "x", "annotations": "x", "kept_iou": 0.4},
            ("kept-iou", "0.5", "1", "0.4"),
        ),
    ):
        with pytest.raises(ConfigError, match=facts(*wanted)):
            CompareOptions.of(**options)


def test_the_command_writes_its_files_and_prints_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = annotated(tmp_path, FOUR, edit_four)

    class Opened:
        root, rows, storage = Address.of_folder(str(tmp_path / "run")), staticmethod(FOUR), Storage()
        record = SimpleNamespace(run_id="run-1")

    monkeypatch.setattr(RunInfo, "of", classmethod(lambda cls, run: INFO))
    monkeypatch.setattr("prelabel.store.run.open_run", lambda *_: Opened)
    arguments = ["compare", "--predictions", str(tmp_path / "run"), "--annotations", str(path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert tells(result.output, "kept", "moved", "deleted")
    assert sorted(path.name for path in (tmp_path / "run" / "comparison").iterdir()) == [
        "comparison.html",
        "comparison.json",
        "thresholds.yaml",
    ]
    result = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "none.json")])
    assert result.exit_code == 2
    assert "no such file" in result.output
