"""What the death of a Ray worker says, from Ray's own errors."""

from __future__ import annotations

import pytest
from ray import exceptions as ray_errors
from ray.core.generated.common_pb2 import ActorDiedErrorContext

from prelabel.engine import cluster
from prelabel.engine.events import Handle
from prelabel.engine.fleet import NODE_DIED, blame, death

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
