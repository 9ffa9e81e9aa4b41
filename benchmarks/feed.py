"""How many workers one driver keeps busy: a detector that does nothing, images that cost nothing.

    python benchmarks/feed.py

Prints one JSON line. "made-up workers" are 1,000 workers in this process that answer when their shard's time is over,
under the real driver, schedule and meter: what the driver's own loop can do. "real Ray" are actors in processes of
their own that answer at once: what Ray's calls cost on this machine, actors and driver on the same cores.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import LEAST_REPEAT, cores, figure, report

from prelabel.config import LabelOptions
from prelabel.console import QuietReporter
from prelabel.engine.crew import Crew
from prelabel.engine.drive import Driver
from prelabel.engine.events import Event, Handle
from prelabel.engine.meter import Meter
from prelabel.engine.schedule import LabelTask, Task
from prelabel.engine.worker import Spec, Status
from prelabel.storage import Storage
from prelabel.store.links import Links
from prelabel.store.plan import Plan
from prelabel.store.run import DetectorRecord, Manifest
from prelabel.store.shards import ShardRecord, shard_name

WORKERS, RATE, SHARD = 1000, 300.0, 512
NEEDED_SHARDS_PER_S = WORKERS * RATE / SHARD
BUSY = 0.99
MEMORY_MB = 1000.0


def record_of(shard: int) -> ShardRecord:
    """What a worker reports of a shard of 512 images."""
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


class MadeUpCrew(Crew):
    """Workers that need a shard's time for each shard, one after the other, and say how long they had nothing to do."""

    def __init__(self, options: LabelOptions, workers: int, shard_s: float) -> None:
        super().__init__(options)
        self._shard_s = shard_s
        self._due: list[tuple[float, int, Handle, int]] = []
        self._keys = itertools.count()
        self._free_at: dict[Handle, float] = {}
        self._rng = random.Random(0)
        self.idle_s = 0.0
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        worker = Handle(next(self._numbers), None, placed=True)
        self.workers.append(worker)
        self._loaded(worker)

    def _end(self, worker: Handle) -> None:
        pass

    def waiting(self) -> str:
        return self._loading()

    def submit(self, worker: Handle, task: Task) -> None:
        key, now = next(self._keys), time.monotonic()
        free_at = self._free_at.get(worker)
        if free_at is not None and free_at < now:
            self.idle_s += now - free_at
        # Not all at the same moment: workers of a real run drift apart in their first shard.
        seconds = self._shard_s * (1 if free_at is not None else self._rng.uniform(0.05, 1))
        self._free_at[worker] = max(now, free_at or now) + seconds
        heapq.heappush(self._due, (self._free_at[worker], key, worker, task.shard))
        self._handed(worker, key, task)

    def wait(self, timeout_s: float) -> Iterator[Event]:
        now = time.monotonic()
        if self._due and self._due[0][0] > now:
            time.sleep(min(timeout_s, self._due[0][0] - now))
            now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, key, worker, shard = heapq.heappop(self._due)
            self._said(worker, Status(worker.images + SHARD, {shard: (SHARD // 2, 0)}))
            self._finished(worker, key, record_of(shard))
            if not self._shard_s and len(self._events) >= 8:
                break  # news come in small numbers
        self._watch()
        while self._events:
            yield self._events.popleft()

    def stop(self) -> None:
        self.workers.clear()


class MadeUpRunner:
    """Gives the driver a crew."""

    name = "made-up"

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    @contextmanager
    def crew(self, spec: Spec, most: int) -> Iterator[Crew]:
        yield self._crew


def drive(runner: Any, options: LabelOptions, shards: int) -> tuple[dict[int, ShardRecord], float]:
    """The records of a run of so many shards, and seconds from the first ready worker to the last of them."""
    detector = DetectorRecord("nothing", "nothing", "0" * 64, "nothing-0", "none", False, None)
    tasks = [(LabelTask(shard), SHARD) for shard in range(shards)]
    storage = Storage()
    meter = Meter(shards * SHARD, tasks)
    driver = Driver(
        Spec(options, "0" * 32, (), detector, "nobody"),
        storage,
        Plan.open(options.output, (), storage),
        tasks,
        meter,
        QuietReporter(),
        threading.Event(),
        Links(),
        on_ready=lambda optimization: None,
        runner=runner,
    )
    records = {record.shard: record for record in driver.run()}
    return records, meter.seconds


def options_of(**values: Any) -> LabelOptions:
    """Options of a run that reads and writes nothing."""
    return LabelOptions(source=("nothing",), detector="nothing", output=tempfile.gettempdir(), **values)


def measure_capacity(shards: int) -> dict[str, float]:
    """Workers that need no time: what the driver does at most, and what memory its records take."""
    before = _rss_mb()
    records, seconds = drive(MadeUpRunner(MadeUpCrew(options_of(), WORKERS, 0.0)), options_of(), shards)
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
    """Workers that need as long as a GPU that does 300 images a second: how busy the driver keeps them."""
    crew = MadeUpCrew(options_of(), WORKERS, SHARD / RATE)
    cpu = time.process_time()
    _, took = drive(MadeUpRunner(crew), options_of(), int(NEEDED_SHARDS_PER_S * seconds))
    return {"busy": 1 - crew.idle_s / (WORKERS * took), "driver_cores": (time.process_time() - cpu) / took}


def measure_ray(actors: int, shards: int) -> dict[str, float]:
    """Real actors that answer at once."""
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
    def __init__(self, spec: Spec) -> None:
        pass

    def load(self) -> None:
        pass

    def label(self, task: LabelTask) -> ShardRecord:
        return record_of(task.shard)

    def status(self) -> Status:
        return Status(0, {})


def install_nothing() -> None:
    """Run in every process of the measured Ray: its workers do nothing."""
    import prelabel.engine.fleet as fleet

    fleet.Worker = _Nothing  # type: ignore[assignment,misc]


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


MEASURES = {"capacity": measure_capacity, "busy": measure_busy, "ray": measure_ray}


def _in_process(name: str, *values: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, *map(str, values)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Each measurement in a process of its own, by turns."""
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
    found: dict[str, list[dict[str, float]]] = {name: [] for name in MEASURES}
    for turn in range(max(args.repeat, LEAST_REPEAT)):
        wanted = {"capacity": (args.shards,), "busy": (args.seconds,), "ray": (args.actors, args.ray_shards)}
        for name in list(wanted)[:: -1 if turn % 2 else 1]:
            found[name].append(_in_process(name, *wanted[name]))
    capacity = [one["shards_per_s"] for one in found["capacity"]]
    on_ray = [one["shards_per_s"] for one in found["ray"]]
    need = f"{WORKERS:,} workers at {RATE:g} images/s need {NEEDED_SHARDS_PER_S:.0f} shards/s of {SHARD}"
    thousand = f"{WORKERS:,} made-up workers at {RATE:g} images/s"
    figures = [
        figure("shards fed, made-up workers", capacity, "shards/s", at_least=round(NEEDED_SHARDS_PER_S), note=need),
        figure("images fed, made-up workers", [n * SHARD for n in capacity], "images/s"),
        figure(f"{thousand}: share of their time at work", [one["busy"] for one in found["busy"]], "", at_least=BUSY),
        figure(f"{thousand}: cores the driver takes", [one["driver_cores"] for one in found["busy"]], "cores"),
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
            [one["peak_mb"] for one in found["capacity"]],
            "MB",
            at_most=MEMORY_MB,
            note=f"of it records {found['capacity'][0]['held_mb']:.0f} MB",
        ),
        figure(f"manifest of {args.shards:,} shards", [one["manifest_s"] for one in found["capacity"]], "s"),
    ]
    setup = {"workers": WORKERS, "shard": SHARD, "shards": args.shards, "ray_shards": args.ray_shards}
    report("feed", figures, setup={**setup, "actors": args.actors, "seconds": args.seconds, "repeat": len(capacity)})


if __name__ == "__main__":
    main()
