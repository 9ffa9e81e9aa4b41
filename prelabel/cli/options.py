"""Commands whose options are the fields of a dataclass, the same that job files and Python use."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prelabel.cli.exits import OneLine, clean_errors
from prelabel.errors import ConfigError

if TYPE_CHECKING:
    from prelabel.storage import Storage
    from prelabel.store.run import Run

F = TypeVar("F", bound=Callable[..., Any])


class Command(OneLine):
    """A command that ends cleanly, with its options listed under headings.

    With `options` it has an option for each field of a dataclass, and its function gets an object of that class as
    `options`. The dataclass is imported when the command is used: `prelabel --help` does without NumPy and fsspec.

    Args:
        options: Where the dataclass is, `"prelabel.config:LabelOptions"`.
        arguments: Its fields that stand on their own on the command line.
    """

    def __init__(self, *args: Any, options: str = "", arguments: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._options = options
        self._arguments = arguments
        self._complete = not options

    def options_class(self) -> Any:
        """The dataclass."""
        module, _, name = self._options.partition(":")
        return getattr(importlib.import_module(module), name)

    def make_options(self, values: dict[str, Any], ctx: click.Context) -> Any:
        """The object of the dataclass from what was stated. Raises ConfigError."""
        from prelabel.options import from_mapping

        return from_mapping(self.options_class(), values, ctx.command_path.partition(" ")[2] or str(self.name))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The declared parameters and those of the dataclass."""
        if not self._complete:
            self._complete = True
            self.params = [*self.params, *_options_of(self.options_class(), self._arguments)]
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command's function."""
        with clean_errors():
            if self._options:
                from prelabel.options import fields_of

                names = [name for name in fields_of(self.options_class()) if name in ctx.params]
                options = self.make_options(_stated({n: ctx.params.pop(n) for n in names}), ctx)
                if not (getattr(options, "quiet", False) or ctx.params.get("quiet")):
                    _say(getattr(options, "said", ()))
                ctx.params["options"] = options
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading, in order of first appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _say(lines: Iterable[str]) -> None:
    from prelabel.console import printable

    for line in lines:
        click.echo(f"note: {printable(line)}", err=True)


#: A path or an address: taken as it is, completed as a path by the shell.
PATH = click.Path()

#: How options that take one are shown.
_PATHS = ("FILE", "DIR", "PATH", "OUT", "D")


class SectionedOption(click.Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def _options_of(cls: Any, arguments: tuple[str, ...]) -> Iterator[click.Option]:
    """A command-line option for each option field of a dataclass."""
    from prelabel.options import fields_of

    for name, field in fields_of(cls).items():
        if name not in arguments:
            yield _option(name, field)


def _option(name: str, field: dataclasses.Field[Any]) -> click.Option:
    from prelabel.options import flag_name

    meta = field.metadata
    kind = meta["type"]
    default = field.default
    flag = flag_name(name)
    if kind == "flag":
        flags = f"{flag}/--no-{flag[2:]}" if default else flag
        text = meta["help"] + ("  [default: yes]" if default else "")
        return SectionedOption([flags, name], section=meta["group"], help=text, is_flag=True, default=None)
    text = meta["help"]
    if isinstance(default, int | float | str) and default != "":
        text += f"  [default: {default}]"
    types: dict[str, Any] = {"int": int, "float": float}
    if meta["metavar"] in _PATHS:
        types["str"] = PATH
    return SectionedOption(
        [flag, name],
        section=meta["group"],
        help=text,
        default=None,
        type=click.Choice(meta["choices"]) if meta["choices"] else types.get(kind, str),
        metavar=meta["metavar"] or None,
        multiple=kind in ("list", "pairs", "float-pairs"),
    )


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line: click hands None or an empty tuple for the rest."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None and v != ()}


def storage_option(command: F) -> F:
    """`--storage-options`, for commands that read or write OUT."""
    text = "JSON for the file systems of remote addresses (keys, endpoints). Never stored."
    return click.option("--storage-options", metavar="JSON", help=text, cls=SectionedOption)(command)


def storage_of(storage_options: str | None) -> Storage:
    """The storage that `--storage-options` describes. Raises ConfigError, which does not show it."""
    from prelabel.storage import Storage

    try:
        values = json.loads(storage_options) if storage_options else {}
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError("--storage-options must be a JSON object")
    return Storage(values)


def opened(output: str, storage_options: str | None) -> Run:
    """The finished run at OUT. Raises StoreError."""
    from prelabel.storage import absolute
    from prelabel.store.run import open_run

    return open_run(absolute(output), storage_of(storage_options))
