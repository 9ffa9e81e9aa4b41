"""What a selection does with each class: its name, threshold and place in the class tree of Open Images."""

from __future__ import annotations

import csv
import pickle
from importlib import resources

import numpy as np
import pytest

from prelabel.detections import ClassName, Detections, ImageLabel
from prelabel.errors import ConfigError
from prelabel.labels.class_tree import open_images_tree
from prelabel.select import ExportSelection, Selection
from tests.messages import telling, tells

DOG, CAT, CAR, ANIMAL = "/m/0bt9lr", "/m/01yrx", "/m/0k4j", "/m/0jbk"
MAN, PERSON = "/m/04yx4", "/m/01g317"


def named(selection: Selection, label: str, mid: str = "") -> tuple[str, str]:
    return selection.class_of(label, mid)


def test_a_class_is_rolled_up_to_the_label_and_mid_of_the_class_above_it() -> None:
    selection = Selection(roll_up=("vehicle", ANIMAL))
    labels, mids = selection.rename_classes(["Dog", "Car", "Chair", "Animal"], [DOG, CAR, "/m/01mzpv", ANIMAL])
    assert labels.tolist() == ["Animal", "Vehicle", "Chair", "Animal"]
    assert mids.tolist() == [ANIMAL, "/m/07yv9", "/m/01mzpv", ANIMAL]


def test_the_nearest_class_wins_and_then_the_first_in_the_options() -> None:
    assert named(Selection(roll_up=("Animal", "Carnivore")), "Dog", DOG)[0] == "Carnivore"
    assert named(Selection(roll_up=("Animal", "Dog")), "Dog", DOG) == ("Dog", DOG)
    # A Tank is one step below Land vehicle and Weapon, and two below Vehicle.
    tank = open_images_tree().find("Tank")
    assert tank is not None
    assert named(Selection(roll_up=("Land vehicle", "Weapon")), *tank[::-1])[0] == "Land vehicle"
    assert named(Selection(roll_up=("Weapon", "Land vehicle", "Weapon")), *tank[::-1])[0] == "Weapon"
    assert named(Selection(roll_up=("Vehicle", "Weapon")), *tank[::-1])[0] == "Weapon"


def test_parts_are_not_rolled_up() -> None:
    assert named(Selection(roll_up=("Bicycle", "Person")), "Bicycle wheel", "/m/01bqk0")[0] == "Bicycle wheel"


def test_every_class_is_rolled_up_as_an_independent_walk_says() -> None:
    """Down from each named class, level by level, a class takes the first name that reaches it."""
    text = resources.files("prelabel.labels").joinpath("openimages-tree.csv").read_text(encoding="utf-8")
    edges = [(r["label"], r["parent_label"]) for r in csv.DictReader(text.splitlines()) if r["relation"] != "part"]
    names = ("Clothing", "Food", "Vehicle", "Animal", "Tool", "Weapon", "Kitchenware", "Person", "Tableware", "Toy")
    expected = {name: name for name in names}
    level = [(name, name) for name in names]
    while level:
        below = [(child, name) for parent, name in level for child, above in edges if above == parent]
        level = []
        for child, name in sorted(below, key=lambda pair: names.index(pair[1])):
            if child not in expected:
                expected[child] = name
                level.append((child, name))
    selection = Selection(roll_up=names)
    rolled_up = {entry.name: named(selection, entry.name, entry.mid)[0] for entry in open_images_tree().classes}
    assert rolled_up == {entry.name: expected.get(entry.name, entry.name) for entry in open_images_tree().classes}
    assert len(expected) > 300
    # Without MIDs, the names give the same.
    assert {name: named(selection, name.lower())[0] for name in expected} == expected


def test_a_class_is_placed_by_its_mid_before_its_name() -> None:
    selection = Selection(roll_up=("Animal", "Computer mouse"))
    assert named(selection, "mouse", "/m/020lf")[0] == "Computer mouse"
    assert named(selection, "mouse", "/m/04rmv")[0] == "Animal"
    assert named(selection, "mouse")[0] == "Animal"
    # COCO's label map has another MID for airplanes than Open Images.
    assert named(Selection(roll_up=("Vehicle",)), "airplane", "/m/05czz6l")[0] == "Vehicle"


def test_a_class_that_the_class_map_renames_is_placed_by_its_new_label() -> None:
    assert named(Selection(roll_up=("Animal",), class_map={"Dog": "pet"}), "Dog", DOG) == ("pet", DOG)
    assert named(Selection(roll_up=("Animal",), class_map={"Puppy": "dog"}), "Puppy") == ("Animal", ANIMAL)
    renamed = Selection(roll_up=("Animal",), class_map={"mouse": "Computer mouse"})
    assert named(renamed, "mouse") == ("Computer mouse", "")


def test_thresholds_and_filters_know_a_class_before_and_after_the_roll_up() -> None:
    selection = Selection(roll_up=("Animal",), class_threshold={"Animal": 0.6, "Cat": 0.2})
    assert [selection.threshold_of(*c) for c in (("Dog", DOG), ("Cat", CAT), ("Car", CAR))] == [0.6, 0.2, 0.05]
    assert Selection(roll_up=("Animal",), class_threshold={ANIMAL: 0.6}).threshold_of("Dog", DOG) == 0.6
    included = Selection(roll_up=("Animal",), include_class=("Animal",), exclude_class=("Cat",))
    assert [included.admits(*c) for c in (("Dog", DOG), ("Cat", CAT), ("Car", CAR))] == [True, False, False]


def test_subclasses_are_included_and_excluded_only_on_request() -> None:
    classes = (("Dog", DOG), ("Cat", CAT), ("Car", CAR), ("Animal", ANIMAL))

    def admitted(**options: object) -> list[bool]:
        return [Selection(**options).admits(*c) for c in classes]  # type: ignore[arg-type]

    assert admitted(include_class=("Animal",)) == [False, False, False, True]
    assert admitted(include_class=("Animal",), with_subclasses=True) == [True, True, False, True]
    assert admitted(exclude_class=("Carnivore",), with_subclasses=True) == [False, False, True, True]
    assert admitted(include_class=(ANIMAL,), exclude_class=("Dog",), with_subclasses=True) == [False, True, False, True]
    # Before or after the class map: both are names of the class.
    pets = {"Dog": "pet", "Car": "Cat"}
    assert admitted(include_class=("Animal",), with_subclasses=True, class_map=pets) == [True, True, True, True]
    assert admitted(include_class=("pet",), with_subclasses=True, class_map=pets) == [True, False, False, False]
    # A part is no subcategory.
    assert not Selection(include_class=("Person",), with_subclasses=True).admits("Human face", "/m/0dzct")
    # Without MIDs, by name.
    assert Selection(include_class=("Vehicle",), with_subclasses=True).admits("car", "")


XYXY = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]], np.float32)
PEOPLE = (["Person", "Man", "Person"], [PERSON, MAN, PERSON])


def kept(selection: Selection, score: tuple[float, ...] = (0.9, 0.6, 0.8)) -> list[int]:
    return selection.indices(np.array(score, np.float32), *PEOPLE, XYXY).tolist()


def test_the_most_specific_of_overlapping_boxes_is_kept_with_its_own_score() -> None:
    assert kept(Selection()) == [0, 2, 1]
    assert kept(Selection(most_specific=True)) == [2, 1]
    detections = Detections(
        height=10, width=60, xyxy=XYXY, category_id=[1, 2, 1], score=[0.9, 0.6, 0.8], label=PEOPLE[0], mid=PEOPLE[1]
    )
    result = Selection(most_specific=True).apply(detections)
    assert result.label.tolist() == ["Person", "Man"]
    np.testing.assert_array_equal(result.score, np.array([0.8, 0.6], np.float32))


def test_the_overlap_of_the_most_specific_is_that_of_nms_or_one_half() -> None:
    # The IoU of the first two boxes is 0.9.
    assert kept(Selection(most_specific=True, nms_iou=0.95)) == [0, 2, 1]
    assert kept(Selection(most_specific=True, nms_iou=0.85)) == [2, 1]
    half = np.array([[0, 0, 2, 5], [1, 0, 3, 5]], np.float32)
    score = np.array([0.9, 0.8], np.float32)
    assert Selection(most_specific=True).indices(score, *[p[:2] for p in PEOPLE], half).tolist() == [0, 1]


def test_a_specific_box_below_its_threshold_drops_nothing() -> None:
    assert kept(Selection(most_specific=True, score_threshold=0.7)) == [0, 2]
    assert kept(Selection(most_specific=True, exclude_class=("Man",))) == [0, 2]


def test_after_a_roll_up_the_most_specific_compares_the_new_classes() -> None:
    assert kept(Selection(most_specific=True, roll_up=("Person",))) == [0, 2, 1]
    assert kept(Selection(most_specific=True, roll_up=("Person",), nms_iou=0.5)) == [0, 2]


def test_each_image_is_looked_at_alone() -> None:
    score = np.array([0.9, 0.6, 0.8, 0.7], np.float32)
    label, mid = ["Person", "Man", "Man", "Person"], [PERSON, MAN, MAN, PERSON]
    boxes = np.array([[0, 0, 10, 10]] * 4, np.float32)
    selection = Selection(most_specific=True)
    assert selection.indices_by_image(score, label, mid, boxes, np.array([0, 1, 2, 2])).tolist() == [0, 1, 2]
    assert selection.indices_by_image(score[:0], [], [], boxes[:0], np.empty(0, np.intp)).tolist() == []


def test_labels_of_a_whole_image_follow_the_tree() -> None:
    labels = [ImageLabel(1, "Person", PERSON, 0.9), ImageLabel(2, "Man", MAN, 0.5), ImageLabel(3, "Dog", DOG, 0.4)]
    assert Selection(most_specific=True).apply_to_image_labels(labels) == tuple(labels[1:])
    rolled_up = Selection(roll_up=("Animal", "Person")).apply_to_image_labels(labels)
    assert rolled_up == (labels[0], ImageLabel(3, "Animal", ANIMAL, 0.4))
    assert Selection(roll_up=("Animal",)).changes_image_labels
    assert Selection(most_specific=True).changes_image_labels
    assert not Selection(nms_iou=0.5, score_threshold=0.5).changes_image_labels


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"roll_up": ("Vehicel",)}, ("roll-up", "Vehicel", "Open Images", "Vehicle")),
        ({"roll_up": ("/m/xyz",)}, ("roll-up", "/m/xyz", "Open Images")),
        ({"roll_up": ("",)}, ("class", "empty")),
        ({"with_subclasses": True}, ("with-subclasses", "include-class", "exclude-class")),
        (
            {"include_class": (DOG,), "exclude_class": ("animal",), "with_subclasses": True},
            ("with-subclasses", f"include-class {DOG}", "exclude-class animal"),
        ),
    ],
)
def test_what_the_tree_cannot_do_is_refused(options: dict, facts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=telling(*facts)):
        Selection(**options)


CLASSES = [ClassName(1, "person", PERSON), ClassName(2, "dog", DOG), ClassName(3, "car", "")]


def test_a_class_of_the_tree_is_known_if_the_detector_has_a_class_below_it() -> None:
    known = Selection(
        roll_up=("Vehicle", ANIMAL),
        include_class=("Vehicle", "Carnivore"),
        with_subclasses=True,
        class_threshold={"Animal": 0.5},
    )
    known.require_known_names(CLASSES)
    assert known.unknown_names([]) == ["Vehicle", "Carnivore", "Animal", ANIMAL]
    with pytest.raises(ConfigError, match=telling("'Carnivore'", "person, dog, car")):
        Selection(include_class=("Carnivore",)).require_known_names(CLASSES)
    with pytest.raises(ConfigError, match=telling("'Tool'", "below", "person, dog, car")):
        Selection(roll_up=("Tool", "Animal")).require_known_names(CLASSES)
    with pytest.raises(ConfigError, match=telling("'Tool'", "below")):
        Selection(exclude_class=("Tool",), with_subclasses=True).require_known_names(CLASSES)
    with pytest.raises(ConfigError, match=telling("'Vehicel'", "'Vehicle'")):
        Selection(include_class=("Vehicel",), with_subclasses=True).require_known_names(CLASSES)


def test_the_most_specific_needs_two_classes_on_one_path() -> None:
    with pytest.raises(ConfigError, match=telling("most-specific", "Open Images")):
        Selection(most_specific=True).require_known_names(CLASSES)
    Selection(most_specific=True).require_known_names([*CLASSES, ClassName(4, "Man", MAN)])


def test_classes_that_are_placed_by_name_or_not_at_all_are_reported() -> None:
    classes = [*CLASSES, ClassName(4, "mouse", ""), ClassName(5, "gizmo", ""), ClassName(6, "chair", "")]
    by_name, outside = Selection(roll_up=("Animal", "Vehicle")).class_notes(classes)
    assert tells(by_name, "ASSUMED", "Open Images", "car as Car", "mouse as Mouse", "Animal", "class-map")
    assert not tells(by_name, "dog|chair|person")
    assert tells(outside, "gizmo", "Open Images", "roll-up")
    assert not tells(outside, "car|with-subclasses")
    (only,) = Selection(include_class=("Vehicle",), with_subclasses=True).class_notes(classes[:4])
    assert tells(only, "car as Car")
    assert not tells(only, "mouse")
    (alone,) = Selection(include_class=("pet",), with_subclasses=True, class_map={"dog": "pet"}).class_notes(
        CLASSES[:2]
    )
    assert tells(alone, "with-subclasses", "pet", "Open Images")
    assert Selection(include_class=("dog",)).class_notes(classes) == []
    assert Selection(roll_up=("Animal",)).class_notes(CLASSES[:2]) == []


def test_a_low_threshold_for_the_most_specific_is_reported() -> None:
    (note,) = Selection(most_specific=True).notes
    assert tells(note, "most-specific", "0.05", "score-threshold", "0.3")
    assert ExportSelection(most_specific=True).notes == ()


def test_a_selection_survives_pickling_after_use() -> None:
    selection = Selection(roll_up=("Animal",), most_specific=True)
    assert named(selection, "Dog", DOG)[0] == "Animal"
    again = pickle.loads(pickle.dumps(selection))  # noqa: S301 - our own bytes
    assert again == selection
    assert named(again, "Cat", CAT)[0] == "Animal"


def test_classes_to_roll_up_may_be_joined_by_commas() -> None:
    assert Selection(roll_up=("Vehicle, Animal", "Person")).roll_up == ("Vehicle", "Animal", "Person")
    with pytest.raises(ConfigError, match=r"'Anmal'.*'Animal'"):
        Selection(roll_up=("Vehicle,Anmal",))


def test_no_class_of_the_tree_has_a_comma() -> None:
    assert not [entry for entry in open_images_tree().classes if "," in entry.name + entry.mid]
