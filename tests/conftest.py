"""Fixtures every test may use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import Models
from tests.s3 import s3_server as s3_server  # a fixture

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real photos and detectors beside the checkout; the test is skipped where they are not."""
    path = ROOT.parent / "shared" / "assets"
    if not path.is_dir():
        pytest.skip(f"the real photos and detectors are not beside this checkout ({path})")
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The SavedModels of `tests.models`, built once by a process of their own (this one keeps TensorFlow out)."""
    directory = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-m", "tests.models", directory], cwd=ROOT, check=True, capture_output=True)
    return Models.below(directory)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the networks of `tests.detectors.networks`, built once by a process of their own."""
    directory = tmp_path_factory.mktemp("networks")
    command = [sys.executable, "-m", "tests.detectors.networks", directory]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory
