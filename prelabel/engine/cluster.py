"""The Ray this process works with: found, joined or started; what it offers; its own voice kept down."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import ray
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker

from prelabel.config import LabelOptions
from prelabel.errors import ConfigError, RunInterrupted

#: Seconds a cluster's address may take to answer a connection. Ray itself would try for minutes.
_CONNECT_TIMEOUT_S = 10.0

#: Ray looks at this whenever it has something to say.
_IGNORE_UNHANDLED = "RAY_IGNORE_UNHANDLED_ERRORS"


def connect(options: LabelOptions) -> Literal["found", "joined", "started"]:
    """Join the cluster this process is in, the one named, or start one on this machine.

    Returns:
        Whether this process was in a cluster already, has joined one, or has started Ray on this machine; in the last
        two cases `disconnect` leaves it.

    Raises:
        ConfigError: No cluster answers at the address.
        RunInterrupted: SIGTERM came meanwhile.
    """
    if ray.is_initialized():
        return "found"
    address = address_of(options.address)
    # Workers tell what they do through the run, not through the driver's terminal.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with _own_sigterm():
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                line = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise ConfigError(f"no Ray cluster answers at {address!r}: {line[:200]}") from None
    _announce_deaths(yes=False)
    return "started" if address is None else "joined"


def disconnect() -> None:
    """Leave Ray, and stop it where `connect` started it."""
    ray.shutdown()
    _announce_deaths(yes=True)


def address_of(stated: str) -> str | None:
    """Address of the cluster to join, or None to start Ray on this machine. Raises ConfigError if nobody answers."""
    if stated == "auto":
        stated = os.environ.get("RAY_ADDRESS") or "auto"
    if stated == "auto":
        # What `ray start` has noted down on every machine of a cluster. Ray's own "auto" would besides join a Ray that
        # another program has started for itself, and end when that does.
        noted = ray_utils.read_ray_address()
        return noted if noted and not _refusal(noted) else None
    if stated == "local":
        return None
    refusal = _refusal(stated)
    if refusal:
        raise ConfigError(f"no Ray cluster answers at {stated!r}: {refusal}")
    return stated


def _refusal(address: str) -> str:
    """Why nothing can be connected to at `HOST:PORT` or `ray://HOST:PORT`, or `""`."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return "the address must end with :PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the process's own handler of SIGTERM: Ray replaces it by one that raises SystemExit wherever the code is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        disconnect()
        raise RunInterrupted("stopped while Ray was starting") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _announce_deaths(*, yes: bool) -> None:
    """Whether Ray prints a paragraph about each dead worker and a traceback for each failed task nobody asks after.

    The run reports deaths itself, and a failure once. For deaths there is no public switch; Ray's debugger uses this.
    """
    ray_worker._worker_logs_enabled = yes
    if yes:
        os.environ.pop(_IGNORE_UNHANDLED, None)
    else:
        os.environ[_IGNORE_UNHANDLED] = "1"


def offered() -> dict[str, float]:
    """Resources of the cluster as it is now, used or not."""
    return dict(ray.cluster_resources())


def alive_nodes() -> dict[str, dict[str, float]]:
    """Resources of each node that is alive, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def capacity(cpus: float, gpus: float) -> int:
    """Workers of that need that fit the cluster as it is now, counted node by node; at least 1."""
    fit = 0
    for have in alive_nodes().values():
        fit += int(min(have.get("CPU", 0.0) / cpus + 1e-9, _gpu_slots(have.get("GPU", 0.0), gpus)))
    return max(1, fit)


def _gpu_slots(gpus: float, each: float) -> float:
    if each == 0:
        return math.inf
    # A fraction never spans two GPUs.
    return gpus * int(1 / each + 1e-9) if each < 1 else gpus // each


def gpus_per_worker(options: LabelOptions) -> float:
    """As stated; else 1 where the cluster has any, else 0."""
    if options.gpus_per_worker is not None:
        return options.gpus_per_worker
    return 1.0 if any(have.get("GPU") for have in alive_nodes().values()) else 0.0


def require_possible(cpus: float, gpus: float) -> None:
    """Raise ConfigError where one worker needs more than this machine has: nothing will be added to it."""
    for node in alive_nodes().values():
        if cpus > node.get("CPU", 0.0) or gpus > node.get("GPU", 0.0):
            raise ConfigError(
                f"a worker needs {cpus:g} CPU and {gpus:g} GPU, but this machine offers Ray "
                f"{node.get('CPU', 0.0):g} CPU and {node.get('GPU', 0.0):g} GPU"
            )
