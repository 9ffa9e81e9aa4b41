"""The commands that the demo runs, and those that it ends with. The commands themselves are tested elsewhere."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import prelabel
from prelabel.cli import main
from prelabel.cli.command import program
from prelabel.cli.demo import closing, run_demo
from tests.messages import tells


def demonstrate() -> tuple[list[list[str]], str]:
    ran: list[list[str]] = []
    printed: list[str] = []

    def call(arguments: Sequence[str]) -> None:
        ran.append(list(arguments))

    took = run_demo("out/demo", 3, 0, call, printed.append)
    return ran, "\n".join([*printed, closing("out/demo", took)])


def test_every_command_of_the_demo_exists_and_accepts_its_options() -> None:
    ran, _ = demonstrate()
    for name, *arguments in ran:
        command = main.commands[name]
        if name == "export":
            command, arguments = command.commands[arguments[0]], arguments[1:]
        command.make_context(name, list(arguments))


def test_the_exports_use_the_suggested_thresholds() -> None:
    ran, printed = demonstrate()
    assert [command[0] for command in ran] == ["synth", "label", "verify", "evaluate", "export", "export", "preview"]
    assert all(command[-2:] == ["--class-threshold", "out/demo/evaluation/thresholds.yaml"] for command in ran[4:6])
    assert "evaluation.html" in printed
    assert "faster-coco-eval" not in printed


def test_without_the_extra_the_evaluation_is_skipped_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(name for name in sys.modules if name.startswith("faster_coco_eval")), "faster_coco_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    ran, printed = demonstrate()
    assert [command[0] for command in ran] == ["synth", "label", "verify", "export", "export", "preview"]
    assert not any(
        argument.startswith(("--class-threshold", "--score-threshold")) for command in ran for argument in command
    )
    assert tells(printed, "evaluate", "faster-coco-eval", "prelabel[evaluate]", "--with faster-coco-eval")
    assert "evaluation.html" not in printed


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script of an environment that is not on the PATH; this process was started by it."""
    path = tmp_path / "environment with spaces" / "bin" / "prelabel"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(path), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UV", raising=False)
    return path


def test_the_program_is_named_by_its_path_unless_the_shell_finds_it(script: Path, monkeypatch: pytest.MonkeyPatch):
    assert shlex.split(program()) == [str(script)]
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "prelabel"


def test_another_prelabel_on_the_path_is_not_this_one(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "prelabel").write_text("#!/bin/sh\n")
    (tmp_path / "prelabel").chmod(0o755)
    assert shlex.split(program()) == [str(script)]
    (tmp_path / "prelabel").unlink()
    (tmp_path / "prelabel").symlink_to(script)
    assert program() == "prelabel"


def test_the_path_that_uvx_adds_is_not_the_shells(script: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UV", "/usr/bin/uv")
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin")
    assert shlex.split(program()) == [str(script)]
    monkeypatch.setenv("PATH", f"{script.parent}:{script.parent}:/usr/bin")  # in an active environment
    assert program() == "prelabel"


def test_started_as_a_module_it_is_named_by_its_interpreter(script: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [str(Path(prelabel.__file__).with_name("__main__.py")), "demo"])
    assert shlex.split(program()) == [sys.executable, "-m", "prelabel"]


def test_the_demo_ends_with_commands_that_can_be_copied(script: Path):
    _, printed = demonstrate()
    following = printed.partition("Next")[2].strip().splitlines()[1:]
    assert len(following) == 3
    for line in following:
        path, name, *_ = shlex.split(line)
        assert path == str(script)
        assert name in main.commands
