"""The catalog of published models: name, URLs, properties. Data only.

No model needs an entry to run: its interface is recognized by its signature. The catalog spares users the URL, and adds
what a signature does not tell: the names of the classes, the range of the input, the intended input size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One published model.

    Attributes:
        name: The name for `--detector`.
        title: Description in a few words.
        task: Detection of objects, or classification of whole images.
        addresses: URLs to download it from, the preferred one first; empty for a model that comes with the package.
        format: `"TF1 hub module"` or `"TF2 SavedModel"`.
        input: Description of the input tensor.
        input_size: Height and width for which the model was made, or None for any size.
        working_size: Upper bound of the shorter side, in pixels, of the image after the model has resized it.
        classes: Number of classes.
        masks: Whether it returns instance masks.
        license: SPDX identifier.
        metric: Published accuracy.
        label_map: Built-in label map (see `prelabel.labels`), or None if the model itself returns class names.
        note: Advice for choosing it.
        input_range: Range of the values of a float32 input.
        activation: Kind of a classifier's scores, see `activation.py`.
        background: Whether class 0 of a classifier is the background.
    """

    name: str
    title: str
    addresses: tuple[str, ...]
    format: str
    input: str
    working_size: int
    classes: int
    license: str
    metric: str
    note: str
    task: Literal["detection", "classification"] = "detection"
    input_size: tuple[int, int] | None = None
    masks: bool = False
    label_map: str | None = None
    input_range: str | None = None
    activation: str | None = None
    background: bool = False


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        name="openimages-ssd-mobilenet-v2",
        title="SSD with MobileNet V2, Open Images V4",
        addresses=(
            "https://tfhub.dev/google/openimages_v4/ssd/mobilenet_v2/1",
            "https://www.kaggle.com/models/google/mobilenet-v2/frameworks/TensorFlow1"
            "/variations/openimages-v4-ssd-mobilenet-v2/versions/1",
        ),
        format="TF1 hub module",
        input="float32 [1, height, width, 3] in 0..1",
        working_size=300,
        classes=600,
        license="Apache-2.0",
        metric="mAP 0.34 (Open Images V4 test, Challenge metric)",
        input_range="0..1",
        note="Fast; one image at a time. The model returns class names and MIDs.",
    ),
    CatalogEntry(
        name="openimages-faster-rcnn-inception-resnet-v2",
        title="Faster R-CNN with Inception ResNet V2, Open Images V4",
        addresses=(
            "https://tfhub.dev/google/faster_rcnn/openimages_v4/inception_resnet_v2/1",
            "https://www.kaggle.com/models/google/faster-rcnn-inception-resnet-v2/frameworks/TensorFlow1"
            "/variations/faster-rcnn-openimages-v4-inception-resnet-v2/versions/1",
        ),
        format="TF1 hub module",
        input="float32 [1, height, width, 3] in 0..1",
        working_size=600,
        classes=600,
        license="Apache-2.0",
        metric="mAP 0.58 (Open Images V4 test, Challenge metric)",
        input_range="0..1",
        note="Accurate and slow: use a GPU; one image at a time. The model returns class names and MIDs.",
    ),
    CatalogEntry(
        name="coco-mask-rcnn-inception-resnet-v2",
        title="Mask R-CNN with Inception ResNet V2, COCO 2017",
        addresses=(
            "https://tfhub.dev/tensorflow/mask_rcnn/inception_resnet_v2_1024x1024/1",
            "https://www.kaggle.com/models/tensorflow/mask-rcnn-inception-resnet-v2/frameworks/TensorFlow2"
            "/variations/1024x1024/versions/1",
        ),
        format="TF2 SavedModel",
        input="uint8 [1, height, width, 3]",
        working_size=1024,
        classes=80,
        masks=True,
        license="Apache-2.0",
        metric="mAP 39.0 boxes, 34.6 masks (COCO 2017 test)",
        label_map="coco",
        note="Instance masks; slow: use a GPU; one image at a time. Class numbers 1..90 with gaps, as in COCO.",
    ),
    CatalogEntry(
        name="imagenet-mobilenet-v2-035-128",
        title="MobileNet V2 0.35 classifier, ImageNet (ILSVRC-2012)",
        task="classification",
        addresses=("https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/035-128-classification/2",),
        format="TF2 SavedModel",
        input="float32 [batch, 128, 128, 3] in 0..1",
        input_size=(128, 128),
        working_size=128,
        classes=1001,
        license="Apache-2.0",
        metric="none for the classifier",
        input_range="0..1",
        activation="logits",
        background=True,
        note="Labels of whole images, in batches. Class 0 is the background. To name the classes, give --label-map "
        "https://storage.googleapis.com/download.tensorflow.org/data/ImageNetLabels.txt",
    ),
    CatalogEntry(
        name="demo-shapes",
        title="Small one-stage detector with masks, trained on the scenes that `prelabel synth` draws",
        addresses=(),
        format="TF2 SavedModel",
        input="uint8 [1, height, width, 3]",
        working_size=512,
        classes=14,
        masks=True,
        license="Apache-2.0",
        metric="see its MODEL_CARD.md",
        note="Comes with the package: try everything without network access, downloads or photos.",
    ),
)

_BY_NAME = {entry.name: entry for entry in CATALOG}


def lookup(address: str) -> CatalogEntry | None:
    """The entry with this name or URL, or None. Different spellings of a URL are equal."""
    if address in _BY_NAME:
        return _BY_NAME[address]
    place = _place(address)
    for entry in CATALOG:
        if place in map(_place, entry.addresses):
            return entry
    return None


def _place(address: str) -> str:
    """Host and path of a URL in lower case, without `www.` and query, and with Kaggle's two spellings made equal."""
    match = re.match(r"https?://(?:www\.)?([^?#]+)", address.strip(), re.IGNORECASE)
    if not match:
        return ""
    place = match[1].rstrip("/").lower()
    if place.startswith("kaggle.com/"):
        place = re.sub(r"/(frameworks|variations|versions)/", "/", place)
    return place
