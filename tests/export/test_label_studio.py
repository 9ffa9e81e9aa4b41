"""Label Studio tasks and configs: exact on tiny cases, by their schema, and by the server's rules."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest

from prelabel.detections import ImageLabel
from prelabel.errors import ConfigError, ExportError, StoreError
from prelabel.export.brush import rle_from_brush
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.label_config import Control, LabelConfig, make_config, read_config
from prelabel.export.label_studio import export_label_studio
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.preflight import problems
from prelabel.export.reading import ExportReport, Rows, RunInfo
from prelabel.export.task_score import task_score
from prelabel.storage import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName
from tests.rows import INFO, failed_row, found, mask_of, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "label_studio_tasks.schema.json").read_text())
HOSTILE = '<b>&"x"</b> \u00e4\u6f22\U0001f600\u202e#?%+'
CAT = found("Cat", 0.8, (3, 1, 6, 3), category_id=2, mid="/m/01yrx")


def export(
    folder: Path, every: Rows, info: RunInfo = INFO, **options: Any
) -> tuple[list[dict[str, Any]], ET.Element, ExportReport]:
    report = export_label_studio(
        info, every, str(folder), LabelStudioOptions(**{"score_threshold": 0.3, **options}), Storage()
    )
    tasks = []
    for path in sorted(folder.glob("tasks-[0-9]*.json")):
        part = json.loads(path.read_text())
        jsonschema.validate(part, SCHEMA)
        tasks += part
    return tasks, ET.fromstring((folder / "label_config.xml").read_text()), report  # noqa: S314 - our own


def regions(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [region for task in tasks for prediction in task["predictions"] for region in prediction["result"]]


def test_one_dog_is_one_rectangle_in_percent(tmp_path: Path) -> None:
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
    assert report == ExportReport(
        files=(str(tmp_path / "tasks-00000.json"), str(tmp_path / "label_config.xml")),
        images=1,
        failed=0,
        detections=1,
        left_out={},
        warnings=("Label Studio needs a source storage for s3://bucket in the project, or no image is shown",),
        regions=1,
    )


def test_labels_have_the_numbers_of_the_coco_export(tmp_path: Path) -> None:
    classes = (ClassName(0, "Dog"), ClassName(5, "Cat"), ClassName(7, "Fox"), ClassName(8, "Rat"))
    info = replace(INFO, classes=classes)
    options = {"class_map": {"Fox": "animal", "Rat": "animal"}, "exclude_class": ("Cat",)}
    every = rows(row("a.jpg", found("Fox", category_id=7, mid=""), found("Wolf", category_id=9, mid="")))
    _, config, _ = export(tmp_path, every, info, **options)
    numbers = {label.get("value"): label.get("category") for label in config.iter("Label")}
    assert numbers == {"Dog": "1", "animal": "8", "Wolf": "10"}
    export_coco(info, every, str(tmp_path / "coco.json"), CocoOptions(**options), Storage())
    categories = json.loads((tmp_path / "coco.json").read_text())["categories"]
    assert {one["name"]: str(one["id"]) for one in categories} == numbers


def test_only_one_tool_states_the_number_of_a_label(tmp_path: Path) -> None:
    """The server writes a category for each tool that does."""
    every = rows(
        row("a.jpg", found(mask=LEFT_HALF), image_labels=[ImageLabel(1, "Dog", "", 0.9)]),
        row("b.jpg", found("Cat", category_id=2, mid="/m/01yrx"), found("Fox", category_id=3, mid="")),
    )
    _, config, _ = export(tmp_path, every, replace(INFO, classes=None), labels="present")
    stated = [(tool.tag, one.get("value"), one.get("category")) for tool in config for one in tool]
    assert stated == [
        ("RectangleLabels", "Cat", "2"),
        ("RectangleLabels", "Fox", "3"),
        ("PolygonLabels", "Dog", "1"),
        ("Choices", "Dog", None),
    ]
    _, config, _ = export(tmp_path, every)
    stated = [(tool.tag, one.get("value"), one.get("category")) for tool in config for one in tool]
    assert [one for one in stated if one[2]] == [
        ("RectangleLabels", "Dog", "1"),
        ("RectangleLabels", "Cat", "2"),
        ("RectangleLabels", "Fox", "3"),
    ]


def test_all_regions_of_an_image_are_in_one_prediction_best_first(tmp_path: Path) -> None:
    tasks, _, _ = export(tmp_path, rows(row("a.jpg", CAT, found(), found(score=0.2))), score_threshold=0.3)
    assert [len(task["predictions"]) for task in tasks] == [1]
    assert [(r["value"]["rectanglelabels"], r["score"]) for r in regions(tasks)] == [(["Dog"], 0.9), (["Cat"], 0.8)]


def test_nothing_found_keeps_an_empty_prediction_and_failed_images_are_counted(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(row("a.jpg"), failed_row()))
    assert tasks[0]["predictions"] == [{"model_version": "stub-0123abcd", "score": 0.0, "result": []}]
    assert (len(tasks), report.images, report.failed) == (1, 1, 1)


def test_failed_images_can_be_tasks_without_a_prediction(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(failed_row("b.jpg")), include_failed=True)
    assert tasks[0]["predictions"] == []
    assert tasks[0]["data"]["image_id"] == "b.jpg"
    assert (report.images, report.failed) == (1, 1)


def test_region_ids_stay_when_the_threshold_changes_and_differ_within_a_task(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(score=0.2), found(), found()), row("b.jpg", found()))
    few, _, _ = export(tmp_path / "few", every, score_threshold=0.3)
    all_, _, _ = export(tmp_path / "all", every, score_threshold=0.0)
    few_ids, all_ids = ([region["id"] for region in regions(tasks)] for tasks in (few, all_))
    assert len(set(all_ids)) == 4
    assert set(few_ids) < set(all_ids)


def test_percent_never_leaves_the_image_whatever_the_rounding(tmp_path: Path) -> None:
    boxes = [found(xyxy=(a / 7, a / 3, 997 / 7 + a, 991 / 3), score=0.5) for a in range(200)]
    boxes += [found(xyxy=(-1, -1, 1000, 1000)), found(xyxy=(0.00001, 0, 996.99999, 991))]
    tasks, _, _ = export(tmp_path, rows(row("a.jpg", *boxes, height=991, width=997)))
    for region in regions(tasks):
        value = region["value"]
        assert value["x"] + value["width"] <= 100
        assert value["y"] + value["height"] <= 100
    assert len(regions(tasks)) == 202


def test_boxes_without_area_are_left_out_and_counted(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(row("a.jpg", found(xyxy=(1, 1, 1, 3)), found())))
    assert len(regions(tasks)) == 1
    assert report.left_out == {"detections without area": 1}


def test_a_name_that_no_detection_has_is_warned_of_where_no_class_list_is_known(tmp_path: Path) -> None:
    _, _, report = export(
        tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), exclude_class=("Dogg", "cat")
    )
    assert report.warnings[0] == "no detection of the run is of class 'Dogg' (did you mean 'Dog'?), 'cat'"
    _, _, report = export(tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), include_class=("dog",))
    assert not any("is of class" in warning for warning in report.warnings)


def test_hostile_names_survive_tasks_and_config(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, HOSTILE),))
    name = f"a b/{HOSTILE}.jpg"
    tasks, config, _ = export(tmp_path, rows(row(name, found(HOSTILE, mid=""))), info, image_url="https://host/photos")
    assert regions(tasks)[0]["value"]["rectanglelabels"] == [HOSTILE]
    assert [label.get("value") for label in config.iter("Label")] == [HOSTILE]
    assert tasks[0]["data"]["file_name"] == name
    url = tasks[0]["data"]["image"]
    assert url.isascii()
    assert not set(url) & set(' <>"#?+')
    assert url.startswith("https://host/photos/a%20b/%3Cb%3E%26")


def test_labels_that_a_config_cannot_hold_are_refused(tmp_path: Path) -> None:
    for label in ("bad\x00", "bad\ud800", " bad", ""):
        with pytest.raises(ExportError, match="cannot be a label in Label Studio"):
            export(tmp_path, rows(row("a.jpg", found(label, mid=""))))
    assert list(tmp_path.glob("label_config.xml")) == []


def test_colours_are_the_same_in_every_config(tmp_path: Path) -> None:
    _, one, _ = export(tmp_path / "1", rows(row("a.jpg", CAT)), labels="present")
    _, both, _ = export(tmp_path / "2", rows(row("a.jpg", CAT, found())), labels="all")
    colours = {label.get("value"): label.get("background") for label in both.iter("Label")}
    assert [label.get("value") for label in one.iter("Label")] == ["Cat"]
    assert one[1][0].get("background") == colours["Cat"] != colours["Dog"]


def test_a_detector_of_many_classes_offers_those_present(tmp_path: Path) -> None:
    info = replace(INFO, classes=tuple(ClassName(i, f"class {i}") for i in range(1, 102)))
    every = rows(row("a.jpg", found("class 7", category_id=7, mid="")))
    _, config, _ = export(tmp_path, every, info)
    assert [label.get("value") for label in config.iter("Label")] == ["class 7"]
    _, config, _ = export(tmp_path, every, info, labels="all")
    assert len(list(config.iter("Label"))) == 101


def test_labels_of_the_config_follow_selection_and_class_map(tmp_path: Path) -> None:
    tasks, config, _ = export(
        tmp_path, rows(row("a.jpg", found(), CAT)), class_map={"Dog": "pet"}, exclude_class=("Cat",)
    )
    assert [label.get("value") for label in config.iter("Label")] == ["pet"]
    assert [r["value"]["rectanglelabels"] for r in regions(tasks)] == [["pet"]]


# 4 x 6 pixels: a ring around a hole, and a speck of one pixel apart from it.
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
    every = rows(row("a.jpg", found(mask=RING)))
    exact = {"polygon_min_area": 0.0, "polygon_tolerance": 0.0}
    tasks, _, report = export(tmp_path, every, **exact)
    (one,) = regions(tasks)
    # The corners of all three outlines, and the two ends of both bridges once more.
    assert len(one["value"]["points"]) == 4 + 4 + 4 + 2 * 2
    assert (report.detections, report.regions, report.left_out) == (1, 1, {})
    tasks, _, report = export(tmp_path, every, mask_parts="largest", **exact)
    (alone,) = regions(tasks)
    assert len(alone["value"]["points"]) == 10
    assert report.left_out == {"parts of masks beside the largest": 1}
    tasks, _, report = export(tmp_path, every, mask_parts="split", **exact)
    parts = regions(tasks)
    assert (report.detections, report.regions) == (1, 2)
    assert [len(region["value"]["points"]) for region in parts] == [10, 4]
    assert len({region["id"] for region in parts}) == 2
    assert {region["score"] for region in parts} == {0.9}
    assert parts[0]["id"] == one["id"] == alone["id"]


def test_small_parts_are_left_out_and_counted_and_small_holes_filled(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(mask=RING)))
    tasks, _, report = export(tmp_path, every)
    assert report.detections == 1
    (whole,) = regions(tasks)
    assert whole["value"]["points"] == [[0.0, 0.0], [50.0, 0.0], [50.0, 75.0], [0.0, 75.0]]
    assert report.left_out == {"specks of masks": 1}


def test_a_mask_becomes_a_brush_mask(tmp_path: Path) -> None:
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", found(mask=RING))), shape="brush")
    (region,) = regions(tasks)
    assert (region["type"], region["value"]["format"]) == ("brushlabels", "rle")
    assert rle_from_brush(region["value"]["rle"], 4, 6) == RING
    assert [tag.tag for tag in config] == ["Image", "BrushLabels"]


def test_the_limits_of_a_task_keep_the_best_and_count_the_rest(tmp_path: Path) -> None:
    every = rows(row("a.jpg", *(found(score=0.5 + i / 10, mask=LEFT_HALF) for i in range(4)), found(mask=EMPTY)))
    tasks, _, report = export(tmp_path, every, max_points=8)
    assert [region["score"] for region in regions(tasks)] == [0.8, 0.7]
    assert report.left_out == {"detections beyond max-points": 2, "detections with an empty mask": 1}
    tasks, _, report = export(tmp_path, every, shape="brush", max_masks=1)
    assert [region["score"] for region in regions(tasks)] == [0.8]
    assert report.left_out == {"detections beyond max-masks": 3, "detections with an empty mask": 1}


def test_boxes_and_masks_in_one_run_have_a_tool_each(tmp_path: Path) -> None:
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF)), row("b.jpg", found())))
    names = {region["type"]: region["from_name"] for region in regions(tasks)}
    assert names == {"rectanglelabels": "label", "polygonlabels": "label_polygon"}
    assert {tag.get("name") for tag in config} == {"image", "label", "label_polygon"}


def test_shapes_of_masks_need_masks(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'a\.jpg' has a detection without a mask: shape brush needs a detector"):
        export(tmp_path, rows(row("a.jpg", found())), shape="brush")
    with pytest.raises(ExportError, match=r"image 'a\.jpg': RLE for 5 x 6"):
        export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF), height=5)))


def test_a_given_config_decides_the_tool_of_masks(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(mask=LEFT_HALF)))
    (region,) = regions(export(tmp_path / "out", every, label_config=write_config(tmp_path))[0])
    assert region["type"] == "rectanglelabels"
    brushes = TEAM.replace("RectangleLabels", "BrushLabels")
    (region,) = regions(export(tmp_path / "out", every, label_config=write_config(tmp_path, brushes))[0])
    assert region["type"] == "brushlabels"


def test_image_labels_become_one_choice(tmp_path: Path) -> None:
    labels = [ImageLabel(4, "tench", "", 0.75), ImageLabel(9, "ostrich", "", 0.4)]
    info = RunInfo(detector="net", model_version="net-1")
    tasks, config, _ = export(tmp_path, rows(row("a.jpg", image_labels=labels), row("b.jpg", image_labels=[])), info)
    (region,) = regions(tasks)
    assert (region["type"], region["value"], region["score"]) == ("choices", {"choices": ["tench"]}, 0.75)
    assert [tag.tag for tag in config] == ["Image", "Choices"]
    assert [choice.get("value") for choice in config[1]] == ["tench", "ostrich"]
    assert tasks[0]["predictions"][0]["score"] == 0.75


def test_image_labels_become_several_choices_where_the_config_allows_them(tmp_path: Path) -> None:
    labels = [ImageLabel(9, "ostrich", "", 0.4), ImageLabel(4, "Tench", "", 0.75), ImageLabel(2, "kite", "", 0.1)]
    every = rows(row("a.jpg", image_labels=labels))
    info = RunInfo(detector="net", model_version="net-1")
    tasks, config, report = export(tmp_path / "made", every, info, choice="multiple", score_threshold=0.3)
    (region,) = regions(tasks)
    assert (region["value"], region["score"]) == ({"choices": ["Tench", "ostrich"]}, 0.75)
    assert (config[1].get("choice"), report.detections) == ("multiple", 2)
    team = '<View><Image name="image" value="$image"/><Choices name="c" toName="image" choice="{}">'
    team += '<Choice value="tench"/><Choice value="ostrich"/><Choice value="kite"/></Choices></View>'
    for allowed, expected in (("multiple", ["tench", "ostrich"]), ("single", ["tench"]), ("single-radio", ["tench"])):
        given = write_config(tmp_path, team.format(allowed))
        tasks, _, report = export(tmp_path / allowed, every, info, label_config=given, score_threshold=0.3)
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
    every = rows(row("a.jpg", found(score=0.9), found(score=0.5)))
    assert export(tmp_path, every, task_score="min")[0][0]["predictions"][0]["score"] == 0.5


def test_files_end_at_their_number_of_tasks_and_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    every = [row(f"{i}.jpg", found()) for i in range(5)]
    tasks, _, report = export(tmp_path, rows(*every), tasks_per_file=2)
    assert [task["data"]["image_id"] for task in tasks] == [f"{i}.jpg" for i in range(5)]
    assert [Path(url).name for url in report.files] == [
        "tasks-00000.json",
        "tasks-00001.json",
        "tasks-00002.json",
        "label_config.xml",
    ]
    (tmp_path / "tasks-notes.json").write_text("mine")
    export(tmp_path, rows(*every[:2]), tasks_per_file=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "label_config.xml",
        "tasks-00000.json",
        "tasks-notes.json",
    ]


def test_files_end_at_their_number_of_bytes(tmp_path: Path) -> None:
    every = rows(*(row(f"{i}.jpg", *[found()] * 10) for i in range(20)))
    tasks, _, _ = export(tmp_path, every, max_file_mb=0.01)
    sizes = [path.stat().st_size for path in tmp_path.glob("tasks-*.json")]
    assert len(tasks) == 20
    assert max(sizes) <= 10_000
    assert len(sizes) > 2
    assert export(tmp_path, every, max_file_mb=0.001)[2].warnings[-1].startswith("a single task has")


def test_a_run_of_nothing_is_an_empty_list(tmp_path: Path) -> None:
    assert export(tmp_path, rows())[0] == []


def test_sync_puts_one_task_a_file_under_a_prefix_that_holds_nothing_else(tmp_path: Path) -> None:
    every = [row(f"{i}.jpg", found()) for i in range(100)]
    _, config, report = export(tmp_path, rows(*every), layout="sync")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["label_config.xml", "tasks"]
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "tasks").iterdir()}
    assert {task["data"]["image_id"] for task in written.values()} == {row.image_id for row in every}
    jsonschema.validate(list(written.values()), SCHEMA)
    assert all(len(name) == 37 for name in written)
    assert report.files == (str(tmp_path / "tasks") + "/", str(tmp_path / "label_config.xml"))
    assert config.tag == "View"
    export(tmp_path, rows(*every[50:], row("new.jpg")), layout="sync")
    later = {path.name for path in (tmp_path / "tasks").iterdir()}
    assert len(later & set(written)) == 50
    assert len(later) == 51


def test_sync_jsonl_puts_one_task_a_line(tmp_path: Path) -> None:
    _, _, report = export(tmp_path, rows(*(row(f"{i}.jpg") for i in range(3))), layout="sync-jsonl", tasks_per_file=2)
    assert [Path(url).name for url in report.files] == ["tasks-00000.jsonl", "tasks-00001.jsonl", "label_config.xml"]
    lines = [line for url in report.files[:2] for line in Path(url).read_text().splitlines()]
    assert [json.loads(line)["data"]["image_id"] for line in lines] == ["0.jpg", "1.jpg", "2.jpg"]


def test_predictions_for_tasks_that_exist_name_them_by_number(tmp_path: Path) -> None:
    own = replace(INFO, task_numbers=True)
    uri = "label-studio://host:8080/data/upload/1/a.jpg"
    every = rows(row("71/a.jpg", found(), uri=uri), row("72/a.jpg", uri=uri), failed_row("73/a.jpg"))
    _, _, report = export(tmp_path, every, own, layout="predictions")
    assert [Path(url).name for url in report.files] == ["predictions-00000.json", "label_config.xml"]
    predictions = json.loads((tmp_path / "predictions-00000.json").read_text())
    assert [(one["task"], len(one["result"])) for one in predictions] == [(71, 1), (72, 0)]
    assert set(predictions[0]) == {"task", "model_version", "score", "result"}
    with pytest.raises(ExportError, match="needs a run that was made of the tasks"):
        export(tmp_path, rows(row("71/a.jpg")), layout="predictions")


def test_an_export_that_fails_leaves_no_config_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[ImageRow]:
        yield row("a.jpg", found())
        raise StoreError("the shard is damaged")

    for layout in ("import", "sync", "sync-jsonl"):
        with pytest.raises(StoreError):
            export(tmp_path, broken, layout=layout)
    assert list(tmp_path.iterdir()) == []


def test_object_stores_get_the_same_files(tmp_path: Path) -> None:
    root, storage = f"memory://{tmp_path.name}", Storage()
    every = [row(f"{i}.jpg", found()) for i in range(3)]
    for layout, under, files in (("import", "", 2), ("sync", "/tasks", 3), ("sync-jsonl", "/tasks", 2)):
        options = LabelStudioOptions(layout=layout, tasks_per_file=2)
        export_label_studio(INFO, rows(*every), f"{root}/{layout}", options, storage)
        tasks = [name for name in storage.names(f"{root}/{layout}{under}") if name != "label_config.xml"]
        assert len(tasks) == files
        export_label_studio(INFO, rows(every[0]), f"{root}/{layout}", options, storage)
        assert len(set(storage.names(f"{root}/{layout}{under}")) - {"label_config.xml"}) == 1


# Addresses of images


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


def test_it_is_said_what_images_of_other_servers_and_odd_keys_need(tmp_path: Path) -> None:
    web = row("a.jpg", uri="https://host/photos/a.jpg")
    assert export(tmp_path, rows(web, web))[2].warnings == (
        "Label Studio needs an Access-Control-Allow-Origin for its address from host (CORS)",
    )
    warnings = export(tmp_path, rows(row("a?.jpg"), row("b?.jpg"), row("c.jpg")))[2].warnings
    assert warnings[-1].endswith("2 are not shown, the first is 's3://bucket/photos/a?.jpg'")


@pytest.mark.parametrize("key", ["/a.jpg", "photos/a.jpg ", "a\tb.jpg", "a\r\nb.jpg", "a.jpg\u2003"])
def test_keys_that_the_server_alters_are_counted(tmp_path: Path, key: str) -> None:
    fine = [row("x.jpg", uri=f"s3://bucket/{name}") for name in ("a b.jpg", " a.jpg", "a//b.jpg", "a#%;=&\x1b.jpg")]
    assert len(export(tmp_path, rows(*fine))[2].warnings) == 1
    (_, said) = export(tmp_path, rows(*fine, row("y.jpg", uri=f"s3://bucket/{key}")))[2].warnings
    assert said.endswith(f"1 are not shown, the first is {f's3://bucket/{key}'!r}")


def test_a_disk_and_a_web_server_may_be_mixed(tmp_path: Path) -> None:
    every = rows(row("a.jpg", uri="https://host/a.jpg"), row("b.jpg", uri="/photos/set/b.jpg"))
    tasks, _, _ = export(tmp_path, every)
    assert [task["data"]["image"] for task in tasks] == ["https://host/a.jpg", "/data/local-files/?d=set/b.jpg"]


def test_an_unknown_placeholder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\{name\} is not one of \{uri\}, \{file_name\} and \{image_id\}"):
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
def test_images_in_stores_keep_their_own_address_as_label_studio_spells_it(
    tmp_path: Path, uri: str, expected: str
) -> None:
    assert address(tmp_path, "a.jpg", uri) == expected


def test_local_images_are_served_below_the_folder_above_the_source(tmp_path: Path) -> None:
    tasks, _, report = export(tmp_path, rows(row("x/a +#?%.jpg", uri="/data/photos/x/a +#?%.jpg")))
    url = tasks[0]["data"]["image"]
    assert url == "/data/local-files/?d=photos/x/a%20%2B%23%3F%25.jpg"
    assert parse_qs(urlsplit(url).query)["d"] == ["photos/x/a +#?%.jpg"]
    (warning,) = report.warnings
    assert "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/data in its environment" in warning
    assert "a local storage for /data/photos in the project" in warning


def test_document_root_decides_what_the_path_is_relative_to(tmp_path: Path) -> None:
    assert address(tmp_path, "a.jpg", "/srv/data/photos/a.jpg", document_root="/srv") == (
        "/data/local-files/?d=data/photos/a.jpg"
    )
    assert address(tmp_path, "a.jpg", "/srv/x/../photos/a.jpg") == "/data/local-files/?d=photos/a.jpg"
    with pytest.raises(ExportError, match=r"'/srv/a\.jpg' is not below the document root '/other'"):
        address(tmp_path, "a.jpg", "/srv/a.jpg", document_root="/other/")


def test_local_images_of_several_folders_need_a_document_root(tmp_path: Path) -> None:
    every = rows(row("a.jpg", uri="/x/one/a.jpg"), row("b.jpg", uri="/y/two/b.jpg"))
    with pytest.raises(ExportError, match="several folders: give the document-root they share"):
        export(tmp_path, every)
    assert len(export(tmp_path, every, document_root="/")[0]) == 2


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


def test_a_given_config_names_tools_data_and_labels(tmp_path: Path) -> None:
    tasks, _, _ = export(tmp_path / "out", rows(row("a.jpg", found(), CAT)), label_config=write_config(tmp_path))
    assert tasks[0]["data"]["url"] == "s3://bucket/photos/a.jpg"
    assert [(r["from_name"], r["to_name"], r["value"]["rectanglelabels"]) for r in regions(tasks)] == [
        ("boxes", "photo", ["dog"]),
        ("boxes", "photo", ["cat"]),
    ]
    assert (tmp_path / "out" / "label_config.xml").read_text() == TEAM


def test_what_does_not_fit_a_given_config_is_listed(tmp_path: Path) -> None:
    rat, ant = (found(name, category_id=5, mid="") for name in ("Rat", "Ant"))
    every = rows(row("a.jpg", found(), rat, ant, found("Low", 0.1, mid="")))
    config = write_config(tmp_path)
    info = replace(INFO, classes=None)
    with pytest.raises(
        ExportError, match=r"team\.xml does not fit: <RectangleLabels> lacks Ant, Rat\. Add them to the config"
    ):
        export(tmp_path / "out", every, info, label_config=config, score_threshold=0.3)
    assert not (tmp_path / "out").exists()
    tasks, _, report = export(
        tmp_path / "out",
        every,
        info,
        label_config=config,
        unlisted="drop",
        score_threshold=0.3,
        class_map={"Ant": "DOG"},
    )
    assert [r["value"]["rectanglelabels"] for r in regions(tasks)] == [["dog"], ["dog"]]
    assert report.left_out == {"detections of classes that the given config does not have": 1}
    with pytest.raises(ExportError, match="no <Choices> with tench"):
        export(
            tmp_path / "out", rows(row("a.jpg", image_labels=[ImageLabel(1, "tench", "", 0.9)])), label_config=config
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<View>", "is not well-formed XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "has no document type declaration"),
        ("<View/>", "needs one <Image> with a name, found 0"),
        ('<View><Image name="i" value="x"/></View>', "must be a key of the task's data"),
        ('<View><Image name="i" value="$x"/></View>', "there is none of <RectangleLabels>"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message.replace("$", r"\$")):
        read_config(text, "team.xml")


def test_a_config_made_is_read_back_as_it_was() -> None:
    made = make_config([Control("rectangle", "r", (HOSTILE, "b")), Control("choices", "c", ("x",))], "photo", "url")
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


def test_good_tasks_have_no_problems() -> None:
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
    ("change", "message"),
    [
        (set_("data", "image", to=""), "data.image must be the image's address, got ''"),
        (two_predictions, "there must be one prediction for each model_version"),
        (in_prediction("model_version", to=None), "model_version must be text that is not empty, got None"),
        (in_prediction("score", to="0.9"), "the score of the prediction must be a number from 0 to 1, got '0.9'"),
        (in_prediction("score", to=None), "the score of the prediction must be a number from 0 to 1, got None"),
        (in_prediction("result", to=None), "result must be a list"),
        (twice, "region 1: the id '0123456789ab' occurs twice"),
        (in_region("id", to=7), "region 0: id must be text without '#', got 7"),
        (in_region("id", to="a#b"), "region 0: id must be text without '#', got 'a#b'"),
        (in_region("score", to=1.5), "region 0: score must be a number from 0 to 1, got 1.5"),
        (in_region("score", to=float("nan")), "region 0: score must be a number from 0 to 1, got nan"),
        (in_region("to_name", to="img"), "region 0: to_name must be 'image', got 'img'"),
        (in_region("from_name", to="tag"), "region 0: from_name 'tag' is no tool of the config"),
        (in_region("type", to="RectangleLabels"), "region 0: type must be 'rectanglelabels', got 'RectangleLabels'"),
        (in_value("rectanglelabels", ["Cat"]), "region 0: the config's 'label' has no label 'Cat'"),
        (in_value("rectanglelabels", ["dog"]), "region 0: the config's 'label' has no label 'dog'"),
        (
            in_value("rectanglelabels", ["Dog", "Dog"]),
            "region 0: value.rectanglelabels must be a list of one label, got ['Dog', 'Dog']",
        ),
        (in_value("x", None), "region 0: x and width must be percent from 0 to 100, width above 0, got None and 50.0"),
        (in_value("x", "1"), "region 0: x and width must be percent from 0 to 100, width above 0, got '1' and 50.0"),
        (in_value("y", -1), "region 0: y and height must be percent from 0 to 100, height above 0, got -1 and 100.0"),
        (in_value("width", 100.0000001), "region 0: x and width must be percent from 0 to 100, width above 0, got"),
        (in_value("x", 50.0001), "region 0: x + width must be at most 100, got 50.0001 + 50.0"),
        (in_value("rotation", 5), "region 0: rotation must be 0, got 5"),
        (in_region("original_width", to=0), "region 0: original_width must be a whole number of pixels, got 0"),
        (in_region("image_rotation", to=90), "region 0: image_rotation must be 0, got 90"),
    ],
)
def test_preflight_finds_what_the_server_would_drop_or_not_show(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    task = copy.deepcopy(task_of("rectanglelabels", BOX))
    change(task)
    assert next(problems(task, CONFIG)).startswith(message)


def test_preflight_of_polygons_and_brush_masks() -> None:
    for key, value, message in (
        ("points", [[0, 0], [1, 1]], "points must be a list of at least 3 corners"),
        ("points", [[0, 0], [1, 1], [101, 5]], "every point must be x and y in percent from 0 to 100"),
        ("closed", False, "closed must be true"),
    ):
        assert list(problems(task_of("polygonlabels", {**LINE, key: value}), POLYGONS)) == [f"region 0: {message}"]
    for key, value, message in (
        ("format", "png", "format must be 'rle', got 'png'"),
        ("rle", [256], "rle must be a list of bytes"),
        ("rle", [0, 0, 0, 95, 0, 0, 0], "rle is of 95 values, an image of 6 x 4 has 96"),
    ):
        assert list(problems(task_of("brushlabels", {**STROKE, key: value}), BRUSHES)) == [f"region 0: {message}"]


def test_preflight_of_choices() -> None:
    single = make_config([Control("choices", "label", ("a", "b"))], "image")
    multiple = make_config([Control("choices", "label", ("a", "b"), multiple=True)], "image")

    def said(config: LabelConfig, *labels: str) -> list[str]:
        task = task_of("choices", {})
        task["predictions"][0]["result"][0]["value"] = {"choices": list(labels)}
        return list(problems(task, config))

    assert said(single, "a") == said(multiple, "a") == said(multiple, "a", "b") == []
    assert said(single, "a", "b") == ["region 0: value.choices must be a list of one label, got ['a', 'b']"]
    assert said(multiple) == ["region 0: value.choices must be a list of labels, got []"]
    assert said(multiple, "a", "a") == ["region 0: the label 'a' occurs twice"]
    assert said(multiple, "a", "c") == ["region 0: the config's 'label' has no label 'c'"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "circle"}, "shape must be one of auto, rectangle, polygon, brush, got 'circle'"),
        ({"tasks_per_file": 0}, "tasks-per-file must be above 0, got 0"),
        ({"from_name": "image"}, "from-name and to-name must differ, both are 'image'"),
        ({"to_name": ""}, "to-name must not be empty"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        LabelStudioOptions(**options)
    assert str(error.value) == message
