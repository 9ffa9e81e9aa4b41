"""Keypoints in Label Studio: regions, the tool for them, and what fits a given config."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prelabel.errors import ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo
from prelabel.keypoints import KeypointSet
from prelabel.label_studio.config import read_config
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.label_studio.preflight import problems, sdk_rules
from prelabel.storage.files import Storage
from tests.rows import INFO, found, mask_of, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "label_studio_tasks.schema.json").read_text())
FACE = KeypointSet.named(["nose", "left_eye", "right_eye"], edges=((0, 1), (0, 2)))
WITH_FACE = replace(INFO, keypoints=FACE)
#: A nose, an eye below the threshold, and an eye outside the image.
DOG = found(keypoints=[(1.5, 2, 0.75), (1, 1, 0.25), (-1, 1, 0.8)])


def export(
    folder: Path, image_rows: Rows, info: RunInfo = WITH_FACE, **options: Any
) -> tuple[dict[str, Any], str, ExportReport]:
    """The only task, the config and the report."""
    report = export_label_studio(info, image_rows, str(folder / "out"), LabelStudioOptions.of(**options), Storage())
    (task,) = tasks = json.loads((folder / "out" / "tasks-00000.json").read_text())
    jsonschema.validate(tasks, SCHEMA)
    return task, (folder / "out" / "label_config.xml").read_text(), report


def test_a_keypoint_that_is_shown_is_a_region_below_that_of_its_box(tmp_path: Path):
    task, _, report = export(tmp_path, rows(row("a.jpg", DOG)))
    box, nose = task["predictions"][0]["result"]
    assert nose.pop("id") != box["id"]
    assert nose == {
        "type": "keypointlabels",
        "from_name": "label_keypoint",
        "to_name": "image",
        "original_width": 6,
        "original_height": 4,
        "image_rotation": 0,
        "score": 0.75,
        "parentID": box["id"],
        "value": {"x": 25.0, "y": 50.0, "width": 0.5, "keypointlabels": ["nose"]},
    }
    assert (report.detections, report.regions) == (1, 2)
    assert report.simplified == {"keypoints with scores below 0.3": 1, "keypoints outside the image": 1}


def test_the_config_has_a_tool_with_all_keypoints(tmp_path: Path):
    _, config, _ = export(tmp_path, rows(row("a.jpg", DOG)))
    tool = ET.fromstring(config).find("KeyPointLabels")  # noqa: S314 - our own text
    assert tool is not None
    assert (tool.get("name"), tool.get("toName")) == ("label_keypoint", "image")
    assert [label.get("value") for label in tool] == list(FACE.names)
    assert len({label.get("background") for label in tool}) == 3
    assert read_config(config, "config").control("keypoint").labels == FACE.names  # type: ignore[union-attr]


def test_the_score_of_a_task_is_that_of_its_objects(tmp_path: Path):
    task, _, _ = export(tmp_path, rows(row("a.jpg", DOG)))
    assert task["predictions"][0]["score"] == 0.9


def test_keypoints_do_not_make_a_task_crowded(tmp_path: Path):
    info = replace(INFO, keypoints=KeypointSet.unnamed(40))
    task, _, report = export(tmp_path, rows(row("a.jpg", found(keypoints=[(1, 1, 1)] * 40))), info=info)
    assert len(task["predictions"][0]["result"]) == 41
    assert not any("regions" in warning for warning in report.warnings)


def test_without_keypoints_tasks_and_config_are_as_before(tmp_path: Path):
    without = export(tmp_path / "a", rows(row("a.jpg", DOG)), keypoints=False)
    plain = export(tmp_path / "b", rows(row("a.jpg", found())), info=INFO)
    assert without[:2] == plain[:2]


def test_keypoints_belong_to_the_first_polygon_of_a_split_mask(tmp_path: Path):
    dog = found(mask=mask_of(*["##..##"] * 4), keypoints=[(1, 1, 1), (0, 0, 0), (0, 0, 0)])
    task, _, _ = export(tmp_path, rows(row("a.jpg", dog)), mask_parts="split", polygon_min_area=0)
    first, second, nose = task["predictions"][0]["result"]
    assert (first["type"], second["type"], nose["parentID"]) == ("polygonlabels", "polygonlabels", first["id"])


def test_a_dropped_detection_has_no_keypoints(tmp_path: Path):
    flat = found(xyxy=(1, 1, 1, 3), keypoints=[(1, 1, 1)] * 3)
    task, _, report = export(tmp_path, rows(row("a.jpg", flat)))
    assert task["predictions"][0]["result"] == []
    assert report.dropped == {"detections without area": 1}


def test_region_ids_of_keypoints_do_not_depend_on_the_threshold(tmp_path: Path):
    ids = []
    for threshold in (0.3, 0.1):
        task, _, _ = export(tmp_path / str(threshold), rows(row("a.jpg", DOG)), keypoint_threshold=threshold)
        ids.append({r["value"]["keypointlabels"][0]: r["id"] for r in task["predictions"][0]["result"][1:]})
    assert ids[0].items() <= ids[1].items()
    assert ids[1].keys() == {"nose", "left_eye"}


TEAM = """<View><Image name="photo" value="$photo"/>
<RectangleLabels name="box" toName="photo"><Label value="Dog"/></RectangleLabels>{}</View>"""
TOOL = '<KeyPointLabels name="kp" toName="photo">{}</KeyPointLabels>'
NOSE, EYE = '<Label value="Nose"/>', '<Label value="left_eye"/>'


def given(folder: Path, tool: str) -> str:
    path = folder / "team.xml"
    path.write_text(TEAM.format(tool))
    return str(path)


def test_keypoints_fit_a_given_config(tmp_path: Path):
    task, config, _ = export(tmp_path, rows(row("a.jpg", DOG)), label_config=given(tmp_path, TOOL.format(NOSE)))
    nose = task["predictions"][0]["result"][1]
    assert (nose["from_name"], nose["to_name"]) == ("kp", "photo")
    assert nose["value"]["keypointlabels"] == ["Nose"]
    assert config == TEAM.format(TOOL.format(NOSE))


@pytest.mark.parametrize(("tool", "about"), [("", "no <KeyPointLabels>"), (TOOL.format(EYE), "lacks nose")])
def test_a_given_config_without_the_keypoints_is_refused_unless_they_are_dropped(tmp_path: Path, tool: str, about: str):
    url = given(tmp_path, tool)
    with pytest.raises(ExportError, match=about) as caught:
        export(tmp_path, rows(row("a.jpg", DOG)), label_config=url)
    assert "--no-keypoints" in str(caught.value)
    task, _, report = export(tmp_path, rows(row("a.jpg", DOG)), label_config=url, unlisted="drop")
    assert len(task["predictions"][0]["result"]) == 1
    assert report.simplified["keypoints that the labeling config lacks"] == 1
    export(tmp_path, rows(row("a.jpg", DOG)), label_config=url, keypoints=False)


def test_keypoints_that_are_never_shown_need_no_tool(tmp_path: Path):
    dog = found(keypoints=[(1, 1, 0.1)] * 3)
    export(tmp_path, rows(row("a.jpg", dog)), label_config=given(tmp_path, ""))


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (lambda region: region["value"].update(x=100.1), "x and y"),
        (lambda region: region["value"].update(y="1"), "x and y"),
        (lambda region: region["value"].update(width=0), "width"),
        (lambda region: region["value"].pop("width"), "width"),
        (lambda region: region["value"].update(keypointlabels=["tail"]), "no label 'tail'"),
        (lambda region: region.update(parentID="nobody"), "parentID"),
        (lambda region: region.update(parentID=region["id"]), "parentID"),
    ],
)
def test_preflight_finds_keypoints_that_would_not_be_shown(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], about: str
):
    task, xml, _ = export(tmp_path, rows(row("a.jpg", DOG)))
    config = read_config(xml, "config")
    assert list(problems(task, config)) == []
    changed = copy.deepcopy(task)
    change(changed["predictions"][0]["result"][1])
    assert about in " ".join(problems(changed, config))


def test_the_sdk_accepts_keypoints(tmp_path: Path):
    task, xml, _ = export(tmp_path, rows(row("a.jpg", DOG)))
    rules = sdk_rules(xml)
    if rules is None:
        pytest.skip("label-studio-sdk is not installed, or too old")
    assert rules(task["predictions"][0]) == []
