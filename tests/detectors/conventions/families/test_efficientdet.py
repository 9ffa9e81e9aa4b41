from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.detectors.conventions.boxes import Shown
from prelabel.detectors.conventions.named_outputs import decode_named
from prelabel.detectors.conventions.protos import has_object_with, read_graph
from prelabel.detectors.conventions.recognize import recognize
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.errors import DetectorError
from tests.detectors.conventions.families.scenes import SCENES, check, check_rows, detect, save_scenes
from tests.models import picture


def test_it_is_recognized_by_the_names_of_its_parts(family_networks: Path) -> None:
    model = prepare(str(family_networks / "efficientdet"))
    assert model.convention.outputs == {
        "boxes": "output_0",
        "scores": "output_1",
        "numbers": "output_2",
        "count": "output_3",
    }
    assert (model.convention.signature, model.convention.batches) == ("serving_default", True)
    assert {about: decision.value for about, decision in model.decisions.items()} == {
        "input range": "0..255",
        "boxes": "y1 x1 y2 x2, pixels of the image",
    }


def test_the_same_outputs_of_another_network_are_refused(family_networks: Path) -> None:
    with pytest.raises(DetectorError, match=r"order and unit of its boxes are not known.* detection_boxes.*--adapter"):
        prepare(str(family_networks / "unnamed"))
    signatures = read_graph(family_networks / "efficientdet").signatures
    with pytest.raises(DetectorError, match="order and unit"):
        recognize(signatures)  # no folder, so no parts


def test_the_network_without_its_preprocessing_is_refused(family_networks: Path) -> None:
    folder = family_networks / "efficientdet"
    (signature,) = (each for each in read_graph(folder).signatures if each.name == "serving_default")
    image = replace(signature.inputs[0], dtype="float32", shape=(1, 64, 64, 3))
    with pytest.raises(DetectorError, match=r"without its preprocessing .*any size.*--adapter"):
        recognize([replace(signature, inputs=(image,))], folder=folder)


def test_all_names_must_be_of_one_object(family_networks: Path) -> None:
    folder = family_networks / "efficientdet"
    assert has_object_with({"class_net", "box_net"}, folder)
    assert has_object_with({"model"}, folder)
    assert not has_object_with({"model", "box_net"}, folder)


def test_boxes_are_pixels_of_the_image(family_networks: Path) -> None:
    convention = prepare(str(family_networks / "efficientdet")).convention
    outputs = {
        "output_0": np.array([[[10, 20, 30, 40], [0, 0, 100, 200], [7, 7, 7, 7]]], np.float32),
        "output_1": np.array([[0.9, 0.8, 0.7]], np.float32),
        "output_2": np.array([[18, 90, 1]], np.float32),
        "output_3": np.array([2], np.int32),
    }
    shown = Shown.of((100, 200), None, convention.fit)
    arrays = decode_named(outputs, convention, shown, 0.0).arrays
    assert arrays["boxes"].tolist() == [[0.1, 0.1, 0.3, 0.2], [0, 0, 1, 1]]
    assert arrays["numbers"].tolist() == [18, 90]
    outputs["output_0"] = np.array([[[0.1, 0.1, 0.3, 0.2], [0, 0, 1, 1], [0, 0, 0, 0]]], np.float32)
    with pytest.raises(DetectorError, match=r"output_0 .*look normalized.*pixels of the image"):
        decode_named(outputs, convention, shown, 0.0)


@pytest.mark.parametrize(("size", "boxes"), SCENES, ids=str)
def test_it_finds_boxes(size: tuple[int, int], boxes: Any, family_networks: Path) -> None:
    check(detect(family_networks / "efficientdet", picture(*size, *boxes)), boxes)


def test_rows(family_networks: Path, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]]) -> None:
    labelled = rows(save_scenes(tmp_path / "photos"), family_networks / "efficientdet", "--label-map", "coco")
    check_rows(labelled)
    assert labelled[0]["labels"] == ["dog", "toothbrush"]
