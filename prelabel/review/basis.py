"""Finds the selection that decides which detections annotators were shown, for annotations that do not tell.

The first of these that exists is used: the selection given as options; the selection of the export that annotators
worked on, which exports and pushes record beside the run; the default selection of exports, reported as an assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prelabel.errors import ConfigError
from prelabel.options import default_of, fields_of
from prelabel.review.options import CompareOptions
from prelabel.select import ExportSelection, Selection, recorded_selection
from prelabel.store.exports import PREVIEW, ExportRecord

#: Where a selection comes from.
STATED, RECORDED, ASSUMED = "stated", "recorded", "assumed"

#: How many other recorded exports a note names.
_MAX_OTHERS = 3


@dataclass(frozen=True, slots=True)
class Basis:
    """The selection by which detections were shown, and how masks were drawn.

    Attributes:
        source: `STATED` (given as options), `RECORDED` or `ASSUMED`.
        selection: The selection.
        polygon_tolerance: Tolerance of the export's polygons, in pixels.
        polygon_min_area: Minimum area of the export's polygons, in pixels.
        words: The selection in words, for the report.
        notes: Notes for the user, one line each.
    """

    source: str
    selection: Selection
    polygon_tolerance: float
    polygon_min_area: float
    words: str
    notes: tuple[str, ...] = ()


def basis_of(options: CompareOptions, records: Sequence[ExportRecord], *, any_tool: bool) -> Basis:
    """Choose the selection.

    Args:
        options: The options of `compare`.
        records: The recorded exports of the run, the latest last.
        any_tool: Whether the annotations may come from any tool (a COCO dataset) or only from Label Studio.

    Returns:
        The basis. Its notes name invalid records and rules that this version does not know.
    """
    tolerance, min_area = options.polygon_tolerance, options.polygon_min_area
    selection: Selection = options.selection
    rules = _rules_in_words(selection)
    if selection.is_given:
        return Basis(STATED, selection, tolerance, min_area, f"the given selection: {rules}")
    usable: list[ExportRecord] = []
    notes: list[str] = []
    for record in records:
        if record.kind.endswith("label-studio") or (any_tool and record.kind != PREVIEW):
            try:
                selection = _recorded_selection(record)
            except ConfigError as error:
                notes.append(f"the record of the export of {record.at} is skipped: {error}")
            else:
                usable.append(record)
    if not usable:
        note = (
            f"ASSUMED: annotators were shown {rules}. Neither the annotations nor a recorded export tell. If this is "
            "wrong, so are the counts of deleted boxes: give the selection of the export (--score-threshold, ...)"
        )
        return Basis(ASSUMED, selection, tolerance, min_area, f"assumed: {rules}", (*notes, note))
    last = usable[-1]
    others = [record for record in _latest_by_selection(usable) if dict(record.selection) != dict(last.selection)]
    if unknown := sorted(set(last.selection) - set(fields_of(ExportSelection))):
        notes.append(
            f"a later version made the export of {last.at}; its rules {', '.join(unknown)} are unknown here, so "
            "detections that they excluded may count as deleted"
        )
    if others:
        candidates = "; ".join(
            f"{_rules_in_words(_recorded_selection(record))} ({record.kind} of {record.at} to {record.to}"
            f"{_images_in_words(record)})"
            for record in [last, *others[:_MAX_OTHERS]]
        )
        more = f"; and {len(others) - _MAX_OTHERS} more" if len(others) > _MAX_OTHERS else ""
        notes.append(
            f"ASSUMED: annotators worked on the latest of this run's {len(usable)} recorded exports, which have "
            f"{len(others) + 1} different selections: {candidates}{more}. The annotations do not tell. If it was "
            "another export, the counts of deleted boxes are wrong: give its selection (--score-threshold, ...)"
        )
    excluded = {reason: count for reason, count in last.dropped.items() if count}
    if excluded:
        words = ", ".join(f"{count:,} {reason}" for reason, count in excluded.items())
        notes.append(
            f"the export of {last.at} excluded {words}; on images whose annotations do not tell what was shown, they "
            "may count as deleted"
        )
    tolerance = _polygon_option("polygon_tolerance", options, last)
    min_area = _polygon_option("polygon_min_area", options, last)
    words = f"{last.kind} of {last.at}{_images_in_words(last)}: {_rules_in_words(selection)}"
    if others:
        words = f"assumed, the latest of {len(others) + 1} different selections: {words}"
    return Basis(RECORDED, selection, tolerance, min_area, words, tuple(notes))


def _recorded_selection(record: ExportRecord) -> Selection:
    """The rules of a record that this version knows.

    Raises:
        ConfigError: A rule is invalid.
    """
    known = fields_of(ExportSelection)
    rules = {name: value for name, value in record.selection.items() if name in known}
    return recorded_selection(ExportSelection, rules, "selection")


def _images_in_words(record: ExportRecord) -> str:
    """The list of images that was exported, for a sentence; `""` if all were."""
    part = f"part {record.listed['part']} of " if record.listed.get("part") else ""
    return f", only {part}{record.listed['images']}" if record.listed.get("images") else ""


def _latest_by_selection(records: Sequence[ExportRecord]) -> list[ExportRecord]:
    """The latest record of each selection, the latest first."""
    latest = {repr(sorted(record.selection.items())): record for record in records}
    return sorted(latest.values(), key=lambda record: record.at, reverse=True)


def _polygon_option(name: str, options: CompareOptions, record: ExportRecord) -> float:
    """A polygon option: the given value, else the recorded one, else the default."""
    value, recorded = getattr(options, name), record.shapes.get(name)
    default = default_of(fields_of(CompareOptions)[name])
    return float(recorded if value == default and isinstance(recorded, int | float) else value)


def _rules_in_words(selection: Selection) -> str:
    """The rules of a selection, in words."""
    words = [f"scores of at least {selection.score_threshold:g}"]
    if selection.class_threshold:
        words.append(f"{len(selection.class_threshold)} classes with their own thresholds")
    names = ("include_class", "exclude_class", "with_subclasses", "class_map", "roll_up", "most_specific")
    for name in (*names, "max_detections", "nms_iou"):
        value = getattr(selection, name)
        if isinstance(value, bool):
            words += [name.replace("_", "-")] if value else []
        elif isinstance(value, dict | tuple):
            words += [f"{name.replace('_', '-')} of {len(value)}"] if value else []
        elif value is not None:
            words.append(f"{name.replace('_', '-')} {value:g}")
    return "; ".join(words)
