"""Candidates from networks with one output per role: boxes, scores, classes, masks. Most families need nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detectors.conventions.boxes import Shown, points_in_shares
from prelabel.detectors.conventions.convention import Arrays, Candidates, Convention
from prelabel.errors import DetectorError

#: From this score on, a detection is taken to be meant, when the unit of boxes is checked.
LIKELY = 0.05

#: Number of dimensions of an output for one image, by role, if it is not 1.
RANKS = {
    **{"count": 0, "boxes": 2, "mask_boxes": 2, "image_info": 2, "masks": 3, "multiclass_scores": 2},
    **{"keypoints": 3, "keypoint_scores": 2},
}


def decode_named(outputs: Arrays, convention: Convention, shown: Shown, lowest: float) -> Candidates:
    """Candidates of a network that has one output per role, and boxes of the convention's form.

    Keypoints are y x, in the unit of the boxes.

    Args:
        outputs: Arrays by output name, with or without a leading dimension of 1, and with padding.
        convention: The meaning of the outputs.
        shown: How the image was shown to the network.
        lowest: The lowest score that matters.

    Raises:
        DetectorError: The arrays contradict each other or the convention; the message names the array.
    """
    names = {**convention.outputs, **{name: name for name in convention.strings}}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for role, name in names.items():
        if name not in outputs:
            continue
        rank = RANKS.get(role, 1)
        form = f"[N{', ...' * (rank > 1)}]"
        arrays[role] = outputs[name] if role == "count" else of_one_image(outputs[name], rank, name, form)
    length = len(arrays["scores"])
    count = arrays.pop("count", None)
    if count is not None:
        length = number_of_detections(count, length, names["count"])
    for role, array in arrays.items():
        # Cutting arrays to a common length could pair values of different detections: one may be a vocabulary.
        if len(array) != len(arrays["scores"]):
            raise DetectorError(
                f"{names[role]} has {len(array)} entries and {names['scores']} {len(arrays['scores'])}: each must have "
                "one entry per detection"
            )
    arrays = {role: array[:length] for role, array in arrays.items()}
    boxes = arrays["boxes"]
    if boxes.shape[1] != 4:
        raise DetectorError(f"{names['boxes']} must have shape [N, 4], got {list(boxes.shape)}")
    convention.box_form.check_unit(boxes[arrays["scores"] >= max(lowest, LIKELY)], names["boxes"])
    arrays["boxes"] = convention.box_form.in_shares(boxes, shown)
    if "keypoints" in arrays:
        arrays["keypoints"] = points_in_shares(arrays["keypoints"], convention.box_form.unit, shown)
    return Candidates(arrays)


def of_one_image(array: npt.NDArray[Any], rank: int, name: str, form: str) -> npt.NDArray[Any]:
    """An array with this number of dimensions, without the leading one of 1 that it may have.

    Args:
        array: As the network returned it.
        rank: Number of dimensions without the leading one.
        name: Of the output, for the message.
        form: The right shape in words.

    Raises:
        DetectorError: It has another number of dimensions.
    """
    if array.ndim == rank + 1 and array.shape[0] == 1:
        return np.asarray(array[0])
    if array.ndim != rank:
        raise DetectorError(f"{name} must have shape {form}, got {list(array.shape)}")
    return array


def number_of_detections(count: npt.NDArray[Any], length: int, name: str) -> int:
    """The number of detections that are meant, of `length` ones.

    Args:
        count: An array of one number, of any shape.
        length: Number of scores.
        name: Of the output, for the message.

    Raises:
        DetectorError: It is not one whole number from 0 to `length`.
    """
    if count.size != 1:
        raise DetectorError(f"{name} must be one number, got shape {list(count.shape)}")
    number = float(count.reshape(()))
    if not 0 <= number <= length or number != int(number):
        raise DetectorError(f"{name} must be an integer from 0 to {length}, the number of scores, got {number:g}")
    return int(number)
