"""The Ray cluster of a run: connecting to it, its resources, and the run's metrics.

The metrics appear on the Prometheus endpoint of every node, beside Ray's own, with the prefix `ray_`.

This is the only module that uses private modules of Ray (three of them, with the reason at each use).
`tests/engine/test_cluster.py` fails if they have moved.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import ray
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray.util import metrics

from prelabel.config import LabelOptions
from prelabel.engine.progress import LostWorker, Reporter, Snapshot
from prelabel.errors import ConfigError, RunInterrupted
from prelabel.store.shards import ShardRecord

#: Timeout in seconds for connecting to a cluster's address. Ray itself would try for minutes.
_CONNECT_TIMEOUT_S = 10.0

_AUTH_HINT = ". If the cluster requires a token, set RAY_AUTH_MODE=token and, on another machine, RAY_AUTH_TOKEN"

#: Ray reads this variable whenever it is about to report an unhandled error.
_IGNORE_UNHANDLED = "RAY_IGNORE_UNHANDLED_ERRORS"


def connect(options: LabelOptions, notify: Callable[[str], None]) -> Literal["found", "joined", "started"]:
    """Connect to the cluster at `--ray-address`, or start Ray on this machine; keep an existing connection.

    Args:
        options: Options of the run.
        notify: Called with the place of the workers, as text, before they start.

    Returns:
        Whether this process was connected already (`found`), joined a cluster (`joined`) or started Ray on this machine
        (`started`). In the last two cases `disconnect` must be called.

    Raises:
        ConfigError: No cluster answers at the address.
        RunInterrupted: SIGTERM was received meanwhile.
    """
    if ray.is_initialized():
        notify(f"on the Ray cluster at {ray.get_runtime_context().gcs_address}, to which this process is connected")
        return "found"
    address = address_of(options.ray_address)
    notify(_where(address, options))
    # The run reports the events of workers; their logs do not belong on the driver's terminal.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with _own_sigterm():
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            if options.ray_address == "auto" and "RAY_ADDRESS" not in os.environ:
                _use_local_token()
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise ConfigError(_refusal(address, error)) from None
    _announce_deaths(enabled=False)
    return "started" if address is None else "joined"


def _where(address: str | None, options: LabelOptions) -> str:
    """The place of the workers, as text: the cluster's address, who chose it, and how to avoid one nobody asked for."""
    if address is None:
        return "on Ray, started on this machine for this run"
    where = f"on the Ray cluster at {address}"
    if options.ray_address != "auto":
        return f"{where} (--ray-address)"
    origin = "set in RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "which runs on this machine"
    other = "--runner local to use local processes" if options.runner == "auto" else "--ray-address local to start Ray"
    return f"{where}, {origin}; pass {other} instead"


def _refusal(address: str, error: Exception) -> str:
    """Why a cluster that answers cannot be joined, and what to do."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "ersion mismatch" in text:
        return (
            f"the Ray cluster at {address} cannot be joined: {text[:300]}; use the same versions of Ray and Python, "
            "or pass --runner local"
        )
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    hint = "" if "RAY_AUTH_MODE" in os.environ else _AUTH_HINT
    return f"no Ray cluster answers at {address!r}: {line[:200]}{hint}"


def _use_local_token() -> None:
    """Use this machine's token, if it has one, for the cluster that `ray start` made it part of.

    `ray start --head` makes a cluster require the token in `~/.ray/auth_token` if the file exists, and any local
    `ray.init()` creates the file. `ray.init(address="auto")` sends the token by itself, but not to an explicit address.
    """
    try:
        from ray._private.authentication import authentication_token_setup as ray_token

        enable = ray_token.maybe_enable_token_auth_if_token_available
    except (ImportError, AttributeError):
        return  # a version of Ray whose clusters require no token by default
    logger = logging.getLogger(ray_token.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)  # without the warning, on every run, that the cluster requires a token
    try:
        enable(warn_if_disabled=False)
    finally:
        logger.setLevel(level)


def disconnect() -> None:
    """Disconnect from Ray, and stop it if `connect` started it."""
    ray.shutdown()
    _announce_deaths(enabled=True)


def address_of(option: str) -> str | None:
    """Resolve the value of `--ray-address`.

    Returns:
        Address of the cluster to join, or None to start Ray on this machine.

    Raises:
        ConfigError: No cluster answers at the given address.
    """
    if option == "auto":
        option = os.environ.get("RAY_ADDRESS") or "auto"
    if option == "auto":
        # The file that `ray start` writes on every machine of a cluster. Ray's own "auto" would also join an instance
        # that another program started for itself, and would end together with that program.
        recorded = ray_utils.read_ray_address()
        return recorded if recorded and not _connection_error(recorded) else None
    if option == "local":
        return None
    if error := _connection_error(option):
        raise ConfigError(f"no Ray cluster answers at {option!r}: {error}")
    return option


def _connection_error(address: str) -> str:
    """Return why `HOST:PORT` or `ray://HOST:PORT` cannot be connected to, or `""`."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return "the address must end with :PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ""


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Restore the process's own SIGTERM handler: Ray replaces it with one that raises SystemExit at any point."""
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


def _announce_deaths(*, enabled: bool) -> None:
    """Switch Ray's own output on or off: a paragraph per dead worker and a traceback per unhandled task error.

    The run reports deaths and errors itself. For deaths Ray has no public switch; its debugger uses this one.
    """
    ray_worker._worker_logs_enabled = enabled
    if enabled:
        os.environ.pop(_IGNORE_UNHANDLED, None)
    else:
        os.environ[_IGNORE_UNHANDLED] = "1"


def log_folder() -> str:
    """Folder with the output of workers, on each node of the cluster that was started with the same settings."""
    # There is no public function. A client (`ray://`) has no node of its own.
    node = ray_worker._global_node
    return "/tmp/ray/session_latest/logs" if node is None else str(node.get_logs_dir_path())  # noqa: S108 - as Ray does


def alive_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of each living node, by node id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def capacity(cpus: float, gpus: float) -> int:
    """Return how many workers with these resources fit the current cluster; at least 1."""
    return max(1, sum(places(cpus, gpus)))


def places(cpus: float, gpus: float) -> list[int]:
    """Return how many workers with these resources fit each node of the current cluster, most first."""
    fit = [
        int(min(node.get("CPU", 0.0) / cpus + 1e-9, _gpu_slots(node.get("GPU", 0.0), gpus)))
        for node in alive_nodes().values()
    ]
    return sorted(filter(None, fit), reverse=True)


def _gpu_slots(gpus: float, per_worker: float) -> float:
    if per_worker == 0:
        return math.inf
    # A fraction never spans two GPUs.
    return gpus * int(1 / per_worker + 1e-9) if per_worker < 1 else gpus // per_worker


def gpus_per_worker(options: LabelOptions) -> float:
    """Return the given `--gpus-per-worker`; without it 1 if the cluster has GPUs, otherwise 0."""
    if options.gpus_per_worker is not None:
        return options.gpus_per_worker
    return 1.0 if any(node.get("GPU") for node in alive_nodes().values()) else 0.0


def require_possible(cpus: float, gpus: float) -> None:
    """Check that one worker fits this machine, for a Ray instance that no other node will join.

    Raises:
        ConfigError: It does not fit.
    """
    for node in alive_nodes().values():
        if cpus > node.get("CPU", 0.0) or gpus > node.get("GPU", 0.0):
            raise ConfigError(
                f"a worker needs {cpus:g} CPU and {gpus:g} GPU, but this machine offers Ray "
                f"{node.get('CPU', 0.0):g} CPU and {node.get('GPU', 0.0):g} GPU"
            )


class MetricsReporter(Reporter):
    """Publishes lost workers, progress and shards as Ray metrics. Requires a connection to Ray.

    Only the driver publishes metrics: it receives all shard records and worker statuses anyway.

    Args:
        run_id: Value of the label `run`.
        detector: Value of the label `detector`.
        streams: Images that each worker runs at the same time.
    """

    def __init__(self, run_id: str, detector: str, streams: int = 1) -> None:
        self._labels = {"run": run_id, "detector": detector}
        self._streams = streams
        keys = tuple(self._labels)

        def counter(name: str, description: str, *labels: str) -> metrics.Counter:
            return metrics.Counter(f"prelabel_{name}", description, tag_keys=(*keys, *labels))

        def gauge(name: str, description: str) -> metrics.Gauge:
            return metrics.Gauge(f"prelabel_{name}", description, tag_keys=keys)

        self._images = counter("images", "Rows of published shards; a retried shard counts again.", "status")
        self._failures = counter("failures", "Failed images of published shards by error class.", "reason")
        self._seconds = counter("stage_seconds", "Seconds of published shards by stage, summed over workers.", "stage")
        self._detections = counter("detections", "Detections of published shards.")
        self._dropped = counter(
            "dropped_detections", "Detections dropped: numbers that are not finite, or boxes empty inside the image."
        )
        self._shards = counter("shards", "Published shards.")
        self._deaths = counter("worker_deaths", "Workers that died, hung or were lost.")
        self._exclusions = counter(
            "workers_left_out", "Workers that were excluded because of the errors they reported."
        )
        self._planned = gauge("images_planned", "Images of the run.")
        self._done = gauge("images_done", "Images done, including those of unfinished shards.")
        self._queue = gauge("images_left", "Images not done yet.")
        self._rate = gauge("images_per_second", "Images per second over the last 30 seconds.")
        self._workers = gauge("workers", "Workers that have loaded their detector.")
        self._busy = gauge("busy_share", "Share of the workers' time in which the detector ran.")
        self._detect_s = self._stream_s = 0.0
        self._updated_at = time.monotonic()

    def lost(self, worker: LostWorker) -> None:
        (self._exclusions if worker.is_excluded else self._deaths).inc(1, self._labels)

    def progress(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        self._stream_s += snapshot.workers * self._streams * (now - self._updated_at)
        self._updated_at = now
        self._planned.set(snapshot.images, self._labels)
        self._done.set(snapshot.done, self._labels)
        self._queue.set(snapshot.images - snapshot.done, self._labels)
        self._rate.set(snapshot.images_per_s, self._labels)
        self._workers.set(snapshot.workers, self._labels)
        if self._stream_s:
            self._busy.set(min(1.0, self._detect_s / self._stream_s), self._labels)

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        self._shards.inc(1, self._labels)
        _add(self._images, record.rows - record.failed, {**self._labels, "status": "ok"})
        _add(self._images, record.failed, {**self._labels, "status": "failed"})
        _add(self._detections, record.detections, self._labels)
        _add(self._dropped, record.dropped, self._labels)
        for reason, count in record.failures.items():
            _add(self._failures, count, {**self._labels, "reason": reason})
        for stage, spent in record.seconds.items():
            _add(self._seconds, spent, {**self._labels, "stage": stage})
        self._detect_s += record.seconds.get("detect", 0.0)


def _add(counter: metrics.Counter, value: float, labels: dict[str, str]) -> None:
    if value > 0:  # Ray refuses to add 0
        counter.inc(value, labels)
