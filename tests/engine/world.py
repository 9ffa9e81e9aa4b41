"""A small world for one test: photos, a model, an output, and a job run in this process on the shared Ray."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prelabel.config import LabelOptions
from prelabel.engine.job import run
from prelabel.engine.progress import LostWorker, Snapshot, Summary
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.shards import ShardRecord
from prelabel.store.verify import verify
from tests.engine.fakes import Deed

#: What a worker process of the shared Ray runs before anything else.
ROOT = Path(__file__).parents[2]
RUNTIME_ENV = {"worker_process_setup_hook": "tests.engine.fakes.install", "env_vars": {"PYTHONPATH": str(ROOT)}}


class Recorder:
    """Keeps everything a run tells, and calls back on it."""

    def __init__(
        self,
        on_shard: Callable[[ShardRecord], None] = lambda record: None,
        on_progress: Callable[[Snapshot], None] = lambda snapshot: None,
    ) -> None:
        self.messages: list[str] = []
        self.snapshots: list[Snapshot] = []
        self.shards: list[int] = []
        self.by: list[str] = []
        self.deaths: list[str] = []
        self.left_out: list[str] = []
        self.run_id = ""
        self._on_shard = on_shard
        self._on_progress = on_progress

    def started(self, run_id: str) -> None:
        self.run_id = run_id

    def message(self, text: str, *, shard: int | None = None) -> None:
        self.messages.append(text if shard is None else f"shard={shard}: {text}")

    def lost(self, worker: LostWorker) -> None:
        (self.left_out if worker.is_excluded else self.deaths).append(worker.worker)
        self.messages += [f"shard={shard}: {worker.cause}; {then}" for shard, then in worker.shards.items()]
        if not worker.shards:
            self.messages.append(str(worker))

    def listed(self, images: int) -> None:
        pass

    def progress(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self._on_progress(snapshot)

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        self.shards.append(record.shard)
        self.by.append(worker)
        self._on_shard(record)

    def close(self) -> None:
        pass

    def said(self, *texts: str) -> list[str]:
        """Messages that contain all of these."""
        return [message for message in self.messages if all(text in message for text in texts)]


class World:
    """`photos/`, `model/`, `control/` and `out/` below one folder."""

    def __init__(self, folder: Path, model: Path, runner: str = "ray") -> None:
        self.folder = folder
        self.runner = runner
        self.photos = folder / "photos"
        self.control = folder / "control"
        self.model = folder / "model"
        self.out = folder / "out"
        self.photos.mkdir()
        self.control.mkdir()
        shutil.copytree(model, self.model)

    def add(self, count: int, **deeds: Deed) -> None:
        """Photos `000.png ...`, behind those there are; `p003=Deed.ABORT` says what the fourth in all does."""
        for number in range(first := len(list(self.photos.iterdir())), first + count):
            pixels = np.zeros((4 + number % 3, 8, 3), np.uint8)
            pixels[0, 0] = deeds.get(f"p{number:03d}", deeds.get("every", Deed.NOTHING)).value
            pixels[1 + number % 3, 1 + number % 7] = 255
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG", compress_level=0)
            (self.photos / f"{number:03d}.png").write_bytes(file.getvalue())

    def make(self, number: int, deed: Deed) -> None:
        """Change what one photo does."""
        path = self.photos / f"{number:03d}.png"
        with Image.open(path) as image:
            pixels = np.array(image)
        pixels[0, 0] = deed.value
        Image.fromarray(pixels).save(path, compress_level=0)  # of the same size: a changed file is another one

    def go(self) -> None:
        """Let `Deed.WAIT` end."""
        (self.control / "go").touch()

    def loading(self, how: str) -> None:
        """What loading the detector does; see `fakes.install`."""
        (self.control / "load").write_text(how)

    def options(self, **values: Any) -> LabelOptions:
        """Shards of 4 images, one worker on what the world is for, unless stated."""
        defaults: dict[str, Any] = {
            "source": (str(self.photos),),
            "detector": str(self.model),
            "output": str(self.out),
            "shard_size": 4,
            "workers": 1,
            "runner": self.runner,
        }
        return LabelOptions.of(**{**defaults, **values})

    def label(self, recorder: Recorder | None = None, stop: threading.Event | None = None, **values: Any) -> Summary:
        """Run the job in this process."""
        return run(self.options(**values), recorder or Recorder(), stop)

    def rows(self) -> list[ImageRow]:
        """All rows of the finished run."""
        return list(open_run(str(self.out), Storage()).rows())

    def require_whole(self, images: int | None = None) -> None:
        """`verify` finds no problem, every photo has one row, every ok row is right, no other file lies about."""
        report = verify(str(self.out), Storage())
        assert report.problems == ()
        rows = self.rows()
        ids = [row.image_id for row in rows]
        assert sorted(ids) == sorted({path.name for path in self.photos.iterdir()})[:images]
        for row in rows:
            if row.detections is not None:
                number = int(row.image_id[:3])
                x, y = 1 + number % 7, 1 + number % 3
                assert row.detections.xyxy.tolist() == [[x, y, x + 1, y + 1]]
                assert (row.height, row.width) == (4 + number % 3, 8)
        assert [path for path in self.out.rglob("*") if path.name.startswith(".")] == []

    @property
    def workers(self) -> list[dict[str, Any]]:
        """What each worker that came as far as loading noted of itself, in order."""
        file = self.control / "workers"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def fetched(self) -> list[str]:
        """Ids of the images fetched by workers, since `forget`."""
        file = self.control / "fetched"
        return file.read_text().splitlines() if file.exists() else []

    def forget(self) -> None:
        """Begin anew with what workers note down."""
        for name in ("fetched", "workers"):
            (self.control / name).unlink(missing_ok=True)

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Modification time and content of every file of the output."""
        return {
            str(path.relative_to(self.out)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(self.out.rglob("*"))
            if path.is_file()
        }
