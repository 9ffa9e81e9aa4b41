"""Exports write the frame of the tool that will show or read the image: exact values, all pairs of orientations."""

from __future__ import annotations

import io
import itertools
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

from prelabel.cli import main
from prelabel.errors import StoreError
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.cvat import CvatOptions, export_cvat
from prelabel.export.parallel import SpreadRows
from prelabel.export.voc import VocOptions, export_voc
from prelabel.export.yolo import YoloOptions, export_yolo
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.masks import rle
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from tests.messages import facts, told
from tests.rows import INFO, failed_row, found, mask_of, row, rows
from tests.runs import write_run

PAIRS = list(itertools.product(range(1, 9), repeat=2))

#: The displayed image has 4 x 6 pixels (height x width) and a dog in the upper left. The file stores it rotated, with
#: orientation 6, which browsers ignore in this format.
#:
#:     displayed  ##....    stored, and in browsers    ....
#:                ##....                               ....
#:                #.....                               ....
#:                ......                               ....
#:                                                     ##..
#:                                                     ###.
DOG = found(xyxy=(0, 0, 2, 3), mask=mask_of("##....", "##....", "#.....", "......"))
ROTATED = replace(row("a.webp", DOG), exif_orientation=6, browser_orientation=1)
PHOTO = replace(row("b.jpg", DOG), exif_orientation=6, browser_orientation=6)
PLAIN = row("c.png", DOG)
STORED_MASK = mask_of("....", "....", "....", "....", "##..", "###.")


def text_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def exported(
    folder: Path, name: str, *image_rows: ImageRow, **options: Any
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """All files of an export, and its notes."""
    export, kind, to = {
        "coco": (export_coco, CocoOptions, "coco.json"),
        "cvat": (export_cvat, CvatOptions, "cvat.xml"),
        "yolo": (export_yolo, YoloOptions, ""),
        "voc": (export_voc, VocOptions, ""),
        "label-studio": (export_label_studio, LabelStudioOptions, ""),
    }[name]
    folder.mkdir(parents=True, exist_ok=True)
    report = export(INFO, rows(*image_rows), str(folder / to), kind(**options), Storage())  # type: ignore[operator]
    return text_of(folder), report.warnings


def coco_of(folder: Path, *image_rows: ImageRow, **options: Any) -> tuple[list[Any], list[Any], tuple[str, ...]]:
    files, notes = exported(folder, "coco", *image_rows, **options)
    content = json.loads(files["coco.json"])
    assert content["info"]["prelabel"]["frame"] == options.get("frame", "display")
    return content["images"], content["annotations"], notes


def regions_of(files: dict[str, bytes]) -> list[Any]:
    return [task["predictions"][0]["result"] for task in json.loads(files["tasks-00000.json"])]


def test_label_studio_tasks_are_in_the_browser_frame(tmp_path: Path) -> None:
    files, notes = exported(tmp_path, "label-studio", ROTATED, PHOTO, PLAIN, shape="rectangle")
    (rotated,), (photo,), (plain,) = regions_of(files)
    assert (rotated["original_width"], rotated["original_height"]) == (4, 6)
    assert rotated["value"] == {
        **{"x": 0.0, "y": 66.6667, "width": 75.0, "height": 33.3333, "rotation": 0},
        "rectanglelabels": ["Dog"],
    }
    assert (photo["original_width"], photo["original_height"]) == (6, 4)
    assert photo["value"]["width"] == 33.3333
    assert photo["value"] == plain["value"]
    assert told(notes, "1 of 3", "'a.webp'", "browsers")
    files, notes = exported(tmp_path / "no", "label-studio", PHOTO, PLAIN)
    assert not told(notes, "browsers")


def test_label_studio_polygons_and_brush_masks_are_in_the_browser_frame(tmp_path: Path) -> None:
    from prelabel.masks.brush import rle_from_brush

    files, _ = exported(tmp_path / "p", "label-studio", ROTATED, shape="polygon", polygon_tolerance=0.0)
    ((polygon,),) = regions_of(files)
    corners = (np.array(polygon["value"]["points"]) * [4, 6] / 100).round(3).tolist()
    assert sorted(corners) == [[0, 4], [0, 6], [2, 4], [2, 5], [3, 5], [3, 6]]
    files, _ = exported(tmp_path / "b", "label-studio", ROTATED, shape="brush")
    ((brush,),) = regions_of(files)
    assert rle_from_brush(brush["value"]["rle"], 6, 4) == STORED_MASK


def test_coco_is_in_the_display_frame_unless_another_is_requested(tmp_path: Path) -> None:
    images, annotations, notes = coco_of(tmp_path / "d", ROTATED, PHOTO, PLAIN)
    assert [(image["width"], image["height"]) for image in images] == [(6, 4)] * 3
    assert [annotation["bbox"] for annotation in annotations] == [[0, 0, 2, 3]] * 3
    assert told(notes, "2 of 3", "orientation|rotated", "displayed", "--frame stored")
    assert told(notes, "1 of 3", "frame browser")

    images, annotations, notes = coco_of(tmp_path / "s", ROTATED, PHOTO, PLAIN, frame="stored")
    assert [(image["width"], image["height"]) for image in images] == [(4, 6), (4, 6), (6, 4)]
    assert [annotation["bbox"] for annotation in annotations] == [[0, 4, 3, 2], [0, 4, 3, 2], [0, 0, 2, 3]]
    assert annotations[0]["segmentation"] == {"size": [6, 4], "counts": STORED_MASK}
    assert [annotation["area"] for annotation in annotations] == [5, 5, 5]
    assert told(notes, "2 of 3", "orientation|rotated", "frame display")

    images, annotations, notes = coco_of(tmp_path / "b", ROTATED, PHOTO, PLAIN, frame="browser")
    assert [(image["width"], image["height"]) for image in images] == [(4, 6), (6, 4), (6, 4)]
    assert [annotation["bbox"] for annotation in annotations] == [[0, 4, 3, 2], [0, 0, 2, 3], [0, 0, 2, 3]]
    assert told(notes, "1 of 3", "browsers")

    assert coco_of(tmp_path / "p", PLAIN)[2] == ()


def test_yolo_coordinates_are_shares_of_the_requested_frame(tmp_path: Path) -> None:
    files, notes = exported(tmp_path / "d", "yolo", ROTATED, segmentation="none")
    assert files["labels/train/a.txt"] == b"0 0.166667 0.375 0.333333 0.75\n"
    assert told(notes, "frame stored")
    files, notes = exported(tmp_path / "s", "yolo", ROTATED, segmentation="none", frame="stored")
    assert files["labels/train/a.txt"] == b"0 0.375 0.833333 0.75 0.333333\n"
    assert told(notes, "frame display")
    files, _ = exported(tmp_path / "m", "yolo", ROTATED, polygon_tolerance=0.0, frame="stored")
    values = [float(value) for value in files["labels/train/a.txt"].split()[1:]]
    corners = (np.array(values).reshape(-1, 2) * [4, 6]).round(3).tolist()
    assert sorted(corners) == [[0, 4], [0, 6], [2, 4], [2, 5], [3, 5], [3, 6]]


def test_voc_has_size_and_corners_of_the_requested_frame(tmp_path: Path) -> None:
    def numbers(files: dict[str, bytes]) -> list[int]:
        root = ET.fromstring(files["Annotations/a.xml"])  # noqa: S314 - our own
        names = ("size/width", "size/height", *(f"object/bndbox/{name}" for name in ("xmin", "ymin", "xmax", "ymax")))
        return [int(root.findtext(name, "")) for name in names]

    assert numbers(exported(tmp_path / "d", "voc", ROTATED)[0]) == [6, 4, 0, 0, 2, 3]
    assert numbers(exported(tmp_path / "s", "voc", ROTATED, frame="stored")[0]) == [4, 6, 0, 4, 3, 6]


def test_cvat_annotations_are_in_the_display_frame_like_the_images_of_its_server(tmp_path: Path) -> None:
    files, notes = exported(tmp_path, "cvat", ROTATED, segmentation="none")
    root = ET.fromstring(files["cvat.xml"])  # noqa: S314 - our own
    (image,) = root.iter("image")
    assert (image.get("width"), image.get("height")) == ("6", "4")
    assert image[0].attrib.items() >= {"xtl": "0.00", "ytl": "0.00", "xbr": "2.00", "ybr": "3.00"}.items()
    assert told(notes, "1 of 1", "displayed")


def displayed(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as Pillow rotates them for display."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def row_of(image: np.ndarray) -> ImageRow:
    """A row with the two objects in an image, which consist of the pixels with the values 1 and 2."""
    objects = []
    for number, label in ((1, "Dog"), (2, "Cat")):
        ys, xs = np.nonzero(image == number)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        objects.append(found(label, 1 - number / 10, box, category_id=number, mask=rle.encode(image == number)))
    return row("a.jpg", *objects, height=image.shape[0], width=image.shape[1])


@pytest.mark.parametrize(("applied", "browser"), PAIRS)
def test_each_export_of_each_pair_of_orientations_equals_that_of_the_rotated_image(
    tmp_path: Path, applied: int, browser: int
) -> None:
    stored = np.zeros((5, 8), np.uint8)
    stored[0, :3] = stored[1, :2] = 1
    stored[2:5, 6] = stored[4, 4:6] = 2
    upright, in_browser = row_of(displayed(stored, applied)), row_of(displayed(stored, browser))
    image_row = replace(upright, exif_orientation=applied, browser_orientation=browser)
    cases: list[tuple[str, dict[str, Any], ImageRow]] = [
        ("label-studio", {"shape": "rectangle"}, in_browser),
        ("label-studio", {"shape": "brush"}, in_browser),
        ("coco", {}, upright),
        ("coco", {"frame": "stored"}, row_of(stored)),
        ("coco", {"frame": "browser"}, in_browser),
        ("yolo", {"frame": "stored", "segmentation": "none"}, row_of(stored)),
        ("voc", {"frame": "stored"}, row_of(stored)),
        ("cvat", {}, upright),
    ]
    for number, (name, options, expected_row) in enumerate(cases):
        actual, _ = exported(tmp_path / f"{number}a", name, image_row, **options)
        expected, _ = exported(tmp_path / f"{number}b", name, expected_row, **options)
        assert actual == expected, name


def test_failed_images_are_not_counted_as_rotated(tmp_path: Path) -> None:
    failed = replace(failed_row(), width=6, height=4, exif_orientation=6, browser_orientation=1)
    assert coco_of(tmp_path, PLAIN, failed)[2] == ()
    assert (failed.in_frame("stored").width, failed.in_frame("stored").height) == (4, 6)


@pytest.mark.parametrize("orientation", [0, 9, -3])
def test_an_invalid_orientation_is_an_error_of_one_line(tmp_path: Path, orientation: int) -> None:
    with pytest.raises(StoreError, match=facts("c.png", "orientation", "1", "8", str(orientation))):
        coco_of(tmp_path, replace(PLAIN, exif_orientation=orientation), frame="stored")


def test_a_mask_that_does_not_fit_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    wrong = replace(row("a.webp", found(mask="344M")), exif_orientation=6, browser_orientation=1)
    with pytest.raises(StoreError, match=facts("a.webp", "12", "24")):
        coco_of(tmp_path, wrong, frame="stored")


def test_several_processes_rotate_rows_like_one_process(tmp_path: Path) -> None:
    many = [[replace(ROTATED, image_id=f"{n}/{m}.webp", file_name=f"{n}/{m}.webp") for m in range(3)] for n in range(4)]
    run = open_run(write_run(tmp_path / "run", many), Storage())
    results = []
    for processes in (1, 2):
        with Processes(processes) as several:
            spread = SpreadRows(run.rows, several)
            to = tmp_path / f"{processes}.json"
            report = export_coco(INFO, spread, str(to), CocoOptions(frame="stored"), Storage())
        results.append((to.read_bytes(), report.warnings))
    assert results[0] == results[1]
    assert json.loads(results[0][0])["annotations"][11]["bbox"] == [0, 4, 3, 2]
    assert told(results[0][1], "12 of 12", "orientation|rotated", "frame display")


def test_frames_through_the_command_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[ROTATED, PHOTO], [PLAIN, failed_row()]])

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    output = call("export", "label-studio", run, "--to", str(tmp_path / "ls"), "--shape", "rectangle")
    assert told(output.splitlines(), "note", "browsers", "1 of 3", "'a.webp'")
    (rotated,), (photo,), _ = regions_of(text_of(tmp_path / "ls"))
    assert (rotated["original_width"], rotated["value"]["y"]) == (4, 66.6667)
    assert (photo["original_width"], photo["value"]["y"]) == (6, 0)

    output = call("export", "coco", run, "--to", str(tmp_path / "c.json"), "--frame", "stored")
    assert told(output.splitlines(), "2 of 3", "orientation|rotated")
    annotations = json.loads((tmp_path / "c.json").read_text())["annotations"]
    assert [annotation["bbox"] for annotation in annotations] == [[0, 4, 3, 2], [0, 4, 3, 2], [0, 0, 2, 3]]

    call("export", "yolo", run, "--to", str(tmp_path / "y"), "--segmentation", "none", "--frame", "stored")
    assert (tmp_path / "y/labels/train/b.txt").read_text() == "0 0.375 0.833333 0.75 0.333333\n"
    call("export", "voc", run, "--to", str(tmp_path / "v"), "--frame", "browser")
    assert "<width>4</width>" in (tmp_path / "v/Annotations/a.xml").read_text()
    assert "<width>6</width>" in (tmp_path / "v/Annotations/b.xml").read_text()
    call("export", "cvat", run, "--to", str(tmp_path / "c.xml"))
    assert "--frame" in CliRunner().invoke(main, ["export", "coco", run, "--to", "x", "--frame", "upright"]).output


def test_runs_without_recorded_browser_orientations_give_a_note(tmp_path: Path) -> None:
    # A run from before that column existed: browsers are assumed to show images as displayed, which is nearly always
    # right for a JPEG.
    old = replace(ROTATED, browser_orientation=None)
    files, notes = exported(tmp_path / "w", "label-studio", old, PLAIN, shape="rectangle")
    assert regions_of(files)[0][0]["original_width"] == 6
    assert told(notes, "1 of 2", "browsers", "displayed")
    _, notes = exported(tmp_path / "j", "label-studio", replace(PHOTO, browser_orientation=None), PLAIN)
    assert not told(notes, "browsers", "displayed")
    assert not told(coco_of(tmp_path / "c", old)[2], "browsers")


def test_written_sizes_are_compared_with_those_of_the_dataset_of_the_ids(tmp_path: Path) -> None:
    dataset = tmp_path / "truth.json"
    images = [
        {"id": 7, "file_name": "b.jpg", "width": 4, "height": 6},
        {"id": 8, "file_name": "c.png", "width": 6, "height": 4},
    ]
    dataset.write_text(json.dumps({"images": images}))
    notes = coco_of(tmp_path / "d", PHOTO, PLAIN, image_ids=str(dataset))[2]
    assert told(notes, "1", "'b.jpg'", "6 x 4", "4 x 6")
    notes = coco_of(tmp_path / "s", PHOTO, PLAIN, image_ids=str(dataset), frame="stored")[2]
    assert not told(notes, "6 x 4|4 x 6")
