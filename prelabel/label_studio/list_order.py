"""Puts tasks into the order of a list of images.

Rows are read in the order of the plan. So tasks are written to a temporary file as they are made, and read from it in
the order of the list; memory holds four numbers per task.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from prelabel.errors import ExportError
from prelabel.storage.address import describe
from prelabel.store.subset import ImageOrder

#: Bytes of tasks that are kept in memory instead of a file.
_IN_MEMORY = 64 * 2**20


def in_list_order(items: Iterable[tuple[str, bytes]], order: ImageOrder | None) -> Iterator[tuple[str, bytes]]:
    """Yield image ids with their tasks in the order of a list; without one, as they come.

    Raises:
        ExportError: The temporary file cannot be written.
    """
    if order is None:
        yield from items
        return
    places, ends, lengths = array("q"), array("q"), array("q")
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        for image_id, task in items:
            name = image_id.encode("utf-8", "surrogatepass")
            try:
                file.write(name + task)
            except OSError as error:
                raise ExportError(f"cannot write to {tempfile.gettempdir()}: {describe(error)}") from error
            places.append(order.place_of(image_id))
            lengths.append(len(name))
            ends.append((ends[-1] if ends else 0) + len(name) + len(task))
        for n in np.argsort(np.frombuffer(places, np.int64), kind="stable").tolist() if places else ():
            start = ends[n - 1] if n else 0
            file.seek(start)
            content = file.read(ends[n] - start)
            yield content[: lengths[n]].decode("utf-8", "surrogatepass"), content[lengths[n] :]
