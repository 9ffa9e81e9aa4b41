"""Exports of the TF Object Detection API, and hub modules with the same outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prelabel.detectors.conventions.convention import FLOATS, INTEGERS, Convention, Family, Question
from prelabel.detectors.conventions.protos import Tensor
from prelabel.keypoints import KeypointSet

_NUMBERS = ("detection_class_labels", "detection_classes")
_STRINGS = ("detection_class_entities", "detection_class_names", "detection_class_text", "detection_classes")
_COUNTS = ("num_detections", "valid_detections")

#: Other names that a count of the detections may have. Ignoring it would turn the padding into detections.
_LIKE_A_COUNT = re.compile(r"(^|_)(counts?|nums?|n|number|valid)(_|$)|^num[A-Z]|Count$")
_OF_OTHER_THINGS = re.compile("class|proposal|anchor|keypoint|^raw_|^rpn_")

_NUMBER_TYPES = (*INTEGERS, "int8", "uint32", "float32", "float16")
_MASKS = (*FLOATS, "uint8", "bool", "int8", "int32", "int64")

#: Outputs of TF Object Detection exports that are intermediate results; all others may be of interest.
_STEPS = re.compile(
    "raw_|rpn_|refined_box_|proposal_boxes|num_proposals|anchors$|final_anchors$|detection_anchor_indices$|image_shape$|"
    "box_classifier_features$|class_predictions_with_background$|mask_predictions$"
)


def match_named(question: Question) -> Convention | str:
    """Match TF Object Detection.

    The input is an image. The outputs are `detection_boxes` (y1 x1 y2 x2, normalized to 0..1), `detection_scores`, and
    classes as numbers (`detection_classes`, `detection_class_labels`) or strings (`detection_class_entities`,
    `detection_class_names`, `detection_classes`); optionally `num_detections` (or `valid_detections`),
    `detection_masks`, `detection_multiclass_scores`, and `detection_keypoints` (y x, normalized) with
    `detection_keypoint_scores`. All may have a leading batch dimension of 1.
    """
    image, outputs = question.image, question.outputs
    expected = (
        ("boxes", ("detection_boxes",), FLOATS, (2, 3)),
        ("scores", ("detection_scores",), FLOATS, (1, 2)),
        ("count", _COUNTS, (*_NUMBER_TYPES, "uint64", "float64", "bfloat16"), (0, 1, 2)),
        ("masks", ("detection_masks",), _MASKS, (3, 4)),
        ("multiclass_scores", ("detection_multiclass_scores",), FLOATS, (2, 3)),
        ("numbers", _NUMBERS, _NUMBER_TYPES, (1, 2)),
        ("keypoints", ("detection_keypoints",), FLOATS, (3, 4)),
        ("keypoint_scores", ("detection_keypoint_scores",), FLOATS, (2, 3)),
    )
    roles = {}
    for role, names, dtypes, ranks in expected:
        name = next((name for name in names if name in outputs and outputs[name].may_be(dtypes, ranks)), None)
        if name is not None:
            roles[role] = name
    strings = tuple(name for name in _STRINGS if name in outputs and outputs[name].may_be(("string",), (1, 2)))
    keypoints = _number_of_keypoints(outputs, roles)
    if not keypoints:
        roles = {role: name for role, name in roles.items() if role not in ("keypoints", "keypoint_scores")}
    missing = [role for role in ("boxes", "scores") if role not in roles]
    missing += ["classes"] * (not strings and "numbers" not in roles)
    if missing:
        return f"looks like a detector, but has no detection_{', detection_'.join(missing)} of a known type and shape"
    shape = outputs["detection_boxes"].shape
    if shape and shape[-1] not in (4, None):
        return f"looks like a detector, but its boxes have {shape[-1]} numbers instead of 4"
    counts = [name for name in outputs if _LIKE_A_COUNT.search(name) and not _OF_OTHER_THINGS.search(name)]
    if counts and "count" not in roles:
        return (
            f"looks like a detector, but its count of detections ({outputs[counts[0]]}) must be a number with the name "
            f"{' or '.join(_COUNTS)}"
        )
    used = {*roles.values(), *strings}
    unused = tuple(tensor for name, tensor in outputs.items() if name not in used and not _STEPS.match(name))
    has: dict[str, object] = {
        "channels first": image.channels_first,
        "class numbers": "numbers" in roles,
        "class strings": bool(strings),
    }
    parts = [
        image.input.dtype,
        *(name for name, is_present in {**has, "masks": "masks" in roles}.items() if is_present),
        *([f"{keypoints} keypoints"] if keypoints else []),
    ]
    why = f"TF Object Detection by signature {image.signature!r} ({', '.join(parts)})"
    return Convention(
        **vars(image),
        kind="detection",
        outputs=roles,
        strings=strings,
        why=why,
        unused=unused,
        keypoints=KeypointSet.unnamed(keypoints) if keypoints else None,
    )


def _number_of_keypoints(outputs: Mapping[str, Tensor], roles: Mapping[str, str]) -> int:
    """The number of keypoints per detection; 0 if there are none, or if they cannot be used.

    They need scores, since a class without keypoints has points with the score 0 (CenterNet in tensorflow/models,
    `research/object_detection/meta_architectures/center_net_meta_arch.py`), and a fixed number, to be named.
    """
    shapes = [outputs[roles[role]].shape for role in ("keypoints", "keypoint_scores") if role in roles]
    if len(shapes) != 2 or shapes[0] is None or shapes[1] is None:
        return 0
    (number, pair), number_of_scores = shapes[0][-2:], shapes[1][-1]
    return number or 0 if pair == 2 and number == number_of_scores else 0


OBJECT_DETECTION = Family(
    "TF Object Detection (image [1, h, w, 3] or [h, w, 3] -> detection_boxes, detection_scores, "
    "detection_classes or detection_class_*, optionally num_detections and detection_masks)",
    lambda question: any(name.startswith("detection_") for name in question.outputs),
    match_named,
)
