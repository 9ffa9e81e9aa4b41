"""Compare what `label --dry-run` tells with the run that follows.

    python benchmarks/estimates.py --cache out/benchmark-images        # about 15 minutes on a quiet machine
    python benchmarks/estimates.py --only large --seconds 120

For each source, it estimates a small run to learn the machine's speed, repeats the images so that the run takes
`--seconds` at least, estimates that run, and runs it. The actual time is that of the whole command. Prints a line per
source on standard error, then one line of JSON. Not part of `make bench`, which would take twice as long with it.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import ASSETS, figure, report
from pictures import pictures, repeated

#: The largest median error of an estimate, in percent, and the number of ranges of five that hold the actual time.
MEDIAN_ERROR, RANGES_OF_FIVE = 20.0, 4

#: Images of one size that are drawn; further ones repeat them.
_DISTINCT = 200

#: Share by which a run is made longer than asked, in case that the first estimate is too slow.
_MARGIN = 1.4


@dataclass(frozen=True, slots=True)
class Source:
    """Images of one kind, and the options with which they are labeled."""

    name: str
    files: tuple[Path, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An estimate and the run that followed. Times in seconds, the error as a share of the actual time."""

    source: str
    images: int
    estimate_s: float
    low_s: float
    high_s: float
    actual_s: float
    parts: dict[str, float]
    dry_run_s: float

    @property
    def error(self) -> float:
        """How far the estimate is from the actual time."""
        return self.estimate_s / self.actual_s - 1

    @property
    def holds(self) -> bool:
        """Whether the range contains the actual time."""
        return self.low_s <= self.actual_s <= self.high_s


def sources(cache: Path) -> list[Source]:
    """The sources that can be made on this machine: real photos and detectors only if they are there."""
    shapes = ("--detector", "demo-shapes")
    small = tuple(sorted(pictures(cache, _DISTINCT, 640, 480).iterdir()))
    large = tuple(sorted(pictures(cache, 40, 4000, 3000).iterdir()))
    made = [
        Source("small", small, shapes),
        Source("large", large, shapes),
        Source("mixed", (*small[:120], *large), (*shapes, "--decode-scale", "auto")),
        Source("views", small, (*shapes, "--views", "whole,flip")),
    ]
    photos = tuple(sorted((ASSETS / "images" / "coco-val80").glob("*.jpg")))
    models = ASSETS / "models"
    if photos:
        made.insert(0, Source("photos", photos, ("--detector", str(models / "openimages-hub-module"))))
        made.insert(1, Source("masks", photos, ("--detector", str(models / "maskrcnn-tf2"), "--label-map", "coco")))
    return made


def prelabel(*arguments: str) -> tuple[float, str]:
    """Run the command; return its seconds and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "prelabel", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, done.stdout


def compare(source: Source, seconds: float, to: Path) -> Comparison:
    """Estimate and run a source repeated until it takes this long."""
    options = (*source.options, "--output", str(to / "run"), "--quiet")
    first = repeated(source.files, len(source.files), to / "first")
    _, printed = prelabel("label", str(first), *options, "--dry-run", "--json")
    workers = json.loads(printed)["workers"]
    images = max(len(source.files), math.ceil(_MARGIN * seconds * workers["workers"] * workers["images_per_s"]))
    folder = repeated(source.files, images, to / "images")
    dry_run_s, printed = prelabel("label", str(folder), *options, "--dry-run", "--json")
    estimate: dict[str, Any] = json.loads(printed)["time"]
    actual_s, _ = prelabel("label", str(folder), *options)
    parts = {name: round(value, 2) for name, value in estimate.items() if name not in ("total_s", "low_s", "high_s")}
    return Comparison(
        source.name, images, estimate["total_s"], estimate["low_s"], estimate["high_s"], actual_s, parts, dry_run_s
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("out/benchmark-images"))
    parser.add_argument("--seconds", type=float, default=60.0, help="shortest run")
    parser.add_argument("--only", help="names of sources, joined by commas")
    parser.add_argument("--most", type=int, default=5, help="number of sources")
    arguments = parser.parse_args()
    chosen = [
        source
        for source in sources(arguments.cache)
        if arguments.only is None or source.name in arguments.only.split(",")
    ][: arguments.most]
    compared = []
    for source in chosen:
        with tempfile.TemporaryDirectory(dir=arguments.cache) as folder:
            comparison = compare(source, arguments.seconds, Path(folder))
        compared.append(comparison)
        print(
            f"{comparison.source}: {comparison.images:,} images, estimate {comparison.estimate_s:.1f} s "
            f"({comparison.low_s:.1f} to {comparison.high_s:.1f}), actual {comparison.actual_s:.1f} s, "
            f"error {comparison.error:+.0%}, {'within' if comparison.holds else 'outside'} the range",
            file=sys.stderr,
            flush=True,
        )
    report(
        "estimates",
        [
            figure("median error of an estimate", [100 * abs(c.error) for c in compared], "%", at_most=MEDIAN_ERROR),
            figure(
                "runs within the stated range",
                [100 * sum(c.holds for c in compared) / len(compared)] if compared else [],
                "%",
                at_least=100 * RANGES_OF_FIVE / 5,
                note=f"of {len(compared)} runs",
            ),
        ],
        setup={"seconds": arguments.seconds, "sources": [c.source for c in compared]},
        detail=[asdict(c) | {"error": round(c.error, 4), "holds": c.holds} for c in compared],
    )


if __name__ == "__main__":
    main()
