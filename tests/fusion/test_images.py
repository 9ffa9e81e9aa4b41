"""The rows of one image become one row: boxes and scores by hand, votes, failures, files that are not the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from prelabel.errors import StoreError
from prelabel.fusion.classes import FusedClasses, RunClasses
from prelabel.fusion.images import ImageFuser, is_proven_the_same
from prelabel.fusion.options import FuseOptions
from prelabel.store.rows import ImageRow
from tests.fusion.conftest import CAT, DOG, HORSE, OTHER_DOG
from tests.messages import telling
from tests.rows import failed_row, found, mask_of, row

LISTED = {"a": (DOG, CAT), "b": (OTHER_DOG, HORSE), "c": (DOG,)}
LEFT, MORE = mask_of(*["###..."] * 4), mask_of(*["####.."] * 4)


def dog_of_b(score: float = 0.4, xyxy: tuple[float, ...] = (0, 0, 4, 4), **more: Any) -> dict[str, Any]:
    return found("dog", score, xyxy, category_id=18, mid="", **more)


def fuser(runs: str = "ab", **options: Any) -> ImageFuser:
    chosen = FuseOptions.of(runs=list(runs), to="out", **options)
    listed = [RunClasses(name, name * 64, LISTED[name], frozenset()) for name in runs]
    return ImageFuser(chosen, FusedClasses.of(listed, chosen.selection), "a+b", "a+b-1")


def fused(*rows: ImageRow | None, **options: Any) -> ImageRow:
    given = {run: row for run, row in enumerate(rows) if row is not None}
    return fuser(**options).fuse(given)


def test_box_and_score_by_hand():
    """Weights 3 and 1, scores 0.8 and 0.4: strengths 2.4 and 0.4, so x2 is (2.4 * 3 + 0.4 * 4) / 2.8."""
    result = fused(row("a.jpg", found(score=0.8)), row("a.jpg", dog_of_b()), weights="3,1")
    detections = result.detections
    assert detections is not None
    assert detections.score == pytest.approx([(3 * 0.8 + 1 * 0.4) / 4])
    assert detections.xyxy == pytest.approx(np.array([[0, 0, (2.4 * 3 + 0.4 * 4) / 2.8, 4]]))
    assert (detections.label.tolist(), detections.mid.tolist(), detections.category_id.tolist()) == (
        ["Dog"],
        ["/m/0bt9lr"],
        [1],
    )
    assert (detections.views.tolist(), result.views_shown) == ([2], 2)
    assert (result.detector, result.model_version, result.status) == ("a+b", "a+b-1", "ok")


def test_a_box_that_one_run_lacks_has_a_lower_score():
    result = fused(row("a.jpg", found(score=0.8)), row("a.jpg"), weights="3,1").detections
    assert (result.score.tolist(), result.views.tolist()) == ([pytest.approx(0.6)], [1])


def test_a_run_that_does_not_know_a_class_has_no_vote_on_it():
    cat, horse = found("Cat", 0.8, mid=CAT.mid, category_id=2), found("horse", 0.5, mid="", category_id=1)
    result = fused(row("a.jpg", cat), row("a.jpg", horse)).detections
    assert list(zip(result.label.tolist(), result.score.tolist(), strict=True)) == [
        ("Cat", pytest.approx(0.8)),
        ("horse", pytest.approx(0.5)),
    ]
    # The number of the horse is that of the dog in the first run.
    assert result.category_id.tolist() == [2, 3]


def test_a_run_that_lacks_the_image_or_failed_on_it_has_no_vote():
    for other in (None, failed_row("a.jpg")):
        result = fused(row("a.jpg", found(score=0.8)), other)
        assert (result.detections.score.tolist(), result.views_shown) == ([np.float32(0.8)], 1)
        assert result.detections.views is None
    result = fused(failed_row("a.jpg"), row("a.jpg", dog_of_b()))
    assert (result.detections.label.tolist(), result.detections.category_id.tolist()) == (["Dog"], [1])


def test_votes_of_three_runs_of_which_one_lacks_the_image():
    first, third = row("a.jpg", found(score=0.9)), row("a.jpg", found(score=0.3))
    result = fused(first, None, third, runs="abc", weights="1,5,2").detections
    assert result.score == pytest.approx([(1 * 0.9 + 2 * 0.3) / 3])


def test_a_class_of_two_of_three_runs_is_divided_by_the_weights_of_these():
    cat, dog = found("Cat", 0.9, mid=CAT.mid, category_id=2), found(score=0.6)
    result = fused(row("a.jpg", cat, dog), row("a.jpg"), row("a.jpg"), runs="abc", weights="1,2,3").detections
    assert dict(zip(result.label.tolist(), result.score.tolist(), strict=True)) == {
        "Cat": pytest.approx(0.9),
        "Dog": pytest.approx(0.6 / 6),
    }


def test_an_image_that_failed_everywhere_keeps_the_error_of_the_first_run():
    other = replace(failed_row("a.jpg"), error="another error", error_type="FetchError")
    result = fused(replace(failed_row("a.jpg"), seconds={"read": 1.0}), other)
    assert (result.status, result.error_type, result.seconds) == ("failed", "TruncatedImageError", {})
    assert (result.detector, result.detections) == ("a+b", None)


@pytest.mark.parametrize("merge", ["wbf", "nms", "nmm"])
def test_the_order_of_the_runs_does_not_matter(merge: str):
    rows = {
        "a": row("a.jpg", found(score=0.5, mask=LEFT), found("Cat", 0.5, mid=CAT.mid, category_id=2, mask=LEFT)),
        "b": row("a.jpg", dog_of_b(0.5, mask=MORE)),
        "c": row("a.jpg", found(score=0.5, xyxy=(0, 0, 2, 4), mask=LEFT)),
    }
    weights = {"a": 2.0, "b": 1.0, "c": 1.0} if merge == "wbf" else {}
    results = []
    for order in permutations("abc"):
        options = {"weights": [weights[name] for name in order]} if weights else {}
        result = fused(*(rows[name] for name in order), runs="".join(order), merge=merge, **options).detections
        labels = [label.casefold() for label in result.label]
        results.append((labels, result.xyxy.tolist(), result.score.tolist(), result.mask.tolist(), result.mid.tolist()))
    assert all(result == results[0] for result in results)


def test_suppression_and_union():
    rows = row("a.jpg", found(score=0.8)), row("a.jpg", dog_of_b(0.4, (1, 0, 4, 4)))
    nms = fused(*rows, merge="nms", merge_iou=0.4).detections
    assert (nms.xyxy.tolist(), nms.score.tolist()) == ([[0, 0, 3, 4]], [np.float32(0.8)])
    nmm = fused(*rows, merge="nmm", merge_iou=0.4).detections
    assert (nmm.xyxy.tolist(), nmm.score.tolist()) == ([[0, 0, 4, 4]], [np.float32(0.8)])
    apart = fused(*rows, merge="nmm", merge_iou=0.6).detections
    assert apart.views.tolist() == [1, 1]


def test_masks_vote_and_a_run_without_masks_has_no_vote():
    both = fused(row("a.jpg", found(score=0.8, mask=LEFT)), row("a.jpg", dog_of_b(0.7, mask=MORE)), weights="3,1")
    assert both.detections.mask.tolist() == [LEFT]
    cat = found("Cat", 0.9, (4, 0, 6, 4), mid=CAT.mid, category_id=2)
    one = fused(row("a.jpg", found(score=0.8), cat), row("a.jpg", dog_of_b(0.7, mask=MORE))).detections
    assert dict(zip(one.label.tolist(), one.mask.tolist(), strict=True)) == {"Dog": MORE, "Cat": None}


def test_thresholds_and_classes_apply_to_what_was_merged():
    rows = row("a.jpg", found(score=0.5)), row("a.jpg", dog_of_b(0.2))
    assert len(fused(*rows, score_threshold=0.35).detections) == 1
    assert len(fused(*rows, score_threshold=0.36).detections) == 0
    assert len(fused(*rows, exclude_class="Dog").detections) == 0


def test_the_class_map_decides_what_is_one_class():
    cat = found("Cat", 0.8, mid=CAT.mid, category_id=2)
    rows = row("a.jpg", cat), row("a.jpg", dog_of_b(0.4))
    assert fused(*rows).detections.label.tolist() == ["Cat", "Dog"]
    result = fused(*rows, class_map={"Dog": "pet", "Cat": "pet"}).detections
    assert (result.label.tolist(), result.score.tolist()) == (["pet"], [pytest.approx(0.6)])


def test_facts_are_those_of_the_first_good_row_and_dropped_detections_add_up():
    first = replace(row("a.jpg", uri="s3://bucket/a.jpg"), sha256="a" * 64, bytes=7, dropped=2, frames=1)
    second = replace(row("a.jpg", uri="/mnt/a.jpg"), sha256="a" * 64, exif_orientation=1, dropped=1)
    result = fused(first, second)
    assert (result.uri, result.sha256, result.bytes, result.frames) == ("s3://bucket/a.jpg", "a" * 64, 7, 1)
    assert (result.dropped, result.height, result.width) == (3, 4, 6)


def test_what_browsers_do_with_an_image_is_taken_from_the_run_that_recorded_it():
    old, new = (
        replace(row("a.jpg"), exif_orientation=6),
        replace(row("a.jpg"), exif_orientation=6, browser_orientation=1),
    )
    assert fused(old, new).browser_orientation == fused(new, old).browser_orientation == 1


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"sha256": "b" * 64}, ("SHA-256", "a{12}", "b{12}")),
        ({"sha256": None, "bytes": 8}, ("bytes", "7", "8")),
        ({"width": 7}, ("width", "6", "7")),
        ({"height": 5}, ("height", "4", "5")),
        ({"exif_orientation": 3}, ("EXIF orientation", "1", "3")),
        ({"browser_orientation": 6}, ("browsers", "3", "6")),
    ],
)
def test_files_that_are_not_the_same_are_refused(change: dict[str, Any], facts: tuple[str, ...]):
    before = replace(row("x/a.jpg"), sha256="a" * 64, bytes=7, browser_orientation=3)
    with pytest.raises(StoreError, match=telling("x/a.jpg", "a", "b", *facts)) as caught:
        fused(before, replace(before, **change))
    assert "\n" not in str(caught.value)
    # A failed row has no part in the result, so it may be of another file.
    assert fused(before, replace(failed_row("x/a.jpg"), sha256="b" * 64)).status == "ok"


def test_only_checksums_prove_that_files_are_the_same():
    with_checksum = replace(row("a.jpg"), sha256="a" * 64)
    assert is_proven_the_same({0: with_checksum, 1: with_checksum})
    assert not is_proven_the_same({0: with_checksum, 1: row("a.jpg")})
    assert is_proven_the_same({0: row("a.jpg"), 1: failed_row("a.jpg")})
