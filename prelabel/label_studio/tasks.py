"""Label Studio's tasks: the URL of an image, and one prediction with its regions and a score made from theirs.

Exports write tasks to files (`export.py`), and pushes send them to a server (`push.py`), both in batches of bounded
size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from prelabel.export.base import RunInfo
from prelabel.export.display_copies import DisplayCopies
from prelabel.export.parallel import Part
from prelabel.export.text import shortest, strict_json
from prelabel.label_studio.config import LabelConfig
from prelabel.label_studio.image_url import ImageUrls
from prelabel.label_studio.options import LabelStudioOptions, TaskOptions
from prelabel.label_studio.preflight import Preflight
from prelabel.label_studio.regions import Region, choice, region_id, regions_of
from prelabel.options import require
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts

Item = TypeVar("Item")

#: Detections whose regions are in memory at a time; the region of a brush mask is a list with one number per byte.
_DETECTIONS = 1024


@dataclass(kw_only=True)
class TaskPart(Part[tuple[str, bytes]]):
    """The tasks of some rows, each as image id and JSON (of the task, or of a prediction for an existing task).

    Attributes:
        urls: Makes the images' URLs, and notes what the server needs.
        copies: Counts images that browsers do not show, and writes copies of them.
    """

    urls: ImageUrls
    copies: DisplayCopies


def require_possible_copies(info: RunInfo, options: TaskOptions, *, new_tasks: bool) -> None:
    """Raise ConfigError for display copies if all tasks exist already, or if the images cannot be read again."""
    require(
        (new_tasks and not info.task_numbers) or not options.display_copies,
        "--display-copies needs new tasks: the tasks that the run was made from keep their images",
    )
    require(
        not (options.display_copies and info.signed and not options.extracted),
        f"--display-copies cannot read {info.signed:,} images again: they came from signed URLs, and a run stores no "
        "signatures. Extract them with `prelabel extract --links`, and add --extracted",
    )


def add_tasks(
    info: RunInfo,
    config: LabelConfig,
    options: LabelStudioOptions,
    batches: Iterable[DetectionBatch],
    part: TaskPart,
) -> None:
    """Add the tasks of some rows to a part; each is checked by the rules in `preflight`.

    With the layout `predictions`, predictions for the tasks that the images come from are added instead.

    Raises:
        ExportError: An image has no URL, a mask does not fit its image, or a task would not be shown.
    """
    # The config was checked when the export began.
    preflight = Preflight(config, accepted=True)
    for task in tasks_of(info, batches, config, options, part):
        preflight.require_showable(task)
        image_id, items = task["data"]["image_id"], [task]
        if options.layout == "predictions":
            # An image id begins with the number of its task.
            number = int(image_id.partition("/")[0])
            items = [{"task": number, **prediction} for prediction in task["predictions"]]
        part.items += [(image_id, strict_json(item)) for item in items]


def tasks_of(
    info: RunInfo, batches: Iterable[DetectionBatch], config: LabelConfig, options: TaskOptions, part: TaskPart
) -> Iterator[dict[str, Any]]:
    """The tasks of a run in plan order, each with one prediction; a failed image has none."""
    tally = part.tally
    for batch in itertools.chain.from_iterable(larger.split(_DETECTIONS) for larger in batches):
        part.names.see(batch.label, batch.mid)
        regions = regions_of(batch, info.model_version, config, options, tally, info.keypoints)
        images = [image for image, failed in zip(batch.images, batch.failed, strict=True) if not failed]
        copies = part.copies.write((image, part.urls.extension(image)) for image in images)
        for image, failed, detection_regions in zip(batch.images, batch.failed, regions, strict=True):
            if failed:
                tally.failed += 1
                if not options.include_failed:
                    continue
            tally.add_image(image)
            copy = copies.get(image.image_id)
            url = part.urls.of(image) if copy is None else part.urls.of_copy(image, copy)
            data = {config.data_key: url, "image_id": image.image_id, "file_name": image.file_name}
            predictions = []
            if not failed:
                result = _image_regions(info, image, config, options)
                tally.detections += sum(len(region["value"][region["type"]]) for region in result)
                result += detection_regions
                # The score of a task is about its objects. The points of one object would outweigh the others.
                scores = [region["score"] for region in result if "parentID" not in region]
                tally.add_regions(len(scores), keypoints=len(result) - len(scores))
                score = task_score(scores, options.task_score)
                predictions.append({"model_version": info.model_version, "score": score, "result": result})
            yield {"data": data, "predictions": predictions}


def _image_regions(info: RunInfo, image: ImageFacts, config: LabelConfig, options: TaskOptions) -> list[Region]:
    """The labels of the whole image: all that are kept and in the config, or only the best if it allows one."""
    control = config.control("choices")
    if control is None or not image.image_labels:
        return []
    scores: dict[str, float] = {}
    for image_label in options.selection.apply_to_image_labels(image.image_labels):
        label = control.fit(image_label.label)
        if label is not None and (control.multiple or not scores):
            scores.setdefault(label, image_label.score)
    if not scores:
        return []
    id_ = region_id(info.model_version, image.image_id, "image")
    best = shortest(np.array([max(scores.values())], np.float32))[0]
    return [choice(id_, control, config.to_name, scores, best)]


def task_score(scores: Sequence[float], method: str) -> float:
    """Compute the score of a prediction.

    Args:
        scores: Scores of its regions, each in 0..1.
        method: `mean`, `min`, `max`, or `uncertainty`: the mean of `|2 * score - 1|`, which is 0 if every region is as
            likely right as wrong and 1 if all are certain. Ordered by it, the most instructive tasks come first.

    Returns:
        A score in 0..1. Without regions it is 0 (the model may have missed everything), or 1 for `uncertainty` (no
        region is in doubt).
    """
    if not scores:
        return 1.0 if method == "uncertainty" else 0.0
    if method == "uncertainty":
        scores = [abs(2 * score - 1) for score in scores]
        method = "mean"
    value = {"mean": sum(scores) / len(scores), "min": min(scores), "max": max(scores)}[method]
    return min(round(value, 6), 1.0)


class Batch(Generic[Item]):
    """Collects tasks and sends them together; limited in number and bytes."""

    def __init__(self, max_items: int, max_bytes: int, send: Callable[[list[Item]], None]) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._send = send
        self._items: list[Item] = []
        self._bytes = 0

    def add(self, item: Item, size: int) -> None:
        """Add a task of this size in bytes; send the collected ones first if it does not fit with these."""
        if self._bytes + size > self._max_bytes or len(self._items) == self._max_items:
            self.send()
        self._items.append(item)
        self._bytes += size

    def send(self) -> None:
        """Send the collected tasks, if there are any."""
        items, self._items, self._bytes = self._items, [], 0
        if items:
            self._send(items)
