"""One real Ray for all tests of the engine, and processes without one; their detector is a fake, they start quickly."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.engine.world import ROOT, RUNTIME_ENV, World
from tests.models import Models


@pytest.fixture(scope="package")
def shared_ray() -> Iterator[None]:
    """A Ray of 4 CPUs and 2 GPUs (neither has to exist) on this machine."""
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env=RUNTIME_ENV,
    )
    yield
    ray.shutdown()


@pytest.fixture
def world(tmp_path: Path, models: Models, shared_ray: None) -> World:
    """An empty world; `world.add(...)` puts photos into it."""
    return World(tmp_path, models.hub_module)


@pytest.fixture
def local_world(tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same, whose workers are processes of this machine."""
    # The first place is where Python finds what it runs when it starts.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent / "at_start"), str(ROOT)]))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # the logs of workers that do not start
    return World(tmp_path, models.hub_module, runner="local")


@pytest.fixture(params=["ray", "local"])
def anywhere(request: pytest.FixtureRequest) -> World:
    """Either world: what happens in it must not depend on which."""
    world: World = request.getfixturevalue("world" if request.param == "ray" else "local_world")
    return world
