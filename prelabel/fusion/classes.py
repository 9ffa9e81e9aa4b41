"""One list of classes for several runs, and which run knows which class.

Two runs, whose models number and name their classes differently:

    run A                   run B                 new run
    1 Dog    /m/0bt9lr      18 dog                1 Dog     /m/0bt9lr    by name, since B has no MIDs
    2 Cat    /m/01yrx       1 person              2 Cat     /m/01yrx
                                                  3 person               B's number is already that of Dog

Classes are the same if they have the same MID, or the same name and not both a MID. If two classes of one name have
different MIDs, they are the same, too, with a note, unless a run has both MIDs: the animal Mouse is not the computer
mouse. Names are compared exactly first, then without regard to case.

The first run that has a class names and numbers it. If two classes would get one name, another run may have another
name for one of them. A number that is taken is replaced by the next one above those of all classes. A class that the
class map renames differs from one of the same name that it does not rename.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName, Detections, as_objects
from prelabel.errors import ConfigError, first_of
from prelabel.select import Selection

#: Most classes that a message names.
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class RunClasses:
    """The classes of a run, as its rows name them.

    Attributes:
        run: The run, for messages.
        fingerprint: Of its model: class numbers without names mean the same only in runs of one model.
        listed: The classes of its label map that it kept, or None if the model names its classes itself.
        seen: The classes of its detections.
    """

    run: str
    fingerprint: str
    listed: tuple[ClassName, ...] | None
    seen: frozenset[ClassName]

    @property
    def all(self) -> list[ClassName]:
        """All known classes by number, each name and MID once."""
        by_name: dict[tuple[str, str], ClassName] = {}
        for known in sorted({*(self.listed or ()), *self.seen}, key=lambda known: (known.id, known.name, known.mid)):
            by_name.setdefault((known.name, known.mid), known)
        return list(by_name.values())


@dataclass(slots=True)
class _Entry:
    """A class of the new run, and the classes that it stands for, by the number of their run."""

    id: int
    name: str
    mid: str
    members: dict[int, list[ClassName]] = field(default_factory=dict)

    @property
    def mids(self) -> set[str]:
        """The MIDs that runs have for it."""
        return {known.mid for members in self.members.values() for known in members} - {""}

    def label(self, selection: Selection) -> str:
        """Its label after class map and roll-up."""
        return selection.label_of(self.name, self.mid)

    def keeps_name(self, selection: Selection) -> bool:
        """Whether neither class map nor roll-up decides its label."""
        return self.label(selection) == self.name and not selection.maps(self.name, self.mid)

    def is_named_like(self, other: _Entry, run: int) -> bool:
        """Whether a run has one name for both entries, or tells them apart by the case of their names."""
        names = [{known.name.casefold() for known in entry.members[run]} for entry in (self, other)]
        return not names[0].isdisjoint(names[1])


@dataclass(frozen=True)
class FusedClasses:
    """The classes of the new run.

    Attributes:
        runs: The classes of each run.
        selection: The selection of the new run: it may rename classes.
        by_run: For each run, the class of the new run by name and MID.
    """

    runs: tuple[RunClasses, ...]
    selection: Selection
    by_run: tuple[Mapping[tuple[str, str], ClassName], ...]

    @classmethod
    def of(cls, runs: Sequence[RunClasses], selection: Selection) -> FusedClasses:
        """Bring the classes of several runs together.

        Raises:
            ConfigError: Classes that differ would get one name, or their name is a number of different models. Or an
                option names a class that no run has.
        """
        entries: list[_Entry] = []
        mids = [{known.mid for known in run.all} for run in runs]
        for number, run in enumerate(runs):
            _add_run(entries, number, run.all, selection, mids)
        _rename_twins(entries, selection)
        _number(entries)
        by_run = tuple(
            {
                (member.name, member.mid): ClassName(entry.id, entry.name, entry.mid)
                for entry in entries
                for member in entry.members.get(number, ())
            }
            for number in range(len(runs))
        )
        classes = cls(tuple(runs), selection, by_run)
        _require_distinct(entries, runs, selection)
        classes._require_known_names()
        return classes

    @property
    def listed(self) -> tuple[ClassName, ...] | None:
        """The label map of the new run, by number; None if the model of a run names its classes itself."""
        if any(run.listed is None for run in self.runs):
            return None
        listed = {
            by_name[known.name, known.mid]
            for run, by_name in zip(self.runs, self.by_run, strict=True)
            for known in run.listed or ()
        }
        return tuple(sorted(listed, key=lambda known: known.id))

    @cached_property
    def known_labels(self) -> tuple[frozenset[str], ...]:
        """For each run, the labels of the classes that it knows, after class map and roll-up."""
        return tuple(
            frozenset(self.selection.label_of(known.name, known.mid) for known in by_name.values())
            for by_name in self.by_run
        )

    def number_of(self, run: int, number: int) -> int | None:
        """The number in the new run of a class of a run, by its number there; None if the run does not know it."""
        known = next((known for known in self.runs[run].all if known.id == number), None)
        return None if known is None else self.by_run[run][known.name, known.mid].id

    def label_as_fused(self, run: int, detections: Detections) -> Detections:
        """The detections of a run with the names, MIDs and numbers of the new run, before class map and roll-up."""
        pairs = list(zip(detections.label, detections.mid, strict=True))
        known = [self.by_run[run][pair] for pair in pairs]
        return replace(
            detections,
            category_id=np.array([entry.id for entry in known], np.int32),
            label=as_objects([entry.name for entry in known]),
            mid=as_objects([entry.mid for entry in known]),
        )

    def weights_of(
        self, labels: Iterable[str], runs: Sequence[int], weights: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        """`(N,)` for each label, the weights of those of the runs that know the class, added up."""
        totals: dict[str, float] = {}
        for label in set(labels):
            totals[label] = sum(weights[run] for run in runs if label in self.known_labels[run])
        return np.array([totals[label] for label in labels], np.float64)

    @property
    def of_one_run(self) -> dict[str, tuple[str, ...]]:
        """The labels that only one run knows, by run, sorted."""
        alone: dict[str, tuple[str, ...]] = {}
        for number, labels in enumerate(self.known_labels):
            others = frozenset[str]().union(*(self.known_labels[:number]), *(self.known_labels[number + 1 :]))
            if labels - others:
                alone[self.runs[number].run] = tuple(sorted(labels - others))
        return alone

    @property
    def matching_notes(self) -> tuple[str, ...]:
        """What the user should know about classes that are the same although their names or MIDs differ."""
        by_name, despite, renamed = list[str](), list[str](), list[str]()
        first: dict[ClassName, tuple[int, tuple[str, str]]] = {}
        for number, classes in enumerate(self.by_run):
            for (name, mid), entry in classes.items():
                before, (first_name, first_mid) = first.setdefault(entry, (number, (name, mid)))
                if before == number:
                    continue
                runs = self.runs[before].run, self.runs[number].run
                if mid and first_mid and mid != first_mid:
                    despite.append(f"{entry.name!r} ({first_mid} in {runs[0]}, {mid} in {runs[1]})")
                elif mid != first_mid:
                    by_name.append(f"{name} ({mid or first_mid})")
                elif name.casefold() != first_name.casefold():
                    renamed.append(f"{first_name!r} of {runs[0]} and {name!r} of {runs[1]} ({mid})")
        notes = []
        if by_name:
            notes.append(
                "ASSUMED: these classes are the same by name, since only one of the runs has their MID: "
                f"{first_of(list(dict.fromkeys(by_name)), _MOST_NAMED)}. If one is not, rename it with --class-map"
            )
        if despite:
            notes.append(
                f"matched by name although the MIDs differ: {first_of(despite, _MOST_NAMED)}. If that is wrong, rename "
                "one by its MID (--class-map MID=NAME)"
            )
        if renamed:
            notes.append(f"the same classes by MID: {first_of(renamed, _MOST_NAMED)}. --class-map gives other names")
        return tuple(notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how classes came together, one line each."""
        notes = [
            f"ASSUMED: {run.run} knows only the {len(run.seen):,} classes that it has detections of, since its model "
            "names its classes itself"
            for run in self.runs
            if run.listed is None
        ]
        return (*self.matching_notes, *notes, *self.selection_notes)

    @property
    def selection_notes(self) -> tuple[str, ...]:
        """What the user should know about classes that the selection names."""
        known = sorted({entry for classes in self.by_run for entry in classes.values()}, key=lambda entry: entry.id)
        unknown = self.selection.unknown_names_with_hints(known) if self.listed is None else []
        notes = [f"no run has detections of class {', '.join(unknown)}"] if unknown else []
        return (*notes, *self.selection.class_notes(known))

    def _require_known_names(self) -> None:
        """Raise ConfigError if an option names a class that no run has, unless a run does not list its classes."""
        listed = self.listed
        if listed is None:
            return
        unknown = self.selection.unknown_names_with_hints(listed)
        if unknown:
            raise ConfigError(f"no run has the class {', '.join(unknown)}")
        self.selection.require_known_names(listed)


def _add_run(
    entries: list[_Entry], run: int, classes: Sequence[ClassName], selection: Selection, mids: Sequence[set[str]]
) -> None:
    """Add the classes of a run to the entries that they are the same as, or as new entries.

    Args:
        entries: The classes of earlier runs.
        run: Number of the run.
        classes: Its classes.
        selection: May rename classes.
        mids: The MIDs of each run: two MIDs of one run are different classes.
    """
    earlier, left = list(entries), list(classes)
    by_mid = {mid: entry for entry in earlier for mid in entry.mids}
    for known in [known for known in left if known.mid in by_mid]:
        by_mid[known.mid].members.setdefault(run, []).append(known)
        left.remove(known)
    for despite_mids, key in ((False, str), (False, str.casefold), (True, str), (True, str.casefold)):
        for known in list(left):
            label = selection.label_of(known.name, known.mid)
            fitting = [
                entry
                for entry in earlier
                if run not in entry.members
                and key(entry.name) == key(known.name)
                and key(selection.label_of(entry.name, entry.mid)) == key(label)
                and bool(entry.mids and known.mid) == despite_mids
                and not any({mid, known.mid} <= of_run for mid in entry.mids for of_run in mids if despite_mids)
            ]
            if len(fitting) == 1:
                (entry,) = fitting
                entry.mid = entry.mid or known.mid
                entry.members[run] = [known]
                left.remove(known)
    entries += [_Entry(known.id, known.name, known.mid, {run: [known]}) for known in left]


def _rename_twins(entries: Sequence[_Entry], selection: Selection) -> None:
    """Give an entry that would share its label with another one the name that another run has for it."""
    counts = Counter(entry.label(selection).casefold() for entry in entries)
    for entry in entries:
        label = entry.name.casefold()
        if counts[label] > 1 and entry.keeps_name(selection):
            names = (known.name for members in entry.members.values() for known in members)
            entry.name = next((name for name in names if not counts[name.casefold()]), entry.name)
            counts[label] -= 1
            counts[entry.name.casefold()] += 1


def _require_distinct(entries: Sequence[_Entry], runs: Sequence[RunClasses], selection: Selection) -> None:
    """Raise ConfigError if two entries have one label that neither an option nor a run itself gives to both."""
    conflicts = []
    twins: dict[str, list[_Entry]] = {}
    for entry in entries:
        if entry.keeps_name(selection):
            twins.setdefault(entry.name.casefold(), []).append(entry)
    for a, b in (pair for same in twins.values() for pair in combinations(same, 2)):
        if not any(a.is_named_like(b, run) for run in a.members.keys() & b.members.keys()):
            of_a, of_b = (f"{entry.mid or 'no MID'} in {runs[min(entry.members)].run}" for entry in (a, b))
            conflicts.append(f"class {a.name!r} is {of_a} and {of_b}")
    for entry in entries:
        numbered = [runs[run] for run, known in entry.members.items() if any(k.name == str(k.id) for k in known)]
        if len({run.fingerprint for run in numbered}) > 1 and entry.keeps_name(selection):
            conflicts.append(f"class {entry.name} of {' and '.join(run.run for run in numbered)} has no name")
    if conflicts:
        raise ConfigError(
            f"{first_of(conflicts, 2)}: if they are the same, say so with --class-map NAME=NAME; if not, rename one "
            "(by its MID: --class-map MID=NAME), or label one run again with a --label-map"
        )


def _number(entries: Sequence[_Entry]) -> None:
    """Replace the numbers that an earlier entry has."""
    above = max((entry.id for entry in entries), default=0) + 1
    taken: set[int] = set()
    for entry in entries:
        if entry.id in taken:
            entry.id, above = above, above + 1
        taken.add(entry.id)
