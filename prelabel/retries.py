"""Trying again what a store refuses for a moment: one policy for everything that is read from and written to stores.

    data = retried(lambda: ask(url), attempts=4)

The pause before the second try is random up to half a second, and its limit doubles from try to try, so that a
thousand workers do not come back at the same moment. These tries come on top of those of the store's own library.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

#: Tries for one image: another image is waiting, and this one becomes a row that says what was wrong.
IMAGE_ATTEMPTS = 4

#: Tries for what a run cannot do without (plan, shards, `run.json`): over half a minute of pauses at most.
PATIENT_ATTEMPTS = 7

#: The pause before the second try is random up to this many seconds, and doubles from try to try.
FIRST_PAUSE_S = 0.5

_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

# Error numbers that no second try mends: a wrong name, too many links, an operation the store does not have, a disk
# that is full or may only be read.
_FINAL_NUMBERS = frozenset(
    (errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
)

#: Answers that ask to come back: too early, too many, a conflict, an upload that took too long.
_PASSING_STATUS = frozenset((408, 409, 425, 429))
_PASSING_CODES = frozenset(("SlowDown", "RequestTimeout", "Throttling"))

T = TypeVar("T")


def retried(call: Callable[[], T], *, attempts: int, pause: Callable[[float], None] = time.sleep) -> T:
    """What a call returns, tried again while it raises an OSError that may pass.

    Args:
        call: May be repeated without harm.
        attempts: Tries at most.
        pause: Waits for so many seconds.

    Raises:
        OSError: The last one.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except OSError as error:
            if attempt == attempts or is_final(error):
                raise
        pause(random.uniform(0, FIRST_PAUSE_S * 2 ** (attempt - 1)))  # noqa: S311 - jitter, not a secret
    raise ValueError(f"attempts must be 1 or more, got {attempts}")


def is_final(error: OSError) -> bool:
    """Whether trying again is of no use: missing, forbidden, a wrong name, a full disk."""
    if error.errno == errno.ENOSYS:
        return True
    status = status_of(error)
    if status >= 500 or status in _PASSING_STATUS or code_of(error) in _PASSING_CODES:
        return False
    return status >= 400 or isinstance(error, _FINAL) or error.errno in _FINAL_NUMBERS


def code_of(error: BaseException) -> str:
    """The error code in the answer of an S3 server or of Azure, or `""`."""
    answer = _response(error).get("Error", {}).get("Code", "")
    for one in () if answer else _both(error):
        code = getattr(one, "error_code", None)
        answer = getattr(code, "value", code) or answer  # Azure's are members of an enum
    return str(answer)


def status_of(error: BaseException) -> int:
    """The HTTP status of a store's answer, or 0."""
    found: list[Any] = [_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")]
    for one in _both(error):
        # aiohttp, azure, gcsfs; only the first there is, for aiohttp's `code` warns whoever asks for it.
        names = (name for name in ("status", "status_code") if hasattr(one, name))
        found.append(getattr(one, next(names, "code"), None))
    return next((int(value) for value in found if isinstance(value, int) or str(value).isdecimal()), 0)


def _both(error: BaseException) -> tuple[BaseException | None, ...]:
    # fsspec keeps the error of the store's library as the cause of its own.
    return error, error.__cause__


def _response(error: BaseException) -> dict[str, Any]:
    for one in _both(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response
    return {}
