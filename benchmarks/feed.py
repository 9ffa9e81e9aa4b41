"""How many workers one driver keeps busy, with a detector that does nothing and images that cost nothing.

    python benchmarks/feed.py

Prints one JSON line. "made-up workers" are 4,000 simulated workers in this process that answer when their shard's time
is over, under the real driver, schedule and progress: they measure the driver's own loop, and with a million shards its
memory. "real Ray" are actors in separate processes that answer immediately: they measure Ray's calls on this machine,
with actors and driver on the same cores. The manifest and the status are those of a run of as many shards, whose files
are empty except those that a status reads.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import LEAST_REPEAT, cores, figure, memory_mb, report

from prelabel.config import LabelOptions
from prelabel.console import QuietReporter
from prelabel.detectors.base import DetectorRecord
from prelabel.engine.driver import Driver
from prelabel.engine.progress import Throughput
from prelabel.engine.resume import WorkList, work_left
from prelabel.engine.schedule import LabelTask, Task
from prelabel.engine.worker import WorkerSpec, WorkerStatus
from prelabel.engine.worker_pool import Event, WorkerHandle, WorkerPool
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.output import Finished
from prelabel.store.plan import SHARDS_PER_PART, Plan, PlanPart
from prelabel.store.records import ShardRecords
from prelabel.store.rows import ImageRow
from prelabel.store.run import MANIFEST, RUN, Manifest, RunRecord, read_manifest, write_json, write_manifest
from prelabel.store.shards import SHARD_FOLDER, ShardRecord, shard_name, write_shard
from prelabel.store.status import read_status

WORKERS, RATE, SHARD, SHARDS = 4000, 300.0, 512, 1_000_000
NEEDED_SHARDS_PER_S = WORKERS * RATE / SHARD
BUSY, CORES = 0.99, 0.5
BYTES_PER_SHARD = 500.0
MANIFEST_S, STATUS_S = 10.0, 5.0
RUN_ID = "0" * 32
DETECTOR = DetectorRecord("nothing", "nothing", "0" * 64, "nothing-0", "none", False, None)


def record_of(shard: int) -> ShardRecord:
    """What a worker reports about a shard of 512 images."""
    stages = ("read", "decode", "detect", "encode", "write")
    return ShardRecord(
        shard=shard,
        rows=SHARD,
        failed=1,
        detections=8 * SHARD,
        bytes=1_000_000,
        sha256=f"{shard:064x}",
        failures={"DecodeError": 1},
        seconds=dict.fromkeys(stages, round(shard % 9973 / 7, 3)),
    )


def work_of(shards: int) -> WorkList:
    """The work in this many full shards."""
    record = RunRecord(RUN_ID, "now", {}, {}, DETECTOR, SHARD, parts_of(shards), {})
    plan = Plan.open("/nowhere", record.parts, Storage())
    return work_left(record, plan, Finished(), retry_failed=False)


def parts_of(shards: int) -> tuple[PlanPart, ...]:
    """The parts of a plan of full shards, of which no file is ever read."""
    return tuple(
        PlanPart(f"plan-{first:05d}-{RUN_ID[:8]}.parquet", first, count, count * SHARD, "0" * 64)
        for first in range(0, shards, SHARDS_PER_PART)
        for count in [min(SHARDS_PER_PART, shards - first)]
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
        self._add(worker)
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


def drive(runner: Any, options: LabelOptions, shards: int) -> tuple[ShardRecords, float]:
    """The records of a run with this many shards, and the seconds from the first ready worker to the last record."""
    work = work_of(shards)
    storage = Storage()
    throughput = Throughput(shards * SHARD, work)
    driver = Driver(
        WorkerSpec(options, RUN_ID, (), DETECTOR, "nobody"),
        storage,
        Plan.open(options.output, (), storage),
        work,
        throughput,
        QuietReporter(),
        threading.Event(),
        Links(),
        on_ready=lambda optimization: None,
        runner=runner,
    )
    records = ShardRecords()
    for record in driver.run():
        records.add(record)
    return records, throughput.seconds


def options_of(**values: Any) -> LabelOptions:
    """Options of a run that reads and writes nothing."""
    return LabelOptions.of(source=("nothing",), detector="nothing", output=tempfile.gettempdir(), **values)


def measure_capacity(shards: int) -> dict[str, float]:
    """Measure workers that take no time: the driver's maximum throughput, its memory, and the manifest.

    The memory is what a run of this many shards takes beyond one of a thousand, until the manifest is written.
    """
    with tempfile.TemporaryDirectory() as output:
        few, _ = drive(MadeUpRunner(MadeUpPool(options_of(), WORKERS, 0.0)), options_of(), 1000)
        write_manifest(output, Storage(), Manifest(RUN_ID, "now", few))
        before = _peak_mb()
        records, seconds = drive(MadeUpRunner(MadeUpPool(options_of(), WORKERS, 0.0)), options_of(), shards)
        begin = time.perf_counter()
        write_manifest(output, Storage(), Manifest(RUN_ID, "now", records))
        written, grown_mb = time.perf_counter(), _peak_mb() - before
        read_manifest(output, Storage())
        return {
            "shards_per_s": shards / seconds,
            "before_mb": before,
            "grown_mb": grown_mb,
            "write_s": written - begin,
            "read_s": time.perf_counter() - written,
            "mb": Path(output, MANIFEST).stat().st_size / 1e6,
        }


def measure_status(shards: int, output: str) -> dict[str, float]:
    """Measure the status of a run of this many shards that is finished, and without its manifest, as if it were not."""
    manifest, aside = Path(output, MANIFEST), Path(output).with_suffix(".manifest")
    seconds = {}
    for state in ("finished", "stopped"):
        begin = time.perf_counter()
        status = read_status(output, Storage())
        seconds[f"{state}_s"] = time.perf_counter() - begin
        if (status.state, status.done) != (state, shards * SHARD) or status.images != status.done:
            raise SystemExit(f"the status is wrong: {status}")
        if state == "finished":
            manifest.rename(aside)
    aside.rename(manifest)
    return seconds


def make_run(output: str, shards: int) -> None:
    """Write a finished run; of its shards, only those that a status of an unfinished run reads are not empty."""
    Path(output).mkdir()
    write_manifest(output, Storage(), Manifest(RUN_ID, "now", ShardRecords.of(map(record_of, range(shards)))))
    record = RunRecord(RUN_ID, "now", {}, {}, DETECTOR, SHARD, parts_of(shards), {})
    write_json(f"{output}/{RUN}", Storage(), record.to_json())
    Path(output, SHARD_FOLDER).mkdir()
    for shard in range(shards):
        os.close(os.open(f"{output}/{SHARD_FOLDER}/{shard_name(shard)}", os.O_CREAT | os.O_WRONLY))
    row = ImageRow("a.jpg", "/a.jpg", "a.jpg", DETECTOR.name, DETECTOR.model_version, error="none", error_type="Error")
    write_shard([row] * SHARD, output, Storage(), shard=0, run_id=RUN_ID)
    content = Path(output, SHARD_FOLDER, shard_name(0)).read_bytes()
    for shard in range(0, shards, max(1, shards // 1000)):
        Path(output, SHARD_FOLDER, shard_name(shard)).write_bytes(content)


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
    return {"shards_per_s": len(records) / seconds, "driver_mb": _peak_mb()}


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


def _peak_mb() -> float:
    # Not `ru_maxrss`: a process begins with that of the one that started it.
    return memory_mb(os.getpid())[1]


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "capacity": measure_capacity,
    "busy": measure_busy,
    "status": measure_status,
    "ray": measure_ray,
}


def _in_process(name: str, *values: float | str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, json.dumps(values)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run each measurement in its own process, in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    parser.add_argument("--shards", type=int, default=SHARDS, help="shards of the run without service time")
    parser.add_argument("--ray-shards", type=int, default=4000)
    parser.add_argument("--actors", type=int, default=4 * cores())
    parser.add_argument("--seconds", type=float, default=8.0, help="of the run with 4,000 workers at 300 images/s")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, values_as_json = args.measure
        print(json.dumps(MEASURES[name](*json.loads(values_as_json))))
        return
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in MEASURES}
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        make_run(run, args.shards)
        wanted: dict[str, tuple[float | str, ...]] = {
            "capacity": (args.shards,),
            "status": (args.shards, run),
            "busy": (args.seconds,),
            "ray": (args.actors, args.ray_shards),
        }
        for turn in range(max(args.repeat, LEAST_REPEAT)):
            for name in list(wanted)[:: -1 if turn % 2 else 1]:
                measured[name].append(_in_process(name, *wanted[name]))
    capacity = [values["shards_per_s"] for values in measured["capacity"]]
    on_ray = [values["shards_per_s"] for values in measured["ray"]]
    need = f"{WORKERS:,} workers at {RATE:g} images/s need {NEEDED_SHARDS_PER_S:.0f} shards/s of {SHARD}"
    busy = f"{WORKERS:,} made-up workers at {RATE:g} images/s"
    count = f"{args.shards:,} shards"

    def values(name: str, key: str) -> list[float]:
        return [values[key] for values in measured[name]]

    figures = [
        figure("shards fed, made-up workers", capacity, "shards/s", at_least=round(NEEDED_SHARDS_PER_S), note=need),
        figure("images fed, made-up workers", [n * SHARD for n in capacity], "images/s"),
        figure(
            f"{busy}: share of their time at work",
            values("busy", "busy"),
            "",
            at_least=BUSY,
        ),
        figure(f"{busy}: cores the driver takes", values("busy", "driver_cores"), "cores", at_most=CORES),
        figure(
            f"shards fed, real Ray, {args.actors} actors",
            on_ray,
            "shards/s",
            at_least=round(NEEDED_SHARDS_PER_S),
            note=f"actors and driver share {cores()} cores",
        ),
        figure("images fed, real Ray", [n * SHARD for n in on_ray], "images/s"),
        figure(
            f"driver's memory for each of {count}, until the manifest is written",
            [mb * 1e6 / args.shards for mb in values("capacity", "grown_mb")],
            "bytes",
            # What does not depend on the number of shards is most of the memory of a smaller run.
            at_most=BYTES_PER_SHARD if args.shards >= SHARDS else None,
            note=f"beyond the {values('capacity', 'before_mb')[0]:.0f} MB of a small run",
        ),
        figure(f"manifest of {count}, written", values("capacity", "write_s"), "s", at_most=MANIFEST_S),
        figure(f"manifest of {count}, read", values("capacity", "read_s"), "s", at_most=MANIFEST_S),
        figure(f"manifest of {count}, size", values("capacity", "mb"), "MB"),
        figure(f"status of {count}, finished", values("status", "finished_s"), "s", at_most=STATUS_S),
        figure(f"status of {count}, not finished", values("status", "stopped_s"), "s", at_most=STATUS_S),
    ]
    setup = {"workers": WORKERS, "shard": SHARD, "shards": args.shards, "ray_shards": args.ray_shards}
    report("feed", figures, setup={**setup, "actors": args.actors, "seconds": args.seconds, "repeat": len(capacity)})


if __name__ == "__main__":
    main()
