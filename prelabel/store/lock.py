"""The lock of an output: one job at a time may write it, on disks and in object storage, even if jobs die.

    OUT/lock.json    {"owner": "5f0c...", "host": "gpu-3", "place": "9a31...", "pid": 4711, "process": "88123",
                      "since": "2026-01-31T09:15:00+00:00", "renewed": "2026-01-31T11:02:10+00:00"}

A job creates the file if it does not exist (if several try, the storage lets one succeed), renews it as a heartbeat,
and deletes it at the end. The lock of a dead job is taken over: immediately if the job ran on this machine and its
process no longer exists, otherwise after the file was watched for `STALE_S` seconds and did not change. Clocks of
different machines are not compared, with one exception: a file that was not renewed for `LONG_DEAD_S` is taken over
without watching.

A job that was only suspended may wake up after its lock was taken over. It and its workers check the lock before they
write (`require_held`), so they write nothing more. Deleting the file manually therefore ends the job that held it.
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
from datetime import UTC, datetime
from pathlib import Path

from prelabel.errors import OutputInUseError, PrelabelError, RunInterrupted, StoreError
from prelabel.storage.address import Address, AddressLike, describe
from prelabel.storage.files import Storage
from prelabel.store.run import utc_now

LOCK = "lock.json"

#: Seconds between two renewals.
RENEW_S = 10.0

#: Seconds without a renewal after which a job on another machine is considered dead.
STALE_S = 60.0

#: Upper bound in seconds for the difference of two clocks: S3 refuses requests from clocks that differ by more.
LONG_DEAD_S = 900.0

#: Seconds after a take-over until the job checks whether another job took over at the same moment.
SETTLE_S = 1.0

#: Seconds between two checks of a watched lock.
_WATCH_INTERVAL_S = 1.0

#: Seconds to wait for a renewal under way at the end of a job.
_RENEWAL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Holder:
    """The content of `lock.json`.

    Attributes:
        owner: Random id of the job.
        host: Name of its machine, for messages.
        place: Hash of its machine, the machine's boot and its process namespace: `pid` is comparable in the same place.
        pid: Process id.
        process: Distinguishes the process from a later one with the same id; `""` if unknown.
        since: Time at which the job began, UTC.
        renewed: Time of its last heartbeat, UTC by its own clock.
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
    def heartbeat_age_s(self) -> float:
        """Seconds since its last heartbeat, assuming that both machines' clocks agree."""
        try:
            renewed = datetime.fromisoformat(self.renewed)
            return (datetime.now(UTC) - renewed).total_seconds()
        except (ValueError, TypeError):
            return 0.0


#: Stands for a file without valid content: a job is writing it right now, or died while it did.
_UNREADABLE = Holder("", "an unknown machine", "", 0, "", "an unknown time", "")


class Lock:
    """Holds the lock of an output inside a `with` block.

    Args:
        output: Root of the output.
        storage: Opens the output.
        notify: Receives messages about waiting for another job's lock, and about taking it over.
        stop: Ends the waiting when set. The lock sets it when another job has taken over the output, to end this job.

    Attributes:
        lost: The error with which this job must end, once another job has taken over the output.
    """

    def __init__(
        self, output: AddressLike, storage: Storage, notify: Callable[[str], None], stop: threading.Event
    ) -> None:
        self._output, self._storage = Address.of_folder(output), storage
        self._notify, self._stop = notify, stop
        self._file = self._output.join(LOCK)
        now = utc_now()
        self._holder = Holder(
            uuid.uuid4().hex, socket.gethostname(), _place(), os.getpid(), _process(os.getpid()), now, now
        )
        self.lost: OutputInUseError | None = None
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lock", daemon=True)

    @property
    def owner(self) -> str:
        """Id of this job in the lock file."""
        return self._holder.owner

    def __enter__(self) -> Lock:
        """Acquire the lock.

        Raises:
            OutputInUseError: Another job is writing to this output.
            StoreError: The output cannot be written to.
            RunInterrupted: `stop` was set while another job's lock was watched.
        """
        self._acquire()
        self._renewing.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._renewing.join(_RENEWAL_TIMEOUT_S)
        # If the file cannot be deleted, the next job finds out that this one is dead.
        with contextlib.suppress(OSError, PrelabelError):
            holder = read_lock(self._output, self._storage)
            if holder is not None and holder.owner == self.owner and not self._renewing.is_alive():
                self._storage.delete(self._file)

    def require(self) -> None:
        """Raise OutputInUseError if this job no longer holds the output."""
        require_held(self._output, self._storage, self.owner)

    def _acquire(self) -> None:
        watched: Holder | None = None
        unchanged_since = time.monotonic()
        while True:
            holder = read_lock(self._output, self._storage)
            if holder is None:
                self._storage.create(self._file, self._content())
                holder = read_lock(self._output, self._storage)
            if holder is None:
                continue  # deleted just now
            if holder.owner == self.owner:
                return
            if watched is None:
                watched, unchanged_since = holder, time.monotonic()
            if _is_dead(holder) or (holder == watched and time.monotonic() - unchanged_since > STALE_S):
                self._take_over(holder)
                watched = None
            elif holder.place == self._holder.place or holder != watched:
                raise OutputInUseError(
                    f"another job is writing to {self._output} ({holder}): wait for it to finish, stop it, or use "
                    "another --output"
                )
            elif self._stop.is_set():
                raise RunInterrupted("stopped while waiting for another job's lock; nothing was changed")
            else:
                if time.monotonic() - unchanged_since < _WATCH_INTERVAL_S:
                    self._notify(
                        f"{self._output} is locked by {holder}; taking over after {STALE_S:g} s without a heartbeat"
                    )
                self._stop.wait(_WATCH_INTERVAL_S)

    def _take_over(self, holder: Holder) -> None:
        self._notify(f"the job that locked {self._output} is dead ({holder}); taking over")
        self._storage.publish(self._file, self._content())
        # Another job may take over at the same moment: the last writer wins, and the other one notices it below or at
        # its first renewal.
        time.sleep(SETTLE_S)

    def _content(self) -> bytes:
        return (json.dumps(asdict(replace(self._holder, renewed=utc_now())), indent=1) + "\n").encode()

    def _renew(self) -> None:
        pause = min(1.0, RENEW_S)
        while not self._ended.wait(pause):
            pause = min(2 * pause, RENEW_S)
            try:
                self.require()
                self._storage.publish(self._file, self._content())
            except OutputInUseError as error:
                self.lost = error
                self._stop.set()
                return
            except (OSError, PrelabelError):
                continue  # storage problems are reported where the job writes


def require_held(output: AddressLike, storage: Storage, owner: str) -> None:
    """Check that an output is still locked by `owner`.

    Raises:
        OutputInUseError: It is not.
        StoreError: The lock file cannot be read.
    """
    output = Address.of_folder(output)
    holder = read_lock(output, storage)
    if holder is None:
        raise OutputInUseError(f"{output.join(LOCK)} is missing: this job no longer holds the output")
    if holder.owner != owner and holder is not _UNREADABLE:
        raise OutputInUseError(f"another job has taken over {output} ({holder}); this job stops writing")


def read_lock(output: AddressLike, storage: Storage) -> Holder | None:
    """Return the holder of an output's lock, or None.

    Raises:
        StoreError: The lock file cannot be read.
    """
    file = Address.of_folder(output).join(LOCK)
    try:
        holder = Holder(**json.loads(storage.read(file)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {describe(error)}") from error
    except (ValueError, TypeError):
        return _UNREADABLE
    texts = (value for name, value in asdict(holder).items() if name != "pid")
    return holder if isinstance(holder.pid, int) and all(isinstance(text, str) for text in texts) else _UNREADABLE


def _is_dead(holder: Holder) -> bool:
    if holder.place == _place():
        return _process(holder.pid) != holder.process or holder.heartbeat_age_s > STALE_S
    return holder.heartbeat_age_s > LONG_DEAD_S


@functools.cache
def _place() -> str:
    """Return the hash for `Holder.place`: host name, boot id and process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _process(pid: int) -> str:
    """Return the start time of a process in clock ticks, `"alive"` if unavailable, `""` if the process is gone."""
    try:
        # The state follows the name, which may contain any character; the start time is the 22nd field.
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
