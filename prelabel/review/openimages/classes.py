"""The classes of Open Images by position, and which classes a box or a label counts for.

A Dog is a Carnivore, a Mammal and an Animal. So a box of a Dog counts for these four classes, and so does the label
that an image shows a Dog; the label that it shows no Animal counts for Animal and everything below it. The root,
Entity, is no class, and a class is no part of another: a Wheel is no Car.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.labels.class_tree import ClassTree, open_images_tree

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class OpenImagesClasses:
    """Classes, and the relation between them.

    Attributes:
        mids: MID of each class.
        names: Name of each class.
        positions: Position of each class, by MID.
        above: `(classes, classes)` whether the class of the column is that of the row, or above it.
    """

    mids: tuple[str, ...]
    names: tuple[str, ...]
    positions: dict[str, int]
    above: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.mids)

    @classmethod
    def of(cls, tree: ClassTree) -> OpenImagesClasses:
        """The classes of a tree, without its root."""
        classes = [entry for entry in tree.classes if tree.parents(entry.mid)]
        positions = {entry.mid: position for position, entry in enumerate(classes)}
        above = np.zeros((len(classes), len(classes)), bool)
        for mid, position in positions.items():
            above[position, [positions[entry.mid] for entry in tree.ancestors(mid) if entry.mid in positions]] = True
        return cls(tuple(entry.mid for entry in classes), tuple(entry.name for entry in classes), positions, above)

    def with_ancestors(self, category: Indices) -> tuple[Indices, Indices]:
        """Repeat entries for all classes above theirs.

        Args:
            category: `(N,)` position of each entry's class.

        Returns:
            `(M,)` the index of the entry that is repeated, and the class that it is repeated for: its own and each one
            above it, entry by entry.
        """
        counts = self.above.sum(axis=1)[category]
        begin = np.concatenate(([0], np.cumsum(self.above.sum(axis=1))))[category]
        entry = np.repeat(np.arange(len(category)), counts)
        place = np.arange(len(entry)) - np.repeat(np.cumsum(counts) - counts, counts)
        return entry, np.nonzero(self.above)[1][np.repeat(begin, counts) + place]


@functools.cache
def open_images_classes() -> OpenImagesClasses:
    """The 601 classes of Open Images V4."""
    return OpenImagesClasses.of(open_images_tree())
