"""Every code block of README.md and the site is run; what cannot be run is checked as far as that goes without.

A page's blocks run in order in one folder, in one shell, as its reader would. Detectors that would have to be fetched
are replaced with `demo-shapes`, which comes with the package. `blocks.py` has the marks and the reasons.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import prelabel
from prelabel.detectors.models.catalog import CATALOG
from tests.docs import lines
from tests.docs.blocks import FILES, NOT_RUN, ROOT, RUN, TEXT, Block, blocks, given, pages, read_page

_FETCHED = re.compile("|".join(re.escape(entry.name) for entry in CATALOG if entry.name != "demo-shapes"))

#: Files of commands that are not run, which later ones read.
_NOT_WRITTEN = ("out/run/comparison/thresholds.yaml",)

PAGES = [page for page in pages() if blocks(page)]


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos/`, `instances.json` and `out/run`, from which pages get what they say is given."""
    folder = tmp_path_factory.mktemp("example")
    _run(
        folder,
        """
        prelabel synth --images 8 --to photos
        mv photos/instances.json .
        prelabel label photos --detector demo-shapes --output out/run --runner local --quiet
        """,
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, tmp_path: Path, example: Path, monkeypatch: pytest.MonkeyPatch):
    for name in given(page):
        source = {"photos": "photos", "truth": "instances.json", "run": "out/run"}[name]
        copy = shutil.copytree if (example / source).is_dir() else shutil.copy
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        copy(example / source, tmp_path / source)
    script = []
    for number, block in enumerate(blocks(page)):
        if "file" in block.marks:
            path = tmp_path / block.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n")
        elif block.language in RUN and "not run" not in block.marks:
            script += [f"echo '@@ {block}' >&2", _as_shell(block, tmp_path, number)]
    if script:
        _run(tmp_path, "\n".join(script))
    monkeypatch.chdir(tmp_path)
    for name in _NOT_WRITTEN:
        if not (tmp_path / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text('"*": 0.4\n')
    for block in blocks(page):
        if "not run" in block.marks:
            _check_unrun(block)


def _as_shell(block: Block, folder: Path, number: int) -> str:
    """The shell text that runs a block."""
    text = _FETCHED.sub("demo-shapes", block.text)
    if block.language == "bash":
        return text
    path = folder / f".block-{number}.{block.language}"
    path.write_text(text)
    if block.language == "python":
        return f"python {path.name}"
    return f"""python -c "import duckdb; print(duckdb.sql(open('{path.name}').read()))" """


def _run(folder: Path, script: str) -> None:
    tools = folder / ".bin"
    tools.mkdir(exist_ok=True)
    for name, command in {"prelabel": "-m prelabel", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"


def _check_unrun(block: Block) -> None:
    """Check a block that is not run: its command lines, or the names that its Python uses."""
    if block.language == "bash":
        try:
            lines.check(block.text)
        except AssertionError as error:
            raise AssertionError(f"{block}: {error}") from error
    elif block.language == "python":
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "prelabel":
                assert hasattr(prelabel, node.attr), f"{block}: there is no prelabel.{node.attr}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str):
    for block in blocks(page):
        assert block.language in (*RUN, *FILES, *TEXT), f"{block}: {block.language!r}"
        assert "not run" not in block.marks or block.marks["not run"] in NOT_RUN, block
        if block.language in FILES:
            assert {"file", "excerpt"} & set(block.marks), f"{block}: neither a file nor an excerpt"
            {"yaml": yaml.safe_load, "json": json.loads, "toml": tomllib.loads}[block.language](block.text)


@pytest.mark.parametrize("page", PAGES)
def test_files_are_used_and_excerpts_are_in_their_file(page: str):
    on_page = blocks(page)
    for number, block in enumerate(on_page):
        if name := block.marks.get("file"):
            assert any(name in later.text for later in on_page[number + 1 :]), f"{block}: nothing uses {name}"
        if name := block.marks.get("excerpt"):
            whole = [line.strip() for line in (ROOT / name).read_text().splitlines()]
            assert [line for line in block.text.splitlines() if line.strip() not in whole] == [], block


def test_every_reason_is_used():
    assert {block.marks["not run"] for page in PAGES for block in blocks(page) if "not run" in block.marks} == set(
        NOT_RUN
    )


@pytest.mark.parametrize("page", pages())
def test_commands_are_in_fences(page: str):
    """An indented block would not be collected."""
    assert re.findall(r"^    +(?:prelabel|ray|python|make|pip) .*", _without_fences(page), re.MULTILINE) == []


#: Options of other programs that the text names.
OTHER_OPTIONS = {
    *("--working-dir", "--runtime-env-json", "--metrics-export-port", "--from", "--help", "--version"),
    *("--build-arg", "--head", "--record", "--with"),
}


@pytest.mark.parametrize("page", pages())
def test_options_named_in_the_text_exist(page: str):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _without_fences(page)))
    assert named - lines.flags() - OTHER_OPTIONS == set()


def _without_fences(page: str) -> str:
    return re.sub(r"^```.*?^```", "", read_page(page), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_to_files(page: str):
    """Links between pages of the site are checked by its build."""
    targets = [target for target in re.findall(r"\]\(([^)#]+)", read_page(page)) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_messages_in_the_tables_exist_in_the_code():
    """The first column of the tables of messages quotes texts; each must be in the code, however it is put together."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "prelabel").rglob("*.py")]
    constants = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [node.value for node in constants if isinstance(node.value, str)]
    for section in read_page("docs/reference/errors.md").split("\n## ")[1:]:
        rows = [row for row in section.splitlines() if row.startswith("| ")][1:]
        for quoted in [text for row in rows for text in re.findall(r"`([^`]+)`", row.split("|")[1])]:
            assert any(quoted in text for text in texts), f"no message of the code contains {quoted!r}"


def test_readme_lists_every_command_and_is_short():
    readme = read_page("README.md")
    named = {f"prelabel {name}" for name, command in lines.main.commands.items() if not command.hidden}
    assert {name for name in named if f"| `{name}" not in readme} == set()
    assert len(readme.splitlines()) <= 120


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_and_names_of_the_code_exist(page: str):
    """`schedule.py` may stand without its folder; `CamelCase` names are classes of the package."""
    text = read_page(page)
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in ("prelabel", "tests", "docs", "benchmarks")
        for path in (ROOT / folder).rglob("*")
    }
    named = set(re.findall(r"`([\w/]+\.(?:py|js|html))`", text))
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)} == set()
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "prelabel").rglob("*.py"))
    classes = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", text))
    assert {name for name in classes if not re.search(rf"class {name}\b", code)} == set()
