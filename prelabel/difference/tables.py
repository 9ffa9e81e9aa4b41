"""Tables of text of a `Difference`, for the terminal and for the page."""

from __future__ import annotations

from prelabel.difference.changes import APPEARED, KINDS, RESCORED, VANISHED
from prelabel.difference.job import Difference
from prelabel.difference.tally import FAILED_IN_A, FAILED_IN_B, FAILED_IN_BOTH, OTHER_FILE, OTHER_SIZE, ClassChanges
from prelabel.errors import first_of
from prelabel.export.run_selection import selection_words
from prelabel.review.edits import KEPT, MOVED, RELABELED
from prelabel.review.report.tables import MAX_CLASSES, Table, nonzero_rows, notes_tables
from prelabel.storage.address import redact
from prelabel.words import counted, share

#: The kinds of changes in words.
KIND_WORDS = {
    KEPT: "kept",
    RESCORED: "kept with another score",
    MOVED: "moved or reshaped",
    RELABELED: "relabeled",
    VANISHED: "vanished",
    APPEARED: "appeared",
}

#: Most images and pairs of classes in a table.
MAX_IMAGES, MAX_PAIRS = 10, 15

#: Most names of classes and images in a line.
_MOST_NAMED = 5


def difference_tables(difference: Difference) -> list[Table]:
    """The tables for a terminal, in order; the last one is the result in a sentence."""
    tables = [
        runs_table(difference),
        settings_table(difference),
        images_table(difference),
        *notes_tables(lines(difference)),
        changes_table(difference),
        classes_table(difference, MAX_CLASSES),
        relabeled_table(difference),
        most_changed_table(difference),
        Table("", (), ((sentence(difference),),)),
    ]
    return [table for table in tables if table.rows]


def runs_table(difference: Difference) -> Table:
    """The two runs, and from which scores on they are compared."""
    rows = [
        (letter, f"{name}: {info.model_version}, {info.created[:10]}")
        for letter, name, info in zip("AB", difference.names, difference.infos, strict=True)
    ]
    return Table("", (), (*rows, ("scores", selection_words(difference.options.selection, None))))


def settings_table(difference: Difference) -> Table:
    """The settings that differ."""
    return Table("", ("setting", "in A", "in B"), difference.settings)


def images_table(difference: Difference) -> Table:
    """How many images were compared, and why others were not."""
    images = difference.images
    rows = [
        ("images compared", f"{difference.compared:,}"),
        ("  with changes", f"{difference.changed_images:,}"),
        *nonzero_rows(
            ("images that failed in A", images[FAILED_IN_A]),
            ("images that failed in B", images[FAILED_IN_B]),
            ("images that failed in both", images[FAILED_IN_BOTH]),
            ("images of another size in B", images[OTHER_SIZE]),
            ("images with another file in B", images[OTHER_FILE]),
            ("images in A only", difference.only[0]),
            ("images in B only", difference.only[1]),
            ("images without a checksum in both runs", difference.unproven),
            ("detections on images that cannot be compared", sum(difference.lost)),
            ("detections of classes that only A knows", sum(difference.foreign[0].values())),
            ("detections of classes that only B knows", sum(difference.foreign[1].values())),
        ),
    ]
    return Table("", (), tuple(rows))


def lines(difference: Difference) -> list[str]:
    """Notes, with examples of what cannot be compared."""
    words = {
        FAILED_IN_A: "failed in A",
        FAILED_IN_B: "failed in B",
        OTHER_SIZE: "another size in B",
        OTHER_FILE: "another file in B",
        "only_in_a": "in A only",
        "only_in_b": "in B only",
    }
    notes = [redact(note) for note in difference.notes]
    notes += [
        f"not compared, since only {letter} knows the class: {first_of(list(labels), _MOST_NAMED)}"
        for letter, labels in zip("AB", difference.foreign, strict=True)
        if labels
    ]
    for reason, text in words.items():
        if names := difference.examples.get(reason):
            notes.append(f"not compared, {text}: e.g. {redact(names[0])}")
    if sum(difference.lost):
        notes.append(
            f"{counted(sum(difference.lost), 'detection')} on images that are in both runs but cannot be compared "
            "count as changed"
        )
    return notes


def changes_table(difference: Difference) -> Table:
    """What became of the detections of both runs, and the shift of scores."""
    total = difference.total
    whole = total.in_a + total.in_b
    rows = []
    for kind in KINDS:
        count = total.counts[kind]
        if kind == RESCORED and not count:
            continue
        sides = (kind != APPEARED, kind != VANISHED)
        cells = (f"{count:,}" if has else "" for has in sides)
        rows.append((KIND_WORDS[kind], *cells, share(count * sum(sides), whole)))
        below = {VANISHED: total.vanished_below, APPEARED: total.appeared_below}.get(kind, 0)
        if below:
            other = "B" if kind == VANISHED else "A"
            cells = (f"{below:,}" if has else "" for has in sides)
            rows.append((f"  of these in {other} below its threshold", *cells, share(below, whole)))
    rows.append(("all detections", f"{total.in_a:,}", f"{total.in_b:,}", share(whole, whole)))
    if total.mean_shift is not None and total.mean_absolute_shift is not None:
        rows.append(("mean shift of scores", "", signed(total.mean_shift), ""))
        rows.append(("mean absolute shift of scores", "", f"{total.mean_absolute_shift:.3f}", ""))
    return Table("", ("detections", "in A", "in B", "share"), tuple(rows))


def classes_table(difference: Difference, max_rows: int | None = None) -> Table:
    """One row per class, most detections first."""
    kinds = [kind for kind in KINDS if kind != RESCORED or difference.total.counts[RESCORED]]
    header = ("class", "in A", "in B", *kinds, "changed", "mean score shift")
    names = list(difference.by_class)
    rows = []
    for name in names[:max_rows]:
        changes = difference.by_class[name]
        counts = (f"{changes.counts[kind]:,}" for kind in kinds)
        rows.append((name, f"{changes.in_a:,}", f"{changes.in_b:,}", *counts, _changed(changes), _shift(changes)))
    shortened = len(rows) < len(names)
    title = f"{len(rows)} of {len(names)} classes, most detections first" if shortened else ""
    return Table(title, header, tuple(rows))


def _changed(changes: ClassChanges) -> str:
    return share(changes.changed, changes.in_a + changes.in_b)


def _shift(changes: ClassChanges) -> str:
    return "-" if changes.mean_shift is None else signed(changes.mean_shift)


def signed(value: float) -> str:
    """A number with its sign; 0 has none."""
    text = f"{value:+.3f}"
    return text if float(text) else "0.000"


def relabeled_table(difference: Difference) -> Table:
    """Which classes became which: the most frequent pairs."""
    rows = tuple((a, b, f"{count:,}") for a, b, count in difference.relabeled[:MAX_PAIRS])
    return Table("", ("class in A", "class in B", "detections"), rows)


def most_changed_table(difference: Difference, max_rows: int = MAX_IMAGES) -> Table:
    """The images that changed most."""
    kinds = [kind for kind in KINDS if kind not in (KEPT, RESCORED) or difference.total.counts[RESCORED]]
    kinds = [kind for kind in kinds if kind != KEPT]
    rows = tuple(
        (redact(image.facts.file_name), f"{image.changed:,}", *(f"{image.counts[kind]:,}" for kind in kinds))
        for image in difference.most_changed[:max_rows]
    )
    return Table("", ("images that changed most", "changed", *kinds), rows)


def sentence(difference: Difference) -> str:
    """The result in one sentence."""
    total, lost = difference.total, sum(difference.lost)
    whole = total.in_a + total.in_b + lost
    if not whole:
        return f"Neither run has a detection on {counted(difference.compared, 'compared image')}."
    changed = total.changed + lost
    compared = counted(difference.compared, "compared image")
    where = f"on {difference.changed_images:,} of {compared}"
    if not changed:
        return f"No detection changed on {compared}: both runs have the same {counted(total.in_a, 'detection')}."
    return f"{share(changed, whole)} of the detections of both runs changed: {changed:,} of {whole:,}, {where}."
