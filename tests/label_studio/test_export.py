"""Label Studio tasks and configs: exact on tiny cases, by their schema, and by the server's rules."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest

from prelabel.detections import ClassName, ImageLabel
from prelabel.errors import ConfigError, ExportError, StoreError
from prelabel.export.base import ExportReport, Rows, RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.keypoints import KeypointSet
from prelabel.label_studio.config import Control, LabelConfig, make_config, read_config
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.label_studio.preflight import problems
from prelabel.label_studio.tasks import task_score
from prelabel.masks.brush import rle_from_brush
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageRow
from tests.messages import tells
from tests.rows import INFO, ListedRows, failed_row, found, mask_of, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "label_studio_tasks.schema.json").read_text())
UNUSUAL = '<b>&"x"</b> \u00e4\u6f22\U0001f600\u202e#?%+'
CAT = found("Cat", 0.8, (3, 1, 6, 3), category_id=2, mid="/m/01yrx")


def export(
    folder: Path, image_rows: Rows, info: RunInfo = INFO, **options: Any
) -> tuple[list[dict[str, Any]], ET.Element, ExportReport]:
    report = export_label_studio(
        info, image_rows, str(folder), LabelStudioOptions.of(**{"score_threshold": 0.3, **options}), Storage()
    )
    tasks = []
    for path in sorted(folder.glob("tasks-[0-9]*.json")):
        part = json.loads(path.read_text())
        jsonschema.validate(part, SCHEMA)
        tasks += part
    xml = (folder / "label_config.xml").read_text()
    assert [problem for task in tasks for problem in problems(task, read_config(xml, "config"))] == []
    return tasks, ET.fromstring(xml), report  # noqa: S314 - our own


def regions(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [region for task in tasks for prediction in task["predictions"] for region in prediction["result"]]


def test_a_box_becomes_a_rectangle_in_percent(tmp_path: Path) -> None:
    tasks, config, report = export(tmp_path, rows(row("a.jpg", found())))
    (region,) = regions(tasks)
    assert len(region.pop("id")) == 12
    assert region == {
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 6,
        "original_height": 4,
        "image_rotation": 0,
        "score": 0.9,
        "value": {"x": 0.0, "y": 0.0, "width": 50.0, "height": 100.0, "rotation": 0, "rectanglelabels": ["Dog"]},
    }
    (task,) = tasks
    assert task["data"] == {"image": "s3://bucket/photos/a.jpg", "image_id": "a.jpg", "file_name": "a.jpg"}
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("stub-0123abcd", 0.9)
    assert [tag.tag for tag in config] == ["Image", "RectangleLabels"]
    assert config[0].get("value") == "$image"
    assert (config[1].get("name"), config[1].get("toName")) == ("label", "image")
    assert [label.get("value") for label in config[1]] == ["Dog", "Cat"]
    (warning,) = report.warnings
    assert "s3://bucket" in warning
    assert report == ExportReport(
        files=(str(tmp_path / "tasks-00000.json"), str(tmp_path / "label_config.xml")),
        images=1,
        failed=0,
        detections=1,
        dropped={},
        warnings=(warning,),
        regions=1,
    )


def test_labels_have_the_category_ids_of_the_coco_export(tmp_path: Path) -> None:
    classes = (ClassName(0, "Dog"), ClassName(5, "Cat"), ClassName(7, "Fox"), ClassName(8, "Rat"))
    info = replace(INFO, classes=classes)
    options = {"class_map": {"Fox": "animal", "Rat": "animal"}, "exclude_class": ("Cat",)}
    image_rows = rows(row("a.jpg", found("Fox", category_id=7, mid=""), found("Wolf", category_id=9, mid="")))
    _, config, _ = export(tmp_path, image_rows, info, **options)
    numbers = {label.get("value"): label.get("category") for label in config.iter("Label")}
    assert numbers == {"Dog": "1", "animal": "8", "Wolf": "10"}
    export_coco(info, image_rows, str(tmp_path / "coco.json"), CocoOptions.of(**options), Storage())
    categories = json.loads((tmp_path / "coco.json").read_text())["categories"]
    assert {category["name"]: str(category["id"]) for category in categories} == numbers


def test_labels_are_ordered_by_frequency_then_by_class_number(tmp_path: Path) -> None:
    classes = (*(INFO.classes or ()), ClassName(4, "Ant"), ClassName(3, "Zebra"))
    image_rows = rows(
        row("a.jpg", CAT, found()), row("b.jpg", CAT, found(score=0.1), found("Ant", category_id=4, mid=""))
    )
    info = replace(INFO, classes=classes)
    _, config, _ = export(tmp_path, image_rows, info)
    assert [label.get("value") for label in config.iter("Label")] == ["Cat", "Dog", "Ant", "Zebra"]
    _, config, _ = export(tmp_path, image_rows, info, score_threshold=0.0, class_map={"Ant": "Dog"})
    assert [label.get("value") for label in config.iter("Label")] == ["Dog", "Cat", "Zebra"]
    labels = [ImageLabel(4, "tench", "", 0.75), ImageLabel(9, "ostrich", "", 0.4)]
    photos = rows(row("a.jpg", image_labels=labels), row("b.jpg", image_labels=labels[1:]))
    _, config, _ = export(tmp_path, photos, replace(INFO, classes=None))
    assert [label.get("value") for label in config.iter("Choice")] == ["ostrich", "tench"]


def test_only_one_tool_has_the_category_id_of_a_label(tmp_path: Path) -> None:
    """The server writes a category for each tool that has it."""
    image_rows = rows(
        row("a.jpg", found(mask=LEFT_HALF), image_labels=[ImageLabel(1, "Dog", "", 0.9)]),
        row("b.jpg", found("Cat", category_id=2, mid="/m/01yrx"), found("Fox", category_id=3, mid="")),
    )
    _, config, _ = export(tmp_path, image_rows, replace(INFO, classes=None), labels="present")
    labels = [(tool.tag, label.get("value"), label.get("category")) for tool in config for label in tool]
    assert labels == [
        ("RectangleLabels", "Cat", "2"),
        ("RectangleLabels", "Fox", "3"),
        ("PolygonLabels", "Dog", "1"),
        ("Choices", "Dog", None),
    ]
    _, config, _ = export(tmp_path, image_rows)
    labels = [(tool.tag, label.get("value"), label.get("category")) for tool in config for label in tool]
    assert [label for label in labels if label[2]] == [
        ("RectangleLabels", "Dog", "1"),
        ("RectangleLabels", "Cat", "2"),
        ("RectangleLabels", "Fox", "3"),
    ]


def test_all_regions_of_an_image_are_in_one_prediction_by_descending_score(tmp_path: Path) -> None:
    tasks, _, _ = export(tmp_path, rows(row("a.jpg", CAT, found(), found(score=0.2))), score_threshold=0.3)
    assert [len(task["predictions"]) for task in tasks] == [1]
    assert [(r["value"]["rectanglelabels"], r["score"]) for r in regions(tasks)] == [(["Dog"], 0.9), (["Cat"], 0.8)]


def test_an_image_without_detections_has_an_empty_prediction_and_failed_images_are_counted(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(row("a.jpg"), failed_row()))
    assert tasks[0]["predictions"] == [{"model_version": "stub-0123abcd", "score": 0.0, "result": []}]
    assert (len(tasks), report.images, report.failed) == (1, 1, 1)


def test_failed_images_can_be_tasks_without_a_prediction(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(failed_row("b.jpg")), include_failed=True)
    assert tasks[0]["predictions"] == []
    assert tasks[0]["data"]["image_id"] == "b.jpg"
    assert (report.images, report.failed) == (1, 1)


def test_region_ids_do_not_depend_on_the_threshold_and_are_unique_in_a_task(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(score=0.2), found(), found()), row("b.jpg", found()))
    few, _, _ = export(tmp_path / "few", image_rows, score_threshold=0.3)
    all_, _, _ = export(tmp_path / "all", image_rows, score_threshold=0.0)
    few_ids, all_ids = ([region["id"] for region in regions(tasks)] for tasks in (few, all_))
    assert len(set(all_ids)) == 4
    assert set(few_ids) < set(all_ids)


def test_rounded_percentages_stay_inside_the_image(tmp_path: Path) -> None:
    boxes = [found(xyxy=(a / 7, a / 3, 997 / 7 + a, 991 / 3), score=0.5) for a in range(200)]
    boxes += [found(xyxy=(-1, -1, 1000, 1000)), found(xyxy=(0.00001, 0, 996.99999, 991))]
    tasks, _, _ = export(tmp_path, rows(row("a.jpg", *boxes, height=991, width=997)))
    for region in regions(tasks):
        value = region["value"]
        assert value["x"] + value["width"] <= 100
        assert value["y"] + value["height"] <= 100
    assert len(regions(tasks)) == 202


def test_boxes_without_area_are_dropped_and_counted(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(row("a.jpg", found(xyxy=(1, 1, 1, 3)), found())))
    assert len(regions(tasks)) == 1
    assert report.dropped == {"detections without area": 1}


def test_without_a_class_list_a_class_name_that_no_detection_has_gives_a_warning(tmp_path: Path) -> None:
    _, _, report = export(
        tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), exclude_class=("Dogg", "cat")
    )
    assert all(name in report.warnings[0] for name in ("'Dogg'", "'Dog'", "'cat'"))
    _, _, report = export(tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), include_class=("dog",))
    assert not any("'dog'" in warning for warning in report.warnings)


def test_unusual_names_are_unchanged_in_tasks_and_config(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, UNUSUAL),))
    name = f"a b/{UNUSUAL}.jpg"
    tasks, config, _ = export(tmp_path, rows(row(name, found(UNUSUAL, mid=""))), info, image_url="https://host/photos")
    assert regions(tasks)[0]["value"]["rectanglelabels"] == [UNUSUAL]
    assert [label.get("value") for label in config.iter("Label")] == [UNUSUAL]
    assert tasks[0]["data"]["file_name"] == name
    url = tasks[0]["data"]["image"]
    assert url.isascii()
    assert not set(url) & set(' <>"#?+')
    assert url.startswith("https://host/photos/a%20b/%3Cb%3E%26")


def test_labels_that_a_config_cannot_contain_are_refused(tmp_path: Path) -> None:
    for label in ("bad\x00", "bad\ud800", " bad", ""):
        with pytest.raises(ExportError, match=f"{re.escape(repr(label))}.* --class-map"):
            export(tmp_path, rows(row("a.jpg", found(label, mid=""))))
    assert list(tmp_path.glob("label_config.xml")) == []


def test_colors_are_the_same_in_every_config(tmp_path: Path) -> None:
    _, config, _ = export(tmp_path / "1", rows(row("a.jpg", CAT)), labels="present")
    _, both, _ = export(tmp_path / "2", rows(row("a.jpg", CAT, found())), labels="all")
    colors = {label.get("value"): label.get("background") for label in both.iter("Label")}
    assert [label.get("value") for label in config.iter("Label")] == ["Cat"]
    assert config[1][0].get("background") == colors["Cat"] != colors["Dog"]


def test_the_config_of_a_detector_with_many_classes_offers_only_those_present(tmp_path: Path) -> None:
    info = replace(INFO, classes=tuple(ClassName(i, f"class {i}") for i in range(1, 102)))
    image_rows = rows(row("a.jpg", found("class 7", category_id=7, mid="")))
    _, config, _ = export(tmp_path, image_rows, info)
    assert [label.get("value") for label in config.iter("Label")] == ["class 7"]
    _, config, _ = export(tmp_path, image_rows, info, labels="all")
    assert len(list(config.iter("Label"))) == 101


def test_labels_of_the_config_follow_selection_and_class_map(tmp_path: Path) -> None:
    tasks, config, _ = export(
        tmp_path, rows(row("a.jpg", found(), CAT)), class_map={"Dog": "pet"}, exclude_class=("Cat",)
    )
    assert [label.get("value") for label in config.iter("Label")] == ["pet"]
    assert [r["value"]["rectanglelabels"] for r in regions(tasks)] == [["pet"]]


def test_labels_of_the_config_follow_the_roll_up(tmp_path: Path) -> None:
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", found(), CAT)), roll_up=("Animal",))
    assert [label.get("value") for label in config.iter("Label")] == ["Animal"]
    assert [r["value"]["rectanglelabels"] for r in regions(tasks)] == [["Animal"], ["Animal"]]


# 4 x 6 pixels: a ring around a hole, and a separate fragment of one pixel.
RING = mask_of("###...", "#.#...", "###...", ".....#")
LEFT_HALF = mask_of("###...", "###...", "###...", "###...")
EMPTY = mask_of("......", "......", "......", "......")


def test_a_mask_becomes_a_closed_polygon_in_percent(tmp_path: Path) -> None:
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF))))
    (region,) = regions(tasks)
    assert region["type"] == "polygonlabels"
    assert region["value"] == {
        "points": [[0.0, 0.0], [50.0, 0.0], [50.0, 100.0], [0.0, 100.0]],
        "closed": True,
        "polygonlabels": ["Dog"],
    }
    assert [tag.tag for tag in config] == ["Image", "PolygonLabels"]


def test_one_object_is_one_region_unless_parts_are_split(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(mask=RING)))
    exact = {"polygon_min_area": 0.0, "polygon_tolerance": 0.0}
    tasks, _, report = export(tmp_path, image_rows, **exact)
    (region,) = regions(tasks)
    # The corners of all three contours, and both ends of the two bridges once more.
    assert len(region["value"]["points"]) == 4 + 4 + 4 + 2 * 2
    assert (report.detections, report.regions, report.simplified) == (1, 1, {})
    tasks, _, report = export(tmp_path, image_rows, mask_parts="largest", **exact)
    (alone,) = regions(tasks)
    assert len(alone["value"]["points"]) == 10
    assert report.simplified == {"parts of masks beside the largest": 1}
    tasks, _, report = export(tmp_path, image_rows, mask_parts="split", **exact)
    parts = regions(tasks)
    assert (report.detections, report.regions) == (1, 2)
    assert [len(region["value"]["points"]) for region in parts] == [10, 4]
    assert len({region["id"] for region in parts}) == 2
    assert {region["score"] for region in parts} == {0.9}
    assert parts[0]["id"] == region["id"] == alone["id"]


def test_small_parts_are_not_drawn_but_counted_and_small_holes_filled(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(mask=RING)))
    tasks, _, report = export(tmp_path, image_rows)
    assert report.detections == 1
    (whole,) = regions(tasks)
    assert whole["value"]["points"] == [[0.0, 0.0], [50.0, 0.0], [50.0, 75.0], [0.0, 75.0]]
    assert report.simplified == {"specks smaller than 16 pixels or 1 % of their mask": 1}
    assert report.dropped == {}


def test_a_mask_becomes_a_brush_mask(tmp_path: Path) -> None:
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", found(mask=RING))), shape="brush")
    (region,) = regions(tasks)
    assert (region["type"], region["value"]["format"]) == ("brushlabels", "rle")
    assert rle_from_brush(region["value"]["rle"], 4, 6) == RING
    assert [tag.tag for tag in config] == ["Image", "BrushLabels"]


def test_the_limits_of_a_task_keep_the_best_detections_and_count_the_rest(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", *(found(score=0.5 + i / 10, mask=LEFT_HALF) for i in range(4)), found(mask=EMPTY)))
    tasks, _, report = export(tmp_path, image_rows, max_points=8)
    assert [region["score"] for region in regions(tasks)] == [0.8, 0.7]
    assert report.dropped == {"detections beyond --max-points": 2, "detections with an empty mask": 1}
    tasks, _, report = export(tmp_path, image_rows, shape="brush", max_masks=1)
    assert [region["score"] for region in regions(tasks)] == [0.8]
    assert report.dropped == {"detections beyond --max-masks": 3, "detections with an empty mask": 1}


def test_boxes_and_masks_in_one_run_have_separate_tools(tmp_path: Path) -> None:
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF)), row("b.jpg", found())))
    names = {region["type"]: region["from_name"] for region in regions(tasks)}
    assert names == {"rectanglelabels": "label", "polygonlabels": "label_polygon"}
    assert {tag.get("name") for tag in config} == {"image", "label", "label_polygon"}


def test_polygon_and_brush_need_masks(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'a\.jpg'.*mask.*brush"):
        export(tmp_path, rows(row("a.jpg", found())), shape="brush")
    with pytest.raises(ExportError, match=r"'a\.jpg'.*5 x 6"):
        export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF), height=5)))


def test_a_given_config_decides_the_tool_of_masks(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(mask=LEFT_HALF)))
    (region,) = regions(export(tmp_path / "out", image_rows, label_config=write_config(tmp_path))[0])
    assert region["type"] == "rectanglelabels"
    brushes = TEAM.replace("RectangleLabels", "BrushLabels")
    (region,) = regions(export(tmp_path / "out", image_rows, label_config=write_config(tmp_path, brushes))[0])
    assert region["type"] == "brushlabels"


def test_labels_of_a_whole_image_become_one_choice(tmp_path: Path) -> None:
    labels = [ImageLabel(4, "tench", "", 0.75), ImageLabel(9, "ostrich", "", 0.4)]
    info = RunInfo(detector="net", model_version="net-1")
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", image_labels=labels), row("b.jpg", image_labels=[])), info)
    (region,) = regions(tasks)
    assert (region["type"], region["value"], region["score"]) == ("choices", {"choices": ["tench"]}, 0.75)
    assert [tag.tag for tag in config] == ["Image", "Choices"]
    assert [choice.get("value") for choice in config[1]] == ["tench", "ostrich"]
    assert tasks[0]["predictions"][0]["score"] == 0.75


def test_labels_of_a_whole_image_become_several_choices_if_the_config_allows_it(tmp_path: Path) -> None:
    labels = [ImageLabel(9, "ostrich", "", 0.4), ImageLabel(4, "Tench", "", 0.75), ImageLabel(2, "kite", "", 0.1)]
    image_rows = rows(row("a.jpg", image_labels=labels))
    info = RunInfo(detector="net", model_version="net-1")
    tasks, config, report = export(tmp_path / "made", image_rows, info, choice="multiple", score_threshold=0.3)
    (region,) = regions(tasks)
    assert (region["value"], region["score"]) == ({"choices": ["Tench", "ostrich"]}, 0.75)
    assert (config[1].get("choice"), report.detections) == ("multiple", 2)
    team = '<View><Image name="image" value="$image"/><Choices name="c" toName="image" choice="{}">'
    team += '<Choice value="tench"/><Choice value="ostrich"/><Choice value="kite"/></Choices></View>'
    for allowed, expected in (("multiple", ["tench", "ostrich"]), ("single", ["tench"]), ("single-radio", ["tench"])):
        given = write_config(tmp_path, team.format(allowed))
        tasks, _, report = export(tmp_path / allowed, image_rows, info, label_config=given, score_threshold=0.3)
        assert regions(tasks)[0]["value"]["choices"] == expected
        assert report.detections == len(expected)


@pytest.mark.parametrize(
    ("how", "scores", "expected"),
    [
        ("mean", [0.9, 0.5], 0.7),
        ("min", [0.9, 0.5], 0.5),
        ("max", [0.9, 0.5], 0.9),
        ("uncertainty", [0.9, 0.5], 0.4),
        ("uncertainty", [1.0], 1.0),
        ("mean", [], 0.0),
        ("uncertainty", [], 1.0),
    ],
)
def test_task_score(how: str, scores: list[float], expected: float) -> None:
    assert task_score(scores, how) == pytest.approx(expected)


def test_task_score_option_reaches_the_prediction(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(score=0.9), found(score=0.5)))
    assert export(tmp_path, image_rows, task_score="min")[0][0]["predictions"][0]["score"] == 0.5


def test_files_are_limited_in_tasks_and_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    image_rows = [row(f"{i}.jpg", found()) for i in range(5)]
    tasks, _, report = export(tmp_path, rows(*image_rows), tasks_per_file=2)
    assert [task["data"]["image_id"] for task in tasks] == [f"{i}.jpg" for i in range(5)]
    assert [Path(url).name for url in report.files] == [
        "tasks-00000.json",
        "tasks-00001.json",
        "tasks-00002.json",
        "label_config.xml",
    ]
    (tmp_path / "tasks-notes.json").write_text("mine")
    export(tmp_path, rows(*image_rows[:2]), tasks_per_file=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "label_config.xml",
        "tasks-00000.json",
        "tasks-notes.json",
    ]


def test_files_are_limited_in_bytes(tmp_path: Path) -> None:
    image_rows = rows(*(row(f"{i}.jpg", *[found()] * 10) for i in range(20)))
    tasks, _, _ = export(tmp_path, image_rows, max_file_mb=0.01)
    sizes = [path.stat().st_size for path in tmp_path.glob("tasks-*.json")]
    assert len(tasks) == 20
    assert max(sizes) <= 10_000
    assert len(sizes) > 2
    assert export(tmp_path, image_rows, max_file_mb=0.001)[2].warnings[-1].endswith("max-file-mb")


def test_a_run_without_images_gives_an_empty_list(tmp_path: Path) -> None:
    assert export(tmp_path, rows())[0] == []


def test_sync_writes_one_task_per_file_under_a_prefix_without_other_files(tmp_path: Path) -> None:
    image_rows = [row(f"{i}.jpg", found()) for i in range(100)]
    _, config, report = export(tmp_path, rows(*image_rows), layout="sync")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["label_config.xml", "tasks"]
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "tasks").iterdir()}
    assert {task["data"]["image_id"] for task in written.values()} == {row.image_id for row in image_rows}
    jsonschema.validate(list(written.values()), SCHEMA)
    assert all(len(name) == 37 for name in written)
    assert report.files == (str(tmp_path / "tasks") + "/", str(tmp_path / "label_config.xml"))
    assert config.tag == "View"
    export(tmp_path, rows(*image_rows[50:], row("new.jpg")), layout="sync")
    later = {path.name for path in (tmp_path / "tasks").iterdir()}
    assert len(later & set(written)) == 50
    assert len(later) == 51


def test_sync_jsonl_writes_one_task_per_line(tmp_path: Path) -> None:
    _, _, report = export(tmp_path, rows(*(row(f"{i}.jpg") for i in range(3))), layout="sync-jsonl", tasks_per_file=2)
    assert [Path(url).name for url in report.files] == ["tasks-00000.jsonl", "tasks-00001.jsonl", "label_config.xml"]
    lines = [line for url in report.files[:2] for line in Path(url).read_text().splitlines()]
    assert [json.loads(line)["data"]["image_id"] for line in lines] == ["0.jpg", "1.jpg", "2.jpg"]


def test_predictions_for_existing_tasks_have_the_task_numbers(tmp_path: Path) -> None:
    own = replace(INFO, task_numbers=True)
    uri = "label-studio://host:8080/data/upload/1/a.jpg"
    image_rows = rows(row("71/a.jpg", found(), uri=uri), row("72/a.jpg", uri=uri), failed_row("73/a.jpg"))
    _, _, report = export(tmp_path, image_rows, own, layout="predictions")
    assert [Path(url).name for url in report.files] == ["predictions-00000.json", "label_config.xml"]
    predictions = json.loads((tmp_path / "predictions-00000.json").read_text())
    assert [(prediction["task"], len(prediction["result"])) for prediction in predictions] == [(71, 1), (72, 0)]
    assert set(predictions[0]) == {"task", "model_version", "score", "result"}
    with pytest.raises(ExportError, match="layout predictions"):
        export(tmp_path, rows(row("71/a.jpg")), layout="predictions")


def test_a_failed_export_leaves_no_config(tmp_path: Path) -> None:
    class Damaged(ListedRows):
        def batches(self) -> Iterator[DetectionBatch]:
            yield from super().batches()
            raise StoreError("the shard is damaged")

    for layout in ("import", "sync", "sync-jsonl"):
        with pytest.raises(StoreError):
            export(tmp_path, Damaged([row("a.jpg", found())]), layout=layout)
    assert list(tmp_path.iterdir()) == []


def test_object_storage_gets_the_same_files(tmp_path: Path) -> None:
    root, storage = f"memory://{tmp_path.name}", Storage()
    image_rows = [row(f"{i}.jpg", found()) for i in range(3)]
    for layout, under, files in (("import", "", 2), ("sync", "/tasks", 3), ("sync-jsonl", "/tasks", 2)):
        options = LabelStudioOptions(layout=layout, tasks_per_file=2)
        export_label_studio(INFO, rows(*image_rows), f"{root}/{layout}", options, storage)
        tasks = [name for name in storage.names(f"{root}/{layout}{under}") if name != "label_config.xml"]
        assert len(tasks) == files
        export_label_studio(INFO, rows(image_rows[0]), f"{root}/{layout}", options, storage)
        assert len(set(storage.names(f"{root}/{layout}{under}")) - {"label_config.xml"}) == 1


# URLs of images


def address(tmp_path: Path, image_id: str, uri: str | None = None, **options: Any) -> str:
    tasks, _, _ = export(tmp_path, rows(row(image_id, uri=uri)), **options)
    return str(tasks[0]["data"]["image"])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("https://host/photos", "https://host/photos/x/a%20%2B%23%3F%25.jpg"),
        ("https://host/photos/", "https://host/photos/x/a%20%2B%23%3F%25.jpg"),
        ("/data/local-files/?d=photos/", "/data/local-files/?d=photos/x/a%20%2B%23%3F%25.jpg"),
        ("/data/local-files/?d=", "/data/local-files/?d=x/a%20%2B%23%3F%25.jpg"),
        ("s3://other/photos/", "s3://other/photos/x/a +#?%.jpg"),
        ("https://host/{file_name}?size=full", "https://host/x/a%20%2B%23%3F%25.jpg?size=full"),
        ("https://host/{image_id}", "https://host/x/a%20%2B%23%3F%25.jpg"),
        ("{uri}", "s3://bucket/photos/x/a +#?%.jpg"),
        ("https://proxy/?u={uri}", "https://proxy/?u=s3%3A%2F%2Fbucket%2Fphotos%2Fx%2Fa%20%2B%23%3F%25.jpg"),
    ],
)
def test_image_url_prefixes_and_templates(tmp_path: Path, template: str, expected: str) -> None:
    assert address(tmp_path, "x/a +#?%.jpg", image_url=template) == expected


def test_needs_of_images_on_other_servers_and_with_unusual_keys_are_reported(tmp_path: Path) -> None:
    web = row("a.jpg", uri="https://host/photos/a.jpg")
    (warning,) = export(tmp_path, rows(web, web))[2].warnings
    assert tells(warning, "host", "CORS")
    warnings = export(tmp_path, rows(row("a?.jpg"), row("b?.jpg"), row("c.jpg")))[2].warnings
    assert all(fact in warnings[-1] for fact in ("2 images", "'s3://bucket/photos/a?.jpg'"))


@pytest.mark.parametrize("key", ["/a.jpg", "photos/a.jpg ", "a\tb.jpg", "a\r\nb.jpg", "a.jpg\u2003"])
def test_keys_that_the_server_changes_are_counted(tmp_path: Path, key: str) -> None:
    fine = [row("x.jpg", uri=f"s3://bucket/{name}") for name in ("a b.jpg", " a.jpg", "a//b.jpg", "a#%;=&\x1b.jpg")]
    assert len(export(tmp_path, rows(*fine))[2].warnings) == 1
    (_, note) = export(tmp_path, rows(*fine, row("y.jpg", uri=f"s3://bucket/{key}")))[2].warnings
    assert all(fact in note for fact in ("1 image is", repr(f"s3://bucket/{key}")))


def test_a_disk_and_a_web_server_may_be_mixed(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", uri="https://host/a.jpg"), row("b.jpg", uri="/photos/set/b.jpg"))
    tasks, _, _ = export(tmp_path, image_rows)
    assert [task["data"]["image"] for task in tasks] == ["https://host/a.jpg", "/data/local-files/?d=set/b.jpg"]


def test_an_unknown_placeholder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"image-url: \{name\}.*\{uri\}.*\{file_name\}.*\{image_id\}"):
        address(tmp_path, "a.jpg", image_url="https://host/{name}")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3a://b/a.jpg", "s3://b/a.jpg"),
        ("gcs://b/a.jpg", "gs://b/a.jpg"),
        ("abfs://box@account.dfs.core.windows.net/x/a.jpg", "azure-blob://box/x/a.jpg"),
        ("https://host/a%20b.jpg", "https://host/a%20b.jpg"),
    ],
)
def test_images_in_object_storage_keep_their_url_in_the_spelling_of_label_studio(
    tmp_path: Path, uri: str, expected: str
) -> None:
    assert address(tmp_path, "a.jpg", uri) == expected


def test_local_images_are_served_below_the_folder_above_the_source(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(row("x/a +#?%.jpg", uri="/data/photos/x/a +#?%.jpg")))
    url = tasks[0]["data"]["image"]
    assert url == "/data/local-files/?d=photos/x/a%20%2B%23%3F%25.jpg"
    assert parse_qs(urlsplit(url).query)["d"] == ["photos/x/a +#?%.jpg"]
    (warning,) = report.warnings
    assert "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/data " in warning
    assert "storage for /data/photos " in warning


def test_paths_are_relative_to_the_document_root(tmp_path: Path) -> None:
    assert address(tmp_path, "a.jpg", "/srv/data/photos/a.jpg", document_root="/srv") == (
        "/data/local-files/?d=data/photos/a.jpg"
    )
    assert address(tmp_path, "a.jpg", "/srv/x/../photos/a.jpg") == "/data/local-files/?d=photos/a.jpg"
    with pytest.raises(ExportError, match=r"'/srv/a\.jpg'.*'/other'"):
        address(tmp_path, "a.jpg", "/srv/a.jpg", document_root="/other/")


def test_local_images_of_several_folders_need_a_document_root(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", uri="/x/one/a.jpg"), row("b.jpg", uri="/y/two/b.jpg"))
    with pytest.raises(ExportError, match=r"folders.*document-root"):
        export(tmp_path, image_rows)
    assert len(export(tmp_path, image_rows, document_root="/")[0]) == 2


# A config that the team already has

TEAM = """<View>
  <Header value="Please check"/>
  <Image name="photo" value="$url"/>
  <RectangleLabels name="boxes" toName="photo"><Label value="dog"/><Label value="Katze" alias="cat"/></RectangleLabels>
</View>"""


def write_config(tmp_path: Path, text: str = TEAM) -> str:
    path = tmp_path / "team.xml"
    path.write_text(text)
    return str(path)


def test_a_given_config_decides_the_names_of_tools_data_and_labels(tmp_path: Path) -> None:
    tasks, _, _ = export(tmp_path / "out", rows(row("a.jpg", found(), CAT)), label_config=write_config(tmp_path))
    assert tasks[0]["data"]["url"] == "s3://bucket/photos/a.jpg"
    assert [(r["from_name"], r["to_name"], r["value"]["rectanglelabels"]) for r in regions(tasks)] == [
        ("boxes", "photo", ["dog"]),
        ("boxes", "photo", ["cat"]),
    ]
    assert (tmp_path / "out" / "label_config.xml").read_text() == TEAM


def test_tools_and_labels_that_a_given_config_lacks_are_listed(tmp_path: Path) -> None:
    rat, ant = (found(name, category_id=5, mid="") for name in ("Rat", "Ant"))
    image_rows = rows(row("a.jpg", found(), rat, ant, found("Low", 0.1, mid="")))
    config = write_config(tmp_path)
    info = replace(INFO, classes=None)
    with pytest.raises(ExportError, match=r"team\.xml.*<RectangleLabels> .*Ant, Rat\b"):
        export(tmp_path / "out", image_rows, info, label_config=config, score_threshold=0.3)
    assert not (tmp_path / "out").exists()
    tasks, _, report = export(
        tmp_path / "out",
        image_rows,
        info,
        label_config=config,
        unlisted="drop",
        score_threshold=0.3,
        class_map={"Ant": "DOG"},
    )
    assert [r["value"]["rectanglelabels"] for r in regions(tasks)] == [["dog"], ["dog"]]
    assert report.dropped == {"detections of classes that the labeling config lacks": 1}
    with pytest.raises(ExportError, match=r"<Choices> .*tench"):
        export(
            tmp_path / "out", rows(row("a.jpg", image_labels=[ImageLabel(1, "tench", "", 0.9)])), label_config=config
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<View>", "XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "document type"),
        ("<View/>", "<Image>.* 0"),
        ('<View><Image name="i" value="x"/></View>', "<Image>.*'x'"),
        ('<View><Image name="i" value="$x"/></View>', "<RectangleLabels>.*<Choices>"),
    ],
)
def test_an_unusable_config_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=rf"team\.xml.*{message}"):
        read_config(text, "team.xml")


def test_a_new_config_is_read_back_unchanged() -> None:
    made = make_config([Control("rectangle", "r", (UNUSUAL, "b")), Control("choices", "c", ("x",))], "photo", "url")
    assert read_config(made.xml, "made") == made
    several = make_config([Control("choices", "c", ("x",), multiple=True)], "photo")
    assert read_config(several.xml, "made") == several


# Preflight

CONFIG = make_config([Control("rectangle", "label", ("Dog",))], "image")
POLYGONS = make_config([Control("polygon", "label", ("Dog",))], "image")
BRUSHES = make_config([Control("brush", "label", ("Dog",))], "image")


def task_of(type_: str, value: dict[str, Any]) -> dict[str, Any]:
    region = {
        "id": "0123456789ab",
        "type": type_,
        "from_name": "label",
        "to_name": "image",
        "original_width": 6,
        "original_height": 4,
        "image_rotation": 0,
        "score": 0.9,
        "value": {**value, type_: ["Dog"]},
    }
    return {
        "data": {"image": "s3://b/a.jpg", "image_id": "a.jpg", "file_name": "a.jpg"},
        "predictions": [{"model_version": "v", "score": 0.9, "result": [region]}],
    }


BOX = {"x": 0.0, "y": 0.0, "width": 50.0, "height": 100.0, "rotation": 0}
LINE = {"points": [[0.0, 0.0], [50.0, 0.0], [50.0, 100.0]], "closed": True}
STROKE = {"format": "rle", "rle": [0, 0, 0, 96, 0, 0, 0]}


def test_valid_tasks_have_no_problems() -> None:
    assert list(problems(task_of("rectanglelabels", BOX), CONFIG)) == []
    assert list(problems(task_of("polygonlabels", LINE), POLYGONS)) == []
    assert list(problems(task_of("brushlabels", STROKE), BRUSHES)) == []


def set_(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(task: dict[str, Any]) -> None:
        place: Any = task
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def in_prediction(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    return set_("predictions", 0, *path, to=to)


def in_region(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    return in_prediction("result", 0, *path, to=to)


def in_value(key: str, to: Any) -> Callable[[dict[str, Any]], None]:
    return in_region("value", key, to=to)


def twice(task: dict[str, Any]) -> None:
    task["predictions"][0]["result"] *= 2


def two_predictions(task: dict[str, Any]) -> None:
    task["predictions"] *= 2


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (set_("data", "image", to=""), ("data.image", "''")),
        (two_predictions, ("model_version",)),
        (in_prediction("model_version", to=None), ("model_version", "None")),
        (in_prediction("score", to="0.9"), ("score", "prediction", "'0.9'")),
        (in_prediction("score", to=None), ("score", "prediction", "None")),
        (in_prediction("result", to=None), ("result", "list")),
        (twice, ("region 1:", "id", "'0123456789ab'")),
        (in_region("id", to=7), ("region 0: id", "got 7")),
        (in_region("id", to="a#b"), ("region 0: id", "'#'", "'a#b'")),
        (in_region("score", to=1.5), ("region 0: score", "1.5")),
        (in_region("score", to=float("nan")), ("region 0: score", "nan")),
        (in_region("to_name", to="img"), ("region 0: to_name", "'image'", "'img'")),
        (in_region("from_name", to="tag"), ("region 0: from_name", "'tag'")),
        (in_region("type", to="RectangleLabels"), ("region 0: type", "'rectanglelabels'", "'RectangleLabels'")),
        (in_value("rectanglelabels", ["Cat"]), ("region 0:", "'label'", "'Cat'")),
        (in_value("rectanglelabels", ["dog"]), ("region 0:", "'label'", "'dog'")),
        (in_value("rectanglelabels", ["Dog", "Dog"]), ("region 0: value.rectanglelabels", "['Dog', 'Dog']")),
        (in_value("x", None), ("region 0: x and width", "None and 50.0")),
        (in_value("x", "1"), ("region 0: x and width", "'1' and 50.0")),
        (in_value("y", -1), ("region 0: y and height", "-1 and 100.0")),
        (in_value("width", 100.0000001), ("region 0: x and width", "100.0000001")),
        (in_value("x", 50.0001), ("region 0: x + width", "100", "50.0001 + 50.0")),
        (in_value("rotation", 5), ("region 0: rotation", "5")),
        (in_region("original_width", to=0), ("region 0: original_width", "got 0")),
        (in_region("image_rotation", to=90), ("region 0: image_rotation", "90")),
    ],
)
def test_preflight_finds_what_the_server_would_drop_or_not_show(
    change: Callable[[dict[str, Any]], None], facts: tuple[str, ...]
) -> None:
    task = copy.deepcopy(task_of("rectanglelabels", BOX))
    change(task)
    problem = next(problems(task, CONFIG))
    assert all(fact in problem for fact in facts), problem


@pytest.mark.parametrize(
    ("image_row", "facts"),
    [
        (row("b.jpg", found(score=1.5)), ("b.jpg", "score", "1.5")),
        (row("b.jpg", found(), height=0), ("b.jpg", "original_height", "6 x 0")),
        (row("b.jpg", image_labels=[ImageLabel(1, "Dog", "/m/0bt9lr", 1.5)]), ("b.jpg", "score", "1.5")),
        (row("b.jpg", found(keypoints=[(1, 1, 1.5)])), ("b.jpg", "score", "1.5")),
    ],
)
def test_numbers_that_label_studio_would_not_show_are_refused(
    image_row: ImageRow, facts: tuple[str, ...], tmp_path: Path
) -> None:
    info = replace(INFO, keypoints=KeypointSet(("nose",)))
    with pytest.raises(ExportError) as refused:
        export(tmp_path, rows(row("a.jpg", found()), image_row), info)
    assert all(fact in str(refused.value) for fact in facts), refused.value


def test_preflight_of_polygons_and_brush_masks() -> None:
    for key, value, facts in (
        ("points", [[0, 0], [1, 1]], ("points", "3")),
        ("points", [[0, 0], [1, 1], [101, 5]], ("point", "100")),
        ("closed", False, ("closed",)),
    ):
        (problem,) = problems(task_of("polygonlabels", {**LINE, key: value}), POLYGONS)
        assert all(fact in problem for fact in ("region 0:", *facts)), problem
    for key, value, facts in (
        ("format", "png", ("format", "'rle'", "'png'")),
        ("rle", [256], ("rle", "bytes")),
        ("rle", [0, 0, 0, 95, 0, 0, 0], ("rle", "95", "6 x 4", "96")),
    ):
        (problem,) = problems(task_of("brushlabels", {**STROKE, key: value}), BRUSHES)
        assert all(fact in problem for fact in ("region 0:", *facts)), problem


def test_preflight_of_choices() -> None:
    single = make_config([Control("choices", "label", ("a", "b"))], "image")
    multiple = make_config([Control("choices", "label", ("a", "b"), multiple=True)], "image")

    def problems_of(config: LabelConfig, *labels: str) -> list[str]:
        task = task_of("choices", {})
        task["predictions"][0]["result"][0]["value"] = {"choices": list(labels)}
        return list(problems(task, config))

    assert problems_of(single, "a") == problems_of(multiple, "a") == problems_of(multiple, "a", "b") == []
    for config, labels, facts in (
        (single, ("a", "b"), ("value.choices", "['a', 'b']")),
        (multiple, (), ("value.choices", "[]")),
        (multiple, ("a", "a"), ("'a'", "duplicate")),
        (multiple, ("a", "c"), ("'label'", "'c'")),
    ):
        (problem,) = problems_of(config, *labels)
        assert all(fact in problem for fact in ("region 0:", *facts)), problem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "circle"}, "shape .*rectangle.*'circle'"),
        ({"tasks_per_file": 0}, "tasks-per-file .*0"),
        ({"from_name": "image"}, "from-name .*to-name .*'image'"),
        ({"to_name": ""}, "to-name "),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelStudioOptions.of(**options)
