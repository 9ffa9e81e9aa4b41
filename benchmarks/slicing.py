"""`--views` beside SAHI's sliced prediction, with the same detector and tiles: AP, corrections, time of the whole job.

    make bench-sahi

Photos: 80 of COCO, whole and in four tiles of 60%, overlapping by a third. Mosaics: those of `views.py`, with tiles of
640 pixels. Both sides run the same constant graph of the mask detector on all cores, keep scores of 0.01 or more, and
read and write files. Every method is a process of its own that begins with the interpreter, so all times include
start-up. The first method and SAHI with masks take turns; the others run once. pycocotools evaluates all. Below a
threshold of 0.1, SAHI replaces its default postprocess (GREEDYNMM with IOS) by NMS with IOU, so its defaults are
measured at 0.3 as well. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _coco import Scores, difference_of_corrections, difference_of_stats, read_truth, results_of, score
from common import Figure, cores, figure, ratio, report, take_turns
from views import LOWEST, MODEL, PHOTOS, TRUTH, make_mosaics

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: The method that the others are compared with, and the one of SAHI that does the same work.
OURS, THEIRS = "whole,tiles", "SAHI"


@dataclass(frozen=True)
class Job:
    """Seconds and CPU seconds of a process and of those that it started."""

    seconds: float
    cpu_s: float


@dataclass(frozen=True)
class Folder:
    """Images, their truth, the views that prelabel shows of them, and the slices that SAHI makes."""

    name: str
    images: Path
    truth: Path
    views: Sequence[str]
    slices: str


def ours(folder: Folder, to: Path, cache: Path, views: str) -> Job:
    """Label a folder with `prelabel label`."""
    command = [sys.executable, "-m", "prelabel", "label", str(folder.images), "--detector", str(MODEL)]
    command += ["--label-map", "coco", "--output", str(to), "--score-threshold", str(LOWEST), "--views", views]
    return _run([*command, "--runner", "local", "--model-cache", str(cache), "--overwrite", "--quiet"], str(ROOT))


def theirs(folder: Folder, to: Path, cache: Path, sahi: Path, threshold: float, *further: str) -> Job:
    """Predict a folder with SAHI."""
    command = [sys.executable, str(HERE / "_sahi.py"), "--images", str(folder.images), "--model", str(MODEL)]
    command += ["--to", str(to), "--slices", folder.slices, "--score-threshold", str(threshold)]
    command += ["--threads", str(cores()), "--cache", str(cache)]
    return _run([*command, *further], f"{sahi}{os.pathsep}{ROOT}")


def _run(command: Sequence[str], python_path: str) -> Job:
    begin = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}: {output[-2000:]}")
    return Job(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime)


def results_of_sahi(path: Path, truth: Any) -> list[dict[str, Any]]:
    """SAHI's results with the numbers of the images, and with masks as RLE."""
    from pycocotools import mask

    images = {image["file_name"]: image for image in truth.dataset["images"]}
    results = json.loads(path.read_text(encoding="utf-8"))
    for result in results:
        image = images[result["image_id"]]
        result["image_id"] = image["id"]
        if "segmentation" in result:
            polygons = mask.frPyObjects(result["segmentation"], image["height"], image["width"])
            result["segmentation"] = mask.merge(polygons)
    return results


def measure(folder: Folder, to: Path, sahi: Path, repeat: int) -> tuple[list[Figure], Mapping[str, Any]]:
    """Every method on one folder."""
    cache = to / "models"
    to = to / folder.name
    to.mkdir(parents=True, exist_ok=True)
    runs = {views: to / views.replace(",", "-") for views in folder.views}
    files = {
        THEIRS: ("sahi.json", LOWEST, ("--masks",)),
        f"{THEIRS}, boxes only": ("sahi-boxes.json", LOWEST, ()),
        f"{THEIRS}, GREEDYNMM, boxes only": ("sahi-nmm.json", LOWEST, ("--postprocess", "GREEDYNMM")),
        f"{THEIRS}, scores of 0.3 or more, boxes only": ("sahi-0.3.json", 0.3, ()),
    }
    ways: dict[str, Callable[[], Job]] = {
        name: partial(ours, folder, run, cache, name) for name, run in runs.items()
    } | {
        name: partial(theirs, folder, to / file, cache, sahi, threshold, *further)
        for name, (file, threshold, further) in files.items()
    }
    # The first job fills the cache of constant graphs, which is there for all that are measured.
    ways[folder.views[0]]()
    timed = {name: ways[name] for name in (folder.views[0], THEIRS)}
    jobs = {name: [job for _, job in rounds] for name, rounds in take_turns(timed, repeat, warm_up=False).items()}
    jobs |= {name: [way()] for name, way in ways.items() if name not in timed}
    truth = read_truth(folder.truth)
    results = {name: list(results_of(run, truth)) for name, run in runs.items()}
    results |= {name: results_of_sahi(to / file, truth) for name, (file, *_) in files.items()}
    boxes = {name: score(truth, result, "bbox") for name, result in results.items()}
    masks = {name: score(truth, result, "segm") for name, result in results.items() if "segmentation" in result[0]}
    first = folder.views[0]
    figures = []
    for name in ways:
        title = f"{folder.name}, {name}"
        note = _beside(boxes, first, name, "AP")
        figures.append(figure(f"{title}: box AP", [boxes[name].stats["AP"]], "", note=note))
        note = _beside(boxes, first, name, "AP_small")
        figures.append(figure(f"{title}: box AP of small objects", [boxes[name].stats["AP_small"]], "", note=note))
        if name in masks:
            note = _beside(masks, first, name, "AP")
            figures.append(figure(f"{title}: mask AP", [masks[name].stats["AP"]], "", note=note))
        ends = difference_of_corrections(boxes[name], boxes[first])
        note = "" if name == first else f"{first} needs {ends[0]:+.0f} to {ends[1]:+.0f} (95%)"
        work = 100 * float(boxes[name].corrections.mean())
        figures.append(figure(f"{title}: corrections per 100 images", [work], "", note=note))
        seconds, cpu_s = ([getattr(job, field) for job in jobs[name]] for field in ("seconds", "cpu_s"))
        figures.append(figure(f"{title}: whole job", seconds, "s"))
        figures.append(figure(f"{title}: whole job, CPU time", cpu_s, "CPU s"))
    for field, least in (("seconds", 2), ("cpu_s", None)):
        times = [[getattr(job, field) for job in jobs[name]] for name in (THEIRS, first)]
        title = f"{folder.name}: {THEIRS} beside {first}, {'time' if field == 'seconds' else 'CPU time'}"
        figures.append(ratio(title, *times, at_least=least, note="whole jobs with start-up, boxes and masks"))
    return figures, {name: table.stats for name, table in boxes.items()}


def _beside(scores: Mapping[str, Scores], first: str, name: str, metric: str) -> str:
    """The difference of the first method from another, with its interval."""
    if name == first:
        return ""
    difference = scores[first].stats[metric] - scores[name].stats[metric]
    low, high = difference_of_stats(scores[name], scores[first], metric)
    return f"{first} has {difference:+.3f} ({low:+.3f} to {high:+.3f}, 95%)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, help="keep runs, results and mosaics in this folder")
    parser.add_argument("--only", choices=("photos", "mosaics"))
    parser.add_argument("--sahi", type=Path, default=ROOT / ".venv-sahi", help="where SAHI is installed")
    parser.add_argument("--repeat", type=int, default=3, help="rounds that are counted (at least 3)")
    options = parser.parse_args()
    missing = next((str(path) for path in (MODEL, options.sahi / "sahi") if not path.is_dir()), None)
    if missing:
        report("slicing", [figure("beside SAHI", [], "", note=f"{Path(missing).name} is not there")], setup={})
        return
    (version,) = (found.version for found in importlib.metadata.distributions(name="sahi", path=[str(options.sahi)]))
    with tempfile.TemporaryDirectory() as folder:
        to = (options.to or Path(folder)).absolute()
        figures: list[Figure] = []
        detail: dict[str, Any] = {}
        if options.only in (None, "photos"):
            photos = Folder("80 photos", PHOTOS, TRUTH, (OURS, "whole,flip,tiles"), "60%")
            more, detail["photos"] = measure(photos, to, options.sahi, options.repeat)
            figures += more
        if options.only in (None, "mosaics"):
            large, truth, _, _ = make_mosaics(to)
            more, detail["mosaics"] = measure(
                Folder("mosaics", large, truth, ("auto",), "640"), to, options.sahi, options.repeat
            )
            figures += more
    report("slicing", figures, setup={"sahi": version, "repeat": options.repeat}, detail=detail)


if __name__ == "__main__":
    main()
