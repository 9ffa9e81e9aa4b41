"""The choice between Ray and local processes. This module imports Ray only when Ray is used.

Starting Ray takes longer than many small jobs, and on a single machine without a GPU it has no advantage. The module
imports nothing heavy, so that a command can start the first worker's process before it does anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prelabel.detectors.plugins.addresses import find_factory
from prelabel.engine.worker_process import WorkerProcess

if TYPE_CHECKING:
    from prelabel.config import LabelOptions
    from prelabel.engine.worker import WorkerSpec
    from prelabel.engine.worker_pool import WorkerPool

#: Values of `runner` in a run's summary: processes on this machine, or Ray.
LOCAL, RAY = "local", "ray"

#: How messages name them.
WHERE = {LOCAL: "on this machine, without Ray", RAY: "on Ray"}


class Runner:
    """Starts the workers of a run. A context manager, which ends a process that was started ahead but never used.

    Args:
        options: Options of the run.

    Attributes:
        name: `"local"` or `"ray"`.

    Raises:
        ConfigError: The detector's name is ambiguous.
    """

    def __init__(self, options: LabelOptions) -> None:
        self.name = choose_runner(options)
        self._first: WorkerProcess | None = None
        self._uses_tensorflow = find_factory(options.detector) is None

    def start(self) -> None:
        """Start the first worker's process ahead, if workers run as local processes. A second call does nothing."""
        if self.name == LOCAL and self._first is None:
            self._first = WorkerProcess(uses_tensorflow=self._uses_tensorflow)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._first is not None:
            self._first.end()
            self._first = None

    @contextmanager
    def pool(self, spec: WorkerSpec, max_workers: int, notify: Callable[[str], None]) -> Iterator[WorkerPool]:
        """Start the workers, and stop them at the end of the `with` block.

        Args:
            spec: Settings of every worker.
            max_workers: Upper limit, since more workers would have nothing to do.
            notify: Called with a line that names the place where the workers start, and who chose it.

        Raises:
            ConfigError: No cluster answers at the address, or a worker needs more resources than this machine has.
            RunInterrupted: SIGTERM was received while Ray was starting.
        """
        if self.name == LOCAL:
            from prelabel.engine.process_pool import ProcessPool, worker_count

            workers = min(max_workers, worker_count(spec.options))
            notify(f"starting workers {WHERE[LOCAL]}")
            first, self._first = self._first, None
            processes = ProcessPool(spec, workers, first)
            try:
                yield processes
            finally:
                processes.stop()
            return
        from prelabel.engine import cluster  # Ray takes a second to import
        from prelabel.engine.ray_pool import RayPool

        connection = cluster.connect(spec.options, lambda where: notify(f"starting workers {where}"))
        actors = None
        try:
            actors = RayPool(spec, max_workers, is_local=connection == "started")
            yield actors
        finally:
            if actors is not None:
                actors.stop()
            if connection != "found":
                cluster.disconnect()


def choose_runner(options: LabelOptions) -> str:
    """Return `--runner`; for `auto`, Ray if there is a cluster, an address or a GPU, and local processes otherwise."""
    if options.runner != "auto":
        return options.runner
    if os.name != "posix" or options.ray_address != "auto" or options.gpus_per_worker:
        return RAY
    if os.environ.get("RAY_ADDRESS") or _is_in_ray() or (options.gpus_per_worker is None and _has_gpu()):
        return RAY
    return RAY if _has_local_cluster() else LOCAL


def _is_in_ray() -> bool:
    """Whether this process is already connected to Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _has_local_cluster() -> bool:
    """Whether `ray start` has made this machine part of a cluster, and the cluster answers."""
    # The file that `ray start` writes; Ray is imported only if it exists.
    variables = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    folder = Path(next(filter(None, map(os.environ.get, variables)), "/tmp"))  # noqa: S108 - Ray's choice
    if not (folder / "ray" / "ray_current_cluster").exists():
        return False
    from prelabel.engine import cluster

    return cluster.address_of("auto") is not None
