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
from prelabel.frames import orientation_to, oriented_boxes, oriented_counts, oriented_pixels, oriented_size

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
        save(folder / "files" / name, oriented_pixels(upright, orientation_to("stored", applied, None)), applied)
        image["file_name"] = name
    for frame in ("display", "stored", "browser"):
        (folder / f"{frame}.json").write_text(json.dumps(in_frame(truth, frame)))
    # As Label Studio's COCO export: boxes on what its browser shows, sizes of the file.
    sizes = {image["id"]: (image["height"], image["width"]) for image in in_frame(truth, "stored")["images"]}
    label_studio = in_frame(truth, "browser")
    for entry in label_studio["images"]:
        entry["height"], entry["width"] = sizes[entry["id"]]
    (folder / "label-studio.json").write_text(json.dumps({**label_studio, "info": {"contributor": "Label Studio"}}))
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
    turns = {image["id"]: orientation_to(frame, *KINDS[image["file_name"]]) for image in truth["images"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    images = []
    for image in truth["images"]:
        height, width = oriented_size(*sizes[image["id"]], turns[image["id"]])
        images.append({**image, "height": height, "width": width})
    annotations = []
    for annotation in truth["annotations"]:
        size, turn = sizes[annotation["image_id"]], turns[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        x1, y1, x2, y2 = oriented_boxes(np.array([[x, y, x + w, y + h]]), *size, turn)[0].tolist()
        counts = oriented_counts(annotation["segmentation"]["counts"], *size, turn)
        mask = {"size": [*oriented_size(*size, turn)], "counts": counts}
        annotations.append({**annotation, "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": mask})
    return {**truth, "images": images, "annotations": annotations}


def call(*arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_rows_have_both_orientations_and_the_displayed_image(world: Path) -> None:
    rows = {row.image_id: row for row in prelabel.open_run(str(world / "run")).rows()}
    assert {name: (row.exif_orientation or 1, row.browser_orientation or 1) for name, row in rows.items()} == KINDS
    for name, row in rows.items():
        with Image.open(world / "files" / name) as image:
            assert (row.width, row.height) == ImageOps.exif_transpose(image).size
            shown_size = image.size if KINDS[name][1] == 1 else ImageOps.exif_transpose(image).size
        in_browser = row.in_frame("browser")
        assert (in_browser.width, in_browser.height) == shown_size


def figures(world: Path, truth: str) -> tuple[list[float], list[str]]:
    to = world / f"evaluated-{truth}"
    call("evaluate", str(world / "run"), "--truth", str(world / f"{truth}.json"), "--to", str(to))
    done = json.loads((to / "evaluation.json").read_text())
    assert done["images"]["matched"] == len(KINDS)
    return [done[kind]["overall"][figure] for kind in ("boxes", "masks") for figure in ("AP", "AP50")], done["notes"]


def test_a_truth_in_any_frame_gives_the_same_metrics(world: Path) -> None:
    upright, notes = figures(world, "display")
    assert upright[0] > 0.4
    assert not any("stored" in note or "browser" in note for note in notes)
    for truth, words in (("stored", "stored"), ("browser", ""), ("label-studio", "browser")):
        turned, notes = figures(world, truth)
        assert turned == pytest.approx(upright, abs=1e-3), truth
        assert any(words in note for note in notes), truth


def test_exports_in_each_frame_are_right_against_the_truth_of_that_frame(world: Path) -> None:
    wanted, _ = figures(world, "display")
    for frame in ("display", "stored", "browser"):
        dataset = world / f"exported-{frame}.json"
        options = ("--frame", frame, "--segmentation", "none", "--score-threshold", "0")
        call("export", "coco", str(world / "run"), "--to", str(dataset), *options)
        exported = json.loads(dataset.read_text())
        truth = json.loads((world / f"{frame}.json").read_text())
        sizes = {image["file_name"]: (image["height"], image["width"]) for image in truth["images"]}
        assert {image["file_name"]: (image["height"], image["width"]) for image in exported["images"]} == sizes
        assert average_precision(truth, exported) == pytest.approx(wanted[0], abs=0.01), frame


def average_precision(truth: dict[str, Any], detections: dict[str, Any]) -> float:
    """By pycocotools, with images and classes of both files paired by name."""
    import contextlib

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = {image["id"]: image["file_name"] for image in detections["images"]}
    images = {image["file_name"]: image["id"] for image in truth["images"]}
    labels = {category["id"]: category["name"] for category in detections["categories"]}
    categories = {category["name"]: category["id"] for category in truth["categories"]}
    results = [
        {
            "image_id": images[names[annotation["image_id"]]],
            "category_id": categories[labels[annotation["category_id"]]],
            "bbox": annotation["bbox"],
            "score": annotation["score"],
        }
        for annotation in detections["annotations"]
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
    numbers = {image_entry["file_name"]: image_entry for image_entry in truth["images"]}
    hits = total = 0
    for task in json.loads((world / "tasks/tasks-00000.json").read_text()):
        image = numbers[task["data"]["file_name"]]
        boxes = [annotation["bbox"] for annotation in truth["annotations"] if annotation["image_id"] == image["id"]]
        for region in task["predictions"][0]["result"]:
            assert (region["original_width"], region["original_height"]) == (image["width"], image["height"])
            scale = image["width"] / 100, image["height"] / 100
            value = region["value"]
            box = [value["x"] * scale[0], value["y"] * scale[1], value["width"] * scale[0], value["height"] * scale[1]]
            hits += max(iou(box, true_box) for true_box in boxes) > 0.5
            total += 1
    assert total > 10
    assert hits / total > 0.8


def iou(box: list[float], other: list[float]) -> float:
    w = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    h = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    common = max(w, 0) * max(h, 0)
    return common / (box[2] * box[3] + other[2] * other[3] - common)
