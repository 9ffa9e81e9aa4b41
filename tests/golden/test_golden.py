"""Every command says and writes what it did when that was recorded, byte for byte.

A difference that is meant: `python -m tests.golden --record` writes the recordings anew; look at them as a diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.cli.command import CommandGroup
from tests.golden import program
from tests.golden.cases import DATA, EXPECTED, every_case, put_photos
from tests.golden.harness import Case, crash, difference, outcome, read_recording, recording
from tests.golden.program import record_outcome
from tests.messages import tells

CASES = every_case()


@pytest.fixture(scope="module", autouse=True)
def _photos() -> None:
    put_photos()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_prints_and_writes_what_was_recorded(case: Case):
    if case.needs:
        pytest.importorskip(case.needs)
    expected, actual = read_recording(recording(EXPECTED, case)), outcome(case, DATA)
    if actual != expected:
        pytest.fail(difference(expected, actual, case.name), pytrace=False)


def test_nothing_is_recorded_of_cases_that_are_gone():
    recorded = {path.relative_to(EXPECTED).with_suffix("").as_posix() for path in EXPECTED.rglob("*.txt")}
    assert recorded == {case.name for case in CASES}


def test_a_crash_is_not_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    case = Case(name="help/version", commands=(("--version",),))

    def fail(self: object, *args: object, **keywords: object) -> None:
        raise ZeroDivisionError("what nobody meant")

    monkeypatch.setattr(CommandGroup, "get_params", fail)
    actual = outcome(case, DATA)
    assert "ZeroDivisionError" in crash(actual)
    assert not record_outcome(tmp_path, case, actual)
    assert tells(capsys.readouterr().out, "help/version", "not recorded", "ZeroDivisionError")
    assert not list(tmp_path.rglob("*.txt"))


def test_recordings_of_cases_that_cannot_run_here_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    version = (("--version",),)
    cases = [Case(name="a/runs", commands=version), Case(name="a/needs", commands=version, needs="no_such_package")]
    (tmp_path / "a").mkdir()
    for name in ("runs", "needs", "gone"):
        (tmp_path / "a" / f"{name}.txt").write_text("earlier")
    monkeypatch.setattr(program, "every_case", lambda: cases)
    monkeypatch.setattr(program, "EXPECTED", tmp_path)
    assert program.main(["--record", "--jobs", "1"]) == 0
    recorded = {path.stem: path.read_text() == "earlier" for path in tmp_path.rglob("*.txt")}
    assert recorded == {"runs": False, "needs": True}


def test_a_traceback_of_another_process_is_a_crash():
    assert crash("exit code 1\n--- stderr\nTraceback (most recent call last):\n  File ...\nKeyError: 1\n")
    assert not crash("exit code 2\n--- stderr\nprelabel: the command raised no error, without a Traceback\n")
