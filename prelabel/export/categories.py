"""COCO categories: which number and name the classes of a detector get in a dataset.

A class is written under its project label, the model's own or the one the class map gives it, and no name occurs
twice. Without a list to follow, the number of a category is the model's own class number:

    model's classes            class map            categories
    17 Cat, 18 Dog, 19 Horse   Cat=pet, Dog=pet     17 pet, 19 Horse

Classes under one label take the number of the one that already has this name, else the smallest. COCO numbers start at
1: where the model's start at 0, all go up by one. Where the model's numbers say nothing (negative, or one number for
several classes) a number is made from the MID, or from the name, the same in every export.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prelabel.errors import ExportError
from prelabel.export.image_ids import require_id
from prelabel.labels.maps import read_label_map
from prelabel.mapping_files import once
from prelabel.select import Selection
from prelabel.storage import Storage, describe, redact
from prelabel.store.run import ClassName

#: How many classes a note names.
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Category:
    """One entry of `categories`: number, name, and where known the MID and COCO's supercategory."""

    id: int
    name: str
    mid: str = ""
    supercategory: str = ""

    def to_json(self) -> dict[str, Any]:
        """As COCO writes it; a known MID is kept as an extra key."""
        entry = {"id": self.id, "name": self.name, "supercategory": self.supercategory}
        return {**entry, "mid": self.mid} if self.mid else entry


class Categories(Protocol):
    """The categories of a dataset and the way to them from the classes of a detector."""

    @property
    def entries(self) -> Sequence[Category]:
        """All categories, ordered by number or as in the list they were taken from."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of how the classes met so far were numbered, one line each."""

    def id_of(self, one: ClassName) -> int | None:
        """The category of a class, or None where it has none and its detections are left out."""


class NumberedCategories:
    """Categories of the classes a selection admits, numbered as the module's text says.

    A class that turns up and is not in the list (a number beyond the label map) becomes one more category.
    """

    def __init__(self, classes: Iterable[ClassName], selection: Selection) -> None:
        self._selection = selection
        every = sorted(set(classes), key=lambda one: (one.id, one.name, one.mid))
        numbers = _numbers_of(every)
        self._shift = int(any(one.id == 0 for one in every))
        self._taken = set(numbers.values())
        self._by_class: dict[ClassName, int] = {}
        self._by_label: dict[str, Category] = {}
        groups: dict[str, list[ClassName]] = defaultdict(list)
        for one in every:
            if selection.admits(one.name, one.mid):
                groups[project_label(one, selection)].append(one)
        for label, members in groups.items():
            named = [one for one in members if one.name == label]
            number = min(numbers[one] for one in named or members)
            mids = {one.mid for one in members}
            self._by_label[label] = Category(number, label, mids.pop() if len(mids) == 1 else "")
            self._by_class.update(dict.fromkeys(members, number))

    @property
    def entries(self) -> Sequence[Category]:
        """All categories, ordered by number."""
        return sorted(self._by_label.values(), key=lambda entry: entry.id)

    @property
    def notes(self) -> Sequence[str]:
        """Nothing: every class has its own number or name."""
        return ()

    def id_of(self, one: ClassName) -> int:
        """The category of a class; a new one for a new class."""
        if one not in self._by_class:
            label = project_label(one, self._selection)
            if label not in self._by_label:
                number = one.id + self._shift
                if number < 1 or number in self._taken:
                    number = _made_number(one.mid or label, self._taken)
                self._taken.add(number)
                self._by_label[label] = Category(number, label, one.mid)
            self._by_class[one] = self._by_label[label].id
        return self._by_class[one]


class ListedCategories:
    """The categories of a given list.

    A class that the class map renames is found by its new name. Any other is found by its MID, or by its name, without
    regard to case. Where both have a MID and these differ the name decides, with a note, unless another class of the
    detector has the MID of the list: the animal Mouse is not the computer's. A class without a name, whose label is
    its number, is found by its number.
    """

    def __init__(
        self, listed: Sequence[Category], selection: Selection, known: Iterable[ClassName] | None = None
    ) -> None:
        """Takes a list.

        Args:
            listed: The categories.
            selection: May rename classes.
            known: All classes of the detector; without them names do not count against MIDs.
        """
        self.entries: Sequence[Category] = tuple(listed)
        self._selection = selection
        self._known_mids = None if known is None else {one.mid for one in known}
        self._by_mid = {entry.mid: entry for entry in reversed(listed) if entry.mid}
        self._by_name = {entry.name: entry for entry in reversed(listed)}
        self._by_folded = {entry.name.casefold(): entry for entry in reversed(listed)}
        self._by_number = {str(entry.id): entry for entry in listed}
        self._by_class: dict[ClassName, int | None] = {}
        self._against_mids: list[str] = []
        self._by_numbers: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        """The classes met so far that were found by their numbers, or by their names although the MIDs differ."""
        notes = []
        if self._by_numbers:
            notes.append(
                f"ASSUMED: {len(self._by_numbers)} classes of the run have no name and are paired with the categories "
                f"of the same number: {_first(self._by_numbers)}. Where the model counts otherwise, all is wrong: "
                "name them with class-map, or run `label` with --label-map"
            )
        if self._against_mids:
            notes.append(
                f"paired by name although the MIDs differ: {_first(self._against_mids)}; where that is wrong, leave "
                "out with exclude-class"
            )
        return notes

    def id_of(self, one: ClassName) -> int | None:
        """The category of a class, or None where the list has none."""
        if one not in self._by_class:
            entry = self._entry_of(one)
            self._by_class[one] = None if entry is None else entry.id
        return self._by_class[one]

    def _entry_of(self, one: ClassName) -> Category | None:
        label = project_label(one, self._selection)
        entry = self._by_name.get(label) or self._by_folded.get(label.casefold())
        if label != one.name:
            return entry
        by_mid = self._by_mid.get(one.mid)
        if by_mid is None and one.mid and entry is not None and entry.mid not in ("", one.mid):
            if self._known_mids is None or entry.mid in self._known_mids:
                entry = None
            else:
                self._against_mids.append(f"{one.name!r} ({one.mid}, in the list {entry.mid})")
        if label == str(one.id) and entry is None:
            entry = self._by_number.get(label)
            if entry is not None and by_mid is None:
                self._by_numbers.append(f"{label} with {entry.name!r}")
        return by_mid or entry


def _first(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read_categories(source: str, storage: Storage) -> list[Category]:
    """The categories of a COCO dataset or a bare JSON list of them, or of a label map (`coco`, .pbtxt, .csv, .txt).

    Raises:
        ConfigError: A label map cannot be read.
        ExportError: It cannot be read, has none, or has an id or a name twice.
    """
    shown = redact(source)
    listed = _from_json(source, storage) if source.endswith(".json") else _from_label_map(source, storage)
    if not listed:
        raise ExportError(f"{shown} has no categories: a COCO dataset or a list of {{id, name}} is needed")
    for what, values in (("id", [c.id for c in listed]), ("name", [c.name for c in listed])):
        twice = next(_repeated(values), None)
        if twice is not None:
            raise ExportError(f"{shown} has the category {what} {twice!r} twice")
    return listed


def _from_label_map(source: str, storage: Storage) -> list[Category]:
    classes = read_label_map(source, storage).classes
    return [Category(number, one.label, one.mid) for number, one in sorted(classes.items())]


def _from_json(url: str, storage: Storage) -> list[Category]:
    shown = redact(url)
    try:
        content = storage.read_json(url, pairs=once)
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"categories cannot be read from {shown}: {describe(error)}") from None
    entries = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        return []
    categories = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "id" not in entry:
            raise ExportError(f"{shown}: every category needs a whole number id and a name, got {entry!r}"[:300])
        require_id(entry["id"], f"{shown}: the id of category {entry['name']!r}")
        more = (str(entry.get(key) or "") for key in ("mid", "supercategory"))
        categories.append(Category(entry["id"], entry["name"], *more))
    return categories


def project_label(one: ClassName, selection: Selection) -> str:
    """The name of a class as the annotator sees it."""
    return str(selection.rename([one.name], [one.mid])[0])


def _numbers_of(classes: Sequence[ClassName]) -> dict[ClassName, int]:
    holders: dict[int, list[ClassName]] = defaultdict(list)
    for one in classes:
        holders[one.id].append(one)
    shift = 1 if 0 in holders else 0
    ids = {held[0]: number + shift for number, held in holders.items() if number >= 0 and len(held) == 1}
    taken = set(ids.values())
    for one in classes:
        if one not in ids:
            ids[one] = _made_number(one.mid or one.name, taken)
            taken.add(ids[one])
    return ids


def _made_number(text: str, taken: set[int]) -> int:
    number = 1 + int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big") % (2**31 - 1)
    while number in taken:
        number = number % (2**31 - 1) + 1
    return number


def _repeated(values: Iterable[Any]) -> Iterator[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)
