"""What the benchmarks share: turns, medians, targets, the table; and that every script is listed."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.e2e.command import wait_until

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script's module, as its own process would."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_a_figure_is_the_median_and_is_met_on_its_own_side_of_the_target(load: Any):
    common = load("common")
    more = common.figure("rate", [3.0, 1.0, 2.0], "images/s", at_least=2.0)
    assert (more.value, more.spread, more.target, more.met) == (2.0, (1.0, 3.0), 2.0, True)
    assert common.figure("rate", [3.0, 1.0, 2.0], "images/s", at_least=2.1).met is False
    assert common.figure("time", [3.0, 1.0, 2.0], "s", at_most=2.0).met is True
    assert common.figure("time", [3.0, 1.0, 2.0], "s", at_most=1.9).met is False
    assert common.figure("time", [3.0], "s").met is None


def test_a_target_without_a_measurement_is_kept_and_not_met(load: Any):
    nothing = load("common").figure("rate", [], "x", at_least=20, note="no SDK")
    assert (nothing.value, nothing.target, nothing.met, nothing.note) == (None, 20, None, "no SDK")
    (row,) = load("run").rows_of({"benchmark": "b", "figures": [vars_of(nothing)]})
    assert row == ["b", "rate", "-", "", "20", "not measured", "no SDK"]


def vars_of(figure: Any) -> dict[str, Any]:
    return {name: getattr(figure, name) for name in figure.__slots__}


def test_a_ratio_is_taken_round_by_round(load: Any):
    comparison = load("common").ratio("faster", [10.0, 40.0, 90.0], [10.0, 20.0, 30.0], at_least=2)
    assert (comparison.value, comparison.spread, comparison.unit, comparison.met) == (2.0, (1.0, 3.0), "x", True)


def test_turns_alternate_and_the_first_round_does_not_count(load: Any):
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}
    took = load("common").take_turns(ways, 3)
    assert "".join(order) == "abbaabba"
    assert [result for _, result in took["a"]] == [4, 5, 8]


def test_a_script_prints_one_line_with_machine_and_versions(load: Any, capsys: pytest.CaptureFixture[str]):
    common = load("common")
    common.report("b", [common.figure("n", [1.0], "s", at_most=2)], setup={"image": [480, 640]})
    printed = capsys.readouterr().out.splitlines()
    (line,) = load("run").read_lines(["some noise", *printed])
    assert json.loads(printed[0]) == line
    assert line["setup"]["image"] == [480, 640]
    assert line["setup"]["machine"]["cores"] >= 1
    assert "numpy" in line["setup"]["versions"]
    assert load("run").rows_of(line) == [["b", "n", "1 s", "1 - 1", "2", "met", ""]]


def test_the_table_is_inserted_between_its_marks_repeatably(load: Any):
    run = load("run")
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    once = run.with_figures(readme, run.markdown_table([["b", "n", "1 s", "1 - 1", "2", "met", ""]]))
    assert "| b | n | 1 s | 1 - 1 | 2 | met |  |" in once
    assert run.with_figures(once, "new") == run.with_figures(readme, "new")


def test_the_readme_lists_every_script(load: Any):
    listed = re.findall(r"^\| `(\w+)\.py` \|", (BENCHMARKS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == load("run").scripts()


def test_pictures_drawn_for_one_folder_are_reused_for_another(load: Any, tmp_path: Path):
    pictures = load("pictures")
    two = sorted(pictures.pictures(tmp_path, 2, 32, 24).iterdir())
    (tmp_path / "32x24-0" / "000000.jpg").write_bytes(b"was drawn")
    five = sorted(pictures.pictures(tmp_path, 5, 32, 24, distinct=3).iterdir())
    assert [file.name for file in five] == [f"{number:06d}.jpg" for number in range(5)]
    assert five[0].read_bytes() == five[3].read_bytes() == b"was drawn"
    assert five[1].read_bytes() == five[4].read_bytes() == two[1].read_bytes() != five[2].read_bytes()
    assert five[3].samefile(five[0])


@pytest.fixture
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process
        process.kill()


def test_a_run_is_stopped_while_something_else_is_measured(
    load: Any, monkeypatch: pytest.MonkeyPatch, busy_process: subprocess.Popen[bytes]
):
    labelled = load("_labelled")
    monkeypatch.setattr(labelled, "_STOP_EVERY_S", 0.02)
    calls: list[bool] = []

    def is_stopped() -> bool:
        return Path(f"/proc/{busy_process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    with labelled._Stops(busy_process.pid, lambda: calls.append(wait_until(is_stopped, 60))) as stops:
        time.sleep(0.1)
        assert (calls, stops.seconds) == ([], 0), "nothing has allowed it"
        stops.allow(True)
        assert wait_until(lambda: len(calls) >= 2, 60)
    number = len(calls)
    assert all(calls)
    assert wait_until(lambda: not is_stopped(), 60)
    assert 0 < stops.seconds < 60
    time.sleep(0.1)
    assert len(calls) == number


def test_an_error_while_a_run_is_stopped_ends_the_benchmark(
    load: Any, monkeypatch: pytest.MonkeyPatch, busy_process: subprocess.Popen[bytes]
):
    labelled = load("_labelled")
    monkeypatch.setattr(labelled, "_STOP_EVERY_S", 0.02)

    def fail() -> None:
        raise SystemExit("the limit failed")

    def run() -> None:
        with labelled._Stops(busy_process.pid, fail) as stops:
            stops.allow(True)
            stops._thread.join(60)

    with pytest.raises(SystemExit, match="the limit failed"):
        run()


def test_peak_memory_of_a_process_exceeds_its_current_memory(load: Any):
    common = load("common")
    held = np.ones(50_000_000, np.uint8)
    del held
    now, most = common.memory_mb(os.getpid())
    assert 10 < now <= most - 25
    assert common.memory_mb(2**30) == (0.0, 0.0)
