"""Networks of the families, built once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import built
from tests.e2e.command import Place, local_rows


@pytest.fixture(scope="session")
def family_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the networks of `networks.py` beside this file."""
    return built("tests.detectors.conventions.families.networks", tmp_path_factory)


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
