"""The site builds without a warning, and a browser that opens it asks no other host for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs import lines
from tests.docs.blocks import ROOT

#: Attributes from which a browser loads something by itself; `href` only of <link>, since a reader follows <a>.
_LOADED = {"src", "srcset", "data", "poster"}


class _Assets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attrs if k in _LOADED or (tag == "link" and k == "href")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", f"{folder}/doctrees"]
    result = subprocess.run([*command, "docs", f"{folder}/html"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / "html"


def test_no_page_loads_anything_from_elsewhere(site: Path):
    elsewhere = []
    for page in site.rglob("*.html"):
        assets = _Assets()
        assets.feed(page.read_text(encoding="utf-8"))
        elsewhere += [(page.name, url) for url in assets.found if re.match(r"(?:[a-z]+:)?//", url)]
    assert elsewhere == []


def test_no_style_sheet_or_script_loads_anything_from_elsewhere(site: Path):
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']*""", text) == [], path
    for path in site.rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"""(?:fetch|import|importScripts)\(\s*["'](?:https?:)?//[^"']*""", text) == [], path
        assert re.findall(r"""\.src\s*=\s*["'](?:https?:)?//[^"']*""", text) == [], path


def test_the_reference_has_every_command_and_every_option(site: Path):
    for name, command in lines.COMMANDS.items():
        if command.hidden:
            continue
        page = (site / "reference" / "commands" / f"{name.replace(' ', '-')}.html").read_text(encoding="utf-8")
        for param in command.params:
            if not getattr(param, "hidden", False) and "--help" not in param.opts and param.opts[0].startswith("-"):
                assert f"-{param.opts[0].removeprefix('--')}" in page, (name, param.opts)
