"""Full addresses of images, in memory only: signed URLs, and addresses with passwords.

The plan stores addresses without passwords and signatures (`address.without_secrets`), but workers need the full ones.
The driver keeps them from the listing, or lists the source again when a run is resumed, and sends each shard's full
addresses with its task. So no secret is written to the output, and a list that has been signed again since then works.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import islice

from prelabel.image_ref import ImageRef
from prelabel.storage.address import without_secrets
from prelabel.store.plan import Plan, digests_of
from prelabel.store.subset import ABSENT, ImageOrder

#: Addresses whose images are looked up at once.
_BATCH = 8192


class Links:
    """Full addresses by shard and position, compressed: a signed S3 URL takes about 60 bytes.

    Attributes:
        count: Number of addresses.
    """

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}
        self._open: dict[int, str] = {}
        self._shard = -1
        self.count = 0

    def add(self, shard: int, addresses: Mapping[int, str]) -> None:
        """Add the full addresses of a shard's images, by position."""
        for position, uri in addresses.items():
            self._put(shard, position, uri)

    def of(self, shard: int) -> Mapping[int, str]:
        """Return the full addresses of a shard's images by position; images whose stored address is full are absent."""
        self._pack()
        return self._unpacked(shard)

    def only(self, shard: int) -> Links:
        """Return the links of one shard, to send them to another process."""
        self._pack()
        links = Links()
        if shard in self._packed:
            links._packed[shard] = self._packed[shard]
            links.count = len(self._unpacked(shard))
        return links

    def find(self, refs: Iterable[ImageRef], plan: Plan) -> None:
        """Add the full addresses of the images that are in a plan, identified by `image_id`."""
        order, starts = ImageOrder.of(plan.digests()), plan.starts().tolist()
        signed = (ref for ref in refs if without_secrets(ref.uri) != ref.uri)
        while batch := list(islice(signed, _BATCH)):
            places = order.places_of(digests_of([ref.image_id for ref in batch])).tolist()
            for ref, place in zip(batch, places, strict=True):
                if place != ABSENT:
                    shard = bisect_right(starts, place) - 1
                    self._put(shard, place - starts[shard], ref.uri)

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
