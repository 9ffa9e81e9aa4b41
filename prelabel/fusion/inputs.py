"""The runs that are fused: which can be, and what `run.json` of the new run records of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prelabel.detections import ClassName
from prelabel.detectors.base import DetectorRecord
from prelabel.errors import ConfigError, first_of
from prelabel.export.run_selection import kept_selection
from prelabel.fusion.classes import FusedClasses, RunClasses
from prelabel.fusion.options import FuseOptions
from prelabel.keypoints import KeypointSet
from prelabel.processes import Processes
from prelabel.storage.address import Address, without_secrets
from prelabel.store.rows import OK
from prelabel.store.run import FusedRun, Run, RunRecord, RunRows
from prelabel.store.shards import first_row

#: Longest name of the detector of a fused run: it is a part of the model version that annotation tools show.
_LONGEST_NAME = 80


def require_fusible(runs: Sequence[Run], to: Address) -> None:
    """Check that runs are different ones, have boxes, and that none is the output or fused from another of them.

    Raises:
        ConfigError: They cannot be fused; the message names the run.
        StoreError: A shard is missing or corrupt.
    """
    owners: dict[str, Run] = {}
    for run in runs:
        if run.root.url == to.url:
            raise ConfigError(f"--to {to} is one of the runs: name another folder or prefix for the new run")
        for run_id in _ids_of(run.record):
            other = owners.setdefault(run_id, run)
            if other is run:
                continue
            if run_id == run.record.run_id == other.record.run_id:
                shared = f"{run.root} and {other.root} are the same run"
            else:
                shared = f"run {run_id[:8]} is in both {other.root} and {run.root}"
            raise ConfigError(f"{shared}: its detections would count twice; name each run once")
        if labels_whole_images(run):
            raise ConfigError(f"{run.root} has labels of whole images: only runs with boxes can be fused")


def labels_whole_images(run: Run) -> bool:
    """Whether the first image that did not fail has labels of a classifier."""
    shards = run.manifest.shards.values()
    rows = (first_row(shard, run.root, run.storage, lambda row: row.status == OK) for shard in shards)
    row = next((row for row in rows if row is not None), None)
    return row is not None and row.image_labels is not None


def _ids_of(record: RunRecord | FusedRun) -> set[str]:
    """The ids of a run and of all runs that it was fused from."""
    return {record.run_id}.union(*map(_ids_of, record.fused))


def classes_of(run: Run, processes: Processes) -> RunClasses:
    """The classes of a run, from its label map and from the small columns of all shards.

    Raises:
        StoreError: A shard is missing or corrupt.
    """
    detector = run.record.detector
    kept = kept_selection(run.record.settings, detector.classes)
    listed = None
    if detector.classes is not None:
        listed = tuple(
            ClassName(known.id, *kept.class_of(known.name, known.mid))
            for known in detector.classes
            if kept.admits(known.name, known.mid)
        )
    seen = frozenset[ClassName]().union(*processes.map(RunRows.classes, run.rows.by_shard()))
    return RunClasses(str(run.root), detector.fingerprint, listed, seen)


def fused_runs(runs: Sequence[Run], weights: Sequence[float]) -> tuple[FusedRun, ...]:
    """The record of each run, for `run.json` of the new run."""
    return tuple(
        FusedRun(
            run=without_secrets(run.output),
            run_id=run.record.run_id,
            finished=run.manifest.finished,
            weight=weight,
            images=run.manifest.totals["rows"],
            failed=run.manifest.totals["failed"],
            detections=run.manifest.totals["detections"],
            settings=run.record.settings,
            detector=run.record.detector,
            fused=run.record.fused,
        )
        for run, weight in zip(runs, weights, strict=True)
    )


def fused_detector(
    runs: Sequence[FusedRun], options: FuseOptions, classes: FusedClasses, notes: tuple[str, ...]
) -> DetectorRecord:
    """What stands for a detector in the new run.

    Its fingerprint depends on the models, on the settings with which the runs were made, and on the weights and the
    way of merging, but not on the order of the runs.

    Args:
        runs: The runs.
        options: How they are merged.
        classes: The classes of the new run.
        notes: Remarks for users.
    """
    merging = {"merge": options.merge, "merge_iou": options.merge_iou}
    parts = sorted(json.dumps([run.detector.fingerprint, run.weight, run.settings], sort_keys=True) for run in runs)
    fingerprint = hashlib.sha256(json.dumps([merging, parts], sort_keys=True).encode()).hexdigest()
    names = "+".join(dict.fromkeys(run.detector.name for run in runs))
    name = names if len(names) <= _LONGEST_NAME else f"fusion of {len(runs)} runs"
    return DetectorRecord(
        name=name,
        address=" + ".join(dict.fromkeys(run.detector.address for run in runs)),
        fingerprint=fingerprint,
        model_version=f"{name}-{fingerprint[:8]}",
        convention=f"fused from {len(runs)} runs",
        masks=any(run.detector.masks for run in runs),
        classes=classes.listed,
        reading={},
        notes=notes,
        keypoints=fused_keypoints(runs, classes),
    )


def fused_keypoints(runs: Sequence[FusedRun], classes: FusedClasses) -> KeypointSet | None:
    """The keypoints of the new run: those of all runs that have any, or None if they do not mean the same.

    They mean the same if they have the same names in the same order, and are from one model if they have no names.
    """
    having = {number: run.detector for number, run in enumerate(runs) if run.detector.keypoints is not None}
    sets = [detector.keypoints for detector in having.values() if detector.keypoints is not None]
    if not sets or len({keypoints.names for keypoints in sets}) > 1:
        return None
    if not sets[0].has_names and len({detector.fingerprint for detector in having.values()}) > 1:
        return None
    numbers: set[int | None] = set()
    for number, keypoints in zip(having, sets, strict=True):
        of_run = [None] if keypoints.classes is None else keypoints.classes
        numbers |= {None if known is None else classes.number_of(number, known) for known in of_run}
    known_numbers = sorted(number for number in numbers if number is not None)
    return replace(
        sets[0],
        pairs=next((keypoints.pairs for keypoints in sets if keypoints.pairs is not None), None),
        classes=None if None in numbers else tuple(known_numbers),
    )


def fused_source(runs: Sequence[Run], images: int, size: int) -> dict[str, Any]:
    """The sources of all runs, each once, with the number of images of the new run and their bytes."""
    sources: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        for source in run.record.source.get("sources") or ():
            key = source["source"], source["kind"]
            if key not in sources or source["images"] > sources[key]["images"]:
                sources[key] = dict(source)
    return {"images": images, "bytes": size, "sources": list(sources.values())}


def run_notes(runs: Sequence[FusedRun], options: FuseOptions, classes: FusedClasses) -> tuple[str, ...]:
    """What the user should know about the runs, one line each."""
    notes = []
    kept = {run.run: float(run.settings.get("score_threshold", 0.0)) for run in runs}
    if options.merge == "wbf" and len(set(kept.values())) > 1:
        thresholds = first_of([f"{threshold:g} in {run}" for run, threshold in kept.items()], 5)
        notes.append(
            f"the runs kept detections from different scores up ({thresholds}): a run counts as 0 for objects that it "
            "saw with a lower score"
        )
    if any("multiclass-scores" in (run.settings.get("keep") or ()) for run in runs):
        notes.append("the scores of all classes (--keep multiclass-scores) are not fused")
    having = [run.run for run in runs if run.detector.keypoints is not None]
    if having and fused_keypoints(runs, classes) is None:
        notes.append(
            f"the keypoints of {' and '.join(having)} are not fused, since their names differ or are unknown: the new "
            "run has none"
        )
    return tuple(notes)
