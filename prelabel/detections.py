"""The value in the middle of everything: all detections of one image, as parallel arrays.

A tiny example, one image of 4 x 6 pixels (height x width) with a dog on its left half:

    Detections(
        height=4, width=6,
        xyxy=[[0, 0, 3, 4]],            # pixels of the displayed image: x1 y1 x2 y2, origin top left
        category_id=[1], score=[0.9],
        label=["Dog"], mid=["/m/0bt9lr"],
        mask=["0<`0"],                  # COCO compressed RLE of the whole image, or None without masks
    )

NumPy only: detectors make these, the store writes them, exporters read them, and none needs the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
ObjectArray = npt.NDArray[np.object_]


def as_objects(values: Sequence[Any] | ObjectArray) -> ObjectArray:
    """`(N,)` strings as an array of Python objects, which can be indexed like the numbers beside it."""
    if isinstance(values, np.ndarray) and values.dtype == object:
        return values
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """All detections of one image; every array has one entry per detection, in the same order.

    Attributes:
        height: Pixels of the displayed image (after its EXIF turn), top to bottom.
        width: Pixels of the displayed image, left to right.
        xyxy: `(N, 4)` float32 pixels x1 y1 x2 y2 with `0 <= x1 <= x2 <= width` and `0 <= y1 <= y2 <= height`.
        category_id: `(N,)` int32, the model's own class number, never renumbered.
        score: `(N,)` float32 in 0..1.
        label: `(N,)` str, the class name as the annotator sees it.
        mid: `(N,)` str, the Freebase machine id (`/m/0bt9lr`), or `""` where the model has none.
        mask: `(N,)` str, COCO compressed counts of an RLE of size `[height, width]`; `None` without masks.
        multiclass_score: `(N, C)` float32 class distribution where it was asked for, else `None`.
    """

    height: int
    width: int
    xyxy: FloatArray
    category_id: IntArray
    score: FloatArray
    label: ObjectArray
    mid: ObjectArray
    mask: ObjectArray | None = None
    multiclass_score: FloatArray | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "xyxy", np.asarray(self.xyxy, dtype=np.float32).reshape(-1, 4))
        set_(self, "category_id", np.asarray(self.category_id, dtype=np.int32))
        set_(self, "score", np.asarray(self.score, dtype=np.float32))
        for name in ("label", "mid", "mask"):
            value = getattr(self, name)
            if value is not None:
                set_(self, name, as_objects(value))
        for name in ("category_id", "score", "label", "mid", "mask", "multiclass_score"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.xyxy):
                raise ValueError(f"{name} must have {len(self.xyxy)} entries like xyxy, got {len(value)}")

    @classmethod
    def empty(cls, height: int, width: int, *, masks: bool = False) -> Detections:
        """An image on which nothing was found."""
        none = np.empty(0, dtype=object)
        return cls(
            height=height,
            width=width,
            xyxy=np.empty((0, 4), np.float32),
            category_id=np.empty(0, np.int32),
            score=np.empty(0, np.float32),
            label=none,
            mid=none,
            mask=none if masks else None,
        )

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: npt.NDArray[Any] | slice) -> Detections:
        """Detections chosen by a boolean mask, an index array or a slice: `detections[detections.score >= 0.5]`."""
        return replace(
            self,
            xyxy=self.xyxy[index],
            category_id=self.category_id[index],
            score=self.score[index],
            label=self.label[index],
            mid=self.mid[index],
            mask=None if self.mask is None else self.mask[index],
            multiclass_score=None if self.multiclass_score is None else self.multiclass_score[index],
        )


@dataclass(frozen=True, slots=True)
class ImageLabel:
    """One label of a whole image, from a classifier: class number, name, MID (or `""`), probability."""

    category_id: int
    label: str
    mid: str
    score: float


def xyxy_to_xywh(xyxy: FloatArray) -> FloatArray:
    """`(N, 4)` x1 y1 x2 y2 -> `(N, 4)` x y width height (COCO's bbox), same unit."""
    xywh = np.array(xyxy, copy=True)
    xywh[:, 2:] -= xywh[:, :2]
    return xywh


def xywh_to_xyxy(xywh: FloatArray) -> FloatArray:
    """`(N, 4)` x y width height -> `(N, 4)` x1 y1 x2 y2, same unit."""
    xyxy = np.array(xywh, copy=True)
    xyxy[:, 2:] += xyxy[:, :2]
    return xyxy
