"""Which images are shown when there are too many: a sample in which every class and every range of scores occurs.

Images are dealt to strata; here a run of five, of which three are wanted:

    stratum               images, by their draw
    Dog, high scores      b.jpg  a.jpg
    Dog, low scores       c.jpg
    Cat, high scores      a.jpg
    (nothing found)       e.jpg  d.jpg

The strata take turns, each giving its next image that was not taken: first one stratum of every class, then the other
score ranges, then all again. The draw of an image is a hash of the seed and its id, so the sample depends on neither
the order nor the speed of anything, and one more image in the run changes it little.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Hashable, Iterable

#: Ranges of scores from the threshold to 1, each a stratum of its class.
SCORE_RANGES = 4


def score_range(score: float, threshold: float) -> int:
    """`0` (lowest) to `SCORE_RANGES - 1`: which of the equal ranges from the threshold to 1 holds a score."""
    share = (score - threshold) / (1 - threshold) if threshold < 1 else 1.0
    return min(max(int(share * SCORE_RANGES), 0), SCORE_RANGES - 1)


class Sampler:
    """Takes images one by one and holds at most `limit` of each stratum.

    Args:
        limit: Images wanted.
        seed: Another seed draws another sample.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self._limit, self._seed = limit, seed
        self._strata: dict[tuple[str, Hashable], list[tuple[int, int]]] = defaultdict(list)

    def add(self, position: int, image_id: str, strata: Iterable[tuple[str, Hashable]]) -> None:
        """An image at a position of the run, with every stratum it belongs to: a group (its class), and what in it."""
        draw = self._draw(image_id)
        for stratum in strata:
            heap = self._strata[stratum]
            if len(heap) < self._limit:
                heapq.heappush(heap, (-draw, -position))
            else:
                heapq.heappushpop(heap, (-draw, -position))

    def chosen(self) -> list[int]:
        """Positions of the sample, ascending; all of them where there are no more than wanted."""
        queues = [[-position for _, position in sorted(self._strata[name])] for name in self._in_turn()]
        # Popped from the end: `sorted` puts the largest draw, negated the smallest number, first.
        taken: set[int] = set()
        while queues and len(taken) < self._limit:
            for queue in queues:
                while queue and (position := queue.pop()) in taken:
                    pass
                if len(taken) < self._limit and position not in taken:
                    taken.add(position)
            queues = [queue for queue in queues if queue]
        return sorted(taken)

    def _in_turn(self) -> list[tuple[str, Hashable]]:
        """Strata in the order of their turns: of every group one first, then of every group the next."""
        by_group: dict[str, list[tuple[int, tuple[str, Hashable]]]] = defaultdict(list)
        for stratum in self._strata:
            by_group[stratum[0]].append((self._draw(repr(stratum)), stratum))
        turns = [
            (turn, draw, stratum)
            for members in by_group.values()
            for turn, (draw, stratum) in enumerate(sorted(members, key=lambda one: one[0]))
        ]
        return [stratum for _, _, stratum in sorted(turns, key=lambda one: one[:2])]

    def _draw(self, text: str) -> int:
        key = f"{self._seed}\0{text}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
