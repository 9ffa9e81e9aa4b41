"""YOLO's files: exact on tiny cases, in the paths where YOLO looks for them, and names that they cannot contain."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from prelabel.detections import ClassName
from prelabel.errors import ConfigError, ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo
from prelabel.export.yolo import YoloOptions, export_yolo, label_path
from prelabel.storage.files import Storage
from tests.messages import facts, tells, told
from tests.rows import INFO, failed_row, found, mask_of, row, rows

LEFT_HALF = mask_of("###...", "###...", "###...", "###...")
UNUSUAL = "<b>&\"x\\'</b> \u00e4\u6f22\U0001f600\u202e#?%+:"


def export(tmp_path: Path, image_rows: Rows, info: RunInfo = INFO, **options: Any) -> ExportReport:
    return export_yolo(info, image_rows, str(tmp_path), YoloOptions.of(**options), Storage())


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_box_is_written_exactly(tmp_path: Path) -> None:
    report = export(tmp_path, rows(row("photos/a.jpg", found()), failed_row(), row("b.png")))
    assert files(tmp_path) == {
        "labels/train/photos/a.txt": "0 0.25 0.5 0.5 1\n",
        "labels/train/b.txt": "",
        "train.txt": "./images/train/photos/a.jpg\n./images/train/b.png\n",
        "data.yaml": "# Pre-annotations made by stub-0123abcd\n"
        "# No images were set apart for validation: val names the same list.\n"
        'train: train.txt\nval: train.txt\nnc: 2\nnames:\n  0: "Dog"\n  1: "Cat"\n',
    }
    assert (report.images, report.failed, report.detections, report.dropped) == (2, 1, 1, {})
    assert len(report.warnings) == 1
    assert tells(report.warnings[0], "images/train/", "labels/")


def test_a_mask_is_a_segment_and_so_are_boxes_in_the_same_file(tmp_path: Path) -> None:
    image_rows = rows(
        row("a.jpg", found(mask=LEFT_HALF), found("Cat", 0.5, (3, 0, 6, 2), category_id=2, mid="/m/01yrx"))
    )
    export(tmp_path, image_rows)
    assert files(tmp_path)["labels/train/a.txt"] == "0 0 0 0.5 0 0.5 1 0 1\n1 0.5 0 1 0 1 0.5 0.5 0.5\n"
    export(tmp_path, image_rows, segmentation="none")
    assert files(tmp_path)["labels/train/a.txt"] == "0 0.25 0.5 0.5 1\n1 0.75 0.25 0.5 0.5\n"


def test_parts_are_joined_to_one_segment_by_a_bridge_without_width(tmp_path: Path) -> None:
    parts = mask_of("##..##", "##..##", "......", "#.....")
    report = export(tmp_path, rows(row("a.jpg", found(mask=parts))))
    (line,) = files(tmp_path)["labels/train/a.txt"].splitlines()
    x, y = np.array(line.split()[1:], float).reshape(-1, 2).T * [[6], [4]]
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == pytest.approx(4 + 4 + 1, abs=1e-4)
    assert (report.detections, report.dropped) == (1, {})


@pytest.mark.parametrize("name", ["train.txt", "TRAIN.txt", "val.txt", "./train.txt"])
def test_a_list_of_classes_in_the_folder_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dog\n")
    with pytest.raises(ConfigError, match=facts("categories", f"{tmp_path}/{Path(name).name.lower()}")):
        export(tmp_path, rows(row("a.jpg", found())), categories=f"{tmp_path}/{name}")
    assert (tmp_path / name).read_text() == "Dog\n"


def test_a_run_is_not_written_into_its_own_shards(tmp_path: Path) -> None:
    info = dataclasses.replace(INFO, output=str(tmp_path))
    for folder in ("shards", "plan/deeper"):
        with pytest.raises(ConfigError, match=facts(f"{tmp_path}/{folder}") + r".*(?<![\w/])run(?![\w/.])"):
            export_yolo(info, rows(row("a.jpg")), str(tmp_path / folder), YoloOptions(), Storage())


def test_scores_are_at_the_end_of_the_lines_of_boxes(tmp_path: Path) -> None:
    export(tmp_path, rows(row("a.jpg", found(score=0.9))), segmentation="none", scores=True)
    assert files(tmp_path)["labels/train/a.txt"] == "0 0.25 0.5 0.5 1 0.9\n"
    with pytest.raises(ConfigError, match=facts("scores", "segments", "segmentation none")):
        YoloOptions(scores=True)


def test_class_numbers_count_from_zero_without_gaps(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(17, "Cat"), ClassName(90, "Dog")))
    dog = found(category_id=90, mid="")
    export(tmp_path, rows(row("a.jpg", dog)), info)
    assert files(tmp_path)["labels/train/a.txt"].startswith("1 ")
    assert yaml.safe_load(files(tmp_path)["data.yaml"])["names"] == {0: "Cat", 1: "Dog"}
    export(tmp_path, rows(row("a.jpg", dog)), info, labels="present")
    assert files(tmp_path)["labels/train/a.txt"].startswith("0 ")
    assert yaml.safe_load(files(tmp_path)["data.yaml"])["names"] == {0: "Dog"}
    (tmp_path / "names.txt").write_text("bird\ndog\n")
    export(tmp_path, rows(row("a.jpg", dog)), info, categories=str(tmp_path / "names.txt"))
    assert yaml.safe_load(files(tmp_path)["data.yaml"])["names"] == {0: "bird", 1: "dog"}
    assert files(tmp_path)["labels/train/a.txt"].startswith("1 ")


def test_class_numbers_that_depend_on_the_run_give_a_note(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v")
    (tmp_path / "names.txt").write_text("Cat\nDog\n")

    def notes(info: RunInfo, **options: Any) -> str:
        return "\n".join(export(tmp_path, rows(row("a.jpg", found())), info, **options).warnings)

    assert tells(notes(info), "class|classes", "numbers", "run", "categories", "label map", "COCO")
    assert not tells(notes(info, categories=str(tmp_path / "names.txt")), "numbers|categories")
    assert not tells(notes(INFO), "numbers|categories")


def test_without_a_class_list_the_classes_that_occur_are_numbered(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v")
    export(tmp_path, rows(row("a.jpg", found(category_id=404), found("Cat", 0.1, category_id=160, mid=""))), info)
    assert yaml.safe_load(files(tmp_path)["data.yaml"])["names"] == {0: "Cat", 1: "Dog"}
    export(tmp_path, rows(), info)
    assert yaml.safe_load(files(tmp_path)["data.yaml"])["names"] == {}


def test_unusual_names_are_written_unchanged(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="a\nb", classes=(ClassName(7, UNUSUAL),))
    name = f"ph \u00e4/{UNUSUAL}/\u00e9 .jpg".replace("</b>", "")
    export(tmp_path, rows(row(name, found(UNUSUAL, category_id=7, mid=""))), info)
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == {0: UNUSUAL}
    assert (tmp_path / "train.txt").read_text() == f"./images/train/{name}\n"
    assert (tmp_path / "labels/train" / f"{name[:-4]}.txt").read_text() == "0 0.25 0.5 0.5 1\n"


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", ".."])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "x" / "y"
    with pytest.raises(ExportError, match=facts(repr(name), "folder")):
        export_yolo(INFO, rows(row(name, found())), str(inside), YoloOptions(), Storage())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_names_that_a_list_cannot_contain_and_equal_stems_are_dropped_and_counted(tmp_path: Path) -> None:
    report = export(
        tmp_path, rows(row("a\nb.jpg", found()), row("x//y.jpg"), row("a.jpg", found()), row("a.png"), row("b/a.png"))
    )
    assert report.dropped == {
        "images with the same name as another one except for the extension": 1,
        "images whose names cannot be written in a list of files": 2,
    }
    assert told(report.warnings, "'a.png'", "name", "name-conflicts.csv", "--image-files link")
    assert (tmp_path / "name-conflicts.csv").read_text() == "image_id,file_name,written_as\na.png,a.png,\n"
    assert str(tmp_path / "name-conflicts.csv") in report.files
    assert (tmp_path / "train.txt").read_text() == "./images/train/a.jpg\n./images/train/b/a.png\n"
    assert (report.images, report.detections) == (2, 1)


def test_names_that_readers_of_the_list_alter_are_dropped_and_counted(tmp_path: Path) -> None:
    image_rows = rows(row("vol./a.jpg", found()), row("b..jpg", found()), row("v.o/c.jpg"), row(".../d.jpg"))
    report = export(tmp_path, image_rows)
    lines = (tmp_path / "train.txt").read_text().splitlines()
    # As Ultralytics makes full paths from the lines.
    assert [line.replace("./", "/data/") for line in lines] == [
        "/data/images/train/b..jpg",
        "/data/images/train/v.o/c.jpg",
    ]
    assert report.dropped == {"images whose names cannot be written in a list of files": 2}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/train/a.b/c", "labels/train/a.b/c.txt"),
        ("images/train/images/a.b.jpg", "images/train/labels/a.b.txt"),
        ("images/train/my images/a.jpg", "labels/train/my images/a.txt"),
    ],
)
def test_label_files_are_where_yolo_looks_for_them(image: str, label: str) -> None:
    assert label_path(image) == label


def test_the_validation_set_is_a_share_of_the_images_and_always_the_same(tmp_path: Path) -> None:
    image_rows = [row(f"{i}.jpg", found()) for i in range(200)]
    report = export(tmp_path / "1", rows(*image_rows), val_share=0.2)
    export(tmp_path / "2", rows(*image_rows[::-1]), val_share=0.2)
    sets = [set((tmp_path / n / "val.txt").read_text().splitlines()) for n in "12"]
    assert sets[0] == sets[1]
    assert 20 <= len(sets[0]) <= 60
    assert report.images == 200
    assert len((tmp_path / "1" / "train.txt").read_text().splitlines()) == 200 - len(sets[0])
    data = yaml.safe_load((tmp_path / "1" / "data.yaml").read_text())
    assert (data["train"], data["val"]) == ("train.txt", "val.txt")


def test_images_are_linked_or_copied(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "a b.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"jpeg")
    image_rows = rows(row("sub/a b.jpg", found(), uri=str(photo)))
    report = export(tmp_path / "out", image_rows, image_files="link")
    export(tmp_path / "out", image_rows, image_files="link")
    place = tmp_path / "out/images/train/sub/a b.jpg"
    assert place.is_symlink()
    assert place.read_bytes() == b"jpeg"
    assert report.warnings == ()
    export(tmp_path / "copy", image_rows, image_files="copy")
    assert not (tmp_path / "copy/images/train/sub/a b.jpg").is_symlink()
    assert (tmp_path / "copy/images/train/sub/a b.jpg").read_bytes() == b"jpeg"
    with pytest.raises(ExportError, match=facts("'a.jpg'", "link|linked", "copy|copied", "disk")):
        export(tmp_path / "no", rows(row("a.jpg", found())), image_files="link")


def test_an_image_is_never_replaced_by_a_link_to_itself(tmp_path: Path) -> None:
    photo = tmp_path / "images" / "train" / "a.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"jpeg")
    with pytest.raises(ExportError, match=facts(str(photo), "folder")):
        export(tmp_path, rows(row("a.jpg", found(), uri=str(photo))), image_files="link")
    assert photo.read_bytes() == b"jpeg"


def test_object_storage_gets_the_same_files(tmp_path: Path) -> None:
    root, storage = f"memory://{tmp_path.name}", Storage()
    export_yolo(INFO, rows(row("a.jpg", found())), root, YoloOptions(), storage)
    assert storage.read(f"{root}/labels/train/a.txt") == b"0 0.25 0.5 0.5 1\n"
    assert sorted(storage.names(root)) == ["data.yaml", "train.txt"]


def test_invalid_options_are_refused() -> None:
    for options, expected in (
        ({"image_files": "move"}, ("image-files", "none", "link", "copy", "'move'")),
        ({"images": "copy"}, ("images", ".csv", "'copy'")),
        ({"val_share": 1.0}, ("val-share", "0", "1", "1.0")),
        ({"polygon_tolerance": -1.0}, ("polygon-tolerance", "0", "-1.0")),
    ):
        with pytest.raises(ConfigError) as error:
            YoloOptions.of(**options)
        assert tells(str(error.value), *expected)
