"""Run `prelabel label` as a user would, and sample its memory and open files meanwhile; it can be stopped at times."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from common import descendants, memory_mb

from prelabel.engine.process_pool import end_with_parent

#: What has loaded TensorFlow is a worker.
_WORKER_MB = 300.0

#: Seconds between two stops of a run, and the share of its images after which it is stopped no more.
_STOP_EVERY_S, _LAST_STOP = 3.0, 0.9


@dataclass(frozen=True, slots=True)
class Look:
    """A sample of the driver and of the largest worker."""

    seconds: float
    done: int
    workers: int
    driver_mb: float
    worker_mb: float
    driver_files: int
    worker_files: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """One run.

    Attributes:
        summary: Its last event. The seconds in it include those in which it was stopped.
        seconds: Of the whole command, without those in which it was stopped.
        stopped_s: Seconds in which it was stopped.
        looks: Samples.
        peak_mb: Peak memory of the driver and of any worker.
        idle_s: Seconds from the last shard of each worker to the last shard of all, added up: workers were idle then.
    """

    summary: dict[str, Any]
    seconds: float
    stopped_s: float
    looks: Sequence[Look]
    peak_mb: tuple[float, float]
    idle_s: float


def label(
    folder: Path,
    detector: str,
    output: Path,
    *further: str,
    every_s: float = 0.5,
    at_stops: Callable[[], object] | None = None,
) -> Labelled:
    """Label all images of a folder.

    Args:
        folder: The images.
        detector: Name or folder of the detector.
        output: Where the run goes.
        further: Options of `label`.
        every_s: Seconds between two samples.
        at_stops: Called every few seconds from the first shard until most images are done, while all processes of the
            run are stopped. The run uses local processes then.

    Raises:
        SystemExit: The run fails.
    """
    command = [sys.executable, "-m", "prelabel", "label", str(folder.absolute()), "--detector", detector]
    command += ["--output", str(output), "--log-json", *further]
    if at_stops is not None:
        command += ["--runner", "local"]  # workers on a cluster cannot be stopped from here
    began = time.perf_counter()
    summary: dict[str, Any] = {}
    other: list[str] = []
    last_shard: dict[str, float] = {}
    images = done = 0
    with (
        # Killed with the benchmark even while it is stopped.
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=output.parent, preexec_fn=end_with_parent
        ) as process,
        _Stops(process.pid, at_stops) as stops,
    ):
        watch = _Watch(process.pid, every_s)
        for line in process.stderr or ():
            event = json.loads(line) if line.startswith("{") else {"event": "other"}
            if event["event"] == "progress":
                watch.done, images = event["done"], event["images"]
            elif event["event"] == "summary":
                summary = event
            elif event["event"] == "shard":
                last_shard[event["worker"]] = time.perf_counter() - stops.seconds
                done += event["images"]
                stops.allow(0 < done < _LAST_STOP * images)
            else:
                other.append(line)
    seconds = time.perf_counter() - began - stops.seconds
    watch.stop()
    if process.returncode or not summary:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}: {''.join(other)[-2000:]}")
    idle_s = sum(max(last_shard.values()) - ended for ended in last_shard.values())
    return Labelled(summary, seconds, stops.seconds, watch.looks, watch.peak_mb, idle_s)


class _Stops:
    """Stops a process and its children at times to call a function, and lets them go on.

    A context manager: on exit, the process is stopped no more, and an error of the function is raised.
    """

    def __init__(self, pid: int, call: Callable[[], object] | None) -> None:
        self._pid, self._call = pid, call
        self.seconds = 0.0
        self._allowed, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Stops:
        if self._call is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            raise self._error

    def allow(self, allowed: bool) -> None:
        """Say whether the process may be stopped from now on."""
        (self._allowed.set if allowed else self._allowed.clear)()

    def _run(self) -> None:
        try:
            while not self._ended.wait(_STOP_EVERY_S):
                if self._allowed.is_set() and self._call is not None:
                    self._stop(self._call)
        except BaseException as error:  # noqa: BLE001 - raised where the run ends; a thread would drop SystemExit
            self._error = error

    def _stop(self, call: Callable[[], object]) -> None:
        children: list[int] = []
        try:
            _send([self._pid], signal.SIGSTOP)  # first: then it starts no further children
            children = descendants(self._pid)
            _send(children, signal.SIGSTOP)
            began = time.perf_counter()
            call()
            self.seconds += time.perf_counter() - began
        finally:
            _send([*children, self._pid], signal.SIGCONT)


def _send(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


class _Watch:
    """Samples a process and its children until it is stopped."""

    def __init__(self, pid: int, every_s: float) -> None:
        self._pid, self._every_s, self._ended = pid, every_s, threading.Event()
        self._began = time.monotonic()
        self.done = 0
        self.looks: list[Look] = []
        self.peak_mb = (0.0, 0.0)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current sample."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            now, most = memory_mb(self._pid)
            sizes = [(*memory_mb(pid), _open_files(pid)) for pid in descendants(self._pid)]
            workers = [size for size in sizes if size[0] > _WORKER_MB]
            self.peak_mb = max(self.peak_mb[0], most), max(self.peak_mb[1], *(peak for _, peak, _ in sizes), 0.0)
            self.looks.append(
                Look(
                    round(time.monotonic() - self._began, 1),
                    self.done,
                    len(workers),
                    now,
                    max((size for size, _, _ in workers), default=0.0),
                    _open_files(self._pid),
                    max((files for _, _, files in workers), default=0),
                )
            )


def _open_files(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0
