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

from prelabel.engine import crew
from prelabel.engine.progress import Snapshot
from prelabel.errors import DetectorError, RunError
from prelabel.storage import Storage
from prelabel.store.shards import ShardRecord, read_shard, shard_url, write_shard
from tests.engine.fakes import CODEC_ABORTS, Deed
from tests.engine.world import Recorder, World

pytestmark = pytest.mark.ray


def errors(world: World) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {row.image_id: (row.error_type, row.error_stage, row.error) for row in world.rows() if row.status != "ok"}


def test_trouble_is_kept_to_the_images_that_make_it(anywhere: World, capfd: pytest.CaptureFixture[str]):
    anywhere.add(16, p001=Deed.ABORT, p003=Deed.ABORT, p006=Deed.REFUSE, p009=Deed.HANG)
    recorder = Recorder()
    summary = anywhere.label(recorder, workers=2, stall_timeout=6)
    anywhere.require_whole()
    found = errors(anywhere)
    for killer in ("001.png", "003.png"):
        kind, stage, text = found.pop(killer)
        assert (kind, stage) == ("WorkerDied", "worker")
        assert str(text).startswith("the worker's process ")  # died; at times Ray does not know more yet
    assert found == {
        "006.png": ("RuntimeError", "detect", "RuntimeError: the network cannot look at this"),
        "009.png": ("WorkerHung", "worker", "no image was finished for 6 s; the worker was ended"),
    }
    assert (summary.images, summary.failed, summary.lost, summary.labelled) == (16, 4, 3, 16)
    assert summary.failures == {"RuntimeError": 1, "WorkerDied": 2, "WorkerHung": 1}
    assert [line.rpartition("; ")[2] for line in recorder.said("shard=0:")] == [
        "it is tried again",
        "its images are tried one by one",
        "image 2 of the shard is set aside",
        "image 4 of the shard is set aside",
    ]

    # Mended, the images are tried again, and the run is well.
    for number in (1, 3, 6, 9):
        anywhere.make(number, Deed.NOTHING)
    anywhere.forget()
    summary = anywhere.label(retry_failed=True)
    assert (summary.failed, summary.lost) == (0, 0)
    assert sorted(anywhere.fetched) == ["001.png", "003.png", "006.png", "009.png"]
    anywhere.require_whole()


def test_a_file_that_makes_a_codec_abort_costs_no_other_row(world: World):
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


def test_a_worker_that_stands_still_is_replaced(anywhere: World):
    anywhere.add(8, p005=Deed.FREEZE)
    summary = anywhere.label(stall_timeout=6)
    anywhere.require_whole()
    assert errors(anywhere) == {
        "005.png": ("WorkerHung", "worker", "no image was finished for 6 s; the worker was ended"),
    }
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


def test_a_body_that_trickles_in_is_no_hang(local_world: World):
    local_world.add(6)
    with dripping(local_world.photos, "002.png", seconds=5) as url:
        names = sorted(path.name for path in local_world.photos.iterdir())
        listing = local_world.folder / "list.csv"
        listing.write_text("uri,image_id\n" + "".join(f"{url}/{name},{name}\n" for name in names))
        recorder = Recorder()
        summary = local_world.label(recorder, source=(str(listing),), stall_timeout=2)
    local_world.require_whole()
    assert (summary.failed, summary.lost, recorder.deaths) == (0, 0, [])


def test_a_shard_whose_every_image_kills_is_given_up_and_the_others_are_saved(anywhere: World):
    anywhere.add(12, **{f"p{number:03d}": Deed.ABORT for number in range(6)})
    recorder = Recorder()
    summary = anywhere.label(recorder, workers=2, shard_size=6)
    anywhere.require_whole()
    assert recorder.said("shard=0: given up: 5 images killed their worker: the worker's process ")
    assert set(errors(anywhere)) == {f"{number:03d}.png" for number in range(6)}
    assert (summary.lost, summary.detections) == (6, 6)
    assert "the shard was given up" in str(errors(anywhere)["005.png"])


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
    assert recorder.said("; it is tried again")
    # Which, why, and what became of its shards.
    assert sorted(lost.pid for lost in summary.lost_workers) == sorted(killed)
    assert any("it is tried again" in lost.shards.values() for lost in summary.lost_workers)
    for lost in summary.lost_workers:
        assert lost.worker == f"{lost.host}:{lost.pid}"
        assert lost.host == socket.gethostname()
        if anywhere.runner == "local":
            assert "signal 9 (SIGKILL)" in lost.cause


def test_what_a_worker_taken_for_dead_publishes_later_is_what_the_manifest_says(anywhere: World):
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


def test_a_shard_that_takes_for_ever_is_given_up_though_its_images_come(world: World):
    world.add(12, every=Deed.SLOW)
    recorder = Recorder()
    summary = world.label(recorder, shard_size=12, shard_timeout=1.5)
    world.require_whole()
    assert recorder.said("shard=0: no shard was finished for 1.5 s; the worker was ended; it is tried again")
    assert summary.lost == 12


@pytest.mark.parametrize(("limit", "least"), [(0.5, 100), (5, 6)])
def test_a_run_in_which_too_much_fails_is_ended_with_the_most_frequent_reason(world: World, limit: float, least: int):
    world.add(160, every=Deed.REFUSE)
    with pytest.raises(RunError) as caught:
        world.label(max_failed=limit)
    line = str(caught.value)
    found = re.match(
        rf"(\d+) of \d+ images failed, more than --max-failed {limit:g} allows; most often RuntimeError, as \d+.png: "
        r"RuntimeError: the network cannot look at this\. Finished shards stay: .* --retry-failed ",
        line,
    )
    assert found, line
    assert int(found[1]) >= least
    assert not (world.out / "manifest.json").exists()
    for number in range(160):
        world.make(number, Deed.NOTHING)
    assert world.label(max_failed=limit, retry_failed=True).failed == 0
    world.require_whole()


def test_few_failures_do_not_end_a_run(world: World):
    world.add(12, p003=Deed.REFUSE)
    assert world.label(max_failed=1).failed == 1
    assert world.label(max_failed=0.05).failed == 1  # too few images for a share to mean anything


def test_workers_are_replaced_after_so_many_images(anywhere: World):
    anywhere.add(24)
    summary = anywhere.label(max_images_per_worker=8)
    anywhere.require_whole()
    pids = {worker["pid"] for worker in anywhere.workers}
    assert len(pids) >= 2
    assert summary.lost == 0


def test_a_detector_that_cannot_be_loaded_ends_the_run_with_its_own_line(anywhere: World):
    anywhere.add(4)
    anywhere.loading("refuse")
    with pytest.raises(DetectorError, match=r"^this model cannot be loaded: it is made of cheese$"):
        anywhere.label(workers=2)
    assert anywhere.files() == {}


def test_an_error_nobody_thought_of_ends_the_run_with_its_class(anywhere: World):
    anywhere.add(4)
    anywhere.loading("break")
    with pytest.raises(RunError, match=r"^a worker failed: ZeroDivisionError: an error nobody thought of$"):
        anywhere.label()


def test_workers_that_die_while_they_start_end_the_run_after_three(anywhere: World):
    anywhere.add(4)
    anywhere.loading("die")
    with pytest.raises(RunError, match=r"^workers die again and again while they start: the worker's process "):
        anywhere.label()
    assert len(anywhere.workers) == 3
    assert anywhere.files() == {}


def test_two_deaths_at_the_start_are_survived(anywhere: World):
    anywhere.add(4)
    anywhere.loading("2")
    summary = anywhere.label()
    assert (summary.images, summary.lost) == (4, 0)
    assert len(anywhere.workers) == 3


@pytest.mark.parametrize(
    ("how", "says"), [("die", "the worker's process "), ("refuse", "cannot be used: this model cannot be loaded: ")]
)
def test_workers_at_work_go_on_where_further_ones_cannot_start(anywhere: World, how: str, says: str):
    anywhere.add(16, every=Deed.WAIT)

    def turn(snapshot: Snapshot) -> None:
        if snapshot.workers == 2 and len(anywhere.workers) == 2:
            anywhere.loading(how)
            os.kill(anywhere.workers[1]["pid"], signal.SIGKILL)
        if len(anywhere.workers) == 2 + crew.MAX_START_DEATHS and snapshot.workers == 1:
            anywhere.go()

    recorder = Recorder(on_progress=turn)
    summary = anywhere.label(recorder, workers=2)
    anywhere.require_whole()
    assert (summary.images, summary.lost) == (16, 0)
    assert len(anywhere.workers) == 2 + crew.MAX_START_DEATHS
    assert len(recorder.said(says)) >= crew.MAX_START_DEATHS


def test_the_last_worker_at_work_is_replaced_though_others_died_at_the_start(local_world: World):
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
        if len(recorder.deaths) == 1 + crew.MAX_START_DEATHS:
            local_world.loading("")
            kill(0)
        if started == 3 + crew.MAX_START_DEATHS:
            local_world.go()

    recorder = Recorder(on_progress=turn)
    summary = local_world.label(recorder, workers=2)
    local_world.require_whole()
    assert (summary.images, summary.lost) == (8, 0)


def test_a_detector_that_never_finishes_loading_counts_as_a_death(anywhere: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew, "LOAD_TIMEOUT_S", 2.0)
    anywhere.add(4)
    anywhere.loading("hang")
    with pytest.raises(
        RunError, match="workers die again and again while they start: the detector was not loaded within 2 s"
    ):
        anywhere.label()
