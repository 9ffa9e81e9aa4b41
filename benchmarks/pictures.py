"""JPEGs for measurements, drawn as the package's own scenes: the same bytes on every machine.

folder = pictures(cache, count=2000, width=640, height=480)
"""

from __future__ import annotations

import io
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import cores
from PIL import Image

from prelabel.synth.scenes import draw_scene

#: Pixels of a scene's side on the picture: its details stay about as large as they were drawn.
_SCENE_SIDE = 500

#: Scenes drawn for one picture; a larger one shows them again.
_SCENES = 4

#: Grain as of a sensor (standard deviation, of 255), without which large flat pictures cost a decoder too little.
_GRAIN = 3.0

_QUALITY = 90


def pictures(cache: Path, count: int, width: int, height: int, *, distinct: int | None = None, seed: int = 0) -> Path:
    """The folder of `count` JPEGs of one size below `cache`; missing ones are drawn, on all cores.

    Args:
        cache: Keeps the pictures for further runs; what was drawn for one folder is not drawn again for another.
        count: How many.
        width: Of each, in pixels.
        height: Of each, in pixels.
        distinct: Draw so many only; the others are the same files once more.
        seed: Which world.
    """
    distinct = min(count, distinct or count)
    folder = cache / f"{width}x{height}-{count}-{distinct}-{seed}"
    if folder.is_dir():
        return folder
    drawn = cache / f"{width}x{height}-{seed}"
    drawn.mkdir(parents=True, exist_ok=True)
    files = [drawn / f"{number:06d}.jpg" for number in range(distinct)]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    if missing:
        with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(_draw, drawn, width, height, seed), missing, chunksize=8))
    return repeated(files, count, folder)


def repeated(files: Sequence[Path], count: int, folder: Path) -> Path:
    """A folder of `count` files that repeat these photos under distinct names."""
    if folder.is_dir():
        return folder
    making = folder.with_name(folder.name + ".part")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    # Each of them is copied once, from whatever disk it is on; all further ones are links to that copy.
    for number in range(count):
        path = making / f"{number:06d}.jpg"
        if number < len(files):
            shutil.copyfile(files[number], path)
        else:
            os.link(making / f"{number % len(files):06d}.jpg", path)
    making.rename(folder)
    return folder


def _draw(folder: Path, width: int, height: int, seed: int, number: int) -> None:
    path = folder / f"{number:06d}.jpg"
    across, down = max(1, round(width / _SCENE_SIDE)), max(1, round(height / _SCENE_SIDE))
    cell = (math.ceil(width / across), math.ceil(height / down))
    scenes = [
        Image.fromarray(draw_scene(seed, number * _SCENES + tile).pixels).resize(cell)
        for tile in range(min(_SCENES, across * down))
    ]
    picture = Image.new("RGB", (width, height))
    for place in range(across * down):
        y, x = divmod(place, across)
        # Each line of a large picture begins with another scene.
        picture.paste(scenes[(place + y) % len(scenes)], (x * cell[0], y * cell[1]))
    rng = np.random.default_rng([seed, number])
    grain = np.rint(rng.standard_normal((256, 256, 1), np.float32) * np.float32(_GRAIN)).astype(np.int16)
    grain = np.tile(grain, (math.ceil(height / 256), math.ceil(width / 256), 1))[:height, :width]
    pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(file.getvalue())
    temporary.rename(path)
