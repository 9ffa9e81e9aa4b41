"""Task files in the layouts that Label Studio reads.

    import       tasks-00000.json, ...        JSON arrays for the import page and API, limited in tasks and bytes
    sync         tasks/5ebc....json           one task a file, for a source storage that syncs the prefix `tasks/`
    sync-jsonl   tasks/tasks-00000.jsonl      one task a line, for the same
    predictions  predictions-00000.json, ...  predictions for the project's own tasks, by their numbers; the import API
                                              for predictions takes them

A sync reads everything under its prefix and fails on any other file, so nothing else is put there. It never reads a key
again: the name of a task's file is made from its `image_id`, and a later export with new images adds only their files.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from prelabel.storage import Storage, join

LAYOUTS = ("import", "sync", "sync-jsonl", "predictions")

#: Uploads of single tasks under way at a time.
_THREADS = 8
_UNDER_WAY = 64


class TaskWriter(Protocol):
    """Takes one task after another."""

    urls: list[str]
    largest_task: int

    def add(self, image_id: str, data: bytes) -> None:
        """One more task as JSON, and the image it is of."""


@contextlib.contextmanager
def task_files(
    to: str, storage: Storage, layout: str, tasks_per_file: int, bytes_per_file: int
) -> Iterator[TaskWriter]:
    """Write task files into the folder `to`; when the block ends well, those of an earlier export are gone too."""
    if layout == "sync":
        with ThreadPoolExecutor(_THREADS) as threads:
            singly = _OneByOne(join(to, "tasks"), storage, threads)
            yield singly
            singly.finish()
        return
    ending, folder = ("jsonl", join(to, "tasks")) if layout == "sync-jsonl" else ("json", to)
    stem = "predictions" if layout == "predictions" else "tasks"
    lots = _InLots(folder, stem, ending, storage, tasks_per_file, bytes_per_file)
    yield lots
    lots.finish()


class _InLots:
    """Collects tasks and publishes numbered files of many, each whole."""

    def __init__(
        self, folder: str, stem: str, ending: str, storage: Storage, tasks_per_file: int, bytes_per_file: int
    ) -> None:
        self._folder = folder
        self._stem = stem
        self._ending = ending
        self._storage = storage
        self._tasks_per_file = tasks_per_file
        self._bytes_per_file = bytes_per_file
        self._waiting: list[bytes] = []
        self._bytes = 0
        self.urls: list[str] = []
        self.largest_task = 0

    def add(self, image_id: str, data: bytes) -> None:
        """One more task. A task that is larger than a file may be gets a file of its own."""
        self.largest_task = max(self.largest_task, len(data))
        # Each task takes a separator too, and the array its brackets.
        if self._waiting and (
            len(self._waiting) == self._tasks_per_file or self._bytes + len(data) + 6 > self._bytes_per_file
        ):
            self._publish()
        self._waiting.append(data)
        self._bytes += len(data) + 2

    def finish(self) -> None:
        """Publish the rest, and delete files that an earlier export left beyond the last one."""
        if self._waiting or not self.urls:
            self._publish()
        written = {url.rpartition("/")[2] for url in self.urls}
        _delete_others(self._storage, self._folder, rf"{self._stem}-\d{{5,}}\.{self._ending}", written)

    def _publish(self) -> None:
        url = join(self._folder, f"{self._stem}-{len(self.urls):05d}.{self._ending}")
        if self._ending == "json":
            data = b"[\n" + b",\n".join(self._waiting) + b"\n]\n"
        else:
            data = b"".join(task + b"\n" for task in self._waiting)
        self._storage.publish(url, data)
        self.urls.append(url)
        self._waiting, self._bytes = [], 0


class _OneByOne:
    """Publishes every task as a file of its own, several at a time."""

    def __init__(self, folder: str, storage: Storage, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._storage = storage
        self._threads = threads
        self._under_way: deque[Future[None]] = deque()
        self._names: set[str] = set()
        self.urls = [folder + "/"]
        self.largest_task = 0

    def add(self, image_id: str, data: bytes) -> None:
        """One more task; waits while too many are under way."""
        self.largest_task = max(self.largest_task, len(data))
        name = task_file_name(image_id)
        self._names.add(name)
        if len(self._under_way) == _UNDER_WAY:
            self._under_way.popleft().result()
        self._under_way.append(self._threads.submit(self._storage.publish, join(self._folder, name), data + b"\n"))

    def finish(self) -> None:
        """Wait for the rest, and delete the tasks of images that are no longer there."""
        for one in self._under_way:
            one.result()
        _delete_others(self._storage, self._folder, r"[0-9a-f]{32}\.json", self._names)


def task_file_name(image_id: str) -> str:
    """The file of an image's task in the layout `sync`, the same in every export."""
    digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{digest.hexdigest()}.json"


def _delete_others(storage: Storage, folder: str, pattern: str, written: set[str]) -> None:
    for name in storage.names(folder):
        if name not in written and re.fullmatch(pattern, name):
            storage.delete(join(folder, name))
