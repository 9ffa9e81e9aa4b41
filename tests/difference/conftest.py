"""Two runs over the same images, and what changed between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prelabel.difference.job import Difference, diff_runs
from prelabel.difference.options import DiffOptions
from prelabel.processes import Processes
from tests.fusion.conftest import World


class Runs(World):
    """Writes runs below a folder, and compares them."""

    def diff(self, a: str = "a", b: str = "b", *, processes: Processes | None = None, **options: Any) -> Difference:
        """What changed between two runs, by their names."""
        chosen = DiffOptions.of(run_a=str(self.folder / a), run_b=str(self.folder / b), **options)
        return diff_runs(self.opened(a), self.opened(b), chosen, processes or Processes(), lambda done, total: None)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)
