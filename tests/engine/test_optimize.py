"""How the network is run is found out once, written down, and followed by every worker and every later call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prelabel.detectors.base import Optimization
from prelabel.errors import ConfigError
from prelabel.storage.files import Storage
from prelabel.store.run import RunRecord, read_run
from tests.engine.fakes import Deed
from tests.engine.world import Recorder, World
from tests.messages import is_told

pytestmark = pytest.mark.ray

#: What the workers' trial finds out; see `fakes.install`.
FOUND = Optimization("bfloat16", 0.8, 1.5, 16, "made up")


def stored(world: World) -> Optimization:
    record = read_run(str(world.out), Storage())
    assert record is not None
    return record.optimization


def trials(world: World) -> list[Any]:
    file = world.control / "trials"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def choices(world: World) -> dict[int, list[str]]:
    """How each worker's process loaded the detector, one after the other."""
    loaded: dict[int, list[str]] = {}
    for worker in world.workers:
        loaded.setdefault(worker["pid"], []).append(worker["choice"])
    return loaded


def test_no_optimization_is_measured_unless_requested(local_world: World) -> None:
    world = local_world
    world.add(6)
    assert world.label().optimization == "exact"
    assert stored(world) == Optimization("exact")
    assert list(choices(world).values()) == [["exact"]]
    world.forget()
    assert world.label(optimize="off", overwrite=True).optimization == "off"
    assert stored(world) == Optimization("off")
    assert list(choices(world).values()) == [["off"]]
    assert trials(world) == []


def test_one_worker_measures_and_all_use_the_result(anywhere: World) -> None:
    world = anywhere
    world.add(40, every=Deed.SLOW)
    summary = world.label(optimize="auto", workers=2, shard_size=4)
    assert trials(world) == [[0, 20.0]]
    assert stored(world) == FOUND
    assert all(fact in summary.optimization for fact in ("bfloat16", "80%", "1.50", "made up"))
    assert summary.workers == 2
    # Before it labels anything; a worker that comes late is told at once.
    assert len(choices(world)) == 2
    assert all(ways in (["exact", "bfloat16"], ["bfloat16"]) for ways in choices(world).values())
    world.require_whole()


def test_a_later_call_uses_the_result_without_measuring(local_world: World) -> None:
    world = local_world
    world.add(6)
    world.label(optimize="auto")
    world.add(4)
    world.forget()
    summary = world.label(optimize="auto", add_new=True)
    assert len(trials(world)) == 1
    assert stored(world) == FOUND
    assert summary.optimization.startswith("bfloat16 in 80%")
    assert list(choices(world).values()) == [["bfloat16"]]
    world.require_whole()


def test_a_worker_that_dies_while_it_measures_leaves_the_model_exact(anywhere: World) -> None:
    world = anywhere
    (world.control / "trial").write_text("die")
    world.add(6)
    recorder = Recorder()
    summary = world.label(recorder, optimize="auto")
    assert recorder.said("faster ways")
    assert is_told(summary.optimization, "exact", "process", "faster ways")
    assert {way for ways in choices(world).values() for way in ways} == {"exact"}
    world.require_whole()


def test_a_run_is_not_resumed_with_another_optimization(local_world: World) -> None:
    world = local_world
    world.add(6)
    world.label(optimize="auto")
    with pytest.raises(ConfigError, match=r"optimize.*auto.*off"):
        world.label(optimize="off")


def test_the_chosen_optimization_is_recorded_as_the_schema_says(local_world: World) -> None:
    world = local_world
    world.add(2)
    world.label(optimize="auto")
    for name in ("manifest", "run"):
        values = json.loads((world.out / f"{name}.json").read_text())
        schema = json.loads((Path(__file__).parents[2] / "schemas" / f"{name}.schema.json").read_text())
        jsonschema.validate(values, schema)
    assert values["optimization"] == {"numbers": "bfloat16", "share": 0.8, "gain": 1.5, "images": 16, "why": "made up"}
    del values["optimization"]
    assert RunRecord.from_json(values).optimization == Optimization("off")
