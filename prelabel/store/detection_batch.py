"""The detections of many images as columns, so that calculations run on all of them at once.

Three images, of which the second failed, with two detections on the first and one on the third:

    images    a.jpg  b.jpg  c.jpg         an `ImageFacts` per image
    failed    False  True   False
    image     0      0      2             index of each detection's image
    place     0      1      0             index of the detection within its image
    score     0.9    0.4    0.7           and so on, one entry per detection

A batch is sliced directly from the columns of a shard. Single rows of a run (`ImageRow`) are made from batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prelabel.detections import Detections, FloatArray, IntArray, ObjectArray, as_objects
from prelabel.errors import ExportError, StoreError
from prelabel.frames import oriented_boxes, oriented_keypoints, oriented_masks, oriented_size
from prelabel.masks.rle import BoolArray, Int64Array
from prelabel.store.rows import FACTS, OK, ImageFacts, ImageRow, image_facts

#: Most detections in a batch, unless one image has more: large enough for speed, small enough for memory.
MOST_DETECTIONS = 4096


class Rules(Protocol):
    """Which detections are kept: a `Selection`."""

    def indices_by_image(
        self, score: FloatArray, label: ObjectArray, mid: ObjectArray, xyxy: FloatArray, image: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """Return the indices of the kept detections, image by image, by descending score within an image."""


@dataclass(frozen=True, slots=True)
class DetectionBatch:
    """Detections of several images, ordered by image.

    Attributes:
        images: The facts of each image, in the order of the run.
        failed: Whether each image failed and therefore has no detections.
        masked: `(images,)` whether the detections of each image have masks; also set for images without detections.
        multiclass_score: Per image, the scores of all classes of all its detections, or null; None if not read.
        image: `(N,)` index of each detection's image, ascending.
        place: `(N,)` index of each detection within its image, before any selection.
        height: `(N,)` height of each detection's image in pixels.
        width: `(N,)` width of each detection's image in pixels.
        xyxy: `(N, 4)`; this and the following columns are as in `Detections`.
        category_id: `(N,)`.
        score: `(N,)`.
        label: `(N,)`.
        mid: `(N,)`.
        mask: `(N,)` RLE counts, None for a detection without a mask; None if no image has masks.
        views: `(N,)` how many views of the image showed the detection, 0 on images with one view; None if no image has
            several views, or if they are not read.
        keypoints: `(N, K, 3)`, 0 0 0 on images whose detections have none; None if no image has any, or if not read.
    """

    images: Sequence[ImageFacts]
    failed: Sequence[bool]
    masked: BoolArray
    multiclass_score: pa.ListArray | None
    image: npt.NDArray[np.intp]
    place: npt.NDArray[np.intp]
    height: Int64Array
    width: Int64Array
    xyxy: FloatArray
    category_id: IntArray
    score: FloatArray
    label: ObjectArray
    mid: ObjectArray
    mask: ObjectArray | None
    views: IntArray | None = None
    keypoints: FloatArray | None = None

    @classmethod
    def from_arrow(cls, record_batch: pa.RecordBatch) -> DetectionBatch:
        """Build a batch from rows of a shard.

        Args:
            record_batch: Columns of `SHARD_SCHEMA`; `masks` and columns for which `ImageFacts` has a default may be
                missing.

        Raises:
            pa.ArrowInvalid: A required value of a detection is null, or the lists of an image differ in length.
        """
        names = record_batch.schema.names
        boxes = record_batch["boxes"].flatten()
        bounds = _bounds(record_batch["boxes"])
        for name in ("classes", "scores", "labels", "mids"):
            if not np.array_equal(_bounds(record_batch[name]), bounds):
                raise pa.ArrowInvalid(f"an image has different numbers of boxes and {name}")
        ok = pc.equal(record_batch["status"], OK).to_numpy(zero_copy_only=False)
        images = image_facts(record_batch)
        number = np.diff(bounds)
        image = np.repeat(np.arange(len(images)), number)
        masked = np.zeros(len(images), bool)
        if "masks" in names:
            masked = record_batch["masks"].is_valid().to_numpy(zero_copy_only=False)
        batch = cls(
            images=images,
            failed=(~ok).tolist(),
            masked=masked,
            multiclass_score=record_batch["multiclass_scores"] if "multiclass_scores" in names else None,
            image=image,
            place=np.arange(len(image)) - np.repeat(bounds[:-1], number),
            height=np.array([facts.height or 0 for facts in images], np.int64)[image],
            width=np.array([facts.width or 0 for facts in images], np.int64)[image],
            xyxy=_numbers(boxes.flatten(), 4 * len(boxes)).reshape(-1, 4),
            category_id=_numbers(record_batch["classes"].flatten(), len(boxes)),
            score=_numbers(record_batch["scores"].flatten(), len(boxes)),
            label=_texts(record_batch["labels"].flatten()),
            mid=_texts(record_batch["mids"].flatten()),
            mask=_optional(record_batch, "masks", bounds, absent=None),
            views=_optional(record_batch, "views", bounds, absent=np.int32(0)),
            keypoints=_keypoints(record_batch, bounds),
        )
        return batch if ok.all() else batch.only_images(ok)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> DetectionBatch:
        """Return the same images with a subset of the detections: `batch[batch.score >= 0.5]`."""
        return replace(
            self,
            image=self.image[index],
            place=self.place[index],
            height=self.height[index],
            width=self.width[index],
            xyxy=self.xyxy[index],
            category_id=self.category_id[index],
            score=self.score[index],
            label=self.label[index],
            mid=self.mid[index],
            mask=None if self.mask is None else self.mask[index],
            views=None if self.views is None else self.views[index],
            keypoints=None if self.keypoints is None else self.keypoints[index],
        )

    def only_images(self, images: npt.NDArray[np.bool_]) -> DetectionBatch:
        """Return the same images, without the detections of images that are False in `images`."""
        return self[images[self.image]]

    def kept(self, rules: Rules) -> DetectionBatch:
        """Return the detections that a selection keeps, by descending score within each image."""
        if not len(self):
            return self
        return self[rules.indices_by_image(self.score, self.label, self.mid, self.xyxy, self.image)]

    def split(self, most: int = MOST_DETECTIONS) -> Iterator[DetectionBatch]:
        """Split between images into batches of at most `most` detections; an image with more gets a separate batch."""
        bounds = self._bounds
        begin = 0
        while begin < len(self.images):
            end = max(int(np.searchsorted(bounds, bounds[begin] + most, side="right")) - 1, begin + 1)
            if end - begin == len(self.images):
                yield self
                return
            part = self[int(bounds[begin]) : int(bounds[end])]
            yield replace(
                part,
                images=self.images[begin:end],
                failed=self.failed[begin:end],
                masked=self.masked[begin:end],
                multiclass_score=None if self.multiclass_score is None else self.multiclass_score[begin:end],
                image=part.image - np.intp(begin),
            )
            begin = end

    def with_uris(self, uris: Mapping[int, str]) -> DetectionBatch:
        """Return the same batch with other addresses for some images, by index."""
        images = [replace(facts, uri=uris[n]) if n in uris else facts for n, facts in enumerate(self.images)]
        return replace(self, images=images)

    def in_frame(self, frame: str) -> DetectionBatch:
        """Convert sizes, boxes, masks and keypoints from the display frame, as stored in shards, to another frame.

        Raises:
            StoreError: An orientation is not 1..8, or a mask does not fit its image or is too complex to be rotated.
        """
        orientations = {
            n: orientation for n, facts in enumerate(self.images) if (orientation := facts.orientation_to(frame)) != 1
        }
        if not orientations:
            return self
        images, xyxy = list(self.images), self.xyxy.copy()
        height, width = self.height.copy(), self.width.copy()
        mask = None if self.mask is None else self.mask.copy()
        keypoints = None if self.keypoints is None else self.keypoints.copy()
        for n, orientation in orientations.items():
            facts = images[n]
            if facts.height is None or facts.width is None:
                continue
            size = facts.height, facts.width
            of_image = slice(*np.searchsorted(self.image, (n, n + 1)).tolist())
            xyxy[of_image] = oriented_boxes(xyxy[of_image], *size, orientation)
            if mask is not None:
                try:
                    mask[of_image] = oriented_masks(mask[of_image].tolist(), *size, orientation)
                except (StoreError, ExportError) as error:
                    raise StoreError(f"image {facts.image_id!r}: {error}") from None
            if keypoints is not None:
                keypoints[of_image] = oriented_keypoints(keypoints[of_image], *size, orientation)
            rotated = oriented_size(*size, orientation)
            images[n] = replace(facts, height=rotated[0], width=rotated[1])
            height[of_image], width[of_image] = rotated
        return replace(self, images=images, xyxy=xyxy, height=height, width=width, mask=mask, keypoints=keypoints)

    def rows(self) -> Iterator[ImageRow]:
        """Yield each image with its detections. If `multiclass_score` is read, none may have been removed."""
        bounds = self._bounds.tolist()
        for n, facts in enumerate(self.images):
            values = {name: getattr(facts, name) for name in FACTS}
            if self.failed[n]:
                yield ImageRow(**values)
                continue
            of_image = slice(bounds[n], bounds[n + 1])
            scores = None if self.multiclass_score is None else self.multiclass_score[n].as_py()
            detections = Detections(
                height=facts.height or 0,
                width=facts.width or 0,
                xyxy=self.xyxy[of_image],
                category_id=self.category_id[of_image],
                score=self.score[of_image],
                label=self.label[of_image],
                mid=self.mid[of_image],
                mask=self.mask[of_image] if self.mask is not None and self.masked[n] else None,
                multiclass_score=None if scores is None else _distributions(scores),
                views=self.views[of_image] if self.views is not None and facts.views_shown > 1 else None,
                keypoints=None if self.keypoints is None else self.keypoints[of_image],
            )
            yield ImageRow(**values, detections=detections)

    @property
    def _bounds(self) -> npt.NDArray[np.intp]:
        """Index of each image's first detection, and the number of detections."""
        return np.searchsorted(self.image, np.arange(len(self.images) + 1))


def _bounds(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return the index of each row's first value in a column of lists, and the number of values; null is empty."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def _numbers(flat: pa.Array, expected: int) -> npt.NDArray[Any]:
    if flat.null_count or len(flat) != expected:
        raise pa.ArrowInvalid("a number of a detection is null")
    values: npt.NDArray[Any] = flat.to_numpy()
    return values


def _texts(flat: pa.Array) -> ObjectArray:
    # There are few distinct texts. Each becomes a single Python object, however often it occurs.
    coded = flat.dictionary_encode()
    if flat.null_count:
        raise pa.ArrowInvalid("a text of a detection is null")
    texts: ObjectArray = as_objects(coded.dictionary.to_pylist())[coded.indices.to_numpy()]
    return texts


def _lists(
    record_batch: pa.RecordBatch, name: str, bounds: npt.NDArray[np.int64]
) -> tuple[pa.Array, npt.NDArray[np.bool_]] | None:
    """The values of a column whose lists may be null, with `(N,)` whether each detection has one; None without a list.

    Args:
        record_batch: Rows of a shard.
        name: The column, which may be missing.
        bounds: Index of each row's first detection, and the number of detections.

    Raises:
        pa.ArrowInvalid: A list is not as long as that of the boxes.
    """
    if name not in record_batch.schema.names:
        return None
    column = record_batch[name]
    known = column.is_valid().to_numpy(zero_copy_only=False)
    if not known.any():
        return None
    number = np.diff(bounds)
    if not np.array_equal(np.diff(_bounds(column)), np.where(known, number, 0)):
        raise pa.ArrowInvalid(f"an image has different numbers of boxes and {name}")
    return column.flatten(), np.repeat(known, number)


def _optional(
    record_batch: pa.RecordBatch, name: str, bounds: npt.NDArray[np.int64], *, absent: np.int32 | None
) -> npt.NDArray[Any] | None:
    """`(N,)` the values of a column whose lists may be null; None if there is no list.

    Args:
        record_batch: See `_lists`, as for the two others.
        name: The column.
        bounds: Of the detections.
        absent: The value of detections whose row has no list. If it is None, values may be null, too.
    """
    lists = _lists(record_batch, name, bounds)
    if lists is None:
        return None
    flat, known = lists
    given = flat.to_numpy(zero_copy_only=False) if absent is None else _numbers(flat, int(known.sum()))
    if known.all():
        return given
    values = np.full(len(known), absent)
    values[known] = given
    return values


def _keypoints(record_batch: pa.RecordBatch, bounds: npt.NDArray[np.int64]) -> FloatArray | None:
    """`(N, K, 3)` the keypoints, 0 0 0 of detections whose row has none; None if there are none, see `_lists`."""
    lists = _lists(record_batch, "keypoints", bounds)
    if lists is None:
        return None
    by_detection, known = lists
    counts = np.unique(pc.list_value_length(by_detection).to_numpy(zero_copy_only=False))
    if by_detection.null_count or len(counts) > 1:
        raise pa.ArrowInvalid("detections have different numbers of keypoints")
    count = int(counts[0]) if len(counts) else 0
    points = by_detection.flatten()
    if points.null_count:
        raise pa.ArrowInvalid("a keypoint is null")
    keypoints: FloatArray = np.zeros((len(known), count, 3), np.float32)
    for position, values in enumerate(points.flatten()):
        keypoints[known, :, position] = _numbers(values, len(by_detection) * count).reshape(len(by_detection), count)
    return keypoints


def _distributions(scores: list[list[float]]) -> FloatArray:
    """Return the scores as `(N, C)`; C is 0 for an image without detections, whose number of classes is unknown."""
    return np.asarray(scores, np.float32).reshape(len(scores), -1 if scores else 0)
