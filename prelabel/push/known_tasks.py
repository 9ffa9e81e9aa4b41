"""The tasks that a project has already: which one shows a given image, and what it says of our predictions.

    a task's data                                              fits an image of the run by
    {"image": "s3://b/a.jpg", ...}                             the same address, however it is percent-encoded
    {"image": "...", "image_id": "a.jpg", "file_name": ...}    else its image_id
    {"image": "...", "file_name": "a.jpg"}                     else its file_name

Where the run itself was made from the project's tasks, its image ids begin with their numbers and those decide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from prelabel.push.server import ServerTask


@dataclass(slots=True)
class KnownTask:
    """A task of the project.

    Attributes:
        id: Its number on the server.
        ours: Its predictions of our model version: number and digest of the content.
        others: Whether it has predictions of other model versions.
    """

    id: int
    ours: tuple[tuple[int, bytes], ...] = ()
    others: bool = False


class KnownTasks:
    """The tasks of a project by the images that they show; of several for one image the oldest counts."""

    def __init__(self, data_key: str, model_version: str, *, by_number: bool) -> None:
        """Knows no task yet.

        Args:
            data_key: The key of a task's data that holds the image's address.
            model_version: Of the predictions that are ours.
            by_number: Whether image ids of the run begin with the number of their task.
        """
        self._data_key = data_key
        self._model_version = model_version
        self._by_number = by_number
        self._tasks: dict[int, KnownTask] = {}
        self._by_address: dict[str, int] = {}
        self._by_name: dict[str, int] = {}
        self.last = 0
        self._doubled: set[int] = set()

    @property
    def doubled(self) -> int:
        """Tasks whose image an older task shows too."""
        return len(self._doubled)

    def __len__(self) -> int:
        return len(self._tasks)

    def read(self, tasks: Iterable[ServerTask]) -> None:
        """Take note of tasks, in ascending order of their numbers."""
        for task in tasks:
            self.last = max(self.last, task.id)
            ours = tuple(
                (one.id, digest(one.score, one.result))
                for one in task.predictions
                if one.model_version == self._model_version
            )
            self._tasks[task.id] = KnownTask(task.id, ours, len(ours) < len(task.predictions))
            address = self._address(task.data)
            if address and self._by_address.setdefault(address, task.id) != task.id:
                self._doubled.add(task.id)
            name = name_of(task.data)
            if name:
                self._by_name.setdefault(name, task.id)

    def find(self, data: Mapping[str, Any]) -> KnownTask | None:
        """The task that shows the image of the given data, or None."""
        if self._by_number:
            number = data["image_id"].partition("/")[0]
            return self._tasks.get(int(number)) if number.isascii() and number.isdigit() else None
        found = self._by_address.get(self._address(data)) or self._by_name.get(name_of(data))
        return None if found is None else self._tasks[found]

    def _address(self, data: Mapping[str, Any]) -> str:
        value = data.get(self._data_key)
        return unquote(value) if isinstance(value, str) else ""


def name_of(data: Mapping[str, Any]) -> str:
    """What a task's data calls its image, beside the address: `image_id`, else `file_name`, else `""`."""
    for key in ("image_id", "file_name"):
        value = data.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def digest(score: float | None, result: Any) -> bytes:
    """The content of a prediction in 16 bytes; the order of keys does not matter, the order of regions does."""
    text = json.dumps([score, result], sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
