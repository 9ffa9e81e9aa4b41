"""Checks of what detectors return, in their own module because `running` and `plugins` share them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import DetectorError

#: Scores may exceed 0..1 by rounding errors up to this size; larger ones are not probabilities.
ROUNDING = 1e-3


def check_scores(score: npt.NDArray[np.float32], name: str) -> None:
    """Raise DetectorError, with this name of the scores, if one is not within 0..1."""
    if len(score) and (score.min() < -ROUNDING or score.max() > 1 + ROUNDING):
        raise DetectorError(f"{name} must lie within 0..1, got {score.min():g} to {score.max():g}")


def reversed_corners(
    boxes: npt.NDArray[Any], score: npt.NDArray[np.float32], rounding: float
) -> npt.NDArray[np.bool_] | None:
    """Which boxes end before they begin, if these are so many that boxes must be meant in another way; else None.

    A valid detector may return a few such boxes with low scores, which are dropped later as boxes without size. If they
    have half of the sum of all scores or more, they are an error.

    Args:
        boxes: `(N, 4)` both coordinates of the first corner, then both of the second.
        score: `(N,)` their scores.
        rounding: A box that ends earlier by less than this has a rounding error.
    """
    backward = np.asarray((boxes[:, 2:] < boxes[:, :2] - rounding).any(axis=1))
    return backward if backward.any() and 2 * score[backward].sum() >= score.sum() else None
