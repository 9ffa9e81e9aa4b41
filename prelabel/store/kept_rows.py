"""The rows of a shard's existing file that its next file has as they are: those of images that have not changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from prelabel.image_ref import ImageRef
from prelabel.storage.address import AddressLike
from prelabel.storage.files import Storage
from prelabel.store.rows import OK, revisions
from prelabel.store.shards import read_table, shard_url


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows of a shard's existing file.

    Attributes:
        table: The rows; None if there are none.
        image_ids: Their images.
    """

    table: pa.Table | None = None
    image_ids: frozenset[str] = frozenset()


def read_kept_rows(
    output: AddressLike, storage: Storage, shard: int, refs: Sequence[ImageRef], *, only_ok: bool
) -> KeptRows:
    """Read the rows of a shard's existing file that are of the planned revision of their image.

    Args:
        output: Root of the run's output.
        storage: Opens the output.
        shard: Number of the shard.
        refs: Its images, as planned now.
        only_ok: Leave out failed rows.

    Raises:
        StoreError: The file cannot be read.
    """
    table = read_table(shard_url(output, shard), storage)
    planned = {ref.image_id: ref.revision for ref in refs}
    columns = table["image_id"].to_pylist(), revisions(table), table["status"].to_pylist()
    is_kept = [
        planned.get(image_id) == revision and (status == OK or not only_ok)
        for image_id, revision, status in zip(*columns, strict=True)
    ]
    table = table.filter(pa.array(is_kept, pa.bool_()))
    return KeptRows(table, frozenset(table["image_id"].to_pylist()))
