"""Where a run's workers run: on Ray, or as processes of this machine where that is all there is. Imports no Ray itself.

Starting Ray takes longer than many a small job; and a cluster of one machine has nothing to distribute.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prelabel.config import LabelOptions

if TYPE_CHECKING:
    from prelabel.engine.crew import Crew
    from prelabel.engine.local import Process
    from prelabel.engine.worker import Spec

#: Written into a run's summary: processes of this machine, or Ray.
LOCAL, RAY = "local", "ray"

#: The same for a person.
WHERE = {LOCAL: "on this machine, without Ray", RAY: "on Ray"}


class Runner:
    """What a run's workers run on; a context, which ends what was started ahead and never used.

    Args:
        options: Of the run.

    Attributes:
        name: `"local"` or `"ray"`.
    """

    def __init__(self, options: LabelOptions) -> None:
        self.name = choose(options)
        self._first: Process | None = None

    def start(self) -> None:
        """Start ahead what takes long and depends on nothing: on this machine, the first worker's process."""
        if self.name == LOCAL:
            from prelabel.engine.local import Process

            self._first = Process()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._first is not None:
            self._first.end()
            self._first = None

    @contextmanager
    def crew(self, spec: Spec, most: int) -> Iterator[Crew]:
        """The workers, for as long as the block lasts.

        Args:
            spec: What every worker gets.
            most: More workers than this have nothing to do.

        Raises:
            ConfigError: No cluster answers at the address, or a worker needs more than this machine has.
            RunInterrupted: SIGTERM came while Ray was starting.
        """
        if self.name == LOCAL:
            from prelabel.engine.local import LocalCrew, workers_wanted

            workers = min(most, workers_wanted(spec.options))
            first, self._first = self._first, None
            local = LocalCrew(spec, workers, first)
            try:
                yield local
            finally:
                local.stop()
            return
        from prelabel.engine import cluster  # Ray takes a second to import
        from prelabel.engine.fleet import Fleet

        how = cluster.connect(spec.options)
        fleet = None
        try:
            fleet = Fleet(spec, most, alone=how == "started")
            yield fleet
        finally:
            if fleet is not None:
                fleet.stop()
            if how != "found":
                cluster.disconnect()


def choose(options: LabelOptions) -> str:
    """As stated; else Ray where there is a cluster, an address or a GPU, and processes of this machine otherwise."""
    if options.runner != "auto":
        return options.runner
    if os.name != "posix" or options.address != "auto" or options.gpus_per_worker:
        return RAY
    if os.environ.get("RAY_ADDRESS") or _is_in_ray() or (options.gpus_per_worker is None and _has_gpu()):
        return RAY
    return RAY if _cluster_is_noted() else LOCAL


def _is_in_ray() -> bool:
    """Whether this process has connected itself to a Ray already."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _cluster_is_noted() -> bool:
    """Whether `ray start` has noted down a cluster on this machine that answers."""
    # Where Ray keeps its notes; only if there are any is it worth importing Ray to ask it.
    ours = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    folder = Path(next(filter(None, map(os.environ.get, ours)), "/tmp"))  # noqa: S108 - Ray's choice
    if not (folder / "ray" / "ray_current_cluster").exists():
        return False
    from prelabel.engine import cluster

    return cluster.address_of("auto") is not None
