"""What became of the detections of one image from run A to run B.

    run A       run B                                   change
    Dog 0.9     Dog 0.8, overlaps by 0.98               kept
    Dog 0.9     Dog 0.4, overlaps by 0.98               rescored, with --score-shift 0.3
    Cat 0.9     Cat 0.9, overlaps by 0.8                moved
    Fox 0.6     Dog 0.7, overlaps by 0.9                relabeled
    Bird 0.5    none at or above the threshold          vanished
    none        Car 0.8                                 appeared

Detections are matched as `evaluate` and `compare` match them, first within a class, then across classes; those of A
with higher scores choose first. A detection that vanished or appeared may still be in the other run with a score below
the threshold: then `hidden` is that score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections
from prelabel.difference.options import AUTO, DiffOptions
from prelabel.errors import EvaluateError, StoreError
from prelabel.masks.areas import Box
from prelabel.merging.masks import iou_within
from prelabel.review.edits import KEPT, MOVED, RELABELED
from prelabel.review.gather import xywh
from prelabel.review.matching import match, match_class_first, overlaps

RESCORED, VANISHED, APPEARED = "rescored", "vanished", "appeared"

#: The kinds of changes, in the order of tables. `KEPT` is none.
KINDS = (KEPT, RESCORED, MOVED, RELABELED, VANISHED, APPEARED)


@dataclass(frozen=True, slots=True)
class Side:
    """A detection of one run.

    Attributes:
        label: Its class after the class map.
        score: Its score.
        xyxy: Its box in pixels of the displayed image.
        mask: Its compressed counts, or None without a mask.
    """

    label: str
    score: float
    xyxy: Box
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a detection.

    Attributes:
        kind: One of `KINDS`.
        a: The detection in A, or None if it appeared.
        b: The detection in B, or None if it vanished.
        iou: IoU of both, of their masks or of their boxes; None if there is only one.
        hidden: Score of a detection of the same class and place in the run that lacks it, below the threshold there.
    """

    kind: str
    a: Side | None
    b: Side | None
    iou: float | None = None
    hidden: float | None = None

    @property
    def shift(self) -> float | None:
        """Score in B minus score in A, of a detection that has the same class in both; else None."""
        if self.a is None or self.b is None or self.kind == RELABELED:
            return None
        return self.b.score - self.a.score


@dataclass(frozen=True, slots=True)
class Selected:
    """The detections of an image in one run, under the classes of both runs.

    Attributes:
        kept: Those that the selection keeps, by descending score.
        hidden: Those of the same classes that only thresholds exclude.
    """

    kept: Detections
    hidden: Detections


def changes_of(image_id: str, a: Selected, b: Selected, options: DiffOptions) -> list[Change]:
    """Match the detections of an image: those of A by descending score, then those that appeared.

    Raises:
        EvaluateError: A mask does not fit its image.
    """
    # `match` takes the last of several detections of B with equal overlap: that of the highest score comes last.
    order = np.arange(len(b.kept))[::-1]
    same_class = a.kept.label[:, None] == b.kept.label[order][None]
    ious = _ious(a.kept, b.kept)
    matched = match_class_first(ious[:, order], same_class, options.iou)
    pairs = {first: int(order[second]) for first, second in matched.items()}
    vanished = [number for number in range(len(a.kept)) if number not in pairs]
    appeared = sorted(set(range(len(b.kept))) - set(pairs.values()))
    hidden_in_b = _hidden_scores(a.kept, vanished, b.hidden, options.iou)
    hidden_in_a = _hidden_scores(b.kept, appeared, a.hidden, options.iou)
    changes = []
    for number in range(len(a.kept)):
        side = _side(a.kept, number)
        if number in pairs:
            iou = _iou_of_masks(image_id, a.kept, number, b.kept, pairs[number]) if options.iou_on == AUTO else None
            iou = float(ious[number, pairs[number]]) if iou is None else iou
            changes.append(_matched(side, _side(b.kept, pairs[number]), round(iou, 6), options))
        else:
            changes.append(Change(VANISHED, side, None, hidden=hidden_in_b.get(number)))
    changes += [Change(APPEARED, None, _side(b.kept, n), hidden=hidden_in_a.get(n)) for n in appeared]
    return changes


def _matched(a: Side, b: Side, iou: float, options: DiffOptions) -> Change:
    if a.label != b.label:
        kind = RELABELED
    elif iou < options.kept_iou:
        kind = MOVED
    else:
        # Compared as float32, as scores are stored: 0.7 and 0.8 differ by 0.1 there.
        shift = abs(np.float32(b.score) - np.float32(a.score))
        kind = RESCORED if shift > np.float32(options.score_shift) + np.finfo(np.float32).eps else KEPT
    return Change(kind, a, b, iou)


def _side(detections: Detections, number: int) -> Side:
    x1, y1, x2, y2 = detections.xyxy[number].tolist()
    mask = None if detections.mask is None else detections.mask[number]
    return Side(str(detections.label[number]), float(detections.score[number]), (x1, y1, x2, y2), mask)


def _ious(a: Detections, b: Detections) -> npt.NDArray[np.float64]:
    """`(N, G)` IoU of boxes; 1 for equal boxes, even without area."""
    of_a, of_b = (xywh(detections.xyxy.astype(np.float64)) for detections in (a, b))
    ious = overlaps(of_a, of_b, np.zeros(len(b), bool))
    ious[(a.xyxy[:, None] == b.xyxy[None]).all(axis=2)] = 1.0
    return ious


def _hidden_scores(kept: Detections, numbers: Sequence[int], hidden: Detections, min_iou: float) -> dict[int, float]:
    """Scores of the hidden detections of the other run that match these kept ones, by number of the kept one."""
    if not numbers or not len(hidden):
        return {}
    chosen = kept[np.array(numbers)]
    hidden = hidden[np.argsort(hidden.score, kind="stable")]
    ious = np.where(chosen.label[:, None] == hidden.label[None], _ious(chosen, hidden), 0.0)
    matched = match(ious, np.zeros(len(hidden), bool), min_iou).tolist()
    return {number: float(hidden.score[i]) for number, i in zip(numbers, matched, strict=True) if i >= 0}


def _iou_of_masks(image_id: str, a: Detections, first: int, b: Detections, second: int) -> float | None:
    """IoU of the masks of two detections, or None unless both have one."""
    if a.mask is None or b.mask is None or a.mask[first] is None or b.mask[second] is None:
        return None
    if a.mask[first] == b.mask[second]:
        return 1.0
    window = np.array([0, 0, a.width, a.height])
    try:
        return iou_within(a.mask[first], b.mask[second], window, a.height, a.width)
    except StoreError as error:
        raise EvaluateError(f"image {image_id!r}: {error}") from None
