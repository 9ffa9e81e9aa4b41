"""An outline that is none: the object keeps its box, the rest of the truth counts, and masks are not judged there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prelabel.evaluate.evaluation import Evaluation
from prelabel.evaluate.truth import read_truth
from prelabel.storage import Storage
from tests.evaluate.cases import evaluated, image, thing, write_truth
from tests.rows import found, mask_of, row

LEFT, RIGHT = (0, 0, 3, 4), (3, 0, 3, 4)
LEFT_MASK = mask_of(*["###..."] * 4)
RIGHT_MASK = mask_of(*["...###"] * 4)
FLAT = [3, 0, 6, 0, 6, 4, 3, 4]

#: Outlines that are none, with a word of what is said of each.
ODD: dict[str, tuple[Any, str]] = {
    "a point": ([[3, 1]], "without area"),
    "a line of two corners": ([[3, 1, 5, 1]], "without area"),
    "a line of three corners": ([[3, 1, 4, 1, 5, 1]], "without area"),
    "the same corner": ([[3, 1, 3, 1, 3, 1]], "without area"),
    "an empty polygon": ([[]], "without area"),
    "an odd number of values": ([[3, 0, 6, 0, 6, 4, 3]], "7 values that are no pairs"),
    "a flat list": (FLAT, "3 in place of a list"),
    "text": ([["3", "0", "6", "0", "6", "4"]], "6 values that are no pairs"),
    "null in place of a polygon": ([None], "None in place of a list"),
    "null in place of a number": ([[3, 0, None, 0, 6, 4]], "6 values that are no pairs"),
    "not a number": ([[3, 0, float("nan"), 0, 6, 4]], "6 values that are no pairs"),
    "a number of 401 digits": ([[10**400, 0, 6, 0, 6, 4]], "6 values that are no pairs"),
    "a corner beyond whole numbers of 32 bits": ([[10**300, 0, 0, 1e300, 1.5, 2.5]], "more than 1,000,000 pixels away"),
    "runs of 401 digits": ({"size": [4, 6], "counts": [10**400]}, "do not fill"),
    "a size of 401 digits": ({"size": [10**400, 6], "counts": [24]}, "on an image of 4 x 6"),
    "points in pairs": ([[[3, 0], [6, 0], [6, 4]]], "3 values that are no pairs"),
    "an RLE of another size": ({"size": [6, 4], "counts": [24]}, "RLE of 6 x 4 on an image of 4 x 6"),
    "an RLE with bad letters": ({"size": [4, 6], "counts": "~"}, "illegal character"),
    "runs that are too long": ({"size": [4, 6], "counts": [9, 99]}, "do not fill"),
    "negative runs": ({"size": [4, 6], "counts": [25, -1]}, "do not fill"),
    "runs without a size": ({"counts": [24]}, "neither polygons nor an RLE"),
    "a word": ("polygon", "neither polygons nor an RLE"),
    "a number": (7, "neither polygons nor an RLE"),
    "a truth value": (False, "neither polygons nor an RLE"),
}


def truth_with(folder: Path, segmentation: Any) -> str:
    objects = [
        thing(LEFT, segmentation={"size": [4, 6], "counts": LEFT_MASK}),
        thing(RIGHT, segmentation=segmentation),
    ]
    return write_truth(folder, objects, [image(height=4, width=6)])


def with_run(truth: str, *masks: str) -> Evaluation:
    boxes = {LEFT_MASK: (0, 0, 3, 4), RIGHT_MASK: (3, 0, 6, 4)}
    return evaluated(truth, row("a.jpg", *(found(mask=mask, xyxy=boxes[mask]) for mask in masks)))


@pytest.mark.parametrize("name", ODD)
def test_the_object_keeps_its_box_and_the_truth_is_read(tmp_path: Path, name: str) -> None:
    segmentation, words = ODD[name]
    truth = read_truth(truth_with(tmp_path, segmentation), Storage())
    first, second = truth.images[0].objects
    assert (first.odd, second.odd) == (False, True)
    assert (second.bbox, second.segmentation) == (RIGHT, None)
    (note,) = truth.notes
    assert note.startswith("1 objects of")
    assert "annotation 2 has" in note
    assert words in note


@pytest.mark.parametrize("name", ODD)
def test_masks_are_judged_as_if_nothing_were_known_there(tmp_path: Path, name: str) -> None:
    truth = truth_with(tmp_path, ODD[name][0])
    both = with_run(truth, LEFT_MASK, RIGHT_MASK)
    assert both.boxes.overall["AP"] == pytest.approx(1)
    assert both.masks is not None
    # Found there: neither right nor wrong. Not found there: not missed. The other object decides.
    assert both.masks.overall["AP"] == pytest.approx(1)
    assert both.masks.objects["all"] == 1
    one = with_run(truth, LEFT_MASK)
    assert one.boxes.overall["AP"] == pytest.approx(0.505, abs=0.01)
    assert one.masks is not None
    assert one.masks.overall["AP"] == pytest.approx(1)
    other = with_run(truth, RIGHT_MASK)
    assert other.masks is not None
    assert other.masks.overall["AP"] == 0


def test_where_no_outline_is_one_masks_are_not_scored(tmp_path: Path) -> None:
    truth = write_truth(tmp_path, [thing(LEFT, segmentation=[[1, 2]])], [image(height=4, width=6)])
    done = with_run(truth, LEFT_MASK)
    assert done.masks is None
    assert any(note.startswith("masks are not scored: no object") for note in done.notes)
    assert done.boxes.overall["AP"] == pytest.approx(1)


def test_a_part_without_area_beside_others_changes_nothing(tmp_path: Path) -> None:
    truth = read_truth(truth_with(tmp_path, [FLAT, [3, 1], [3, 1, 4, 1]]), Storage())
    assert truth.images[0].objects[1].segmentation == [FLAT]
    assert not truth.images[0].objects[1].odd
    assert truth.notes == ()


def test_a_figure_of_eight_is_an_outline(tmp_path: Path) -> None:
    eight = [3, 0, 6, 4, 6, 0, 3, 4]
    truth = read_truth(truth_with(tmp_path, [eight]), Storage())
    assert truth.images[0].objects[1].segmentation == [eight]


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_an_object_that_states_no_outline_has_none(tmp_path: Path, nothing: Any) -> None:
    done = with_run(truth_with(tmp_path, nothing), LEFT_MASK, RIGHT_MASK)
    assert done.masks is None
    assert any("not every object of the truth has a segmentation" in note for note in done.notes)


@pytest.mark.parametrize("area", [-1, float("nan"), float("inf"), 10**400, "big", None, []])
def test_an_area_that_is_none_is_that_of_the_shape(tmp_path: Path, area: Any) -> None:
    # COCO's evaluation would pass over an object of area -1, and count what was found there as neither right nor wrong.
    truth = write_truth(tmp_path, [{**thing(LEFT), "area": area}], [image(height=4, width=6)])
    done = evaluated(truth, row("a.jpg", found(xyxy=(0, 0, 3, 4))))
    assert (done.boxes.overall["AP"], done.boxes.objects["all"]) == (pytest.approx(1), 1)
    missed = evaluated(truth, row("a.jpg"))
    assert missed.boxes.overall["AP"] == 0
