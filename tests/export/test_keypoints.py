"""Keypoints in COCO, CVAT, YOLO and Pascal VOC: exact on tiny cases, and as readers take them."""

from __future__ import annotations

import contextlib
import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.detections import ClassName, Detections
from prelabel.errors import ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.cvat import CvatOptions, export_cvat
from prelabel.export.voc import VocOptions, export_voc
from prelabel.export.yolo import YoloOptions, export_yolo
from prelabel.keypoints import COCO_PERSON, KeypointSet
from prelabel.storage.files import Storage
from tests.rows import INFO, failed_row, found, mask_of, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "coco.schema.json").read_text())
FACE = KeypointSet.named(["nose", "left_eye", "right_eye"], edges=((0, 1), (0, 2)))
WITH_FACE = replace(INFO, keypoints=FACE)
#: A nose, an eye below the threshold, and an eye outside the image.
DOG = found(keypoints=[(1.5, 2, 0.9), (1, 1, 0.25), (-1, 1, 0.8)])


def coco(
    folder: Path, image_rows: Rows, info: RunInfo = WITH_FACE, **options: Any
) -> tuple[dict[str, Any], ExportReport]:
    report = export_coco(info, image_rows, str(folder / "coco.json"), CocoOptions.of(**options), Storage())
    content = json.loads((folder / "coco.json").read_text())
    jsonschema.validate(content, SCHEMA)
    return content, report


def cvat(folder: Path, image_rows: Rows, info: RunInfo = WITH_FACE, **options: Any) -> ET.Element:
    export_cvat(info, image_rows, str(folder / "cvat.xml"), CvatOptions.of(**options), Storage())
    return ET.parse(folder / "cvat.xml").getroot()  # noqa: S314 - our own file


def yolo(
    folder: Path, image_rows: Rows, info: RunInfo = WITH_FACE, **options: Any
) -> tuple[str, dict[str, Any], ExportReport]:
    report = export_yolo(info, image_rows, str(folder / "yolo"), YoloOptions.of(**options), Storage())
    labels = (folder / "yolo" / "labels" / "train" / "a.txt").read_text()
    return labels, yaml.safe_load((folder / "yolo" / "data.yaml").read_text()), report


def test_coco_has_names_and_skeleton_and_the_points_that_are_shown(tmp_path: Path):
    content, report = coco(tmp_path, rows(row("a.jpg", DOG), failed_row()))
    assert content["categories"][0] == {
        **{"id": 1, "name": "Dog", "supercategory": "", "mid": "/m/0bt9lr"},
        **{"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]},
    }
    (annotation,) = content["annotations"]
    assert annotation["keypoints"] == [1.5, 2, 2, 0, 0, 0, 0, 0, 0]
    assert annotation["num_keypoints"] == 1
    assert report.simplified == {"keypoints with scores below 0.3": 1, "keypoints outside the image": 1}


def test_a_lower_threshold_shows_more_points_and_an_absent_one_is_never_shown(tmp_path: Path):
    dog = found(keypoints=[(1.5, 2, 0.9), (1, 1, 0.25), (0, 0, 0)])
    content, report = coco(tmp_path, rows(row("a.jpg", dog)), keypoint_threshold=0.0)
    assert content["annotations"][0]["keypoints"] == [1.5, 2, 2, 1, 1, 2, 0, 0, 0]
    assert report.simplified == {}


def test_without_keypoints_coco_is_as_before(tmp_path: Path):
    with_keypoints, _ = coco(tmp_path, rows(row("a.jpg", DOG)), keypoints=False)
    without, _ = coco(tmp_path, rows(row("a.jpg", found())), info=INFO)
    assert with_keypoints == without


def test_only_the_classes_that_have_keypoints_define_them(tmp_path: Path):
    info = replace(INFO, keypoints=replace(FACE, classes=(2,)))
    content, _ = coco(tmp_path, rows(row("a.jpg", found(keypoints=[(0, 0, 0)] * 3))), info=info)
    assert ["keypoints" in category for category in content["categories"]] == [False, True]
    # pycocotools needs the key on every annotation.
    assert content["annotations"][0]["num_keypoints"] == 0


def test_categories_of_a_given_list_get_the_keypoints_of_their_classes(tmp_path: Path):
    info = replace(INFO, keypoints=replace(FACE, classes=(2,)))
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]))
    content, _ = coco(tmp_path, rows(row("a.jpg", DOG)), info=info, categories=str(listed))
    assert [(c["name"], "keypoints" in c) for c in content["categories"]] == [("cat", True), ("dog", False)]


def test_keypoints_turn_with_the_frame(tmp_path: Path):
    turned = replace(row("a.jpg", found(keypoints=[(1, 2, 0.9)] * 3)), exif_orientation=6)
    content, _ = coco(tmp_path, rows(turned), frame="stored")
    assert content["annotations"][0]["keypoints"][:3] == [2, 5, 2]


def test_pycocotools_scores_keypoints_that_are_the_truth_with_ap_1(tmp_path: Path):
    random = np.random.default_rng(1)
    info = replace(INFO, classes=(ClassName(1, "person"),), keypoints=COCO_PERSON)
    images = []
    for number in range(4):
        people = []
        for person in range(3):
            x, y = 50 + 200 * person, 60
            points = random.uniform((x, y), (x + 100, y + 300), (17, 2))
            keypoints = [(*point, 0.9) for point in points.tolist()]
            box = (x, y, x + 100, y + 300)
            people.append(found("person", 0.9 - 0.1 * person, box, mid="", keypoints=keypoints))
        images.append(row(f"{number}.jpg", *people, height=480, width=700))
    results = tmp_path / "results.json"
    truth, _ = coco(tmp_path, rows(*images), info=info, results=str(results))
    jsonschema.validate(json.loads(results.read_text()), {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/results"})
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(tmp_path / "coco.json"))
        evaluation = COCOeval(dataset, dataset.loadRes(str(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert len(truth["annotations"]) == 12
    assert evaluation.stats[0] == pytest.approx(1)


def test_images_without_keypoints_get_absent_ones_where_the_run_has_some(tmp_path: Path):
    image_rows = rows(row("a.jpg", found()))
    content, report = coco(tmp_path, image_rows, results=str(tmp_path / "results.json"))
    assert content["annotations"][0]["keypoints"] == [0] * 9
    assert json.loads((tmp_path / "results.json").read_text())[0]["keypoints"] == [0] * 9
    assert report.simplified == {}
    assert yolo(tmp_path, image_rows)[0] == "0 0.25 0.5 0.5 1 0 0 0 0 0 0 0 0 0\n"
    assert cvat(tmp_path, image_rows).find(".//skeleton") is None


def test_results_have_all_points_with_their_scores(tmp_path: Path):
    results = tmp_path / "results.json"
    coco(tmp_path, rows(row("a.jpg", DOG)), results=str(results))
    (entry,) = json.loads(results.read_text())
    assert entry["keypoints"] == [1.5, 2, 0.9, 1, 1, 0.25, -1, 1, 0.8]


def test_cvat_has_a_skeleton_in_a_group_with_the_box(tmp_path: Path):
    root = cvat(tmp_path, rows(row("a.jpg", DOG)))
    image = root.find("image")
    assert image is not None
    box, skeleton = image
    assert (box.tag, box.get("label"), box.get("group_id")) == ("box", "Dog", "1")
    assert skeleton.attrib == {"label": "Dog skeleton", "source": "auto", "z_order": "0", "group_id": "1"}
    points = [(p.get("label"), p.get("points"), p.get("outside")) for p in skeleton.iter("points")]
    assert points == [("nose", "1.50,2.00", "0"), ("left_eye", "1.00,1.00", "1"), ("right_eye", "0.00,1.00", "1")]
    assert [a.text for a in skeleton.findall("attribute")] == ["0.9"]


def test_an_absent_point_of_a_skeleton_is_in_the_middle_of_the_box(tmp_path: Path):
    root = cvat(tmp_path, rows(row("a.jpg", found(keypoints=[(1, 1, 1), (0, 0, 0), (2, 2, 1)]))))
    assert [p.get("points") for p in root.iter("points")] == ["1.00,1.00", "1.50,2.00", "2.00,2.00"]


def test_a_detection_without_a_shown_point_has_no_skeleton_and_no_group(tmp_path: Path):
    root = cvat(tmp_path, rows(row("a.jpg", found(keypoints=[(1, 1, 0.1)] * 3))))
    assert root.find(".//skeleton") is None
    assert root.find(".//box").get("group_id") is None  # type: ignore[union-attr]


def test_the_parts_of_a_mask_and_the_skeleton_are_one_group(tmp_path: Path):
    parts = mask_of("##..##", "##..##", "##..##", "##..##")
    dog = found(mask=parts, keypoints=[(1, 1, 1)] * 3)
    root = cvat(tmp_path, rows(row("a.jpg", dog)), segmentation="polygon", mask_parts="split")
    (image,) = root.iter("image")
    assert [(shape.tag, shape.get("group_id")) for shape in image] == [*[("polygon", "1")] * 2, ("skeleton", "1")]


def test_labels_of_skeletons_are_declared_with_their_points_and_picture(tmp_path: Path):
    labels_file = tmp_path / "labels.json"
    root = cvat(tmp_path, rows(row("a.jpg", DOG)), labels_file=str(labels_file))
    labels = [
        (label.findtext("name"), label.findtext("type"), label.findtext("parent")) for label in root.iter("label")
    ]
    points = [(name, "points", "Dog skeleton") for name in FACE.names]
    assert labels[:6] == [("Dog", "any", None), ("Cat", "any", None), ("Dog skeleton", "skeleton", None), *points]
    entry = json.loads(labels_file.read_text())[2]
    assert [part["name"] for part in entry["sublabels"]] == list(FACE.names)
    picture = ET.fromstring(f"<svg>{entry['svg']}</svg>")  # noqa: S314 - our own text
    nodes = {c.get("data-label-name"): c.get("data-node-id") for c in picture.iter("circle")}
    assert nodes == {"nose": "1", "left_eye": "2", "right_eye": "3"}
    edges = [(line.get("data-node-from"), line.get("data-node-to")) for line in picture.iter("line")]
    assert edges == [("1", "2"), ("1", "3")]
    assert root.findtext(".//label[type='skeleton']/svg") == entry["svg"]


@pytest.mark.parametrize(
    ("info", "about"),
    [
        (
            replace(WITH_FACE, classes=(ClassName(1, "Dog", "/m/0bt9lr"), ClassName(2, "Dog skeleton"))),
            "'Dog skeleton'",
        ),
        (replace(INFO, keypoints=KeypointSet(('a"b', "c", "d"))), "--no-keypoints"),
    ],
)
def test_labels_that_cvat_would_confuse_are_refused(tmp_path: Path, info: RunInfo, about: str):
    with pytest.raises(ExportError, match=about):
        cvat(tmp_path, rows(row("a.jpg", DOG)), info=info)
    assert not (tmp_path / "cvat.xml").exists()


def test_yolo_writes_pose_files(tmp_path: Path):
    labels, data, report = yolo(tmp_path, rows(row("a.jpg", DOG)), image_files="none")
    assert labels == "0 0.25 0.5 0.5 1 0.25 0.5 2 0 0 0 0 0 0\n"
    assert (data["kpt_shape"], data["flip_idx"]) == ([3, 3], [0, 2, 1])
    assert data["kpt_names"] == {0: list(FACE.names), 1: list(FACE.names)}
    assert not any("mask" in warning for warning in report.warnings)


def test_yolo_writes_boxes_instead_of_segments_beside_keypoints_and_says_so(tmp_path: Path):
    dog = found(mask=mask_of("###...", "###...", "###...", "###..."), keypoints=[(1, 1, 1)] * 3)
    info = replace(WITH_FACE, masks=True)
    labels, _, report = yolo(tmp_path, rows(row("a.jpg", dog)), info=info)
    assert len(labels.split()) == 5 + 9
    assert any("masks" in warning and "--no-keypoints" in warning for warning in report.warnings)
    labels, data, _ = yolo(tmp_path, rows(row("a.jpg", dog)), info=info, keypoints=False)
    assert labels == "0 0 0 0.5 0 0.5 1 0 1\n"
    assert "kpt_shape" not in data


def test_yolo_says_if_left_and_right_are_unknown(tmp_path: Path):
    info = replace(INFO, keypoints=KeypointSet.unnamed(3))
    _, data, report = yolo(tmp_path, rows(row("a.jpg", DOG)), info=info)
    assert "flip_idx" not in data
    assert any("flip_idx" in warning for warning in report.warnings)


def test_voc_says_that_keypoints_are_left_out(tmp_path: Path):
    report = export_voc(WITH_FACE, rows(row("a.jpg", DOG)), str(tmp_path / "voc"), VocOptions(), Storage())
    assert any("keypoints" in warning for warning in report.warnings)
    assert report.simplified == {}


def test_an_image_without_detections_changes_nothing(tmp_path: Path):
    nothing = replace(row("a.jpg"), detections=Detections.empty(4, 6, keypoints=3))
    content, _ = coco(tmp_path, rows(nothing))
    assert content["annotations"] == []
