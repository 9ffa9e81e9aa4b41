"""From detections to their regions: a rectangle, the polygons of a mask, or a brush mask, within each task's limits.

An annotator's browser chokes on thousands of polygon corners and on a hundred brush masks. Detections come by
descending score, so what the limits leave out is what is least likely right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from prelabel import rle
from prelabel.errors import ExportError, StoreError
from prelabel.export.brush import brush_from_rle, brushes_from_rle
from prelabel.export.label_config import Control, LabelConfig
from prelabel.export.label_studio_config import kind_of
from prelabel.export.label_studio_options import TaskOptions
from prelabel.export.polygons import Polygons, object_polygons
from prelabel.export.reading import Tally, shortest
from prelabel.export.regions import Frame, Region, brush, percents, polygon, rectangle, region_id
from prelabel.export.side_by_side import SideBySide
from prelabel.rle_many import joined, measure
from prelabel.store.rows import ImageRow

T = TypeVar("T")


def regions_of(
    rows: Sequence[ImageRow], model_version: str, config: LabelConfig, options: TaskOptions, tally: Tally
) -> list[list[Region]]:
    """The regions of each row's detections, by descending score; what is left out is counted.

    Args:
        rows: Some hundred at most: all their regions are in memory.
        model_version: Of the prediction.
        config: Names the tools and their labels.
        options: What is kept, the shape, the limits of a task.
        tally: Counts.

    Raises:
        ExportError: The tool needs a mask and there is none, or a mask does not fit its image.
    """
    made: list[list[Region]] = [[] for _ in rows]
    kept = SideBySide.kept(rows, options)
    if kept is None:
        return made
    masks: Sequence[str | None] = [None] * len(kept) if kept.mask is None else kept.mask
    tools = {has_mask: config.control(kind_of(options, has_mask, config)) for has_mask in (False, True)}
    labels = options.rename(kept.label, kept.mid).tolist()
    chosen: list[tuple[Control, str] | None] = []
    for counts, label in zip(masks, labels, strict=True):
        control = tools[counts is not None]
        fitting = None if control is None else control.fit(label)
        chosen.append(None if control is None or fitting is None else (control, fitting))
    drawn = _Drawn(rows, kept, masks, chosen, options)
    boxes, scores = percents(kept.xyxy, kept.height, kept.width), shortest(kept.score)
    sizes = zip(kept.height.tolist(), kept.width.tolist(), strict=True)
    before, points = -1, 0
    for n, (row, place, (height, width)) in enumerate(zip(kept.row.tolist(), kept.place.tolist(), sizes, strict=True)):
        one = chosen[n]
        if one is None:
            tally.left_out["detections of classes that the given config does not have"] += 1
            continue
        control, label = one
        if row != before:
            before, points = row, 0
            frame = Frame(height, width, config.to_name)
        row_id = (model_version, rows[row].image_id, place)
        reason = ""
        if control.kind == "rectangle":
            region = rectangle(region_id(*row_id), control, frame, label, scores[n], boxes[n])
            reason = "" if region is not None else "without area"
            made[row] += [region] if region is not None else []
        elif n in drawn.empty:
            reason = "with an empty mask"
        elif control.kind == "polygon":
            parts, specks = drawn.polygons(n)
            points += (corners := sum(len(part) // 2 for part in parts))
            if points > options.max_points:
                reason, points = "beyond max-points", points - corners
            else:
                tally.left_out.update({options.polygon_rules.left_out: specks} if specks else {})
                made[row] += [
                    polygon(region_id(*row_id, part), control, frame, label, scores[n], outline)
                    for part, outline in enumerate(parts)
                ]
        elif n not in drawn.brushes:
            reason = "beyond max-masks"
        else:
            made[row].append(brush(region_id(*row_id), control, frame, label, scores[n], drawn.brushes[n]))
        if reason:
            tally.left_out[f"detections {reason}"] += 1
        else:
            tally.detections += 1
    return made


class _Drawn:
    """The masks that become polygons or brush masks: checked, and worked on together where that is less work.

    Attributes:
        empty: Positions of those without a pixel.
        brushes: Brush masks by position, as many for each row as its limit allows.
    """

    def __init__(
        self,
        rows: Sequence[ImageRow],
        kept: SideBySide,
        masks: Sequence[str | None],
        chosen: Sequence[tuple[Control, str] | None],
        options: TaskOptions,
    ) -> None:
        """Raises ExportError for a mask that is missing or does not fit its image."""
        self._rows = rows
        self._kept = kept
        self._rules = options.polygon_rules
        self._counts: dict[int, str] = {}
        for n, one in enumerate(chosen):
            if one is not None and one[0].kind != "rectangle":
                counts = masks[n]
                if counts is None:
                    raise ExportError(
                        f"image {self._name(n)!r} has a detection without a mask for the tool {one[0].name!r}"
                    )
                self._counts[n] = counts
        which = np.array(list(self._counts), np.intp)
        sound, area, _ = measure(*joined(list(self._counts.values())), kept.height[which], kept.width[which])
        for n in which[~sound].tolist():
            self._named(n, rle.validate)
        self.empty = set(which[area == 0].tolist())
        self.brushes = self._brushes(
            [n for n, one in enumerate(chosen) if one is not None and one[0].kind == "brush"], options.max_masks
        )

    def polygons(self, n: int) -> Polygons:
        """What becomes of a mask: one polygon, or one for each part."""
        return self._named(n, lambda counts, height, width: object_polygons(counts, height, width, self._rules))

    def _brushes(self, wanted: Sequence[int], most: int) -> dict[int, bytes]:
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        number: Counter[int] = Counter()
        for n in wanted:
            row = int(self._kept.row[n])
            if n not in self.empty and number[row] < most:
                number[row] += 1
                by_size[int(self._kept.height[n]), int(self._kept.width[n])].append(n)
        brushes: dict[int, bytes] = {}
        for size, some in by_size.items():
            try:
                brushes.update(zip(some, brushes_from_rle([self._counts[n] for n in some], *size), strict=True))
            except ExportError:
                # Which image it is comes out one by one.
                brushes.update({n: self._named(n, brush_from_rle) for n in some})
        return brushes

    def _named(self, n: int, work: Callable[[str, int, int], T]) -> T:
        try:
            return work(self._counts[n], int(self._kept.height[n]), int(self._kept.width[n]))
        except (StoreError, ExportError) as error:
            raise ExportError(f"image {self._name(n)!r}: {error}") from None

    def _name(self, n: int) -> str:
        return self._rows[int(self._kept.row[n])].image_id
