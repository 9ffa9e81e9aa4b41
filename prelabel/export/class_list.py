"""Which classes a dataset has: all of the detector, those that occur, or those of a list to follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prelabel.detections import Detections
from prelabel.errors import ExportError
from prelabel.export.categories import Categories, ListedCategories, NumberedCategories, read_categories
from prelabel.export.option_rules import require_choices
from prelabel.export.parts import UNUSED, each_part, without
from prelabel.export.reading import Rows, RunInfo
from prelabel.export.side_by_side import SideBySide, lots
from prelabel.options import option
from prelabel.select import ExportSelection, Selection
from prelabel.storage import Storage, redact
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName

_GROUP = "Classes"

#: Up to so many classes a person can still find one in a list; of a longer one only those that occur are offered.
MANY_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class ClassListOptions(ExportSelection):
    """Which detections an export keeps, and the classes of a list that it is to follow."""

    categories: str = option(
        "",
        "Take over the classes of a COCO dataset or label map, by name or MID ('coco' is built in).",
        metavar="FILE",
        group=_GROUP,
    )
    unlisted: str = option(
        "error", "What to do with classes that --categories does not have.", choices=("error", "drop"), group=_GROUP
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)


def categories_for(info: RunInfo, rows: Rows, options: ClassListOptions, storage: Storage) -> Categories:
    """The categories of an export: those of the list, else the detector's, else those of all detections.

    Raises:
        ExportError: The list cannot be read, or lacks classes of detections that are kept and `unlisted` is `error`.
    """
    if not options.categories:
        # Without a class list the numbers come from all detections, whatever their scores, and so stay the same.
        return NumberedCategories(info.classes or classes_in(rows, None), options)
    known = info.classes or classes_in(rows, None)
    categories = ListedCategories(read_categories(options.categories, storage), options, known)
    # All are looked up here, in order: the export itself may be written by other processes, which tell no notes.
    unlisted = [one for one in classes_in(rows, options) if categories.id_of(one) is None]
    missing = sorted({f"{one.name} ({one.mid})" if one.mid else one.name for one in unlisted})
    if missing and options.unlisted == "error":
        shown = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise ExportError(
            f"{redact(options.categories)} has no category for {shown}: rename with class-map, leave out with "
            "exclude-class, or say unlisted drop"
        )
    return categories


def classes_in(rows: Rows, selection: Selection | None) -> list[ClassName]:
    """The classes of all detections, or of those that a selection keeps, by number; reads all rows."""
    classes: set[ClassName] = set()
    for some in each_part(without(rows, "masks", *UNUSED), _ClassesOf(selection)):
        classes |= some
    return sorted(classes, key=lambda one: (one.id, one.name, one.mid))


@dataclass(frozen=True, slots=True)
class _ClassesOf:
    selection: Selection | None

    def __call__(self, rows: Iterable[ImageRow]) -> set[ClassName]:
        classes: set[ClassName] = set()
        for some in lots(rows):
            for found in self._found(some):
                classes.update(map(ClassName, found.category_id.tolist(), found.label.tolist(), found.mid.tolist()))
        return classes

    def _found(self, rows: Sequence[ImageRow]) -> Iterable[Detections | SideBySide]:
        if self.selection is None:
            return [row.detections for row in rows if row.detections is not None]
        kept = SideBySide.kept(rows, self.selection)
        return [] if kept is None else [kept]


def closed_categories(
    info: RunInfo, rows: Rows, options: ClassListOptions, storage: Storage, which: str
) -> tuple[Categories, Mapping[int, str]]:
    """Categories that stay as they are while images are written, for formats that state them first; reads all rows.

    Args:
        info: The run.
        rows: Its rows.
        options: `categories` and `unlisted`.
        storage: Opens the list.
        which: `all` of the detector or the list; `present`, those of the detections that are kept; `auto`, all of up
            to 100, else those present.

    Returns:
        The categories, and the names of those wanted by number, in their order.

    Raises:
        ExportError: See `categories_for`.
    """
    categories = categories_for(info, rows, options, storage)
    # In order: a class that no list has gets its number when it is asked for, and all processes are to agree on it.
    present = {number for one in classes_in(rows, options) if (number := categories.id_of(one)) is not None}
    names = {entry.id: entry.name for entry in categories.entries}
    if which == "present" or (which == "auto" and len(names) > MANY_CLASSES):
        names = {number: name for number, name in names.items() if number in present}
    return categories, names
