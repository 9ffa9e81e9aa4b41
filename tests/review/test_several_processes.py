"""Evaluations and comparisons by several processes are the same as by a single process."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.parallel import SpreadRows
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.processes import Processes
from prelabel.review.comparison import compare
from prelabel.review.evaluation import evaluate
from prelabel.review.openimages.evaluation import evaluate_open_images
from prelabel.review.options import CompareOptions, EvaluateOptions
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.messages import told
from tests.review.cases import image, images_in, rows_of, thing, write_truth
from tests.review.openimages_cases import BOXES, DETECTIONS, LABELS
from tests.rows import failed_row, found, mask_of, row
from tests.runs import write_run


def test_classes_may_be_evaluated_by_several_processes(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    mask = mask_of("###...", "###...", "###...", "###...")
    mask_of_cat = mask_of("#####.", "#####.", "......", "......")
    cat = found("Cat", 0.4, (0, 0, 5, 2), category_id=2, mid="/m/01yrx", mask=mask_of_cat)
    run = open_run(write_run(tmp_path / "run", [[row(f"{n}.jpg", found(mask=mask), cat) for n in range(3)]]), Storage())
    info, truth = RunInfo.of(run), str(tmp_path / "truth.json")
    export_coco(info, run.rows, truth, CocoOptions.of(score_threshold=0.3), run.storage)
    options = EvaluateOptions.of(truth=truth)
    single = evaluate(info, run.rows, options, run.storage)
    with Processes(2, at_once=True) as processes:
        several = evaluate(info, SpreadRows(run.rows, processes), options, run.storage)
    assert single.boxes.overall["AP"] == pytest.approx(1)
    assert set(single.boxes.by_class) == {"Dog", "Cat"}
    assert dataclasses.asdict(several.boxes) == dataclasses.asdict(single.boxes)
    assert single.masks is not None
    assert several.masks is not None
    assert dataclasses.asdict(several.masks) == dataclasses.asdict(single.masks)


def test_detections_may_be_read_by_several_processes(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    mask = mask_of("###...", "###...", "###...", "###...")
    dog, cat = found(score=0.9, mask=mask), found("Cat", 0.7, (0, 0, 2, 2), category_id=2, mid="/m/01yrx", mask=mask)
    cow = found("Cow", 0.8, (2, 2, 4, 4), category_id=4, mid="/m/01xq0k1")
    # Each image has a different number of dogs. Two photos are rotated for display; of one of them, the truth has the
    # size in the file, 6 x 4. Two photos 0.jpg are not in the truth, which has another one of this name.
    shards = [[row(f"{shard}/{n}.jpg", *[dog] * (n + shard), cow) for n in range(3)] for shard in range(3)]
    for shard in shards[1:]:
        shard[1] = replace(shard[1], exif_orientation=6)
    shards.append([row("3/a.jpg", cat), failed_row("3/b.jpg"), row("not-in-the-truth.jpg", cow)])
    run = open_run(write_run(tmp_path / "run", shards), Storage())
    names = [row.file_name for row in run.rows()]
    images = [image(number, name, height=4, width=6) for number, name in enumerate([*names[:-1], "only.jpg"], 1)]
    images[4] |= {"height": 6, "width": 4}
    images = images[1:3] + images[4:]
    polygon = [[0, 0, 3, 0, 3, 4, 0, 4]]
    objects = [thing((0, 0, 3, 4), image_id=image["id"], segmentation=polygon) for image in images[:-1]]
    # The truth has other MIDs of both classes, which a note tells. The cat is in the last shard only.
    categories = [{"id": 1, "name": "dog", "mid": "/m/1"}, {"id": 2, "name": "cat", "mid": "/m/2"}]
    truth = write_truth(tmp_path, objects, images, categories)
    options = EvaluateOptions.of(truth=truth, compare_thresholds={"Dog": 0.5, "Cat": 0.8})
    info = replace(RunInfo.of(run), classes=None, masks=True)
    single = evaluate(info, run.rows, options, run.storage)
    read: list[tuple[int, int]] = []
    with Processes(2, at_once=True) as processes:
        rows = SpreadRows(run.rows, processes, lambda done, total: read.append((done, total)))
        several = evaluate(info, rows, options, run.storage)
    counts = single.images
    assert (counts.matched, counts.failed, counts.only_run, counts.only_truth) == (9, 1, 3, 1)
    assert single.classes.only_run == {"Cow": 7}  # on the images that are in both
    assert len(single.overall.score) == (1 + 2) + (2 + 3) + (2 + 3 + 4) + 1
    assert told(single.notes, "MIDs", "'Dog'", "'Cat'")
    assert single.masks is not None
    assert several.masks is not None
    for one, other in ((single.boxes, several.boxes), (single.masks, several.masks)):
        assert dataclasses.asdict(one) == dataclasses.asdict(other)
    for name in ("images", "classes", "confusion", "reviewed", "notes"):
        assert getattr(several, name) == getattr(single, name)
    assert several.work.by_class.keys() == single.work.by_class.keys() == {"dog", "cat"}
    assert several.work.total("given") == single.work.total("given")
    assert read == 2 * [(done, 12) for done in (3, 6, 9, 12)]  # once to find the images, once for the detections


def test_open_images_may_be_read_by_several_processes(tmp_path: Path) -> None:
    image_rows = rows_of(DETECTIONS, images_in(BOXES, LABELS))
    run = open_run(
        write_run(tmp_path / "run", [image_rows[n : n + 8] for n in range(0, len(image_rows), 8)]), Storage()
    )
    info = RunInfo.of(run)
    options = EvaluateOptions.of(metric="openimages", truth=str(BOXES), image_labels=str(LABELS), score_threshold=0.2)
    single = evaluate_open_images(info, run.rows, options, run.storage)
    with Processes(2, at_once=True) as processes:
        several = evaluate_open_images(info, SpreadRows(run.rows, processes), options, run.storage)
    assert single.mean_ap > 0
    assert several == single


def test_a_coco_dataset_may_be_compared_by_several_processes(tmp_path: Path) -> None:
    # Two photos are rotated for display, and the dataset has the pixels of their files: 6 x 4.
    shards = [[row(f"{shard}/{n}.jpg", found(score=0.9, xyxy=(0, 0, 2, 3))) for n in range(2)] for shard in range(3)]
    for shard in shards[1:]:
        shard[0] = replace(shard[0], exif_orientation=6)
    run = open_run(write_run(tmp_path / "run", shards), Storage())
    info, dataset = RunInfo.of(run), str(tmp_path / "coco.json")
    export_coco(info, run.rows, dataset, CocoOptions.of(frame="stored", segmentation="none"), run.storage)
    options = CompareOptions.of(predictions="out", annotations=dataset, score_threshold=0.3)
    single = compare(info, run.rows, options, run.storage)
    with Processes(2, at_once=True) as processes:
        several = compare(info, SpreadRows(run.rows, processes), options, run.storage)
    assert single.total.counts["kept"] == 6
    assert told(single.notes, "2", "stored pixels")
    assert (several.by_class, several.edited, several.notes) == (single.by_class, single.edited, single.notes)


def test_images_may_be_compared_by_several_processes(tmp_path: Path) -> None:
    shards = [[row(f"{shard}/{n}.jpg", found(score=0.9), found(score=0.5)) for n in range(2)] for shard in range(5)]
    run = open_run(write_run(tmp_path / "run", shards), Storage())
    info = RunInfo.of(run)
    export_label_studio(info, run.rows, str(tmp_path / "tasks"), LabelStudioOptions(), run.storage)
    tasks = json.loads((tmp_path / "tasks" / "tasks-00000.json").read_text())
    for number, task in enumerate(tasks):
        # Of each image, annotators kept a different number of boxes; an image of the fourth shard is not annotated.
        result = task["predictions"][0]["result"][: number % 3]
        task["annotations"] = [] if number == 7 else [{"id": number, "lead_time": 1.0, "result": result}]
    annotations = tmp_path / "export.json"
    annotations.write_text(json.dumps(tasks))
    options = CompareOptions.of(predictions="out", annotations=str(annotations))
    single = compare(info, run.rows, options, run.storage)
    read: list[tuple[int, int]] = []
    with Processes(2, at_once=True) as processes:
        rows = SpreadRows(run.rows, processes, lambda done, total: read.append((done, total)))
        several = compare(info, rows, options, run.storage)
    assert single.images == 9
    assert single.total.counts["kept"] == sum(number % 3 for number in range(10) if number != 7)
    assert [image.name for image in several.reviewed] == [image.name for image in single.reviewed]
    assert (several.by_class, several.edited, several.notes) == (single.by_class, single.edited, single.notes)
    assert read == 2 * [(done, 10) for done in (2, 4, 6, 8, 10)]  # the names of the images are read first
