"""The demonstration's own part: which commands it runs, and what it points at. The commands have tests of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from prelabel.cli import main
from prelabel.demo import closing, run_demo


def demonstrate() -> tuple[list[list[str]], str]:
    ran: list[list[str]] = []
    said: list[str] = []

    def call(arguments: Sequence[str]) -> None:
        ran.append(list(arguments))

    took = run_demo("out/demo", 3, 0, call, said.append)
    return ran, "\n".join([*said, closing("out/demo", took)])


def test_every_command_of_it_exists_and_takes_its_options() -> None:
    ran, _ = demonstrate()
    for name, *arguments in ran:
        command = main.commands[name]
        if name == "export":
            command, arguments = command.commands[arguments[0]], arguments[1:]
        command.make_context(name, list(arguments))


def test_the_exports_use_the_thresholds_that_were_chosen() -> None:
    ran, said = demonstrate()
    assert [one[0] for one in ran] == ["synth", "label", "verify", "evaluate", "export", "export", "preview"]
    assert all(one[-2:] == ["--class-threshold", "out/demo/evaluation/thresholds.yaml"] for one in ran[4:6])
    assert "evaluation.html" in said
    assert "Left out" not in said


def test_without_the_extra_evaluation_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(name for name in sys.modules if name.startswith("pycocotools")), "pycocotools"]:
        monkeypatch.setitem(sys.modules, name, None)
    ran, said = demonstrate()
    assert [one[0] for one in ran] == ["synth", "label", "verify", "export", "export", "preview"]
    assert not any(argument.startswith(("--class-threshold", "--score-threshold")) for one in ran for argument in one)
    assert "Left out: evaluate needs pycocotools" in said
    assert "prelabel[evaluate]" in said
    assert "evaluation.html" not in said
