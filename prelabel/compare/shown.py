"""What people were shown of a run, image by image: by what their annotations say, else by a selection.

The selection is that of the command line where one was stated, else that of the export people worked on, which exports
and pushes write down beside the run, else the default of exports, which is then an assumption and said to be one.

What an annotation says of its beginning is exact: no selection has to be repeated for it. A selection that was stated
wins all the same, and where both contradict each other that is said.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prelabel.compare.annotated import AnnotatedImage, Region, Start
from prelabel.compare.areas import Area, of_mask, of_outlines, union
from prelabel.compare.options import CompareOptions
from prelabel.detections import Detections
from prelabel.errors import ConfigError, EvaluateError, ExportError, StoreError
from prelabel.export.polygons import SPECK, PolygonRules, object_polygons
from prelabel.export.regions import region_id
from prelabel.options import default_of, fields_of, from_mapping
from prelabel.select import ExportSelection, Selection
from prelabel.store.exports import ExportRecord
from prelabel.store.rows import ImageRow

#: Where what is known of the detections shown comes from.
STATED, RECORDED, ASSUMED = "stated", "recorded", "assumed"

#: Other exports that a note names.
_CANDIDATES = 3

#: Parts of a mask that can have been regions of their own; and so many in a row of which nobody left a region end the
#: search: what is then left over is paired by where it lies.
_MOST_PARTS, _MOST_MISSING = 256, 16

#: Ids of regions that an export of ours makes; those that Label Studio makes are of another form.
_OUR_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class ShownDetection:
    """A detection as people saw it.

    Attributes:
        number: Its position in the row, or None for a region that the row does not have.
        name: Its class as people saw it.
        score: None where it is not known.
        ids: Of its regions, as far as they are known.
        area: Where it lay, as it was drawn, or None: then its box and mask say.
    """

    number: int | None
    name: str
    score: float | None
    ids: frozenset[str]
    area: Area | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """The selection that tells what was shown where annotations do not.

    Attributes:
        source: `STATED`, `RECORDED` or `ASSUMED`.
        selection: The rules.
        polygon_tolerance: Of the export.
        polygon_min_area: Of the export.
        words: In words, for people.
        notes: What the user should know.
    """

    source: str
    selection: Selection
    polygon_tolerance: float
    polygon_min_area: float
    words: str
    notes: tuple[str, ...] = ()


def basis_of(options: CompareOptions, records: Sequence[ExportRecord], tool: str) -> Basis:
    """The selection to go by.

    Args:
        options: What was stated.
        records: The exports of the run, the latest last.
        tool: What the annotations are from: `label-studio` or `coco`. A COCO file may come out of any tool.

    Returns:
        The basis; a record that makes no sense is one of its notes, and so are rules that are not known here.
    """
    tolerance, min_area = options.polygon_tolerance, options.polygon_min_area
    if options.stated:
        return Basis(STATED, options, tolerance, min_area, f"the selection given: {_rules_in_words(options)}")
    fitting: list[ExportRecord] = []
    notes: list[str] = []
    selection: Selection = options
    for record in records:
        if tool == "coco" or record.kind.endswith("label-studio"):
            try:
                selection = _recorded_selection(record)
            except ConfigError as error:
                notes.append(f"the record of the export of {record.at} is left out: {error}")
            else:
                fitting.append(record)
    if not fitting:
        note = (
            f"ASSUMED: people were shown {_rules_in_words(options)}. Neither annotations nor a record of an export say "
            "it; where that is wrong, so is every count of deleted boxes: state the selection of the export"
        )
        return Basis(ASSUMED, options, tolerance, min_area, f"assumed: {_rules_in_words(options)}", (*notes, note))
    last = fitting[-1]
    others = [one for one in _latest_of_each(fitting) if dict(one.selection) != dict(last.selection)]
    if unknown := sorted(set(last.selection) - set(fields_of(ExportSelection))):
        notes.append(
            f"the export of {last.at} is of a later release, whose rules {', '.join(unknown)} are not known here: what "
            "they left out may count as deleted"
        )
    if others:
        candidates = "; ".join(
            f"{_rules_in_words(_recorded_selection(one))} ({one.kind} of {one.at} to {one.to})"
            for one in [last, *others[:_CANDIDATES]]
        )
        more = f"; and {len(others) - _CANDIDATES} more" if len(others) > _CANDIDATES else ""
        notes.append(
            f"ASSUMED: people worked on the latest of {len(fitting)} exports of this run that are written down, with "
            f"{len(others) + 1} different selections: {candidates}{more}. The annotations do not say which it was, and "
            "where it was another one, so is every count of deleted boxes wrong: state its selection "
            "(--score-threshold, ...)"
        )
    lost = {reason: count for reason, count in last.left_out.items() if count}
    if lost:
        words = ", ".join(f"{count:,} {reason}" for reason, count in lost.items())
        notes.append(
            f"the export of {last.at} left out {words}: on images that do not say what was shown they may count as "
            "deleted"
        )
    tolerance = _as_drawn("polygon_tolerance", options, last)
    min_area = _as_drawn("polygon_min_area", options, last)
    words = f"{last.kind} of {last.at}: {_rules_in_words(selection)}"
    if others:
        words = f"assumed, the latest of {len(others) + 1} different selections: {words}"
    return Basis(RECORDED, selection, tolerance, min_area, words, tuple(notes))


def _recorded_selection(record: ExportRecord) -> Selection:
    """The rules of a record that are known here. Raises ConfigError where one makes no sense."""
    known = fields_of(ExportSelection)
    rules = {name: value for name, value in record.selection.items() if name in known}
    return from_mapping(ExportSelection, rules, "selection")


def _latest_of_each(records: Sequence[ExportRecord]) -> list[ExportRecord]:
    """The latest record of each selection, the latest first."""
    latest = {repr(sorted(record.selection.items())): record for record in records}
    return sorted(latest.values(), key=lambda record: record.at, reverse=True)


def _as_drawn(name: str, options: CompareOptions, record: ExportRecord) -> float:
    """What was stated, else what was written down."""
    stated, written = getattr(options, name), record.shapes.get(name)
    default = default_of(fields_of(CompareOptions)[name])
    return float(written if stated == default and isinstance(written, int | float) else stated)


def _rules_in_words(selection: Selection) -> str:
    """All rules of a selection, of which what people saw of a detection depends."""
    words = [f"scores from {selection.score_threshold:g} on"]
    if selection.class_threshold:
        words.append(f"{len(selection.class_threshold)} classes with thresholds of their own")
    for name in ("include_class", "exclude_class", "class_map", "max_detections", "nms_iou"):
        value = getattr(selection, name)
        if isinstance(value, dict | tuple):
            words += [f"{name.replace('_', '-')} of {len(value)}"] if value else []
        elif value is not None:
            words.append(f"{name.replace('_', '-')} {value:g}")
    return "; ".join(words)


class ShownImage:
    """What people were shown on one image.

    Attributes:
        detections: In descending order of score as far as it is known.
        said: Whether the annotation says it.
        start: What the annotation began with, if it is of this run.
        chosen: Positions of the detections that the selection chooses.
        unproven: Numbers of detections with a region that people left, although the selection leaves them out.
    """

    def __init__(
        self, model_version: str, row: ImageRow, image: AnnotatedImage, basis: Basis, *, by_selection: bool
    ) -> None:
        """Raises EvaluateError where a mask of the run does not fit its image."""
        found = row.detections if row.detections is not None else Detections.empty(1, 1)
        self.size = (found.height, found.width)
        self._found, self._basis, self._image_id = found, basis, row.image_id
        wanted = {
            region.id for regions in (image.regions, *(one.regions for one in image.starts)) for region in regions
        }
        self._numbers = numbers_by_id(model_version, row.image_id, found, wanted)
        start = self.start = _ours(image.starts, model_version, self._numbers)
        selection = basis.selection
        self.names = selection.rename(found.label, found.mid)
        self.chosen = selection.indices(found.score, found.label, found.mid, found.xyxy).tolist()
        self.said = start is not None and not by_selection
        self.unproven: list[int] = []
        if start is not None and not by_selection:
            self.detections = self._of_start(start)
        else:
            self.detections = self._of_selection(image)

    def _of_start(self, start: Start) -> list[ShownDetection]:
        grouped: dict[int | str, list[Region]] = defaultdict(list)
        for region in start.regions:
            grouped[self._numbers.get(region.id, region.id)].append(region)
        shown = []
        for key, regions in grouped.items():
            number = key if isinstance(key, int) else None
            score = regions[0].score if number is None else float(self._found.score[number])
            name = next((label for region in regions for label in region.labels), "")
            area = union([region.area(*self.size) for region in regions])
            shown.append(ShownDetection(number, name, score, frozenset(region.id for region in regions), area))
        return sorted(shown, key=lambda one: -(one.score or 0.0))

    def _of_selection(self, image: AnnotatedImage) -> list[ShownDetection]:
        ids: dict[int, set[str]] = defaultdict(set)
        for region in image.regions:
            if region.id in self._numbers:
                ids[self._numbers[region.id]].add(region.id)
        # A region with the id of a detection that the selection leaves out was shown all the same.
        self.unproven = sorted(set(ids) - set(self.chosen))
        return [
            ShownDetection(number, str(self.names[number]), float(self._found.score[number]), frozenset(ids[number]))
            for number in [*self.chosen, *self.unproven]
        ]

    @property
    def proven(self) -> bool:
        """Whether a region that people left has the id of a detection of the run."""
        return bool(self._numbers)

    def start_numbers(self) -> set[int]:
        """Positions of the detections that the annotation says were shown."""
        if self.start is None:
            return set()
        return {self._numbers[region.id] for region in self.start.regions if region.id in self._numbers}

    def areas(self, shown: ShownDetection, *, pixels: bool, outlined: bool) -> list[Area]:
        """Where a detection lay, in each of the ways in which it may have been drawn.

        Args:
            shown: The detection.
            pixels: Whether what people left of it has pixels.
            outlined: Whether that is outlines throughout.
        """
        if shown.area is not None:
            return [shown.area]
        if shown.number is None:
            raise ValueError("a detection that the row does not have must say where it lies")
        x1, y1, x2, y2 = (float(value) for value in self._found.xyxy[shown.number])
        counts = None if self._found.mask is None else self._found.mask[shown.number]
        if counts is None or not pixels:
            return [Area((x1, y1, x2, y2))]
        try:
            areas = [of_mask(counts, *self.size)]
            if outlined:
                # It was shown as simplified outlines: what nobody touched must not count as moved. Exports to Label
                # Studio leave out the smallest parts, others do not. Whether parts are one polygon or several, they
                # fill the same.
                for least, share in ((0.0, 0.0), (self._basis.polygon_min_area, SPECK)):
                    rules = PolygonRules(self._basis.polygon_tolerance, least, share, "bridge")
                    parts, _ = object_polygons(counts, *self.size, rules)
                    outlines = [np.array(part).reshape(-1, 2) for part in parts]
                    areas += [of_outlines(outlines, *self.size)] if parts else []
        except (StoreError, ExportError) as error:
            raise EvaluateError(f"image {self._image_id!r}: {error}") from None
        return areas

    def seen_scores(self) -> SeenScores:
        """What the image says of the scores from which on classes were shown."""
        found = self._found
        selection, thresholds = self._basis.selection, dict[str, float]()
        for label, mid, name in dict.fromkeys(zip(found.label, found.mid, self.names, strict=True)):
            key = str(name).casefold()
            # As scores are stored and compared.
            threshold = float(np.float32(selection.threshold_of(label, mid)))
            thresholds[key] = max(threshold, thresholds.get(key, 0.0))
        if not self.said:
            return SeenScores(thresholds)
        shown = {one.number: one.name for one in self.detections if one.number is not None}
        scores = [(str(found.label[n]), float(found.score[n]), n in shown) for n in range(len(found))]
        names = {str(found.label[n]): name.casefold() for n, name in shown.items()}
        return SeenScores({}, scores, names, thresholds if self._basis.source == RECORDED else {})


def _ours(starts: Sequence[Start], model_version: str, numbers: Mapping[str, int]) -> Start | None:
    """The first beginning that shows the run's detections: of its model version, or without one and with its ids."""
    for start in starts:
        if start.model_version == model_version:
            return start
        if not start.model_version and any(region.id in numbers for region in start.regions):
            return start
    return None


def numbers_by_id(model_version: str, image_id: str, found: Detections, ids: set[str]) -> Mapping[str, int]:
    """The position of the detection that each id is of, for ids of regions that an export of this run has made.

    Every detection has a first part and few have a second: the parts are gone through one after the other, each once,
    as long as there is an id that may be of one.
    """
    wanted = {id_ for id_ in ids if _OUR_ID.fullmatch(id_)}
    numbers: dict[str, int] = {}
    masks = [None] * len(found) if found.mask is None else found.mask.tolist()
    # A part has at least one run of its own, and a run at least one letter.
    parts = [1 if counts is None else min(max(len(counts) // 2, 1), _MOST_PARTS) for counts in masks]
    left = list(range(len(found)))
    last = 0
    for part in range(_MOST_PARTS):
        left = [number for number in left if parts[number] > part]
        if not left or len(numbers) == len(wanted) or part - last > _MOST_MISSING:
            break
        for number in left:
            id_ = region_id(model_version, image_id, number, part)
            if id_ in wanted:
                numbers[id_] = number
                last = part
    return numbers


@dataclass(frozen=True, slots=True)
class SeenScores:
    """What one image says of the scores from which on classes were shown.

    Attributes:
        thresholds: Of the selection, by the class as people saw it, in small letters.
        scores: The run's label, score, and whether it was shown, of every detection of an image that says it.
        names: The run's labels of those shown, and the class as people saw it, in small letters.
        recorded: The thresholds of the export that is written down, where `scores` say what was shown.
    """

    thresholds: Mapping[str, float]
    scores: Sequence[tuple[str, float, bool]] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, float] = field(default_factory=dict)


#: Share of the detections at and above a floor that were shown: single ones are left out of tasks for other reasons.
_NEARLY_ALL = 0.95


def floors(seen: Iterable[SeenScores]) -> dict[str, float]:
    """From which score on each class was shown, by its name in small letters; below, nobody knows what people think.

    Thresholds of a selection are exact. Where annotations say what was shown, the floor lies above the highest score
    that was withheld and at or below the lowest of which nearly all detections at and above it were shown. Between
    both it is the threshold that was written down for the class, else the lowest score shown in any class: that a
    class has no lower scores does not mean that they were hidden. Where neither lies there it is the lowest score
    shown of the class. Of several floors the highest counts.
    """
    result: dict[str, float] = {}
    names: dict[str, str] = {}
    recorded: dict[str, float] = {}
    scores: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for image in seen:
        for name, threshold in image.thresholds.items():
            result[name] = max(threshold, result.get(name, 0.0))
        for name, threshold in image.recorded.items():
            recorded[name] = max(threshold, recorded.get(name, 0.0))
        names.update(image.names)
        for label, score, was_shown in image.scores:
            scores[label].append((score, was_shown))
    by_name: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for label, every in scores.items():
        by_name[names.get(label, label.casefold())] += every
    lowest = {name: _lowest(every) for name, every in by_name.items() if any(was_shown for _, was_shown in every)}
    common = min(lowest.values(), default=0.0)
    for name, least in lowest.items():
        withheld = max((score for score, was_shown in by_name[name] if not was_shown and score < least), default=-1.0)
        possible = (recorded.get(name, common), common, least)
        floor = next(threshold for threshold in possible if withheld < threshold <= least)
        result[name] = max(floor, result.get(name, 0.0))
    return result


def _lowest(scores: Sequence[tuple[float, bool]]) -> float:
    """The lowest score shown, single ones aside."""
    ordered = sorted(scores, key=lambda one: -one[0])
    was_shown = np.array([one[1] for one in ordered])
    share = np.cumsum(was_shown) / np.arange(1, len(ordered) + 1)
    sure = np.flatnonzero(was_shown & (share >= _NEARLY_ALL))
    return ordered[int(sure[-1]) if len(sure) else int(np.flatnonzero(was_shown)[0])][0]
