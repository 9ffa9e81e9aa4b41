"""Scenes for training: drawn ahead into a cache on the disk, then cut into square batches without end.

    python training/data.py --to /tmp/scenes --seed 800001 --scenes 12000

The cache is a folder of `.npz` files of 200 scenes each (JPEG, PNG of the instance map, classes); training reads
whatever is there and sees new files as they appear.
"""

from __future__ import annotations

import argparse
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from prelabel.synth.scenes import MIN_BOX_SIDE, MIN_VISIBLE_SHARE, draw_scene

SHARD = 200
MAX_INSTANCES = 12
IGNORED = 255


#: A scene as the cache has it: JPEG, PNG of the instance map, classes from 1.
Row = tuple[bytes, bytes, np.ndarray]


class Batch(NamedTuple):
    """`images` (B, S, S, 3) uint8; `instance_maps` (B, S, S) uint8 (255: an instance too small or too hidden to count);
    `classes` (B, MAX_INSTANCES) int32 from 0, -1 where there is none; `xyxy` (B, MAX_INSTANCES, 4) float32 pixels."""

    images: np.ndarray
    instance_maps: np.ndarray
    classes: np.ndarray
    xyxy: np.ndarray


def draw_cache(to: Path, seed: int, scenes: int) -> None:
    """Draw scenes 0..scenes-1 of a seed; files that exist are kept."""
    to.mkdir(parents=True, exist_ok=True)
    for start in range(0, scenes, SHARD):
        target = to / f"scenes-{start:06d}.npz"
        if target.exists():
            continue
        rows = []
        for index in range(start, start + SHARD):
            scene = draw_scene(seed, index)
            quality = int(np.random.default_rng([seed, index, 1]).integers(60, 96))
            jpeg, png = io.BytesIO(), io.BytesIO()
            Image.fromarray(scene.pixels).save(jpeg, "JPEG", quality=quality)
            Image.fromarray(scene.instance_map).save(png, "PNG", compress_level=1)
            rows.append((jpeg.getvalue(), png.getvalue(), scene.category_ids))
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as file:
            write_rows(file, rows)
        temporary.replace(target)


def write_rows(file: IO[bytes], rows: Sequence[Row]) -> None:
    """Scenes as arrays, all bytes of pictures in one and all classes in one: reading them runs nothing."""
    np.savez(
        file,
        pictures=np.frombuffer(b"".join(jpeg + png for jpeg, png, _ in rows), np.uint8),
        lengths=np.array([(len(jpeg), len(png)) for jpeg, png, _ in rows], np.int64).reshape(-1),
        classes=np.concatenate([classes for _, _, classes in rows]),
        instances=np.array([len(classes) for _, _, classes in rows], np.int64),
    )


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` has written."""
    with np.load(path, allow_pickle=False) as file:
        lengths, instances = file["lengths"], file["instances"]
        pictures = np.split(file["pictures"], np.cumsum(lengths)[:-1])
        classes = np.split(file["classes"], np.cumsum(instances)[:-1])
    files = [picture.tobytes() for picture in pictures]
    return list(zip(files[::2], files[1::2], classes, strict=True))


def batches(cache: Path, seed: int, plan: list[tuple[int, int]], threads: int = 1) -> Iterator[Batch]:
    """Batches without end, made ahead by threads. `plan`: (batch size, side) of each step, repeated for ever."""
    queues: list[Queue[Batch]] = [Queue(maxsize=3) for _ in range(threads)]

    def work(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        rows = _rows(cache, rng)
        step = number
        while True:
            size, side = plan[step % len(plan)]
            queues[number].put(_batch([_sample(rng, *next(rows), side) for _ in range(size)]))
            step += threads

    for number in range(threads):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    while True:
        for queue in queues:
            yield queue.get()


def _rows(cache: Path, rng: np.random.Generator) -> Iterator[Row]:
    while True:
        shards = sorted(cache.glob("scenes-*.npz"))
        # Four files mixed at a time: shuffling without holding everything in memory.
        chosen = rng.choice(len(shards), min(4, len(shards)), replace=False)
        rows = [row for number in chosen for row in read_rows(shards[number])]
        for number in rng.permutation(len(rows)):
            # Crowded scenes teach more for the same computation: the emptier one is, the more often it is passed over.
            if rng.random() < max(0.25, len(rows[number][2]) / 9):
                yield rows[number]


def _sample(
    rng: np.random.Generator, jpeg: bytes, png: bytes, category_ids: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One scene on a square canvas: whole where it fits, else shrunk to fit or a window cut out of it."""
    image, owners = Image.open(io.BytesIO(jpeg)), Image.open(io.BytesIO(png))
    seen = np.asarray(owners)
    window, scale = _window(rng, seen, len(category_ids), side)
    before = np.bincount(seen.ravel(), minlength=len(category_ids) + 1)[1:] * scale * scale
    left, top, right, bottom = window
    size = (min(side, max(16, round((right - left) * scale))), min(side, max(16, round((bottom - top) * scale))))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=window))
    owner = np.asarray(owners.resize(size, Image.Resampling.NEAREST, box=window))
    after = np.bincount(owner.ravel(), minlength=len(category_ids) + 1)[1:]
    renumber = np.zeros(256, np.uint8)
    classes, boxes = np.full(MAX_INSTANCES, -1, np.int32), np.zeros((MAX_INSTANCES, 4), np.float32)
    count = 0
    for number in np.flatnonzero(after) + 1:
        mask = owner == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        too_hidden = after[number - 1] < 2 * MIN_VISIBLE_SHARE * before[number - 1]
        if too_hidden or min(box[2] - box[0], box[3] - box[1]) < MIN_BOX_SIDE or count == MAX_INSTANCES:
            renumber[number] = IGNORED
            continue
        classes[count], boxes[count] = category_ids[number - 1] - 1, box
        count += 1
        renumber[number] = count
    canvas = np.full((side, side, 3), 127, np.uint8)
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    map_ = np.zeros((side, side), np.uint8)
    map_[: owner.shape[0], : owner.shape[1]] = renumber[owner]
    return canvas, map_, classes, boxes


def _window(
    rng: np.random.Generator, owner: np.ndarray, instances: int, side: int
) -> tuple[tuple[int, int, int, int], float]:
    """Which part of a scene to show (x1 y1 x2 y2 pixels) and how much enlarged."""
    height, width = owner.shape
    long = max(height, width)
    scale, keep = 1.0, None
    kind = rng.random()
    if kind < 0.3 and instances:
        # Close to one shape, so that it fills much of the canvas: large shapes are rare in scenes and hard to learn.
        rows, columns = np.nonzero(owner == rng.integers(1, instances + 1))
        keep = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        extent = max(keep[2] - keep[0], keep[3] - keep[1], 30)
        scale = float(np.clip(rng.uniform(0.4, 0.95) * side / extent, 0.7, 3.0))
    elif long > side and kind < 0.6:
        scale = side / long
    elif kind < 0.8:
        scale = float(np.exp(rng.uniform(np.log(0.75), np.log(1.4))))
    shown_size = side / scale
    starts = []
    for axis, length in ((0, width), (1, height)):
        room = max(0, int(length - shown_size))
        low, high = 0, room
        if keep is not None:
            low = int(np.clip(keep[2 + axis] - shown_size, 0, room))
            high = int(np.clip(keep[axis], low, room))
        starts.append(int(rng.integers(low, high + 1)))
    left, top = starts
    return (left, top, min(width, left + round(shown_size)), min(height, top + round(shown_size))), scale


def _batch(samples: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Batch:
    return Batch(*(np.stack(part) for part in zip(*samples, strict=True)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw scenes for training.")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=800001)
    parser.add_argument("--scenes", type=int, default=12000)
    arguments = parser.parse_args()
    draw_cache(arguments.to, arguments.seed, arguments.scenes)
