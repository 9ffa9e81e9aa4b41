"""The adapter against a plain loop over the raw network, on real photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.detectors.base import EXACT
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.running.equivalence import SAME, difference, lenient_options
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import load_detector
from prelabel.select import Selection

EVERYTHING = DetectorOptions(selection=Selection(score_threshold=0.01))


def photos(assets: Path, most: int | None = None) -> list[np.ndarray[Any, Any]]:
    paths = sorted((assets / "images/coco-val80").glob("*.jpg"))[:most]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def plain(raw: dict[str, Any], height: int, width: int, keep: float = 0.01) -> tuple[Any, Any, Any]:
    """Boxes, scores and class numbers by the shortest loop that does the job, best first."""
    boxes, scores = raw["detection_boxes"].reshape(-1, 4), raw["detection_scores"].reshape(-1)
    numbers = next(raw[name] for name in ("detection_class_labels", "detection_classes") if name in raw).reshape(-1)
    y1, x1, y2, x2 = boxes.T
    xyxy = np.stack([x1 * width, y1 * height, x2 * width, y2 * height], 1)
    xyxy = np.minimum(np.maximum(xyxy, 0), [width, height, width, height])
    real = (scores >= np.float32(keep)) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    if "num_detections" in raw:
        real &= np.arange(len(scores)) < int(raw["num_detections"].reshape(-1)[0])
    order = np.argsort(-scores[real], kind="stable")
    return xyxy[real][order], scores[real][order], numbers[real][order]


@pytest.mark.slow
def test_hub_module_equals_a_plain_loop(assets: Path) -> None:
    path = assets / "models/openimages-hub-module"
    detector = load_detector(prepare(str(path)), EVERYTHING)
    import tensorflow_hub

    network = tensorflow_hub.load(str(path)).signatures["default"]
    for pixels in photos(assets):
        raw = network(images=(pixels[None] / np.float32(255)).astype(np.float32))
        xyxy, scores, numbers = plain({name: value.numpy() for name, value in raw.items()}, *pixels.shape[:2])
        detections = detector.detect_in([pixels])[0].detections
        np.testing.assert_allclose(detections.xyxy, xyxy, atol=1e-3)
        np.testing.assert_array_equal(detections.score, scores)
        np.testing.assert_array_equal(detections.category_id, numbers)


@pytest.mark.slow
def test_mask_model_equals_a_plain_loop(assets: Path) -> None:
    path = assets / "models/maskrcnn-tf2"
    detector = load_detector(prepare(str(path), label_map="coco"), EVERYTHING)
    import tensorflow_hub

    network = tensorflow_hub.load(str(path))
    for pixels in photos(assets):
        raw = {name: value.numpy() for name, value in network(pixels[None]).items()}
        xyxy, scores, numbers = plain(raw, *pixels.shape[:2])
        detections = detector.detect_in([pixels])[0].detections
        np.testing.assert_allclose(detections.xyxy, xyxy, atol=1e-3)
        np.testing.assert_allclose(detections.score, scores, atol=1e-6)
        np.testing.assert_array_equal(detections.category_id, numbers)
        assert detections.mask is not None


def test_open_images_names_and_mids_fit_the_published_label_map(assets: Path) -> None:
    model = prepare(str(assets / "models/openimages-hub-module"))
    named = prepare(
        str(assets / "models/openimages-hub-module"), label_map=str(assets / "labels/openimages-v4-601.pbtxt")
    )
    unnamed, with_names = load_detector(model), load_detector(named)
    seen = 0
    for pixels in photos(assets, 4):
        first, other = unnamed.detect_in([pixels])[0].detections, with_names.detect_in([pixels])[0].detections
        assert first.label.tolist() == other.label.tolist()
        assert first.mid.tolist() == other.mid.tolist()
        seen += len(first)
    assert seen > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openimages-hub-module", "maskrcnn-tf2"])
def test_a_constant_graph_returns_the_same_detections(name: str, assets: Path, tmp_path: Path) -> None:
    model = prepare(str(assets / "models" / name))
    off = load_detector(model, EVERYTHING)
    exact = load_detector(model, EVERYTHING, optimization=EXACT, cache_dir=tmp_path)
    assert exact.optimization == EXACT
    more = lenient_options(EVERYTHING)
    for pixels in photos(assets, 24):
        assert difference(off.result_pair(pixels, more), exact.result_pair(pixels, more), SAME) == ""
