"""Workers as processes of this machine: no cluster to start, the same tasks, the same deaths.

A process for each worker, not threads of this one: an image that crashes native code must not take the run along.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from prelabel.config import LabelOptions
from prelabel.engine import child
from prelabel.engine.crew import Crew
from prelabel.engine.events import Event, Handle
from prelabel.engine.schedule import Culprit, Task
from prelabel.engine.worker import Spec
from prelabel.errors import ConfigError
from prelabel.storage import describe

#: Seconds a killed process may take to be gone before it is left to itself.
_END_TIMEOUT_S = 5.0

#: Seconds until a process whose connection has ended is dead, too.
_DYING_S = 5.0

#: What a worker's process runs. It looks for modules where this process does, wherever it was started.
_BOOT = (
    "import sys; from multiprocessing.connection import Connection; there = Connection(int(sys.argv[1])); "
    "sys.path[:] = there.recv(); from prelabel.engine.child import main; main(there)"
)


class Process:
    """A worker's process. It starts to import TensorFlow at once, before it knows what it will work on."""

    def __init__(self) -> None:
        self.connection, there = Pipe()
        # What it has to say when it cannot even start; whatever libraries print does not belong on this terminal.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        with there:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(there.fileno()), "prelabel worker"],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is for this process, which ends its workers itself
            )
        # One that stands still reads nothing, and the links of a shard are more than a pipe holds: who drives all the
        # others must not wait for it.
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._sender = threading.Thread(target=self._deliver, name="outbox", daemon=True)
        self._sender.start()
        self.send(list(sys.path))

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    def send(self, message: object) -> None:
        """Tell it something, without waiting until it listens. That it is dead is heard when it is listened to."""
        self._outbox.put(message)

    def _deliver(self) -> None:
        while (message := self._outbox.get()) is not None:
            with contextlib.suppress(OSError):
                self.connection.send(message)

    def kill(self) -> None:
        """Have it end, whatever it does, without waiting until it has."""
        self._popen.kill()

    def end(self, *, is_alive: bool = True) -> str:
        """End it, whatever it does, or take leave of it where it is dead; a second time does nothing.

        Args:
            is_alive: Whether nothing is known to the contrary.

        Returns:
            Why it is gone if it was dead already: one line for a person, in the words that are used for Ray's workers.
        """
        if self._errors.closed:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # The end of its connection is seen a moment before its own: whether it died of itself shows only then.
            self._popen.wait(0 if is_alive else _DYING_S)
        code = self._popen.returncode
        self.kill()
        self._outbox.put(None)
        self._sender.join(_END_TIMEOUT_S)
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_END_TIMEOUT_S)
        with self._errors as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            words = file.read().decode("utf-8", "replace").strip().splitlines()
        if (code or 0) > 0 and words:
            # The last line of a traceback: most likely something is not installed.
            return f"a worker cannot be started: {describe(RuntimeError(words[-1]))}"
        if code is not None and code < 0:
            return f"the worker's process was ended by {_signal(-code)}"
        return "the worker's process died"


def _signal(number: int) -> str:
    """`9` -> `signal 9 (SIGKILL)`, and who sends that."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    by = ": by somebody, or by the system for want of memory" if number == signal.SIGKILL else ""
    return f"signal {number} ({name}){by}"


class LocalCrew(Crew):
    """Workers as processes.

    Args:
        spec: What every worker gets.
        workers: How many.
        first: A process that was started ahead, if any.
    """

    def __init__(self, spec: Spec, workers: int, first: Process | None = None) -> None:
        super().__init__(spec.options)
        self._spec = spec
        self._ahead = first
        self._keys = itertools.count()
        for _ in range(workers):
            self._start()

    def waiting(self) -> str:
        """What is being waited for, in words; empty when every worker is at work."""
        return self._loading()

    def submit(self, worker: Handle, task: Task) -> None:
        """Give a free worker a task."""
        key = next(self._keys)
        self._handed(worker, key, task)
        worker.actor.send((key, task))

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """What has happened since the last call, after at most `timeout_s`; see `Crew.wait`."""
        workers = {worker.actor.connection: worker for worker in self.workers}
        if workers:
            for connection in wait(list(workers), timeout_s):
                self._listen(workers[connection])
        else:
            time.sleep(timeout_s)
        self._watch()
        while self._events:
            yield self._events.popleft()

    def stop(self) -> None:
        """End all workers at once."""
        # All before any is waited for: each takes a moment to give its memory back.
        for worker in self.workers:
            worker.actor.kill()
        for worker in self.workers:
            worker.actor.end()
        self.workers.clear()

    def _start(self) -> None:
        process, self._ahead = self._ahead or Process(), None
        process.send(self._spec)
        host = socket.gethostname()
        self.workers.append(Handle(next(self._numbers), process, placed=True, host=host, pid=process.pid))

    def _listen(self, worker: Handle) -> None:
        """Everything a worker has said, and its death behind it."""
        try:
            while worker in self.workers and worker.actor.connection.poll():
                self._hear(worker, *worker.actor.connection.recv())
        except (EOFError, OSError):
            self._bury(worker, Culprit("WorkerDied", worker.actor.end(is_alive=False)))

    def _hear(self, worker: Handle, kind: str, key: int, value: Any) -> None:
        if kind == child.LOADED:
            self._loaded(worker)
        elif kind == child.STATUS:
            self._said(worker, value)
        elif kind == child.REFUSED and key in worker.tasks:
            self._failed(worker, key, value)
        elif kind == child.REFUSED:
            self._refused(worker, value)
        else:
            self._finished(worker, key, value)

    def _end(self, worker: Handle) -> None:
        worker.actor.end()


def workers_wanted(options: LabelOptions) -> int:
    """As many as were stated, else as many as this machine has CPUs for.

    Raises:
        ConfigError: One needs more CPUs than there are.
    """
    have = cpus()
    if options.cpus_per_worker > have:
        raise ConfigError(f"a worker needs {options.cpus_per_worker:g} CPU, but this machine has {have:g}")
    return options.workers or max(1, int(have / options.cpus_per_worker + 1e-9))


def cpus() -> int:
    """CPUs this process may use: not those that are forbidden to it, nor more than its container's share."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for file in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        share = _share(Path(file))
        if share:
            found = min(found, share)
    return found


def _share(file: Path) -> int:
    """CPUs that a control group's file allows, at least 1; 0 where it sets no limit."""
    try:
        quota, period = file.read_text().split()[0], 100_000
        if quota in ("max", "-1"):
            return 0
        if file.name == "cpu.max":
            period = int(file.read_text().split()[1])
        else:
            period = int(file.with_name("cpu.cfs_period_us").read_text())
        return max(1, int(quota) // period)
    except (OSError, ValueError, IndexError):
        return 0
