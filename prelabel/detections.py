"""The central value type: all detections of one image, as parallel arrays.

An example, one image of 4 x 6 pixels (height x width) with a dog on its left half:

    Detections(
        height=4, width=6,
        xyxy=[[0, 0, 3, 4]],            # pixels of the displayed image: x1 y1 x2 y2, origin top left
        category_id=[1], score=[0.9],
        label=["Dog"], mid=["/m/0bt9lr"],
        mask=["0<`0"],                  # COCO compressed RLE of the whole image; None without masks
    )

Detectors return them (`Detections.of` makes them from arrays), the store writes them, and exporters read them. This
module needs only NumPy and the RLE of `prelabel.masks`, so these three do not depend on each other.
`detections.decode_masks()` returns the masks as pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import StoreError
from prelabel.masks import rle

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
ObjectArray = npt.NDArray[np.object_]

#: Number of detections that `repr` lists.
_LISTED = 3


def as_objects(values: Sequence[Any] | ObjectArray) -> ObjectArray:
    """`(N,)` strings as an array of Python objects, which can be indexed like the numeric arrays."""
    if isinstance(values, np.ndarray) and values.dtype == object:
        return values
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Detections:
    """All detections of one image; every array has one entry per detection, in the same order.

    Attributes:
        height: Pixels of the displayed image (after applying the EXIF orientation), top to bottom.
        width: Pixels of the displayed image, left to right.
        xyxy: `(N, 4)` float32 pixels x1 y1 x2 y2 with `0 <= x1 <= x2 <= width` and `0 <= y1 <= y2 <= height`.
        category_id: `(N,)` int32, the class numbers of the model, never renumbered.
        score: `(N,)` float32 in 0..1.
        label: `(N,)` str, the class names as annotators see them.
        mid: `(N,)` str, Freebase machine ids (`/m/0bt9lr`), or `""` if the model has none.
        mask: `(N,)` str, COCO compressed RLE counts of size `[height, width]`; None without masks. Where runs with and
            without masks were fused, an entry may be None.
        multiclass_score: `(N, C)` float32 scores of all classes if they were requested, else None.
        views: `(N,)` int32, from how many views of the image the detection was merged; joined parts of an object count
            as one. None if the detector saw one view only.
        keypoints: `(N, K, 3)` float32 x, y in pixels of the displayed image, and score in 0..1; None without keypoints.
            0 0 0 stands for a point that the detector does not give: those with the score 0, or with a number that is
            not finite, become it. A point may lie outside the image.
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
    views: IntArray | None = None
    keypoints: FloatArray | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "xyxy", _checked_boxes(self.xyxy))
        set_(self, "category_id", np.asarray(self.category_id, dtype=np.int32))
        set_(self, "score", np.asarray(self.score, dtype=np.float32))
        if self.views is not None:
            set_(self, "views", np.asarray(self.views, dtype=np.int32))
        for name in ("label", "mid", "mask"):
            value = getattr(self, name)
            if value is not None:
                set_(self, name, as_objects(value))
        if self.keypoints is not None:
            set_(self, "keypoints", _checked_keypoints(self.keypoints, len(self.xyxy)))
        for name in ("category_id", "score", "label", "mid", "mask", "multiclass_score", "views", "keypoints"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.xyxy):
                raise ValueError(f"{name} must have {len(self.xyxy)} entries like xyxy, got {len(value)}")

    @classmethod
    def of(
        cls,
        height: int,
        width: int,
        *,
        xyxy: npt.ArrayLike,
        score: npt.ArrayLike,
        label: Sequence[str],
        category_id: npt.ArrayLike | None = None,
        mid: Sequence[str] | None = None,
        masks: Iterable[npt.ArrayLike] | None = None,
        keypoints: npt.ArrayLike | None = None,
    ) -> Detections:
        """Make `Detections` from the arrays that a detector has.

        Args:
            height: Pixels of the image, top to bottom.
            width: Pixels of the image, left to right.
            xyxy: `(N, 4)` pixels x1 y1 x2 y2, origin top left.
            score: `(N,)` in 0..1.
            label: `(N,)` class names.
            category_id: `(N,)` class numbers; by default numbers made from the MIDs or labels, the same in every run.
            mid: `(N,)` Freebase machine ids; none by default.
            masks: N masks as `(height, width)` pixels, nonzero where the object is: an array, or any iterable, which
                saves memory. None without masks.
            keypoints: `(N, K, 3)` x, y in pixels, and score in 0..1. None without keypoints.

        Raises:
            ValueError: The shapes do not fit each other or the image; the message names the array.
        """
        labels = [*label]
        mids = [""] * len(labels) if mid is None else [*mid]
        numbers: Any = category_id
        if category_id is None:
            numbers = [number_of_name(mid or label) for mid, label in zip(mids, labels, strict=True)]
        elif (given := np.asarray(category_id)).size and given.dtype.kind not in "iu":
            raise ValueError(f"category_id must be whole numbers, got {given.dtype}")
        counts = None
        if masks is not None:
            counts = as_objects([_encoded(np.asarray(mask), height, width) for mask in masks])
        return cls(
            height=int(height),
            width=int(width),
            xyxy=np.asarray(xyxy, np.float32),
            category_id=numbers,
            score=np.asarray(score, np.float32),
            label=as_objects(labels),
            mid=as_objects(mids),
            mask=counts,
            keypoints=None if keypoints is None else np.asarray(keypoints, np.float32),
        )

    @classmethod
    def empty(cls, height: int, width: int, *, masks: bool = False, keypoints: int | None = None) -> Detections:
        """Return an empty `Detections` for an image of this size; `keypoints` is their number per detection."""
        no_strings = np.empty(0, dtype=object)
        return cls(
            height=height,
            width=width,
            xyxy=np.empty((0, 4), np.float32),
            category_id=np.empty(0, np.int32),
            score=np.empty(0, np.float32),
            label=no_strings,
            mid=no_strings,
            mask=no_strings if masks else None,
            keypoints=None if keypoints is None else np.empty((0, keypoints, 3), np.float32),
        )

    def __len__(self) -> int:
        return len(self.xyxy)

    def __repr__(self) -> str:
        """`Detections(height=4, width=6, Dog 0.90, Cat 0.80, ... 5 in all, with masks)`"""
        listed = [
            f"{label} {score:.2f}" for label, score in zip(self.label[:_LISTED], self.score[:_LISTED], strict=True)
        ]
        more = [f"... {len(self):,} in all"] if len(self) > _LISTED else []
        masks = [] if self.mask is None else ["with masks"]
        keypoints = [] if self.keypoints is None else [f"with {self.keypoints.shape[1]} keypoints each"]
        parts = [f"height={self.height}", f"width={self.width}", *(listed or ["none"]), *more, *masks, *keypoints]
        return f"Detections({', '.join(parts)})"

    def decode_masks(self) -> npt.NDArray[np.bool_]:
        """Decode all masks into pixels.

        The result takes `N * height * width` bytes: 100 masks of a photo with 12 megapixels take 1.2 GB. If there are
        many detections, select some first: `detections[detections.score >= 0.5].decode_masks()`.

        Returns:
            `(N, height, width)` bool, in the order of the other arrays: `True` where the object is, in pixels of the
            displayed image; nowhere for a detection without a mask beside others that have one.

        Raises:
            StoreError: The detections have no masks, or a mask is corrupt.
        """
        if self.mask is None and len(self):
            raise StoreError("these detections have no masks: the detector returns only boxes")
        pixels = np.zeros((len(self), self.height, self.width), dtype=np.bool_)
        for number, counts in enumerate(() if self.mask is None else self.mask):
            if counts is not None:
                pixels[number] = rle.decode(counts, self.height, self.width)
        return pixels

    def __getitem__(self, index: npt.NDArray[Any] | slice) -> Detections:
        """The detections at a boolean array, an index array or a slice: `detections[detections.score >= 0.5]`."""
        return replace(
            self,
            xyxy=self.xyxy[index],
            category_id=self.category_id[index],
            score=self.score[index],
            label=self.label[index],
            mid=self.mid[index],
            mask=None if self.mask is None else self.mask[index],
            multiclass_score=None if self.multiclass_score is None else self.multiclass_score[index],
            views=None if self.views is None else self.views[index],
            keypoints=None if self.keypoints is None else self.keypoints[index],
        )


def _checked_boxes(values: npt.ArrayLike) -> FloatArray:
    boxes: FloatArray = np.asarray(values, np.float32)
    if not boxes.size:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"xyxy must have shape (N, 4), got {boxes.shape}")
    return boxes


def number_of_name(name: str) -> int:
    """The number of a class that has only a MID or a name: the same in all processes and runs, 0 to 2**31 - 1."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def _encoded(mask: npt.NDArray[Any], height: int, width: int) -> str:
    if mask.shape != (height, width):
        raise ValueError(f"each mask must have the shape of the image, {(height, width)}, got {mask.shape}")
    return rle.encode(mask)


def _checked_keypoints(values: npt.ArrayLike, detections: int) -> FloatArray:
    keypoints: FloatArray = np.asarray(values, np.float32)
    if keypoints.ndim == 1 and not len(keypoints):
        keypoints = keypoints.reshape(0, 0, 3)  # of an empty list
    if keypoints.ndim != 3 or keypoints.shape[2] != 3:
        raise ValueError(f"keypoints must have shape ({detections}, K, 3), got {keypoints.shape}")
    is_given = np.isfinite(keypoints).all(axis=2, keepdims=True) & (keypoints[..., 2:] != 0)
    return np.where(is_given, keypoints, np.float32(0))


@dataclass(frozen=True, slots=True)
class ClassName:
    """A class of a detector: its number, the name that annotators see, and its Freebase MID or `""`."""

    id: int
    name: str
    mid: str = ""


@dataclass(frozen=True, slots=True)
class ImageLabel:
    """A label of a whole image, from a classifier: class number, name, MID (or `""`) and probability."""

    category_id: int
    label: str
    mid: str
    score: float
