"""Compare several streams in one worker with several workers: images per second, and memory of all workers.

    python benchmarks/streams.py --cache out/benchmark-images

Prints one JSON line. All ways have the same CPUs, one per core of this machine, and take turns. A stream is an image
that a worker runs at the same time as others (`--streams`), over one copy of the model.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from _labelled import Labelled, label
from common import ASSETS, LEAST_REPEAT, cores, figure, report, take_turns
from pictures import pictures, repeated

IMAGES = 400


def run(folder: Path, detector: str, workers: int, streams: int) -> Labelled:
    """Label a folder with workers that share the cores of this machine."""
    each = str(cores() // workers)
    with tempfile.TemporaryDirectory() as to:
        options = ("--runner", "local", "--workers", str(workers), "--cpus-per-worker", each, "--streams", str(streams))
        return label(folder, detector, Path(to) / "run", *options)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "prelabel-benchmark-images")
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    parser.add_argument("--images", type=int, default=IMAGES)
    args = parser.parse_args()
    sets = [("640x480, demo-shapes", pictures(args.cache, args.images, 640, 480, distinct=500), "demo-shapes")]
    photos = sorted((ASSETS / "images" / "coco-val80").glob("*.jpg"))
    if photos:
        folder = repeated(photos, args.images // 2, args.cache / f"photos-{args.images // 2}")
        sets.append(("photos, maskrcnn-tf2", folder, str(ASSETS / "models" / "maskrcnn-tf2")))
    ways = {
        f"{cores()} workers": (cores(), 1),
        f"1 worker, {cores()} streams": (1, cores()),
        f"1 worker of {cores()} threads, 1 stream": (1, 1),
    }
    figures = []
    for name, folder, detector in sets:
        turns = {way: partial(run, folder, detector, *how) for way, how in ways.items()}
        for way, rounds in take_turns(turns, args.repeat, warm_up=False).items():
            done = [result for _, result in rounds]
            rates = [result.summary["images"] / result.summary["label_s"] for result in done]
            figures.append(figure(f"{name}: {way}", rates, "images/s"))
            memory = [ways[way][0] * result.peak_mb[1] for result in done]
            figures.append(figure(f"{name}: {way}, most memory of the workers", memory, "MB"))
    report("streams", figures, setup={"images": args.images, "cores": cores()})


if __name__ == "__main__":
    main()
