"""A short round of chaos; `make chaos` does the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.command import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow]


def test_nothing_is_lost_duplicated_or_stuck_whatever_is_killed():
    """Seeds that draw, without Ray, expired credentials beside killed workers, images that kill and a bad store, and on
    a cluster a killed node and a killed driver."""
    command = [sys.executable, "-m", "tests.chaos", "--trials", "5", "--seed", "586"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    totals = json.loads(done.stdout.splitlines()[-1])
    assert (totals["trials"], totals["rows_lost"], totals["rows_doubled"], totals["hangs"]) == (5, 0, 0, 0)
    assert totals["faults_in_all"] >= 5
