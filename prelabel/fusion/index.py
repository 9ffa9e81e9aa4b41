"""Where the rows of each image are, in every run: arrays of 4 or 8 bytes per image and run.

The new run has the images of the first run, in its order, then those that only the second has, and so on:

    run A    a b c d             image      a b c d e
    run B    d e b               in A       0 1 2 3 -
                                 in B       - 2 - 0 1

Images are the same if they have the same `image_id`. Ids are compared by their digests (`store.plan.digests_of`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from prelabel.image_ref import ImageRef
from prelabel.store.plan import Plan
from prelabel.store.subset import ABSENT, ImageOrder, Positions


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """The images of several runs.

    Attributes:
        positions: For each run, `(N,)` the position of each image in the order of its plan, or `ABSENT`.
        is_new: For each run, whether each of its images is in none of the runs before, in the order of its plan.
    """

    positions: tuple[Positions, ...]
    is_new: tuple[npt.NDArray[np.bool_], ...]

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> ImageIndex:
        """Read the ids of all images. While it works, it takes about 50 bytes per image of the new run."""
        known = np.empty(0, "S16")
        positions: list[Positions] = []
        is_new = []
        for plan in plans:
            digests = plan.digests()
            image = ImageOrder.of(known).places_of(digests)
            new = image == ABSENT
            image[new] = len(known) + np.arange(new.sum())
            known = np.concatenate((known, digests[new]))
            position = np.full(len(known), ABSENT)
            position[image] = np.arange(len(digests))
            positions.append(position)
            is_new.append(new)
        filled = (np.concatenate((p, np.full(len(known) - len(p), ABSENT))) for p in positions)
        return cls(tuple(filled), tuple(is_new))

    def __len__(self) -> int:
        return len(self.positions[0])

    @property
    def runs_of_image(self) -> npt.NDArray[np.int64]:
        """`(N,)` the number of runs that have each image."""
        return sum((position != ABSENT for position in self.positions), np.zeros(len(self), np.int64))

    def refs(self, plans: Sequence[Plan]) -> Iterator[ImageRef]:
        """The images of the new run in order, as the first run that has one lists it."""
        for plan, new in zip(plans, self.is_new, strict=True):
            # The new run has its own history: its rows are of the first revision.
            yield from (
                replace(ref, revision=0, is_gone=False) for ref, is_new in zip(plan, new, strict=True) if is_new
            )
