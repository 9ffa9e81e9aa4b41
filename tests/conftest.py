"""Fixtures for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.models import Models
from tests.s3 import s3_server as s3_server  # a fixture
from tests.tools.environment import missing

ROOT = Path(__file__).parents[1]

#: Tests with these marks run alone: clusters would find each other, and they start many processes and measure time.
_ALONE = frozenset({"ray", "chaos", "tools", "networks"})

#: Folders with the tests that take longest. They go first, so that no process waits for another one at the end.
_LONG = ("tests/e2e/", "tests/engine/", "tests/docs/", "tests/golden/", "tests/detectors/")


def pytest_configure(config: pytest.Config) -> None:
    """Give each parallel process of `make test` a core of its own.

    A run that a test starts has a worker for each core it may use. With one core it loads its detector once, which is
    most of what such a test costs, and the other core is busy with another test.
    """
    process = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1, ...
    if process and config.option.markexpr == "not alone" and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(process.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run alone, and put long ones first; `make test` runs the others in parallel."""
    for item in items:
        if not _ALONE.isdisjoint(mark.name for mark in item.iter_markers()):
            item.add_marker(pytest.mark.alone)
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real photos and detectors beside the checkout. Without it, the test is skipped or fails."""
    path = ROOT.parent / "shared" / "assets"
    if not path.is_dir():
        missing(f"the real photos and detectors are not beside this checkout ({path})", "NETWORKS_REQUIRED")
    return path


def built(module: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models that `python -m MODULE FOLDER` saves. That process loads TensorFlow, this one does not.

    Parallel processes of tests share the folder: the first one builds it, and the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of the folders of all processes
    folder, complete = shared / module, shared / f"{module}.complete"
    with FileLock(shared / f"{module}.lock"):
        if not complete.exists():
            folder.mkdir(exist_ok=True)
            subprocess.run([sys.executable, "-m", module, folder], cwd=ROOT, check=True, capture_output=True)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The SavedModels of `tests.models`."""
    return Models.below(built("tests.models", tmp_path_factory))


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models of `tests.detectors.networks`."""
    return built("tests.detectors.networks", tmp_path_factory)


@pytest.fixture(scope="session")
def adapter_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models of `tests.detectors.adapter_networks`."""
    return built("tests.detectors.adapter_networks", tmp_path_factory)
