"""Object detectors of KerasHub (RetinaNet, D-FINE), saved with their decoding beside their preset.

`export` saves the heads of the network: `bbox_regression` and `cls_logits` of RetinaNet, `pred_boxes` and `logits` of
D-FINE. What boxes are is decided by `decode_predictions` of the detector, which runs in Python and is not saved. So a
function that calls it must be saved, in the folder of `save_to_preset`:

    @tf.function(input_signature=[tf.TensorSpec([1, *converter.image_size, 3], tf.float32, name="images")])
    def serve(images):
        inputs = converter(images)
        return detector.decode_predictions(detector(inputs), inputs)

Facts from keras-hub, `keras_hub/src`:

- `layers/modeling/non_max_supression.py`: it returns `boxes`, `confidence`, `labels` (from 0) and `num_detections`; the
  rest is filled with -1.
- `models/retinanet/retinanet_object_detector.py`: boxes have the task's `bounding_box_format`, in pixels of the input,
  or in shares if it begins with `rel_`. `models/d_fine/d_fine_object_detector.py` returns y1 x1 y2 x2 in pixels.
- `layers/preprocessing/image_converter.py`: it resizes the image without antialiasing. To keep its aspect ratio, it may
  crop it or fill it with zeros on both sides before that (`resize` in `keras/src/backend/tensorflow/image.py`).

`task.json` in the folder has the format, the converter, and the number of classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prelabel.detectors.base import Decision
from prelabel.detectors.conventions.boxes import BoxForm, Fit
from prelabel.detectors.conventions.convention import FLOATS, INTEGERS, Convention, Family, Question

#: The description of a task in the folder of a preset.
TASK_FILE = "task.json"

_MOST_BYTES = 4 << 20

_HEADS = ({"bbox_regression", "cls_logits"}, {"pred_boxes", "logits"})
_ROLES = {"boxes": "boxes", "scores": "confidence", "numbers": "labels", "count": "num_detections"}
_TYPES = {"boxes": FLOATS, "scores": FLOATS, "numbers": (*INTEGERS, *FLOATS), "count": (*INTEGERS, *FLOATS)}

_ORDERS: Mapping[str, Literal["xyxy", "yxyx", "xywh", "cxcywh"]] = {
    "xyxy": "xyxy",
    "yxyx": "yxyx",
    "xywh": "xywh",
    "center_xywh": "cxcywh",
}
_RETINANET, _DFINE = "RetinaNetObjectDetector", "DFineObjectDetector"

_HOW = "save a function that calls decode_predictions beside the preset, as in 'Save a KerasHub detector' of the guide"

_OTHERWISE = (
    "if they hold boxes and scores, describe them with --adapter; if they need code, such as for anchors, run the "
    "network with --detector package.module:factory"
)


def _claims(question: Question) -> bool:
    names = set(question.outputs)
    return any(heads <= names for heads in _HEADS) or set(_ROLES.values()) <= names


def _match(question: Question) -> Convention | str:
    """Match the decoded outputs, and refuse the heads of the network."""
    if not set(_ROLES.values()) <= set(question.outputs):
        return _refuse_heads(question)
    convention = _match_decoded(question)
    return f"{convention}, or describe its outputs with --adapter" if isinstance(convention, str) else convention


def _refuse_heads(question: Question) -> str:
    """Why the heads are refused. Others, such as DETR, have heads of these names, too."""
    names = ", ".join(sorted(question.outputs))
    task = _read(question.folder) if question.folder else "no folder"
    if not isinstance(task, str):
        return f"returns the heads of a KerasHub {task['class_name']} ({names}) instead of boxes: {_HOW}; {_OTHERWISE}"
    return (
        f"returns what look like the heads of a detector ({names}), but not what turns them into boxes, scores and "
        f"classes: {_OTHERWISE}; if it is of KerasHub, {_HOW}"
    )


def _match_decoded(question: Question) -> Convention | str:
    image, outputs = question.image, question.outputs
    for role, rank in (("boxes", 3), ("scores", 2), ("numbers", 2), ("count", 1)):
        if not outputs[_ROLES[role]].may_be(_TYPES[role], (rank,)):
            return f"looks like a KerasHub detector, but its output {outputs[_ROLES[role]]} is of another type or shape"
    task = _read(question.folder) if question.folder else "no folder"
    if isinstance(task, str):
        return (
            f"returns {', '.join(_ROLES.values())} as KerasHub detectors do, but the order and unit of its boxes are "
            f"not known ({task}): {_HOW}"
        )
    if image.size is None or image.channels_first or image.is_encoded:
        return f"is a KerasHub detector whose input {image.input} has not the fixed size of its image converter: {_HOW}"
    form, fit = _box_form(task), _fit(_converter(task), image.size)
    if isinstance(form, str) or isinstance(fit, str):
        return f"is a KerasHub detector, but {form if isinstance(form, str) else fit}"
    known = {
        "boxes": Decision(str(form), f"bounding_box_format in {TASK_FILE}"),
        "resizing": Decision(str(fit), f"the image converter in {TASK_FILE}"),
    }
    converter = _converter(task)
    if converter.get("scale") is None and converter.get("offset") is None:
        known["input range"] = Decision("0..255", f"the image converter in {TASK_FILE} does not scale images")
    return Convention(
        **vars(image),
        kind="detection",
        outputs=_ROLES,
        classes=_number_of_classes(task),
        why=f"KerasHub {task['class_name']} by signature {image.signature!r} and {TASK_FILE}",
        box_form=form,
        fit=fit,
        known=known,
    )


def _read(folder: Path) -> dict[str, Any] | str:
    """The description of the task beside a model; or, in words, why there is none."""
    path = folder / TASK_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            return f"{TASK_FILE} is larger than {_MOST_BYTES:,} bytes"
        task = json.loads(path.read_bytes())
    except FileNotFoundError:
        return f"the folder has no {TASK_FILE}"
    except (OSError, ValueError, RecursionError):
        return f"{TASK_FILE} cannot be read as JSON"
    if not isinstance(task, dict) or task.get("class_name") not in (_RETINANET, _DFINE):
        return f"{TASK_FILE} does not describe a {_RETINANET} or {_DFINE}"
    return task


def _inside(value: object, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _number_of_classes(task: Mapping[str, Any]) -> int | None:
    """How many classes there are, from 0: 91 of a RetinaNet for COCO's numbers, 80 of a D-FINE. None if not told."""
    number = _inside(task, "config").get("num_classes")
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def _converter(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the image converter; empty if there is none."""
    return _inside(task, "config", "preprocessor", "config", "image_converter", "config")


def _box_form(task: Mapping[str, Any]) -> BoxForm | str:
    """The form of the boxes; or, in words, why it is not supported."""
    name = str(_inside(task, "config").get("bounding_box_format"))
    order = _ORDERS.get(name.removeprefix("rel_"))
    # D-FINE returns its boxes as y1 x1 y2 x2 in pixels before it applies the format.
    if order is None or (task["class_name"] == _DFINE and name != "yxyx"):
        return f"its bounding_box_format is {name[:40]}: save it with yxyx"
    return BoxForm(order, "shares" if name.startswith("rel_") else "input")


def _fit(converter: Mapping[str, Any], size: tuple[int, int]) -> Fit | str:
    """How images are fitted into the input; or, in words, why this is not supported."""
    if not converter:
        return f"{TASK_FILE} describes no image converter: create the detector with its preprocessor"
    if converter.get("image_size") != list(size):
        return (
            f"its image converter makes images of {converter.get('image_size')} pixels (height, width), and its input "
            f"has {list(size)}: {_HOW}"
        )
    if converter.get("crop_to_aspect_ratio", True):
        return "its image converter crops images, which loses objects: set crop_to_aspect_ratio=False"
    if converter.get("interpolation", "bilinear") != "bilinear":
        return f"its image converter resizes with {converter['interpolation']!r}: set interpolation='bilinear'"
    mode: Literal["pad", "stretch"] = "pad" if converter.get("pad_to_aspect_ratio", False) else "stretch"
    return Fit(mode, antialias=bool(converter.get("antialias", False)))


KERAS_HUB = Family(
    f"KerasHub detectors (image [1, h, w, 3] -> boxes, confidence, labels, num_detections, with {TASK_FILE})",
    _claims,
    _match,
)
