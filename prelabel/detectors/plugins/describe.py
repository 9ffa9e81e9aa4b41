"""What a detector says about itself, asked in a process of its own: its code may load a model, or crash.

    this process -> standard input of the other: the request, as JSON
    a file       -> this process: the description, or the error, as JSON

The process that starts a run loads no detector itself. The other process sees no GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prelabel import errors
from prelabel.detections import ClassName
from prelabel.detectors.base import DetectorInfo, DetectorRecord
from prelabel.detectors.plugins.addresses import FactoryAddress
from prelabel.errors import ConfigError, DetectorError, RunInterrupted
from prelabel.keypoints import KeypointSet
from prelabel.storage.address import one_line

_CODE = "import sys; sys.path[:] = {path!r}; from prelabel.detectors.plugins.describe import main; main()"

#: Seconds between two checks whether the run is to stop.
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class PluginDescription:
    """What is known of a detector without loading it in this process.

    Attributes:
        address: Its factory.
        info: What it says about itself.
        fingerprint: See `fingerprint_of_detector`.
        batch_size: The largest number of images per call.
        load_s: Seconds that the import and the factory took.
        trial_s: Seconds of its second run on a gray image, or None if it was not tried.
    """

    address: FactoryAddress
    info: DetectorInfo
    fingerprint: str
    batch_size: int
    load_s: float
    trial_s: float | None = None

    @property
    def record(self) -> DetectorRecord:
        """Its record for `run.json`."""
        return DetectorRecord(
            name=self.info.name,
            address=str(self.address),
            fingerprint=self.fingerprint,
            model_version=f"{self.info.name}-{self.fingerprint[:8]}",
            convention="Python code",
            masks=self.info.masks,
            classes=None if self.info.classes is None else tuple(self.info.classes),
            reading={},
            notes=tuple(self.info.notes),
            keypoints=self.info.keypoints,
        )


def describe_plugin(
    address: FactoryAddress,
    options: Mapping[str, str],
    *,
    try_it: bool = False,
    stop: threading.Event | None = None,
) -> PluginDescription:
    """Make the detector in another process, and return what it says about itself.

    Args:
        address: Its factory.
        options: Keywords for the factory.
        try_it: Whether to run it on a gray image, to check what it returns.
        stop: Ends the wait when set.

    Raises:
        ConfigError: There is no such factory, or it does not accept the options.
        DetectorError: The code fails, or what the factory returns is not a detector.
        RunInterrupted: `stop` was set.
    """
    with tempfile.TemporaryDirectory(prefix="prelabel-") as folder:
        answer = Path(folder) / "answer.json"
        request = {"address": asdict(address), "options": dict(options), "try": try_it, "answer": str(answer)}
        with tempfile.TemporaryFile() as printed:
            # Libraries print what they like; only the end of a process that died is shown.
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE.format(path=sys.path), "prelabel describe"],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                start_new_session=True,  # Ctrl-C goes to this process only
            )
            try:
                _send(process, json.dumps(request).encode())
                while process.poll() is None:
                    if stop is not None and stop.is_set():
                        raise RunInterrupted("stopped while the detector was being loaded; nothing was changed")
                    time.sleep(_POLL_S)
            finally:
                process.kill()
                process.wait()
            if not answer.is_file():
                printed.seek(0)
                lines = printed.read().decode("utf-8", "replace").strip().splitlines()
                last = f"; it printed last: {one_line(lines[-1])}" if lines else ""
                raise DetectorError(
                    f"detector {str(address)!r}: the process that loaded it ended with code {process.returncode}{last}"
                )
        return _read(address, json.loads(answer.read_text(encoding="utf-8")))


def _send(process: subprocess.Popen[bytes], request: bytes) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it has died, which is reported later
            process.stdin.write(request)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _read(address: FactoryAddress, answer: Mapping[str, Any]) -> PluginDescription:
    if "error" in answer:
        kind = ConfigError if answer["kind"] == ConfigError.__name__ else DetectorError
        raise kind(answer["error"])
    values = answer["info"]
    classes, keypoints = values["classes"], values["keypoints"]
    info = DetectorInfo(
        name=values["name"],
        classes=None if classes is None else [ClassName(**each) for each in classes],
        masks=values["masks"],
        files=values["files"],
        input_size=values["input_size"],
        notes=values["notes"],
        keypoints=None if keypoints is None else _keypoints(keypoints),
    )
    return PluginDescription(
        address, info, answer["fingerprint"], answer["batch_size"], answer["load_s"], answer["trial_s"]
    )


def _keypoints(values: Mapping[str, Any]) -> KeypointSet:
    pairs, classes = values["pairs"], values["classes"]
    return KeypointSet(
        names=tuple(values["names"]),
        edges=tuple((a, b) for a, b in values["edges"]),
        pairs=None if pairs is None else tuple((a, b) for a, b in pairs),
        classes=None if classes is None else tuple(classes),
    )


def main() -> None:
    """Answer the request on standard input, in the other process."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer = _answer(FactoryAddress(**request["address"]), request["options"], try_it=request["try"])
    except errors.PrelabelError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    file = Path(request["answer"])
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.rename(file)
    os._exit(0)  # threads of the detector must not keep this process alive


def _answer(address: FactoryAddress, options: Mapping[str, str], *, try_it: bool) -> dict[str, Any]:
    from prelabel.detectors.plugins.detector import PluginDetector
    from prelabel.detectors.plugins.factory import make_detector
    from prelabel.detectors.plugins.files import fingerprint_of_detector

    start = time.perf_counter()
    detector = make_detector(address, options)
    load_s, trial_s = time.perf_counter() - start, None
    if try_it:
        plugin = PluginDetector(detector)
        plugin.warm_up()
        start = time.perf_counter()
        plugin.warm_up()
        trial_s = time.perf_counter() - start
    info = detector.info
    return {
        "info": {**asdict(info), "files": [os.fspath(file) for file in info.files]},
        "fingerprint": fingerprint_of_detector(address, info),
        "batch_size": int(detector.batch_size),
        "load_s": load_s,
        "trial_s": trial_s,
    }
