"""What workers need and get: CPUs, GPUs or shares of them, and what is said where that cannot be had."""

from __future__ import annotations

import contextlib
import os
import re
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
from tests.messages import tells

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
def test_as_many_workers_as_fit_and_at_least_one(shared_ray: None, cpus: float, gpus: float, workers: int):
    assert cluster.capacity(cpus, gpus) == workers


def test_a_worker_has_its_name_in_the_process_list(world: World):
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


def test_on_a_single_machine_a_worker_that_does_not_fit_is_a_one_line_error(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.add(1)
    monkeypatch.setattr(cluster, "connect", lambda options, notify: "started")
    monkeypatch.setattr(cluster, "disconnect", lambda: None)
    with pytest.raises(ConfigError, match=r"^[^\n]*1 CPU and 3 GPU[^\n]*4 CPU and 2 GPU[^\n]*$"):
        world.label(gpus_per_worker=3)
    assert world.files() == {}


def test_on_a_cluster_a_worker_that_does_not_fit_yet_is_waited_for(world: World):
    world.add(1)
    expected = r"1 of 1 workers\b.*64 CPU.*1 GPU.*4 CPU.*2 GPU"
    stop = threading.Event()

    def look(snapshot: Snapshot) -> None:
        if re.match(expected, snapshot.waiting) or len(recorder.snapshots) > 60:
            stop.set()

    recorder = Recorder(on_progress=look)
    with pytest.raises(RunInterrupted):
        world.label(recorder, stop, cpus_per_worker=64)
    assert re.match(expected, recorder.snapshots[-1].waiting)


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, **values: str | None) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
        yield


def options(address: str) -> LabelOptions:
    return LabelOptions(source=("a",), detector="d", output="o", ray_address=address)


class Started:
    """Stands in for `ray.init`: keeps what it is called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", lambda address, **kwargs: self.addresses.append(address))
        monkeypatch.setattr(ray, "shutdown", lambda: None)


def test_an_address_that_does_not_answer_is_refused_immediately(monkeypatch: pytest.MonkeyPatch):
    started = Started(monkeypatch)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1'.*refused$"):
        cluster.connect(options("127.0.0.1:1"), print)
    with (
        environment(monkeypatch, RAY_ADDRESS="127.0.0.1:2"),
        pytest.raises(ConfigError, match=r"127\.0\.0\.1:2'"),
    ):
        cluster.connect(options("auto"), print)
    assert started.addresses == []


def test_auto_joins_the_cluster_of_this_machine_or_starts_ray_without_one(
    monkeypatch: pytest.MonkeyPatch,
):
    import socket

    started = Started(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server, environment(monkeypatch, RAY_ADDRESS=None):
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for noted in (address, "127.0.0.1:1", None):
            monkeypatch.setattr(cluster.ray_utils, "read_ray_address", lambda noted=noted: noted)
            cluster.connect(options("auto"), print)
        with environment(monkeypatch, RAY_ADDRESS=address):
            cluster.connect(options("auto"), print)
            cluster.connect(options("local"), print)
    assert started.addresses == [address, "local", "local", address, "local"]


def test_the_cluster_is_named_with_its_address_and_the_way_out(monkeypatch: pytest.MonkeyPatch):
    Started(monkeypatch)
    monkeypatch.setattr(cluster, "_connection_error", lambda address: "")
    monkeypatch.setattr(cluster.ray_utils, "read_ray_address", lambda: "10.0.0.1:6379")

    def line(**values: str) -> str:
        lines: list[str] = []
        cluster.connect(LabelOptions.of(source=("a",), detector="d", output="o", **values), lines.append)
        (text,) = lines
        return text

    with environment(monkeypatch, RAY_ADDRESS=None):
        assert tells(line(), "10.0.0.1:6379", "this machine", "--runner local")
        assert tells(line(runner="ray"), "10.0.0.1:6379", "this machine", "--ray-address local")
        assert tells(line(ray_address="h:1"), "h:1", "--ray-address")
        assert tells(line(ray_address="local"), "started", "this machine")
        monkeypatch.setattr(cluster.ray_utils, "read_ray_address", lambda: None)
        assert tells(line(runner="ray"), "started", "this machine")
    with environment(monkeypatch, RAY_ADDRESS="h:2"):
        assert tells(line(), "h:2", "RAY_ADDRESS", "--runner local")


def test_a_cluster_of_other_versions_is_refused_with_both(monkeypatch: pytest.MonkeyPatch):
    Started(monkeypatch)
    monkeypatch.setattr(cluster, "_connection_error", lambda address: "")

    def init(**keywords: object) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.49.0\n    Python: 3.12.1\n"
            "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\n"
        )

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError) as refused:
        cluster.connect(options("h:1"), print)
    assert tells(str(refused.value), "h:1", "2.49.0", "3.12.1", "2.60.0", "3.11.2", "--runner local")
    assert "\n" not in str(refused.value)


def test_a_sigterm_while_ray_starts_reaches_the_existing_handler(monkeypatch: pytest.MonkeyPatch):
    Started(monkeypatch)
    heard: list[int] = []

    def init(address: str, **kwargs: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: (_ for _ in ()).throw(SystemExit(number)))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(RunInterrupted):
            cluster.connect(options("local"), print)
        assert heard == [signal.SIGTERM]
        monkeypatch.setattr(ray, "init", lambda address, **kwargs: signal.signal(signal.SIGTERM, signal.SIG_DFL))
        cluster.connect(options("local"), print)
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_prints_no_traceback_of_further_failing_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Both shards of a worker cannot be written: the run says so once, in its own line."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **kwargs: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    options = LabelOptions(source=("photos",), detector="d", output=str(tmp_path), ray_address="local")
    assert cluster.connect(options, print) == "started"
    assert os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] == "1"
    cluster.disconnect()
    assert "RAY_IGNORE_UNHANDLED_ERRORS" not in os.environ
