"""Detectors of TF Model Garden Vision (RetinaNet, Mask R-CNN), as `official/vision/serving/detection.py` exports them.

They share the names of their outputs with the TF Object Detection API, but not their meaning: they also return
`image_info`, and their boxes are in pixels of the image after the network has resized it, unless a RetinaNet was
exported with `output_normalized_coordinates`. From tensorflow/models, `official/vision`:

- `serving/detection.py` (`serve`): which outputs there are. To normalize boxes, it divides them by the scale, then by
  the size of the image (`box_ops.normalize_boxes`), and clips them to the image.
- `ops/preprocess_ops.py` (`resize_and_crop_image`): `image_info` has four rows of y and x: the size of the image, the
  size it is resized to, the scale, and the offset that was cut off.
- `modeling/maskrcnn_model.py`: masks cover `detection_outer_boxes` if there are such, else their boxes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detectors.base import Decision
from prelabel.detectors.conventions.activation import is_normalized_by_division
from prelabel.detectors.conventions.boxes import NORMALIZED_YXYX, BoxForm, Floats, Shown
from prelabel.detectors.conventions.convention import Arrays, Candidates, Convention, Family, Question
from prelabel.detectors.conventions.families.object_detection import match_named
from prelabel.detectors.conventions.graph import entry_of
from prelabel.detectors.conventions.named_outputs import LIKELY, decode_named
from prelabel.detectors.conventions.protos import Signature
from prelabel.errors import DetectorError

_INFO, _OUTER = "image_info", "detection_outer_boxes"

_RESIZED = BoxForm("yxyx", "input")

#: Of edges of the padding, in shares of the image.
_ROUNDING = 1e-4


def _claims(question: Question) -> bool:
    return _INFO in question.outputs and not {"detection_boxes", "decoded_boxes"}.isdisjoint(question.outputs)


def _match(question: Question) -> Convention | str:
    if "detection_boxes" not in question.outputs:
        return (
            "is a detector of TF Model Garden Vision without the suppression of overlapping boxes (output "
            "decoded_boxes): export it with detection_generator.apply_nms"
        )
    if question.image.size is not None:
        return (
            f"is a detector of TF Model Garden Vision without its preprocessing (input {question.image.input}): export "
            "it with the input type image_tensor"
        )
    fit = match_named(question)
    if not isinstance(fit, Convention):
        return fit
    is_normalized = _is_normalized(question.folder, question.signature)
    if is_normalized:
        form, why = str(NORMALIZED_YXYX), "the graph divides them by the size of the image"
    else:
        form, why = "y1 x1 y2 x2, pixels of the resized image (image_info)", "TF Model Garden Vision"
    roles = {**fit.outputs, "image_info": _INFO}
    if "masks" in roles and _OUTER in question.outputs:
        roles["mask_boxes"] = _OUTER
    return replace(
        fit,
        outputs=roles,
        why=fit.why.replace("TF Object Detection", "TF Model Garden Vision"),
        unused=tuple(tensor for tensor in fit.unused if tensor.name not in (_INFO, _OUTER)),
        box_form=NORMALIZED_YXYX if is_normalized else _RESIZED,
        decode=_decode,
        known={"boxes": Decision(form, why)},
    )


def _is_normalized(folder: Path | None, signature: Signature) -> bool:
    """Whether the graph ends with `box_ops.normalize_boxes`."""
    if folder is None:
        return False
    with entry_of(folder, signature) as entry:
        return entry is not None and is_normalized_by_division(entry, "detection_boxes")


def _decode(outputs: Arrays, convention: Convention, shown: Shown, lowest: float) -> Candidates:
    """As `Decode`. The boxes of the resized image are converted with `image_info`."""
    names = convention.outputs
    named = {role: name for role, name in names.items() if role not in ("image_info", "mask_boxes")}
    as_given = Shown.of(shown.image, None, convention.fit)
    candidates = decode_named(outputs, replace(convention, outputs=named, box_form=NORMALIZED_YXYX), as_given, lowest)
    arrays = dict(candidates.arrays)
    info = _checked(outputs[_INFO], shown)
    if convention.box_form == _RESIZED:
        convention.box_form.check_unit(arrays["boxes"][arrays["scores"] >= max(lowest, LIKELY)], names["boxes"])
        arrays["boxes"] = _in_shares(arrays["boxes"], info)
    if "masks" in arrays:
        covered = arrays["boxes"]
        if "mask_boxes" in names:
            outer = outputs[_OUTER].reshape(-1, 4)[: len(covered)]
            covered = _in_shares(outer, info) if convention.box_form == _RESIZED else outer
        arrays["masks"], arrays["mask_boxes"] = _with_border(arrays["masks"], covered, shown.image)
    arrays["boxes"] = _without_padding(arrays["boxes"], info)
    return replace(candidates, arrays=arrays)


def _checked(image_info: npt.NDArray[np.floating], shown: Shown) -> Floats:
    """`image_info` as four rows of y and x.

    Raises:
        DetectorError: It is not of this image.
    """
    info: Floats = image_info.astype(np.float64).reshape(-1, 2)
    if info.shape != (4, 2) or not np.isfinite(info).all() or tuple(info[0]) != shown.image or (info[2] <= 0).any():
        raise DetectorError(
            f"{_INFO} must have 4 rows of 2 numbers, the first of them {list(shown.image)}, the size of the image, got "
            f"{image_info.tolist()}"
        )
    return info


def _in_shares(boxes: npt.NDArray[np.floating], info: Floats) -> Floats:
    """Boxes y1 x1 y2 x2 in pixels of the resized image, as shares of the image."""
    size, _, scale, offset = info
    shares: Floats = (boxes.astype(np.float64) + np.tile(offset, 2)) / np.tile(scale * size, 2)
    return shares


def _with_border(masks: npt.NDArray[Any], boxes: Floats, image: tuple[int, int]) -> tuple[npt.NDArray[Any], Floats]:
    """Masks `(N, m, m)` with a border of zeros, and the boxes that these cover, in shares of the image.

    The pixels of a mask divide its box evenly, and beside them it is 0, so the outer ones have their centers half a
    pixel of the mask inside (`paste_instance_masks` in `ops/mask_ops.py`, `sample_offset` in
    `modeling/layers/mask_sampler.py`). The returned boxes are meant as those of the TF Object Detection API: from the
    center of the first pixel of the mask to that of the last, where 0 and 1 are the centers of the outer pixels of the
    image.

    Args:
        masks: Of all candidates.
        boxes: `(N, 4)` y1 x1 y2 x2 that the masks cover, in shares of the image.
        image: Height and width of the image.
    """
    half = (boxes[:, 2:] - boxes[:, :2]) / (2 * np.array(masks.shape[1:]))
    covered = np.concatenate((boxes[:, :2] - half, boxes[:, 2:] + half), axis=1)
    size = np.tile(np.maximum(image, 2), 2)
    return np.pad(masks, ((0, 0), (1, 1), (1, 1))), (covered * size - 0.5) / (size - 1)


def _without_padding(boxes: Floats, info: Floats) -> Floats:
    """Boxes y1 x1 y2 x2 in shares; those in the padding below or beside the image become a part of its edge.

    The network clips its boxes to its whole input, so it may find objects in the padding. They are no sign of boxes of
    another form, which boxes that begin outside of the image are taken for elsewhere.
    """
    size, padded, scale, offset = info
    in_input = (boxes[:, 2:] <= (padded + offset) / (scale * size) + _ROUNDING).all(axis=1)
    is_padding = in_input & (boxes[:, :2] >= 1).any(axis=1)
    return np.where(is_padding[:, None], np.clip(boxes, 0, 1), boxes)


MODEL_GARDEN = Family(
    "TF Model Garden Vision (uint8 image [batch, h, w, 3] -> as TF Object Detection, with image_info)", _claims, _match
)
