"""Fixtures for all tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import Models
from tests.s3 import s3_server as s3_server  # a fixture

ROOT = Path(__file__).parents[1]

#: Tests with these marks run alone: clusters would find each other, and they start many processes and measure time.
_ALONE = frozenset({"ray", "chaos", "tools", "networks"})

#: Folders with the tests that take longest. They go first, so that no process waits for another one at the end.
_LONG = ("tests/e2e/", "tests/engine/", "tests/docs/", "tests/golden/", "tests/detectors/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run alone, and put long ones first; `make test` runs the others in parallel."""
    for item in items:
        if not _ALONE.isdisjoint(mark.name for mark in item.iter_markers()):
            item.add_marker(pytest.mark.alone)
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real photos and detectors beside the checkout; without it, the test is skipped."""
    path = ROOT.parent / "shared" / "assets"
    if not path.is_dir():
        pytest.skip(f"the real photos and detectors are not beside this checkout ({path})")
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The SavedModels of `tests.models`, built once by a separate process: this one does not load TensorFlow."""
    directory = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-m", "tests.models", directory], cwd=ROOT, check=True, capture_output=True)
    return Models.below(directory)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models of `tests.detectors.networks`, built once by a separate process."""
    directory = tmp_path_factory.mktemp("networks")
    command = [sys.executable, "-m", "tests.detectors.networks", directory]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="session")
def adapter_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models of `tests.detectors.adapter_networks`, built once by a separate process."""
    directory = tmp_path_factory.mktemp("adapter-networks")
    command = [sys.executable, "-m", "tests.detectors.adapter_networks", directory]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory
