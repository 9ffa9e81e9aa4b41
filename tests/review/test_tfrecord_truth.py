"""Boxes of TFRecord files as ground truth: the same figures as of the COCO dataset that they were made from."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.errors import ConfigError, EvaluateError
from prelabel.masks import rle
from prelabel.review.metrics import evaluate_by_metric
from prelabel.review.options import EvaluateOptions
from prelabel.review.tfrecord_truth import is_tfrecord, read_tfrecord_truth
from prelabel.review.truth import Truth, read_truth
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from tests.messages import telling
from tests.review import cases
from tests.review.cases import evaluated, thing, write_truth
from tests.review.test_evaluate_frames import STORED, UPRIGHT, photo
from tests.review.test_same_as_by_hand import INFO, random_world
from tests.rows import ListedRows
from tests.tfrecords import Values, coco_records, example, record, tfrecord_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

STORAGE = Storage()

#: Two boxes on an image of 40 x 60 pixels.
BOXES: dict[str, Values] = {
    "image/height": [40],
    "image/width": [60],
    "image/filename": ["a.jpg"],
    "image/object/bbox/xmin": [0.0, 0.5],
    "image/object/bbox/xmax": [0.5, 1.0],
    "image/object/bbox/ymin": [0.0, 0.25],
    "image/object/bbox/ymax": [0.25, 0.5],
    "image/object/class/text": ["dog", "cat"],
    "image/object/class/label": [18, 17],
}


def png(mask: np.ndarray) -> bytes:
    """A mask as the API writes it: an object is 1, not 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def truth_of(tmp_path: Path, *records: Mapping[str, Values], labels: str = "", **options: Any) -> Truth:
    (tmp_path / "x.tfrecord").write_bytes(b"".join(record(example(features)) for features in records))
    return read_tfrecord_truth(str(tmp_path / "x.tfrecord"), STORAGE, labels, **options)


def without(*names: str, **more: Values) -> dict[str, Values]:
    """`BOXES` without some features of objects, and with others."""
    kept = {name: values for name, values in BOXES.items() if name.removeprefix("image/object/") not in names}
    return {**kept, **{f"image/object/{name}": values for name, values in more.items()}}


@pytest.mark.parametrize("named", [True, False])
def test_the_figures_are_those_of_the_coco_dataset(tmp_path: Path, named: bool) -> None:
    path, run = random_world(tmp_path, seed=3)
    coco = json.loads(Path(path).read_text())

    def mask_of(annotation: Mapping[str, Any]) -> bytes:
        segmentation = annotation["segmentation"]
        return png(rle.decode(segmentation["counts"], *segmentation["size"]))

    for number in range(2):
        part = {**coco, "images": coco["images"][number::2]}
        (tmp_path / f"x.record-{number:05d}-of-00002").write_bytes(coco_records(part, mask_of=mask_of))
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("".join(f"item {{ id: {c['id']} name: '{c['name']}' }}\n" for c in coco["categories"]))
    options = {"truth_labels": str(labels)} if named else {}
    expected = evaluated(path, *run, info=INFO)
    done = evaluated(str(tmp_path / "x.record-*-of-00002"), *run, info=INFO, **options)
    assert done.boxes == expected.boxes
    assert done.masks is not None
    assert done.masks == expected.masks
    assert done.images == expected.images
    assert done.classes == expected.classes
    assert done.work == expected.work
    assert ("detections of other classes are ignored" in str(done.notes)) != named
    if named:
        assert done.notes == expected.notes


def test_real_photos_are_the_same_images_and_the_same_truth(assets: Path, tmp_path: Path) -> None:
    photos, instances = assets / "images" / "coco-val80", assets / "images" / "coco-val80-instances.json"
    coco = json.loads(instances.read_text())
    path = tmp_path / "val.record"
    path.write_bytes(coco_records(coco, image_of=lambda name: (photos / name).read_bytes()))
    refs = list(list_images([str(path)], STORAGE))
    assert [ref.file_name for ref in refs] == [f"val.record/{image['file_name']}" for image in coco["images"]]
    with ArchiveReader(STORAGE) as archives:
        for ref in refs:
            file = photos / ref.file_name.removeprefix("val.record/")
            assert fetch(ref, STORAGE, 1 << 24, archives=archives) == file.read_bytes()
    truth, expected = read_tfrecord_truth(str(path), STORAGE), read_truth(str(instances), STORAGE)
    for image, other in zip(truth.images, expected.images, strict=True):
        assert image.file_name == f"val.record/{other.file_name}"
        assert (image.height, image.width) == (other.height, other.width)
        for annotation, of_coco in zip(image.objects, other.objects, strict=True):
            assert (annotation.category_id, annotation.crowd) == (of_coco.category_id, of_coco.crowd)
            assert annotation.bbox == pytest.approx(of_coco.bbox, abs=1e-3)
            assert annotation.area == pytest.approx(of_coco.area)
    assert {(c.id, c.name) for c in truth.categories} <= {(c.id, c.name) for c in expected.categories}


def test_a_record_by_hand(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[1:3, 2:5] = True
    features = without(
        **{
            "mask": [png(mask), b"no PNG"],
            "group_of": [1, 0],
            "difficult": [0, 0],
            "area": [5.5, float("nan")],
            "keypoint/x": [0.5, 0.0],
            "keypoint/y": [0.25, 0.0],
            "keypoint/visibility": [2, 0],
        }
    )
    truth = truth_of(tmp_path, features, {"image/filename": ["b.jpg"], "image/height": [3], "image/width": [4]})
    first, second = truth.images
    assert [(image.file_name, image.height, image.width) for image in truth.images] == [
        ("x.tfrecord/a.jpg", 40, 60),
        ("x.tfrecord/b.jpg", 3, 4),
    ]
    assert second.objects == ()
    dog, cat = first.objects
    assert [(o.category_id, o.bbox, o.crowd, o.area) for o in first.objects] == [
        (18, (0, 0, 30, 10), True, 5.5),
        (17, (30, 10, 30, 10), False, None),
    ]
    assert (dog.segmentation, dog.invalid_segmentation) == ({"size": [40, 60], "counts": rle.encode(mask)}, False)
    assert (cat.segmentation, cat.invalid_segmentation) == (None, True)
    assert (dog.keypoints, cat.keypoints) == ((30, 10, 2), ())
    assert [(c.id, c.name) for c in truth.categories] == [(17, "cat"), (18, "dog")]
    assert "1 objects of" in truth.notes[1]
    assert "groups" in truth.notes[1]
    assert truth_of(tmp_path, features, masks=False).images[0].objects[0].segmentation is None


def test_keypoints_without_visibility_are_visible_if_they_are_numbers(tmp_path: Path) -> None:
    x, y = [0.5, float("nan"), float("nan"), float("nan")], [0.25, 0.5, float("nan"), 0.5]
    (image,) = truth_of(tmp_path, without(**{"keypoint/x": x, "keypoint/y": y})).images
    assert [annotation.keypoints for annotation in image.objects] == [(30, 10, 2, 0, 20, 0), ()]


def test_the_size_is_that_of_the_stored_image_if_the_record_has_none(tmp_path: Path) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(file, "JPEG", exif=exif)
    features = {name: values for name, values in BOXES.items() if name not in ("image/height", "image/width")}
    (image,) = truth_of(tmp_path, {**features, "image/encoded": [file.getvalue()]}).images
    assert (image.height, image.width, image.objects[1].bbox) == (40, 60, (30, 10, 30, 10))
    with pytest.raises(EvaluateError, match=telling("record 0", "a.jpg", "image/height", "empty")):
        truth_of(tmp_path, features)


@pytest.mark.parametrize(("size", "xywh"), [((40, 60), UPRIGHT), ((60, 40), STORED)])
def test_the_size_tells_the_frame_of_the_boxes(
    tmp_path: Path, size: tuple[int, int], xywh: tuple[float, float, float, float]
) -> None:
    """A photo that is displayed at 40 x 60 pixels (height x width), and stored at 60 x 40."""
    height, width = size
    x, y, w, h = xywh
    box: dict[str, Values] = {"xmin": [x / width], "xmax": [(x + w) / width]}
    box |= {"ymin": [y / height], "ymax": [(y + h) / height]}
    features: dict[str, Values] = {"image/height": [height], "image/width": [width], "image/filename": ["a.jpg"]}
    features |= {f"image/object/bbox/{side}": values for side, values in box.items()}
    truth_of(tmp_path, {**features, "image/object/class/text": ["Dog"]})
    done = evaluated(str(tmp_path / "x.tfrecord"), photo())
    assert done.boxes.overall["AP"] == pytest.approx(1)
    assert done.boxes.overall["AP"] == evaluated(coco_truth(tmp_path, size, xywh), photo()).boxes.overall["AP"]


def coco_truth(tmp_path: Path, size: tuple[int, int], xywh: tuple[float, float, float, float]) -> str:
    return write_truth(tmp_path, [thing(xywh)], [cases.image(height=size[0], width=size[1])])


def test_a_label_map_names_the_classes(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,name,mid\n17,Cat,/m/01yrx\n18,Dog,/m/0bt9lr\n19,Horse,/m/03k3r\n")

    def classes(features: Mapping[str, Values], labels: str = str(labels)) -> list[tuple[int, str, str]]:
        truth = truth_of(tmp_path, features, labels=labels)
        used = [o.category_id for o in truth.images[0].objects]
        by_id = {category.id: category for category in truth.categories}
        assert bool(labels) == (len(by_id) > 2)
        return [(id_, by_id[id_].name, by_id[id_].mid) for id_ in used]

    dog, cat = (18, "Dog", "/m/0bt9lr"), (17, "Cat", "/m/01yrx")
    mids: dict[str, Values] = {"class/text": ["/m/0bt9lr", "/m/01yrx"], "class/label": [1, 2]}
    assert classes(BOXES) == [dog, cat]
    assert classes(without("class/text")) == [dog, cat]
    assert classes(without("class/label")) == [dog, cat]
    assert classes(without(**mids)) == [dog, cat]
    assert classes(without(**{"class/text": ["dog", "fish"]})) == [dog, (20, "fish", "")]
    assert "'fish'" in str(truth_of(tmp_path, without(**{"class/text": ["dog", "fish"]}), labels=str(labels)).notes)
    assert classes(without("class/text"), "") == [(18, "18", ""), (17, "17", "")]
    assert classes(without("class/label"), "") == [(2, "dog", ""), (1, "cat", "")]
    assert classes(without(**{"class/label": [5, 5]}), "") == [(2, "dog", ""), (1, "cat", "")]
    assert classes(without(**mids), "") == [(1, "/m/0bt9lr", "/m/0bt9lr"), (2, "/m/01yrx", "/m/01yrx")]


@pytest.mark.parametrize(
    ("features", "facts"),
    [
        (without("class/text", "class/label"), ["class/text", "missing"]),
        (without(**{"class/text": ["dog"]}), ["class/text has 1 values for 2 boxes"]),
        (without(**{"is_crowd": [0, 0, 1]}), ["is_crowd has 3 values"]),
        (without(**{"mask": [b""]}), ["mask has 1 values"]),
        (without(**{"bbox/xmax": [0.5]}), ["different lengths"]),
        (without(**{"keypoint/x": [0.5, 0.5], "keypoint/y": [0.5]}), ["keypoint/x, y and visibility", "length"]),
        (without(**{"keypoint/x": [0.5] * 3, "keypoint/y": [0.5] * 3}), ["keypoint/x has 3 values for 2 boxes"]),
        (without(**{"bbox/xmax": [30.0, 60.0]}), ["fractions"]),
        (without(**{"bbox/xmax": [float("nan"), 1.0]}), ["fractions"]),
        (without(**{"bbox/xmax": [0.5, 0.25]}), ["box 1"]),
        ({"image/filename": ["a.jpg"], "image/height": [3], "image/width": [4]}, ["no objects"]),
        (without(**{"is_crowd": [1, 1]}), ["no objects"]),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, features: dict[str, Values], facts: list[str]) -> None:
    with pytest.raises(EvaluateError, match=telling("x.tfrecord", *facts)):
        truth_of(tmp_path, features)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    data = bytearray(record(example(BOXES)) * 2)
    data[-30] ^= 1
    for damaged, fact in ((data, "record 1"), (data[:-50], "ends within"), (b"no records" * 9, "not a TFRecord")):
        path.write_bytes(bytes(damaged))
        with pytest.raises(EvaluateError, match=telling(str(path), fact)):
            read_tfrecord_truth(str(path), STORAGE)
    path.write_bytes(record(b"\x0a\x05no example"))
    with pytest.raises(EvaluateError, match=telling("record 0", "tf.train.Example")):
        read_tfrecord_truth(str(path), STORAGE)
    path.write_bytes(b"")
    with pytest.raises(EvaluateError, match=telling("no records")):
        read_tfrecord_truth(str(path), STORAGE)
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(EvaluateError, match=telling("x.tar", "not a TFRecord file")):
        read_tfrecord_truth(str(tmp_path / "*.tar"), STORAGE)
    for name in ("y.tfrecord", "y.tfrecord*"):
        with pytest.raises(ConfigError, match=telling(name)):
            read_tfrecord_truth(str(tmp_path / name), STORAGE)


def test_open_images_metrics_need_its_own_file(tmp_path: Path) -> None:
    options = EvaluateOptions(truth=str(tmp_path / "x.tfrecord"), metric="openimages-v2")
    with pytest.raises(ConfigError, match=telling("x.tfrecord", "--metric coco", "CSV")):
        evaluate_by_metric(INFO, ListedRows([]), options, STORAGE)
    assert is_tfrecord("s3://bucket/train.record-?????-of-00100")
    assert is_tfrecord("train-{00000..00009}-of-00010")
    assert not any(map(is_tfrecord, ("truth.json", "a-of-0/truth.json", "boxes.csv")))


def test_a_run_of_the_same_file_is_matched_by_path(tmp_path: Path) -> None:
    """Two images of one name in two files: only the paths tell them apart."""
    path, run = random_world(tmp_path, seed=5)
    coco = json.loads(Path(path).read_text())
    for name in ("a.tfrecord", "b.tfrecord"):
        (tmp_path / name).write_bytes(coco_records(coco))
    info = replace(INFO, masks=False)
    rows = [
        replace(image, image_id=f"{name}/{image.image_id}", file_name=f"{name}/{image.file_name}")
        for name in ("a.tfrecord", "b.tfrecord")
        for image in run
    ]
    done = evaluated(str(tmp_path / "*.tfrecord"), *rows, info=info)
    assert (done.images.matched, done.images.unclear, done.images.by_stem) == (24, 0, 0)
    assert [ref.file_name for ref in list_images([str(tmp_path / "*.tfrecord")], STORAGE)] == [
        f"{name}/{image['file_name']}" for name in ("a.tfrecord", "b.tfrecord") for image in coco["images"]
    ]


def test_records_of_images_alone_have_no_objects(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(tfrecord_of({"a.jpg": png(np.zeros((3, 4), bool))}))
    with pytest.raises(EvaluateError, match=telling("no objects", "image/encoded, image/filename")):
        read_tfrecord_truth(str(tmp_path / "x.tfrecord"), STORAGE)
