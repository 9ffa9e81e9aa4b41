"""The files a comparison becomes, and how they are written."""

from __future__ import annotations

from prelabel.compare.page import page
from prelabel.compare.result import Comparison
from prelabel.evaluate.report_files import as_json, write_files
from prelabel.evaluate.threshold_files import threshold_file, unlike
from prelabel.storage import Storage

JSON, HTML, THRESHOLDS = "comparison.json", "comparison.html", "thresholds.yaml"


def write_comparison(done: Comparison, to: str, storage: Storage) -> tuple[str, ...]:
    """Write `comparison.json`, `comparison.html` and `thresholds.yaml` below a folder.

    Returns:
        Their addresses, in this order.

    Raises:
        ConfigError: There is a file where the folder should be.
        StoreError: They cannot be written.
    """
    contents = {JSON: as_json(done.to_json()), HTML: page(done), THRESHOLDS: thresholds(done)}
    return write_files(contents, to, storage, command="compare")


def thresholds(done: Comparison) -> str:
    """The suggested thresholds for `--class-threshold`: the common one, and those of shown classes that differ."""
    head = f"Score thresholds with the fewest corrections on {done.images} images that people worked on."
    shown = [name for name, one in done.by_class.items() if one.shown]
    entries = [(name, done.work.by_class[name].suggested.threshold) for name in shown]
    return threshold_file(head, done.work.common.threshold, unlike(done.work.common.threshold, entries))
