"""From a row to what an export writes of it: the kept detections with category, score and geometry, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from prelabel.export.categories import Categories
from prelabel.export.coco_shapes import Shape, Shaping, shapes_of
from prelabel.export.reading import Tally, shortest
from prelabel.export.side_by_side import SideBySide, lots
from prelabel.select import Selection
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName


class Instance(NamedTuple):
    """One detection that is written.

    Attributes:
        category_id: Its category in the export.
        score: In 0..1, with as few digits as tell it apart.
        shape: Its geometry.
    """

    category_id: int
    score: float
    shape: Shape


class Instances:
    """Gives the instances of one image after another, by descending score, and counts what is left out."""

    def __init__(self, categories: Categories, selection: Selection, shaping: Shaping, tally: Tally) -> None:
        self._categories = categories
        self._selection = selection
        self._shaping = shaping
        self._tally = tally
        #: The classes that turned up, by number, label and MID, in their order, with their categories.
        self.ids: dict[tuple[int, str, str], int | None] = {}

    def __call__(self, row: ImageRow) -> list[Instance]:
        """The instances of one image; see `each`, which is faster for many."""
        return self._of_some([row])[0]

    def each(self, rows: Iterable[ImageRow]) -> Iterator[tuple[ImageRow, list[Instance]]]:
        """Every row, in order, with its instances; they count as written.

        Raises:
            ExportError: A mask does not fit its image.
        """
        for some in lots(rows):
            yield from zip(some, self._of_some(some), strict=True)

    def _of_some(self, rows: Sequence[ImageRow]) -> list[list[Instance]]:
        instances: list[list[Instance]] = [[] for _ in rows]
        kept = SideBySide.kept(rows, self._selection)
        if kept is None:
            return instances
        every = list(map(self._id_of, kept.category_id.tolist(), kept.label.tolist(), kept.mid.tolist()))
        ids = [category_id for category_id in every if category_id is not None]
        if len(ids) < len(every):
            self._leave_out("of classes that are not in the list of categories", len(every) - len(ids))
            kept = kept[np.array([n for n, category_id in enumerate(every) if category_id is not None], np.intp)]
        places = kept.row.tolist()
        names = [rows[n].image_id for n in places]
        shapes = shapes_of(names, kept.xyxy, kept.mask, kept.height, kept.width, self._shaping)
        for n, category_id, score, shape in zip(places, ids, shortest(kept.score), shapes, strict=True):
            if isinstance(shape, str):
                self._leave_out(shape)
            else:
                self._tally.detections += 1
                if shape.left_out_parts:
                    self._tally.left_out[self._shaping.polygon_rules.left_out] += shape.left_out_parts
                instances[n].append(Instance(category_id, score, shape))
        return instances

    def _id_of(self, number: int, label: str, mid: str) -> int | None:
        key = (number, label, mid)
        if key not in self.ids:
            self.ids[key] = self._categories.id_of(ClassName(*key))
        return self.ids[key]

    def _leave_out(self, reason: str, count: int = 1) -> None:
        if count:
            self._tally.left_out[f"detections {reason}"] += count
