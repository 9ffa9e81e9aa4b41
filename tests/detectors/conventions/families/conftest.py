"""Networks of the families, built once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e.command import Place, local_rows


@pytest.fixture(scope="session")
def family_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the networks of `networks.py` beside this file, built by a process of their own."""
    directory = tmp_path_factory.mktemp("family-networks")
    command = [sys.executable, "-m", "tests.detectors.conventions.families.networks", directory]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Label a folder of photos with a network by the command, and return its rows in the order of image ids."""

    def label(photos: Path, network: Path, *options: str) -> list[dict[str, Any]]:
        place, output = Place(), tmp_path / "run"
        try:
            done = place.run(
                *("label", str(photos), "--detector", str(network), "--output", str(output)),
                *("--runner", "local", "--workers", "1", *options),
            )
        finally:
            place.end()
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(local_rows(output).to_pylist(), key=lambda row: str(row["image_id"]))

    return label
