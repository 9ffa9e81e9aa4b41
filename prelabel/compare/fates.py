"""What became of the detections of one image, and where its other regions came from.

    detection   region of a person               fate
    Dog         Dog, overlaps by 0.97            kept
    Cat         Cat, overlaps by 0.8             moved
    Fox         Dog, overlaps by 0.9             relabelled
    Bird        one without a class              unlabelled
    Person      none                             deleted
    none        Car                              added

A region belongs to the detection whose id it has. What is left is brought together by overlap, first within a class,
then across classes, the best detections choosing first. Of a detection that was shown as several regions those that got
another class are objects of their own, and the detection was relabelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prelabel.compare.annotated import Region
from prelabel.compare.areas import Area, Points, iou, union
from prelabel.compare.options import CompareOptions
from prelabel.compare.shown import ShownDetection, ShownImage
from prelabel.evaluate.matching import match, overlaps

KEPT, MOVED, RELABELLED, UNLABELLED, DELETED, ADDED = "kept", "moved", "relabelled", "unlabelled", "deleted", "added"
FATES = (KEPT, MOVED, RELABELLED, UNLABELLED, DELETED, ADDED)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a detection, or an object that somebody added.

    Attributes:
        fate: One of `FATES`.
        predicted: The detection's class, or None for what was added.
        label: The class as people left it (of several the one that is new), or None where there is none.
        score: Of the detection, or None.
        iou: Overlap of both, or None where there is one only.
        right: Whether the detection counts as right for choosing thresholds.
        objects: Classes of the objects that people left of it.
    """

    fate: str
    predicted: str | None
    label: str | None
    score: float | None
    iou: float | None
    right: bool = False
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Thing:
    """Regions that belong together."""

    labels: tuple[str, ...]
    area: Area
    outlined: bool

    def is_a(self, name: str) -> bool:
        return name.casefold() in {label.casefold() for label in self.labels}


def fates(image: ShownImage, regions: Sequence[Region], options: CompareOptions) -> Iterator[Fate]:
    """The fates of one image.

    Args:
        image: What people were shown.
        regions: What they left.
        options: From which overlap on detections count as kept.

    Raises:
        EvaluateError: A mask of the run does not fit its image.
    """
    place_of = {id_: place for place, shown in enumerate(image.detections) for id_ in shown.ids}
    left: dict[int, list[Region]] = {}
    others: list[_Thing] = []
    for region in regions:
        place = place_of.get(region.id)
        if place is None:
            others.append(_thing([region], image))
        else:
            left.setdefault(place, []).append(region)
    rest = [place for place in range(len(image.detections)) if place not in left]
    pairs = _by_overlap([image.detections[place] for place in rest], image, others, options.iou)
    things = {place: _by_label(several, image.detections[place].name, image) for place, several in left.items()}
    things.update({rest[place]: [others[number]] for place, number in pairs.items()})
    for place, shown in enumerate(image.detections):
        yield _fate(shown, things.get(place, []), image, options)
    taken = set(pairs.values())
    for number, thing in enumerate(others):
        if number not in taken:
            label = thing.labels[0] if thing.labels else ""
            yield Fate(ADDED, None, label, None, None, objects=(label,))


def _fate(shown: ShownDetection, things: Sequence[_Thing], image: ShownImage, options: CompareOptions) -> Fate:
    if not things:
        return Fate(DELETED, shown.name, None, shown.score, None)
    own = [thing for thing in things if thing.is_a(shown.name)]
    renamed = [thing.labels[0] for thing in things if thing.labels and not thing.is_a(shown.name)]
    overlap = _overlap(shown, (own or things)[0], image)
    right = bool(own) and overlap >= options.iou
    objects = (*(shown.name for _ in own), *renamed)
    if renamed:
        return Fate(RELABELLED, shown.name, renamed[0], shown.score, overlap, right, objects)
    if not own:
        return Fate(UNLABELLED, shown.name, None, shown.score, overlap)
    fate = KEPT if overlap >= options.kept_iou and len(things) == 1 else MOVED
    return Fate(fate, shown.name, shown.name, shown.score, overlap, right, objects)


def _by_label(regions: Sequence[Region], name: str, image: ShownImage) -> list[_Thing]:
    """The regions of one detection as things, one for each class that they now have; its own class first."""
    by_label: dict[str, list[Region]] = {}
    for region in regions:
        labels = {label.casefold() for label in region.labels}
        key = name.casefold() if name.casefold() in labels else next(iter(sorted(labels)), "")
        by_label.setdefault(key, []).append(region)
    own = by_label.pop(name.casefold(), None)
    return [_thing(some, image) for some in ([own] if own else []) + list(by_label.values())]


def _thing(regions: Sequence[Region], image: ShownImage) -> _Thing:
    labels = tuple(dict.fromkeys(label for region in regions for label in region.labels))
    outlined = all(isinstance(region.shape, tuple) for region in regions)
    return _Thing(labels, union([region.area(*image.size) for region in regions]), outlined)


def _by_overlap(
    shown: Sequence[ShownDetection], image: ShownImage, things: Sequence[_Thing], least: float
) -> dict[int, int]:
    """Which of the things each detection is, by the overlap of their boxes."""
    if not shown or not things:
        return {}
    boxes = np.array([image.areas(one, pixels=False, outlined=False)[0].xyxy for one in shown], np.float64)
    theirs = np.array([one.area.xyxy for one in things], np.float64)
    nothing = np.zeros(len(things), bool)
    shares = overlaps(_xywh(boxes), _xywh(theirs), nothing)
    alike = np.array([[thing.is_a(one.name) for thing in things] for one in shown])
    result: dict[int, int] = {}
    for allowed in (alike, ~alike):
        free = np.where(allowed, shares, 0.0)
        free[list(result)] = 0.0
        free[:, list(result.values())] = 0.0
        matched = enumerate(match(free, nothing, least).tolist())
        result.update({place: thing for place, thing in matched if thing >= 0})
    return result


def _xywh(xyxy: Points) -> Points:
    return np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), axis=1)


def _overlap(shown: ShownDetection, thing: _Thing, image: ShownImage) -> float:
    """How much a detection, in the shape in which it was shown, overlaps what people made of it."""
    areas = image.areas(shown, pixels=thing.area.pixels is not None, outlined=thing.outlined)
    return round(max(iou(area, thing.area) for area in areas), 6)
