"""Which detections are kept, in which order and under which name: the same rules for `label` and every export.

A tiny example, three detections of one image:

    Selection(score_threshold=0.5, class_map={"Dog": "pet", "Cat": "pet"}, nms_iou=0.5)

    label    score    xyxy              what becomes of it
    Dog      0.9      [0, 0, 10, 10]    kept as "pet"
    Cat      0.8      [0, 0, 10, 9]     dropped: overlaps the better "pet" by more than half
    Person   0.4      [20, 0, 30, 10]   dropped: its score is below 0.5

The steps come in this order: include and exclude classes, thresholds, non-maximum suppression, `max_detections`.
A class is named by its MID, by the model's own label or by its label after the class map; see `Selection`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, FloatArray, ImageLabel, ObjectArray, as_objects
from prelabel.options import default_of, fields_of, option, require

Names = Sequence[Any] | ObjectArray
_GROUP = "Selection"

#: What `label` keeps by default, so that the choice is made later; and what people are shown of it by default.
KEPT, SHOWN = 0.05, 0.3

#: In `class_threshold`: all classes that are not named there. Threshold files carry their default under this name.
OTHERS = "*"

#: Classes that are named where none is like the one that was asked for.
_NAMED = 20


class Unstated(float):
    """The default of a threshold: a number that nobody stated, which the default of a threshold file replaces."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rules that choose among detections; a base class of the options of `label` and of the exports.

    Naming a class, in every option: its MID (compared exactly), its label as the model says it, or its label after the
    class map. Labels are compared without regard to upper and lower case. Where several entries fit one class, its MID
    wins over the model's label, that over the mapped label, and equal case over unequal.

    In `class_threshold`, `*` stands for all classes that are not named there; files of suggested thresholds have it.
    It is the `score_threshold` where none was stated; a stated one wins, and `said` says so. Either way it then stands
    in `score_threshold`, and `class_threshold` has classes only.
    """

    _unused_default: ClassVar[float | None]
    _stated_score: ClassVar[bool]

    score_threshold: float = option(
        Unstated(KEPT),
        "Keep detections with at least this score; exports choose again among them.",
        type="float",
        metavar="SCORE",
        group=_GROUP,
        affects="rows",
    )
    class_threshold: dict[str, float] = option(
        {},
        "A threshold of its own for a class, by label or MID (Person=0.6), or a file of them; repeatable. "
        "'*=0.4' is for classes that are not named, unless --score-threshold is stated.",
        type="float-pairs",
        metavar="CLASS=SCORE",
        group=_GROUP,
        affects="rows",
    )
    include_class: tuple[str, ...] = option(
        (), "Keep this class only, by label or MID; repeatable.", metavar="CLASS", group=_GROUP, affects="rows"
    )
    exclude_class: tuple[str, ...] = option(
        (), "Leave this class out, by label or MID; repeatable.", metavar="CLASS", group=_GROUP, affects="rows"
    )
    max_detections: int | None = option(
        None, "Keep at most so many detections an image, the best first.", type="int", group=_GROUP, affects="rows"
    )
    nms_iou: float | None = option(
        None,
        "Of boxes that overlap by more than this IoU keep the best only (off when not given).",
        type="float",
        metavar="IOU",
        group=_GROUP,
        affects="rows",
    )
    nms_per_class: bool = option(
        True,
        "Boxes compete within their class (as named after the class map); otherwise all boxes compete.",
        group=_GROUP,
        affects="rows",
    )
    class_map: dict[str, str] = option(
        {},
        "Rename a class, by label or MID (Dog=pet), several to one, or a file of such pairs; repeatable.",
        type="pairs",
        metavar="CLASS=LABEL",
        group=_GROUP,
        affects="rows",
    )

    def __post_init__(self) -> None:
        self._settle_thresholds()
        _require_share("score-threshold", self.score_threshold)
        for name, threshold in self.class_threshold.items():
            _require_share(f"class-threshold {name}", threshold)
        if self.nms_iou is not None:
            _require_share("nms-iou", self.nms_iou)
        if self.max_detections is not None:
            require(self.max_detections >= 1, f"max-detections must be 1 or more, got {self.max_detections}")
        both = sorted({n.casefold() for n in self.include_class} & {n.casefold() for n in self.exclude_class})
        require(not both, f"class {', '.join(map(repr, both))} is both included and excluded")
        for name in (*self.include_class, *self.exclude_class, *self.class_threshold, *self.class_map):
            require(bool(name.strip()), "a class name must not be empty")
        for name, label in self.class_map.items():
            require(
                isinstance(label, str) and bool(label.strip()),
                f"class-map {name} must name a label, got {label!r}; to drop a class use exclude-class",
            )

    def _settle_thresholds(self) -> None:
        """Let `score_threshold` be what counts for classes that are not named, wherever that was stated."""
        own = dict(self.class_threshold)
        default = own.pop(OTHERS, None)
        unstated = isinstance(self.score_threshold, Unstated)
        if default is not None:
            _require_share(f"class-threshold {OTHERS}", default)
        chosen = default if unstated and default is not None else self.score_threshold
        # Beside the fields: what was asked for is compared, stored and shown by them alone.
        for name, value in (
            ("class_threshold", own),
            ("score_threshold", float(chosen)),
            ("_unused_default", default if default != chosen else None),
            ("_stated_score", default is not None or not unstated),
        ):
            object.__setattr__(self, name, value)

    @property
    def threshold_is_stated(self) -> bool:
        """Whether the score threshold was asked for, rather than left at its default; a copy by `replace` asks."""
        return self._stated_score

    @property
    def stated(self) -> bool:
        """Whether any of the rules was asked for, rather than left at its default."""
        defaults = {
            name: default_of(field) for name, field in fields_of(Selection).items() if name != "score_threshold"
        }
        return self._stated_score or any(getattr(self, name) != default for name, default in defaults.items())

    @property
    def said(self) -> tuple[str, ...]:
        """What the user should know of the rules, one line each."""
        if self._unused_default is None:
            return ()
        return (
            f"score-threshold {self.score_threshold:g} was stated and counts for classes that class-threshold does not "
            f"name; the default of its file, {self._unused_default:g}, is not used",
        )

    def indices(self, score: FloatArray, label: Names, mid: Names, xyxy: FloatArray) -> npt.NDArray[np.intp]:
        """Which of the `N` detections of one image are kept.

        Args:
            score: `(N,)` in 0..1. A score that is not a number is never kept.
            label: `(N,)` str, the model's own labels.
            mid: `(N,)` str, MIDs or `""`.
            xyxy: `(N, 4)` pixels, used by the suppression only.

        Returns:
            Positions of the kept detections by descending score; equal scores stay in the order given.
        """
        return self.indices_by_image(score, label, mid, xyxy, np.zeros(len(label), np.intp))

    def indices_by_image(
        self, score: FloatArray, label: Names, mid: Names, xyxy: FloatArray, image: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """The same for the detections of many images, one image's after the other's.

        Args:
            score: See `indices`, as for the three below.
            label: `(N,)`.
            mid: `(N,)`.
            xyxy: `(N, 4)`.
            image: `(N,)` a number for each image, ascending.

        Returns:
            Positions of the kept detections, image by image, each by descending score.
        """
        score = np.asarray(score, np.float32)
        names = self.rename(label, mid) if self._names_matter else as_objects(label)
        # Thresholds are compared as float32, as scores are stored: 0.7 in float64 lies above a stored 0.7.
        keep = score >= self._thresholds(label, mid, names)
        if self.include_class or self.exclude_class:
            keep &= np.fromiter((self._admits(*one) for one in zip(mid, label, names, strict=True)), bool, len(score))
        chosen = np.flatnonzero(keep)
        chosen = chosen[np.lexsort((-score[chosen], image[chosen]))]
        if self.nms_iou is not None:
            groups = np.unique(names.astype(str), return_inverse=True)[1] if self.nms_per_class else None
            boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
            each = np.split(chosen, np.flatnonzero(np.diff(image[chosen])) + 1)
            chosen = np.concatenate(
                [some[suppress(boxes[some], self.nms_iou, None if groups is None else groups[some])] for some in each]
            )
        if self.max_detections is None:
            return chosen
        place = np.arange(len(chosen)) - image[chosen].searchsorted(image[chosen])
        return chosen[place < self.max_detections]

    def rename(self, label: Names, mid: Names) -> ObjectArray:
        """`(N,)` labels after the class map; a class the map does not name keeps the model's label."""
        if not self.class_map:
            return as_objects(label)
        find = self._map_table.find
        return as_objects([find(m, text) or text for m, text in zip(mid, label, strict=True)])

    def apply(self, detections: Detections) -> Detections:
        """The kept detections of one image by descending score, under their labels after the class map."""
        found = detections
        kept = found[self.indices(found.score, found.label, found.mid, found.xyxy)]
        return replace(kept, label=self.rename(kept.label, kept.mid)) if self.class_map else kept

    def apply_to_image_labels(self, labels: Iterable[ImageLabel]) -> tuple[ImageLabel, ...]:
        """The same class and threshold rules for labels of a whole image; of equal labels the best one is kept."""
        best: dict[str, ImageLabel] = {}
        for one in sorted(labels, key=lambda each: -each.score):
            name = str(self.rename([one.label], [one.mid])[0])
            threshold = self._thresholds([one.label], [one.mid], as_objects([name]))
            if np.all(np.float32(one.score) >= threshold) and self._admits(one.mid, one.label, name):
                best.setdefault(name, replace(one, label=name))
        return tuple(best.values())[: self.max_detections]

    def admits(self, label: str, mid: str) -> bool:
        """Whether `include_class` and `exclude_class` let a class of the model through, whatever its scores."""
        return self._admits(mid, label, str(self.rename([label], [mid])[0]))

    def unknown_names(self, known_labels: Iterable[str], known_mids: Iterable[str] = ()) -> list[str]:
        """Names used in the options that fit no class of a model, in the order of the options, each once.

        Args:
            known_labels: All labels of the model (before the class map).
            known_mids: All MIDs of the model; empty ones are passed over.
        """
        known = {text.casefold() for text in known_labels} | {text for text in known_mids if text}
        mapped = known | {text.casefold() for text in self.class_map.values()}
        used = [(name, mapped) for name in (*self.include_class, *self.exclude_class, *self.class_threshold)]
        used += [(name, known) for name in self.class_map]
        return list(dict.fromkeys(name for name, fits in used if name not in fits and name.casefold() not in fits))

    def require_known_names(self, known_labels: Iterable[str], known_mids: Iterable[str] = ()) -> None:
        """Raise ConfigError when an option names a class the model does not have, naming the nearest or some."""
        labels = list(known_labels)
        unknown = self.unknown_names_hinted(labels, known_mids)
        some = ", ".join([*labels[:_NAMED], "..."] if len(labels) > _NAMED else labels)
        has = f"; it has {some}" if labels and not all("did you mean" in text for text in unknown) else ""
        require(not unknown, f"the detector has no class {', '.join(unknown)}{has}")

    def unknown_names_hinted(self, known_labels: Iterable[str], known_mids: Iterable[str] = ()) -> list[str]:
        """`unknown_names` as text for a message: quoted, each with the nearest name that there is."""
        labels, mids = list(known_labels), [text for text in known_mids if text]
        mapped = [*labels, *self.class_map.values(), *mids]
        hints = {
            name: nearest_name(name, [*labels, *mids] if name in self.class_map else mapped)
            for name in self.unknown_names(labels, mids)
        }
        return [f"{name!r}" + (f" (did you mean {near!r}?)" if near else "") for name, near in hints.items()]

    @cached_property
    def _names_matter(self) -> bool:
        by_class = self.class_threshold or self.include_class or self.exclude_class or self.nms_iou is not None
        return bool(self.class_map and by_class)

    @cached_property
    def _map_table(self) -> _Table:
        return _Table(self.class_map)

    @cached_property
    def _threshold_table(self) -> _Table:
        return _Table(self.class_threshold)

    @cached_property
    def _include_table(self) -> _Table:
        return _Table(dict.fromkeys(self.include_class, True))

    @cached_property
    def _exclude_table(self) -> _Table:
        return _Table(dict.fromkeys(self.exclude_class, True))

    def threshold_of(self, label: str, mid: str) -> float:
        """The threshold of a class of the model, its own or the one for all."""
        own = self._threshold_table.find(mid, label, str(self.rename([label], [mid])[0]))
        return self.score_threshold if own is None else float(own)

    def _thresholds(self, label: Names, mid: Names, names: Names) -> FloatArray:
        default = self.score_threshold
        if not self.class_threshold:
            return np.full(len(label), default, np.float32)
        found = (self._threshold_table.find(*one) for one in zip(mid, label, names, strict=True))
        return np.fromiter((default if one is None else one for one in found), np.float32, len(label))

    def _admits(self, mid: str, label: str, name: str) -> bool:
        if self._exclude_table.find(mid, label, name) is not None:
            return False
        return not self.include_class or self._include_table.find(mid, label, name) is not None


@dataclass(frozen=True, kw_only=True)
class ExportSelection(Selection):
    """The same rules for everything that people see: exports, pushed predictions, previews."""

    score_threshold: float = option(
        Unstated(SHOWN),
        "Keep detections with at least this score, of those the run kept; 0 keeps all.",
        type="float",
        metavar="SCORE",
        group=_GROUP,
    )


def suppress(
    xyxy: npt.NDArray[np.float64], iou: float, groups: npt.NDArray[np.intp] | None = None
) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression.

    Args:
        xyxy: `(N, 4)` boxes, the best first.
        iou: A box that overlaps a better kept one by more than this is dropped. Boxes without area overlap nothing.
        groups: `(N,)` class numbers; boxes of different groups do not compete. `None`: all compete.

    Returns:
        Positions of the kept boxes, ascending.
    """
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    alive = np.ones(len(xyxy), bool)
    for i in range(len(xyxy) - 1):
        if not alive[i]:
            continue
        rest = slice(i + 1, None)
        sides = np.minimum(xyxy[i, 2:], xyxy[rest, 2:]) - np.maximum(xyxy[i, :2], xyxy[rest, :2])
        common = np.prod(np.clip(sides, 0, None), axis=1)
        # Multiplied out, so that two boxes without area do not divide zero by zero.
        beaten = common > iou * (area[i] + area[rest] - common)
        if groups is not None:
            beaten &= groups[rest] == groups[i]
        alive[rest] &= ~beaten
    return np.flatnonzero(alive)


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, without regard to case, or None when none is near."""
    by_folded = {text.casefold(): text for text in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


class _Table:
    """Values by class name: exact names first, then names without regard to case."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._exact = dict(values)
        self._folded = {name.casefold(): value for name, value in reversed(list(values.items()))}

    def find(self, mid: str, *labels: str) -> Any:
        """The value for a class given by its MID and labels, or None; the MID is looked up before the labels."""
        if mid and mid in self._exact:
            return self._exact[mid]
        for label in labels:
            found = self._exact.get(label)
            if found is None:
                found = self._folded.get(label.casefold())
            if found is not None:
                return found
        return None


def _require_share(label: str, value: float) -> None:
    require(0 <= value <= 1, f"{label} must be between 0 and 1, got {value}")
