"""Base classes of all commands, and the parameters that several of them share.

The options of a command are the fields of a dataclass, which job files and Python use, too. Every command ends with an
exit code, and reports an error in one line on standard error. Nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shlex
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from prelabel.errors import ConfigError, PrelabelError
from prelabel.storage.address import describe

if TYPE_CHECKING:
    from prelabel.storage.files import Storage
    from prelabel.store.run import Run

F = TypeVar("F", bound=Callable[..., Any])

#: Exit codes. `CHANGED`: `diff` did its work, but more changed than `--fail-above` allows.
FAILED, USAGE, CHANGED, INTERRUPTED = 1, 2, 3, 130


class OneLineErrors(click.Command):
    """A command that reports wrong usage in one line, like all its other errors, and whose help begins with examples.

    Args:
        examples: Command lines shown at the top of its help.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command; as a program (`standalone_mode`), end the process with its exit code."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USAGE)
        except click.UsageError as error:
            _suggest_other_output(error)
            path = error.ctx.command_path if error.ctx else "prelabel"
            message = error.format_message().rstrip(".").replace("valid integer range", "whole number")
            subcommand = path.partition(" ")[2]
            where = f"{subcommand}: " if subcommand else ""
            fail(f"{where}{message}{' See' if message.endswith('?') else '; see'} `{path} --help`", USAGE)
        except click.ClickException as error:
            fail(error.format_message(), error.exit_code)
        except click.Abort:
            fail("stopped", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """`-h` and `--help`, whatever the context says: click keeps the option of the first context it sees."""
        return ["-h", "--help"]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line and the examples."""
        super().format_usage(ctx, formatter)
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _suggest_other_output(error: click.UsageError) -> None:
    """If `--to` or `--output` is unknown to a command that has the other, suggest it: their spellings are not close."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        other = {"--to": "--output", "--output": "--to"}.get(error.option_name)
        if other and any(other in parameter.opts for parameter in error.ctx.command.params):
            error.possibilities = [other]  # type: ignore[misc]  # Final, but the only place of the suggestions


class CommandGroup(OneLineErrors, click.Group):
    """A command with subcommands, listed in its help in the order they were added, under headings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headings: dict[str, str] = {}

    def add_section(self, heading: str, *commands: click.Command) -> None:
        """Add commands that the help lists under this heading."""
        for command in commands:
            self.add_command(command)
            self._headings[str(command.name)] = heading

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands in the order they were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section per heading, with the summaries of all commands in one column."""
        width = max(map(len, self.commands), default=0)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            summary = command.get_short_help_str(formatter.width - width - 6)
            sections.setdefault(self._headings.get(name, "Commands"), []).append((name.ljust(width), summary))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class Command(OneLineErrors):
    """A command whose help has an example and headings, and whose errors are one line and an exit code.

    With `options`, it has one option per field of a dataclass, and its function receives an object of that class as
    `options`. The dataclass is imported only when the command is used, so that `prelabel --help` needs neither NumPy
    nor fsspec.

    Args:
        options: Module and name of the dataclass, such as `"prelabel.config:LabelOptions"`.
        arguments: Fields of the dataclass that are declared as positional arguments.
    """

    def __init__(self, *args: Any, options: str = "", arguments: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._options = options
        self._arguments = arguments
        self._has_all_params = not options

    def options_class(self) -> Any:
        """Import the dataclass."""
        module, _, name = self._options.partition(":")
        return getattr(importlib.import_module(module), name)

    def make_options(self, values: dict[str, Any], ctx: click.Context) -> Any:
        """Make an object of the dataclass from the given values. Raises ConfigError."""
        from prelabel.options import from_mapping

        return from_mapping(self.options_class(), values, ctx.command_path.partition(" ")[2] or str(self.name))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The declared parameters, then those of the dataclass."""
        if not self._has_all_params:
            self._has_all_params = True
            self.params = [*self.params, *_options_of(self.options_class(), self._arguments)]
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command's function."""
        with clean_errors():
            if self._options:
                from prelabel.options import RenamedOptionWarning, fields_of, former_names

                cls = self.options_class()
                names = [name for name in (*fields_of(cls), *former_names(cls)) if name in ctx.params]
                given = _given({name: ctx.params.pop(name) for name in names})
                with warnings.catch_warnings(record=True) as renamed:
                    warnings.simplefilter("always", RenamedOptionWarning)
                    options = self.make_options(given, ctx)
                if not (getattr(options, "quiet", False) or ctx.params.get("quiet")):
                    show_notes([*dict.fromkeys(str(warning.message) for warning in renamed), *options.notes])
                ctx.params["options"] = options
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then a section per heading.

        `Options` comes first, with the required options on top, and `LAST_HEADINGS` come last.
        """
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        last_sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, DescribedArgument):
                sections["Arguments"].append((param.make_metavar(ctx), self._description_of(param)))
            elif isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                heading = getattr(param, "heading", "")
                rows = last_sections if heading in LAST_HEADINGS else sections
                rows.setdefault(heading or "Options", []).append(record)
        sections["Options"].sort(key=lambda record: not record[1].endswith("[required]"))
        sections |= {heading: last_sections[heading] for heading in LAST_HEADINGS if heading in last_sections}
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def _description_of(self, argument: DescribedArgument) -> str:
        text = argument.description
        if argument.name in self._arguments:
            from prelabel.options import fields_of

            text = fields_of(self.options_class())[argument.name].metadata["help"]
        return f"{text}  [required]"


#: A local path or a URL. It is not checked, and shells complete it as a path.
PATH = click.Path()

#: Headings that come last in a command's help.
LAST_HEADINGS = ("Messages", "Dry run", "Storage", "Selection")


class DescribedArgument(click.Argument):
    """A positional argument with a description in the help.

    Args:
        description: Text for `--help`. An argument that is a field of the command's dataclass shows the field's help.
    """

    def __init__(self, *args: Any, description: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.description = description


class HeadedOption(click.Option):
    """An option that the help lists under a heading.

    Args:
        heading: The heading; empty for `Options`.
    """

    def __init__(self, *args: Any, heading: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


def _options_of(cls: Any, arguments: tuple[str, ...]) -> Iterator[click.Option]:
    """The command-line options of a dataclass, in the order of `--help`, then its former names as hidden options."""
    from prelabel.options import fields_for_help, fields_of, former_names

    for name, (heading, field) in fields_for_help(cls).items():
        if name not in arguments:
            yield _option(name, field, heading)
    for former, name in former_names(cls).items():
        yield _option(former, fields_of(cls)[name], "", hidden=True)


def _option(name: str, field: dataclasses.Field[Any], heading: str, *, hidden: bool = False) -> click.Option:
    from prelabel.options import PATH_METAVARS, SHARE, flag_of, is_required, kind_of

    meta = field.metadata
    kind = kind_of(field)
    default = field.default
    flag = flag_of(name)
    text = meta["help"]
    if kind == "flag":
        flags, text = (f"{flag}/--no-{flag[2:]}", f"{text}  [default: yes]") if default else (flag, text)
        return HeadedOption([flags, name], heading=heading, help=text, is_flag=True, default=None, hidden=hidden)
    if is_required(field):
        text += "  [required]"
    elif isinstance(default, int | float | str) and default != "" and "(default:" not in text:
        text += f"  [default: {default:g}]" if isinstance(default, float) else f"  [default: {default}]"
    types: dict[str, Any] = {"int": int, "float": str if meta["metavar"] == SHARE else float}
    if meta["metavar"] in PATH_METAVARS:
        types["str"] = types["document"] = PATH
    return HeadedOption(
        [flag, name],
        heading=heading,
        help=text,
        default=None,
        type=click.Choice(meta["choices"]) if meta["choices"] else types.get(kind, str),
        metavar=meta["metavar"] or {"int": "N", "float": "NUMBER"}.get(kind),
        multiple=kind in ("list", "pairs", "float-pairs"),
        hidden=hidden,
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were given on the command line; click passes None or an empty tuple for the others."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None and v != ()}


def run_argument(command: F) -> F:
    """The argument RUN of commands on finished runs."""
    return _run_argument(command, "Finished run")


def any_run_argument(command: F) -> F:
    """The argument RUN of commands on runs that may be unfinished."""
    return _run_argument(command, "Run, finished or not")


def _run_argument(command: F, what: str) -> F:
    text = f"{what}: the folder or storage prefix that `label --output` or `fuse --to` wrote."
    return click.argument("output", type=PATH, metavar="RUN", cls=DescribedArgument, description=text)(command)


def storage_option(command: F) -> F:
    """`--storage-options`, for commands that read or write storage."""
    text = "Pass options (keys, endpoints) to the file systems of remote URLs, as JSON. Never stored."
    return click.option("--storage-options", metavar="JSON", cls=HeadedOption, heading="Storage", help=text)(command)


def storage_of(storage_options: str | None) -> Storage:
    """The storage configured by `--storage-options`. Raises ConfigError, which does not show the value."""
    from prelabel.storage.files import Storage

    try:
        values = json.loads(storage_options) if storage_options else {}
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError("--storage-options must be a JSON object")
    return Storage(values)


def open_finished(output: str, storage_options: str | None) -> Run:
    """The finished run at this folder or prefix. Raises StoreError."""
    from prelabel.processes import without_pandas
    from prelabel.store.run import open_run

    without_pandas()
    return open_run(output, storage_of(storage_options))


@contextmanager
def clean_errors() -> Iterator[None]:
    """Turn our own errors, and those of disks and networks, into one line and an exit code."""
    try:
        yield
    except ConfigError as error:
        fail(str(error), USAGE)
    except PrelabelError as error:
        fail(str(error), FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has exited; Python would report that at exit
        sys.exit(FAILED)
    except OSError as error:
        # Commands catch most of these and name the file; others, such as a full disk, must not show a traceback either.
        fail(describe(error), FAILED)
    except KeyboardInterrupt:
        fail("stopped", INTERRUPTED)


class Stop(threading.Event):
    """Set when a signal asks the command to end; its `exit_code` is that of the signal."""

    exit_code = FAILED


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second signal ends the process immediately."""
    stop = Stop()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.exit_code = 128 + number
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def local_folder(ctx: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """A callback of options that name a folder to write: refuses a local file before anything is done."""
    # Storage may hold a file and a prefix of one name.
    if path is not None and Path(path).is_file():
        if ctx.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"the default folder {path} is a file: name another folder with --to", ctx)
        raise click.BadParameter(f"{path} is a file: name a folder")
    return path


def program() -> str:
    """The command that starts this program from the user's shell: `prelabel`, or what works if that is not on the PATH.

    A script that was called by its path is named by it; so is that of `uvx`, which is on the PATH of this process only.
    """
    script = Path(sys.argv[0])
    if script.stem != "prelabel" or not script.is_file():
        return shlex.join([sys.executable, "-m", "prelabel"])
    folders = os.get_exec_path()
    if "UV" in os.environ:  # uv and uvx put the folder of the script in front, for this process
        folders = folders[1:]
    on_path = shutil.which("prelabel", path=os.pathsep.join(folders))
    return "prelabel" if on_path and script.samefile(on_path) else shlex.quote(str(script))


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the process with one line on standard error."""
    from prelabel.console import printable

    click.echo(f"prelabel: {printable(message)}", err=True)
    sys.exit(code)


def show_notes(notes: Iterable[str]) -> None:
    """Print notes for the user on standard error, one line each."""
    from prelabel.console import printable

    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)
