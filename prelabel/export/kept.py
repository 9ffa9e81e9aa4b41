"""What a run kept, beside what is asked of it now: whoever reads a run can raise its thresholds but not lower them.

For example:

    the run kept            asked of it now       what is said
    0.05                    0.3                   at 0.3 and above; the run keeps 0.05
    0.3                     0.1                   what lies between 0.1 and 0.3 is not in the run
    0.05, Person from 0.2   0.05                  the same of Person, between 0.05 and 0.2
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prelabel.options import fields_of, from_mapping
from prelabel.select import Selection
from prelabel.store.run import RUN, ClassName

#: Classes, and groups of classes with one threshold, that a note names.
_NAMED, _GROUPS = 5, 3


def kept_selection(settings: Mapping[str, Any], classes: Iterable[ClassName] | None) -> Selection:
    """The rules by which a run chose, with its thresholds under the names that its rows have.

    Args:
        settings: Of `run.json`; one that is missing there kept everything.
        classes: The detector's own, or None where the network names them.

    Raises:
        ConfigError: The settings make no sense.
    """
    stated = {name: settings[name] for name in fields_of(Selection) if settings.get(name) is not None}
    kept = from_mapping(Selection, {"score_threshold": 0.0, **stated}, RUN)
    if not kept.class_threshold or not kept.class_map:
        return kept
    # Of classes that the run gave one name, what is surely there lies above the highest threshold.
    own: dict[str, float] = dict(kept.class_threshold)
    pairs = [(one.name, one.mid) for one in classes] if classes is not None else [(name, "") for name in kept.class_map]
    for name, mid in pairs:
        label, threshold = str(kept.rename([name], [mid])[0]), kept.threshold_of(name, mid)
        if threshold != kept.score_threshold:
            own[label] = max(threshold, own.get(label, threshold))
    return replace(kept, class_threshold=own)


def lowest_threshold(selection: Selection) -> float:
    """The lowest score that a selection lets through in any class."""
    return min([selection.score_threshold, *selection.class_threshold.values()])


def selection_words(asked: Selection, kept: Selection | None) -> str:
    """`at 0.3 and above; the run keeps 0.05`, with the number of classes that have thresholds of their own."""
    words = _words(asked, "at {0:g} and above")
    return words if kept is None else f"{words}; {_words(kept, 'the run keeps {0:g}')}"


def _words(selection: Selection, text: str) -> str:
    own = len(selection.class_threshold)
    more = f" ({own} class{'es' * (own > 1)} with a threshold of {'their' if own > 1 else 'its'} own)" if own else ""
    return text.format(selection.score_threshold) + more


def beyond_kept(asked: Selection, kept: Selection | None, classes: Iterable[ClassName] | None) -> list[str]:
    """A line for everything that is asked of a run that it did not keep.

    Args:
        asked: What an export, a push, a preview or an evaluation would choose.
        kept: See `kept_selection`; None where it is not known.
        classes: As the rows name them, or None where only the network knows.
    """
    if kept is None:
        return []
    lines = []
    below = _below(asked, kept, classes)
    for (wanted, least), names in list(below.items())[:_GROUPS]:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        of = f" of {', '.join(names[:_NAMED])}{more}" if names[0] else ""
        lines.append(
            f"the run kept detections{of} from {least:g} on: what lies between {wanted:g} and {least:g} is not in it; "
            "only `prelabel label` with a lower threshold finds it"
        )
    if len(below) > _GROUPS:
        rest = sum(len(names) for names in list(below.values())[_GROUPS:])
        lines.append(f"the same goes for {rest} more classes with thresholds of their own")
    gone = [name for name in asked.include_class if not kept.admits(name, name)]
    if gone:
        lines.append(f"the run left out {', '.join(gone[:_NAMED])} (its include-class and exclude-class)")
    if kept.max_detections is not None and (asked.max_detections or 0) > kept.max_detections:
        lines.append(f"the run kept at most {kept.max_detections} detections per image, not {asked.max_detections}")
    if kept.nms_iou is not None and asked.nms_iou is not None and asked.nms_iou > kept.nms_iou:
        lines.append(f"the run dropped boxes that overlap a better one by more than {kept.nms_iou:g} already")
    return lines


def _below(
    asked: Selection, kept: Selection, classes: Iterable[ClassName] | None
) -> Mapping[tuple[float, float], list[str]]:
    """The names of classes by the threshold asked for and the higher one kept, the most first; `""` is every class."""
    if classes is not None:
        names = {(each.name, each.mid): each.name for each in classes if asked.admits(each.name, each.mid)}
    else:
        named = dict.fromkeys([*asked.class_threshold, *kept.class_threshold])
        names = {("", ""): "", **{(name, name): name for name in named}}
    pairs = [(name, asked.threshold_of(*key), kept.threshold_of(*key)) for key, name in names.items()]
    below: dict[tuple[float, float], list[str]] = defaultdict(list)
    for name, wanted, least in pairs:
        # As float32, as scores are compared.
        if np.float32(wanted) < np.float32(least):
            below[wanted, least].append(name)
    if len(below) == 1 and all(np.float32(wanted) < np.float32(least) for _, wanted, least in pairs):
        return {next(iter(below)): [""]}
    return dict(sorted(below.items(), key=lambda item: -len(item[1])))
