"""Masks in boxes become RLE of the image, compared with TensorFlow's own op and pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from prelabel.detectors.base import Frame
from prelabel.detectors.conventions.boxes import STRETCH, Shown
from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.protos import Tensor
from prelabel.detectors.running.postprocess import DetectorOptions, to_result
from prelabel.masks import rle
from prelabel.masks.paste import paste_masks
from prelabel.select import Selection
from tests.messages import facts


def reference_values(masks: np.ndarray, yxyx: np.ndarray, height: int, width: int) -> np.ndarray:
    """`(N, height, width)` scores by TensorFlow's op, boxes normalized, as in reframe_box_masks_to_image_masks."""
    import tensorflow as tf

    extent = tf.maximum(yxyx[:, 2:] - yxyx[:, :2], 1e-4)
    inverse = tf.concat([(0.0 - yxyx[:, :2]) / extent, (1.0 - yxyx[:, :2]) / extent], axis=1)
    values = tf.image.crop_and_resize(masks[..., None], inverse, tf.range(len(masks)), [height, width])
    return values.numpy()[..., 0]


def reference(masks: np.ndarray, xyxy: np.ndarray, height: int, width: int, threshold: float = 0.5) -> list[str]:
    yxyx = (xyxy / np.array([width, height, width, height], xyxy.dtype)).astype(np.float32)[:, [1, 0, 3, 2]]
    values = reference_values(masks, yxyx, height, width)
    encoded = coco.encode(np.asfortranarray((values > np.float32(threshold)).astype(np.uint8).transpose(1, 2, 0)))
    return [mask["counts"].decode() for mask in encoded]


def random_boxes(rng: np.random.Generator, n: int, height: int, width: int, least: float, most: float) -> np.ndarray:
    size = rng.uniform(least, most, (n, 2))
    corner = rng.uniform(-0.1, 1.0, (n, 2)) * (np.array([width, height]) - size / 2)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def blobs(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Smooth contours with a little noise, like the output of a mask head."""
    y, x = np.meshgrid(np.linspace(-1, 1, m), np.linspace(-1, 1, m), indexing="ij")
    bend = rng.normal(0, 1, (n, 4, 1, 1))
    angle = np.arctan2(y, x)
    inside = 0.8 + 0.2 * np.sin(3 * angle + bend[:, 0]) + 0.1 * np.sin(5 * angle + bend[:, 1])
    inside = inside - np.hypot(x * (1 + 0.2 * bend[:, 2]), y * (1 + 0.2 * bend[:, 3]))
    return (1 / (1 + np.exp(-8 * inside + rng.normal(0, 0.05, inside.shape)))).astype(np.float32)


MASKS = Convention(
    kind="detection",
    signature="default",
    input=Tensor("input_tensor", "uint8", (1, None, None, 3)),
    batch_dimension=True,
    size=None,
    outputs={
        "boxes": "detection_boxes",
        "scores": "detection_scores",
        "numbers": "detection_classes",
        "masks": "detection_masks",
    },
)


def counts_of_run(masks: np.ndarray, yxyx: np.ndarray, height: int, width: int) -> list[str]:
    """Counts as in a run: from a model's float32 outputs through all steps of `label`."""
    outputs = {
        "detection_boxes": yxyx[None],
        # All scores are equal, so the selection keeps their order.
        "detection_scores": np.full((1, len(masks)), 0.5, np.float32),
        "detection_classes": np.ones((1, len(masks)), np.float32),
        "detection_masks": masks[None],
    }
    options = DetectorOptions(selection=Selection(score_threshold=0.0))
    frame = Frame(height, width, (0, 0, width, height))
    detections = to_result(outputs, MASKS, frame, None, options, Shown.of((height, width), None, STRETCH)).detections
    assert detections.mask is not None
    return detections.mask.tolist()


def decoded(counts: list[str], height: int, width: int) -> list[list[list[int]]]:
    return [rle.decode(mask_counts, height, width).astype(int).tolist() for mask_counts in counts]


def test_a_full_mask_fills_its_box() -> None:
    # Mask rows lie at 0 and 2/4 of the image, pixel rows at 0, 1/3, 2/3, 1 of it: two are inside.
    assert decoded(paste_masks(np.ones((1, 2, 2), np.float32), np.array([[0, 0, 2, 4]]), 4, 4), 4, 4) == [
        [[1, 1, 0, 0]] * 4
    ]


def test_x_and_y_are_not_mixed_up() -> None:
    mask = np.array([[[0.0, 1.0], [0.0, 1.0]]], np.float32)
    assert decoded(paste_masks(mask, np.array([[0, 0, 6, 2]]), 2, 6), 2, 6) == [[[0, 0, 0, 1, 1, 1]] * 2]
    assert decoded(paste_masks(mask.transpose(0, 2, 1), np.array([[0, 0, 2, 6]]), 6, 2), 6, 2) == [
        [[0, 0]] * 3 + [[1, 1]] * 3
    ]


def test_a_score_equal_to_the_threshold_is_outside() -> None:
    flat = np.full((1, 3, 3), 0.5, np.float32)
    box = np.array([[0, 0, 8, 8]])
    assert paste_masks(flat, box, 8, 8) == [rle.encode(np.zeros((8, 8)))]
    assert paste_masks(np.nextafter(flat, 1, dtype=np.float32), box, 8, 8) == [rle.encode(np.ones((8, 8)))]


def test_no_masks_give_no_counts() -> None:
    assert paste_masks(np.empty((0, 33, 33), np.float32), np.empty((0, 4), np.float32), 5, 5) == []


@pytest.mark.parametrize(
    "box",
    [
        (3, 3, 3, 6),
        (3, 3, 6, 3),
        (6, 3, 3, 6),
        (-9, 0, -2, 4),
        (0, 30, 4, 40),
        (np.nan, 0, 4, 4),
        (0, 0, np.inf, 4),
        (-1e30, -1e30, 1e30, 1e30),
        (4.1, 4.1, 4.2, 4.2),
    ],
)
def test_a_box_without_pixels_gives_an_empty_mask(box: tuple[float, ...]) -> None:
    xyxy = np.array([(1, 1, 5, 5), box, (1, 1, 5, 5)], np.float32)
    counts = paste_masks(np.ones((3, 5, 5), np.float32), xyxy, 8, 10)
    assert rle.decode_runs(counts[1], 8, 10).tolist() == [80]
    assert counts[0] == counts[2] != counts[1]


def test_a_box_of_one_pixel_and_a_box_of_the_whole_image() -> None:
    xyxy = np.array([(4, 4, 5, 5), (0, 0, 10, 8)], np.float32)
    small, whole = paste_masks(np.ones((2, 33, 33), np.float32), xyxy, 8, 10)
    assert rle.bbox_xywh(small, 8, 10) == (4, 4, 1, 1)
    assert whole == rle.encode(np.ones((8, 10)))


def test_scores_that_are_not_finite_count_as_zero() -> None:
    masks = np.ones((1, 2, 2), np.float32)
    masks[0, :, 1] = np.nan
    assert decoded(paste_masks(masks, np.array([[0, 0, 6, 2]]), 2, 6), 2, 6) == [[[1, 1, 1, 0, 0, 0]] * 2]


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, (3, 4), elements=st.floats() | st.floats(-50, 50) | st.integers(-5, 35)),
    hnp.arrays(np.float32, (3, 4, 4), elements=st.floats(width=32) | st.floats(0, 1, width=32)),
    st.sampled_from([0.5, 0.0, 0.1]),
)
def test_any_output_of_a_model_gives_masks_of_the_right_size(
    xyxy: np.ndarray, masks: np.ndarray, threshold: float
) -> None:
    for counts in paste_masks(masks, xyxy, 20, 30, threshold):
        rle.validate(counts, 20, 30)


@pytest.mark.parametrize(
    ("masks", "xyxy", "size", "threshold", "expected"),
    [
        ((2, 33), (2, 4), (5, 5), 0.5, ("masks", "shape", "(2, 33)")),
        ((2, 1, 1), (2, 4), (5, 5), 0.5, ("masks", "shape", "(2, 1, 1)")),
        ((2, 3, 3), (1, 4), (5, 5), 0.5, ("xyxy", "shape", "(2, 4)", "(1, 4)")),
        ((2, 3, 3), (2, 4), (0, 5), 0.5, ("image", "1 x 1", "0 x 5")),
        ((2, 3, 3), (2, 4), (5, 5), -0.1, ("threshold", "-0.1")),
        ((2, 3, 3), (2, 4), (5, 5), float("nan"), ("threshold", "nan")),
    ],
)
def test_arguments_that_do_not_match_are_refused(
    masks: Any, xyxy: Any, size: Any, threshold: float, expected: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=facts(*expected)):
        paste_masks(np.zeros(masks, np.float32), np.zeros(xyxy, np.float32), *size, threshold)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(2, 7)),
        # TensorFlow's kernels treat numbers below 2**-126, also intermediate results, as zero; NumPy does not.
        elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(2.0**-64, 1, width=32),
    ),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([0.5, 0.25, 0.1, 0.0, 0.9, 1.0]),
    st.data(),
)
def test_any_mask_in_any_integer_box_equals_the_reference(
    masks: np.ndarray, height: int, width: int, threshold: float, data: st.DataObject
) -> None:
    boxes = []
    for _ in masks:
        x, y = data.draw(st.integers(-5, width)), data.draw(st.integers(-5, height))
        boxes.append((x, y, x + data.draw(st.integers(1, 45)), y + data.draw(st.integers(1, 45))))
    xyxy = np.array(boxes, np.float32)
    assert paste_masks(masks, xyxy, height, width, threshold) == reference(masks, xyxy, height, width, threshold)


@pytest.mark.parametrize(
    ("seed", "kind", "m", "height", "width", "least", "most"),
    [
        (0, "blobs", 33, 768, 1024, 30, 400),
        (1, "blobs", 33, 480, 640, 2, 60),
        (2, "noise", 33, 480, 640, 2, 200),
        (3, "binary", 33, 333, 200, 2, 400),
        (4, "steps", 15, 100, 300, 1, 500),
        (5, "blobs", 28, 3000, 4000, 500, 3000),
        (6, "blobs", 33, 1, 640, 0.5, 300),
        (7, "blobs", 33, 640, 1, 0.5, 300),
        (8, "large", 14, 200, 300, 5, 300),
    ],
)
def test_random_boxes_equal_the_reference(
    seed: int, kind: str, m: int, height: int, width: int, least: float, most: float
) -> None:
    rng = np.random.default_rng(seed)
    n = 8 if height > 1000 else 60
    masks = {
        "blobs": lambda: blobs(rng, n, m),
        "noise": lambda: rng.random((n, m, m), dtype=np.float32),
        "binary": lambda: (blobs(rng, n, m) > 0.5).astype(np.float32),
        "steps": lambda: (rng.integers(0, 9, (n, m, m)) / 8).astype(np.float32),
        "large": lambda: rng.normal(0, 1e6, (n, m, m)).astype(np.float32),
    }[kind]()
    xyxy = random_boxes(rng, n, height, width, least, most)
    threshold = 10.0 if kind == "large" else 0.5
    assert paste_masks(masks, xyxy, height, width, threshold) == reference(masks, xyxy, height, width, threshold)


def random_shares(rng: np.random.Generator, n: int, least: float, most: float) -> np.ndarray:
    """`(n, 4)` float32 y1 x1 y2 x2 like a model's output; some extend beyond the image, as models' boxes do."""
    size = rng.uniform(least, most, (n, 2))
    corner = rng.uniform(0, 1, (n, 2)) - size / 2
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (4032, 3024), (2999, 4001)])
def test_masks_of_a_run_equal_the_reference_at_12_megapixels(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    for least, most in ((0.01, 0.1), (0.1, 0.9)):
        masks, yxyx = blobs(rng, 24, 33), random_shares(rng, 24, least, most)
        counts = counts_of_run(masks, yxyx, height, width)
        for first in range(0, len(masks), 6):
            part = slice(first, first + 6)
            values = reference_values(masks[part], yxyx[part], height, width)
            by_coco = coco.encode(np.asfortranarray((values > np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)))
            assert counts[part] == [mask["counts"].decode() for mask in by_coco]


@pytest.mark.slow
def test_two_hundred_masks_of_a_run_equal_the_reference_at_12_megapixels() -> None:
    """So many as the reference takes half a minute for. Of a thousand, none differed either."""
    rng = np.random.default_rng(0)
    differing = 0
    for _ in range(20):
        masks, yxyx = blobs(rng, 10, 33), random_shares(rng, 10, 0.02, 0.6)
        counts = counts_of_run(masks, yxyx, 3000, 4000)
        values = reference_values(masks, yxyx, 3000, 4000)
        by_coco = coco.encode(np.asfortranarray((values > np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)))
        differing += sum(pasted != mask["counts"].decode() for pasted, mask in zip(counts, by_coco, strict=True))
    assert differing == 0


def test_scores_just_around_the_threshold_equal_the_reference() -> None:
    rng = np.random.default_rng(9)
    masks = (0.5 + rng.integers(-4, 5, (40, 17, 17)) * 2.0**-24).astype(np.float32)
    masks[20:] += rng.normal(0, 1e-5, (20, 17, 17)).astype(np.float32)
    xyxy = random_boxes(rng, 40, 300, 400, 5, 200)
    assert paste_masks(masks, xyxy, 300, 400) == reference(masks, xyxy, 300, 400)


def test_no_mask_of_the_whole_image_is_allocated() -> None:
    # 100 masks of this image would be 20 GB.
    xyxy = np.tile(np.array([[5000, 6000, 5040, 6050]], np.float32), (100, 1))
    counts = paste_masks(np.ones((100, 33, 33), np.float32), xyxy, 14_000, 15_000)
    assert rle.bbox_xywh(counts[0], 14_000, 15_000) == (5000, 6000, 40, 50)


def real_masks_compared(assets: Path, names: list[str]) -> dict[str, float]:
    """Run the real mask detector and compare every mask with TensorFlow's op on the detector's normalized boxes."""
    import tensorflow as tf
    from PIL import Image

    model = tf.saved_model.load(str(assets / "models" / "maskrcnn-tf2"))
    total, equal, equal32, worst = 0, 0, 0, 1.0
    for name in names:
        with Image.open(assets / "images" / "coco-val80" / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        height, width = pixels.shape[:2]
        out = model(tf.constant(pixels[None]))
        keep = out["detection_scores"][0].numpy() > 0.01
        masks, yxyx = out["detection_masks"][0].numpy()[keep], out["detection_boxes"][0].numpy()[keep]
        xyxy = yxyx[:, [1, 0, 3, 2]].astype(np.float64) * [width, height, width, height]
        pasted = paste_masks(masks, xyxy, height, width)
        ours32 = paste_masks(masks, xyxy.astype(np.float32), height, width)
        for index in range(len(masks)):
            values = reference_values(masks[index : index + 1], yxyx[index : index + 1], height, width)[0]
            by_coco = coco.encode(np.asfortranarray((values > 0.5).astype(np.uint8)))
            total += 1
            equal += pasted[index] == by_coco["counts"].decode()
            equal32 += ours32[index] == by_coco["counts"].decode()
            if ours32[index] != by_coco["counts"].decode():
                both = [{"size": [height, width], "counts": ours32[index]}]
                worst = min(worst, float(coco.iou(both, [by_coco], [0])[0, 0]))
    return {"masks": total, "equal": equal, "equal_float32_pixels": equal32, "worst_iou_float32_pixels": worst}


def real_photos(assets: Path) -> list[str]:
    return sorted(path.name for path in (assets / "images" / "coco-val80").glob("*.jpg"))


def test_masks_of_real_photos_equal_the_reference(assets: Path) -> None:
    compared = real_masks_compared(assets, real_photos(assets)[::27])
    assert compared["masks"] > 20
    assert compared["equal"] == compared["masks"]
    assert compared["worst_iou_float32_pixels"] >= 0.99


@pytest.mark.slow
def test_masks_of_all_real_photos_equal_the_reference(assets: Path) -> None:
    compared = real_masks_compared(assets, real_photos(assets))
    print(json.dumps(compared))
    assert compared["masks"] > 500
    assert compared["equal"] == compared["masks"]
    assert compared["worst_iou_float32_pixels"] >= 0.99
