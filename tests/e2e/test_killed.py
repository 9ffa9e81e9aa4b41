"""A run that is killed, stopped and robbed of workers again and again ends with the rows of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.command import Place, local_rows, shards_of, wait_until
from tests.e2e.conftest import Undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_an_undisturbed_run_is_complete_and_says_so(undisturbed: Undisturbed):
    assert undisturbed.rows.num_rows == undisturbed.count
    assert set(undisturbed.rows["status"].to_pylist()) == {"ok"}
    assert min(len(scores) for scores in undisturbed.rows["scores"].to_pylist()) >= 1
    assert "240 images in 120 shards" in undisturbed.printed
    assert "(raylet)" not in undisturbed.printed
    assert "magic" not in undisturbed.printed


@pytest.mark.parametrize("runner", ["ray", "local"])
def test_killed_and_stopped_runs_resume_and_lose_and_duplicate_nothing(
    place: Place, undisturbed: Undisturbed, tmp_path: Path, runner: str
):
    output, log = tmp_path / "out", tmp_path / "log"
    command = ("label", str(undisturbed.photos), *undisturbed.arguments, "--output", str(output), "--runner", runner)
    rng = random.Random(20)
    for number, ending in enumerate([signal.SIGKILL] * 3 + [signal.SIGINT, signal.SIGTERM]):
        before = shards_of(output)
        log_size = log.stat().st_size if log.exists() else 0
        process = place.start(*command, log=log)
        assert wait_until(lambda before=before: shards_of(output) - before, 90), log.read_text()
        time.sleep(rng.uniform(0, 0.4))
        if ending == signal.SIGINT:
            os.killpg(process.pid, ending)  # as a terminal does
        else:
            process.send_signal(ending)
        asked = time.monotonic()
        code = process.wait(30)
        took = time.monotonic() - asked
        print(f"call {number}: {ending.name} -> {code} after {took:.1f} s, {len(shards_of(output))} of 120 shards")
        assert len(shards_of(output)) < 120
        assert wait_until(lambda: not place.workers(), 15), place.processes()
        if ending != signal.SIGKILL:
            assert code == 128 + ending
            assert took < 8
            last = log.read_text()[log_size:].strip().splitlines()[-1]
            assert last.startswith("prelabel: stopped: ")
            assert last.endswith("of 120 shards are finished and kept. Run the same command to resume")

    before = shards_of(output)
    process = place.start(*command, log=log)
    assert wait_until(lambda: shards_of(output) - before, 90), log.read_text()
    # All of them: one alone may still be loading the detector, and hold no shard that could be tried again.
    for pid in place.workers():
        os.kill(pid, signal.SIGKILL)
    assert process.wait(300) == 0, log.read_text()
    assert ": retrying" in log.read_text()
    assert "(raylet)" not in log.read_text()

    verified = place.run("verify", str(output))
    assert verified.returncode == 0, verified.stdout
    assert local_rows(output).equals(undisturbed.rows)
    assert len(set(local_rows(output)["image_id"].to_pylist())) == undisturbed.count
    assert [path for path in output.rglob("*") if path.name.startswith(".")] == []
    # Two agents of Ray notice only a minute later that a killed driver's Ray is gone, and end by themselves.
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    assert wait_until(lambda: not [line for line in place.processes().values() if line not in agents], 15)
