"""Networks exported by Ultralytics with `format=saved_model`: YOLOv8, YOLO11, YOLOv10, YOLO26 and their relatives.

The export writes `metadata.yaml` beside `saved_model.pb`: task, class names, input size. It is what identifies the
family, and without it nothing is certain. What is said here about inputs and outputs was read in the project
ultralytics, versions 8.0.50 to 8.4.190 (`engine/exporter.py`, `nn/modules/head.py`, `nn/autobackend.py`,
`engine/predictor.py`, `data/augment.py`, `utils/ops.py` and `utils/nms.py`):

- The input has 3 channels in the order RGB in 0..1. For all tasks but classification, the image keeps its aspect ratio
  and lies in the center, on gray of 114; it is resized by OpenCV without antialiasing, and enlarged if it is small.
- `[1, 4 + C + E, N]` are N overlapping boxes with the scores of C classes and E more numbers: center and size in pixels
  of the input. Only the by-products of the formats tflite and edgetpu have normalized boxes.
- `[1, K, 6 + E]` are boxes after suppression, with zeros at the end: corners in pixels of the input, score and class.
- E is 0 for `detect`, the number of prototypes for `segment`, and one x, y, maybe score per keypoint for `pose`.
- Prototypes `[1, h, w, E]` cover the input. The logits of a mask are their sum, weighted with the numbers of the box;
  they are interpolated and end at the box (`process_mask_native`).
- `kpt_names` names the keypoints of each class, in later versions; names that the data set lacks are `0`, `1`, ...
- `classify` returns softmax probabilities of the center square of the image, which Pillow resizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName
from prelabel.detectors.base import Decision
from prelabel.detectors.conventions.boxes import BoxForm, Fit, Shown, points_in_shares
from prelabel.detectors.conventions.convention import (
    FLOATS,
    Arrays,
    Candidates,
    Convention,
    Family,
    ImageInput,
    Question,
)
from prelabel.detectors.conventions.named_outputs import of_one_image
from prelabel.detectors.conventions.protos import Tensor
from prelabel.errors import ConfigError, DetectorError
from prelabel.keypoints import KeypointSet
from prelabel.labels.maps import LabelMap
from prelabel.mapping_files import meaning, read_mapping
from prelabel.overlaps import suppress

METADATA = "metadata.yaml"

#: Larger files are no metadata; those of 10,000 classes have less than 1 MB.
_LARGEST_METADATA = 4 << 20
_MOST_CLASSES, _MOST_KEYPOINTS = 100_000, 10_000

#: Defaults of `predict`: `iou` and `max_det` (`cfg/default.yaml`).
_IOU, _MOST = 0.7, 300

_LETTERBOX = Fit("letterbox", 114, antialias=False, resize="opencv")
_RAW, _SUPPRESSED = BoxForm("cxcywh", "input"), BoxForm("xyxy", "input")

#: Numbers up to this are normalized. Raw boxes are all over the input, so their largest number tells the unit.
_NORMALIZED = 2.0

#: Shape of the output with boxes, for messages.
_FORM = "[1, ..., ...]"

#: Steps between the boxes of a network with three levels; used only to recognize outputs without metadata.
_STRIDES = (8, 16, 32)

#: Tasks whose networks return boxes.
_BOX_TASKS = ("detect", "segment", "pose")

_EXPORT = "export it with `yolo export format=saved_model`"


@dataclass(frozen=True, slots=True)
class _Metadata:
    """What `metadata.yaml` says.

    Attributes:
        task: `detect`, `segment`, `pose`, `classify`, ...
        names: Names of the classes, from 0.
        size: Height and width of the input.
        version: Of the package that exported the network; empty if not given.
        head: Name of the last layer; empty if not given.
        is_suppressed: Whether the network itself drops overlapping boxes; None if not given.
        keypoints: Number of keypoints of each box and numbers of each keypoint; None if not given.
        keypoint_names: Their names; empty if they have none, or other ones in each class.
    """

    task: str
    names: tuple[str, ...]
    size: tuple[int, int]
    version: str
    head: str
    is_suppressed: bool | None
    keypoints: tuple[int, int] | None
    keypoint_names: tuple[str, ...]


def _read_metadata(folder: Path) -> _Metadata | str | None:
    """The metadata of a model; in words, why the file is not usable; or None if Ultralytics wrote no such file."""
    path = folder / METADATA
    if not path.is_file():
        return None
    if path.stat().st_size > _LARGEST_METADATA:
        return f"has a {METADATA} of more than {_LARGEST_METADATA >> 20} MB"
    try:
        values = meaning(read_mapping(path))
    except ConfigError as error:
        return f"has a {METADATA} that cannot be read: {error}"
    if values.get("author") != "Ultralytics":
        return None
    task, names, size = values.get("task"), values.get("names"), values.get("imgsz")
    if not isinstance(task, str) or not task:
        return f"has a {METADATA} without a `task`"
    classes = _class_names(names)
    if not classes:
        return f"has a {METADATA} whose `names` do not name the classes from 0 on"
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        return f"has a {METADATA} whose `imgsz` is not a height and width"
    arguments = values.get("args")
    flags = [values.get("end2end"), arguments.get("nms") if isinstance(arguments, dict) else None]
    known = [flag for flag in flags if isinstance(flag, bool)]
    version, head = (str(values.get(key) or "") for key in ("version", "head"))
    points = values.get("kpt_shape")
    if task == "pose" and not (
        isinstance(points, list)
        and len(points) == 2
        and all(type(number) is int for number in points)
        and 0 < points[0] <= _MOST_KEYPOINTS
        and points[1] in (2, 3)
    ):
        return f"has a {METADATA} whose `kpt_shape` is not a number of keypoints and 2 or 3"
    return _Metadata(
        task=task,
        names=classes,
        size=(sides[0], sides[1]),
        version=version,
        head=head,
        is_suppressed=any(known) if known else None,
        keypoints=(points[0], points[1]) if task == "pose" else None,
        keypoint_names=_keypoint_names(values.get("kpt_names"), points[0]) if task == "pose" else (),
    )


def _keypoint_names(names: Any, count: int) -> tuple[str, ...]:
    """The names of the keypoints by number, if all classes have the same; empty if not, or if they only count them.

    A data set without names gets `0`, `1`, ... (`models/yolo/pose/train.py`).
    """
    lists = list(names.values()) if isinstance(names, dict) else []
    if not lists or not all(isinstance(of_class, list) and of_class == lists[0] for of_class in lists):
        return ()
    texts = tuple(str(name).strip() for name in lists[0])
    is_counted = all(text.isdecimal() for text in texts)
    return () if is_counted or len(texts) != count or len(set(texts)) != count or not all(texts) else texts


def _class_names(names: Any) -> tuple[str, ...]:
    """Names by class number from 0; empty if they are anything else."""
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or len(names) > _MOST_CLASSES:
        return ()
    texts = [names.get(str(number)) for number in range(len(names))]
    if any(isinstance(text, dict | list) or text is None or not str(text).strip() for text in texts):
        return ()
    return tuple(str(text) for text in texts)


def _claims(question: Question) -> bool:
    """Whether there is metadata of Ultralytics, or an output that only its networks have."""
    if question.folder is not None and _read_metadata(question.folder) is not None:
        return True
    return _looks_like_yolo(question)


def _looks_like_yolo(question: Question) -> bool:
    """Whether the only output of rank 3 has one column per box of an input of this size."""
    size = question.image.size
    heads = [output for output in question.outputs.values() if output.rank == 3 and output.dtype in FLOATS]
    if size is None or len(heads) != 1 or len(question.outputs) > 2:
        return False
    columns = sum((size[0] // stride) * (size[1] // stride) for stride in _STRIDES)
    _, rows, last = heads[0].shape or (None, None, None)
    return last == columns and rows is not None and rows > 4


def _match(question: Question) -> Convention | str:
    metadata = _read_metadata(question.folder) if question.folder else None
    if metadata is None:
        return (
            f"returns boxes like a YOLO network of Ultralytics, but without its {METADATA} beside saved_model.pb its "
            "classes and their number are not known: use the whole folder that `yolo export format=saved_model` wrote"
        )
    if isinstance(metadata, str):
        return f"{metadata}: {_EXPORT} again"
    if metadata.head == "RTDETRDecoder":
        return "is an RT-DETR of Ultralytics, whose boxes have another form: it is not supported; use a YOLO network"
    image = question.image
    if image.input.dtype not in FLOATS or image.channels_first or not image.batch_dimension:
        return f"is a network of Ultralytics with the input {image.input} instead of floats [1, h, w, 3]: {_EXPORT}"
    if image.size != metadata.size:
        size = "of any size" if image.size is None else f"of {image.size[0]} x {image.size[1]}"
        return (
            f"has an input {size}, but its {METADATA} says {metadata.size[0]} x {metadata.size[1]}: the file belongs "
            f"to another network; {_EXPORT}"
        )
    if metadata.task == "classify":
        return _match_classes(image, question.outputs, metadata)
    if metadata.task in _BOX_TASKS:
        return _match_boxes(image, question.outputs, metadata)
    other = "; export a network of oriented boxes as one of upright boxes" if metadata.task == "obb" else ""
    return (
        f"is a network of Ultralytics for the task {metadata.task!r}, which is not supported: it must be "
        f"{', '.join(_BOX_TASKS)} or classify{other}"
    )


def _match_classes(image: ImageInput, outputs: Mapping[str, Tensor], metadata: _Metadata) -> Convention | str:
    classes, (rows, *others) = len(metadata.names), tuple(outputs.values())
    if others or rows.rank != 2 or rows.last != classes or rows.dtype not in FLOATS:
        return (
            f"is a classifier of Ultralytics that returns {_listed(outputs)}; with the {classes} classes of its "
            f"{METADATA}, it must be [1, {classes}]: the file belongs to another network; {_EXPORT}"
        )
    by = _by(metadata)
    # `classify_transforms` (`data/augment.py`)
    crops = metadata.size[0] == metadata.size[1]
    fit = Decision("the center square" if crops else "stretched to the size of the input", by)
    return Convention(
        **vars(image),
        kind="classification",
        outputs={"rows": rows.name},
        classes=classes,
        why=f"Ultralytics classify by {METADATA}, signature {image.signature!r} ({classes} classes in {rows.name!r})",
        fit=Fit("crop" if crops else "stretch", resize="pillow"),
        known={"input range": Decision("0..1", by), "fit": fit, "activation": Decision("softmax", by)},
        labels=_labels(metadata),
    )


def _match_boxes(image: ImageInput, outputs: Mapping[str, Tensor], metadata: _Metadata) -> Convention | str:
    heads = [output for output in outputs.values() if output.rank == 3 and output.dtype in FLOATS]
    prototypes = [output for output in outputs.values() if output.rank == 4 and output.dtype in FLOATS]
    with_masks = metadata.task == "segment"
    if (len(heads), len(prototypes), len(outputs)) != (1, with_masks, 1 + with_masks):
        expected = "an array of boxes and one of prototypes" if with_masks else "one array of boxes"
        return f"is a network of Ultralytics that returns {_listed(outputs)} instead of {expected}: {_EXPORT}"
    classes = len(metadata.names)
    points, numbers = metadata.keypoints or (0, 0)
    extra = prototypes[0].last if with_masks else points * numbers
    form = None if extra is None else _form(heads[0], classes, extra, metadata)
    if form is None:
        return (
            f"is a network of Ultralytics that returns {_listed(outputs)}; with the {classes} classes of its "
            f"{METADATA}, it must be [1, {4 + classes + (extra or 0)}, N] or [1, N, {6 + (extra or 0)}]: the file "
            f"belongs to another network; {_EXPORT}"
        )
    raw = form == "raw"
    box_form, by = _RAW if raw else _SUPPRESSED, _by(metadata)
    known = {
        "input range": Decision("0..1", by),
        "fit": Decision("letterbox on gray 114, without antialiasing", by),
        "boxes": Decision(str(box_form), by),
        "suppression": _suppression(raw, metadata),
    }
    if with_masks:
        # Printed after "cover the".
        known["masks"] = Decision("input and end at the box", f"{extra} prototypes and their weights, {by}")
    if points:
        unscored = "" if numbers == 3 else "; they have no scores, so each counts as certain"
        by = "`kpt_shape` and `kpt_names`" if metadata.keypoint_names else "`kpt_shape`"
        known["keypoints"] = Decision(f"{points} per box{unscored}", f"{by} in {METADATA}")
    return Convention(
        **vars(image),
        kind="detection",
        outputs={"boxes": heads[0].name, **({"masks": prototypes[0].name} if with_masks else {})},
        classes=classes,
        why=f"Ultralytics {metadata.task} by {METADATA}, signature {image.signature!r} ({_listed(outputs)})",
        box_form=box_form,
        fit=_LETTERBOX,
        decode=_decode_raw if raw else _decode_suppressed,
        known=known,
        labels=_labels(metadata),
        keypoints=_keypoint_set(metadata),
        mask_frame="image" if with_masks else "box",
    )


def _keypoint_set(metadata: _Metadata) -> KeypointSet | None:
    if metadata.keypoints is None:
        return None
    # Left and right follow from the names: the export leaves out the `flip_idx` of the data set.
    names = metadata.keypoint_names
    return KeypointSet.named(names) if names else KeypointSet.unnamed(metadata.keypoints[0])


def _form(heads: Tensor, classes: int, extra: int, metadata: _Metadata) -> Literal["raw", "suppressed"] | None:
    """Which of the two forms an output has. Metadata decides if it may be both."""
    _, first, second = heads.shape or (None, None, None)
    is_raw, is_suppressed = first == 4 + classes + extra, second == 6 + extra
    if is_raw and is_suppressed and metadata.is_suppressed is not None:
        is_raw, is_suppressed = not metadata.is_suppressed, metadata.is_suppressed
    if is_raw == is_suppressed:
        return None
    return "raw" if is_raw else "suppressed"


def _listed(outputs: Mapping[str, Tensor]) -> str:
    return ", ".join(map(str, outputs.values()))


def _by(metadata: _Metadata) -> str:
    return f"Ultralytics {metadata.version}".strip()


def _suppression(raw: bool, metadata: _Metadata) -> Decision:
    if raw:
        return Decision(
            f"within classes above IoU {_IOU:g}, at most {_MOST} boxes", "the defaults of Ultralytics' predict"
        )
    return Decision("by the network", "boxes below the score with which it was exported are missing")


def _labels(metadata: _Metadata) -> LabelMap:
    return LabelMap({number: ClassName(number, name) for number, name in enumerate(metadata.names)}, METADATA)


def _decode_raw(outputs: Arrays, convention: Convention, shown: Shown, lowest: float) -> Candidates:
    """Candidates from `[1, 4 + C + E, N]`: the best class of each box, then non-maximum suppression within classes.

    A box only suppresses boxes of lower scores, so those below the lowest score can be left out first.
    """
    name, classes = convention.outputs["boxes"], convention.classes or 0
    columns = of_one_image(outputs[name], 2, name, _FORM)
    if columns.shape[0] < 4 + classes:
        raise DetectorError(f"{name} must have {4 + classes} rows, got shape {list(outputs[name].shape)}")
    _check_unit(columns[:4], convention, name)
    scores = columns[4 : 4 + classes]
    # Nearly all boxes are dropped by their score, so nothing else is computed of them.
    best = scores.max(axis=0)
    # The negation keeps scores that are not numbers: they are reported later.
    candidates = np.flatnonzero(~(best < np.float32(lowest)) & (best != 0))
    candidates = candidates[np.argsort(-best[candidates], kind="stable")]
    boxes, number = columns[:4, candidates].T, scores[:, candidates].argmax(axis=0)
    kept = suppress(convention.box_form.corners(boxes), _IOU, number, most=_MOST)
    chosen = candidates[kept]
    arrays = {
        "boxes": convention.box_form.in_shares(boxes[kept], shown),
        "scores": best[chosen],
        "numbers": number[kept],
    }
    return _with_extra(arrays, columns[4 + classes :, chosen].T, outputs, convention, shown)


def _decode_suppressed(outputs: Arrays, convention: Convention, shown: Shown, lowest: float) -> Candidates:
    """Candidates from `[1, N, 6 + E]`: x1 y1 x2 y2, score, class; rows with the score 0 are padding."""
    name = convention.outputs["boxes"]
    rows = of_one_image(outputs[name], 2, name, _FORM)
    if rows.shape[1] < 6:
        raise DetectorError(f"{name} must have at least 6 columns, got shape {list(outputs[name].shape)}")
    rows = rows[~(rows[:, 4] < np.float32(lowest)) & (rows[:, 4] != 0)]
    _check_unit(rows[:, :4], convention, name)
    arrays = {
        "boxes": convention.box_form.in_shares(rows[:, :4], shown),
        "scores": rows[:, 4],
        "numbers": rows[:, 5],
    }
    return _with_extra(arrays, rows[:, 6:], outputs, convention, shown)


def _with_extra(
    arrays: Mapping[str, npt.NDArray[Any]],
    extra: npt.NDArray[Any],
    outputs: Arrays,
    convention: Convention,
    shown: Shown,
) -> Candidates:
    """Candidates whose additional numbers `(N, E)` are keypoints or weights of prototypes, if there are such.

    Boxes are clipped to the image, as `scale_boxes` does it, and those in the gray beside it are left out: the checks
    would take many of them, or one that is much larger than a narrow image, for boxes of another form.
    """
    if not shown.fills_input:
        boxes = arrays["boxes"]
        in_image = ~((boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= 1).any(axis=1))
        arrays, extra = {role: array[in_image] for role, array in arrays.items()}, extra[in_image]
        arrays["boxes"] = np.clip(arrays["boxes"], 0, 1)
    if convention.keypoints is not None:
        number = len(convention.keypoints)
        points = extra.reshape(len(extra), number, extra.shape[1] // number)
        scores = points[..., 2] if points.shape[2] == 3 else np.ones(points.shape[:2], np.float32)
        shares = points_in_shares(points[..., 1::-1].astype(np.float64), "input", shown)
        return Candidates({**arrays, "keypoints": shares, "keypoint_scores": scores})
    if "masks" not in convention.outputs:
        return Candidates(arrays)
    name, form = convention.outputs["masks"], f"[1, h, w, {extra.shape[1]}]"
    prototypes = of_one_image(outputs[name], 3, name, form)
    if prototypes.shape[2] != extra.shape[1]:
        raise DetectorError(f"{name} must have shape {form}, got {list(outputs[name].shape)}")
    if not np.isfinite(prototypes).all():
        raise DetectorError(f"{name} has numbers that are not finite")

    def masks(kept: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = extra[kept].astype(np.float32) @ flat.T
        return logits.reshape(-1, *prototypes.shape[:2])

    flat = prototypes.reshape(-1, prototypes.shape[2]).astype(np.float32, copy=False)
    return Candidates({**arrays, "weights": extra}, mask_logits=masks)


def _check_unit(boxes: npt.NDArray[Any], convention: Convention, name: str) -> None:
    """Refuse normalized boxes."""
    if boxes.size and float(np.abs(boxes).max()) <= _NORMALIZED:
        raise DetectorError(
            f"{name} has normalized boxes, as in a folder that an export to tflite or edgetpu left behind, but they "
            f"must be {convention.box_form}: {_EXPORT}"
        )


ULTRALYTICS = Family(
    f"Ultralytics (image [1, h, w, 3] and {METADATA}; `format=saved_model`)",
    _claims,
    _match,
)
