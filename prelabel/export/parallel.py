"""Export the rows of a run in parts, one per shard, in one or several processes.

An export is a function `work` that fills a `Part` with the items of some rows, and a loop over the items of all parts:

    whole = Part(KnownNames(...))
    for item in make_items(rows, work, whole):
        ...                                           write it
    whole.tally.report()                              the counts of all parts
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Generic, TypeVar

from prelabel.detections import ClassName
from prelabel.export.base import Rows, Tally
from prelabel.export.run_selection import KnownNames
from prelabel.processes import Processes
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageRow
from prelabel.store.subset import ImageOrder

A = TypeVar("A")
T = TypeVar("T")
Item = TypeVar("Item")

#: Columns that most exports do not need.
UNUSED = ("frames", "bytes", "sha256", "multiclass_scores", "seconds", "views", "views_shown")

#: The same for exports that read images again, and check that they are the same.
UNUSED_BUT_REREAD = tuple(name for name in UNUSED if name not in ("bytes", "sha256"))


@dataclass(kw_only=True)
class Part(Generic[Item]):
    """The items made from some rows of a run, and the notes collected on the way.

    A format that needs more notes adds a field with the methods `fresh` and `add`, like `names` and `tally`.

    Attributes:
        items: The items, in the order of the rows; the part that adds up all others keeps none.
        names: Checks the names in the selection against the classes that occur.
        tally: The counts.
    """

    items: list[Item] = field(default_factory=list, init=False)
    names: KnownNames
    tally: Tally = field(default_factory=Tally)

    def fresh(self) -> Part[Item]:
        """A new part without items and notes."""
        return replace(self, **{name: getattr(self, name).fresh() for name in self._note_fields()})

    def add(self, other: Part[Item]) -> None:
        """Merge the notes of another part."""
        for name in self._note_fields():
            getattr(self, name).add(getattr(other, name))

    def _note_fields(self) -> list[str]:
        return [attribute.name for attribute in fields(self) if attribute.name != "items"]


def make_items(
    rows: Rows,
    work: Callable[..., None],
    whole: Part[Item],
    must_repeat: Callable[[Part[Item]], bool] | None = None,
    values: Sequence[object] | None = None,
) -> Iterator[Item]:
    """The items of all rows, in order.

    Args:
        rows: See `map_parts`.
        work: Adds the items and notes of some images to a part; called with batches of rows, the part, and its value if
            there are `values`.
        whole: Receives the notes of all parts; complete after the last item.
        must_repeat: See `map_parts`.
        values: See `map_parts_with`.
    """
    made = functools.partial(_make_part, work, whole.fresh())
    parts = map_parts(rows, made, must_repeat) if values is None else map_parts_with(rows, made, values, must_repeat)
    for part in parts:
        whole.add(part)
        yield from part.items


def _make_part(
    work: Callable[..., None], empty: Part[Item], batches: Iterable[DetectionBatch], *value: object
) -> Part[Item]:
    part = empty.fresh()
    work(batches, part, *value)
    return part


def map_parts(
    rows: Rows,
    work: Callable[[Iterable[DetectionBatch]], T],
    must_repeat: Callable[[T], bool] | None = None,
    *,
    more_follows: bool = False,
) -> Iterator[T]:
    """The results of `work` for each part of the rows, in order; one part is in memory at a time.

    Args:
        rows: With `SpreadRows`, several processes may work; other rows are read in this process.
        work: Makes the result of a part. It is pickled per part, so changes to it reach parts that start later.
        must_repeat: Called with each result before it is yielded; if true, it is made once more, in this process.
        more_follows: Whether the rows are read again afterwards, for something that takes longer.
    """
    return _spread(rows).map(work, must_repeat, more_follows=more_follows)


def map_parts_with(
    rows: Rows,
    work: Callable[[Iterable[DetectionBatch], A], T],
    values: Sequence[A],
    must_repeat: Callable[[T], bool] | None = None,
) -> Iterator[T]:
    """The results of `work` for each part of the rows and its value, in order; see `map_parts`.

    Args:
        rows: See `map_parts`.
        work: Makes the result of a part. It is pickled per part, like the value.
        values: A value for each part, in the order of `Rows.by_shard`.
        must_repeat: See `map_parts`.
    """
    return _spread(rows).map_with(work, values, must_repeat)


def _spread(rows: Rows) -> SpreadRows:
    return rows if isinstance(rows, SpreadRows) else SpreadRows(rows, Processes())


@dataclass(frozen=True, slots=True)
class SpreadRows:
    """Rows of a run with the processes that may work on them; reports the progress of reading.

    Attributes:
        rows: The rows.
        processes: The processes, for exports that work on parts.
        progress: Called with the number of rows read and the total; starts at 0 whenever the rows are read anew.
    """

    rows: Rows
    processes: Processes
    progress: Callable[[int, int], None] = lambda done, total: None

    def __call__(self) -> Iterator[ImageRow]:
        parts = self.by_shard()
        for part in self._counted(parts, parts):
            yield from part()

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self) -> Iterator[DetectionBatch]:
        """See `Rows`."""
        parts = self.by_shard()
        for part in self._counted(parts, parts):
            yield from part.batches()

    def classes(self) -> set[ClassName]:
        """See `Rows`."""
        parts = self.rows.of_all_images().by_shard()
        return set().union(*self.processes.map(_classes_of_shard, parts, more_follows=True))

    @property
    def order(self) -> ImageOrder | None:
        """See `Rows`."""
        return self.rows.order

    def of_all_images(self) -> SpreadRows:
        """See `Rows`."""
        return replace(self, rows=self.rows.of_all_images())

    def without(self, *names: str) -> SpreadRows:
        """See `Rows`."""
        return replace(self, rows=self.rows.without(*names))

    def in_frame(self, frame: str) -> SpreadRows:
        """See `Rows`."""
        return replace(self, rows=self.rows.in_frame(frame))

    def by_shard(self) -> Sequence[Rows]:
        """See `Rows`."""
        return self.rows.by_shard()

    def map(
        self,
        work: Callable[[Iterable[DetectionBatch]], T],
        must_repeat: Callable[[T], bool] | None,
        *,
        more_follows: bool = False,
    ) -> Iterator[T]:
        """See `map_parts`; a part is a shard."""
        return self._map(
            functools.partial(_work_on_shard, work), self.by_shard(), must_repeat, more_follows=more_follows
        )

    def map_with(
        self,
        work: Callable[[Iterable[DetectionBatch], A], T],
        values: Sequence[A],
        must_repeat: Callable[[T], bool] | None,
    ) -> Iterator[T]:
        """See `map_parts_with`; a part is a shard."""
        pairs = list(zip(self.by_shard(), values, strict=True))
        return self._map(functools.partial(_work_with, work), pairs, must_repeat)

    def _map(
        self,
        work: Callable[[A], T],
        items: Sequence[A],
        must_repeat: Callable[[T], bool] | None,
        *,
        more_follows: bool = False,
    ) -> Iterator[T]:
        results = self.processes.map(work, items, more_follows=more_follows)
        if must_repeat is not None:
            results = (
                work(item) if must_repeat(result) else result for item, result in zip(items, results, strict=True)
            )
        return self._counted(results, self.by_shard())

    def _counted(self, results: Iterable[T], parts: Iterable[Rows]) -> Iterator[T]:
        done = 0
        for result, part in zip(results, parts, strict=True):
            yield result
            done += len(part)
            self.progress(done, len(self))


def _classes_of_shard(rows: Rows) -> set[ClassName]:
    return rows.classes()


def _work_on_shard(work: Callable[[Iterable[DetectionBatch]], T], rows: Rows) -> T:
    return work(rows.batches())


def _work_with(work: Callable[[Iterable[DetectionBatch], A], T], pair: tuple[Rows, A]) -> T:
    rows, value = pair
    return work(rows.batches(), value)


def row_at(rows: Rows, position: int) -> ImageRow:
    """The row at a position of the plan."""
    for part in rows.by_shard():
        if position < len(part):
            return next(itertools.islice(part(), position, None))
        position -= len(part)
    raise IndexError(f"there are {len(rows)} rows")
