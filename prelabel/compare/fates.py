"""What became of the detections of one image, and where its other regions came from.

    detection   region of a person               fate
    Dog         Dog, overlaps by 0.97            kept
    Cat         Cat, overlaps by 0.8             moved
    Fox         Dog, overlaps by 0.9             relabelled
    Person      none                             deleted
    none        Car                              added

A region belongs to the detection whose id it has. What is left is brought together by overlap, first within a class,
then across classes, the best detections choosing first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.compare.annotated import Region
from prelabel.compare.areas import Area, Points, iou, of_mask, of_outlines, union
from prelabel.compare.options import CompareOptions
from prelabel.detections import Detections
from prelabel.errors import EvaluateError, ExportError, StoreError
from prelabel.evaluate.matching import match, overlaps
from prelabel.export.polygons import SPECK, PolygonRules, object_polygons
from prelabel.export.regions import region_id

KEPT, MOVED, RELABELLED, DELETED, ADDED = "kept", "moved", "relabelled", "deleted", "added"
FATES = (KEPT, MOVED, RELABELLED, DELETED, ADDED)

#: Parts of a mask that can have been regions of their own.
_MOST_PARTS = 256


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a detection, or an object that somebody added.

    Attributes:
        fate: One of `FATES`.
        predicted: The detection's class, or None for what was added.
        label: The class as people left it, or None for what was deleted.
        score: Of the detection, or None.
        iou: Overlap of both, or None where there is one only.
        right: Whether the detection counts as right for choosing thresholds.
    """

    fate: str
    predicted: str | None
    label: str | None
    score: float | None
    iou: float | None
    right: bool = False


@dataclass(frozen=True, slots=True)
class _Thing:
    """One object as people left it: regions that belong together."""

    labels: tuple[str, ...]
    area: Area
    outlined: bool


def fates(
    model_version: str, image_id: str, found: Detections | None, regions: Sequence[Region], options: CompareOptions
) -> Iterator[Fate]:
    """The fates of one image.

    Args:
        model_version: As the export of the predictions named it; a part of the regions' ids.
        image_id: As the run calls the image.
        found: All its detections (before any selection), or None where it failed.
        regions: What people left on it, on an image that is as large.
        options: Which detections were shown, and from which overlap on they count as kept.

    Raises:
        EvaluateError: A mask of the run does not fit its image.
    """
    if found is None:
        found = Detections.empty(1, 1)
        size = (1, 1)
    else:
        size = (found.height, found.width)
    by_id = _by_id(model_version, image_id, found, regions)
    shown = options.indices(found.score, found.label, found.mid, found.xyxy).tolist()
    # A region with the id of a detection below the given thresholds was shown all the same.
    shown += sorted({number for number in by_id.values() if number not in shown})
    names = options.rename(found.label, found.mid)
    grouped: dict[int, list[Region]] = {}
    others: list[_Thing] = []
    for region in regions:
        number = by_id.get(region.id)
        if number is None:
            others.append(_thing([region], *size))
        else:
            grouped.setdefault(number, []).append(region)
    things = {number: _thing(several, *size) for number, several in grouped.items()}
    rest = [number for number in shown if number not in things]
    for number, place in _by_overlap(found.xyxy, [names[n] for n in rest], rest, others, options.iou).items():
        things[number] = others[place]
    added = [one for one in others if not any(one is taken for taken in things.values())]
    for number in shown:
        name, score = str(names[number]), float(found.score[number])
        thing = things.get(number)
        if thing is None:
            yield Fate(DELETED, name, None, score, None)
            continue
        overlap = _overlap(found, number, thing, options, image_id)
        label = next((one for one in thing.labels if one.casefold() == name.casefold()), None)
        if label is None:
            yield Fate(RELABELLED, name, _first(thing), score, overlap)
        else:
            fate = KEPT if overlap >= options.kept_iou else MOVED
            yield Fate(fate, name, name, score, overlap, overlap >= options.iou)
    for thing in added:
        yield Fate(ADDED, None, _first(thing), None, None)


def _first(thing: _Thing) -> str:
    return thing.labels[0] if thing.labels else ""


def _thing(regions: Sequence[Region], height: int, width: int) -> _Thing:
    labels = tuple(dict.fromkeys(label for region in regions for label in region.labels))
    outlined = all(isinstance(region.shape, tuple) for region in regions)
    return _Thing(labels, union([region.area(height, width) for region in regions]), outlined)


def _by_id(model_version: str, image_id: str, found: Detections, regions: Sequence[Region]) -> Mapping[str, int]:
    """The detection of each region that has the id of one."""
    wanted = {region.id for region in regions if region.id}
    every: dict[str, int] = {}
    for number in range(len(found)):
        for part in range(1 if found.mask is None else _MOST_PARTS):
            if len(every) == len(wanted):
                return every
            id_ = region_id(model_version, image_id, number, part)
            if id_ in wanted:
                every[id_] = number
    return every


def _by_overlap(
    xyxy: npt.NDArray[np.float32], names: Sequence[str], numbers: Sequence[int], things: Sequence[_Thing], least: float
) -> dict[int, int]:
    """Which of the things each detection is, by the overlap of their boxes."""
    if not numbers or not things:
        return {}
    boxes = np.asarray(xyxy, np.float64)[list(numbers)]
    theirs = np.array([one.area.xyxy for one in things], np.float64)
    nothing = np.zeros(len(things), bool)
    shares = overlaps(_xywh(boxes), _xywh(theirs), nothing)
    alike = np.array(
        [[name.casefold() in {text.casefold() for text in one.labels} for one in things] for name in names]
    )
    result: dict[int, int] = {}
    for allowed in (alike, ~alike):
        free = np.where(allowed, shares, 0.0)
        free[[place for place, number in enumerate(numbers) if number in result]] = 0.0
        free[:, list(result.values())] = 0.0
        for place, thing in enumerate(match(free, nothing, least).tolist()):
            if thing >= 0:
                result[numbers[place]] = thing
    return result


def _xywh(xyxy: Points) -> Points:
    return np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), axis=1)


def _overlap(found: Detections, number: int, thing: _Thing, options: CompareOptions, image_id: str) -> float:
    """How much a detection, in the shape in which it was shown, overlaps what people made of it."""
    x1, y1, x2, y2 = (float(value) for value in found.xyxy[number])
    box = Area((x1, y1, x2, y2))
    counts = None if found.mask is None else found.mask[number]
    if counts is None or thing.area.pixels is None:
        return round(iou(box, thing.area), 6)
    try:
        shown = [of_mask(counts, found.height, found.width)]
        if thing.outlined:
            # It was shown as simplified outlines: what nobody touched must not count as moved. Exports to Label Studio
            # leave out the smallest parts, others do not. Whether parts are one polygon or several, they fill the same.
            for least, share in ((0.0, 0.0), (options.polygon_min_area, SPECK)):
                rules = PolygonRules(options.polygon_tolerance, least, share, "bridge")
                parts, _ = object_polygons(counts, found.height, found.width, rules)
                outlines = [np.array(part).reshape(-1, 2) for part in parts]
                shown += [of_outlines(outlines, found.height, found.width)] if parts else []
        return round(max(iou(one, thing.area) for one in shown), 6)
    except (StoreError, ExportError) as error:
        raise EvaluateError(f"image {image_id!r}: {error}") from None
