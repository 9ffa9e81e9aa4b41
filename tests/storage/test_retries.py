from __future__ import annotations

import errno

import pytest

from prelabel.storage.retries import is_permanent, retry


class AnsweredError(Exception):
    """Like botocore's error: the response is attached to it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


def caused(error: OSError, status: int, code: str) -> OSError:
    error.__cause__ = AnsweredError(status, code)
    return error


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (FileNotFoundError("x"), True),
        (PermissionError("x"), True),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EROFS, "read-only"), True),
        (OSError(errno.EIO, "input/output"), False),
        (ConnectionResetError("x"), False),
        (TimeoutError("x"), False),
        (caused(OSError(errno.EBUSY, "x"), 503, "SlowDown"), False),
        (caused(OSError(errno.EINVAL, "x"), 500, "InternalError"), False),
        (caused(OSError(errno.ENOSYS, "x"), 501, "NotImplemented"), True),
        (caused(PermissionError("x"), 403, "AccessDenied"), True),
        (caused(OSError("x"), 409, "OperationAborted"), False),
        (caused(OSError("x"), 429, "Throttling"), False),
        (caused(OSError("x"), 404, "NoSuchKey"), True),
    ],
)
def test_transient_errors_are_recognized(error: OSError, final: bool):
    assert is_permanent(error) is final


def test_retries_have_growing_pauses_and_a_limit():
    pauses: list[float] = []
    tries = []

    def fail() -> None:
        tries.append(1)
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError, match="reset"):
        retry(fail, attempts=5, pause=pauses.append)
    assert len(tries) == 5
    assert len(pauses) == 4
    assert all(0 <= seconds <= 0.5 * 2**n for n, seconds in enumerate(pauses))


def test_first_successful_attempt_is_returned():
    answers = iter([TimeoutError("late"), ConnectionError("reset"), b"abc"])

    def ask() -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert retry(ask, attempts=4, pause=lambda seconds: None) == b"abc"


def test_final_errors_are_not_retried():
    tries = []

    def ask() -> bytes:
        tries.append(1)
        raise FileNotFoundError("no such key")

    with pytest.raises(FileNotFoundError):
        retry(ask, attempts=4, pause=lambda seconds: None)
    assert tries == [1]
