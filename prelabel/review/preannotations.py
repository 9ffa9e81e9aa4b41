"""Finds which detections annotators were shown on each image: from their annotations, else by a selection (`basis`).

If an annotation tells which prediction it started from, the regions of that prediction are what was shown. Otherwise
the selection decides. A selection given as options always decides; notes report contradictions between the two.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prelabel.detections import Detections
from prelabel.errors import EvaluateError, ExportError, StoreError
from prelabel.label_studio.regions import region_id
from prelabel.masks.areas import Area, Box, area_of_mask, area_of_polygons, union
from prelabel.masks.polygons import FRAGMENT_SHARE, PolygonRules, object_polygons
from prelabel.review.annotations import AnnotatedImage, Prediction, Region
from prelabel.review.basis import RECORDED, Basis
from prelabel.store.rows import ImageRow

#: Limits of the search for the regions of a mask's parts: the highest number of parts, and the number of successive
#: parts without a region after which the search ends. Regions that it does not reach are matched by overlap.
_MAX_PARTS, _MAX_MISSING = 256, 16

#: The form of region ids in exports of a run; ids that Label Studio creates have another form.
_EXPORTED_ID = re.compile(r"[0-9a-f]{12}")

#: Minimum share of the detections at and above a floor that were shown. Exports exclude a few for other reasons.
_NEARLY_ALL = 0.95


@dataclass(frozen=True, slots=True)
class Preannotation:
    """A detection as annotators saw it.

    Attributes:
        number: Position of the detection in the row, or None for a region that the row does not have.
        name: The class name that annotators saw.
        score: The score, or None if unknown.
        ids: Known ids of the detection's regions.
        area: The area of the regions that were shown, or None to compute it from the detection's box and mask.
    """

    number: int | None
    name: str
    score: float | None
    ids: frozenset[str]
    area: Area | None = None


class PreannotatedImage:
    """The detections that annotators were shown on one image.

    Attributes:
        size: Height and width of the image, in the frame of the annotation.
        names: Class names of all detections of the row, as the selection renames them.
        detections: The detections that were shown, in descending order of score, as far as scores are known.
        by_annotation: Whether the annotation tells what was shown.
        numbers: Position of the detection by region id, for ids that an export of the run made.
        prediction: The prediction of this run that the annotation started from, or None.
        selected: Positions of the detections that the selection keeps.
        contradicting: Positions of detections that the selection excludes although the annotation has a region of them.
    """

    def __init__(
        self, model_version: str, row: ImageRow, image: AnnotatedImage, basis: Basis, *, by_selection: bool
    ) -> None:
        """Find what was shown.

        Args:
            model_version: Model version of the run.
            row: The image in the run, in the frame of the annotation.
            image: The annotated image.
            basis: The selection for images whose annotations do not tell.
            by_selection: Whether the selection decides even if the annotation tells.
        """
        detections = row.detections if row.detections is not None else Detections.empty(1, 1)
        self.size = (detections.height, detections.width)
        self._run_detections, self._basis, self._image_id = detections, basis, row.image_id
        region_ids = {region.id for region in image.regions}
        region_ids.update(region.id for prediction in image.predictions for region in prediction.regions)
        self.numbers = numbers_by_id(model_version, row.image_id, detections, region_ids)
        self.prediction = _prediction_of_run(image.predictions, model_version, self.numbers)
        selection = basis.selection
        self.names = selection.rename(detections.label, detections.mid)
        self.selected = selection.indices(detections.score, detections.label, detections.mid, detections.xyxy).tolist()
        self.by_annotation = self.prediction is not None and not by_selection
        self.contradicting: list[int] = []
        if self.prediction is not None and not by_selection:
            self.detections = self._from_prediction(self.prediction)
        else:
            self.detections = self._from_selection(image)

    def _from_prediction(self, prediction: Prediction) -> list[Preannotation]:
        regions_by_key: dict[int | str, list[Region]] = defaultdict(list)
        for region in prediction.regions:
            regions_by_key[self.numbers.get(region.id, region.id)].append(region)
        preannotations = []
        for key, regions in regions_by_key.items():
            number = key if isinstance(key, int) else None
            score = regions[0].score if number is None else float(self._run_detections.score[number])
            name = next((label for region in regions for label in region.labels), "")
            area = union([region.area(*self.size) for region in regions])
            preannotations.append(Preannotation(number, name, score, frozenset(region.id for region in regions), area))
        return sorted(preannotations, key=lambda preannotation: -(preannotation.score or 0.0))

    def _from_selection(self, image: AnnotatedImage) -> list[Preannotation]:
        ids: dict[int, set[str]] = defaultdict(set)
        for region in image.regions:
            if region.id in self.numbers:
                ids[self.numbers[region.id]].add(region.id)
        # A region with the id of an excluded detection proves that annotators saw the detection.
        self.contradicting = sorted(set(ids) - set(self.selected))
        scores = self._run_detections.score
        return [
            Preannotation(number, str(self.names[number]), float(scores[number]), frozenset(ids[number]))
            for number in [*self.selected, *self.contradicting]
        ]

    def xyxy_of(self, preannotation: Preannotation) -> Box:
        """The box of a detection as annotators saw it."""
        return self.areas(preannotation, has_pixels=False, only_polygons=False)[0].xyxy

    def areas(self, preannotation: Preannotation, *, has_pixels: bool, only_polygons: bool) -> list[Area]:
        """The area of a detection, in each way in which it may have been drawn.

        Args:
            preannotation: The detection.
            has_pixels: Whether the annotator's object has pixels, not only a box.
            only_polygons: Whether the annotator's object consists of polygons only.

        Raises:
            EvaluateError: A mask of the run does not fit its image.
        """
        if preannotation.area is not None:
            return [preannotation.area]
        number, detections = preannotation.number, self._run_detections
        if number is None:
            raise ValueError("a detection that is not in the row needs an area")
        x1, y1, x2, y2 = (float(value) for value in detections.xyxy[number])
        counts = None if detections.mask is None else detections.mask[number]
        if counts is None or not has_pixels:
            return [Area((x1, y1, x2, y2))]
        try:
            areas = [area_of_mask(counts, *self.size)]
            if only_polygons:
                # Annotators saw simplified polygons, and an unchanged polygon must not count as moved. Exports to
                # Label Studio drop the smallest parts; other exports keep them. Whether a mask becomes one polygon or
                # several makes no difference to the area.
                for min_area, min_share in ((0.0, 0.0), (self._basis.polygon_min_area, FRAGMENT_SHARE)):
                    rules = PolygonRules(self._basis.polygon_tolerance, min_area, min_share, "bridge")
                    parts, _ = object_polygons(counts, *self.size, rules)
                    polygons = [np.array(part).reshape(-1, 2) for part in parts]
                    areas += [area_of_polygons(polygons, *self.size)] if parts else []
        except (StoreError, ExportError) as error:
            raise EvaluateError(f"image {self._image_id!r}: {error}") from None
        return areas

    def score_evidence(self) -> ScoreEvidence:
        """What the image tells about the scores from which classes were shown."""
        detections = self._run_detections
        selection, thresholds = self._basis.selection, dict[str, float]()
        for label, mid, name in dict.fromkeys(zip(detections.label, detections.mid, self.names, strict=True)):
            key = str(name).casefold()
            # Rounded to float32, as scores are stored and compared.
            threshold = float(np.float32(selection.threshold_of(label, mid)))
            thresholds[key] = max(threshold, thresholds.get(key, 0.0))
        if not self.by_annotation:
            return ScoreEvidence(thresholds)
        name_of = {detection.number: detection.name for detection in self.detections if detection.number is not None}
        labels, scores = map(str, detections.label.tolist()), detections.score.tolist()
        seen = [(label, score, n in name_of) for n, (label, score) in enumerate(zip(labels, scores, strict=True))]
        names = {str(detections.label[n]): name.casefold() for n, name in name_of.items()}
        return ScoreEvidence({}, seen, names, thresholds if self._basis.source == RECORDED else {})


def _prediction_of_run(
    predictions: Sequence[Prediction], model_version: str, numbers: Mapping[str, int]
) -> Prediction | None:
    """The first prediction of the run: one with its model version, or without any version but with known region ids."""
    for prediction in predictions:
        if prediction.model_version == model_version:
            return prediction
        if not prediction.model_version and any(region.id in numbers for region in prediction.regions):
            return prediction
    return None


def numbers_by_id(model_version: str, image_id: str, detections: Detections, ids: set[str]) -> Mapping[str, int]:
    """Position of the detection by region id, for ids that an export of this run made.

    Region ids are hashes of a detection's position and a part number, so all candidates are computed and looked up.
    Every detection has a first part, and few have a second. Therefore all first parts are tried, then all second parts,
    and so on while ids remain.
    """
    exported_ids = {id_ for id_ in ids if _EXPORTED_ID.fullmatch(id_)}
    numbers: dict[str, int] = {}
    masks = [None] * len(detections) if detections.mask is None else detections.mask.tolist()
    # Each part takes at least one run of background and one of its own, and each run at least one character.
    max_parts = [1 if counts is None else min(max(len(counts) // 2, 1), _MAX_PARTS) for counts in masks]
    candidates = list(range(len(detections)))
    last_match = 0
    for part in range(_MAX_PARTS):
        candidates = [number for number in candidates if max_parts[number] > part]
        if not candidates or len(numbers) == len(exported_ids) or part - last_match > _MAX_MISSING:
            break
        for number in candidates:
            id_ = region_id(model_version, image_id, number, part)
            if id_ in exported_ids:
                numbers[id_] = number
                last_match = part
    return numbers


@dataclass(frozen=True, slots=True)
class ScoreEvidence:
    """What one image tells about the scores from which classes were shown.

    Attributes:
        thresholds: Thresholds of the selection, by the lower-case class name that annotators saw.
        scores: The run's label, the score, and whether it was shown, of every detection; empty if the image does not
            tell.
        names: The run's label -> the lower-case class name that annotators saw, for detections that were shown.
        recorded: Thresholds of the recorded export, if `scores` tell what was shown.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    scores: Sequence[tuple[str, float, bool]] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, float] = field(default_factory=dict)


def score_floors(evidence: Iterable[ScoreEvidence]) -> dict[str, float]:
    """The score from which each class was shown (its floor), by lower-case class name.

    Annotators did not see detections below the floor, so nothing is known about them. The thresholds of a selection
    are exact floors. If annotations tell what was shown, the floor of a class lies above the highest score that was
    hidden, and at or below the lowest score from which nearly all detections were shown. The first of these values in
    that range is the floor: the recorded threshold of the class; the lowest score shown of any class (a class without
    lower scores need not have a higher threshold); the lowest score shown of the class. If images give a class
    different floors, the highest counts.
    """
    result: dict[str, float] = {}
    names: dict[str, str] = {}
    recorded: dict[str, float] = {}
    scores: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for image in evidence:
        for name, threshold in image.thresholds.items():
            result[name] = max(threshold, result.get(name, 0.0))
        for name, threshold in image.recorded.items():
            recorded[name] = max(threshold, recorded.get(name, 0.0))
        names.update(image.names)
        for label, score, was_shown in image.scores:
            scores[label].append((score, was_shown))
    by_name: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for label, pairs in scores.items():
        by_name[names.get(label, label.casefold())] += pairs
    lowest = {name: _lowest(pairs) for name, pairs in by_name.items() if any(was_shown for _, was_shown in pairs)}
    common = min(lowest.values(), default=0.0)
    for name, highest_floor in lowest.items():
        hidden = [score for score, was_shown in by_name[name] if not was_shown and score < highest_floor]
        candidates = (recorded.get(name, common), common, highest_floor)
        floor = next(floor for floor in candidates if max(hidden, default=-1.0) < floor <= highest_floor)
        result[name] = max(floor, result.get(name, 0.0))
    return result


def _lowest(scores: Sequence[tuple[float, bool]]) -> float:
    """The lowest score from which nearly all detections were shown."""
    ordered = sorted(scores, key=lambda pair: -pair[0])
    was_shown = np.array([pair[1] for pair in ordered])
    share = np.cumsum(was_shown) / np.arange(1, len(ordered) + 1)
    enough = np.flatnonzero(was_shown & (share >= _NEARLY_ALL))
    return ordered[int(enough[-1]) if len(enough) else int(np.flatnonzero(was_shown)[0])][0]
