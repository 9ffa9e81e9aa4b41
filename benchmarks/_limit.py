"""The best that the machine allows: the detector alone on decoded images, and decoding alone, each on every core.

One process per core loads the model once and measures on request for a second, so that it can measure many times during
a job that is stopped meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from common import cores

#: Seconds of each measurement.
_DECODE_S, _MODEL_S = 0.2, 0.8


@dataclass(frozen=True, slots=True)
class Allowed:
    """One measurement: images per second of the detector alone on all cores, and CPU seconds per image.

    Attributes:
        rate: Images per second.
        model_s: Of the model, with its input and the reading of its outputs.
        encode_s: Of making masks.
        decode_s: Of reading and decoding.
    """

    rate: float
    model_s: float
    encode_s: float
    decode_s: float

    @property
    def job_rate(self) -> float:
        """Images per second of a job that does nothing but decode them and run the detector, on all cores."""
        return cores() / (self.model_s + self.encode_s + self.decode_s)


class Limit:
    """Measures when called. Its processes are ready once the context is entered, and wait between calls."""

    def __init__(self, folder: Path, detector: str, kept: int) -> None:
        self._command = [sys.executable, __file__, "--pictures", str(folder), "--detector", detector]
        self._command += ["--parts", str(cores()), "--kept", str(kept)]

    def __enter__(self) -> Limit:
        self._log = tempfile.TemporaryFile("w+")
        self._processes = [
            subprocess.Popen(
                [*self._command, "--part", str(part)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
            for part in range(cores())
        ]
        self._answers()
        return self

    def __call__(self) -> Allowed:
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):  # it has failed: `_answers` says how
                print("measure", file=process.stdin, flush=True)
        answers = self._answers()
        return Allowed(
            sum(answer["images"] / answer["wall_s"] for answer in answers),
            *(statistics.mean(answer[name] for answer in answers) for name in ("model_s", "encode_s", "decode_s")),
        )

    def _answers(self) -> list[dict[str, Any]]:
        lines = [process.stdout.readline() if process.stdout else "" for process in self._processes]
        if not all(lines):
            self._log.seek(0)
            raise SystemExit(f"{' '.join(self._command)} failed: {self._log.read()[-2000:]}")
        return [json.loads(line) for line in lines]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.communicate()
        self._log.close()


def _pixels(file: Path) -> Any:
    from prelabel.source.decode import decode

    return decode(file.read_bytes()).pixels


def _decoding(files: Iterator[Path]) -> dict[str, float]:
    """Read and decode in one thread, as a worker does."""
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < _DECODE_S:
        _pixels(next(files))
        count += 1
    return {"decode_s": (time.process_time() - cpu) / count}


def _model(detector: Any, images: Iterator[Any]) -> dict[str, float]:
    """Run the detector in one thread, as a worker does, on images in memory; masks are timed separately."""
    detector.detect_in([next(images)])  # caches hold what ran before
    began, cpu, encode, detect, count = time.perf_counter(), time.process_time(), 0.0, 0.0, 0
    while time.perf_counter() - began < _MODEL_S:
        (result,) = detector.detect_in([next(images)])
        detect += result.seconds["detect"]
        encode += result.seconds.get("encode", 0.0)
        count += 1
    took, used = time.perf_counter() - began, time.process_time() - cpu
    share = detect / (detect + encode)
    return {
        "images": count,
        "wall_s": took,
        "model_s": used * share / count,
        "encode_s": used * (1 - share) / count,
    }


def main() -> None:
    """Load the model, report that it is ready, and measure once per input line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--part", type=int, required=True)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--kept", type=int, required=True, help="images in memory")
    args = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from prelabel.detectors.base import EXACT
    from prelabel.detectors.conventions.resolve_model import prepare
    from prelabel.detectors.running.savedmodel import load_detector
    from prelabel.storage.files import Storage

    # As `prelabel label` runs it unless told otherwise.
    detector = load_detector(prepare(args.detector, Storage()), threads=1, optimization=EXACT)
    files = sorted(args.pictures.glob("*.jpg"))[args.part :: args.parts][: args.kept]
    images = [_pixels(file) for file in files]
    for image in images[:8]:
        detector.detect_in([image])
    print("{}", flush=True)
    next_file, next_image = itertools.cycle(files), itertools.cycle(images)
    for _ in sys.stdin:
        print(json.dumps({**_decoding(next_file), **_model(detector, next_image)}), flush=True)


if __name__ == "__main__":
    main()
