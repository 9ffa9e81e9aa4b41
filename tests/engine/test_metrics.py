"""A run's figures at the Prometheus endpoint of a real Ray node, and the dashboard that draws them."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from tests.engine.fakes import Deed
from tests.engine.world import Recorder, World

DASHBOARD = Path(__file__).parents[2] / "jobs" / "grafana-dashboard.json"

#: Seconds until Ray's nodes show what a process has told them; some ten on an idle machine.
_SHOWN_WITHIN_S = 120.0


def shown(run_id: str, shards: int) -> dict[str, float]:
    """What the node's endpoint shows of a run, by name and further label; waits until so many shards are there."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + _SHOWN_WITHIN_S
    values: dict[str, float] = {}
    while time.monotonic() < deadline and values.get("shards_total", 0) < shards:
        time.sleep(1)
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        for name, rest in re.findall(rf'^ray_prelabel_([a-z_]+){{(.*run="{run_id}".*)$', text, re.MULTILINE):
            further = re.search(r'(?:status|stage|reason)="(\w+)"', rest)
            values[f"{name} {further.group(1)}" if further else name] = float(rest.rpartition(" ")[2])
    return values


@pytest.mark.ray
def test_a_run_is_visible_at_the_nodes_prometheus_endpoint(world: World):
    world.add(10, every=Deed.SLOW, p003=Deed.REFUSE, p009=Deed.ABORT)
    recorder = Recorder()
    world.label(recorder)
    values = shown(recorder.run_id, shards=3)
    assert values["shards_total"] == 3
    assert (values["images_total ok"], values["images_total failed"]) == (8, 2)
    assert values["failures_total WorkerDied"] == 1
    assert values["worker_deaths_total"] >= 1
    assert values["detections_total"] == 8
    assert (values["images_planned"], values["workers"]) == (10, 1)
    assert values["images_planned"] == values["images_done"] + values["images_left"]
    assert 0 < values["busy_share"] <= 1
    assert values["stage_seconds_total detect"] > 0
    # Whoever did it is named in the logs.
    assert all(re.fullmatch(r".+:[1-9]\d*", worker) for worker in recorder.by + recorder.deaths)


def test_the_dashboard_asks_for_metrics_that_exist():
    source = (Path(__file__).parents[2] / "prelabel" / "engine" / "cluster.py").read_text(encoding="utf-8")
    counters = {f"ray_prelabel_{name}_total" for name in re.findall(r'counter\(\s*"(\w+)"', source)}
    gauges = {f"ray_prelabel_{name}" for name in re.findall(r'gauge\(\s*"(\w+)"', source)}
    asked = set(re.findall(r"ray_prelabel_\w+", json.dumps(json.loads(DASHBOARD.read_text(encoding="utf-8")))))
    assert asked
    assert asked <= counters | gauges
