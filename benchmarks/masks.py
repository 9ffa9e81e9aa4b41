"""Paste and encode masks, as RLE, brush masks and polygons, each compared with the plain method in the same process.

    python benchmarks/masks.py --repeat 5

Prints one JSON line. The part on brush masks also needs label-studio-sdk. Everything runs in one thread, whatever the
machine has; the methods take turns, and every result is compared.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402 - the number of threads must be set before NumPy is there
import importlib.util  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from common import LEAST_REPEAT, Figure, figure, ratio, report, seconds_of, take_turns, versions  # noqa: E402
from pycocotools import mask as coco  # noqa: E402

from prelabel.masks import rle  # noqa: E402
from prelabel.masks.brush import brushes_from_rle  # noqa: E402
from prelabel.masks.paste import paste_masks  # noqa: E402
from prelabel.masks.polygons import PolygonRules, object_polygons  # noqa: E402

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
    """Paste each mask into a full image with the reference's formula, and encode it with pycocotools."""
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


def require(is_true: bool, what: str) -> None:
    """Stop if a result is wrong: a figure for it would be worthless."""
    if not is_true:
        raise SystemExit(f"masks: {what}")


def measure_paste(masks: np.ndarray, xyxy: np.ndarray, repeat: int) -> list[Figure]:
    """Paste 100 masks of 33 x 33 into one image, threshold and encode them."""
    ways = {"ours": lambda: paste_masks(masks, xyxy, HEIGHT, WIDTH), "plain": lambda: plain_paste(masks, xyxy)}
    require(ways["ours"]() == ways["plain"](), "pasted masks differ from the plain way's")
    seconds = seconds_of(take_turns(ways, repeat))
    return [
        figure("100 masks pasted and encoded", [s * 1e3 for s in seconds["ours"]], "ms", at_most=PASTE_MS),
        figure("the same, full image and pycocotools", [s * 1e3 for s in seconds["plain"]], "ms"),
        ratio("pasting, times faster than the plain way", seconds["plain"], seconds["ours"]),
    ]


def measure_brush(rng: np.random.Generator, name: str, noise: float, repeat: int) -> list[Figure]:
    """Encode ten masks of 1024 x 1024 as brush masks, compared with the SDK's encoder on prepared RGBA values."""
    side = 1024
    sizes = rng.uniform(100, 900, (10, 2))
    corner = rng.uniform(0, 1, (10, 2)) * (side - sizes)
    counts = paste_masks(outlines(rng, 10, 33, noise), np.concatenate((corner, corner + sizes), axis=1), side, side)
    ways: dict[str, Callable[[], Any]] = {"ours": lambda: brushes_from_rle(counts, side, side)}
    title = f"brush masks ({name}), times faster than the SDK's encoder"
    if importlib.util.find_spec("label_studio_sdk") is None:
        return [figure(title, [], "x", at_least=BRUSH_RATIO, note="label-studio-sdk is not installed")]
    from label_studio_sdk.converter.brush import decode_rle, encode_rle

    def rgba(mask: str) -> np.ndarray:
        return np.repeat(rle.decode(mask, side, side).astype(np.uint8).ravel() * 255, 4)

    ready = [rgba(mask) for mask in counts]
    ways["sdk"] = lambda: [encode_rle(image) for image in ready]
    ways["sdk_from_rle"] = lambda: [encode_rle(rgba(mask)) for mask in counts]
    encoded = ways["ours"]()
    require([list(mask) for mask in encoded] == ways["sdk"](), "brush masks differ from the SDK's")
    for mask, values in zip(encoded, ready, strict=True):
        require(np.array_equal(decode_rle(list(mask)), values), "brush masks decode to other pixels")
    seconds = seconds_of(take_turns(ways, repeat))
    runs = round(statistics.mean(len(rle.decode_runs(mask, side, side)) for mask in counts))
    note = f"{runs} runs a mask; the same bytes"
    return [
        ratio(title, seconds["sdk"], seconds["ours"], at_least=BRUSH_RATIO, note=note),
        ratio(f"brush masks ({name}), the SDK beginning with RLE, too", seconds["sdk_from_rle"], seconds["ours"]),
        figure(f"a brush mask ({name})", [s * 100 for s in seconds["ours"]], "ms"),
    ]


def measure_polygons(counts: list[str], repeat: int) -> list[Figure]:
    """Convert the pasted masks to polygons with a tolerance of 1 pixel."""
    way = {"ours": lambda: [object_polygons(mask, HEIGHT, WIDTH, PolygonRules()).polygons for mask in counts]}
    rates = [len(counts) / s for s in seconds_of(take_turns(way, repeat))["ours"]]
    overlap = []
    for mask in counts:
        drawn = coco.merge(
            coco.frPyObjects(object_polygons(mask, HEIGHT, WIDTH, PolygonRules()).polygons, HEIGHT, WIDTH)
        )
        overlap.append(float(coco.iou([drawn], [{"size": [HEIGHT, WIDTH], "counts": mask}], [0])[0, 0]))
    note = f"IoU with the mask: median {statistics.median(overlap):.4f}, least {min(overlap):.4f}"
    return [figure("masks as simplified polygons", rates, "masks/s", at_least=POLYGONS_PER_S, note=note)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds that are counted (at least 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    repeat = max(arguments.repeat, LEAST_REPEAT)
    rng = np.random.default_rng(arguments.seed)
    masks, xyxy = outlines(rng, 100, 33), boxes(rng, 100)
    figures = [
        *measure_paste(masks, xyxy, repeat),
        *measure_brush(rng, "smooth", 0.05, repeat),
        *measure_brush(rng, "ragged", 4.0, repeat),
        *measure_polygons(paste_masks(masks, xyxy, HEIGHT, WIDTH), repeat),
    ]
    setup = {"repeat": repeat, "threads": 1, "image": [HEIGHT, WIDTH], "masks": list(masks.shape)}
    report("masks", figures, setup={**setup, "beside": versions("pycocotools", "label-studio-sdk")})


if __name__ == "__main__":
    main()
