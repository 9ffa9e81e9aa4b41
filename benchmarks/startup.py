"""Measure the time from the command to the first labeled image, and what takes it.

    python benchmarks/startup.py

Prints one JSON line. The total is measured from outside, until the first shard, of one image, is in the output. The
stages are those of a single worker process, one after the other; in a run, the driver's work and the start of Ray
overlap with them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import LEAST_REPEAT, figure, report, take_turns
from pictures import pictures

FIRST_IMAGE_S = 3.0
IMAGES = 8

#: Each is what a process does after those before it.
STAGES: dict[str, str] = {
    "interpreter": "pass",
    "prelabel's modules": "import prelabel.engine.worker",
    "TensorFlow": "from prelabel.detectors.running import runtime; runtime.tensorflow(keras=False)",
    "the model, loaded and run once": (
        "from prelabel.detectors.conventions.resolve_model import prepare; "
        "from prelabel.detectors.running.savedmodel import load_detector; "
        "from prelabel.storage.files import Storage; from prelabel.detectors.base import EXACT; "
        "detector = load_detector(prepare('demo-shapes', Storage()), threads=1, optimization=EXACT)"
    ),
    "one image": (
        "from pathlib import Path; from prelabel.source.decode import decode; "
        "detector.detect_in([decode(Path(sys.argv[1]).read_bytes()).pixels])"
    ),
}

RAY = {
    "Ray imported": "import ray",
    "Ray started on this machine": (
        "ray.init(address='local', include_dashboard=False, log_to_driver=False, logging_level='ERROR')"
    ),
}


def first_image(folder: Path, runner: str) -> tuple[float, float]:
    """Seconds from the command to the first shard in the output, and to the end of the command."""
    with tempfile.TemporaryDirectory() as to:
        command = [sys.executable, "-m", "prelabel", "label", str(folder), "--detector", "demo-shapes"]
        command += ["--output", f"{to}/run", "--shard-size", "1", "--quiet", "--runner", runner]
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=to) as process:
            first_shard_s = None
            while process.poll() is None:
                if first_shard_s is None and any(Path(to).glob("run/shards/shard-*.parquet")):
                    first_shard_s = time.perf_counter() - began
                time.sleep(0.02)
        ended = time.perf_counter() - began
        if process.returncode or (first_shard_s is None and not any(Path(to).glob("run/shards/shard-*.parquet"))):
            raise SystemExit(f"startup: {' '.join(command)} failed")
        return first_shard_s or ended, ended


def stages(steps: dict[str, str], picture: Path) -> dict[str, float]:
    """Seconds of each step in a fresh process; the first counts from its start."""
    lines = ["import sys, time, json", "times = [time.time()]"]
    for code in steps.values():
        lines += [code, "times.append(time.time())"]
    lines += ["print(json.dumps(times), flush=True)", "import os; os._exit(0)" if "ray" not in str(steps) else ""]
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(picture)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    times = json.loads(done.stdout.splitlines()[-1])
    times[0] = began
    return {name: end - start for name, start, end in zip(steps, times, times[1:], strict=False)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "prelabel-benchmark-images")
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    args = parser.parse_args()
    folder = pictures(args.cache, IMAGES, 640, 480)
    picture = min(folder.iterdir())
    ways: dict[str, Callable[[], Any]] = {
        "local": lambda: first_image(folder, "local"),
        "ray": lambda: first_image(folder, "ray"),
        "stages": lambda: stages(STAGES, picture),
        "ray stages": lambda: stages(RAY, picture),
    }
    stages(STAGES, picture)  # so that no round is the first to read the packages from the disk
    took = {
        name: [result for _, result in rounds] for name, rounds in take_turns(ways, args.repeat, warm_up=False).items()
    }
    local, on_ray = took["local"], took["ray"]
    figures = [
        figure(
            "command to first labelled image, without Ray",
            [first for first, _ in local],
            "s",
            at_most=FIRST_IMAGE_S,
            note="the way that is chosen where there is no cluster",
        ),
        figure("command to first labelled image, Ray started for it", [first for first, _ in on_ray], "s"),
        figure(f"command to end, {IMAGES} images, without Ray", [end for _, end in local], "s"),
        figure(f"command to end, {IMAGES} images, Ray started for it", [end for _, end in on_ray], "s"),
    ]
    for name, steps in (("stages", STAGES), ("ray stages", RAY)):
        figures += [figure(f"of it: {step}", [seconds[step] for seconds in took[name]], "s") for step in steps]
    report("startup", figures, setup={"images": IMAGES, "size": "640x480", "detector": "demo-shapes"})


if __name__ == "__main__":
    main()
