"""Whole comparisons of two runs: which images and classes are compared, the figures, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prelabel.detections import ClassName, ImageLabel
from prelabel.difference.files import difference_json
from prelabel.errors import ConfigError, EvaluateError, StoreError
from prelabel.processes import Processes
from prelabel.store.rows import ImageRow
from tests.difference.conftest import Runs
from tests.fusion.conftest import CAT, DOG, HORSE, OTHER_DOG
from tests.messages import telling, told
from tests.review.cases import evaluated, image, thing, write_truth
from tests.rows import failed_row, found, row


def dog(score: float = 0.9, xyxy: tuple[float, ...] = (0, 0, 3, 4), **more: Any) -> dict[str, Any]:
    return found("Dog", score, xyxy, **more)


def cat(score: float = 0.9, xyxy: tuple[float, ...] = (3, 0, 6, 4), **more: Any) -> dict[str, Any]:
    return found("Cat", score, xyxy, mid=CAT.mid, category_id=2, **more)


def counts(difference: Any) -> dict[str, int]:
    return {kind: count for kind, count in difference.total.counts.items() if count}


@pytest.fixture
def two(runs: Runs) -> Runs:
    """Runs a and b: images with and without changes, in another order and in other shards."""
    runs.run(
        "a",
        row("same.jpg", dog(), cat()),
        row("moved.jpg", dog(0.8, (0, 0, 4, 4))),
        row("named.jpg", dog(0.7)),
        row("gone.jpg", dog(0.6), cat(0.5)),
        row("empty.jpg"),
    )
    runs.run(
        "b",
        row("empty.jpg", cat(0.4)),
        row("gone.jpg", cat(0.5)),
        row("named.jpg", cat(0.6, (0, 0, 3, 4))),
        row("same.jpg", dog(0.8), cat()),
        row("moved.jpg", dog(0.8, (0, 0, 3, 4))),
        shard_size=3,
    )
    return runs


def test_the_figures_of_two_runs(two: Runs):
    difference = two.diff()
    assert counts(difference) == {"kept": 3, "moved": 1, "relabeled": 1, "vanished": 1, "appeared": 1}
    assert (difference.compared, difference.changed_images, difference.only) == (5, 4, (0, 0))
    total = difference.total
    # Moved and relabeled detections count in both runs.
    assert (total.in_a, total.in_b, total.changed) == (6, 6, 6)
    assert difference.share == 0.5
    assert total.mean_shift == pytest.approx(-0.1 / 4)
    by_class = difference.by_class
    assert (by_class["Dog"].in_a, by_class["Dog"].in_b, by_class["Dog"].counts["relabeled"]) == (4, 2, 1)
    assert (by_class["Cat"].in_a, by_class["Cat"].in_b, by_class["Cat"].relabeled_to) == (2, 4, 1)
    assert sum(changes.changed for changes in by_class.values()) == total.changed
    assert difference.relabeled == (("Dog", "Cat", 1),)
    assert difference.shifts.sum() == difference.overlaps.sum() == 4
    assert difference.overlaps[-1] == 3


def test_several_processes_find_the_same_changes(runs: Runs):
    names = [f"{number:02d}.jpg" for number in range(24)]
    scores = np.random.default_rng(0).uniform(0.3, 1, 48).tolist()
    runs.run("a", *(row(name, dog(score), cat()) for name, score in zip(names, scores, strict=False)))
    runs.run("b", *(row(name, dog(score, (0, 0, 4, 4))) for name, score in zip(names[::-1], scores[24:], strict=True)))
    alone = runs.diff()
    with Processes(2, at_once=True) as processes:
        together = runs.diff(processes=processes)
    assert together.images["compared"] == 24
    assert difference_json(together) == difference_json(alone)


def test_images_are_ranked_by_their_changes(two: Runs):
    ranked = [(image.facts.file_name, image.changed) for image in two.diff().most_changed]
    assert ranked == [("moved.jpg", 2), ("named.jpg", 2), ("empty.jpg", 1), ("gone.jpg", 1)]
    assert [image.facts.file_name for image in two.diff(images=1).most_changed] == ["moved.jpg"]
    assert two.diff(images=0).most_changed == ()


def test_a_run_does_not_differ_from_another_one_with_the_same_detections(two: Runs):
    two.run("c", *two.rows("a").values(), shard_size=5)
    difference = two.diff("a", "c", fail_above=0)
    assert counts(difference) == {"kept": 6}
    assert (difference.changed_images, difference.share, difference.exceeds) == (0, 0.0, False)


def test_exchanging_the_runs_exchanges_the_figures(two: Runs):
    forward, back = two.diff("a", "b"), two.diff("b", "a")
    assert (forward.total.in_a, forward.total.changed) == (back.total.in_b, back.total.changed)
    assert forward.total.counts["vanished"] == back.total.counts["appeared"]
    assert forward.total.mean_shift == pytest.approx(-(back.total.mean_shift or 0))


def test_matches_are_those_of_evaluate(two: Runs, tmp_path: Any):
    """A run against another one, and the same run against the detections of the other as ground truth."""
    names = {"Dog": 1, "Cat": 2}
    rows_b = list(two.rows("b").values())
    images = [image(number, each.file_name, height=4, width=6) for number, each in enumerate(rows_b)]
    objects = [
        thing([x1, y1, x2 - x1, y2 - y1], names[label], image_id=number)
        for number, each in enumerate(rows_b)
        if each.detections is not None
        for label, (x1, y1, x2, y2) in zip(each.detections.label, each.detections.xyxy.tolist(), strict=True)
    ]
    categories = [{"id": number, "name": name} for name, number in names.items()]
    truth = write_truth(tmp_path, objects, images, categories)
    correct = evaluated(truth, *two.rows("a").values()).overall.right
    total = two.diff().total
    assert correct.sum() == total.counts["kept"] + total.counts["moved"] == 4


def test_images_that_cannot_be_compared_are_told_apart_and_count_as_changed(runs: Runs):
    def file(name: str, checksum: str, *detected: dict[str, Any], **size: int) -> ImageRow:
        return replace(row(name, *detected, **size), sha256=checksum * 64, bytes=10)

    runs.run(
        "a",
        file("same.jpg", "1", dog()),
        failed_row("a-failed.jpg"),
        file("b-failed.jpg", "2", dog(), cat()),
        failed_row("both-failed.jpg"),
        file("small.jpg", "3", dog()),
        file("encoded.jpg", "4", dog()),
        file("only-a.jpg", "5", dog()),
    )
    runs.run(
        "b",
        file("same.jpg", "1", dog()),
        file("a-failed.jpg", "2", cat()),
        failed_row("b-failed.jpg"),
        failed_row("both-failed.jpg"),
        file("small.jpg", "6", dog(), height=8, width=12),
        file("encoded.jpg", "7", dog()),
        file("only-b.jpg", "8", dog()),
    )
    difference = runs.diff()
    assert difference.compared == 1
    assert difference.not_compared == {
        **{"failed_in_a": 1, "failed_in_b": 1, "failed_in_both": 1},
        **{"other_size": 1, "other_file": 1},
    }
    assert difference.only == (1, 1)
    assert difference.examples["only_in_a"] == ["only-a.jpg"]
    assert difference.examples["only_in_b"] == ["only-b.jpg"]
    assert "small.jpg" in difference.examples["other_size"][0]
    assert "12" in difference.examples["other_size"][0]
    assert "TruncatedImageError" in difference.examples["failed_in_b"][0]
    # A: 2 on b-failed.jpg, 1 on each of small.jpg and encoded.jpg; B: 1 on a-failed.jpg and on both of these.
    assert difference.lost == (4, 3)
    assert difference.share == 7 / 9
    assert counts(difference) == {"kept": 1}
    assert difference.unproven == 0


def test_images_without_a_checksum_are_counted(two: Runs):
    assert two.diff().unproven == 5


def test_classes_of_two_vocabularies_are_matched_by_mid_or_name(runs: Runs):
    runs.run("a", row("x.jpg", dog(), cat()))
    runs.run(
        "b",
        row("x.jpg", found("dog", 0.8, category_id=18, mid=""), found("horse", 0.8, (3, 0, 6, 4), mid="")),
        classes=(OTHER_DOG, HORSE),
    )
    difference = runs.diff()
    assert counts(difference) == {"kept": 1}
    # B's model knows no cats, and A's no horses: neither vanished nor appeared.
    assert difference.foreign == ({"Cat": 1}, {"horse": 1})
    assert told(difference.notes, "dog", "MID")
    mapped = runs.diff(class_map={"Cat": "animal", "horse": "animal"})
    assert counts(mapped) == {"kept": 2}
    assert mapped.foreign == ({}, {})


def test_a_model_without_a_list_of_classes_may_know_any_class(runs: Runs):
    runs.run("a", row("x.jpg", dog(), cat()))
    runs.run("b", row("x.jpg", dog()), classes=None)
    difference = runs.diff()
    assert counts(difference) == {"kept": 1, "vanished": 1}
    assert told(difference.notes, "ASSUMED", "B", "Cat")
    assert not told(runs.diff(score_threshold=0.95).notes, "ASSUMED")


def test_detections_below_the_threshold_of_one_run_only(runs: Runs):
    runs.run("a", row("x.jpg", dog(0.31), cat(0.2)))
    runs.run("b", row("x.jpg", dog(0.29), cat(0.4)))
    difference = runs.diff()
    assert counts(difference) == {"vanished": 1, "appeared": 1}
    assert (difference.total.vanished_below, difference.total.appeared_below) == (1, 1)
    assert counts(runs.diff(score_threshold=0.1)) == {"kept": 2}
    assert counts(runs.diff(class_threshold={"Dog": 0.25})) == {"kept": 1, "appeared": 1}


def test_runs_are_compared_from_the_score_on_from_which_both_kept_detections(runs: Runs):
    runs.run("a", row("x.jpg", dog(0.45), cat(0.45)), score_threshold=0.05)
    runs.run("b", row("x.jpg", cat(0.45)), score_threshold=0.4, class_threshold={"Dog": 0.5})
    difference = runs.diff()
    assert counts(difference) == {"kept": 1}
    assert told(difference.notes, "B", "Dog", "0.5")
    assert told(difference.notes, "B", "Cat", "0.4")
    assert ("--score-threshold", "0.05", "0.4") in difference.settings


def test_the_selection_applies_to_both_runs(two: Runs):
    assert counts(two.diff(include_class=["Cat"])) == {"kept": 2, "appeared": 2}
    # On same.jpg, the best detection of A is the dog, and that of B the cat.
    assert counts(two.diff(max_detections=1, score_threshold=0.8)) == {"moved": 1, "vanished": 1, "appeared": 1}
    with pytest.raises(ConfigError, match=telling("Hamster")):
        two.diff(include_class=["Hamster"])


def test_parts_add_up(runs: Runs):
    """A run in shards of one image and a run in one shard give the same figures."""
    rows = [row(f"{n}.jpg", *[dog()] * (n % 3), *[cat()] * (n % 2)) for n in range(12)]
    others = [row(f"{n}.jpg", *[dog(0.5)] * (n % 2), *[cat()] * (n % 3)) for n in reversed(range(12))]
    for name, size in (("many", 1), ("one", 12)):
        runs.run(name, *rows, shard_size=size)
    runs.run("b", *others, shard_size=5)
    many, one = runs.diff("many", "b", images=4), runs.diff("one", "b", images=4)
    assert many.by_class == one.by_class
    assert many.total == one.total
    assert many.shifts.tolist() == one.shifts.tolist()
    ranked = [[each.facts.image_id for each in difference.most_changed] for difference in (many, one)]
    assert ranked[0] == ranked[1]


def test_what_cannot_be_compared_is_refused(two: Runs):
    with pytest.raises(ConfigError, match=telling("twice")):
        two.diff("a", "a")
    two.run("labels", row("same.jpg", image_labels=[ImageLabel(1, "Dog", "", 0.9)]))
    with pytest.raises(ConfigError, match=telling(str(two.folder / "labels"), "whole images")):
        two.diff("a", "labels")
    two.run("elsewhere", row("other.jpg", dog()))
    with pytest.raises(EvaluateError, match=telling("same.jpg", "other.jpg", "image_id")):
        two.diff("a", "elsewhere")
    two.run("failed", failed_row("same.jpg"))
    with pytest.raises(EvaluateError, match=telling("failed in b", "same.jpg")):
        two.diff("a", "failed")
    two.run("number", row("same.jpg", dog()), classes=(DOG, ClassName(3, "3")))
    two.run("other", row("same.jpg", dog()), classes=(DOG, ClassName(3, "3")))
    with pytest.raises(ConfigError, match=telling("A", "B", "no name", "--class-map")):
        two.diff("number", "other")


def test_copies_of_one_run_are_compared_with_a_note(two: Runs):
    two.names.clear()
    two.run("c", *two.rows("a").values())
    assert told(two.diff("a", "c").notes, "copies")


def test_a_missing_shard_is_an_error_that_names_it(two: Runs):
    shard = next((two.folder / "b" / "shards").glob("*00001*"))
    shard.unlink()
    with pytest.raises(StoreError, match=telling(shard.name)):
        two.diff()
