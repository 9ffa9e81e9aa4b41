"""How a command ends: exit codes, and errors as one line instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from prelabel.address import describe
from prelabel.errors import ConfigError, PrelabelError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class OneLine(click.Command):
    """A command whose refusals of what was typed are one line each, like all its other errors."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run it; as a program (`standalone_mode`), end the process with its exit code."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()  # the help that was asked for by naming nothing
            sys.exit(USAGE)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "prelabel"
            message = error.format_message().rstrip(".")
            where = path.partition(" ")[2]
            fail(f"{where}: {message}; see `{path} --help`" if where else f"{message}; see `{path} --help`", USAGE)
        except click.ClickException as error:
            fail(error.format_message(), error.exit_code)
        except click.Abort:
            fail("stopped", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


class Program(OneLine, click.Group):
    """The group of all commands."""


@contextmanager
def clean_errors() -> Iterator[None]:
    """Errors raised on purpose, and those of disks and networks, end as one line and an exit code."""
    try:
        yield
    except ConfigError as error:
        fail(str(error), USAGE)
    except PrelabelError as error:
        fail(str(error), FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; Python would complain about it at exit
        sys.exit(FAILED)
    except OSError as error:
        # Commands name the file where they can; a disk that is full elsewhere is no reason for a traceback either.
        fail(describe(error), FAILED)
    except KeyboardInterrupt:
        fail("stopped", INTERRUPTED)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the process with one line on standard error."""
    from prelabel.console import printable

    click.echo(f"prelabel: {printable(message)}", err=True)
    sys.exit(code)
