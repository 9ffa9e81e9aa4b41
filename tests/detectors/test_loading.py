"""A worker loads the detector of the run, or refuses to: code, without processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.config import LabelOptions
from prelabel.detections import ClassName
from prelabel.detectors.base import OFF, DetectorInfo, DetectorRecord
from prelabel.detectors.loading import Loader, loader_of
from prelabel.detectors.multi_view import MultiViewDetector
from prelabel.detectors.plugins.addresses import FactoryAddress
from prelabel.detectors.plugins.files import fingerprint_of_detector
from prelabel.errors import DetectorError
from prelabel.storage.files import Storage
from tests.detectors.plugins.modules import detector_code, write
from tests.messages import facts

MODULE = "loading_module"


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DetectorRecord:
    """The record of the detector of a module on Python's path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    write(tmp_path, **{MODULE: detector_code()})
    fingerprint = fingerprint_of_detector(FactoryAddress(MODULE, "Found"), DetectorInfo("found"))
    classes = (ClassName(1, "spot"),)
    return DetectorRecord("found", f"{MODULE}:Found", fingerprint, "found-1", "Python code", False, classes, {})


def loader(record: DetectorRecord, **values: Any) -> Loader:
    usual = {"source": ("photos",), "output": "out", "detector": f"{MODULE}:Found", "trust_model": True}
    return loader_of(LabelOptions.of(**{**usual, **values}), Storage(), record)


def test_the_same_code_is_loaded_with_the_options_of_the_run(record: DetectorRecord) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[5, 7, 0] = 9
    detector = loader(record, detector_option={"level": "0.5"}, class_map={"spot": "dot"}).load(OFF)
    (result,) = detector.detect_in([pixels])
    assert result.detections.label.tolist() == ["dot"]
    assert result.detections.score.tolist() == pytest.approx([0.45])
    assert isinstance(loader(record, views="whole,flip").load(OFF), MultiViewDetector)
    with pytest.raises(DetectorError, match="only one way"):
        loader(record).try_faster(lambda: iter(()), 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": "0" * 64}, ("differs between machines", "000000000000")),
        ({"classes": (ClassName(2, "spot"),)}, ("says something else",)),
        ({"masks": True}, ("says something else",)),
        ({"name": "lost"}, ("says something else",)),
    ],
)
def test_another_detector_than_that_of_the_run_is_refused(
    changes: dict[str, Any], words: tuple[str, ...], record: DetectorRecord
) -> None:
    with pytest.raises(DetectorError, match=facts(f"{MODULE}:Found", *words)):
        loader(replace(record, **changes))


def test_a_worker_does_not_run_what_is_not_trusted(record: DetectorRecord) -> None:
    with pytest.raises(DetectorError, match=facts("--trust-model")):
        loader(record, trust_model=False)


def test_libraries_learn_the_cpus_of_a_worker(record: DetectorRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    loader(record, cpus_per_worker=3)
    assert os.environ["OMP_NUM_THREADS"] == "7"  # as the user has set it
    monkeypatch.delenv("OMP_NUM_THREADS")
    loader(record, cpus_per_worker=3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
