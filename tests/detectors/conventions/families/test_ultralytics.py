from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.detectors.base import Frame
from prelabel.detectors.conventions.boxes import Shown
from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.protos import Signature, Tensor
from prelabel.detectors.conventions.recognize import recognize
from prelabel.detectors.conventions.resolve_model import ReadingOptions, prepare
from prelabel.detectors.inspect import format_report, inspect_model
from prelabel.detectors.models.cache import fingerprint_of
from prelabel.detectors.running.postprocess import DetectorOptions, to_result
from prelabel.detectors.running.savedmodel import load_detector
from prelabel.errors import DetectorError
from prelabel.keypoints import KeypointSet
from tests.detectors.conventions.families.scenes import Box, check, detect
from tests.detectors.conventions.families.ultralytics_networks import COLUMNS, NAMES, ROWS, SIZE, write_metadata
from tests.models import picture

RAW, SUPPRESSED = (1, 4 + len(NAMES), COLUMNS), (1, ROWS, 6)

#: Sizes of images and boxes in them. The input has 96 x 128 pixels: some images are enlarged, most have odd sizes.
SCENES: tuple[tuple[tuple[int, int], tuple[Box, ...]], ...] = (
    ((96, 128), (("red", 3, 10, 40, 90), ("blue", 60, 20, 127, 31))),
    ((141, 67), (("red", 3, 10, 31, 101), ("blue", 40, 77, 67, 98))),
    ((53, 211), (("red", 100, 0, 211, 53), ("green", 4, 6, 22, 50))),
    ((31, 33), (("green", 0, 0, 16, 31), ("blue", 20, 20, 33, 31))),
    ((480, 641), (("green", 0, 401, 641, 480),)),
    ((333, 250), ()),
)


def recognized(
    folder: Path, *shapes: tuple[int | None, ...], size: tuple[int, ...] = SIZE, dtype: str = "float32"
) -> Convention:
    """The convention of a network with this metadata and outputs of these shapes."""
    outputs = tuple(Tensor(f"output_{number}", "float32", shape) for number, shape in enumerate(shapes))
    image = Tensor("images", dtype, (1, *size, 3))
    return recognize([Signature("serving_default", (image,), outputs)], folder=folder)


@pytest.mark.parametrize(
    ("shape", "order"),
    [(RAW, "center x y width height, pixels of the input"), (SUPPRESSED, "x1 y1 x2 y2, pixels of the input")],
)
def test_the_shape_tells_the_form_of_the_boxes(shape: tuple[int, ...], order: str, tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), shape)
    assert (convention.kind, convention.outputs, convention.classes) == ("detection", {"boxes": "output_0"}, 3)
    assert convention.known["boxes"].value == str(convention.box_form) == order
    assert convention.known["input range"].value == "0..1"
    assert (convention.fit.mode, convention.fit.fill, convention.fit.antialias) == ("letterbox", 114, False)
    assert convention.labels is not None
    assert [convention.labels.classes[number].name for number in range(3)] == list(NAMES)


def test_metadata_decides_if_both_forms_fit(tmp_path: Path) -> None:
    shape = (1, 4 + len(NAMES), 6)
    for flags, form in (
        ({"end2end": True}, "xyxy"),
        ({"end2end": False, "args": {"nms": True}}, "xyxy"),
        ({"end2end": False, "args": {}}, "cxcywh"),
    ):
        assert recognized(write_metadata(tmp_path, **flags), shape).box_form.order == form
    with pytest.raises(DetectorError, match=r"must be \[1, 7, N\] or \[1, N, 6\]"):
        recognized(write_metadata(tmp_path, end2end=None, args=None), shape)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"names": ["a", "b"]}, r"2 classes of its metadata.yaml, it must be \[1, 6, N\] or \[1, N, 6\]"),
        ({"names": {0: "a", 2: "b"}}, "`names` do not name the classes from 0 on"),
        ({"names": {0: "a", 1: ["b"], 2: "c"}}, "`names` do not name"),
        ({"names": None}, "`names` do not name"),
        ({"imgsz": [640, 640]}, "input of 96 x 128, but its metadata.yaml says 640 x 640"),
        ({"imgsz": "large"}, "`imgsz` is not a height and width"),
        ({"task": "obb"}, "task 'obb'.* upright boxes"),
        ({"task": "depth"}, "task 'depth'"),
        ({"task": 3}, "without a `task`"),
        ({"head": "RTDETRDecoder"}, "RT-DETR"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(values: Mapping[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=words):
        recognized(write_metadata(tmp_path, **values), RAW)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"author: Ultralytics\nnames: [", "cannot be read"),
        (b"\xff\xfe\x00author", "cannot be read"),
        (b"- 1\n- 2\n", "cannot be read"),
        (b"#" * (5 << 20), "more than 4 MB"),
        (b"author: Ultralytics\nnames: !!python/object/apply:os.getpid []\n", "cannot be read"),
        (b"author: somebody\ntask: detect\n", "without its metadata.yaml"),
    ],
)
def test_other_files_of_this_name_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_bytes(content)
    with pytest.raises(DetectorError, match=words) as raised:
        recognized(tmp_path, RAW)
    assert "\n" not in str(raised.value)


def test_without_metadata_the_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"without its metadata.yaml .* the whole folder"):
        recognized(tmp_path, RAW)


@pytest.mark.parametrize(
    ("shapes", "form"), [([(1, 11, COLUMNS), (1, 24, 32, 4)], "cxcywh"), ([(1, 24, 32, 4), (1, ROWS, 10)], "xyxy")]
)
def test_prototypes_are_told_from_boxes_by_their_shape(shapes: list[Any], form: str, tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path, task="segment"), *shapes)
    names = [f"output_{number}" for number, shape in enumerate(shapes) if len(shape) == 3]
    assert (convention.outputs["boxes"], convention.box_form.order, convention.masks) == (*names, form, True)
    with pytest.raises(DetectorError, match=r"must be \[1, 12, N\] or \[1, N, 11\]"):
        recognized(write_metadata(tmp_path, task="segment"), (1, 11, COLUMNS), (1, 24, 32, 5))
    with pytest.raises(DetectorError, match="an array of boxes and one of prototypes"):
        recognized(write_metadata(tmp_path, task="segment"), (1, 11, COLUMNS))


def test_masks_are_weighted_prototypes(tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path, task="segment"), (1, ROWS, 8), (1, 2, 3, 2))
    rows = np.array([[10, 20, 30, 40, 0.9, 2, 1, -1], [50, 20, 70, 40, 0.8, 0, 0, 2], [0] * 8], np.float32)
    prototypes = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    assert convention.decode is not None
    outputs = {"output_0": rows[np.newaxis], "output_1": prototypes[np.newaxis]}
    shown = Shown.of(SIZE, SIZE, convention.fit)
    found = convention.decode(outputs, convention, shown, 0.1)
    assert found.mask_logits is not None
    assert found.mask_logits(np.array([1, 0])).tolist() == [[[2, 6, 10], [14, 18, 22]], [[-1, -1, -1], [-1, -1, -1]]]
    with pytest.raises(DetectorError, match=r"output_1 must have shape \[1, h, w, 2\]"):
        convention.decode({**outputs, "output_1": np.zeros((1, 2, 2, 3))}, convention, shown, 0.1)
    with pytest.raises(DetectorError, match="output_1 has numbers that are not finite"):
        convention.decode({**outputs, "output_1": prototypes[np.newaxis] * np.nan}, convention, shown, 0.1)


def test_masks_reach_the_edge_of_the_image_beside_gray(tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path, task="segment"), (1, ROWS, 7), (1, 24, 32, 1))
    # An image of 48 x 32 takes the columns 32 to 96 of the input: 8 to 24 of the prototypes.
    prototypes = np.full((1, 24, 32, 1), -9, np.float32)
    prototypes[:, :, 8:24] = 1
    outputs = {"output_0": np.array([[[30, 0, 99, 96, 0.9, 0, 1]]], np.float32), "output_1": prototypes}
    shown = Shown.of((48, 32), SIZE, convention.fit)
    detections = to_result(
        outputs, convention, Frame(48, 32, (0, 0, 32, 48)), None, DetectorOptions(), shown
    ).detections
    assert detections.decode_masks().all()


@pytest.mark.parametrize("form", ["raw", "suppressed"])
@pytest.mark.parametrize("numbers", [2, 3])
def test_keypoints_are_pixels_of_the_letterboxed_input(form: str, numbers: int, tmp_path: Path) -> None:
    raw = form == "raw"
    shape = (1, 7 + 2 * numbers, COLUMNS) if raw else (1, ROWS, 6 + 2 * numbers)
    convention = recognized(write_metadata(tmp_path, task="pose", kpt_shape=[2, numbers]), shape)
    assert convention.keypoints is not None
    assert len(convention.keypoints) == 2
    points = [[42, 16, 0.25][:numbers], [31, 96, 0.75][:numbers]]
    box = [42, 20, 20, 12, 0, 0.5, 0] if raw else [32, 14, 52, 26, 0.5, 1]
    row = np.array([[*box, *points[0], *points[1]]], np.float32)
    assert convention.decode is not None
    # An image of 48 x 32 doubles to 96 x 64, with 32 columns of gray on each side.
    shown = Shown.of((48, 32), SIZE, convention.fit)
    arrays = convention.decode({"output_0": (row.T if raw else row)[np.newaxis]}, convention, shown, 0.1).arrays
    assert (arrays["keypoints"] * [48, 32]).tolist() == [[[8, 5], [48, -0.5]]]
    assert arrays["keypoint_scores"].tolist() == ([[0.25, 0.75]] if numbers == 3 else [[1, 1]])
    # Nothing is detected.
    arrays = convention.decode({"output_0": (row.T if raw else row)[np.newaxis]}, convention, shown, 0.9).arrays
    assert (arrays["keypoints"].shape, arrays["keypoint_scores"].shape) == ((0, 2, 2), (0, 2))


@pytest.mark.parametrize("shape", [None, 17, [17], [17, 4], [0, 3], [17, "3"], [17, 3, 3]])
def test_keypoints_without_a_shape_are_refused(shape: Any, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="kpt_shape"):
        recognized(write_metadata(tmp_path, task="pose", kpt_shape=shape), RAW)


@pytest.mark.parametrize(
    ("names", "expected", "pairs"),
    [
        ({0: ["nose", "left_eye", "right_eye"]}, ("nose", "left_eye", "right_eye"), ((1, 2),)),
        ({0: ["a", "b", "c"], 1: ["a", "b", "c"]}, ("a", "b", "c"), None),
        ({0: ["a", "b", "c"], 1: ["a", "b", "d"]}, None, None),
        ({0: ["0", "1", "2"]}, None, None),
        ({0: ["a", "b"]}, None, None),
        ({0: ["a", "b", "b"]}, None, None),
        ({0: ["a", "b", " "]}, None, None),
        ({0: "abc"}, None, None),
        (["a", "b", "c"], None, None),
        (None, None, None),
    ],
)
def test_keypoints_have_the_names_of_the_metadata_if_these_are_the_same_for_all_classes(
    names: Any, expected: tuple[str, ...] | None, pairs: Any, tmp_path: Path
) -> None:
    folder = write_metadata(tmp_path, task="pose", kpt_shape=[3, 3], kpt_names=names)
    keypoints = recognized(folder, (1, 16, COLUMNS)).keypoints
    assert keypoints is not None
    assert (keypoints.names, keypoints.pairs) == (expected or KeypointSet.unnamed(3).names, pairs)


@pytest.mark.parametrize(("dtype", "shapes"), [("uint8", [RAW]), ("float32", [RAW, (1, 24, 32, 32)])])
def test_other_inputs_and_outputs_are_refused(dtype: str, shapes: list[Any], tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="format=saved_model"):
        recognized(write_metadata(tmp_path), *shapes, dtype=dtype)


def decoded(convention: Convention, output: list[Any], *, lowest: float = 0.1, image: tuple[int, int] = SIZE) -> Any:
    """The boxes x1 y1 x2 y2 in pixels of the image, scores and class numbers of an output without batch dimension."""
    assert convention.decode is not None
    shown = Shown.of(image, convention.size, convention.fit)
    array = np.array(output, np.float32)[np.newaxis]
    arrays = convention.decode({"output_0": array}, convention, shown, lowest).arrays
    pixels = arrays["boxes"][:, [1, 0, 3, 2]] * np.array([image[1], image[0]] * 2)
    return pixels.round(3).tolist(), arrays["scores"].astype(np.float64).round(3).tolist(), arrays["numbers"].tolist()


def test_raw_boxes_of_one_class_suppress_each_other(tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), RAW)
    columns = [
        # x, y, width, height, scores of 3 classes
        [20, 30, 10, 20, 0.0, 0.6, 0.2],
        [20, 30, 10, 18, 0.0, 0.9, 0.2],  # better, and IoU 0.9
        [20, 30, 10, 20, 0.5, 0.1, 0.2],  # another class
        [20, 30, 10, 13, 0.0, 0.7, 0.0],  # IoU 0.72 with the best
        [20, 30, 10, 12, 0.0, 0.7, 0.0],  # IoU 0.67 with the best
        [100, 50, 10, 12, 0.0, 0.0, 0.05],  # below the lowest score
    ]
    boxes, scores, numbers = decoded(convention, np.array(columns).T.tolist())
    assert boxes == [[15, 21, 25, 39], [15, 24, 25, 36], [15, 20, 25, 40]]
    assert (scores, numbers) == ([0.9, 0.7, 0.5], [1, 1, 0])


def test_raw_boxes_are_pixels_of_the_letterboxed_input(tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), RAW)
    # An image of 48 x 32 doubles to 96 x 64, with 32 columns of gray on each side.
    boxes, _, _ = decoded(convention, [[64], [48], [64], [96], [0.5], [0], [0]], image=(48, 32))
    assert boxes == [[0, 0, 32, 48]]
    boxes, _, _ = decoded(convention, [[42], [16], [20], [12], [0.5], [0], [0]], image=(48, 32))
    assert boxes == [[0, 5, 10, 11]]


@pytest.mark.parametrize("form", ["raw", "suppressed"])
def test_boxes_in_the_gray_are_left_out(form: str, tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), RAW if form == "raw" else SUPPRESSED)
    # The image takes the columns 32 to 96 of the input.
    raw = [[16, 50, 32, 20, 0.9, 0, 0], [112, 50, 20, 20, 0.8, 0, 0], [30, 20, 6, 20, 0.7, 0, 0]]
    rows = [[0, 40, 32, 60, 0.9, 0], [102, 40, 122, 60, 0.8, 0], [27, 10, 33, 30, 0.7, 0]]
    output = np.array(raw).T.tolist() if form == "raw" else rows
    boxes, scores, _ = decoded(convention, output, image=(48, 32))
    assert (boxes, scores) == ([[0, 5, 0.5, 15]], [0.7])


def test_at_most_300_of_the_raw_boxes_are_kept_the_best(tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), RAW)
    x = np.linspace(5, 120, 400)
    scores = np.linspace(0.2, 0.9, 400)
    output = np.stack([x, 0 * x + 40, 0 * x + 0.1, 0 * x + 0.1, scores, 0 * x, 0 * x])
    _, kept, _ = decoded(convention, output.tolist())
    assert len(kept) == 300
    assert kept == pytest.approx(scores[::-1][:300], abs=1e-3)


def test_boxes_of_the_network_s_own_suppression_are_taken_as_they_are(tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), SUPPRESSED)
    rows = [[10, 20, 30, 40, 0.9, 2], [10, 20, 30, 41, 0.8, 2], [0, 0, 128, 96, 0.3, 0], [0] * 6, [0] * 6]
    boxes, scores, numbers = decoded(convention, rows)
    assert boxes == [[10, 20, 30, 40], [10, 20, 30, 41], [0, 0, 128, 96]]
    assert (scores, numbers) == ([0.9, 0.8, 0.3], [2, 2, 0])
    assert decoded(convention, [[0] * 6]) == ([], [], [])


@pytest.mark.parametrize(
    ("shape", "output"),
    [
        (RAW, [[0.1, 0.9], [0.1, 0.9], [0.2, 0.2], [0.1, 0.1], [0, 0], [0, 0], [0, 0]]),
        (SUPPRESSED, [[0.1, 0.2, 0.3, 0.4, 0.9, 2], [0] * 6]),
    ],
)
def test_normalized_boxes_are_refused(shape: tuple[int, ...], output: list[Any], tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), shape)
    with pytest.raises(DetectorError, match=r"normalized boxes.*tflite.*format=saved_model"):
        decoded(convention, output)


def test_numbers_that_are_not_finite_are_left_to_the_checks(tmp_path: Path) -> None:
    convention = recognized(write_metadata(tmp_path), RAW)
    columns = [[20, 30, 10, 20, np.nan, 0, 0], [50, 30, 10, 20, 0.9, 0, 0], [np.nan, 30, 10, 20, 0.8, 0, 0]]
    boxes, scores, _ = decoded(convention, np.array(columns).T.tolist())
    assert len(boxes) == 3
    assert sorted(map(str, scores)) == ["0.8", "0.9", "nan"]


def test_a_normalized_network_is_refused_before_the_first_image(family_networks: Path) -> None:
    with pytest.raises(DetectorError, match="normalized boxes"):
        detect(family_networks / "yolo-normalized", picture(*SIZE))


@pytest.mark.parametrize("name", ["yolo", "yolo-suppressed", "yolo-masks", "yolo-masks-suppressed"])
@pytest.mark.parametrize(("size", "boxes"), SCENES, ids=str)
def test_it_finds_boxes(name: str, size: tuple[int, int], boxes: tuple[Box, ...], family_networks: Path) -> None:
    detections = detect(family_networks / name, picture(*size, *boxes))
    # An edge between two pixels of the input belongs to either of them.
    within = max(size[0] / SIZE[0], size[1] / SIZE[1], 1)
    check(detections, boxes, numbers=(0, 1, 2), within=within)


@pytest.mark.parametrize("name", ["yolo-masks", "yolo-masks-suppressed"])
@pytest.mark.parametrize("size", [(96, 128), (141, 67), (480, 641)])
def test_masks_cover_the_pixels_of_the_object(name: str, size: tuple[int, int], family_networks: Path) -> None:
    height, width = size
    # The box goes around both red parts, and the mask leaves out what is between them.
    left = ("red", 0, height // 8, width // 3, height // 2)
    right = ("red", 2 * width // 3, height // 4, width, height)
    pixels = picture(height, width, left, right)
    (mask,) = detect(family_networks / name, pixels).decode_masks()
    expected = pixels[..., 0] == 230
    assert (mask & expected).sum() / (mask | expected).sum() > 0.93
    assert not mask[:, width // 3 + width // 20 : 2 * width // 3 - width // 20].any()


@pytest.mark.parametrize("size", [(96, 128), (141, 67), (31, 33)])
def test_keypoints_lie_in_pixels_of_the_image(size: tuple[int, int], family_networks: Path) -> None:
    height, width = size
    box = (width // 4, height // 5, width - 5, height - 2)
    detections = detect(family_networks / "yolo-points", picture(height, width, ("green", *box)))
    assert detections.keypoints is not None
    x1, y1, x2, y2 = box
    within = max(height / SIZE[0], width / SIZE[1], 1)
    np.testing.assert_allclose(detections.keypoints[..., :2], [[[x1, y1], [x2, y2]]], atol=within)
    np.testing.assert_allclose(detections.keypoints[..., 2], [[0.25, 0.75]])


def test_the_area_of_masks_is_no_option(family_networks: Path) -> None:
    with pytest.raises(DetectorError, match="remove --mask-frame"):
        prepare(str(family_networks / "yolo-masks"), reading=ReadingOptions(mask_frame="box"))


def test_a_classifier_sees_the_center_square(family_networks: Path) -> None:
    model = prepare(str(family_networks / "yolo-classes"))
    assert (model.convention.kind, model.convention.activation) == ("classification", "softmax")
    detector = load_detector(model, DetectorOptions(top_k=3), warm_up=None)
    # Without the crop, blue would win.
    wide = picture(60, 200, ("blue", 0, 0, 70, 60), ("red", 70, 0, 130, 60), ("blue", 130, 0, 200, 60))
    high = np.ascontiguousarray(wide.transpose(1, 0, 2))
    for result in detector.detect_in([wide, high]):
        assert result.image_labels is not None
        assert result.image_labels[0].label == "Dog"
        assert sum(label.score for label in result.image_labels) == pytest.approx(1)


def test_a_classifier_with_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    assert recognized(write_metadata(tmp_path, task="classify"), (1, 3)).fit.mode == "stretch"
    with pytest.raises(DetectorError, match=r"3 classes of its metadata.yaml, it must be \[1, 3\]"):
        recognized(write_metadata(tmp_path, task="classify"), (1, 4))


def test_rows(family_networks: Path, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, (size, boxes) in enumerate(SCENES):
        Image.fromarray(picture(*size, *boxes)).save(photos / f"{number}.png")
    labelled = rows(photos, family_networks / "yolo")
    assert [row["error"] for row in labelled] == [None] * len(SCENES)
    assert labelled[0]["labels"] == ["Dog", "Toothbrush"]
    boxes = np.array(labelled[0]["boxes"]).reshape(-1, 4)
    np.testing.assert_allclose(boxes, [[3, 10, 40, 90], [60, 20, 127, 31]], atol=1)


def test_metadata_is_part_of_the_fingerprint(family_networks: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(family_networks / "yolo", tmp_path / "yolo")
    before = fingerprint_of(folder)
    write_metadata(folder, names=["a", "b", "c"])
    assert fingerprint_of(folder) != before
    assert prepare(str(folder)).class_names != prepare(str(family_networks / "yolo")).class_names


def test_a_label_map_of_other_classes_is_refused(family_networks: Path, tmp_path: Path) -> None:
    own = tmp_path / "names.txt"
    own.write_text("hund\nkatze\nzahnbürste\n")
    model = prepare(str(family_networks / "yolo"), label_map=str(own))
    assert [name.name for name in model.class_names or ()] == ["hund", "katze", "zahnbürste"]
    with pytest.raises(DetectorError, match=r"label map coco names class .* 0 to 2"):
        prepare(str(family_networks / "yolo"), label_map="coco")


def test_inspect_shows_what_the_family_decides(family_networks: Path) -> None:
    report = format_report(inspect_model(str(family_networks / "yolo")))
    assert "suppression  within classes above IoU 0.7, at most 300 boxes" in report
    assert "label map    metadata.yaml, 3 classes" in report
    assert "usable       yes" in report
