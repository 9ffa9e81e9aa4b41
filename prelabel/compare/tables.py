"""The result as tables of text: what the command prints and the page shows."""

from __future__ import annotations

import itertools

from prelabel.compare.fates import ADDED, DELETED, FATES, KEPT, MOVED, RELABELLED, UNLABELLED
from prelabel.compare.result import BINS, ClassFates, Comparison
from prelabel.evaluate.tables import Table

#: What the fates are called for people.
WORDS = {
    KEPT: "kept as they were",
    MOVED: "moved or resized",
    RELABELLED: "given another class",
    UNLABELLED: "left without a class",
    DELETED: "deleted",
    ADDED: "added",
}


def tables(done: Comparison, *, classes: int | None = 20) -> list[Table]:
    """All tables, in order; `classes` limits the rows of the table of classes."""
    return [images_table(done), fates_table(done), class_table(done, classes), relabelled_table(done)]


def images_table(done: Comparison) -> Table:
    """What was compared, and how long it took people."""
    rows = [("images compared", f"{done.images:,}")]
    for words, count in (
        ("  failed in the run", done.failed),
        ("images nobody has worked on", done.open),
        ("images somebody refused", done.skipped),
        ("images that the run does not have", done.only_annotations),
        ("images begun with another model's predictions", done.other_model),
        ("images begun with no prediction", done.blank),
    ):
        if count:
            rows.append((words, f"{count:,}"))
    rows.append(("what people were shown", done.shown))
    if done.times is not None:
        rows.append(("time per image", f"{done.times.median:,.1f} s (median of {done.times.images:,})"))
        rows.append(("time of all", f"{done.times.total / 3600:,.2f} h"))
        if done.total.objects:
            rows.append(("time per object", f"{done.times.total / done.total.objects:,.1f} s"))
    return Table("", (), tuple(rows))


def fates_table(done: Comparison) -> Table:
    """What became of the detections."""
    total = done.total
    rows = [
        (WORDS[fate], f"{total.counts[fate]:,}", _share(total.counts[fate], total.shown))
        for fate in (KEPT, MOVED, RELABELLED, UNLABELLED, DELETED)
        if fate != UNLABELLED or total.counts[fate]
    ]
    rows.append(("detections shown", f"{total.shown:,}", ""))
    rows.append(("objects added", f"{total.counts[ADDED]:,}", ""))
    rows.append(("objects in the end", f"{total.objects:,}", ""))
    rows.append(
        ("corrections, against drawing all by hand", f"{done.corrections:,}", _share(done.corrections, total.objects))
    )
    return Table("", ("what became of them", "boxes", "share"), tuple(rows))


def class_table(done: Comparison, most: int | None = None) -> Table:
    """One row a class, those with most detections and objects first."""
    every = [fate for fate in FATES if fate != UNLABELLED or done.total.counts[fate]]
    header = ("class", "shown", *every, "objects", "median IoU", "shown from", "threshold")
    names = list(done.by_class)
    rows = []
    for name in names[:most]:
        one = done.by_class[name]
        counts = (f"{one.counts[fate]:,}" for fate in every)
        threshold = done.work.by_class[name].suggested.threshold
        floor = done.floors[name]
        ends = (_median(one), "-" if floor is None else f"{floor:.3g}", f"{threshold:g}")
        rows.append((name or "(none)", f"{one.shown:,}", *counts, f"{one.objects:,}", *ends))
    left = len(names) - len(rows)
    return Table(f"{len(rows)} of {len(names)} classes" if left else "", header, tuple(rows))


def relabelled_table(done: Comparison, most: int = 15) -> Table:
    """Which classes were taken for which, most frequent first."""
    rows = tuple((a, b or "(none)", f"{count:,}") for a, b, count in done.relabelled[:most])
    return Table("", ("detected as", "people said", "boxes"), rows)


def _median(one: ClassFates) -> str:
    """The bin in which the middle overlap lies: more of it is not kept."""
    every = sum(one.overlaps)
    if not every:
        return "-"
    seen = itertools.accumulate(one.overlaps)
    place = next(place for place, count in enumerate(seen) if 2 * count >= every)
    return f"{place / BINS:g} to {(place + 1) / BINS:g}"


def _share(count: int, every: int) -> str:
    return f"{count / every:.0%}" if every else "-"
