"""Evaluations with known results: metrics, thresholds and confusion."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.console import table
from prelabel.errors import ConfigError, EvaluateError
from prelabel.review.report.files import evaluation_json
from prelabel.review.report.tables import evaluated_classes_table, evaluation_tables, work_lines, work_table
from prelabel.review.thresholds import Ranking, compare_choices
from prelabel.select import Selection
from prelabel.store.rows import ImageRow
from tests.messages import facts, tells, told
from tests.review.cases import evaluated, image, thing, write_truth
from tests.rows import INFO, found, mask_of, row

LEFT, RIGHT, FAR = (0, 0, 10, 10), (20, 0, 10, 10), (40, 20, 10, 10)


def dog(bbox: tuple[int, ...], score: float = 0.9) -> dict[str, Any]:
    x, y, w, h = bbox
    return found("Dog", score, (x, y, x + w, y + h))


def cat(bbox: tuple[int, ...], score: float = 0.9) -> dict[str, Any]:
    x, y, w, h = bbox
    return found("Cat", score, (x, y, x + w, y + h), category_id=2, mid="/m/01yrx")


def photo(*detections: dict[str, Any], name: str = "a.jpg") -> ImageRow:
    return row(name, *detections, height=40, width=60)


def test_one_exact_detection_scores_1(tmp_path: Path):
    done = evaluated(write_truth(tmp_path, [thing(LEFT)]), photo(dog(LEFT)))
    assert done.boxes.overall["AP"] == pytest.approx(1)
    assert done.boxes.overall["AP_large"] is None
    assert done.boxes.by_class["cat"]["AP"] is None
    assert done.boxes.objects == {"all": 1, "small": 1, "medium": 0, "large": 0}
    assert done.masks is None
    assert done.work.total("flat").corrections == 0


def test_a_duplicate_is_one_box_to_delete(tmp_path: Path):
    done = evaluated(write_truth(tmp_path, [thing(LEFT)]), photo(dog(LEFT), dog(LEFT, 0.8)))
    cut = done.work.total("flat")
    assert (cut.right, cut.delete, cut.draw) == (1, 1, 0)
    assert done.confusion.counts == {("dog", "dog"): 1}  # the suggested threshold removes the duplicate


def test_crowd_regions_are_neither_work_nor_mistakes(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT), thing((20, 0, 40, 40), crowd=True)])
    done = evaluated(truth, photo(dog(LEFT), dog(RIGHT), dog(FAR)))
    assert done.work.objects == 1
    assert done.work.total("flat").corrections == 0
    assert done.confusion.counts == {("dog", "dog"): 1}


def test_detections_in_the_only_crowd_region_of_their_class_are_ignored(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT, 2), thing((20, 0, 40, 40), crowd=True)])
    done = evaluated(truth, photo(dog(RIGHT), dog(FAR), dog(LEFT)))
    assert done.work.by_class["dog"].detections == 1
    assert done.work.total("flat").corrections == 2


def test_a_box_of_the_wrong_class_counts_twice_and_is_a_confusion(tmp_path: Path):
    objects = [thing(LEFT), thing(RIGHT), thing(FAR, 2)]
    found_ = photo(dog(LEFT), cat(RIGHT, 0.8), cat(FAR, 0.7), dog((30, 30, 5, 5), 0.6))
    done = evaluated(write_truth(tmp_path, objects), found_)
    cut = done.work.total("flat")
    assert (cut.right, cut.delete, cut.draw) == (2, 2, 1)
    assert done.confusion.counts[("dog", "cat")] == 1
    assert done.confusion.relabel == 1
    assert tells(work_lines(done)[0], "wrong class", "1", "pair")


def test_confusion_counts_every_object_once(tmp_path: Path):
    objects = [thing(LEFT), thing(RIGHT), thing(FAR, 2)]
    done = evaluated(write_truth(tmp_path, objects), photo(dog(LEFT), cat(RIGHT, 0.95), cat((30, 30, 5, 5), 0.95)))
    counts = done.confusion.counts
    assert sum(n for (true, _), n in counts.items() if true == "dog") == 2
    assert sum(n for (true, _), n in counts.items() if true == "cat") == 1
    assert sum(n for (_, label), n in counts.items() if label is not None) == sum(
        cut.right + cut.delete for cut in [done.work.total("suggested")]
    )


def test_a_confused_pair_is_neither_missed_nor_background(tmp_path: Path):
    done = evaluated(write_truth(tmp_path, [thing(LEFT), thing(RIGHT, 2)]), photo(cat(LEFT, 0.9), cat(RIGHT, 0.8)))
    assert done.confusion.counts == {("cat", "cat"): 1, ("dog", "cat"): 1}


def test_thresholds_can_be_compared_without_changing_the_rest(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT), thing(RIGHT, 2)])
    run = photo(dog(LEFT, 0.4), dog(FAR, 0.3), cat(RIGHT, 0.6), cat(FAR, 0.45))
    done = evaluated(truth, run, compare_thresholds={"dog": 0.2})
    plain = evaluated(truth, run)
    given = done.work.by_class["dog"].given
    assert given is not None
    assert (given.right, given.delete, given.draw) == (1, 1, 0)
    total = done.work.total("given")
    assert (total.right, total.delete, total.draw) == (2, 1, 0)  # cats at 0.5
    assert any("--compare" in line[0] for line in work_table(done).rows)
    assert (done.boxes, done.work.total("flat")) == (plain.boxes, plain.work.total("flat"))
    assert done.work.total("flat").corrections == 1
    assert not plain.given


def test_compared_thresholds_apply_to_the_detectors_classes(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT)])
    run = photo(dog(LEFT, 0.8), cat((0, 0, 10, 9), 0.7))
    done = evaluated(truth, run, class_map={"Cat": "dog"}, compare_thresholds={"Dog": 0.9, "/m/01yrx": 0.6})
    total = done.work.total("given")
    # Without the dog, the cat is matched with its object.
    assert (total.right, total.delete, total.draw) == (1, 0, 0)


@pytest.mark.parametrize(
    ("compare", "wanted"), [({"Dogg": 0.5}, ("class|classes", "'Dogg'")), ({"Dog": 1.5}, ("Dog", "number", "0", "1"))]
)
def test_compared_thresholds_are_checked(tmp_path: Path, compare: dict[str, float], wanted: tuple[str, ...]):
    with pytest.raises(ConfigError, match=facts(*wanted)):
        evaluated(write_truth(tmp_path, [thing(LEFT)]), photo(dog(LEFT)), compare_thresholds=compare)


def test_a_note_reports_that_options_exclude_detections(tmp_path: Path):
    done = evaluated(write_truth(tmp_path, [thing(LEFT)]), photo(dog(LEFT), dog(FAR, 0.4)), score_threshold=0.5)
    assert len(done.overall.score) == 1
    assert told(done.notes, "--score-threshold", "excluded")


def test_detections_of_all_images_are_ranked_together(tmp_path: Path):
    images = [image(n, f"{n}.jpg") for n in (1, 2)]
    truth = write_truth(tmp_path, [thing(LEFT, image_id=1), thing(LEFT, image_id=2)], images)
    done = evaluated(
        truth, photo(dog(LEFT, 0.9), dog(FAR, 0.3), name="1.jpg"), photo(dog(LEFT, 0.8), dog(FAR, 0.2), name="2.jpg")
    )
    for ranking in (done.rankings["dog"], done.overall):
        assert ranking.score.tolist() == pytest.approx([0.9, 0.8, 0.3, 0.2])
        assert ranking.right.tolist() == [True, True, False, False]
    assert done.work.total("flat").corrections == 0


def test_held_out_images_are_measured_with_thresholds_of_the_other_images():
    # Correct on all images except those of one fold (0 and 5), where detections with the same score are false.
    images = np.arange(10)
    ranking = Ranking(np.full(10, 0.6, np.float32), images % 5 != 0, images, (images % 5 != 0).astype(int))
    done = compare_choices({"dog": ranking}, ranking)
    # Thresholds from the other folds keep 0.6, which leaves 2 boxes to delete here; no image has boxes to draw.
    assert done.held_out is not None
    assert done.held_out["own"].corrections == done.held_out["common"].corrections == done.headline.corrections == 2
    assert done.total("suggested").corrections == 2
    never = Ranking(ranking.score, ~ranking.right, images, np.ones(10, int))
    # The threshold removes all detections, so the object of each image has to be drawn.
    assert compare_choices({"dog": never}, never).headline.corrections == 10


def test_own_thresholds_are_suggested_only_if_they_save_work_on_held_out_images():
    # Cats at 0.4 are correct, dogs below 0.6 are false: no common threshold suits both.
    images = np.arange(40)
    dog = Ranking(
        np.concatenate((np.full(40, 0.8), np.full(40, 0.5))).astype(np.float32),
        np.arange(80) < 40,
        np.concatenate((images, images)),
        np.ones(40, int),
    )
    cat = Ranking(np.full(40, 0.4, np.float32), np.ones(40, bool), images, np.ones(40, int))
    order = np.argsort(-np.concatenate((dog.score, cat.score)), kind="stable")
    overall = Ranking(
        np.concatenate((dog.score, cat.score))[order],
        np.concatenate((dog.right, cat.right))[order],
        np.concatenate((dog.image, cat.image))[order],
        dog.objects + cat.objects,
    )
    done = compare_choices({"dog": dog, "cat": cat}, overall)
    assert done.recommended == "own"
    assert done.headline.corrections == 0 < done.common.corrections
    assert any(choice.own for choice in done.by_class.values())
    # Too few images for held-out images: one threshold for all classes is suggested.
    few = np.arange(40) < 9
    rankings = {
        name: replace(ranking.of_images(few), objects=ranking.objects[few])
        for name, ranking in (("dog", dog), ("cat", cat))
    }
    cut = replace(overall.of_images(few), objects=overall.objects[few])
    done = compare_choices(rankings, cut)
    assert (done.held_out, done.recommended) == (None, "common")
    assert not any(choice.own for choice in done.by_class.values())
    assert {choice.suggested.threshold for choice in done.by_class.values()} == {done.common.threshold}


@pytest.mark.parametrize("seed", range(20))
def test_the_suggestion_is_never_worse_on_held_out_images_than_one_threshold_for_all(seed: int):
    random = np.random.default_rng(seed)
    images, classes = 20, 6
    rankings = {}
    for number in range(classes):
        count = int(random.integers(0, 40))
        score = np.sort(random.random(count))[::-1].astype(np.float32)
        right = random.random(count) < score * random.random()
        place = random.integers(0, images, count)
        objects = np.bincount(place[right], minlength=images) + random.integers(0, 2, images)
        rankings[str(number)] = Ranking(score, right, place, objects)
    score = np.concatenate([ranking.score for ranking in rankings.values()])
    order = np.argsort(-score, kind="stable")
    overall = Ranking(
        score[order],
        np.concatenate([ranking.right for ranking in rankings.values()])[order],
        np.concatenate([ranking.image for ranking in rankings.values()])[order],
        np.sum([ranking.objects for ranking in rankings.values()], axis=0),
    )
    done = compare_choices(rankings, overall)
    assert done.held_out is not None
    assert done.headline == done.held_out[done.recommended]
    assert done.headline.corrections == min(done.held_out["common"].corrections, done.held_out["own"].corrections)
    assert any(choice.own for choice in done.by_class.values()) <= (done.recommended == "own")
    if done.recommended == "common":
        assert {choice.suggested.threshold for choice in done.by_class.values()} == {done.common.threshold}


def test_corrections_are_per_100_images(tmp_path: Path):
    images = [image(n, f"{n}.jpg") for n in range(1, 5)]
    truth = write_truth(tmp_path, [thing(LEFT, image_id=n) for n in (1, 1, 2)], images)
    done = evaluated(truth, *(photo(dog(LEFT), name=f"{n}.jpg") for n in range(1, 5)))
    rows = {line[0]: line[1:] for line in work_table(done).rows}
    assert rows["0.5 for all classes"] == ("50", "25", "75", "100%")
    assert rows["drawing every box manually"] == ("-", "75", "75", "100%")


def test_a_loose_box_is_false_at_a_higher_iou(tmp_path: Path):
    truth = write_truth(tmp_path, [thing((0, 0, 10, 10))])
    loose = photo(dog((0, 0, 10, 6)))
    assert evaluated(truth, loose).work.total("flat").right == 1
    assert evaluated(truth, loose, iou=0.75).work.total("flat").right == 0


def test_masks_are_scored_if_both_sides_have_them(tmp_path: Path):
    drawn = ["###...", "###...", "###...", "###..."]
    truth = write_truth(
        tmp_path,
        [thing((0, 0, 3, 4), segmentation={"size": [4, 6], "counts": mask_of(*drawn)})],
        [image(height=4, width=6)],
    )
    exact = row("a.jpg", found(mask=mask_of(*drawn)))
    half = row("a.jpg", found(mask=mask_of("######", "######", "######", "######")))
    for image_row, ap in ((exact, 1), (half, 0.1)):
        done = evaluated(truth, image_row)
        assert done.masks is not None
        assert done.masks.overall["AP"] == pytest.approx(ap)
    boxes_only = evaluated(truth, row("a.jpg", found()))
    assert boxes_only.masks is None


def test_masks_are_not_scored_against_a_truth_of_boxes(tmp_path: Path):
    truth = write_truth(tmp_path, [thing((0, 0, 3, 4), segmentation=[])], [image(height=4, width=6)])
    image_row = row("a.jpg", found(mask=mask_of("###...", "###...", "###...", "###...")))
    done = evaluated(truth, image_row, info=replace(INFO, masks=True))
    assert done.masks is None
    assert told(done.notes, "masks", "scored", "truth", "segmentation")
    # Of the admitted class, the truth has no object that could lack a mask.
    cats = evaluated(truth, image_row, info=replace(INFO, masks=True), include_class=["Cat"])
    assert cats.masks is None
    assert told(cats.notes, "masks", "scored", "truth", "segmentation")
    # Masks that are not scored are not read: it does not matter that they do not fit.
    unfit = row("a.jpg", found(mask=mask_of("##", "##")))
    assert evaluated(truth, unfit, info=replace(INFO, masks=True)).boxes.overall["AP"] == pytest.approx(1)


def test_a_run_without_detections_scores_0_without_an_error(tmp_path: Path):
    done = evaluated(write_truth(tmp_path, [thing(LEFT)]), photo())
    assert done.boxes.overall["AP"] == 0
    assert done.work.total("suggested").draw == 1
    assert told(done.notes, "no", "detection")
    evaluation_tables(done)
    evaluation_json(done)


def test_a_note_reports_a_run_with_a_high_threshold(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT)])
    notes = evaluated(truth, photo(dog(LEFT, 0.3))).notes
    assert told(notes, "0.3")
    assert told(notes, "AP", "lower")
    assert evaluated(truth, photo(dog(LEFT, 0.02))).notes == ()


def test_without_an_object_on_the_images_of_the_run_there_is_no_ap(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT, image_id=2)], [image(1), image(2, "b.jpg")])
    done = evaluated(truth, photo(dog(LEFT)))
    assert done.boxes.overall["AP"] is None
    assert done.boxes.objects["all"] == 0


def test_a_mask_that_does_not_fit_names_its_image(tmp_path: Path):
    truth = write_truth(
        tmp_path,
        [thing((0, 0, 3, 4), segmentation=[[0, 0, 3, 0, 3, 4, 0, 4]])],
        [image(1, height=4, width=6), image(2, "b.jpg", height=4, width=6)],
    )
    good, bad = mask_of("###...", "###...", "###...", "###..."), mask_of("##", "##")
    with pytest.raises(EvaluateError, match=r"b\.jpg"):
        evaluated(truth, row("a.jpg", found(mask=good)), row("b.jpg", found(mask=bad)))


def test_objects_with_and_without_an_area_count_by_their_size(tmp_path: Path):
    large = {**thing((0, 0, 100, 100)), "area": None}
    done = evaluated(write_truth(tmp_path, [thing(LEFT), large, {**thing(RIGHT), "area": 5000}]), photo(dog(LEFT)))
    assert done.boxes.objects == {"all": 3, "small": 1, "medium": 1, "large": 1}


def test_ids_of_the_truth_do_not_matter(tmp_path: Path):
    truth = write_truth(tmp_path, [{**thing(LEFT), "id": 0}, {**thing(RIGHT), "id": 0}])
    assert evaluated(truth, photo(dog(LEFT), dog(RIGHT))).boxes.overall["AP"] == pytest.approx(1)


def test_without_faster_coco_eval_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("faster_coco_eval"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'prelabel\[evaluate\]'"):
        evaluated(write_truth(tmp_path, [thing(LEFT)]), photo(dog(LEFT)))


def test_the_table_of_classes_has_most_objects_first_and_says_how_many_it_omits(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT, 2), thing(RIGHT, 2), thing(FAR)])
    done = evaluated(truth, photo(dog(FAR), cat(LEFT)))
    assert [line[0] for line in evaluated_classes_table(done).rows] == ["cat", "dog"]
    assert evaluated_classes_table(done, 1).title.startswith("1 of 2 classes")


def test_the_printed_tables_report_what_does_not_match(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(LEFT), thing(FAR, 2)])
    boat = found("Boat", 0.8, (30, 0, 40, 10), category_id=9, mid="")
    info = replace(INFO, classes=None)
    tables = evaluation_tables(evaluated(truth, photo(dog(LEFT), boat), info=info))
    cells = {cell for table_ in tables for line in table_.rows for cell in line}
    assert told(cells, "not in the truth", "Boat")
    assert told(cells, "never detected", "cat")
    assert told(cells, "--class-map", "--truth-labels coco")
    assert told(cells, "twice", "delete", "draw")
    assert any("--class-threshold" in cell for cell in cells)
    for table_ in tables:
        assert "\n" in table(table_.title, table_.rows, table_.header) or len(table_.rows) == 1


def ranked(random: np.random.Generator, images: int, quality: float) -> Ranking:
    count = int(random.integers(0, 60))
    score = np.sort(random.random(count))[::-1].astype(np.float32)
    right = random.random(count) < score * quality
    where = random.integers(0, images, count)
    return Ranking(score, right, where, np.bincount(where[right], minlength=images) + random.integers(0, 2, images))


@pytest.mark.parametrize("seed", range(30))
def test_suggested_thresholds_never_make_more_work_than_0_5_for_all_classes(seed: int):
    random = np.random.default_rng(seed)
    classes = {f"class {n}": ranked(random, 12, random.random() * 2) for n in range(8)}
    joined = [
        np.concatenate([getattr(ranking, key) for ranking in classes.values()]) for key in ("score", "right", "image")
    ]
    order = np.argsort(-joined[0], kind="stable")
    overall = Ranking(*(values[order] for values in joined), sum(ranking.objects for ranking in classes.values()))
    done = compare_choices(classes, overall)
    assert done.total("suggested").corrections <= done.common.corrections <= done.total("flat").corrections
    assert done.held_out is not None
    for choice in done.by_class.values():
        assert choice.own or choice.suggested.threshold == done.common.threshold


def test_a_class_gets_its_own_threshold_when_it_clearly_needs_one():
    scores = np.array([0.9] * 10 + [0.3] * 10, np.float32)
    low = Ranking(scores, np.ones(20, bool), np.arange(20), np.ones(20, int))
    high = Ranking(np.full(30, 0.3, np.float32), np.zeros(30, bool), np.arange(30) % 20, np.zeros(20, int))
    overall = Ranking(
        np.concatenate([low.score, high.score]),
        np.concatenate([low.right, high.right]),
        np.arange(50) % 20,
        low.objects,
    )
    done = compare_choices({"low": low, "high": high}, overall)
    assert done.by_class["low"].own
    assert done.by_class["low"].suggested.threshold <= 0.3
    assert not done.by_class["high"].own


def test_a_class_with_one_object_gets_the_common_threshold():
    single = Ranking(np.array([0.3], np.float32), np.array([True]), np.zeros(1, int), np.ones(1, int))
    many = Ranking(np.full(20, 0.9, np.float32), np.ones(20, bool), np.zeros(20, int), np.array([20]))
    wrong = Ranking(np.full(20, 0.3, np.float32), np.zeros(20, bool), np.zeros(20, int), np.array([0]))
    overall = Ranking(
        np.concatenate([many.score, single.score, wrong.score]),
        np.concatenate([many.right, single.right, wrong.right]),
        np.zeros(41, int),
        np.array([21]),
    )
    assert not compare_choices({"one": single, "many": many, "wrong": wrong}, overall).by_class["one"].own


def test_no_threshold_is_suggested_below_the_runs_threshold_of_a_class(tmp_path: Path):
    # Dogs are correct down to 0.1, where half of the objects are; of cats, the run kept only scores above 0.6.
    truth = write_truth(tmp_path, [thing(LEFT), thing(RIGHT), thing(RIGHT, 2)])
    image_row = photo(dog(LEFT, 0.1), dog(RIGHT, 0.1), cat(RIGHT, 0.8))
    kept = Selection(score_threshold=0.05, class_threshold={"Cat": 0.6})
    done = evaluated(truth, image_row, info=replace(INFO, kept=kept))
    assert done.work.common.threshold <= 0.1
    assert done.work.by_class["dog"].suggested.threshold <= 0.1
    assert done.work.by_class["cat"].suggested.threshold == 0.6
    # The same with a threshold that is given to `evaluate`.
    done = evaluated(truth, image_row, class_threshold={"Cat": 0.7})
    assert done.work.by_class["cat"].suggested.threshold == 0.7
