"""TensorFlow's own settings, made in one place and before its first operation: threads, GPU memory, quiet."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from prelabel.errors import DetectorError

_log = logging.getLogger(__name__)
Runner = Callable[[list[str]], str]


def tensorflow(*, keras: bool = True) -> Any:
    """The module, imported without its greetings on standard error; what it prints when the import fails is shown.

    Args:
        keras: False leaves Keras (and pandas with it, a fifth of the time) out while TensorFlow is imported, as where
            it is not installed: for a process of our own, since `import tensorflow.keras` fails there afterwards.
            Networks need none of it to be loaded and run.
    """
    if "tensorflow" not in sys.modules:
        # Both are read by the C++ side while it loads; what the user has set stays.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        with _quiet_stderr(), contextlib.nullcontext() if keras else _hidden("keras"):
            importlib.import_module("tensorflow")
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return sys.modules["tensorflow"]


def tensorflow_hub() -> Any:
    """The module, imported without the warning about the old packaging API that it uses."""
    tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tensorflow_hub")


def configure(threads: int, gpus: float = 0.0, runner: Runner | None = None) -> Any:
    """Set TensorFlow up for this process and return the module. Call it before anything else uses TensorFlow.

    Args:
        threads: Threads that compute one operation. Operations run one after the other where this is 1, since a second
            one at the same time would need a second core; otherwise two at a time.
        gpus: This process's share. Below 1, memory of the visible GPU is limited to that fraction of all it has;
            from 1 on it grows as needed; 0 hides all GPUs from this process.
        runner: Runs a command and returns what it prints; tests replace it.

    Raises:
        DetectorError: TensorFlow sees no GPU though a share of one was given, or has taken its memory already. (That it
            has its threads already is a warning only.)
    """
    tf = tensorflow()
    config = tf.config
    # The first look for devices complains where there is no GPU; that is no news where nobody asked for one.
    with contextlib.nullcontext() if gpus else _quiet_stderr():
        try:
            config.threading.set_intra_op_parallelism_threads(threads)
            config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 2)
            if not gpus:
                config.set_visible_devices([], "GPU")
            late = False
        except RuntimeError:
            late = True
        if gpus:
            _configure_gpus(config, gpus, runner)
        config.list_logical_devices()
    if late:
        _log.warning("TensorFlow was at work in this process before: it keeps the threads and devices it has")
    return tf


def _configure_gpus(config: Any, gpus: float, runner: Runner | None) -> None:
    devices = config.list_physical_devices("GPU")
    if not devices:
        raise DetectorError(f"a share of {gpus:g} GPU was given to this worker, but TensorFlow sees none")
    totals = total_memory_mib(runner) if gpus < 1 else []
    try:
        for position, device in enumerate(devices):
            if position < len(totals):
                limit = config.LogicalDeviceConfiguration(memory_limit=int(totals[position] * gpus))
                config.set_logical_device_configuration(device, [limit])
                continue
            if gpus < 1:
                _log.warning("the memory of %s is not known: the share of %g is not enforced", device.name, gpus)
            config.experimental.set_memory_growth(device, enable=True)
    except RuntimeError as error:
        raise DetectorError(
            "TensorFlow was at work in this process before: how much GPU memory it takes can be said only before its "
            f"first operation; load the detector first, or in a process of its own ({error})"
        ) from error


def total_memory_mib(runner: Runner | None = None) -> list[int]:
    """Memory of each GPU that this process sees, in TensorFlow's order; empty where `nvidia-smi` cannot say.

    TensorFlow itself tells no device's memory before it has taken it. It numbers the GPUs in the order of
    `CUDA_VISIBLE_DEVICES`, whose entries are numbers or beginnings of UUIDs; like CUDA it stops at the first bad one.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        printed = (runner or _run)(command)
        rows = [[cell.strip() for cell in line.split(",")] for line in printed.splitlines() if line.strip()]
        gpus = [(index, uuid, int(memory)) for index, uuid, memory in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [memory for _, _, memory in gpus]
    totals = []
    for entry in (part.strip() for part in visible.split(",")):
        fitting = [memory for index, uuid, memory in gpus if entry == index or (entry and uuid.startswith(entry))]
        if len(fitting) != 1:
            break
        totals.append(fitting[0])
    return totals


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Have the import of a module fail for the time being, unless it has been imported already."""
    if name in sys.modules:
        yield
        return
    # Of Python: an entry of None says that there is no such module.
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep what C++ code writes to file descriptor 2 off the screen; show it when the block raises.

    TensorFlow's first lines come before its log level is looked at.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # no standard error at all
        yield
        return
    with tempfile.TemporaryFile() as held:
        try:
            os.dup2(held.fileno(), 2)
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
