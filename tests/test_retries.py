from __future__ import annotations

import errno

import pytest

from prelabel.retries import is_final, retried


class AnsweredError(Exception):
    """As botocore's: the store's answer hangs on it."""

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
def test_what_another_try_can_mend(error: OSError, final: bool):
    assert is_final(error) is final


def test_it_is_tried_again_after_pauses_that_grow_and_then_given_up():
    pauses: list[float] = []
    tries = []

    def fail() -> None:
        tries.append(1)
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError, match="reset"):
        retried(fail, attempts=5, pause=pauses.append)
    assert len(tries) == 5
    assert len(pauses) == 4
    assert all(0 <= seconds <= 0.5 * 2**n for n, seconds in enumerate(pauses))


def test_the_first_answer_that_comes_is_taken():
    answers = iter([TimeoutError("late"), ConnectionError("reset"), b"abc"])

    def ask() -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert retried(ask, attempts=4, pause=lambda seconds: None) == b"abc"


def test_what_is_final_is_tried_once():
    tries = []

    def ask() -> bytes:
        tries.append(1)
        raise FileNotFoundError("no such key")

    with pytest.raises(FileNotFoundError):
        retried(ask, attempts=4, pause=lambda seconds: None)
    assert tries == [1]
