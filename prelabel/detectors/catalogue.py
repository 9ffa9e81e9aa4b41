"""The known networks: what each is, where it lies and what to expect of it. Data only.

Nothing here is needed to run a model: the adapter recognises an interface from the model's signature. The catalogue
saves the user an address, and adds what a signature does not say: the names of the classes and the input size meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One published network.

    Attributes:
        name: What the user types.
        title: The network in a few words.
        task: Boxes of things, or labels of the whole image.
        addresses: Where it can be fetched, the preferred one first; none for a network that comes with the package.
        format: `"TF1 hub module"` or `"TF2 SavedModel"`.
        input: The input tensor in words.
        input_size: Height and width the network was made for, or None when any size will do.
        working_size: Pixels of the shorter side, at most, of the picture the network looks at after resizing it itself.
        classes: How many classes it knows.
        masks: Whether it gives instance masks.
        licence: SPDX identifier.
        metric: Accuracy as published.
        label_map: Built-in label map (see `prelabel.labels`), or None where the network names its classes itself.
        note: What a user should know before choosing it.
        input_range: The range its input is given in, where that is float32.
        activation: What a classifier's rows are, see `activation.py`.
        background: Whether a classifier's class 0 is the background.
    """

    name: str
    title: str
    task: Literal["detection", "classification"]
    addresses: tuple[str, ...]
    format: str
    input: str
    input_size: tuple[int, int] | None
    working_size: int
    classes: int
    masks: bool
    licence: str
    metric: str
    label_map: str | None
    note: str
    input_range: str | None = None
    activation: str | None = None
    background: bool = False


CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        name="openimages-ssd-mobilenet-v2",
        title="SSD with MobileNet V2, Open Images V4",
        task="detection",
        addresses=(
            "https://tfhub.dev/google/openimages_v4/ssd/mobilenet_v2/1",
            "https://www.kaggle.com/models/google/mobilenet-v2/frameworks/TensorFlow1"
            "/variations/openimages-v4-ssd-mobilenet-v2/versions/1",
        ),
        format="TF1 hub module",
        input="float32 [1, height, width, 3] in 0..1",
        input_size=None,
        working_size=300,
        classes=600,
        masks=False,
        licence="Apache-2.0",
        metric="mAP 0.34 (Open Images V4 test, Challenge metric)",
        label_map=None,
        input_range="0..1",
        note="Fast; one image at a time. Names and MIDs come from the network.",
    ),
    CatalogueEntry(
        name="openimages-faster-rcnn-inception-resnet-v2",
        title="Faster R-CNN with Inception ResNet V2, Open Images V4",
        task="detection",
        addresses=(
            "https://tfhub.dev/google/faster_rcnn/openimages_v4/inception_resnet_v2/1",
            "https://www.kaggle.com/models/google/faster-rcnn-inception-resnet-v2/frameworks/TensorFlow1"
            "/variations/faster-rcnn-openimages-v4-inception-resnet-v2/versions/1",
        ),
        format="TF1 hub module",
        input="float32 [1, height, width, 3] in 0..1",
        input_size=None,
        working_size=600,
        classes=600,
        masks=False,
        licence="Apache-2.0",
        metric="mAP 0.58 (Open Images V4 test, Challenge metric)",
        label_map=None,
        input_range="0..1",
        note="Accurate and slow: wants a GPU; one image at a time. Names and MIDs come from the network.",
    ),
    CatalogueEntry(
        name="coco-mask-rcnn-inception-resnet-v2",
        title="Mask R-CNN with Inception ResNet V2, COCO 2017",
        task="detection",
        addresses=(
            "https://tfhub.dev/tensorflow/mask_rcnn/inception_resnet_v2_1024x1024/1",
            "https://www.kaggle.com/models/tensorflow/mask-rcnn-inception-resnet-v2/frameworks/TensorFlow2"
            "/variations/1024x1024/versions/1",
        ),
        format="TF2 SavedModel",
        input="uint8 [1, height, width, 3]",
        input_size=None,
        working_size=1024,
        classes=80,
        masks=True,
        licence="Apache-2.0",
        metric="mAP 39.0 boxes, 34.6 masks (COCO 2017 test)",
        label_map="coco",
        note="Instance masks; slow: wants a GPU; one image at a time. Class ids 1..90 with gaps, as in COCO.",
    ),
    CatalogueEntry(
        name="imagenet-mobilenet-v2-035-128",
        title="MobileNet V2 0.35 classifier, ImageNet (ILSVRC-2012)",
        task="classification",
        addresses=("https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/035-128-classification/2",),
        format="TF2 SavedModel",
        input="float32 [batch, 128, 128, 3] in 0..1",
        input_size=(128, 128),
        working_size=128,
        classes=1001,
        masks=False,
        licence="Apache-2.0",
        metric="not stated for the classifier",
        label_map=None,
        input_range="0..1",
        activation="logits",
        background=True,
        note="Labels of the whole image, in batches. Class 0 is the background. Its classes get names with --label-map "
        "https://storage.googleapis.com/download.tensorflow.org/data/ImageNetLabels.txt",
    ),
    CatalogueEntry(
        name="demo-shapes",
        title="Small one-stage network with masks, trained on the scenes that `prelabel synth` draws",
        task="detection",
        addresses=(),
        format="TF2 SavedModel",
        input="uint8 [1, height, width, 3]",
        input_size=None,
        working_size=512,
        classes=14,
        masks=True,
        licence="Apache-2.0",
        metric="see its MODEL_CARD.md",
        label_map=None,
        note="Comes with the package: for trying everything out without network, weights or photos.",
    ),
)

_BY_NAME = {entry.name: entry for entry in CATALOGUE}


def lookup(address: str) -> CatalogueEntry | None:
    """The entry of that name or with that address, or None. Addresses are compared as places, not as spelled."""
    if address in _BY_NAME:
        return _BY_NAME[address]
    wanted = _place(address)
    for entry in CATALOGUE:
        if any(_place(one) == wanted for one in entry.addresses):
            return entry
    return None


def _place(address: str) -> str:
    """Host and path of an http address, lower case, without `www.` and query; Kaggle's two spellings as one."""
    match = re.match(r"https?://(?:www\.)?([^?#]+)", address.strip(), re.IGNORECASE)
    if not match:
        return ""
    place = match[1].rstrip("/").lower()
    if place.startswith("kaggle.com/"):
        place = re.sub(r"/(frameworks|variations|versions)/", "/", place)
    return place
