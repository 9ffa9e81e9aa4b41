"""From a network's output tensors to `Detections` and image labels: everything after the network, NumPy only.

The order matters. Padding past `num_detections` goes first, then what is no finite number; boxes become pixels; classes
get their names; the selection chooses; only then are masks encoded, which costs more than all the rest.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, FloatArray, ImageLabel, ObjectArray, as_objects
from prelabel.detectors.base import Found
from prelabel.detectors.convention import LARGEST_BOX_MASK, Convention
from prelabel.detectors.masks import paste_masks, whole_image_masks
from prelabel.errors import DetectorError
from prelabel.labels.maps import LabelMap, is_mid
from prelabel.select import Selection

Arrays = Mapping[str, npt.NDArray[Any]]
Bools = npt.NDArray[np.bool_]

#: Scores may exceed 1 by rounding; more means that they are no probabilities.
_ROUNDING = 1e-3
#: Probabilities of bfloat16, which has three digits, sum to 1 within this.
_SUM_ROUNDING = 0.02
#: A row of numbers in 0..1 that sums to 1 this closely is no accident.
_NO_ACCIDENT = 1e-4
#: Shares of the image may exceed 1 where a box reaches beyond it; a typical or a kept box beyond this is in pixels.
_FARTHEST = 4.0
#: Edges of a box that are the wrong way round by less are one edge, rounded.
_ONE_EDGE = 1e-3


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """What of a network's answer is kept.

    Attributes:
        selection: Which detections.
        mask_threshold: A pixel belongs to a mask above this.
        keep: Optional tensors to keep: `"multiclass-scores"`.
        top_k: Labels of an image from a classifier.
        batch_size: Images a classifier gets at once.
    """

    selection: Selection = field(default_factory=Selection)
    mask_threshold: float = 0.5
    keep: tuple[str, ...] = ()
    top_k: int = 5
    batch_size: int = 32


def wanted_outputs(convention: Convention, options: DetectorOptions) -> list[str]:
    """Names of the outputs that are needed, all others are not fetched.

    Raises:
        DetectorError: A tensor to keep is not among the model's outputs.
    """
    roles = dict(convention.outputs)
    if "multiclass-scores" not in options.keep:
        roles.pop("multiclass_scores", None)
    elif "multiclass_scores" not in roles:
        raise DetectorError("keep multiclass-scores: the model has no output detection_multiclass_scores")
    return list(dict.fromkeys([*roles.values(), *convention.strings]))


def to_found(
    outputs: Arrays,
    convention: Convention,
    height: int,
    width: int,
    labels: LabelMap | None,
    options: DetectorOptions,
    *,
    window: tuple[int, int, int, int] | None = None,
    fed: tuple[int, int] | None = None,
) -> Found:
    """What was found on one image.

    Args:
        outputs: Arrays by output name, with or without a leading dimension of 1.
        convention: What they mean.
        height: Of the displayed image.
        width: Of the displayed image.
        labels: Names of class numbers; win over names from the network.
        options: What is kept.
        window: x1 y1 x2 y2 of the image that the network was shown, where it is not exactly the image.
        fed: Height and width of the pixels it was given, where they are not those of the image.

    Raises:
        DetectorError: The arrays do not fit together or are not what the convention says; with the array's name.
    """
    start = time.perf_counter()
    arrays = _unpadded(outputs, convention)
    yxyx, score = arrays["boxes"].astype(np.float32), arrays["scores"].astype(np.float32)
    selection = options.selection
    lowest = np.float32(min([selection.score_threshold, *selection.class_threshold.values()]))
    above = ~np.isfinite(score) | ((score > 0) & (score >= lowest))
    finite = _finite(arrays, above)
    broken = np.count_nonzero(above & ~finite)
    if 2 * broken > np.count_nonzero(above):
        raise DetectorError(
            f"{broken} of {np.count_nonzero(above)} detections of the network have a box, score, class or mask "
            "that is not finite numbers"
        )
    # Where there is no count, what fills the arrays up has neither a size nor a score.
    real = finite & ((yxyx[:, 2:] != yxyx[:, :2]).any(axis=1) | (score > 0))
    wanted = real & above
    _check_ranges(yxyx[real], score[real], yxyx[wanted])
    _check_order(yxyx[wanted], score[wanted])
    left, top, right, bottom = window or (0, 0, width, height)
    shown = np.array([right - left, bottom - top] * 2, np.float64)
    # In float64, where a float32 share times a size is exact: masks are pasted by the share that comes back from it.
    exact = yxyx[:, [1, 0, 3, 2]] * shown + np.array([left, top] * 2, np.float64)
    xyxy = np.clip(exact, 0, np.array([width, height, width, height])).astype(np.float32)
    # A box without size, or outside of the image, can be shown to nobody.
    inside = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    lost = np.count_nonzero(wanted & ~inside)
    if lost > 1 and 2 * lost > np.count_nonzero(wanted):
        raise DetectorError(
            f"{lost} of {np.count_nonzero(wanted)} detection_boxes have no size or lie outside of the image: they must "
            "be y1 x1 y2 x2 as shares of the image, 0..1"
        )
    usable = np.flatnonzero(real & inside)
    category_id, label, mid = _classes(arrays, convention, usable, labels)
    score = np.clip(score, 0, 1)
    chosen = selection.indices(score[usable], label, mid, xyxy[usable])
    kept = usable[chosen]
    _check_numbering(category_id[chosen], labels)
    multiclass = arrays.get("multiclass_scores") if "multiclass-scores" in options.keep else None
    found = Detections(
        height=height,
        width=width,
        xyxy=xyxy[kept],
        category_id=category_id[chosen],
        score=score[kept],
        label=selection.rename(label[chosen], mid[chosen]),
        mid=mid[chosen],
        multiclass_score=None if multiclass is None else multiclass[kept].astype(np.float32),
    )
    answered = time.perf_counter()
    if convention.masks:
        masks = _mask_scores(arrays["masks"][kept], convention.outputs["masks"])
        if _of_the_image(masks.shape[1:], convention, fed or (height, width)):
            box = (left, top, right, bottom)
            counts = whole_image_masks(masks, box, height, width, options.mask_threshold)
        else:
            # Of the box as the network gave it: a box clipped to the image would squeeze its mask.
            counts = paste_masks(masks, exact[kept], height, width, options.mask_threshold)
        found = replace(found, mask=as_objects(counts))
    seconds = {"detect": answered - start, "encode": time.perf_counter() - answered}
    return Found(found, None, seconds, broken + lost)


def _finite(arrays: Mapping[str, npt.NDArray[Any]], wanted: Bools) -> Bools:
    """Of which rows all numbers are finite; masks, which are large, are looked at where they are wanted."""
    finite = np.ones(len(wanted), np.bool_)
    for role, array in arrays.items():
        if array.dtype.kind in "biuOSU":
            continue  # whole numbers and names
        if role == "masks":
            for number in np.flatnonzero(wanted):
                finite[number] &= np.isfinite(array[number].astype(np.float32, copy=False)).all()
        else:
            finite &= np.isfinite(array.astype(np.float32, copy=False)).all(axis=tuple(range(1, array.ndim)))
    return finite


def _unpadded(outputs: Arrays, convention: Convention) -> dict[str, npt.NDArray[Any]]:
    """The arrays by role (strings by name), without batch dimension and without padding, all of one length."""
    ranks = {"boxes": 2, "scores": 1, "numbers": 1, "count": 0, "masks": 3, "multiclass_scores": 2}
    names = {**convention.outputs, **{name: name for name in convention.strings}}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for role, name in names.items():
        if name not in outputs:
            continue
        array = outputs[name]
        rank = ranks.get(role, 1)
        if role == "count" and array.size == 1:
            array = array.reshape(())
        if array.ndim == rank + 1 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != rank:
            right = "one number" if rank == 0 else f"[N{', ...' * (rank > 1)}]"
            raise DetectorError(f"{name} has shape {list(outputs[name].shape)}, not {right}")
        arrays[role] = array
    length = len(arrays["scores"])
    count = arrays.pop("count", None)
    if count is not None:
        number = float(count)
        if not 0 <= number <= length or number != int(number):
            raise DetectorError(f"{names['count']} is {number:g} beside {length} scores")
        length = int(number)
    for role, array in arrays.items():
        # Cut to one length, rows of different detections could stand side by side: a vocabulary, say, is no row.
        if len(array) != len(arrays["scores"]):
            raise DetectorError(
                f"{names[role]} has {len(array)} entries, {names['scores']} {len(arrays['scores'])}: what belongs to "
                "one detection must stand in the same row of each"
            )
    arrays = {role: array[:length] for role, array in arrays.items()}
    if arrays["boxes"].shape[1] != 4:
        raise DetectorError(f"detection_boxes has shape {list(arrays['boxes'].shape)}, not [N, 4]")
    return arrays


def _check_ranges(yxyx: FloatArray, score: FloatArray, wanted: FloatArray) -> None:
    """Of rows that are no padding, as far as that can be told, and of those that would be kept.

    Padding may have a size or a score, and be most of the rows: one kept box far beyond the image is enough.
    """
    if len(score) and (score.min() < -_ROUNDING or score.max() > 1 + _ROUNDING):
        raise DetectorError(f"detection_scores range from {score.min():g} to {score.max():g}, not within 0..1")
    typical = float(np.median(np.abs(yxyx).max(axis=1))) if len(yxyx) else 0.0
    if max(typical, float(np.abs(wanted).max(initial=0.0))) > _FARTHEST:
        raise DetectorError(
            f"detection_boxes reach to {np.abs(yxyx).max():g}: they must be shares of the image, 0..1, and look "
            "like pixels"
        )


def _check_order(yxyx: FloatArray, score: FloatArray) -> None:
    """Of rows that would be kept: corners on the wrong side say that the four numbers mean something else.

    A sound network may have such a box among those of low scores. They count by their scores: below half of the sum
    they are boxes without size, which are left out.
    """
    turned = (yxyx[:, 2:] < yxyx[:, :2] - _ONE_EDGE).any(axis=1)
    if turned.any() and 2 * score[turned].sum() >= score.sum():
        box = ", ".join(f"{value:.3g}" for value in yxyx[np.flatnonzero(turned)[0]])
        raise DetectorError(
            f"{np.count_nonzero(turned)} of {len(yxyx)} detection_boxes end before they begin ([{box}]): they must be "
            "y1 x1 y2 x2, and look like a corner or centre with height and width"
        )


def _check_numbering(category_id: npt.NDArray[np.int32], labels: LabelMap | None) -> None:
    """A class 0 beside a label map that begins at 1 says that every other class would have its neighbour's name."""
    if labels is not None and 1 in labels.classes and 0 not in labels.classes and (category_id == 0).any():
        raise DetectorError(
            f"the network answers class 0, and the label map {labels.source} begins with class 1: number its classes "
            "as the network does (a .csv of `0,name` lines)"
        )


def _mask_scores(masks: npt.NDArray[Any], name: str) -> FloatArray:
    """Masks of any type as scores in 0..1: whole numbers are 0 and 1, or 0 and 255."""
    if masks.dtype.kind in "iu":
        highest = masks.max(initial=0)
        if not np.isin(masks, (0, highest)).all() or highest not in (0, 1, 255):
            raise DetectorError(
                f"{name} holds {masks.dtype} of up to {highest}: such masks must be 0 and 1, or 0 and 255"
            )
        zeros_and_ones: FloatArray = (masks != 0).astype(np.float32)
        return zeros_and_ones
    scores: FloatArray = masks.astype(np.float32, copy=False)
    if scores.size and not (scores.min() >= -_SUM_ROUNDING and scores.max() <= 1 + _SUM_ROUNDING):
        raise DetectorError(
            f"{name} ranges from {scores.min():g} to {scores.max():g}, not within 0..1: no scores of pixels"
        )
    return scores


def _of_the_image(size: tuple[int, ...], convention: Convention, fed: tuple[int, int]) -> bool:
    """Whether masks of this height and width show the whole image, not their box."""
    if convention.mask_frame != "by-size":
        return convention.mask_frame == "image"
    cut_out = size[0] == size[1] <= LARGEST_BOX_MASK
    if (size == fed) == cut_out:
        why = "which is the image's size and also one of masks cut out along boxes" if cut_out else "beside an image of"
        beside = "" if cut_out else f" {fed[0]} x {fed[1]}"
        raise DetectorError(
            f"{convention.outputs['masks']} are {size[0]} x {size[1]}, {why}{beside}: state --mask-frame box or image"
        )
    return size == fed


def _classes(
    arrays: Arrays, convention: Convention, usable: npt.NDArray[np.intp], labels: LabelMap | None
) -> tuple[npt.NDArray[np.int32], ObjectArray, ObjectArray]:
    """Number, label and MID of the usable entries.

    Which tensor holds MIDs and which names is told from the strings: published models and their pages disagree. The
    label map wins over the network's strings. A class that has no name is called by its number. A model that names its
    classes without numbering them gets as number the CRC-32 of MID or name, the same in every worker and run.
    """
    total = len(usable)
    category_id = np.zeros(total, np.int32)
    label, mid = np.empty(total, object), np.empty(total, object)
    numbers = arrays.get("numbers")
    columns = [[_as_text(one) for one in arrays[name][usable]] for name in convention.strings]
    for i in range(total):
        texts = [column[i] for column in columns if column[i]]
        mid[i] = next((text for text in texts if is_mid(text)), "")
        label[i] = next((text for text in texts if not is_mid(text)), "")
        number: int | None
        if numbers is not None:
            value = numbers[usable[i]]
            if not np.isfinite(value) or value != np.rint(value) or not 0 <= value < 1 << 31:
                raise DetectorError(f"{convention.outputs['numbers']} holds {value}, which is no class number")
            number = int(value)
        else:
            number = next((found for text in texts if labels and (found := labels.number_of(text)) is not None), None)
        named = labels.get(number) if labels and number is not None else None
        if named:
            label[i], mid[i] = named.label, named.mid or mid[i]
        if number is None:
            number = zlib.crc32((mid[i] or label[i]).encode()) & 0x7FFFFFFF
        category_id[i] = number
        label[i] = label[i] or mid[i] or str(number)
    return category_id, label, mid


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def to_image_labels(
    row: npt.NDArray[Any], convention: Convention, labels: LabelMap | None, options: DetectorOptions
) -> tuple[ImageLabel, ...]:
    """The best classes of one image.

    The background takes its share of the probability, and is no label. Class rules, the class map and thresholds of
    single classes hold as for detections; the general score threshold does not: `top_k` says how many are wanted.

    Args:
        row: `(K,)` numbers.
        convention: What they are.
        labels: Names of class numbers.
        options: What is kept.

    Raises:
        DetectorError: The row is not finite, or not what the convention says.
    """
    values = probabilities(np.asarray(row, np.float64), convention.activation)
    labels = labels.fitted_to(len(values)) if labels else None
    first = 1 if convention.background else 0
    order = first + np.argsort(-values[first:], kind="stable")
    selection = replace(options.selection, score_threshold=0.0)
    if not (selection.include_class or selection.exclude_class or selection.class_threshold or selection.class_map):
        order = order[: options.top_k]
    candidates = []
    for number in order.tolist():
        named = labels.get(number) if labels else None
        label, mid = named or (str(number), "")
        candidates.append(ImageLabel(number, label, mid, float(np.float32(values[number]))))
    return selection.apply_to_image_labels(candidates)[: options.top_k]


def probabilities(values: npt.NDArray[np.float64], activation: str) -> npt.NDArray[np.float64]:
    """The scores of classes in 0..1 that a row stands for.

    Args:
        values: `(K,)` as the network gives them.
        activation: What they are, one of `options.ACTIVATIONS`.

    Raises:
        DetectorError: They are not finite, or cannot be that.
    """
    if not np.isfinite(values).all():
        raise DetectorError("the network's class scores are not finite numbers")
    low, high, total = values.min(), values.max(), values.sum()
    if activation in ("softmax", "sigmoid", "none"):
        if low < -_ROUNDING or high > 1 + _SUM_ROUNDING:
            raise DetectorError(
                f"a row ranges from {low:g} to {high:g}, which contradicts the activation {activation}: it must lie in "
                "0..1; --activation says what rows are"
            )
        if activation == "softmax" and abs(total - 1) > _SUM_ROUNDING:
            raise DetectorError(
                f"a row sums to {total:g}, which contradicts the activation softmax: it must sum to 1; --activation "
                "says what rows are"
            )
        return np.clip(values, 0, 1)
    if low >= 0 and high <= 1 and abs(total - 1) <= _NO_ACCIDENT:
        raise DetectorError(
            f"a row lies in 0..1 and sums to {total:g}, as after a softmax, which contradicts the activation "
            f"{activation}; --activation says what rows are"
        )
    if activation == "multilabel-logits":
        return 0.5 * (1 + np.tanh(values / 2))
    shares = np.exp(values - high)
    return np.asarray(shares / shares.sum())
