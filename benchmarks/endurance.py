"""One long run: are throughput, memory and open files at the end the same as at the beginning?

    python benchmarks/endurance.py                            # 20,000 images of 320 x 240, a few minutes
    python benchmarks/endurance.py --images 2000 --curve out/curve.csv

Labels many small images with workers that are replaced on the way, samples memory and open files of the driver and the
workers every few seconds, verifies the output, and prints one JSON line. Not part of `make bench`, which takes as long
without it.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from _labelled import Look, label
from common import cores, figure, report
from pictures import pictures

#: Seconds between two looks.
_LOOK_S = 2.0

#: What the end of a run may need more than its beginning, as a share; allocators breathe.
_GROWTH = 1.1

#: What the second half of a run may be slower than the first.
_STEADY = 0.9


def halves(looks: Sequence[Look]) -> tuple[float, float]:
    """Images per second in the first and second half of the images, counted from the first finished image."""
    busy = [look for look in looks if look.done]
    first, last = busy[0], busy[-1]
    middle = min(busy, key=lambda look: abs(look.done - (first.done + last.done) / 2))
    return (
        (middle.done - first.done) / (middle.seconds - first.seconds),
        (last.done - middle.done) / (last.seconds - middle.seconds),
    )


def growth(looks: Sequence[Look], name: str) -> float:
    """The median of the last fifth divided by that of the second fifth; the first fifth is start-up."""
    values = [getattr(look, name) for look in looks if look.done]
    fifth = max(1, len(values) // 5)
    return statistics.median(values[-fifth:]) / max(1e-9, statistics.median(values[fifth : 2 * fifth]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--max-images-per-worker", type=int, default=4_000)
    parser.add_argument("--runner", choices=("local", "ray"), default="ray")
    parser.add_argument("--cache", type=Path, default=Path("out/benchmark-images"))
    parser.add_argument("--curve", type=Path, help="write every look as CSV")
    args = parser.parse_args()
    folder = pictures(args.cache, args.images, 320, 240, distinct=min(args.images, 500))
    with tempfile.TemporaryDirectory() as scratch:
        further = ("--runner", args.runner, "--shard-size", "256")
        further += ("--max-images-per-worker", str(args.max_images_per_worker))
        done = label(folder, "demo-shapes", Path(scratch) / "run", *further, every_s=_LOOK_S)
        verify = [sys.executable, "-m", "prelabel", "verify", str(Path(scratch) / "run"), "--json"]
        proof = json.loads(subprocess.run(verify, stdout=subprocess.PIPE, text=True, check=True).stdout)
    looks, summary = done.looks, done.summary
    if args.curve:
        args.curve.parent.mkdir(parents=True, exist_ok=True)
        with args.curve.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow([field.name for field in fields(Look)])
            table.writerows(astuple(look) for look in looks)
    first, second = halves(looks)
    lost = args.images - proof["rows"] + len(proof["problems"])
    replaced = args.images // args.max_images_per_worker
    note = f"{args.images:,} pictures, a new worker each {args.max_images_per_worker:,} (some {replaced} in all)"
    report(
        "endurance",
        [
            figure("rows lost or wrong", [lost], "", at_most=0, note=note),
            figure("second half beside first, images/s", [second / first], "x", at_least=_STEADY),
            figure("images/s once ready", [summary["labeled"] / summary["label_s"]], "images/s"),
            figure("memory of the driver, end beside beginning", [growth(looks, "driver_mb")], "x", at_most=_GROWTH),
            figure("memory of the workers, end beside beginning", [growth(looks, "worker_mb")], "x", at_most=_GROWTH),
            figure("files of the driver, end beside beginning", [growth(looks, "driver_files")], "x", at_most=_GROWTH),
            figure("files of the workers, end beside beginning", [growth(looks, "worker_files")], "x", at_most=_GROWTH),
            figure("most memory of the driver", [done.peak_mb[0]], "MB"),
            figure("most memory of a worker", [done.peak_mb[1]], "MB"),
        ],
        setup={
            "images": args.images,
            "size": [320, 240],
            "detector": "demo-shapes",
            "runner": args.runner,
            "workers": cores(),
            "seconds": round(done.seconds, 1),
        },
    )


if __name__ == "__main__":
    main()
