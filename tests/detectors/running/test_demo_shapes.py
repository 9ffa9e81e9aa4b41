"""The bundled detector: the interface of the catalog's Mask R-CNN, boxes and masks where the shapes are.

What it finds is measured on held-out scenes (see its model card); here it is enough of that to notice a broken resize,
a swapped axis, a mask half a pixel off, or weights that do not belong to the graph.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.labels.maps import read_label_map
from prelabel.masks import rle
from prelabel.masks.paste import paste_masks
from prelabel.synth import CLASS_NAMES, make_scenes

MODEL = Path(__file__).parents[3] / "prelabel" / "detectors" / "models" / "demo_shapes"
SHAPES = {
    "detection_boxes": (1, 100, 4),
    "detection_classes": (1, 100),
    "detection_scores": (1, 100),
    "detection_masks": (1, 100, 33, 33),
    "detection_multiclass_scores": (1, 100, len(CLASS_NAMES) + 1),
    "num_detections": (1,),
}

Outputs = dict[str, npt.NDArray[np.float32]]
Detect = Callable[[npt.NDArray[np.uint8]], Outputs]


@pytest.fixture(scope="module")
def model() -> Any:
    import tensorflow as tf

    return tf.saved_model.load(str(MODEL))


@pytest.fixture(scope="module")
def detect(model: Any) -> Detect:
    import tensorflow as tf

    signature = model.signatures["serving_default"]

    def run(pixels: npt.NDArray[np.uint8]) -> Outputs:
        return {name: value.numpy() for name, value in signature(input_tensor=tf.constant(pixels)[None]).items()}

    return run


def picture_of_a_rectangle(width: int, height: int, xyxy: tuple[float, float, float, float]) -> npt.NDArray[np.uint8]:
    """A blue rectangle on a background that runs from light to lighter."""
    ground = np.linspace(190, 240, width)[None, :, None] * np.ones((height, 1, 3))
    image = Image.fromarray(ground.astype(np.uint8))
    x1, y1, x2, y2 = xyxy
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=(30, 60, 160))
    return np.asarray(image)


def best(outputs: Outputs, width: int, height: int) -> tuple[str, npt.NDArray[np.float64]]:
    """Class and x1 y1 x2 y2 in pixels of the first detection."""
    y1, x1, y2, x2 = outputs["detection_boxes"][0, 0].astype(np.float64)
    name = CLASS_NAMES[int(outputs["detection_classes"][0, 0]) - 1]
    return name, np.array([x1 * width, y1 * height, x2 * width, y2 * height])


def overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """IoU of two boxes x1 y1 x2 y2."""
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def test_all_files_together_stay_below_four_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 4_000_000


def test_label_map_names_the_classes_of_the_scenes() -> None:
    label_map = read_label_map(str(MODEL / "assets" / "label_map.pbtxt"))
    names = {number: label_map.get(number) for number in range(1, len(CLASS_NAMES) + 1)}
    assert {number: name.name for number, name in names.items() if name} == dict(enumerate(CLASS_NAMES, start=1))
    assert len(label_map) == len(CLASS_NAMES)


def test_signature_is_that_of_the_mask_rcnn(model: Any) -> None:
    import tensorflow as tf

    signature = model.signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    assert inputs == {"input_tensor": tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor")}
    outputs = signature.structured_outputs
    assert {name: tuple(spec.shape) for name, spec in outputs.items()} == SHAPES
    assert {spec.dtype for spec in outputs.values()} == {tf.float32}


@pytest.mark.parametrize("size", [(480, 640), (1, 1), (7, 900), (1300, 333), (64, 64)])
def test_any_size_gives_outputs_of_fixed_shape_in_range(detect: Detect, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    outputs = detect(pixels)
    assert {name: value.shape for name, value in outputs.items()} == SHAPES
    for name in ("detection_boxes", "detection_scores", "detection_masks", "detection_multiclass_scores"):
        assert np.isfinite(outputs[name]).all()
        assert outputs[name].min() >= 0
        assert outputs[name].max() <= 1


def test_called_or_by_signature_the_outputs_are_the_same(model: Any, detect: Detect) -> None:
    import tensorflow as tf

    pixels = picture_of_a_rectangle(320, 200, (60, 50, 200, 150))
    called = {name: value.numpy() for name, value in model(tf.constant(pixels)[None]).items()}
    by_signature = detect(pixels)
    assert called.keys() == by_signature.keys()
    for name, value in called.items():
        assert np.array_equal(value, by_signature[name]), name


def test_outputs_are_zero_without_detections(detect: Detect) -> None:
    outputs = detect(np.full((240, 320, 3), 90, np.uint8))
    assert int(outputs["num_detections"][0]) == np.count_nonzero(outputs["detection_scores"])
    assert outputs["detection_scores"].max() < 0.3
    assert detect(np.zeros((1, 1, 3), np.uint8))["detection_boxes"].shape == (1, 100, 4)


def test_scores_descend_and_padding_is_zero(detect: Detect) -> None:
    outputs = detect(picture_of_a_rectangle(320, 200, (60, 50, 200, 150)))
    count = int(outputs["num_detections"][0])
    scores = outputs["detection_scores"][0]
    assert 1 <= count < 100
    assert (np.diff(scores) <= 0).all()
    assert scores[:count].min() > 0
    for name in SHAPES.keys() - {"num_detections"}:
        assert not outputs[name][0, count:].any(), name


def test_multiclass_scores_hold_each_score_at_its_class(detect: Detect) -> None:
    outputs = detect(picture_of_a_rectangle(320, 200, (60, 50, 200, 150)))
    count = int(outputs["num_detections"][0])
    classes = outputs["detection_classes"][0, :count].astype(int)
    picked = outputs["detection_multiclass_scores"][0, np.arange(count), classes]
    assert picked == pytest.approx(outputs["detection_scores"][0, :count])


@pytest.mark.parametrize(
    ("width", "height", "xyxy"),
    [
        (480, 240, (300, 40, 420, 200)),
        (240, 480, (40, 300, 200, 420)),
        (333, 217, (21, 30, 120, 190)),
        (1024, 512, (600, 80, 840, 400)),  # halved inside
        (700, 1000, (80, 600, 400, 840)),
        (2600, 1300, (1500, 200, 2100, 1000)),  # averaged down inside
    ],
)
def test_box_lies_on_the_shape_whatever_the_frame(
    detect: Detect, width: int, height: int, xyxy: tuple[float, float, float, float]
) -> None:
    name, box = best(detect(picture_of_a_rectangle(width, height, xyxy)), width, height)
    assert name == "rectangle"
    assert overlap(box, np.array(xyxy)) > 0.85


def test_moving_a_shape_moves_its_box_by_the_same_distance(detect: Detect) -> None:
    """Over a whole stride of the coarsest level that can hold it, so that no rounding inside gets away."""
    shifts = np.arange(0, 64, 4)
    boxes = [best(detect(picture_of_a_rectangle(400, 240, (100 + s, 60, 200 + s, 140))), 400, 240)[1] for s in shifts]
    slope = np.polyfit(shifts, np.array(boxes), 1)[0]
    assert slope == pytest.approx([1, 0, 1, 0], abs=0.12)


def test_mask_pasted_like_the_reference_covers_the_shape(detect: Detect) -> None:
    width, height, (x1, y1, x2, y2) = 480, 240, (300, 40, 420, 200)
    outputs = detect(picture_of_a_rectangle(width, height, (x1, y1, x2, y2)))
    _, xyxy = best(outputs, width, height)
    counts = paste_masks(outputs["detection_masks"][0, :1], xyxy[None], height, width)[0]
    truth = np.zeros((height, width), bool)
    truth[y1:y2, x1:x2] = True
    mask = rle.decode(counts, height, width)
    assert np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth) > 0.75


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_average_precision_on_held_out_scenes(detect: Detect, tmp_path: Path) -> None:
    """A hundred scenes of a seed that training never saw; the floors leave room for the chance of a small set."""
    truth = json.loads(Path(make_scenes(tmp_path, images=100, seed=424242).truth).read_text())
    results = []
    for image in truth["images"]:
        pixels = np.asarray(Image.open(io.BytesIO((tmp_path / image["file_name"]).read_bytes())))
        height, width = pixels.shape[:2]
        outputs = detect(pixels)
        count = int(outputs["num_detections"][0])
        yxyx = outputs["detection_boxes"][0, :count].astype(np.float64)
        xyxy = yxyx[:, [1, 0, 3, 2]] * [width, height, width, height]
        masks = paste_masks(outputs["detection_masks"][0, :count], xyxy, height, width)
        results += [
            {
                "image_id": image["id"],
                "category_id": int(outputs["detection_classes"][0, k]),
                "score": float(outputs["detection_scores"][0, k]),
                "bbox": [*xyxy[k, :2], *(xyxy[k, 2:] - xyxy[k, :2])],
                "segmentation": {"size": [height, width], "counts": masks[k]},
            }
            for k in range(count)
        ]
    reference = COCO()
    reference.dataset = truth
    reference.createIndex()
    scores = {}
    for kind in ("bbox", "segm"):
        run = COCOeval(reference, reference.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
        scores[kind] = run.stats
    assert scores["bbox"][0] > 0.63
    assert scores["segm"][0] > 0.45
    assert scores["bbox"][5] > 0.65
