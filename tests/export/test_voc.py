"""Pascal VOC: exact on a tiny case, both ways of counting pixels, unusual names."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from prelabel.detections import ClassName
from prelabel.errors import ConfigError, ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo
from prelabel.export.voc import VocOptions, export_voc
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.messages import facts, told
from tests.rows import INFO, failed_row, found, mask_of, row, rows
from tests.runs import write_run

UNUSUAL = "<b>&\"x'</b> \u00e4\u6f22\U0001f600#?%+"


def export(tmp_path: Path, image_rows: Rows, info: RunInfo = INFO, **options: Any) -> ExportReport:
    return export_voc(info, image_rows, str(tmp_path), VocOptions.of(**options), Storage())


def box(tmp_path: Path, name: str = "a") -> list[str | None]:
    root = ET.parse(tmp_path / "Annotations" / f"{name}.xml").getroot()  # noqa: S314
    return [root.findtext(f"object/bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]


def test_a_dog_is_written_exactly(tmp_path: Path) -> None:
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
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nDog:216,40,40::\nCat:8,8,248::\n"
    )
    assert (report.images, report.failed, report.detections) == (2, 1, 1)


def test_boxes_keep_their_fractions_or_are_whole_pixels_from_one(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(xyxy=(0.5, 1, 3.126, 3.5))))
    export(tmp_path, image_rows)
    assert box(tmp_path) == ["0.5", "1", "3.13", "3.5"]
    export(tmp_path, image_rows, coordinates="one")
    assert box(tmp_path) == ["1", "2", "4", "4"]
    export(tmp_path, rows(row("a.jpg", found(xyxy=(0, 0, 6, 4)))), coordinates="one")
    assert box(tmp_path) == ["1", "1", "6", "4"]
    export(tmp_path, rows(row("a.jpg", found(xyxy=(2.2, 2.2, 2.6, 2.6)))), coordinates="one")
    assert box(tmp_path) == ["3", "3", "3", "3"]


def test_a_detection_with_a_mask_has_the_box_of_the_detector(tmp_path: Path) -> None:
    mask = mask_of("......", ".##...", ".#....", "......")
    export(tmp_path, rows(row("a.jpg", found(xyxy=(1.4, 1.2, 2.7, 2.5), mask=mask))))
    assert box(tmp_path) == ["1.4", "1.2", "2.7", "2.5"]


def test_unusual_names_are_written_unchanged(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version=UNUSUAL, classes=(ClassName(7, UNUSUAL),))
    name = f"ph \u00e4/{UNUSUAL}/ \u00e9.jpg".replace("</b>", "")
    export(tmp_path, rows(row(name, found(UNUSUAL, category_id=7, mid=""))), info)
    root = ET.parse(tmp_path / "Annotations" / f"{name[:-4]}.xml").getroot()  # noqa: S314
    assert (root.findtext("filename"), root.findtext("object/name")) == (name, UNUSUAL)
    assert (tmp_path / "ImageSets/Main/train.txt").read_text() == name[:-4] + "\n"


@pytest.mark.parametrize("label", ["a:b", "#a", " a", "a\nb", "a\x01"])
def test_labels_that_the_label_map_cannot_hold_are_refused(tmp_path: Path, label: str) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, label),))
    with pytest.raises(ExportError, match=facts("labelmap.txt", repr(label), "class-map")):
        export(tmp_path, rows(row("a.jpg", found(label, mid=""))), info)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "a\0.jpg/.."])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    if "\0" in name:
        assert export(tmp_path / "x", rows(row(name))).dropped == {"images whose names cannot be written in XML": 1}
        return
    with pytest.raises(ExportError, match=facts(repr(name), "folder")):
        export(tmp_path / "x" / "y", rows(row(name, found())))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_names_that_readers_of_the_list_alter_are_dropped_and_counted(tmp_path: Path) -> None:
    names = [" a.jpg", "#b.jpg", "c .jpg", "d/ e.jpg", "d/#f.jpg", "g#.jpg"]
    report = export(tmp_path, rows(*(row(name, found()) for name in names)))
    stems = (tmp_path / "ImageSets/Main/train.txt").read_text().split("\n")[:-1]
    read = [line.strip() for line in stems if not line.strip().startswith("#")]
    assert read == stems == ["d/ e", "d/#f", "g#"]
    assert all((tmp_path / "Annotations" / f"{stem}.xml").exists() for stem in read)
    assert report.dropped == {"images whose names cannot be written in a list of files": 3}
    assert (report.images, report.detections) == (3, 3)


def test_images_with_equal_stems_are_dropped_and_listed(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found()), row("a.png", found()), row("b/a.jpg"), row("a.gif"), row("b/a.tif"))
    report = export(tmp_path, image_rows)
    assert report.dropped == {"images with the same name as another one except for the extension": 3}
    assert told(report.warnings, "3 images", "dropped", "'a.png'", "name-conflicts.csv", "--image-files copy")
    listed = ["image_id,file_name,written_as", "a.png,a.png,", "a.gif,a.gif,", "b/a.tif,b/a.tif,"]
    assert (tmp_path / "name-conflicts.csv").read_text().splitlines() == listed
    assert report.detections == 1
    # An export without conflicts deletes the list of an earlier export.
    export(tmp_path, rows(row("a.jpg")))
    assert not (tmp_path / "name-conflicts.csv").exists()


def test_images_with_equal_stems_are_copied_under_other_names(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    names = ["a.jpg", "a.png", "b.jpg", "a.gif"]
    for name in names:
        (source / name).write_bytes(name.encode())
    shards = [[row(name, found(), uri=str(source / name)) for name in part] for part in (names[:2], names[2:])]
    run = open_run(write_run(tmp_path / "run", shards), Storage())
    to = tmp_path / "out"
    report = export(to, run.rows, image_files="link")
    assert report.dropped == {}
    assert (report.images, report.detections) == (4, 4)
    with (to / "name-conflicts.csv").open() as file:
        written = {line["file_name"]: line["written_as"] for line in csv.DictReader(file)}
    assert list(written) == ["a.png", "a.gif"]
    assert told(report.warnings, "2 images", "other names", repr(written["a.png"]), "name-conflicts.csv")
    name_in_export = {name: written.get(name, name) for name in names}
    assert {new: (to / "JPEGImages" / new).read_bytes().decode() for new in name_in_export.values()} == {
        new: name for name, new in name_in_export.items()
    }
    stems = [new.rpartition(".")[0] for new in name_in_export.values()]
    assert (to / "ImageSets/Main/train.txt").read_text().splitlines() == stems
    for new, stem in zip(name_in_export.values(), stems, strict=True):
        assert f"<filename>{new}</filename>" in (to / f"Annotations/{stem}.xml").read_text()
    # The same images get the same names in every export.
    assert export(to, run.rows, image_files="link") == report


def test_invalid_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=facts("subset", "letters", "digits", "'../x'")):
        VocOptions(subset="../x")
    with pytest.raises(ConfigError, match=facts("coordinates", "zero", "one", "'two'")):
        VocOptions(coordinates="two")
