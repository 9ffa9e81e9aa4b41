"""Retries of transient storage errors: one policy for everything that is read from and written to storage.

    data = retry(lambda: request(url), attempts=4)

The pause before the second attempt is random, up to half a second, and its limit doubles with every attempt, so that a
thousand workers do not return at the same moment. These attempts are in addition to those of the store's own library.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from prelabel.storage.store_errors import as_os_error, code_of, status_of

#: Attempts to read one image. Other images are waiting, and a failed image only becomes a row with its error.
IMAGE_ATTEMPTS = 4

#: Attempts for what a run depends on (plan, shards, `run.json`), with pauses of over half a minute in total at most.
PATIENT_ATTEMPTS = 7

#: Longest pause before the second attempt, in seconds; doubles with every attempt.
FIRST_PAUSE_S = 0.5

_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

# Error numbers that a retry cannot fix: a bad name, too many links, an unsupported operation, a full or read-only disk.
_PERMANENT_NUMBERS = frozenset(
    (errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
)

#: Transient HTTP statuses (timeout, conflict, too early, too many requests) and S3 error codes.
_TRANSIENT_STATUS = frozenset((408, 409, 425, 429))
_TRANSIENT_CODES = frozenset(("SlowDown", "RequestTimeout", "Throttling"))

T = TypeVar("T")


def retry(call: Callable[[], T], *, attempts: int, pause: Callable[[float], None] = time.sleep) -> T:
    """Call a function, and retry it while it raises a transient OSError.

    Args:
        call: The function; repeating it must do no harm.
        attempts: Maximum number of attempts.
        pause: Sleeps for a number of seconds.

    Returns:
        What the function returns.

    Raises:
        OSError: The error of the last attempt.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except OSError as error:
            if attempt == attempts or is_permanent(error):
                raise
        pause(random.uniform(0, FIRST_PAUSE_S * 2 ** (attempt - 1)))  # noqa: S311 - jitter, not a secret
    raise ValueError(f"attempts must be 1 or more, got {attempts}")


def retry_patiently(call: Callable[[], T]) -> T:
    """Call a function that accesses storage, with the retries for what a run depends on.

    Raises:
        OSError: The error of the last attempt, as converted by `as_os_error`.
    """
    return retry(as_os_error()(call), attempts=PATIENT_ATTEMPTS)


def is_permanent(error: OSError) -> bool:
    """Whether retrying is pointless: missing, forbidden, a bad name, a full disk."""
    if error.errno == errno.ENOSYS:
        return True
    status = status_of(error)
    if status >= 500 or status in _TRANSIENT_STATUS or code_of(error) in _TRANSIENT_CODES:
        return False
    return status >= 400 or isinstance(error, _PERMANENT) or error.errno in _PERMANENT_NUMBERS
