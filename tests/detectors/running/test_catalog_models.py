"""Each network of the catalog by its name, over HTTP, to boxes: against a SavedModel of exactly its interface."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.models import fetch
from prelabel.detectors.models.catalog import CATALOG, lookup
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import SavedModelDetector, load_detector
from tests.detectors.models.hub_server import Hub, Page, hub
from tests.models import Models, build_classifier, picture

WIDE = picture(53, 211, ("green", 1, 1, 2, 50), ("red", 100, 0, 211, 53))


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as running:
        yield running


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, ".")
    return buffer.getvalue()


@pytest.fixture
def load(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Loads a network of the catalog by name; its addresses lead to a model served on loopback."""

    def loaded(name: str, folder: Path) -> SavedModelDetector:
        server.pages[f"/{name}/1"] = Page(packed(folder), cut=[1000])
        entry = lookup(name)
        assert entry is not None
        here = dataclasses.replace(entry, addresses=(f"{server.url}/{name}/1",))
        monkeypatch.setattr(fetch, "lookup", lambda address: here if address == name else None)
        return load_detector(prepare(name, cache_dir=str(tmp_path / "cache")), DetectorOptions())

    return loaded


def test_the_catalog_has_these_models() -> None:
    assert [entry.name for entry in CATALOG] == [
        "openimages-ssd-mobilenet-v2",
        "openimages-faster-rcnn-inception-resnet-v2",
        "coco-mask-rcnn-inception-resnet-v2",
        "imagenet-mobilenet-v2-035-128",
        "demo-shapes",  # comes with the package; see test_demo_shapes.py
    ]


@pytest.mark.parametrize("name", ["openimages-ssd-mobilenet-v2", "openimages-faster-rcnn-inception-resnet-v2"])
def test_open_images_detectors(name: str, load, models: Models) -> None:  # type: ignore[no-untyped-def]
    detector = load(name, models.hub_module)
    detections = detector.detect_in([WIDE])[0].detections
    assert detections.xyxy.round().tolist() == [[100, 0, 211, 53], [1, 1, 2, 50]]
    assert detections.label.tolist() == ["Dog", "Cat"]
    assert detections.mid.tolist() == ["/m/0bt9lr", "/m/01yrx"]
    assert detections.category_id.tolist() == [446, 122]
    assert detector.info.name == name


def test_coco_mask_rcnn_knows_the_names_of_its_classes(load, models: Models) -> None:  # type: ignore[no-untyped-def]
    detections = load("coco-mask-rcnn-inception-resnet-v2", models.mask_rcnn).detect_in([WIDE])[0].detections
    assert detections.xyxy.round().tolist() == [[100, 0, 211, 53], [1, 1, 2, 50]]
    assert detections.label.tolist() == ["dog", "cat"]
    assert detections.category_id.tolist() == [18, 17]
    assert detections.mask is not None
    assert len(detections.mask) == 2


@pytest.mark.parametrize("size", [128, None])
def test_classifier_gets_the_size_of_its_card(size: int | None, load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    detector = load("imagenet-mobilenet-v2-035-128", build_classifier(tmp_path / "m", size=size))
    assert detector._size == (128, 128)
    labels = detector.detect_in([picture(90, 300, ("red", 150, 0, 300, 90))])[0].image_labels
    assert labels is not None
    assert labels[0].category_id == 102
