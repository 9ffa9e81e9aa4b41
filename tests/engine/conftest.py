"""One real Ray for all tests of the engine, whose workers start in a second because their detector is a fake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.engine.world import RUNTIME_ENV, World
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
