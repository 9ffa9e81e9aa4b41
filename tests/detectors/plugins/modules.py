"""Modules with detectors, written into a folder that Python then finds, and packages that are installed there."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

#: A detector that returns one box at the brightest pixel; `{result}` is what `detect` returns for an image.
_DETECTOR = """
import numpy as np
from prelabel import ClassName, Detections, DetectorInfo

class Found:
    info = DetectorInfo("found", {info})
    batch_size = {batch_size}

    def __init__(self, level: str = "1") -> None:
        self.level = float(level)

    def detect(self, images):
        return [self.one(pixels) for pixels in images]

    def one(self, pixels):
        height, width = pixels.shape[:2]
        y, x = np.unravel_index(int(pixels[..., 0].argmax()), (height, width))
        mask = np.zeros((height, width), bool)
        mask[y, x] = True
        {result}
"""

#: What a good detector returns.
GOOD = (
    'return Detections.of(height, width, xyxy=[[x, y, x + 1, y + 1]], score=[0.9 * self.level], label=["spot"],'
    " category_id=[1])"
)


def detector_code(result: str = GOOD, info: str = 'classes=[ClassName(1, "spot")]', batch_size: object = 2) -> str:
    """The code of a module with the detector `Found`."""
    return _DETECTOR.format(result=result, info=info, batch_size=batch_size)


def write(folder: Path, **files: str) -> None:
    """Write modules: `a="..."` is `a.py`, `a__b="..."` is `a/b.py`."""
    for name, text in files.items():
        path = folder.joinpath(*name.replace("__init__", "-init-").split("__"))
        path = path.with_name(path.name.replace("-init-", "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


def install(folder: Path, package: str, version: str = "1.0", **entry_points: str) -> None:
    """Make a folder of modules look like an installed package with these entry points."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[prelabel.detectors]\n{lines}")
