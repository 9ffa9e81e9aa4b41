"""Checks the command lines of blocks that cannot be run: commands and options exist, values fit, files are there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from unittest.mock import patch

import click

from prelabel.cli import main
from tests.docs.blocks import ROOT

#: Commands of others, whose options are not checked; the files of this repository that they name must exist.
OTHERS = {
    *("aws", "az", "cat", "cd", "cp", "curl", "deactivate", "docker", "eval", "export", "gcloud", "git", "gsutil"),
    *("kubectl", "label-studio", "ls", "make", "mkdir", "mv", "rsync", "source", "unzip", "uv", "uvx", "yolo", "."),
}


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group under its name without the program's."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


COMMANDS = dict(commands(main))


def flags() -> set[str]:
    """Every option of every command."""
    return {
        flag
        for command in COMMANDS.values()
        for param in command.get_params(click.Context(command))
        for flag in (*param.opts, *param.secondary_opts)
    }


def split(text: str) -> list[list[str]]:
    """The simple commands of a shell text, as lists of words, without comments and redirections."""
    lines = [re.sub(r"(^|\s)#.*$", "", line) for line in text.replace("\\\n", " ").splitlines()]
    lexer = shlex.shlex(" ; ".join(lines), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    simple: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if re.fullmatch(r"[<>&]*[<>][<>&]*", word):
            next(words)
        elif re.fullmatch(r"[();|&]+", word):
            simple.append([])
        else:
            simple[-1].append(word)
    return [command for command in simple if command]


def check(text: str) -> None:
    """Check every command of a shell text. Raises AssertionError with what is wrong."""
    for words in split(text):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            _check_words(words)


def _check_words(words: list[str]) -> None:
    program, rest = PurePosixPath(words[0]).name or words[0], words[1:]  # `.` has no name
    if program == "prelabel":
        parse(main, rest)
    elif program == "python" and rest[:1] == ["jobs/label_images.py"]:
        parse(main, ["label", *rest[1:]])
    elif program == "ray":
        _check_ray(rest)
    elif program == "pip" or (program == "python" and rest[:2] == ["-m", "pip"]):
        _check_extras(words)
    elif program == "python":
        assert rest[:2] == ["-m", "venv"], f"{shlex.join(words)} is not checked"
    else:
        assert program in OTHERS, f"{program!r} is no command that the documentation is known to use"
        _check_files(rest)


def parse(group: click.Group, words: list[str]) -> None:
    """Parse a command line as far as its options object; nothing is run."""
    callbacks = [patch.object(command, "callback", _nothing) for command in COMMANDS.values()]
    for patched in callbacks:
        patched.start()
    errors: list[str] = []
    try:
        with patch("prelabel.cli.command.fail", lambda message, *_: errors.append(message) or _stop()):
            group.main(words, prog_name="prelabel", standalone_mode=False)
    except click.ClickException as error:
        errors.append(error.format_message())
    except SystemExit:
        pass
    finally:
        for patched in callbacks:
            patched.stop()
    assert not errors, f"prelabel {shlex.join(words)}: {errors[0]}"


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _stop() -> None:
    raise SystemExit


def _check_ray(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    before, separator, after = words, "", []
    if "--" in words:
        place = words.index("--")
        before, separator, after = words[:place], "--", words[place + 1 :]
    group: click.Command = cli
    while isinstance(group, click.Group):
        name, before = before[0], before[1:]
        command = group.commands.get(name)
        assert command is not None, f"ray has no command {name!r}"
        group = command
    group.make_context("ray", [*before, separator, *after] if separator else list(before))
    for value in (word for word in before if word.startswith("{")):
        json.loads(value)
    _check_files(before)
    if after:
        _check_words(after)


def _check_extras(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        match = re.search(r"(?:prelabel\S*|\.)\[([\w,-]+)\]", word)
        for extra in match[1].split(",") if match else ():
            assert extra in extras, f"there is no extra {extra!r}"


def _check_files(words: list[str]) -> None:
    for word in words:
        if re.match(r"(jobs|schemas|docs|examples|benchmarks|\.ci)/", word):
            assert (ROOT / word).exists(), f"{word} is no file of the repository"
