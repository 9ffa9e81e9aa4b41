"""Annotations made from our predictions on a real server, edited through its API, exported by it, and compared.

Uploaded pictures are held against its COCO export, which has names and sizes of its own.
"""

from __future__ import annotations

import copy
import io
import json
import re
import secrets
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from prelabel.export.base import RunInfo
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.review.comparison import Comparison, compare
from prelabel.review.evaluation import evaluate
from prelabel.review.options import CompareOptions, EvaluateOptions
from prelabel.storage.files import Storage
from tests.messages import told
from tests.tools.conftest import HOSTILE_CLASS, ROTATED, Photos
from tests.tools.label_studio import Server

THRESHOLD, TASKS = 0.3, 12


def imported(server: Server, photos: Photos, run: str, folder: Path, shape: str) -> tuple[int, list[dict[str, Any]]]:
    """A project with the first photos of a run; its tasks with their predictions."""
    options = LabelStudioOptions.of(score_threshold=THRESHOLD, shape=shape, document_root=str(photos.root))
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


def compared(photos: Photos, run: str, path: Path, **options: Any) -> Comparison:
    """No selection is repeated: the server's export says what was shown."""
    opened = photos.runs[run]
    made = CompareOptions.of(predictions=opened.output, annotations=str(path), **options)
    return compare(RunInfo.of(opened), opened.rows, made, Storage())


@pytest.mark.parametrize(("run", "shape"), [("ssd", "rectangle"), ("mask", "polygon"), ("mask", "brush")])
def test_unchanged_submissions_are_kept(
    label_studio: Server, photos: Photos, tmp_path: Path, run: str, shape: str
) -> None:
    project, tasks = imported(label_studio, photos, run, tmp_path / "tasks", shape)
    for task in tasks[2:]:
        submit(label_studio, task, task["predictions"][0]["result"])
    done = compared(photos, run, exported(label_studio, project, tmp_path / "export.json"))
    assert (done.images, done.open) == (TASKS - 2, 2)
    assert done.total.counts["kept"] == done.total.shown == done.total.objects > 20
    assert done.total.corrections == 0
    assert (done.by_annotations, done.basis) == (TASKS - 2, "assumed")
    assert not any("ASSUMED" in note for note in done.notes)
    floors = [floor for floor in done.floors.values() if floor is not None]
    assert min(floors) >= THRESHOLD
    assert min(choice.suggested.threshold for choice in done.work.by_class.values()) >= THRESHOLD
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
            wide = max(result, key=lambda region: region["value"]["width"])
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
    assert (counts["relabeled"], counts["moved"], counts["deleted"], counts["added"]) == (many, many, many, many)
    assert counts["kept"] == regions - 3 * many
    assert done.total.overlaps[16] == many  # between 0.8 and 0.85
    assert {b for _, b, _ in done.relabeled} == {"Zebra"}
    assert done.by_class["Giraffe"].counts["added"] == many


def test_no_more_than_the_shown_regions_count_as_deleted(label_studio: Server, photos: Photos, tmp_path: Path) -> None:
    project, tasks = imported(label_studio, photos, "ssd", tmp_path / "tasks", "rectangle")
    for task in tasks:
        submit(label_studio, task, [])
    shown_regions = sum(len(task["predictions"][0]["result"]) for task in tasks)
    path = exported(label_studio, project, tmp_path / "export.json")
    done = compared(photos, "ssd", path)
    assert (done.total.shown, done.total.counts["deleted"]) == (shown_regions, shown_regions)
    # The run has many more; a selection that was not the export's says that it contradicts the annotations.
    wrong = compared(photos, "ssd", path, score_threshold=0.05)
    assert wrong.total.shown > 2 * shown_regions
    assert told(wrong.notes, "given selection", "annotations")


def test_annotations_that_the_server_creates_from_predictions(
    label_studio: Server, photos: Photos, tmp_path: Path
) -> None:
    project, tasks = imported(label_studio, photos, "ssd", tmp_path / "tasks", "rectangle")
    action = f"dm/actions?id=predictions_to_annotations&project={project}"
    label_studio.api("POST", action, {"selectedItems": {"all": True, "excluded": []}})
    path = exported(label_studio, project, tmp_path / "export.json")
    content = json.loads(path.read_text())
    annotation = content[0]["annotations"][0]
    # They say where they come from, and the export has that as a number only.
    assert annotation["parent_prediction"] == tasks[0]["predictions"][0]["id"]
    assert not annotation["prediction"]
    done = compared(photos, "ssd", path)
    assert done.images == TASKS
    assert any(note.startswith("ASSUMED") for note in done.notes)
    assert done.total.counts["kept"] == sum(len(task["predictions"][0]["result"]) for task in tasks)


def test_uploaded_pictures_pair_with_the_servers_coco_export(
    label_studio: Server, photos: Photos, tmp_path: Path
) -> None:
    opened = photos.runs["odd"]
    folder = photos.root / "odd \u00fc"
    shown_rows = {row.file_name: row for row in opened.rows() if row.detections is not None and len(row.detections)}
    labels = ["person", "dog"]
    tags = "".join(f'<Label value="{label}"/>' for label in labels)
    tool = f'<RectangleLabels name="label" toName="image">{tags}</RectangleLabels>'
    config = f'<View><Image name="image" value="$image"/>{tool}</View>'
    project = label_studio.project(config, "uploaded")
    for name in shown_rows:
        upload(label_studio, project, folder / name)
    tasks = label_studio.tasks(project)
    assert len(tasks) == len(shown_rows) > 1
    addresses = [task["data"]["image"] for task in tasks]
    for task in tasks:
        name = next(file_name for file_name in shown_rows if on_upload(file_name) in task["data"]["image"])
        row = shown_rows[name].in_frame("browser")
        assert row.detections is not None
        regions = []
        for number, (x1, y1, x2, y2) in enumerate(row.detections.xyxy[:3].tolist()):
            across, down = 100 / row.detections.width, 100 / row.detections.height
            box = {"x": x1 * across, "y": y1 * down, "width": (x2 - x1) * across, "height": (y2 - y1) * down}
            regions.append(
                {
                    "id": f"r{number}",
                    "type": "rectanglelabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": row.detections.width,
                    "original_height": row.detections.height,
                    "image_rotation": 0,
                    "value": {**box, "rotation": 0, "rectanglelabels": ["person"]},
                }
            )
        label_studio.api("POST", f"tasks/{task['id']}/annotations/", {"result": regions})
    path = coco_export(label_studio, project, tmp_path)
    content = json.loads(path.read_text())
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in content["images"]}
    turned = next(name for name in sizes if on_upload(ROTATED) in name)
    rotated = shown_rows[ROTATED]
    assert sizes[turned] == (rotated.width, rotated.height), "the server states the unturned size, which is the point"
    rules = {"class_map": {HOSTILE_CLASS: "person"}, "score_threshold": 0.0}
    opened_info = RunInfo.of(opened)
    done = compare(
        opened_info, opened.rows, CompareOptions.of(predictions="o", annotations=str(path), **rules), Storage()
    )
    assert done.images == len(shown_rows), (addresses, done.notes)
    assert done.total.counts["kept"] + done.total.counts["relabeled"] == sum(
        len(row.detections.xyxy[:3]) for row in shown_rows.values() if row.detections is not None
    )
    evaluated = evaluate(
        opened_info, opened.rows, EvaluateOptions.of(truth=str(path), class_map=rules["class_map"]), Storage()
    )
    assert (evaluated.images.matched, evaluated.images.swapped) == (len(shown_rows), 1)


def on_upload(name: str) -> str:
    """The middle of the name that the server gives: letters and digits at its front."""
    return re.split(r"[^A-Za-z0-9_]", name)[0]


def upload(server: Server, project: int, path: Path) -> None:
    """What the import page sends."""
    edge = secrets.token_hex(16)
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
    request = urllib.request.Request(  # noqa: S310 - the server started by this test
        f"{server.url}/api/projects/{project}/import",
        data=head.encode() + path.read_bytes() + f"\r\n--{edge}--\r\n".encode(),
        headers={"Authorization": f"Token {server.token}", "Content-Type": f"multipart/form-data; boundary={edge}"},
    )
    with urllib.request.urlopen(request, timeout=120):  # noqa: S310
        pass


def coco_export(server: Server, project: int, folder: Path) -> Path:
    """`result.json` of the server's COCO export."""
    request = urllib.request.Request(  # noqa: S310 - the server started by this test
        f"{server.url}/api/projects/{project}/export?exportType=COCO",
        headers={"Authorization": f"Token {server.token}"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        content = answer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (folder / "result.json").write_bytes(archive.read("result.json"))
    return folder / "result.json"
