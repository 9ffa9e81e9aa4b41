"""Clusters that lose nodes and get some: several nodes of Ray on this machine, workers with a fake detector."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from prelabel.engine.progress import Snapshot
from tests.e2e.command import wait_until
from tests.engine.fakes import Deed
from tests.engine.world import RUNTIME_ENV, Recorder, World
from tests.messages import tells
from tests.models import Models

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that takes no workers; tests add nodes."""
    assert not ray.is_initialized()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env=RUNTIME_ENV)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def world(tmp_path: Path, models: Models, cluster: Cluster) -> World:
    return World(tmp_path, models.hub_module)


def raylet_of(pid: int) -> int:
    """The process that has started a worker: its node."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


def test_a_node_that_joins_late_is_waited_for_and_one_that_dies_costs_no_row(world: World, cluster: Cluster):
    world.add(40, every=Deed.SLOW)
    nodes: list[object] = []
    killed: list[int] = []

    def turn(snapshot: Snapshot) -> None:
        if not nodes and "resources" in snapshot.waiting and len(recorder.snapshots) > 3:
            nodes.append(cluster.add_node(num_cpus=1))
            nodes.append(cluster.add_node(num_cpus=1))
        if snapshot.workers == 2 and not killed and snapshot.done % 4:
            raylets = {worker["pid"]: raylet_of(worker["pid"]) for worker in world.workers}
            assert len(set(raylets.values())) == 2
            killed.extend(next(iter(raylets.items())))
            for pid in reversed(killed):  # the node first: a machine that is gone reports no worker's death
                os.kill(pid, signal.SIGKILL)

    recorder = Recorder(on_progress=turn)
    summary = world.label(recorder, workers=2)
    assert tells(recorder.snapshots[0].waiting, "2 of 2", "resources", "1 CPU", "0 CPU", "0 GPU")
    assert killed
    world.require_whole()
    assert (summary.images, summary.failed, summary.lost, summary.workers) == (40, 0, 0, 2)
    print("\n".join(recorder.messages))
    assert recorder.said("; retrying")
    assert tells(recorder.snapshots[-1].waiting, "1 of 2", "resources")


def test_nodes_that_die_while_workers_load_do_not_count_as_failed_starts(world: World, cluster: Cluster):
    """Spot nodes: more than `MAX_START_DEATHS` workers are lost before any has loaded its detector."""
    world.add(8)
    world.loading("hang")
    spot = cluster.add_node(num_cpus=8)
    assert wait_until(lambda: ray.cluster_resources().get("CPU", 0) >= 9, 20)
    turned: list[bool] = []

    def turn(snapshot: Snapshot) -> None:
        if not turned and len(world.workers) >= 4:
            turned.append(True)
            world.loading("")
            cluster.remove_node(spot, allow_graceful=False)
            for worker in world.workers:  # those on the node that stays hang as they were told
                if Path(f"/proc/{worker['pid']}").exists() and raylet_alive(worker["pid"]):
                    os.kill(worker["pid"], signal.SIGKILL)

    recorder = Recorder(on_progress=turn)
    summary = world.label(recorder, workers=5, shard_size=1)
    assert turned
    world.require_whole()
    assert (summary.images, summary.lost) == (8, 0)


def raylet_alive(pid: int) -> bool:
    """Whether a worker's node is still there (an orphan belongs to process 1)."""
    return raylet_of(pid) != 1
