"""Convert a batch of detections to what exports write: the kept detections with category, score and geometry.

The geometry is that of COCO: bbox, area, and a mask or its polygons. The other formats convert it further.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName
from prelabel.errors import ExportError, StoreError
from prelabel.export.base import Tally
from prelabel.export.categories import Categories
from prelabel.export.keypoints import Keypoint, count_hidden, keypoints_of
from prelabel.export.text import rounded, shortest
from prelabel.keypoints import KeypointSet
from prelabel.masks import rle
from prelabel.masks.polygons import PolygonRules, object_polygons
from prelabel.masks.rle import BoolArray, Int64Array
from prelabel.masks.rle_many import join_counts, measure
from prelabel.select import Selection
from prelabel.store.detection_batch import DetectionBatch

Float64Array = npt.NDArray[np.float64]


class Instance(NamedTuple):
    """A detection that is written.

    Attributes:
        category_id: Its category in the export.
        score: In 0..1, with as few digits as identify the float32.
        bbox: x, y, width, height in pixels; contains the mask.
        mask: RLE counts, or None without a mask.
        polygons: The polygons of the mask; empty without a mask, or if none are written.
        keypoints: Its keypoints in the order of the detector; empty if there are none, or if none are written.
    """

    category_id: int
    score: float
    bbox: list[float]
    mask: str | None
    polygons: list[list[float]]
    keypoints: Sequence[Keypoint]


@dataclass(frozen=True, slots=True)
class InstanceColumns:
    """The instances of a batch as columns of `N` entries, by image, then by descending score.

    Attributes besides those of `Instance`:
        bounds: Index of the first instance of each image of the batch, and `N`.
        bbox: `(N, 4)`.
        area: `(N,)` in pixels: of the mask if there is one, else of the box.
        height: `(N,)` height of the image in pixels.
        width: `(N,)` width of the image in pixels.
    """

    bounds: list[int]
    category_id: list[int]
    score: list[float]
    bbox: Float64Array
    area: Float64Array
    height: Int64Array
    width: Int64Array
    mask: Sequence[str | None]
    polygons: Sequence[list[list[float]]]
    keypoints: Sequence[Sequence[Keypoint]]

    def by_image(self) -> list[list[Instance]]:
        """The instances of each image."""
        columns = (self.category_id, self.score, self.bbox.tolist(), self.mask, self.polygons, self.keypoints)
        instances = list(map(Instance, *columns))
        return [instances[begin:end] for begin, end in itertools.pairwise(self.bounds)]


class Instances:
    """Converts batches to instances, and counts the detections that are dropped."""

    def __init__(
        self,
        categories: Categories,
        selection: Selection,
        geometry: GeometryOptions,
        tally: Tally,
        keypoints: KeypointSet | None = None,
    ) -> None:
        """Convert detections of a run with these keypoints."""
        self._keypoints = 0 if keypoints is None else len(keypoints)
        self._categories = categories
        self._selection = selection
        self._geometry = geometry
        self._tally = tally
        # Keyed by plain tuples: looking up a ClassName is slower.
        self._ids: dict[tuple[int, str, str], int | None] = {}

    def of(self, batch: DetectionBatch) -> InstanceColumns:
        """Make the instances of a batch, and count them as written.

        Raises:
            ExportError: A mask does not fit its image.
        """
        kept = batch.kept(self._selection)
        ids = list(map(self._id_of, kept.category_id.tolist(), kept.label.tolist(), kept.mid.tolist()))
        if None in ids:
            has_category = np.array([category_id is not None for category_id in ids])
            self._drop("detections of classes that --categories lacks", ~has_category)
            kept = kept[has_category]
        category_ids = np.array([category_id for category_id in ids if category_id is not None], np.int64)
        bbox, area, has_mask = _boxes(kept, self._geometry)
        is_empty = np.where(has_mask, area == 0, (bbox[:, 2:] <= 0).any(axis=1))
        if is_empty.any():
            self._drop("detections with an empty mask", is_empty & has_mask)
            self._drop("detections without area", is_empty & ~has_mask)
            written = ~is_empty
            kept, category_ids, bbox = kept[written], category_ids[written], bbox[written]
            area, has_mask = area[written], has_mask[written]
        self._tally.detections += len(kept)
        lowest = self._geometry.lowest_keypoint_score
        keypoints = keypoints_of(kept, lowest, self._keypoints)
        if kept.keypoints is not None:
            for points in keypoints:
                count_hidden(points, lowest, self._tally)
        masks: list[str | None] = [None] * len(kept)
        if kept.mask is not None and has_mask.any():
            masks = [counts if written else None for counts, written in zip(kept.mask, has_mask, strict=True)]
        return InstanceColumns(
            bounds=np.searchsorted(kept.image, np.arange(len(batch.images) + 1)).tolist(),
            category_id=category_ids.tolist(),
            score=shortest(kept.score),
            bbox=bbox,
            area=area,
            height=kept.height,
            width=kept.width,
            mask=masks,
            polygons=self._polygons(kept, has_mask),
            keypoints=keypoints,
        )

    def _polygons(self, batch: DetectionBatch, has_mask: BoolArray) -> list[list[list[float]]]:
        """The polygons of each mask, if masks are written as polygons."""
        polygons: list[list[list[float]]] = [[]] * len(batch)
        if batch.mask is not None and self._geometry.segmentation == "polygon":
            rules = self._geometry.polygon_rules
            for n in np.flatnonzero(has_mask).tolist():
                size = int(batch.height[n]), int(batch.width[n])
                polygons[n], undrawn = object_polygons(batch.mask[n], *size, rules)
                self._tally.simplify(rules, undrawn)
        return polygons

    def _drop(self, reason: str, dropped: BoolArray) -> None:
        if number := int(dropped.sum()):
            self._tally.drop(reason, number)

    def _id_of(self, class_number: int, label: str, mid: str) -> int | None:
        key = (class_number, label, mid)
        if key not in self._ids:
            self._ids[key] = self._categories.id_of(ClassName(*key))
        return self._ids[key]


#: Decimals of coordinates in pixels.
DECIMALS = 2


class GeometryOptions(Protocol):
    """The options of an export that concern geometry."""

    @property
    def segmentation(self) -> str:
        """`rle`, `polygon`, or `none` for boxes alone."""

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons."""

    @property
    def lowest_keypoint_score(self) -> float | None:
        """The lowest score of a keypoint that is written; None to write no keypoints."""


def _boxes(batch: DetectionBatch, options: GeometryOptions) -> tuple[Float64Array, Float64Array, BoolArray]:
    """The boxes of detections, which contain their masks.

    Args:
        batch: The detections.
        options: Whether masks are written (`segmentation`).

    Returns:
        `(N, 4)` x, y, width, height in pixels; `(N,)` area in pixels, of the mask if there is one, else of the box;
        `(N,)` whether a mask is written.

    Raises:
        ExportError: A mask does not fit its image.
    """
    height, width, counts = batch.height, batch.width, batch.mask
    limits = np.stack((width, height), axis=1).astype(np.float64)
    corners = rounded(batch.xyxy.astype(np.float64), DECIMALS)
    has_mask: BoolArray = np.zeros(len(batch), dtype=bool)
    if counts is not None and options.segmentation != "none":
        has_mask = np.array([rle_counts is not None for rle_counts in counts], dtype=bool)
    pixels = np.zeros(len(batch), dtype=np.int64)
    if counts is not None and has_mask.any():
        with_mask = np.flatnonzero(has_mask)
        valid, pixels[with_mask], xywh = measure(
            *join_counts(counts[with_mask].tolist()), height[with_mask], width[with_mask]
        )
        for n in with_mask[~valid].tolist():
            _refuse(batch, counts[n], n)
        # A mask consists of whole pixels, so it can exceed the box by less than one. The box is widened to contain it,
        # since some readers clip masks to the box.
        corners[with_mask, :2] = np.minimum(corners[with_mask, :2], xywh[:, :2])
        corners[with_mask, 2:] = np.maximum(corners[with_mask, 2:], xywh[:, :2] + xywh[:, 2:])
    # A box just outside the edge is rounded to -0.0; adding zero makes it 0.0.
    corners[:, :2] = np.maximum(corners[:, :2], 0) + 0.0
    corners[:, 2:] = np.minimum(corners[:, 2:], limits)
    sides = rounded(corners[:, 2:] - corners[:, :2], DECIMALS)
    area = np.where(has_mask, pixels, rounded(sides[:, 0] * sides[:, 1], DECIMALS))
    return np.concatenate((corners[:, :2], sides), axis=1), area, has_mask


def _refuse(batch: DetectionBatch, counts: str, n: int) -> None:
    """Raise ExportError for a mask that does not fit its image."""
    try:
        rle.validate(counts, int(batch.height[n]), int(batch.width[n]))
    except StoreError as error:
        raise ExportError(f"image {batch.images[batch.image[n]].image_id!r}: {error}") from None
