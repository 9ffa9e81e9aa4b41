"""Two runs over the same images for the tests of fusion: a detector with MIDs, and one with other numbers and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prelabel.detections import ClassName
from prelabel.detectors.base import DetectorRecord
from prelabel.fusion.job import FusionSummary, Progress, fuse_runs
from prelabel.fusion.options import FuseOptions
from prelabel.keypoints import KeypointSet
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import Run, open_run
from tests.runs import write_run

DOG, CAT = ClassName(1, "Dog", "/m/0bt9lr"), ClassName(2, "Cat", "/m/01yrx")
#: The same dog under another number and without a MID, and a class of its own.
OTHER_DOG, HORSE = ClassName(18, "dog"), ClassName(1, "horse")


@dataclass
class World:
    """Writes runs below a folder, and fuses them."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def run(
        self,
        name: str,
        *rows: ImageRow,
        classes: Sequence[ClassName] | None = (DOG, CAT),
        shard_size: int = 2,
        masks: bool = False,
        keypoints: KeypointSet | None = None,
        **settings: Any,
    ) -> Path:
        """Write a run of these rows, in shards of two images."""
        self.names.append(name)
        run_id = f"{len(self.names):032x}"
        detector = DetectorRecord(
            name=f"{name}-net",
            address=f"models/{name}",
            fingerprint=f"{len(self.names):064x}",
            model_version=f"{name}-net-1",
            convention="test",
            masks=masks,
            classes=None if classes is None else tuple(classes),
            reading={},
            keypoints=keypoints,
        )
        shards = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
        write_run(self.folder / name, shards, run_id=run_id, detector=detector, settings=settings)
        return self.folder / name

    def opened(self, name: str) -> Run:
        return open_run(str(self.folder / name), Storage())

    def fuse(self, *names: str, to: str = "fused", progress: Progress | None = None, **options: Any) -> FusionSummary:
        """Fuse runs by their names."""
        places = [str(self.folder / name) for name in names]
        chosen = FuseOptions.of(runs=places, to=str(self.folder / to), **options)
        runs = [open_run(place, Storage()) for place in places]
        return fuse_runs(runs, chosen, Processes(), progress or Progress())

    def rows(self, name: str = "fused") -> dict[str, ImageRow]:
        """The rows of a run by image."""
        return {row.image_id: row for row in self.opened(name).rows()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
