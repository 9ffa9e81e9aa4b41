"""Compare the requested selection with the one of the run: thresholds of a run can be raised, but not lowered.

For example:

    the run kept            requested now         the note
    0.05                    0.3                   at 0.3 and above; the run keeps 0.05
    0.3                     0.1                   the run has no detections between 0.1 and 0.3
    0.05, Person from 0.2   0.05                  the same for Person, between 0.05 and 0.2

A class name that matches no class is a mistake: refused if the classes are known, else reported (`KnownNames`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prelabel.detections import ClassName, ObjectArray
from prelabel.errors import first_of
from prelabel.options import fields_of
from prelabel.select import Selection, recorded_selection
from prelabel.store.run import RUN

#: Most classes that a note names, and most groups of classes with the same threshold.
_MOST_NAMED, _MOST_GROUPS = 5, 3


def kept_selection(settings: Mapping[str, Any], classes: Iterable[ClassName] | None) -> Selection:
    """The selection with which a run was made; its thresholds have the class names of its rows.

    Args:
        settings: The settings in `run.json`; a missing setting means that everything was kept.
        classes: The detector's own classes, or None if the model names them.

    Raises:
        ConfigError: The settings are invalid.
    """
    recorded = {name: settings[name] for name in fields_of(Selection) if settings.get(name) is not None}
    kept = recorded_selection(Selection, {"score_threshold": 0.0, **recorded}, RUN)
    if not kept.class_threshold or not (kept.class_map or kept.roll_up):
        return kept
    # For classes that got one name in the run, only detections above the highest threshold are complete.
    thresholds: dict[str, float] = dict(kept.class_threshold)
    renamed = [(name, "") for name in (*kept.class_map, *kept.class_threshold)]
    pairs = renamed if classes is None else [(class_name.name, class_name.mid) for class_name in classes]
    for name, mid in pairs:
        label, threshold = kept.label_of(name, mid), kept.threshold_of(name, mid)
        if threshold != kept.score_threshold:
            thresholds[label] = max(threshold, thresholds.get(label, threshold))
    return replace(kept, class_threshold=thresholds)


def selection_words(requested: Selection, kept: Selection | None) -> str:
    """Describe a selection: `at 0.3 and above; the run keeps 0.05`, and how many classes have their own thresholds."""
    words = _words(requested, "at {0:g} and above")
    return words if kept is None else f"{words}; {_words(kept, 'the run keeps {0:g}')}"


def _words(selection: Selection, text: str) -> str:
    count = len(selection.class_threshold)
    whose = "their" if count > 1 else "its"
    more = f" ({count} class{'es' * (count > 1)} with a threshold of {whose} own)" if count else ""
    return text.format(selection.score_threshold) + more


def selection_notes(requested: Selection, kept: Selection | None, classes: Collection[ClassName] | None) -> list[str]:
    """Notes on the places of the classes in the class tree, if it is needed, and those of `beyond_kept`."""
    return [*requested.class_notes(classes or ()), *beyond_kept(requested, kept, classes)]


def beyond_kept(requested: Selection, kept: Selection | None, classes: Iterable[ClassName] | None) -> list[str]:
    """Notes on everything that is requested but that the run did not keep.

    Args:
        requested: The requested selection, of an export, a push, a preview or an evaluation.
        kept: The selection of the run (see `kept_selection`), or None if unknown.
        classes: The classes as the rows name them, or None if only the model knows them.
    """
    if kept is None:
        return []
    lines = []
    below = _below(requested, kept, classes)
    for (threshold, kept_threshold), names in list(below.items())[:_MOST_GROUPS]:
        of = f" of {first_of(names, _MOST_NAMED)}" if names[0] else ""
        lines.append(
            f"the run kept only detections{of} with scores of {kept_threshold:g} and above: it has none between "
            f"{threshold:g} and {kept_threshold:g}. For these, run `prelabel label` with a lower threshold"
        )
    if len(below) > _MOST_GROUPS:
        rest = sum(len(names) for names in list(below.values())[_MOST_GROUPS:])
        lines.append(f"the same is true of {rest} more classes with their own thresholds")
    excluded = [name for name in requested.include_class if not kept.admits(name, name)]
    if excluded:
        lines.append(f"the run excluded {', '.join(excluded[:_MOST_NAMED])} (its --include-class and --exclude-class)")
    if kept.max_detections is not None and (requested.max_detections or 0) > kept.max_detections:
        lines.append(f"the run kept at most {kept.max_detections} detections per image, not {requested.max_detections}")
    if kept.nms_iou is not None and requested.nms_iou is not None and requested.nms_iou > kept.nms_iou:
        lines.append(f"the run already dropped boxes that overlap a better one by more than {kept.nms_iou:g}")
    return lines


def _below(
    requested: Selection, kept: Selection, classes: Iterable[ClassName] | None
) -> Mapping[tuple[float, float], list[str]]:
    """Names of classes by requested threshold and the run's higher one, largest group first; `""` means all."""
    if classes is not None:
        names = {
            (class_name.name, class_name.mid): class_name.name
            for class_name in classes
            if requested.admits(class_name.name, class_name.mid)
        }
    else:
        named = dict.fromkeys([*requested.class_threshold, *kept.class_threshold])
        names = {("", ""): "", **{(name, name): name for name in named}}
    pairs = [(name, requested.threshold_of(*key), kept.threshold_of(*key)) for key, name in names.items()]
    below: dict[tuple[float, float], list[str]] = defaultdict(list)
    for name, threshold, kept_threshold in pairs:
        # Compared as float32, like scores.
        if np.float32(threshold) < np.float32(kept_threshold):
            below[threshold, kept_threshold].append(name)
    if len(below) == 1 and all(
        np.float32(threshold) < np.float32(kept_threshold) for _, threshold, kept_threshold in pairs
    ):
        return {next(iter(below)): [""]}
    return dict(sorted(below.items(), key=lambda item: -len(item[1])))


class KnownNames:
    """Checks the class names that a selection uses, against the list of classes or the classes that occur."""

    def __init__(
        self, selection: Selection, classes: Collection[ClassName] | None, kept: Selection | None = None
    ) -> None:
        """Check the names if there is a list of classes.

        Args:
            selection: The requested selection.
            classes: The classes as the rows name them, or None if only the model knows them.
            kept: The selection of the run (see `kept_selection`), or None if unknown.

        Raises:
            ConfigError: The list of classes lacks a name that the selection uses; the message suggests the nearest one.
        """
        self._selection = selection
        self._seen: set[tuple[str, str]] | None = None
        if classes is not None:
            selection.require_known_names(classes)
            self._notes = selection_notes(selection, kept, classes)
        else:
            # The notes on the class tree follow once the classes are known (`warnings`).
            self._notes = beyond_kept(selection, kept, classes)
            if selection.unknown_names(()) or selection.most_specific:
                self._seen = set()

    def see(self, label: ObjectArray, mid: ObjectArray) -> None:
        """Note the classes of detections, kept or not, by label and MID."""
        if self._seen is not None:
            self._seen.update(zip(label, mid, strict=True))

    def fresh(self) -> KnownNames:
        """An object that notes the classes of a part of the images; `add` merges it."""
        other = copy.copy(self)
        other._seen = None if self._seen is None else set()
        return other

    def add(self, other: KnownNames) -> None:
        """Merge the classes that another part has seen."""
        if self._seen is not None:
            self._seen |= other._seen or set()

    @property
    def warnings(self) -> list[str]:
        """Notes on what was requested but is not in the run, one line each; complete once all detections were seen."""
        if self._seen is None:
            return self._notes
        seen = [ClassName(0, label, mid) for label, mid in sorted(self._seen)]
        unknown = self._selection.unknown_names_with_hints(seen)
        notes = [*self._notes, *self._selection.class_notes(seen)]
        return [*notes, *([f"the run has no detections of class {', '.join(unknown)}"] if unknown else [])]
