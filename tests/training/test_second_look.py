"""The second look at boxes, as it is trained: the same reading of places by what asks for sides and what finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules `network` and `refine` of the training code, which is no package."""
    monkeypatch.syspath_prepend(str(TRAINING))
    import network
    import refine

    return network, refine


def look_at(training: Any, xyxy: np.ndarray) -> Any:
    """What an untrained second look makes of boxes in a noisy picture of 256 x 256 pixels."""
    network, refine = training
    rng = np.random.default_rng(5)
    convs = network.TrainableConvs(seed=0)
    convs.training = False
    outputs = network.Outputs(
        *[None] * 4,
        early=rng.normal(size=(1, 64, 64, network.EARLY)).astype(np.float32),
        pyramid=rng.normal(size=(1, 32, 32, network.NECK)).astype(np.float32),
    )
    cells = rng.normal(size=(len(xyxy), network.NECK)).astype(np.float32)
    return refine.refine(convs, outputs, np.zeros(len(xyxy), np.int32), xyxy, cells)


# Small and large ones mixed: they are cut out of different features, and come back in the order they were given.
BOXES = np.array([[10, 20, 200, 240], [100, 100, 120, 130], [0, 0, 256, 128], [50, 60, 59, 72]], np.float32)


def test_untrained_boxes_barely_move_and_keep_their_order(training: Any) -> None:
    boxes = np.asarray(look_at(training, BOXES).xyxy)
    size = np.tile(BOXES[:, 2:] - BOXES[:, :2], 2)
    assert np.abs((boxes - BOXES) / size).max() < 0.08


def test_refined_sides_read_back_as_the_places_asked_for(training: Any) -> None:
    """Else a trained second look would move boxes that are right."""
    _, refine = training
    refined = look_at(training, BOXES)
    logits = np.asarray(refined.sides, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    expected = (p / p.sum(-1, keepdims=True)) @ np.arange(refine.PLACES)
    assert np.asarray(refine.places(BOXES, np.asarray(refined.xyxy))) == pytest.approx(expected, abs=1e-3)


def test_places_run_from_one_margin_to_the_other(training: Any) -> None:
    _, refine = training
    box = np.array([[100, 200, 140, 280]], np.float32)
    margin = refine.MARGIN * np.array([40, 80, 40, 80], np.float32)
    assert np.asarray(refine.places(box, box - margin))[0, :2] == pytest.approx([0, 0], abs=1e-4)
    assert np.asarray(refine.places(box, box + margin))[0, 2:] == pytest.approx([refine.PLACES - 1] * 2, abs=1e-4)
