"""Runs commands in a folder of their own and puts everything they say and write into one text that can be compared.

Only the command line is used, found where `pyproject.toml` says that it is: modules may move, and nothing here changes.
What differs from run to run without meaning anything (the time, the folder, the package's version) is masked.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
#: Where the package is, with the folders in it, which may become others.
_PACKAGE = re.compile(rf"{re.escape(str(ROOT))}/prelabel/(?:[a-z_]+/)*")
#: What marks an argument as something that is copied into the folder before the command runs.
COPIED = "@"
#: Text files up to so many bytes stand in the recording in full, of one case up to so many bytes together; others as
#: their hash alone.
INLINE, INLINE_TOGETHER = 1500, 4000

#: 2025-03-04T05:06:07 UTC.
_OLD = 1741064767
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00|Z)")
_EXPORT = re.compile(r"export-\d{8}T\d{6}(?:\.\d+)?Z-[0-9a-f]{8}\.json")
#: How far something is, which is said every ten seconds and so on slow machines alone.
_PROGRESS = re.compile(r"^[\d,]+ of [\d,]+ (?:images|shards) [a-z]+\n", re.MULTILINE)
#: How a crash shows: our own line after the exit code, or a traceback of a process of its own.
_CRASH = re.compile(r"^(?:exit code \d+\n(?=raised )|(?=Traceback \(most recent call last\)))(.*)", re.MULTILINE)
_AGES = (
    (re.compile(r"[\d,.]+ (?:s|min|h|d)(?: \d+ (?:s|min|h))? ago"), "<long> ago"),
    (re.compile(r'"newest_s": [0-9.e+]+'), '"newest_s": <long>'),
    (re.compile(r"^(  time +)[\d,.]+ (?:s|min|h|d)(?: \d+ (?:s|min|h))?$", re.MULTILINE), r"\1<long>"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Commands that are run after each other in one folder.

    Attributes:
        name: Where its recording stands, `group/name`.
        commands: Arguments of `prelabel`; one that begins with `@` names a file or folder of the data, which is copied
            to the same place in the folder before the first command runs.
        edit: Changes the folder before the first command runs.
        env: Variables of the environment.
        own_process: Run `python -m prelabel` in place of the same in this process.
        whole: Text files stand in the recording in full, whatever their size.
        needs: A package without which it cannot run.
        terminal: Columns of the terminal.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    edit: Callable[[Path], None] | None = None
    env: tuple[tuple[str, str], ...] = ()
    own_process: bool = False
    whole: bool = False
    needs: str = ""
    terminal: int = 100

    def copied(self) -> Iterator[str]:
        """What of the data it needs, by its path there."""
        for command in self.commands:
            for argument in command:
                if argument.startswith(COPIED):
                    yield argument[1:]


def command_line() -> Any:
    """The group of all commands, from where the package says that its program begins."""
    stated = re.search(r'^prelabel = "([\w.]+):(\w+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated, "pyproject.toml names no program"
    return getattr(importlib.import_module(stated[1]), stated[2])


class Mask:
    """Takes out of a text what differs from run to run."""

    def __init__(self, folder: Path) -> None:
        self._began = datetime.now(UTC).replace(microsecond=0)
        self._folders = sorted({str(folder), str(folder.resolve())}, key=len, reverse=True)
        self._version = re.compile(rf"(?<![\d.]){re.escape(importlib.import_module('prelabel').__version__)}(?![\d.])")

    def __call__(self, text: str) -> str:
        for folder in self._folders:
            text = text.replace(folder, "<here>")
        text = _PACKAGE.sub("<package>/", text)
        text = _PROGRESS.sub("", text)
        text = _EXPORT.sub("export-<time>-<random>.json", text)
        text = _TIME.sub(self._time, text)
        for pattern, words in _AGES:
            text = pattern.sub(words, text)
        return self._version.sub("<version>", text)

    def _time(self, match: re.Match[str]) -> str:
        # Times that stand in the data are no accident: only what was written just now is masked.
        try:
            at = datetime.fromisoformat(match[0].replace("Z", "+00:00"))
        except ValueError:
            return match[0]
        return "<now>" if at >= self._began else match[0]


def environment(folder: Path, case: Case) -> dict[str, str | None]:
    """The same on every machine; None for what must not be set."""
    foreign = [name for name in os.environ if name.startswith(("RAY_", "AWS_", "AZURE_", "PRELABEL_", "LABEL_STUDIO_"))]
    return {
        **dict.fromkeys(foreign),
        "HOME": str(folder),
        "XDG_CACHE_HOME": None,
        "COLUMNS": str(case.terminal),
        "LINES": "50",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        **dict(case.env),
    }


def outcome(case: Case, data: Path, keep: Path | None = None) -> str:
    """Run a case and tell everything that came of it.

    Args:
        case: What to run.
        data: Where its files are.
        keep: A folder for the case's masked files in full, to look at what differs.
    """
    with tempfile.TemporaryDirectory(prefix="golden-") as place:
        folder = Path(place).resolve()
        for name in dict.fromkeys(case.copied()):
            _copy(data / name, folder / name)
            _make_old(folder / name)
        if case.edit:
            case.edit(folder)
        before = _files(folder)
        mask = Mask(folder)
        parts = []
        for command in case.commands:
            arguments = [argument.removeprefix(COPIED) for argument in command]
            run = _in_own_process if case.own_process else _in_this_process
            parts += [f"$ prelabel {' '.join(map(_quoted, arguments))}", *run(arguments, folder, case, mask)]
        parts += _changes(folder, before, mask, case, keep)
        return "\n".join(parts) + "\n"


def crash(text: str) -> str:
    """The line that shows that a command of this outcome crashed, or `""`. Such an outcome is never recorded."""
    crashed = _CRASH.search(text)
    return crashed[1] if crashed else ""


def difference(expected: str, actual: str, name: str) -> str:
    """In words of `diff`, not more than can be read."""
    lines = list(difflib.unified_diff(expected.split("\n"), actual.split("\n"), f"recorded {name}", "now", lineterm=""))
    shortened = [line if len(line) < 400 else f"{line[:400]}..." for line in lines[:60]]
    return "\n".join([*shortened, *([f"... {len(lines) - 60} more lines"] if len(lines) > 60 else [])])


def recording(expected: Path, case: Case) -> Path:
    """Where the text of a case is kept."""
    return expected / f"{case.name}.txt"


def read_recording(path: Path) -> str:
    """A text as it was recorded, byte for byte."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def write_recording(path: Path, text: str) -> None:
    """Record a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        # What commands wrote beside a run that was looked at before is no part of it.
        ignored = shutil.ignore_patterns("exports", "evaluation", "comparison")
        shutil.copytree(source, to, symlinks=True, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy(source, to)


def _make_old(path: Path) -> None:
    """Files of a fixed time each, ten seconds apart: the rate of a run is told from those of its shards."""
    for number, file in enumerate(sorted([path, *path.rglob("*")])):
        os.utime(file, (_OLD + 10 * number,) * 2)


def _in_this_process(arguments: Sequence[str], folder: Path, case: Case, mask: Mask) -> list[str]:
    # Cases that end in an error after a change of folder must not leave it changed.
    with _inside(folder), _one_core():
        result = CliRunner().invoke(
            command_line(), list(arguments), env=environment(folder, case), prog_name="prelabel"
        )
    raised = result.exception
    words = [] if raised is None or isinstance(raised, SystemExit) else [f"raised {type(raised).__name__}: {raised}"]
    return _said(result.exit_code, result.stdout, result.stderr, mask, words)


def _in_own_process(arguments: Sequence[str], folder: Path, case: Case, mask: Mask) -> list[str]:
    changed = environment(folder, case)
    env = {name: value for name, value in {**os.environ, **changed}.items() if value is not None}
    env["PYTHONPATH"] = str(ROOT)
    result = subprocess.run(
        [sys.executable, "-m", "prelabel", *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=300,
    )
    return _said(result.returncode, result.stdout.decode(), result.stderr.decode(), mask, [])


def _said(code: int, out: str, err: str, mask: Mask, raised: list[str]) -> list[str]:
    parts = [f"exit code {code}", *(mask(line) for line in raised)]
    for name, text in (("stdout", out), ("stderr", err)):
        if masked := mask(text):
            parts += [f"--- {name}", _ended(masked)]
    return parts


def _changes(folder: Path, before: dict[str, str], mask: Mask, case: Case, keep: Path | None) -> list[str]:
    after = _files(folder)
    parts = [f"--- gone: {mask(name)}" for name in before if name not in after]
    room = INLINE_TOGETHER
    for name, digest in after.items():
        if before.get(name) == digest:
            continue
        masked_name = mask(name)
        path = folder / name
        if path.is_symlink():
            parts.append(f"--- link {masked_name} -> {mask(str(path.readlink()))}")
            continue
        data = path.read_bytes()
        try:
            text: str | None = mask(data.decode())
        except UnicodeDecodeError:
            text = None
        masked = data if text is None else text.encode()
        if keep is not None:
            kept = keep / case.name / masked_name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(masked)
        parts.append(f"--- {hashlib.sha256(masked).hexdigest()} {len(masked)} {masked_name}")
        if text is not None and (case.whole or len(masked) <= min(INLINE, room)):
            parts.append(_ended(text))
            room -= len(masked)
    return parts


def _files(folder: Path) -> dict[str, str]:
    """Everything in a folder, in order, by what is in it; empty folders, too."""
    contents = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            contents[name] = f"link {path.readlink()}"
        elif path.is_file():
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def _ended(text: str) -> str:
    return text[:-1] if text.endswith("\n") else f"{text}\n(no line end)"


def _quoted(argument: str) -> str:
    return argument if re.fullmatch(r"[\w@%+=:,./*-]+", argument) else repr(argument)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Commands that would start processes on a busy machine, and only there, do all in this one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[os.getpid() % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
