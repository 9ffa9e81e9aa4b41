"""The class tree of Open Images: which class is a kind of which other.

    Entity                          open_images_tree().ancestors("Dog")
    ├── Animal                      -> {Dog: 0, Carnivore: 1, Mammal: 2, Animal: 3, Entity: 4}
    │   └── Mammal
    │       ├── Carnivore           The number of steps tells which of several classes is the nearest. The tree has
    │       │   ├── Cat             601 classes below its root, 45 of them with several parents: a Tank is a Land
    │       │   └── Dog             vehicle and a Weapon.
    │       └── ...
    └── ...

`openimages-tree.csv` beside this module has a row for each child and parent, by MID and name. Of its relations, only
`subcategory` counts (a Dog is a Carnivore), not `part` (a Bicycle wheel is a part of a Bicycle, and no bicycle).
"""

from __future__ import annotations

import csv
import functools
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple


class TreeClass(NamedTuple):
    """A class of the tree."""

    mid: str
    name: str


class ClassTree:
    """Classes with their parents; a class may have several.

    Methods take a class by its MID (compared exactly) or by its name (compared case-insensitively). `parents` and
    `ancestors` raise KeyError for any other text.

    Args:
        edges: Child and parent. No class may be above itself.
    """

    def __init__(self, edges: Iterable[tuple[TreeClass, TreeClass]]) -> None:
        self._by_mid: dict[str, TreeClass] = {}
        self._parents: dict[str, list[TreeClass]] = defaultdict(list)
        for child, parent in edges:
            self._by_mid.update({child.mid: child, parent.mid: parent})
            self._parents[child.mid].append(parent)
        self._by_name = {entry.name.casefold(): entry for entry in self._by_mid.values()}

    @property
    def classes(self) -> tuple[TreeClass, ...]:
        """All classes, the root included, in the order in which the edges name them."""
        return tuple(self._by_mid.values())

    def find(self, text: str) -> TreeClass | None:
        """The class with this MID or name, or None."""
        return self._by_mid.get(text) or self._by_name.get(text.casefold())

    def parents(self, text: str) -> tuple[TreeClass, ...]:
        """The classes directly above a class."""
        return tuple(self._parents.get(self._require(text).mid, ()))

    def ancestors(self, text: str) -> dict[TreeClass, int]:
        """The class itself and all classes above it, nearest first, each with the fewest steps to it."""
        steps = {self._require(text): 0}
        queue = list(steps)
        for entry in queue:  # grows while it is read
            for parent in self._parents.get(entry.mid, ()):
                if parent not in steps:
                    steps[parent] = steps[entry] + 1
                    queue.append(parent)
        return steps

    def _require(self, text: str) -> TreeClass:
        entry = self.find(text)
        if entry is None:
            raise KeyError(text)
        return entry


@functools.cache
def open_images_tree() -> ClassTree:
    """The class tree of Open Images V4."""
    text = resources.files("prelabel.labels").joinpath("openimages-tree.csv").read_text(encoding="utf-8")
    return ClassTree(
        (TreeClass(row["mid"], row["label"]), TreeClass(row["parent_mid"], row["parent_label"]))
        for row in csv.DictReader(text.splitlines())
        if row["relation"] == "subcategory"
    )
