"""Apply a function to many items, in this process or in several, with the results in the order of the items.

    with Processes.all_cores() as processes:
        for text in processes.map(work, shards):
            ...

The first items run in this process. Starting more processes takes about half a second, so they are started only if the
remaining items would take long, and this process works alone until the first of them is ready. After that, it works on
items as well: while the next result is not there, it takes the next item. The processes are spawned rather than forked,
so they share no threads or connections with this process, and the function, the items and the results are pickled. The
processes do not import the main script, so it needs no `if __name__ == "__main__":`, and the function must be in a
module.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, TypeVar

import pyarrow

from prelabel.errors import RunError

A = TypeVar("A")
B = TypeVar("B")

#: Maximum number of processes of `all_cores`: with more, the process that collects the results would be the bottleneck,
#: and each process takes memory.
_MAX_PROCESSES = 8

#: Start processes if the remaining items would take this process longer than this, in seconds; the second, if work
#: follows that takes several times as long.
_MIN_REMAINING_S, _MIN_REMAINING_BEFORE_MORE_S = 2.0, 0.25

#: Items submitted in addition to one per process.
_AHEAD = 2

#: Most results that wait in memory, per process.
_MOST_WAITING = 4

#: New objects after which Python searches for reference cycles, unless it does so later or never. The thousands of
#: objects that a result consists of are not garbage before it is used.
_COLLECT_AFTER = 10_000


class Processes:
    """A pool of processes that starts only if it saves time and ends with the `with` block."""

    def __init__(self, processes: int = 1, *, at_once: bool = False) -> None:
        """Create the pool without starting a process.

        Args:
            processes: Number of processes that work at the same time, with this one; with 1, it does everything.
            at_once: Start the others after the first item and wait for them, however little remains.
        """
        self._processes = processes
        self._at_once = at_once
        self._pool: ProcessPoolExecutor | None = None
        # Done when a process can work.
        self._ready: Future[None] | None = None
        # The processes see that this end has been closed.
        self._until_stopped: Connection | None = None
        self._collect_after = gc.get_threshold()

    @classmethod
    def all_cores(cls) -> Processes:
        """A pool with one process per available core, up to 8."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(min(cores, _MAX_PROCESSES))

    def __enter__(self) -> Processes:
        self._collect_after = _collect_later()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        gc.set_threshold(*self._collect_after)
        if self._pool is None or self._until_stopped is None:
            return
        if error is not None:
            self._until_stopped.close()
        self._pool.shutdown(cancel_futures=True)
        self._until_stopped.close()
        self._pool = self._ready = self._until_stopped = None

    @property
    def several(self) -> bool:
        """Whether other processes may work."""
        return self._processes > 1

    def map(self, work: Callable[[A], B], items: Sequence[A], *, more_follows: bool = False) -> Iterator[B]:
        """Yield the results in order. An exception of `work` is raised in place of its result.

        Args:
            work: Makes a result. Processes receive it in the state it has when an item is submitted.
            items: What it is made of.
            more_follows: Whether work follows that takes several times as long: then processes are started sooner.

        Raises:
            RunError: A process died, usually because memory ran out.
        """
        rest = iter(items)
        try:
            least_s = _MIN_REMAINING_BEFORE_MORE_S if more_follows else _MIN_REMAINING_S
            yield from self._alone(work, rest, len(items), least_s)
            yield from self._together(work, rest)
        except BrokenProcessPool:
            raise RunError("a process died, most likely because memory ran out") from None

    def _alone(self, work: Callable[[A], B], rest: Iterator[A], count: int, min_remaining_s: float) -> Iterator[B]:
        """The results of the first of so many items, until the other processes are ready."""
        begin = time.perf_counter()
        done = 0
        while self._ready is None or not self._ready.done():
            own = list(itertools.islice(rest, 1))
            if not own:
                return
            yield work(own[0])
            done += 1
            remaining_s = (time.perf_counter() - begin) / done * (count - done)
            if self._at_once or remaining_s > min_remaining_s:
                self._start(work)

    def _together(self, work: Callable[[A], B], rest: Iterator[A]) -> Iterator[B]:
        """The results of the other items, from all processes."""
        most = _MOST_WAITING * self._processes
        pending: deque[Future[B]] = deque()
        try:
            while True:
                unfinished = sum(not result.done() for result in pending)
                room = min(self._processes - 1 + _AHEAD - unfinished, most - len(pending))
                for item in itertools.islice(rest, max(room, 0)):
                    pending.append(self._submit(_work, work, item))
                if not pending:
                    return
                must_wait = not pending[0].done() and len(pending) < most
                if own := list(itertools.islice(rest, int(must_wait))):
                    pending.append(_result_of(work, own[0]))
                else:
                    yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _start(self, work: Callable[[Any], Any]) -> None:
        """Start the processes, if there are to be any; they import what the work needs."""
        if self._pool is not None or not self.several:
            return
        context = multiprocessing.get_context("spawn")
        stopped, self._until_stopped = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self._processes - 1, context, initializer=_set_up, initargs=(stopped,))
        for _ in range(self._processes - 1):  # each submission starts a process while none is idle
            self._ready = self._submit(_import, work, None)
        if self._at_once and self._ready is not None:
            futures.wait([self._ready])

    def _submit(self, run: Callable[[bytes], Any], work: Callable[[A], B], item: A | None) -> Future[Any]:
        if self._pool is None:
            raise RuntimeError("the processes have not been started")
        # Pickle here: the pool would pickle later, in a thread, and by then a result may have changed `work`.
        pickled = pickle.dumps((work, item))
        with _hidden_script():
            return self._pool.submit(run, pickled)


def _collect_later() -> tuple[int, int, int]:
    """Let Python search for reference cycles less often. Returns its thresholds before."""
    before = gc.get_threshold()
    if 0 < before[0] < _COLLECT_AFTER:
        gc.set_threshold(_COLLECT_AFTER, *before[1:])
    return before


def _result_of(work: Callable[[A], B], item: A) -> Future[B]:
    """The result of an item that this process works on; an exception is raised when its turn comes."""
    result: Future[B] = Future()
    try:
        result.set_result(work(item))
    except Exception as error:  # noqa: BLE001 - raised again by the result
        result.set_exception(error)
    return result


@contextlib.contextmanager
def _hidden_script() -> Iterator[None]:
    """Hide the main script from `multiprocessing`, which would run it again in each process that it spawns."""
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        main.update(hidden)


@contextlib.contextmanager
def hidden(name: str) -> Iterator[None]:
    """Make the import of a module fail inside the block, in all threads, unless it has been imported already."""
    if name in sys.modules:
        yield
        return
    finder = _NotInstalled(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _NotInstalled(MetaPathFinder, Loader):
    """Finds one module, and fails to load it.

    Code that only looks for the module finds one without a file. None in `sys.modules` has the same effect on Python
    code, but compiled code takes it for the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError(f"No module named {self._name!r}", name=self._name)


def without_pandas() -> None:
    """Keep pyarrow from importing pandas in this process, where it is installed.

    pyarrow imports it to convert the first list, which takes a quarter of a second, and never tries again.
    `Table.to_pandas` fails afterwards, so this is for processes that run no code of users.
    """
    with hidden("pandas"):
        pyarrow.array([0])


def is_child() -> bool:
    """Whether this process was started by another one to work for it."""
    return multiprocessing.parent_process() is not None


class StoppedError(Exception):
    """Nobody waits for the results of this process any more."""


_stopped = threading.Event()


def raise_if_stopped() -> None:
    """Raise StoppedError if an error or Ctrl-C has ended the work that this process was started for.

    Call it before each of several things that can be seen from outside, such as files.
    """
    if _stopped.is_set():
        raise StoppedError


def _import(pickled: bytes) -> None:
    """Import the modules of a function."""
    pickle.loads(pickled)  # noqa: S301 - as in `_work`


def _work(pickled: bytes) -> Any:
    raise_if_stopped()
    work, item = pickle.loads(pickled)  # noqa: S301 - from the parent process
    return work(item)


def _set_up(stopped: Connection) -> None:
    """Set up a new process: ignore Ctrl-C, which the parent handles, and exit when the parent exits."""
    _collect_later()
    without_pandas()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(stopped,), daemon=True).start()


def _exit_with_parent(stopped: Connection) -> None:
    """Set `_stopped` when the parent closes its end of a connection, and exit when the parent exits."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            if parent.sentinel not in wait([parent.sentinel, stopped]):
                _stopped.set()
                wait([parent.sentinel])
        os._exit(1)
