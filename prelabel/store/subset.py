"""Some images of a run, in an order of their own: where their rows are, and which place each image has.

    the plan     shard 0: a b c    shard 1: d e f        by shard  0: rows 0, 2    1: row 1
    the list     e a c                                   order     e 0, a 1, c 2

Rows are always read in the order of the plan, shard by shard, since the images next to each other in a list may be in
any shard. Whoever needs the order of the list sorts what was made from the rows (`ImageOrder`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.store.plan import Plan, digests_of

#: The position of an image that is not there.
ABSENT = -1

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """The place of each image in a list; 24 bytes per image.

    Attributes:
        digests: `(N,)` `digests_of` the ids, ascending.
        places: `(N,)` the place of each in the list, from 0.
    """

    digests: npt.NDArray[np.bytes_]
    places: Positions

    @classmethod
    def of(cls, digests: npt.NDArray[np.bytes_]) -> ImageOrder:
        """The order of ids, given by their digests."""
        places = digests.argsort()
        return cls(digests[places], places)

    def places_of(self, digests: npt.NDArray[np.bytes_]) -> Positions:
        """The place of each id, given by its digest; `ABSENT` if it is not in the list."""
        if not len(self.digests):
            return np.full(len(digests), ABSENT)
        nearest = np.minimum(np.searchsorted(self.digests, digests), len(self.digests) - 1)
        return np.where(self.digests[nearest] == digests, self.places[nearest], ABSENT)

    def place_of(self, image_id: str) -> int:
        """The place of an id, or `ABSENT`."""
        return int(self.places_of(digests_of([image_id]))[0])


@dataclass(frozen=True, slots=True)
class Subset:
    """Some images of a run.

    Attributes:
        by_shard: The ascending positions of the rows in each shard that has any.
        order: The order of the images.
    """

    by_shard: Mapping[int, Positions]
    order: ImageOrder | None = None

    @classmethod
    def of(cls, positions: Positions, plan: Plan, order: ImageOrder) -> Subset:
        """The images at these positions of a plan, each once and in any order."""
        ascending = np.sort(positions)
        starts = plan.starts()
        bounds = np.searchsorted(ascending, starts).tolist()
        by_shard = {
            shard: ascending[begin:end] - starts[shard]
            for shard, (begin, end) in enumerate(itertools.pairwise(bounds))
            if begin < end
        }
        return cls(by_shard, order)

    def only(self, shard: int) -> Subset:
        """The images of one shard without their order, to send them to another process."""
        return Subset({shard: self.by_shard[shard]})
