"""CVAT's XML: exact on tiny cases, masks against a decoder written from the format's description, unusual names."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.detections import ClassName
from prelabel.errors import ConfigError, ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo
from prelabel.export.cvat import CvatOptions, cvat_mask, export_cvat
from prelabel.masks import rle
from prelabel.storage.files import Storage
from tests.messages import facts
from tests.rows import INFO, failed_row, found, mask_of, row, rows

LEFT_HALF = mask_of("###...", "###...", "###...", "###...")
UNUSUAL = "<b>&\"x'</b> \u00e4\u6f22\U0001f600 \t#?%+"


def export(tmp_path: Path, image_rows: Rows, info: RunInfo = INFO, **options: Any) -> tuple[ET.Element, ExportReport]:
    path = tmp_path / "cvat.xml"
    report = export_cvat(info, image_rows, str(path), CvatOptions.of(**options), Storage())
    return ET.fromstring(path.read_bytes()), report  # noqa: S314


def test_a_dog_with_a_mask_is_written_exactly(tmp_path: Path) -> None:
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
        "        <label><name>Dog</name><color>#d82828</color><type>any</type><attributes><attribute>"
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
        files=(str(path),), images=1, failed=0, detections=1, dropped={}, warnings=(), regions=1
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
def test_decoded_masks_equal_the_written_masks(share: float) -> None:
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


def test_boxes_and_polygons_are_written_exactly(tmp_path: Path) -> None:
    boxed = found("Cat", 0.5, (0.5, 1, 3.126, 3.5), category_id=2, mid="/m/01yrx")
    root, _ = export(tmp_path, rows(row("a.jpg", boxed)))
    (box,) = root.iter("box")
    assert [box.get(key) for key in ("label", "xtl", "ytl", "xbr", "ybr")] == ["Cat", "0.50", "1.00", "3.13", "3.50"]
    parts = mask_of("##....", "##....", "....##", "....##")
    split = {"segmentation": "polygon", "mask_parts": "split"}
    root, report = export(tmp_path, rows(row("a.jpg", found(mask=parts), found(mask=LEFT_HALF, score=0.8))), **split)
    polygons = [(polygon.get("points"), polygon.get("group_id")) for polygon in root.iter("polygon")]
    assert polygons == [
        ("0.00,0.00;2.00,0.00;2.00,2.00;0.00,2.00", "1"),
        ("4.00,2.00;6.00,2.00;6.00,4.00;4.00,4.00", "1"),
        ("0.00,0.00;3.00,0.00;3.00,4.00;0.00,4.00", None),
    ]
    assert (report.detections, report.regions) == (2, 3)
    two = [row(name, found(mask=parts), found(mask=parts)) for name in ("a.jpg", "b.jpg")]
    root, _ = export(tmp_path, rows(*two), **split)
    groups = [[shape.get("group_id") for shape in image] for image in root.iter("image")]
    assert groups == [["1", "1", "2", "2"]] * 2
    root, report = export(tmp_path, rows(row("a.jpg", found(mask=parts))), segmentation="polygon")
    assert [(polygon.get("points"), polygon.get("group_id")) for polygon in root.iter("polygon")] == [
        ("0.00,0.00;2.00,0.00;2.00,2.00;4.00,2.00;6.00,2.00;6.00,4.00;4.00,4.00;4.00,2.00;2.00,2.00;0.00,2.00", None)
    ]
    assert (report.detections, report.regions) == (1, 1)
    root, _ = export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF))), segmentation="none")
    assert [shape.tag for shape in root.iterfind("image/*")] == ["box"]


def test_failed_images_are_dropped_and_other_images_keep_their_number(tmp_path: Path) -> None:
    root, report = export(tmp_path, rows(row("a.jpg"), failed_row(), row("c.jpg", found())))
    assert [(image.get("id"), image.get("name"), len(image)) for image in root.iter("image")] == [
        ("0", "a.jpg", 0),
        ("2", "c.jpg", 1),
    ]
    assert (report.images, report.failed, report.detections) == (2, 1, 1)


def test_unusual_names_are_written_unchanged(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version=UNUSUAL, classes=(ClassName(7, UNUSUAL),))
    name = f"photos/{UNUSUAL}\n\r/\u00e9 .jpg"
    root, _ = export(tmp_path, rows(row(name, found(UNUSUAL, category_id=7, mid=""))), info)
    assert [image.get("name") for image in root.iter("image")] == [name]
    assert [box.get("label") for box in root.iter("box")] == [UNUSUAL]
    assert root.findtext("meta/task/labels/label/name") == UNUSUAL


def test_names_that_xml_cannot_contain_are_dropped_or_refused(tmp_path: Path) -> None:
    _, report = export(tmp_path, rows(row("a\x07.jpg", found()), row("b\udcff.jpg", found())))
    assert report.dropped == {"images whose names cannot be written in XML": 2}
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, "a\x00"),))
    with pytest.raises(ExportError, match=facts(r"'a\x00'", "CVAT", "class-map")):
        export(tmp_path, rows(), info)


def test_a_zip_holds_the_same_xml_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(mask=LEFT_HALF)))
    export(tmp_path, image_rows)
    for name in ("1.zip", "2.zip"):
        export_cvat(INFO, image_rows, str(tmp_path / name), CvatOptions(zip=name == "1.zip"), Storage())
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.namelist() == ["annotations.xml"]
        assert archive.testzip() is None
        assert archive.read("annotations.xml") == (tmp_path / "cvat.xml").read_bytes()
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    export_cvat(INFO, image_rows, f"memory://{tmp_path.name}/c.zip", CvatOptions(zip=True), Storage())
    assert Storage().read(f"memory://{tmp_path.name}/c.zip") == (tmp_path / "1.zip").read_bytes()


def test_a_zip_file_must_not_be_named_xml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=facts("--zip", "cvat.XML")):
        export_cvat(INFO, rows(row("a.jpg")), str(tmp_path / "cvat.XML"), CvatOptions(zip=True), Storage())


def test_labels_have_the_attribute_that_keeps_the_score(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    root, report = export(tmp_path, rows(row("a.jpg", found())), labels_file=str(path), labels="present")
    assert [name.text for name in root.iterfind("meta/task/labels/label/name")] == ["Dog"]
    (label,) = json.loads(path.read_text())
    assert (label["name"], label["attributes"][0]["name"], label["attributes"][0]["input_type"]) == (
        "Dog",
        "score",
        "text",
    )
    assert report.files == (str(tmp_path / "cvat.xml"), str(path))
    root, _ = export(tmp_path, rows(row("a.jpg", found())))
    assert [name.text for name in root.iterfind("meta/task/labels/label/name")] == ["Dog", "Cat"]


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=facts("a.jpg", "5 x 6")):
        export(tmp_path, rows(row("a.jpg", found(mask=LEFT_HALF), height=5)))
    assert list(tmp_path.iterdir()) == []


def test_invalid_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=facts("segmentation", "rle", "polygon", "none", "'mask'")):
        CvatOptions(segmentation="mask")
    with pytest.raises(ConfigError, match=facts("polygon-tolerance", "0", "-1")):
        CvatOptions(polygon_tolerance=-1)
