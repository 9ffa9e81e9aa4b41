"""The whole job beside a plain loop, Ray Data, and what the machine allows at best.

    python benchmarks/job.py --cache out/benchmark-images
    python benchmarks/job.py --long                       # every way on every set, and memory at 20,000 images

Prints a JSON line for each set. The ways take turns, each as a process of its own. `plain` is the loop of the
TensorFlow Hub tutorial with TensorFlow's default threads; `ray-data` is what Ray's documentation teaches, with one
actor or one per core, whichever is faster; `limit` is the model alone on decoded images, one process with one thread
per core, and what decoding them costs. Seconds with start-up count from the command to its end, those without from the
first ready model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ASSETS, LEAST_REPEAT, Figure, cores, descendants, figure, ratio, report, rss_mb, take_turns
from pictures import pictures, repeated

HERE = Path(__file__).resolve().parent

OF_LIMIT = 0.95
RAY_DATA_STARTED, RAY_DATA_READY = 1.6, 2.0
PLAIN_STARTED, PLAIN_READY = 1.2, 1.6
MEMORY_GROWTH = 1.1


@dataclass(frozen=True, slots=True)
class Set:
    """Pictures, and the detector that labels them; `kept` of them are in memory for the limit."""

    name: str
    folder: Path
    images: int
    size: str
    detector: str
    kept: int


@dataclass(frozen=True, slots=True)
class Took:
    """One run: images, seconds from command to end, seconds once the first model was ready; CPU seconds an image."""

    images: int
    started_s: float
    ready_s: float
    cpu_s: float = 0.0
    encode_s: float = 0.0
    busy: float = 0.0
    peak_mb: tuple[float, float] = (0.0, 0.0)

    @property
    def started(self) -> float:
        """Images a second, start-up counted."""
        return self.images / self.started_s

    @property
    def ready(self) -> float:
        """Images a second once ready."""
        return self.images / self.ready_s


def label(one: Set, *further: str) -> Took:
    """`prelabel label`, as anybody would call it."""
    with tempfile.TemporaryDirectory() as to:
        command = [sys.executable, "-m", "prelabel", "label", str(one.folder), "--detector", one.detector]
        command += ["--output", f"{to}/run", "--log-json", *further]
        began = time.perf_counter()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=to) as process:
            memory = _Memory(process.pid)
            said = process.stderr.read() if process.stderr else ""
        took = time.perf_counter() - began
        memory.stop()
    if process.returncode:
        raise SystemExit(f"job: {' '.join(command)} failed: {said[-2000:]}")
    (summary,) = (line for line in map(json.loads, said.splitlines()) if line["event"] == "summary")
    if summary["failed"] or summary["images"] != one.images:
        raise SystemExit(f"job: {summary}")
    return Took(one.images, took, summary["label_s"], busy=summary.get("busy", 0.0), peak_mb=memory.peak_mb)


def way(name: str, one: Set, *further: str) -> Took:
    """One of the other ways."""
    with tempfile.TemporaryDirectory() as to:
        began = time.perf_counter()
        (answer,) = _processes(name, one, Path(to), [further])
        return Took(answer["images"], time.perf_counter() - began, answer["steady_s"])


def on_each_core(name: str, one: Set, seconds: float) -> Took:
    """A way that needs one core, on all of them at the same time."""
    with tempfile.TemporaryDirectory() as to:
        part = [("--part", str(n), "--parts", str(cores()), "--kept", str(one.kept)) for n in range(cores())]
        answers = _processes(name, one, Path(to), [(*each, "--seconds", str(seconds)) for each in part])
    images = sum(answer["images"] for answer in answers)
    rate = sum(answer["images"] / answer["steady_s"] for answer in answers)
    cpu_s = statistics.mean(answer["cpu_s"] for answer in answers)
    encode_s = statistics.mean(answer.get("encode_s", 0.0) for answer in answers)
    return Took(images, images / rate, images / rate, cpu_s, encode_s)


def _processes(name: str, one: Set, to: Path, each: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    command = [sys.executable, str(HERE / "_ways.py"), name, "--pictures", str(one.folder)]
    command += ["--model", _model(one.detector), "--to", str(to)]
    log = (to / "log").open("w+")
    running = [
        subprocess.Popen([*command, *further], stdout=subprocess.PIPE, stderr=log, text=True) for further in each
    ]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"job: {name} failed: {(to / 'log').read_text()[-2000:]}")
    return [json.loads(text.splitlines()[-1]) for text in printed]


def _model(detector: str) -> str:
    """The folder of a detector."""
    if Path(detector).exists():
        return detector
    from prelabel.detectors.prepare import prepare
    from prelabel.storage import Storage

    return str(prepare(detector, Storage()).local.path)


class _Memory:
    """Most memory of a process, and of the largest of its children, looked at twice a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended = pid, threading.Event()
        self.peak_mb = (0.0, 0.0)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            children = [rss_mb(pid) for pid in descendants(self._pid)]
            self.peak_mb = (
                max(self.peak_mb[0], rss_mb(self._pid)),
                max(self.peak_mb[1], *children, 0.0),
            )

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


def sets(cache: Path, images: int, large: int) -> list[Set]:
    """What is labelled: drawn pictures of two sizes, and real photos where they are."""
    found = [
        Set("640x480", pictures(cache, images, 640, 480), images, "640x480", "demo-shapes", 100),
        Set("12 MP", pictures(cache, large, 4000, 3000, distinct=40), large, "4000x3000", "demo-shapes", 12),
    ]
    photos = sorted((ASSETS / "images" / "coco-val80").glob("*.jpg"))
    if photos:
        for model, count in (("openimages-hub-module", 160), ("maskrcnn-tf2", 80)):
            folder = repeated(photos, count, cache / f"photos-{count}")
            found.append(Set(f"photos, {model}", folder, count, "640x480", str(ASSETS / "models" / model), 80))
    return found


def against_the_limit(one: Set, repeat: int) -> list[Figure]:
    """prelabel and what the machine allows, by turns."""
    ways: dict[str, Callable[[], Took]] = {
        "prelabel": lambda: label(one),
        "limit": lambda: on_each_core("limit", one, 5),
        "decode": lambda: on_each_core("decode", one, 2),
    }
    return _of_limit(
        one, {name: [t for _, t in rounds] for name, rounds in take_turns(ways, repeat, warm_up=False).items()}
    )


def _of_limit(one: Set, took: dict[str, list[Took]]) -> list[Figure]:
    name = f"{one.images} of {one.name}"
    model_ms = [t.cpu_s * 1e3 for t in took["limit"]]
    decode_ms = [t.cpu_s * 1e3 for t in took["decode"]]
    share = [
        ours.ready * (limit.cpu_s + decode.cpu_s) / cores()
        for ours, limit, decode in zip(took["prelabel"], took["limit"], took["decode"], strict=True)
    ]
    encode = statistics.median(t.encode_s for t in took["limit"]) * 1e3
    busy = statistics.median(t.busy for t in took["prelabel"])
    note = f"CPU ms an image: model {statistics.median(model_ms):.1f}, decoding {statistics.median(decode_ms):.1f}"
    note += f", not counted: answers and masks {encode:.1f}; the model was busy {busy:.0%} of the time"
    return [
        figure(f"{name}: share of what the machine allows", share, "", at_least=OF_LIMIT, note=note),
        figure(f"{name}: prelabel, once ready", [t.ready for t in took["prelabel"]], "images/s"),
        figure(f"{name}: the model alone", [t.ready for t in took["limit"]], "images/s"),
    ]


def beside_the_others(one: Set, repeat: int) -> list[Figure]:
    """prelabel, the plain loop, the better Ray Data, and the limit, by turns."""
    actors, note = _best_actors(one)
    ways: dict[str, Callable[[], Took]] = {
        "prelabel": lambda: label(one),
        "plain": lambda: way("plain", one),
        "ray-data": lambda: way("ray-data", one, "--actors", str(actors)),
        "limit": lambda: on_each_core("limit", one, 5),
        "decode": lambda: on_each_core("decode", one, 2),
    }
    took = {name: [t for _, t in rounds] for name, rounds in take_turns(ways, repeat, warm_up=False).items()}
    name = f"{one.images} of {one.name}"
    ours, data, loop = took["prelabel"], took["ray-data"], took["plain"]
    started, ready = [t.started for t in ours], [t.ready for t in ours]
    return [
        *_of_limit(one, took),
        ratio(
            f"{name}: beside Ray Data, with start-up",
            started,
            [t.started for t in data],
            at_least=RAY_DATA_STARTED,
            note=note,
        ),
        ratio(
            f"{name}: beside Ray Data, once ready", ready, [t.ready for t in data], at_least=RAY_DATA_READY, note=note
        ),
        ratio(
            f"{name}: beside the plain loop, with start-up", started, [t.started for t in loop], at_least=PLAIN_STARTED
        ),
        ratio(f"{name}: beside the plain loop, once ready", ready, [t.ready for t in loop], at_least=PLAIN_READY),
        figure(f"{name}: prelabel, with start-up", started, "images/s"),
        figure(f"{name}: Ray Data, with start-up", [t.started for t in data], "images/s"),
        figure(f"{name}: Ray Data, once ready", [t.ready for t in data], "images/s"),
        figure(f"{name}: the plain loop, with start-up", [t.started for t in loop], "images/s"),
        figure(f"{name}: the plain loop, once ready", [t.ready for t in loop], "images/s"),
        figure(f"{name}: most memory of the driver", [t.peak_mb[0] for t in ours], "MB"),
        figure(f"{name}: most memory of a worker", [t.peak_mb[1] for t in ours], "MB"),
    ]


def _best_actors(one: Set) -> tuple[int, str]:
    """Actors with which Ray Data is faster on a quarter of the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(one.folder.glob("*.jpg"))[: max(50, one.images // 4)]:
            (Path(folder) / file.name).symlink_to(file)
        part = Set(one.name, Path(folder), one.images // 4, one.size, one.detector, one.kept)
        rates = {actors: way("ray-data", part, "--actors", str(actors)).ready for actors in sorted({1, cores()})}
    best = max(rates, key=lambda actors: rates[actors])
    tried = ", ".join(f"{actors}: {rate:.1f} images/s" for actors, rate in rates.items())
    return best, f"with the better number of actors ({tried} on a quarter)"


def memory(one: Set, many: Set) -> list[Figure]:
    """Whether ten times the images take more memory."""
    few, long = label(one), label(many)
    note = f"{one.images:,} images: {few.peak_mb[0]:.0f} and {few.peak_mb[1]:.0f} MB"
    name = f"{many.images:,} images: most memory"
    return [
        ratio(f"{name} of the driver", [long.peak_mb[0]], [few.peak_mb[0]], at_most=MEMORY_GROWTH, note=note),
        ratio(f"{name} of a worker", [long.peak_mb[1]], [few.peak_mb[1]], at_most=MEMORY_GROWTH, note=note),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "prelabel-benchmark-images")
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    parser.add_argument("--images", type=int, default=2000, help="of 640x480")
    parser.add_argument("--large", type=int, default=None, help="of 12 megapixels (default: 40, with --long 300)")
    parser.add_argument(
        "--long", action="store_true", help="every way on every set, and memory at ten times the images"
    )
    parser.add_argument("--only", default="", help="sets whose name contains this")
    args = parser.parse_args()
    all_sets = sets(args.cache, args.images, args.large or (300 if args.long else 40))
    for number, one in enumerate(all_sets):
        if args.only in one.name:
            others = number == 0 or args.long
            measured = beside_the_others(one, args.repeat) if others else against_the_limit(one, args.repeat)
            # A line for each set: what has been measured is kept where the rest takes too long.
            setup = {"images": one.images, "size": one.size, "detector": Path(one.detector).name}
            repeat = max(args.repeat, LEAST_REPEAT)
            report(f"job, {one.name}", measured, setup={**setup, "repeat": repeat, "cores": cores()})
    figures: list[Figure] = []
    first = all_sets[0]
    if args.long:
        folder = repeated(
            sorted(first.folder.glob("*.jpg")), 10 * first.images, args.cache / f"repeated-{10 * first.images}"
        )
        figures += memory(first, Set(first.name, folder, 10 * first.images, first.size, first.detector, first.kept))
        shutil.rmtree(folder)
    else:
        figures += [
            figure(
                f"{10 * first.images:,} images: most memory of {whose}",
                [],
                "x",
                at_most=MEMORY_GROWTH,
                note="with --long",
            )
            for whose in ("the driver", "a worker")
        ]
    report("job, memory", figures, setup={"detector": first.detector, "size": first.size, "cores": cores()})


if __name__ == "__main__":
    main()
