"""Task files of Label Studio's import: JSON arrays, a limited number of tasks and bytes each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prelabel.export.reading import strict_json
from prelabel.storage import Storage, join

_NAME = re.compile(r"tasks-\d{5,}\.json")


class TaskFiles:
    """Collects tasks and publishes `tasks-00000.json`, `tasks-00001.json`, ... each whole."""

    def __init__(self, folder: str, storage: Storage, tasks_per_file: int, bytes_per_file: int) -> None:
        self._folder = folder
        self._storage = storage
        self._tasks_per_file = tasks_per_file
        self._bytes_per_file = bytes_per_file
        self._waiting: list[bytes] = []
        self._bytes = 0
        self.urls: list[str] = []
        self.largest_task = 0

    def add(self, task: Mapping[str, Any]) -> None:
        """One more task. A task that is larger than a file may be gets a file of its own."""
        data = strict_json(task)
        self.largest_task = max(self.largest_task, len(data))
        # Each task takes a separator too, and the array its brackets.
        if self._waiting and (
            len(self._waiting) == self._tasks_per_file or self._bytes + len(data) + 6 > self._bytes_per_file
        ):
            self._publish()
        self._waiting.append(data)
        self._bytes += len(data) + 2

    def finish(self) -> None:
        """Publish the rest, and delete task files that an earlier export left beyond the last one."""
        if self._waiting or not self.urls:
            self._publish()
        written = {url.rpartition("/")[2] for url in self.urls}
        for name in self._storage.names(self._folder):
            if _NAME.fullmatch(name) and name not in written:
                self._storage.delete(join(self._folder, name))

    def _publish(self) -> None:
        url = join(self._folder, f"tasks-{len(self.urls):05d}.json")
        self._storage.publish(url, b"[\n" + b",\n".join(self._waiting) + b"\n]\n")
        self.urls.append(url)
        self._waiting, self._bytes = [], 0
