"""How far a run is, from what is stored."""

from __future__ import annotations

import json
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prelabel.errors import StoreError
from prelabel.storage.files import Storage
from prelabel.store.lock import Lock
from prelabel.store.status import read_status
from tests.rows import failed_row, found, row
from tests.runs import write_run

STORAGE = Storage()
NOW = 1_800_000_000.0


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A finished run of four shards of two images; the third shard has a failed one. Shards came 10 s apart."""
    shards = [[row(f"{n}-{i}.jpg", found()) for i in range(2)] for n in range(4)]
    shards[2][1] = failed_row("2-1.jpg")
    write_run(tmp_path, shards)
    for number in range(4):
        written(tmp_path, number, NOW - 100 + 10 * number)
    return str(tmp_path)


def written(folder: Path, shard: int, at: float) -> None:
    os.utime(folder / "shards" / f"shard-{shard:05d}.parquet", (at, at))


def unfinish(output: str, *missing: int) -> None:
    (Path(output) / "manifest.json").unlink()
    for shard in missing:
        (Path(output) / "shards" / f"shard-{shard:05d}.parquet").unlink()


def test_a_finished_run_is_recognized_by_its_manifest(output: str):
    progress = read_status(output, STORAGE, now=NOW)
    assert progress.state == "finished"
    assert (progress.images, progress.done, progress.shards, progress.finished_shards) == (8, 8, 4, 4)
    assert (progress.failed, dict(progress.failures)) == (1, {"TruncatedImageError": 1})
    assert progress.left_s is None
    assert progress.newest_s == pytest.approx(70)


def test_a_finished_run_that_has_lost_a_shard_is_not_finished(output: str):
    (Path(output) / "shards" / "shard-00002.parquet").unlink()
    progress = read_status(output, STORAGE, now=NOW)
    assert (progress.state, progress.done, progress.finished_shards, progress.read_shards) == ("stopped", 6, 3, 3)
    assert (progress.failed, len(progress.slowest)) == (0, 3)


def test_a_working_run_has_a_rate_a_time_left_and_a_holder(output: str):
    unfinish(output, 3)
    with Lock(output, STORAGE, lambda text: None, threading.Event()):
        progress = read_status(output, STORAGE, now=NOW)
    assert progress.state == "working"
    assert re.fullmatch(rf"process {os.getpid()} on .*, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC", progress.held_by)
    assert (progress.done, progress.finished_shards, progress.read_shards) == (6, 3, 3)
    assert progress.images_per_s == pytest.approx(4 / 20)  # two shards of two images in the 20 s after the first
    assert progress.left_s == pytest.approx(2 / (4 / 20))
    assert dict(progress.failures) == {"TruncatedImageError": 1}


def test_a_run_without_a_working_job_is_stopped(output: str):
    unfinish(output, 3)
    progress = read_status(output, STORAGE, now=NOW + 3600)
    assert (progress.state, progress.left_s, progress.held_by) == ("stopped", None, "")
    assert progress.newest_s == pytest.approx(3680)


def test_a_job_without_a_heartbeat_for_long_is_dead(output: str):
    unfinish(output, 3)
    silent = {"owner": "a", "host": "gpu-9", "place": "b", "pid": 1, "process": "1"}
    silent |= {"since": "2026-01-01T00:00:00+00:00", "renewed": "2026-01-01T00:00:00+00:00"}
    (Path(output) / "lock.json").write_text(json.dumps(silent))
    assert read_status(output, STORAGE).state == "stopped"


def test_a_run_without_a_shard_has_no_rate(output: str):
    unfinish(output, 0, 1, 2, 3)
    progress = read_status(output, STORAGE, now=NOW)
    assert (progress.state, progress.done, progress.images_per_s, progress.newest_s) == ("stopped", 0, None, None)
    assert progress.slowest == ()


def test_corrupt_shards_are_not_counted_among_those_read(output: str):
    unfinish(output)
    (Path(output) / "shards" / "shard-00002.parquet").write_bytes(b"PAR1")
    progress = read_status(output, STORAGE)
    assert (progress.read_shards, progress.failed) == (3, 0)


def test_the_slowest_shards_come_first(tmp_path: Path):
    from dataclasses import replace

    rows = [[replace(row(f"{n}.jpg", found()), seconds={"detect": float(n % 7)})] for n in range(9)]
    write_run(tmp_path, rows)
    (tmp_path / "manifest.json").unlink()
    names = [name for name, _ in read_status(str(tmp_path), STORAGE).slowest]
    assert names == [f"shard-{n:05d}.parquet" for n in (6, 5, 4, 3, 2)]


def test_no_status_without_a_run(tmp_path: Path):
    with pytest.raises(StoreError, match="no run at"):
        read_status(str(tmp_path), STORAGE)


@pytest.mark.parametrize(
    ("entry", "seconds"),
    [
        ({"mtime": 12.5}, 12.5),
        ({"LastModified": datetime(1970, 1, 1, 0, 1, tzinfo=UTC)}, 60.0),
        ({"updated": "1970-01-01T00:02:00.000Z"}, 120.0),
        ({"last_modified": datetime(1970, 1, 1, 0, 3, tzinfo=UTC)}, 180.0),
        ({"updated": "yesterday"}, None),
        ({}, None),
    ],
)
def test_each_storage_has_its_own_name_for_the_modification_time(entry: dict[str, object], seconds: float | None):
    from prelabel.storage.files import _written_at

    assert _written_at(entry) == seconds


def test_the_manifest_of_another_form_gives_the_same_status(output: str):
    status = read_status(output, STORAGE, now=NOW)
    manifest = Path(output) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=2))
    assert read_status(output, STORAGE, now=NOW) == status
    values = json.loads(manifest.read_text())
    del values["slowest"]  # as in manifests of early releases
    manifest.write_text(json.dumps(values))
    assert read_status(output, STORAGE, now=NOW) == status


def test_a_manifest_of_another_run_does_not_count(output: str):
    manifest = Path(output) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"run_id": ', '"run_id": 3, "x": '))
    assert read_status(output, STORAGE, now=NOW).state == "stopped"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("totals", "3"), ("totals", "[" * 9000 + "]" * 9000)],
        *[("slowest", "3"), ("slowest", '{"a": "b"}'), ("slowest", '{"a": NaN}'), ("slowest", '{"a": -1}')],
    ],
)
def test_a_manifest_with_a_corrupt_beginning_is_refused(output: str, key: str, value: str):
    manifest = Path(output) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"{key}": ', f'"{key}": {value}, "x": '))
    with pytest.raises(StoreError, match="corrupt"):
        read_status(output, STORAGE, now=NOW)


def test_of_many_shards_the_times_of_a_sample_are_read(output: str, monkeypatch: pytest.MonkeyPatch):
    unfinish(output)
    rate = read_status(output, STORAGE, now=NOW).images_per_s
    monkeypatch.setattr("prelabel.store.status._MAX_TIMES", 3)
    status = read_status(output, STORAGE, now=NOW)
    assert (status.done, status.finished_shards) == (8, 4)
    assert rate is not None
    assert status.images_per_s is not None
    assert rate / 2 <= status.images_per_s <= rate * 2
