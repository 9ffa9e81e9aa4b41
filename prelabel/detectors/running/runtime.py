"""Import TensorFlow quietly, configure its threads and GPU memory before its first operation, and give it arrays."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.aligned import aligned_empty, is_aligned
from prelabel.errors import DetectorError
from prelabel.processes import hidden
from prelabel.words import install_hint

_log = logging.getLogger(__name__)


def tensorflow(*, keras: bool = True) -> Any:
    """Import TensorFlow and return the module. Its output on standard error is shown only if the import fails.

    Args:
        keras: False imports TensorFlow as if Keras were not installed, which saves a fifth of the time (Keras imports
            pandas). `import tensorflow.keras` fails in this process afterwards, so use it in separate processes only.
            Models load and run without Keras.
    """
    if "tensorflow" not in sys.modules:
        # TensorFlow's C++ code reads both while it loads. Values that the user has set are kept.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        with _quiet_stderr(), _without_collections(), contextlib.nullcontext() if keras else hidden("keras"):
            importlib.import_module("tensorflow")
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return sys.modules["tensorflow"]


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """The tensor of an array on this machine's memory; the array must not be changed as long as the tensor is in use.

    An aligned array shares its memory with the tensor, any other is copied into one; `tf.constant` copies both twice.
    """
    tf = tensorflow()
    if array.dtype.kind not in "uif":  # strings, bfloat16
        return tf.constant(array)
    if not (is_aligned(array) and array.flags.writeable):  # the protocol has no arrays that are read-only
        copy = aligned_empty(array.shape, array.dtype.type)
        np.copyto(copy, array)
        array = copy
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def as_array(tensor: Any) -> npt.NDArray[Any]:
    """The values of a tensor, read-only and without a copy if they are in this machine's memory."""
    # A scalar of bfloat16 has no view.
    return np.asarray(tensor if tensor.shape.rank else tensor.numpy())


def configure(threads: int, gpus: float = 0.0, streams: int = 1) -> Any:
    """Configure TensorFlow for this process and return the module. Call this before anything else uses TensorFlow.

    Args:
        threads: Threads of all streams together. A stream with one of them runs its operations one after the other,
            since two at a time would need a second core; with more, it runs two at a time.
        gpus: GPUs of this process. Below 1, memory is limited to that fraction of the visible GPU's memory; from 1 on,
            it grows as needed; 0 hides all GPUs from this process.
        streams: Number of threads that run the same network at the same time.

    Raises:
        DetectorError: A GPU was given, but TensorFlow sees none or has allocated its memory already. (If only its
            threads have been started already, a warning is logged.)
    """
    tf = tensorflow()
    config = tf.config
    # The first query of devices prints an error if there is no GPU. Hide it if this process is to use none.
    with contextlib.nullcontext() if gpus else _quiet_stderr():
        try:
            each = math.ceil(threads / streams)  # rounded up, so that no thread is left over
            config.threading.set_intra_op_parallelism_threads(each)
            config.threading.set_inter_op_parallelism_threads(min(streams * min(each, 2), max(streams, threads)))
            if not gpus:
                config.set_visible_devices([], "GPU")
            is_late = False
        except RuntimeError:
            is_late = True
        if gpus:
            _configure_gpus(config, gpus)
        config.list_logical_devices()
    if is_late:
        _log.warning("TensorFlow was already in use in this process: it keeps its threads and devices")
    return tf


def _configure_gpus(config: Any, gpus: float) -> None:
    devices = config.list_physical_devices("GPU")
    if not devices:
        raise DetectorError(
            f"this worker was given {gpus:g} GPU, but TensorFlow sees none: {install_hint('gpu')} for CUDA's "
            "libraries, check the driver with `nvidia-smi`, or run on CPUs with --gpus-per-worker 0"
        )
    totals = total_memory_mib() if gpus < 1 else []
    try:
        for position, device in enumerate(devices):
            if position < len(totals):
                limit = config.LogicalDeviceConfiguration(memory_limit=int(totals[position] * gpus))
                config.set_logical_device_configuration(device, [limit])
                continue
            if gpus < 1:
                _log.warning("the memory size of %s is unknown: the limit of %g GPU is not enforced", device.name, gpus)
            config.experimental.set_memory_growth(device, enable=True)
    except RuntimeError as error:
        raise DetectorError(
            "TensorFlow was already in use in this process, and GPU memory can only be limited before its first "
            f"operation: load the detector first, or in a separate process ({error})"
        ) from error


def total_memory_mib() -> list[int]:
    """The memory in MiB of each GPU that this process sees, in TensorFlow's order; empty if `nvidia-smi` fails.

    TensorFlow does not report a device's memory before it has allocated it. It numbers GPUs in the order of
    `CUDA_VISIBLE_DEVICES`, whose entries are numbers or prefixes of UUIDs. Like CUDA, it stops at the first bad entry.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in printed.splitlines() if line.strip()]
        gpus = [(index, uuid, int(memory)) for index, uuid, memory in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [memory for _, _, memory in gpus]
    totals = []
    for entry in (part.strip() for part in visible.split(",")):
        matches = [memory for index, uuid, memory in gpus if entry == index or (entry and uuid.startswith(entry))]
        if len(matches) != 1:
            break
        totals.append(matches[0])
    return totals


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the search for reference cycles: an import that only adds objects spends a seventh of its time on it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what C++ code writes to file descriptor 2; show it if the block raises.

    TensorFlow prints its first lines before it reads its log level.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as captured:
        try:
            os.dup2(captured.fileno(), 2)
            yield
        except BaseException:
            os.dup2(saved, 2)
            captured.seek(0)
            os.write(2, captured.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
