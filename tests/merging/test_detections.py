"""Merging the detections of several looks: labels, masks, numbers of views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from prelabel.detections import Detections
from prelabel.merging.boxes import METHODS, Method
from prelabel.merging.detections import merge_detections
from tests.rows import found, mask_of, row


def look(*detections: dict[str, Any], multiclass: Sequence[Sequence[float]] | None = None) -> Detections:
    detections_of_image = row("a.jpg", *detections).detections
    scores = None if multiclass is None else np.array(multiclass, np.float32)
    return Detections(
        **{
            name: getattr(detections_of_image, name)
            for name in ("height", "width", "xyxy", "category_id", "score", "label", "mid", "mask", "keypoints")
        },
        multiclass_score=scores,
    )


def merged(*parts: Detections, method: Method = "wbf", **arguments: Any) -> Detections:
    whole = [[0, 0, 6, 4]] * len(parts)
    defaults: dict[str, Any] = {"source": range(len(parts)), "weights": [1.0] * len(parts), "windows": whole}
    return merge_detections(parts, method=method, iou=0.5, **{**defaults, **arguments})


LEFT, MORE, LESS = mask_of(*["###..."] * 4), mask_of(*["####.."] * 4), mask_of(*["##...."] * 4)


def test_looks_that_agree_become_one_detection_with_the_mask_they_vote_for():
    other = found("Cat", 0.2, category_id=2, mid="/m/01yrx", mask=LESS)
    result = merged(
        look(found(score=0.9, mask=LEFT)),
        look(found(score=0.6, xyxy=(0, 0, 4, 4), mask=MORE)),
        look(found(score=0.3, xyxy=(0, 0, 2, 4), mask=LESS), other),
    )
    dog, cat = result[:1], result[1:]
    assert (dog.label.tolist(), dog.category_id.tolist(), dog.mid.tolist()) == (["Dog"], [1], ["/m/0bt9lr"])
    assert dog.score == pytest.approx([0.6])
    assert dog.xyxy == pytest.approx(np.array([[0, 0, (3 * 0.9 + 4 * 0.6 + 2 * 0.3) / 1.8, 4]]))
    assert dog.mask is not None
    assert dog.mask.tolist() == [LEFT]
    assert (cat.label.tolist(), cat.score) == (["Cat"], pytest.approx([0.2 / 3]))
    assert result.views is not None
    assert (result.views.tolist(), result.views.dtype) == ([3, 1], np.int32)
    assert (result.height, result.width) == (4, 6)


def test_masks_of_suppression_and_merging():
    parts = look(found(score=0.5, mask=LEFT)), look(found(score=0.9, xyxy=(0, 0, 4, 4), mask=MORE))
    for method, mask in (("nms", MORE), ("nmm", MORE)):
        detections = merged(*parts, method=method)
        assert (detections.mask.tolist(), detections.score.tolist()) == ([mask], [np.float32(0.9)])
    # The stronger look saw only the left half of the box.
    parts = look(found(score=0.9, mask=LESS)), look(found(score=0.5, mask=LEFT))
    windows = [[0, 0, 2, 4], [0, 0, 6, 4]]
    assert merged(*parts, method="nms", windows=windows).mask.tolist() == [LEFT]
    assert merged(*parts, method="nms", windows=windows[:1] * 2).mask.tolist() == [LESS]
    parts = look(found(mask=mask_of(*["#....."] * 4))), look(found(score=0.8, mask=mask_of(*["..#..."] * 4)))
    assert merged(*parts, method="nmm").mask.tolist() == [mask_of(*["#.#..."] * 4)]


def test_keypoints_are_averaged_taken_whole_or_taken_one_by_one():
    # The box has an area of 16 pixels, so points agree within 0.4 pixels.
    parts = (
        look(found(score=0.9, xyxy=(0, 0, 4, 4), keypoints=[(1, 1, 0.5), (0, 0, 0), (3, 3, 0.2)])),
        look(found(score=0.6, xyxy=(0, 0, 4, 4), keypoints=[(1.3, 1, 0.25), (2, 2, 0.4), (1, 1, 0.9)])),
    )
    wbf = merged(*parts).keypoints
    assert wbf is not None
    assert wbf[0] == pytest.approx(np.array([[1.1, 1, 1.25 / 3], [2, 2, 0.4], [1, 1, 0.9]]))
    nms, nmm = (merged(*parts, method=method).keypoints for method in ("nms", "nmm"))
    assert nms is not None
    assert nmm is not None
    assert nms[0] == pytest.approx(np.array([[1, 1, 0.5], [0, 0, 0], [3, 3, 0.2]]))
    assert nmm[0] == pytest.approx(np.array([[1, 1, 0.5], [2, 2, 0.4], [1, 1, 0.9]]))


def test_the_weight_of_a_look_counts_for_its_keypoints():
    parts = look(found(score=0.5, keypoints=[(1, 1, 0.5)])), look(found(score=0.5, keypoints=[(1.3, 1, 0.5)]))
    result = merged(*parts, weights=[2.0, 1.0])
    assert result.keypoints is not None
    assert result.keypoints[0] == pytest.approx(np.array([[1.1, 1, 0.5]]))


@pytest.mark.parametrize("method", METHODS)
def test_looks_without_keypoints_change_none(method: Method):
    point = [(1.0, 2.0, 0.5)]
    parts = look(found(score=0.9)), look(found(score=0.6, keypoints=point)), look()
    result = merged(*parts, method=method)
    assert result.keypoints is not None
    assert result.keypoints.tolist() == [[list(point[0])]]
    assert merged(look(found()), look(found())).keypoints is None


def test_different_numbers_of_keypoints_cannot_be_merged():
    parts = look(found(keypoints=[(1, 1, 1)])), look(found(keypoints=[(1, 1, 1)] * 2))
    with pytest.raises(ValueError, match="keypoints"):
        merged(*parts)


def test_views_count_looks_and_not_detections_or_sources():
    twice = look(found(score=0.9), found(score=0.8))
    assert merged(twice, look(found(score=0.7)), source=[0, 0], weights=[1.0]).views.tolist() == [2]


def test_a_tile_has_no_vote_outside_its_window():
    whole = look(found(score=0.9, mask=MORE))
    tile = look(found(score=0.8, xyxy=(0, 0, 2, 4), mask=LESS))
    again = look(found(score=0.7, xyxy=(0, 0, 3, 4), mask=LESS))
    windows = [[0, 0, 6, 4], [0, 0, 2, 4], [0, 0, 6, 4]]
    arguments = {"iou": 0.3, "source": [0, 1, 1], "weights": [1.0, 1.0], "method": "wbf"}
    assert merge_detections([whole, tile, again], windows=windows, **arguments).mask.tolist() == [MORE]
    windows[1] = windows[0]
    assert merge_detections([whole, tile, again], windows=windows, **arguments).mask.tolist() == [LESS]


@pytest.mark.parametrize("method", METHODS)
def test_detections_without_masks_have_no_vote(method: Method):
    box, masked = look(found(score=0.9)), look(found(score=0.8, mask=LEFT), found("Cat", mask=LESS))
    result = merged(box, masked, look(found("Bird", 0.1)), method=method)
    masks = dict(zip(result.label.tolist(), result.mask.tolist(), strict=True))
    assert masks == {"Dog": LEFT, "Cat": LESS, "Bird": None}
    assert merged(box, box, method=method).mask is None


def test_the_strongest_member_gives_class_number_and_scores_of_all_classes():
    weak = look(found(score=0.5, category_id=18), multiclass=[[0.1, 0.5]])
    strong = look(found(score=0.4, category_id=1), multiclass=[[0.2, 0.4]])
    result = merged(weak, strong, weights=[1.0, 2.0])
    assert result.category_id.tolist() == [1]
    assert result.multiclass_score == pytest.approx(np.array([[0.2, 0.4]]))
    assert merged(weak, look(found())).multiclass_score is None
    assert merged(weak, look()).multiclass_score is not None


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_looks_does_not_matter(method: Method):
    looks = [
        look(
            found(score=0.5, mask=LEFT, keypoints=[(1, 1, 0.5)]),
            found("Cat", 0.5, mask=LESS, keypoints=[(0, 0, 0)]),
        ),
        look(found(score=0.5, xyxy=(0, 0, 4, 4), mask=MORE, keypoints=[(1.1, 1, 0.5)])),
        look(found(score=0.5, xyxy=(0, 0, 2, 4), mask=LESS, keypoints=[(3, 1, 0.5)])),
    ]
    first = merged(*looks, method=method, source=[0, 1, 2], weights=[2.0, 1.0, 1.0])
    second = merged(*looks[::-1], method=method, source=[2, 1, 0], weights=[2.0, 1.0, 1.0])
    for name in ("xyxy", "score", "label", "mask", "views", "keypoints"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()


def test_no_detections():
    result = merged(look(), look())
    assert (len(result), result.mask, result.views.tolist()) == (0, None, [])
    assert merged(Detections.empty(4, 6, masks=True)).mask is not None


def test_looks_at_images_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="size"):
        merged(look(), Detections.empty(5, 6))
    with pytest.raises(ValueError, match="size"):
        merge_detections([], source=[], weights=[1.0], windows=np.zeros((0, 4)), method="wbf", iou=0.5)
    with pytest.raises(ValueError, match="windows"):
        merged(look(), windows=[[0, 0, 6]])
    with pytest.raises(ValueError, match="windows"):
        merged(look(), windows=[[0, 0, 5.5, 4]])
    with pytest.raises(ValueError, match="source"):
        merged(look(), source=[0, 0])
