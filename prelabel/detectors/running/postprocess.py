"""Post-processing: turn a model's output arrays into `Detections` and image labels, with NumPy alone.

The order matters. First, padding beyond `num_detections` and rows with numbers that are not finite are dropped. Then
boxes are converted to pixels, classes get their names, and the selection is applied. Masks are encoded last, and only
for the detections that are kept: encoding costs more than everything else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, FloatArray, ImageLabel, ObjectArray, as_objects, number_of_name
from prelabel.detectors.base import DetectionResult, Frame
from prelabel.detectors.checks import ROUNDING, check_scores, reversed_corners
from prelabel.detectors.conventions.activation import sigmoid, softmax
from prelabel.detectors.conventions.boxes import Floats, Shown
from prelabel.detectors.conventions.convention import LARGEST_BOX_MASK, Arrays, Convention
from prelabel.detectors.conventions.named_outputs import decode_named
from prelabel.errors import DetectorError
from prelabel.labels.maps import LabelMap, is_mid
from prelabel.masks.paste import paste_masks, whole_image_masks
from prelabel.select import Selection

Bools = npt.NDArray[np.bool_]

#: Probabilities sum to 1 within this; bfloat16 has about three decimal digits.
_SUM_ROUNDING = 0.02
#: Numbers in 0..1 that sum to 1 within this are probabilities.
_PROBABILITY_SUM_ROUNDING = 1e-4
#: Normalized boxes may extend beyond the image. If a typical box or a kept one exceeds this, boxes are in pixels.
_MAX_NORMALIZED = 4.0
#: Activations whose classes do not exclude each other, and the score from which such a class is rather there than not.
_INDEPENDENT, _LIKELY = ("sigmoid", "multilabel-logits"), 0.5
#: If y2 < y1 (or x2 < x1) by less than this, the difference is a rounding error.
_EDGE_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Which parts of a model's outputs are kept.

    Attributes:
        selection: The detections to keep.
        mask_threshold: Pixels with a score above this belong to a mask.
        keep: Optional tensors to keep: `"multiclass-scores"`.
        top_k: Number of labels per image from a classifier; with independent classes, those with a score of at
            least 0.5 are kept beyond that number.
        batch_size: Number of images that the network gets at a time, if it takes several; None for the usual number.
        decisive_score: Detections below this score are dropped if they are broken, but do not make an image fail.
    """

    selection: Selection = field(default_factory=Selection)
    mask_threshold: float = 0.5
    keep: tuple[str, ...] = ()
    top_k: int = 5
    batch_size: int | None = None
    decisive_score: float = 0.0


def wanted_outputs(convention: Convention, options: DetectorOptions) -> list[str]:
    """The names of the outputs that are needed; all others are not computed.

    Raises:
        DetectorError: The model has no output for a tensor in `keep`.
    """
    roles = dict(convention.outputs)
    if "multiclass-scores" not in options.keep:
        roles.pop("multiclass_scores", None)
    elif "multiclass_scores" not in roles:
        raise DetectorError("--keep multiclass-scores: the model has no output detection_multiclass_scores")
    return list(dict.fromkeys([*roles.values(), *convention.strings]))


def to_result(
    outputs: Arrays,
    convention: Convention,
    frame: Frame,
    labels: LabelMap | None,
    options: DetectorOptions,
    shown: Shown,
) -> DetectionResult:
    """Turn the outputs for one image into a result.

    Args:
        outputs: Arrays by output name, with or without a leading dimension of 1.
        convention: The meaning of the outputs.
        frame: The displayed image that the model's input shows.
        labels: Names of class numbers; they override names from the model.
        options: What to keep.
        shown: How the image was shown to the network.

    Raises:
        DetectorError: The arrays contradict each other or the convention; the message names the array.
    """
    start = time.perf_counter()
    selection = options.selection
    lowest = np.float32(selection.lowest_threshold)
    candidates = (convention.decode or decode_named)(outputs, convention, shown, float(lowest))
    arrays = candidates.arrays
    yxyx, score = arrays["boxes"], arrays["scores"].astype(np.float32)
    above = ~np.isfinite(score) | ((score > 0) & (score >= lowest))
    finite = _finite(arrays, above)
    broken = int(np.count_nonzero(above & ~finite))
    # Of others, broken ones are dropped, but do not make the image fail.
    decisive = above & (~np.isfinite(score) | (score >= np.float32(options.decisive_score)))
    if 2 * np.count_nonzero(decisive & ~finite) > np.count_nonzero(decisive):
        raise DetectorError(
            f"{broken} of {np.count_nonzero(above)} detections of the model have a box, score, class or mask with "
            "numbers that are not finite"
        )
    # Without a count of detections, padding has neither a size nor a score.
    real = finite & ((yxyx[:, 2:] != yxyx[:, :2]).any(axis=1) | (score > 0))
    wanted, checked = real & above, real & decisive
    boxes = _Boxes(convention)
    boxes.check_ranges(yxyx[real], score[real], yxyx[checked])
    boxes.check_order(yxyx[checked], score[checked])
    height, width = frame.height, frame.width
    left, top, right, bottom = frame.window
    window_size = np.array([right - left, bottom - top] * 2, np.float64)
    # In float64, a normalized float32 times a size is exact; pasting masks recovers the normalized box from it.
    exact = yxyx[:, [1, 0, 3, 2]] * window_size + np.array([left, top] * 2, np.float64)
    xyxy = np.clip(exact, 0, np.array([width, height, width, height])).astype(np.float32)
    # A box that has no size or lies outside the image cannot be shown.
    inside = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    lost = int(np.count_nonzero(wanted & ~inside))
    checked_lost = np.count_nonzero(checked & ~inside & ~_clipped_to_line(yxyx))
    if checked_lost > 1 and 2 * checked_lost > np.count_nonzero(checked):
        raise DetectorError(
            f"{lost} of {np.count_nonzero(wanted)} {boxes.name} have no size or lie outside of the image: they must "
            f"be {boxes.form}"
        )
    usable = np.flatnonzero(real & inside)
    category_id, label, mid = _classes(arrays, convention, usable, labels)
    score = np.clip(score, 0, 1)
    chosen = selection.indices(score[usable], label, mid, xyxy[usable])
    kept = usable[chosen]
    _check_numbering(category_id[chosen], labels)
    label, mid = selection.rename_classes(label[chosen], mid[chosen])
    origin, size = np.array([left, top], np.float64), window_size[:2]
    multiclass = arrays.get("multiclass_scores") if "multiclass-scores" in options.keep else None
    detections = Detections(
        height=height,
        width=width,
        xyxy=xyxy[kept],
        category_id=category_id[chosen],
        score=score[kept],
        label=label,
        mid=mid,
        multiclass_score=None if multiclass is None else multiclass[kept].astype(np.float32),
        keypoints=_keypoints(arrays, kept, convention, origin, size),
    )
    detected = time.perf_counter()
    if candidates.mask_logits:
        logits, window = candidates.mask_logits(kept), shown.input_window(frame.window)
        threshold = _logit(options.mask_threshold)
        counts = whole_image_masks(
            logits, window, height, width, threshold, image_window=frame.window, inside=exact[kept]
        )
        detections = replace(detections, mask=as_objects(counts))
    elif convention.masks:
        of_kept = candidates.masks(kept) if candidates.masks else arrays["masks"][kept]
        masks = _mask_scores(of_kept, convention.outputs["masks"])
        if _covers_image(masks.shape[1:], convention, shown.input):
            window, threshold = shown.input_window(frame.window), options.mask_threshold
            counts = whole_image_masks(masks, window, height, width, threshold, image_window=frame.window)
        else:
            # With the box before clipping: clipping it to the image would squeeze its mask.
            covered = exact[kept]
            if "mask_boxes" in arrays:
                covered = arrays["mask_boxes"][kept][:, [1, 0, 3, 2]] * window_size + np.tile(origin, 2)
            counts = paste_masks(masks, covered, height, width, options.mask_threshold)
        detections = replace(detections, mask=as_objects(counts))
    seconds = {"detect": detected - start, "encode": time.perf_counter() - detected}
    return DetectionResult(detections, None, seconds, broken + lost)


def _keypoints(
    arrays: Arrays, kept: npt.NDArray[np.intp], convention: Convention, origin: Floats, size: Floats
) -> FloatArray | None:
    """Keypoints `(N, K, 3)` x y score of the kept entries in pixels of the displayed image, or None.

    Args:
        arrays: Of the candidates.
        kept: Indices of the entries.
        convention: The meaning of the outputs.
        origin: x y of the area that the shares refer to, in pixels of the displayed image.
        size: Its width and height.

    Raises:
        DetectorError: The arrays contradict each other, or the scores are not within 0..1.
    """
    if convention.keypoints is None:
        return None
    points, scores = arrays["keypoints"][kept], arrays["keypoint_scores"][kept].astype(np.float32)
    number, name = len(convention.keypoints), convention.outputs.get("keypoints", "keypoints")
    if points.shape[1:] != (number, 2) or scores.shape[1:] != (number,):
        raise DetectorError(
            f"{name} must have shape [N, {number}, 2] and their scores [N, {number}], got {list(points.shape)} and "
            f"{list(scores.shape)}"
        )
    check_scores(scores[np.isfinite(scores)], f"the scores of {name}")
    xy = points[..., ::-1].astype(np.float64) * size + origin
    return np.concatenate((xy, np.clip(scores, 0, 1)[..., None]), axis=2).astype(np.float32)


def _finite(arrays: Mapping[str, npt.NDArray[Any]], wanted: Bools) -> Bools:
    """Which rows have finite numbers only. Masks are large, so only those of the wanted rows are checked."""
    finite = np.ones(len(wanted), np.bool_)
    for role, array in arrays.items():
        if array.dtype.kind in "biuOSU":
            continue  # integers, bools and strings
        if role in ("keypoints", "keypoint_scores"):
            continue  # a point that is not finite is one that the detector does not give
        if role == "masks":
            for number in np.flatnonzero(wanted):
                finite[number] &= np.isfinite(array[number].astype(np.float32, copy=False)).all()
        else:
            finite &= np.isfinite(array.astype(np.float32, copy=False)).all(axis=tuple(range(1, array.ndim)))
    return finite


def _clipped_to_line(yxyx: Floats) -> Bools:
    """Which boxes `(N, 4)`, in shares of the image, have become a part of an edge of the image.

    This is what remains of a box beside the image if the network clips its boxes. CenterNet finds objects in the
    padding of its input, too (`mask_from_true_image_shape` in `center_net_meta_arch.py` compares cells with pixels).
    """
    first, last = yxyx[:, :2], yxyx[:, 2:]
    on_edge = (first == last) & ((first == 0) | (first == 1))
    on_line: Bools = on_edge.any(axis=1) & (last > first).any(axis=1)
    return on_line


class _Boxes:
    """Checks that boxes, as y1 x1 y2 x2 in shares of the image, mean what the convention says."""

    def __init__(self, convention: Convention) -> None:
        self.name = convention.outputs.get("boxes", "boxes")
        self.score_name = convention.outputs.get("scores", "scores")
        self.form = convention.box_form

    def check_ranges(self, yxyx: Floats, score: FloatArray, wanted: Floats) -> None:
        """Check that scores are in 0..1 and boxes near the image.

        Args:
            yxyx: `(N, 4)` boxes that do not look like padding.
            score: `(N,)` their scores.
            wanted: `(M, 4)` boxes that would be kept. One of them far beyond the image is enough to fail, since most of
                `yxyx` may be padding that has a size or a score.
        """
        check_scores(score, self.score_name)
        typical = float(np.median(np.abs(yxyx).max(axis=1))) if len(yxyx) else 0.0
        if max(typical, float(np.abs(wanted).max(initial=0.0))) <= _MAX_NORMALIZED:
            return
        if self.form.unit == "shares":
            problem = f"have values of up to {np.abs(yxyx).max():g} and look like pixels"
        else:
            problem = f"extend {np.abs(yxyx).max():g} times the size of the image from its corner"
        raise DetectorError(f"{self.name} {problem}: they must be {self.form}")

    def check_order(self, yxyx: Floats, score: FloatArray) -> None:
        """Check that boxes which would be kept have y1 <= y2 and x1 <= x2; otherwise they mean something else."""
        backward = reversed_corners(yxyx, score, _EDGE_ROUNDING)
        if backward is not None:
            box = ", ".join(f"{value:.3g}" for value in yxyx[np.flatnonzero(backward)[0]])
            raise DetectorError(
                f"{np.count_nonzero(backward)} of {len(yxyx)} {self.name} end before they begin ([{box}]) and "
                f"look like a corner or center with height and width: they must be {self.form}"
            )


def _check_numbering(category_id: npt.NDArray[np.int32], labels: LabelMap | None) -> None:
    """Refuse class 0 with a label map that begins at 1: every class would get the name of its neighbor."""
    if labels is not None and 1 in labels.classes and 0 not in labels.classes and (category_id == 0).any():
        raise DetectorError(
            f"the model returned class 0, but the label map {labels.source} begins with class 1: number its classes "
            "from 0 (a .csv with `0,name` lines)"
        )


def _logit(score: float) -> float:
    if not 0 < score < 1:
        return math.inf if score >= 1 else -math.inf
    return math.log(score / (1 - score))


def _mask_scores(masks: npt.NDArray[Any], name: str) -> FloatArray:
    """Masks of any type as scores in 0..1. Integers must be 0 and 1, or 0 and 255."""
    if masks.dtype.kind in "iu":
        highest = masks.max(initial=0)
        if not np.isin(masks, (0, highest)).all() or highest not in (0, 1, 255):
            raise DetectorError(
                f"{name} has {masks.dtype} values of up to {highest}: integer masks must be 0 and 1, or 0 and 255"
            )
        zeros_and_ones: FloatArray = (masks != 0).astype(np.float32)
        return zeros_and_ones
    scores: FloatArray = masks.astype(np.float32, copy=False)
    if scores.size and not (scores.min() >= -_SUM_ROUNDING and scores.max() <= 1 + _SUM_ROUNDING):
        raise DetectorError(f"{name} must hold scores of pixels within 0..1, got {scores.min():g} to {scores.max():g}")
    return scores


def _covers_image(size: tuple[int, ...], convention: Convention, input_size: tuple[int, int]) -> bool:
    """Whether masks of this height and width cover the whole image rather than their box."""
    if convention.mask_frame != "by-size":
        return convention.mask_frame == "image"
    looks_like_box = size[0] == size[1] <= LARGEST_BOX_MASK
    if (size == input_size) == looks_like_box:
        height, width = input_size
        why = "which may be the image or a box" if looks_like_box else f"but the image is {height} x {width}"
        raise DetectorError(
            f"{convention.outputs['masks']} are {size[0]} x {size[1]}, {why}: give --mask-frame box or image"
        )
    return size == input_size


def _classes(
    arrays: Arrays, convention: Convention, usable: npt.NDArray[np.intp], labels: LabelMap | None
) -> tuple[npt.NDArray[np.int32], ObjectArray, ObjectArray]:
    """Number, label and MID of the usable entries.

    The strings themselves show which tensor holds MIDs and which holds names, since published models and their
    documentation disagree. The label map overrides the model's strings. A class without a name is labeled with its
    number. If a model names its classes without numbers, the number is the CRC-32 of MID or name, the same in all
    workers and runs.
    """
    total = len(usable)
    category_id = np.zeros(total, np.int32)
    label, mid = np.empty(total, object), np.empty(total, object)
    numbers = arrays.get("numbers")
    columns = [[_as_text(value) for value in arrays[name][usable]] for name in convention.strings]
    for i in range(total):
        texts = [column[i] for column in columns if column[i]]
        mid[i] = next((text for text in texts if is_mid(text)), "")
        label[i] = next((text for text in texts if not is_mid(text)), "")
        number: int | None
        if numbers is not None:
            value = numbers[usable[i]]
            if not np.isfinite(value) or value != np.rint(value) or not 0 <= value < 1 << 31:
                raise DetectorError(f"{convention.outputs['numbers']} has the value {value}, not a class number")
            number = int(value)
        else:
            number = next((known for text in texts if labels and (known := labels.number_of(text)) is not None), None)
        class_name = labels.get(number) if labels and number is not None else None
        if class_name:
            label[i], mid[i] = class_name.name, class_name.mid or mid[i]
        if number is None:
            number = number_of_name(mid[i] or label[i])
        category_id[i] = number
        label[i] = label[i] or mid[i] or str(number)
    return category_id, label, mid


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def to_image_labels(
    row: npt.NDArray[Any], convention: Convention, labels: LabelMap | None, options: DetectorOptions
) -> tuple[ImageLabel, ...]:
    """The best classes of one image from the output of a classifier.

    The background has its share of the probability, but is not returned as a label. Class filters, the class map and
    thresholds per class apply as for detections. The general score threshold does not: `top_k` sets the number. If the
    classes are independent, an image may have more of them: all that are rather there than not are kept.

    Args:
        row: `(K,)` outputs, one per class.
        convention: The meaning of the outputs.
        labels: Names of class numbers.
        options: What to keep.

    Raises:
        DetectorError: The row is not finite, or contradicts the convention.
    """
    values = probabilities(np.asarray(row, np.float64), convention.activation)
    labels = labels.fitted_to(len(values)) if labels else None
    first = 1 if convention.background else 0
    order = first + np.argsort(-values[first:], kind="stable")
    selection = options.selection.without_score_threshold
    independent = convention.activation in _INDEPENDENT
    if not selection.changes_image_labels:
        order = order[: max(options.top_k, np.count_nonzero(values[order] >= _LIKELY) if independent else 0)]
    candidates = []
    for number in order.tolist():
        class_name = labels.get(number) if labels else None
        label, mid = (class_name.name, class_name.mid) if class_name else (str(number), "")
        candidates.append(ImageLabel(number, label, mid, float(np.float32(values[number]))))
    kept = selection.apply_to_image_labels(candidates)
    return kept[: max(options.top_k, sum(label.score >= _LIKELY for label in kept) if independent else 0)]


def probabilities(values: npt.NDArray[np.float64], activation: str) -> npt.NDArray[np.float64]:
    """Class scores in 0..1 from the outputs of a classifier.

    Args:
        values: `(K,)` outputs of the model.
        activation: The kind of the outputs, one of `options.ACTIVATIONS`.

    Raises:
        DetectorError: The values are not finite, or contradict the activation.
    """
    if not np.isfinite(values).all():
        raise DetectorError("the model's class scores are not finite")
    low, high, total = values.min(), values.max(), values.sum()
    if activation in ("softmax", "sigmoid", "none"):
        if low < -ROUNDING or high > 1 + _SUM_ROUNDING:
            raise DetectorError(
                f"the class scores range from {low:g} to {high:g}, but those of the activation {activation} lie in "
                "0..1: give the right --activation"
            )
        if activation == "softmax" and abs(total - 1) > _SUM_ROUNDING:
            raise DetectorError(
                f"the class scores sum to {total:g}, but those of the activation softmax sum to 1: give the right "
                "--activation"
            )
        return np.clip(values, 0, 1)
    if low >= 0 and high <= 1 and abs(total - 1) <= _PROBABILITY_SUM_ROUNDING:
        raise DetectorError(
            f"the class scores lie in 0..1 and sum to {total:g}, as after a softmax, which contradicts the activation "
            f"{activation}: give the right --activation"
        )
    if activation == "multilabel-logits":
        return sigmoid(values)
    return softmax(values)
