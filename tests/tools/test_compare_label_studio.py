"""Annotations made from our predictions on a real server, edited through its API, exported by it, and compared."""

from __future__ import annotations

import copy
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from prelabel.compare.comparison import compare
from prelabel.compare.options import CompareOptions
from prelabel.compare.result import Comparison
from prelabel.export.label_studio import export_label_studio
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.reading import RunInfo
from prelabel.storage import Storage
from tests.tools.conftest import Photos
from tests.tools.label_studio import Server

THRESHOLD, TASKS = 0.3, 12


def imported(server: Server, photos: Photos, run: str, folder: Path, shape: str) -> tuple[int, list[dict[str, Any]]]:
    """A project with the first photos of a run; its tasks with their predictions."""
    options = LabelStudioOptions(score_threshold=THRESHOLD, shape=shape, document_root=str(photos.root))
    opened = photos.runs[run]
    export_label_studio(RunInfo.of(opened), opened.rows, str(folder), options, Storage())
    tasks = json.loads((folder / "tasks-00000.json").read_text())[:TASKS]
    project = server.project((folder / "label_config.xml").read_text(), f"compare {run} {shape}")
    server.api("POST", f"projects/{project}/import", tasks)
    return project, server.tasks(project)


def submit(server: Server, task: dict[str, Any], result: list[dict[str, Any]]) -> None:
    """What the page sends when an annotator submits a prediction with changes."""
    (prediction,) = task["predictions"]
    body = {"result": result, "lead_time": 4.5, "parent_prediction": prediction["id"]}
    server.api("POST", f"tasks/{task['id']}/annotations/", body)


def exported(server: Server, project: int, path: Path) -> Path:
    """The server's own JSON export."""
    request = urllib.request.Request(  # noqa: S310 - the server started by this test
        f"{server.url}/api/projects/{project}/export?exportType=JSON&download_all_tasks=true",
        headers={"Authorization": f"Token {server.token}"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        path.write_bytes(answer.read())
    return path


def compared(photos: Photos, run: str, path: Path) -> Comparison:
    opened = photos.runs[run]
    options = CompareOptions(predictions=opened.output, annotations=str(path), score_threshold=THRESHOLD)
    return compare(RunInfo.of(opened), opened.rows, options, Storage())


@pytest.mark.parametrize(("run", "shape"), [("ssd", "rectangle"), ("mask", "polygon"), ("mask", "brush")])
def test_what_annotators_submit_unchanged_is_kept(
    label_studio: Server, photos: Photos, tmp_path: Path, run: str, shape: str
) -> None:
    project, tasks = imported(label_studio, photos, run, tmp_path / "tasks", shape)
    for task in tasks[2:]:
        submit(label_studio, task, task["predictions"][0]["result"])
    done = compared(photos, run, exported(label_studio, project, tmp_path / "export.json"))
    assert (done.images, done.open) == (TASKS - 2, 2)
    assert done.total.counts["kept"] == done.total.shown == done.total.objects > 20
    assert done.corrections == 0
    assert done.times is not None
    assert (done.times.images, done.times.median) == (TASKS - 2, 4.5)


def test_edits_through_the_api_are_counted_for_what_they_are(
    label_studio: Server, photos: Photos, tmp_path: Path
) -> None:
    project, tasks = imported(label_studio, photos, "ssd", tmp_path / "tasks", "rectangle")
    regions = 0
    for task in tasks:
        result = copy.deepcopy(task["predictions"][0]["result"])
        regions += len(result)
        if len(result) >= 3:
            wide = max(result, key=lambda one: one["value"]["width"])
            result.remove(wide)
            result[0]["value"]["rectanglelabels"] = ["Zebra"]
            result[1]["value"]["width"] *= 0.82
            added = {**copy.deepcopy(result[1]), "id": f"hand{task['id']}"}
            del added["score"]
            added["value"].update(x=0, y=0, width=1, height=1, rectanglelabels=["Giraffe"])
            result.append(added)
        submit(label_studio, task, result)
    many = sum(len(task["predictions"][0]["result"]) >= 3 for task in tasks)
    done = compared(photos, "ssd", exported(label_studio, project, tmp_path / "export.json"))
    counts = done.total.counts
    assert many >= 3
    assert (counts["relabelled"], counts["moved"], counts["deleted"], counts["added"]) == (many, many, many, many)
    assert counts["kept"] == regions - 3 * many
    assert done.total.overlaps[16] == many  # between 0.8 and 0.85
    assert {b for _, b, _ in done.relabelled} == {"Zebra"}
    assert done.by_class["Giraffe"].counts["added"] == many
