"""What holds for two runs as a whole: which can be compared, their classes, thresholds and differing settings."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prelabel.detections import Detections
from prelabel.difference.changes import Selected
from prelabel.difference.options import AUTO, DiffOptions
from prelabel.errors import ConfigError, first_of
from prelabel.export.run_selection import kept_selection
from prelabel.fusion.classes import FusedClasses
from prelabel.fusion.inputs import classes_of, labels_whole_images
from prelabel.options import flag_of
from prelabel.processes import Processes
from prelabel.select import Selection
from prelabel.store.rows import ImageRow
from prelabel.store.run import Run

#: What messages call the runs.
RUN_NAMES = ("A", "B")

#: Most classes that a note names, and most characters of a setting in a table.
_MOST_NAMED, _MOST_CHARACTERS = 5, 60

#: Settings that cannot change a detection.
_IRRELEVANT = {"shard_size", "source", "limit", "sniff"}

#: Versions that can change one.
_VERSIONS = ("prelabel", "tensorflow", "numpy", "pillow")


def require_comparable(runs: Sequence[Run]) -> None:
    """Check that two runs are different ones and have boxes.

    Raises:
        ConfigError: They cannot be compared; the message names the run.
        StoreError: A shard is missing or corrupt.
    """
    a, b = runs
    if a.root.url == b.root.url:
        raise ConfigError(f"{a.root} was given twice: name two runs")
    for run in runs:
        if labels_whole_images(run):
            raise ConfigError(f"{run.root} has labels of whole images: only runs with boxes can be compared")


@dataclass(frozen=True)
class ImageSelector:
    """Selects the detections of an image that can be compared. Can be sent to another process.

    Attributes:
        selection: The selection, for both runs.
        classes: The classes of both runs.
        thresholds: For each class of the two runs, by name and MID, the score from which both runs are compared: that
            of the selection, or a higher one from which a run kept the class.
        comparable: For each run, the labels that the other run knows, or None if it may know any.
    """

    selection: Selection
    classes: FusedClasses
    thresholds: Mapping[tuple[str, str], float]
    comparable: tuple[frozenset[str] | None, ...]

    @classmethod
    def of(cls, runs: Sequence[Run], selection: Selection, processes: Processes) -> ImageSelector:
        """Bring the classes of two runs together.

        Raises:
            ConfigError: Classes that differ would get one name, or an option names a class that no run has.
            StoreError: A shard is missing or corrupt.
        """
        named = (replace(classes_of(run, processes), run=name) for run, name in zip(runs, RUN_NAMES, strict=True))
        classes = FusedClasses.of(list(named), selection)
        kept = [kept_selection(run.record.settings, run.record.detector.classes) for run in runs]
        thresholds: dict[tuple[str, str], float] = {}
        for entry in {entry for by_name in classes.by_run for entry in by_name.values()}:
            thresholds[entry.name, entry.mid] = max(
                selection.threshold_of(entry.name, entry.mid),
                *(own.threshold_of(entry.name, entry.mid) for own in kept),
            )
        for own, by_name in zip(kept, classes.by_run, strict=True):
            for (name, mid), entry in by_name.items():
                known = entry.name, entry.mid
                thresholds[known] = max(thresholds[known], own.threshold_of(name, mid))
        comparable = tuple(
            None if classes.runs[1 - run].listed is None else classes.known_labels[1 - run] for run in range(2)
        )
        return cls(selection, classes, thresholds, comparable)

    def select(self, run: int, row: ImageRow) -> tuple[Selected, Counter[str]]:
        """The detections of an image in run 0 or 1, and the number of those whose class the other run lacks, by label.

        Args:
            run: The run.
            row: The image, which has not failed.
        """
        detections = Detections.empty(row.height or 0, row.width or 0) if row.detections is None else row.detections
        detections = replace(detections, multiclass_score=None, views=None, keypoints=None)
        detections = self.classes.label_as_fused(run, detections)
        pairs = list(zip(detections.label, detections.mid, strict=True))
        label = self.selection.rename(detections.label, detections.mid)
        # Compared as float32, as scores are stored.
        is_high = detections.score >= np.array([self.thresholds[pair] for pair in pairs], np.float32)
        admitted = self.selection.admitted(detections.label, detections.mid)
        others = self.comparable[run]
        known = np.ones(len(label), bool) if others is None else np.array([name in others for name in label], bool)
        high = detections[admitted & known & is_high]
        kept = high[self.selection.indices(high.score, high.label, high.mid, high.xyxy)]
        hidden = detections[admitted & known & ~is_high]
        selected = Selected(self.selection.apply_names(kept), self.selection.apply_names(hidden))
        return selected, Counter(map(str, label[admitted & ~known & is_high]))


def notes_on_runs(
    runs: Sequence[Run], selector: ImageSelector, options: DiffOptions, labels: Sequence[str]
) -> tuple[str, ...]:
    """What the user should know about the runs, one line each; `labels` are those of the compared detections."""
    notes = [*selector.classes.matching_notes, *selector.classes.selection_notes]
    classes = selector.classes
    if len({run.record.run_id for run in runs}) == 1:
        notes.append(f"A and B are copies of one run ({runs[0].record.run_id[:8]})")
    for number, name in enumerate(RUN_NAMES):
        notes += _threshold_notes(runs[number], number, selector)
        unknown = [label for label in labels if label not in classes.known_labels[number]]
        is_listed = classes.runs[number].listed is not None
        if unknown and not is_listed and len({run.fingerprint for run in classes.runs}) > 1:
            notes.append(
                f"ASSUMED: {name} could have detected {first_of(unknown, _MOST_NAMED)}, but did not: its model "
                "names its classes itself, without a list"
            )
    with_masks = [name for run, name in zip(runs, RUN_NAMES, strict=True) if run.record.detector.masks]
    if options.iou_on == AUTO and len(with_masks) == 1:
        notes.append(f"only {with_masks[0]} has masks: boxes are compared")
    if any(run.record.detector.keypoints is not None for run in runs):
        notes.append("keypoints are not compared")
    return tuple(notes)


def _threshold_notes(run: Run, number: int, selector: ImageSelector) -> list[str]:
    """Notes on classes that the run kept only from a higher score on than the selection asks for."""
    kept = kept_selection(run.record.settings, run.record.detector.classes)
    names: defaultdict[float, list[str]] = defaultdict(list)
    by_name = selector.classes.by_run[number]
    for (name, mid), entry in by_name.items():
        threshold = kept.threshold_of(name, mid)
        if np.float32(threshold) > np.float32(selector.selection.threshold_of(entry.name, entry.mid)):
            names[threshold].append(entry.name)
    return [
        f"{RUN_NAMES[number]} kept only detections{_of_classes(raised, by_name)} with scores of {threshold:g} and "
        "above: both runs are compared from there on"
        for threshold, raised in sorted(names.items())
    ]


def _of_classes(names: Sequence[str], all_names: Mapping[tuple[str, str], Any]) -> str:
    return "" if len(names) == len(all_names) else f" of {first_of(sorted(names), _MOST_NAMED)}"


def differing_settings(runs: Sequence[Run]) -> tuple[tuple[str, str, str], ...]:
    """Name of each setting that differs, and its value in A and in B, in words; `-` where a run has none."""
    columns = [_settings(run) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = ((name, *(column.get(name, "-") for column in columns)) for name in names)
    return tuple((name, a, b) for name, a, b in rows if a != b)


def _settings(run: Run) -> dict[str, str]:
    record = run.record
    choice = record.optimization
    precision = choice.numbers if choice.share == 1 else f"{choice.numbers} for {choice.share:.0%}"
    return {
        "model": record.detector.model_version,
        **{
            flag_of(name): _in_words(value)
            for name, value in record.settings.items()
            if name not in _IRRELEVANT and value is not None
        },
        "precision": precision,
        **{name: record.versions[name] for name in _VERSIONS if name in record.versions},
    }


def _in_words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
