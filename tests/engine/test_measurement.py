"""What a worker measures on its part of a sample."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prelabel.engine.measurement import Measurement, measure
from prelabel.engine.reader import Reader
from prelabel.engine.schedule import MeasureTask
from prelabel.engine.shard import ReadSettings
from prelabel.image_ref import ImageRef
from prelabel.source.decode import DecodeOptions
from prelabel.storage.files import Storage
from tests.engine.fakes import BrightestCorner

#: Seconds that a batch takes, whatever its size.
BATCH_S = 0.03


def measured(folder: Path, images: int, batch_size: int, streams: int = 1) -> Measurement:
    file = folder / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file)
    refs = tuple(ImageRef(f"{n}.png", str(file), f"{n}.png") for n in range(images))
    detector = BrightestCorner(batch_size, before=lambda batch: time.sleep(BATCH_S))
    reader = Reader(ReadSettings(Storage(), DecodeOptions(), "brightest", "brightest-00000000"))
    return measure(refs, MeasureTask(refs, seconds=BATCH_S, limit_s=10), reader, detector, streams=streams)


@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize(("images", "batch_size"), [(5, 1), (8, 8), (16, 8), (1, 16)])
def test_images_of_a_batch_take_their_share_of_its_time(tmp_path: Path, images: int, batch_size: int, streams: int):
    result = measured(tmp_path, images, batch_size, streams)
    together = batch_size * streams
    assert result.timed >= together
    assert result.timed % together == 0
    # A sleep may take longer, but not less; where streams are out of step, a round may begin a little earlier.
    assert result.seconds > (0.9 if streams == 1 else 0.6) * BATCH_S * result.timed / together
    assert [image.image_id for image in result.images] == [f"{n}.png" for n in range(images)]
