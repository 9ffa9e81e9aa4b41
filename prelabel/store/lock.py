"""Who writes an output: one job at a time, on disks and on object stores alike, whatever becomes of the others.

    OUT/lock.json    {"owner": "5f0c...", "host": "gpu-3", "place": "9a31...", "pid": 4711, "process": "88123",
                      "since": "2026-01-31T09:15:00+00:00", "renewed": "2026-01-31T11:02:10+00:00"}

A job creates the file where there is none (of several that try, a store lets one), renews it while it lives and deletes
it at its end. A lock whose job is dead is taken over: at once where the process was on this machine and is gone, else
after `STALE_S` seconds in which the file was watched and did not change; no two machines' clocks are compared, except
that a file not renewed for `LONG_DEAD_S` by any clock needs no watching.

A job that was only frozen may wake up after that. Nothing that it or its workers still want to write is written: they
look at the lock first (`require_held`). Deleting the file by hand therefore ends the job that held it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from prelabel.errors import OutputInUseError, PrelabelError, RunInterrupted, StoreError
from prelabel.storage import Storage, describe, join, redact

LOCK = "lock.json"

#: Seconds between two renewals.
RENEW_S = 10.0

#: Seconds without a renewal after which a job elsewhere counts as dead.
STALE_S = 60.0

#: Seconds that no two clocks differ by: S3 itself refuses requests that are so far off.
LONG_DEAD_S = 900.0

#: Seconds after which somebody who takes over looks whether somebody else has at the same moment.
SETTLE_S = 1.0

#: Seconds between two looks at a lock that is watched.
_LOOK_S = 1.0

#: Seconds that the end of a job waits for a renewal under way.
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Holder:
    """The content of `lock.json`.

    Attributes:
        owner: The job, a random name.
        host: Its machine, for people.
        place: Its machine since that was started, and what sees the same process ids there; a hash.
        pid: Its process there.
        process: What tells it from a later process of that number, or `""`.
        since: When it began, UTC.
        renewed: When it last said that it lives, UTC by its own clock.
    """

    owner: str
    host: str
    place: str
    pid: int
    process: str
    since: str
    renewed: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since[:19].replace('T', ' ')} UTC"

    @property
    def silent_s(self) -> float:
        """Seconds since its last renewal, if this machine's clock goes as its own does."""
        try:
            renewed = datetime.fromisoformat(self.renewed)
            return (datetime.now(timezone.utc) - renewed).total_seconds()
        except (ValueError, TypeError):
            return 0.0


#: Stands for a file that says nothing: somebody is writing it right now, or died while doing so.
_UNREADABLE = Holder("", "an unknown machine", "", 0, "", "an unknown time", "")


class Lock:
    """Holds an output inside a `with` block.

    Args:
        output: Root of the output.
        storage: Opens it.
        say: Hears what is waited for.
        stop: Ends the waiting when set; is set when the output was taken over, so that the job ends.

    Attributes:
        lost: Why this job must end, once that is so.
    """

    def __init__(self, output: str, storage: Storage, say: Callable[[str], None], stop: threading.Event) -> None:
        self._output, self._storage, self._say, self._stop = output, storage, say, stop
        self._url = join(output, LOCK)
        now = _now()
        self._me = Holder(
            uuid.uuid4().hex, socket.gethostname(), _place(), os.getpid(), _process(os.getpid()), now, now
        )
        self.lost: OutputInUseError | None = None
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lock", daemon=True)

    @property
    def owner(self) -> str:
        """The name under which it is held."""
        return self._me.owner

    def __enter__(self) -> Lock:
        """Raises OutputInUseError where another job writes this output, StoreError where nothing can be written."""
        self._acquire()
        self._renewing.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._renewing.join(_PATIENCE_S)
        # What cannot be deleted is seen to be dead by whoever comes next.
        with contextlib.suppress(OSError, PrelabelError):
            held = read_lock(self._output, self._storage)
            if held is not None and held.owner == self.owner and not self._renewing.is_alive():
                self._storage.delete(self._url)

    def require(self) -> None:
        """Raises OutputInUseError when the output is not this job's any more."""
        require_held(self._output, self._storage, self.owner)

    def _acquire(self) -> None:
        watched: Holder | None = None
        still_since = time.monotonic()
        while True:
            held = read_lock(self._output, self._storage)
            if held is None:
                self._storage.create(self._url, self._content())
                held = read_lock(self._output, self._storage)
            if held is None:
                continue  # deleted this moment
            if held.owner == self.owner:
                return
            if watched is None:
                watched, still_since = held, time.monotonic()
            if _is_dead(held) or (held == watched and time.monotonic() - still_since > STALE_S):
                self._take_over(held)
                watched = None
            elif held.place == self._me.place or held != watched:
                raise self._in_use(held)
            elif self._stop.is_set():
                raise RunInterrupted("stopped while another job's lock was watched; nothing was changed")
            else:
                if time.monotonic() - still_since < _LOOK_S:
                    self._say(f"{redact(self._output)} is held by {held}: taken over if silent for {STALE_S:g} s")
                self._stop.wait(_LOOK_S)

    def _take_over(self, held: Holder) -> None:
        self._say(f"the job that held {redact(self._output)} is dead ({held}): it is taken over")
        self._storage.publish(self._url, self._content())
        # Somebody else may do the same now: who wrote last has it, and the first renewals tell the other.
        time.sleep(SETTLE_S)

    def _in_use(self, held: Holder) -> OutputInUseError:
        return OutputInUseError(
            f"another job writes {redact(self._output)} ({held}): wait for its end, stop it, or give another --output"
        )

    def _content(self) -> bytes:
        return (json.dumps(asdict(replace(self._me, renewed=_now())), indent=1) + "\n").encode()

    def _renew(self) -> None:
        pause = min(1.0, RENEW_S)
        while not self._ended.wait(pause):
            pause = min(2 * pause, RENEW_S)
            try:
                self.require()
                self._storage.publish(self._url, self._content())
            except OutputInUseError as error:
                self.lost = error
                self._stop.set()
                return
            except (OSError, PrelabelError):
                continue  # the store is in trouble; whoever wants to write will say so


def require_held(output: str, storage: Storage, owner: str) -> None:
    """Look whether an output is still held by that owner.

    Raises:
        OutputInUseError: It is not.
        StoreError: The store cannot say.
    """
    held = read_lock(output, storage)
    if held is None:
        raise OutputInUseError(f"{redact(join(output, LOCK))} is gone: this job does not hold the output any more")
    if held.owner != owner and held is not _UNREADABLE:
        raise OutputInUseError(f"another job has taken over {redact(output)} ({held}); this one writes nothing more")


def read_lock(output: str, storage: Storage) -> Holder | None:
    """Who holds an output, or None. Raises StoreError where the store cannot say."""
    url = join(output, LOCK)
    try:
        holder = Holder(**json.loads(storage.read(url)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{redact(url)} cannot be read: {describe(error)}") from error
    except (ValueError, TypeError):
        return _UNREADABLE
    texts = (value for name, value in asdict(holder).items() if name != "pid")
    return holder if isinstance(holder.pid, int) and all(isinstance(text, str) for text in texts) else _UNREADABLE


def _is_dead(held: Holder) -> bool:
    if held.place == _place():
        return _process(held.pid) != held.process or held.silent_s > STALE_S
    return held.silent_s > LONG_DEAD_S


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@functools.cache
def _place() -> str:
    """This machine since its start, in the name space of processes this one is in."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _process(pid: int) -> str:
    """The start of a process in the system's own count, `"alive"` where it has none, `""` for one that is not there."""
    try:
        # The state is behind the name, which may hold anything; the start is the 22nd field of all.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "alive"
    except OSError:
        return ""
    return "alive"
