"""Label Studio's tasks: the URL of an image, and one prediction with its regions and a score made from theirs.

Exports write tasks to files (`export.py`), and pushes send them to a server (`push.py`), both in batches of bounded
size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from prelabel.export.base import Rows, RunInfo, Tally
from prelabel.export.display_copies import DisplayCopies
from prelabel.export.keypoints import unread_keypoints
from prelabel.export.parallel import UNUSED, UNUSED_BUT_REREAD, Part
from prelabel.export.text import shortest, strict_json
from prelabel.frames import BROWSER
from prelabel.label_studio.config import LabelConfig
from prelabel.label_studio.image_url import ImageUrls
from prelabel.label_studio.options import TaskOptions
from prelabel.label_studio.preflight import Preflight, require_distinct, require_score
from prelabel.label_studio.regions import Region, Regions, choice, kinds_of, region_id, regions_of
from prelabel.options import require
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts

Item = TypeVar("Item")

#: Detections whose regions are in memory at a time; the region of a brush mask is a text with one number per byte.
_DETECTIONS = 1024


@dataclass(kw_only=True)
class TaskPart(Part[tuple[str, bytes]]):
    """The tasks of some rows, each as image id and JSON (of the task, or of a prediction for an existing task).

    Attributes:
        urls: Makes the images' URLs, and notes what the server needs.
        copies: Counts images that browsers do not show, and writes copies of them.
        samples: A task with each tool and label, checked before the tasks of the part are written or sent.
    """

    urls: ImageUrls
    copies: DisplayCopies
    samples: TaskSamples


class TaskSamples:
    """The first task with each tool and label, and the first whose prediction has no regions.

    The processes that make tasks collect them, and the one that collects the parts has them checked.
    """

    def __init__(self, preflight: Preflight | None = None) -> None:
        """Without `preflight`, samples are only collected."""
        self._preflight = preflight
        self._kinds: set[str] = set()
        self._tasks: list[tuple[set[str], bytes]] = []

    def fresh(self) -> TaskSamples:
        """No samples."""
        return TaskSamples()

    def see(self, task: bytes, kinds: set[str]) -> None:
        """Keep a task as JSON if it has something new.

        Args:
            task: The task.
            kinds: What distinguishes its regions besides their numbers; see `Regions`.
        """
        new = (kinds or {"no region"}) - self._kinds
        if new:
            self._kinds |= new
            self._tasks.append((new, task))

    def add(self, other: TaskSamples) -> None:
        """Check the samples of a part that have something new.

        Raises:
            ExportError: Label Studio would not show a task; see `Preflight.require_accepted`.
        """
        for kinds, task in other._tasks:
            if self._preflight is not None and not kinds <= self._kinds:
                self._preflight.require_accepted(task)
            self._kinds |= kinds


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


def rows_for_tasks(rows: Rows, info: RunInfo, options: TaskOptions) -> Rows:
    """The rows with the columns that tasks need, in the frame in which browsers show the images."""
    unread = [*(UNUSED_BUT_REREAD if options.display_copies else UNUSED), *unread_keypoints(info, options)]
    if options.shape == "rectangle":
        unread.append("masks")
    return rows.without(*unread).in_frame(BROWSER)


def add_tasks(
    info: RunInfo,
    config: LabelConfig,
    options: TaskOptions,
    batches: Iterable[DetectionBatch],
    part: TaskPart,
    *,
    for_existing: bool = False,
) -> None:
    """Add the tasks of some rows to a part, each with one prediction; a failed image has none.

    Every task will be shown: see `preflight`.

    Args:
        info: Facts about the run.
        config: The labeling config, which was checked when the export began.
        options: How detections become regions.
        batches: The rows.
        part: Receives the tasks in plan order.
        for_existing: Add predictions for the tasks that the images come from, instead of new tasks.

    Raises:
        ExportError: An image has no URL, a mask does not fit its image, or a task would not be shown.
    """
    model_version = strict_json(info.model_version)
    tally = part.tally
    for batch in itertools.chain.from_iterable(larger.split(_DETECTIONS) for larger in batches):
        part.names.see(batch.label, batch.mid)
        of_batch = regions_of(batch, info.model_version, config, options, tally, info.keypoints)
        images = [image for image, failed in zip(batch.images, batch.failed, strict=True) if not failed]
        copies = part.copies.write((image, part.urls.extension(image)) for image in images)
        for image, failed, regions in zip(batch.images, batch.failed, of_batch, strict=True):
            if failed:
                tally.failed += 1
                if not options.include_failed:
                    continue
            tally.add_image(image)
            copy = copies.get(image.image_id)
            url = part.urls.of(image) if copy is None else part.urls.of_copy(image, copy)
            data = {config.data_key: url, "image_id": image.image_id, "file_name": image.file_name}
            predictions = [] if failed else [_prediction(info, model_version, image, regions, config, options, tally)]
            require_distinct(image.image_id, url, info.model_version, regions.ids, config)
            task = b'{"data":%b,"predictions":[%b]}' % (strict_json(data), b"".join(predictions))
            if predictions:
                part.samples.see(task, regions.kinds)
            if for_existing:
                # An image id begins with the number of its task.
                number = int(image.image_id.partition("/")[0])
                part.items += [
                    (image.image_id, b'{"task":%d,%b' % (number, prediction[1:])) for prediction in predictions
                ]
            else:
                part.items.append((image.image_id, task))


def _prediction(
    info: RunInfo,
    model_version: bytes,
    image: ImageFacts,
    regions: Regions,
    config: LabelConfig,
    options: TaskOptions,
    tally: Tally,
) -> bytes:
    """The prediction of an image as JSON; the labels of the whole image become the first of its regions.

    `model_version` is that of the run as JSON.
    """
    for region in _image_regions(info, image, config, options):
        require_score(image.image_id, region["score"])
        tally.detections += len(region["value"][region["type"]])
        regions.json.insert(0, strict_json(region).decode("ascii"))
        regions.ids.insert(0, region["id"])
        regions.kinds |= kinds_of(region)
        regions.scores.insert(0, region["score"])
    # The score of a task is about its objects. The points of one object would outweigh the others.
    score = task_score(regions.scores, options.task_score)
    tally.add_regions(len(regions.scores), keypoints=len(regions.json) - len(regions.scores))
    result = ",".join(regions.json).encode("ascii")
    return b'{"model_version":%b,"score":%b,"result":[%b]}' % (model_version, strict_json(score), result)


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
    value = sum(scores) / len(scores) if method == "mean" else min(scores) if method == "min" else max(scores)
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
