"""CVAT's XML: exact on tiny cases, masks against a decoder written from the format's description, hostile names."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel import rle
from prelabel.errors import ConfigError, ExportError
from prelabel.export.cvat import cvat_mask, export_cvat
from prelabel.export.cvat_options import CvatOptions
from prelabel.export.reading import ExportReport, Rows, RunInfo
from prelabel.storage import Storage
from prelabel.store.run import ClassName
from tests.rows import INFO, failed_row, found, mask_of, row, rows

LEFT_HALF = mask_of("###...", "###...", "###...", "###...")
HOSTILE = "<b>&\"x'</b> \u00e4\u6f22\U0001f600 \t#?%+"


def export(tmp_path: Path, every: Rows, info: RunInfo = INFO, **options: Any) -> tuple[ET.Element, ExportReport]:
    path = tmp_path / "cvat.xml"
    report = export_cvat(info, every, str(path), CvatOptions(**options), Storage())
    return ET.fromstring(path.read_bytes()), report  # noqa: S314


def test_a_dog_with_a_mask_to_the_letter(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="stub-1", classes=(ClassName(1, "Dog"),), created="2026-11-20")
    path = tmp_path / "cvat.xml"
    report = export_cvat(info, rows(row("a.jpg", found(mask=LEFT_HALF))), str(path), CvatOptions(), Storage())
    assert path.read_text() == (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        "<annotations>\n"
        "  <version>1.1</version>\n"
        "  <meta>\n"
        "    <task>\n"
        "      <name>Pre-annotations made by stub-1</name>\n"
        "      <mode>annotation</mode>\n"
        "      <created>2026-11-20</created>\n"
        "      <labels>\n"
        "        <label><name>Dog</name><color>#ed641d</color><type>any</type><attributes><attribute>"
        "<name>score</name><mutable>False</mutable><input_type>text</input_type><default_value></default_value>"
        "<values></values></attribute></attributes></label>\n"
        "      </labels>\n"
        "    </task>\n"
        "    <dumped>2026-11-20</dumped>\n"
        "  </meta>\n"
        '  <image id="0" name="a.jpg" width="6" height="4">\n'
        '    <mask label="Dog" source="auto" occluded="0" rle="0, 12" left="0" top="0" width="3" height="4" '
        'z_order="0">\n'
        '      <attribute name="score">0.9</attribute>\n'
        "    </mask>\n"
        "  </image>\n"
        "</annotations>\n"
    )
    assert report == ExportReport(
        files=(str(path),), images=1, failed=0, detections=1, left_out={}, warnings=(), regions=1
    )


def test_a_mask_is_read_row_by_row_within_its_box() -> None:
    mask = mask_of(
        "......",
        "..##..",
        "...#..",
        "..#.#.",
    )
    assert cvat_mask(mask, 4, 6) == {"rle": "0, 2, 2, 1, 1, 1, 1, 1", "left": 2, "top": 1, "width": 3, "height": 3}


def decoded(mask: dict[str, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    runs = [int(run) for run in mask["rle"].split(",")]
    crop = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(mask["height"], mask["width"])
    image = np.zeros((height, width), bool)
    image[mask["top"] : mask["top"] + mask["height"], mask["left"] : mask["left"] + mask["width"]] = crop
    return image


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_masks_come_back(share: float) -> None:
    random = np.random.default_rng(int(share * 100))
    for _ in range(200):
        height, width = random.integers(1, 12, 2)
        mask = np.zeros((height, width), bool)
        top, left = random.integers(0, height), random.integers(0, width)
        mask[top:, left:] = random.random((height - top, width - left)) < share
        mask[top, left] = True
        written = cvat_mask(rle.encode(mask), height, width)
        assert np.array_equal(decoded(written, height, width), mask)
        assert "-" not in str(written["rle"])


def test_boxes_and_polygons(tmp_path: Path) -> None:
    boxed = found("Cat", 0.5, (0.5, 1, 3.126, 3.5), category_id=2, mid="/m/01yrx")
    root, _ = export(tmp_path, rows(row("a.jpg", boxed)))
    (box,) = root.iter("box")
    assert [box.get(key) for key in ("label", "xtl", "ytl", "xbr", "ybr")] == ["Cat", "0.50", "1.00", "3.13", "3.50"]
    parts = mask_of("##....", "##....", "....##", "....##")
    split = {"segmentation": "polygon", "mask_parts": "split"}
    root, report = export(tmp_path, rows(row("a.jpg", found(mask=parts), found(mask=LEFT_HALF, score=0.8))), **split)
    polygons = [(one.get("points"), one.get("group_id")) for one in root.iter("polygon")]
    assert polygons == [
        ("0.00,0.00;2.00,0.00;2.00,2.00;0.00,2.00", "1"),
        ("4.00,2.00;6.00,2.00;6.00,4.00;4.00,4.00", "1"),
        ("0.00,0.00;3.00,0.00;3.00,4.00;0.00,4.00", None),
    ]
    assert (report.detections, report.regions) == (2, 3)
    two = [row(name, found(mask=parts), found(mask=parts)) for name in ("a.jpg", "b.jpg")]
    root, _ = export(tmp_path, rows(*two), **split)
    groups = [[one.get("group_id") for one in image] for image in root.iter("image")]
    assert groups == [["1", "1", "2", "2"]] * 2
    root, report = export(tmp_path, rows(row("a.jpg", found(mask=parts))), segmentation="polygon")
    assert [(one.get("points"), one.get("group_id")) for one in root.iter("polygon")] == [
        ("0.00,0.00;2.00,0.00;2.00,2.00;4.00,2.00;6.00,2.00;6.00,4.00;4.00,4.00;4.00,2.00;2.00,2.00;0.00,2.00", None)
    ]
    assert (report.detections, report.regions) == (1, 1)
    root, _ = export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF))), segmentation="none")
    assert [one.tag for one in root.iterfind("image/*")] == ["box"]


def test_failed_images_are_left_out_and_the_others_keep_their_number(tmp_path: Path) -> None:
    root, report = export(tmp_path, rows(row("a.jpg"), failed_row(), row("c.jpg", found())))
    assert [(one.get("id"), one.get("name"), len(one)) for one in root.iter("image")] == [
        ("0", "a.jpg", 0),
        ("2", "c.jpg", 1),
    ]
    assert (report.images, report.failed, report.detections) == (2, 1, 1)


def test_hostile_names_survive(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version=HOSTILE, classes=(ClassName(7, HOSTILE),))
    name = f"photos/{HOSTILE}\n\r/\u00e9 .jpg"
    root, _ = export(tmp_path, rows(row(name, found(HOSTILE, category_id=7, mid=""))), info)
    assert [one.get("name") for one in root.iter("image")] == [name]
    assert [one.get("label") for one in root.iter("box")] == [HOSTILE]
    assert root.findtext("meta/task/labels/label/name") == HOSTILE


def test_what_xml_cannot_hold(tmp_path: Path) -> None:
    _, report = export(tmp_path, rows(row("a\x07.jpg", found()), row("b\udcff.jpg", found())))
    assert report.left_out == {"images whose names XML cannot hold": 2}
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, "a\x00"),))
    with pytest.raises(ExportError, match=r"^'a\\x00' cannot be a label in CVAT: rename it with class-map$"):
        export(tmp_path, rows(), info)


def test_a_zip_holds_the_same_xml_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(mask=LEFT_HALF)))
    export(tmp_path, every)
    for name in ("1.zip", "2.zip"):
        export_cvat(INFO, every, str(tmp_path / name), CvatOptions(zip=True), Storage())
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.namelist() == ["annotations.xml"]
        assert archive.testzip() is None
        assert archive.read("annotations.xml") == (tmp_path / "cvat.xml").read_bytes()
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    export_cvat(INFO, every, f"memory://{tmp_path.name}/c.zip", CvatOptions(zip=True), Storage())
    assert Storage().read(f"memory://{tmp_path.name}/c.zip") == (tmp_path / "1.zip").read_bytes()


@pytest.mark.parametrize(("name", "zipped"), [("cvat.zip", False), ("cvat.XML", True)])
def test_a_file_is_not_called_what_it_is_not(tmp_path: Path, name: str, zipped: bool) -> None:
    with pytest.raises(ConfigError, match=rf"zip.*got '.*{name}'$"):
        export_cvat(INFO, rows(row("a.jpg")), str(tmp_path / name), CvatOptions(zip=zipped), Storage())


def test_labels_are_stated_with_the_attribute_that_keeps_the_score(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    root, report = export(tmp_path, rows(row("a.jpg", found())), labels_file=str(path), labels="present")
    assert [one.text for one in root.iterfind("meta/task/labels/label/name")] == ["Dog"]
    (label,) = json.loads(path.read_text())
    assert (label["name"], label["attributes"][0]["name"], label["attributes"][0]["input_type"]) == (
        "Dog",
        "score",
        "text",
    )
    assert report.files == (str(tmp_path / "cvat.xml"), str(path))
    root, _ = export(tmp_path, rows(row("a.jpg", found())))
    assert [one.text for one in root.iterfind("meta/task/labels/label/name")] == ["Dog", "Cat"]


def test_nothing_stays_of_an_export_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^image 'a\.jpg': RLE for 5 x 6"):
        export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF), height=5)))
    assert list(tmp_path.iterdir()) == []


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^segmentation must be one of rle, polygon, none, got 'mask'$"):
        CvatOptions(segmentation="mask")
    with pytest.raises(ConfigError, match=r"^polygon-tolerance must be 0 or more, got -1$"):
        CvatOptions(polygon_tolerance=-1)
