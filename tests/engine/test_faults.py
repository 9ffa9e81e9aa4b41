"""Workers that die, hang, stand still or never start: nothing is lost or doubled, and the run says what happened."""

from __future__ import annotations

import os
import re
import signal

import pytest

from prelabel.engine import fleet
from prelabel.engine.progress import Snapshot
from prelabel.errors import DetectorError, RunError
from tests.engine.fakes import Deed
from tests.engine.world import Recorder, World

pytestmark = pytest.mark.ray


def errors(world: World) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {row.image_id: (row.error_type, row.error_stage, row.error) for row in world.rows() if row.status != "ok"}


def test_trouble_is_kept_to_the_images_that_make_it(world: World, capfd: pytest.CaptureFixture[str]):
    world.add(16, p001=Deed.ABORT, p003=Deed.ABORT, p006=Deed.REFUSE, p009=Deed.HANG)
    recorder = Recorder()
    summary = world.label(recorder, workers=2, stall_timeout=3)
    world.require_whole()
    found = errors(world)
    for killer in ("001.png", "003.png"):
        kind, stage, text = found.pop(killer)
        assert (kind, stage) == ("WorkerDied", "worker")
        assert str(text).startswith("the worker's process ")  # died; at times Ray does not know more yet
    assert found == {
        "006.png": ("RuntimeError", "detect", "RuntimeError: the network cannot look at this"),
        "009.png": ("WorkerHung", "worker", "no image was finished for 3 s; the worker was ended"),
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
        world.make(number, Deed.NOTHING)
    world.forget()
    summary = world.label(retry_failed=True)
    assert (summary.failed, summary.lost) == (0, 0)
    assert sorted(world.fetched) == ["001.png", "003.png", "006.png", "009.png"]
    world.require_whole()


def test_a_worker_that_stands_still_is_replaced(world: World):
    world.add(8, p005=Deed.FREEZE)
    summary = world.label(stall_timeout=3)
    world.require_whole()
    assert errors(world) == {
        "005.png": ("WorkerHung", "worker", "no image was finished for 3 s; the worker was ended"),
    }
    assert summary.lost == 1


def test_a_shard_whose_every_image_kills_is_given_up_and_the_others_are_saved(world: World):
    world.add(12, **{f"p{number:03d}": Deed.ABORT for number in range(6)})
    recorder = Recorder()
    summary = world.label(recorder, workers=2, shard_size=6)
    world.require_whole()
    assert recorder.said("shard=0 is given up: 5 images killed their worker: the worker's process ")
    assert set(errors(world)) == {f"{number:03d}.png" for number in range(6)}
    assert (summary.lost, summary.detections) == (6, 6)
    assert "the shard was given up" in str(errors(world)["005.png"])


@pytest.mark.parametrize("victims", ["one", "all"])
def test_workers_killed_from_outside_cost_no_row(world: World, victims: str):
    world.add(24, every=Deed.SLOW)
    killed: list[int] = []

    def kill(snapshot: Snapshot) -> None:
        if not killed and snapshot.done % 4 == 2:
            pids = [worker["pid"] for worker in world.workers][: 1 if victims == "one" else None]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed.extend(pids)

    recorder = Recorder(on_progress=kill)
    summary = world.label(recorder, workers=2)
    assert len(killed) == (1 if victims == "one" else 2)
    world.require_whole()
    assert (summary.images, summary.failed, summary.lost) == (24, 0, 0)
    assert recorder.said("; it is tried again")


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


def test_workers_are_replaced_after_so_many_images(world: World):
    world.add(24)
    summary = world.label(max_images_per_worker=8)
    world.require_whole()
    pids = {worker["pid"] for worker in world.workers}
    assert len(pids) >= 2
    assert summary.lost == 0


def test_a_detector_that_cannot_be_loaded_ends_the_run_with_its_own_line(world: World):
    world.add(4)
    world.loading("refuse")
    with pytest.raises(DetectorError, match=r"^this model cannot be loaded: it is made of cheese$"):
        world.label(workers=2)
    assert world.files() == {}


def test_an_error_nobody_thought_of_ends_the_run_with_its_class(world: World):
    world.add(4)
    world.loading("break")
    with pytest.raises(RunError, match=r"^a worker failed: ZeroDivisionError: an error nobody thought of$"):
        world.label()


def test_workers_that_die_while_they_start_end_the_run_after_three(world: World):
    world.add(4)
    world.loading("die")
    with pytest.raises(RunError, match=r"^workers die again and again while they start: the worker's process "):
        world.label()
    assert len(world.workers) == 3
    assert world.files() == {}


def test_two_deaths_at_the_start_are_survived(world: World):
    world.add(4)
    world.loading("2")
    summary = world.label()
    assert (summary.images, summary.lost) == (4, 0)
    assert len(world.workers) == 3


def test_workers_at_work_go_on_where_further_ones_die_at_the_start(world: World):
    world.add(16, every=Deed.WAIT)

    def turn(snapshot: Snapshot) -> None:
        if snapshot.workers == 2 and len(world.workers) == 2:
            world.loading("die")
            os.kill(world.workers[1]["pid"], signal.SIGKILL)
        if len(world.workers) == 2 + fleet.MAX_START_DEATHS and snapshot.workers == 1:
            world.go()

    summary = world.label(Recorder(on_progress=turn), workers=2)
    world.require_whole()
    assert (summary.images, summary.lost) == (16, 0)
    assert len(world.workers) == 2 + fleet.MAX_START_DEATHS


def test_a_detector_that_never_finishes_loading_counts_as_a_death(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fleet, "LOAD_TIMEOUT_S", 2.0)
    world.add(4)
    world.loading("hang")
    with pytest.raises(
        RunError, match="workers die again and again while they start: the detector was not loaded within 2 s"
    ):
        world.label()
