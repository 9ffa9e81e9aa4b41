"""Real photos and real detectors, by the commands a user would type, scored against the truth."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from tests.e2e.command import Place

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.end()


def done(place: Place, *arguments: object) -> str:
    """Run a command that has to succeed; what it prints."""
    result = place.run(*map(str, arguments), timeout_s=200)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def scores(truth: Path, results: Path, kind: str) -> tuple[float, float]:
    """AP and AP50 by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(truth))
        dataset.dataset.setdefault("info", {})  # loadRes copies it
        evaluation = COCOeval(dataset, dataset.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def table(output: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((output / "shards").iterdir()) for row in pq.read_table(path).to_pylist()]


def test_photos_through_the_hub_module(place: Place, assets: Path, tmp_path: Path):
    output, results = tmp_path / "ssd", tmp_path / "results.json"
    truth = assets / "images" / "coco-val80-instances.json"
    printed = done(
        place,
        *("label", assets / "images" / "coco-val80", "--detector", assets / "models" / "openimages-hub-module"),
        *("--output", output, "--score-threshold", "0.01"),
    )
    assert "80" in printed
    rows = table(output)
    assert (len(rows), {row["status"] for row in rows}) == (80, {"ok"})
    done(place, "verify", output)
    done(
        place,
        *("export", "coco", output, "--to", tmp_path / "coco.json", "--results", results, "--score-threshold", "0"),
        *("--categories", assets / "labels" / "mscoco-91.pbtxt", "--image-ids", truth),
        *("--class-map", "/m/0cmf2=airplane", "--class-map", "/m/02jvh9=cup"),
    )
    ap, ap50 = scores(truth, results, "bbox")
    print(f"hub module: box AP {ap:.3f}, AP50 {ap50:.3f}")
    assert ap50 >= 0.37
    check_class_tree(place, output, rows, tmp_path)


def check_class_tree(place: Place, output: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """The options that follow the class tree, compared with the official table on all detections of the run."""
    with (ROOT / "prelabel/labels/openimages-tree.csv").open(encoding="utf-8") as file:
        edges = [edge for edge in csv.DictReader(file) if edge["relation"] == "subcategory"]

    def below(label: str) -> set[str]:
        children = {edge["label"] for edge in edges if edge["parent_label"] == label}
        return {label}.union(*map(below, children))

    def exported(*options: str) -> Counter[str]:
        path = tmp_path / "tree.json"
        done(place, "export", "coco", output, "--to", path, *options)
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in content["categories"]}
        return Counter(names[annotation["category_id"]] for annotation in content["annotations"])

    def detections(threshold: float) -> list[list[tuple[str, list[float]]]]:
        """Label and box of the detections of each image from a score on."""
        columns = [zip(row["labels"], row["boxes"], row["scores"], strict=True) for row in rows]
        limit = np.float32(threshold)
        return [[(label, box) for label, box, score in image if np.float32(score) >= limit] for image in columns]

    labels = [label for image in detections(0.3) for label, _ in image]
    vehicles, animals = below("Vehicle"), below("Animal")
    upper = {**dict.fromkeys(vehicles, "Vehicle"), **dict.fromkeys(animals, "Animal")}
    rolled_up = Counter(upper.get(label, label) for label in labels)
    assert min(rolled_up["Vehicle"], rolled_up["Animal"]) > 50
    assert exported("--roll-up", "Vehicle", "--roll-up", "/m/0jbk") == rolled_up
    included = Counter(label for label in labels if label in vehicles)
    assert exported("--include-class", "Vehicle", "--with-subclasses") == included
    # Of the detector's classes, only Teddy bear is below another: a Teddy bear is a Toy and a Bear.
    every = Counter(label for image in detections(0.05) for label, _ in image)
    dropped = sum(
        any(other == "Teddy bear" and iou(box, other_box) > 0.5 for other, other_box in image)
        for image in detections(0.05)
        for label, box in image
        if label == "Bear"
    )
    assert dropped > 5
    assert exported("--most-specific", "--score-threshold", "0.05") == every - Counter({"Bear": dropped})


def iou(a: list[float], b: list[float]) -> float:
    """The IoU of two boxes x1 y1 x2 y2."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_photos_through_the_mask_detector(place: Place, assets: Path, tmp_path: Path):
    output, results = tmp_path / "masks", tmp_path / "results.json"
    truth = assets / "images" / "coco-val80-instances.json"
    done(
        place,
        *("label", assets / "images" / "coco-val80", "--detector", assets / "models" / "maskrcnn-tf2"),
        *("--label-map", "coco", "--output", output, "--score-threshold", "0.01"),
    )
    assert [row["status"] for row in table(output)] == ["ok"] * 80
    done(
        place,
        *("export", "coco", output, "--to", tmp_path / "coco.json", "--results", results, "--score-threshold", "0"),
        *("--image-ids", truth),
    )
    (box, _), (mask, _) = scores(truth, results, "bbox"), scores(truth, results, "segm")
    print(f"mask detector: box AP {box:.3f}, mask AP {mask:.3f}")
    assert box >= 0.37
    assert mask >= 0.295


def test_files_that_break_readers_and_photos_rotated_by_exif(place: Place, assets: Path, tmp_path: Path):
    hard, upright = assets / "images" / "hard", tmp_path / "upright"
    upright.mkdir()
    turned = sorted([*hard.glob("*Portrait_6*"), *hard.glob("*Landscape_*")])
    assert len(turned) == 3
    for path in turned:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image).convert("RGB").save(upright / f"{path.stem}.png")
    output = tmp_path / "hard-run"
    done(
        place,
        *("label", hard, upright, "--detector", assets / "models" / "openimages-hub-module"),
        *("--output", output, "--score-threshold", "0.1", "--shard-size", "16"),
    )
    rows = table(output)
    of_upright = {Path(row["image_id"]).stem: row for row in rows if str(upright) in row["uri"]}
    of_hard = [row for row in rows if str(upright) not in row["uri"]]
    with (assets / "images" / "hard-index.csv").open() as file:
        index = {line["file"]: line for line in csv.DictReader(file)}
    assert len(of_hard) == len(index) == 50
    for row in of_hard:
        assert row["status"] == "ok" or (row["error_type"] and row["error"] and "\n" not in row["error"])
    compared = 0
    for row in of_hard:
        twin = of_upright.get(Path(row["image_id"]).stem)
        if twin is not None and row["image_id"].split("/")[-1] in {path.name for path in turned}:
            assert (row["height"], row["width"]) == (twin["height"], twin["width"])
            for column in ("boxes", "scores", "labels"):
                assert row[column] == twin[column], row["image_id"]
            compared += len(row["boxes"])
    print(f"{len(turned)} turned photos, {compared} boxes equal")
    assert compared >= len(turned)
    failed = {row["image_id"]: row["error_type"] for row in of_hard if row["status"] == "failed"}
    print(json.dumps(failed))


def test_the_runs_of_two_detectors_are_fused(place: Place, assets: Path, tmp_path: Path):
    """The weaker one alone is far below both together, whose classes come together by MID, by name or despite MIDs."""
    truth = assets / "images" / "coco-val80-instances.json"
    runs = {}
    for model, options in (("maskrcnn-tf2", ("--label-map", "coco")), ("openimages-hub-module", ())):
        runs[model] = tmp_path / model
        done(
            place,
            *("label", assets / "images" / "coco-val80", "--detector", assets / "models" / model, *options),
            *("--output", runs[model], "--limit", "20", "--score-threshold", "0.01", "--runner", "local"),
        )
    fused = tmp_path / "fused"
    done(place, "fuse", *runs.values(), "--to", fused, "--weights", "4,1", "--score-threshold", "0")
    done(place, "verify", fused)
    rows = table(fused)
    assert {(row["status"], row["views_shown"]) for row in rows} == {("ok", 2)}
    seen_by = Counter(views for row in rows for views in row["views"])
    assert min(seen_by[1], seen_by[2]) > 50
    labels = {label for row in rows for label in row["labels"]}
    assert len({label.casefold() for label in labels}) == len(labels)
    ap = {}
    for run in (runs["openimages-hub-module"], fused):
        done(place, "evaluate", run, "--truth", truth, "--truth-labels", "coco", "--score-threshold", "0")
        report = json.loads((run / "evaluation" / "evaluation.json").read_text())
        ap[run.name] = report["boxes"]["overall"]["AP"]
    assert ap["fused"] > ap["openimages-hub-module"] + 0.05
