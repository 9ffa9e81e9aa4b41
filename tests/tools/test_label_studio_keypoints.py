"""Keypoints: what the server takes with its checks on, gives back, exports as YOLO, and shows below their boxes."""

from __future__ import annotations

import json
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prelabel.detections import ClassName
from prelabel.keypoints import KeypointSet
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.storage.files import Storage
from tests.rows import INFO, found, row, rows
from tests.tools.label_studio import Server

FACE = KeypointSet.named(["nose", "left_eye", "right_eye"], edges=((0, 1), (0, 2)))
PEOPLE = [
    found("person", 0.9, (20, 20, 140, 200), mid="", keypoints=[(80, 60, 0.9), (95, 45, 0.8), (65, 45, 0.7)]),
    found("person", 0.8, (160, 30, 300, 220), mid="", keypoints=[(230, 80, 0.9), (250, 60, 0.1), (210, 60, 0.6)]),
]


def exported(document_root: Path, folder: Path) -> list[dict[str, Any]]:
    """The tasks of one image with two people, five of whose six points are shown."""
    photo = document_root / "keypoints" / "people.png"
    photo.parent.mkdir(exist_ok=True)
    Image.new("RGB", (320, 240), (90, 120, 90)).save(photo)
    image = row("people.png", *PEOPLE, height=240, width=320, uri=str(photo))
    info = replace(INFO, classes=(ClassName(1, "person"),), keypoints=FACE)
    options = LabelStudioOptions.of(document_root=str(document_root))
    export_label_studio(info, rows(image), str(folder), options, Storage())
    return list(json.loads((folder / "tasks-00000.json").read_text()))


def imported(server: Server, document_root: Path, folder: Path, tasks: list[dict[str, Any]]) -> tuple[int, Any]:
    project = server.project((folder / "label_config.xml").read_text(), "keypoints")
    server.serve(project, document_root / "keypoints")
    server.api("POST", f"projects/{project}/import", tasks)
    (task,) = server.tasks(project)
    return project, task


def test_the_server_takes_keypoints_and_gives_them_back_below_their_boxes(
    label_studio: Server, document_root: Path, tmp_path: Path
) -> None:
    tasks = exported(document_root, tmp_path)
    _, task = imported(label_studio, document_root, tmp_path, tasks)
    (prediction,) = task["predictions"]
    assert prediction["result"] == tasks[0]["predictions"][0]["result"]
    parents = [region.get("parentID") for region in prediction["result"]]
    first, second = (region["id"] for region in prediction["result"] if region["type"] == "rectanglelabels")
    assert parents == [None, *[first] * 3, None, *[second] * 2]


def test_a_keypoint_that_the_config_lacks_is_refused_by_the_server(
    label_studio: Server, document_root: Path, tmp_path: Path
) -> None:
    tasks = exported(document_root, tmp_path)
    tasks[0]["predictions"][0]["result"][1]["value"]["keypointlabels"] = ["tail"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        imported(label_studio, document_root, tmp_path, tasks)


def test_the_page_shows_keypoints_and_submits_them_with_their_parents(
    label_studio: Server, page: Any, document_root: Path, tmp_path: Path, screenshots: Path
) -> None:
    tasks = exported(document_root, tmp_path)
    project, task = imported(label_studio, document_root, tmp_path, tasks)
    page.goto(f"{label_studio.url}/projects/{project}/data?task={task['id']}", wait_until="domcontentloaded")
    submitted = page.wait_for_function(
        """number => {
             if (!window.Htx || !Htx.task || String(Htx.task.id) !== String(number)) return null
             const regions = Htx.annotationStore.selected?.serializeAnnotation() || []
             return regions.length === 7 ? regions : null }""",
        arg=task["id"],
        timeout=90_000,
    ).json_value()
    page.wait_for_timeout(2000)
    page.screenshot(path=str(screenshots / "keypoints.png"))
    sent = {region["id"]: region for region in tasks[0]["predictions"][0]["result"]}
    for region in submitted:
        assert region.get("parentID") == sent[region["id"]].get("parentID")
        assert region["value"]["x"] == pytest.approx(sent[region["id"]]["value"]["x"])
        assert region["value"]["y"] == pytest.approx(sent[region["id"]]["value"]["y"])
