"""Masks: pasted and encoded, as brush masks, as polygons; each beside the plain way in the same process.

    python benchmarks/masks.py --repeat 5

Prints one JSON line. The brush part needs label-studio-sdk beside this package's dependencies; without it only our own
time is given. One thread, whatever the machine has; the ways take turns, and every result is compared.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402 - the number of threads must be set before NumPy is there
import importlib.metadata  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from pycocotools import mask as coco  # noqa: E402

from prelabel import rle  # noqa: E402
from prelabel.detectors.masks import paste_masks  # noqa: E402
from prelabel.export.brush import brush_from_rle  # noqa: E402
from prelabel.export.polygons import polygons_from_rle  # noqa: E402

HEIGHT, WIDTH = 768, 1024
PASTE_MS, BRUSH_RATIO, POLYGONS_PER_S = 8.0, 20.0, 200.0


def outlines(rng: np.random.Generator, n: int, m: int, noise: float = 0.05) -> np.ndarray:
    """`(n, m, m)` float32 scores of one wavy shape each, with a little noise (or much)."""
    y, x = np.meshgrid(np.linspace(-1, 1, m), np.linspace(-1, 1, m), indexing="ij")
    bend = rng.normal(0, 1, (n, 4, 1, 1))
    angle = np.arctan2(y, x)
    inside = 0.8 + 0.2 * np.sin(3 * angle + bend[:, 0]) + 0.1 * np.sin(5 * angle + bend[:, 1])
    inside = inside - np.hypot(x * (1 + 0.2 * bend[:, 2]), y * (1 + 0.2 * bend[:, 3]))
    return (1 / (1 + np.exp(-8 * inside + rng.normal(0, noise, inside.shape)))).astype(np.float32)


def boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """`(n, 4)` float32 x1 y1 x2 y2 inside the image, sides of 30-400 pixels."""
    size = rng.uniform(30, 400, (n, 2))
    corner = rng.uniform(0, 1, (n, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    return np.concatenate((corner, corner + size), axis=1).astype(np.float32)


def plain_paste(masks: np.ndarray, xyxy: np.ndarray) -> list[str]:
    """The reference's formula over each box, into a whole image each, encoded by pycocotools."""
    yxyx = (xyxy / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32))[:, [1, 0, 3, 2]]
    one, cells = np.float32(1), np.float32(masks.shape[1] - 1)
    counts = []
    for mask, (y1, x1, y2, x2) in zip(masks, yxyx, strict=True):
        axes = []
        for low, high, size in ((y1, y2, HEIGHT), (x1, x2, WIDTH)):
            start, end = -low / (high - low), (one - low) / (high - low)
            step = (end - start) * cells / np.float32(size - 1)
            at = start * cells + np.arange(size, dtype=np.float32) * step
            pixel = np.flatnonzero((at >= 0) & (at <= cells))
            floor = np.floor(at[pixel])
            axes.append((pixel, floor.astype(int), np.ceil(at[pixel]).astype(int), at[pixel] - floor))
        (rows, top, bottom, down), (columns, left, right, across) = axes
        lines = mask[:, left] + (mask[:, right] - mask[:, left]) * across
        values = lines[top] + (lines[bottom] - lines[top]) * down[:, None]
        image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = values > np.float32(0.5)
        counts.append(coco.encode(image)["counts"].decode())
    return counts


def take_turns(ways: dict[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    """Seconds of each way, once per round; every second round the other way round. One round before is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            begin = time.perf_counter()
            ways[name]()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def spread_ms(seconds: list[float]) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    return {
        "median_ms": round(statistics.median(seconds) * 1e3, 3),
        "min_ms": round(min(seconds) * 1e3, 3),
        "max_ms": round(max(seconds) * 1e3, 3),
    }


def measure_paste(masks: np.ndarray, xyxy: np.ndarray, repeat: int) -> dict[str, Any]:
    """100 masks of 33 x 33 into one image, thresholded and encoded."""
    ways = {"ours": lambda: paste_masks(masks, xyxy, HEIGHT, WIDTH), "plain": lambda: plain_paste(masks, xyxy)}
    seconds = take_turns(ways, repeat)
    ours = statistics.median(seconds["ours"])
    return {
        **{name: spread_ms(values) for name, values in seconds.items()},
        "ratio": round(statistics.median(seconds["plain"]) / ours, 1),
        "equal": ways["ours"]() == ways["plain"](),
        "target_ms": PASTE_MS,
        "met": ours * 1e3 < PASTE_MS,
    }


def measure_brush(rng: np.random.Generator, noise: float, repeat: int) -> dict[str, Any]:
    """Ten masks of 1024 x 1024 as brush masks.

    `sdk` is the SDK's encoder alone, given RGBA values ready made; `sdk_from_rle` starts where we do.
    """
    side = 1024
    sizes = rng.uniform(100, 900, (10, 2))
    corner = rng.uniform(0, 1, (10, 2)) * (side - sizes)
    counts = paste_masks(outlines(rng, 10, 33, noise), np.concatenate((corner, corner + sizes), axis=1), side, side)
    ways: dict[str, Callable[[], Any]] = {"ours": lambda: [brush_from_rle(one, side, side) for one in counts]}
    if importlib.util.find_spec("label_studio_sdk") is None:
        seconds = take_turns(ways, repeat)
        return {"ours_10_masks": spread_ms(seconds["ours"]), "sdk": None, "target_ratio": BRUSH_RATIO, "met": None}
    from label_studio_sdk.converter.brush import decode_rle, encode_rle

    def rgba(one: str) -> np.ndarray:
        return np.repeat(rle.decode(one, side, side).astype(np.uint8).ravel() * 255, 4)

    ready = [rgba(one) for one in counts]
    ways["sdk"] = lambda: [encode_rle(one) for one in ready]
    ways["sdk_from_rle"] = lambda: [encode_rle(rgba(one)) for one in counts]
    seconds = take_turns(ways, repeat)
    ours = statistics.median(seconds["ours"])
    ratio = statistics.median(seconds["sdk"]) / ours
    return {
        "runs_per_mask": round(statistics.mean(len(rle.decode_runs(one, side, side)) for one in counts)),
        **{f"{name}_10_masks": spread_ms(values) for name, values in seconds.items()},
        "ratio": round(ratio, 1),
        "ratio_from_rle": round(statistics.median(seconds["sdk_from_rle"]) / ours, 1),
        "same_bytes": [list(one) for one in ways["ours"]()] == ways["sdk"](),
        "same_pixels": all(
            np.array_equal(decode_rle(list(theirs)), values)
            for theirs, values in zip(ways["ours"](), ready, strict=True)
        ),
        "target_ratio": BRUSH_RATIO,
        "met": ratio >= BRUSH_RATIO,
        "met_from_rle": statistics.median(seconds["sdk_from_rle"]) >= BRUSH_RATIO * ours,
    }


def measure_polygons(counts: list[str], repeat: int) -> dict[str, Any]:
    """The pasted masks as polygons with a tolerance of 1 pixel."""
    seconds = take_turns({"ours": lambda: [polygons_from_rle(one, HEIGHT, WIDTH) for one in counts]}, repeat)["ours"]
    rate = len(counts) / statistics.median(seconds)
    overlap = []
    for one in counts:
        drawn = coco.merge(coco.frPyObjects(polygons_from_rle(one, HEIGHT, WIDTH), HEIGHT, WIDTH))
        overlap.append(float(coco.iou([drawn], [{"size": [HEIGHT, WIDTH], "counts": one}], [0])[0, 0]))
    return {
        "masks_per_s": round(rate, 1),
        "min_masks_per_s": round(len(counts) / max(seconds), 1),
        "max_masks_per_s": round(len(counts) / min(seconds), 1),
        "iou_median": round(statistics.median(overlap), 4),
        "iou_min": round(min(overlap), 4),
        "target_masks_per_s": POLYGONS_PER_S,
        "met": rate >= POLYGONS_PER_S,
    }


def processor() -> str:
    """What the machine says of its processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def version(package: str) -> str | None:
    """The installed version of a package, None without one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds that are counted (at least 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    repeat = max(arguments.repeat, 3)
    rng = np.random.default_rng(arguments.seed)
    masks, xyxy = outlines(rng, 100, 33), boxes(rng, 100)
    result = {
        "benchmark": "masks",
        "paste_100_masks_33x33_into_1024x768": measure_paste(masks, xyxy, repeat),
        "brush_1024x1024_smooth": measure_brush(rng, 0.05, repeat),
        "brush_1024x1024_ragged": measure_brush(rng, 4.0, repeat),
        "polygons_1024x768": measure_polygons(paste_masks(masks, xyxy, HEIGHT, WIDTH), repeat),
        "repeat": repeat,
        "machine": {"processor": processor(), "threads": 1, "load": os.getloadavg()[0]},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "pycocotools", "label-studio-sdk")},
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
