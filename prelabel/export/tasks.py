"""The tasks of rows: the image's address, and one prediction with all its regions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from prelabel.detections import Detections
from prelabel.export.image_url import ImageUrls
from prelabel.export.known_names import KnownNames
from prelabel.export.label_config import LabelConfig
from prelabel.export.label_studio_options import TaskOptions
from prelabel.export.preflight import Preflight
from prelabel.export.reading import Rows, RunInfo, Tally, shortest, strict_json
from prelabel.export.regions import Frame, Region, choice, region_id
from prelabel.export.shaping import regions_of
from prelabel.export.side_by_side import lots
from prelabel.export.task_score import task_score
from prelabel.store.rows import ImageRow

#: Detections whose regions are in memory at a time: that of a brush mask has a number for each byte.
_DETECTIONS = 1024


@dataclass(frozen=True, slots=True)
class MadeTasks:
    """The tasks of a part of the rows as JSON, and what was seen on the way.

    Attributes:
        tasks: Image id and JSON of each task (or prediction for a task of its own).
        tally: Of this part.
        names: Of this part.
        urls: Of this part.
    """

    tasks: list[tuple[str, bytes]]
    tally: Tally
    names: KnownNames
    urls: ImageUrls


@dataclass(frozen=True, slots=True)
class TasksOf:
    """Makes the tasks of a part of the rows, each checked by the rules in `preflight`.

    Attributes:
        info: The run.
        urls: Only how addresses are made; what they need is told by each part.
        config: All tasks fit it.
        options: Of the export.
        names: Only what to look for.
        own_tasks: Whether predictions for the tasks that the images are from are made, instead of tasks.
    """

    info: RunInfo
    urls: ImageUrls
    config: LabelConfig
    options: TaskOptions
    names: KnownNames
    own_tasks: bool

    def __call__(self, rows: Iterable[ImageRow]) -> MadeTasks:
        """Raises ExportError for an image without an address, a mask that does not fit, a task that is not shown."""
        tally, names, urls = Tally(), self.names.fresh(), self.urls.fresh()
        # The config itself has been checked where the export began.
        preflight = Preflight(self.config, accepted=True)
        tasks = []
        for task in tasks_of(self.info, lambda: iter(rows), urls, self.config, self.options, tally, names):
            preflight.require_showable(task)
            items = _for_own_task(task) if self.own_tasks else [task]
            tasks += [(task["data"]["image_id"], strict_json(item)) for item in items]
        return MadeTasks(tasks, tally, names, urls)


def _for_own_task(task: dict[str, Any]) -> list[dict[str, Any]]:
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
    for some in lots(rows(), _DETECTIONS):
        regions = regions_of(some, info.model_version, config, options, tally)
        for number, row in enumerate(some):
            found = row.detections
            if found is None:
                tally.failed += 1
                if not options.include_failed:
                    continue
            tally.add_image(row)
            data = {config.data_key: urls.of(row), "image_id": row.image_id, "file_name": row.file_name}
            predictions = []
            if found is not None:
                names.see(found)
                result = _image_regions(info, row, found, config, options)
                tally.detections += sum(len(one["value"][one["type"]]) for one in result)
                result += regions[number]
                tally.add_regions(len(result))
                score = task_score([region["score"] for region in result], options.task_score)
                predictions.append({"model_version": info.model_version, "score": score, "result": result})
            yield {"data": data, "predictions": predictions}


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
