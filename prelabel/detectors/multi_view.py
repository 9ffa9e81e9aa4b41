"""A detector that shows several views of each image to another detector and merges what that one detects.

image -> views (whole, mirrored, tiles) -> detector -> Detections per view, in the image's frame -> merged -> selected

Tiles need no conversion of their boxes: a view is an array of pixels with a `Frame` that says which part of the
displayed image it shows, and a `FrameDetector` returns boxes and masks in pixels of the displayed image. A mirrored
view is a tile of the mirrored image, whose detections are mirrored back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from prelabel.detections import Detections, ObjectArray
from prelabel.detectors.base import DetectionResult, Frame, FrameDetector, Pixels
from prelabel.frames import oriented_detections
from prelabel.keypoints import KeypointSet
from prelabel.merging.detections import merge_detections
from prelabel.merging.pieces import resolve_pieces
from prelabel.select import Selection
from prelabel.views import FLIP, TILES, WHOLE, ViewOptions, views_of

if TYPE_CHECKING:
    from prelabel.merging.boxes import Method

#: Detections of single views are merged from this score on, whatever the thresholds of the run: what several views see
#: faintly may be seen clearly by all of them together.
LOWEST_SCORE = 0.01

#: The EXIF orientation that mirrors an image.
_MIRRORED = 2


def selection_of_views(selection: Selection) -> Selection:
    """The detections that are kept of a single view; `selection` is applied to the merged ones."""
    return Selection(score_threshold=min(LOWEST_SCORE, selection.lowest_threshold))


class PixelView(NamedTuple):
    """A view as it is shown to the detector.

    Attributes:
        kind: `whole`, `flip` or `tiles`.
        pixels: What the detector sees.
        frame: The displayed image that the pixels belong to; for `flip`, its mirror image.
    """

    kind: str
    pixels: Pixels
    frame: Frame

    @property
    def window(self) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 of the part of the image that the view shows, in pixels of the image."""
        x1, y1, x2, y2 = self.frame.window
        width = self.frame.width
        return (width - x2, y1, width - x1, y2) if self.kind == FLIP else (x1, y1, x2, y2)

    def in_image(self, detections: Detections, keypoints: KeypointSet | None = None) -> Detections:
        """Detections in the view's frame as detections of the image.

        What the detector takes for a left eye in the mirror image is a right eye of the image.

        Args:
            detections: What the detector saw in the view.
            keypoints: Which keypoints they have, if they have some.

        Raises:
            ValueError: The view is mirrored, but which keypoints are left and right is unknown.
        """
        if self.kind != FLIP:
            return detections
        mirrored = oriented_detections(detections, _MIRRORED)
        if mirrored.keypoints is None or not len(mirrored):
            return mirrored
        order = None if keypoints is None else keypoints.mirrored_order
        if order is None or len(order) != mirrored.keypoints.shape[1]:
            raise ValueError("the pairs of left and right keypoints must be known for a mirrored view")
        return replace(mirrored, keypoints=mirrored.keypoints[:, order])


class MultiViewDetector:
    """Implements `prelabel.detectors.base.FrameDetector` with another one that sees several views of each image.

    Args:
        detector: Detects in single views; made with `selection_of_views`.
        options: Which views, and how their detections are merged.
        selection: The merged detections to keep.
        input_size: Pixels of the shorter side of what the detector sees; None if unknown.
        on_views: Called whenever the detector has finished a batch of views, for heartbeats.
        keypoints: The keypoints that the detector returns, or None.
    """

    def __init__(
        self,
        detector: FrameDetector,
        options: ViewOptions,
        selection: Selection,
        input_size: int | None = None,
        on_views: Callable[[], None] = lambda: None,
        keypoints: KeypointSet | None = None,
    ) -> None:
        self._on_views = on_views
        self._keypoints = keypoints
        self._detector = detector
        self._options = options
        self._selection = selection
        self._input_size = input_size

    @property
    def batch_size(self) -> int:
        """1: the views of an image are its batch."""
        return 1

    def detect_in(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        """Detect in all views of each image and merge the results; see `FrameDetector.detect_in`."""
        frames = frames or [Frame.of(pixels) for pixels in images]
        return [self._detect(pixels, frame) for pixels, frame in zip(images, frames, strict=True)]

    def _detect(self, pixels: Pixels, frame: Frame) -> DetectionResult:
        views = pixel_views(pixels, frame, self._options, self._input_size)
        results: list[DetectionResult] = []
        step = self._detector.batch_size
        for batch in (views[start : start + step] for start in range(0, len(views), step)):
            # Copied one batch at a time: other libraries than NumPy do not take mirrored or cropped arrays.
            contiguous = [np.ascontiguousarray(view.pixels) for view in batch]
            results += self._detector.detect_in(contiguous, [view.frame for view in batch])
            self._on_views()
        start = time.perf_counter()
        parts = [
            self._admitted(view.in_image(result.detections, self._keypoints))
            for view, result in zip(views, results, strict=True)
        ]
        detections = parts[0] if len(parts) == 1 else self._merged(views, parts)
        seconds = {stage: sum(result.seconds.get(stage, 0.0) for result in results) for stage in ("detect", "encode")}
        seconds["encode"] += time.perf_counter() - start
        return DetectionResult(
            self._selection.apply(detections),
            seconds=seconds,
            dropped=sum(result.dropped for result in results),
            views=len(views),
        )

    def _merged(self, views: Sequence[PixelView], parts: Sequence[Detections]) -> Detections:
        """The detections of all views as one set of detections of the image, before the selection."""
        weights = self._options.weights
        kinds = [kind for kind in weights if any(view.kind == kind for view in views)]
        pieces = resolve_pieces(parts, [view.window for view in views], names=self._names)
        return merge_detections(
            pieces.parts,
            source=[kinds.index(views[part].kind) for part in pieces.origin],
            weights=[weights[kind] for kind in kinds],
            windows=pieces.windows,
            method=cast("Method", self._options.merge),
            iou=self._options.merge_iou,
            names=self._names,
        )

    def _admitted(self, detections: Detections) -> Detections:
        """The detections of the classes to keep: others must not be merged with them under one mapped label."""
        return detections[self._selection.admitted(detections.label, detections.mid)]

    def _names(self, detections: Detections) -> ObjectArray:
        return self._selection.rename(detections.label, detections.mid)


def pixel_views(pixels: Pixels, frame: Frame, options: ViewOptions, input_size: int | None) -> list[PixelView]:
    """The views of an image as they are shown to a detector.

    Args:
        pixels: The image, which may have been decoded at a reduced size.
        frame: The displayed image that the pixels belong to.
        options: Which views.
        input_size: Pixels of the shorter side of what the detector sees; None if unknown.
    """
    left, top, right, bottom = frame.window
    rows, columns = pixels.shape[:2]
    views = []
    for view in views_of(frame.height, frame.width, options, input_size):
        if view.kind == FLIP:
            mirrored = Frame(frame.height, frame.width, (frame.width - right, top, frame.width - left, bottom))
            views.append(PixelView(FLIP, pixels[:, ::-1], mirrored))
        elif view.kind == TILES:
            # Whole pixels of the array that contain the tile; then the tile is what they show.
            y, x = rows / (bottom - top), columns / (right - left)
            y1, y2 = math.floor((view.y1 - top) * y), math.ceil((view.y2 - top) * y)
            x1, x2 = math.floor((view.x1 - left) * x), math.ceil((view.x2 - left) * x)
            window = (left + round(x1 / x), top + round(y1 / y), left + round(x2 / x), top + round(y2 / y))
            views.append(PixelView(TILES, pixels[y1:y2, x1:x2], Frame(frame.height, frame.width, window)))
        else:
            views.append(PixelView(WHOLE, pixels, frame))
    return views
