"""Image names that tools have changed are matched with those of the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from prelabel.errors import EvaluateError
from prelabel.export.image_ids import stem
from prelabel.frames import BROWSER
from prelabel.review.comparison import compare
from prelabel.review.image_matching import Claims, ImageNames
from prelabel.review.options import CompareOptions
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.messages import facts, told
from tests.review.cases import CATEGORIES, evaluated, image, thing, write_truth
from tests.rows import INFO, found, row, rows

BOX = (0, 0, 10, 10)


def find(names: list[str], *mine: str) -> tuple[str, list[int]]:
    return ImageNames(("", name) for name in names).find(*mine)


@pytest.mark.parametrize(
    ("mine", "true_name", "way"),
    [
        ("a.png", "a.png", "path"),
        ("photos/a.png", "photos\\a.png", "path"),
        ("photos/a.png", "./photos/a.png", "path"),
        ("photos/a.png", "C:\\data\\photos\\a.png", "end of the path"),
        ("photos/a.png", "../../media/photos/a.png", "end of the path"),
        ("photos/a.png", "b/a.jpg", "stem"),
        ("x.png", "upload/4/cb0618f6-x.png", "name on upload"),
        ("photos/x.png", "/data/upload/4/cb0618f6-x.png", "name on upload"),
        ("photos/x.png", "images\\cb0618f6-x.png", "name on upload"),
        ("x.png", "cb0618f6-x.jpg", "name on upload"),
        # Django's valid names: spaces become _, and other special characters are dropped.
        ("my x (1).png", "upload/4/cb0618f6-my_x_1.png", "name on upload"),
        ("ein Bild \u00fc \u6f22 #1 100%.jpg", "upload/4/cb0618f6-ein_Bild_\u00fc_\u6f22_1_100.jpg", "name on upload"),
        # Names in Label Studio's COCO export.
        ("ein Bild \u00fc #1 100%.jpg", "images/cb0618f6-ein_Bild_%C3%BC_1_100.jpg", "name on upload"),
        ("x.png", "images/9f86d081__cb0618f6-x.png", "name on upload"),
        ("ein Bild \u00fc.jpg", "images/9f86d081__cb0618f6-ein_Bild_%C3%BC.jpg", "name on upload"),
        ("photos/my x.png", "images/9f86d081__my%20x.png", "name on upload"),
        ("cb0618f6-x.png", "images/9f86d081__cb0618f6-x.png", "name on upload"),
        ("x.png", "images/9f86d081_x.png", ""),
        ("photos/a b.jpg", "images/a%20b.jpg", "percent-decoded stem"),
        ("photos/a%20b.jpg", "images/a%20b.jpg", "stem"),
        ("cb0618f6-x.png", "upload/4/cb0618f6-x.png", "end of the path"),
        ("cb0618f6-x.png", "upload/4/0123abcd-cb0618f6-x.png", "name on upload"),
        ("x.png", "upload/4/CB0618F6-x.png", ""),
        ("x.png", "upload/4/cb0618f-x.png", ""),
        ("x.png", "upload/4/cb0618f6-xx.png", ""),
        ("x.png", "upload/4/cb0618f6_x.png", ""),
    ],
)
def test_each_way_to_match_names(mine: str, true_name: str, way: str) -> None:
    assert find([true_name], mine) == (way, [0] if way else [])


@pytest.mark.parametrize("folder", ["", "a/", "a.b/", "/", "./"])
@pytest.mark.parametrize("name", ["x", "x.jpg", "x.y.jpg", ".x", ".x.jpg", "x.", "x..jpg", "..x"])
def test_stems_are_those_of_paths(folder: str, name: str) -> None:
    assert stem(folder + name) == PurePosixPath(folder + name).stem


def test_the_most_reliable_way_wins_and_equal_matches_are_ambiguous() -> None:
    uploads = ["upload/4/cb0618f6-x.png", "upload/4/0a1b2c3d-x.png"]
    assert find(uploads, "x.png") == ("name on upload", [0, 1])
    assert find([*uploads, "b/x.jpg"], "x.png") == ("stem", [2])
    assert find([*uploads, "b/x.jpg", "b/x.png"], "x.png") == ("end of the path", [3])
    claims: Claims[str] = Claims()
    claims.add("a/x.png", "name on upload", [0], "a")
    claims.add("b/x.png", "name on upload", [0], "b")
    claims.add("c.png", "stem", [1], "c")
    claims.add("d/c.png", "path", [1], "d")
    claims.add("e.png", "stem", [2, 3], "e")
    assert list(claims.decided()) == [(1, "path", "d")]
    assert list(claims.contested()) == [(0, ["a/x.png", "b/x.png"])]
    assert claims.unclear == ["e.png", "a/x.png", "b/x.png"]


def upload_rows(*names: str) -> list[ImageRow]:
    return [row(name, found("Dog", 0.9, BOX), height=40, width=60) for name in names]


def task(address: str) -> dict[str, Any]:
    value = {"x": 0, "y": 0, "width": 100 / 6, "height": 25, "rectanglelabels": ["Dog"]}
    return {
        "data": {"image": address},
        "annotations": [{"result": [{"id": "h", "type": "rectanglelabels", "value": value}]}],
    }


def test_uploaded_images_are_matched_by_evaluate_and_compare(tmp_path: Path) -> None:
    names = [
        "upload/4/cb0618f6-x_1.png",
        "images\\0a1b2c3d-y.png",
        "upload/4/11111111-z.png",
        "upload/4/22222222-z.png",
    ]
    images = [image(n, name) for n, name in enumerate(names, 1)]
    truth = write_truth(tmp_path, [thing(BOX, image_id=n) for n in (1, 2, 3, 4)], images)
    mine = upload_rows("x (1).png", "photos/y.png", "z.png", "other.png")
    done = evaluated(truth, *mine)
    assert (done.images.matched, done.images.by_stem, done.images.unclear, done.images.only_run) == (2, 2, 1, 1)
    assert done.boxes.overall["AP"] == pytest.approx(1)

    path = tmp_path / "export.json"
    path.write_text(json.dumps([task(f"/data/{name}") for name in names]))
    options = CompareOptions(predictions="o", annotations=str(path))
    result = compare(INFO, rows(*mine), options, Storage())
    assert (result.images, result.total.counts["kept"], result.only_annotations) == (2, 2, 0)
    assert told(result.notes, "1", "z.png")
    assert told(result.notes, "2", "upload")
    # Two files of the run match the same upload: both are skipped.
    path.write_text(json.dumps([task("/data/upload/4/cb0618f6-x.png")]))
    with pytest.raises(EvaluateError, match=facts("a/x.png", "b/x.png")):
        compare(INFO, rows(*upload_rows("a/x.png", "b/x.png")), options, Storage())


def turned(orientation: int, browser: int | None = None) -> ImageRow:
    """A file of 40 x 60 that is rotated for display, with a dog in the upper left corner of the displayed image."""
    image_row = row("a.jpg", found("Dog", 0.9, BOX), height=60, width=40)
    return dataclasses.replace(image_row, exif_orientation=orientation, browser_orientation=browser)


def label_studios(folder: Path, bbox: tuple[float, ...], height: int, width: int, contributor: str) -> str:
    content = {
        "info": {"contributor": contributor},
        "images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": list(bbox), "segmentation": [], "iscrowd": 0}
        ],
        "categories": list(CATEGORIES),
    }
    path = folder / "result.json"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_label_studios_size_is_that_of_the_file_while_boxes_lie_on_the_rotated_image(
    tmp_path: Path, orientation: int
) -> None:
    truth = label_studios(tmp_path, BOX, 40, 60, "Label Studio")
    done = evaluated(truth, turned(orientation))
    assert (done.images.matched, done.images.swapped, done.images.other_size) == (1, 1, 0)
    assert done.boxes.overall["AP"] == pytest.approx(1)
    options = CompareOptions(predictions="o", annotations=truth)
    result = compare(INFO, rows(turned(orientation)), options, Storage())
    assert (result.images, result.total.counts["kept"]) == (1, 1)
    assert told(result.notes, "size", "before EXIF rotation")


def test_other_swapped_sizes_are_other_images(tmp_path: Path) -> None:
    for contributor, orientation in (("Label Studio", 1), ("Label Studio", 3), ("somebody", 6)):
        truth = label_studios(tmp_path, BOX, 40, 60, contributor)
        if contributor == "Label Studio":
            with pytest.raises(EvaluateError, match=facts("size")):
                evaluated(truth, turned(orientation))
            with pytest.raises(EvaluateError, match=facts("size")):
                compare(INFO, rows(turned(orientation)), CompareOptions(predictions="o", annotations=truth), Storage())
        else:
            # A truth of another tool with the size of the file is in the stored frame, see `test_evaluate_frames`.
            assert told(evaluated(truth, turned(orientation)).notes, "pixels", "stored")
            options = CompareOptions(predictions="o", annotations=truth)
            result = compare(INFO, rows(turned(orientation)), options, Storage())
            assert told(result.notes, "pixels", "stored")


def test_annotators_draw_on_the_image_in_their_browser(tmp_path: Path) -> None:
    # Browsers do not rotate this file, but its detections are in the display frame.
    image_row = turned(6, browser=1)
    assert image_row.in_frame(BROWSER).height == 40
    browsers = image_row.in_frame(BROWSER).detections
    assert browsers is not None
    x1, y1, x2, y2 = (float(value) for value in browsers.xyxy[0])
    truth = label_studios(tmp_path, (x1, y1, x2 - x1, y2 - y1), 40, 60, "Label Studio")
    done = evaluated(truth, image_row)
    assert (done.images.matched, done.images.swapped) == (1, 0)
    assert done.boxes.overall["AP"] == pytest.approx(1)
    path = tmp_path / "export.json"
    value = {
        "x": x1 / 0.6,
        "y": y1 / 0.4,
        "width": (x2 - x1) / 0.6,
        "height": (y2 - y1) / 0.4,
        "rectanglelabels": ["Dog"],
    }
    region = {"id": "h", "type": "rectanglelabels", "original_width": 60, "original_height": 40, "value": value}
    path.write_text(json.dumps([{"data": {"image_id": "a.jpg"}, "annotations": [{"result": [region]}]}]))
    result = compare(INFO, rows(image_row), CompareOptions(predictions="o", annotations=str(path)), Storage())
    assert (result.images, result.total.counts["kept"]) == (1, 1)


def test_a_run_of_a_projects_tasks_is_matched_by_task_numbers(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    tasks = [{"id": number, **task(f"s3://bucket/{folder}/x.jpg")} for number, folder in ((7, "a"), (8, "b"))]
    tasks[1]["annotations"][0]["result"] = []
    path.write_text(json.dumps(tasks))
    options = CompareOptions(predictions="o", annotations=str(path))
    image_rows = rows(*upload_rows("8/x.jpg", "7/x.jpg"))
    info = dataclasses.replace(INFO, task_numbers=True)
    result = compare(info, image_rows, options, Storage())
    assert (result.images, result.total.counts["kept"], result.total.counts["deleted"]) == (2, 1, 1)
    # Numbers as folder names are not task numbers.
    with pytest.raises(EvaluateError, match="ambiguous"):
        compare(INFO, image_rows, options, Storage())
