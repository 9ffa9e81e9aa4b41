"""Label Studio task files from finished shards, with the labelling config that fits them.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes this task in `tasks-00000.json`:

    {"data": {"image": "s3://bucket/photos/a.jpg", "image_id": "a.jpg", "file_name": "a.jpg"},
     "predictions": [{"model_version": "ssd-0123abcd", "score": 0.9, "result": [{"type": "rectanglelabels", ...}]}]}

Every image has one prediction with all its regions; one on which nothing was found has an empty prediction. Failed
images are left out and counted, or with `include_failed` become tasks without a prediction. Every task is checked by
the rules in `preflight` before its file is published.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from prelabel.detections import Detections
from prelabel.errors import ExportError
from prelabel.export.image_url import ImageUrls
from prelabel.export.known_names import KnownNames
from prelabel.export.label_config import LabelConfig
from prelabel.export.label_studio_config import config_for, kind_of
from prelabel.export.label_studio_options import LabelStudioOptions, TaskOptions
from prelabel.export.preflight import Preflight
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally, shortest
from prelabel.export.regions import Frame, Region, choice, region_id
from prelabel.export.shaping import Shaper
from prelabel.export.task_files import task_files
from prelabel.export.task_score import task_score
from prelabel.storage import Storage, describe, join, redact
from prelabel.store.rows import ImageRow

CONFIG_NAME = "label_config.xml"


def export_label_studio(
    info: RunInfo, rows: Rows, to: str, options: LabelStudioOptions, storage: Storage
) -> ExportReport:
    """Write task files (`tasks-00000.json`, ... or another layout) and `label_config.xml` into the folder `to`.

    The rows are read twice: once for the classes and tools that occur, then for the tasks. Tasks come in the order of
    the plan, regions by descending score. Task files of an earlier export into the folder are replaced or deleted.

    Raises:
        ConfigError: An option names a class that the detector does not have, or `image_url` an unknown placeholder.
        ExportError: Classes that do not fit the given config, images without an address, masks that do not fit their
            image, a task that would not be shown, or a file that cannot be written.
    """
    if options.layout == "predictions" and not info.task_numbers:
        raise ExportError("layout predictions needs a run that was made of the tasks of a Label Studio project")
    names = KnownNames(info, options)
    tally = Tally()
    urls = ImageUrls(options.image_url, options.document_root)
    config = config_for(info, rows, options, storage)
    if not any(control.labels for control in config.controls):
        tally.warnings.append("nothing was found and the detector has no list of classes: the config has no label")
    preflight = Preflight(config)
    limits = (options.tasks_per_file, int(options.max_file_mb * 1e6))
    try:
        with task_files(to, storage, options.layout, *limits) as files:
            for task in tasks_of(info, rows, urls, config, options, tally, names):
                preflight.require_showable(task)
                for item in _for_own_tasks(task) if options.layout == "predictions" else [task]:
                    files.add(item)
        storage.publish(join(to, CONFIG_NAME), config.xml.encode("utf-8"))
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    tally.files = [*files.urls, join(to, CONFIG_NAME)]
    tally.warnings += names.warnings
    tally.warnings += [f"Label Studio needs {need}" for need in urls.needs]
    if files.largest_task > options.max_file_mb * 1e6:
        tally.warnings.append(f"a single task has {files.largest_task / 1e6:.1f} MB, more than max-file-mb")
    return tally.report()


def _for_own_tasks(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The predictions of a task by its number, with which its image id begins."""
    number = int(task["data"]["image_id"].partition("/")[0])
    return [{"task": number, **prediction} for prediction in task["predictions"]]


def tasks_of(
    info: RunInfo,
    rows: Rows,
    urls: ImageUrls,
    config: LabelConfig,
    options: TaskOptions,
    tally: Tally,
    names: KnownNames,
) -> Iterator[dict[str, Any]]:
    """The tasks of a run in plan order, each with one prediction (or, of a failed image, none)."""
    for row in rows():
        found = row.detections
        if found is None:
            tally.failed += 1
            if not options.include_failed:
                continue
        tally.images += 1
        data = {config.data_key: urls.of(row), "image_id": row.image_id, "file_name": row.file_name}
        predictions = []
        if found is not None:
            names.see(found)
            result = _image_regions(info, row, found, config, options)
            tally.detections += sum(len(one["value"][one["type"]]) for one in result)
            result += _regions(info, row, found, config, options, tally)
            score = task_score([region["score"] for region in result], options.task_score)
            predictions.append({"model_version": info.model_version, "score": score, "result": result})
        yield {"data": data, "predictions": predictions}


def _regions(
    info: RunInfo, row: ImageRow, found: Detections, config: LabelConfig, options: TaskOptions, tally: Tally
) -> list[Region]:
    kept = options.indices(found.score, found.label, found.mid, found.xyxy)
    if not len(kept):
        return []
    labels = options.rename(found.label[kept], found.mid[kept])
    scores = shortest(found.score[kept])
    shaper = Shaper(row.image_id, Frame(found.height, found.width, config.to_name), options, tally.left_out)
    regions: list[Region] = []
    for index, label, score in zip(kept.tolist(), labels, scores, strict=True):
        counts = None if found.mask is None else found.mask[index]
        control = config.control(kind_of(options, counts is not None, config))
        fitting = None if control is None else control.fit(label)
        if control is None or fitting is None:
            tally.left_out["detections of classes that the given config does not have"] += 1
            continue
        ids = (region_id(info.model_version, row.image_id, index, part) for part in range(1 << 30))
        made = shaper.regions(ids, control, fitting, score, found.xyxy[index], counts)
        tally.detections += bool(made)
        regions += made
    return regions


def _image_regions(
    info: RunInfo, row: ImageRow, found: Detections, config: LabelConfig, options: TaskOptions
) -> list[Region]:
    """The labels of the whole image that the config has: all that are kept, or where it allows one, the best."""
    control = config.control("choices")
    if control is None or not row.image_labels:
        return []
    scores: dict[str, float] = {}
    for one in options.apply_to_image_labels(row.image_labels):
        label = control.fit(one.label)
        if label is not None and (control.multiple or not scores):
            scores.setdefault(label, one.score)
    if not scores:
        return []
    id_ = region_id(info.model_version, row.image_id, "image")
    frame = Frame(found.height, found.width, config.to_name)
    best = shortest(np.array([max(scores.values())], np.float32))[0]
    return [choice(id_, control, frame, scores, best)]
