"""One job writes an output: of several one wins, a dead one is taken over, a frozen one writes nothing more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import OutputInUseError, RunInterrupted, StoreError
from prelabel.storage.address import join
from prelabel.storage.files import Storage
from prelabel.store import lock as lock_module
from prelabel.store.lock import LOCK, Holder, Lock, read_lock, require_held
from tests.e2e.command import wait_until
from tests.messages import tells
from tests.s3 import S3Server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    monkeypatch.setattr(lock_module, "SETTLE_S", 0.2)
    monkeypatch.setattr(lock_module, "_WATCH_INTERVAL_S", 0.02)
    monkeypatch.setattr(lock_module, "RENEW_S", 0.05)


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Storage]]:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        yield f"s3://{server.new_bucket()}/out", Storage(server.options)
    else:
        yield (str(tmp_path / "out") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"), Storage()


def new_lock(
    where: tuple[str, Storage], messages: list[str] | None = None, stop: threading.Event | None = None
) -> Lock:
    return Lock(*where, (messages if messages is not None else []).append, stop or threading.Event())


def leave(where: tuple[str, Storage], **values: Any) -> Holder:
    """A lock as a job that is gone has left it; by default one of another machine that renewed it just now."""
    now = datetime.now(UTC).isoformat()
    holder = replace(Holder("gone", "gpu-3", "elsewhere", 4711, "99", now, now), **values)
    where[1].publish(join(where[0], LOCK), json.dumps(asdict(holder)).encode())
    return holder


def test_the_lock_is_held_inside_the_block_and_released_after_it(place: tuple[str, Storage]):
    with new_lock(place) as lock:
        held = read_lock(*place)
        assert held is not None
        assert held.owner == lock.owner
        lock.require()
        require_held(*place, lock.owner)
    assert read_lock(*place) is None
    with pytest.raises(OutputInUseError, match=r"lock\.json.*no longer"):
        require_held(*place, lock.owner)


def test_of_many_jobs_that_start_together_one_wins_and_the_others_name_it(place: tuple[str, Storage]):
    together, ended = threading.Barrier(6), threading.Event()

    def job() -> str:
        together.wait()
        try:
            with new_lock(place):
                ended.wait(20)
        except OutputInUseError as error:
            return str(error)
        return "won"

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(job) for _ in range(6)]
        assert wait_until(lambda: sum(job.done() for job in jobs) == 5, 20)
        ended.set()
        results = [job.result() for job in jobs]
    assert results.count("won") == 1
    (told,) = {result for result in results if result != "won"}
    assert tells(told, "another job", place[0], f"process {os.getpid()}")
    assert "\n" not in told


def test_the_lock_of_a_dead_process_on_this_machine_is_taken_over_immediately(place: tuple[str, Storage]):
    script = "import sys, os; from tests.store.test_lock import die_holding; die_holding(sys.argv[1])"
    if not place[0].startswith("/"):
        with new_lock(place) as lock:
            holder = read_lock(*place)
        assert holder is not None
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        leave(place, place=holder.place, pid=process.pid, process="1")
    else:
        subprocess.run([sys.executable, "-c", script, place[0]], check=True)
    messages: list[str] = []
    with new_lock(place, messages) as lock:
        lock.require()
    assert len(messages) == 1
    assert tells(messages[0], "dead", "process")


def die_holding(output: str) -> None:
    """Take the lock and end without giving it back."""
    import os

    Lock(output, Storage(), print, threading.Event()).__enter__()
    os._exit(0)


def test_a_living_process_on_this_machine_is_respected_and_a_suspended_one_is_not(
    place: tuple[str, Storage], monkeypatch: pytest.MonkeyPatch
):
    with new_lock(place):
        holder = read_lock(*place)
    assert holder is not None
    leave(place, place=holder.place, pid=holder.pid, process=holder.process)
    with pytest.raises(OutputInUseError, match="--output"):
        new_lock(place).__enter__()
    long_ago = (datetime.now(UTC) - timedelta(seconds=61)).isoformat()
    leave(place, place=holder.place, pid=holder.pid, process=holder.process, renewed=long_ago)
    with new_lock(place) as lock:
        lock.require()


def test_a_later_process_with_the_same_pid_is_another_one(place: tuple[str, Storage]):
    with new_lock(place):
        holder = read_lock(*place)
    assert holder is not None
    leave(place, place=holder.place, pid=holder.pid, process="1")
    with new_lock(place) as lock:
        lock.require()


def test_a_job_elsewhere_without_a_heartbeat_is_watched_and_then_taken_over(
    place: tuple[str, Storage], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock_module, "STALE_S", 0.3)
    leave(place)
    messages: list[str] = []
    with new_lock(place, messages) as lock:
        lock.require()
    assert tells(messages[0], "locked", "process 4711 on gpu-3", "0.3 s")
    assert tells(messages[-1], "dead")


def test_a_job_elsewhere_that_renews_its_lock_is_respected(place: tuple[str, Storage]):
    leave(place)

    def renew() -> None:
        leave(place, renewed=datetime.now(UTC).isoformat() + "Z")

    timer = threading.Timer(0.2, renew)
    timer.start()
    with pytest.raises(OutputInUseError, match="process 4711 on gpu-3"):
        new_lock(place).__enter__()
    timer.join()


def test_a_heartbeat_older_than_clocks_differ_is_taken_over_without_watching(place: tuple[str, Storage]):
    leave(place, renewed=(datetime.now(UTC) - timedelta(minutes=16)).isoformat())
    messages: list[str] = []
    with new_lock(place, messages):
        pass
    assert len(messages) == 1


def test_waiting_can_be_stopped(place: tuple[str, Storage]):
    leave(place)
    stop = threading.Event()
    stop.set()
    with pytest.raises(RunInterrupted, match="nothing"):
        new_lock(place, stop=stop).__enter__()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"owner": 1}', b"\xff"])
def test_an_unreadable_lock_counts_as_a_job_elsewhere(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock_module, "STALE_S", 0.3)
    place = (str(tmp_path), Storage())
    (tmp_path / LOCK).write_bytes(content)
    messages: list[str] = []
    with new_lock(place, messages) as lock:
        lock.require()
    assert "an unknown machine" in messages[0]


def test_a_job_whose_output_was_taken_over_is_stopped_and_leaves_the_lock_alone(place: tuple[str, Storage]):
    stop = threading.Event()
    with new_lock(place, stop=stop) as lock:
        assert wait_until(lambda: (held := read_lock(*place)) and held.renewed > held.since, 20)
        # A renewal that was under way may cover it.
        assert wait_until(lambda: leave(place) and stop.wait(0.3), 20)
        assert tells(str(lock.lost), "another job", place[0], "process 4711 on gpu-3")
        with pytest.raises(OutputInUseError, match="another job"):
            lock.require()
    held = read_lock(*place)
    assert held is not None
    assert held.owner == "gone"


def test_deleting_the_lock_manually_ends_the_job(place: tuple[str, Storage]):
    stop = threading.Event()
    with new_lock(place, stop=stop):
        place[1].delete(join(place[0], LOCK))
        assert stop.wait(20)


def test_two_jobs_that_take_over_together_do_not_both_hold_the_lock(place: tuple[str, Storage]):
    leave(place, renewed=(datetime.now(UTC) - timedelta(minutes=16)).isoformat())
    together, ended = threading.Barrier(3), threading.Event()

    def job() -> bool:
        together.wait()
        try:
            with new_lock(place) as lock:
                ended.wait(20)
                return lock.lost is None
        except OutputInUseError:
            return False

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(job) for _ in range(3)]
        wait_until(lambda: sum(job.done() for job in jobs) == 2, 5)
        ended.set()
        assert sum(job.result() for job in jobs) == 1


def test_the_reason_why_the_lock_cannot_be_written_is_reported(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/out/lock\.json"):
        new_lock((str(tmp_path / "file" / "out"), Storage())).__enter__()
