"""Several views of an image: what they show, and that boxes and masks come back into the image's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from prelabel.detections import Detections
from prelabel.detectors.base import DetectionResult, DetectorRecord, Frame, Pixels
from prelabel.detectors.multi_view import MultiViewDetector, pixel_views, selection_of_views
from prelabel.keypoints import KeypointSet
from prelabel.masks import rle
from prelabel.select import Selection
from prelabel.views import ViewOptions

INFO = DetectorRecord("rectangles", "rectangles", "0" * 64, "rectangles-1", "one rectangle per color", masks=True)


class Rectangles:
    """Detects each color except black: its bounding box and its pixels; the red value is the class and the score."""

    info = INFO

    def __init__(self, batch_size: int = 1, scores: Sequence[float] = (0.8,)) -> None:
        self.batch_size = batch_size
        self.seen: list[tuple[int, int]] = []
        self._scores = list(scores)

    def detect_in(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        assert len(images) <= self.batch_size
        assert frames is not None
        return [self._detect(pixels, frame) for pixels, frame in zip(images, frames, strict=True)]

    def _detect(self, pixels: Pixels, frame: Frame) -> DetectionResult:
        assert pixels.flags.c_contiguous
        self.seen.append((pixels.shape[0], pixels.shape[1]))
        left, top, right, bottom = frame.window
        y_scale, x_scale = (bottom - top) / pixels.shape[0], (right - left) / pixels.shape[1]
        colors = [int(color) for color in np.unique(pixels[..., 0]) if color]
        boxes, masks = [], []
        for color in colors:
            rows, columns = np.nonzero(pixels[..., 0] == color)
            x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            box = [left + x1 * x_scale, top + y1 * y_scale, left + x2 * x_scale, top + y2 * y_scale]
            boxes.append(box)
            mask = np.zeros((frame.height, frame.width), bool)
            mask[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])] = True
            masks.append(rle.encode(mask))
        score = self._scores.pop(0) if len(self._scores) > 1 else self._scores[0]
        names = [f"color {color}" for color in colors]
        detections = Detections(
            height=frame.height,
            width=frame.width,
            xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            category_id=np.array(colors, np.int32),
            score=np.full(len(colors), score, np.float32),
            label=np.array(names, object),
            mid=np.array([""] * len(colors), object),
            mask=np.array(masks, object),
        )
        return DetectionResult(detections, seconds={"detect": 1.0, "encode": 0.5}, dropped=1)


def image_with(height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> Pixels:
    """A black image with rectangles x1 y1 x2 y2 of a red value."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2, color in boxes:
        pixels[y1:y2, x1:x2, 0] = color
    return pixels


def mask_of(detections: Detections, number: int) -> npt.NDArray[np.bool_]:
    return detections.decode_masks()[number]


def test_a_box_and_its_mask_come_back_from_all_views_to_the_same_place():
    pixels = image_with(60, 100, (70, 5, 90, 20, 50))
    detector = Rectangles()
    (result,) = MultiViewDetector(detector, ViewOptions(views="whole,flip,tiles"), Selection()).detect_in([pixels])
    assert detector.seen == [(60, 100), (60, 100), (36, 60), (36, 60), (36, 60), (36, 60)]
    detections = result.detections
    assert detections.xyxy.tolist() == [[70, 5, 90, 20]]
    assert mask_of(detections, 0).tolist() == (pixels[..., 0] > 0).tolist()
    assert detections.views is not None
    assert detections.views.tolist() == [3]  # whole, mirrored, and the upper right tile
    assert (result.views, result.dropped) == (6, 6)
    assert result.seconds["detect"] == 6.0


class Eyes(Rectangles):
    """Detects the two brightest spots of a rectangle: it takes the one farther left for the left eye."""

    def _detect(self, pixels: Pixels, frame: Frame) -> DetectionResult:
        result = super()._detect(pixels, frame)
        left, top, right, bottom = frame.window
        y_scale, x_scale = (bottom - top) / pixels.shape[0], (right - left) / pixels.shape[1]
        spots = np.argwhere(pixels[..., 1]) + 0.5
        points = [(left + x * x_scale, top + y * y_scale, 0.5) for y, x in sorted(spots.tolist(), key=lambda s: s[1])]
        keypoints = [[(0, 0, 0), *points]] if len(points) == 2 else [[(0, 0, 0)] * 3]
        detections = result.detections
        return replace(result, detections=replace(detections, keypoints=keypoints[: len(detections)]))


NOSE_AND_EYES = KeypointSet.named(["nose", "left_eye", "right_eye"])


@pytest.mark.parametrize("views", ["flip", "whole,flip", "tiles", "whole,flip,tiles"])
def test_keypoints_come_back_from_all_views_to_the_same_place(views: str):
    pixels = image_with(60, 100, (70, 5, 90, 20, 50))
    pixels[8, 74, 1] = pixels[10, 85, 1] = 255
    detector = MultiViewDetector(Eyes(), ViewOptions(views=views), Selection(), keypoints=NOSE_AND_EYES)
    (result,) = detector.detect_in([pixels])
    # In the mirror image the detector calls the spot at 85 the left eye, so it is the right eye of the image.
    assert result.detections.keypoints is not None
    assert result.detections.keypoints[0] == pytest.approx(np.array([[0, 0, 0], [74.5, 8.5, 0.5], [85.5, 10.5, 0.5]]))


def test_a_mirrored_view_needs_the_pairs_of_left_and_right():
    pixels = image_with(60, 100, (70, 5, 90, 20, 50))
    views = ViewOptions(views="whole,flip")
    for keypoints in (None, KeypointSet.unnamed(3), KeypointSet(("a",), pairs=())):
        with pytest.raises(ValueError, match="left and right"):
            MultiViewDetector(Eyes(), views, Selection(), keypoints=keypoints).detect_in([pixels])


def test_what_one_of_three_kinds_of_views_sees_gets_the_share_of_its_weight():
    pixels = image_with(60, 100, (70, 5, 90, 20, 50))
    detector = Rectangles(scores=[0.9, 0.0, 0.0, 0.5, 0.0, 0.0])
    (result,) = MultiViewDetector(detector, ViewOptions(views="whole,flip,tiles"), Selection()).detect_in([pixels])
    # Weights 2, 2, 1: seen whole with 0.9, in the second tile with 0.5, and (almost) not at all in the mirror image.
    assert result.detections.score.tolist() == pytest.approx([(2 * 0.9 + 0.5) / 5], abs=1e-6)


def test_the_selection_applies_to_merged_detections():
    pixels = image_with(60, 100, (70, 5, 90, 20, 50), (10, 30, 20, 50, 80))
    selection = Selection(
        score_threshold=0.3, class_threshold={"color 50": 0.9}, class_map={"color 80": "dark red"}, max_detections=5
    )
    (result,) = MultiViewDetector(Rectangles(scores=[0.4]), ViewOptions(views="whole,flip"), selection).detect_in(
        [pixels]
    )
    assert result.detections.label.tolist() == ["dark red"]
    assert selection_of_views(selection).score_threshold == pytest.approx(0.01)
    assert not selection_of_views(selection).class_map


def test_the_tiles_of_auto_have_more_weight_than_the_whole_image():
    pixels = image_with(60, 100, (70, 5, 90, 20, 50))
    options = ViewOptions(views="auto", tile_size="59")
    detector = Rectangles(scores=[0.3, 0.0, 0.9, 0.0, 0.0])
    (result,) = MultiViewDetector(detector, options, Selection()).detect_in([pixels])
    assert result.views == 5
    assert result.detections.score.tolist() == pytest.approx([(0.3 + 2 * 0.9) / 3], abs=1e-6)


def test_an_object_that_no_tile_shows_whole_is_seen_by_tiles_in_pieces():
    pixels = image_with(60, 100, (5, 5, 95, 55, 50))
    detector = Rectangles(scores=[0.6, 0.8, 0.9, 0.8, 0.7])
    (result,) = MultiViewDetector(detector, ViewOptions(views="auto", tile_size="59"), Selection()).detect_in([pixels])
    # Weights 1 and 2: whole with 0.6, and its best piece with 0.9.
    assert result.detections.xyxy.tolist() == [[5, 5, 95, 55]]
    assert result.detections.score.tolist() == pytest.approx([(0.6 + 2 * 0.9) / 3], abs=1e-6)
    assert result.detections.views.tolist() == [5]
    assert mask_of(result.detections, 0).tolist() == (pixels[..., 0] > 0).tolist()


def test_excluded_classes_take_no_part_in_merging():
    pixels = image_with(60, 100, (10, 10, 50, 50, 50), (10, 10, 50, 49, 80))
    selection = Selection(exclude_class=("color 50",), class_map={"color 50": "red", "color 80": "red"})
    (result,) = MultiViewDetector(Rectangles(), ViewOptions(views="whole,flip"), selection).detect_in([pixels])
    assert result.detections.category_id.tolist() == [80]
    assert result.detections.xyxy.tolist() == [[10, 10, 50, 49]]


def test_classes_that_the_class_map_joins_are_merged():
    pixels = image_with(60, 100, (10, 10, 50, 50, 50))

    class TwoNames(Rectangles):
        def _detect(self, pixels: Pixels, frame: Frame) -> DetectionResult:
            result = super()._detect(pixels, frame)
            result.detections.label[:] = "Cat" if len(self.seen) == 1 else "Dog"
            return result

    options = ViewOptions(views="whole,flip")
    (separate,) = MultiViewDetector(TwoNames(), options, Selection()).detect_in([pixels])
    assert sorted(separate.detections.label) == ["Cat", "Dog"]
    joined = Selection(class_map={"Cat": "pet", "Dog": "pet"})
    (result,) = MultiViewDetector(TwoNames(), options, joined).detect_in([pixels])
    assert result.detections.label.tolist() == ["pet"]
    assert result.detections.score.tolist() == pytest.approx([0.8])


@pytest.mark.parametrize("views", ["whole", "whole,tiles", "tiles"])
def test_an_object_across_the_border_of_tiles_is_one_detection(views: str):
    pixels = image_with(60, 100, (30, 20, 75, 45, 50))
    (result,) = MultiViewDetector(Rectangles(), ViewOptions(views=views), Selection()).detect_in([pixels])
    assert result.detections.xyxy.tolist() == [[30, 20, 75, 45]]
    assert mask_of(result.detections, 0).tolist() == (pixels[..., 0] > 0).tolist()


def test_an_image_decoded_at_a_quarter_of_its_size_is_cut_where_the_full_one_would_be():
    # 242 x 402 pixels at 1/4: 61 x 101, whose window exceeds the image by two pixels.
    frame = Frame(242, 402, (0, 0, 404, 244))
    pixels = image_with(61, 101, (70, 5, 90, 20, 50))
    views = pixel_views(pixels, frame, ViewOptions(views="whole,flip,tiles"), None)
    assert views[1].frame.window == (-2, 0, 402, 244)
    assert views[1].window == views[0].window == (0, 0, 404, 244)
    for view in views[2:]:
        assert view.window == view.frame.window
        x1, y1, x2, y2 = view.frame.window
        assert view.pixels.shape[:2] == ((y2 - y1) / 4, (x2 - x1) / 4)
    (result,) = MultiViewDetector(Rectangles(), ViewOptions(views="whole,flip,tiles"), Selection()).detect_in(
        [pixels], [frame]
    )
    assert result.detections.xyxy.tolist() == [[280, 20, 360, 80]]


def test_views_of_one_image_are_a_batch_and_each_batch_is_a_heartbeat():
    seen: list[int] = []
    detector = Rectangles(batch_size=4)
    views = MultiViewDetector(
        detector,
        ViewOptions(views="whole,flip,tiles"),
        Selection(),
        on_views=lambda: seen.append(len(detector.seen)),
    )
    assert views.batch_size == 1
    views.detect_in([image_with(60, 100), image_with(60, 100)])
    assert seen == [4, 6, 10, 12]
