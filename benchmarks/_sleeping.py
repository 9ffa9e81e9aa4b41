"""A detector that takes the same time for every image and no processor, and notes when it has seen one.

    prelabel label a.tar --detector _sleeping:Sleeping --detector-option seconds=0.01 --detector-option notes=FILE ...

A line of the notes: its process, the time of the machine's monotonic clock at the end and at the beginning, the peak of
its memory in MB.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prelabel import ClassName, Detections, DetectorInfo


class Sleeping:
    """Finds one box on every image, after so many seconds."""

    info = DetectorInfo("sleeping", classes=[ClassName(1, "box")])
    batch_size = 1

    def __init__(self, seconds: str, notes: str) -> None:
        self._seconds = float(seconds)
        self._notes = Path(notes).open("a", buffering=1)  # noqa: SIM115 - as long as the process

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """One `Detections` per image."""
        begin = time.monotonic()
        time.sleep(self._seconds * len(images))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._notes.write(f"{os.getpid()} {time.monotonic():.4f} {begin:.4f} {peak:.1f}\n")
        return [
            Detections.of(*image.shape[:2], xyxy=[[1, 1, 5, 5]], score=[0.9], label=["box"], category_id=[1])
            for image in images
        ]
