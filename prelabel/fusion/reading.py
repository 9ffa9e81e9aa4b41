"""Rows of a run by their position, through a cache of shards.

The images of runs are usually in the same order, so the rows of one shard of the new run are in one or two shards of
each run. If they are not, each process keeps some shards in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from prelabel.errors import StoreError
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageRow
from prelabel.store.run import Run
from prelabel.store.shards import read_table, shard_url
from prelabel.store.subset import Positions

#: Bytes of shards that a process keeps; at least one shard is kept, however large.
CACHE_BYTES = 256 * 2**20

#: Columns that have no meaning in a fused run.
_UNUSED = ("multiclass_scores", "seconds", "views", "views_shown")


class ShardCache:
    """The tables of the shards that were used last.

    Args:
        most_bytes: Bytes of all tables together, if there is more than one.
    """

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._bytes = 0

    def table(self, output: str, shard: int, storage: Storage) -> pa.Table:
        """The rows of a shard. Raises StoreError if it is missing or corrupt."""
        url = shard_url(output, shard)
        if url.url in self._tables:
            self._tables.move_to_end(url.url)
            return self._tables[url.url]
        table = read_table(url, storage, without=_UNUSED)
        self._tables[url.url] = table
        self._bytes += table.nbytes
        while self._bytes > self._most_bytes and len(self._tables) > 1:
            _, oldest = self._tables.popitem(last=False)
            self._bytes -= oldest.nbytes
        return table


#: The cache of this process: work is sent to other processes one shard at a time.
_CACHE = ShardCache()


@dataclass(frozen=True, slots=True)
class RowsByPosition:
    """The rows of a run by their position in its plan; can be sent to another process.

    Attributes:
        name: The run, for messages.
        output: Root of the run's output, including secrets.
        storage: Opens the output.
        shards: The numbers of its shards, in plan order.
        starts: The position of the first row of each shard, and the number of rows.
    """

    name: str
    output: str
    storage: Storage
    shards: tuple[int, ...]
    starts: Positions

    @classmethod
    def of(cls, run: Run) -> RowsByPosition:
        """The rows of a finished run."""
        shards = run.manifest.shards
        return cls(str(run.root), run.output, run.storage, tuple(shards), np.cumsum([0, *shards.counts("rows")]))

    def read(self, positions: Positions, cache: ShardCache = _CACHE) -> Iterator[ImageRow]:
        """Yield the rows at these positions, in their order.

        Raises:
            StoreError: A shard is missing or corrupt, or has fewer rows than the manifest says.
        """
        place = np.searchsorted(self.starts, positions, side="right") - 1
        rows: dict[int, ImageRow] = {}
        for number in np.unique(place).tolist():
            wanted = np.flatnonzero(place == number)
            table = cache.table(self.output, self.shards[number], self.storage)
            inside = positions[wanted] - self.starts[number]
            if inside.max() >= table.num_rows:
                raise StoreError(
                    f"{shard_url(self.output, self.shards[number])} has {table.num_rows} rows, fewer than the "
                    "manifest says: check the run with `prelabel verify`"
                )
            parts = table.take(inside).combine_chunks().to_batches()
            taken = (row for part in parts for row in DetectionBatch.from_arrow(part).rows())
            rows.update(zip(wanted.tolist(), taken, strict=True))
        return (rows[number] for number in range(len(positions)))
