"""The class tree of Open Images: its relations, and the steps between classes."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from prelabel.labels.class_tree import ClassTree, TreeClass, open_images_tree
from prelabel.labels.maps import read_label_map

TREE = open_images_tree()


def rows() -> list[dict[str, str]]:
    text = resources.files("prelabel.labels").joinpath("openimages-tree.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def names(classes: object) -> set[str]:
    return {entry.name for entry in classes}  # type: ignore[attr-defined]


def steps(classes: dict[TreeClass, int]) -> dict[str, int]:
    return {entry.name: number for entry, number in classes.items()}


def test_a_class_is_found_by_mid_and_by_name_in_any_case() -> None:
    dog = TreeClass("/m/0bt9lr", "Dog")
    assert TREE.find("/m/0bt9lr") == TREE.find("Dog") == TREE.find("dOG") == dog
    assert TREE.find("/M/0BT9LR") is None
    assert TREE.find("pet") is None
    with pytest.raises(KeyError, match="pet"):
        TREE.ancestors("pet")


def test_ancestors_are_the_nearest_first_with_their_steps() -> None:
    ancestors = TREE.ancestors("Dog")
    assert list(steps(ancestors).items()) == [("Dog", 0), ("Carnivore", 1), ("Mammal", 2), ("Animal", 3), ("Entity", 4)]


def test_a_class_of_several_parents_has_the_fewest_steps_to_each_ancestor() -> None:
    assert names(TREE.parents("Tank")) == {"Land vehicle", "Weapon"}
    expected = {"Tank": 0, "Land vehicle": 1, "Weapon": 1, "Vehicle": 2, "Entity": 2}
    assert steps(TREE.ancestors("Tank")) == expected


def test_parts_are_no_subcategories() -> None:
    parts = {row["label"]: row["parent_label"] for row in rows() if row["relation"] == "part"}
    assert parts["Bicycle wheel"] == "Bicycle"
    assert "Bicycle" not in names(TREE.ancestors("Bicycle wheel"))
    assert names(TREE.parents("Bicycle wheel")) == {"Entity"}


def test_a_tiny_tree_takes_the_shorter_of_two_ways() -> None:
    a, b, c, d = (TreeClass(f"/m/{name}", name) for name in "abcd")
    tree = ClassTree([(b, a), (c, b), (d, c), (d, a)])
    assert tree.ancestors("d") == {d: 0, c: 1, a: 1, b: 2}
    assert tree.ancestors("/m/a") == {a: 0}
    assert tree.classes == (b, a, c, d)


def test_ancestors_of_all_classes_are_those_of_matrix_powers() -> None:
    """An independent way: `k` steps lead from one class to another where the `k`-th power of the matrix is not 0."""
    number = {mid: n for n, mid in enumerate(sorted({row[key] for row in rows() for key in ("mid", "parent_mid")}))}
    assert len(number) == len(TREE.classes) == 602
    parents = np.zeros((len(number), len(number)))
    for row in rows():
        if row["relation"] == "subcategory":
            parents[number[row["mid"]], number[row["parent_mid"]]] = 1
    distance = np.full(parents.shape, -1)
    power = np.eye(len(number))
    for step in range(len(number)):
        if not power.any():
            break
        distance[(power > 0) & (distance < 0)] = step
        power = np.minimum(power @ parents, 1)
    assert not power.any(), "a class is above itself"
    assert np.count_nonzero(parents.sum(axis=1) > 1) == 45
    for entry in TREE.classes:
        row = distance[number[entry.mid]]
        upwards = {number[other.mid]: step for other, step in TREE.ancestors(entry.mid).items()}
        assert upwards == {n: row[n] for n in np.flatnonzero(row >= 0)}, entry
        assert list(upwards.values()) == sorted(upwards.values())


def test_every_class_is_below_the_root_and_has_a_name_of_its_own() -> None:
    folded = {entry.name.casefold() for entry in TREE.classes}
    assert len(folded) == len(TREE.classes)
    assert all("Entity" in names(TREE.ancestors(entry.mid)) for entry in TREE.classes)


def test_the_tree_has_the_classes_of_the_label_map_under_the_same_names(assets: Path) -> None:
    classes = read_label_map(str(assets / "labels/openimages-v4-601.pbtxt")).classes.values()
    assert {(entry.mid, entry.name) for entry in TREE.classes} - {("/m/0bl9f", "Entity")} == {
        (class_name.mid, class_name.name) for class_name in classes
    }


def test_the_table_is_the_official_one(assets: Path) -> None:
    packaged = resources.files("prelabel.labels").joinpath("openimages-tree.csv").read_bytes()
    assert packaged == (assets / "labels/openimages-v4-hierarchy.csv").read_bytes()
