"""The files an evaluation becomes, and how they are written."""

from __future__ import annotations

from prelabel.evaluate.evaluation import Evaluation
from prelabel.evaluate.page import page
from prelabel.evaluate.report_files import as_json, write_files
from prelabel.evaluate.threshold_files import f1_file, suggested_file
from prelabel.storage import Storage

JSON, HTML, SUGGESTED, BEST_F1 = "evaluation.json", "evaluation.html", "thresholds.yaml", "thresholds-best-f1.yaml"


def write_evaluation(done: Evaluation, to: str, storage: Storage) -> tuple[str, ...]:
    """Write `evaluation.json`, `evaluation.html`, `thresholds.yaml` and `thresholds-best-f1.yaml` below a folder.

    Returns:
        Their addresses, in this order.

    Raises:
        ConfigError: There is a file where the folder should be.
        StoreError: They cannot be written.
    """
    contents = {
        JSON: as_json(done.to_json()),
        HTML: page(done),
        SUGGESTED: suggested_file(done),
        BEST_F1: f1_file(done),
    }
    return write_files(contents, to, storage, command="evaluate")
