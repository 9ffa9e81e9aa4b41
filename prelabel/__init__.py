"""Pre-label image datasets at scale: images in object storage -> detectors on Ray -> Parquet -> COCO, Label Studio.

import prelabel

summary = prelabel.label("s3://bucket/photos", detector="openimages-ssd-mobilenet-v2", output="s3://bucket/run")
for row in prelabel.open_run("s3://bucket/run").rows():
    print(row.image_id, row.detections.label if row.detections else row.error)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prelabel.engine.progress import Reporter
    from prelabel.engine.summary import Summary
    from prelabel.store.run import Run

__version__ = "0.1.0"
__all__ = ["__version__", "label", "open_run"]


def label(
    source: str | Sequence[str],
    *,
    detector: str,
    output: str,
    config: str | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Summary:
    """Label images; the same as `prelabel label`, with the same options under the same names.

    Args:
        source: Directories, prefixes, globs, files, lists or COCO JSON, on any fsspec address.
        detector: Catalogue name, URL, archive, directory or prefix of a SavedModel.
        output: Where plan, shards and manifest go. An unfinished run there is continued.
        config: Job file (YAML or TOML); what is given here wins.
        reporter: Hears of progress; nobody by default (or standard error, with `log_json=True`).
        **options: Every option of `prelabel.config.LabelOptions`, for example `score_threshold=0.05, workers=8`.

    Raises:
        PrelabelError: See `prelabel.errors`. What was finished before stays, and the same call goes on with it.
    """
    from prelabel import console
    from prelabel.config import label_options
    from prelabel.engine.job import run

    values = {"source": [source] if isinstance(source, str) else list(source), "detector": detector, "output": output}
    chosen = label_options({**values, **options}, config=config)
    return run(chosen, reporter or console.reporter(quiet=True, log_json=chosen.log_json))


def open_run(output: str, storage_options: Mapping[str, Any] | None = None) -> Run:
    """A finished run, for reading its rows.

    Raises:
        StoreError: There is no run, or it is not finished.
    """
    from prelabel.storage import Storage, absolute
    from prelabel.store.run import open_run as open_

    return open_(absolute(output), Storage(storage_options))
