"""Measure exports and `verify` of a large run: rows per second, memory of all processes together, busy cores.

    python benchmarks/exports.py                               # 40,000 rows
    python benchmarks/exports.py --rows 1000000 --repeat 1     # a large run

The run is written first (`made_run.py`), with `--cache` only once. The methods take turns. Memory is the sum of the
peaks (VmHWM) of the command and the processes that it started, sampled ten times per second. Pages that processes share
count for each of them, so the figure is an upper bound.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import LEAST_REPEAT, Figure, descendants, figure, memory_mb, report, take_turns
from made_run import DETECTIONS, MASKED_EVERY, make_run

from prelabel.labels.maps import read_label_map
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from prelabel.store.verify import check_shard

MEGABYTES = 1500.0


@dataclass(frozen=True, slots=True)
class Taken:
    """The cost of one command: seconds, CPU seconds and peak megabytes of all its processes together."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run(*arguments: str) -> Taken:
    """Run a command of this package in its own process. Raises CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "prelabel", *arguments], stdout=subprocess.DEVNULL)
    peaks: dict[int, float] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            for pid in (process.pid, *descendants(process.pid)):
                peaks[pid] = max(memory_mb(pid)[1], peaks.get(pid, 0.0))

    watcher = threading.Thread(target=look)
    watcher.start()
    code = process.wait()
    wall_s = time.perf_counter() - begin
    ended.set()
    watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(wall_s, cpu_s, sum(peaks.values()))


def check_finished(output: str) -> Taken:
    """What resuming a run does first: read back all finished shards, eight at a time."""
    begin, cpu = time.perf_counter(), time.process_time()
    opened = open_run(output, Storage())
    plan = opened.plan()

    def check(shard: int) -> bool:
        record = opened.manifest.shards[shard]
        return not check_shard(output, Storage(), plan, opened.record.run_id, shard, record).problems

    with ThreadPoolExecutor(8) as threads:
        if not all(threads.map(check, range(opened.record.shards))):
            raise SystemExit("a finished shard is not sound")
    return Taken(time.perf_counter() - begin, time.process_time() - cpu, 0.0)


def label_config() -> str:
    """A labeling config with brush masks and rectangles."""
    labels = "".join(
        f'<Label value="{class_name.name}"/>' for class_name in read_label_map("coco", Storage()).classes.values()
    )
    tools = "".join(
        f'<{tag} name="{tag}" toName="image">{labels}</{tag}>' for tag in ("BrushLabels", "RectangleLabels")
    )
    return f'<View><Image name="image" value="$image"/>{tools}</View>'


def measure(output: str, folder: Path, rows: int, repeat: int) -> list[Figure]:
    """Measure each export as often as requested, in turns."""
    config = folder / "config.xml"
    config.write_text(label_config())
    studio = ("export", "label-studio", output, "--to", str(folder / "tasks"))
    ways: dict[str, Callable[[], Taken]] = {
        "COCO": lambda: run("export", "coco", output, "--to", str(folder / "coco.json")),
        "Label Studio, rectangles": lambda: run(*studio, "--shape", "rectangle"),
        "Label Studio, brush masks and rectangles": lambda: run(*studio, "--label-config", str(config)),
        "Pascal VOC, a file per image": lambda: run("export", "voc", output, "--to", str(folder / "voc")),
        "verify": lambda: run("verify", output),
        "resuming: finished shards checked": lambda: check_finished(output),
    }
    if repeat < LEAST_REPEAT:
        rounds = {name: [way() for _ in range(repeat)] for name, way in ways.items()}
    else:
        rounds = {name: [taken for _, taken in runs] for name, runs in take_turns(ways, repeat, warm_up=False).items()}
    figures = []
    for name, runs in rounds.items():
        cores = sum(run.cpu_s for run in runs) / sum(run.wall_s for run in runs)
        note = f"{rows:,} rows; {cores:.1f} cores at work"
        figures.append(figure(name, [rows / run.wall_s for run in runs], "rows/s", note=note))
        if any(run.peak_mb for run in runs):
            peaks = [run.peak_mb for run in runs]
            figures.append(figure(f"{name}, memory of all processes", peaks, "MB", at_most=MEGABYTES))
    return figures


def main() -> None:
    """Make the run, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT)
    parser.add_argument("--cache", type=Path, help="keep the run made here for the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        output = (arguments.cache or Path(temporary)) / f"made-run-{arguments.rows}"
        if not (output / "manifest.json").exists():
            shutil.rmtree(output, ignore_errors=True)
            make_run(str(output), arguments.rows)
        figures = measure(str(output), Path(temporary), arguments.rows, arguments.repeat)
    setup: dict[str, Any] = {"rows": arguments.rows, "repeat": arguments.repeat, "detections": DETECTIONS}
    report("exports", figures, setup={**setup, "rows with masks": 1 / MASKED_EVERY})


if __name__ == "__main__":
    main()
