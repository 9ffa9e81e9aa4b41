"""Keypoints of a detector: their names, the skeleton between them, and which of them trade places in a mirror.

A person with a nose and two eyes, whose skeleton joins the nose to each eye:

    KeypointSet(names=("nose", "left_eye", "right_eye"), edges=((0, 1), (0, 2)), pairs=((1, 2),))

The keypoints of `N` detections are an array `(N, K, 3)` of x, y and score, `K` being the number of names; x and y are
in pixels of the displayed image. 0 0 0 stands for a point that the detector does not give. A point may lie outside the
image, where a detector expects a foot below the lower edge. It is stored like that, and exports do not write it
(`shown`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

#: Index pairs of keypoints, from 0.
Pairs = tuple[tuple[int, int], ...]

_SIDE = re.compile("left|right", re.IGNORECASE)

#: The other side, as it is spelled.
_OTHER_SIDE = {
    a: b
    for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
    for a, b in ((left, right), (right, left))
}


@dataclass(frozen=True, slots=True)
class KeypointSet:
    """The keypoints that a detector gives for each detection.

    Attributes:
        names: `(K,)` their names, all different, in the order of the detector.
        edges: The lines of the skeleton, as pairs of indices from 0.
        pairs: Indices from 0 of the keypoints that trade places in a mirror image, left and right; None if unknown.
        classes: Numbers of the classes whose detections have keypoints; None if all have, or if that is unknown.

    Raises:
        ValueError: A name is empty or occurs twice, an index is not one of the names, or a keypoint is in two pairs.
    """

    names: tuple[str, ...]
    edges: Pairs = ()
    pairs: Pairs | None = None
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.names or not all(name.strip() for name in self.names):
            raise ValueError(f"keypoints need names that are not empty, got {list(self.names)}")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"two keypoints have the name {twice!r}")
        for what, pairs in (("edge of the skeleton", self.edges), ("pair of left and right", self.pairs or ())):
            for a, b in pairs:
                if a == b or not (0 <= a < len(self.names) and 0 <= b < len(self.names)):
                    raise ValueError(f"no {what} can be {a + 1} and {b + 1}: the keypoints are 1 to {len(self.names)}")
        paired = [index for pair in self.pairs or () for index in pair]
        if len(set(paired)) != len(paired):
            twice = self.names[next(index for index in paired if paired.count(index) > 1)]
            raise ValueError(f"the keypoint {twice!r} is in two pairs of left and right")

    @classmethod
    def unnamed(cls, count: int) -> KeypointSet:
        """The set of a detector that does not name its keypoints: `keypoint 1`, `keypoint 2`, ..."""
        return cls(tuple(f"keypoint {number}" for number in range(1, count + 1)))

    @classmethod
    def named(
        cls,
        names: Sequence[str],
        edges: Pairs = (),
        pairs: Pairs | None = None,
        classes: tuple[int, ...] | None = None,
    ) -> KeypointSet:
        """A set with these names. Pairs that are not given follow from names like `left_eye` and `right_eye`.

        Without edges, a set with COCO's names for a person gets COCO's skeleton.
        """
        known = cls(tuple(names), edges, left_right_pairs(names) if pairs is None else pairs, classes)
        return replace(known, edges=COCO_PERSON.edges) if known.is_coco_person and not edges else known

    def __len__(self) -> int:
        return len(self.names)

    def belong_to(self, class_number: int) -> bool:
        """Whether detections of a class have keypoints."""
        return self.classes is None or class_number in self.classes

    @property
    def has_names(self) -> bool:
        """Whether the names say what the keypoints are, instead of only counting them."""
        return self.names != KeypointSet.unnamed(len(self)).names

    @property
    def is_coco_person(self) -> bool:
        """Whether these are COCO's 17 keypoints of a person, in the same order; case, blanks and `-` do not count."""
        return [_folded(name) for name in self.names] == list(COCO_PERSON_NAMES)

    @property
    def mirrored_order(self) -> list[int] | None:
        """`(K,)` for each keypoint the one that takes its place in a mirror image; None if the pairs are unknown."""
        if self.pairs is None:
            return None
        order = list(range(len(self)))
        for a, b in self.pairs:
            order[a], order[b] = b, a
        return order


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def left_right_pairs(names: Sequence[str]) -> Pairs | None:
    """The keypoints whose names differ only in `left` and `right`, left first; None if that tells too little.

    It does if no name says left or right, or if one does without a name for the other side.
    """
    numbers = {name: number for number, name in enumerate(names)}
    pairs = []
    for name, number in numbers.items():
        if not _SIDE.search(name):
            continue
        other = numbers.get(_SIDE.sub(lambda match: _OTHER_SIDE.get(match[0], ""), name))
        if other is None:
            return None
        is_left = (_SIDE.search(name) or [""])[0].lower() == "left"
        if is_left:
            pairs.append((number, other))
    return tuple(pairs) or None


def shown(
    keypoints: npt.NDArray[Any], threshold: float, height: npt.ArrayLike, width: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    """`(N, K)` whether an export writes each point: it has the score, and lies inside the image.

    Args:
        keypoints: `(N, K, 3)` x, y, score in pixels of the image.
        threshold: The lowest score. Points with the score 0 are never shown.
        height: Pixels of the image, or `(N,)` of each detection's image.
        width: The same, left to right.
    """
    x, y, score = np.moveaxis(keypoints, -1, 0)
    height, width = (np.asarray(side).reshape(-1, 1) for side in (height, width))
    # Compared as float32, like the scores of detections. NaN is never shown.
    has_score = (score >= np.float32(threshold)) & (score > 0)
    inside: npt.NDArray[np.bool_] = has_score & (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return inside


#: COCO's keypoints of a person, https://cocodataset.org/#format-data.
COCO_PERSON_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)

#: The same with COCO's skeleton, in COCO's order.
COCO_PERSON = KeypointSet(
    names=COCO_PERSON_NAMES,
    edges=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    pairs=tuple((left, left + 1) for left in range(1, 17, 2)),
)
