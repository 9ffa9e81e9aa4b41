"""Pictures with colored boxes, and what a detector of `networks.py` must find in them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from prelabel.detections import Detections
from prelabel.detectors.conventions.resolve_model import ReadingOptions, prepare
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import SavedModelDetector, load_detector
from tests.models import COCO_IDS, LEVELS, picture

Box = tuple[str, int, int, int, int]

#: Not square, so that swapped axes show; odd sizes and boxes, so that a resize shows.
SCENES: tuple[tuple[tuple[int, int], tuple[Box, ...]], ...] = (
    ((141, 67), (("red", 3, 10, 20, 101), ("blue", 30, 77, 67, 78))),
    ((53, 211), (("red", 100, 0, 211, 53), ("green", 1, 1, 2, 50))),
    ((64, 64), (("green", 0, 0, 64, 32),)),
    ((480, 641), ()),
)


def detect(network: Path, pixels: npt.NDArray[np.uint8], **reading: str) -> Detections:
    """What a network detects in an image, by the path that `label` takes."""
    (detections,) = _detector(network, **reading).detect([pixels])
    return detections


@lru_cache(maxsize=4)
def _detector(network: Path, **reading: str) -> SavedModelDetector:
    return load_detector(prepare(str(network), reading=ReadingOptions(**reading)), DetectorOptions(), warm_up=None)


def check(
    detections: Detections,
    boxes: tuple[Box, ...],
    *,
    numbers: tuple[int, ...] = COCO_IDS,
    within: float = 1e-3,
    score_within: float = 0.01,
) -> None:
    """Check that exactly these boxes were detected, in this order, each edge within so many pixels."""
    colors = list(LEVELS)
    assert detections.category_id.tolist() == [numbers[colors.index(color)] for color, *_ in boxes]
    expected = np.array([box[1:] for box in boxes], np.float64).reshape(-1, 4)
    np.testing.assert_allclose(detections.xyxy, expected, atol=within)
    assert detections.score.tolist() == pytest.approx([LEVELS[color] / 255 for color, *_ in boxes], abs=score_within)


def save_scenes(folder: Path) -> Path:
    """Save the scenes as PNGs `0.png`, `1.png`, ... in a new folder."""
    from PIL import Image

    folder.mkdir()
    for number, ((height, width), boxes) in enumerate(SCENES):
        Image.fromarray(picture(height, width, *boxes)).save(folder / f"{number}.png")
    return folder


def check_rows(rows: list[dict[str, Any]], *, within: float = 1e-3) -> None:
    """Check the rows of `save_scenes`."""
    assert [row["error"] for row in rows] == [None] * len(SCENES)
    for row, ((height, width), boxes) in zip(rows, SCENES, strict=True):
        assert (row["height"], row["width"]) == (height, width)
        expected = np.array([box[1:] for box in boxes], np.float64).reshape(-1, 4)
        np.testing.assert_allclose(np.array(row["boxes"]).reshape(-1, 4), expected, atol=within)
