"""From files that state an orientation, through a real detector, to what each tool reads: the same objects."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

import prelabel
from prelabel.cli import main
from prelabel.frames import turned_boxes, turned_counts, turned_rows, turned_size, way_to

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools' own
]

#: Name of each file, the orientation in its EXIF, and what browsers make of it.
KINDS = {"a.jpg": (6, 6), "b.webp": (6, 1), "c.webp": (3, 1), "d.webp": (5, 1), "e.png": (1, 1)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes as files of all kinds, their truth in each frame, and a run."""
    folder = tmp_path_factory.mktemp("frames")
    call("synth", "--images", str(len(KINDS)), "--seed", "5", "--to", str(folder / "scenes"))
    truth = json.loads((folder / "scenes/instances.json").read_text())
    (folder / "files").mkdir()
    for image, (name, (applied, _)) in zip(truth["images"], KINDS.items(), strict=True):
        with Image.open(folder / "scenes" / image["file_name"]) as scene:
            upright = np.asarray(scene.convert("RGB"))
        save(folder / "files" / name, turned_rows(upright, way_to("stored", applied, None)), applied)
        image["file_name"] = name
    for frame in ("display", "stored", "browser"):
        (folder / f"{frame}.json").write_text(json.dumps(in_frame(truth, frame)))
    # As Label Studio's COCO export: boxes on what its browser shows, sizes of the file.
    sizes = {one["id"]: (one["height"], one["width"]) for one in in_frame(truth, "stored")["images"]}
    theirs = in_frame(truth, "browser")
    for one in theirs["images"]:
        one["height"], one["width"] = sizes[one["id"]]
    (folder / "label-studio.json").write_text(json.dumps({**theirs, "info": {"contributor": "Label Studio"}}))
    call("label", str(folder / "files"), "--detector", "demo-shapes", "--output", str(folder / "run"), "--quiet")
    return folder


def save(path: Path, stored: np.ndarray, orientation: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    kind, options = {
        ".jpg": ("JPEG", {"quality": 97, "subsampling": 0}),
        ".webp": ("WEBP", {"lossless": True}),
        ".png": ("PNG", {}),
    }[path.suffix]
    Image.fromarray(np.ascontiguousarray(stored)).save(file, kind, exif=exif, **options)
    path.write_bytes(file.getvalue())


def in_frame(truth: dict[str, Any], frame: str) -> dict[str, Any]:
    """A COCO dataset of upright pictures in another frame."""
    turns = {one["id"]: way_to(frame, *KINDS[one["file_name"]]) for one in truth["images"]}
    sizes = {one["id"]: (one["height"], one["width"]) for one in truth["images"]}
    images = []
    for one in truth["images"]:
        height, width = turned_size(*sizes[one["id"]], turns[one["id"]])
        images.append({**one, "height": height, "width": width})
    annotations = []
    for one in truth["annotations"]:
        size, turn = sizes[one["image_id"]], turns[one["image_id"]]
        x, y, w, h = one["bbox"]
        x1, y1, x2, y2 = turned_boxes(np.array([[x, y, x + w, y + h]]), *size, turn)[0].tolist()
        counts = turned_counts(one["segmentation"]["counts"], *size, turn)
        mask = {"size": [*turned_size(*size, turn)], "counts": counts}
        annotations.append({**one, "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": mask})
    return {**truth, "images": images, "annotations": annotations}


def call(*arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_rows_say_both_orientations_and_hold_the_upright_picture(world: Path) -> None:
    rows = {row.image_id: row for row in prelabel.open_run(str(world / "run")).rows()}
    assert {name: (row.exif_orientation or 1, row.browser_orientation or 1) for name, row in rows.items()} == KINDS
    for name, row in rows.items():
        with Image.open(world / "files" / name) as image:
            assert (row.width, row.height) == ImageOps.exif_transpose(image).size
            shown = image.size if KINDS[name][1] == 1 else ImageOps.exif_transpose(image).size
        in_browser = row.in_frame("browser")
        assert (in_browser.width, in_browser.height) == shown


def figures(world: Path, truth: str) -> tuple[list[float], list[str]]:
    to = world / f"evaluated-{truth}"
    call("evaluate", str(world / "run"), "--truth", str(world / f"{truth}.json"), "--to", str(to))
    done = json.loads((to / "evaluation.json").read_text())
    assert done["images"]["matched"] == len(KINDS)
    return [done[kind]["overall"][figure] for kind in ("boxes", "masks") for figure in ("AP", "AP50")], done["notes"]


def test_a_truth_in_any_frame_gives_the_same_figures(world: Path) -> None:
    upright, notes = figures(world, "display")
    assert upright[0] > 0.4
    assert not any("lie on" in note for note in notes)
    for truth, words in (("stored", "pixels as stored"), ("browser", ""), ("label-studio", "what browsers show")):
        turned, notes = figures(world, truth)
        assert turned == pytest.approx(upright, abs=1e-3), truth
        assert any(words in note for note in notes), truth


def test_exports_in_each_frame_are_right_against_the_truth_of_that_frame(world: Path) -> None:
    wanted, _ = figures(world, "display")
    for frame in ("display", "stored", "browser"):
        dataset = world / f"exported-{frame}.json"
        options = ("--frame", frame, "--segmentation", "none", "--score-threshold", "0")
        call("export", "coco", str(world / "run"), "--to", str(dataset), *options)
        found = json.loads(dataset.read_text())
        truth = json.loads((world / f"{frame}.json").read_text())
        sizes = {one["file_name"]: (one["height"], one["width"]) for one in truth["images"]}
        assert {one["file_name"]: (one["height"], one["width"]) for one in found["images"]} == sizes
        assert average_precision(truth, found) == pytest.approx(wanted[0], abs=0.01), frame


def average_precision(truth: dict[str, Any], found: dict[str, Any]) -> float:
    """By pycocotools, with images and classes of both files paired by name."""
    import contextlib

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = {one["id"]: one["file_name"] for one in found["images"]}
    images = {one["file_name"]: one["id"] for one in truth["images"]}
    labels = {one["id"]: one["name"] for one in found["categories"]}
    categories = {one["name"]: one["id"] for one in truth["categories"]}
    results = [
        {
            "image_id": images[names[one["image_id"]]],
            "category_id": categories[labels[one["category_id"]]],
            "bbox": one["bbox"],
            "score": one["score"],
        }
        for one in found["annotations"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def test_label_studio_regions_lie_on_the_truth_of_browsers(world: Path) -> None:
    call("export", "label-studio", str(world / "run"), "--to", str(world / "tasks"), "--shape", "rectangle")
    truth = json.loads((world / "browser.json").read_text())
    numbers = {one["file_name"]: one for one in truth["images"]}
    hits = total = 0
    for task in json.loads((world / "tasks/tasks-00000.json").read_text()):
        image = numbers[task["data"]["file_name"]]
        boxes = [one["bbox"] for one in truth["annotations"] if one["image_id"] == image["id"]]
        for region in task["predictions"][0]["result"]:
            assert (region["original_width"], region["original_height"]) == (image["width"], image["height"])
            scale = image["width"] / 100, image["height"] / 100
            value = region["value"]
            box = [value["x"] * scale[0], value["y"] * scale[1], value["width"] * scale[0], value["height"] * scale[1]]
            hits += max(iou(box, one) for one in boxes) > 0.5
            total += 1
    assert total > 10
    assert hits / total > 0.8


def iou(one: list[float], other: list[float]) -> float:
    w = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    h = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(w, 0) * max(h, 0)
    return common / (one[2] * one[3] + other[2] * other[3] - common)
