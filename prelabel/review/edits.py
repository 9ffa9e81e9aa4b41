"""Classifies what annotators did to the detections that they were shown, and counts these edits.

    detection   annotator's region               edit
    Dog         Dog, overlaps by 0.97            kept
    Cat         Cat, overlaps by 0.8             moved
    Fox         Dog, overlaps by 0.9             relabeled
    Bird        a region without a class         unlabeled
    Person      none                             deleted
    none        Car                              added

A region belongs to the detection with the same id. The other regions are matched by overlap, first within a class, then
across classes; detections with higher scores choose first. If a detection was shown as several regions, and the
annotator gave some of them another class, these are separate objects, and the detection counts as relabeled.

`edits_of` classifies the edits of one image. `edits_by_class` and `relabeled` count them. `rankings_of_shown` makes the
rankings from which thresholds are chosen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prelabel.masks.areas import Area, Box, iou, union
from prelabel.review.annotations import Region
from prelabel.review.gather import xywh
from prelabel.review.image_matching import ReviewedBox
from prelabel.review.matching import match_class_first, overlaps
from prelabel.review.options import CompareOptions
from prelabel.review.preannotations import PreannotatedImage, Preannotation
from prelabel.review.thresholds import Ranking

KEPT, MOVED, RELABELED, UNLABELED, DELETED, ADDED = "kept", "moved", "relabeled", "unlabeled", "deleted", "added"
EDITS = (KEPT, MOVED, RELABELED, UNLABELED, DELETED, ADDED)

#: Number of bins for overlaps from 0 to 1.
BINS = 20


@dataclass(frozen=True, slots=True)
class Edit:
    """What an annotator did to a detection, or an object that the annotator added.

    Attributes:
        kind: One of `EDITS`.
        predicted: The detection's class, or None for an added object.
        label: The class after annotation, or None without a class. If the objects have several, the first that differs
            from the detection's.
        score: The detection's score, or None if unknown.
        iou: Overlap of detection and object, or None if one of them is missing.
        right: Whether the detection counts as correct when thresholds are chosen.
        objects: Classes of the objects that the detection became, or of the added object.
        predicted_xyxy: The box of the detection as annotators saw it, in pixels, or None for an added object.
        annotated_xyxy: The box of the object after annotation, or None for a deleted detection.
    """

    kind: str
    predicted: str | None
    label: str | None
    score: float | None
    iou: float | None
    right: bool = False
    objects: tuple[str, ...] = ()
    predicted_xyxy: Box | None = None
    annotated_xyxy: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEdits:
    """Counts of the edits of one class.

    Attributes:
        counts: Counts by kind. A relabeled detection counts under the class that was detected, an added object under
            its own class.
        overlaps: Histogram with `BINS` bins of the overlaps of kept and moved detections.
        objects: Number of objects of the class after annotation.
    """

    counts: Mapping[str, int]
    overlaps: tuple[int, ...]
    objects: int

    @property
    def shown(self) -> int:
        """Number of detections that annotators were shown."""
        return sum(self.counts[kind] for kind in (KEPT, MOVED, RELABELED, UNLABELED, DELETED))

    @property
    def corrections(self) -> int:
        """Number of boxes that were moved, relabeled, left without a class, deleted or added."""
        return sum(self.counts[kind] for kind in (MOVED, RELABELED, UNLABELED, DELETED, ADDED))


@dataclass(frozen=True, slots=True)
class _AnnotatedObject:
    """An object after annotation: regions that belong together."""

    labels: tuple[str, ...]
    area: Area
    only_polygons: bool

    @classmethod
    def of(cls, regions: Sequence[Region], image: PreannotatedImage) -> _AnnotatedObject:
        labels = tuple(dict.fromkeys(label for region in regions for label in region.labels))
        only_polygons = all(isinstance(region.shape, tuple) for region in regions)
        return cls(labels, union([region.area(*image.size) for region in regions]), only_polygons)

    def is_a(self, name: str) -> bool:
        return name.casefold() in {label.casefold() for label in self.labels}


def edits_of(image: PreannotatedImage, regions: Sequence[Region], options: CompareOptions) -> Iterator[Edit]:
    """The edits of one image.

    Args:
        image: What annotators were shown.
        regions: The regions after annotation.
        options: The IoU thresholds `kept_iou` and `iou`.

    Raises:
        EvaluateError: A mask of the run does not fit its image.
    """
    detections = image.detections
    number_of = {id_: number for number, detection in enumerate(detections) for id_ in detection.ids}
    regions_by_detection: dict[int, list[Region]] = {}
    other_objects: list[_AnnotatedObject] = []
    for region in regions:
        number = number_of.get(region.id)
        if number is None:
            other_objects.append(_AnnotatedObject.of([region], image))
        else:
            regions_by_detection.setdefault(number, []).append(region)
    unmatched = [number for number in range(len(detections)) if number not in regions_by_detection]
    pairs = _match_by_overlap([detections[number] for number in unmatched], image, other_objects, options.iou)
    objects = {
        number: _by_label(own_regions, detections[number].name, image)
        for number, own_regions in regions_by_detection.items()
    }
    objects.update({unmatched[position]: [other_objects[index]] for position, index in pairs.items()})
    for number, detection in enumerate(detections):
        yield _edit(detection, objects.get(number, []), image, options)
    matched = set(pairs.values())
    for index, added in enumerate(other_objects):
        if index not in matched:
            label = added.labels[0] if added.labels else ""
            yield Edit(ADDED, None, label, None, None, objects=(label,), annotated_xyxy=added.area.xyxy)


def _edit(
    detection: Preannotation, objects: Sequence[_AnnotatedObject], image: PreannotatedImage, options: CompareOptions
) -> Edit:
    name, score, xyxy = detection.name, detection.score, image.xyxy_of(detection)
    if not objects:
        return Edit(DELETED, name, None, score, None, predicted_xyxy=xyxy)
    same_class = [annotated for annotated in objects if annotated.is_a(name)]
    new_labels = [annotated.labels[0] for annotated in objects if annotated.labels and not annotated.is_a(name)]
    counterpart = (same_class or objects)[0]
    overlap = _overlap(detection, counterpart, image)
    edit = Edit(MOVED, name, name, score, overlap, predicted_xyxy=xyxy, annotated_xyxy=counterpart.area.xyxy)
    right = bool(same_class) and overlap >= options.iou
    labels = (*(name for _ in same_class), *new_labels)
    if new_labels:
        return replace(edit, kind=RELABELED, label=new_labels[0], right=right, objects=labels)
    if not same_class:
        return replace(edit, kind=UNLABELED, label=None)
    kind = KEPT if overlap >= options.kept_iou and len(objects) == 1 else MOVED
    return replace(edit, kind=kind, right=right, objects=labels)


def _by_label(regions: Sequence[Region], name: str, image: PreannotatedImage) -> list[_AnnotatedObject]:
    """Group the regions of one detection into objects, one per class after annotation; the detected class first."""
    by_label: dict[str, list[Region]] = {}
    for region in regions:
        labels = {label.casefold() for label in region.labels}
        key = name.casefold() if name.casefold() in labels else next(iter(sorted(labels)), "")
        by_label.setdefault(key, []).append(region)
    same_class = by_label.pop(name.casefold(), None)
    groups = [*([same_class] if same_class else []), *by_label.values()]
    return [_AnnotatedObject.of(group, image) for group in groups]


def _match_by_overlap(
    detections: Sequence[Preannotation], image: PreannotatedImage, objects: Sequence[_AnnotatedObject], min_iou: float
) -> dict[int, int]:
    """Match detections with objects by the IoU of their boxes; returns the object's index by the detection's index."""
    if not detections or not objects:
        return {}
    detection_xyxy = [image.xyxy_of(detection) for detection in detections]
    object_xyxy = [annotated.area.xyxy for annotated in objects]
    no_crowd = np.zeros(len(objects), bool)
    ious = overlaps(xywh(np.array(detection_xyxy, np.float64)), xywh(np.array(object_xyxy, np.float64)), no_crowd)
    same_class = np.array([[annotated.is_a(detection.name) for annotated in objects] for detection in detections])
    return match_class_first(ious, same_class, min_iou)


def _overlap(detection: Preannotation, annotated: _AnnotatedObject, image: PreannotatedImage) -> float:
    """IoU of a detection, in the shape in which it was shown, and the annotator's object."""
    has_pixels = annotated.area.pixels is not None
    areas = image.areas(detection, has_pixels=has_pixels, only_polygons=annotated.only_polygons)
    return round(max(iou(area, annotated.area) for area in areas), 6)


def edits_by_class(edits: Sequence[Edit]) -> dict[str, ClassEdits]:
    """Count edits by class, most detections and objects first. Names that differ in case are one class."""
    counts: dict[str, Counter[str]] = {}
    overlaps: dict[str, list[float]] = {}
    objects: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for edit in edits:
        for name in (edit.predicted, *edit.objects):
            if name is not None:
                spelling.setdefault(name.casefold(), name)
        name = spelling[(edit.predicted if edit.predicted is not None else edit.label or "").casefold()]
        counts.setdefault(name, Counter())[edit.kind] += 1
        if edit.kind in (KEPT, MOVED) and edit.iou is not None:
            overlaps.setdefault(name, []).append(edit.iou)
        for object_name in edit.objects:
            label = spelling[object_name.casefold()]
            objects[label] += 1
            counts.setdefault(label, Counter())
    by_class = {
        name: ClassEdits(
            counts={kind: count[kind] for kind in EDITS},
            overlaps=_histogram(overlaps.get(name, [])),
            objects=objects[name],
        )
        for name, count in counts.items()
    }
    return dict(sorted(by_class.items(), key=lambda item: (-item[1].objects - item[1].shown, item[0])))


def total(by_class: Mapping[str, ClassEdits]) -> ClassEdits:
    """The sum over all classes."""
    classes = list(by_class.values())
    return ClassEdits(
        counts={kind: sum(edits.counts[kind] for edits in classes) for kind in EDITS},
        overlaps=tuple(sum(edits.overlaps[number] for edits in classes) for number in range(BINS)),
        objects=sum(edits.objects for edits in classes),
    )


def boxes_by_edit(
    images: Sequence[Sequence[Edit]], by_class: Mapping[str, ClassEdits]
) -> dict[tuple[str, str], list[ReviewedBox]]:
    """The boxes of each kind of edit except `KEPT`, by class.

    Args:
        images: The edits of each image.
        by_class: The result of `edits_by_class`, whose spelling of class names is used.

    Returns:
        (class, kind) -> the boxes after annotation, or as predicted if they were deleted.
    """
    spelling = {name.casefold(): name for name in by_class}
    boxes: defaultdict[tuple[str, str], list[ReviewedBox]] = defaultdict(list)
    for position, edits in enumerate(images):
        for edit in edits:
            xyxy = edit.annotated_xyxy or edit.predicted_xyxy
            if edit.kind != KEPT and xyxy is not None:
                name = edit.predicted if edit.predicted is not None else edit.label or ""
                moved_from = edit.predicted_xyxy if edit.kind == MOVED else None
                before = None if moved_from is None else _as_xywh(moved_from)
                boxes[spelling[name.casefold()], edit.kind].append(ReviewedBox(position, _as_xywh(xyxy), before))
    return dict(boxes)


def _as_xywh(xyxy: Box) -> Box:
    x1, y1, x2, y2 = xyxy
    return x1, y1, x2 - x1, y2 - y1


def _histogram(overlaps: Sequence[float]) -> tuple[int, ...]:
    """A histogram with `BINS` bins; a value on the border of two bins, within rounding, belongs to the upper bin."""
    counts = Counter(min(int(value * BINS + 1e-9), BINS - 1) for value in overlaps)
    return tuple(counts[number] for number in range(BINS))


def relabeled(edits: Sequence[Edit]) -> list[tuple[str, str, int]]:
    """Old class, new class and count of relabeled detections, most frequent first."""
    pairs = Counter(
        (edit.predicted or "", label)
        for edit in edits
        if edit.kind == RELABELED
        for label in edit.objects
        if label.casefold() != (edit.predicted or "").casefold()
    )
    return [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))]


def rankings_of_shown(
    images: Sequence[Sequence[Edit]], names: Iterable[str], floor_of: Mapping[str, float]
) -> tuple[dict[str, Ranking], Ranking]:
    """The rankings of the detections that annotators were shown: of each class by its name, and of all classes.

    Detections below the floor of their class were shown only on some images. They are excluded, and their objects count
    as missed.

    Args:
        images: The edits of each image.
        names: The classes.
        floor_of: Floors by lower-case class name, see `prelabel.review.preannotations.score_floors`.
    """
    everything = _RankedDetections()
    by_class: defaultdict[str, _RankedDetections] = defaultdict(_RankedDetections)
    for position, edits in enumerate(images):
        for edit in edits:
            for label in edit.objects:
                for ranked in (everything, by_class[label.casefold()]):
                    ranked.objects.append(position)
            if edit.predicted is None or edit.score is None:
                continue
            class_key = edit.predicted.casefold()
            if np.float32(edit.score) >= np.float32(floor_of.get(class_key, 0.0)):
                for ranked in (everything, by_class[class_key]):
                    ranked.detections.append((edit.score, edit.right, position))
    rankings = {
        name: by_class[name.casefold()].ranking(len(images), floor_of.get(name.casefold(), 0.0)) for name in names
    }
    return rankings, everything.ranking(len(images), min(floor_of.values(), default=0.0))


@dataclass(frozen=True, slots=True)
class _RankedDetections:
    """Detections (score, whether right, position of the image), and the positions of the images of all objects."""

    detections: list[tuple[float, bool, int]] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)

    def ranking(self, images: int, floor: float) -> Ranking:
        return Ranking.of(
            score=np.array([score for score, _, _ in self.detections], np.float64),
            right=np.array([right for _, right, _ in self.detections], bool),
            image=np.array([position for _, _, position in self.detections], np.int64),
            objects=np.array(self.objects, np.int64),
            images=images,
            floor=floor,
        )
