"""One function on item after item, in this process or in several, with the results in the order of the items.

    with Processes.all_cores() as processes:
        for text in processes.map(work, shards):
            ...

The first items are worked on here. Only when what is left would take long are processes started, which takes about a
second. They are spawned, not forked: threads and open connections of this process are not theirs. So the function, the
items and the results are pickled, and a script must begin its work under `if __name__ == "__main__":`.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from prelabel.errors import RunError

A = TypeVar("A")
B = TypeVar("B")

#: With more processes the one that puts their results together is what they wait for, and each takes some memory.
_MOST = 8

#: Seconds that the items left must take in this process before others are started.
_WORTH_S = 2.0

#: Items handed out beyond one for each process: results wait for their turn in memory.
_AHEAD = 2


class Processes:
    """Up to so many processes, started when they are worth it and ended with the `with` block."""

    def __init__(self, most: int = 1, *, worth_s: float = _WORTH_S) -> None:
        """Starts nothing yet.

        Args:
            most: Processes at work at the same time; with 1 all is done in this one.
            worth_s: Start them when what is left would take this one so many seconds.
        """
        self._most = most
        self._worth_s = worth_s
        self._pool: ProcessPoolExecutor | None = None

    @classmethod
    def all_cores(cls) -> Processes:
        """As many as this process may use cores, and at most 8."""
        return cls(
            min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST)
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(self, work: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """The results, in order; what `work` raises is raised when its turn comes.

        Other processes get `work` as it is when an item is handed out.

        Raises:
            RunError: A process died, which is most often for want of memory.
        """
        rest = iter(items)
        if self._pool is None:
            begin = time.perf_counter()
            for done, item in enumerate(rest, start=1):
                yield work(item)
                left_s = (time.perf_counter() - begin) / done * (len(items) - done)
                if self._most > 1 and left_s > self._worth_s:
                    break
            else:
                return
            self._pool = ProcessPoolExecutor(self._most, multiprocessing.get_context("spawn"), initializer=_begin)
        under_way: deque[Future[B]] = deque()
        try:
            for item in itertools.islice(rest, self._most + _AHEAD):
                under_way.append(self._hand_out(self._pool, work, item))
            while under_way:
                result = under_way.popleft().result()
                for item in itertools.islice(rest, 1):
                    under_way.append(self._hand_out(self._pool, work, item))
                yield result
        except BrokenProcessPool:
            raise RunError("one of several processes died, most likely for want of memory") from None
        finally:
            for one in under_way:
                one.cancel()

    @staticmethod
    def _hand_out(pool: ProcessPoolExecutor, work: Callable[[A], B], item: A) -> Future[B]:
        # Pickled here and now: the pool would do it in a thread, while the work may be changed by a result.
        return pool.submit(_work, pickle.dumps((work, item)))


def _work(pickled: bytes) -> Any:
    work, item = pickle.loads(pickled)  # noqa: S301 - from the parent process
    return work(item)


def _begin() -> None:
    """In a new process: the parent answers Ctrl-C, and nobody outlives the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            wait([parent.sentinel])
        os._exit(1)
