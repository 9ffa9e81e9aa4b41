"""Workers that die, hang, stand still or never start: nothing is lost or doubled, and the run says what happened."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prelabel.engine import worker_pool as pool
from prelabel.engine.progress import Snapshot
from prelabel.errors import DetectorError, RunError
from prelabel.storage.files import Storage
from prelabel.store.shards import ShardRecord, read_shard, shard_url, write_shard
from tests.engine.fakes import CODEC_ABORTS, Deed
from tests.engine.world import Recorder, World
from tests.messages import is_told, telling, tells

pytestmark = pytest.mark.ray


def errors(world: World) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {row.image_id: (row.error_type, row.error_stage, row.error) for row in world.rows() if row.status != "ok"}


def test_only_the_images_that_cause_trouble_fail(anywhere: World, capfd: pytest.CaptureFixture[str]):
    anywhere.add(16, p001=Deed.ABORT, p003=Deed.ABORT, p006=Deed.REFUSE, p009=Deed.HANG)
    recorder = Recorder()
    summary = anywhere.label(recorder, workers=2, stall_timeout=6)
    anywhere.require_whole()
    failures = errors(anywhere)
    assert {name: (kind, stage) for name, (kind, stage, _) in failures.items()} == {
        "001.png": ("WorkerDied", "worker"),
        "003.png": ("WorkerDied", "worker"),
        "006.png": ("RuntimeError", "detect"),
        "009.png": ("WorkerHung", "worker"),
    }
    facts = {"001.png": "process", "003.png": "process", "006.png": "the network cannot look at this", "009.png": "6 s"}
    assert all(fact in str(failures[name][2]) for name, fact in facts.items())
    assert (summary.images, summary.failed, summary.lost, summary.labeled) == (16, 4, 3, 16)
    assert summary.failures == {"RuntimeError": 1, "WorkerDied": 2, "WorkerHung": 1}
    steps = [line.rpartition("; ")[2] for line in recorder.said("shard=0:")]
    assert all(fact in step for fact, step in zip(("retrying", "one by one", "image 2", "image 4"), steps, strict=True))

    # Mended, the images are tried again, and the run is well.
    for number in (1, 3, 6, 9):
        anywhere.make(number, Deed.NOTHING)
    anywhere.forget()
    summary = anywhere.label(retry_failed=True)
    assert (summary.failed, summary.lost) == (0, 0)
    assert sorted(anywhere.fetched) == ["001.png", "003.png", "006.png", "009.png"]
    anywhere.require_whole()


def test_a_file_that_aborts_a_codec_costs_no_other_row(world: World):
    world.add(8)
    for number in (2, 7):
        path = world.photos / f"{number:03d}.png"
        path.write_bytes(path.read_bytes() + CODEC_ABORTS)
    summary = world.label(workers=2)
    world.require_whole()
    assert {name: kind for name, (kind, _, _) in errors(world).items()} == {
        "002.png": "WorkerDied",
        "007.png": "WorkerDied",
    }
    assert (summary.images, summary.failed, summary.lost) == (8, 2, 2)


def test_a_hanging_worker_is_replaced(anywhere: World):
    anywhere.add(8, p005=Deed.FREEZE)
    summary = anywhere.label(stall_timeout=6)
    anywhere.require_whole()
    ((name, (kind, stage, text)),) = errors(anywhere).items()
    assert (name, kind, stage) == ("005.png", "WorkerHung", "worker")
    assert "6 s" in str(text)
    assert summary.lost == 1


@contextmanager
def dripping(folder: Path, slow: str, seconds: float) -> Iterator[str]:
    """A web server of a folder's files, one of which comes in pieces over so many seconds."""

    class Drip(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def copyfile(self, source: Any, output: Any) -> None:
            data = source.read()
            pieces = 20 if self.path.endswith(slow) else 1
            step = -(-len(data) // pieces)
            for start in range(0, len(data), step):
                output.write(data[start : start + step])
                output.flush()
                time.sleep(seconds / 20 if pieces > 1 else 0)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_slow_download_does_not_count_as_a_hang(local_world: World):
    local_world.add(6)
    with dripping(local_world.photos, "002.png", seconds=5) as url:
        names = sorted(path.name for path in local_world.photos.iterdir())
        listing = local_world.folder / "list.csv"
        listing.write_text("uri,image_id\n" + "".join(f"{url}/{name},{name}\n" for name in names))
        recorder = Recorder()
        summary = local_world.label(recorder, source=(str(listing),), stall_timeout=2)
    local_world.require_whole()
    assert (summary.failed, summary.lost, recorder.deaths) == (0, 0, [])


def test_a_shard_of_killers_is_given_up_and_the_other_shards_are_saved(anywhere: World):
    anywhere.add(12, **{f"p{number:03d}": Deed.ABORT for number in range(6)})
    recorder = Recorder()
    summary = anywhere.label(recorder, workers=2, shard_size=6)
    anywhere.require_whole()
    assert recorder.said("shard=0:", "given up", "5 images", "process")
    assert set(errors(anywhere)) == {f"{number:03d}.png" for number in range(6)}
    assert (summary.lost, summary.detections) == (6, 6)
    assert sorted(recorder.shards) == [0, 1]
    assert "given up" in str(errors(anywhere)["005.png"])


@pytest.mark.parametrize("victims", ["one", "all"])
def test_workers_killed_from_outside_cost_no_row(anywhere: World, victims: str):
    anywhere.add(24, every=Deed.SLOW)
    killed: list[int] = []

    def kill(snapshot: Snapshot) -> None:
        if not killed and snapshot.done >= 2:
            pids = [worker["pid"] for worker in anywhere.workers][: 1 if victims == "one" else None]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed.extend(pids)

    recorder = Recorder(on_progress=kill)
    summary = anywhere.label(recorder, workers=2)
    assert len(killed) == (1 if victims == "one" else 2)
    anywhere.require_whole()
    assert (summary.images, summary.failed, summary.lost) == (24, 0, 0)
    assert recorder.said("retrying")
    # Which, why, and what became of its shards.
    assert sorted(lost.pid for lost in summary.lost_workers) == sorted(killed)
    assert any("retrying" in then for lost in summary.lost_workers for then in lost.shards.values())
    for lost in summary.lost_workers:
        assert lost.worker == f"{lost.host}:{lost.pid}"
        assert lost.host == socket.gethostname()
        if anywhere.runner == "local":
            assert "SIGKILL" in lost.cause


def test_the_manifest_has_what_a_worker_considered_dead_publishes_later(anywhere: World):
    """On a machine that was cut off for a while it may publish after the one that has got its shard since."""
    anywhere.add(8, p001=Deed.ABORT)

    def publish_again(record: ShardRecord) -> None:
        if record.shard == 0:
            rows = list(read_shard(shard_url(str(anywhere.out), 0), Storage()))
            slower = [replace(row, seconds={"read": 7.0}) for row in rows]
            write_shard(slower, str(anywhere.out), Storage(), shard=0, run_id=recorder.run_id)

    recorder = Recorder(on_shard=publish_again)
    summary = anywhere.label(recorder)
    anywhere.require_whole()
    assert (summary.images, summary.lost) == (8, 1)


def test_a_shard_that_takes_forever_is_given_up_although_images_are_finished(world: World):
    world.add(12, every=Deed.SLOW)
    recorder = Recorder()
    summary = world.label(recorder, shard_size=12, shard_timeout=1.5)
    world.require_whole()
    assert recorder.said("shard=0:", "no shard", "1.5 s", "retrying")
    assert summary.lost == 12


@pytest.mark.parametrize(("limit", "least"), [(0.5, 100), (5, 6)])
def test_a_run_with_too_many_failures_ends_with_the_most_frequent_error(world: World, limit: float, least: int):
    world.add(160, every=Deed.REFUSE)
    with pytest.raises(RunError) as caught:
        world.label(max_failed=limit)
    line = str(caught.value)
    failed = re.match(r"(\d+) of \d+ images failed", line)
    assert failed, line
    assert int(failed[1]) >= least
    assert tells(line, f"--max-failed {limit:g}", "RuntimeError", "the network cannot look at this", "--retry-failed")
    assert is_told(line, r"\d+\.png"), line
    assert not (world.out / "manifest.json").exists()
    for number in range(160):
        world.make(number, Deed.NOTHING)
    assert world.label(max_failed=limit, retry_failed=True).failed == 0
    world.require_whole()


def test_few_failures_do_not_end_a_run(world: World):
    world.add(12, p003=Deed.REFUSE)
    assert world.label(max_failed=1).failed == 1
    assert world.label(max_failed=0.05).failed == 1  # too few images for a share to mean anything


def test_workers_are_replaced_after_the_given_number_of_images(anywhere: World):
    anywhere.add(24)
    summary = anywhere.label(max_images_per_worker=8)
    anywhere.require_whole()
    pids = {worker["pid"] for worker in anywhere.workers}
    assert len(pids) >= 2
    assert summary.lost == 0


def test_a_detector_that_cannot_be_loaded_ends_the_run_with_its_error(anywhere: World):
    anywhere.add(4)
    anywhere.loading("refuse")
    with pytest.raises(DetectorError, match=r"made of cheese$"):
        anywhere.label(workers=2)
    assert anywhere.files() == {}


def test_an_unexpected_error_ends_the_run_with_its_class(anywhere: World):
    anywhere.add(4)
    anywhere.loading("break")
    with pytest.raises(RunError, match=r"ZeroDivisionError: an error nobody thought of$"):
        anywhere.label()


def test_three_deaths_during_start_up_end_the_run(anywhere: World):
    anywhere.add(4)
    anywhere.loading("die")
    with pytest.raises(RunError, match=r"start.*process"):
        anywhere.label()
    assert len(anywhere.workers) == 3
    assert anywhere.files() == {}


def test_a_run_survives_two_deaths_during_start_up(anywhere: World):
    anywhere.add(4)
    anywhere.loading("2")
    summary = anywhere.label()
    assert (summary.images, summary.lost) == (4, 0)
    assert len(anywhere.workers) == 3


@pytest.mark.parametrize(("how", "says"), [("die", "process"), ("refuse", "made of cheese")])
def test_ready_workers_continue_if_no_more_can_start(anywhere: World, how: str, says: str):
    anywhere.add(16, every=Deed.WAIT)

    def turn(snapshot: Snapshot) -> None:
        if snapshot.workers == 2 and len(anywhere.workers) == 2:
            anywhere.loading(how)
            os.kill(anywhere.workers[1]["pid"], signal.SIGKILL)
        if len(anywhere.workers) == 2 + pool.MAX_START_DEATHS and snapshot.workers == 1:
            anywhere.go()

    recorder = Recorder(on_progress=turn)
    summary = anywhere.label(recorder, workers=2)
    anywhere.require_whole()
    assert (summary.images, summary.lost) == (16, 0)
    assert len(anywhere.workers) == 2 + pool.MAX_START_DEATHS
    assert len(recorder.said(says)) >= pool.MAX_START_DEATHS


def test_the_last_ready_worker_is_replaced_although_others_died_during_start_up(local_world: World):
    local_world.add(8, every=Deed.WAIT)
    killed: list[int] = []

    def kill(number: int) -> None:
        if number not in killed:
            killed.append(number)
            os.kill(local_world.workers[number]["pid"], signal.SIGKILL)

    def turn(snapshot: Snapshot) -> None:
        started = len(local_world.workers)
        if snapshot.workers == 2 and started == 2:
            local_world.loading("die")
            kill(1)
        if len(recorder.deaths) == 1 + pool.MAX_START_DEATHS:
            local_world.loading("")
            kill(0)
        if started == 3 + pool.MAX_START_DEATHS:
            local_world.go()

    recorder = Recorder(on_progress=turn)
    summary = local_world.label(recorder, workers=2)
    local_world.require_whole()
    assert (summary.images, summary.lost) == (8, 0)


def test_a_detector_that_never_finishes_loading_counts_as_a_death(anywhere: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "LOAD_TIMEOUT_S", 2.0)
    anywhere.add(4)
    anywhere.loading("hang")
    with pytest.raises(RunError, match=telling("start-?up", "load(?:ed)?", "2 s")):
        anywhere.label()
