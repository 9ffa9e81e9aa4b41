"""Makes tables of text from the results of `evaluate` and `compare`, for the terminal and for the pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prelabel.errors import first_of
from prelabel.review.coco_scores import KEYPOINT_METRICS, METRICS
from prelabel.review.comparison import Comparison
from prelabel.review.edits import ADDED, BINS, DELETED, EDITS, KEPT, MOVED, RELABELED, UNLABELED, ClassEdits
from prelabel.review.evaluation import Evaluation
from prelabel.review.thresholds import COMMON, OWN, Cut, Work
from prelabel.words import counted, duration, saving, share

#: The ways to choose thresholds in words, in the order of the tables.
SCHEMES = {"suggested": "suggested thresholds", "f1": "best F1 per class", "flat": "0.5 for all classes"}

#: Maximum number of rows of a class table in the terminal; the pages have all classes.
MAX_CLASSES = 20

#: Where the main metrics are measured if there are enough images.
ON_HELD_OUT = "on held-out images"

#: The kinds of edits in words.
EDIT_WORDS = {
    KEPT: "kept unchanged",
    MOVED: "moved or resized",
    RELABELED: "relabeled",
    UNLABELED: "left without a class",
    DELETED: "deleted",
    ADDED: "added",
}

#: The row of added objects.
ADDED_WORDS = "objects added"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        title: Title above the table, or `""`.
        header: Column headers; empty for a table without headers.
        rows: Cells of each row, without the header.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """The tables for a terminal, in order; sentences are tables of one column."""
    return [
        evaluated_images_table(evaluation),
        *notes_tables((*evaluation.notes, *class_lines(evaluation))),
        coco_table(evaluation),
        *keypoint_tables(evaluation),
        evaluated_classes_table(evaluation, MAX_CLASSES),
        work_table(evaluation),
        Table("", (), tuple((line,) for line in (*work_lines(evaluation), result_sentence(evaluation)))),
    ]


def notes_tables(notes: Sequence[str]) -> list[Table]:
    """A table of notes, or none without notes."""
    return [Table("", (), tuple((f"note: {line}",) for line in notes))] if notes else []


def evaluated_images_table(evaluation: Evaluation) -> Table:
    """How many images, objects and detections were compared."""
    images, classes = evaluation.images, evaluation.classes
    rows = [
        ("images compared", f"{images.matched:,}"),
        *nonzero_rows(
            ("  failed images (count as no detections)", images.failed),
            ("  matched by file name only", images.by_stem),
            ("images in the run but not in the truth", images.only_run),
            (f"images in the truth but not in the {'list' if evaluation.listed else 'run'}", images.only_truth),
            ("images skipped: other size in the truth", images.other_size),
            ("images skipped: ambiguous name", images.unclear),
        ),
        ("objects", f"{evaluation.work.objects:,}"),
        ("detections", f"{len(evaluation.overall.score):,}"),
        *nonzero_rows(("detections of classes that are not in the truth", sum(classes.only_run.values()))),
    ]
    return Table("", (), tuple(rows))


def coco_table(evaluation: Evaluation) -> Table:
    """COCO's AP and AR."""
    kinds = [evaluation.boxes, *([evaluation.masks] if evaluation.masks is not None else [])]
    header = ("COCO", "boxes", "masks")[: 1 + len(kinds)]
    rows = [(words, *(decimal(scores.overall[name]) for scores in kinds)) for name, words in METRICS.items()]
    return Table("", header, tuple(rows))


def keypoint_tables(evaluation: Evaluation) -> list[Table]:
    """COCO's AP and AR of keypoints, if they are scored."""
    scores = evaluation.keypoints
    if scores is None:
        return []
    rows = [(words, decimal(scores.overall[name])) for name, words in KEYPOINT_METRICS.items()]
    return [Table("", ("COCO", "keypoints"), tuple(rows))]


def work_table(evaluation: Evaluation) -> Table:
    """Corrections per 100 images with each choice of thresholds, on held-out images if there are enough."""
    work = evaluation.work
    title = "corrections per 100 images" + (f", {ON_HELD_OUT}" if work.held_out is not None else "")
    header: tuple[str, ...] = (title, "false boxes to delete", "missed boxes to draw", "corrections", "of manual work")
    if work.held_out is not None:
        header = (*header, "on the images used to choose")
    with_own = sum(class_work.own for class_work in work.by_class.values())
    common = f"{work.common.threshold:g} for all classes"
    words = f"suggested: {common}" + (f" except {with_own} with their own" if with_own else "")
    rows = [_work_row(evaluation, words, work.headline, work.total("suggested"))]
    other, words = OWN, "per-class thresholds where they help"
    if work.recommended == OWN:
        other, words = COMMON, common
    in_sample = work.common if other == COMMON else work.total("separate")
    if work.held_out is not None or other == COMMON:
        rows.append(_work_row(evaluation, words, work.total_on_held_out(other) or in_sample, in_sample))
    for scheme in ("f1", "flat", *(("given",) if evaluation.given else ())):
        in_sample = work.total(scheme)
        words = SCHEMES.get(scheme, "the thresholds of --compare-thresholds")
        rows.append(_work_row(evaluation, words, work.total_on_held_out(scheme) or in_sample, in_sample))
    manual = _per_100(work, work.objects)
    rows.append(("drawing every box manually", "-", manual, manual, "100%", manual)[: len(header)])
    return Table("", header, tuple(rows))


def work_lines(evaluation: Evaluation) -> list[str]:
    """Sentences that explain the table of work."""
    work, relabel = evaluation.work, evaluation.confusion.relabel
    line = "A box of the wrong class counts twice: once to delete and once to draw."
    if relabel:
        line += f" Relabeling would fix {counted(relabel, 'such pair')} at the suggested thresholds."
    lines = [line]
    held_out = {scheme: _per_100(work, cut.corrections) for scheme, cut in (work.held_out or {}).items()}
    if work.held_out is None:
        lines.append(
            f"{counted(work.images, 'image')} cannot be split into images to choose thresholds and held-out images to "
            "measure them; 10 are needed. The figures are for the images used to choose, so expect more corrections "
            "on others. One threshold for all classes is suggested."
        )
    elif work.recommended == COMMON:
        comparison = f"need more corrections ({held_out[OWN]} instead of {held_out[COMMON]})"
        if work.held_out[OWN].corrections == work.held_out[COMMON].corrections:
            comparison = "need no fewer corrections"
        lines.append(
            f"One threshold for all classes is suggested: with per-class thresholds, held-out images {comparison}."
        )
    else:
        lines.append(
            "Some classes get their own threshold: held-out images then need "
            f"{held_out[OWN]} corrections instead of {held_out[COMMON]} with one threshold for all."
        )
    lines.append(
        "Pass thresholds.yaml, which holds the suggested thresholds, to --class-threshold. Classes that it does not "
        f"name get {work.common.threshold:g}, which it also sets."
    )
    return lines


def result_sentence(evaluation: Evaluation) -> str:
    """The result of an evaluation in one sentence, and where it was measured."""
    work = evaluation.work
    if not work.objects:
        return f"The truth has no objects of the compared classes on {counted(work.images, 'image')}."
    where = ON_HELD_OUT if work.held_out is not None else "on the images used to choose the thresholds"
    return f"Annotators make {work.headline_in_words()} ({where})."


def evaluated_classes_table(evaluation: Evaluation, max_rows: int | None = None) -> Table:
    """One row per class that has objects or detections, most objects first."""
    header = ["class", "objects", "AP", *(["mask AP"] if evaluation.masks else [])]
    header += ["threshold", "precision", "recall", "corrections per 100 images", "at 0.5", "manually", "best F1 at"]
    by_class = evaluation.work.by_class
    names = [name for name, class_work in by_class.items() if class_work.objects or class_work.detections]
    names.sort(key=lambda name: -by_class[name].objects)
    rows = []
    for name in names[:max_rows]:
        class_work, cut = by_class[name], by_class[name].suggested
        corrections = (cut.corrections, class_work.flat.corrections, class_work.objects)
        rows.append(
            (
                name,
                f"{class_work.objects:,}",
                decimal(evaluation.boxes.by_class[name]["AP"]),
                *([decimal(evaluation.masks.by_class[name]["AP"])] if evaluation.masks else []),
                f"{cut.threshold:g}",
                decimal(cut.precision, 2),
                decimal(cut.recall, 2),
                *(_per_100(evaluation.work, count) for count in corrections),
                "-" if class_work.f1 is None else f"{class_work.f1.threshold:g}",
            )
        )
    shortened = len(rows) < len(names)
    title = f"{len(rows)} of {len(names)} classes, most objects first" if shortened else "classes, most objects first"
    return Table(
        f"{title}; corrections are measured on the images used to choose thresholds", tuple(header), tuple(rows)
    )


def class_lines(evaluation: Evaluation) -> list[str]:
    """Notes on classes and images that only one side has."""
    classes, images = evaluation.classes, evaluation.images
    lines = []
    if classes.only_run:
        lines.append(
            f"classes that are not in the truth; their detections are ignored: {_first_names(classes.only_run)}"
        )
    if classes.only_truth:
        lines.append(f"classes of the truth that were never detected: {_first_names(classes.only_truth)}")
    if classes.only_run and classes.only_truth:
        lines.append(
            "if these are the same classes under other names, pair the names with --class-map, or the MIDs with "
            "--truth-labels coco"
        )
    if images.other_size:
        lines.append(f"image skipped because its size differs in the truth, e.g. {images.other_size_example}")
    if images.unclear:
        lines.append(f"image skipped because its name is ambiguous, e.g. {images.unclear_example!r}")
    if images.swapped:
        lines.append(
            f"{counted(images.swapped, 'image')}: the truth gives the size before EXIF rotation; height and width were "
            "swapped"
        )
    return lines


def _first_names(names: Iterable[str]) -> str:
    return first_of(list(names), 12)


def _work_row(evaluation: Evaluation, words: str, cut: Cut, in_sample: Cut) -> tuple[str, ...]:
    """A row of the table of work; `in_sample` is the result on the images that thresholds were chosen from."""
    counts = (cut.delete, cut.draw, cut.corrections)
    work = evaluation.work
    row = (words, *(_per_100(work, count) for count in counts), share(cut.corrections, work.objects))
    return row if work.held_out is None else (*row, _per_100(work, in_sample.corrections))


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The tables for a terminal, in order."""
    return [
        compared_images_table(comparison),
        edits_table(comparison),
        compared_classes_table(comparison, MAX_CLASSES),
        relabeled_table(comparison),
        Table("", (), ((comparison_sentence(comparison),),)),
    ]


def compared_images_table(comparison: Comparison) -> Table:
    """Which images were compared, and how long annotators took."""
    times, objects = comparison.times, comparison.total.objects
    rows = [
        ("images compared", f"{comparison.images:,}"),
        *nonzero_rows(
            ("  failed in the run", comparison.failed),
            ("images not annotated yet", comparison.open),
            ("images skipped by annotators", comparison.skipped),
            ("annotated images that are not in the run", comparison.only_annotations),
            ("images started from another model's predictions", comparison.other_model),
            ("images started without predictions", comparison.blank),
        ),
        ("what annotators were shown", comparison.shown),
    ]
    if times is not None:
        rows.append(("time per image", f"{duration(times.median)} (median of {times.images:,})"))
        rows.append(("total time", duration(times.total)))
        if objects:
            rows.append(("time per object", duration(times.total / objects)))
    return Table("", (), tuple(rows))


def edits_table(comparison: Comparison) -> Table:
    """What annotators did with the detections."""
    total = comparison.total
    rows = [
        (EDIT_WORDS[kind], f"{total.counts[kind]:,}", share(total.counts[kind], total.shown))
        for kind in (KEPT, MOVED, RELABELED, UNLABELED, DELETED)
        if kind != UNLABELED or total.counts[kind]
    ]
    manual = share(total.corrections, total.objects)
    rows += [
        ("detections shown", f"{total.shown:,}", ""),
        (ADDED_WORDS, f"{total.counts[ADDED]:,}", ""),
        ("objects after annotation", f"{total.objects:,}", ""),
        ("corrections (share of drawing every box manually)", f"{total.corrections:,}", manual),
    ]
    return Table("", ("detections", "boxes", "share"), tuple(rows))


def compared_classes_table(comparison: Comparison, max_rows: int | None = None) -> Table:
    """One row per class, most detections and objects first."""
    kinds = [kind for kind in EDITS if kind != UNLABELED or comparison.total.counts[kind]]
    header = ("class", "shown", *kinds, "objects", "median IoU", "shown from", "threshold")
    names = list(comparison.by_class)
    rows = []
    for name in names[:max_rows]:
        edits = comparison.by_class[name]
        counts = (f"{edits.counts[kind]:,}" for kind in kinds)
        threshold = comparison.work.by_class[name].suggested.threshold
        floor = comparison.floors[name]
        scores = ("-" if floor is None else f"{floor:.3g}", f"{threshold:g}")
        rows.append((name or "(none)", f"{edits.shown:,}", *counts, f"{edits.objects:,}", _median(edits), *scores))
    shortened = len(rows) < len(names)
    return Table(f"{len(rows)} of {len(names)} classes" if shortened else "", header, tuple(rows))


def comparison_sentence(comparison: Comparison) -> str:
    """The result of a comparison in one sentence."""
    total = comparison.total
    objects = counted(total.objects, "object")
    if not total.shown:
        return f"No detection was shown to annotators, who drew {objects}."
    boxes = counted(total.shown, "predicted box", "predicted boxes")
    sentence = f"Annotators kept {share(total.counts[KEPT], total.shown)} of {boxes} unchanged"
    corrections = counted(total.corrections, "correction") if total.corrections else "no corrections"
    if not total.objects:
        return f"{sentence} and made {corrections}: no object is left after annotation."
    as_drawing = "as drawing every box" if total.corrections == total.objects else "than drawing every box"
    return f"{sentence} and made {corrections} for {objects}: {saving(total.corrections, total.objects)} {as_drawing}."


def relabeled_table(comparison: Comparison) -> Table:
    """Which classes annotators relabeled as which: the 15 most frequent pairs."""
    rows = tuple((a, b or "(none)", f"{count:,}") for a, b, count in comparison.relabeled[:15])
    return Table("", ("detected as", "relabeled as", "boxes"), rows)


def _median(edits: ClassEdits) -> str:
    """The bin of the median overlap; overlaps are counted only by bin."""
    total = sum(edits.overlaps)
    if not total:
        return "-"
    cumulative = itertools.accumulate(edits.overlaps)
    number = next(number for number, count in enumerate(cumulative) if 2 * count >= total)
    return f"{number / BINS:g} to {(number + 1) / BINS:g}"


def nonzero_rows(*rows: tuple[str, int]) -> list[tuple[str, str]]:
    """The rows whose count is not 0, with the count as text."""
    return [(words, f"{count:,}") for words, count in rows if count]


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with this many decimals; `-` if there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _per_100(work: Work, count: int) -> str:
    """A count per 100 images; all counts of a table have the same number of decimals, and none if none is needed."""
    return f"{work.per_100(count):,.{0 if 100 % work.images == 0 else 1}f}"
