"""From a row to what an export writes of it: the kept detections with category, score and geometry, counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prelabel.export.categories import Categories
from prelabel.export.coco_shapes import Shape, Shaping, shape_of
from prelabel.export.reading import Tally, shortest
from prelabel.select import Selection
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName


@dataclass(frozen=True, slots=True)
class Instance:
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

    def __call__(self, row: ImageRow) -> Iterator[Instance]:
        """The instances of an image; each counts as written when it is handed out.

        Raises:
            ExportError: A mask does not fit its image.
        """
        found = row.detections
        if found is None or not len(found):
            return
        scores = shortest(found.score)
        for index in self._selection.indices(found.score, found.label, found.mid, found.xyxy).tolist():
            one = ClassName(int(found.category_id[index]), found.label[index], found.mid[index])
            category_id = self._categories.id_of(one)
            if category_id is None:
                self._leave_out("of classes that are not in the list of categories")
                continue
            counts = None if found.mask is None else found.mask[index]
            shape = shape_of(row.image_id, found.xyxy[index], counts, (found.height, found.width), self._shaping)
            if isinstance(shape, str):
                self._leave_out(shape)
                continue
            self._tally.detections += 1
            yield Instance(category_id, scores[index], shape)

    def _leave_out(self, reason: str) -> None:
        self._tally.left_out[f"detections {reason}"] += 1
