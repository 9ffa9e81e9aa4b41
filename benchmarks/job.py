"""Compare the whole job with a plain loop, with Ray Data, and with the best that the machine allows.

    python benchmarks/job.py --cache out/benchmark-images
    python benchmarks/job.py --long                # every method on every data set, and memory of 20,000 images

Prints one JSON line per data set. The methods take turns, each in its own process. `plain` is the loop of the
TensorFlow Hub tutorial with TensorFlow's default threads. `ray-data` follows Ray's documentation, with one actor or one
per core, whichever is faster. The limit is the detector alone on decoded images, its outputs and masks included, in a
process with one thread on each core, plus the cost of decoding them. It is measured every few seconds of a job, which
is stopped meanwhile, since other programs change the machine's speed within seconds; that time does not count. Times
with start-up cover the whole command, those without begin at the first ready model. Last, the script measures whether
ten times as many images take more memory, with small images, since only their number counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _labelled import label
from _limit import Allowed, Limit
from common import ASSETS, LEAST_REPEAT, Figure, cores, figure, ratio, report, take_turns
from pictures import pictures, repeated

HERE = Path(__file__).resolve().parent

RAY_DATA_STARTED = 1.75
RAY_DATA_REDUCED = 3.0
PLAIN_STARTED, PLAIN_READY = 1.2, 1.6
MEMORY_GROWTH = 1.1

#: Side of the pictures of which many are labelled, in pixels.
SMALL = 64


@dataclass(frozen=True, slots=True)
class Set:
    """Images and the detector that labels them.

    Attributes:
        name: What is labeled.
        folder: The images.
        images: Their number.
        size: Their width and height.
        detector: Name or folder of the detector.
        kept: For the limit, each core keeps so many of them in memory.
        of_limit: The share of the limit to reach.
        options: Further options of `label`.
        tried: Ray Data's number of actors is tried on so many of them; if that takes only a few seconds, what a second
            actor takes to start decides.
    """

    name: str
    folder: Path
    images: int
    size: str
    detector: str
    kept: int = 0
    of_limit: float = 1.0
    options: tuple[str, ...] = ()
    tried: int = 300


@dataclass(frozen=True, slots=True)
class Took:
    """One run.

    Attributes:
        images: Number of images.
        started_s: Total seconds.
        ready_s: Seconds since the first model was ready.
        peak_mb: Peak memory of the driver and of any worker.
        idle_s: Seconds at the end in which workers had nothing to do, of all workers together.
    """

    images: int
    started_s: float
    ready_s: float
    peak_mb: tuple[float, float] = (0.0, 0.0)
    idle_s: float = 0.0

    @property
    def started(self) -> float:
        """Images per second, including start-up."""
        return self.images / self.started_s

    @property
    def ready(self) -> float:
        """Images per second once the model is ready."""
        return self.images / self.ready_s


def ours(image_set: Set, at_stops: Callable[[], object] | None = None) -> Took:
    """Run `prelabel label` as a user would; `at_stops` is called while it is stopped."""
    with tempfile.TemporaryDirectory() as to:
        output = Path(to) / "run"
        done = label(image_set.folder, image_set.detector, output, *image_set.options, at_stops=at_stops)
    if done.summary["failed"] or done.summary["images"] != image_set.images:
        raise SystemExit(f"job: {done.summary}")
    ready_s = done.summary["label_s"] - done.stopped_s
    return Took(image_set.images, done.seconds, ready_s, done.peak_mb, done.idle_s)


def way(name: str, image_set: Set, *further: str) -> Took:
    """Run one of the other methods."""
    with tempfile.TemporaryDirectory() as to:
        command = [sys.executable, str(HERE / "_ways.py"), name, "--pictures", str(image_set.folder)]
        command += ["--model", _model(image_set.detector), "--to", to, *further]
        began = time.perf_counter()
        # A file, not a pipe: whatever Ray leaves behind for a moment would hold that open.
        with (Path(to) / "log").open("w+") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
            took = time.perf_counter() - began
            log.seek(0)
            if done.returncode:
                raise SystemExit(f"job: {name} failed: {log.read()[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Took(answer["images"], took, answer["steady_s"])


def _model(detector: str) -> str:
    """The folder of a detector."""
    if Path(detector).exists():
        return detector
    from prelabel.detectors.conventions.resolve_model import prepare
    from prelabel.storage.files import Storage

    return str(prepare(detector, Storage()).local.path)


#: Of a set in which decoding counts, compared with Ray Data only.
REDUCED = "12 MP, hub module, reduced"


def sets(cache: Path, images: int, large: int) -> list[Set]:
    """The images to label: drawn ones of two sizes, and real photos if they are present; a few of each, repeated."""
    small, photos = pictures(cache, images, 640, 480, distinct=500), _photos()
    many = pictures(cache, large, 4000, 3000, distinct=40)
    image_sets = [
        Set("640x480", small, images, "640x480", "demo-shapes", 100, 0.97),
        Set("12 MP", many, large, "4000x3000", "demo-shapes", 12, 0.93),
    ]
    for model, count, of_limit in (("openimages-hub-module", 1280, 0.93), ("maskrcnn-tf2", 640, 0.95)):
        if photos:
            folder = repeated(photos, count, cache / f"photos-{count}")
            detector = str(ASSETS / "models" / model)
            image_sets.append(Set(f"photos, {model}", folder, count, "640x480", detector, 40, of_limit))
    if photos:
        detector = str(ASSETS / "models" / "openimages-hub-module")
        reduced = ("--decode-scale", "auto")
        some = 3 * large // 10
        folder = pictures(cache, some, 4000, 3000, distinct=40)
        image_sets.append(Set(REDUCED, folder, some, "4000x3000", detector, options=reduced, tried=60))
    return image_sets


def _photos() -> list[Path]:
    return sorted((ASSETS / "images" / "coco-val80").glob("*.jpg"))


def against_the_limit(image_set: Set, repeat: int) -> list[Figure]:
    """Measure prelabel and the machine's limit."""
    with Limit(image_set.folder, image_set.detector, image_set.kept) as limit:
        took = _turns({"prelabel": lambda: _ours_and_limit(image_set, limit)}, repeat)
    return _of_limit(image_set, took["prelabel"])


def _ours_and_limit(image_set: Set, limit: Limit) -> tuple[Took, list[Allowed]]:
    """One run, and what the machine allows every few seconds of it."""
    limits: list[Allowed] = []
    took = ours(image_set, lambda: limits.append(limit()))
    return took, limits or [limit()]  # a run of a few seconds is not stopped


def _turns(ways: dict[str, Callable[[], Any]], repeat: int) -> dict[str, list[Any]]:
    return {name: [t for _, t in rounds] for name, rounds in take_turns(ways, repeat, warm_up=False).items()}


def _of_limit(image_set: Set, took: list[tuple[Took, list[Allowed]]]) -> list[Figure]:
    name = f"{image_set.images} of {image_set.name}"
    runs = [run for run, _ in took]
    share = [run.ready / statistics.mean(limit.job_rate for limit in limits) for run, limits in took]
    model, decode, encode = (
        1e3 * statistics.median(values)
        for values in zip(*((t.model_s, t.decode_s, t.encode_s) for _, limits in took for t in limits), strict=True)
    )
    note = f"CPU ms an image: model and outputs {model:.1f}, masks {encode:.1f}, decoding {decode:.1f}"
    return [
        figure(f"{name}: share of what the machine allows", share, "", at_least=image_set.of_limit, note=note),
        figure(f"{name}: prelabel, once ready", [run.ready for run in runs], "images/s"),
        figure(f"{name}: workers are idle at the end", [run.idle_s for run in runs], "s"),
        figure(
            f"{name}: the detector alone",
            [statistics.mean(limit.rate for limit in limits) for _, limits in took],
            "images/s",
        ),
    ]


def beside_the_others(image_set: Set, repeat: int) -> list[Figure]:
    """Measure prelabel and meanwhile the limit, the plain loop, and Ray Data at its best in turns."""
    actors, note = _best_actors(image_set)
    with Limit(image_set.folder, image_set.detector, image_set.kept) as limit:
        ways: dict[str, Callable[[], Any]] = {
            "prelabel": lambda: _ours_and_limit(image_set, limit),
            "plain": lambda: way("plain", image_set),
            "ray-data": lambda: way("ray-data", image_set, "--actors", str(actors)),
        }
        took = _turns(ways, repeat)
    name = f"{image_set.images} of {image_set.name}"
    here, data, loop = [run for run, _ in took["prelabel"]], took["ray-data"], took["plain"]
    started, ready = [t.started for t in here], [t.ready for t in here]
    return [
        *_of_limit(image_set, took["prelabel"]),
        ratio(
            f"{name}: beside Ray Data, with start-up",
            started,
            [t.started for t in data],
            at_least=RAY_DATA_STARTED,
            note=note,
        ),
        ratio(f"{name}: beside Ray Data, once ready", ready, [t.ready for t in data], note=note),
        ratio(
            f"{name}: beside the plain loop, with start-up", started, [t.started for t in loop], at_least=PLAIN_STARTED
        ),
        ratio(f"{name}: beside the plain loop, once ready", ready, [t.ready for t in loop], at_least=PLAIN_READY),
        figure(f"{name}: prelabel, with start-up", started, "images/s"),
        figure(f"{name}: Ray Data, with start-up", [t.started for t in data], "images/s"),
        figure(f"{name}: Ray Data, once ready", [t.ready for t in data], "images/s"),
        figure(f"{name}: the plain loop, with start-up", [t.started for t in loop], "images/s"),
        figure(f"{name}: the plain loop, once ready", [t.ready for t in loop], "images/s"),
        figure(f"{name}: most memory of the driver", [t.peak_mb[0] for t in here], "MB"),
        figure(f"{name}: most memory of a worker", [t.peak_mb[1] for t in here], "MB"),
    ]


def beside_ray_data(image_set: Set, repeat: int) -> list[Figure]:
    """Measure prelabel and Ray Data at its best in turns."""
    actors, note = _best_actors(image_set)
    ways = {
        "prelabel": lambda: ours(image_set),
        "ray-data": lambda: way("ray-data", image_set, "--actors", str(actors)),
    }
    took = _turns(ways, repeat)
    name = f"{image_set.images} of {image_set.name}"
    started = {way_name: [t.started for t in runs] for way_name, runs in took.items()}
    return [
        ratio(
            f"{name}: beside Ray Data, with start-up",
            started["prelabel"],
            started["ray-data"],
            at_least=RAY_DATA_REDUCED,
            note=note,
        ),
        figure(f"{name}: prelabel, with start-up", started["prelabel"], "images/s"),
        figure(f"{name}: Ray Data, with start-up", started["ray-data"], "images/s"),
    ]


def _best_actors(image_set: Set) -> tuple[int, str]:
    """The number of actors with which Ray Data is fastest on a sample of the images."""
    count = min(image_set.images, image_set.tried)
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(image_set.folder.glob("*.jpg"))[:count]:
            (Path(folder) / file.name).symlink_to(file.absolute())
        part = replace(image_set, folder=Path(folder), images=count)
        rates = {actors: way("ray-data", part, "--actors", str(actors)).ready for actors in sorted({1, cores()})}
    best = max(rates, key=lambda actors: rates[actors])
    tried = ", ".join(f"{actors}: {rate:.1f} images/s" for actors, rate in rates.items())
    return best, f"with the better number of actors ({tried} on {count})"


def memory(cache: Path, images: int) -> list[Figure]:
    """Measure whether ten times as many images take more memory."""
    side = f"{SMALL}x{SMALL}"
    few, many = (
        ours(Set("small", pictures(cache, count, SMALL, SMALL, distinct=100), count, side, "demo-shapes", 0))
        for count in (images, 10 * images)
    )
    name = f"{many.images:,} images: most memory"
    return [
        ratio(
            f"{name} of {whose}",
            [many.peak_mb[which]],
            [few.peak_mb[which]],
            at_most=MEMORY_GROWTH,
            note=f"{many.peak_mb[which]:.0f} MB; {few.images:,} images: {few.peak_mb[which]:.0f} MB; {side}",
        )
        for which, whose in enumerate(("the driver", "a worker"))
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "prelabel-benchmark-images")
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    parser.add_argument("--images", type=int, default=2000, help="of 640x480")
    parser.add_argument("--large", type=int, default=400, help="of 12 megapixels")
    parser.add_argument("--long", action="store_true", help="every way on every set, and memory of more images")
    parser.add_argument("--only", default="", help="sets whose name contains this")
    args = parser.parse_args()
    for number, image_set in enumerate(sets(args.cache, args.images, args.large)):
        if args.only in image_set.name:
            if image_set.name == REDUCED:
                measure = beside_ray_data
            else:
                measure = beside_the_others if number == 0 or args.long else against_the_limit
            measured = measure(image_set, args.repeat)
            # A line for each set: what has been measured is kept where the rest takes too long.
            setup = {"images": image_set.images, "size": image_set.size, "detector": Path(image_set.detector).name}
            repeat = max(args.repeat, LEAST_REPEAT)
            report(f"job, {image_set.name}", measured, setup={**setup, "repeat": repeat, "cores": cores()})
    if args.only in "memory":
        few = args.images if args.long else args.images // 8
        setup = {"images": [few, 10 * few], "size": [SMALL, SMALL], "detector": "demo-shapes"}
        report("job, memory", memory(args.cache, few), setup={**setup, "cores": cores()})


if __name__ == "__main__":
    main()
