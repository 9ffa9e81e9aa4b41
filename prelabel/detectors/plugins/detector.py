"""From a `Detector`, which knows only arrays of pixels, to a `FrameDetector`: checked, converted, selected.

    array --detect--> Detections of the array --check--> valid ones --convert--> of the displayed image --select--> kept

The rules are those for SavedModels (`detectors/running/postprocess.py`): single detections with numbers that are not
finite or boxes without size inside the image are dropped and counted; an image fails if the detector breaks the
protocol, or if most of its detections are broken, since they then mean something else.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName, Detections, FloatArray, ObjectArray, as_objects
from prelabel.detectors.base import DetectionResult, Detector, DetectorInfo, Frame, Pixels
from prelabel.detectors.checks import check_scores, reversed_corners
from prelabel.errors import DetectorError, StoreError
from prelabel.masks import rle
from prelabel.masks.paste import whole_image_masks
from prelabel.select import Selection
from prelabel.storage.address import describe

#: Boxes may end before they begin by a rounding error of this many pixels.
_EDGE_ROUNDING = 1e-2

Floats = npt.NDArray[np.float64]


class PluginDetector:
    """Implements `prelabel.detectors.base.FrameDetector` with a `Detector`.

    Args:
        detector: Any detector.
        selection: The detections to keep.
        decisive_score: Detections below this score are dropped if they are broken, but do not make an image fail.
        batch_size: The largest number of images per call, at most that of the detector, which is the default.

    Raises:
        DetectorError: The detector breaks the protocol. Other errors are those of the detector.
    """

    def __init__(
        self,
        detector: Detector,
        selection: Selection | None = None,
        *,
        decisive_score: float = 0.0,
        batch_size: int | None = None,
    ) -> None:
        self._detector = detector
        self._info = detector.info
        self._known = None if self._info.classes is None else dict.fromkeys(self._info.classes)
        self._selection = selection or Selection()
        self._decisive_score = decisive_score
        self.batch_size = min(int(detector.batch_size), batch_size or int(detector.batch_size))

    def detect_in(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        """Detect objects in up to `batch_size` images; see `FrameDetector.detect_in`."""
        frames = frames or [Frame.of(pixels) for pixels in images]
        start = time.perf_counter()
        try:
            answer: Any = self._detector.detect([_read_only(pixels) for pixels in images])
        except SystemExit as error:
            # It would end this thread, and the run would wait for its result.
            raise DetectorError(f"{self._info.name} ended the process: {describe(error)}") from error
        seconds = (time.perf_counter() - start) / max(1, len(images))
        if not isinstance(answer, list | tuple) or len(answer) != len(images):
            given = f"{len(answer)}" if isinstance(answer, list | tuple) else _kind_of(answer)
            raise DetectorError(
                f"{self._info.name}.detect must return a list with one Detections per image: {len(images)}, got {given}"
            )
        return [
            self._result(detections, pixels, frame, seconds)
            for detections, pixels, frame in zip(answer, images, frames, strict=True)
        ]

    def warm_up(self, height: int = 480, width: int = 640) -> None:
        """Detect once in a gray image, so that a detector that never works is refused before the run begins.

        Raises:
            DetectorError: The detector fails, or breaks the protocol.
        """
        try:
            self.detect_in([np.full((height, width, 3), 128, np.uint8)])
        except DetectorError:
            raise
        except Exception as error:
            raise DetectorError(
                f"{self._info.name} fails on a gray image of {height} x {width} pixels: {describe(error)}"
            ) from error

    def _result(self, answer: object, pixels: Pixels, frame: Frame, seconds: float) -> DetectionResult:
        start = time.perf_counter()
        try:
            height, width = pixels.shape[:2]
            detections = _checked_types(answer, height, width, self._info, self._known)
            result = self._kept(detections, frame)
        except DetectorError as error:
            raise DetectorError(f"{self._info.name}: {error}") from None
        return replace(result, seconds={"detect": seconds, "encode": time.perf_counter() - start})

    def _kept(self, detections: Detections, frame: Frame) -> DetectionResult:
        """The detections of an array as those of the displayed image that are kept."""
        selection = self._selection
        score = detections.score
        above = ~np.isfinite(score) | (score >= np.float32(selection.lowest_threshold))
        finite = np.isfinite(score) & np.isfinite(detections.xyxy).all(axis=1)
        decisive = above & (~np.isfinite(score) | (score >= np.float32(self._decisive_score)))
        broken = int(np.count_nonzero(above & ~finite))
        if 2 * np.count_nonzero(decisive & ~finite) > np.count_nonzero(decisive):
            raise DetectorError(
                f"{broken} of {np.count_nonzero(above)} detections have a box or score with numbers that are not finite"
            )
        check_scores(score[finite], "scores")
        _check_boxes(detections.xyxy[finite & decisive], score[finite & decisive], detections.height, detections.width)
        xyxy = _boxes_in_frame(detections.xyxy, detections.height, detections.width, frame)
        inside = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        lost = int(np.count_nonzero(above & finite & ~inside))
        usable = np.flatnonzero(finite & inside)
        score = np.clip(score, 0, 1)
        chosen = usable[
            selection.indices(score[usable], detections.label[usable], detections.mid[usable], xyxy[usable])
        ]
        masks = None
        if detections.mask is not None:
            masks = as_objects(
                [_mask_in_frame(detections.mask[n], detections.height, detections.width, frame) for n in chosen]
            )
        label, mid = selection.rename_classes(detections.label[chosen], detections.mid[chosen])
        kept = Detections(
            height=frame.height,
            width=frame.width,
            xyxy=xyxy[chosen],
            category_id=detections.category_id[chosen],
            score=score[chosen],
            label=label,
            mid=mid,
            mask=masks,
            keypoints=self._keypoints(detections, chosen, frame),
        )
        return DetectionResult(kept, dropped=broken + lost)

    def _keypoints(self, detections: Detections, chosen: npt.NDArray[np.intp], frame: Frame) -> FloatArray | None:
        """`(N, K, 3)` the keypoints of the chosen detections in the displayed image."""
        if self._info.keypoints is None:
            return None
        if detections.keypoints is None or not len(chosen):
            return np.empty((0, len(self._info.keypoints), 3), np.float32)
        points, scale, start = detections.keypoints[chosen], *_scale_of(detections.height, detections.width, frame)
        placed: FloatArray = np.concatenate((points[..., :2] * scale + start, points[..., 2:]), axis=2)
        return placed


def _read_only(pixels: Pixels) -> Pixels:
    """The same array, contiguous, which cannot be changed: other views of the image share its memory."""
    view = np.ascontiguousarray(pixels).view()
    view.flags.writeable = False
    return view


def _kind_of(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _checked_types(
    answer: object, height: int, width: int, info: DetectorInfo, known: Collection[ClassName] | None
) -> Detections:
    """The detections of an array of this size, whose classes and masks are as the detector says. Numbers may be wrong.

    Raises:
        DetectorError: They are not; the message says what would be right.
    """
    if not isinstance(answer, Detections):
        raise DetectorError(f"detect must return prelabel.Detections, got {_kind_of(answer)}")
    detections = answer
    if (detections.height, detections.width) != (height, width):
        raise DetectorError(
            f"height and width of Detections must be those of the array, {height} x {width}, got {detections.height} x "
            f"{detections.width}"
        )
    for name in ("score", "category_id"):
        if (shape := getattr(detections, name).shape) != (len(detections),):
            raise DetectorError(f"{name} must have shape ({len(detections)},) like xyxy, got {shape}")
    labels, mids = (_texts(getattr(detections, name), name) for name in ("label", "mid"))
    if not all(labels):
        raise DetectorError("every detection needs a label, got ''")
    if (detections.category_id < 0).any():
        raise DetectorError(f"category_id must be at least 0, got {detections.category_id.min()}")
    if known is not None:
        for number, label, mid in zip(detections.category_id.tolist(), labels, mids, strict=True):
            if ClassName(number, label, mid) not in known:
                raise DetectorError(_unknown_class(number, label, mid, known))
    masks = detections.mask
    if info.masks and masks is None:
        if len(detections):
            raise DetectorError("info.masks says that it returns masks, but Detections have none")
        masks = as_objects([])
    _check_keypoints(detections, info)
    if masks is not None:
        if not info.masks:
            raise DetectorError("info.masks says that it returns no masks, but Detections have some: set it to True")
        for counts in masks:
            if not isinstance(counts, str):
                raise DetectorError(
                    f"a mask must be COCO compressed counts (str), as Detections.of makes them, got {_kind_of(counts)}"
                )
    return replace(detections, label=labels, mid=mids, mask=masks, multiclass_score=None, views=None)


def _check_keypoints(detections: Detections, info: DetectorInfo) -> None:
    expected = None if info.keypoints is None else len(info.keypoints)
    given = None if detections.keypoints is None else detections.keypoints.shape[1]
    # Without detections, an array of keypoints has no certain shape.
    if given != expected and (len(detections) or expected is None):
        raise DetectorError(
            f"info.keypoints says that each detection has {expected or 'no'} keypoints, but Detections have "
            f"{given or 'none'}"
        )


def _texts(values: ObjectArray, name: str) -> ObjectArray:
    """Texts as `str`: libraries have types of their own, which Parquet does not take."""
    for value in values:
        if not isinstance(value, str):
            raise DetectorError(f"{name} must be strings, got {value!r} ({_kind_of(value)})")
    return as_objects([str(value) for value in values])


def _unknown_class(number: int, label: str, mid: str, classes: Collection[ClassName]) -> str:
    given = f"{number} {label!r}" + (f" with the MID {mid}" if mid else "")
    near = next((known for known in classes if known.name == label), None) or next(
        (known for known in classes if known.id == number), None
    )
    right = ""
    if near is not None:
        right = f", which has {near.id} {near.name!r}" + (f" with the MID {near.mid}" if near.mid else "")
    return f"class {given} is not in info.classes{right}"


def _check_boxes(xyxy: FloatArray, score: FloatArray, height: int, width: int) -> None:
    """Check that boxes are x1 y1 x2 y2 in pixels of the array: no other order, and not normalized."""
    if not len(xyxy):
        return
    must = f"boxes must be x1 y1 x2 y2 in pixels of the array, which has {height} x {width} (height x width)"
    is_within = xyxy.min() >= 0 and xyxy.max() <= 1
    if is_within and (xyxy != np.rint(xyxy)).any():
        raise DetectorError(f"the boxes have values of 0 to {xyxy.max():g} and look normalized: {must}")
    backward = reversed_corners(xyxy, score, _EDGE_ROUNDING)
    if backward is not None:
        box = ", ".join(f"{value:g}" for value in xyxy[np.flatnonzero(backward)[0]])
        raise DetectorError(
            f"{np.count_nonzero(backward)} of {len(xyxy)} boxes end before they begin ([{box}]): {must}"
        )
    clipped = np.clip(xyxy, 0, [width, height, width, height])
    outside = ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    if np.count_nonzero(outside) > 1 and 2 * np.count_nonzero(outside) > len(xyxy):
        box = ", ".join(f"{value:g}" for value in xyxy[np.flatnonzero(outside)[0]])
        raise DetectorError(
            f"{np.count_nonzero(outside)} of {len(xyxy)} boxes have no size or lie outside of the array ([{box}]): "
            f"{must}"
        )


def _boxes_in_frame(xyxy: FloatArray, height: int, width: int, frame: Frame) -> FloatArray:
    """`(N, 4)` boxes of an array as boxes of the displayed image, clipped to it."""
    scale, start = _scale_of(height, width, frame)
    with np.errstate(invalid="ignore"):  # numbers that are not finite stay so
        boxes = xyxy * np.tile(scale, 2) + np.tile(start, 2)
    limits = np.array([frame.width, frame.height] * 2)
    clipped: FloatArray = np.clip(boxes, 0, limits).astype(np.float32)
    return clipped


def _scale_of(height: int, width: int, frame: Frame) -> tuple[Floats, Floats]:
    """The x y factor, and the x y of the upper left corner, that turn points of an array into points of the image."""
    left, top, right, bottom = frame.window
    return np.array([(right - left) / width, (bottom - top) / height]), np.array([left, top], np.float64)


def _mask_in_frame(counts: str, height: int, width: int, frame: Frame) -> str:
    """A mask of an array as a mask of the displayed image."""
    try:
        if (frame.window, frame.height, frame.width) == ((0, 0, width, height), height, width):
            rle.validate(counts, height, width)
            return counts
        mask = rle.decode(counts, height, width).astype(np.float32)
    except StoreError as error:
        raise DetectorError(f"a mask is not one of {height} x {width} pixels: {error}") from None
    return whole_image_masks(mask[None], frame.window, frame.height, frame.width)[0]
