"""Measuring on the pool that a run would use: its workers start as for a run, and measure a sample at the same time."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from prelabel.engine.measurement import Measurement
from prelabel.engine.progress import Reporter
from prelabel.engine.runner import LOCAL, Runner
from prelabel.engine.schedule import MeasureTask
from prelabel.engine.worker import WorkerSpec
from prelabel.engine.worker_pool import Died, Done, Failed, Ready, WorkerHandle, WorkerPool
from prelabel.errors import RunError, RunInterrupted
from prelabel.estimates.sample import ImagesLeft

#: Seconds for which the workers measure at least, and after which they stop running the detector.
MEASURE_S, LIMIT_S = 8.0, 60.0

#: On a cluster, at most this many workers measure: to start hundreds for a few seconds costs more than it tells.
MOST_MEASURED = 16

#: Seconds to wait for the other workers once one is ready.
_PATIENCE_S = 60.0

_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class PoolMeasurement:
    """What the workers of a pool measured.

    Attributes:
        by_worker: What each worker measured.
        start_s: Mean seconds from starting the pool until a worker had loaded the detector.
        end_s: Seconds of stopping the pool.
        places: How many workers fit each machine, most first.
        gpus_per_worker: GPUs of each worker.
        notes: What went wrong with some of the workers, one line each.
    """

    by_worker: tuple[Measurement, ...]
    start_s: float
    end_s: float
    places: tuple[int, ...]
    gpus_per_worker: float
    notes: tuple[str, ...]


def measure_on_pool(
    runner: Runner, spec: WorkerSpec, max_workers: int, left: ImagesLeft, reporter: Reporter, stop: threading.Event
) -> PoolMeasurement:
    """Start the workers of a run, let all of them measure the sample at the same time, and stop them.

    Args:
        runner: Provides the workers.
        spec: Settings of every worker.
        max_workers: Number of workers that the run has shards for.
        left: The images of the run, and the sample.
        reporter: Receives messages.
        stop: Ends the measurement when set.

    Raises:
        PrelabelError: No worker can load the detector, or a worker reports an error that concerns all images.
        RunError: All workers died while they measured.
        RunInterrupted: `stop` was set.
    """
    begin = time.perf_counter()
    most = max_workers if runner.name == LOCAL else min(max_workers, MOST_MEASURED)
    with runner.pool(spec, most, reporter.message) as pool:
        measuring = _Measuring(pool, stop)
        start_s = measuring.wait_for_workers(begin)
        workers = len(measuring.ready)
        reporter.message(
            f"measuring with {len(left.sample):,} image{'s' * (len(left.sample) != 1)} on {workers} "
            f"worker{'s' * (workers != 1)}, for about {MEASURE_S:g} s"
        )
        by_worker = measuring.run(left)
        places, gpus = tuple(pool.places()), pool.gpus_per_worker
        end = time.perf_counter()
    return PoolMeasurement(
        tuple(by_worker), start_s, time.perf_counter() - end, places, gpus, tuple(dict.fromkeys(measuring.notes))
    )


class _Measuring:
    def __init__(self, pool: WorkerPool, stop: threading.Event) -> None:
        self._pool = pool
        self._stop = stop
        self.ready: list[WorkerHandle] = []
        self.notes: list[str] = []

    def _events(self) -> Iterator[Ready | Done | Died | Failed]:
        if self._stop.is_set():
            raise RunInterrupted("stopped; nothing was written")
        yield from self._pool.wait(_WAIT_S)

    def wait_for_workers(self, begin: float) -> float:
        """Wait until the workers are ready; return their mean seconds since `begin`."""
        ready_at: dict[int, float] = {}
        while True:
            for event in self._events():
                now = time.perf_counter()
                if isinstance(event, Ready):
                    ready_at[event.worker.number] = now
                elif isinstance(event, Failed):
                    self.notes.append(f"worker {event.worker.name} cannot load the detector: {event.error}")
                elif isinstance(event, Died):
                    self.notes.append(f"a worker died while it started: {event.cause.error}")
            self.ready = [worker for worker in self._pool.workers if worker.ready]
            waited = time.perf_counter() - min(ready_at.values(), default=time.perf_counter())
            if self.ready and (len(self.ready) == len(self._pool.workers) or waited > _PATIENCE_S):
                break
        if len(self.ready) < len(self._pool.workers):
            self.notes.append(f"{self._pool.waiting()}: the others measured without them")
        return statistics.fmean(ready_at[worker.number] for worker in self.ready) - begin

    def run(self, left: ImagesLeft) -> list[Measurement]:
        """Give every ready worker its part of the sample, and return what they measured."""
        size, workers = len(left.sample), len(self.ready)
        for number, worker in enumerate(self.ready):
            # No image is in two parts, so that one that kills a worker kills no other; unless they are too few.
            part = range(number % size, size, workers)
            links = {place: left.links[position] for place, position in enumerate(part) if position in left.links}
            images = tuple(left.sample[position] for position in part)
            self._pool.submit(worker, MeasureTask(images, MEASURE_S, LIMIT_S, links=links))
        waiting = {worker.number for worker in self.ready}
        results: list[Measurement] = []
        while waiting:
            for event in self._events():
                if isinstance(event, Done) and isinstance(event.record, Measurement):
                    waiting.discard(event.worker.number)
                    results.append(event.record)
                elif isinstance(event, Failed) and event.task is not None:
                    raise event.error
                elif isinstance(event, Died) and event.tasks:
                    waiting.discard(event.worker.number)
                    self.notes.append(
                        f"a worker died while it labeled its part of the sample ({event.cause.error}); a run would "
                        "find the image that causes this, and label the others"
                    )
        if not results:
            raise RunError(f"{self.notes[-1]}. Use another --seed to draw other images")
        return results
