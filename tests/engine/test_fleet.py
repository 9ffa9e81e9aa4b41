"""What the death of a Ray worker says, from Ray's own errors."""

from __future__ import annotations

import pytest
from ray import exceptions as ray_errors
from ray.core.generated.common_pb2 import ActorDiedErrorContext

from prelabel.config import LabelOptions
from prelabel.engine import cluster
from prelabel.engine import fleet as module
from prelabel.engine.crew import MAX_REPLACED
from prelabel.engine.events import Handle
from prelabel.engine.fleet import NODE_DIED, Fleet, blame, death
from prelabel.engine.worker import Spec
from prelabel.store.run import DetectorRecord

NODE_GONE = "The actor died because its node has died. Node Id: 00ff, terminated unexpectedly."
PROCESS_GONE = "Worker exits unexpectedly. Worker exits with an exit code None."


def died(message: str) -> ray_errors.ActorDiedError:
    return ray_errors.ActorDiedError(ActorDiedErrorContext(error_message=message, actor_id=b"\0" * 16))


@pytest.fixture(autouse=True)
def one_node_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "alive_nodes", lambda: {"alive": {"CPU": 2.0}})


def test_deaths_are_told_apart():
    assert death(died(NODE_GONE)) == NODE_DIED
    assert death(died(PROCESS_GONE)) == "the worker's process died"


def test_a_worker_that_was_sent_to_a_dead_node_says_nothing_about_workers():
    assert blame(Handle(0, None), died(NODE_GONE), workers=2) == 0.0


def test_all_workers_lost_with_one_node_count_as_one_death():
    lost = Handle(0, None, placed=True, node="dead")
    assert blame(lost, died(NODE_GONE), workers=4) == 0.25


def test_a_process_that_dies_on_a_node_that_lives_counts_in_full():
    assert blame(Handle(0, None, placed=True, node="alive"), died(PROCESS_GONE), workers=4) == 1.0
    assert blame(Handle(0, None), died(PROCESS_GONE), workers=4) == 1.0


class Unhosted(Fleet):
    """Workers without Ray: they are counted, nothing else."""

    def _start(self) -> None:
        self.workers.append(Handle(next(self._numbers), None, placed=True, ready=True))

    def _end(self, worker: Handle) -> None:
        pass


def test_growth_does_not_replace_workers_that_were_left_out_for_good(monkeypatch: pytest.MonkeyPatch):
    room = [5]
    monkeypatch.setattr(cluster, "capacity", lambda cpus, gpus: room[0])
    monkeypatch.setattr(module, "GROWTH_INTERVAL_S", 0.0)
    options = LabelOptions(source=("/photos",), detector="d", output="/out", gpus_per_worker=0)
    detector = DetectorRecord("d", "d", "0" * 64, "d-0", "none", False, None)
    fleet = Unhosted(Spec(options, "0" * 32, (), detector, "nobody"), 100, alone=False)
    for left_out in range(1, MAX_REPLACED + 4):
        fleet.leave_out(fleet.workers[0])
        for _ in range(3):
            fleet._grow()
        assert len(fleet.workers) == 5 - max(0, left_out - MAX_REPLACED)
    room[0] = 7  # what the cluster gains is used all the same
    fleet._grow()
    assert len(fleet.workers) == 4
