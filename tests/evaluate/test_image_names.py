"""Names that tools give to images are led back to those of the run by a stated rule, or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from prelabel.compare.comparison import compare
from prelabel.compare.options import CompareOptions
from prelabel.errors import EvaluateError
from prelabel.evaluate.image_names import Claims, ImageNames
from prelabel.frames import BROWSER
from prelabel.storage import Storage
from prelabel.store.rows import ImageRow
from tests.evaluate.cases import CATEGORIES, evaluated, image, thing, write_truth
from tests.rows import INFO, found, row, rows

BOX = (0, 0, 10, 10)


def find(names: list[str], *mine: str) -> tuple[str, list[int]]:
    return ImageNames(("", name) for name in names).find(*mine)


@pytest.mark.parametrize(
    ("mine", "theirs", "way"),
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
        # What Django makes of names: spaces become _, and other signs go.
        ("my x (1).png", "upload/4/cb0618f6-my_x_1.png", "name on upload"),
        ("ein Bild \u00fc \u6f22 #1 100%.jpg", "upload/4/cb0618f6-ein_Bild_\u00fc_\u6f22_1_100.jpg", "name on upload"),
        # As its COCO export has them.
        ("ein Bild \u00fc #1 100%.jpg", "images/cb0618f6-ein_Bild_%C3%BC_1_100.jpg", "name on upload"),
        ("x.png", "images/9f86d081__cb0618f6-x.png", "name on upload"),
        ("ein Bild \u00fc.jpg", "images/9f86d081__cb0618f6-ein_Bild_%C3%BC.jpg", "name on upload"),
        ("photos/my x.png", "images/9f86d081__my%20x.png", "name on upload"),
        ("cb0618f6-x.png", "images/9f86d081__cb0618f6-x.png", "name on upload"),
        ("x.png", "images/9f86d081_x.png", ""),
        ("photos/a b.jpg", "images/a%20b.jpg", "stem in an address"),
        ("photos/a%20b.jpg", "images/a%20b.jpg", "stem"),
        ("cb0618f6-x.png", "upload/4/cb0618f6-x.png", "end of the path"),
        ("cb0618f6-x.png", "upload/4/0123abcd-cb0618f6-x.png", "name on upload"),
        ("x.png", "upload/4/CB0618F6-x.png", ""),
        ("x.png", "upload/4/cb0618f-x.png", ""),
        ("x.png", "upload/4/cb0618f6-xx.png", ""),
        ("x.png", "upload/4/cb0618f6_x.png", ""),
    ],
)
def test_each_way_in_which_a_name_can_be_another(mine: str, theirs: str, way: str) -> None:
    assert find([theirs], mine) == (way, [0] if way else [])


def test_a_surer_way_goes_first_and_what_is_equal_is_several() -> None:
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


def test_images_that_were_uploaded_are_found_by_evaluate_and_compare(tmp_path: Path) -> None:
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
    assert any(
        "1 images are left out: it is not clear which is meant, e.g. by 'z.png'" in note for note in result.notes
    )
    assert any("2 images were found by their name on upload only" in note for note in result.notes)
    # One file, uploaded from two folders of the run: neither is taken.
    path.write_text(json.dumps([task("/data/upload/4/cb0618f6-x.png")]))
    with pytest.raises(EvaluateError, match=r"no image is clear: several could be 'a/x.png', 'b/x.png'"):
        compare(INFO, rows(*upload_rows("a/x.png", "b/x.png")), options, Storage())


def turned(orientation: int, browser: int | None = None) -> ImageRow:
    """A picture of 40 x 60 that is shown upright, with a dog in its upper left corner."""
    one = row("a.jpg", found("Dog", 0.9, BOX), height=60, width=40)
    return dataclasses.replace(one, exif_orientation=orientation, browser_orientation=browser)


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
def test_label_studio_states_the_size_of_the_unturned_file_with_boxes_on_the_turned_one(
    tmp_path: Path, orientation: int
) -> None:
    truth = label_studios(tmp_path, BOX, 40, 60, "Label Studio")
    done = evaluated(truth, turned(orientation))
    assert (done.images.matched, done.images.swapped, done.images.other_size) == (1, 1, 0)
    assert done.boxes.overall["AP"] == pytest.approx(1)
    options = CompareOptions(predictions="o", annotations=truth)
    result = compare(INFO, rows(turned(orientation)), options, Storage())
    assert (result.images, result.total.counts["kept"]) == (1, 1)
    assert any("size of the unturned file" in note for note in result.notes)


def test_other_swapped_sizes_are_other_pictures(tmp_path: Path) -> None:
    for contributor, orientation in (("Label Studio", 1), ("Label Studio", 3), ("somebody", 6)):
        truth = label_studios(tmp_path, BOX, 40, 60, contributor)
        if contributor == "Label Studio":
            with pytest.raises(EvaluateError, match="another size"):
                evaluated(truth, turned(orientation))
            with pytest.raises(EvaluateError, match="another size"):
                compare(INFO, rows(turned(orientation)), CompareOptions(predictions="o", annotations=truth), Storage())
        else:
            # Anybody else's truth of the file's size is a truth of the file's pixels, see `test_frames`.
            assert any("lie on the pixels as stored" in note for note in evaluated(truth, turned(orientation)).notes)
            options = CompareOptions(predictions="o", annotations=truth)
            result = compare(INFO, rows(turned(orientation)), options, Storage())
            assert any("lie on the pixels as stored" in note for note in result.notes)


def test_people_draw_on_what_their_browser_shows(tmp_path: Path) -> None:
    # Browsers do not turn this file, and its detections were made on the upright picture.
    one = turned(6, browser=1)
    assert one.in_frame(BROWSER).height == 40
    browsers = one.in_frame(BROWSER).detections
    assert browsers is not None
    x1, y1, x2, y2 = (float(value) for value in browsers.xyxy[0])
    truth = label_studios(tmp_path, (x1, y1, x2 - x1, y2 - y1), 40, 60, "Label Studio")
    done = evaluated(truth, one)
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
    result = compare(INFO, rows(one), CompareOptions(predictions="o", annotations=str(path)), Storage())
    assert (result.images, result.total.counts["kept"]) == (1, 1)


def test_a_run_of_a_projects_tasks_is_found_by_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    tasks = [{"id": number, **task(f"s3://bucket/{folder}/x.jpg")} for number, folder in ((7, "a"), (8, "b"))]
    tasks[1]["annotations"][0]["result"] = []
    path.write_text(json.dumps(tasks))
    options = CompareOptions(predictions="o", annotations=str(path))
    every = rows(*upload_rows("8/x.jpg", "7/x.jpg"))
    info = dataclasses.replace(INFO, task_numbers=True)
    result = compare(info, every, options, Storage())
    assert (result.images, result.total.counts["kept"], result.total.counts["deleted"]) == (2, 1, 1)
    # Folders that are called by numbers are no tasks.
    with pytest.raises(EvaluateError, match="no image is clear"):
        compare(INFO, every, options, Storage())
