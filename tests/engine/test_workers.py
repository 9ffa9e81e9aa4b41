"""What workers need and get: CPUs, GPUs or shares of them, and what is said where that cannot be had."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from prelabel.config import LabelOptions
from prelabel.engine import cluster
from prelabel.engine.progress import Snapshot
from prelabel.errors import ConfigError, RunInterrupted
from tests.engine.fakes import Deed
from tests.engine.world import Recorder, World

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("gpus", "visible"),
    [(0, "-1"), (0.5, r"[01]"), (1, r"[01]"), (2, "0,1"), (None, r"[01]")],
)
def test_a_worker_sees_its_own_gpus_only(world: World, gpus: float | None, visible: str):
    world.add(1)
    world.label(gpus_per_worker=gpus)
    (worker,) = world.workers
    assert worker["gpus"] == (1 if gpus is None else gpus)
    assert worker["visible"] in {"-1": ["-1"], r"[01]": ["0", "1"], "0,1": ["0,1"]}[visible]


def test_workers_share_gpus_by_fractions_and_threads_follow_cpus(world: World):
    world.add(8, every=Deed.SLOW)
    summary = world.label(workers=None, shard_size=2, gpus_per_worker=0.5, cpus_per_worker=1)
    assert summary.workers == 4
    assert sorted(worker["visible"] for worker in world.workers) == ["0", "0", "1", "1"]
    assert {worker["threads"] for worker in world.workers} == {1}
    world.forget()
    world.label(overwrite=True, gpus_per_worker=0, cpus_per_worker=3.5)
    assert [worker["threads"] for worker in world.workers] == [3]


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers"),
    [(1, 0, 4), (2, 0, 2), (0.1, 0, 40), (1.5, 0, 2), (1, 0.25, 4), (0.25, 0.3, 6), (1, 1, 2), (1, 2, 1), (9, 9, 1)],
)
def test_as_many_workers_as_fit_and_one_to_wait_where_none_does(
    shared_ray: None, cpus: float, gpus: float, workers: int
):
    assert cluster.capacity(cpus, gpus) == workers


def test_a_worker_is_known_by_its_name_among_processes(world: World):
    world.add(8, every=Deed.SLOW)
    titles: set[str] = set()

    def look(snapshot: Snapshot) -> None:
        for worker in world.workers:
            with contextlib.suppress(OSError):
                titles.add(Path(f"/proc/{worker['pid']}/cmdline").read_bytes().decode().strip("\0 ").partition(".")[0])

    world.label(Recorder(on_progress=look))
    assert titles == {"ray::PrelabelWorker"}


def test_more_workers_than_shards_are_not_started(world: World):
    world.add(4)
    recorder = Recorder()
    world.label(recorder, workers=4)
    assert len(world.workers) == 1


def test_on_a_machine_of_its_own_a_need_that_cannot_be_met_is_one_clear_line(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.add(1)
    monkeypatch.setattr(cluster, "connect", lambda options: "started")
    monkeypatch.setattr(cluster, "disconnect", lambda: None)
    with pytest.raises(
        ConfigError, match=r"^a worker needs 1 CPU and 3 GPU, but this machine offers Ray 4 CPU and 2 GPU$"
    ):
        world.label(gpus_per_worker=3)
    assert world.files() == {}


def test_on_a_cluster_a_need_that_cannot_be_met_yet_is_waited_for(world: World):
    world.add(1)
    expected = "1 of 1 workers wait for resources (64 CPU + 1 GPU each; the cluster has 4 CPU, 2 GPU)"
    stop = threading.Event()

    def look(snapshot: Snapshot) -> None:
        if snapshot.waiting == expected or len(recorder.snapshots) > 60:
            stop.set()

    recorder = Recorder(on_progress=look)
    with pytest.raises(RunInterrupted):
        world.label(recorder, stop, cpus_per_worker=64)
    assert recorder.snapshots[-1].waiting == expected


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, **values: str | None) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
        yield


def options(address: str) -> LabelOptions:
    return LabelOptions(source=("a",), detector="d", output="o", address=address)


class Started:
    """Stands in for `ray.init`: keeps what it is called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", lambda address, **kwargs: self.addresses.append(address))
        monkeypatch.setattr(ray, "shutdown", lambda: None)


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    started = Started(monkeypatch)
    with pytest.raises(ConfigError, match=r"^no Ray cluster answers at '127\.0\.0\.1:1': .*refused$"):
        cluster.connect(options("127.0.0.1:1"))
    with (
        environment(monkeypatch, RAY_ADDRESS="127.0.0.1:2"),
        pytest.raises(ConfigError, match=r"^no Ray cluster answers at '127\.0\.0\.1:2'"),
    ):
        cluster.connect(options("auto"))
    assert started.addresses == []


def test_auto_joins_the_cluster_of_this_machine_and_starts_ray_where_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
):
    import socket

    started = Started(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server, environment(monkeypatch, RAY_ADDRESS=None):
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for noted in (address, "127.0.0.1:1", None):
            monkeypatch.setattr(cluster.ray_utils, "read_ray_address", lambda noted=noted: noted)
            cluster.connect(options("auto"))
        with environment(monkeypatch, RAY_ADDRESS=address):
            cluster.connect(options("auto"))
            cluster.connect(options("local"))
    assert started.addresses == [address, "local", "local", address, "local"]


def test_a_sigterm_while_ray_starts_reaches_the_handler_that_was_there(monkeypatch: pytest.MonkeyPatch):
    Started(monkeypatch)
    heard: list[int] = []

    def init(address: str, **kwargs: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: (_ for _ in ()).throw(SystemExit(number)))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(RunInterrupted):
            cluster.connect(options("local"))
        assert heard == [signal.SIGTERM]
        monkeypatch.setattr(ray, "init", lambda address, **kwargs: signal.signal(signal.SIGTERM, signal.SIG_DFL))
        cluster.connect(options("local"))
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_prints_no_traceback_of_tasks_that_fail_beside_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Both shards of a worker cannot be written: the run says so once, in its own line."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **kwargs: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    options = LabelOptions(source=("photos",), detector="d", output=str(tmp_path), address="local")
    assert cluster.connect(options) == "started"
    assert os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] == "1"
    cluster.disconnect()
    assert "RAY_IGNORE_UNHANDLED_ERRORS" not in os.environ
