"""Which classes of several runs are the same, how the new run names and numbers them, and who knows them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.fusion.classes import FusedClasses, RunClasses
from prelabel.select import Selection
from tests.fusion.conftest import CAT, DOG, HORSE, OTHER_DOG
from tests.messages import is_told, telling, told

ANIMAL, DEVICE = "/m/04rmv", "/m/020lf"


def classes(
    *runs: Sequence[ClassName],
    seen: Sequence[Sequence[ClassName] | None] = (),
    fingerprints: str = "",
    selection: Selection | None = None,
) -> FusedClasses:
    """Classes of runs a, b, ... with these label maps; a run that is in `seen` names its classes itself."""
    given = []
    for number, listed in enumerate(runs):
        detected = seen[number] if number < len(seen) else None
        fingerprint = fingerprints[number] if fingerprints else str(number)
        given.append(
            RunClasses(
                "abc"[number], fingerprint, tuple(listed) if detected is None else None, frozenset(detected or ())
            )
        )
    return FusedClasses.of(given, selection or Selection())


def test_classes_are_the_same_by_mid_whatever_their_names():
    fused = classes([DOG], [ClassName(18, "Canine", DOG.mid)])
    assert fused.listed == (DOG,)
    assert fused.by_run[1] == {("Canine", DOG.mid): DOG}
    assert told(fused.notes, "'Canine'", "'Dog'", DOG.mid, "b")


def test_classes_are_the_same_by_name_if_not_both_have_a_mid_and_this_is_told():
    for runs in ([DOG, CAT], [OTHER_DOG, HORSE]), ([OTHER_DOG, HORSE], [DOG, CAT]):
        fused = classes(*runs)
        assert [known.mid for known in fused.listed if known.name.casefold() == "dog"] == [DOG.mid]
        assert told(fused.notes, "ASSUMED", DOG.mid, "--class-map")


def test_the_first_run_names_and_numbers_a_class_and_taken_numbers_are_replaced():
    assert classes([DOG, CAT], [OTHER_DOG, HORSE]).listed == (DOG, CAT, ClassName(3, "horse"))
    assert classes([OTHER_DOG, HORSE], [DOG, CAT]).listed == (
        HORSE,
        CAT,
        ClassName(18, "dog", DOG.mid),
    )


def test_an_exact_name_goes_before_one_in_another_case():
    nail, finger = ClassName(1, "Nail"), ClassName(2, "nail")
    fused = classes([nail, finger], [ClassName(7, "nail"), ClassName(8, "Nail")])
    assert fused.by_run[1] == {("nail", ""): finger, ("Nail", ""): nail}


def test_runs_of_one_label_map_keep_it():
    fused = classes([DOG, CAT], [DOG, CAT])
    assert (fused.listed, fused.of_one_run, fused.notes) == ((DOG, CAT), {}, ())


def test_classes_of_one_name_and_different_mids_are_the_same_with_a_note():
    airplane, other = ClassName(1, "Airplane", "/m/0cmf2"), ClassName(5, "airplane", "/m/05czz6l")
    fused = classes([airplane, DOG], [other, CAT])
    assert fused.known_labels == ({"Airplane", "Dog"}, {"Airplane", "Cat"})
    assert fused.by_run[1]["airplane", other.mid] == airplane
    assert told(fused.notes, "although", airplane.mid, other.mid, "--class-map")
    apart = classes([airplane], [other], selection=Selection(class_map={other.mid: "Plane"}))
    assert apart.known_labels == ({"Airplane"}, {"Plane"})


MOUSE, COMPUTER_MOUSE = ClassName(1, "Mouse", ANIMAL), ClassName(2, "Computer mouse", DEVICE)


@pytest.mark.parametrize("name", ["mouse", "Mouse"])
def test_the_animal_is_not_the_computer_mouse(name: str):
    coco = ClassName(74, name, DEVICE)
    for runs in ([MOUSE, COMPUTER_MOUSE], [coco]), ([coco], [MOUSE, COMPUTER_MOUSE]):
        fused = classes(*runs)
        open_images = fused.by_run[runs.index([MOUSE, COMPUTER_MOUSE])]
        assert {key[0]: entry.name for key, entry in open_images.items()} == {
            "Mouse": "Mouse",
            "Computer mouse": "Computer mouse",
        }
        assert fused.by_run[runs.index([coco])][name, DEVICE].name == "Computer mouse"
        assert told(fused.notes, f"'{name}'", "'Computer mouse'", DEVICE)


def test_what_a_third_run_tells_apart_is_not_the_same():
    animal, device = ClassName(1, "Mouse", ANIMAL), ClassName(1, "Mouse", DEVICE)
    for third in ([MOUSE, COMPUTER_MOUSE], [COMPUTER_MOUSE, MOUSE]):
        fused = classes([animal], [device], third)
        assert fused.known_labels == ({"Mouse"}, {"Computer mouse"}, {"Mouse", "Computer mouse"})


def test_different_classes_that_would_get_one_name_are_refused_with_both_ways_out():
    animal, device = ClassName(1, "Mouse", ANIMAL), ClassName(1, "Mouse", DEVICE)
    # The third run knows that they differ, but its other name is already taken.
    third = [ClassName(1, "Mouse", ANIMAL), ClassName(2, "Pointer", DEVICE)]
    dogs = [ClassName(1, "Mouse", ANIMAL), ClassName(2, "pointer", DOG.mid)]
    with pytest.raises(ConfigError, match=telling("Mouse", ANIMAL, DEVICE, "a", "b", "--class-map")) as caught:
        classes([animal], [device], [*third, *dogs[1:]])
    assert "\n" not in str(caught.value)
    same = classes([animal], [device], [*third, *dogs[1:]], selection=Selection(class_map={"Mouse": "Mouse"}))
    assert same.known_labels[:2] == ({"Mouse"}, {"Mouse"})
    renamed = Selection(class_map={DEVICE: "Computer mouse"})
    assert classes([animal], [device], [*third, *dogs[1:]], selection=renamed).known_labels[1] == {"Computer mouse"}


def test_a_run_in_which_classes_of_several_mids_have_one_label_fits_another_one():
    pet = [ClassName(1, "pet", DOG.mid), ClassName(2, "pet", CAT.mid)]
    assert classes(pet, pet).listed == tuple(pet)
    assert classes(pet, pet[:1]).listed == tuple(pet)
    assert classes([DOG, CAT], pet).known_labels == ({"Dog", "Cat"}, {"Dog", "Cat"})


def test_numbers_without_names_are_the_same_only_in_runs_of_one_model():
    seventeen = ClassName(17, "17")
    seen = [[seventeen], [seventeen]]
    assert classes([], [], seen=seen, fingerprints="11").by_run[1] == {("17", ""): seventeen}
    with pytest.raises(ConfigError, match=telling("17", "a", "b", "--label-map")):
        classes([], [], seen=seen, fingerprints="12")
    mapped = classes([], [], seen=seen, fingerprints="12", selection=Selection(class_map={"17": "Dog"}))
    assert mapped.known_labels == ({"Dog"}, {"Dog"})


def test_a_run_that_names_its_classes_itself_knows_those_that_it_saw():
    fused = classes([], [DOG, CAT], seen=[[DOG]])
    assert fused.listed is None
    assert fused.known_labels == ({"Dog"}, {"Dog", "Cat"})
    assert fused.of_one_run == {"b": ("Cat",)}
    assert told(fused.notes, "ASSUMED", "a", "1")


def test_only_runs_that_know_a_class_weigh():
    fused = classes([DOG, CAT], [OTHER_DOG, HORSE], [DOG])
    weights = [3.0, 1.0, 0.5]
    assert fused.weights_of(["Cat", "Dog", "horse", "Dog"], [0, 1, 2], weights).tolist() == [3, 4.5, 1, 4.5]
    assert fused.weights_of(["Dog"], [1, 2], weights).tolist() == [1.5]


def test_the_class_map_and_the_roll_up_decide_who_knows_a_label():
    mapped = classes([DOG], [CAT], selection=Selection(class_map={"Dog": "pet", "Cat": "pet"}))
    assert (mapped.known_labels, mapped.of_one_run) == (({"pet"}, {"pet"}), {})
    rolled_up = classes([DOG], [ClassName(5, "cat")], selection=Selection(roll_up=("Animal",)))
    assert rolled_up.known_labels == ({"Animal"}, {"Animal"})


def test_a_class_that_only_one_run_renames_stays_apart():
    selection = Selection(class_map={DOG.mid: "Hound"})
    assert classes([DOG], [OTHER_DOG], selection=selection).known_labels == ({"Hound"}, {"dog"})


def test_an_option_that_names_no_class_of_any_run_is_refused():
    with pytest.raises(ConfigError, match=telling("no run", "Dgo", "Dog")):
        classes([DOG], [CAT], selection=Selection(class_threshold={"Dgo": 0.5}))
    assert classes([DOG], [CAT], selection=Selection(class_threshold={"Cat": 0.5})).listed == (DOG, CAT)


def test_an_option_that_names_no_class_is_told_if_a_run_does_not_list_its_classes():
    fused = classes([], [CAT], seen=[[DOG]], selection=Selection(include_class=("Dgo", "Cat")))
    assert any(is_told(note, "Dgo", "Dog") for note in fused.notes)
