"""A set of scenes as files: JPEGs, and beside them the truth in COCO's form.

    make_scenes("scenes", images=200, seed=7)

    scenes/scene-000000.jpg ... scene-000199.jpg
    scenes/instances.json       boxes and masks of what is visible, made last

Each file's bytes depend on the seed and the number in its name alone, however many processes draw.
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

from prelabel import rle
from prelabel.errors import ConfigError
from prelabel.storage import Storage, absolute, join
from prelabel.synth.scenes import Scene, draw_scene
from prelabel.synth.shapes import CLASS_NAMES

TRUTH_NAME = "instances.json"
JPEG_QUALITY = 90


class ScenesMade(NamedTuple):
    """What a call of `make_scenes` wrote: how many images and instances, and the address of the truth."""

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
    """Write scenes 0 to `images - 1` of a seed and their truth.

    Args:
        to: Directory or object storage prefix; it may hold nothing but an earlier, not larger set of scenes.
        images: How many, at least 1.
        seed: Which world, at least 0. Sets of one seed begin alike; those of two seeds have nothing in common.
        workers: Processes that draw.
        storage: How to reach `to`.
        progress: Called with (images done, images wanted) after every image.

    Raises:
        ConfigError: A number is out of range, or the directory holds other files.
        StoreError: Something could not be written.
    """
    for name, value, least in (("images", images, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    storage = storage or Storage()
    root = absolute(str(to))
    ours = {_file_name(index) for index in range(images)} | {TRUTH_NAME}
    others = sorted(set(storage.names(root)) - ours)
    if others:
        raise ConfigError(
            f"{root} holds other files ({others[0]!r}, {len(others)} in all); scenes need a place of their own"
        )
    storage.delete(join(root, TRUTH_NAME))
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (record, instances) in enumerate(_write_all(root, images, seed, workers, storage)):
        records.append({"id": index + 1, **record})
        for instance in instances:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **instance})
        if progress is not None:
            progress(index + 1, images)
    truth = join(root, TRUTH_NAME)
    storage.publish(truth, _coco_json(seed, records, annotations))
    return ScenesMade(len(records), len(annotations), truth)


def _file_name(index: int) -> str:
    return f"scene-{index:06d}.jpg"


def _write_all(
    root: str, images: int, seed: int, workers: int, storage: Storage
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    write = partial(_write_one, root, seed, storage)
    if workers == 1:
        yield from map(write, range(images))
        return
    # Spawned: a fork of a process that has threads (a progress bar, TensorFlow) may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, range(images), chunksize=8)


def _write_one(root: str, seed: int, storage: Storage, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw and write one scene; returns its COCO image entry and annotations, both without ids."""
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
    # No date: the bytes depend on the arguments alone.
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
