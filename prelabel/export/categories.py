"""The categories of a dataset: all classes of the detector, those that occur, or those of a given list.

A class is written under its label: the model's own, or the one that class map or roll-up give it. No name occurs twice.
Without a given list, the id of a category is the model's own class number:

    model's classes            class map            categories
    17 Cat, 18 Dog, 19 Horse   Cat=pet, Dog=pet     17 pet, 19 Horse

Classes that share a label get the number of the class with this name, or else the smallest of their numbers. COCO ids
start at 1: if the model's numbers start at 0, all are increased by one. If the model's numbers are unusable (negative,
or one number for several classes), an id is derived from the MID or the name. All exports of a run have the same ids,
whatever their thresholds: `NumberedCategories` numbers the classes of all its detections.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from prelabel.detections import ClassName
from prelabel.errors import ExportError, first_of
from prelabel.export.base import Rows, RunInfo
from prelabel.export.image_ids import require_id
from prelabel.export.options import MANY_CLASSES
from prelabel.export.parallel import UNUSED, map_parts
from prelabel.labels.colors import colors_by_frequency
from prelabel.labels.maps import read_label_map
from prelabel.mapping_files import unique
from prelabel.options import Options, group_of, option
from prelabel.select import ExportSelection, Selection
from prelabel.storage.address import describe, redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.triage.options import ImageListOptions

#: Most classes that a note names.
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Category:
    """An entry of `categories`: id, name, and the MID and COCO's supercategory if known."""

    id: int
    name: str
    mid: str = ""
    supercategory: str = ""

    def to_json(self) -> dict[str, Any]:
        """The entry as COCO writes it; a known MID is an extra key."""
        entry = {"id": self.id, "name": self.name, "supercategory": self.supercategory}
        return {**entry, "mid": self.mid} if self.mid else entry


class Categories(Protocol):
    """The categories of a dataset, by the classes of a detector."""

    @property
    def entries(self) -> Sequence[Category]:
        """All categories, ordered by id or as in the given list."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about the ids of the classes so far, one line each."""

    def id_of(self, class_name: ClassName) -> int | None:
        """The category id of a class, or None if it has no category and its detections are dropped."""


class NumberedCategories:
    """Categories of the classes that a selection admits, with ids as explained in the module's docstring.

    A class that occurs but is not in the detector's list (a number beyond the label map) becomes another category.
    """

    def __init__(self, info: RunInfo, rows: Rows, selection: Selection) -> None:
        """Number the classes of a run, in the same way for all its exports; reads all rows.

        All detections count, kept or not: neither thresholds nor excluded classes change an id.
        """
        occurring = sorted(rows.classes(), key=_by_number)
        listed = set(info.classes or occurring)
        unlisted = [class_name for class_name in occurring if class_name not in listed]
        numbers = _numbers_of(sorted(listed, key=_by_number))
        _number_unlisted(unlisted, numbers, shift=int(any(class_name.id == 0 for class_name in listed)))
        groups: dict[str, list[ClassName]] = defaultdict(list)
        for class_name in numbers:
            groups[selection.label_of(class_name.name, class_name.mid)].append(class_name)
        self._by_class: dict[ClassName, int] = {}
        entries = []
        for label, group in groups.items():
            members = [class_name for class_name in group if selection.admits(class_name.name, class_name.mid)]
            if not members:
                continue
            # Classes that occur differ from run to run, so they do not change the number of a listed class.
            deciding = [class_name for class_name in members if class_name in listed] or members
            # The class of this name gives the number even if its own detections are excluded.
            named = [class_name for class_name in group if class_name.name == label and class_name in listed]
            named = named or [class_name for class_name in deciding if class_name.name == label]
            number = min(numbers[class_name] for class_name in named or deciding)
            mids = {selection.class_of(class_name.name, class_name.mid)[1] for class_name in deciding}
            entries.append(Category(number, label, mids.pop() if len(mids) == 1 else ""))
            self._by_class.update(dict.fromkeys(members, number))
        self.entries: Sequence[Category] = sorted(entries, key=lambda entry: entry.id)

    @property
    def notes(self) -> Sequence[str]:
        """No notes: every class has its own number or name."""
        return ()

    def id_of(self, class_name: ClassName) -> int:
        """The category id of a class that the selection admits."""
        return self._by_class[class_name]


class ListedCategories:
    """The categories of a given list.

    A class that the class map renames is found by its new name, and a class that is rolled up by the MID or the name of
    the class above it. Any other class is found by its MID, or by its name without regard to case. If the class and the
    category of its name have different MIDs, they still match, with a note, unless another class of the detector has
    the category's MID: the animal Mouse is not the computer mouse. A class without a name, whose label is its number,
    is found by its number.
    """

    def __init__(
        self, listed: Sequence[Category], selection: Selection, known: Iterable[ClassName] | None = None
    ) -> None:
        """Use a list of categories.

        Args:
            listed: The categories.
            selection: May rename classes.
            known: All classes of the detector; without them, a class never matches a category with a different MID.
        """
        self.entries: Sequence[Category] = tuple(listed)
        self._selection = selection
        self._known_mids = None if known is None else {class_name.mid for class_name in known}
        self._by_mid = {entry.mid: entry for entry in reversed(listed) if entry.mid}
        self._by_name = {entry.name: entry for entry in reversed(listed)}
        self._by_folded = {entry.name.casefold(): entry for entry in reversed(listed)}
        self._by_number = {str(entry.id): entry for entry in listed}
        self._by_class: dict[ClassName, int | None] = {}
        self._despite_mids: list[str] = []
        self._by_numbers: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        """The classes so far that were found by number, or by name although the MIDs differ."""
        notes = []
        if self._by_numbers:
            notes.append(
                f"ASSUMED: {len(self._by_numbers)} classes of the run have no name and are matched with the categories "
                f"of the same number: {first_of(self._by_numbers, _MOST_NAMED)}. If the model numbers its classes "
                "differently, all of these are wrong: name them with --class-map, or run `label` with --label-map"
            )
        if self._despite_mids:
            pairs = first_of(self._despite_mids, _MOST_NAMED)
            notes.append(
                f"matched by name although the MIDs differ: {pairs}. If that is wrong, exclude them (--exclude-class)"
            )
        return notes

    def id_of(self, class_name: ClassName) -> int | None:
        """The category id of a class, or None if the list has no category for it."""
        if class_name not in self._by_class:
            entry = self._entry_of(class_name)
            self._by_class[class_name] = None if entry is None else entry.id
        return self._by_class[class_name]

    def _entry_of(self, class_name: ClassName) -> Category | None:
        label, mid = self._selection.class_of(class_name.name, class_name.mid)
        entry = self._by_name.get(label) or self._by_folded.get(label.casefold())
        if mid != class_name.mid:
            return self._by_mid.get(mid) or (entry if entry is not None and not entry.mid else None)
        if label != class_name.name:
            return entry
        by_mid = self._by_mid.get(class_name.mid)
        if by_mid is None and class_name.mid and entry is not None and entry.mid not in ("", class_name.mid):
            if self._known_mids is None or entry.mid in self._known_mids:
                entry = None
            else:
                self._despite_mids.append(f"{class_name.name!r} ({class_name.mid}, in the list {entry.mid})")
        if label == str(class_name.id) and entry is None:
            entry = self._by_number.get(label)
            if entry is not None and by_mid is None:
                self._by_numbers.append(f"{label} with {entry.name!r}")
        return by_mid or entry


def read_categories(source: str, storage: Storage) -> list[Category]:
    """Read categories from a COCO dataset, a JSON list of categories, or a label map (`coco`, .pbtxt, .csv, .txt).

    Raises:
        ConfigError: A label map cannot be read.
        ExportError: The file cannot be read, has no categories, or has a duplicate id or name.
    """
    address = redact(source)
    listed = _from_json(source, storage) if source.endswith(".json") else _from_label_map(source, storage)
    if not listed:
        raise ExportError(f"{address} has no categories: give a COCO dataset or a list of {{id, name}}")
    for key, values in (("id", [c.id for c in listed]), ("name", [c.name for c in listed])):
        duplicate = next(_duplicates(values), None)
        if duplicate is not None:
            raise ExportError(f"{address} has a duplicate category {key} {duplicate!r}")
    return listed


def _from_label_map(source: str, storage: Storage) -> list[Category]:
    classes = read_label_map(source, storage).classes
    return [Category(number, class_name.name, class_name.mid) for number, class_name in sorted(classes.items())]


def _from_json(url: str, storage: Storage) -> list[Category]:
    address = redact(url)
    try:
        content = storage.read_json(url, pairs=unique)
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"cannot read categories from {address}: {describe(error)}") from None
    entries = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        return []
    categories = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "id" not in entry:
            raise ExportError(f"{address}: every category needs a whole-number id and a name, got {entry!r}"[:300])
        require_id(entry["id"], f"{address}: the id of category {entry['name']!r}")
        more = (str(entry.get(key) or "") for key in ("mid", "supercategory"))
        categories.append(Category(entry["id"], entry["name"], *more))
    return categories


def _numbers_of(classes: Sequence[ClassName]) -> dict[ClassName, int]:
    by_number: dict[int, list[ClassName]] = defaultdict(list)
    for class_name in classes:
        by_number[class_name.id].append(class_name)
    shift = 1 if 0 in by_number else 0
    ids = {sharing[0]: number + shift for number, sharing in by_number.items() if number >= 0 and len(sharing) == 1}
    taken = set(ids.values())
    for class_name in classes:
        if class_name not in ids:
            ids[class_name] = _derived_number(class_name.mid or class_name.name, taken)
            taken.add(ids[class_name])
    return ids


def _number_unlisted(classes: Iterable[ClassName], numbers: dict[ClassName, int], *, shift: int) -> None:
    """Number classes that the detector does not list; a number that is already taken is replaced by a derived one."""
    taken = set(numbers.values())
    for class_name in classes:
        number = class_name.id + shift
        if number < 1 or number in taken:
            number = _derived_number(class_name.mid or class_name.name, taken)
        numbers[class_name] = number
        taken.add(number)


def _by_number(class_name: ClassName) -> tuple[int, str, str]:
    return class_name.id, class_name.name, class_name.mid


def _derived_number(text: str, taken: set[int]) -> int:
    number = 1 + int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big") % (2**31 - 1)
    while number in taken:
        number = number % (2**31 - 1) + 1
    return number


def _duplicates(values: Iterable[Any]) -> Iterator[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


@dataclass(frozen=True, kw_only=True)
class ClassListOptions(Options):
    """Which detections an export keeps, and a list of categories to follow."""

    listed: ImageListOptions = group_of(ImageListOptions)
    selection: ExportSelection = group_of(ExportSelection)
    categories: str = option(
        "",
        "Use the classes and numbers of this COCO dataset or label map (or of the built-in `coco`), by name or MID.",
        metavar="FILE",
        heading="Classes",
        first=True,
    )
    unlisted: str = option(
        "error",
        "Stop with an error for classes that --categories lacks, or drop them.",
        choices=("error", "drop"),
    )


def categories_for(info: RunInfo, rows: Rows, options: ClassListOptions, storage: Storage) -> Categories:
    """The categories of an export: those of a given list, else all classes of the detector and all others that occur.

    Raises:
        ExportError: The list cannot be read, or it lacks classes of kept detections and `unlisted` is `error`.
    """
    categories = _categories(info, rows, options, storage)
    if options.categories:
        _require_listed(categories, class_counts(rows, options.selection), options)
    return categories


def _categories(info: RunInfo, rows: Rows, options: ClassListOptions, storage: Storage) -> Categories:
    if not options.categories:
        return NumberedCategories(info, rows, options.selection)
    listed = read_categories(options.categories, storage)
    return ListedCategories(listed, options.selection, info.classes or rows.classes())


def _require_listed(categories: Categories, kept: Iterable[ClassName], options: ClassListOptions) -> None:
    """Refuse a given list that lacks a class of kept detections, unless they are to be dropped. Raises ExportError."""
    # All classes are looked up here, in order: other processes may write the export, and their notes would be lost.
    unlisted = [class_name for class_name in kept if categories.id_of(class_name) is None]
    missing = sorted(
        {f"{class_name.name} ({class_name.mid})" if class_name.mid else class_name.name for class_name in unlisted}
    )
    if missing and options.unlisted == "error":
        raise ExportError(
            f"{redact(options.categories)} has no category for {first_of(missing, 20)}: rename the classes with "
            "--class-map, exclude them with --exclude-class, or drop all such detections with --unlisted drop"
        )


def class_counts(rows: Rows, selection: Selection) -> dict[ClassName, int]:
    """Count the detections that a selection keeps, by class; reads all rows.

    Returns:
        The counts, ordered by class number, name and MID.
    """
    counts: Counter[ClassName] = Counter()
    for part in map_parts(rows.without("masks", "keypoints", *UNUSED), functools.partial(_class_counts, selection)):
        counts.update(part)
    return {name: counts[name] for name in sorted(counts, key=_by_number)}


def _class_counts(selection: Selection, batches: Iterable[DetectionBatch]) -> dict[ClassName, int]:
    counts: Counter[tuple[int, str, str]] = Counter()
    for batch in batches:
        kept = batch.kept(selection)
        counts.update(zip(kept.category_id.tolist(), kept.label.tolist(), kept.mid.tolist(), strict=True))
    return {ClassName(*names): count for names, count in counts.items()}


class ClosedCategories(NamedTuple):
    """Categories that no longer change, for formats that list them before the images.

    Attributes:
        categories: The category of each class.
        names: The names to list, by category id and in the order of the categories.
        colors: `#rrggbb` by name, in the same order; the most frequent classes have the colors that are easiest to
            tell apart.
    """

    categories: Categories
    names: Mapping[int, str]
    colors: Mapping[str, str]


def closed_categories(
    info: RunInfo, rows: Rows, options: ClassListOptions, storage: Storage, which: str
) -> ClosedCategories:
    """Determine the categories of an export before any image is written; reads all rows.

    Args:
        info: The run.
        rows: Its rows.
        options: `categories` and `unlisted`.
        storage: Reads the list of categories.
        which: `all` of the detector or the list; `present`, those of kept detections; or `auto`, all if there are at
            most 100, else those present.

    Raises:
        ExportError: See `categories_for`.
    """
    categories = _categories(info, rows, options, storage)
    kept = class_counts(rows, options.selection)
    if options.categories:
        _require_listed(categories, kept, options)
    counts: Counter[int | None] = Counter()
    for class_name, count in kept.items():
        counts[categories.id_of(class_name)] += count
    names = {entry.id: entry.name for entry in categories.entries}
    if which == "present" or (which == "auto" and len(names) > MANY_CLASSES):
        names = {number: name for number, name in names.items() if number in counts}
    colors = colors_by_frequency({name: counts[number] for number, name in names.items()})
    return ClosedCategories(categories, names, {name: colors[name] for name in names.values()})
