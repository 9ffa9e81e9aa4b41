"""What `prelabel inspect` and `prelabel detectors` show of detectors in Python, and that nothing untrusted runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from prelabel.cli import main
from tests.detectors.plugins.modules import detector_code, install, write
from tests.messages import tells


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def inspected(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["inspect", *arguments])


def test_a_trusted_detector_is_shown_after_a_trial(folder: Path) -> None:
    write(folder, report_good=detector_code(info='classes=[ClassName(1, "spot")], input_size=64'))
    install(folder, "spots", spots="report_good:Found")
    result = inspected("spots", "--trust-model", "--detector-option", "level=0.5")
    assert result.exit_code == 0, result.output
    lines = {line.partition(" ")[0]: line for line in result.stdout.splitlines()}
    assert tells(lines["detector"], "report_good:Found", "spots 1.0", "'spots'")
    assert tells(lines["package"], "1 file", str(folder / "report_good.py"))
    assert tells(lines["classes"], "1 spot")
    assert tells(lines["input"], "64 pixels")
    assert lines["batch"].split() == ["batch", "size", "2"]
    assert tells(lines["trial"], "480 x 640")
    assert tells(lines["usable"], "yes")
    assert lines["name"].endswith(f"version found-{lines['fingerprint'].split()[1][:8]}")


def test_code_that_is_not_trusted_is_shown_but_not_run(folder: Path) -> None:
    write(folder, report_untrusted=f"open({str(folder / 'ran')!r}, 'w').close()\n" + detector_code())
    result = inspected("report_untrusted:Found")
    assert result.exit_code == 1
    assert tells(result.stdout, "1 file", "only with --trust-model", "not run")
    assert tells(result.stderr, "report_untrusted:Found", "--trust-model")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report_bad:Found", "--trust-model"), ("found", "must return prelabel.Detections", "got list")),
        (("report_bad:Fund", "--trust-model"), ("has no 'Fund'", "'Found'")),
        (("report_bad:Found", "--trust-model", "--label-map", "coco"), ("--label-map", "Python code", "remove")),
        (("report_bad:Found", "--detector-option", "level"), ("--detector-option", "NAME=VALUE")),
        (("demo-shapes", "--detector-option", "level=1"), ("--detector-option", "remove")),
        (("no_such:Found",), ("no module 'no_such'",)),
    ],
)
def test_a_problem_is_one_line(arguments: tuple[str, ...], words: tuple[str, ...], folder: Path) -> None:
    write(folder, report_bad=detector_code("return [x, y]"))
    result = inspected(*arguments)
    assert result.exit_code in (1, 2)
    assert tells(result.stderr, *words), result.stderr
    assert result.stderr.count("\n") == 1


def test_code_is_not_fetched(folder: Path) -> None:
    result = CliRunner().invoke(main, ["fetch", "report_bad:Found"])
    assert result.exit_code == 2
    assert tells(result.stderr, "report_bad:Found", "Python code", "install")


def test_installed_detectors_are_listed_without_being_imported(folder: Path) -> None:
    write(folder, report_listed="raise AssertionError('this must not run')")
    install(folder, "spots", "1.2", spots="report_listed:Found", **{"demo-shapes": "report_listed:Shapes"})
    result = CliRunner().invoke(main, ["detectors"])
    assert result.exit_code == 0
    assert tells(result.stdout, "spots 1.2", "report_listed:Found", "--trust-model")
    rows = json.loads(CliRunner().invoke(main, ["detectors", "--json"]).stdout)
    by_address = {row["address"]: row for row in rows}
    assert by_address["report_listed:Found"]["name"] == "spots"
    assert by_address["report_listed:Shapes"]["note"] == "a model has the same name: write report_listed:Shapes"
    assert len({tuple(row) for row in rows}) == 1  # the same keys for all
