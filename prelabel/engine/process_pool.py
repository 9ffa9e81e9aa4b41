"""The worker pool on this machine: each worker is a process. Its tasks and failures are the same as on Ray.

Workers are processes rather than threads, because an image that crashes native code must not end the run. A process
begins to import TensorFlow before it receives its spec, and exits when the other end of its connection is closed:

    driver -> process: WorkerSpec, then (key, task), (key, task) ...
    process -> driver: (LOADED, None, None), (DONE, key, record), (STATUS, None, status), (FAILED, key, error)

The driver's side of one process is in `worker_process.py`, that of all comes first here, then (`main`) the process's.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from prelabel.config import LabelOptions
from prelabel.detectors.plugins.addresses import find_factory
from prelabel.engine.schedule import FailureCause, LabelTask, MeasureTask, ProbeTask, Task, TrialTask
from prelabel.engine.worker import Worker, WorkerSpec
from prelabel.engine.worker_pool import MOST_IN_FLIGHT, Event, WorkerHandle, WorkerPool, require_cpus_for_streams
from prelabel.engine.worker_process import TENSORFLOW, WorkerProcess
from prelabel.errors import ConfigError, PrelabelError, RunError
from prelabel.processes import without_pandas
from prelabel.storage.address import describe

LOADED, DONE, STATUS, FAILED = "loaded", "done", "status", "failed"

#: Seconds between two checks for progress to report.
STATUS_INTERVAL_S = 0.5

#: Linux: `prctl` option that sends this process a signal when its parent dies.
_PR_SET_PDEATHSIG = 1


class ProcessPool(WorkerPool):
    """Workers as local processes. The first process may have been started ahead (`first`)."""

    def __init__(self, spec: WorkerSpec, workers: int, first: WorkerProcess | None = None) -> None:
        super().__init__(spec.options)
        self._spec = spec
        self._uses_tensorflow = find_factory(spec.options.detector) is None
        self._ahead = first
        self._keys = itertools.count()
        for _ in range(workers):
            self._start()

    def places(self) -> list[int]:
        return [worker_count(self._options)]

    def submit(self, worker: WorkerHandle, task: Task) -> None:
        key = next(self._keys)
        self._task_given(worker, key, task)
        worker.actor.send((key, task))

    def wait(self, timeout_s: float) -> Iterator[Event]:
        workers = {worker.actor.connection: worker for worker in self.workers}
        if workers:
            for connection in wait(list(workers), timeout_s):
                self._receive(workers[connection])
        else:
            time.sleep(timeout_s)
        self._find_stalled()
        while self._events:
            yield self._events.popleft()

    def stop(self) -> None:
        # Kill all before waiting for any: each takes a moment to release its memory.
        for worker in self.workers:
            worker.actor.kill()
        for worker in self.workers:
            worker.actor.end()
        self.workers.clear()

    def _start(self) -> None:
        process, self._ahead = self._ahead or WorkerProcess(uses_tensorflow=self._uses_tensorflow), None
        process.send(self._spec)
        host = socket.gethostname()
        self._add(WorkerHandle(next(self._numbers), process, placed=True, host=host, pid=process.pid))

    def _advice(self, worker: WorkerHandle, cause: str) -> str:
        process: WorkerProcess = worker.actor
        if not process.output:
            return "It printed nothing: check the memory of this machine, and its system log"
        with tempfile.NamedTemporaryFile(prefix="prelabel-worker-", suffix=".log", delete=False) as file:
            file.write(process.output)
        last = "" if process.last_line in cause else f", which ends with: {process.last_line}"
        return f"Its output is in {file.name}{last}"

    def _receive(self, worker: WorkerHandle) -> None:
        """Handle all messages of a worker, and then its death if its connection has closed."""
        try:
            while worker in self.workers and worker.actor.connection.poll():
                self._handle(worker, *worker.actor.connection.recv())
        except (EOFError, OSError):
            self._replace_dead(worker, FailureCause("WorkerDied", worker.actor.end(is_alive=False)))

    def _handle(self, worker: WorkerHandle, kind: str, key: int, value: Any) -> None:
        if kind == LOADED:
            self._detector_loaded(worker)
        elif kind == STATUS:
            self._status_received(worker, value)
        elif kind == FAILED and key in worker.tasks:
            self._task_failed(worker, key, value)
        elif kind == FAILED:
            self._load_failed(worker, value)
        else:
            self._task_finished(worker, key, value)

    def _end(self, worker: WorkerHandle) -> None:
        worker.actor.end()


def worker_count(options: LabelOptions) -> int:
    """Return `--workers`; without it, the number of workers that this machine has CPUs for.

    Raises:
        ConfigError: One worker needs more CPUs than this machine has, or its streams more than it is given.
    """
    require_cpus_for_streams(options, gpus=0.0)
    available = cpus()
    if options.cpus_per_worker > available:
        raise ConfigError(f"a worker needs {options.cpus_per_worker:g} CPU, but this machine has {available:g}")
    return options.workers or max(1, int(available / options.cpus_per_worker + 1e-9))


def cpus() -> int:
    """Return the number of CPUs this process may use, by its CPU affinity and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for file in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        quota = _cpu_quota(Path(file))
        if quota:
            count = min(count, quota)
    return count


def _cpu_quota(file: Path) -> int:
    """Return the number of CPUs that a control group's file allows, at least 1; 0 if it sets no limit."""
    try:
        quota, *period = file.read_text().split()
        if quota in ("max", "-1"):
            return 0
        period = period or file.with_name("cpu.cfs_period_us").read_text().split()
        return max(1, int(quota) // int(period[0]))
    except (OSError, ValueError, IndexError):
        return 0


def main(connection: Connection, imported: str) -> None:
    """Run a worker in this process, for the driver at the other end of the connection.

    Args:
        connection: To the driver.
        imported: `tensorflow` to import it at once, or `""`.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the process ends, as with other signals, not only one of its threads
    _WorkerMain(connection, uses_tensorflow=imported == TENSORFLOW).serve()


class _WorkerMain:
    def __init__(self, connection: Connection, *, uses_tensorflow: bool) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        # One thread per task: some shards are read ahead and published while another is run.
        self._threads = ThreadPoolExecutor(MOST_IN_FLIGHT, "work")
        self._uses_tensorflow = uses_tensorflow
        self._imported = threading.Event()

    def serve(self) -> None:
        """Work until the other end of the connection is closed; unfinished tasks are dropped then."""
        receiving = threading.Thread(target=self._receive, name="receive")
        receiving.start()
        if self._uses_tensorflow:
            # Not in a thread of its own, where the import takes a tenth of a second longer.
            try:
                _import()
            except Exception:  # noqa: BLE001 - loading the detector fails in the same way, which is sent to the driver
                traceback.print_exc()
        _collect_new_objects_only()
        self._imported.set()
        receiving.join()

    def _receive(self) -> None:
        """Start the tasks that arrive."""
        try:
            self._worker = Worker(self._next_message())
            self._threads.submit(self._do, None, None)
            threading.Thread(target=self._report_status, daemon=True).start()
            while True:
                key, task = self._next_message()
                self._threads.submit(self._do, key, task)
        except Exception as error:  # noqa: BLE001 - process boundary: an error that is not sent would be lost
            self._send_error(None, error)

    def _next_message(self) -> Any:
        """The driver's next message. Exits if the other end of the connection is closed."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            os._exit(0)

    def _do(self, key: int | None, task: Task | None) -> None:
        """Run a task, or load the detector if there is no task. Errors are sent to the driver, as Ray does."""
        worker = self._worker
        try:
            if task is None:
                self._imported.wait()
                worker.load()
                self._send(LOADED, None, None)
            else:
                work: dict[type[Task], Any] = {
                    LabelTask: worker.label,
                    ProbeTask: worker.probe,
                    TrialTask: worker.trial,
                    MeasureTask: worker.measure,
                }
                self._send(DONE, key, work[type(task)](task))
        except Exception as error:  # noqa: BLE001 - process boundary: an error that is not sent would be lost
            self._send_error(key, error, f" at shard {task.shard}" if task else "")

    def _send_error(self, key: int | None, error: Exception, where: str = "") -> None:
        known = isinstance(error, PrelabelError)
        self._send(FAILED, key, error if known else RunError(f"a worker failed{where}: {describe(error)}"))

    def _report_status(self) -> None:
        """Send the worker's status whenever it has changed."""
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
    from prelabel.detectors.running import runtime

    # Models load and run without Keras, and TensorFlow starts faster without it.
    runtime.tensorflow(keras=False)
    without_pandas()


def _collect_new_objects_only() -> None:
    """Search for reference cycles from now on, but only among objects that are made after this.

    TensorFlow alone makes hundreds of thousands of objects, and a search through all of them takes 0.1 s.
    """
    gc.freeze()
    gc.enable()


def end_with_parent() -> None:
    """Exit with the parent, even if native code keeps all threads from noticing that the connection is closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
