"""Networks that take several images at a time."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from prelabel.detectors.conventions.resolve_model import ReadingOptions, prepare
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import SavedModelDetector, load_detector
from prelabel.errors import DetectorError
from prelabel.select import Selection


def loaded(path: Path, batch_size: int | None = None, **options: object) -> SavedModelDetector:
    selection = Selection(score_threshold=0.01)
    model = prepare(str(path), reading=ReadingOptions(input_range="0..255"))
    return load_detector(model, DetectorOptions(selection=selection, batch_size=batch_size), warm_up=None, **options)  # type: ignore[arg-type]


def light(
    height: int, width: int, x1: int, y1: int, x2: int, y2: int
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[y1:y2, x1:x2] = 250
    return pixels


IMAGES = [
    light(40, 60, 1, 2, 30, 20),
    light(60, 40, 5, 6, 7, 59),
    light(40, 60, 20, 0, 60, 40),
    light(33, 71, 10, 11, 12, 13),
    light(40, 60, 0, 39, 1, 40),
    light(60, 40, 0, 0, 40, 1),
]
BOXES = [[1, 2, 30, 20], [5, 6, 7, 59], [20, 0, 60, 40], [10, 11, 12, 13], [0, 39, 1, 40], [0, 0, 40, 1]]


def boxes(detector: SavedModelDetector) -> list[list[int]]:
    found = [result.detections.xyxy for result in detector.detect_in(IMAGES)]
    assert all(len(each) == 1 for each in found)
    return [each[0].round().astype(int).tolist() for each in found]


def test_images_of_equal_size_are_run_together_and_results_keep_their_order(
    networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = loaded(networks / "batches", batch_size=2)
    assert (detector.network_batch, detector.batch_size) == (2, 8)
    shapes = []
    run = detector._run
    monkeypatch.setattr(detector, "_run", lambda image: shapes.append(image.shape[:3]) or run(image))
    assert boxes(detector) == BOXES
    assert shapes == [(2, 40, 60), (1, 40, 60), (2, 60, 40), (1, 33, 71)]


def test_batches_give_the_results_of_single_images(networks: Path) -> None:
    single, several = (loaded(networks / "batches", batch_size=size) for size in (1, 4))
    for one, other in zip(single.detect_in(IMAGES), several.detect_in(IMAGES), strict=True):
        np.testing.assert_allclose(one.detections.xyxy, other.detections.xyxy, atol=1e-4)
        np.testing.assert_allclose(one.detections.score, other.detections.score, atol=1e-6)


def test_on_a_cpu_a_detector_gets_single_images_unless_more_are_asked_for(networks: Path) -> None:
    assert loaded(networks / "batches").network_batch == 1
    assert loaded(networks / "batches", batch_size=3).network_batch == 3


def test_a_model_of_single_images_never_gets_more(networks: Path) -> None:
    detector = loaded(networks / "detector_of_floats", batch_size=4)
    assert (detector.network_batch, detector.batch_size) == (1, 1)


def test_a_model_that_mixes_the_images_of_a_batch_gets_single_ones_and_that_is_said(
    networks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        detector = loaded(networks / "mixed_batches", batch_size=4)
    assert (detector.network_batch, detector.batch_size) == (1, 1)
    assert "single images" in caplog.text


def test_a_model_that_answers_for_one_image_of_a_batch_gets_single_ones(
    networks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        detector = loaded(networks / "batches_of_one", batch_size=4)
    assert detector.network_batch == 1
    assert "batch of 2 images" in caplog.text
    assert boxes(detector) == BOXES


def test_an_image_that_is_refused_fails_its_call(networks: Path) -> None:
    detector = loaded(networks / "batches", batch_size=2)
    with pytest.raises(DetectorError, match="uint8"):
        detector.detect_in([IMAGES[0], IMAGES[1].astype(np.float32)])  # type: ignore[list-item]
