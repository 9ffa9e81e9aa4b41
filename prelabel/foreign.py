"""What the libraries of stores raise, as our own: an `OSError`, whatever it was, with one line of text.

`FileNotFoundError`, `PermissionError`, `TimeoutError` where that is known, else a plain one. Only credentials that are
not taken are a `CredentialsError`, since they concern everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from prelabel.address import describe
from prelabel.errors import CredentialsError
from prelabel.redirects import RedirectError
from prelabel.retries import PATIENT_ATTEMPTS, code_of, retried, status_of

T = TypeVar("T")

#: Where the libraries below fsspec define errors that are no OSError. They are looked up only in modules that are
#: loaded: none of these libraries has to be installed, and an error of one that is not loaded cannot be raised.
_FOREIGN_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("gcsfs.retry", "ChecksumError"),
    ("gcsfs.retry", "NonRetryableError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


#: What stores answer to credentials that have expired, were withdrawn, or do not exist ...
_REFUSED_CREDENTIALS = frozenset(
    ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId")
)
#: ... among them Azure's for a wrong key or an expired signature ...
_REFUSED_CREDENTIALS |= {"AuthenticationFailed", "ExpiredAuthenticationToken", "InvalidAuthenticationInfo"}
#: ... and what the libraries raise where they find none, or cannot renew them.
_NO_CREDENTIALS = frozenset(
    ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError", "NonRetryableError")
)

#: What an S3 server's refusal means where it may not say why: the answer to a HEAD has no body, hence no code either.
_WITHOUT_REASON = {
    "400": (errno.EINVAL, "HTTP 400 Bad Request: so S3 answers credentials that have expired or are of another region"),
    "403": (errno.EACCES, "HTTP 403 Forbidden: see whether the credentials are right, and whether they allow this"),
}


def storage_errors(*more: type[BaseException]) -> tuple[type[BaseException], ...]:
    """Everything a file system raises for reasons of its own, for `except storage_errors() as error`."""
    found: list[type[BaseException]] = [OSError, asyncio.TimeoutError, *more]
    for module, name in _FOREIGN_ERRORS:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            found.append(kind)
    return tuple(found)


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """Inside the block every error of a file system becomes an OSError that keeps the original as its cause.

    Raises:
        CredentialsError: The store does not take the credentials.
    """
    try:
        yield
    except storage_errors() as error:
        if isinstance(error.__cause__, RedirectError):
            # fsspec says of whatever goes wrong with a web server's answer that nothing was found.
            raise error.__cause__ from None
        if isinstance(error, FileNotFoundError) and (hidden := _hidden(error)):
            raise hidden from error.__cause__
        for cause in (error, error.__cause__):
            if getattr(cause, "retryable", False) is True:
                # Google's library could not renew a token this moment.
                raise ConnectionError(describe(cause or error)) from cause
        kind = code_of(error) if code_of(error) in _REFUSED_CREDENTIALS else type(error).__name__
        if kind in _REFUSED_CREDENTIALS or kind in _NO_CREDENTIALS:
            raise CredentialsError(
                f"the store does not take the credentials ({kind}): give valid ones, and the same command goes on"
            ) from error
        if _is_unsigned(error):
            raise CredentialsError(
                "no credentials for the store were found, or it takes none of them: give them in storage-options, sign "
                "in with its command line, or set its environment variables"
            ) from error
        if code_of(error) in _WITHOUT_REASON:
            raise OSError(*_WITHOUT_REASON[code_of(error)]) from error.__cause__ or error
        if isinstance(error, OSError):
            if str(error).startswith("Forbidden: "):  # so gcsfs says it
                raise PermissionError(describe(error)) from error
            raise
        # What Azure's library adds (number, time, the whole answer) tells nobody anything here.
        raise _kind_of(error)(describe(error).partition(" RequestId:")[0]) from error
    except ValueError as error:
        if not str(error).startswith("Bad Request: "):  # so gcsfs says it
            raise
        raise OSError(errno.EINVAL, describe(error)) from error


def _is_unsigned(error: BaseException) -> bool:
    """Whether Azure's library found no credentials, or Google's store wants some where there are none."""
    name = type(error).__name__
    return name in ("ClientAuthenticationError", "CredentialUnavailableError") or (
        name == "HttpError" and getattr(error, "code", None) == 401
    )


def _kind_of(error: BaseException) -> type[OSError]:
    if isinstance(error, asyncio.TimeoutError):
        return TimeoutError
    return {403: PermissionError, 404: FileNotFoundError}.get(status_of(error), OSError)


def _hidden(error: FileNotFoundError) -> OSError | None:
    """What fsspec reported as "not found" although a web server was not reached, failed, or refused."""
    cause, status = error.__cause__, status_of(error)
    if isinstance(cause, FileNotFoundError) or not isinstance(cause, storage_errors()):
        return None
    if status in (401, 403):
        return PermissionError(describe(cause))
    return OSError(describe(cause)) if not status or status == 429 or status >= 500 else None


def patiently(call: Callable[[], T]) -> T:
    """What a call to a store returns, tried again as long as a run can afford to wait. Raises as `as_os_error` does."""

    def once() -> T:
        with as_os_error():
            return call()

    return retried(once, attempts=PATIENT_ATTEMPTS)


class ForeignFile(io.RawIOBase):
    """A file of a remote store that is open for reading: what goes wrong in it is translated, and tried again.

    Args:
        file: As fsspec opens it.
        again: Whether a read that failed may be repeated; a stream from a web server does not know where it was.
    """

    def __init__(self, file: Any, *, again: bool) -> None:
        self._file, self._again = file, again

    def read(self, size: int = -1, /) -> bytes:
        """As of any binary file. Raises as `as_os_error` does."""
        if self._again:
            return patiently(lambda: bytes(self._file.read(size)))
        with as_os_error():
            return bytes(self._file.read(size))

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """As the file underneath."""
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of any file; nothing is asked of the store."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """As of any file."""
        return int(self._file.tell())

    def close(self) -> None:
        """The file underneath, too."""
        if not self.closed:
            self._file.close()
        super().close()
