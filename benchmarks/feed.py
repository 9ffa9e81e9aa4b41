"""How many workers one driver keeps busy, with a detector that does nothing and images that cost nothing.

    python benchmarks/feed.py

Prints one JSON line. "made-up workers" are 1,000 simulated workers in this process that answer when their shard's time
is over, under the real driver, schedule and progress: they measure the driver's own loop. "real Ray" are actors in
separate processes that answer immediately: they measure Ray's calls on this machine, with actors and driver on the same
cores.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import LEAST_REPEAT, cores, figure, report

from prelabel.config import LabelOptions
from prelabel.console import QuietReporter
from prelabel.detectors.base import DetectorRecord
from prelabel.engine.driver import Driver
from prelabel.engine.progress import Throughput
from prelabel.engine.schedule import LabelTask, Task
from prelabel.engine.worker import WorkerSpec, WorkerStatus
from prelabel.engine.worker_pool import Event, WorkerHandle, WorkerPool
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.plan import Plan
from prelabel.store.run import Manifest
from prelabel.store.shards import ShardRecord, shard_name

WORKERS, RATE, SHARD = 1000, 300.0, 512
NEEDED_SHARDS_PER_S = WORKERS * RATE / SHARD
BUSY = 0.99
MEMORY_MB = 1000.0


def record_of(shard: int) -> ShardRecord:
    """What a worker reports about a shard of 512 images."""
    stages = ("read", "decode", "detect", "encode", "write")
    return ShardRecord(
        shard=shard,
        name=shard_name(shard),
        rows=SHARD,
        failed=1,
        detections=8 * SHARD,
        bytes=1_000_000,
        sha256=f"{shard:064x}",
        failures={"DecodeError": 1},
        seconds=dict.fromkeys(stages, shard % 97 / 7),
    )


class MadeUpPool(WorkerPool):
    """Simulated workers: each takes a fixed time per shard, and reports how long it was idle."""

    def __init__(self, options: LabelOptions, workers: int, shard_s: float) -> None:
        super().__init__(options)
        self._shard_s = shard_s
        self._due: list[tuple[float, int, WorkerHandle, int]] = []
        self._keys = itertools.count()
        self._free_at: dict[WorkerHandle, float] = {}
        self._rng = random.Random(0)
        self.idle_s = 0.0
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        worker = WorkerHandle(next(self._numbers), None, placed=True)
        self.workers.append(worker)
        self._detector_loaded(worker)

    def _end(self, worker: WorkerHandle) -> None:
        pass

    def _advice(self, worker: WorkerHandle, cause: str) -> str:
        return ""

    def submit(self, worker: WorkerHandle, task: Task) -> None:
        key, now = next(self._keys), time.monotonic()
        free_at = self._free_at.get(worker)
        if free_at is not None and free_at < now:
            self.idle_s += now - free_at
        # Not all at the same moment: workers of a real run drift apart in their first shard.
        seconds = self._shard_s * (1 if free_at is not None else self._rng.uniform(0.05, 1))
        self._free_at[worker] = max(now, free_at or now) + seconds
        heapq.heappush(self._due, (self._free_at[worker], key, worker, task.shard))
        self._task_given(worker, key, task)

    def wait(self, timeout_s: float) -> Iterator[Event]:
        now = time.monotonic()
        if self._due and self._due[0][0] > now:
            time.sleep(min(timeout_s, self._due[0][0] - now))
            now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, key, worker, shard = heapq.heappop(self._due)
            self._status_received(worker, WorkerStatus(worker.images + SHARD, {shard: (SHARD // 2, 0)}))
            self._task_finished(worker, key, record_of(shard))
            if not self._shard_s and len(self._events) >= 8:
                break  # news come in small numbers
        self._find_stalled()
        while self._events:
            yield self._events.popleft()

    def stop(self) -> None:
        self.workers.clear()


class MadeUpRunner:
    """A runner that gives the driver this pool."""

    name = "made-up"

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    @contextmanager
    def pool(self, spec: WorkerSpec, most: int, notify: Callable[[str], None]) -> Iterator[WorkerPool]:
        yield self._pool


def drive(runner: Any, options: LabelOptions, shards: int) -> tuple[dict[int, ShardRecord], float]:
    """The records of a run with this many shards, and the seconds from the first ready worker to the last record."""
    detector = DetectorRecord("nothing", "nothing", "0" * 64, "nothing-0", "none", False, None)
    tasks = [(LabelTask(shard), SHARD) for shard in range(shards)]
    storage = Storage()
    throughput = Throughput(shards * SHARD, tasks)
    driver = Driver(
        WorkerSpec(options, "0" * 32, (), detector, "nobody"),
        storage,
        Plan.open(options.output, (), storage),
        tasks,
        throughput,
        QuietReporter(),
        threading.Event(),
        Links(),
        on_ready=lambda optimization: None,
        runner=runner,
    )
    records = {record.shard: record for record in driver.run()}
    return records, throughput.seconds


def options_of(**values: Any) -> LabelOptions:
    """Options of a run that reads and writes nothing."""
    return LabelOptions.of(source=("nothing",), detector="nothing", output=tempfile.gettempdir(), **values)


def measure_capacity(shards: int) -> dict[str, float]:
    """Measure workers that take no time: the driver's maximum throughput, and the memory of its records."""
    before = _rss_mb()
    records, seconds = drive(MadeUpRunner(MadeUpPool(options_of(), WORKERS, 0.0)), options_of(), shards)
    held = _rss_mb()
    begin = time.perf_counter()
    data = json.dumps(Manifest("0" * 32, "now", tuple(records[n] for n in sorted(records))).to_json())
    return {
        "shards_per_s": shards / seconds,
        "held_mb": held - before,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "manifest_s": time.perf_counter() - begin,
        "manifest_mb": len(data) / 1e6,
    }


def measure_busy(seconds: float) -> dict[str, float]:
    """Measure how busy the driver keeps workers that label 300 images per second."""
    pool = MadeUpPool(options_of(), WORKERS, SHARD / RATE)
    cpu = time.process_time()
    _, took = drive(MadeUpRunner(pool), options_of(), int(NEEDED_SHARDS_PER_S * seconds))
    return {"busy": 1 - pool.idle_s / (WORKERS * took), "driver_cores": (time.process_time() - cpu) / took}


def measure_ray(actors: int, shards: int) -> dict[str, float]:
    """Measure real actors that answer immediately."""
    import ray

    from prelabel.engine.runner import Runner

    here = str(Path(__file__).parent)
    ray.init(
        address="local",
        num_cpus=actors,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": "feed.install_nothing",
            "env_vars": {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])},
        },
    )
    options = options_of(workers=actors, runner="ray")
    records, seconds = drive(Runner(options), options, shards)
    ray.shutdown()
    return {"shards_per_s": len(records) / seconds, "driver_mb": _rss_mb()}


class _Nothing:
    def __init__(self, spec: WorkerSpec) -> None:
        pass

    def load(self) -> None:
        pass

    def label(self, task: LabelTask) -> ShardRecord:
        return record_of(task.shard)

    def status(self) -> WorkerStatus:
        return WorkerStatus(0, {})


def install_nothing() -> None:
    """Make the workers do nothing; runs in every process of the measured Ray."""
    import prelabel.engine.ray_pool as ray_pool

    ray_pool.Worker = _Nothing  # type: ignore[assignment,misc]


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


MEASURES = {"capacity": measure_capacity, "busy": measure_busy, "ray": measure_ray}


def _in_process(name: str, *values: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, *map(str, values)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run each measurement in its own process, in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    parser.add_argument("--shards", type=int, default=100_000, help="shards of the run without service time")
    parser.add_argument("--ray-shards", type=int, default=4000)
    parser.add_argument("--actors", type=int, default=4 * cores())
    parser.add_argument("--seconds", type=float, default=8.0, help="of the run with 1,000 workers at 300 images/s")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, *values = args.measure
        print(json.dumps(MEASURES[name](*(float(v) if "." in v else int(v) for v in values))))
        return
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in MEASURES}
    for turn in range(max(args.repeat, LEAST_REPEAT)):
        wanted = {"capacity": (args.shards,), "busy": (args.seconds,), "ray": (args.actors, args.ray_shards)}
        for name in list(wanted)[:: -1 if turn % 2 else 1]:
            measured[name].append(_in_process(name, *wanted[name]))
    capacity = [values["shards_per_s"] for values in measured["capacity"]]
    on_ray = [values["shards_per_s"] for values in measured["ray"]]
    need = f"{WORKERS:,} workers at {RATE:g} images/s need {NEEDED_SHARDS_PER_S:.0f} shards/s of {SHARD}"
    thousand = f"{WORKERS:,} made-up workers at {RATE:g} images/s"
    figures = [
        figure("shards fed, made-up workers", capacity, "shards/s", at_least=round(NEEDED_SHARDS_PER_S), note=need),
        figure("images fed, made-up workers", [n * SHARD for n in capacity], "images/s"),
        figure(
            f"{thousand}: share of their time at work",
            [values["busy"] for values in measured["busy"]],
            "",
            at_least=BUSY,
        ),
        figure(f"{thousand}: cores the driver takes", [values["driver_cores"] for values in measured["busy"]], "cores"),
        figure(
            f"shards fed, real Ray, {args.actors} actors",
            on_ray,
            "shards/s",
            at_least=round(NEEDED_SHARDS_PER_S),
            note=f"actors and driver share {cores()} cores",
        ),
        figure("images fed, real Ray", [n * SHARD for n in on_ray], "images/s"),
        figure(
            f"driver's memory after {args.shards:,} shards",
            [values["peak_mb"] for values in measured["capacity"]],
            "MB",
            at_most=MEMORY_MB,
            note=f"of it records {measured['capacity'][0]['held_mb']:.0f} MB",
        ),
        figure(f"manifest of {args.shards:,} shards", [values["manifest_s"] for values in measured["capacity"]], "s"),
    ]
    setup = {"workers": WORKERS, "shard": SHARD, "shards": args.shards, "ray_shards": args.ray_shards}
    report("feed", figures, setup={**setup, "actors": args.actors, "seconds": args.seconds, "repeat": len(capacity)})


if __name__ == "__main__":
    main()
