"""Workers as processes of this machine: when they are chosen, what they share with Ray's, and that none is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.config import LabelOptions
from prelabel.engine import cluster, runner, worker_process
from prelabel.engine import process_pool as local
from prelabel.engine.job import run
from prelabel.engine.runner import Runner
from prelabel.engine.worker_pool import require_cpus_for_streams
from prelabel.engine.worker_process import WorkerProcess
from prelabel.errors import ConfigError, RunError, SourceError
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.e2e.command import wait_until
from tests.engine.fakes import Deed
from tests.engine.world import ROOT, Recorder, World
from tests.messages import telling


def options(**values: Any) -> LabelOptions:
    return LabelOptions.of(source=("a",), detector="d", output="o", **values)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Ray, cluster or GPU; the folder where Ray would leave notes."""
    for name in ("RAY_ADDRESS", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(runner, "_is_in_ray", lambda: False)
    monkeypatch.setattr(runner, "_has_gpu", lambda: False)
    return tmp_path


def test_local_processes_are_used_on_a_single_machine(alone: Path):
    assert runner.choose_runner(options()) == "local"
    assert runner.choose_runner(options(gpus_per_worker=0, workers=1)) == "local"
    assert runner.choose_runner(options(runner="ray")) == "ray"


@pytest.mark.parametrize("stated", [{"ray_address": "local"}, {"ray_address": "h:1"}, {"gpus_per_worker": 0.5}])
def test_ray_is_used_if_it_is_requested(alone: Path, stated: dict[str, Any]):
    assert runner.choose_runner(options(**stated)) == "ray"


def test_ray_is_used_in_a_cluster_and_with_gpus(alone: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "h:1")
        assert runner.choose_runner(options()) == "ray"
        assert runner.choose_runner(options(runner="local")) == "local"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_is_in_ray", lambda: True)
        assert runner.choose_runner(options()) == "ray"
    monkeypatch.setattr(runner, "_has_gpu", lambda: True)
    assert runner.choose_runner(options()) == "ray"
    assert runner.choose_runner(options(gpus_per_worker=0)) == "local"


def test_a_cluster_of_this_machine_is_used_only_if_it_answers(alone: Path, monkeypatch: pytest.MonkeyPatch):
    notes = alone / "ray" / "ray_current_cluster"
    notes.parent.mkdir()
    notes.write_text("127.0.0.1:1")
    monkeypatch.setattr(cluster.ray_utils, "read_ray_address", notes.read_text)
    assert runner.choose_runner(options()) == "local"
    monkeypatch.setattr(cluster, "_connection_error", lambda address: "")
    assert runner.choose_runner(options()) == "ray"


@pytest.mark.parametrize("stated", [{"ray_address": "local"}, {"gpus_per_worker": 1}])
def test_local_processes_with_a_cluster_or_gpus_are_refused(stated: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"runner local.*CPU"):
        options(runner="local", **stated)


def test_one_worker_per_cpu_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "cpus", lambda: 8)
    assert [local.worker_count(options(cpus_per_worker=cpus)) for cpus in (1, 0.5, 3, 8)] == [8, 16, 2, 1]
    assert local.worker_count(options(workers=3)) == 3
    with pytest.raises(ConfigError, match=r"9 CPU.*\b8$"):
        local.worker_count(options(cpus_per_worker=9))


@pytest.mark.parametrize(
    ("name", "text", "period", "cpus"),
    [
        ("cpu.max", "150000 100000\n", "", 1),
        ("cpu.max", "400000 100000\n", "", 4),
        ("cpu.max", "10000 100000\n", "", 1),
        ("cpu.max", "max 100000\n", "", 0),
        ("cpu.cfs_quota_us", "300000\n", "100000\n", 3),
        ("cpu.cfs_quota_us", "-1\n", "100000\n", 0),
        ("cpu.max", "\n", "", 0),
    ],
)
def test_the_cpu_quota_of_a_container_is_respected(tmp_path: Path, name: str, text: str, period: str, cpus: int):
    (tmp_path / name).write_text(text)
    (tmp_path / "cpu.cfs_period_us").write_text(period)
    assert local._cpu_quota(tmp_path / name) == cpus


def test_local_processes_label_without_importing_ray(local_world: World):
    local_world.add(6)
    call = (
        "import sys, prelabel; s = prelabel.label(sys.argv[1], detector=sys.argv[2], output=sys.argv[3], shard_size=2, "
        "runner='local', workers=2); print(s.runner, s.images, s.failed, [m for m in sys.modules if m == 'ray'])"
    )
    place = [str(local_world.photos), str(local_world.model), str(local_world.out)]
    done = subprocess.run([sys.executable, "-c", call, *place], capture_output=True, text=True, check=True)
    assert done.stdout == "local 6 0 []\n"
    local_world.require_whole()


def test_a_tensorflow_that_cannot_be_imported_is_reported(
    local_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    local_world.add(2)
    (tmp_path / "broken" / "tensorflow").mkdir(parents=True)
    (tmp_path / "broken" / "tensorflow" / "__init__.py").write_text("raise ImportError('it needs another glibc')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # real workers
    with pytest.raises(RunError, match="ImportError: it needs another glibc"):
        local_world.label()


def test_a_worker_searches_for_cycles_among_objects_made_after_its_imports(
    local_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "noting_detector.py").write_text(
        "import gc\nfrom pathlib import Path\nfrom prelabel import ClassName, Detections, DetectorInfo\n"
        "class Noting:\n"
        "    info, batch_size = DetectorInfo('noting', classes=[ClassName(1, 'box')]), 1\n"
        "    def __init__(self, to): self.to = to\n"
        "    def detect(self, images):\n"
        "        Path(self.to).write_text(f'{gc.isenabled()} {gc.get_freeze_count() > 10_000}')\n"
        "        return [Detections.empty(*image.shape[:2]) for image in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "code"), str(ROOT)]))
    local_world.add(2)
    noted = tmp_path / "noted.txt"
    local_world.label(detector="noting_detector:Noting", detector_option={"to": str(noted)}, trust_model=True)
    assert noted.read_text() == "True True"


def test_a_worker_that_cannot_use_its_spec_says_why():
    process = WorkerProcess(uses_tensorflow=False)
    try:
        process.send("no spec")
        kind, key, error = process.connection.recv()
        assert (kind, key) == (local.FAILED, None)
        assert "AttributeError" in str(error)
    finally:
        process.end()


@pytest.mark.ray
def test_rows_and_messages_are_the_same_as_on_ray(local_world: World, shared_ray: None):
    local_world.add(12, p002=Deed.REFUSE, p005=Deed.ABORT)
    heard, rows = {}, {}
    for name in ("local", "ray"):
        recorder = Recorder()
        summary = local_world.label(recorder, runner=name, overwrite=True)
        assert (summary.runner, summary.failed, summary.lost) == (name, 2, 1)
        assert open_run(str(local_world.out), Storage()).manifest.runner == name
        heard[name] = recorder.said("shard=")
        table = [row for row in local_world.rows() if row.error_type != "WorkerDied"]
        rows[name] = [(row.image_id, row.error, row.detections and row.detections.xyxy.tolist()) for row in table]
    assert rows["local"] == rows["ray"]
    assert [line.rpartition(";")[2] for line in heard["local"]] == [line.rpartition(";")[2] for line in heard["ray"]]


def test_a_process_started_ahead_is_ended_if_the_run_fails_before_it_is_used(
    local_world: World, monkeypatch: pytest.MonkeyPatch
):
    started: list[WorkerProcess] = []
    real_init = WorkerProcess.__init__

    def init(process: WorkerProcess, *, uses_tensorflow: bool) -> None:
        real_init(process, uses_tensorflow=uses_tensorflow)
        started.append(process)

    monkeypatch.setattr(WorkerProcess, "__init__", init)
    with pytest.raises(SourceError):
        local_world.label(source=(str(local_world.folder / "nowhere"),))
    (process,) = started
    assert process.connection.closed
    assert not Path(f"/proc/{process.pid}").exists()


@pytest.mark.parametrize(
    ("streams", "cpus", "advice"),
    [(4, 1, "or remove --streams"), (2, 0.5, "or remove --streams"), (3, 2.5, "or --streams 2")],
)
def test_a_worker_without_a_gpu_needs_a_cpu_for_each_stream(streams: int, cpus: float, advice: str):
    chosen = options(streams=streams, cpus_per_worker=cpus)
    with pytest.raises(ConfigError, match=telling(f"--streams {streams}", f"--cpus-per-worker {streams}", advice)):
        local.worker_count(chosen)
    require_cpus_for_streams(chosen, gpus=0.5)
    require_cpus_for_streams(replace(chosen, cpus_per_worker=float(streams)), gpus=0.0)


def test_an_image_that_kills_its_worker_is_found_among_those_of_other_streams(
    local_world: World, monkeypatch: pytest.MonkeyPatch
):
    local_world.add(12, p005=Deed.ABORT, p007=Deed.REFUSE)
    monkeypatch.setattr(local, "cpus", lambda: 3)
    summary = local_world.label(streams=3, cpus_per_worker=3, shard_size=12)
    assert (summary.images, summary.failed, summary.lost) == (12, 2, 1)
    failed = {row.image_id: row.error_type for row in local_world.rows() if row.error_type}
    assert failed.keys() == {"005.png", "007.png"}
    assert [name for name, error in failed.items() if error == "WorkerDied"] == ["005.png"]
    assert {worker["streams"] for worker in local_world.workers} == {3}


def test_the_process_that_a_command_starts_ahead_labels_the_images(local_world: World, monkeypatch: pytest.MonkeyPatch):
    local_world.add(1)
    started: list[int] = []
    real_init = WorkerProcess.__init__

    def init(process: WorkerProcess, *, uses_tensorflow: bool) -> None:
        real_init(process, uses_tensorflow=uses_tensorflow)
        started.append(process.pid)

    monkeypatch.setattr(WorkerProcess, "__init__", init)
    recorder = Recorder()
    chosen = local_world.options(workers=1)
    with Runner(chosen) as ahead:
        ahead.start()
        run(chosen, recorder, runner=ahead)
    assert [int(name.rpartition(":")[2]) for name in recorder.by] == started


def test_the_reason_why_a_process_cannot_start_is_reported(local_world: World, monkeypatch: pytest.MonkeyPatch):
    local_world.add(1)
    monkeypatch.setattr(worker_process, "_BOOT", "raise ImportError('no module named so')")
    with pytest.raises(RunError, match=r"start.*ImportError: no module named so") as failed:
        local_world.label()
    log = Path(re.findall(r"\S+\.log\b", str(failed.value))[0])
    assert log.is_relative_to(local_world.folder)
    assert "Traceback" in log.read_text()
    assert str(failed.value).count("no module named so") == 1


def test_the_last_line_of_a_killed_process_is_reported(local_world: World, monkeypatch: pytest.MonkeyPatch):
    local_world.add(1)
    crash = "import os, sys; sys.stderr.write('Check failed: no AVX' + chr(10)); sys.stderr.flush(); os.abort()"
    monkeypatch.setattr(worker_process, "_BOOT", crash)
    with pytest.raises(RunError, match=telling("SIGABRT", "Check failed: no AVX", r"\S+\.log")):
        local_world.label()


def test_a_process_exits_when_its_connection_is_closed(local_world: World):
    process = WorkerProcess()
    process.connection.close()
    assert wait_until(lambda: process._popen.poll() is not None, 30)
    process.end()


def test_sending_to_a_hanging_process_does_not_block(local_world: World):
    process = WorkerProcess()
    try:
        os.kill(process.pid, signal.SIGSTOP)
        sending = threading.Thread(target=process.send, args=(bytes(8 << 20),), daemon=True)
        sending.start()
        sending.join(30)
        assert not sending.is_alive()
    finally:
        process.end()
    assert wait_until(lambda: "outbox" not in {thread.name for thread in threading.enumerate()}, 30)
