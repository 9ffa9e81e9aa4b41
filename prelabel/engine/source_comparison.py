"""What has changed in a source since a run was planned: images that are new, changed or gone.

    plan        a.jpg (v1)   b.jpg (v1)   c.jpg (v1)
    source      a.jpg (v1)   b.jpg (v2)                d.jpg (v1)
                             changed      gone         new

An image is identified by its `image_id`. It has changed if its address, size or version is not the planned one, or if
it was gone and is back. Both sides are streams: of each planned image, 35 bytes are kept in memory (a digest of its id
and one of the rest), and of each changed image its reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from prelabel.errors import SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.lists import alternative_id
from prelabel.storage.address import redact, without_secrets
from prelabel.store.plan import Plan, digests_of
from prelabel.store.source_check import DROP, FAIL, KEEP
from prelabel.store.subset import ABSENT, ImageOrder

#: Number of listed images that are compared with the plan at once.
_BATCH = 8192


class SourceComparison:
    """Compares the listed images of a source with a plan.

    Args:
        plan: The plan; read once here.
        is_exact: Refuse a source that has a planned image twice, since which of them is meant is unclear.

    Attributes:
        listed: Number of images listed so far.
        new: Number of those that are not in the plan.
        unversioned: Number of those whose listing reports no version.
        changed: The planned images that have changed, by position in the plan, as listed.
    """

    def __init__(self, plan: Plan, *, is_exact: bool) -> None:
        self._plan, self._is_exact = plan, is_exact
        ids = np.empty(plan.images, "S16")
        self._contents = np.empty(plan.images, np.uint64)
        self._was_gone = np.zeros(plan.images, np.bool_)
        filled = 0
        for refs in plan.batches():
            rows = slice(filled, filled + len(refs))
            ids[rows] = digests_of([ref.image_id for ref in refs])
            self._contents[rows] = _content_digests(refs)
            self._was_gone[rows] = [ref.is_gone for ref in refs]
            filled += len(refs)
        self._order = ImageOrder.of(ids)
        self._seen = bytearray(plan.images)
        self.listed = self.new = self.unversioned = 0
        self.changed: dict[int, ImageRef] = {}

    def new_refs(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """Yield the images that are not in the plan, in their order, and note what has become of the others.

        Two new images with the same id are both yielded; `write_plan` refuses them.

        Raises:
            SourceError: A planned image is listed twice, and the comparison must be exact.
        """
        stream = iter(refs)
        while batch := list(islice(stream, _BATCH)):
            positions = self._order.places_of(digests_of([ref.image_id for ref in batch]))
            known = np.maximum(positions, 0)
            if len(self._contents):
                is_same = (self._contents[known] == _content_digests(batch)) & ~self._was_gone[known]
            else:
                is_same = np.zeros(len(batch), np.bool_)
            self.listed += len(batch)
            self.unversioned += sum(ref.version is None for ref in batch)
            for ref, position, same in zip(batch, positions.tolist(), is_same.tolist(), strict=True):
                if position == ABSENT:
                    self.new += 1
                    yield ref
                    continue
                if self._seen[position] and self._is_exact:
                    raise SourceError(
                        f"image_id {ref.image_id!r} is listed twice, the second time as {redact(ref.uri)!r}: which of "
                        "them the run has is unclear; remove one"
                    )
                self._seen[position] = 1
                if not same:
                    self.changed[position] = ref

    @property
    def gone(self) -> int:
        """Number of planned images that were not listed."""
        return self._seen.count(0)

    def edits(self, *, relabel: bool, gone_action: str) -> PlanEdits:
        """Return how the plan must change, once the source has been listed completely.

        Args:
            relabel: Whether changed images are labeled again.
            gone_action: What becomes of images that are gone: one of `GONE_ACTIONS`.
        """
        is_gone = np.frombuffer(self._seen, np.uint8) == 0
        if gone_action == KEEP:
            is_gone = np.zeros_like(is_gone)
        elif gone_action == FAIL:
            is_gone &= ~self._was_gone
        changed = self.changed if relabel else {}
        starts = self._plan.starts()
        positions = np.concatenate((np.flatnonzero(is_gone), np.fromiter(changed, np.int64, len(changed))))
        shards = np.searchsorted(starts, np.unique(positions), side="right") - 1
        return PlanEdits(frozenset(shards.tolist()), starts, changed, is_gone, drops=gone_action == DROP)


@dataclass(frozen=True, slots=True)
class PlanEdits:
    """The changes that a source asks of a plan.

    Attributes:
        shards: The shards with changes.
        starts: `(shards + 1,)` the number of images before each shard.
        changed: The changed images by position in the plan, as listed.
        is_gone: `(N,)` whether an image leaves the plan or gets a failed row.
        drops: Whether they leave the plan.
    """

    shards: frozenset[int]
    starts: npt.NDArray[np.int64]
    changed: dict[int, ImageRef]
    is_gone: npt.NDArray[np.bool_]
    drops: bool

    def apply(self, shard: int, refs: Sequence[ImageRef]) -> list[ImageRef]:
        """Return the images of a shard as they are now. Whose row must be another has the next revision."""
        edited = []
        for position, ref in enumerate(refs, int(self.starts[shard])):
            listed = self.changed.get(position)
            if listed is not None:
                edited.append(replace(listed, revision=ref.revision + 1))
            elif not self.is_gone[position]:
                edited.append(ref)
            elif not self.drops:
                edited.append(replace(ref, revision=ref.revision + 1, is_gone=True))
        return edited


def _content_digests(refs: Sequence[ImageRef]) -> npt.NDArray[np.uint64]:
    """`(N,)` digests of what identifies the content of images: address, size, version, and place in an archive."""
    parts = ((without_secrets(ref.uri), ref.size, ref.version, ref.location) for ref in refs)
    texts = ("\0".join(map(str, of_image)).encode(errors="surrogatepass") for of_image in parts)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts), np.uint64)


def named_as_planned(refs: Iterable[ImageRef], plan: Plan) -> Iterator[ImageRef]:
    """Yield the listed images under the `image_id` that the plan has for their address.

    Whether the id of a URL with a query ends in the query's digest depends on the other URLs in the list: after
    `img?id=2` is added to the list, `img?id=1` would look like a new image. From the first URL with a query on, this
    takes 16 bytes of memory per planned image.
    """
    planned = None
    for ref in refs:
        name = alternative_id(ref)
        if name is not None:
            if planned is None:
                planned = plan.address_digests()
                planned.sort()
            address = without_secrets(ref.uri)
            if not _contains(planned, ref.image_id, address) and _contains(planned, name, address):
                yield replace(ref, image_id=name, file_name=name)
                continue
        yield ref


def _contains(planned: npt.NDArray[np.bytes_], image_id: str, address: str) -> bool:
    (digest,) = digests_of([f"{image_id}\0{address}"])
    position = int(np.searchsorted(planned, digest))
    return position < len(planned) and bool(planned[position] == digest)
