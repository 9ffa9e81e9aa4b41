"""Each export writes the frame of the tool that will show or read the picture: literal values, all pairs of turns."""

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

from prelabel import rle
from prelabel.cli import main
from prelabel.errors import StoreError
from prelabel.export.coco import export_coco
from prelabel.export.coco_options import CocoOptions
from prelabel.export.cvat import export_cvat
from prelabel.export.cvat_options import CvatOptions
from prelabel.export.label_studio import export_label_studio
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.parts import SpreadRows
from prelabel.export.voc import export_voc
from prelabel.export.voc_options import VocOptions
from prelabel.export.yolo import export_yolo
from prelabel.export.yolo_options import YoloOptions
from prelabel.processes import Processes
from prelabel.storage import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from tests.rows import INFO, failed_row, found, mask_of, row, rows
from tests.runs import write_run

PAIRS = list(itertools.product(range(1, 9), repeat=2))

#: Upright 4 x 6 pixels (height x width) with a dog in the upper left; the file holds it as orientation 6 turns it, and
#: browsers do not look where that stands.
#:
#:     upright    ##....    stored, and in browsers    ....
#:                ##....                               ....
#:                #.....                               ....
#:                ......                               ....
#:                                                     ##..
#:                                                     ###.
DOG = found(xyxy=(0, 0, 2, 3), mask=mask_of("##....", "##....", "#.....", "......"))
TURNED = replace(row("a.webp", DOG), exif_orientation=6, browser_orientation=1)
PHOTO = replace(row("b.jpg", DOG), exif_orientation=6, browser_orientation=6)
PLAIN = row("c.png", DOG)
STORED_MASK = mask_of("....", "....", "....", "....", "##..", "###.")


def text_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def exported(folder: Path, name: str, *every: ImageRow, **options: Any) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """All files of an export, and its notes."""
    export, kind, to = {
        "coco": (export_coco, CocoOptions, "coco.json"),
        "cvat": (export_cvat, CvatOptions, "cvat.xml"),
        "yolo": (export_yolo, YoloOptions, ""),
        "voc": (export_voc, VocOptions, ""),
        "label-studio": (export_label_studio, LabelStudioOptions, ""),
    }[name]
    folder.mkdir(parents=True, exist_ok=True)
    report = export(INFO, rows(*every), str(folder / to), kind(**options), Storage())  # type: ignore[operator]
    return text_of(folder), report.warnings


def coco_of(folder: Path, *every: ImageRow, **options: Any) -> tuple[list[Any], list[Any], tuple[str, ...]]:
    files, notes = exported(folder, "coco", *every, **options)
    content = json.loads(files["coco.json"])
    assert content["info"]["prelabel"]["frame"] == options.get("frame", "display")
    return content["images"], content["annotations"], notes


def regions_of(files: dict[str, bytes]) -> list[Any]:
    return [task["predictions"][0]["result"] for task in json.loads(files["tasks-00000.json"])]


def test_label_studio_gets_what_browsers_show(tmp_path: Path) -> None:
    files, notes = exported(tmp_path, "label-studio", TURNED, PHOTO, PLAIN, shape="rectangle")
    (turned,), (photo,), (plain,) = regions_of(files)
    assert (turned["original_width"], turned["original_height"]) == (4, 6)
    assert turned["value"] == {
        **{"x": 0.0, "y": 66.6667, "width": 75.0, "height": 33.3333, "rotation": 0},
        "rectanglelabels": ["Dog"],
    }
    assert (photo["original_width"], photo["original_height"]) == (6, 4)
    assert photo["value"]["width"] == 33.3333
    assert photo["value"] == plain["value"]
    assert any("1 of 3 images" in note and "'a.webp'" in note and "browsers show" in note for note in notes)
    files, notes = exported(tmp_path / "no", "label-studio", PHOTO, PLAIN)
    assert not any("browsers show" in note for note in notes)


def test_label_studio_polygons_and_brush_masks_lie_on_what_browsers_show(tmp_path: Path) -> None:
    from prelabel.export.brush import rle_from_brush

    files, _ = exported(tmp_path / "p", "label-studio", TURNED, shape="polygon", polygon_tolerance=0.0)
    ((polygon,),) = regions_of(files)
    corners = (np.array(polygon["value"]["points"]) * [4, 6] / 100).round(3).tolist()
    assert sorted(corners) == [[0, 4], [0, 6], [2, 4], [2, 5], [3, 5], [3, 6]]
    files, _ = exported(tmp_path / "b", "label-studio", TURNED, shape="brush")
    ((brush,),) = regions_of(files)
    assert rle_from_brush(brush["value"]["rle"], 6, 4) == STORED_MASK


def test_coco_is_upright_unless_another_frame_is_asked_for(tmp_path: Path) -> None:
    images, annotations, notes = coco_of(tmp_path / "d", TURNED, PHOTO, PLAIN)
    assert [(one["width"], one["height"]) for one in images] == [(6, 4)] * 3
    assert [one["bbox"] for one in annotations] == [[0, 0, 2, 3]] * 3
    assert any("2 of 3 images are stored in another orientation" in note and "frame stored" in note for note in notes)
    assert any("1 of 3 images" in note and "frame browser" in note for note in notes)

    images, annotations, notes = coco_of(tmp_path / "s", TURNED, PHOTO, PLAIN, frame="stored")
    assert [(one["width"], one["height"]) for one in images] == [(4, 6), (4, 6), (6, 4)]
    assert [one["bbox"] for one in annotations] == [[0, 4, 3, 2], [0, 4, 3, 2], [0, 0, 2, 3]]
    assert annotations[0]["segmentation"] == {"size": [6, 4], "counts": STORED_MASK}
    assert [one["area"] for one in annotations] == [5, 5, 5]
    assert any("2 of 3 images are stored in another orientation" in note and "frame display" in note for note in notes)

    images, annotations, notes = coco_of(tmp_path / "b", TURNED, PHOTO, PLAIN, frame="browser")
    assert [(one["width"], one["height"]) for one in images] == [(4, 6), (6, 4), (6, 4)]
    assert [one["bbox"] for one in annotations] == [[0, 4, 3, 2], [0, 0, 2, 3], [0, 0, 2, 3]]
    assert any("1 of 3 images" in note and "what browsers show" in note for note in notes)

    assert coco_of(tmp_path / "p", PLAIN)[2] == ()


def test_yolo_shares_are_those_of_the_frame(tmp_path: Path) -> None:
    files, notes = exported(tmp_path / "d", "yolo", TURNED, segmentation="none")
    assert files["labels/train/a.txt"] == b"0 0.166667 0.375 0.333333 0.75\n"
    assert any("frame stored" in note for note in notes)
    files, notes = exported(tmp_path / "s", "yolo", TURNED, segmentation="none", frame="stored")
    assert files["labels/train/a.txt"] == b"0 0.375 0.833333 0.75 0.333333\n"
    assert any("frame display" in note for note in notes)
    files, _ = exported(tmp_path / "m", "yolo", TURNED, polygon_tolerance=0.0, frame="stored")
    values = [float(value) for value in files["labels/train/a.txt"].split()[1:]]
    corners = (np.array(values).reshape(-1, 2) * [4, 6]).round(3).tolist()
    assert sorted(corners) == [[0, 4], [0, 6], [2, 4], [2, 5], [3, 5], [3, 6]]


def test_voc_has_size_and_corners_of_the_frame(tmp_path: Path) -> None:
    def numbers(files: dict[str, bytes]) -> list[int]:
        root = ET.fromstring(files["Annotations/a.xml"])  # noqa: S314 - our own
        names = ("size/width", "size/height", *(f"object/bndbox/{name}" for name in ("xmin", "ymin", "xmax", "ymax")))
        return [int(root.findtext(name, "")) for name in names]

    assert numbers(exported(tmp_path / "d", "voc", TURNED)[0]) == [6, 4, 0, 0, 2, 3]
    assert numbers(exported(tmp_path / "s", "voc", TURNED, frame="stored")[0]) == [4, 6, 0, 4, 3, 6]


def test_cvat_gets_the_upright_picture_which_its_server_makes(tmp_path: Path) -> None:
    files, notes = exported(tmp_path, "cvat", TURNED, segmentation="none")
    root = ET.fromstring(files["cvat.xml"])  # noqa: S314 - our own
    (image,) = root.iter("image")
    assert (image.get("width"), image.get("height")) == ("6", "4")
    assert image[0].attrib.items() >= {"xtl": "0.00", "ytl": "0.00", "xbr": "2.00", "ybr": "3.00"}.items()
    assert any("1 of 1 images" in note and "upright" in note for note in notes)


def shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as Pillow turns them."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def row_of(picture: np.ndarray) -> ImageRow:
    """A row with the two things on a picture, which consist of pixels of 1 and of 2."""
    things = []
    for number, label in ((1, "Dog"), (2, "Cat")):
        ys, xs = np.nonzero(picture == number)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        things.append(found(label, 1 - number / 10, box, category_id=number, mask=rle.encode(picture == number)))
    return row("a.jpg", *things, height=picture.shape[0], width=picture.shape[1])


@pytest.mark.parametrize(("applied", "browser"), PAIRS)
def test_each_export_of_each_pair_of_orientations_is_that_of_the_picture_itself(
    tmp_path: Path, applied: int, browser: int
) -> None:
    stored = np.zeros((5, 8), np.uint8)
    stored[0, :3] = stored[1, :2] = 1
    stored[2:5, 6] = stored[4, 4:6] = 2
    upright, in_browser = row_of(shown(stored, applied)), row_of(shown(stored, browser))
    ours = replace(upright, exif_orientation=applied, browser_orientation=browser)
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
    for number, (name, options, theirs) in enumerate(cases):
        got, _ = exported(tmp_path / f"{number}a", name, ours, **options)
        wanted, _ = exported(tmp_path / f"{number}b", name, theirs, **options)
        assert got == wanted, name


def test_failed_images_are_not_counted_as_turned(tmp_path: Path) -> None:
    failed = replace(failed_row(), width=6, height=4, exif_orientation=6, browser_orientation=1)
    assert coco_of(tmp_path, PLAIN, failed)[2] == ()
    assert (failed.in_frame("stored").width, failed.in_frame("stored").height) == (4, 6)


@pytest.mark.parametrize("orientation", [0, 9, -3])
def test_an_orientation_that_is_none_is_one_line(tmp_path: Path, orientation: int) -> None:
    with pytest.raises(StoreError, match=r"image 'c\.png': an orientation must be 1 to 8"):
        coco_of(tmp_path, replace(PLAIN, exif_orientation=orientation), frame="stored")


def test_a_mask_that_does_not_fit_is_named_with_its_image(tmp_path: Path) -> None:
    wrong = replace(row("a.webp", found(mask="344M")), exif_orientation=6, browser_orientation=1)
    with pytest.raises(StoreError, match=r"image 'a\.webp'.*cover"):
        coco_of(tmp_path, wrong, frame="stored")


def test_processes_turn_rows_as_one_does(tmp_path: Path) -> None:
    many = [[replace(TURNED, image_id=f"{n}/{m}.webp", file_name=f"{n}/{m}.webp") for m in range(3)] for n in range(4)]
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
    assert "12 of 12 images are stored in another orientation" in " ".join(results[0][1])


def test_through_the_command_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[TURNED, PHOTO], [PLAIN, failed_row()]])

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    output = call("export", "label-studio", run, "--to", str(tmp_path / "ls"), "--shape", "rectangle")
    assert "note: browsers show 1 of 3 images in another orientation than the detector saw (e.g. 'a.webp')" in output
    (turned,), (photo,), _ = regions_of(text_of(tmp_path / "ls"))
    assert (turned["original_width"], turned["value"]["y"]) == (4, 66.6667)
    assert (photo["original_width"], photo["value"]["y"]) == (6, 0)

    output = call("export", "coco", run, "--to", str(tmp_path / "c.json"), "--frame", "stored")
    assert "2 of 3 images are stored in another orientation" in output
    annotations = json.loads((tmp_path / "c.json").read_text())["annotations"]
    assert [one["bbox"] for one in annotations] == [[0, 4, 3, 2], [0, 4, 3, 2], [0, 0, 2, 3]]

    call("export", "yolo", run, "--to", str(tmp_path / "y"), "--segmentation", "none", "--frame", "stored")
    assert (tmp_path / "y/labels/train/b.txt").read_text() == "0 0.375 0.833333 0.75 0.333333\n"
    call("export", "voc", run, "--to", str(tmp_path / "v"), "--frame", "browser")
    assert "<width>4</width>" in (tmp_path / "v/Annotations/a.xml").read_text()
    assert "<width>6</width>" in (tmp_path / "v/Annotations/b.xml").read_text()
    call("export", "cvat", run, "--to", str(tmp_path / "c.xml"))
    assert "--frame" in CliRunner().invoke(main, ["export", "coco", run, "--to", "x", "--frame", "upright"]).output


def test_of_runs_that_did_not_record_what_browsers_show_it_is_said(tmp_path: Path) -> None:
    # A run of before there was that column: taken for the same, which for a JPEG is nearly always right.
    old = replace(TURNED, browser_orientation=None)
    files, notes = exported(tmp_path / "w", "label-studio", old, PLAIN, shape="rectangle")
    assert regions_of(files)[0][0]["original_width"] == 6
    assert any("does not say how browsers show 1 of 2 images" in note for note in notes)
    _, notes = exported(tmp_path / "j", "label-studio", replace(PHOTO, browser_orientation=None), PLAIN)
    assert not any("does not say" in note for note in notes)
    assert not any("does not say" in note for note in coco_of(tmp_path / "c", old)[2])


def test_sizes_of_the_dataset_that_ids_are_from_are_held_beside_those_written(tmp_path: Path) -> None:
    dataset = tmp_path / "truth.json"
    images = [
        {"id": 7, "file_name": "b.jpg", "width": 4, "height": 6},
        {"id": 8, "file_name": "c.png", "width": 6, "height": 4},
    ]
    dataset.write_text(json.dumps({"images": images}))
    notes = coco_of(tmp_path / "d", PHOTO, PLAIN, image_ids=str(dataset))[2]
    assert any("1 images have another size" in note and "'b.jpg': 6 x 4, there 4 x 6" in note for note in notes)
    notes = coco_of(tmp_path / "s", PHOTO, PLAIN, image_ids=str(dataset), frame="stored")[2]
    assert not any("another size" in note for note in notes)
