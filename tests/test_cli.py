"""The command line as a user meets it: help, exit codes, one-line messages, speed of starting."""

from __future__ import annotations

import json
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
from prelabel.cli.options import Command
from prelabel.demo import closing
from prelabel.engine.summary import Summary
from prelabel.errors import ConfigError, StoreError
from prelabel.storage import Storage
from prelabel.store.shards import shard_url
from tests.rows import found, row
from tests.runs import write_run

PRELABEL = [sys.executable, "-m", "prelabel"]


def call(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PRELABEL, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def refusal(*arguments: str, code: int) -> str:
    """The one line of a refused call."""
    result = call(*arguments)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("prelabel: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"]])
def test_help_comes_in_under_half_a_second(arguments: list[str]):
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
def test_help_starts_without_what_it_does_not_need(arguments: list[str], absent: set[str]):
    """However busy the machine is."""
    command = [sys.executable, "-X", "importtime", "-m", "prelabel", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "prelabel.cli" in imported
    assert absent.isdisjoint(imported)


def test_version():
    assert call("--version").stdout.strip() == f"prelabel, version {__version__}"


def commands(group: click.Group = main, before: str = "") -> list[str]:
    """All commands as they are typed: `label`, `export coco`, ..."""
    found = []
    for name, command in group.commands.items():
        inner = commands(command, f"{before}{name} ") if isinstance(command, click.Group) else [f"{before}{name}"]
        found += inner
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_that_says_what_each_option_does(command: str):
    result = CliRunner().invoke(main, [*command.split(), "--help"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    context = click.Context(main, info_name="prelabel")
    found: click.Command = main
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    for param in found.get_params(context):
        if isinstance(param, click.Option):
            assert (param.help and param.help.rstrip("])").endswith((".", "default: yes"))) or "[default" in param.help


@pytest.mark.parametrize("command", commands())
def test_every_command_ends_cleanly(command: str):
    found: click.Command = main
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    assert isinstance(found, Command)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("no\x1b[31m such option"), 2, r"prelabel: no\x1b[31m such option"),
        (StoreError("it is not there"), 1, "prelabel: it is not there"),
        (OSError(28, "No space left on device"), 1, "prelabel: OSError: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "prelabel: stopped"),
    ],
)
def test_errors_end_as_one_line_and_an_exit_code(error: BaseException, code: int, said: str):
    @click.command(cls=Command)
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing, [])
    assert (result.exit_code, result.stderr) == (code, said + "\n")


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
    said = refusal("label", "--scroe-threshold", "0.5", code=2)
    assert said.startswith("prelabel: label: No such option '--scroe-threshold'")
    assert "--score-threshold" in said
    assert refusal("lable", code=2) == "prelabel: No such command 'lable'. Did you mean 'label'?; see `prelabel --help`"
    assert refusal("export", "coco", code=2).startswith("prelabel: export coco: Missing argument 'OUT'")


def test_what_is_missing_is_named():
    assert refusal("label", code=2) == "prelabel: name at least one source of images"
    assert "name a detector" in refusal("label", "photos", code=2)


def test_an_unknown_detector_is_told_before_anything_is_started(tmp_path: Path):
    said = refusal("label", str(tmp_path), "--detector", "openimages-ssd", "--output", str(tmp_path / "o"), code=2)
    assert "openimages-ssd" in said
    assert not (tmp_path / "o").exists()


def test_verify_and_export_of_nothing(tmp_path: Path):
    for command in (["verify", str(tmp_path)], ["export", "coco", str(tmp_path), "--to", str(tmp_path / "x.json")]):
        assert "run.json is missing" in refusal(*command, code=1)


def test_verify_counts_a_whole_run_and_names_what_is_broken(tmp_path: Path):
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
    assert broken.stdout.splitlines()[0] == f"  {output}/shards/shard-00001.parquet is missing"
    advice = "the same `prelabel label` command makes again what is missing or broken"
    assert broken.stderr == f"prelabel: {output} is not whole; {advice}\n"


def test_status_tells_how_far_a_run_is(tmp_path: Path):
    output = write_run(tmp_path / "out", [[row("a.jpg", found())], [row("b.jpg")]])
    assert json.loads(call("status", output, "--json").stdout)["done"] == 2
    (tmp_path / "out" / "manifest.json").unlink()
    Storage().delete(shard_url(output, 1))
    said = call("status", output)
    assert said.returncode == 0
    assert "1 of 2 in finished shards (50.0 %)" in said.stdout
    assert "run.json is missing" in refusal("status", str(tmp_path), code=1)


def test_an_option_of_an_export_is_refused_under_the_name_of_its_command(tmp_path: Path):
    said = refusal("export", "coco", str(tmp_path), "--to", "x.json", "--class-threshold", "Person", code=2)
    assert said.startswith("prelabel: export coco: class-threshold must be NAME=NUMBER or a file (.yaml")


def test_a_folder_in_place_of_a_file_and_the_reverse_are_refused_before_anything_is_read(tmp_path: Path):
    (tmp_path / "file").touch()
    said = refusal("export", "coco", str(tmp_path), "--to", str(tmp_path), code=2)
    assert f"'--to': {tmp_path} is a folder; name a file in it;" in said
    said = refusal("export", "yolo", str(tmp_path), "--to", str(tmp_path / "file"), code=2)
    assert f"'--to': {tmp_path}/file is a file; name a folder;" in said


def test_an_export_of_a_damaged_shard_says_what_makes_it_again(tmp_path: Path):
    output = write_run(tmp_path / "out", [[row("a.jpg", found())]])
    Path(shard_url(output, 0)).write_bytes(b"PAR1")
    said = refusal("export", "coco", output, "--to", str(tmp_path / "x.json"), code=1)
    assert "shard-00000.parquet cannot be read (Arrow" in said
    assert said.endswith("the same `prelabel label` command makes it again")


def test_the_demonstration_ends_with_a_command_that_can_be_given_as_it_stands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/prelabel", "demo"])
    monkeypatch.setenv("PATH", "")
    assert "\n  .venv/bin/prelabel label YOUR_PHOTOS" in closing("out", [])
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert "\n  prelabel label YOUR_PHOTOS" in closing("out", [])


def test_a_run_in_which_all_images_fail_says_why_in_its_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    failed = Summary(
        *(str(tmp_path), 5, 5, {"A": 1, "B": 4}, {"A": "a.jpg: x", "B": "b.jpg: y"}, 0, 0, 5, 0, 1.0, 1.0, 1, "local"),
        *(0.0, {}, "exact"),
    )
    monkeypatch.setattr("prelabel.engine.job.run", lambda *_: failed)
    done = CliRunner().invoke(main, ["label", str(tmp_path), "--detector", "d", "--output", "o", "--quiet"])
    assert done.exit_code == 1
    assert done.output == "prelabel: none of 5 images could be labelled; most often B, as b.jpg: y\n"


def test_storage_options_that_are_no_json_are_not_shown(tmp_path: Path):
    said = refusal("verify", str(tmp_path), "--storage-options", "hunter2", code=2)
    assert "hunter2" not in said


def test_detectors_lists_the_catalogue():
    listed = json.loads(call("detectors", "--json").stdout)
    names = [one["name"] for one in listed]
    assert names[:4] == [
        "openimages-ssd-mobilenet-v2",
        "openimages-faster-rcnn-inception-resnet-v2",
        "coco-mask-rcnn-inception-resnet-v2",
        "imagenet-mobilenet-v2-035-128",
    ]
    assert all(name in call("detectors").stdout for name in names)


def test_inspect_says_what_a_real_model_is(assets: Path):
    result = call("inspect", str(assets / "models" / "maskrcnn-tf2"))
    assert result.returncode == 0
    assert "TF Object Detection" in result.stdout
    assert "detection_masks: float32 [1, 100, 33, 33]" in result.stdout


def test_inspect_of_something_else_is_one_line(tmp_path: Path):
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    assert str(tmp_path) in refusal("inspect", str(tmp_path), code=1)
