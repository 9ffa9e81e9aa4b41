"""Checks before a run is resumed: the settings and the detector must be the same. Also, what is left to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from prelabel.config import LabelOptions, differences
from prelabel.detectors.base import DetectorRecord
from prelabel.engine.schedule import Keep, LabelTask
from prelabel.errors import ConfigError
from prelabel.storage.address import Address, redact
from prelabel.store.output import Finished
from prelabel.store.plan import Plan
from prelabel.store.rows import GONE
from prelabel.store.run import RunRecord

Numbers = npt.NDArray[np.int64]

#: The default `--score-threshold` of early releases.
_FORMER_DEFAULT = 0.3

#: Options for what early releases decided without an option.
_LATER_OPTIONS = ("input_range", "activation", "input_layout", "mask_frame", "trust_model")

#: How early releases interpreted a model's inputs and outputs, before the decisions were recorded in `run.json`.
_FORMER_READING = {
    "input range": ("0..1",),
    "activation": ("softmax", "logits"),
    "masks": ("box", "by-size"),
    "background": ("class 0",),
    "input layout": ("channels-last",),
}


def require_labeled(earlier: RunRecord, output: Address) -> None:
    """Raise ConfigError if a run was fused from others: it has no detector, so it cannot be resumed or extended."""
    if earlier.fused:
        raise ConfigError(
            f"{output} holds a run that `prelabel fuse` made from {len(earlier.fused)} runs: label or extend those, "
            "and fuse them again; or use another --output, or --overwrite to replace it"
        )


def with_former_threshold(options: LabelOptions, earlier: RunRecord) -> LabelOptions:
    """Use the default score threshold of early releases for a run that they began, unless a threshold is given."""
    is_former = earlier.detector.reading is None
    selection = options.selection
    if is_former and not selection.threshold_is_given and earlier.settings.get("score_threshold") == _FORMER_DEFAULT:
        return replace(options, selection=replace(selection, score_threshold=_FORMER_DEFAULT))
    return options


def require_same_settings(earlier: RunRecord, options: LabelOptions) -> None:
    """Check that no setting differs that would change the plan or rows that are ok.

    Raises:
        ConfigError: Some settings differ; the message names them.
    """
    if options.compares_source and (limit := earlier.settings.get("limit")):
        raise ConfigError(
            f"{redact(options.output)} holds a run with --limit {limit}, which --add-new, --changed and --gone cannot "
            "update, since they compare a run with its whole source. Use another --output, or --overwrite"
        )
    before = [retry.settings for retry in earlier.retries]
    settings = options.settings()
    if earlier.detector.reading is None:
        # Such a run recorded no values for these options; `require_same_detector` compares their effect.
        settings = {name: value for name, value in settings.items() if name not in _LATER_OPTIONS}
    covers_source = options.compares_source and not earlier.sources_not_in(settings["source"])
    if options.add_new or covers_source:  # the source is listed again, so another one may be given
        settings = {name: value for name, value in settings.items() if name != "source"}
    if options.add_new:  # or another list of its images
        settings = {name: value for name, value in settings.items() if name not in ("images", "part")}
    lines = differences(earlier.settings, settings, before, retry_failed=options.retry_failed)
    _refuse(lines, options.output)


def require_same_detector(was: DetectorRecord, now: DetectorRecord, output: str) -> None:
    """Check that the model's files, its label map and the interpretation of its inputs and outputs are the same.

    Raises:
        ConfigError: They differ; the message says how.
    """
    if was.fingerprint != now.fingerprint:
        lines = [f"detector was {was.address} ({was.fingerprint[:12]}), now {now.address} ({now.fingerprint[:12]})"]
    elif was.classes != now.classes:
        lines = ["the label map has changed"]
    elif was.keypoints != now.keypoints:
        lines = ["the names, the skeleton or the number of the keypoints have changed"]
    else:
        lines = _reading_differences(was, now)
    _refuse(lines, output)


def _reading_differences(was: DetectorRecord, now: DetectorRecord) -> list[str]:
    """The differences in how two records interpret the same model files: a run must not mix their rows."""
    if was.masks != now.masks:
        return [f"the masks of the model were {'used' if was.masks else 'not used'}"]
    after = {about: decision.value for about, decision in (now.reading or {}).items()}
    if was.reading is not None:
        before = {about: decision.value for about, decision in was.reading.items()}
        return [
            f"{about} was {before.get(about, 'not set')}, now {after.get(about, 'not set')}"
            for about in dict.fromkeys([*before, *after])
            if before.get(about) != after.get(about)
        ]
    if "uint8" in was.convention:
        after.pop("input range", None)  # integer inputs have never been scaled
    lines = [
        f"{about} was {' or '.join(_FORMER_READING[about])}, now {value}"
        for about, value in after.items()
        if value not in _FORMER_READING.get(about, (value,))
    ]
    if "(1001 classes" in was.convention and "background" not in after:
        lines.append("class 0 of 1001 was the background")
    return lines


def _refuse(lines: list[str], output: str) -> None:
    if lines:
        raise ConfigError(
            f"{redact(output)} holds a run with other settings: {'; '.join(lines)}. "
            "Use the same settings to resume it, another --output, or --overwrite to start again"
        )


@dataclass(frozen=True, slots=True)
class WorkLeft:
    """What is left to do in a shard.

    Attributes:
        task: The task.
        images: Number of images of the shard.
        to_label: Number of images that the task labels. If there are none, it needs no detector.
        kept_failed: Number of failed rows that are kept, without those of images that are gone.
    """

    task: LabelTask
    images: int
    to_label: int
    kept_failed: int = 0


class WorkList:
    """What is left to do in many shards, in their order, as columns: about 30 bytes per shard.

    Attributes:
        shards: `(len,)` the numbers of the shards, ascending.
        images: `(len,)` the number of images of each.
        to_label: `(len,)` the number of images to label in each.
        kept_failed: `(len,)` the number of failed rows that are kept, without those of images that are gone.
    """

    def __init__(self, shards: Numbers, keep: Numbers, images: Numbers, to_label: Numbers, kept_failed: Numbers):
        self.shards, self._keep = shards, keep
        self.images, self.to_label, self.kept_failed = images, to_label, kept_failed

    @classmethod
    def of(cls, work: Sequence[WorkLeft]) -> WorkList:
        """The work in these shards, in ascending order."""
        rows = [(left.task.shard, left.task.keep, left.images, left.to_label, left.kept_failed) for left in work]
        return cls(*np.array(rows, np.int64).reshape(-1, 5).T)

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[WorkLeft]:
        # Made when it is needed: the tasks of a million shards take half a gigabyte.
        for n in range(len(self)):
            task = LabelTask(int(self.shards[n]), Keep(self._keep[n]))
            yield WorkLeft(task, int(self.images[n]), int(self.to_label[n]), int(self.kept_failed[n]))

    def tasks(self) -> Iterator[tuple[LabelTask, int]]:
        """Yield the task of each shard with the shard's number of images."""
        return ((work.task, work.images) for work in self)

    def where(self, is_wanted: npt.NDArray[np.bool_]) -> WorkList:
        """The work in some of the shards."""
        columns = (self.shards, self._keep, self.images, self.to_label, self.kept_failed)
        return WorkList(*(column[is_wanted] for column in columns))


def work_left(record: RunRecord, plan: Plan, finished: Finished, *, retry_failed: bool) -> WorkList:
    """Return what is left to do, in the order of the shards.

    With `retry_failed`, it includes the failed images of finished shards, except those that are gone.

    Raises:
        StoreError: The plan cannot be read.
    """
    is_left = np.ones(record.shards, bool)
    keep, kept_failed, retried = (np.zeros(record.shards, np.int64) for _ in range(3))
    done, keep_rows = finished.shards.numbers, Keep.OK if retry_failed else Keep.CURRENT
    is_left[done] = False
    if retry_failed:
        retried[done] = finished.shards.counts("failed") - finished.shards.failed_with(GONE)
        is_left |= retried > 0
    keep[done] = keep_rows
    is_partly_labeled = np.zeros(record.shards, bool)
    is_partly_labeled[done] = True
    for shard, update in finished.outdated.items():
        is_left[shard] = is_partly_labeled[shard] = True
        keep[shard] = keep_rows
        retried[shard] = update.changed + (update.failed if retry_failed else 0)
        kept_failed[shard] = 0 if retry_failed else update.failed
    shards = np.flatnonzero(is_left)
    images = plan.counts(shards, record.shard_size)
    to_label = np.where(is_partly_labeled[shards], retried[shards], images)
    return WorkList(shards, keep[shards], images, to_label, kept_failed[shards])
