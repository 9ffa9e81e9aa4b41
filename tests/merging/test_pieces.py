"""Objects cut by the borders of tiles: each situation by itself, in an image of 100 x 40 pixels (width x height)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from prelabel.detections import Detections
from prelabel.masks import rle
from prelabel.merging.detections import merge_detections
from prelabel.merging.pieces import Pieces, cut_sides, resolve_pieces
from tests.rows import found, row

HEIGHT, WIDTH = 40, 100
WHOLE, LEFT, RIGHT = (0, 0, 100, 40), (0, 0, 60, 40), (40, 0, 100, 40)


def box(*xyxy: float, label: str = "Train", score: float = 0.9, mask: str | None = None) -> dict[str, Any]:
    return found(label, score, xyxy, mask=mask)


def filled(*boxes: tuple[int, int, int, int]) -> str:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = True
    return rle.encode(pixels)


def look(*detections: dict[str, Any], height: int = HEIGHT, width: int = WIDTH) -> Detections:
    return row("a.jpg", *detections, height=height, width=width).detections


def resolved(*looks: tuple[Sequence[int], Sequence[dict[str, Any]]]) -> Pieces:
    return resolve_pieces([look(*detections) for _, detections in looks], [window for window, _ in looks])


def boxes(pieces: Pieces) -> list[list[list[float]]]:
    return [part.xyxy.tolist() for part in pieces.parts]


def test_a_side_on_a_border_of_the_tile_is_cut_unless_the_image_ends_there():
    xyxy = np.array([[0, 0, 60, 40], [10, 5, 59.5, 20], [10, 5, 50, 39.9]], np.float32)
    assert cut_sides(xyxy, LEFT, HEIGHT, WIDTH).tolist() == [[False, False, True, False]] * 2 + [[False] * 4]
    assert cut_sides(xyxy, WHOLE, HEIGHT, WIDTH).any() == False  # noqa: E712 - NumPy's own bool
    inner = cut_sides(np.array([[10.3, 10.1, 49.8, 29.9]]), (10, 10, 50, 30), HEIGHT, WIDTH)
    assert inner.tolist() == [[True] * 4]
    assert cut_sides(np.array([[15, 12, 45, 28]]), (10, 10, 50, 30), HEIGHT, WIDTH, 0.1).tolist() == [
        [False, True, False, True]
    ]
    assert cut_sides(np.zeros((0, 4)), LEFT, HEIGHT, WIDTH).shape == (0, 4)


def test_a_piece_gets_the_box_of_the_whole_object_of_any_view():
    piece = filled((45, 10, 60, 30))
    for window in (WHOLE, (30, 0, 100, 40)):
        pieces = resolved((LEFT, [box(45, 10, 60, 30, score=0.7, mask=piece)]), (window, [box(45, 10, 75, 30)]))
        assert boxes(pieces) == [[[45, 10, 75, 30]]] * 2
        assert pieces.parts[0].score.tolist() == [np.float32(0.7)]
        assert pieces.parts[0].mask.tolist() == [piece]


def test_a_piece_gets_the_box_of_the_strongest_whole_object():
    wholes = [(WHOLE, [box(45, 10, right, 30, score=score)]) for right, score in ((74, 0.5), (75, 0.8), (76, 0.6))]
    for views in (wholes, wholes[::-1]):
        pieces = resolved((LEFT, [box(45, 10, 60, 30)]), *views)
        assert boxes(pieces)[0] == [[45, 10, 75, 30]]


def test_a_piece_stays_beside_a_whole_object_that_is_another():
    adult = box(35, 0, 70, 38)
    for whole in (
        adult,  # A child before an adult: its piece is not what the tile shows of the adult.
        box(45, 20, 75, 40, label="Car"),
        box(45, 20, 75, 40, score=0.3),
        box(54, 22, 75, 40),
    ):
        pieces = resolved((LEFT, [box(50, 22, 60, 40)]), (WHOLE, [whole]))
        assert len(pieces.parts[0]) == 1


def test_one_look_does_not_decide_between_its_own_detections():
    pieces = resolved((LEFT, [box(45, 10, 60, 30), box(40, 10, 58, 30)]))
    assert boxes(pieces) == [[[45, 10, 60, 30], [40, 10, 58, 30]]]


def test_pieces_of_an_object_longer_than_a_tile_are_joined():
    pieces = resolved((LEFT, [box(10, 10, 60, 30, score=0.6)]), (RIGHT, [box(40, 11, 90, 30, score=0.8)]))
    assert boxes(pieces) == [[], [], [[10, 10, 90, 30]]]
    assert pieces.parts[2].score.tolist() == [np.float32(0.8)]
    assert pieces.windows.tolist() == [list(LEFT), list(RIGHT), list(WHOLE)]
    assert pieces.origin.tolist() == [0, 1, 1]


def test_masks_of_joined_pieces_are_united():
    pieces = resolved(
        (LEFT, [box(10, 10, 60, 30, mask=filled((10, 10, 60, 20)))]),
        (RIGHT, [box(40, 11, 90, 30, mask=filled((40, 10, 90, 21)))]),
    )
    assert pieces.parts[2].mask.tolist() == [filled((10, 10, 60, 20), (40, 10, 90, 21))]


@pytest.mark.parametrize("swapped", [False, True])
def test_each_keypoint_of_joined_pieces_is_that_of_the_piece_that_is_surest_of_it(swapped: bool):
    looks = [
        (LEFT, [{**box(10, 10, 60, 30), "keypoints": [(12, 20, 0.9), (59, 20, 0.1), (0, 0, 0)]}]),
        (RIGHT, [{**box(40, 10, 90, 30, score=0.8), "keypoints": [(41, 20, 0.2), (88, 20, 0.7), (0, 0, 0)]}]),
    ]
    (joined,) = resolved(*(looks[::-1] if swapped else looks)).parts[2].keypoints
    assert joined == pytest.approx(np.array([[12, 20, 0.9], [88, 20, 0.7], [0, 0, 0]]))


def test_two_people_side_by_side_at_a_border_are_not_joined():
    """Each tile saw one of them whole and a piece of the other."""
    left, right = box(25, 5, 49, 35, label="Person"), box(51, 5, 75, 35, label="Person")
    pieces = resolved(
        (LEFT, [left, box(51, 5, 60, 35, label="Person")]), (RIGHT, [right, box(40, 5, 49, 35, label="Person")])
    )
    assert boxes(pieces) == [[[25, 5, 49, 35], [51, 5, 75, 35]], [[51, 5, 75, 35], [25, 5, 49, 35]]]
    # Neither was detected whole: their pieces do not cross the strip, so they are two objects.
    pieces = resolved((LEFT, [box(51, 5, 60, 35)]), (RIGHT, [box(40, 5, 49, 35)]))
    assert boxes(pieces) == [[[51, 5, 60, 35]], [[40, 5, 49, 35]]]


@pytest.mark.parametrize(
    ("first", "second", "windows"),
    [
        ((10, 10, 60, 30), (40, 10, 49, 30), (LEFT, RIGHT)),
        ((51, 10, 60, 30), (40, 10, 90, 30), (LEFT, RIGHT)),
        ((20, 10, 55, 30), (40, 10, 90, 30), ((20, 0, 60, 40), RIGHT)),
        ((10, 10, 60, 30), (45, 10, 80, 30), (LEFT, (40, 0, 80, 40))),
    ],
    ids=["second ends in the strip", "first begins in the strip", "first is not cut there", "second is not cut there"],
)
def test_pieces_that_disagree_where_the_object_ends_are_not_joined(first: Any, second: Any, windows: Any):
    pieces = resolved((windows[0], [box(*first)]), (windows[1], [box(*second)]))
    assert boxes(pieces) == [[list(first)], [list(second)]]


def test_pieces_at_different_heights_are_not_joined():
    pieces = resolved((LEFT, [box(10, 2, 60, 18)]), (RIGHT, [box(40, 12, 90, 35)]))
    assert [len(part) for part in pieces.parts] == [1, 1]


def test_pieces_of_different_classes_are_not_joined():
    pieces = resolved((LEFT, [box(10, 10, 60, 30)]), (RIGHT, [box(40, 10, 90, 30, label="Bus")]))
    assert [len(part) for part in pieces.parts] == [1, 1]


@pytest.mark.parametrize("begin", [49, 50])
def test_tiles_that_share_no_strip_or_a_pixel_join_nothing(begin: int):
    pieces = resolved(((0, 0, 50, 40), [box(10, 10, 50, 30)]), ((begin, 0, 100, 40), [box(begin, 10, 90, 30)]))
    assert [len(part) for part in pieces.parts] == [1, 1]


def test_masks_decide_where_there_are_masks():
    """Boxes of the same height, but one object is at the top of the strip and the other at the bottom."""
    top, bottom = (10, 5, 60, 15), (40, 25, 90, 35)
    apart = (
        box(10, 5, 60, 35, mask=filled(top, (10, 5, 20, 35))),
        box(40, 5, 90, 35, mask=filled(bottom, (80, 5, 90, 35))),
    )
    assert [len(part) for part in resolved((LEFT, [apart[0]]), (RIGHT, [apart[1]])).parts] == [1, 1]
    without = [{**detection, "mask": None} for detection in apart]
    assert len(resolved((LEFT, without[:1]), (RIGHT, without[1:])).parts) == 3
    # A train that goes upward: the boxes have different heights, but the masks agree in the strip.
    low, high = filled((10, 22, 60, 30), (10, 28, 30, 40)), filled((40, 22, 90, 30), (80, 0, 90, 25))
    rising = box(10, 22, 60, 40, mask=low), box(40, 0, 90, 30, mask=high)
    assert boxes(resolved((LEFT, [rising[0]]), (RIGHT, [rising[1]])))[2] == [[10, 0, 90, 40]]
    assert len(resolved((LEFT, [{**rising[0], "mask": None}]), (RIGHT, [rising[1]])).parts) == 2


def test_masks_decide_what_a_tile_shows_of_an_object():
    """The right tile shows a leg of an adult: a narrow part of the box, but all of the mask that lies in the tile."""
    tile, leg, body = (40, 20, 100, 40), (60, 20, 66, 38), filled((50, 2, 70, 18), (60, 18, 66, 38))
    adult, child = box(50, 2, 70, 38, mask=body), filled((60, 21, 66, 38))
    pieces = resolved((tile, [box(*leg, mask=filled(leg))]), (WHOLE, [adult]))
    assert boxes(pieces)[0] == [[50, 2, 70, 38]]
    # Without masks, boxes decide.
    pieces = resolved((tile, [box(*leg)]), (WHOLE, [adult]))
    assert boxes(pieces)[0] == [list(leg)]
    # A child fills the adult's box, but hides the adult.
    hidden = box(50, 2, 70, 38, mask=filled((50, 2, 70, 21)))
    pieces = resolved((tile, [box(51, 20, 69, 38, mask=child)]), (WHOLE, [hidden]))
    assert boxes(pieces)[0] == [[51, 20, 69, 38]]


def test_a_train_over_six_tiles_becomes_one():
    windows = [(x, 0, x + 30, 40) for x in range(0, 90, 15)]
    trains = [look(box(max(5, x), 10, x + 30, 30), width=120) for x in range(0, 90, 15)]
    pieces = resolve_pieces(trains, windows)
    assert boxes(pieces) == [[], [], [], [], [], [], [[5, 10, 105, 30]]]
    # Looks in another order give the same train.
    order = [3, 0, 5, 1, 4, 2]
    again = resolve_pieces([trains[n] for n in order], [windows[n] for n in order])
    assert boxes(again)[6] == [[5, 10, 105, 30]]
    # Without the third and fourth tile there are two trains with nothing in between.
    apart = resolve_pieces([trains[n] for n in (0, 1, 4, 5)], [windows[n] for n in (0, 1, 4, 5)])
    assert boxes(apart) == [[], [], [], [], [[5, 10, 45, 30]], [[60, 10, 105, 30]]]


def test_an_object_over_four_tiles_becomes_one():
    windows = [(0, 0, 60, 30), (40, 0, 100, 30), (0, 20, 60, 50), (40, 20, 100, 50)]
    corners = [(10, 5, 60, 30), (40, 5, 90, 30), (10, 20, 60, 45), (40, 20, 90, 45)]
    pieces = resolve_pieces([look(box(*corner), height=50) for corner in corners], windows)
    assert boxes(pieces) == [[], [], [], [], [[10, 5, 90, 45]]]


def test_tiles_that_meet_only_at_a_corner_join_nothing():
    windows = [(0, 0, 60, 30), (40, 20, 100, 50)]
    parts = [look(box(10, 5, 60, 30), height=50), look(box(40, 20, 90, 45), height=50)]
    assert [len(part) for part in resolve_pieces(parts, windows).parts] == [1, 1]


def test_an_object_has_one_piece_in_each_tile():
    """The better of two partners is joined; the other is a piece of the joined object, or stays."""
    pieces = resolved(
        (LEFT, [box(10, 10, 60, 30)]), (RIGHT, [box(40, 14, 99, 30, score=0.8), box(40, 10, 92, 30, score=0.7)])
    )
    assert boxes(pieces) == [[], [[10, 10, 92, 30]], [[10, 10, 92, 30]]]
    assert pieces.parts[1].score.tolist() == [np.float32(0.8)]


def test_a_piece_without_a_partner_stays_as_it_is():
    pieces = resolved((LEFT, [box(10, 10, 60, 30, mask=filled((10, 10, 60, 30)))]), (RIGHT, []), (WHOLE, []))
    assert boxes(pieces) == [[[10, 10, 60, 30]], [], []]
    assert pieces.parts[0].mask.tolist() == [filled((10, 10, 60, 30))]
    assert (pieces.windows.tolist(), pieces.origin.tolist()) == ([list(LEFT), list(RIGHT), list(WHOLE)], [0, 1, 2])


def test_nothing_changes_without_pieces():
    looks = [(WHOLE, [box(10, 10, 60, 30)]), (WHOLE, [box(0, 0, 100, 40), box(40, 5, 50, 40, label="Car")])]
    pieces = resolved(*looks)
    assert boxes(pieces) == [[[10, 10, 60, 30]], [[0, 0, 100, 40], [40, 5, 50, 40]]]
    assert boxes(resolved((WHOLE, []))) == [[]]


def test_resolved_pieces_are_merged_with_other_views():
    """Two tiles saw the train only in pieces; the whole view saw it, but less surely than half of the pieces."""
    train = box(10, 10, 90, 30, score=0.3, mask=filled((10, 10, 90, 30)))
    pieces = resolved(
        (WHOLE, [train]),
        (LEFT, [box(10, 10, 60, 30, mask=filled((10, 10, 60, 31)))]),
        (RIGHT, [box(40, 10, 90, 30, mask=filled((40, 10, 90, 31)))]),
    )
    source = np.array([0, 1, 1])[pieces.origin]
    result = merge_detections(
        pieces.parts, source=source.tolist(), weights=[1.0, 1.0], windows=pieces.windows, method="wbf", iou=0.55
    )
    assert result.xyxy.tolist() == [[10, 10, 90, 30]]
    assert result.score == pytest.approx([0.6])
    assert result.views.tolist() == [2]
    assert result.mask.tolist() == [filled((10, 10, 90, 31))]
