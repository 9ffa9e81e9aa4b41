"""Pictures for a real detector, and the rows that an undisturbed run makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from tests.e2e.command import Place, local_rows
from tests.models import Models, picture


@pytest.fixture
def place() -> Iterator[Place]:
    """Where a test's commands run; everything they leave is ended with the test."""
    place = Place()
    yield place
    place.end()


@dataclass(frozen=True)
class Undisturbed:
    """A job, and what came out when nothing was in its way."""

    arguments: tuple[str, ...]
    photos: Path
    count: int
    rows: pa.Table
    printed: str


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Undisturbed]:
    """`prelabel label` over pictures large enough to take a while, by the Mask R-CNN of the tests."""
    folder = tmp_path_factory.mktemp("undisturbed")
    photos = folder / "photos"
    photos.mkdir()
    rng = random.Random(7)
    count = 240
    for number in range(count):
        height, width = rng.randrange(700, 1000), rng.randrange(900, 1300)
        boxes = []
        for colour in rng.sample(["red", "green", "blue"], rng.randrange(1, 4)):
            x, y = rng.randrange(width - 200), rng.randrange(height - 200)
            boxes.append((colour, x, y, x + rng.randrange(20, 200), y + rng.randrange(20, 200)))
        Image.fromarray(picture(height, width, *boxes)).save(photos / f"{number:03d}.png", compress_level=1)
    arguments = ("--detector", str(models.mask_rcnn), "--label-map", "coco", "--shard-size", "2", "--workers", "2")
    on_ray = ("--runner", "ray")
    place = Place()
    try:
        output = folder / "out"
        result = place.run("label", str(photos), *arguments, *on_ray, "--output", str(output), timeout_s=300)
        assert result.returncode == 0, result.stderr
        yield Undisturbed(arguments, photos, count, local_rows(output), result.stdout + result.stderr)
    finally:
        place.end()
