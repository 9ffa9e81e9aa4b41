from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from prelabel.detectors.running import runtime
from prelabel.detectors.running.runtime import total_memory_mib
from prelabel.errors import DetectorError
from tests.messages import tells

TWO = "0, GPU-aaaa-1, 16384\n1, GPU-bbbb-2, 81559\n"


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What runs a command, which prints that two GPUs are there."""
    runs = Mock(return_value=SimpleNamespace(stdout=TWO))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", runs)
    return runs


@pytest.mark.parametrize(
    ("visible", "totals"),
    [
        (None, [16384, 81559]),
        ("0", [16384]),
        ("1,0", [81559, 16384]),
        ("GPU-bbbb", [81559]),
        ("1,7,0", [81559]),
        ("GPU-", []),
        ("-1", []),
        ("", []),
    ],
)
def test_memory_of_the_visible_gpus(
    visible: str | None, totals: list[int], smi: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert total_memory_mib() == totals
    (asked,) = smi.call_args.args
    assert asked == ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.CalledProcessError(9, "nvidia-smi")])
def test_no_nvidia_smi_means_unknown(error: Exception, smi: Mock) -> None:
    smi.side_effect = error
    assert total_memory_mib() == []
    smi.side_effect, smi.return_value.stdout = None, "[N/A], x, [Unknown]\n"
    assert total_memory_mib() == []


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_threads_are_set_and_nothing_is_printed() -> None:
    done = run(
        "from prelabel.detectors.running.runtime import configure\n"
        "tf = configure(3); configure(3)\n"
        "assert tf.config.threading.get_intra_op_parallelism_threads() == 3\n"
        "assert tf.config.threading.get_inter_op_parallelism_threads() == 2\n"
        "assert (tf.constant(1) + 1).numpy() == 2\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("threads", "streams", "intra", "inter"), [(2, 2, 1, 2), (1, 4, 1, 4), (8, 2, 4, 4), (4, 3, 2, 4)]
)
def test_streams_share_the_threads(threads: int, streams: int, intra: int, inter: int) -> None:
    done = run(
        "from prelabel.detectors.running.runtime import configure\n"
        f"threading = configure({threads}, streams={streams}).config.threading\n"
        "print(threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())\n"
    )
    assert done.stdout.split() == [str(intra), str(inter)]


def test_threads_are_unchanged_if_tensorflow_was_already_in_use() -> None:
    done = run(
        "import logging; logging.basicConfig()\n"
        "from prelabel.detectors.running.runtime import configure\n"
        "configure(2); configure(3)\n"
    )
    assert tells(done.stderr, "TensorFlow", "already in use", "threads")
    assert done.returncode == 0


def test_gpu_memory_cannot_be_limited_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(_FakeConfig):
        def set_memory_growth(self, device: str, enable: bool) -> None:
            raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(runtime, "tensorflow", lambda: SimpleNamespace(config=Late()))
    with pytest.raises(DetectorError, match="GPU memory"):
        runtime.configure(1, 1)


def test_share_of_a_missing_gpu_is_an_error() -> None:
    done = run(
        "import os; os.environ['CUDA_VISIBLE_DEVICES'] = '-1'\n"
        "from prelabel.detectors.running.runtime import configure\n"
        "from prelabel.errors import DetectorError\n"
        "try: configure(1, 0.25)\n"
        "except DetectorError as error: print(error)\n"
    )
    assert tells(done.stdout, "0.25 GPU", "none", "prelabel[gpu]", "--gpus-per-worker 0")


class _FakeConfig:
    """Notes what is set; two GPUs are there."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.threading = self.experimental = self

    def __getattr__(self, name: str) -> object:
        return lambda *args, **kwargs: self.calls.append((name, *args, *kwargs.items()))

    def list_physical_devices(self, kind: str) -> list[str]:
        return ["gpu0", "gpu1"]

    def LogicalDeviceConfiguration(self, memory_limit: int) -> int:  # noqa: N802
        return memory_limit


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (
            0.25,
            [
                ("set_logical_device_configuration", "gpu0", [4096]),
                ("set_logical_device_configuration", "gpu1", [20389]),
            ],
        ),
        (2, [("set_memory_growth", "gpu0", ("enable", True)), ("set_memory_growth", "gpu1", ("enable", True))]),
        (0, [("set_visible_devices", [], "GPU")]),
    ],
)
@pytest.mark.usefixtures("smi")
def test_gpu_memory_is_limited_or_grows(
    gpus: float, expected: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _FakeConfig()
    monkeypatch.setattr(runtime, "tensorflow", lambda: SimpleNamespace(config=config))
    runtime.configure(1, gpus)
    assert config.calls == [
        ("set_intra_op_parallelism_threads", 1),
        ("set_inter_op_parallelism_threads", 1),
        *expected,
        ("list_logical_devices",),
    ]


def test_a_separate_process_loads_and_runs_models_without_keras(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from prelabel.detectors.running.runtime import tensorflow\n"
        "tf = tensorflow(keras=False)\n"
        "assert not {'keras', 'tf_keras', 'pandas'} & sys.modules.keys()\n"
        "import gc; assert gc.isenabled()\n"
        "module = tf.Module(); module.double = tf.function(lambda x: 2 * x, [tf.TensorSpec([], tf.float32)])\n"
        f"tf.saved_model.save(module, {str(tmp_path)!r})\n"
        f"print(float(tf.saved_model.load({str(tmp_path)!r}).double(4.0)))\n"
        "import keras\n"
        "print(float(keras.ops.add(1.0, 2.0)), tf.keras.__name__)\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("8.0\n3.0 keras")


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int64", "string"])
def test_values_of_tensors_become_arrays_of_the_same_shape(kind: str) -> None:
    tf = runtime.tensorflow()
    values = ["a", "b"] if kind == "string" else [0, 1]
    expected = [b"a", b"b"] if kind == "string" else values
    assert runtime.as_array(tf.constant(values, kind)).tolist() == expected
    scalar = runtime.as_array(tf.constant(values[1], kind))
    assert (scalar.shape, scalar.tolist()) == ((), expected[1])


def test_an_array_of_a_tensor_is_a_view_that_nothing_writes_to() -> None:
    tensor = runtime.tensorflow().constant([1.0, 2.0])
    assert np.shares_memory(runtime.as_array(tensor), runtime.as_array(tensor))
    assert not runtime.as_array(tensor).flags.writeable
