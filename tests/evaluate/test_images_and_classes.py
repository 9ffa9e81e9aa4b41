"""Which image and which class is which; and what is said when none is."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zipfile
from pathlib import Path

import pytest

from prelabel.errors import ConfigError, EvaluateError
from prelabel.evaluate.tables import class_lines
from prelabel.evaluate.truth import read_truth
from prelabel.storage import Storage
from prelabel.store.run import ClassName
from tests.evaluate.cases import CATEGORIES, evaluated, image, thing, write_truth
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


def test_images_match_by_stem_where_paths_differ(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "val2017/a.png"), image(2, "b.jpg")])
    done = evaluated(truth, row("x/a.jpg", DOG, **SIZE), row("b.jpg", **SIZE))
    assert (done.images.matched, done.images.by_stem) == (2, 1)
    assert done.boxes.overall["AP"] == pytest.approx(1)


def test_a_path_goes_before_a_stem_whatever_the_order(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "a/1.jpg")])
    other = row("b/1.jpg", found("Dog", 0.9, (30, 30, 40, 40)), **SIZE)
    for rows in ([row("a/1.jpg", DOG, **SIZE), other], [other, row("a/1.jpg", DOG, **SIZE)]):
        done = evaluated(truth, *rows)
        assert (done.images.matched, done.images.only_run, done.images.by_stem) == (1, 1, 0)
        assert done.boxes.overall["AP"] == pytest.approx(1)


def test_an_image_id_from_a_list_matches_too(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "seven")])
    one = dataclasses.replace(row("seven", DOG, **SIZE), file_name="x/7.jpg")
    assert evaluated(truth, one).images.matched == 1


def test_two_images_of_the_run_for_one_of_the_truth_are_named(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "x/a.jpg")])
    with pytest.raises(EvaluateError, match=r"'1/a.jpg' and '2/a.jpg' of the run are both 'x/a.jpg'.*match path"):
        evaluated(truth, row("1/a.jpg", DOG, **SIZE), row("2/a.jpg", DOG, **SIZE))


def test_a_stem_that_the_truth_has_twice_matches_nothing(tmp_path: Path):
    images = [image(1, "x/a.jpg"), image(2, "y/a.jpg"), image(3, "b.jpg")]
    done = evaluated(write_truth(tmp_path, [thing(BOX)], images), row("a.jpg", DOG, **SIZE), row("b.jpg", DOG, **SIZE))
    assert (done.images.matched, done.images.only_run, done.images.only_truth) == (1, 0, 0)
    assert (done.images.unclear, done.images.unclear_example) == (1, "a.jpg")
    assert any("Not clear which image" in line and "'a.jpg'" in line for line in class_lines(done))


def test_images_of_the_run_that_could_each_be_the_truth_s_are_left_out_and_said(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing(BOX, image_id=2)], [image(1, "x/a.jpg"), image(2, "b.jpg")])
    done = evaluated(truth, *(row(name, DOG, **SIZE) for name in ("1/a.jpg", "2/a.jpg", "b.jpg")))
    assert (done.images.matched, done.images.unclear, done.images.only_truth) == (1, 2, 0)


def test_nothing_matches_says_what_was_seen_on_both_sides(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "x/one.jpg")])
    with pytest.raises(
        EvaluateError, match=r"no image of the run is in .*truth.json: the run has 'a.jpg', .*'x/one.jpg'"
    ):
        evaluated(truth, row("a.jpg", DOG, **SIZE))
    with pytest.raises(EvaluateError, match="say match auto"):
        evaluated(truth, row("one.jpg", DOG, **SIZE), match="path")


def test_an_image_of_another_size_is_left_out_and_said(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(1, "a.jpg"), image(2, "turned.jpg", height=60, width=40)])
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), row("turned.jpg", DOG, **SIZE))
    assert (done.images.matched, done.images.other_size, done.images.only_truth) == (1, 1, 0)
    assert "turned.jpg" in done.images.other_size_example
    with pytest.raises(EvaluateError, match=r"another size .*EXIF"):
        evaluated(truth, row("turned.jpg", DOG, **SIZE))


def test_a_truth_without_sizes_is_no_truth_of_other_sizes(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [{"id": 1, "file_name": "a.jpg"}])
    assert evaluated(truth, row("a.jpg", DOG, **SIZE)).boxes.overall["AP"] == pytest.approx(1)


def test_failed_images_count_as_nothing_found(tmp_path: Path):
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


def test_labels_match_without_regard_to_case(tmp_path: Path):
    done = evaluated(write_truth(tmp_path, [thing(BOX)]), row("a.jpg", DOG, **SIZE))
    assert done.classes.matched["dog"] == (ClassName(1, "Dog", "/m/0bt9lr"),)


def test_mids_go_before_names(tmp_path: Path):
    categories = [{"id": 1, "name": "hound", "mid": "/m/0bt9lr"}, {"id": 2, "name": "Dog", "mid": "/m/other"}]
    done = evaluated(write_truth(tmp_path, [thing(BOX)], categories=categories), row("a.jpg", DOG, **SIZE))
    assert done.work.by_class["hound"].suggested.right == 1


@pytest.mark.parametrize("classes", [(ClassName(1, "Dog", "/m/0bt9lr"),), None])
def test_names_count_where_mids_differ_and_it_is_said(tmp_path: Path, classes: tuple[ClassName, ...] | None):
    categories = [{"id": 1, "name": "dog", "mid": "/m/hound"}]
    truth = write_truth(tmp_path, [thing(BOX)], categories=categories)
    info = dataclasses.replace(INFO, classes=classes)
    done = evaluated(truth, row("a.jpg", found("Dog", 0.9, BOX), **SIZE), info=info)
    assert done.boxes.overall["AP"] == pytest.approx(1)
    assert [note for note in done.notes if "MIDs" in note] == [
        "paired by name although the MIDs differ: 'Dog' (/m/0bt9lr, in the list /m/hound); "
        "where that is wrong, leave out with exclude-class"
    ]


def test_mids_of_the_truth_come_from_a_label_map(tmp_path: Path):
    labels = tmp_path / "map.csv"
    labels.write_text("id,name,mid\n1,hound,/m/0bt9lr\n")
    categories = [{"id": 5, "name": "Hound"}, {"id": 6, "name": "unicorn"}]
    truth = write_truth(tmp_path, [thing(BOX, 5)], categories=categories)
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), truth_labels=str(labels))
    assert done.boxes.by_class["Hound"]["AP"] == pytest.approx(1)
    assert any("no MID to: unicorn" in note for note in done.notes)


def test_a_label_map_of_other_classes_is_an_error(tmp_path: Path):
    labels = tmp_path / "map.csv"
    labels.write_text("id,name,mid\n1,Toaster,/m/01k6s3\n")
    with pytest.raises(EvaluateError, match=r"gives no MID to any category of the truth, e.g. 'dog'"):
        evaluated(write_truth(tmp_path, [thing(BOX)]), row("a.jpg", DOG, **SIZE), truth_labels=str(labels))


@pytest.mark.parametrize("name", ["Wolf", "/m/wolf"])
def test_a_class_map_names_what_does_not_match_by_itself(tmp_path: Path, name: str):
    info = dataclasses.replace(INFO, classes=(ClassName(3, "Wolf", "/m/wolf"),))
    one = row("a.jpg", found("Wolf", 0.9, BOX, category_id=3, mid="/m/wolf"), **SIZE)
    done = evaluated(write_truth(tmp_path, [thing(BOX)]), one, info=info, class_map={name: "DOG"})
    assert done.boxes.by_class["dog"]["AP"] == pytest.approx(1)


def test_classes_without_a_counterpart_are_listed_and_do_not_count(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing((20, 20, 9, 9), 2)])
    info = dataclasses.replace(INFO, classes=None)
    boat = found("Boat", 0.8, (30, 0, 40, 10), category_id=9, mid="")
    done = evaluated(truth, row("a.jpg", DOG, boat, boat, **SIZE), info=info)
    assert done.classes.only_run == {"Boat": 2}
    assert done.classes.only_truth == ("cat",)
    assert done.work.total("flat").delete == 0
    # Objects of a class the detector does not know are missed all the same.
    assert done.work.total("flat").draw == 1
    assert done.boxes.overall["AP"] == pytest.approx(0.5)


def test_no_class_matches_says_what_was_seen_on_both_sides(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], categories=[{"id": 1, "name": "hund"}])
    with pytest.raises(EvaluateError, match=r"the run has 'Dog' \(/m/0bt9lr\), .*, the truth 'hund'; .*class-map"):
        evaluated(truth, row("a.jpg", DOG, **SIZE))


def test_included_classes_are_all_that_is_compared(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX), thing((20, 20, 9, 9), 2)])
    done = evaluated(truth, row("a.jpg", DOG, **SIZE), include_class=("Dog",))
    assert list(done.work.by_class) == ["dog"]
    assert done.boxes.overall["AP"] == pytest.approx(1)
    assert list(evaluated(truth, row("a.jpg", DOG, **SIZE), exclude_class=("Cat",)).work.by_class) == ["dog"]


def test_an_option_that_names_no_class_of_the_detector_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="no class 'Dogg'"):
        evaluated(write_truth(tmp_path, [thing(BOX)]), row("a.jpg", DOG, **SIZE), include_class=("Dogg",))


def test_a_missing_truth_is_a_mistake_of_use(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        read_truth(str(tmp_path / "none.json"), Storage())
    with pytest.raises(ConfigError, match="truth is missing"):
        evaluated("")


GOOD = {"images": [image()], "annotations": [{"id": 1, **thing(BOX)}], "categories": list(CATEGORIES)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "is no COCO dataset"),
        ({}, "is no COCO dataset"),
        ({**GOOD, "images": []}, "annotation 1 is of image 1, which is not among the images"),
        ({**GOOD, "images": [{"id": 1}]}, "every image needs an id and a file_name"),
        ({**GOOD, "images": [{"id": [], "file_name": "a"}]}, "every image needs an id and a file_name"),
        ({**GOOD, "images": [image(), image()]}, "image id 1 twice"),
        ({**GOOD, "images": [image(), image(2)]}, "image 'a.jpg' twice"),
        ({**GOOD, "categories": []}, "has no categories"),
        ({**GOOD, "categories": [{"id": 1}]}, "every category needs a whole number id and a name"),
        ({**GOOD, "categories": [{"id": 1e999, "name": "a"}]}, "every category needs a whole number id and a name"),
        ({**GOOD, "annotations": [{**thing(BOX), "category_id": 1e999}]}, "annotation 0 needs image_id"),
        ({**GOOD, "categories": [CATEGORIES[0], CATEGORIES[0]]}, "category id 1 twice"),
        ({**GOOD, "categories": [CATEGORIES[0], {"id": 2, "name": "dog"}]}, "category name 'dog' twice"),
        ({**GOOD, "annotations": []}, "has no objects"),
        ({**GOOD, "annotations": [thing(BOX, crowd=True)]}, "has no objects"),
        ({**GOOD, "annotations": ["x"]}, "annotation 0 needs image_id"),
        ({**GOOD, "annotations": [thing(BOX, 9)]}, "of category 9, which is not among"),
        ({**GOOD, "annotations": [thing(BOX, image_id=[1])]}, r"of image \[1\], which is not among"),
        ({**GOOD, "annotations": [thing((0, 0, -1, 2))]}, "a bbox that is none"),
        ({**GOOD, "annotations": [thing((0, 0, float("nan"), 2))]}, "a bbox that is none"),
    ],
)
def test_what_is_wrong_with_a_truth_is_said(tmp_path: Path, change: object, message: str):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(change))
    with pytest.raises(EvaluateError, match=message) as caught:
        evaluated(str(path), row("a.jpg", DOG, **SIZE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_a_damaged_truth_is_said(tmp_path: Path, text: str):
    path = tmp_path / "truth.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(EvaluateError, match="cannot be read"):
        read_truth(str(path), Storage())


def test_unnamed_classes_paired_by_their_numbers_are_told_loudly(tmp_path: Path):
    info = dataclasses.replace(INFO, classes=None)
    one = row("a.jpg", found("1", 0.9, BOX, category_id=1, mid=""), **SIZE)
    truth = write_truth(tmp_path, [thing(BOX)])
    done = evaluated(truth, one, info=info)
    (note,) = [note for note in done.notes if note.startswith("ASSUMED")]
    assert "1 classes of the run have no name" in note
    assert "1 with 'dog'" in note
    assert "class-map" in note
    assert "--label-map" in note
    # Named by the user, or by the model, nothing is assumed.
    done = evaluated(truth, one, info=info, class_map={"1": "dog"})
    assert done.boxes.overall["AP"] == pytest.approx(1)
    assert not any(note.startswith("ASSUMED") for note in done.notes)
    done = evaluated(truth, row("a.jpg", DOG, **SIZE))
    assert not any(note.startswith("ASSUMED") for note in done.notes)


def test_an_archive_in_place_of_json_is_said_to_be_one(tmp_path: Path):
    path = tmp_path / "project-1-coco.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("result.json", "{}")
    with pytest.raises(ConfigError, match=r"project-1-coco\.zip is a ZIP file.*unpack it.*result\.json"):
        evaluated(str(path), row("a.jpg", DOG, **SIZE))
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(ConfigError, match=r"t\.json\.gz is a gzip file"):
        evaluated(str(tmp_path / "t.json.gz"), row("a.jpg", DOG, **SIZE))
