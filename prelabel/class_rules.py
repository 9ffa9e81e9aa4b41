"""What a selection does with each class of a model: keep or drop it, from which score on, under which name.

    ClassRules(class_map={"Dog": "pet"}, roll_up=("Vehicle",), include_class=("Dog", "Car"), ...)

    label    mid           rule
    Dog      /m/0bt9lr     ClassRule("pet", "/m/0bt9lr", admitted=True, threshold=0.3)
    Car      /m/0k4j       ClassRule("Vehicle", "/m/07yv9", admitted=True, threshold=0.3)
    Cat      /m/01yrx      ClassRule("Cat", "/m/01yrx", admitted=False, threshold=0.3)

`roll_up`, `with_subclasses` and `most_specific` need the place of a class in the class tree of Open Images. A class
that the class map renames is placed by its new label. Others are placed by their MID, or by their label if they have no
MID or the tree lacks it; `ClassRules.notes` says which.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName, ObjectArray
from prelabel.errors import first_of
from prelabel.labels.class_tree import TreeClass, open_images_tree

Names = Sequence[Any] | ObjectArray

#: Maximum number of class names in a note.
_MAX_NOTED = 8


@dataclass(frozen=True, slots=True)
class ClassRule:
    """What becomes of the detections of one class.

    Attributes:
        label: The label after class map and roll-up.
        mid: The MID after roll-up; the class map leaves it unchanged.
        admitted: Whether the included and excluded classes keep it.
        threshold: The lowest score that is kept.
        place: Its place in the class tree after class map and roll-up, or None; None if no option needs the tree.
        above: All classes of the tree above this place.
    """

    label: str
    mid: str
    admitted: bool
    threshold: float
    place: TreeClass | None = None
    above: frozenset[TreeClass] = frozenset()


class ClassRules:
    """The rule of each class, by the options of a `Selection` of the same names."""

    def __init__(
        self,
        *,
        score_threshold: float,
        class_threshold: Mapping[str, float],
        include_class: Sequence[str],
        exclude_class: Sequence[str],
        with_subclasses: bool,
        most_specific: bool,
        class_map: Mapping[str, str],
        roll_up: Sequence[str],
    ) -> None:
        self._score_threshold = score_threshold
        self._selecting_names = (*include_class, *exclude_class)
        self._subclass_names = self._selecting_names if with_subclasses else ()
        self._threshold_names = tuple(class_threshold)
        self._thresholds = _Table(class_threshold)
        self._included = _Table(dict.fromkeys(include_class, True)) if include_class else None
        self._excluded = _Table(dict.fromkeys(exclude_class, True))
        self._class_map, self._mapped = class_map, _Table(class_map)
        self._roll_up = {entry.mid: order for order, entry in reversed(list(enumerate(_places(roll_up))))}
        self._roll_up_names = roll_up
        self._included_places = frozenset(_places(include_class) if with_subclasses else ())
        self._excluded_places = frozenset(_places(exclude_class) if with_subclasses else ())
        self._with_subclasses, self._most_specific = with_subclasses, most_specific
        self._rules: dict[tuple[str, str], ClassRule] = {}

    def of(self, label: str, mid: str) -> ClassRule:
        """The rule of a class of the model, by its label and its MID or `""`."""
        rule = self._rules.get((label, mid))
        if rule is None:
            rule = self._rules[label, mid] = self._make(label, mid)
        return rule

    def maps(self, label: str, mid: str) -> bool:
        """Whether the class map names a class of the model, be it by its own label."""
        return self._mapped.find(mid, label) is not None

    def of_columns(self, label: Names, mid: Names) -> tuple[npt.NDArray[np.intp], list[ClassRule]]:
        """The rules of the classes in two columns of equal length, and `(N,)` the number of the rule of each entry."""
        numbers: dict[tuple[str, str], int] = {}
        pairs = zip(label, mid, strict=True)
        number = np.fromiter((numbers.setdefault(pair, len(numbers)) for pair in pairs), np.intp, len(label))
        return number, [self.of(*pair) for pair in numbers]

    def unknown_names(self, classes: Collection[ClassName]) -> list[str]:
        """The names in the options that match none of the classes, in the order of the options, without duplicates."""
        if not (self._selecting_names or self._threshold_names or self._class_map or self._roll_up_names):
            return []
        names = _keys((known.mid, known.name) for known in classes)
        later = names | {label.casefold() for label in self._class_map.values()}
        if self._class_map or self._roll_up_names:
            rules = [self.of(known.name, known.mid) for known in classes]
            later |= _keys((rule.mid, rule.label) for rule in rules)
        selecting, rolled_up = later, set[str]()
        if self._with_subclasses:
            selecting = later | _keys(entry for known in classes for entry in self._within(known.name, known.mid))
        if self._roll_up_names:
            origins = [self._origin(known.name, known.mid) for known in classes]
            rolled_up = _keys(entry for origin in origins for entry in _ancestors(origin))
        used = [(name, selecting) for name in self._selecting_names]
        used += [(name, later) for name in self._threshold_names]
        used += [(name, names) for name in self._class_map]
        used += [(name, rolled_up) for name in self._roll_up_names]
        return list(dict.fromkeys(name for name, fits in used if name not in fits and name.casefold() not in fits))

    def unknown_names_with_hints(self, classes: Collection[ClassName]) -> list[str]:
        """`unknown_names` for a message: quoted, each with the most similar known name, if there is one."""
        labels = [known.name for known in classes]
        mids = [known.mid for known in classes if known.mid]
        mapped = [*labels, *self._class_map.values(), *mids]
        hints = []
        for name in self.unknown_names(classes):
            if name in self._roll_up_names or (name in self._subclass_names and _places([name])):
                hints.append(f"{name!r} or a class below it")
                continue
            in_tree = [entry.name for entry in open_images_tree().classes] if name in self._subclass_names else []
            near = nearest_name(name, [*labels, *mids] if name in self._class_map else [*mapped, *in_tree])
            hints.append(f"{name!r}" + (f" (did you mean {near!r}?)" if near else ""))
        return hints

    def notes(self, classes: Iterable[ClassName]) -> list[str]:
        """What the user should know about the places of the classes in the class tree, one line each."""
        options = {
            "--roll-up": bool(self._roll_up_names),
            "--with-subclasses": self._with_subclasses,
            "--most-specific": self._most_specific,
        }
        flags = ", ".join(flag for flag, is_given in options.items() if is_given)
        if not flags:
            return []
        by_label, outside = list[str](), list[str]()
        for name, mid in dict.fromkeys((known.name, known.mid) for known in classes):
            place = self._origin(name, mid)
            if place is None:
                # What the class map names is as the user wants it.
                outside += [name] if self._mapped.find(mid, name) is None else []
            elif open_images_tree().find(mid) != place and self._matters(name, mid):
                rule = self.of(name, mid)
                becomes = f" ({rule.label})" if rule.place not in (None, place) else ""
                by_label.append(f"{name} as {place.name}{becomes}")
        notes = []
        if by_label:
            notes.append(
                "ASSUMED: these classes have no MID of the Open Images class tree and are placed in it by name: "
                f"{first_of(by_label, _MAX_NOTED)}. If one is wrong, rename it with --class-map"
            )
        if outside:
            notes.append(
                f"not in the Open Images class tree, so not subject to {flags}: {first_of(outside, _MAX_NOTED)}. With "
                "--class-map, such a class can get the name of a class in the tree"
            )
        if alone := [name for name in self._subclass_names if not _places([name])]:
            notes.append(
                "--with-subclasses adds nothing to classes that the Open Images class tree lacks: "
                f"{first_of(alone, _MAX_NOTED)}"
            )
        return notes

    def _make(self, label: str, mid: str) -> ClassRule:
        mapped = self._mapped.find(mid, label) or label
        origin = self._origin(label, mid)
        target = self._target(origin)
        renamed = target or TreeClass(mid, mapped)
        place = target or origin
        names = (label, mapped, renamed.mid, renamed.name)
        within = self._within(label, mid)
        excluded = self._excluded.find(mid, *names) or not self._excluded_places.isdisjoint(within)
        included = self._included is None or self._included.find(mid, *names)
        threshold = self._thresholds.find(mid, *names)
        return ClassRule(
            label=renamed.name,
            mid=renamed.mid,
            admitted=not excluded and bool(included or not self._included_places.isdisjoint(within)),
            threshold=self._score_threshold if threshold is None else float(threshold),
            place=place,
            above=frozenset(_ancestors(place)) - {place},
        )

    def _origin(self, label: str, mid: str) -> TreeClass | None:
        """The place of a class after the class map and before the roll-up; None if no option needs it."""
        if not (self._roll_up or self._with_subclasses or self._most_specific):
            return None
        mapped = self._mapped.find(mid, label)
        return open_images_tree().find(mapped) if mapped else _place_of(label, mid)

    def _target(self, origin: TreeClass | None) -> TreeClass | None:
        """The class that a class is rolled up to: the nearest above it, or it itself, then the first in the options."""
        above = [(steps, self._roll_up[e.mid], e) for e, steps in _ancestors(origin).items() if e.mid in self._roll_up]
        return min(above)[2] if above else None

    def _within(self, label: str, mid: str) -> set[TreeClass]:
        """The classes of the tree that contain a class: before or after the class map, itself among them."""
        if not self._with_subclasses:
            return set()
        return {*_ancestors(_place_of(label, mid)), *_ancestors(self._origin(label, mid))}

    def _matters(self, label: str, mid: str) -> bool:
        """Whether the place of a class changes what becomes of it."""
        is_selected = not (self._included_places | self._excluded_places).isdisjoint(self._within(label, mid))
        return self._most_specific or is_selected or self._target(self._origin(label, mid)) is not None


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`, compared case-insensitively, or None if none is similar."""
    by_folded = {text.casefold(): text for text in known}
    similar = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[similar[0]] if similar else None


def _places(names: Iterable[str]) -> list[TreeClass]:
    """The classes of the tree among the names, in their order."""
    places = map(open_images_tree().find, names)
    return [place for place in places if place is not None]


def _place_of(label: str, mid: str) -> TreeClass | None:
    tree = open_images_tree()
    return tree.find(mid) or tree.find(label)


def _ancestors(place: TreeClass | None) -> dict[TreeClass, int]:
    return {} if place is None else open_images_tree().ancestors(place.mid)


def _keys(classes: Iterable[tuple[str, str]]) -> set[str]:
    """All MIDs, and all names in one case, of classes given by MID and name."""
    return {text for mid, name in classes for text in (mid, name.casefold())}


class _Table:
    """Values by class name; an exact name wins over one that differs in case."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._exact = dict(values)
        self._folded = {name.casefold(): value for name, value in reversed(list(values.items()))}

    def find(self, mid: str, *labels: str) -> Any:
        """The value for a class, or None; its MID is looked up before its labels."""
        if not self._exact:
            return None
        if mid and mid in self._exact:
            return self._exact[mid]
        for label in labels:
            value = self._exact.get(label)
            if value is None:
                value = self._folded.get(label.casefold())
            if value is not None:
                return value
        return None
