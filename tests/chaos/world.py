"""What all trials share (pictures, a model, a store, a cluster) and what each has of its own."""

from __future__ import annotations

import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prelabel.storage.address import join
from prelabel.storage.files import Storage
from prelabel.store.plan import automatic_shard_size, shard_images
from prelabel.store.rows import ImageRow
from prelabel.store.run import MANIFEST, RUN, read_manifest, read_run
from prelabel.store.shards import read_shard, shard_url
from prelabel.store.verify import verify
from tests.chaos.nodes import Nodes
from tests.chaos.proxy import Proxy
from tests.e2e.command import ROOT, Place
from tests.s3 import S3Server, running_s3

#: Images of a run, and of a shard where its size is given.
IMAGES, SHARD = 48, 4

#: Seconds a call may take before it counts as stuck; the machine may be slow, and some faults cost timeouts.
PATIENCE_S = 240.0


@dataclass
class Stage:
    """What trials share: started once, mended by each trial before the next.

    Attributes:
        folder: For everything on a disk.
        nodes: The Ray cluster.
        server: The S3 server.
        proxy: What stands before it.
        model: A detector's files.
        photos: Pictures on the disk; the same are in the bucket.
        bucket: Name of the bucket.
    """

    folder: Path
    nodes: Nodes
    server: S3Server
    proxy: Proxy
    model: Path
    photos: Path
    bucket: str


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Set everything up, and take it down."""
    from tests.models import Models

    subprocess.run([sys.executable, "-m", "tests.models", folder / "models"], cwd=ROOT, check=True, capture_output=True)
    photos = folder / "photos"
    photos.mkdir()
    for number in range(IMAGES):
        (photos / f"{number:03d}.png").write_bytes(_picture(number))
    place = Place()
    with running_s3() as server:
        bucket = server.new_bucket()
        for path in sorted(photos.iterdir()):
            server.put(bucket, f"photos/{path.name}", path.read_bytes())
        proxy, nodes = Proxy(server.endpoint), Nodes(place)
        try:
            yield Stage(folder, nodes, server, proxy, Models.below(folder / "models").hub_module, photos, bucket)
        finally:
            nodes.kill()
            place.end()
            proxy.close()


def _picture(number: int) -> bytes:
    pixels = np.zeros((4 + number % 3, 8, 3), np.uint8)
    pixels[0, 0, 0] = number
    pixels[1 + number % 3, 1 + number % 7] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def right(row: ImageRow) -> bool:
    """Whether a row is what an undisturbed run makes of its image."""
    number = int(row.image_id[:3])
    x, y = 1 + number % 7, 1 + number % 3
    detections = row.detections
    return (
        detections is not None
        and detections.xyxy.tolist() == [[x, y, x + 1, y + 1]]
        and (row.height, row.width) == (4 + number % 3, 8)
    )


@dataclass
class Trial:
    """One run that is disturbed: its own output, model and orders.

    Attributes:
        stage: What it shares with others.
        seed: Of everything random.
        on_ray: Whether its workers are on the cluster; else they are processes of this machine.
        injected: Faults by kind, as far as they came to be.
        changed: Images whose object was replaced or removed since the source was listed.
        replaced: Those of them that are now something else, no picture.
        plan_then: Files of the plan when they were changed: one that was made later knows of the change.
        retried: Whether failed images were run again, which reads them as they are now.
        complaints: What went wrong that must not.
    """

    stage: Stage
    seed: int
    on_ray: bool
    source_in_bucket: bool
    output_in_bucket: bool
    folder: Path
    dice: random.Random
    arguments: list[str] = field(default_factory=list)
    key: str = "test"
    source: str = ""
    output: str = ""
    injected: Counter[str] = field(default_factory=Counter)
    changed: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    plan_then: set[str] = field(default_factory=set)
    retried: bool = False
    complaints: list[str] = field(default_factory=list)
    logs: dict[int, Path] = field(default_factory=dict)
    ended: bool = False

    @classmethod
    def begin(cls, stage: Stage, seed: int) -> Trial:
        """A fresh one whose places are drawn from the seed."""
        dice = random.Random(seed)
        folder = stage.folder / f"trial-{seed}"
        (folder / "control").mkdir(parents=True)
        shutil.copytree(stage.model, folder / "model")
        trial = cls(stage, seed, dice.random() < 0.5, dice.random() < 0.5, dice.random() < 0.5, folder, dice)
        trial.source = f"s3://{stage.bucket}/photos" if trial.source_in_bucket else str(stage.photos)
        trial.output = f"s3://{stage.bucket}/out-{seed}" if trial.output_in_bucket else str(folder / "disk" / "out")
        trial.pace(dice.choice([0.05, 0.1, 0.15]))
        return trial

    def pace(self, seconds: float) -> None:
        """Seconds the detector takes for an image."""
        (self.folder / "control" / "pace").write_text(str(seconds))

    def order(self, number: int, deed: str, times: int) -> None:
        """What an image does, and how often (-1: always)."""
        (self.folder / "control" / f"deed-{number:03d}").write_text(f"{deed} {times}")

    def forgive(self) -> None:
        """Images do nothing more."""
        for path in (self.folder / "control").glob("deed-*"):
            path.unlink()

    @property
    def shard_size(self) -> int | None:
        """Images of a shard; None in three of four trials: the automatic size, with smaller shards at the end."""
        return None if self.seed % 4 else SHARD

    @property
    def shard_count(self) -> int:
        """Number of shards of the plan."""
        if self.shard_size is not None:
            return math.ceil(IMAGES / self.shard_size)
        left, count = IMAGES, 0
        while left:
            left, count = left - shard_images(left, automatic_shard_size(IMAGES)), count + 1
        return count

    @property
    def options(self) -> dict[str, Any]:
        """Storage options that lead through the proxy."""
        return {
            **self.stage.server.options,
            "key": self.key,
            "client_kwargs": {"endpoint_url": self.stage.proxy.endpoint, "region_name": "us-east-1"},
            "config_kwargs": {"read_timeout": 3, "connect_timeout": 3},
        }

    @property
    def storage(self) -> Storage:
        """Past the proxy: what is really there."""
        return Storage(self.stage.server.options)

    @property
    def log(self) -> str:
        """What the calls printed, one after the other."""
        return "".join(path.read_text(errors="replace") for path in self.logs.values())

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """What one of the calls printed; others may have been begun before it ended."""
        return self.logs[process.pid].read_text(errors="replace")

    def call(self, *more: str) -> subprocess.Popen[bytes]:
        """Begin `prelabel label` with the trial's arguments."""
        self.retried |= "--retry-failed" in more
        settings = ["--detector", str(self.folder / "model"), "--workers", "2"]
        settings += [] if self.shard_size is None else ["--shard-size", str(self.shard_size)]
        options = ["--storage-options", json.dumps(self.options)]
        command = ["label", self.source, "--output", self.output, *settings, *options, *self.arguments, *more]
        python_path = [str(ROOT)] if self.on_ray else [str(ROOT / "tests" / "chaos" / "at_start"), str(ROOT)]
        env = {
            **self.stage.nodes.place.env,
            "PYTHONPATH": os.pathsep.join(python_path),
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }
        if self.on_ray:
            command = ["tests.chaos.driver", self.stage.nodes.address, *command]
        else:
            command = ["prelabel", *command, "--runner", "local"]
        log = self.folder / f"log-{len(self.logs)}"
        with log.open("ab") as stream:
            stream.write(f"--- {' '.join(more) or 'call'}\n".encode())
            stream.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.logs[process.pid] = log
        return process

    def planned(self) -> bool:
        """Whether the source has been listed and the plan published."""
        return bool(self.plan_files())

    def plan_files(self) -> set[str]:
        """Names of the plan's published files."""
        return {name for name in self.storage.names(join(self.output, "plan")) if not name.startswith(".")}

    def shards(self) -> set[str]:
        """Names of the published shards."""
        return {name for name in self.storage.names(join(self.output, "shards")) if not name.startswith(".")}

    def files(self) -> set[str]:
        """Every file of the output, as paths below it."""
        if self.output_in_bucket:
            client, prefix = self.stage.server.client(), self.output.partition(self.stage.bucket + "/")[2] + "/"
            objects = client.list_objects_v2(Bucket=self.stage.bucket, Prefix=prefix).get("Contents", [])
            return {entry["Key"][len(prefix) :] for entry in objects}
        root = Path(self.output)
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def rows(self) -> list[ImageRow]:
        """All rows of all shards that the manifest names."""
        manifest = read_manifest(self.output, self.storage)
        if manifest is None:
            return []
        shards = manifest.shards
        return [row for shard in shards for row in read_shard(shard_url(self.output, shard), self.storage)]

    def strays(self) -> set[str]:
        """Files that neither `run.json` nor the manifest names."""
        run, manifest = read_run(self.output, self.storage), read_manifest(self.output, self.storage)
        named = {RUN, MANIFEST}
        named |= {f"plan/{part.name}" for part in run.parts} if run else set()
        named |= {f"shards/{record.name}" for record in manifest.shards.values()} if manifest else set()
        return self.files() - named

    def compare(self) -> tuple[int, int]:
        """Rows lost and doubled in a finished run; everything else that is wrong becomes a complaint."""
        report = verify(self.output, self.storage)
        self.complaints += [f"verify: {problem}" for problem in report.problems]
        self.complaints += [f"stray file {name}" for name in sorted(self.strays())]
        rows = self.rows()
        counts = Counter(row.image_id for row in rows)
        planned = {f"{number:03d}.png" for number in range(IMAGES)}
        if planned_anew := self._planned_anew():
            planned -= self.changed - self.replaced
        if list(counts) != sorted(planned):
            self.complaints.append("rows are not in the order of the plan")
        for row in rows:
            if not (right(row) or self._excused(row, planned_anew)):
                self.complaints.append(f"{row.image_id} is wrong: {row.error_type} {row.error}")
        return len(planned - set(counts)), sum(counts.values()) - len(counts)

    def _planned_anew(self) -> bool:
        """Whether the source was listed again after it had changed: the run had not begun when its call ended."""
        run = read_run(self.output, self.storage)
        parts = {part.name for part in run.parts} if run else set()
        return bool(self.changed) and not parts & self.plan_then

    def _excused(self, row: ImageRow, planned_anew: bool) -> bool:
        """Whether the object of a row that is not right was changed, and the row says so or what the object is now.

        A call that goes on holds an object to what was listed; a retry, and a later listing, take it as it is now.
        """
        if row.image_id not in self.changed or row.detections is not None:
            return False
        as_listed = row.error_type == "FetchError"
        as_it_is = row.image_id in self.replaced and row.error_type == "UnknownFormatError"
        return as_listed or (as_it_is and (self.retried or planned_anew))

    def end(self) -> None:
        """Remove what it wrote on the disk."""
        self.ended = True
        shutil.rmtree(self.folder, ignore_errors=True)


def finished(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a call ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.poll() is not None
