from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prelabel.detectors.conventions.boxes import Shown
from prelabel.detectors.conventions.convention import Convention, Decode
from prelabel.detectors.conventions.protos import Signature, Tensor
from prelabel.detectors.conventions.recognize import recognize
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.errors import DetectorError
from prelabel.masks.paste import paste_masks
from tests.detectors.conventions.families.scenes import SCENES, check, check_rows, detect, save_scenes
from tests.models import picture

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

SIGNATURE = Signature(
    "serving_default",
    (Tensor("inputs", "uint8", (1, None, None, 3)),),
    (
        Tensor("detection_boxes", "float32", (1, 100, 4)),
        Tensor("detection_classes", "int32", (1, 100)),
        Tensor("detection_scores", "float32", (1, 100)),
        Tensor("image_info", "float32", (1, 4, 2)),
        Tensor("num_detections", "int32", (1,)),
    ),
)

#: An image of 100 x 200 (height x width) that was enlarged to 200 x 400, of which 10 rows and 20 columns were cut off.
SHOWN = Shown((100, 200), (100, 200), (0, 0, 100, 200))
INFO = [[[100, 200], [400, 400], [2, 2], [10, 20]]]


def outputs(boxes: list[list[float]], info: Any = INFO) -> dict[str, Any]:
    return {
        "detection_boxes": np.array([boxes], np.float32),
        "detection_classes": np.array([[1] * len(boxes)], np.int32),
        "detection_scores": np.array([[0.9] * len(boxes)], np.float32),
        "image_info": np.array(info, np.float32),
        "num_detections": np.array([len(boxes)], np.int32),
    }


def decode_of(convention: Convention) -> Decode:
    assert convention.decode is not None
    return convention.decode


def test_boxes_are_pixels_of_the_resized_image() -> None:
    convention = recognize([SIGNATURE])
    assert convention.why.startswith("TF Model Garden Vision by signature")
    assert convention.known["boxes"].value == "y1 x1 y2 x2, pixels of the resized image (image_info)"
    assert convention.unused == ()
    boxes = [[-10.0, -20.0, 190.0, 380.0], [40.0, 80.0, 90.0, 180.0]]
    candidates = decode_of(convention)(outputs(boxes), convention, SHOWN, 0.0)
    np.testing.assert_allclose(candidates.arrays["boxes"], [[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5]])


def test_boxes_in_the_padding_become_a_part_of_the_edge() -> None:
    convention = recognize([SIGNATURE])
    # 100 x 200 (height x width), not enlarged, at the top of an input of 200 x 200; the last box is outside of it.
    info = [[[100, 200], [200, 200], [1, 1], [0, 0]]]
    boxes = [[120.0, 50.0, 180.0, 150.0], [100.0, 50.0, 200.0, 150.0], [90.0, 50.0, 150.0, 150.0], [150, 0, 250, 200]]
    candidates = decode_of(convention)(outputs(boxes, info), convention, SHOWN, 0.0)
    np.testing.assert_allclose(
        candidates.arrays["boxes"],
        [[1, 0.25, 1, 0.75], [1, 0.25, 1, 0.75], [0.9, 0.25, 1.5, 0.75], [1.5, 0, 2.5, 1]],
        rtol=1e-6,
    )


def test_the_pixels_of_a_mask_divide_its_box_evenly() -> None:
    masks = Tensor("detection_masks", "float32", (1, 100, 4, 4))
    convention = recognize([replace(SIGNATURE, outputs=(*SIGNATURE.outputs, masks))])
    scores = np.zeros((1, 1, 4, 4), np.float32)
    scores[..., 0] = 1  # the left quarter of the box
    of_box = outputs([[10.0, 20.0, 90.0, 100.0]], [[[100, 200], [100, 200], [1, 1], [0, 0]]])
    arrays = decode_of(convention)({**of_box, "detection_masks": scores}, convention, SHOWN, 0.0).arrays
    xyxy = arrays["mask_boxes"][:, [1, 0, 3, 2]] * [200, 100, 200, 100]
    (counts,) = paste_masks(arrays["masks"], xyxy, 100, 200)
    np.testing.assert_allclose(coco_mask.toBbox({"size": [100, 200], "counts": counts}), [20, 10, 20, 80], atol=1)


@pytest.mark.parametrize(
    "info",
    [
        [[[200, 100], [400, 400], [2, 2], [0, 0]]],
        [[[100, 200], [400, 400], [0, 2], [0, 0]]],
        [[[100, 200], [400, 400], [np.nan, 2], [0, 0]]],
        [[[100, 200], [400, 400]]],
    ],
)
def test_an_image_info_of_another_image_fails(info: Any) -> None:
    convention = recognize([SIGNATURE])
    with pytest.raises(DetectorError, match=r"image_info .*\[100, 200\], the size of the image"):
        decode_of(convention)(outputs([[0, 0, 100, 100]], info), convention, SHOWN, 0.0)


def test_boxes_as_small_as_shares_fail() -> None:
    convention = recognize([SIGNATURE])
    with pytest.raises(DetectorError, match="look normalized"):
        decode_of(convention)(outputs([[0, 0, 0.5, 1]]), convention, SHOWN, 0.0)


def test_other_exports_are_refused() -> None:
    raw = [Tensor("decoded_boxes", "float32", (1, 100, 4)), Tensor("decoded_box_scores", "float32", (1, 100, 91))]
    with pytest.raises(DetectorError, match="apply_nms"):
        recognize([replace(SIGNATURE, outputs=(*raw, SIGNATURE.outputs[3]))])
    with pytest.raises(DetectorError, match="input type image_tensor"):
        recognize([replace(SIGNATURE, inputs=(Tensor("inputs", "float32", (1, 64, 64, 3)),))])
    with pytest.raises(DetectorError, match="no detection_scores"):
        recognize([replace(SIGNATURE, outputs=(*SIGNATURE.outputs[:2], *SIGNATURE.outputs[3:]))])


def test_the_graph_tells_whether_boxes_are_normalized(family_networks: Path) -> None:
    forms = {
        name: prepare(str(family_networks / name)).decisions["boxes"].value
        for name in ("garden", "garden_normalized", "garden_normalized_only", "garden_outer")
    }
    assert forms == {
        "garden": "y1 x1 y2 x2, pixels of the resized image (image_info)",
        "garden_normalized": "y1 x1 y2 x2, normalized to 0..1",
        "garden_normalized_only": "y1 x1 y2 x2, normalized to 0..1",
        "garden_outer": "y1 x1 y2 x2, pixels of the resized image (image_info)",
    }


@pytest.mark.parametrize("name", ["garden", "garden_normalized", "garden_outer", "garden_bytes"])
def test_it_finds_boxes_and_masks(name: str, family_networks: Path) -> None:
    for size, boxes in SCENES:
        detections = detect(family_networks / name, picture(*size, *boxes))
        check(detections, boxes, within=0.01)
        if name == "garden_normalized":
            assert detections.mask is None
            continue
        assert detections.mask is not None
        for counts, (_, x1, y1, x2, y2) in zip(detections.mask, boxes, strict=True):
            rle = {"size": list(size), "counts": counts.encode()}
            x, y, width, height = coco_mask.toBbox(rle)
            # Interpolated between the pixels of a mask of 30 x 30.
            near = 1 + max(x2 - x1, y2 - y1) / 30
            np.testing.assert_allclose([x, y, x + width, y + height], [x1, y1, x2, y2], atol=near)


def test_a_tf_example_is_refused(family_networks: Path) -> None:
    with pytest.raises(DetectorError, match="not encoded images: the graph passes them to ParseExample"):
        prepare(str(family_networks / "garden_example"))


def test_rows(family_networks: Path, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]]) -> None:
    check_rows(rows(save_scenes(tmp_path / "photos"), family_networks / "garden"), within=0.01)
