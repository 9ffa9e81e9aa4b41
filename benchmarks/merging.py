"""Merging: boxes of crowded images by each method, and masks by vote; and the boxes of an Ultralytics network.

    python benchmarks/merging.py --repeat 5

The crowd: in 4000 x 3000 pixels, objects of five classes with sides of 8 to 200 pixels, each seen by six views with its
sides moved by 6 % (normally distributed). `scattered` boxes are all at random places, of one class: few of them merge,
so each has many neighbors to be compared with. The Ultralytics network has 80 classes and returns 8,400 boxes, of which
some have scores of 0.05 or more: around 30 for each object, or all at random places. Times are CPU times of one thread.
Prints one JSON line.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402 - the number of threads must be set before NumPy is imported
import json  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import tracemalloc  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from common import LEAST_REPEAT, Figure, figure, report, seconds_of, take_turns  # noqa: E402
from masks import HEIGHT, WIDTH, outlines  # noqa: E402

from prelabel.detectors.conventions.boxes import Shown  # noqa: E402
from prelabel.detectors.conventions.convention import Convention, ImageInput, Question  # noqa: E402
from prelabel.detectors.conventions.families.ultralytics import METADATA, ULTRALYTICS  # noqa: E402
from prelabel.detectors.conventions.protos import Signature, Tensor  # noqa: E402
from prelabel.masks.paste import paste_masks  # noqa: E402
from prelabel.merging.boxes import METHODS, merge_boxes  # noqa: E402
from prelabel.merging.masks import unite_masks, vote_masks  # noqa: E402

WEIGHTS = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
VIEWS = len(WEIGHTS)
IOU = 0.55
MANY, FEW = 33_000, 3_000
MANY_MS = {"wbf": 300.0, "nms": 300.0, "nmm": 2000.0}
FEW_MS, MEMORY_MB = 20.0, 50.0
#: Of the network: classes, side of the input, boxes, and how many have the lowest score.
CLASSES, SIDE, BOXES = 80, 640, 8_400
CANDIDATES = (1_500, 3_000, BOXES)
LOWEST, DECODE_MS = 0.05, 10.0


def crowd(rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Arguments of `merge_boxes`: objects that every view saw."""
    size = rng.uniform(8, 200, (number // VIEWS, 2))
    corner = rng.uniform(0, 1, size.shape) * (np.array([4000, 3000]) - size)
    sides = np.repeat(np.concatenate((size, size), axis=1), VIEWS, axis=0)
    boxes = np.repeat(np.concatenate((corner, corner + size), axis=1), VIEWS, axis=0)
    boxes += rng.normal(0, 0.06, boxes.shape) * sides
    return {
        "xyxy": np.concatenate(
            (np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])), axis=1
        ),
        "score": rng.uniform(0.01, 1, len(boxes)),
        "group": np.repeat(rng.integers(0, 5, len(size)), VIEWS),
        "source": np.tile(np.arange(VIEWS), len(size)),
    }


def scattered(rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Arguments of `merge_boxes`: boxes at random places, of one class."""
    size = rng.uniform(8, 200, (number, 2))
    corner = rng.uniform(0, 1, size.shape) * (np.array([4000, 3000]) - size)
    return {
        "xyxy": np.concatenate((corner, corner + size), axis=1),
        "score": rng.uniform(0.01, 1, number),
        "group": np.zeros(number, np.int64),
        "source": rng.integers(0, VIEWS, number),
    }


def peak_mb(function: Callable[[], Any]) -> float:
    """The most memory that a call allocates."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def measure_boxes(name: str, boxes: dict[str, Any], repeat: int, targets_ms: dict[str, float]) -> list[Figure]:
    """Time and memory of each method."""
    ways = {
        method: lambda method=method: merge_boxes(**boxes, weights=WEIGHTS, method=method, iou=IOU)  # type: ignore[misc]
        for method in METHODS
    }
    rounds = take_turns(ways, repeat, clock=time.process_time)
    figures = []
    for method, seconds in seconds_of(rounds).items():
        title = f"{len(boxes['score']):,} boxes, {name}, {method}"
        note = f"{len(rounds[method][0][1].score):,} remain"
        target = targets_ms.get(method)
        figures.append(figure(title, [value * 1e3 for value in seconds], "CPU ms", at_most=target, note=note))
        figures.append(figure(f"{title}, memory", [peak_mb(ways[method])], "MB", at_most=MEMORY_MB))
    return figures


def measure_masks(rng: np.random.Generator, repeat: int) -> list[Figure]:
    """100 clusters of six masks of 1024 x 768, seen whole by all views, and by two views only in part."""
    size = rng.uniform(30, 400, (100, 2))
    corner = rng.uniform(0, 1, size.shape) * (np.array([WIDTH, HEIGHT]) - size)
    boxes = np.repeat(np.concatenate((corner, corner + size), axis=1), VIEWS, axis=0)
    boxes = np.clip(boxes + rng.normal(0, 3, boxes.shape), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    counts = paste_masks(outlines(rng, len(boxes), 33), boxes.astype(np.float32), HEIGHT, WIDTH)
    bounds, weights = np.arange(0, len(boxes) + 1, VIEWS), np.tile(WEIGHTS, 100)
    whole = np.tile([0, 0, WIDTH, HEIGHT], (len(boxes), 1))
    partial = whole.copy()
    partial[2::VIEWS, 2:] = 614, 460
    partial[3::VIEWS, :2] = 410, 308
    ways = {
        "votes": lambda: vote_masks(counts, bounds, weights, whole, HEIGHT, WIDTH),
        "votes, two of the views are tiles": lambda: vote_masks(counts, bounds, weights, partial, HEIGHT, WIDTH),
        "unions": lambda: unite_masks(counts, bounds, HEIGHT, WIDTH),
    }
    return [
        figure(f"100 x 6 masks, {name}", [value * 1e3 for value in seconds], "CPU ms")
        for name, seconds in seconds_of(take_turns(ways, repeat, clock=time.process_time)).items()
    ]


def network_output(rng: np.random.Generator, candidates: int, objects: int) -> Any:
    """The output `[1, 84, 8400]` of a network that sees so many objects; this many boxes have the lowest score."""
    size = rng.uniform(16, 200, (objects, 2))
    center = rng.uniform(0, 1, size.shape) * SIDE
    seen = rng.integers(0, objects, BOXES)
    output = rng.uniform(0, 0.8 * LOWEST, (4 + CLASSES, BOXES)).astype(np.float32)
    output[:2] = (center[seen] + rng.normal(0, 0.04, (BOXES, 2)) * size[seen]).T
    output[2:4] = (size[seen] * rng.uniform(0.92, 1.08, (BOXES, 2))).T
    some = rng.permutation(BOXES)[:candidates]
    output[4 + rng.integers(0, CLASSES, objects)[seen[some]], some] = rng.uniform(LOWEST, 1, candidates)
    return output[np.newaxis]


def network_convention() -> Convention:
    """The convention of the network, as its metadata tell it."""
    image = Tensor("images", "float32", (1, SIDE, SIDE, 3))
    boxes = Tensor("output_0", "float32", (1, 4 + CLASSES, BOXES))
    signature = Signature("serving_default", (image,), (boxes,))
    shown = ImageInput(signature="serving_default", input=image, batch_dimension=True, size=(SIDE, SIDE))
    names = {str(number): f"class {number}" for number in range(CLASSES)}
    metadata = {"author": "Ultralytics", "task": "detect", "imgsz": [SIDE, SIDE], "names": names}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / METADATA).write_text(json.dumps(metadata))
        convention = ULTRALYTICS.match(Question(shown, {boxes.name: boxes}, signature, Path(folder)))
    assert isinstance(convention, Convention), convention
    return convention


def measure_decoding(rng: np.random.Generator, repeat: int) -> list[Figure]:
    """From the network's output to boxes without those that overlap better ones."""
    convention = network_convention()
    decode = convention.decode
    assert decode is not None
    shown = Shown.of((480, SIDE), convention.size, convention.fit)
    figures = []
    for candidates in CANDIDATES:
        for name, objects in (("crowd", candidates // 30), ("scattered", BOXES)):
            outputs = {"output_0": network_output(rng, candidates, objects)}
            title = f"8,400 boxes of a network, {candidates:,} with the score, {name}"
            rounds = take_turns(
                {title: lambda outputs=outputs: decode(outputs, convention, shown, LOWEST)},  # type: ignore[misc]
                max(repeat, 15),
                clock=time.process_time,
            )
            note = f"{len(rounds[title][0][1].arrays['scores'])} remain"
            milliseconds = [seconds * 1e3 for seconds in seconds_of(rounds)[title]]
            figures.append(figure(title, milliseconds, "CPU ms", at_most=DECODE_MS, note=note))
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds that are counted (at least 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    repeat = max(arguments.repeat, LEAST_REPEAT)
    rng = np.random.default_rng(arguments.seed)
    figures = [
        *measure_boxes("crowd", crowd(rng, FEW), repeat, dict.fromkeys(METHODS, FEW_MS)),
        *measure_boxes("crowd", crowd(rng, MANY), repeat, MANY_MS),
        *measure_boxes("scattered", scattered(rng, MANY), repeat, {}),
        *measure_masks(rng, repeat),
        *measure_decoding(rng, repeat),
    ]
    report("merging", figures, setup={"repeat": repeat, "threads": 1, "iou": IOU, "image": [HEIGHT, WIDTH]})


if __name__ == "__main__":
    main()
