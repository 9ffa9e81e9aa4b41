"""The command line as users see it: help, exit codes, one-line messages, start-up time."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from prelabel import __version__
from prelabel.cli import main
from prelabel.cli.command import Command
from prelabel.cli.demo import closing
from prelabel.engine.progress import Summary
from prelabel.errors import ConfigError, StoreError
from prelabel.storage.files import Storage
from prelabel.store.shards import shard_url
from tests.messages import MISSING, is_told
from tests.rows import found, row
from tests.runs import write_run

PRELABEL = [sys.executable, "-m", "prelabel"]


def call(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PRELABEL, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def refusal(*arguments: str, code: int) -> str:
    """The single line that a refused call prints."""
    result = call(*arguments)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("prelabel: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"]])
def test_help_takes_less_than_half_a_second(arguments: list[str]):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert call(*arguments).returncode == 0
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.5


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"numpy", "fsspec", "pyarrow"}),
        (["export", "--help"], {"numpy", "fsspec", "pyarrow"}),
        (["export", "label-studio", "--help"], {"pyarrow", "orjson"}),
        (["push", "label-studio", "--help"], {"pyarrow", "orjson"}),
    ],
)
def test_help_does_not_import_modules_that_it_does_not_need(arguments: list[str], absent: set[str]):
    """This holds even on a busy machine, where a time limit would not."""
    command = [sys.executable, "-X", "importtime", "-m", "prelabel", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "prelabel.cli" in imported
    assert absent.isdisjoint(imported)


def test_version():
    assert call("--version").stdout.strip() == f"prelabel, version {__version__}"


def commands(group: click.Group = main, before: str = "") -> list[str]:
    """All commands as users type them: `label`, `export coco`, ..."""
    listed = []
    for name, command in group.commands.items():
        inner = commands(command, f"{before}{name} ") if isinstance(command, click.Group) else [f"{before}{name}"]
        listed += inner
    return listed


@pytest.mark.parametrize("command", commands())
def test_the_help_of_every_command_describes_every_option(command: str):
    result = CliRunner().invoke(main, [*command.split(), "--help"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    context = click.Context(main, info_name="prelabel")
    resolved: click.Command = main
    for name in command.split():
        assert isinstance(resolved, click.Group)
        resolved = resolved.commands[name]
    for param in resolved.get_params(context):
        if isinstance(param, click.Option):
            assert param.help
            assert re.search(r"\.(  \[(required|default: .+)\])?$", param.help), param.help


@pytest.mark.parametrize("command", ["status", "export coco", "push label-studio"])
def test_short_help_works_after_another_context_has_shown_the_help(command: str):
    resolved = command_of(command)
    with click.Context(click.Command("other")) as other:
        resolved.get_params(other)
    result = CliRunner().invoke(main, [*command.split(), "-h"], catch_exceptions=False)
    assert (result.exit_code, "-h, --help" in result.stdout) == (0, True)


def examples() -> list[str]:
    """The examples at the beginning of the help of all commands."""
    known = [main, *(main.commands[name] for name in ("export", "push")), *map(command_of, commands())]
    return list(dict.fromkeys(example for command in known for example in getattr(command, "examples", ())))


def command_of(name: str) -> click.Command:
    command: click.Command = main
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[part]
    return command


@pytest.mark.parametrize("name", ["", "export", "push", *commands()])
def test_help_begins_with_an_example_of_the_command(name: str):
    lines = CliRunner().invoke(main, [*name.split(), "--help"]).stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Example"))
    assert start <= 3
    assert lines[start + 1].startswith(f"  prelabel {name}".rstrip())


@pytest.mark.parametrize("example", examples())
def test_the_options_of_every_example_are_accepted(example: str, monkeypatch: pytest.MonkeyPatch):
    """The command is stopped where it would begin its work."""
    program, *arguments = example.split()
    assert program == "prelabel"
    called = []
    monkeypatch.setattr(click.Command, "invoke", lambda self, ctx: called.append(ctx.params))
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    assert called


@pytest.mark.parametrize("command", commands())
def test_help_marks_what_is_required_and_ends_with_the_selection(command: str):
    result = CliRunner().invoke(main, [*command.split(), "--help"])
    sections = [line for line in result.stdout.splitlines() if re.fullmatch(r"\S.*:", line)]
    if "Selection:" in sections:
        assert sections[-1] == "Selection:"
        assert result.stdout.index("  --nms-iou") > result.stdout.index("Selection:")
    options = result.stdout[result.stdout.index("Options:") :].partition("\n\n")[0]
    assert len(re.findall(r"^  -", options, re.MULTILINE)) <= 13
    required = {
        "label": ("SOURCE...", "--detector", "--output"),
        "export coco": ("RUN", "--to"),
        "push label-studio": ("RUN", "--url", "--project"),
        "evaluate": ("RUN", "--truth"),
        "compare": ("--predictions", "--annotations"),
    }
    for name in required.get(command, ()):
        entry = re.search(rf"^  {re.escape(name)}\s.*?(?=^  \S|\n\n)", result.stdout, re.MULTILINE | re.DOTALL)
        assert entry is not None
        assert "[required]" in entry.group(), entry.group()


def test_a_former_name_of_an_option_works_and_is_not_in_the_help(tmp_path: Path):
    result = call("export", "coco", str(tmp_path), "--to", str(tmp_path / "x.json"), "--score", "attribute")
    assert is_told(result.stderr.splitlines()[0], "note", "--score", "--score-field")
    assert is_told(result.stderr, r"run\.json")
    assert "--score " not in call("export", "coco", "--help").stdout


def test_help_groups_the_commands():
    lines = call("--help").stdout.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Label images:") :] if line.startswith("  ")]
    assert listed == list(main.commands)
    assert listed[:5] == ["label", "fuse", "status", "verify", "preview"]


@pytest.mark.parametrize("command", commands())
def test_every_command_ends_cleanly(command: str):
    resolved: click.Command = main
    for name in command.split():
        assert isinstance(resolved, click.Group)
        resolved = resolved.commands[name]
    assert isinstance(resolved, Command)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("no\x1b[31m such option"), 2, re.escape(r"no\x1b[31m such option")),
        (StoreError("it is not there"), 1, "it is not there"),
        (OSError(28, "No space left on device"), 1, ".*No space left on device.*"),
        (KeyboardInterrupt(), 130, ".*(stopped|interrupted|ended|cancelled).*"),
    ],
)
def test_errors_end_as_one_line_and_an_exit_code(error: BaseException, code: int, message: str):
    @click.command(cls=Command)
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing, [])
    assert result.exit_code == code
    assert re.fullmatch(f"prelabel: {message}\n", result.stderr), result.stderr


def test_shell_completion_knows_the_options():
    environment = {"_PRELABEL_COMPLETE": "bash_complete", "COMP_WORDS": "prelabel label --score", "COMP_CWORD": "2"}
    result = subprocess.run(
        [str(Path(sys.executable).with_name("prelabel"))],
        env={**environment, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "--score-threshold" in result.stdout


def test_an_unknown_option_is_wrong_usage():
    message = refusal("label", "--scroe-threshold", "0.5", code=2)
    assert is_told(message, "label", "--scroe-threshold", "--score-threshold")
    assert is_told(refusal("label", "photos", "--to", "out", code=2), "--to", "--output")
    assert is_told(refusal("export", "coco", "run", "--output", "out", code=2), "--output", "--to")
    message = refusal("lable", code=2)
    assert is_told(message, "lable", "label", "prelabel --help")
    message = refusal("export", "coco", code=2)
    assert is_told(message, "export coco", "RUN")


def test_a_missing_option_is_named():
    assert "source" in refusal("label", code=2)
    assert "--detector" in refusal("label", "photos", code=2)


def test_an_unknown_detector_is_reported_before_anything_starts(tmp_path: Path):
    message = refusal("label", str(tmp_path), "--detector", "openimages-ssd", "--output", str(tmp_path / "o"), code=2)
    assert "openimages-ssd" in message
    assert not (tmp_path / "o").exists()


def test_verify_and_export_of_a_folder_without_a_run(tmp_path: Path):
    for command in (["verify", str(tmp_path)], ["export", "coco", str(tmp_path), "--to", str(tmp_path / "x.json")]):
        assert is_told(refusal(*command, code=1), r"run\.json", MISSING)


def test_verify_counts_the_rows_of_a_run_and_names_corrupt_files(tmp_path: Path):
    output = write_run(tmp_path / "out", [[row("a.jpg", found())], [row("b.jpg")]])
    whole = call("verify", output)
    assert whole.returncode == 0
    assert dict(line.rsplit(maxsplit=1) for line in whole.stdout.splitlines()) == {
        "  shards": "2", "  rows": "2", "  failed images": "0", "  detections": "1", "  problems": "0",
    }  # fmt: skip
    assert json.loads(call("verify", output, "--json").stdout)["problems"] == []
    Storage().delete(shard_url(output, 1))
    broken = call("verify", output)
    assert broken.returncode == 1
    assert is_told(broken.stdout.splitlines()[0], re.escape(f"{output}/shards/shard-00001.parquet"), MISSING)
    assert broken.stderr.startswith("prelabel: ")
    assert is_told(broken.stderr, re.escape(output), "prelabel label")


def test_status_shows_the_progress_of_a_run(tmp_path: Path):
    output = write_run(tmp_path / "out", [[row("a.jpg", found())], [row("b.jpg")]])
    assert json.loads(call("status", output, "--json").stdout)["done"] == 2
    (tmp_path / "out" / "manifest.json").unlink()
    Storage().delete(shard_url(output, 1))
    message = call("status", output)
    assert message.returncode == 0
    assert any(is_told(line, "1", "2", r"50(\.0)? ?%") for line in message.stdout.splitlines())
    assert is_told(refusal("status", str(tmp_path), code=1), r"run\.json", MISSING)


def test_a_refused_export_option_is_reported_with_the_name_of_its_command(tmp_path: Path):
    message = refusal("export", "coco", str(tmp_path), "--to", "x.json", "--class-threshold", "Person", code=2)
    assert is_told(message, "export coco", "class-threshold")


def test_a_folder_instead_of_a_file_or_the_reverse_is_refused_before_reading(tmp_path: Path):
    (tmp_path / "file").touch()
    message = refusal("export", "coco", str(tmp_path), "--to", str(tmp_path), code=2)
    assert is_told(message, "--to", re.escape(str(tmp_path)), "folder|directory")
    assert not is_told(message, f"{re.escape(str(tmp_path))}/file")
    message = refusal("export", "yolo", str(tmp_path), "--to", str(tmp_path / "file"), code=2)
    assert is_told(message, "--to", f"{re.escape(str(tmp_path))}/file", "(a|the) file|(not|no) (a )?(folder|directory)")


def test_an_export_of_a_corrupt_shard_names_the_command_that_rebuilds_it(tmp_path: Path):
    output = write_run(tmp_path / "out", [[row("a.jpg", found())]])
    shard_url(output, 0).path.write_bytes(b"PAR1")
    message = refusal("export", "coco", output, "--to", str(tmp_path / "x.json"), code=1)
    assert is_told(message, r"shard-00000\.parquet", "prelabel label")


def test_the_demo_ends_with_a_command_that_can_be_pasted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/prelabel", "demo"])
    monkeypatch.setenv("PATH", "")
    assert "\n  .venv/bin/prelabel label YOUR_PHOTOS" in closing("out", [])
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert "\n  prelabel label YOUR_PHOTOS" in closing("out", [])


def test_a_run_in_which_all_images_fail_reports_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    failed = Summary(
        *(str(tmp_path), 5, 5, {"A": 1, "B": 4}, {"A": "a.jpg: x", "B": "b.jpg: y"}, 0, 0, 5, 0, 1.0, 1.0, 1, "local"),
        *(0.0, {}, "exact"),
    )
    monkeypatch.setattr("prelabel.engine.job.run", lambda *_: failed)
    done = CliRunner().invoke(main, ["label", str(tmp_path), "--detector", "d", "--output", "o", "--quiet"])
    assert done.exit_code == 1
    assert is_told(done.output, "5", "none|no|all|every", "B", r"b\.jpg: y")
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize(("gone", "code"), [(2, 0), (1, 1)])
def test_images_that_are_gone_are_not_too_many_failed_ones(monkeypatch: pytest.MonkeyPatch, gone: int, code: int):
    failures = {"ImageGone": gone, "FetchError": 3 - gone}
    summary = Summary(
        *("out", 5, 3, failures, {}, 0, 0, 5, 0, 1.0, 1.0, 1, "local"),
        *(0.0, {}, "exact"),
    )
    monkeypatch.setattr("prelabel.engine.job.run", lambda *_: summary)
    command = ["label", "photos", "--detector", "d", "--output", "o", "--max-failed", "1", "--quiet"]
    assert CliRunner().invoke(main, command).exit_code == code


def test_storage_options_that_are_not_json_are_not_printed(tmp_path: Path):
    message = refusal("verify", str(tmp_path), "--storage-options", "hunter2", code=2)
    assert "hunter2" not in message


def test_detectors_lists_the_catalog():
    listed = json.loads(call("detectors", "--json").stdout)
    names = [detector["name"] for detector in listed]
    assert names[:4] == [
        "openimages-ssd-mobilenet-v2",
        "openimages-faster-rcnn-inception-resnet-v2",
        "coco-mask-rcnn-inception-resnet-v2",
        "imagenet-mobilenet-v2-035-128",
    ]
    assert all(name in call("detectors").stdout for name in names)


def test_inspect_describes_a_real_model(assets: Path):
    result = call("inspect", str(assets / "models" / "maskrcnn-tf2"))
    assert result.returncode == 0
    assert "TF Object Detection" in result.stdout
    assert "detection_masks: float32 [1, 100, 33, 33]" in result.stdout


def test_inspect_of_another_file_prints_one_line(tmp_path: Path):
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    assert str(tmp_path) in refusal("inspect", str(tmp_path), code=1)


def line_of(*arguments: str, code: int = 2) -> str:
    """The one line that a command prints in place of its work."""
    result = CliRunner().invoke(main, arguments, prog_name="prelabel")
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("command", [("synth", "--to"), ("demo", "--to"), ("fetch", "demo-shapes", "--to")])
def test_a_file_in_place_of_a_folder_is_refused_before_anything_is_done(command: tuple[str, ...], tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    assert is_told(line_of(*command, str(file)), "--to", re.escape(str(file)), "is a file", "folder")
    assert file.read_text() == ""


def test_a_default_that_nobody_typed_is_not_called_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "demo").write_text("")
    line = line_of("demo")
    assert is_told(line, "default folder out/demo", "is a file", "with --to")
    assert "for '--to'" not in line


def test_what_newcomers_mistype_is_answered_with_the_way_out(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    label = ("label", str(tmp_path / "empty"), "--detector", "demo-shapes", "--output", str(tmp_path / "out"))
    assert is_told(line_of(*label, code=1), "no images", r"\S+/empty", "folder")
    assert is_told(line_of(*label, "--config", "no.yaml"), "job file no.yaml", MISSING)
    assert is_told(line_of(*label, "--class-map", "Dog"), "--class-map", "NAME=VALUE", "'Dog'")
    assert is_told(line_of(*label, "--storage-options", '{"s3": 3}'), "--storage-options", "'s3'", "object")
    assert is_told(line_of("demo", "--images", "none"), "--images", "'none'", "whole number")
    assert re.search(r"'label'\? See `prelabel --help`$", line_of("lable"))
    assert is_told(line_of("status", str(tmp_path), code=1), "no run", "run.json", "--output")
