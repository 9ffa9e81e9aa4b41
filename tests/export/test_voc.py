"""Pascal VOC: exact on a tiny case, both ways to count pixels, names."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import ConfigError, ExportError
from prelabel.export.reading import ExportReport, Rows, RunInfo
from prelabel.export.voc import export_voc
from prelabel.export.voc_options import VocOptions
from prelabel.storage import Storage
from prelabel.store.run import ClassName
from tests.rows import INFO, failed_row, found, mask_of, row, rows

HOSTILE = "<b>&\"x'</b> \u00e4\u6f22\U0001f600#?%+"


def export(tmp_path: Path, every: Rows, info: RunInfo = INFO, **options: Any) -> ExportReport:
    return export_voc(info, every, str(tmp_path), VocOptions(**options), Storage())


def box(tmp_path: Path, name: str = "a") -> list[str | None]:
    root = ET.parse(tmp_path / "Annotations" / f"{name}.xml").getroot()  # noqa: S314
    return [root.findtext(f"object/bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]


def test_a_dog_to_the_letter(tmp_path: Path) -> None:
    report = export(tmp_path, rows(row("photos/a.jpg", found()), failed_row(), row("b.png")))
    assert (tmp_path / "Annotations/photos/a.xml").read_text() == (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        "<annotation>\n"
        "  <folder>JPEGImages</folder>\n"
        "  <filename>photos/a.jpg</filename>\n"
        "  <source><database>prelabel</database><annotation>stub-0123abcd</annotation><image>Unknown</image></source>\n"
        "  <size><width>6</width><height>4</height><depth>3</depth></size>\n"
        "  <segmented>0</segmented>\n"
        "  <object>\n"
        "    <name>Dog</name>\n"
        "    <pose>Unspecified</pose>\n"
        "    <truncated>0</truncated>\n"
        "    <difficult>0</difficult>\n"
        "    <occluded>0</occluded>\n"
        "    <bndbox><xmin>0</xmin><ymin>0</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>\n"
        "    <attributes><attribute><name>score</name><value>0.9</value></attribute></attributes>\n"
        "  </object>\n"
        "</annotation>\n"
    )
    assert ET.parse(tmp_path / "Annotations/b.xml").getroot().find("object") is None  # noqa: S314
    assert (tmp_path / "ImageSets/Main/train.txt").read_text() == "photos/a\nb\n"
    assert (tmp_path / "labelmap.txt").read_text() == (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nDog:237,100,29::\nCat:91,237,29::\n"
    )
    assert (report.images, report.failed, report.detections) == (2, 1, 1)


def test_boxes_keep_their_fractions_or_are_whole_pixels_from_one(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(xyxy=(0.5, 1, 3.126, 3.5))))
    export(tmp_path, every)
    assert box(tmp_path) == ["0.5", "1", "3.13", "3.5"]
    export(tmp_path, every, coordinates="one")
    assert box(tmp_path) == ["1", "2", "4", "4"]
    export(tmp_path, rows(row("a.jpg", found(xyxy=(0, 0, 6, 4)))), coordinates="one")
    assert box(tmp_path) == ["1", "1", "6", "4"]
    export(tmp_path, rows(row("a.jpg", found(xyxy=(2.2, 2.2, 2.6, 2.6)))), coordinates="one")
    assert box(tmp_path) == ["3", "3", "3", "3"]


def test_a_mask_gives_the_detectors_box(tmp_path: Path) -> None:
    mask = mask_of("......", ".##...", ".#....", "......")
    export(tmp_path, rows(row("a.jpg", found(xyxy=(1.4, 1.2, 2.7, 2.5), mask=mask))))
    assert box(tmp_path) == ["1.4", "1.2", "2.7", "2.5"]


def test_hostile_names_survive(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version=HOSTILE, classes=(ClassName(7, HOSTILE),))
    name = f"ph \u00e4/{HOSTILE}/ \u00e9.jpg".replace("</b>", "")
    export(tmp_path, rows(row(name, found(HOSTILE, category_id=7, mid=""))), info)
    root = ET.parse(tmp_path / "Annotations" / f"{name[:-4]}.xml").getroot()  # noqa: S314
    assert (root.findtext("filename"), root.findtext("object/name")) == (name, HOSTILE)
    assert (tmp_path / "ImageSets/Main/train.txt").read_text() == name[:-4] + "\n"


@pytest.mark.parametrize("label", ["a:b", "#a", " a", "a\nb", "a\x01"])
def test_labels_that_the_label_map_cannot_hold_are_refused(tmp_path: Path, label: str) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, label),))
    with pytest.raises(ExportError, match=r"cannot be a class in labelmap\.txt .*: rename it with class-map$"):
        export(tmp_path, rows(row("a.jpg", found(label, mid=""))), info)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "a\0.jpg/.."])
def test_names_never_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    if "\0" in name:
        assert export(tmp_path / "x", rows(row(name))).left_out == {"images whose names XML cannot hold": 1}
        return
    with pytest.raises(ExportError, match="has a name that leads out of the export's folder"):
        export(tmp_path / "x" / "y", rows(row(name, found())))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_names_that_readers_of_the_list_alter_are_left_out_and_counted(tmp_path: Path) -> None:
    names = [" a.jpg", "#b.jpg", "c .jpg", "d/ e.jpg", "d/#f.jpg", "g#.jpg"]
    report = export(tmp_path, rows(*(row(name, found()) for name in names)))
    stems = (tmp_path / "ImageSets/Main/train.txt").read_text().split("\n")[:-1]
    read = [line.strip() for line in stems if not line.strip().startswith("#")]
    assert read == stems == ["d/ e", "d/#f", "g#"]
    assert all((tmp_path / "Annotations" / f"{stem}.xml").exists() for stem in read)
    assert report.left_out == {"images whose names cannot stand in a list of files": 3}
    assert (report.images, report.detections) == (3, 3)


def test_twins_are_left_out_and_named(tmp_path: Path) -> None:
    report = export(tmp_path, rows(row("a.jpg", found()), row("a.png", found())))
    assert report.left_out == {"images whose name up to the ending another image has": 1}
    assert report.warnings == ("'a.png' is left out: another image has its name up to the ending",)
    assert report.detections == 1


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^subset must be a name of letters, digits and dashes, got '../x'$"):
        VocOptions(subset="../x")
    with pytest.raises(ConfigError, match=r"^coordinates must be one of zero, one, got 'two'$"):
        VocOptions(coordinates="two")
