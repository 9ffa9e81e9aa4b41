"""Runs a job in this process: the real workers read, label and publish, but no process is started for them.

def test_something(inline: Inline):
    inline.label(source=("photos",), output="out")
    assert inline.fetched == ["a.png"]
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prelabel.config import LabelOptions
from prelabel.detectors.base import DetectorRecord
from prelabel.engine import job, shard
from prelabel.engine.progress import Summary
from prelabel.engine.schedule import LabelTask, Task
from prelabel.engine.worker import Worker, WorkerSpec
from prelabel.engine.worker_pool import Event, WorkerHandle, WorkerPool
from prelabel.image_ref import ImageRef
from prelabel.source.fetch import fetch
from prelabel.storage.files import Storage
from tests.engine.fakes import BrightestCorner
from tests.engine.world import Recorder

DETECTOR = DetectorRecord("brightest", "brightest", "0" * 64, "brightest-00000000", "test", masks=False)


class Killed(BaseException):
    """The process is killed: it writes nothing any more."""


class _Pool(WorkerPool):
    """One worker, which works while the driver waits."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec.options)
        self._worker = Worker(spec)
        self._worker._detector, self._worker._is_chosen = BrightestCorner(), True  # type: ignore[assignment]
        self._keys = itertools.count()
        self._start()

    def _start(self) -> None:
        handle = WorkerHandle(0, None, placed=True, host="here", pid=1)
        self._add(handle)
        self._detector_loaded(handle)

    def submit(self, worker: WorkerHandle, task: Task) -> None:
        self._task_given(worker, next(self._keys), task)

    def wait(self, timeout_s: float) -> Iterator[Event]:
        for worker in self.workers:
            for key, task in list(worker.tasks.items()):
                assert isinstance(task, LabelTask)
                self._task_finished(worker, key, self._worker.label(task))
        while self._events:
            yield self._events.popleft()

    def stop(self) -> None:
        self.workers.clear()

    def _end(self, worker: WorkerHandle) -> None:
        pass

    def _advice(self, worker: WorkerHandle, cause: str) -> str:
        return ""


class _Runner:
    name = "local"

    def __init__(self, options: LabelOptions) -> None:
        pass

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def start(self) -> None:
        pass

    @contextmanager
    def pool(self, spec: WorkerSpec, max_workers: int, notify: Callable[[str], None]) -> Iterator[WorkerPool]:
        Inline.pools += 1
        yield _Pool(spec)


class Inline:
    """Runs jobs, and records what they fetch and write.

    Attributes:
        fetched: Ids of the images fetched, in order, since `forget`.
        written: What was published, created or deleted, in order, since `forget`: addresses.
        kill_at: Number of the write before which the process is killed, from 1; 0 for never.
    """

    #: Number of worker pools started.
    pools = 0

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.written: list[str] = []
        self.kill_at = 0
        Inline.pools = 0

    def label(self, recorder: Recorder | None = None, **values: Any) -> Summary:
        """Run the job. Raises Killed if `kill_at` was reached."""
        defaults = {"detector": "brightest", "shard_size": 3}
        return job.run(LabelOptions.of(**{**defaults, **values}), recorder or Recorder())

    def forget(self) -> None:
        """Begin again with what is recorded."""
        self.fetched, self.written = [], []

    def fetch(self, ref: ImageRef, *args: Any, **kwargs: Any) -> bytes:
        self.fetched.append(ref.image_id)
        return fetch(ref, *args, **kwargs)

    def note(self, url: object) -> None:
        """Record a write, except heartbeats of the lock, which come at any time."""
        if threading.current_thread().name == "lock":
            return
        if self.kill_at and len(self.written) + 1 >= self.kill_at:
            raise Killed
        self.written.append(str(url))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """See the module's docstring."""
    world = Inline()
    monkeypatch.setattr(job, "Runner", _Runner)
    monkeypatch.setattr(job, "inspect_detector", lambda *args: DETECTOR)
    monkeypatch.setattr(job, "with_detector_defaults", lambda options: options)
    monkeypatch.setattr(shard, "fetch", world.fetch)

    def noting(write: Callable[..., Any]) -> Callable[..., Any]:
        def noted(storage: Storage, url: Any, *args: Any) -> Any:
            world.note(url)
            return write(storage, url, *args)

        return noted

    for name in ("publish", "publish_in_pieces", "create", "delete"):
        monkeypatch.setattr(Storage, name, noting(getattr(Storage, name)))
    return world
