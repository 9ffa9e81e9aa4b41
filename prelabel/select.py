"""Select, order and rename detections, for `label` and every export.

An example with three detections of one image:

    Selection(score_threshold=0.5, class_map={"Dog": "pet", "Cat": "pet"}, nms_iou=0.5)

    label    score    xyxy              result
    Dog      0.9      [0, 0, 10, 10]    kept as "pet"
    Cat      0.8      [0, 0, 10, 9]     dropped: IoU above 0.5 with the better "pet"
    Person   0.4      [20, 0, 30, 10]   dropped: its score is below 0.5

The rules apply in this order: included and excluded classes, class map, roll-up, thresholds, `most_specific`,
non-maximum suppression, `max_detections`. The first four are the same for all detections of a class: `class_rules.py`.
Options can name a class by its MID, by the model's label, or by its label after class map and roll-up; see `Selection`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from prelabel.class_rules import ClassRule, ClassRules, Names, nearest_name
from prelabel.detections import ClassName, Detections, FloatArray, ImageLabel, ObjectArray, as_objects
from prelabel.labels.class_tree import TreeClass, open_images_tree
from prelabel.options import Options, default_of, fields_of, from_mapping, option, require
from prelabel.overlaps import Indices, keep_most_specific, suppress

_GROUP = "Selection"

#: Default score thresholds: of `label`, low so that exports can choose later, and of everything that annotators see.
KEPT, SHOWN = 0.05, 0.3

#: The name in `class_threshold` that stands for all classes not named there. Threshold files use it for their default.
OTHERS = "*"

#: Boxes that overlap by more than this IoU show one object for `most_specific`, unless `nms_iou` is given.
SAME_OBJECT_IOU = 0.5

#: Maximum number of class names in a message about an unknown class without a similar name.
_MAX_LISTED = 20


class DefaultThreshold(float):
    """A threshold that was not given by the user; the default of a threshold file overrides it."""


@dataclass(frozen=True, kw_only=True)
class Selection(Options):
    """The options of `label` and the exports that select detections.

    All options can name a class by its MID (compared exactly), by the model's label, or by its label after class map
    and roll-up. Labels are compared case-insensitively. If several entries match a class, the MID wins over the model's
    label, the model's label over later labels, and a label of the same case over others.

    `with_subclasses`, `most_specific` and `roll_up` follow the class tree of Open Images, and name its classes. A class
    is rolled up to the nearest of the named ones, the one with the fewest steps; if two are as near, to the first.
    `most_specific` keeps the score and the box of the class that is kept.

    In `class_threshold`, `*` stands for all classes that are not named there, as in files of suggested thresholds. It
    becomes the `score_threshold` if none was given. A given `score_threshold` overrides it, which `notes` report. The
    attribute `class_threshold` never contains `*`.
    """

    _unused_default: ClassVar[float | None]
    _score_is_given: ClassVar[bool]

    score_threshold: float = option(
        DefaultThreshold(KEPT),
        "Keep detections with at least this score; exports can choose only among these.",
        metavar="SCORE",
        min=0,
        max=1,
        affects="rows",
        heading=_GROUP,
    )
    class_threshold: dict[str, float] = option(
        {},
        "Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file; repeatable. "
        "'*=0.4' applies to all other classes unless --score-threshold is given.",
        metavar="CLASS=SCORE",
        min=0,
        max=1,
        affects="rows",
    )
    include_class: tuple[str, ...] = option(
        (), "Keep only this class, by label or MID; repeatable.", metavar="CLASS", affects="rows"
    )
    exclude_class: tuple[str, ...] = option(
        (), "Drop this class, by label or MID; repeatable.", metavar="CLASS", affects="rows"
    )
    with_subclasses: bool = option(
        False,
        "Apply --include-class and --exclude-class also to all classes below the named ones in the Open Images class "
        "tree.",
        affects="rows",
    )
    max_detections: int | None = option(None, "Keep only the N best detections per image.", min=1, affects="rows")
    nms_iou: float | None = option(
        None,
        "Keep only the best box among boxes that overlap by more than this IoU (default: keep all).",
        metavar="IOU",
        above=0,
        max=1,
        affects="rows",
    )
    nms_per_class: bool = option(
        True,
        "Apply --nms-iou within each class (after class map and roll-up) rather than across classes.",
        affects="rows",
    )
    most_specific: bool = option(
        False,
        "Drop a box that overlaps a box of a class below its own in the Open Images class tree by more than --nms-iou "
        f"({SAME_OBJECT_IOU} if not given): of Person and Man, keep Man.",
        affects="rows",
    )
    class_map: dict[str, str] = option(
        {},
        "Rename a class, by label or MID (Dog=pet), or read such pairs from a file; repeatable. Several classes may "
        "get one label.",
        metavar="CLASS=LABEL",
        affects="rows",
    )
    roll_up: tuple[str, ...] = option(
        (),
        "Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if "
        "several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.",
        metavar="CLASSES",
        affects="rows",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # No class of the tree has a comma in its label or MID.
        classes = (name.strip() for names in self.roll_up for name in names.split(","))
        object.__setattr__(self, "roll_up", tuple(classes))
        self._resolve_thresholds()
        both = sorted({n.casefold() for n in self.include_class} & {n.casefold() for n in self.exclude_class})
        require(
            not both,
            f"class {', '.join(map(repr, both))} is in both --include-class and --exclude-class: remove it from one",
        )
        named = (*self.include_class, *self.exclude_class, *self.class_threshold, *self.class_map, *self.roll_up)
        for name in named:
            require(bool(name.strip()), "a class name must not be empty")
        for name, label in self.class_map.items():
            require(
                isinstance(label, str) and bool(label.strip()),
                f"--class-map {name} must have a label, got {label!r}; to drop a class, use --exclude-class",
            )

        self._require_in_tree()

    def _require_in_tree(self) -> None:
        """Raise ConfigError if the class tree lacks a class of `roll_up`, or leaves an option without effect."""
        for name in self.roll_up:
            if open_images_tree().find(name) is None:
                near = nearest_name(name, (entry.name for entry in open_images_tree().classes))
                hint = f"; did you mean {near!r}?" if near else ""
                require(False, f"--roll-up {name!r} is not a class of the Open Images class tree{hint}")
        if self.with_subclasses:
            require(
                bool(self.include_class or self.exclude_class),
                "--with-subclasses needs --include-class or --exclude-class",
            )
            excluded = {entry: name for name in self.exclude_class if (entry := open_images_tree().find(name))}
            for name in self.include_class:
                place = open_images_tree().find(name)
                above = [] if place is None else [e for e in open_images_tree().ancestors(place.mid) if e in excluded]
                require(
                    not above,
                    f"--include-class {name} is below --exclude-class {''.join(excluded[e] for e in above[:1])}: with "
                    "--with-subclasses, nothing of it is left",
                )

    def _resolve_thresholds(self) -> None:
        """Set `score_threshold`, the threshold of classes that are not named, from the two options that can give it."""
        by_class = dict(self.class_threshold)
        default = by_class.pop(OTHERS, None)
        is_default = isinstance(self.score_threshold, DefaultThreshold)
        chosen = default if is_default and default is not None else self.score_threshold
        # The last two are not fields, so that they are not compared, stored or printed.
        for name, value in (
            ("class_threshold", by_class),
            ("score_threshold", float(chosen)),
            ("_unused_default", default if default != chosen else None),
            ("_score_is_given", default is not None or not is_default),
        ):
            object.__setattr__(self, name, value)

    @property
    def threshold_is_given(self) -> bool:
        """Whether the score threshold was given; a copy by `dataclasses.replace` counts it as given."""
        return self._score_is_given

    @property
    def lowest_threshold(self) -> float:
        """The lowest threshold of all classes."""
        return min([self.score_threshold, *self.class_threshold.values()])

    @cached_property
    def without_score_threshold(self) -> Self:
        """The same selection, made once, with a score threshold of 0; thresholds of classes remain."""
        return replace(self, score_threshold=0.0)

    @cached_property
    def without_thresholds(self) -> Self:
        """The same selection, made once, with no thresholds."""
        return replace(self, score_threshold=0.0, class_threshold={})

    @property
    def is_given(self) -> bool:
        """Whether any option was given rather than left at its default."""
        defaults = {
            name: default_of(field) for name, field in fields_of(Selection).items() if name != "score_threshold"
        }
        return self._score_is_given or any(getattr(self, name) != default for name, default in defaults.items())

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if `score_threshold` overrides the default of a threshold file, or is low for `most_specific`."""
        notes = []
        if self._unused_default is not None:
            notes.append(
                f"--score-threshold {self.score_threshold:g} overrides the default of --class-threshold, "
                f"{self._unused_default:g}, for all classes without their own threshold"
            )
        if self.most_specific and self.score_threshold < SHOWN:
            notes.append(
                f"--most-specific drops even a certain Person for a Man with a score of {self.score_threshold:g}: use "
                f"it with a --score-threshold of {SHOWN:g} or more, or leave it to exports"
            )
        return tuple(notes)

    def indices(self, score: FloatArray, label: Names, mid: Names, xyxy: FloatArray) -> npt.NDArray[np.intp]:
        """The indices of the kept detections among the `N` detections of one image.

        Args:
            score: `(N,)` in 0..1. A score of NaN is never kept.
            label: `(N,)` str, the model's labels.
            mid: `(N,)` str, MIDs or `""`.
            xyxy: `(N, 4)` pixels, used only by non-maximum suppression.

        Returns:
            Indices by descending score; detections of equal score keep their order.
        """
        return self.indices_by_image(score, label, mid, xyxy, np.zeros(len(label), np.intp))

    def indices_by_image(
        self, score: FloatArray, label: Names, mid: Names, xyxy: FloatArray, image: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """The indices of the kept detections of many images, in concatenated arrays.

        Args:
            score: `(N,)`, see `indices`.
            label: `(N,)`, see `indices`.
            mid: `(N,)`, see `indices`.
            xyxy: `(N, 4)`, see `indices`.
            image: `(N,)` the number of each detection's image, ascending.

        Returns:
            Indices by image, then by descending score.
        """
        score = np.asarray(score, np.float32)
        # Compare as float32, as scores are stored: 0.7 in float64 is greater than a stored 0.7.
        if self._needs_rules:
            number, rules = self._rules.of_columns(label, mid)
            keep = score >= np.array([rule.threshold for rule in rules], np.float32)[number]
            keep &= np.array([rule.admitted for rule in rules], bool)[number]
        else:
            number, rules = np.zeros(len(score), np.intp), []
            keep = score >= np.float32(self.score_threshold)
        chosen = np.flatnonzero(keep)
        chosen = chosen[np.lexsort((-score[chosen], image[chosen]))]
        boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
        if self.most_specific:
            iou, below = SAME_OBJECT_IOU if self.nms_iou is None else self.nms_iou, _below(rules)
            if below.any():
                chosen = chosen[keep_most_specific(boxes[chosen], iou, number[chosen], below, image[chosen])]
        if self.nms_iou is not None:
            group = image * len(rules) + _groups(rules)[number] if self.nms_per_class else image
            chosen = chosen[suppress(boxes[chosen], self.nms_iou, group[chosen])]
        if self.max_detections is None:
            return chosen
        place = np.arange(len(chosen)) - image[chosen].searchsorted(image[chosen])
        return chosen[place < self.max_detections]

    def rename(self, label: Names, mid: Names) -> ObjectArray:
        """`(N,)` labels after class map and roll-up; other classes keep the model's label."""
        return self.rename_classes(label, mid)[0]

    def rename_classes(self, label: Names, mid: Names) -> tuple[ObjectArray, ObjectArray]:
        """`(N,)` labels and `(N,)` MIDs after class map and roll-up; the class map leaves the MIDs unchanged."""
        if not (self.class_map or self.roll_up):
            return as_objects(label), as_objects(mid)
        number, rules = self._rules.of_columns(label, mid)
        return as_objects([rule.label for rule in rules])[number], as_objects([rule.mid for rule in rules])[number]

    def class_of(self, label: str, mid: str) -> tuple[str, str]:
        """The label and MID of a class of the model after class map and roll-up."""
        rule = self._rules.of(label, mid)
        return rule.label, rule.mid

    def label_of(self, label: str, mid: str) -> str:
        """The label of a class of the model after class map and roll-up."""
        return self._rules.of(label, mid).label

    def apply(self, detections: Detections) -> Detections:
        """The kept detections of one image by descending score, with their classes after class map and roll-up."""
        columns = (detections.score, detections.label, detections.mid, detections.xyxy)
        return self.apply_names(detections[self.indices(*columns)])

    def apply_names(self, detections: Detections) -> Detections:
        """All of these detections, with their classes after class map and roll-up."""
        label, mid = self.rename_classes(detections.label, detections.mid)
        return replace(detections, label=label, mid=mid)

    def apply_to_image_labels(self, labels: Iterable[ImageLabel]) -> tuple[ImageLabel, ...]:
        """Select labels of a whole image by class and threshold; of several with the same label, only the best.

        With `most_specific`, a label is dropped if another one is below it in the class tree.
        """
        best: dict[str, tuple[ImageLabel, TreeClass | None]] = {}
        above: set[TreeClass] = set()
        for label in sorted(labels, key=lambda label: -label.score):
            rule = self._rules.of(label.label, label.mid)
            if rule.admitted and np.float32(label.score) >= np.float32(rule.threshold):
                best.setdefault(rule.label, (replace(label, label=rule.label, mid=rule.mid), rule.place))
                above |= rule.above
        kept = [label for label, place in best.values() if not (self.most_specific and place in above)]
        return tuple(kept[: self.max_detections])

    @property
    def changes_image_labels(self) -> bool:
        """Whether more than the scores decides which labels of a whole image are kept, and under which names."""
        by_name = self.include_class or self.exclude_class or self.class_threshold or self.class_map or self.roll_up
        return bool(by_name) or self.most_specific

    def maps(self, label: str, mid: str) -> bool:
        """Whether the class map names a class of the model, be it by its own label."""
        return self._rules.maps(label, mid)

    def admits(self, label: str, mid: str) -> bool:
        """Whether `include_class` and `exclude_class` keep a class of the model."""
        return self._rules.of(label, mid).admitted

    def admitted(self, label: Names, mid: Names) -> npt.NDArray[np.bool_]:
        """`(N,)` whether `include_class` and `exclude_class` keep each of `N` detections, by its label and MID."""
        number, rules = self._rules.of_columns(label, mid)
        return np.array([rule.admitted for rule in rules], bool)[number]

    def unknown_names(self, classes: Iterable[ClassName]) -> list[str]:
        """The names in the options that match no class of a model, in the order of the options, without duplicates.

        Args:
            classes: All classes of the model, before class map and roll-up.
        """
        return self._rules.unknown_names(list(classes))

    def unknown_names_with_hints(self, classes: Iterable[ClassName]) -> list[str]:
        """`unknown_names` for a message: quoted, each with the most similar known name, if there is one."""
        return self._rules.unknown_names_with_hints(list(classes))

    def class_notes(self, classes: Iterable[ClassName]) -> list[str]:
        """What the user should know about the places of these classes in the class tree, one line each."""
        return self._rules.notes(classes)

    def require_known_names(self, classes: Iterable[ClassName]) -> None:
        """Raise ConfigError if an option names a class that the model lacks; the message suggests similar ones."""
        known = list(classes)
        labels = [class_name.name for class_name in known]
        unknown = self.unknown_names_with_hints(known)
        examples = ", ".join([*labels[:_MAX_LISTED], "..."] if len(labels) > _MAX_LISTED else labels)
        has = f"; it has {examples}" if labels and not all("did you mean" in text for text in unknown) else ""
        require(not unknown, f"the detector has no class {', '.join(unknown)}{has}")
        if self.most_specific:
            rules = [self._rules.of(class_name.name, class_name.mid) for class_name in known]
            require(
                bool(_below(rules).any()),
                "--most-specific has no effect: in the Open Images class tree, no class of the detector is below "
                "another",
            )

    def threshold_of(self, label: str, mid: str) -> float:
        """The threshold of a class of the model: that of `class_threshold`, or else the score threshold."""
        return self._rules.of(label, mid).threshold

    @cached_property
    def _rules(self) -> ClassRules:
        return ClassRules(
            score_threshold=self.score_threshold,
            class_threshold=self.class_threshold,
            include_class=self.include_class,
            exclude_class=self.exclude_class,
            with_subclasses=self.with_subclasses,
            most_specific=self.most_specific,
            class_map=self.class_map,
            roll_up=self.roll_up,
        )

    @cached_property
    def _needs_rules(self) -> bool:
        """Whether it depends on the classes which detections are kept."""
        by_name = self.class_threshold or self.include_class or self.exclude_class
        return bool(by_name) or self.most_specific or (self.nms_iou is not None and self.nms_per_class)


@dataclass(frozen=True, kw_only=True)
class ExportSelection(Selection):
    """The selection of everything that annotators see: exports, pushed predictions and previews."""

    score_threshold: float = option(
        DefaultThreshold(SHOWN),
        "Keep detections with at least this score; 0 keeps all that the run has.",
        metavar="SCORE",
        min=0,
        max=1,
        heading=_GROUP,
    )


S = TypeVar("S", bound=Selection)


def recorded_selection(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """The selection that a run or export recorded.

    Earlier versions accepted `nms_iou=0`, which drops every box that overlaps a better one. It is read as the smallest
    IoU that has this effect.

    Raises:
        ConfigError: A value is not allowed.
    """
    if values.get("nms_iou") == 0:
        values = {**values, "nms_iou": math.ulp(0.0)}
    return from_mapping(cls, values, where)


def _groups(rules: Sequence[ClassRule]) -> Indices:
    """A number for the label of each rule: classes that get one label are one class."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(rule.label, len(numbers)) for rule in rules], np.intp)


def _below(rules: Sequence[ClassRule]) -> npt.NDArray[np.bool_]:
    """`(C, C)`: whether the class of the row is below that of the column in the class tree."""
    below = np.zeros((len(rules), len(rules)), bool)
    numbers: dict[TreeClass | None, list[int]] = {}
    for number, rule in enumerate(rules):
        numbers.setdefault(rule.place, []).append(number)
    for number, rule in enumerate(rules):
        for entry in rule.above:
            below[number, numbers.get(entry, [])] = True
    return below
