"""From a row to what an export writes of it: the kept detections with category, score and geometry, counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from prelabel.detections import Detections
from prelabel.export.categories import Categories
from prelabel.export.coco_shapes import Shape, Shaping, shapes_of
from prelabel.export.reading import Tally, shortest
from prelabel.select import Selection
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName

#: Images whose detections are worked on side by side, and detections of them at most (or those of one image).
_IMAGES, _DETECTIONS = 256, 4096


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
        for some in _lots(rows):
            yield from zip(some, self._of_some(some), strict=True)

    def _of_some(self, rows: Sequence[ImageRow]) -> list[list[Instance]]:
        instances: list[list[Instance]] = [[] for _ in rows]
        places = [n for n, row in enumerate(rows) if row.detections is not None and len(row.detections)]
        if not places:
            return instances
        found = [one for n in places if (one := rows[n].detections) is not None]
        image = np.repeat(places, [len(one) for one in found])
        score, xyxy = np.concatenate([one.score for one in found]), np.concatenate([one.xyxy for one in found])
        label, mid = np.concatenate([one.label for one in found]), np.concatenate([one.mid for one in found])
        kept = self._selection.indices_by_image(score, label, mid, xyxy, image)
        number = np.concatenate([one.category_id for one in found])[kept].tolist()
        ids = list(map(self._id_of, number, label[kept].tolist(), mid[kept].tolist()))
        listed = [n for n, category_id in enumerate(ids) if category_id is not None]
        self._leave_out("of classes that are not in the list of categories", len(ids) - len(listed))
        if len(listed) < len(ids):
            kept, ids = kept[listed], [ids[n] for n in listed]
        counts = _masks(found)
        shapes = shapes_of(
            [rows[n].image_id for n in image[kept].tolist()],
            xyxy[kept],
            None if counts is None else [counts[n] for n in kept.tolist()],
            np.repeat([one.height for one in found], [len(one) for one in found])[kept],
            np.repeat([one.width for one in found], [len(one) for one in found])[kept],
            self._shaping,
        )
        scores = shortest(score[kept])
        for n, category_id, given, shape in zip(image[kept].tolist(), ids, scores, shapes, strict=True):
            if isinstance(shape, str):
                self._leave_out(shape)
            elif category_id is not None:
                self._tally.detections += 1
                instances[n].append(Instance(category_id, given, shape))
        return instances

    def _id_of(self, number: int, label: str, mid: str) -> int | None:
        key = (number, label, mid)
        if key not in self.ids:
            self.ids[key] = self._categories.id_of(ClassName(*key))
        return self.ids[key]

    def _leave_out(self, reason: str, count: int = 1) -> None:
        if count:
            self._tally.left_out[f"detections {reason}"] += count


def _lots(rows: Iterable[ImageRow]) -> Iterator[list[ImageRow]]:
    lot: list[ImageRow] = []
    detections = 0
    for row in rows:
        if lot and (len(lot) == _IMAGES or detections + len(row) > _DETECTIONS):
            yield lot
            lot, detections = [], 0
        lot.append(row)
        detections += len(row)
    if lot:
        yield lot


def _masks(found: Sequence[Detections]) -> list[str | None] | None:
    """The masks of all detections side by side, or None where there is none at all."""
    if all(one.mask is None for one in found):
        return None
    masks = (itertools.repeat(None, len(one)) if one.mask is None else one.mask.tolist() for one in found)
    return list(itertools.chain.from_iterable(masks))
