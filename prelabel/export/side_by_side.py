"""The detections of many images side by side: what concerns each by itself is worked out for all of them at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, FloatArray, IntArray, ObjectArray
from prelabel.rle import Int64Array
from prelabel.select import Selection
from prelabel.store.rows import ImageRow

#: Images that are taken together at most, and detections of them.
_IMAGES, _DETECTIONS = 256, 4096


def lots(rows: Iterable[ImageRow], most: int = _DETECTIONS) -> Iterator[list[ImageRow]]:
    """The rows, as many at a time as are worth it; with at most so many detections, or one row with more."""
    lot: list[ImageRow] = []
    detections = 0
    for row in rows:
        if lot and (len(lot) == _IMAGES or detections + len(row) > most):
            yield lot
            lot, detections = [], 0
        lot.append(row)
        detections += len(row)
    if lot:
        yield lot


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Detections of several rows, one row's after the other's.

    Attributes:
        row: `(N,)` which of the rows each belongs to, ascending.
        place: `(N,)` its place among the row's own, before any selection.
        height: `(N,)` pixels of its image.
        width: `(N,)`.
        xyxy: `(N, 4)`; this and the following as in `Detections`.
        category_id: `(N,)`.
        score: `(N,)`.
        label: `(N,)`.
        mid: `(N,)`.
        mask: `N` counts or None; None where no row has masks.
    """

    row: npt.NDArray[np.intp]
    place: npt.NDArray[np.intp]
    height: Int64Array
    width: Int64Array
    xyxy: FloatArray
    category_id: IntArray
    score: FloatArray
    label: ObjectArray
    mid: ObjectArray
    mask: list[str | None] | None

    @classmethod
    def kept(cls, rows: Sequence[ImageRow], selection: Selection) -> SideBySide | None:
        """Those that a selection keeps, each row's by descending score; None where no row has any to choose from."""
        places = [n for n, row in enumerate(rows) if row.detections is not None and len(row.detections)]
        if not places:
            return None
        found = [one for n in places if (one := rows[n].detections) is not None]
        number = np.array([len(one) for one in found])
        row = np.repeat(places, number)
        score, xyxy = np.concatenate([one.score for one in found]), np.concatenate([one.xyxy for one in found])
        label, mid = np.concatenate([one.label for one in found]), np.concatenate([one.mid for one in found])
        chosen = selection.indices_by_image(score, label, mid, xyxy, row)
        masks = _masks(found)
        return cls(
            row=row[chosen],
            place=(np.arange(len(row)) - np.repeat(number.cumsum() - number, number))[chosen],
            height=np.repeat([one.height for one in found], number)[chosen],
            width=np.repeat([one.width for one in found], number)[chosen],
            xyxy=xyxy[chosen],
            category_id=np.concatenate([one.category_id for one in found])[chosen],
            score=score[chosen],
            label=label[chosen],
            mid=mid[chosen],
            mask=None if masks is None else [masks[n] for n in chosen.tolist()],
        )

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: npt.NDArray[np.intp]) -> SideBySide:
        return SideBySide(
            row=self.row[index],
            place=self.place[index],
            height=self.height[index],
            width=self.width[index],
            xyxy=self.xyxy[index],
            category_id=self.category_id[index],
            score=self.score[index],
            label=self.label[index],
            mid=self.mid[index],
            mask=None if self.mask is None else [self.mask[n] for n in index.tolist()],
        )


def _masks(found: Sequence[Detections]) -> list[str | None] | None:
    if all(one.mask is None for one in found):
        return None
    masks = (itertools.repeat(None, len(one)) if one.mask is None else one.mask.tolist() for one in found)
    return list(itertools.chain.from_iterable(masks))
