"""Matching of images and classes, and the messages if nothing matches."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zipfile
from pathlib import Path

import pytest

from prelabel.detections import ClassName
from prelabel.errors import ConfigError, EvaluateError
from prelabel.review.report.tables import class_lines
from prelabel.review.truth import read_truth
from prelabel.storage.files import Storage
from tests.messages import facts, tells, told
from tests.review.cases import CATEGORIES, evaluated, image, thing, write_truth
from tests.rows import INFO, failed_row, found, row

BOX = (0, 0, 10, 10)
DOG = found("Dog", 0.9, BOX)
SIZE = {"height": 40, "width": 60}


@pytest.mark.parametrize("name", ["photos/a.jpg", "./photos/a.jpg", "photos\\a.jpg"])
def test_images_match_by_path(tmp_path: Path, name: str):
    truth = write_truth(tmp_path, [thing(BOX, image_id=7)], [image(7, name)])
    done = evaluated(truth, row("photos/a.jpg", DOG, **SIZE), match="path")
    assert (done.images.matched, done.images.by_stem) == (1, 0)
    assert done.boxes.overall["AP"] == pytest.approx(1)


def test_images_match_by_stem_if_paths_differ(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "val2017/a.png"), image(2, "b.jpg")])
    done = evaluated(truth, row("x/a.jpg", DOG, **SIZE), row("b.jpg", **SIZE))
    assert (done.images.matched, done.images.by_stem) == (2, 1)
    assert done.boxes.overall["AP"] == pytest.approx(1)


def test_a_path_wins_over_a_stem_in_any_order(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "a/1.jpg")])
    other = row("b/1.jpg", found("Dog", 0.9, (30, 30, 40, 40)), **SIZE)
    for rows in ([row("a/1.jpg", DOG, **SIZE), other], [other, row("a/1.jpg", DOG, **SIZE)]):
        done = evaluated(truth, *rows)
        assert (done.images.matched, done.images.only_run, done.images.by_stem) == (1, 1, 0)
        assert done.boxes.overall["AP"] == pytest.approx(1)


def test_an_image_id_from_a_list_matches_too(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "seven")])
    image_row = dataclasses.replace(row("seven", DOG, **SIZE), file_name="x/7.jpg")
    assert evaluated(truth, image_row).images.matched == 1


def test_two_images_of_the_run_that_match_the_same_image_are_named(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "x/a.jpg")])
    with pytest.raises(EvaluateError, match=facts("'1/a.jpg'", "'2/a.jpg'", "'x/a.jpg'", "match path")):
        evaluated(truth, row("1/a.jpg", DOG, **SIZE), row("2/a.jpg", DOG, **SIZE))


def test_a_stem_that_the_truth_has_twice_matches_nothing(tmp_path: Path):
    images = [image(1, "x/a.jpg"), image(2, "y/a.jpg"), image(3, "b.jpg")]
    done = evaluated(write_truth(tmp_path, [thing(BOX)], images), row("a.jpg", DOG, **SIZE), row("b.jpg", DOG, **SIZE))
    assert (done.images.matched, done.images.only_run, done.images.only_truth) == (1, 0, 0)
    assert (done.images.unclear, done.images.unclear_example) == (1, "a.jpg")
    assert told(class_lines(done), "ambiguous", "'a.jpg'")


def test_ambiguous_images_of_the_run_are_skipped_and_reported(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing(BOX, image_id=2)], [image(1, "x/a.jpg"), image(2, "b.jpg")])
    done = evaluated(truth, *(row(name, DOG, **SIZE) for name in ("1/a.jpg", "2/a.jpg", "b.jpg")))
    assert (done.images.matched, done.images.unclear, done.images.only_truth) == (1, 2, 0)


def test_if_no_image_matches_the_message_names_images_of_both_sides(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "x/one.jpg")])
    with pytest.raises(EvaluateError, match=facts("truth.json", "'a.jpg'", "'x/one.jpg'")):
        evaluated(truth, row("a.jpg", DOG, **SIZE))
    with pytest.raises(EvaluateError, match="match auto"):
        evaluated(truth, row("one.jpg", DOG, **SIZE), match="path")


def test_an_image_of_another_size_is_skipped_and_reported(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "a.jpg"), image(2, "turned.jpg", height=60, width=40)])
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), row("turned.jpg", DOG, **SIZE))
    assert (done.images.matched, done.images.other_size, done.images.only_truth) == (1, 1, 0)
    assert "turned.jpg" in done.images.other_size_example
    with pytest.raises(EvaluateError, match=facts("size", "EXIF")):
        evaluated(truth, row("turned.jpg", DOG, **SIZE))


def test_a_truth_without_sizes_matches(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [{"id": 1, "file_name": "a.jpg"}])
    assert evaluated(truth, row("a.jpg", DOG, **SIZE)).boxes.overall["AP"] == pytest.approx(1)


def test_failed_images_count_as_images_without_detections(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing(BOX, image_id=2)], [image(1), image(2, "broken.jpg")])
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), failed_row())
    assert (done.images.matched, done.images.failed) == (2, 1)
    assert done.boxes.overall["AR_100"] == pytest.approx(0.5)
    assert done.work.total("suggested").draw == 1


def test_images_of_one_side_only_do_not_count(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing(BOX, image_id=2)], [image(1), image(2, "unseen.jpg")])
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), row("other.jpg", DOG, **SIZE))
    assert (done.images.only_run, done.images.only_truth) == (1, 1)
    assert done.boxes.overall["AP"] == pytest.approx(1)


def test_labels_match_case_insensitively(tmp_path: Path):
    done = evaluated(write_truth(tmp_path, [thing(BOX)]), row("a.jpg", DOG, **SIZE))
    assert done.classes.matched["dog"] == (ClassName(1, "Dog", "/m/0bt9lr"),)


def test_mids_win_over_names(tmp_path: Path):
    categories = [{"id": 1, "name": "hound", "mid": "/m/0bt9lr"}, {"id": 2, "name": "Dog", "mid": "/m/other"}]
    done = evaluated(write_truth(tmp_path, [thing(BOX)], categories=categories), row("a.jpg", DOG, **SIZE))
    assert done.work.by_class["hound"].suggested.right == 1


@pytest.mark.parametrize("classes", [(ClassName(1, "Dog", "/m/0bt9lr"),), None])
def test_names_match_if_mids_differ_with_a_note(tmp_path: Path, classes: tuple[ClassName, ...] | None):
    categories = [{"id": 1, "name": "dog", "mid": "/m/hound"}]
    truth = write_truth(tmp_path, [thing(BOX)], categories=categories)
    info = dataclasses.replace(INFO, classes=classes)
    done = evaluated(truth, row("a.jpg", found("Dog", 0.9, BOX), **SIZE), info=info)
    assert done.boxes.overall["AP"] == pytest.approx(1)
    (note,) = [note for note in done.notes if tells(note, "MID")]
    assert tells(note, "'Dog'", "/m/0bt9lr", "/m/hound", "exclude-class")


def test_mids_of_the_truth_come_from_a_label_map(tmp_path: Path):
    labels = tmp_path / "map.csv"
    labels.write_text("id,name,mid\n1,hound,/m/0bt9lr\n")
    categories = [{"id": 5, "name": "Hound"}, {"id": 6, "name": "unicorn"}]
    truth = write_truth(tmp_path, [thing(BOX, 5)], categories=categories)
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), truth_labels=str(labels))
    assert done.boxes.by_class["Hound"]["AP"] == pytest.approx(1)
    assert told(done.notes, "MID", "unicorn")


def test_a_label_map_of_other_classes_is_an_error(tmp_path: Path):
    labels = tmp_path / "map.csv"
    labels.write_text("id,name,mid\n1,Toaster,/m/01k6s3\n")
    with pytest.raises(EvaluateError, match=r"MID.*'dog'"):
        evaluated(write_truth(tmp_path, [thing(BOX)]), row("a.jpg", DOG, **SIZE), truth_labels=str(labels))


@pytest.mark.parametrize("name", ["Wolf", "/m/wolf"])
def test_a_class_map_pairs_classes_that_do_not_match(tmp_path: Path, name: str):
    info = dataclasses.replace(INFO, classes=(ClassName(3, "Wolf", "/m/wolf"),))
    image_row = row("a.jpg", found("Wolf", 0.9, BOX, category_id=3, mid="/m/wolf"), **SIZE)
    done = evaluated(write_truth(tmp_path, [thing(BOX)]), image_row, info=info, class_map={name: "DOG"})
    assert done.boxes.by_class["dog"]["AP"] == pytest.approx(1)


def test_rolled_up_classes_are_compared_with_the_class_above_them(tmp_path: Path):
    categories = [{"id": 1, "name": "animal"}, {"id": 2, "name": "cat"}]
    truth = write_truth(tmp_path, [thing(BOX)], categories=categories)
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), roll_up=("Animal",))
    assert done.boxes.by_class["animal"]["AP"] == pytest.approx(1)
    nameless = dataclasses.replace(INFO, classes=(ClassName(1, "Dog", ""),))
    done = evaluated(truth, row("a.jpg", {**DOG, "mid": ""}, **SIZE), info=nameless, roll_up=("Animal",))
    assert told(done.notes, "ASSUMED", "Dog as Dog", "Animal")


def test_classes_without_a_counterpart_are_listed_and_do_not_count(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing((20, 20, 9, 9), 2)])
    info = dataclasses.replace(INFO, classes=None)
    boat = found("Boat", 0.8, (30, 0, 40, 10), category_id=9, mid="")
    done = evaluated(truth, row("a.jpg", DOG, boat, boat, **SIZE), info=info)
    assert done.classes.only_run == {"Boat": 2}
    assert done.classes.only_truth == ("cat",)
    assert done.work.total("flat").delete == 0
    # Objects of a class that the detector does not have count as missed.
    assert done.work.total("flat").draw == 1
    assert done.boxes.overall["AP"] == pytest.approx(0.5)


def test_if_no_class_matches_the_message_names_classes_of_both_sides(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], categories=[{"id": 1, "name": "hund"}])
    with pytest.raises(EvaluateError, match=facts("'Dog'", "/m/0bt9lr", "'hund'", "class-map")):
        evaluated(truth, row("a.jpg", DOG, **SIZE))


def test_only_included_classes_are_compared(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing((20, 20, 9, 9), 2)])
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), include_class=("Dog",))
    assert list(done.work.by_class) == ["dog"]
    assert done.boxes.overall["AP"] == pytest.approx(1)
    assert list(evaluated(truth, row("a.jpg", DOG, **SIZE), exclude_class=("Cat",)).work.by_class) == ["dog"]


def test_an_option_with_an_unknown_class_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=facts("class|classes", "'Dogg'")):
        evaluated(write_truth(tmp_path, [thing(BOX)]), row("a.jpg", DOG, **SIZE), include_class=("Dogg",))


def test_excluding_all_classes_of_the_truth_is_an_error(tmp_path: Path):
    unknown = dataclasses.replace(INFO, classes=None)
    with pytest.raises(EvaluateError, match=r"include-class.*truth\.json"):
        evaluated(write_truth(tmp_path, [thing(BOX)]), row("a.jpg", DOG, **SIZE), info=unknown, include_class=("Dogg",))


def test_a_missing_truth_is_a_usage_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=facts("none.json", "no", "file")):
        read_truth(str(tmp_path / "none.json"), Storage())
    with pytest.raises(ConfigError, match=facts("truth")):
        evaluated("")


GOOD = {"images": [image()], "annotations": [{"id": 1, **thing(BOX)}], "categories": list(CATEGORIES)}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ([], ("COCO",)),
        ({}, ("COCO",)),
        ({**GOOD, "images": []}, ("annotation 1", "image_id", "1")),
        ({**GOOD, "images": [{"id": 1}]}, ("image", "id", "file_name")),
        ({**GOOD, "images": [{"id": [], "file_name": "a"}]}, ("image", "id", "file_name")),
        ({**GOOD, "images": [image(), image()]}, ("image", "id 1", "twice")),
        ({**GOOD, "images": [image(), image(2)]}, ("image", "'a.jpg'", "twice")),
        ({**GOOD, "categories": []}, ("no", "category|categories")),
        ({**GOOD, "categories": [{"id": 1}]}, ("category", "id", "name")),
        ({**GOOD, "categories": [{"id": 1e999, "name": "a"}]}, ("category", "id", "name")),
        ({**GOOD, "annotations": [{**thing(BOX), "category_id": 1e999}]}, ("annotation 0", "image_id")),
        ({**GOOD, "categories": [CATEGORIES[0], CATEGORIES[0]]}, ("category", "id 1", "twice")),
        ({**GOOD, "categories": [CATEGORIES[0], {"id": 2, "name": "dog"}]}, ("category", "name", "'dog'", "twice")),
        ({**GOOD, "annotations": []}, ("no", "objects")),
        ({**GOOD, "annotations": [thing(BOX, crowd=True)]}, ("no", "objects")),
        ({**GOOD, "annotations": ["x"]}, ("annotation 0", "image_id")),
        ({**GOOD, "annotations": [thing(BOX, 9)]}, ("annotation 0", "category_id 9")),
        ({**GOOD, "annotations": [thing(BOX, image_id=[1])]}, ("image_id", "[1]")),
        ({**GOOD, "annotations": [thing((0, 0, -1, 2))]}, ("annotation 0", "bbox")),
        ({**GOOD, "annotations": [thing((0, 0, float("nan"), 2))]}, ("annotation 0", "bbox")),
    ],
)
def test_an_invalid_ground_truth_is_reported_with_the_reason(tmp_path: Path, change: object, wanted: tuple[str, ...]):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(change))
    with pytest.raises(EvaluateError, match=facts("truth.json", *wanted)) as caught:
        evaluated(str(path), row("a.jpg", DOG, **SIZE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_a_corrupt_truth_is_an_error(tmp_path: Path, text: str):
    path = tmp_path / "truth.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(EvaluateError, match=facts("truth.json", "read")):
        read_truth(str(path), Storage())


def test_unnamed_classes_paired_by_number_give_a_prominent_note(tmp_path: Path):
    info = dataclasses.replace(INFO, classes=None)
    image_row = row("a.jpg", found("1", 0.9, BOX, category_id=1, mid=""), **SIZE)
    truth = write_truth(tmp_path, [thing(BOX)])
    done = evaluated(truth, image_row, info=info)
    (note,) = [note for note in done.notes if note.startswith("ASSUMED")]
    assert tells(note, "1", "name", "'dog'", "class-map", "label-map")
    # If the user or the model names the classes, nothing is assumed.
    done = evaluated(truth, image_row, info=info, class_map={"1": "dog"})
    assert done.boxes.overall["AP"] == pytest.approx(1)
    assert not any(note.startswith("ASSUMED") for note in done.notes)
    done = evaluated(truth, row("a.jpg", DOG, **SIZE))
    assert not any(note.startswith("ASSUMED") for note in done.notes)


def test_an_archive_instead_of_json_is_recognized(tmp_path: Path):
    path = tmp_path / "project-1-coco.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("result.json", "{}")
    with pytest.raises(ConfigError, match=facts("project-1-coco.zip", "ZIP", "result.json")):
        evaluated(str(path), row("a.jpg", DOG, **SIZE))
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(ConfigError, match=facts("t.json.gz", "gzip")):
        evaluated(str(tmp_path / "t.json.gz"), row("a.jpg", DOG, **SIZE))
