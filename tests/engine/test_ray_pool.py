"""What the death of a Ray worker says, from Ray's own errors."""

from __future__ import annotations

import pytest
from ray import exceptions as ray_errors
from ray.core.generated.common_pb2 import ActorDiedErrorContext

from prelabel.config import LabelOptions
from prelabel.detectors.base import DetectorRecord
from prelabel.engine import cluster
from prelabel.engine import ray_pool as module
from prelabel.engine.ray_pool import NODE_DIED, RayPool, blame, death
from prelabel.engine.worker import WorkerSpec
from prelabel.engine.worker_pool import MAX_REPLACED, WorkerHandle
from tests.messages import tells

NODE_GONE = "The actor died because its node has died. Node Id: 00ff, terminated unexpectedly."
PROCESS_GONE = "Worker exits unexpectedly. Worker exits with an exit code None."


def died(message: str) -> ray_errors.ActorDiedError:
    return ray_errors.ActorDiedError(ActorDiedErrorContext(error_message=message, actor_id=b"\0" * 16))


@pytest.fixture(autouse=True)
def one_node_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "alive_nodes", lambda: {"alive": {"CPU": 2.0}})


def test_causes_of_death_are_distinguished():
    assert death(died(NODE_GONE)) == NODE_DIED
    assert tells(death(died(PROCESS_GONE)), "process died")


def test_the_module_that_a_worker_could_not_import_is_the_cause():
    text = (
        "The actor is dead because its worker process has died. Worker exits with an exit code None. Traceback (most "
        "recent call last):\n  File \"worker.py\", line 14, in <module>\nModuleNotFoundError: No module named 'numpy'"
        "\n\nAn unexpected internal error occurred while the worker was executing a task."
    )
    assert tells(death(died(text)), "process died", "ModuleNotFoundError: No module named 'numpy'")


def test_a_worker_that_died_before_reporting_its_node_has_the_node_in_rays_message():
    context = ActorDiedErrorContext(error_message="gone", actor_id=b"\0" * 16, pid=4711, node_ip_address="10.0.0.1")
    assert module._place_of(ray_errors.ActorDiedError(context)) == ("10.0.0.1", 4711)
    assert module._place_of(ray_errors.ActorDiedError()) == ("", 0)


def test_the_advice_names_the_log_of_the_dead_worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "log_folder", lambda: "/ray/session_1/logs")
    worker = WorkerHandle(0, None, host="10.0.0.1", pid=4711)
    advice = RayPool._advice(object.__new__(Unhosted), worker, "gone")
    assert tells(advice, "/ray/session_1/logs/worker-*4711.err", "10.0.0.1", "prelabel", "--runner local")


def test_a_worker_sent_to_a_dead_node_does_not_count_as_a_failed_start():
    assert blame(WorkerHandle(0, None), died(NODE_GONE), workers=2) == 0.0


def test_all_workers_lost_with_one_node_count_as_one_death():
    lost = WorkerHandle(0, None, placed=True, node="dead")
    assert blame(lost, died(NODE_GONE), workers=4) == 0.25


def test_a_process_that_dies_on_a_living_node_counts_in_full():
    assert blame(WorkerHandle(0, None, placed=True, node="alive"), died(PROCESS_GONE), workers=4) == 1.0
    assert blame(WorkerHandle(0, None), died(PROCESS_GONE), workers=4) == 1.0


class Unhosted(RayPool):
    """Workers without Ray: they are counted, nothing else."""

    def _start(self) -> None:
        self._add(WorkerHandle(next(self._numbers), None, placed=True, ready=True))

    def _end(self, worker: WorkerHandle) -> None:
        pass


def test_growth_does_not_replace_excluded_workers(monkeypatch: pytest.MonkeyPatch):
    room = [5]
    monkeypatch.setattr(cluster, "capacity", lambda cpus, gpus: room[0])
    monkeypatch.setattr(module, "GROWTH_INTERVAL_S", 0.0)
    options = LabelOptions(source=("/photos",), detector="d", output="/out", gpus_per_worker=0)
    detector = DetectorRecord("d", "d", "0" * 64, "d-0", "none", False, None)
    pool = Unhosted(WorkerSpec(options, "0" * 32, (), detector, "nobody"), 100, is_local=False)
    for left_out in range(1, MAX_REPLACED + 4):
        pool.exclude(pool.workers[0])
        for _ in range(3):
            pool._grow()
        assert len(pool.workers) == 5 - max(0, left_out - MAX_REPLACED)
    room[0] = 7  # what the cluster gains is used all the same
    pool._grow()
    assert len(pool.workers) == 4
