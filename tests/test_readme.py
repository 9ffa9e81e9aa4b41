"""What the README says is what the code does: columns, options, commands, the catalogue, links, and its examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import prelabel
from prelabel.cli import main
from prelabel.config import LabelOptions, label_options
from prelabel.detectors.inspect import catalogue_table
from prelabel.store.schema import SHARD_SCHEMA
from tests.rows import found, row
from tests.runs import write_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def all_commands(group: click.Group, path: str = "prelabel") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(all_commands(main))


def flags_of(command: click.Command) -> set[str]:
    params = command.get_params(click.Context(command))
    return {flag for param in params for flag in (*param.opts, *param.secondary_opts)}


def test_every_option_it_names_exists():
    known = {flag for command in COMMANDS.values() for flag in flags_of(command)}
    others = {"--working-dir", "--runtime-env-json"}  # of `ray job submit`
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - known - others == set()


def test_every_command_line_it_shows_fits_its_command():
    lines = re.findall(r"^    (prelabel .*?)(?:  +#.*)?$", README, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        path = max((path for path in COMMANDS if line.startswith(path + " ")), key=len, default="")
        assert path, line
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= flags_of(COMMANDS[path]), line


def test_it_names_every_column_in_order():
    (listed,) = re.findall(r"A row holds (.*?)\. Boxes", README, re.DOTALL)
    assert re.findall(r"\w+", listed) == SHARD_SCHEMA.names


def test_it_states_the_limits_that_are_the_defaults():
    options = LabelOptions(source=("a",), detector="d", output="o")
    assert f"more than {options.max_pixels:,} pixels (`--max-pixels`) or {options.max_bytes >> 20} MiB" in README


def test_its_table_of_detectors_is_the_catalogue():
    shown = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in README.splitlines() if "`" in line]
    shown = [cells for cells in shown if cells[0] in {one["name"] for one in catalogue_table()}]
    keys = ("name", "gives", "classes", "input", "published", "licence")
    assert shown == [[one[key] for key in keys] for one in catalogue_table()]


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"])
def test_links_lead_to_files(document: str):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("duckdb")
    write_run(tmp_path / "out" / "run", [[row("a.jpg", found("Dog"), found("Cat"), found("Dog")), row("b.jpg")]])
    monkeypatch.chdir(tmp_path)
    query, call = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    exec(compile(query, "README", "exec"), {})  # noqa: S102 - our own text
    assert re.search(r"Dog\W+2\W+0\.9", capsys.readouterr().out)
    calls = []
    monkeypatch.setattr(
        prelabel, "label", lambda *source, **rest: calls.append(label_options(rest | {"source": source}))
    )
    exec(compile(call, "README", "exec"), {})  # noqa: S102
    assert [(one.source, one.output, one.score_threshold) for one in calls] == [(("photos/",), "out/run", 0.05)]
    assert capsys.readouterr().out == "a.jpg ['Dog', 'Cat', 'Dog']\nb.jpg []\n"
