"""YOLO's files: exact on tiny cases, where their reader looks for them, and what cannot be in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from prelabel.errors import ConfigError, ExportError
from prelabel.export.reading import ExportReport, Rows, RunInfo
from prelabel.export.yolo import export_yolo, label_path
from prelabel.export.yolo_options import YoloOptions
from prelabel.storage import Storage
from prelabel.store.run import ClassName
from tests.rows import INFO, failed_row, found, mask_of, row, rows

LEFT_HALF = mask_of("###...", "###...", "###...", "###...")
HOSTILE = "<b>&\"x\\'</b> \u00e4\u6f22\U0001f600\u202e#?%+:"


def export(tmp_path: Path, every: Rows, info: RunInfo = INFO, **options: Any) -> ExportReport:
    return export_yolo(info, every, str(tmp_path), YoloOptions(**options), Storage())


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_dog_in_a_box(tmp_path: Path) -> None:
    report = export(tmp_path, rows(row("photos/a.jpg", found()), failed_row(), row("b.png")))
    assert files(tmp_path) == {
        "labels/train/photos/a.txt": "0 0.25 0.5 0.5 1\n",
        "labels/train/b.txt": "",
        "train.txt": "./images/train/photos/a.jpg\n./images/train/b.png\n",
        "data.yaml": "# Pre-annotations made by stub-0123abcd\n"
        "# No images were set apart for validation: val names the same list.\n"
        'train: train.txt\nval: train.txt\nnc: 2\nnames:\n  0: "Dog"\n  1: "Cat"\n',
    }
    assert (report.images, report.failed, report.detections, report.left_out) == (2, 1, 1, {})
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("the images are looked for in images/train/ beside labels/")


def test_a_mask_is_a_segment_and_boxes_beside_it_are_too(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(mask=LEFT_HALF), found("Cat", 0.5, (3, 0, 6, 2), category_id=2, mid="/m/01yrx")))
    export(tmp_path, every)
    assert files(tmp_path)["labels/train/a.txt"] == "0 0 0 0.5 0 0.5 1 0 1\n1 0.5 0 1 0 1 0.5 0.5 0.5\n"
    export(tmp_path, every, segmentation="none")
    assert files(tmp_path)["labels/train/a.txt"] == "0 0.25 0.5 0.5 1\n1 0.75 0.25 0.5 0.5\n"


def test_parts_are_one_segment_over_a_bridge_without_width(tmp_path: Path) -> None:
    parts = mask_of("##..##", "##..##", "......", "#.....")
    report = export(tmp_path, rows(row("a.jpg", found(mask=parts))))
    (line,) = files(tmp_path)["labels/train/a.txt"].splitlines()
    x, y = np.array(line.split()[1:], float).reshape(-1, 2).T * [[6], [4]]
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == pytest.approx(4 + 4 + 1, abs=1e-4)
    assert (report.detections, report.left_out) == (1, {})


@pytest.mark.parametrize("name", ["train.txt", "TRAIN.txt", "val.txt", "./train.txt"])
def test_a_list_of_classes_in_the_folder_is_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dog\n")
    with pytest.raises(ConfigError, match="categories are the same file"):
        export(tmp_path, rows(row("a.jpg", found())), categories=f"{tmp_path}/{name}")
    assert (tmp_path / name).read_text() == "Dog\n"


def test_a_run_is_not_written_into_its_own_shards(tmp_path: Path) -> None:
    info = dataclasses.replace(INFO, output=str(tmp_path))
    for folder in ("shards", "plan/deeper"):
        with pytest.raises(ConfigError, match="run's own files"):
            export_yolo(info, rows(row("a.jpg")), str(tmp_path / folder), YoloOptions(), Storage())


def test_scores_stand_at_the_end_of_boxes(tmp_path: Path) -> None:
    export(tmp_path, rows(row("a.jpg", found(score=0.9))), segmentation="none", scores=True)
    assert files(tmp_path)["labels/train/a.txt"] == "0 0.25 0.5 0.5 1 0.9\n"
    with pytest.raises(ConfigError, match=r"^scores cannot stand at the end of segments: say segmentation none$"):
        YoloOptions(scores=True)


def test_classes_count_from_zero_without_gaps_whatever_the_models_numbers(tmp_path: Path) -> None:
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


def test_numbers_that_depend_on_what_the_run_saw_are_noted(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v")
    (tmp_path / "names.txt").write_text("Cat\nDog\n")

    def notes(info: RunInfo, **options: Any) -> str:
        return "\n".join(export(tmp_path, rows(row("a.jpg", found())), info, **options).warnings)

    assert "class numbers count the classes that this run saw" in notes(info)
    assert "give --categories a label map or COCO dataset" in notes(info)
    assert "class numbers" not in notes(info, categories=str(tmp_path / "names.txt"))
    assert "class numbers" not in notes(INFO)


def test_the_detections_classes_serve_where_no_list_is_known(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v")
    export(tmp_path, rows(row("a.jpg", found(category_id=404), found("Cat", 0.1, category_id=160, mid=""))), info)
    assert yaml.safe_load(files(tmp_path)["data.yaml"])["names"] == {0: "Cat", 1: "Dog"}
    export(tmp_path, rows(), info)
    assert yaml.safe_load(files(tmp_path)["data.yaml"])["names"] == {}


def test_hostile_names_survive(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="a\nb", classes=(ClassName(7, HOSTILE),))
    name = f"ph \u00e4/{HOSTILE}/\u00e9 .jpg".replace("</b>", "")
    export(tmp_path, rows(row(name, found(HOSTILE, category_id=7, mid=""))), info)
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == {0: HOSTILE}
    assert (tmp_path / "train.txt").read_text() == f"./images/train/{name}\n"
    assert (tmp_path / "labels/train" / f"{name[:-4]}.txt").read_text() == "0 0.25 0.5 0.5 1\n"


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", ".."])
def test_names_never_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "x" / "y"
    with pytest.raises(ExportError, match="has a name that leads out of the export's folder"):
        export_yolo(INFO, rows(row(name, found())), str(inside), YoloOptions(), Storage())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_names_that_no_list_can_hold_and_twins_are_left_out_and_counted(tmp_path: Path) -> None:
    report = export(
        tmp_path, rows(row("a\nb.jpg", found()), row("x//y.jpg"), row("a.jpg", found()), row("a.png"), row("b/a.png"))
    )
    assert report.left_out == {
        "images whose name up to the ending another image has": 1,
        "images whose names cannot stand in a list of files": 2,
    }
    assert "'a.png' is left out: another image has its name up to the ending" in report.warnings
    assert (tmp_path / "train.txt").read_text() == "./images/train/a.jpg\n./images/train/b/a.png\n"
    assert (report.images, report.detections) == (2, 1)


def test_names_that_readers_of_the_list_alter_are_left_out_and_counted(tmp_path: Path) -> None:
    every = rows(row("vol./a.jpg", found()), row("b..jpg", found()), row("v.o/c.jpg"), row(".../d.jpg"))
    report = export(tmp_path, every)
    lines = (tmp_path / "train.txt").read_text().splitlines()
    # As Ultralytics makes whole paths of them.
    assert [line.replace("./", "/data/") for line in lines] == [
        "/data/images/train/b..jpg",
        "/data/images/train/v.o/c.jpg",
    ]
    assert report.left_out == {"images whose names cannot stand in a list of files": 2}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/train/a.b/c", "labels/train/a.b/c.txt"),
        ("images/train/images/a.b.jpg", "images/train/labels/a.b.txt"),
        ("images/train/my images/a.jpg", "labels/train/my images/a.txt"),
    ],
)
def test_labels_lie_where_they_are_looked_for(image: str, label: str) -> None:
    assert label_path(image) == label


def test_a_share_of_the_images_is_set_apart_the_same_ones_each_time(tmp_path: Path) -> None:
    every = [row(f"{i}.jpg", found()) for i in range(200)]
    report = export(tmp_path / "1", rows(*every), val_share=0.2)
    export(tmp_path / "2", rows(*every[::-1]), val_share=0.2)
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
    every = rows(row("sub/a b.jpg", found(), uri=str(photo)))
    report = export(tmp_path / "out", every, images="link")
    export(tmp_path / "out", every, images="link")
    place = tmp_path / "out/images/train/sub/a b.jpg"
    assert place.is_symlink()
    assert place.read_bytes() == b"jpeg"
    assert report.warnings == ()
    export(tmp_path / "copy", every, images="copy")
    assert not (tmp_path / "copy/images/train/sub/a b.jpg").is_symlink()
    assert (tmp_path / "copy/images/train/sub/a b.jpg").read_bytes() == b"jpeg"
    with pytest.raises(ExportError, match=r"^image 'a\.jpg' cannot be linked, only copied: it is not on this disk$"):
        export(tmp_path / "no", rows(row("a.jpg", found())), images="link")


def test_an_image_is_never_replaced_by_a_link_to_itself(tmp_path: Path) -> None:
    photo = tmp_path / "images" / "train" / "a.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"jpeg")
    with pytest.raises(ExportError, match="is the image itself: export into another folder"):
        export(tmp_path, rows(row("a.jpg", found(), uri=str(photo))), images="link")
    assert photo.read_bytes() == b"jpeg"


def test_object_stores_get_the_same_files(tmp_path: Path) -> None:
    root, storage = f"memory://{tmp_path.name}", Storage()
    export_yolo(INFO, rows(row("a.jpg", found())), root, YoloOptions(), storage)
    assert storage.read(f"{root}/labels/train/a.txt") == b"0 0.25 0.5 0.5 1\n"
    assert sorted(storage.names(root)) == ["data.yaml", "train.txt"]


def test_nonsense_is_refused() -> None:
    for options, message in (
        ({"images": "move"}, "images must be one of none, link, copy, got 'move'"),
        ({"val_share": 1.0}, "val-share must be at least 0 and below 1, got 1.0"),
        ({"polygon_tolerance": -1.0}, "polygon-tolerance must be 0 or more, got -1.0"),
    ):
        with pytest.raises(ConfigError) as error:
            YoloOptions(**options)
        assert str(error.value) == message
