"""The result as tables of text: what the command prints and the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prelabel.evaluate.coco_scores import FIGURES
from prelabel.evaluate.evaluation import Evaluation
from prelabel.evaluate.thresholds import Cut
from prelabel.evaluate.work import COMMON, OWN

#: What the ways to work are called for people, in the order of the tables.
SCHEMES = {"suggested": "suggested thresholds", "f1": "best F1 of each class", "flat": "0.5 for all classes"}

#: What headline figures are of, where there are enough images to tell.
UNSEEN = "on images that had no part in choosing"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; the first row of `rows` is the one below `header`."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(done: Evaluation, *, classes: int | None = 20) -> list[Table]:
    """All tables, in order; what has to be said stands in tables of one column.

    Args:
        done: The result.
        classes: How many classes the table of classes has at most, those with most objects first; None for all.
    """
    said = [f"note: {line}" for line in (*done.notes, *class_lines(done))]
    below = Table("", (), tuple((line,) for line in work_lines(done)))
    notes = [Table("", (), tuple((line,) for line in said))] if said else []
    return [images_table(done), *notes, coco_table(done), class_table(done, classes), work_table(done), below]


def images_table(done: Evaluation) -> Table:
    """What was compared."""
    images = done.images
    rows = [("images compared", f"{images.matched:,}")]
    if images.failed:
        rows.append(("  failed (count as nothing found)", f"{images.failed:,}"))
    if images.by_stem:
        rows.append(("  matched by their name only", f"{images.by_stem:,}"))
    if images.only_run:
        rows.append(("images of the run that the truth does not have", f"{images.only_run:,}"))
    if images.only_truth:
        rows.append(("images of the truth that the run does not have", f"{images.only_truth:,}"))
    if images.other_size:
        rows.append(("images left out, of another size in the truth", f"{images.other_size:,}"))
    if images.unclear:
        rows.append(("images left out, not clear which is meant", f"{images.unclear:,}"))
    rows.append(("objects", f"{done.work.objects:,}"))
    rows.append(("detections", f"{len(done.together.score):,}"))
    if done.classes.only_run:
        rows.append(("detections of classes the truth does not have", f"{sum(done.classes.only_run.values()):,}"))
    return Table("", (), tuple(rows))


def coco_table(done: Evaluation) -> Table:
    """COCO's figures."""
    kinds = [done.boxes, *([done.masks] if done.masks is not None else [])]
    header = ("COCO", "boxes", "masks")[: 1 + len(kinds)]
    rows = [(_words(figure), *(_figure(one.overall[figure]) for one in kinds)) for figure in FIGURES]
    return Table("", header, tuple(rows))


def work_table(done: Evaluation) -> Table:
    """What thresholds mean in work, on images that had no part in choosing them where that can be told."""
    work = done.work
    title = f"work per 100 images, {UNSEEN}" if work.unseen is not None else "work per 100 images"
    header: tuple[str, ...] = (title, "false boxes to delete", "missed boxes to draw", "corrections", "of by hand")
    if work.unseen is not None:
        header = (*header, "on the images chosen on")
    rows = [_work_row(done, _suggested_words(done), work.headline, work.total("suggested"))]
    other, words = (OWN, "thresholds of their own for some classes")
    if work.recommended == OWN:
        other, words = (COMMON, f"{work.common.threshold:g} for all classes")
    seen = work.common if other == COMMON else work.total("separate")
    if work.unseen is not None or other == COMMON:
        rows.append(_work_row(done, words, work.elsewhere(other) or seen, seen))
    for scheme in ("f1", "flat", *(("given",) if done.given else ())):
        seen = work.total(scheme)
        words = SCHEMES.get(scheme, "the thresholds compared")
        rows.append(_work_row(done, words, work.elsewhere(scheme) or seen, seen))
    by_hand = _number(work.per_100(work.objects))
    rows.append(("drawing all by hand", "-", by_hand, by_hand, "100%", by_hand)[: len(header)])
    return Table("", header, tuple(rows))


def _suggested_words(done: Evaluation) -> str:
    """What the suggested thresholds are."""
    own = sum(one.own for one in done.work.by_class.values())
    common = f"{done.work.common.threshold:g} for all classes"
    return f"suggested: {common}" + (f" but {own} with their own" if own else "")


def work_lines(done: Evaluation) -> list[str]:
    """What has to be said below the table of work."""
    work = done.work
    lines = [
        "A box of the wrong class counts twice, to delete and to draw"
        + (
            f"; {done.confusion.relabel:,} such pairs at the suggested thresholds could be named anew instead."
            if done.confusion.relabel
            else "."
        )
    ]
    if work.unseen is None:
        lines.append(
            f"{work.images} images are too few to try thresholds on images that had no part in choosing them (10 are "
            "needed): the figures are those of the images chosen on, and will be worse on others. One threshold for "
            "all classes is suggested."
        )
    elif work.recommended == COMMON:
        lines.append(
            f"One threshold for all classes is suggested: {UNSEEN} thresholds of their own "
            + (
                "make no fewer corrections"
                if work.unseen[OWN].corrections == work.unseen[COMMON].corrections
                else f"make more corrections ({_number(work.per_100(work.unseen[OWN].corrections))} against "
                f"{_number(work.per_100(work.unseen[COMMON].corrections))})"
            )
            + "."
        )
    else:
        lines.append(
            f"Some classes get a threshold of their own: {UNSEEN} that makes "
            f"{_number(work.per_100(work.unseen[OWN].corrections))} corrections, and one threshold for all "
            f"{_number(work.per_100(work.unseen[COMMON].corrections))}."
        )
    lines.append(
        "The suggested thresholds are in thresholds.yaml, for --class-threshold; classes that it does not name get "
        f"{work.common.threshold:g}, which is in it too."
    )
    return lines


def class_table(done: Evaluation, most: int | None = None) -> Table:
    """One row a class with objects or detections, those with most objects first."""
    header = ["class", "objects", "AP", *(["mask AP"] if done.masks else [])]
    header += ["threshold", "precision", "recall", "corrections per 100 images", "at 0.5", "by hand", "best F1 at"]
    names = [name for name, one in done.work.by_class.items() if one.objects or one.detections]
    names.sort(key=lambda name: -done.work.by_class[name].objects)
    rows = []
    for name in names[:most]:
        one, cut = done.work.by_class[name], done.work.by_class[name].suggested
        rows.append(
            (
                name,
                f"{one.objects:,}",
                _figure(done.boxes.by_class[name]["AP"]),
                *([_figure(done.masks.by_class[name]["AP"])] if done.masks else []),
                f"{cut.threshold:g}",
                _figure(cut.precision, 2),
                _figure(cut.recall, 2),
                *(_number(done.work.per_100(n)) for n in (cut.corrections, one.flat.corrections, one.objects)),
                "-" if one.f1 is None else f"{one.f1.threshold:g}",
            )
        )
    left = len(names) - len(rows)
    title = f"{len(rows)} of {len(names)} classes, most objects first" if left else "classes, most objects first"
    return Table(
        f"{title}; corrections are those on the images that thresholds were chosen on", tuple(header), tuple(rows)
    )


def class_lines(done: Evaluation) -> list[str]:
    """What has to be said of the classes of both sides."""
    lines = []
    if done.classes.only_run:
        lines.append(f"Not in the truth, so neither right nor wrong: {_some(list(done.classes.only_run))}")
    if done.classes.only_truth:
        lines.append(f"In the truth, and never detected: {_some(list(done.classes.only_truth))}")
    if done.classes.only_run and done.classes.only_truth:
        lines.append("Classes that are the same can be paired: by name with --class-map, by MID with --truth-labels")
    if done.images.other_size:
        lines.append(f"Of another size in the truth, and left out: {done.images.other_size_example}")
    if done.images.unclear:
        lines.append(f"Not clear which image of the other side is meant, and left out: {done.images.unclear_example!r}")
    if done.images.swapped:
        lines.append(f"{done.images.swapped:,} images have the size of the unturned file in the truth: it was turned")
    return lines


def _work_row(done: Evaluation, words: str, cut: Cut, chosen_on: Cut) -> tuple[str, ...]:
    counts = (cut.delete, cut.draw, cut.corrections)
    share = f"{cut.corrections / done.work.objects:.0%}" if done.work.objects else "-"
    row = (words, *(_number(done.work.per_100(count)) for count in counts), share)
    return row if done.work.unseen is None else (*row, _number(done.work.per_100(chosen_on.corrections)))


def _words(figure: str) -> str:
    kind, _, rest = figure.partition("_")
    if rest.isdigit():
        return f"{kind}, at most {rest} a class and image"
    return (
        f"{kind} of {rest} objects" if rest else {"AP": "AP", "AP50": "AP at IoU 0.5", "AP75": "AP at IoU 0.75"}[kind]
    )


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _number(value: float) -> str:
    return f"{value:,.1f}"


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
