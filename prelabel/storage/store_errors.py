"""Conversion of the errors of storage libraries to `OSError` with a one-line message.

The result is a `FileNotFoundError`, `PermissionError` or `TimeoutError` if that is known, otherwise a plain `OSError`.
Rejected or missing credentials become a `CredentialsError`, since they concern the whole run.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any

from prelabel.errors import CredentialsError
from prelabel.storage.address import describe
from prelabel.storage.redirects import RedirectError

#: Errors of the libraries below fsspec that are not OSErrors, by module and name. They are looked up only in loaded
#: modules: no library needs to be installed, and one that is not loaded cannot raise.
_LIBRARY_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("gcsfs.retry", "ChecksumError"),
    ("gcsfs.retry", "NonRetryableError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)

#: Error codes of S3 for credentials that have expired, were revoked, or do not exist.
_REJECTED_CREDENTIALS = frozenset(
    ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId")
)
#: Error codes of Azure for a wrong key or an expired signature.
_REJECTED_CREDENTIALS |= {"AuthenticationFailed", "ExpiredAuthenticationToken", "InvalidAuthenticationInfo"}
#: Errors that libraries raise if they find no credentials or cannot renew them.
_NO_CREDENTIALS = frozenset(
    ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError", "NonRetryableError")
)

#: Messages for S3 responses without an error code: the response to a HEAD request has no body.
_WITHOUT_CODE = {
    "400": (errno.EINVAL, "HTTP 400 Bad Request: the credentials may have expired or belong to another region"),
    "403": (errno.EACCES, "HTTP 403 Forbidden: check that the credentials are valid and allow this operation"),
}


def storage_errors() -> tuple[type[BaseException], ...]:
    """All error classes that file systems raise, for `except storage_errors() as error`."""
    classes: list[type[BaseException]] = [OSError, asyncio.TimeoutError]
    for module, name in _LIBRARY_ERRORS:
        error_class = getattr(sys.modules.get(module), name, None)
        if isinstance(error_class, type) and issubclass(error_class, BaseException):
            classes.append(error_class)
    return tuple(classes)


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """Convert every error of a file system inside the block to an OSError with the original as its cause.

    Raises:
        CredentialsError: Storage rejected the credentials, or there are none.
        OSError: Any other error.
    """
    try:
        yield
    except storage_errors() as error:
        if isinstance(error.__cause__, RedirectError):
            # fsspec reports every problem with a web server's response as "not found".
            raise error.__cause__ from None
        if isinstance(error, FileNotFoundError) and (hidden := _hidden(error)):
            raise hidden from error.__cause__
        for cause in (error, error.__cause__):
            if getattr(cause, "retryable", False) is True:
                # Google's library could not renew a token just now.
                raise ConnectionError(describe(cause or error)) from cause
        kind = code_of(error) if code_of(error) in _REJECTED_CREDENTIALS else type(error).__name__
        if kind in _REJECTED_CREDENTIALS:
            raise CredentialsError(
                f"storage rejected the credentials ({kind}): fix them and run the same command to resume"
            ) from error
        if kind in _NO_CREDENTIALS:
            raise CredentialsError(
                f"no valid credentials for storage ({kind}): provide them and run the same command to resume"
            ) from error
        if _is_unsigned(error):
            raise CredentialsError(
                "no credentials for storage, or none that it accepts: pass them in --storage-options, sign in with the "
                "cloud's command line, or set its environment variables"
            ) from error
        if code_of(error) in _WITHOUT_CODE:
            raise OSError(*_WITHOUT_CODE[code_of(error)]) from error.__cause__ or error
        if isinstance(error, OSError):
            if str(error).startswith("Forbidden: "):  # gcsfs's message
                raise PermissionError(describe(error)) from error
            raise
        # Azure's library appends the request id, the time and the complete response, which do not help users.
        raise _kind_of(error)(describe(error).partition(" RequestId:")[0]) from error
    except ValueError as error:
        if not str(error).startswith("Bad Request: "):  # gcsfs's message
            raise
        raise OSError(errno.EINVAL, describe(error)) from error


def _is_unsigned(error: BaseException) -> bool:
    """Whether Azure's library found no credentials, or Google's storage requires some."""
    name = type(error).__name__
    return name in ("ClientAuthenticationError", "CredentialUnavailableError") or (
        name == "HttpError" and getattr(error, "code", None) == 401
    )


def _kind_of(error: BaseException) -> type[OSError]:
    if isinstance(error, asyncio.TimeoutError):
        return TimeoutError
    return {403: PermissionError, 404: FileNotFoundError}.get(status_of(error), OSError)


def _hidden(error: FileNotFoundError) -> OSError | None:
    """The real error if fsspec reports "not found" for a web server that was unreachable, failed or refused."""
    cause, status = error.__cause__, status_of(error)
    if isinstance(cause, FileNotFoundError) or not isinstance(cause, storage_errors()):
        return None
    if status in (401, 403):
        return PermissionError(describe(cause))
    return OSError(describe(cause)) if not status or status == 429 or status >= 500 else None


def code_of(error: BaseException) -> str:
    """The error code in the response of S3 or Azure, or `""`."""
    code = _response(error).get("Error", {}).get("Code", "")
    for candidate in () if code else _with_cause(error):
        azure_code = getattr(candidate, "error_code", None)
        code = getattr(azure_code, "value", azure_code) or code  # Azure's codes are enum members
    return str(code)


def status_of(error: BaseException) -> int:
    """The HTTP status of a response from storage, or 0."""
    values: list[Any] = [_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")]
    for candidate in _with_cause(error):
        # Attributes of aiohttp, azure and gcsfs. `code` comes last, since aiohttp's is deprecated and warns.
        names = (name for name in ("status", "status_code") if hasattr(candidate, name))
        values.append(getattr(candidate, next(names, "code"), None))
    return next((int(value) for value in values if isinstance(value, int) or str(value).isdecimal()), 0)


def _with_cause(error: BaseException) -> tuple[BaseException | None, ...]:
    # fsspec keeps the error of the store's library as the cause of its own.
    return error, error.__cause__


def _response(error: BaseException) -> dict[str, Any]:
    for candidate in _with_cause(error):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def http_error(status: int, reason: str | None) -> OSError:
    """The error for a response of a web server with this status."""
    text = f"HTTP {status} {reason or ''}".strip()
    if status in (404, 410):
        return FileNotFoundError(errno.ENOENT, text)
    if status in (401, 403):
        return PermissionError(errno.EACCES, text)
    if 400 <= status < 500 and status not in (408, 425, 429):
        return OSError(errno.EINVAL, text)
    return ConnectionError(text)
