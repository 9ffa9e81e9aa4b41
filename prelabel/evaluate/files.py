"""The files an evaluation becomes, and how they are written."""

from __future__ import annotations

import json

from prelabel.errors import ConfigError
from prelabel.evaluate.evaluation import Evaluation
from prelabel.evaluate.page import page
from prelabel.evaluate.threshold_files import f1_file, suggested_file
from prelabel.storage import Storage, join, redact

JSON, HTML, SUGGESTED, BEST_F1 = "evaluation.json", "evaluation.html", "thresholds.yaml", "thresholds-best-f1.yaml"


def write_evaluation(done: Evaluation, to: str, storage: Storage) -> tuple[str, ...]:
    """Write `evaluation.json`, `evaluation.html`, `thresholds.yaml` and `thresholds-best-f1.yaml` below a folder.

    Returns:
        Their addresses, in this order.

    Raises:
        ConfigError: There is a file where the folder should be.
        StoreError: They cannot be written.
    """
    if storage.kind(to) == "file":
        raise ConfigError(f"{redact(to)} is a file; evaluate writes several files into a folder")
    contents = {
        # Escaped to ASCII: names of files may hold what UTF-8 cannot.
        JSON: json.dumps(done.to_json(), indent=1, allow_nan=False) + "\n",
        HTML: page(done),
        SUGGESTED: suggested_file(done),
        BEST_F1: f1_file(done),
    }
    for name, text in contents.items():
        storage.publish(join(to, name), text.encode())
    return tuple(join(to, name) for name in contents)
