"""Write a set of scenes as JPEG files, and their ground truth as a COCO dataset.

    make_scenes("scenes", images=200, seed=7)

    scenes/scene-000000.jpg ... scene-000199.jpg
    scenes/instances.json       boxes and masks of the visible parts, written last

The bytes of a file depend only on the seed and the number in its name, not on the number of processes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from prelabel.errors import ConfigError
from prelabel.masks import rle
from prelabel.storage.address import absolute, join
from prelabel.storage.files import Storage
from prelabel.synth.scenes import Scene, draw_scene
from prelabel.synth.shapes import CLASS_NAMES

TRUTH_NAME = "instances.json"
JPEG_QUALITY = 90


class ScenesMade(NamedTuple):
    """The result of `make_scenes`: the numbers of images and instances, and the path or URL of the ground truth."""

    images: int
    instances: int
    truth: str


def make_scenes(
    to: str | Path,
    images: int,
    seed: int,
    *,
    workers: int = 1,
    storage: Storage | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScenesMade:
    """Write scenes 0 to `images - 1` of a seed and their ground truth.

    Args:
        to: Directory or storage prefix; it may contain nothing but an earlier set of scenes that is no larger.
        images: Number of scenes, at least 1.
        seed: Seed, at least 0. Sets of the same seed start with the same scenes; sets of other seeds differ.
        workers: Number of processes that draw.
        storage: Writes to `to` (default: a storage without options).
        progress: Called after every image with the number of finished images and the total.

    Raises:
        ConfigError: A number is out of range, or the directory contains other files.
        StoreError: A file could not be written.
    """
    for name, value, smallest in (("images", images, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < smallest:
            raise ConfigError(f"--{name} must be at least {smallest}, got {value}")
    storage = storage or Storage()
    root = absolute(str(to))
    expected = {_file_name(index) for index in range(images)} | {TRUTH_NAME}
    others = sorted(set(storage.names(root)) - expected)
    if others:
        raise ConfigError(
            f"{root} contains {len(others)} other files, for example {others[0]!r}: name an empty folder for the scenes"
        )
    truth = join(root, TRUTH_NAME)
    storage.delete(truth)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (record, instances) in enumerate(_write_all(root, images, seed, workers, storage)):
        records.append({"id": index + 1, **record})
        for instance in instances:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **instance})
        if progress is not None:
            progress(index + 1, images)
    storage.publish(truth, _coco_json(seed, records, annotations))
    return ScenesMade(len(records), len(annotations), truth)


def _file_name(index: int) -> str:
    return f"scene-{index:06d}.jpg"


def _write_all(
    root: str, images: int, seed: int, workers: int, storage: Storage
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    write = partial(_write_scene, root, seed, storage)
    if workers == 1:
        yield from map(write, range(images))
        return
    # Spawn processes: a forked one may hang if its parent has threads (a progress bar, TensorFlow).
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, range(images), chunksize=8)


def _write_scene(root: str, seed: int, storage: Storage, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw and write a scene, and return its COCO image entry and annotations, without ids."""
    scene = draw_scene(seed, index)
    jpeg = io.BytesIO()
    Image.fromarray(scene.pixels).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    storage.publish(join(root, _file_name(index)), jpeg.getvalue())
    height, width = scene.instance_map.shape
    return {"file_name": _file_name(index), "width": width, "height": height}, list(_annotations(scene))


def _annotations(scene: Scene) -> Iterator[dict[str, Any]]:
    height, width = scene.instance_map.shape
    for number, (category_id, xyxy) in enumerate(zip(scene.category_ids, scene.xyxy, strict=True), start=1):
        x1, y1, x2, y2 = (int(v) for v in xyxy)
        mask = scene.instance_map[y1:y2, x1:x2] == number
        yield {
            "category_id": int(category_id),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": {"size": [height, width], "counts": rle.encode_crop(mask, y1, x1, height, width)},
        }


def _coco_json(seed: int, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bytes:
    # There is no date, so that the bytes depend only on the arguments.
    dataset = {
        "info": {"description": f"prelabel synthetic scenes, seed {seed}", "version": "1"},
        "licenses": [{"id": 1, "name": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": n, "name": name, "supercategory": "shape"} for n, name in enumerate(CLASS_NAMES, start=1)
        ],
    }
    return json.dumps(dataset, separators=(",", ":"), allow_nan=False).encode()
