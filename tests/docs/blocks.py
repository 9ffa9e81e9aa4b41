"""The code blocks of README.md and the pages in `docs/`: how they are found, and which are not run.

A fence says what its block is: `bash`, `python` and `sql` blocks are run, `yaml`, `json` and `toml` blocks are files or
excerpts, `text` blocks are output. A comment above a fence, which no reader sees, says more:

    <!-- not run: cluster -->            why it is not run, a key of NOT_RUN; its command lines are parsed
    <!-- file: job.yaml -->              the block is this file, which later blocks of the page use
    <!-- excerpt: jobs/rayjob.yaml -->   the block is a part of this file of the repository

and one at the top of a page says what is there before its first block:

    <!-- given: photos, truth, run -->   `photos/` with synthetic scenes, `instances.json`, a finished run `out/run`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Why a block cannot be run by the tests.
NOT_RUN = {
    "install": "it installs packages from the network",
    "cloud": "it needs a bucket and credentials of a cloud",
    "cluster": "it needs a Ray cluster",
    "docker": "it needs a container engine",
    "kubernetes": "it needs a Kubernetes cluster with KubeRay",
    "keypoints": "it needs a detector with keypoints, which would be downloaded",
    "label-studio": "it needs a Label Studio server, which tests/tools has",
    "open-images": "it needs a run of a detector of Open Images, which would be downloaded",
    "keras-hub": "it needs KerasHub, which is not a dependency",
    "training": "it needs a trainer that is not a dependency",
    "make": "it runs this test suite, or minutes of measurements",
    "annotations": "it needs annotations that somebody made",
}

RUN = ("bash", "python", "sql")
FILES = ("yaml", "json", "toml")
TEXT = ("text", "xml")

_MARK = re.compile(r"<!-- (not run|file|excerpt|given): (.*?) -->")
_FENCE = re.compile(r"^(`{3,})(.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Its page, below the root of the repository.
        line: Line number of its fence.
        language: What the fence says.
        text: Its lines.
        marks: What the comments above it say, by kind.
    """

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README.md, CONTRIBUTING.md, SECURITY.md and every written page of the site."""
    written = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.parent.name not in ("_generated", "commands", "project")
    ]
    return ["README.md", "CONTRIBUTING.md", "SECURITY.md", *written]


def read_page(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def given(page: str) -> list[str]:
    """What is there before the first block of a page."""
    marks = [text for kind, text in _MARK.findall(read_page(page)) if kind == "given"]
    return [word.strip() for text in marks for word in text.split(",")]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, without the directives of Sphinx."""
    collected: list[Block] = []
    marks: dict[str, str] = {}
    fence, language, start, lines = "", "", 0, []
    for number, line in enumerate(read_page(page).splitlines(), 1):
        match = _FENCE.match(line)
        if not fence and match:
            fence, language, start, lines = match[1], match[2].strip(), number, []
        elif fence and line == fence:
            if not language.startswith("{"):
                collected.append(Block(page, start, language, "\n".join(lines), marks))
            fence, marks = "", {}
        elif fence:
            lines.append(line)
        elif mark := _MARK.fullmatch(line.strip()):
            marks = {**marks, mark[1]: mark[2]}
        elif line.strip():
            marks = {}
    assert not fence, f"{page}: the block that begins in line {start} does not end"
    return collected
