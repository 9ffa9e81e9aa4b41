"""The COCO file that a real server makes of predictions that people submitted as they are: our numbers, our counts."""

from __future__ import annotations

import io
import json
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.storage.files import Storage
from tests.tools.conftest import Photos
from tests.tools.label_studio import Server


def coco_export(server: Server, project: int) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - the server started by this test
        f"{server.url}/api/projects/{project}/export?exportType=COCO&download_all_tasks=true&download_resources=false",
        headers={"Authorization": f"Token {server.token}"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer, zipfile.ZipFile(io.BytesIO(answer.read())) as file:  # noqa: S310
        return dict(json.loads(file.read("result.json")))


@pytest.mark.parametrize(("run", "shape"), [("ssd", "rectangle"), ("mask", "polygon"), ("mask", "rectangle")])
def test_ids_and_counts_survive_the_servers_own_coco_export(
    label_studio: Server, photos: Photos, tmp_path: Path, run: str, shape: str
) -> None:
    opened = photos.runs[run]
    info = RunInfo.of(opened)
    options = LabelStudioOptions.of(shape=shape, document_root=str(photos.root), max_points=10**6)
    report = export_label_studio(info, opened.rows, str(tmp_path / "tasks"), options, Storage())
    project = label_studio.project((tmp_path / "tasks" / "label_config.xml").read_text(), f"coco {run} {shape}")
    tasks = json.loads((tmp_path / "tasks" / "tasks-00000.json").read_text())
    for task in tasks:
        (prediction,) = task.pop("predictions")
        task["annotations"] = [{"result": prediction["result"]}]
    label_studio.api("POST", f"projects/{project}/import", tasks)
    server_coco = coco_export(label_studio, project)

    # A rectangle around a mask has the rectangle's area on the server: here, too, boxes without their masks.
    segmentation = "polygon" if shape == "polygon" else "none"
    export_coco(info, opened.rows, str(tmp_path / "coco.json"), CocoOptions(segmentation=segmentation), Storage())
    exported_coco = json.loads((tmp_path / "coco.json").read_text())
    known = {category["id"]: category["name"] for category in exported_coco["categories"]}
    assert len({category["id"] for category in server_coco["categories"]}) == len(server_coco["categories"])
    assert {category["id"]: category["name"] for category in server_coco["categories"]}.items() <= known.items()
    assert (
        report.regions
        == report.detections
        == len(server_coco["annotations"])
        == len(exported_coco["annotations"])
        > 100
    )
    count = np.bincount(
        [annotation["category_id"] for annotation in exported_coco["annotations"]], minlength=1000
    ).tolist()
    assert (
        np.bincount([annotation["category_id"] for annotation in server_coco["annotations"]], minlength=1000).tolist()
        == count
    )
    # Its areas are those of outlines that cross themselves nowhere: holes are taken off, parts added, bridges nothing.
    total = [sum(annotation["area"] for annotation in side["annotations"]) for side in (server_coco, exported_coco)]
    assert total[0] == pytest.approx(total[1], rel=0.01)
