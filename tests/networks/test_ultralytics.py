"""Ultralytics' own `predict` on its exported SavedModels, compared with prelabel on the same ones.

Some differences are meant. `predict` drops boxes whose mask is empty, which prelabel keeps, and moves keypoints outside
of the photo to its edge. If the gray beside an image does not take whole prototypes, `predict` enlarges them two or
four times, cuts the gray off and interpolates again (`process_mask_native`), which smooths details as small as a
prototype; prelabel interpolates once. So prelabel labels such photos with a network that enlarges its prototypes
itself: then both interpolate twice, and all masks agree.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prelabel.keypoints import COCO_PERSON
from prelabel.masks.rle import area
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.networks.comparison import assert_same, compare, make_network

THRESHOLD = 0.1

#: Height and width of the input of the network with masks.
SEGMENT_SIZE = (320, 416)

NETWORKS = {
    "detect": ("yolo11n.yaml", "640", "{}"),
    "pose": ("yolo11n-pose.yaml", "416x320", "{}"),
    "without suppression": ("yolo26n.yaml", "320", '{"nms": false}'),
    "with suppression in the network": ("yolo11n.yaml", "320", '{"nms": true, "conf": 0.2}'),
}


def make(photos: list[Path], folder: Path, *arguments: str) -> Path:
    return make_network("ultralytics", "make_ultralytics.py", folder, photos, *arguments)


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_and_keypoints_are_those_of_predict(name: str, photos: list[Path], tmp_path: Path) -> None:
    # One of the boxes below is a thousandth of a pixel high.
    threshold = 0.25 if name == "pose" else THRESHOLD
    assert_same(compare(make(photos, tmp_path, *NETWORKS[name]), photos, threshold=threshold))
    # The export has the names of the keypoints, so that a mirrored image can be shown, too.
    keypoints = open_run(str(tmp_path / "run"), Storage()).record.detector.keypoints
    assert keypoints == (COCO_PERSON if name == "pose" else None)


def enlarged_by(photo: Path) -> int:
    """How often `predict` enlarges the prototypes, of 4 x 4 pixels each: until gray takes whole ones on each side."""
    with Image.open(photo) as image:
        width, height = image.size
    scale = min(SEGMENT_SIZE[0] / height, SEGMENT_SIZE[1] / width)
    gray = [side - round(length * scale) for side, length in zip(SEGMENT_SIZE, (height, width), strict=True)]
    return next(times for times in (1, 2, 4) if all(pixels % (8 // times) == 0 or times == 4 for pixels in gray))


def enlarge_prototypes(model: Path, times: int, folder: Path) -> None:
    """Save the network with prototypes enlarged as `torch.nn.functional.interpolate` does it, and its metadata."""
    import tensorflow as tf

    network = tf.saved_model.load(str(model))
    serve = network.signatures["serving_default"]

    def answer(images: Any) -> dict[str, Any]:
        outputs = serve(images)
        prototypes = outputs["output_1"]
        rows, columns = prototypes.shape[1:3]
        return {**outputs, "output_1": tf.image.resize(prototypes, (times * rows, times * columns))}

    enlarging = tf.Module()
    enlarging.network = network
    spec = tf.TensorSpec([1, *SEGMENT_SIZE, 3], tf.float32, name="images")
    enlarging.answer = tf.function(answer, input_signature=[spec])
    tf.saved_model.save(enlarging, str(folder), signatures=enlarging.answer.get_concrete_function())
    shutil.copy(model / "metadata.yaml", folder)


def test_masks_are_those_of_predict(photos: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    # The others have gray above and below.
    with Image.open(photos[0]) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(source / "turned.png")
    everything = sorted([*(Path(shutil.copy(photo, source)) for photo in photos), source / "turned.png"])
    folder = make(everything, tmp_path, "yolo11n-seg.yaml", "x".join(map(str, SEGMENT_SIZE)), "{}")
    predictions = json.loads((folder / "predictions.json").read_text())
    compared = set()
    for times, group in itertools.groupby(sorted(everything, key=enlarged_by), key=enlarged_by):
        part = tmp_path / str(times)
        enlarge_prototypes(folder / "model", times, part / "model")
        (part / "photos").mkdir()
        chosen = [Path(shutil.copy(photo, part / "photos")) for photo in group]
        images = {photo.name: predictions["images"][photo.name] for photo in chosen}
        (part / "predictions.json").write_text(json.dumps({**predictions, "images": images}))
        comparison = compare(part, chosen, threshold=THRESHOLD)
        assert len(comparison.added) == masks_without_pixels(part / "run")
        assert_same(replace(comparison, added=()), mask_iou=(0.99, 0.99))
        compared.add(times)
    assert compared == {1, 2, 4}


def masks_without_pixels(run: Path) -> int:
    count = 0
    for row in open_run(str(run), Storage()).rows():
        detections = row.detections
        assert detections is not None
        assert detections.mask is not None
        count += sum(area(mask, detections.height, detections.width) == 0 for mask in detections.mask)
    return count


def test_probabilities_of_classes_are_those_of_predict(photos: list[Path], tmp_path: Path) -> None:
    folder = make(photos, tmp_path, "yolo11n-cls.yaml", "224", "{}")
    predicted = json.loads((folder / "predictions.json").read_text())["images"]
    command = [sys.executable, "-m", "prelabel", "label", photos[0].parent, "--detector", folder / "model"]
    options = ["--top-k", "1000", "--workers", "1", "--output", folder / "run", "--quiet"]
    subprocess.run([*command, *options], check=True, timeout=600)
    rows = list(open_run(str(folder / "run"), Storage()).rows())
    assert len(rows) == len(predicted) == len(photos)
    for row in rows:
        theirs = predicted[row.file_name]["probabilities"]
        assert row.image_labels is not None
        assert len(row.image_labels) == len(theirs) == 1000
        for label in row.image_labels:
            assert label.score == pytest.approx(theirs[label.category_id], abs=1e-4)
