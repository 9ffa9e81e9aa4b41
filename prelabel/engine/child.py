"""What a worker's process on this machine does: hears tasks over a connection, answers over the same one.

It begins to import TensorFlow before it is told anything, and ends when nobody holds the other end of the connection.

    driver -> process: Spec, then (key, task), (key, task) ...
    process -> driver: (LOADED, None, None), (DONE, key, record), (STATUS, None, status), (REFUSED, key, error)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from prelabel.engine.events import IN_FLIGHT
from prelabel.engine.schedule import LabelTask, Task, TrialTask
from prelabel.engine.worker import Worker
from prelabel.errors import PrelabelError, RunError
from prelabel.storage import describe

LOADED, DONE, STATUS, REFUSED = "loaded", "done", "status", "refused"

#: Seconds between two looks at whether there is progress to tell.
STATUS_INTERVAL_S = 0.5

#: Of Linux: a signal for this process when its parent dies.
_PR_SET_PDEATHSIG = 1


class _Child:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        # As many as a worker has tasks at once: one shard is read ahead while another is run.
        self._threads = ThreadPoolExecutor(IN_FLIGHT, "work")
        self._imported = threading.Thread(target=_import, daemon=True)

    def serve(self) -> None:
        """Until the other end of the connection is gone; what is unfinished then is nobody's any more."""
        self._imported.start()
        try:
            self._worker = Worker(self._connection.recv())
            self._threads.submit(self._do, self._load)
            threading.Thread(target=self._tell, daemon=True).start()
            while True:
                key, task = self._connection.recv()
                self._threads.submit(self._do, self._work, key, task)
        except (EOFError, OSError):
            os._exit(0)

    def _load(self) -> None:
        self._imported.join()
        self._worker.load()
        self._send(LOADED, None, None)

    def _work(self, key: int, task: Task) -> None:
        if isinstance(task, LabelTask):
            self._send(DONE, key, self._worker.label(task))
        elif isinstance(task, TrialTask):
            self._send(DONE, key, self._worker.trial(task))
        else:
            self._worker.probe(task)
            self._send(DONE, key, None)

    def _do(self, work: Any, *arguments: Any) -> None:
        """Whatever goes wrong is told, as it is when Ray carries it."""
        key = arguments[0] if arguments else None
        try:
            work(*arguments)
        except PrelabelError as error:
            self._send(REFUSED, key, error)
        except Exception as error:  # noqa: BLE001 - the border of the process: nobody else hears of it
            where = f" at shard {arguments[1].shard}" if arguments else ""
            self._send(REFUSED, key, RunError(f"a worker failed{where}: {describe(error)}"))

    def _tell(self) -> None:
        """Say how far this worker is, whenever that has changed."""
        before = None
        while True:
            time.sleep(STATUS_INTERVAL_S)
            status = self._worker.status()
            if status != before:
                self._send(STATUS, None, status)
                before = status

    def _send(self, kind: str, key: int | None, value: Any) -> None:
        try:
            with self._sending:
                self._connection.send((kind, key, value))
        except OSError:
            os._exit(0)


def _import() -> None:
    from prelabel.detectors import runtime

    # Without the hub package either: a network that is kept as a constant graph is loaded without it.
    runtime.tensorflow(keras=False)


def _end_with_parent() -> None:
    """Also where native code keeps every thread of this process from noticing that the connection is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(connection: Connection) -> None:
    """Serve the driver at the other end."""
    _end_with_parent()
    _Child(connection).serve()
