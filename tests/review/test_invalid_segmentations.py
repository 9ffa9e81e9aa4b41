"""Invalid segmentations: the object keeps its box, the rest of the truth counts, and mask scores ignore the object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prelabel.review.evaluation import Evaluation
from prelabel.review.truth import read_truth
from prelabel.storage.files import Storage
from tests.messages import tells, told
from tests.review.cases import evaluated, image, thing, write_truth
from tests.rows import found, mask_of, row

LEFT, RIGHT = (0, 0, 3, 4), (3, 0, 3, 4)
LEFT_MASK = mask_of(*["###..."] * 4)
RIGHT_MASK = mask_of(*["...###"] * 4)
FLAT = [3, 0, 6, 0, 6, 4, 3, 4]

#: Invalid segmentations, with the facts in the note on each.
ODD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a point": ([[3, 1]], ("area",)),
    "a line of two corners": ([[3, 1, 5, 1]], ("area",)),
    "a line of three corners": ([[3, 1, 4, 1, 5, 1]], ("area",)),
    "the same corner": ([[3, 1, 3, 1, 3, 1]], ("area",)),
    "an empty polygon": ([[]], ("area",)),
    "an odd number of values": ([[3, 0, 6, 0, 6, 4, 3]], ("7", "pairs")),
    "a flat list": (FLAT, ("3", "list")),
    "text": ([["3", "0", "6", "0", "6", "4"]], ("6", "pairs")),
    "null in place of a polygon": ([None], ("None", "list")),
    "null in place of a number": ([[3, 0, None, 0, 6, 4]], ("6", "pairs")),
    "not a number": ([[3, 0, float("nan"), 0, 6, 4]], ("6", "pairs")),
    "a number of 401 digits": ([[10**400, 0, 6, 0, 6, 4]], ("6", "pairs")),
    "a corner beyond whole numbers of 32 bits": ([[10**300, 0, 0, 1e300, 1.5, 2.5]], ("1,000,000", "pixels")),
    "runs of 401 digits": ({"size": [4, 6], "counts": [10**400]}, ("RLE", "4 x 6")),
    "a size of 401 digits": ({"size": [10**400, 6], "counts": [24]}, ("image", "4 x 6")),
    "points in pairs": ([[[3, 0], [6, 0], [6, 4]]], ("3", "pairs")),
    "an RLE of another size": ({"size": [6, 4], "counts": [24]}, ("RLE", "6 x 4", "4 x 6")),
    "an RLE with bad letters": ({"size": [4, 6], "counts": "~"}, ("character",)),
    "runs that are too long": ({"size": [4, 6], "counts": [9, 99]}, ("RLE", "4 x 6")),
    "negative runs": ({"size": [4, 6], "counts": [25, -1]}, ("RLE", "4 x 6")),
    "runs without a size": ({"counts": [24]}, ("polygons", "RLE")),
    "a word": ("polygon", ("polygons", "RLE")),
    "a number": (7, ("polygons", "RLE")),
    "a truth value": (False, ("polygons", "RLE")),
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
    segmentation, wanted = ODD[name]
    truth = read_truth(truth_with(tmp_path, segmentation), Storage())
    first, second = truth.images[0].objects
    assert (first.invalid_segmentation, second.invalid_segmentation) == (False, True)
    assert (second.bbox, second.segmentation) == (RIGHT, None)
    (note,) = truth.notes
    assert tells(note, "1", "annotation 2", *wanted)


@pytest.mark.parametrize("name", ODD)
def test_mask_scores_ignore_the_object(tmp_path: Path, name: str) -> None:
    truth = truth_with(tmp_path, ODD[name][0])
    both = with_run(truth, LEFT_MASK, RIGHT_MASK)
    assert both.boxes.overall["AP"] == pytest.approx(1)
    assert both.masks is not None
    # With a detection there: neither correct nor false. Without: not missed. Only the other object counts.
    assert both.masks.overall["AP"] == pytest.approx(1)
    assert both.masks.objects["all"] == 1
    evaluation = with_run(truth, LEFT_MASK)
    assert evaluation.boxes.overall["AP"] == pytest.approx(0.505, abs=0.01)
    assert evaluation.masks is not None
    assert evaluation.masks.overall["AP"] == pytest.approx(1)
    other = with_run(truth, RIGHT_MASK)
    assert other.masks is not None
    assert other.masks.overall["AP"] == 0


def test_masks_are_not_scored_without_any_valid_segmentation(tmp_path: Path) -> None:
    truth = write_truth(tmp_path, [thing(LEFT, segmentation=[[1, 2]])], [image(height=4, width=6)])
    done = with_run(truth, LEFT_MASK)
    assert done.masks is None
    assert told(done.notes, "masks", "scored", "no", "object")
    assert done.boxes.overall["AP"] == pytest.approx(1)


def test_a_part_without_area_beside_others_changes_nothing(tmp_path: Path) -> None:
    truth = read_truth(truth_with(tmp_path, [FLAT, [3, 1], [3, 1, 4, 1]]), Storage())
    assert truth.images[0].objects[1].segmentation == [FLAT]
    assert not truth.images[0].objects[1].invalid_segmentation
    assert truth.notes == ()


def test_a_figure_eight_is_a_valid_polygon(tmp_path: Path) -> None:
    eight = [3, 0, 6, 4, 6, 0, 3, 4]
    truth = read_truth(truth_with(tmp_path, [eight]), Storage())
    assert truth.images[0].objects[1].segmentation == [eight]


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_an_object_may_have_no_segmentation(tmp_path: Path, nothing: Any) -> None:
    done = with_run(truth_with(tmp_path, nothing), LEFT_MASK, RIGHT_MASK)
    assert done.masks is None
    assert told(done.notes, "object", "truth", "segmentation")


@pytest.mark.parametrize("area", [-1, float("nan"), float("inf"), 10**400, "big", None, []])
def test_an_invalid_area_is_replaced_by_the_area_of_the_shape(tmp_path: Path, area: Any) -> None:
    # COCO's evaluation would skip an object with an area of -1, and ignore detections of it.
    truth = write_truth(tmp_path, [{**thing(LEFT), "area": area}], [image(height=4, width=6)])
    done = evaluated(truth, row("a.jpg", found(xyxy=(0, 0, 3, 4))))
    assert (done.boxes.overall["AP"], done.boxes.objects["all"]) == (pytest.approx(1), 1)
    missed = evaluated(truth, row("a.jpg"))
    assert missed.boxes.overall["AP"] == 0
