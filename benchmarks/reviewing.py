"""Measure `evaluate` and `compare` of a large run: seconds, memory of all processes together, busy cores.

    python benchmarks/reviewing.py                        # 100,000 images evaluated, 20,000 compared
    python benchmarks/reviewing.py --rows 10000 --compared 2000

The runs are written first (`made_run.py`), with `--cache` only once. The truth is the run's own COCO export, and the
annotations are its own Label Studio tasks, of which annotators moved a third of the boxes. Each command runs once: it
takes minutes. Memory is measured as in `exports.py`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from common import Figure, figure, report
from exports import MEGABYTES, Taken, run
from made_run import DETECTIONS, make_run

#: Most seconds that the evaluation of 100,000 images takes on two cores.
SECONDS = 120.0


def annotate(tasks: Path, annotations: Path) -> None:
    """Write an export from Label Studio in which people corrected the predictions of task files."""
    images = [task for file in sorted(tasks.glob("tasks-*.json")) for task in json.loads(file.read_bytes())]
    for number, task in enumerate(images):
        regions = [{**region, "value": dict(region["value"])} for region in task["predictions"][0]["result"]]
        for region in regions[::3]:
            region["value"]["width"] *= 0.8
        task["annotations"] = [{"id": number, "lead_time": 10.0, "result": regions}]
    annotations.write_text(json.dumps(images))


def figures_of(name: str, rows: int, taken: Taken, seconds: float | None) -> list[Figure]:
    """The time and memory of one command."""
    note = f"{rows:,} images; {taken.cpu_s / taken.wall_s:.1f} cores at work"
    return [
        figure(name, [taken.wall_s], "s", at_most=seconds, note=note),
        figure(f"{name}, memory of all processes", [taken.peak_mb], "MB", at_most=MEGABYTES),
    ]


def made(cache: Path, rows: int) -> str:
    """A finished run with this many images."""
    output = cache / f"made-run-{rows}"
    if not (output / "manifest.json").exists():
        shutil.rmtree(output, ignore_errors=True)
        make_run(str(output), rows)
    return str(output)


def main() -> None:
    """Make the runs, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="images that are evaluated")
    parser.add_argument("--compared", type=int, default=20_000, help="images that are compared")
    parser.add_argument("--cache", type=Path, help="keep the runs made here for the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        evaluated, compared = (made(arguments.cache or folder, n) for n in (arguments.rows, arguments.compared))
        truth, annotations = folder / "truth.json", folder / "annotations.json"
        run("export", "coco", evaluated, "--to", str(truth), "--segmentation", "none")
        run("export", "label-studio", compared, "--to", str(folder / "tasks"), "--shape", "rectangle")
        annotate(folder / "tasks", annotations)
        to = ("--to", str(folder / "report"))
        of_evaluate = run("evaluate", evaluated, "--truth", str(truth), *to)
        of_compare = run("compare", "--predictions", compared, "--annotations", str(annotations), *to)
    figures = figures_of("evaluate", arguments.rows, of_evaluate, SECONDS * arguments.rows / 100_000)
    figures += figures_of("compare", arguments.compared, of_compare, None)
    report("reviewing", figures, setup={"images": arguments.rows, "detections": DETECTIONS})


if __name__ == "__main__":
    main()
