"""How a command ends: exit codes, and errors as one line instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from prelabel.address import describe
from prelabel.errors import ConfigError, PrelabelError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


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
