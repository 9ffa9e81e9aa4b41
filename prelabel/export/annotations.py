"""Convert a batch of detections to what exports write: the kept detections with category, score and geometry.

The geometry is that of COCO: bbox, area, and a mask or its polygons. The other formats convert it further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from prelabel.detections import ClassName
from prelabel.errors import ExportError, StoreError
from prelabel.export.base import Tally
from prelabel.export.categories import Categories
from prelabel.export.keypoints import Keypoint, count_hidden, keypoints_of
from prelabel.export.text import rounded, shortest
from prelabel.keypoints import KeypointSet
from prelabel.masks import rle
from prelabel.masks.polygons import PolygonRules, object_polygons
from prelabel.masks.rle import BoolArray
from prelabel.masks.rle_many import join_counts, measure
from prelabel.select import Selection
from prelabel.store.detection_batch import DetectionBatch


class Instance(NamedTuple):
    """A detection that is written.

    Attributes:
        category_id: Its category in the export.
        score: In 0..1, with as few digits as identify the float32.
        shape: Its geometry.
        keypoints: Its keypoints in the order of the detector; empty if there are none, or if none are written.
    """

    category_id: int
    score: float
    shape: Shape
    keypoints: Sequence[Keypoint] = ()


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

    def of(self, batch: DetectionBatch) -> list[list[Instance]]:
        """Make the instances of each image, by descending score, and count them as written.

        Raises:
            ExportError: A mask does not fit its image.
        """
        instances: list[list[Instance]] = [[] for _ in batch.images]
        kept = batch.kept(self._selection)
        ids = list(map(self._id_of, kept.category_id.tolist(), kept.label.tolist(), kept.mid.tolist()))
        if None in ids:
            has_category = np.array([category_id is not None for category_id in ids])
            unlisted = len(ids) - int(has_category.sum())
            self._tally.drop("detections of classes that --categories lacks", unlisted)
            kept = kept[has_category]
        category_ids = (category_id for category_id in ids if category_id is not None)
        lowest = self._geometry.lowest_keypoint_score
        columns = zip(
            kept.image.tolist(),
            category_ids,
            shortest(kept.score),
            shapes_of(kept, self._geometry),
            keypoints_of(kept, lowest, self._keypoints),
            strict=True,
        )
        for n, category_id, score, shape, keypoints in columns:
            if isinstance(shape, str):
                self._tally.drop(f"detections {shape}")
            else:
                self._tally.detections += 1
                self._tally.simplify(self._geometry.polygon_rules, shape.undrawn_parts)
                count_hidden(keypoints, lowest, self._tally)
                instances[n].append(Instance(category_id, score, shape, keypoints))
        return instances

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


class Shape(NamedTuple):
    """The geometry of an annotation.

    Attributes:
        bbox: x, y, width, height in pixels; contains the mask.
        area: Area in pixels: of the mask if there is one, else of the box.
        segmentation: As in a COCO dataset: an RLE, a list of polygons, or `[]`.
        rle: `{"size": [height, width], "counts": str}`, as in COCO results, or None without a mask.
        undrawn_parts: Number of parts of the mask that have no polygon.
    """

    bbox: list[float]
    area: float
    segmentation: Any
    rle: dict[str, Any] | None
    undrawn_parts: int = 0


def shapes_of(batch: DetectionBatch, options: GeometryOptions) -> list[Shape | str]:
    """Compute the geometry of each detection, or the reason why it is dropped.

    Args:
        batch: The detections.
        options: `segmentation` and `polygon_rules`.

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
    bboxes = np.concatenate((corners[:, :2], sides), axis=1).tolist()
    area = np.where(has_mask, pixels, rounded(sides[:, 0] * sides[:, 1], DECIMALS))
    empty = np.where(has_mask, pixels == 0, (sides <= 0).any(axis=1)).tolist()
    shapes: list[Shape | str] = []
    for n, (bbox, pixel_area, is_empty) in enumerate(zip(bboxes, area.tolist(), empty, strict=True)):
        if is_empty:
            shapes.append("with an empty mask" if has_mask[n] else "without area")
        elif counts is None or not has_mask[n]:
            shapes.append(Shape(bbox, pixel_area, [], None))
        else:
            h, w = int(height[n]), int(width[n])
            mask = {"size": [h, w], "counts": counts[n]}
            segmentation: Any = mask
            undrawn_parts = 0
            if options.segmentation == "polygon":
                segmentation, undrawn_parts = object_polygons(str(counts[n]), h, w, options.polygon_rules)
            shapes.append(Shape(bbox, pixel_area, segmentation, mask, undrawn_parts))
    return shapes


def _refuse(batch: DetectionBatch, counts: str, n: int) -> None:
    """Raise ExportError for a mask that does not fit its image."""
    try:
        rle.validate(counts, int(batch.height[n]), int(batch.width[n]))
    except StoreError as error:
        raise ExportError(f"image {batch.images[batch.image[n]].image_id!r}: {error}") from None
