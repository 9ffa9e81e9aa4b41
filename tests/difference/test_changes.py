"""What became of the detections of one image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prelabel.detections import Detections
from prelabel.difference.changes import Selected, changes_of
from prelabel.difference.options import DiffOptions
from prelabel.errors import ConfigError, EvaluateError
from tests.messages import telling
from tests.rows import found, mask_of, row

NONE = Detections.empty(100, 100)


def detections(*each: dict[str, Any]) -> Detections:
    made = row("a.jpg", *each, height=100, width=100).detections
    assert made is not None
    return made


def dog(score: float = 0.9, xyxy: tuple[float, ...] = (0, 0, 20, 20), **more: Any) -> dict[str, Any]:
    return found("Dog", score, xyxy, **more)


def cat(score: float = 0.9, xyxy: tuple[float, ...] = (0, 0, 20, 20), **more: Any) -> dict[str, Any]:
    return found("Cat", score, xyxy, **more)


def changed(a: Detections, b: Detections, hidden_a: Detections = NONE, hidden_b: Detections = NONE, **options: Any):
    chosen = DiffOptions.of(run_a="a", run_b="b", **options)
    return changes_of("a.jpg", Selected(a, hidden_a), Selected(b, hidden_b), chosen)


def kinds(*args: Any, **options: Any) -> list[str]:
    return [change.kind for change in changed(*args, **options)]


@pytest.mark.parametrize(
    ("b", "kind"),
    [
        (dog(), "kept"),
        (dog(0.5), "kept"),
        (dog(xyxy=(0, 0, 20, 19)), "kept"),  # an IoU of exactly 0.95
        (dog(xyxy=(0, 0, 20, 18)), "moved"),
        (dog(xyxy=(0, 0, 20, 10)), "moved"),  # an IoU of exactly 0.5
        (cat(), "relabeled"),
        (cat(xyxy=(0, 0, 20, 10)), "relabeled"),
    ],
)
def test_a_detection_in_both_runs(b: dict[str, Any], kind: str):
    assert kinds(detections(dog()), detections(b)) == [kind]
    assert kinds(detections(b), detections(dog())) == [kind]


def test_a_detection_of_one_run_vanished_or_appeared():
    assert kinds(detections(dog()), NONE) == ["vanished"]
    assert kinds(NONE, detections(dog())) == ["appeared"]
    apart = detections(dog(xyxy=(50, 50, 70, 70)))
    assert kinds(detections(dog()), apart) == ["vanished", "appeared"]
    assert kinds(detections(dog()), detections(dog(xyxy=(0, 0, 20, 9)))) == ["vanished", "appeared"]
    assert kinds(NONE, NONE) == []


def test_the_same_class_is_matched_before_a_better_overlap_of_another():
    changes = changed(detections(dog()), detections(cat(), dog(0.4, (0, 0, 20, 12))))
    assert [(change.kind, change.b and change.b.label) for change in changes] == [("moved", "Dog"), ("appeared", "Cat")]


def test_a_score_that_shifted_is_a_change_only_if_asked_for():
    a, b = detections(dog(0.8)), detections(dog(0.7))
    assert kinds(a, b) == ["kept"]
    assert kinds(a, b, score_shift=0.1) == ["kept"]  # stored scores differ by 0.10000002
    assert kinds(a, b, score_shift=0.09) == ["rescored"]
    (change,) = changed(a, b)
    assert change.shift == pytest.approx(-0.1)
    (relabeled,) = changed(a, detections(cat(0.7)))
    assert relabeled.shift is None


def test_a_detection_below_the_threshold_of_the_other_run_is_told_from_none():
    (vanished,) = changed(detections(dog(0.4)), NONE, hidden_b=detections(dog(0.29), cat(0.25)))
    assert (vanished.kind, vanished.hidden) == ("vanished", pytest.approx(0.29))
    (appeared,) = changed(NONE, detections(dog(0.4)), hidden_a=detections(dog(0.2, (0, 0, 20, 18))))
    assert (appeared.kind, appeared.hidden) == ("appeared", pytest.approx(0.2))
    (elsewhere,) = changed(detections(dog(0.4)), NONE, hidden_b=detections(dog(0.29, (60, 60, 80, 80)), cat(0.2)))
    assert elsewhere.hidden is None


def test_one_detection_below_the_threshold_stands_for_only_one_that_vanished():
    changes = changed(detections(dog(0.5), dog(0.4)), NONE, hidden_b=detections(dog(0.2)))
    assert [change.hidden for change in changes] == [pytest.approx(0.2), None]


def test_equal_boxes_are_matched_by_score():
    same = detections(dog(0.9), dog(0.6), dog(0.3))
    assert [(change.kind, change.shift) for change in changed(same, same)] == [("kept", 0.0)] * 3


def test_equal_boxes_without_area_are_the_same():
    flat = detections(dog(xyxy=(5, 5, 5, 9)), dog(xyxy=(7, 7, 7, 7)))
    assert kinds(flat, flat) == ["kept", "kept"]
    assert kinds(flat, detections(dog(xyxy=(5, 5, 5, 8)))) == ["vanished", "vanished", "appeared"]


def test_masks_decide_whether_a_detection_was_kept_if_both_have_one():
    left, half = mask_of("##", "##"), mask_of("#.", "#.")
    a = row("a.jpg", found(xyxy=(0, 0, 2, 2), mask=left), height=2, width=2).detections
    b = row("a.jpg", found(xyxy=(0, 0, 2, 2), mask=half), height=2, width=2).detections
    without = row("a.jpg", found(xyxy=(0, 0, 2, 2)), height=2, width=2).detections
    (change,) = changed(a, b)
    assert (change.kind, change.iou) == ("moved", 0.5)
    assert [(change.kind, change.iou) for change in changed(a, a)] == [("kept", 1.0)]
    assert kinds(a, b, iou_on="boxes") == ["kept"]
    assert kinds(a, without) == ["kept"]


def test_a_mask_that_does_not_fit_its_image_is_an_error_that_names_the_image():
    wrong = row("a.jpg", found(xyxy=(0, 0, 2, 2), mask="04000"), height=2, width=2).detections
    right = row("a.jpg", found(xyxy=(0, 0, 2, 2), mask=mask_of("##", "##")), height=2, width=2).detections
    with pytest.raises(EvaluateError, match=telling("'a.jpg'", "2 x 2")):
        changed(wrong, right)


def test_a_kept_iou_below_the_iou_of_matches_is_refused():
    with pytest.raises(ConfigError, match=telling("--kept-iou", "0.6", "0.5")):
        DiffOptions.of(run_a="a", run_b="b", iou=0.6, kept_iou=0.5)


def test_every_detection_has_exactly_one_change():
    random = np.random.default_rng(7)

    def some() -> Detections:
        corner = random.uniform(0, 60, (12, 2))
        boxes = np.concatenate((corner, corner + random.uniform(5, 40, (12, 2))), axis=1)
        scores = np.sort(random.uniform(0.3, 1, 12))[::-1]
        labels = random.choice(["Dog", "Cat"], 12)
        return detections(*(found(n, s, b) for n, s, b in zip(labels, scores.tolist(), boxes.tolist(), strict=True)))

    for _ in range(30):
        a, b = some(), some()
        changes = changed(a, b)
        assert sorted(c.a.score for c in changes if c.a) == sorted(a.score.tolist())
        assert sorted(c.b.score for c in changes if c.b) == sorted(b.score.tolist())
        assert all(c.a.label == c.b.label for c in changes if c.a and c.b and c.kind in ("kept", "moved"))
