"""From what a detector returns for an array to what is kept of the displayed image; every breach of the protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from prelabel.detections import ClassName, Detections
from prelabel.detectors.base import DetectorInfo, Frame, Pixels
from prelabel.detectors.multi_view import MultiViewDetector
from prelabel.detectors.plugins.detector import PluginDetector
from prelabel.errors import DetectorError
from prelabel.keypoints import KeypointSet
from prelabel.masks import rle
from prelabel.select import Selection
from prelabel.views import ViewOptions
from tests.rows import mask_of

PIXELS = np.zeros((4, 6, 3), np.uint8)
CLASSES = (ClassName(1, "cat"), ClassName(2, "dog", "/m/0bt9lr"))
EYES = KeypointSet.named(["left_eye", "right_eye"])


class Returns:
    """A detector that returns the same for every image, or raises it."""

    batch_size = 2

    def __init__(self, *results: Any, **info: Any) -> None:
        self.info = DetectorInfo("returns", **info)
        self.seen: list[Pixels] = []
        self._results = results

    def detect(self, images: Sequence[Pixels]) -> Any:
        self.seen += images
        (result,) = self._results
        if isinstance(result, BaseException):
            raise result
        return result if isinstance(result, list) else [result] * len(images)


def cats(*boxes: Sequence[float], height: int = 4, width: int = 6, **values: Any) -> Detections:
    """Cats with the score 0.9 at these boxes of an image of 4 x 6 pixels."""
    usual: dict[str, Any] = {
        "score": [0.9] * len(boxes),
        "label": ["cat"] * len(boxes),
        "category_id": [1] * len(boxes),
    }
    return Detections.of(height, width, xyxy=boxes, **{**usual, **values})


def detected(
    result: Any, frame: Frame | None = None, selection: Selection | None = None, **info: Any
) -> tuple[Detections, int]:
    """The kept detections of one image, and how many were dropped."""
    adapted = PluginDetector(Returns(result, **info), selection)
    (answer,) = adapted.detect_in([PIXELS], None if frame is None else [frame])
    return answer.detections, answer.dropped


def test_an_array_that_is_the_image_gives_the_same_detections() -> None:
    mask = mask_of("##....", "##....", "......", "......")
    points = [[[1, 1, 0.5], [2, 3, 0.25]]]
    given = cats((0, 0, 2.5, 2), masks=rle.decode(mask, 4, 6)[None], keypoints=points)
    found, dropped = detected(given, masks=True, keypoints=EYES, classes=CLASSES)
    assert dropped == 0
    assert (found.height, found.width) == (4, 6)
    assert found.xyxy.tolist() == [[0, 0, 2.5, 2]]
    assert found.mask is not None
    assert found.mask.tolist() == [mask]
    assert found.keypoints is not None
    assert found.keypoints.tolist() == points
    assert (found.label.tolist(), found.mid.tolist(), found.category_id.tolist()) == (["cat"], [""], [1])


def test_a_reduced_array_gives_detections_of_the_displayed_image() -> None:
    mask = mask_of("##....", "##....", "......", "......")
    given = cats((0, 0, 2, 2), masks=rle.decode(mask, 4, 6)[None], keypoints=[[[1, 2, 0.5], [0, 0, 0]]])
    frame = Frame(8, 12, (0, 0, 12, 8))
    found, _ = detected(given, frame, masks=True, keypoints=EYES)
    assert (found.height, found.width) == (8, 12)
    assert found.xyxy.tolist() == [[0, 0, 4, 4]]
    assert found.keypoints is not None
    assert found.keypoints.tolist() == [[[2, 4, 0.5], [0, 0, 0]]]
    expected = np.zeros((8, 12), bool)
    expected[:4, :4] = True
    assert found.decode_masks().tolist() == [expected.tolist()]


def test_a_tile_gives_detections_at_its_place_and_nothing_beyond_it() -> None:
    # The mask ends at the borders of the tile: nothing is known of the pixels next to it.
    given = cats((4, 2, 7, 4), masks=[np.tri(6, 4, 1, bool)[::-1].T], keypoints=[[[5, 3, 0.5], [0, 1, 0.5]]])
    found, _ = detected(given, Frame(12, 20, (10, 5, 16, 9)), masks=True, keypoints=EYES)
    assert found.xyxy.tolist() == [[14, 7, 17, 9]]
    assert found.keypoints is not None
    assert found.keypoints.tolist() == [[[15, 8, 0.5], [10, 6, 0.5]]]
    expected = np.zeros((12, 20), bool)
    expected[5:9, 10:16] = np.tri(6, 4, 1, bool)[::-1].T
    assert found.decode_masks().tolist() == [expected.tolist()]


def test_boxes_are_clipped_to_the_image_and_not_to_the_array() -> None:
    found, _ = detected(cats((-2, 1, 9, 3)), Frame(4, 10, (0, 0, 6, 4)))
    assert found.xyxy.tolist() == [[0, 1, 9, 3]]


def test_the_detector_gets_contiguous_arrays_that_it_cannot_change() -> None:
    detector = Returns(cats(height=4, width=3))
    PluginDetector(detector).detect_in([PIXELS[:, ::2]])
    (seen,) = detector.seen
    assert seen.flags.c_contiguous
    assert not seen.flags.writeable
    assert PIXELS.flags.writeable


def test_a_batch_is_never_larger_than_the_detector_takes() -> None:
    sizes = [PluginDetector(Returns(cats()), batch_size=size).batch_size for size in (None, 1, 2, 5)]
    assert sizes == [2, 1, 2, 2]


def test_broken_and_empty_detections_are_dropped_and_counted() -> None:
    boxes = [(0, 0, 2, 2), (1, 0, 3, 2), (2, 0, np.nan, 2), (0, 0, 3, 2), (2, 2, 2, 4), (9, 0, 12, 2)]
    found, dropped = detected(cats(*boxes, score=[0.9, 0.8, 0.7, np.inf, 0.6, 0.5]), None, Selection())
    assert found.score.tolist() == pytest.approx([0.9, 0.8])
    assert dropped == 4


def test_what_is_below_the_threshold_is_not_counted_as_dropped() -> None:
    found, dropped = detected(
        cats((0, 0, 2, 2), (np.nan, 0, 2, 2), (2, 2, 2, 2), score=[0.9, 0.1, 0.1]), None, Selection(score_threshold=0.5)
    )
    assert (len(found), dropped) == (1, 0)


def test_the_selection_applies_to_the_displayed_image() -> None:
    given = cats((0, 0, 2, 2), (0, 0, 2, 2), (3, 0, 5, 2), score=[0.5, 0.9, 0.7], label=["cat", "dog", "cat"])
    found, _ = detected(given, None, Selection(nms_iou=0.5, nms_per_class=False, class_map={"dog": "pet"}))
    assert found.label.tolist() == ["pet", "cat"]
    assert found.score.tolist() == pytest.approx([0.9, 0.7])


def test_an_image_without_detections_has_the_columns_of_the_others() -> None:
    found, _ = detected(cats(), masks=True, keypoints=EYES)
    assert found.mask is not None
    assert found.keypoints is not None
    assert (len(found), found.keypoints.shape) == (0, (0, 2, 3))
    found, _ = detected(Detections.empty(4, 6))
    assert (len(found), found.mask, found.keypoints) == (0, None, None)


def test_several_views_are_the_same_for_every_detector() -> None:
    class Reds:
        info = DetectorInfo("reds", masks=True)
        batch_size = 2

        def detect(self, images: Sequence[Pixels]) -> list[Detections]:
            assert len(images) <= 2
            return [self._one(pixels[..., 0] > 0) for pixels in images]

        def _one(self, mask: Any) -> Detections:
            rows, columns = np.nonzero(mask)
            count = bool(len(rows))
            box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if count else []
            return Detections.of(
                *mask.shape, xyxy=box, score=[0.8] * count, label=["red"] * count, masks=[mask] * count
            )

    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[5:20, 70:90, 0] = 200
    for views, count in (("whole,flip", 2), ("whole,flip,tiles", 6), ("tiles", 4)):
        detector = MultiViewDetector(PluginDetector(Reds(), Selection()), ViewOptions(views=views), Selection())
        (result,) = detector.detect_in([pixels])
        assert result.detections.xyxy.tolist() == [[70, 5, 90, 20]], views
        assert result.detections.decode_masks().tolist() == [(pixels[..., 0] > 0).tolist()], views
        assert result.views == count
        assert result.detections.label.tolist() == ["red"]


GOOD = cats((0, 0, 2, 2))
BREACHES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nothing": (None, {}, "detect must return prelabel.Detections, got None"),
    "a dict": ({"boxes": []}, {}, "Detections, got dict"),
    "too few": ([], {}, r"list with one Detections per image: 1, got 0"),
    "too many": ([GOOD, GOOD], {}, "one Detections per image: 1, got 2"),
    "another size": (cats((0, 0, 2, 2), height=6, width=4), {}, "4 x 6, got 6 x 4"),
    "normalized": (cats((0.1, 0.2, 0.5, 0.9)), {}, r"0\.9 and look normalized.*pixels.*4 x 6"),
    "reversed": (cats((4, 2, 2, 1)), {}, r"1 of 1 boxes end before they begin.*4, 2, 2, 1.*x1 y1 x2 y2"),
    "outside": (cats((40, 2, 50, 3), (60, 2, 70, 3)), {}, r"2 of 2 boxes .* outside.*40, 2, 50, 3.*4 x 6"),
    "not finite": (cats((0, np.nan, 2, 2)), {}, "1 of 1 detections .* not finite"),
    "percent": (cats((0, 0, 2, 2), score=[93]), {}, r"0\.\.1, got 93 to 93"),
    "two-dimensional scores": (cats((0, 0, 2, 2), score=[[0.9]]), {}, r"score must have shape \(1,\)"),
    "a number as label": (cats((0, 0, 2, 2), label=[3]), {}, r"label must be strings, got 3 \(int\)"),
    "an empty label": (cats((0, 0, 2, 2), label=[""]), {}, "needs a label"),
    "a negative number": (cats((0, 0, 2, 2), category_id=[-1]), {}, "at least 0, got -1"),
    "an unknown class": (
        cats((0, 0, 2, 2), category_id=[7]),
        {"classes": CLASSES},
        "class 7 'cat' is not in info.classes, which has 1 'cat'",
    ),
    "another MID": (
        cats((0, 0, 2, 2), label=["dog"], category_id=[2]),
        {"classes": CLASSES},
        "class 2 'dog' is not in info.classes, which has 2 'dog' with the MID /m/0bt9lr",
    ),
    "no masks": (GOOD, {"masks": True}, "info.masks says that it returns masks, but"),
    "masks": (cats((0, 0, 2, 2), masks=[np.ones((4, 6))]), {}, "info.masks says that it returns no masks"),
    "pixels as masks": (
        Detections(4, 6, [[0, 0, 2, 2]], [1], [0.9], ["cat"], [""], mask=[np.ones((4, 6))]),  # type: ignore[arg-type]
        {"masks": True},
        r"COCO compressed counts \(str\).*Detections.of.*got ndarray",
    ),
    "a mask of another size": (
        Detections(4, 6, [[0, 0, 2, 2]], [1], [0.9], ["cat"], [""], mask=[mask_of("#.")]),  # type: ignore[arg-type]
        {"masks": True},
        "mask is not one of 4 x 6 pixels",
    ),
    "no keypoints": (GOOD, {"keypoints": EYES}, "2 keypoints, but Detections have none"),
    "keypoints": (cats((0, 0, 2, 2), keypoints=np.zeros((1, 3, 3))), {}, "no keypoints, but Detections have 3"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_of_the_protocol_is_told_in_one_line_with_what_is_right(name: str) -> None:
    result, info, message = BREACHES[name]
    with pytest.raises(DetectorError) as caught:
        detected(result, **info)
    text = str(caught.value)
    assert re.search(message, text), text
    assert text.startswith("returns")
    assert "\n" not in text
    assert len(text) < 250


def test_boxes_that_only_may_be_wrong_are_kept() -> None:
    assert len(detected(cats((0, 0, 1, 1)))[0]) == 1  # the first pixel, not the whole image
    assert len(detected(cats((0, 0, 2, 2), (4, 2, 2, 1), score=[0.9, 0.2]))[0]) == 1
    assert len(detected(cats((0, 0, 2, 2), (40, 2, 50, 3)))[0]) == 1


def test_broken_detections_below_the_decisive_score_do_not_make_an_image_fail() -> None:
    result = cats((0, 0, 2, 2), (np.nan, 0, 2, 2), (np.nan, 0, 2, 2), score=[0.9, 0.02, 0.02])
    lenient = Selection(score_threshold=0.01)
    with pytest.raises(DetectorError, match="2 of 3"):
        PluginDetector(Returns(result), lenient).detect_in([PIXELS])
    (kept,) = PluginDetector(Returns(result), lenient, decisive_score=0.05).detect_in([PIXELS])
    assert (len(kept.detections), kept.dropped) == (1, 2)


def test_errors_of_the_detector_are_its_own_and_never_end_the_process() -> None:
    with pytest.raises(ZeroDivisionError, match="by hand"):
        PluginDetector(Returns(ZeroDivisionError("by hand"))).detect_in([PIXELS])
    with pytest.raises(DetectorError, match="returns ended the process: SystemExit: 3"):
        PluginDetector(Returns(SystemExit(3))).detect_in([PIXELS])


def test_a_detector_that_never_works_is_refused_before_the_run() -> None:
    PluginDetector(Returns(cats((0, 0, 2, 2), height=480, width=640))).warm_up()
    with pytest.raises(
        DetectorError, match="returns fails on a gray image of 480 x 640 pixels: ValueError: no weights"
    ):
        PluginDetector(Returns(ValueError("no weights"))).warm_up()
    with pytest.raises(DetectorError, match="480 x 640, got 4 x 6"):
        PluginDetector(Returns(GOOD)).warm_up()
