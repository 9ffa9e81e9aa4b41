"""What a run that goes on requires and finds: the same settings and detector, shards that are finished and sound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from prelabel.config import LabelOptions, differences
from prelabel.engine.schedule import LabelTask
from prelabel.errors import ConfigError, RunInterrupted, StoreError
from prelabel.storage import Storage, join, redact
from prelabel.store.plan import Plan
from prelabel.store.run import DetectorRecord, RunRecord, read_manifest
from prelabel.store.shards import ShardRecord, shard_name
from prelabel.store.verify import check_shard

#: The default of the score threshold in releases that kept what people see.
_FORMER_DEFAULT = 0.3

#: Finished shards re-read at the same time.
_CHECK_THREADS = 8


@dataclass(frozen=True, slots=True)
class Finished:
    """What earlier calls have finished.

    Attributes:
        shards: Records of the shards that need not be labelled again, by number.
        unsound: Shards that are there and have to be.
        has_manifest: Whether the run was finished.
    """

    shards: Mapping[int, ShardRecord] = field(default_factory=dict)
    unsound: frozenset[int] = frozenset()
    has_manifest: bool = False


def as_begun(options: LabelOptions, earlier: RunRecord) -> LabelOptions:
    """The options, where no score threshold is stated with that of a run begun when its default was another one."""
    is_former = earlier.detector.reading is None  # of a later run it was stated
    if is_former and not options.threshold_is_stated and earlier.settings.get("score_threshold") == _FORMER_DEFAULT:
        return replace(options, score_threshold=_FORMER_DEFAULT)
    return options


def require_same_settings(earlier: RunRecord, options: LabelOptions) -> None:
    """Raises ConfigError, which names them, where settings differ that change the plan or rows that are ok."""
    before = [retry.settings for retry in earlier.retries]
    wanted = options.settings()
    if earlier.detector.reading is None:
        # Such a run could not state them; `require_same_detector` compares what they come to.
        wanted = {name: value for name, value in wanted.items() if name not in _STATED_SINCE}
    lines = differences(earlier.settings, wanted, before, retry_failed=options.retry_failed)
    if options.add_new:  # the source may be named anew when it is to be looked through again
        lines = [line for line in lines if not line.startswith("source was")]
    _refuse(lines, options.output)


def require_same_detector(was: DetectorRecord, now: DetectorRecord, output: str) -> None:
    """Raises ConfigError where the model's files, its label map or how its numbers are read differ."""
    lines = []
    if was.fingerprint != now.fingerprint:
        lines = [f"detector was {was.address} ({was.fingerprint[:12]}), now {now.address} ({now.fingerprint[:12]})"]
    elif was.classes != now.classes:
        lines = ["the label map has changed"]
    else:
        lines = _reading_differences(was, now)
    _refuse(lines, output)


#: Options that say what releases before did without being told.
_STATED_SINCE = ("input_range", "activation", "input_layout", "mask_frame", "trust_model")

#: How runs read networks before that was decided once for a model and recorded.
_READ_BEFORE = {
    "input range": ("0..1",),
    "activation": ("softmax", "logits"),
    "masks": ("box", "by-size"),
    "background": ("class 0",),
    "input layout": ("channels-last",),
}


def _reading_differences(was: DetectorRecord, now: DetectorRecord) -> list[str]:
    """In what two records read the same files in two ways: rows of both must not stand side by side."""
    if was.masks != now.masks:
        return [f"it was read {'with' if was.masks else 'without'} masks"]
    after = {about: decision["value"] for about, decision in (now.reading or {}).items()}
    if was.reading is not None:
        before = {about: decision["value"] for about, decision in was.reading.items()}
        return [
            f"{about} was {before.get(about, 'not stated')}, now {after.get(about, 'not stated')}"
            for about in dict.fromkeys([*before, *after])
            if before.get(about) != after.get(about)
        ]
    if "uint8" in was.convention:
        after.pop("input range", None)  # bytes were and are given as they are
    lines = [
        f"{about} was {' or '.join(_READ_BEFORE[about])}, now {value}"
        for about, value in after.items()
        if value not in _READ_BEFORE.get(about, (value,))
    ]
    if "(1001 classes" in was.convention and "background" not in after:
        lines.append("class 0 of 1001 was taken for the background")
    return lines


def _refuse(lines: list[str], output: str) -> None:
    if lines:
        raise ConfigError(
            f"{redact(output)} holds a run with other settings: {'; '.join(lines)}. "
            "Use the same settings to go on, another --output, or --overwrite to start anew"
        )


def find_finished(
    output: str, storage: Storage, record: RunRecord, plan: Plan, say: Callable[[str], None], stop: threading.Event
) -> Finished:
    """Read back whole every shard that is there, and hold it against the plan and the manifest.

    Args:
        output: Root of the output.
        storage: Opens it.
        record: Of the run.
        plan: Its plan.
        say: Hears what is wrong with those that are not sound.
        stop: Ends it when set.

    Raises:
        RunInterrupted: `stop` was set.
        StoreError: The plan cannot be read.
    """
    present = storage.names(join(output, "shards"))
    try:
        manifest = read_manifest(output, storage)
    except StoreError as error:  # all it says stands in the shards, too
        say(f"{str(error).rstrip('.')}: it is made again")
        manifest = None
    if manifest is not None and manifest.run_id != record.run_id:
        manifest = None
    recorded = {one.shard: one for one in manifest.shards} if manifest else {}
    candidates = [shard for shard in range(record.shards) if shard_name(shard) in present]
    finished: dict[int, ShardRecord] = {}
    unsound: set[int] = set()

    def check(shard: int) -> tuple[ShardRecord | None, list[str]]:
        return check_shard(output, storage, plan, shard, record.run_id, recorded.get(shard))

    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        for start in range(0, len(candidates), _CHECK_THREADS * 4):
            if stop.is_set():
                raise RunInterrupted("stopped while finished shards were being checked; nothing was changed")
            batch = candidates[start : start + _CHECK_THREADS * 4]
            for shard, (found, problems) in zip(batch, pool.map(check, batch), strict=True):
                if found is not None and not problems:
                    # What writing took is known to the manifest only, which may be of a release that counted less.
                    finished[shard] = replace(recorded.get(shard, found), unnamed=found.unnamed)
                else:
                    unsound.add(shard)
                    say(f"{problems[0].rstrip('.')}: it is made again")
    if finished:
        say(f"{len(finished):,} of {record.shards:,} shards are finished and sound")
    return Finished(finished, frozenset(unsound), has_manifest=manifest is not None)


def tasks_left(
    record: RunRecord, plan: Plan, finished: Mapping[int, ShardRecord], *, retry_failed: bool
) -> list[tuple[LabelTask, int]]:
    """First tries, each with its shard's number of images: shards that are not finished and, when failures are
    retried, those with failed images. Raises StoreError where the plan cannot be read."""
    tasks = []
    for shard in range(record.shards):
        done = finished.get(shard)
        if done is None:
            tasks.append((LabelTask(shard), plan.count(shard)))
        elif retry_failed and done.failed:
            tasks.append((LabelTask(shard, retry_failed=True), plan.count(shard)))
    return tasks
