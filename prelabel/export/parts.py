"""The rows of a run in parts that can be worked on one by one, in several processes: one part for each shard."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from prelabel.export.reading import Rows
from prelabel.processes import Processes
from prelabel.store.rows import ImageRow
from prelabel.store.run import RunRows

T = TypeVar("T")

#: Columns that most exports do not write.
UNUSED = ("frames", "bytes", "sha256", "multiclass_scores", "seconds")

#: Rows of a part where they do not come from shards.
_ROWS = 512


class SpreadRows:
    """Rows of a run with the processes that may work on them; tells how far the reading is."""

    def __init__(
        self, rows: RunRows, processes: Processes, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        """Reads nothing yet.

        Args:
            rows: The rows.
            processes: Used by exports that work on parts.
            progress: Called with the rows read and those there are; from 0 again when they are read again.
        """
        self._rows = rows
        self._processes = processes
        self._progress = progress

    def __call__(self) -> Iterator[ImageRow]:
        for part in self._counted(self._rows.by_shard()):
            yield from part()

    def without(self, *names: str) -> SpreadRows:
        """The same without these columns."""
        return SpreadRows(self._rows.without(*names), self._processes, self._progress)

    def in_frame(self, frame: str) -> SpreadRows:
        """The same with sizes, boxes and masks in another frame."""
        return SpreadRows(self._rows.in_frame(frame), self._processes, self._progress)

    def at(self, position: int) -> ImageRow:
        """One row by its place in the plan."""
        for part in self._rows.by_shard():
            if position < len(part):
                return next(itertools.islice(part(), position, None))
            position -= len(part)
        raise IndexError(f"there are {len(self._rows)} rows")

    def map(self, work: Callable[[Iterable[ImageRow]], T], again: Callable[[T], bool]) -> Iterator[T]:
        """See `each_part`; a part is a shard."""
        parts = self._rows.by_shard()
        results = self._processes.map(_OnShard(work), parts)
        return self._counted(work(part()) if again(one) else one for part, one in zip(parts, results, strict=True))

    def _counted(self, results: Iterable[T]) -> Iterator[T]:
        done = 0
        for result, (_, rows) in zip(results, self._rows.shards, strict=True):
            yield result
            done += rows
            self._progress(done, len(self._rows))


@dataclass(frozen=True, slots=True)
class _OnShard(Generic[T]):
    work: Callable[[Iterable[ImageRow]], T]

    def __call__(self, rows: RunRows) -> T:
        return self.work(rows())


def _never(_: object) -> bool:
    return False


def each_part(rows: Rows, work: Callable[[Iterable[ImageRow]], T], again: Callable[[T], bool] = _never) -> Iterator[T]:
    """What `work` makes of one part of the rows after the other, in order; one part is in memory at a time.

    Args:
        rows: With `SpreadRows` several processes may work; anything else is read here.
        work: Where it holds something that results change, the parts handed out later know of it.
        again: Whether a result must be made anew, by what is known when its turn comes.
    """
    if isinstance(rows, SpreadRows):
        yield from rows.map(work, again)
        return
    every = rows()
    while some := list(itertools.islice(every, _ROWS)):
        result = work(some)
        yield work(some) if again(result) else result


def without(rows: Rows, *names: str) -> Rows:
    """The rows, where it is possible without these columns."""
    return rows.without(*names) if isinstance(rows, SpreadRows | RunRows) else rows


def in_frame(rows: Rows, frame: str) -> Rows:
    """The rows, as shards hold them, with sizes, boxes and masks in another frame; see `prelabel.frames`."""
    if isinstance(rows, SpreadRows | RunRows):
        return rows.in_frame(frame)
    return lambda: (row.in_frame(frame) for row in rows())


def row_at(rows: Rows, position: int) -> ImageRow:
    """One row by its place in the plan."""
    return rows.at(position) if isinstance(rows, SpreadRows) else next(itertools.islice(rows(), position, None))
