"""Keypoints: their sets, which points are shown, and their place in detections and frames."""

from __future__ import annotations

import numpy as np
import pytest

from prelabel.detections import Detections
from prelabel.frames import oriented_detections, oriented_pixels
from prelabel.keypoints import COCO_PERSON, KeypointSet, left_right_pairs, shown


def person(*keypoints: tuple[float, float, float], height: int = 4, width: int = 6) -> Detections:
    """One detection with these keypoints."""
    return Detections(
        height=height,
        width=width,
        xyxy=[[0, 0, 3, 4]],
        category_id=[1],
        score=[0.9],
        label=["person"],
        mid=[""],
        keypoints=[keypoints],
    )


def test_keypoints_are_float32_by_detection_and_keep_their_rows():
    two = Detections(
        height=4,
        width=6,
        xyxy=[[0, 0, 1, 1], [1, 1, 2, 2]],
        category_id=[1, 1],
        score=[0.9, 0.8],
        label=["a", "b"],
        mid=["", ""],
        keypoints=[[[1, 2, 0.5]], [[3, 4, 0.25]]],
    )
    assert two.keypoints is not None
    assert two.keypoints.dtype == np.float32
    assert two[[1]].keypoints.tolist() == [[[3, 4, 0.25]]]
    assert two[np.array([False, True])].keypoints.tolist() == [[[3, 4, 0.25]]]
    assert two[:0].keypoints.shape == (0, 1, 3)
    assert "1 keypoints" in repr(two)


def test_without_keypoints_there_is_none():
    assert Detections.empty(4, 6).keypoints is None
    assert Detections.empty(4, 6)[[]].keypoints is None
    assert Detections.empty(4, 6, keypoints=17).keypoints.shape == (0, 17, 3)


def test_a_point_that_is_not_finite_or_has_no_score_is_absent_in_every_frame():
    detections = person((1, 2, 0.5), (np.nan, 2, 0.9), (1, np.inf, 0.9), (1, 2, np.nan), (1, 2, 0))
    assert detections.keypoints.tolist() == [[[1, 2, 0.5], *[[0, 0, 0]] * 4]]
    assert oriented_detections(detections, 2).keypoints.tolist() == [[[5, 2, 0.5], *[[0, 0, 0]] * 4]]


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 2), (2, 1, 3), (3,)])
def test_keypoints_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="keypoints"):
        Detections(
            height=4,
            width=6,
            xyxy=[[0, 0, 3, 4]],
            category_id=[1],
            score=[0.9],
            label=["a"],
            mid=[""],
            keypoints=np.zeros(shape),
        )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_keypoint_moves_with_its_pixel_and_keeps_its_place_in_all_orientations(orientation: int):
    pixels = np.zeros((4, 6), int)
    pixels[1, 4], pixels[3, 0] = 1, 2
    oriented = oriented_detections(person((4.5, 1.5, 0.5), (0.5, 3.5, 0.25)), orientation)
    turned = oriented_pixels(pixels, orientation)
    assert (oriented.height, oriented.width) == turned.shape
    for number, (x, y, _) in enumerate(oriented.keypoints[0].tolist(), start=1):
        assert turned[int(y), int(x)] == number
    assert oriented.keypoints[0, :, 2].tolist() == [0.5, 0.25]


def test_points_are_shown_from_the_threshold_on_and_inside_of_the_image():
    points = np.array([[(0, 0, 0.3), (6, 4, 0.9), (1, 1, 0.29), (6.1, 1, 0.9), (1, -0.1, 0.9), (0, 0, 0)]], np.float32)
    assert shown(points, 0.3, 4, 6).tolist() == [[True, True, False, False, False, False]]
    assert shown(points, 0.0, [4], [6]).tolist() == [[True, True, True, False, False, False]]


def test_each_detection_is_compared_with_the_size_of_its_own_image():
    points = np.array([[(5, 1, 1)], [(5, 1, 1)]], np.float32)
    assert shown(points, 0, np.array([4, 4]), np.array([6, 4])).tolist() == [[True], [False]]


def test_pairs_follow_from_left_and_right_in_names():
    assert left_right_pairs(["nose", "left_eye", "right_eye"]) == ((1, 2),)
    assert left_right_pairs(["RightHand", "LeftHand"]) == ((1, 0),)
    assert left_right_pairs(["ear left", "ear right", "tail"]) == ((0, 1),)


@pytest.mark.parametrize("names", [["nose", "tail"], ["left_eye", "nose"], ["bright spot", "left eye", "right eye"]])
def test_pairs_are_unknown_if_names_do_not_tell_them(names: list[str]):
    assert left_right_pairs(names) is None
    assert KeypointSet.named(names).mirrored_order is None


def test_the_mirrored_order_exchanges_pairs_and_is_its_own_inverse():
    assert KeypointSet.named(["nose", "left_eye", "right_eye"]).mirrored_order == [0, 2, 1]
    order = np.array(COCO_PERSON.mirrored_order)
    assert order[order].tolist() == list(range(17))
    assert [COCO_PERSON.names[index] for index in order[:3]] == ["nose", "right_eye", "left_eye"]


def test_the_built_in_keypoints_are_those_of_coco():
    # The skeleton of the category `person` in COCO's person_keypoints_val2017.json, numbered from 1.
    skeleton = (
        *([16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9]),
        *([8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]),
    )
    assert [[a + 1, b + 1] for a, b in COCO_PERSON.edges] == list(skeleton)
    assert left_right_pairs(COCO_PERSON.names) == COCO_PERSON.pairs
    assert len(COCO_PERSON) == 17


def test_a_set_with_the_names_of_coco_gets_its_skeleton():
    named = KeypointSet.named([name.replace("_", " ").title() for name in COCO_PERSON.names])
    assert named.is_coco_person
    assert named.edges == COCO_PERSON.edges
    assert KeypointSet.named(COCO_PERSON.names, edges=((0, 1),)).edges == ((0, 1),)
    assert not KeypointSet.named(COCO_PERSON.names[::-1]).is_coco_person


def test_keypoints_without_names_are_numbered():
    unnamed = KeypointSet.unnamed(3)
    assert unnamed.names == ("keypoint 1", "keypoint 2", "keypoint 3")
    assert not unnamed.has_names
    assert COCO_PERSON.has_names


@pytest.mark.parametrize(
    ("names", "edges", "pairs", "about"),
    [
        ((), (), None, "names"),
        (("a", " "), (), None, "empty"),
        (("a", "a"), (), None, "'a'"),
        (("a", "b"), ((0, 2),), None, "1 and 3"),
        (("a", "b"), ((1, 1),), None, "2 and 2"),
        (("a", "b"), (), ((0, -1),), "1 and 0"),
        (("a", "b", "c"), (), ((0, 1), (0, 2)), "'a'"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(names, edges, pairs, about):  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=about):
        KeypointSet(names, edges, pairs)


def test_keypoints_belong_to_all_classes_unless_some_are_named():
    assert COCO_PERSON.belong_to(5)
    only = KeypointSet(("a",), classes=(1, 3))
    assert [only.belong_to(number) for number in (1, 2, 3)] == [True, False, True]
