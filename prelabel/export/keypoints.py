"""Keypoints as exports write them: which points, and which categories have some.

A person whose nose and left eye the detector gives, and whose right eye lies outside the image, becomes

    Keypoint(12.5, 20, 0.9, True)  Keypoint(10.25, 18, 0.4, True)  Keypoint(-3, 18, 0.8, False)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prelabel.export.options import KeypointOptions
from prelabel.export.text import rounded, shortest
from prelabel.keypoints import KeypointSet, shown

if TYPE_CHECKING:
    from prelabel.export.base import RunInfo, Tally
    from prelabel.export.categories import Categories
    from prelabel.select import Selection
    from prelabel.store.detection_batch import DetectionBatch

#: Decimals of coordinates in pixels.
_DECIMALS = 2


class Keypoint(NamedTuple):
    """A point of a detection.

    Attributes:
        x: In pixels, with two decimals.
        y: In pixels, with two decimals.
        score: In 0..1, with as few digits as identify the float32; 0 for a point that the detector does not give.
        shown: Whether it is written: it has the score, and lies inside the image.
    """

    x: float
    y: float
    score: float
    shown: bool


_ABSENT = Keypoint(0, 0, 0, False)


def unread_keypoints(info: RunInfo, options: KeypointOptions) -> tuple[str, ...]:
    """The column `keypoints`, if an export does not need to read it."""
    return ("keypoints",) if written_keypoints(info, options) is None else ()


def written_keypoints(info: RunInfo, options: KeypointOptions) -> KeypointSet | None:
    """The keypoints that an export writes, or None if the run has none or the options leave them out."""
    return info.keypoints if options.keypoints else None


def keypoints_of(batch: DetectionBatch, lowest_score: float | None, number: int = 0) -> list[list[Keypoint]]:
    """The keypoints of each detection; empty lists if none are written (`lowest_score` None).

    Args:
        batch: The detections.
        lowest_score: See `KeypointOptions`.
        number: Number of keypoints of the run. Images without keypoints, as fused runs may have, get as many absent
            ones: readers expect the same number everywhere.
    """
    if batch.keypoints is None or lowest_score is None:
        return [[_ABSENT] * (0 if lowest_score is None else number)] * len(batch)
    are_shown = shown(batch.keypoints, lowest_score, batch.height, batch.width).ravel().tolist()
    # Adding zero makes -0.0 to 0.0.
    xy = (rounded(batch.keypoints[..., :2].astype(np.float64), _DECIMALS) + 0.0).reshape(-1, 2).tolist()
    scores = shortest(batch.keypoints[..., 2].ravel())
    points = [Keypoint(x, y, score, is_shown) for (x, y), score, is_shown in zip(xy, scores, are_shown, strict=True)]
    count = batch.keypoints.shape[1]
    return [points[start : start + count] for start in range(0, len(batch) * count, count)]


def count_hidden(points: list[Keypoint], lowest_score: float | None, tally: Tally) -> None:
    """Count the points of a detection that are not written although its detector gives them."""
    hidden = [point for point in points if point.score > 0 and not point.shown]
    if hidden and lowest_score is not None:
        low = sum(np.float32(point.score) < np.float32(lowest_score) for point in hidden)
        for reason, number in (
            (f"keypoints with scores below {lowest_score:g}", low),
            ("keypoints outside the image", len(hidden) - low),
        ):
            if number:
                tally.simplified[reason] += int(number)


def ids_with_keypoints(info: RunInfo, categories: Categories, selection: Selection) -> set[int | None] | None:
    """The ids of the categories whose classes have keypoints; None if all have, or if that is unknown."""
    if info.keypoints is None or info.keypoints.classes is None or info.classes is None:
        return None
    # Looking a class up may add a note, and here classes are looked up that may not occur.
    looked_up = copy.deepcopy(categories)
    return {
        looked_up.id_of(class_name)
        for class_name in info.classes
        if info.keypoints.belong_to(class_name.id) and selection.admits(class_name.name, class_name.mid)
    }


def coco_definition(keypoints: KeypointSet) -> Mapping[str, Any]:
    """The keys of a COCO category with keypoints; its skeleton counts keypoints from 1."""
    return {"keypoints": list(keypoints.names), "skeleton": [[a + 1, b + 1] for a, b in keypoints.edges]}
