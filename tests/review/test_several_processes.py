"""Evaluations and comparisons by several processes are the same as by a single process."""

from __future__ import annotations

import dataclasses
import json
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
from prelabel.review.options import CompareOptions, EvaluateOptions
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.rows import found, mask_of, row
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
