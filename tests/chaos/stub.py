"""The detector of chaos trials: an answer computed from pixels without a network, and deeds that a trial asks for.

The red of an image's first pixel is its number. `control/deed-007` beside the model says what image 7 does to the
process that looks at it, and how often ("kill 1", "hang -1": always).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prelabel.detectors.base import Pixels
from tests.engine.fakes import BrightestCorner

#: What an image can do.
DEEDS = ("abort", "kill", "hang", "freeze", "memory")


class Stub(BrightestCorner):
    """Finds the brightest pixel of an image, after it has done the image's deed."""

    def __init__(self, control: Path) -> None:
        super().__init__(before=self._obey)
        self._control = control
        self._pace_s = float((control / "pace").read_text())

    def _obey(self, images: Sequence[Pixels]) -> None:
        time.sleep(self._pace_s)
        number = int(images[0][0, 0, 0])
        order = self._control / f"deed-{number:03d}"
        if order.exists():
            deed, _, times = order.read_text().partition(" ")
            if int(times) < 0 or self._claim(number, int(times)):
                self._do(deed)

    def _claim(self, number: int, times: int) -> bool:
        """Whether the deed is still to be done; counted across processes."""
        for turn in range(times):
            try:
                (self._control / f"done-{number:03d}-{turn}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    def _do(self, deed: str) -> None:
        if deed == "abort":
            os.abort()
        elif deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed == "hang":
            time.sleep(3600)
        elif deed == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif deed == "memory":
            run_out_of_memory(self._control)


def run_out_of_memory(control: Path) -> None:
    """Take memory until the kernel ends this process; where no limit can be set, end as if it had."""
    group = Path("/sys/fs/cgroup/memory") / f"prelabel-chaos-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        (control / f"cgroup-{os.getpid()}").write_text(str(group))
        held = [os.urandom(1 << 20) for _ in range(512)]
        del held
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def install() -> None:
    """Run by Ray in every worker process."""
    import prelabel.detectors.running.savedmodel as savedmodel

    def load_detector(model: Any, *args: Any, **kwargs: Any) -> Stub:
        return Stub(model.local.path.parent / "control")

    savedmodel.load_detector = load_detector  # type: ignore[assignment]
