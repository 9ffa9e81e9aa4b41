"""Candidates from outputs that an adapter declares: parts of tensors, scores or logits, suppression.

boxes [N, 4] ---------------------------------------------------------------+
scores [N] + classes [N], or scores [N, C] -> activation -> the best class -+-> above the lowest score -> suppression
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detectors.conventions.activation import sigmoid, softmax
from prelabel.detectors.conventions.boxes import Shown
from prelabel.detectors.conventions.convention import Arrays, Candidates, Convention
from prelabel.detectors.conventions.named_outputs import LIKELY, number_of_detections, of_one_image
from prelabel.errors import DetectorError
from prelabel.overlaps import suppress

Values = npt.NDArray[Any]

#: Shapes for one image by their number of dimensions, for messages.
_FORMS = {1: "[N]", 2: "[N, columns]", 3: "[N, height, width]"}
#: From this number of values on, logits that all lie in 0..1 are taken for scores.
_MANY = 10
#: Probabilities sum to 1 within this.
_SUM_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Part:
    """An output, or some of its columns.

    Attributes:
        tensor: Name of the output.
        first: The first column, or None for all columns.
        last: The last column, or None for the last of the output.
        transposed: Whether the output is `[columns, N]` instead of `[N, columns]`.
    """

    tensor: str
    first: int | None = None
    last: int | None = None
    transposed: bool = False

    @property
    def width(self) -> int | None:
        """Number of columns, if that does not depend on the output."""
        return None if self.first is None or self.last is None else self.last - self.first + 1

    def __str__(self) -> str:
        if self.first is None:
            columns = ""
        elif self.first == self.last:
            columns = f" column {self.first}"
        else:
            columns = f" columns {self.first}..{'' if self.last is None else self.last}"
        return f"{self.tensor}{columns}{' transposed' * self.transposed}"

    def rank(self, rank: int) -> int:
        """Number of dimensions of the output, without a leading one, if the part has this many."""
        return 2 if self.first is not None else rank

    def of(self, outputs: Arrays, rank: int) -> Values:
        """The values: `(N,)` for rank 1, `(N, C)` for rank 2.

        Raises:
            DetectorError: The output has another rank, or too few columns.
        """
        array = of_one_image(outputs[self.tensor], self.rank(rank), self.tensor, _FORMS[self.rank(rank)])
        if array.ndim != 2 or self.rank(rank) != 2:
            return array
        if self.transposed:
            array = array.T
        if self.first is None:
            return array
        last = array.shape[1] - 1 if self.last is None else self.last
        if not self.first <= last < array.shape[1]:
            raise DetectorError(f"{self.tensor} must have the columns {self.first}..{last}, got {array.shape[1]}")
        return array[:, self.first] if rank == 1 else array[:, self.first : last + 1]


@dataclass(frozen=True, slots=True)
class Suppression:
    """How overlapping boxes are dropped.

    Attributes:
        iou: A box is dropped if its IoU with a better kept box is greater.
        separate: Whether only boxes of the same class suppress each other.
        most: Largest number of boxes kept, or None.
    """

    iou: float
    separate: bool
    most: int | None = None

    def __str__(self) -> str:
        among = "within each class" if self.separate else "among all classes"
        return f"above IoU {self.iou:g} {among}" + (f", at most {self.most} boxes" if self.most else "")


@dataclass(frozen=True, slots=True)
class DeclaredOutputs:
    """What the outputs of a network mean, as an adapter declares it; a `Decode`.

    Attributes:
        boxes: The boxes, of the convention's `box_form`.
        scores: The scores `[N]`, or `[N, C]` if neither `classes` nor `number` is given.
        activation: What turns `scores` into scores: `none`, `sigmoid` or `softmax`.
        objectness: Scores `[N]` that the others are multiplied with, and their activation; or None.
        classes: Class numbers `[N]`, or names as strings; or None.
        has_names: Whether `classes` are strings.
        number: The class number of all boxes, or None.
        offset: Added to class numbers.
        background: Class number, before `offset`, that is no object; or None.
        count: Name of the output with the number of boxes, or None.
        masks: Name of the output with masks, and their activation; or None.
        suppression: How overlapping boxes are dropped, or None.
    """

    boxes: Part
    scores: Part
    activation: str
    objectness: tuple[Part, str] | None = None
    classes: Part | None = None
    has_names: bool = False
    number: int | None = None
    offset: int = 0
    background: int | None = None
    count: str | None = None
    masks: tuple[str, str] | None = None
    suppression: Suppression | None = None

    @property
    def has_class_scores(self) -> bool:
        """Whether `scores` has a column per class."""
        return self.classes is None and self.number is None

    def __call__(self, outputs: Arrays, convention: Convention, shown: Shown, lowest: float) -> Candidates:
        """Candidates of one image; see `Decode`.

        Raises:
            DetectorError: The arrays contradict each other or the adapter; the message names the array.
        """
        boxes, scores = self.boxes.of(outputs, 2), self.scores.of(outputs, 2 if self.has_class_scores else 1)
        if boxes.shape[1] != 4:
            raise DetectorError(f"{self.boxes} must have 4 numbers per box, got {boxes.shape[1]}")
        total = len(scores)
        length = total if self.count is None else number_of_detections(outputs[self.count], total, self.count)
        boxes, scores = self._same_length(boxes, self.boxes, total)[:length], scores[:length]
        numbers: Values | None = None
        names: Values | None = None
        if self.has_class_scores:
            score, numbers = self._best_class(scores)
        else:
            score = activated(scores, self.activation, str(self.scores))
            if self.number is not None:
                numbers = np.full(length, self.number)
            elif self.classes is not None:
                classes = self._same_length(self.classes.of(outputs, 1), self.classes, total)[:length]
                names, numbers = (classes, None) if self.has_names else (None, classes.astype(np.float64))
        if self.objectness is not None:
            part, activation = self.objectness
            objectness = self._same_length(part.of(outputs, 1), part, total)[:length]
            score = score * activated(objectness, activation, str(part))
        score = score.astype(np.float32)
        kept = ~(score < np.float32(lowest))
        if numbers is not None:
            if self.background is not None:
                kept &= numbers != self.background
            numbers = numbers + self.offset
        index = np.flatnonzero(kept)
        convention.box_form.check_unit(boxes[index][score[index] >= LIKELY], str(self.boxes))
        yxyx = convention.box_form.in_shares(boxes[index], shown)
        if self.suppression is not None:
            of_class = numbers if names is None else names
            chosen = self._suppressed(yxyx, score[index], None if of_class is None else of_class[index])
            index, yxyx = index[chosen], yxyx[chosen]
        arrays: dict[str, Values] = {"boxes": yxyx, "scores": score[index]}
        if numbers is not None:
            arrays["numbers"] = numbers[index]
        if names is not None and self.classes is not None:
            arrays[self.classes.tensor] = names[index]
        return Candidates(arrays, self._masks(outputs, total, index))

    def _same_length(self, array: Values, part: Part, length: int) -> Values:
        if len(array) != length:
            raise DetectorError(
                f"{part} has {len(array)} entries and {self.scores} {length}: each must have one entry per detection"
            )
        return array

    def _best_class(self, scores: Values) -> tuple[Values, Values]:
        """Score `(N,)` and number `(N,)` of the best class of each box, from `(N, C)`."""
        if scores.shape[1] == 0:
            raise DetectorError(f"{self.scores} must have a column per class, got none")
        # Both functions keep the order, and a sigmoid for each class of each box would take most of the time.
        if self.activation == "softmax":
            scores = activated(scores, "softmax", str(self.scores))
        elif self.activation == "sigmoid":
            _check_logits(scores, "sigmoid", str(self.scores))
        choices = scores
        if self.background is not None:
            if self.background >= scores.shape[1]:
                raise DetectorError(
                    f"{self.scores} must have a column for the background {self.background}, got {scores.shape[1]}"
                )
            choices = scores.astype(np.float64)
            choices[:, self.background] = -np.inf
        numbers = np.argmax(choices, axis=1)
        best = np.take_along_axis(scores, numbers[:, np.newaxis], axis=1)[:, 0]
        return (sigmoid(best) if self.activation == "sigmoid" else best), numbers

    def _suppressed(self, yxyx: Values, score: Values, classes: Values | None) -> npt.NDArray[np.intp]:
        """Indices of the kept boxes, the best first."""
        if self.suppression is None:
            return np.arange(len(score))
        order = np.argsort(-score, kind="stable")
        group = np.zeros(len(score), np.intp)
        if self.suppression.separate and classes is not None:
            group = np.unique(classes, return_inverse=True)[1]
        boxes = yxyx[order].astype(np.float64)
        return order[suppress(boxes, self.suppression.iou, group[order], most=self.suppression.most)]

    def _masks(
        self, outputs: Arrays, length: int, index: npt.NDArray[np.intp]
    ) -> Callable[[npt.NDArray[np.intp]], Values] | None:
        """Gives the masks of candidates, whose indices in the outputs are `index`."""
        if self.masks is None:
            return None
        name, activation = self.masks
        masks = self._same_length(of_one_image(outputs[name], 3, name, _FORMS[3]), Part(name), length)

        def of_candidates(candidates: npt.NDArray[np.intp]) -> Values:
            return activated(masks[index[candidates]], activation, name)

        return of_candidates


def activated(values: Values, activation: str, name: str) -> Values:
    """Scores from the outputs of a network.

    Args:
        values: `(N, C)` for a softmax, else of any shape.
        activation: `none`, `sigmoid` or `softmax`.
        name: Of the output, for the message.

    Raises:
        DetectorError: The values are scores already, although there is an activation.
    """
    if activation == "none":
        return values
    _check_logits(values, activation, name)
    return sigmoid(values) if activation == "sigmoid" else softmax(values)


def _check_logits(values: Values, activation: str, name: str) -> None:
    """Refuse logits that are scores already: another activation would make most of them detections."""
    if values.size < _MANY or not (values.min() >= 0 and values.max() <= 1):
        return
    if activation == "softmax" and not (np.abs(values.sum(axis=1) - 1) < _SUM_ROUNDING).all():
        return
    raise DetectorError(
        f"all values of {name} lie in 0..1 and look like scores, but the adapter applies a {activation}: set its "
        "activation to none"
    )
