"""An evaluation by several processes is the same as by a single process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.parallel import SpreadRows
from prelabel.processes import Processes
from prelabel.review.evaluation import evaluate
from prelabel.review.options import EvaluateOptions
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.rows import found, mask_of, row
from tests.runs import write_run


def test_classes_may_be_evaluated_by_several_processes(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    mask = mask_of("###...", "###...", "###...", "###...")
    cat = found("Cat", 0.4, (0, 0, 5, 2), category_id=2, mid="/m/01yrx", mask=mask)
    run = open_run(write_run(tmp_path / "run", [[row(f"{n}.jpg", found(mask=mask), cat) for n in range(3)]]), Storage())
    info, truth = RunInfo.of(run), str(tmp_path / "truth.json")
    export_coco(info, run.rows, truth, CocoOptions.of(segmentation="none", score_threshold=0.3), run.storage)
    options = EvaluateOptions.of(truth=truth)
    single = evaluate(info, run.rows, options, run.storage)
    with Processes(2, min_remaining_s=0) as processes:
        several = evaluate(info, SpreadRows(run.rows, processes), options, run.storage)
    assert single.boxes.overall["AP"] == pytest.approx(1)
    assert set(single.boxes.by_class) == {"Dog", "Cat"}
    assert dataclasses.asdict(several.boxes) == dataclasses.asdict(single.boxes)
