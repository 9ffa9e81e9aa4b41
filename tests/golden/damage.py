"""What happens to runs: each function changes the run `shapes` in a folder; they can be sent to another process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from prelabel.detections import Detections
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from prelabel.store.shards import write_shard

RUN = "runs/shapes"


def _shard(folder: Path, number: int = 1) -> Path:
    return folder / RUN / "shards" / f"shard-{number:05d}.parquet"


def cut(folder: Path) -> None:
    """The end of a shard is missing."""
    _shard(folder).write_bytes(_shard(folder).read_bytes()[:-100])


def flipped(folder: Path) -> None:
    """One byte of a shard is another."""
    data = bytearray(_shard(folder).read_bytes())
    data[300] ^= 0xFF
    _shard(folder).write_bytes(data)


def missing(folder: Path) -> None:
    """A shard is gone."""
    _shard(folder).unlink()


def swapped(folder: Path) -> None:
    """A shard has the content of another."""
    _shard(folder).write_bytes(_shard(folder, 2).read_bytes())


def stray(folder: Path) -> None:
    """A shard too many."""
    _shard(folder, 9).write_bytes(_shard(folder, 2).read_bytes())


def foreign(folder: Path) -> None:
    """A shard of another run."""
    shutil.copy(folder / "runs" / "crowd" / "shards" / "shard-00000.parquet", _shard(folder))


def no_plan(folder: Path) -> None:
    """The plan is gone."""
    shutil.rmtree(folder / RUN / "plan")


def removed(folder: Path, *, names: tuple[str, ...]) -> None:
    """Files are gone."""
    for name in names:
        (folder / RUN / name).unlink()


def replaced(folder: Path, *, name: str, text: str) -> None:
    """A file has another content."""
    (folder / RUN / name).write_text(text)


def changed(folder: Path, *, name: str, key: str, value: object) -> None:
    """A value in a JSON file is another."""
    path = folder / RUN / name
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def second_crowd(folder: Path) -> None:
    """Another run over the images of `crowd`, of another detector."""
    second = folder / "runs" / "second"
    shutil.copytree(folder / "runs" / "crowd", second)
    run_id = "f" * 32
    run = json.loads((second / "run.json").read_text())
    detector = {**run["detector"], "name": "second-net", "fingerprint": "f" * 64}
    (second / "run.json").write_text(json.dumps({**run, "run_id": run_id, "detector": detector}))
    manifest = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**manifest, "run_id": run_id}))


def changed_crowd(folder: Path) -> None:
    """As `second_crowd`, with other detections: some have other scores, classes and boxes, and some are gone."""
    second_crowd(folder)
    second = str(folder / "runs" / "second")
    run = open_run(second, Storage())
    for shard, rows in zip(run.manifest.shards.values(), run.rows.by_shard(), strict=True):
        changed = [replace(row, detections=_changed(row.detections)) for row in rows()]
        write_shard(changed, second, Storage(), shard=shard.shard, run_id=run.record.run_id)


def _changed(detections: Detections | None) -> Detections | None:
    if detections is None or not len(detections):
        return detections
    kept = detections[np.arange(len(detections)) % 5 != 4]
    number = np.arange(len(kept))
    xyxy = kept.xyxy.copy()
    xyxy[number % 3 == 1, 2] -= (xyxy[:, 2] - xyxy[:, 0])[number % 3 == 1] / 4
    label = kept.label.copy()
    label[number % 4 == 2] = "Cat"
    mid = kept.mid.copy()
    mid[number % 4 == 2] = "/m/01yrx"
    return replace(kept, xyxy=xyxy, label=label, mid=mid, score=kept.score * np.float32(0.9))


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "cut": cut,
    "flipped": flipped,
    "missing": missing,
    "swapped": swapped,
    "stray": stray,
    "foreign": foreign,
    "no-plan": no_plan,
    "no-manifest": partial(removed, names=("manifest.json",)),
    "no-run": partial(removed, names=("run.json",)),
    "neither": partial(removed, names=("run.json", "manifest.json")),
    "manifest-text": partial(replaced, name="manifest.json", text="{"),
    "manifest-list": partial(replaced, name="manifest.json", text="[]"),
    "manifest-empty": partial(replaced, name="manifest.json", text="{}"),
    "run-text": partial(replaced, name="run.json", text="nonsense"),
    "run-version": partial(changed, name="run.json", key="schema_version", value=99),
    "run-detector": partial(changed, name="run.json", key="detector", value={}),
    "manifest-run": partial(changed, name="manifest.json", key="run_id", value="0" * 32),
}
