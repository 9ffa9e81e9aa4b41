"""Signed links and addresses with passwords: what of them is not stored, held in memory while a run needs it.

A plan stores addresses without password and signature (`address.without_secrets`). Workers fetch by the whole address:
the driver keeps it from the listing, or reads the list again when a run goes on, and sends each shard's along with its
task. So nothing of them lies in the output, and a list that was signed anew in the meantime is used as it is now.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from prelabel.image_ref import ImageRef
from prelabel.storage import without_secrets
from prelabel.store.plan_reader import Plan, digests_of


def is_secret(uri: str) -> bool:
    """Whether an address holds what must not be stored."""
    return without_secrets(uri) != uri


class Links:
    """Whole addresses by shard and position, packed: a signed S3 link takes about 60 bytes."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}
        self._open: dict[int, str] = {}
        self._shard = -1
        self.count = 0

    def add(self, shard: int, refs: Sequence[ImageRef]) -> None:
        """Keep the addresses of a shard's images, as far as they are more than what is stored."""
        for position, ref in enumerate(refs):
            if is_secret(ref.uri):
                self._put(shard, position, ref.uri)

    def of(self, shard: int) -> Mapping[int, str]:
        """Whole addresses of a shard's images by position; of those that are stored as they are there is none."""
        self._pack()
        return self._unpacked(shard)

    def only(self, shard: int) -> Links:
        """The addresses of one shard's images, to be sent to another process."""
        self._pack()
        one = Links()
        if shard in self._packed:
            one._packed[shard] = self._packed[shard]
            one.count = len(self._unpacked(shard))
        return one

    def find(self, refs: Iterable[ImageRef], plan: Plan) -> None:
        """Keep the addresses of images that a plan holds, known by their `image_id`."""
        known = plan.digests()
        order = known.argsort()
        known = known[order]
        starts = np.cumsum([0, *(plan.count(shard) for shard in range(plan.shards))]).tolist()
        for ref in refs:
            if not is_secret(ref.uri) or not len(known):
                continue
            (digest,) = digests_of([ref.image_id])
            place = min(int(np.searchsorted(known, digest)), len(known) - 1)
            if known[place] == digest:
                image = int(order[place])
                shard = bisect_right(starts, image) - 1
                self._put(shard, image - starts[shard], ref.uri)

    def _put(self, shard: int, position: int, uri: str) -> None:
        if shard != self._shard:
            self._pack()
            self._shard, self._open = shard, self._unpacked(shard)
        self.count += position not in self._open
        self._open[position] = uri

    def _pack(self) -> None:
        if self._open:
            self._packed[self._shard] = zlib.compress(json.dumps(list(self._open.items())).encode())

    def _unpacked(self, shard: int) -> dict[int, str]:
        packed = self._packed.get(shard)
        return dict(json.loads(zlib.decompress(packed))) if packed else {}
