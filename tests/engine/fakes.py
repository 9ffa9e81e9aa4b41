"""Detectors that answer without a network: one box per image, computed from the pixels.

Those in worker processes also obey the pixels: the colour of the top left one says whether the image is harmless, kills
the process, never ends, and so on (see `Deed`), so that a test says with its pictures what shall go wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from prelabel.detections import Detections
from prelabel.detectors.base import DetectionResult, DetectorRecord, Frame, Optimization, Pixels
from prelabel.detectors.loading import ModelLoader
from prelabel.engine.schedule import TrialTask
from prelabel.engine.worker import Worker
from prelabel.errors import DetectorError
from prelabel.source.decode import DecodedImage


class BrightestCorner:
    """Finds one `corner` on every image: the 1 x 1 box at its brightest pixel."""

    def __init__(self, batch_size: int = 1, before: Callable[[Sequence[Pixels]], None] = lambda images: None) -> None:
        self.batch_size = batch_size
        self.info = DetectorRecord("brightest", "brightest", "0" * 64, "brightest-00000000", "test", masks=False)
        self.batches: list[int] = []
        self._before = before

    def detect_in(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        self.batches.append(len(images))
        self._before(images)
        frames = frames or [Frame.of(image) for image in images]
        return [self._one(image, frame) for image, frame in zip(images, frames, strict=True)]

    def _one(self, image: Pixels, frame: Frame) -> DetectionResult:
        y, x = np.unravel_index(int(image.sum(axis=2, dtype=np.int64).argmax()), image.shape[:2])
        return DetectionResult(
            Detections(
                height=frame.height,
                width=frame.width,
                xyxy=np.array([[x, y, x + 1, y + 1]], np.float32),
                category_id=[1],
                score=[0.5],
                label=["corner"],
                mid=["/m/corner"],
            )
        )


#: A file that ends so takes the process along when it is decoded, as a fault in a codec does.
CODEC_ABORTS = b"the codec aborts"


class Deed(Enum):
    """What an image does to the worker that looks at it: the colour of its top left pixel."""

    NOTHING = (0, 0, 0)
    ABORT = (200, 0, 0)  # the process aborts, as after a failed check in C++ code
    HANG = (0, 200, 0)  # never ends
    FREEZE = (0, 200, 200)  # the whole process stands still: nothing in it answers any more
    REFUSE = (0, 0, 200)  # an exception
    SLOW = (100, 100, 0)  # takes a third of a second
    NOT_FINITE = (0, 100, 100)  # two more detections, whose numbers are not finite
    WAIT = (100, 0, 100)  # takes until the test calls `World.go`


class ObeysPixels(BrightestCorner):
    """Does what the pixels say before it looks for the corner."""

    def __init__(self, control: Path) -> None:
        super().__init__(before=self._obey)
        self._control = control

    def _one(self, image: Pixels, frame: Frame) -> DetectionResult:
        answer = super()._one(image, frame)
        is_odd = tuple(image[0, 0].tolist()) == Deed.NOT_FINITE.value
        return replace(answer, dropped=2) if is_odd else answer

    def _obey(self, images: Sequence[Pixels]) -> None:
        colour = tuple(images[0][0, 0].tolist())
        if colour == Deed.ABORT.value:
            os.abort()
        elif colour == Deed.HANG.value:
            time.sleep(3600)
        elif colour == Deed.FREEZE.value:
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)  # the signal may reach another thread first
        elif colour == Deed.REFUSE.value:
            raise RuntimeError("the network cannot look at this")
        elif colour == Deed.SLOW.value:
            time.sleep(0.33)
        elif colour == Deed.WAIT.value:
            while not (self._control / "go").exists():
                time.sleep(0.02)


def note(file: Path, line: str) -> None:
    """Append a line in one write, so that several processes can."""
    with contextlib.suppress(OSError), file.open("a") as stream:  # some may not write, see `install`
        stream.write(line + "\n")


def _claims(file: Path, name: Path) -> bool:
    """Whether a file was there and is this process's now, under a name of its own."""
    try:
        file.rename(name)
    except FileNotFoundError:
        return False
    return True


def install() -> None:
    """Run in every worker process: the detector is a fake, and what is fetched is noted down.

    Models lie at `<world>/model`, images at `<world>/photos`; what is between test and workers at `<world>/control`:
    `load` says what loading does ("die", "refuse", "hang", "slow", a number of deaths), `workers` has a line for each
    worker that came as far as loading, `fetched` one for each image. Where there is `cannot-write`, one process, where
    there is `nobody-can-write`, none can write a file from its loading on.
    """
    import prelabel.detectors.running.savedmodel as savedmodel
    import prelabel.engine.shard as shard

    def load_detector(
        model: Any, options: Any, *, threads: int, streams: int, gpus: float, optimization: Any, cache_dir: Any
    ) -> ObeysPixels:
        control = model.local.path.parent / "control"
        seen = {
            "pid": os.getpid(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": threads,
            "streams": streams,
            "gpus": gpus,
            "choice": optimization.numbers,
        }
        note(control / "workers", json.dumps(seen))
        claimed = control / f"cannot-write-{os.getpid()}"
        if (control / "nobody-can-write").exists() or _claims(control / "cannot-write", claimed):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        how = (control / "load").read_text() if (control / "load").exists() else ""
        if how == "refuse":
            raise DetectorError("this model cannot be loaded: it is made of cheese")
        if how == "break":
            raise ZeroDivisionError("an error nobody thought of")
        if how == "die" or (how.isdigit() and len((control / "workers").read_text().splitlines()) <= int(how)):
            os.abort()
        if how in ("hang", "slow"):
            time.sleep(3600 if how == "hang" else 2)
        return ObeysPixels(control)

    def trial(self: Worker, task: TrialTask) -> Optimization:
        """Finds that bfloat16 is faster, or dies where `control/trial` says so; the worker is not changed."""
        assert isinstance(self._loader, ModelLoader)
        control = self._loader.model.local.path.parent / "control"
        note(control / "trials", json.dumps([task.shard, task.images]))
        if (control / "trial").exists():
            os.abort()
        return Optimization("bfloat16", 0.8, 1.5, 16, "made up")

    Worker.trial = trial  # type: ignore[method-assign]

    real_fetch, real_decode = shard.fetch, shard.decode

    def decode(data: bytes, *args: Any) -> DecodedImage:
        if data.endswith(CODEC_ABORTS):
            os.abort()
        return real_decode(data, *args)

    def fetch(ref: Any, *args: Any, **kwargs: Any) -> bytes:
        control = Path(ref.uri).parent.parent / "control"
        if control.is_dir():
            note(control / "fetched", ref.image_id)
        return real_fetch(ref, *args, **kwargs)

    savedmodel.load_detector = load_detector  # type: ignore[assignment]
    shard.fetch = fetch
    shard.decode = decode
