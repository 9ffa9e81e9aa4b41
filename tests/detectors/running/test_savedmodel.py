from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from prelabel.aligned import ALIGNMENT
from prelabel.detections import ClassName
from prelabel.detectors.base import Detector, Frame
from prelabel.detectors.conventions.resolve_model import ReadingOptions, prepare
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import SavedModelDetector, load_detector
from prelabel.errors import DetectorError
from prelabel.select import Selection
from prelabel.source.decode import decode
from tests.models import (
    LEVELS,
    Models,
    build_classifier,
    build_hub_module,
    build_mask_rcnn,
    picture,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

#: Not square, so that swapped axes show; odd boxes, so that a resize shows.
TALL = picture(141, 67, ("red", 3, 10, 20, 101), ("blue", 30, 77, 67, 78))
WIDE = picture(53, 211, ("green", 1, 1, 2, 50), ("red", 100, 0, 211, 53))


def load(
    path: Path, label_map: str | None = None, stated: ReadingOptions | None = None, **options: Any
) -> SavedModelDetector:
    model = prepare(str(path), label_map=label_map, reading=stated)
    return load_detector(model, DetectorOptions(**options), warm_up=None)


def load_classifier(path: Path, label_map: str | None = None, **options: Any) -> SavedModelDetector:
    return load(path, label_map, ReadingOptions(activation="logits"), **options)


def boxes(detector: SavedModelDetector, pixels: np.ndarray[Any, Any]) -> list[tuple[str, int, float, list[int]]]:
    (result,) = detector.detect_in([pixels])
    detections = result.detections
    assert (detections.height, detections.width) == pixels.shape[:2]
    np.testing.assert_allclose(detections.xyxy, detections.xyxy.round(), atol=1e-3)
    return [
        (label, int(number), round(float(score) * 255), xyxy.round().astype(int).tolist())
        for label, number, score, xyxy in zip(
            detections.label, detections.category_id, detections.score, detections.xyxy, strict=True
        )
    ]


@pytest.mark.parametrize("variables", ["full", "empty", "absent"])
@pytest.mark.parametrize("swapped", [False, True])
def test_open_images_module(variables: str, swapped: bool, tmp_path: Path) -> None:
    detector = load(build_hub_module(tmp_path / "m", variables=variables, swapped=swapped))
    assert boxes(detector, TALL) == [("Dog", 446, 230, [3, 10, 20, 101]), ("Toothbrush", 8, 170, [30, 77, 67, 78])]
    assert boxes(detector, WIDE) == [("Dog", 446, 230, [100, 0, 211, 53]), ("Cat", 122, 200, [1, 1, 2, 50])]
    (result,) = detector.detect_in([WIDE])
    assert result.detections.mid.tolist() == ["/m/0bt9lr", "/m/01yrx"]
    assert result.detections.mask is None
    assert result.image_labels is None


def test_boxes_and_masks_of_a_reduced_image_are_those_of_the_full_size_image(models: Models) -> None:
    detector = load(models.mask_rcnn)
    pixels = picture(40, 60, ("red", 30, 10, 60, 40))
    (result,) = detector.detect_in([pixels], [Frame(317, 477, (-3, -3, 477, 317))])
    (box,) = result.detections.xyxy.tolist()
    np.testing.assert_allclose(box, [237, 77, 477, 317], atol=0.01)
    assert (result.detections.height, result.detections.width) == (317, 477)
    mask = coco_mask.decode({"size": [317, 477], "counts": result.detections.mask[0].encode()})
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    np.testing.assert_allclose([columns[0], rows[0], columns[-1], rows[-1]], [237, 77, 476, 316], atol=5)


def test_labels_of_a_reduced_image_are_those_of_the_full_size_image(models: Models) -> None:
    (result,) = load_classifier(models.classifier).detect_in([TALL], [Frame(1128, 536, (0, 0, 536, 1128))])
    assert (result.detections.height, result.detections.width) == (1128, 536)


def test_mask_rcnn(models: Models) -> None:
    detector = load(models.mask_rcnn, "coco")
    assert boxes(detector, TALL) == [("dog", 18, 230, [3, 10, 20, 101]), ("toothbrush", 90, 170, [30, 77, 67, 78])]
    assert boxes(detector, WIDE) == [("dog", 18, 230, [100, 0, 211, 53]), ("cat", 17, 200, [1, 1, 2, 50])]
    assert detector.info.masks
    assert detector.info.input_size is None
    assert {Path(file).name for file in detector.info.files} >= {"saved_model.pb"}


def test_masks_lie_where_the_color_lies(models: Models) -> None:
    pixels = picture(120, 200)
    rows, columns = np.mgrid[:120, :200]
    ell = ((columns >= 20) & (columns < 150) & (rows >= 70) & (rows < 110)) | (
        (columns >= 20) & (columns < 50) & (rows >= 10) & (rows < 110)
    )
    pixels[ell] = (LEVELS["red"], 0, 0)
    (result,) = load(models.mask_rcnn).detect_in([pixels])
    assert result.detections.mask is not None
    (counts,) = result.detections.mask
    mask = coco_mask.decode({"size": [120, 200], "counts": counts.encode()}).astype(bool)
    assert (mask & ell).sum() / (mask | ell).sum() > 0.95
    assert (mask & ell[:, ::-1]).sum() / (mask | ell[:, ::-1]).sum() < 0.7


@pytest.mark.parametrize("signatures", [True, False])
@pytest.mark.parametrize("batch_dimension", [True, False])
@pytest.mark.parametrize("float_input", [True, False])
def test_models_with_every_form_of_input_are_run(
    signatures: bool, batch_dimension: bool, float_input: bool, tmp_path: Path
) -> None:
    path = build_mask_rcnn(
        tmp_path / "m",
        masks=False,
        signatures=signatures,
        batch_dimension=batch_dimension,
        float_input=float_input,
        raw_rows=2,
    )
    detector = load(path)
    assert boxes(detector, TALL) == [("18", 18, 230, [3, 10, 20, 101]), ("90", 90, 170, [30, 77, 67, 78])]
    assert not detector.info.masks


def test_an_image_without_objects_has_no_detections(models: Models) -> None:
    for path in (models.hub_module, models.mask_rcnn):
        (result,) = load(path).detect_in([picture(31, 77)])
        assert len(result.detections) == 0
        assert (result.detections.mask is None) == (path == models.hub_module)


def test_selection_and_multiclass_scores(models: Models) -> None:
    detector = load(
        models.mask_rcnn,
        "coco",
        selection=Selection(exclude_class=("cat",), class_map={"dog": "pet"}),
        keep=("multiclass-scores",),
    )
    (result,) = detector.detect_in([WIDE])
    assert result.detections.label.tolist() == ["pet"]
    assert result.detections.multiclass_score is not None
    assert result.detections.multiclass_score.shape == (1, 91)
    assert result.detections.multiclass_score.argmax() == 18


def test_only_what_is_needed_is_computed(models: Models) -> None:
    detector = load(models.mask_rcnn)
    assert set(detector._network(detector._tf.constant(WIDE[None]))) == {
        "detection_boxes",
        "detection_scores",
        "detection_classes",
        "detection_masks",
        "num_detections",
    }


def test_pixels_of_a_jpeg_reach_the_network_without_a_copy(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.fromarray(TALL).save(file, "JPEG")
    pixels = decode(file.getvalue()).pixels
    detector = load(models.mask_rcnn)
    seen: list[Any] = []
    network = detector._network
    monkeypatch.setattr(detector, "_network", lambda tensor: (seen.append(tensor), network(tensor))[1])
    detector.detect_in([pixels])
    assert np.shares_memory(np.asarray(memoryview(seen[0])), pixels)


@pytest.mark.parametrize("kind", ["read-only", "not aligned", "mirrored"])
def test_other_pixels_are_copied_and_give_the_same(kind: str, models: Models) -> None:
    detector = load(models.mask_rcnn)
    memory = np.empty(TALL.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT + (kind == "not aligned")
    pixels = memory[start : start + TALL.nbytes].reshape(TALL.shape)
    pixels[:] = TALL
    if kind == "mirrored":
        pixels[:] = pixels[:, ::-1].copy()
        pixels = pixels[:, ::-1]
    pixels.flags.writeable = kind != "read-only"
    assert boxes(detector, pixels) == boxes(detector, TALL) != []


def test_images_that_run_at_the_same_time_have_the_results_of_single_ones(models: Models) -> None:
    detector = load(models.mask_rcnn)
    images = [WIDE, TALL, WIDE[:, ::-1].copy(), TALL[::-1].copy()] * 8
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pixels: detector.detect_in([pixels])[0].detections, images))
    for pixels, detections in zip(images, together, strict=True):
        (alone,) = detector.detect_in([pixels])
        np.testing.assert_array_equal(detections.xyxy, alone.detections.xyxy)
        assert list(detections.mask) == list(alone.detections.mask)
        assert list(detections.label) == list(alone.detections.label)


def test_label_map_inside_the_model_is_found(tmp_path: Path) -> None:
    path = build_mask_rcnn(tmp_path / "m", masks=False, raw_rows=2)
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets/label_map.pbtxt").write_text('item { id: 18 name: "hound" }')
    assert [name for name, *_ in boxes(load(path), TALL)] == ["hound", "90"]
    assert [name for name, *_ in boxes(load(path, "coco"), TALL)] == ["dog", "toothbrush"]


def red_at(height: int, width: int, place: tuple[float, float, float, float]) -> np.ndarray[Any, Any]:
    """Red in one part (top, left, bottom, right as shares) of a picture, darkness elsewhere."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left, bottom, right = (round(e * s) for e, s in zip(place, (height, width) * 2, strict=True))
    pixels[top:bottom, left:right, 0] = 255
    return pixels


#: The leftmost columns stay dark: they have a class of their own.
PARTS = [
    ((0, 0.0625, 1, 0.5), 101),
    ((0, 0.5, 1, 1), 102),
    ((0, 0.0625, 0.5, 1), 201),
    ((0.5, 0.0625, 1, 1), 202),
]


@pytest.mark.parametrize("shape", [(128, 128), (90, 300), (700, 256), (40, 30)])
def test_classifier_sees_the_whole_image(shape: tuple[int, int], models: Models) -> None:
    detector = load_classifier(models.classifier)
    answers = detector.detect_in([red_at(*shape, place) for place, _ in PARTS])
    for (_, number), result in zip(PARTS, answers, strict=True):
        assert result.image_labels is not None
        assert result.image_labels[0].category_id == number
        assert result.image_labels[0].score > 0.9
        assert len(result.image_labels) == 5
        assert len(result.detections) == 0


def test_classifier_does_not_crop(models: Models) -> None:
    pixels = red_at(200, 400, (0, 0, 1, 8 / 128))
    (result,) = load_classifier(models.classifier).detect_in([pixels])
    assert result.image_labels is not None
    assert result.image_labels[0].category_id == 301


def test_classifier_does_not_miss_thin_objects(models: Models) -> None:
    pixels = np.zeros((1280, 1280, 3), np.uint8)
    pixels[:, :640:10, 0] = 255  # one column of ten: a tenth of redness everywhere on the left, at any phase
    shifted = np.roll(pixels, 5, axis=1)
    scores = []
    for result in load_classifier(models.classifier).detect_in([pixels, shifted]):
        assert result.image_labels is not None
        scores.append({label.category_id: label.score for label in result.image_labels}[101])
    assert scores[0] == pytest.approx(scores[1], rel=0.1)


def test_classifier_returns_batches_in_order(models: Models) -> None:
    detector = load_classifier(models.classifier, batch_size=3)
    assert detector.batch_size == 3
    together = detector.detect_in([red_at(60, 90, place) for place, _ in PARTS[:3]])
    alone = [detector.detect_in([red_at(60, 90, place)])[0] for place, _ in PARTS[:3]]
    for result, other in zip(together, alone, strict=True):
        assert result.image_labels is not None
        assert other.image_labels is not None
        assert [each.category_id for each in result.image_labels] == [each.category_id for each in other.image_labels]
    assert detector.detect_in([]) == []


def test_probabilities_are_not_softmaxed_again(models: Models, tmp_path: Path) -> None:
    pixels = red_at(60, 90, (0, 0, 1, 0.5))
    (logits,) = load_classifier(models.classifier).detect_in([pixels])
    (same,) = load(build_classifier(tmp_path / "m", probabilities=True)).detect_in([pixels])
    assert logits.image_labels is not None
    assert same.image_labels is not None
    assert [label.category_id for label in same.image_labels[:2]] == [
        label.category_id for label in logits.image_labels[:2]
    ]
    assert same.image_labels[0].score == pytest.approx(logits.image_labels[0].score, rel=1e-4)


def test_classifier_without_signature_and_size(tmp_path: Path) -> None:
    detector = load_classifier(build_classifier(tmp_path / "m", size=None, signatures=False))
    (result,) = detector.detect_in([red_at(60, 90, (0, 0, 0.5, 1))])
    assert result.image_labels is not None
    assert result.image_labels[0].category_id == 201


def test_names_of_a_classifier_come_from_lines(models: Models, tmp_path: Path) -> None:
    names = [f"thing {number}" for number in range(1001)]
    for first, expected in (("background", "thing 101"), ("thing 0", "thing 101")):
        (tmp_path / "labels.txt").write_text("\n".join([first, *names[1:]]))
        (result,) = load_classifier(models.classifier, str(tmp_path / "labels.txt")).detect_in(
            [red_at(60, 90, PARTS[0][0])]
        )
        assert result.image_labels is not None
        assert result.image_labels[0].label == expected


def test_detectors_run_one_image_at_a_time(models: Models) -> None:
    detector = load(models.mask_rcnn)
    assert detector.batch_size == 1
    assert [len(result.detections) for result in detector.detect_in([TALL, WIDE, picture(20, 30)])] == [2, 2, 0]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_refused(pixels: np.ndarray[Any, Any], models: Models) -> None:
    with pytest.raises(DetectorError, match=r"must be \(H, W, 3\) uint8, got"):
        load(models.mask_rcnn).detect_in([pixels])


def test_warm_up_runs_the_model(models: Models) -> None:
    load(models.hub_module).warm_up(30, 40)


def failing(path: Path) -> Path:
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc,name-defined]
        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])  # type: ignore[misc]
        def __call__(self, image: Any) -> dict[str, Any]:
            with tf.control_dependencies([tf.debugging.assert_less(tf.shape(image)[1], 50, "too tall for me")]):
                score = tf.identity(tf.zeros([1, 1]))
            return {
                "detection_boxes": tf.zeros([1, 1, 4]),
                "detection_scores": score,
                "detection_classes": tf.ones([1, 1]),
            }

    model = Model()
    tf.saved_model.save(model, str(path), signatures=model.__call__)
    return path


def test_a_model_that_fails_on_an_image_is_that_images_error(tmp_path: Path) -> None:
    detector = load(failing(tmp_path / "m"))
    assert len(detector.detect_in([picture(40, 60)])[0].detections) == 0
    with pytest.raises(DetectorError, match="InvalidArgumentError") as caught:
        detector.detect_in([picture(60, 40)])
    assert "\n" not in str(caught.value)
    assert len(detector.detect_in([picture(40, 60)])[0].detections) == 0


def damaged(path: Path) -> None:
    data = next((path / "variables").glob("*.data-*"))
    data.write_bytes(b"")


def without_variables(path: Path) -> None:
    for file in (path / "variables").iterdir():
        file.unlink()


@pytest.mark.parametrize("break_it", [damaged, without_variables])
def test_model_that_cannot_be_loaded_is_refused(break_it: Callable[[Path], None], tmp_path: Path) -> None:
    path = build_mask_rcnn(tmp_path / "m", masks=False, raw_rows=2)
    break_it(path)
    with pytest.raises(DetectorError, match="TensorFlow cannot load"):
        load(path)


def test_detector_is_a_detector(models: Models) -> None:
    detector: Detector = load(models.mask_rcnn, "coco")
    assert detector.info.name == "mask-rcnn"
    (detections,) = detector.detect([WIDE])
    assert detections.label.tolist() == ["dog", "cat"]
    assert detector.info.classes is not None
    assert ClassName(18, "dog", "/m/0bt9lr") in detector.info.classes


def test_a_classifier_detects_nothing_and_says_so(models: Models) -> None:
    with pytest.raises(DetectorError, match="labels whole images"):
        load_classifier(models.classifier).detect([WIDE])
