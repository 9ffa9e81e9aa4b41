"""Labels of the whole image: what the server takes, and what the page has ticked for the person who opens it."""

from __future__ import annotations

import json
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.detections import ImageLabel
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.storage.files import Storage
from tests.rows import INFO, row, rows
from tests.tools.conftest import HOSTILE_CLASS, NOTHING, Photos
from tests.tools.label_studio import Server

LABELS = [ImageLabel(1, HOSTILE_CLASS, "", 0.9), ImageLabel(2, "kitchen", "", 0.6), ImageLabel(3, "dark", "", 0.1)]


def exported(photos: Photos, folder: Path, choice: str) -> list[dict[str, Any]]:
    photo = photos.root / "odd \u00fc" / NOTHING
    image = row(NOTHING, height=240, width=320, uri=str(photo), image_labels=LABELS)
    options = LabelStudioOptions.of(choice=choice, score_threshold=0.05, document_root=str(photos.root))
    export_label_studio(replace(INFO, classes=None), rows(image), str(folder), options, Storage())
    return list(json.loads((folder / "tasks-00000.json").read_text()))


def imported(server: Server, photos: Photos, folder: Path, tasks: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    project = server.project((folder / "label_config.xml").read_text(), "choices")
    server.serve(project, photos.root / "odd \u00fc")
    server.api("POST", f"projects/{project}/import", tasks)
    (task,) = server.tasks(project)
    return project, task


@pytest.mark.parametrize(("choice", "ticks"), [("single", 1), ("multiple", 3)])
def test_labels_of_the_image_are_ticked_on_the_page(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path, choice: str, ticks: int
) -> None:
    tasks = exported(photos, tmp_path, choice)
    project, task = imported(label_studio, photos, tmp_path, tasks)
    (prediction,) = task["predictions"]
    assert prediction["result"] == tasks[0]["predictions"][0]["result"]
    page.goto(f"{label_studio.url}/projects/{project}/data?task={task['id']}", wait_until="domcontentloaded")
    submitted = page.wait_for_function(
        """number => {
             if (!window.Htx || !Htx.task || String(Htx.task.id) !== String(number)) return null
             const chosen = Htx.annotationStore.selected?.serializeAnnotation() || []
             return chosen.length ? chosen.map(one => one.value.choices) : null }""",
        arg=task["id"],
        timeout=90_000,
    ).json_value()
    page.screenshot(path=str(screenshots / f"choices-{choice}.png"))
    assert submitted == [[label.label for label in LABELS[:ticks]]]


def test_a_label_missing_in_the_config_is_refused_by_the_server_and_by_us(
    label_studio: Server, photos: Photos, tmp_path: Path
) -> None:
    tasks = exported(photos, tmp_path, "multiple")
    tasks[0]["predictions"][0]["result"][0]["value"]["choices"].append("outdoors")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        imported(label_studio, photos, tmp_path, tasks)
