"""Makes the HTML pages of `evaluate` and `compare`: the result in one sentence and a command, then tables and plots.

Names of classes, files and models are untrusted text; `prelabel.pages.markup` escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from prelabel.export.base import RunInfo
from prelabel.pages.markup import Markup, join, tag
from prelabel.review.comparison import Comparison
from prelabel.review.edits import ADDED, BINS, DELETED, EDITS, KEPT, MOVED, RELABELED, UNLABELED
from prelabel.review.evaluation import Evaluation
from prelabel.review.image_matching import ReviewedBox
from prelabel.review.report.document import (
    capitalized,
    document,
    figure,
    folded,
    html_table,
    notes,
    panels,
    result,
    tiles,
)
from prelabel.review.report.history import NO_HISTORY, History, next_commands
from prelabel.review.report.image_lists import ImageLists
from prelabel.review.report.plots import Plot, legend, round_up
from prelabel.review.report.tables import (
    ADDED_WORDS,
    EDIT_WORDS,
    ON_HELD_OUT,
    SCHEMES,
    Table,
    class_lines,
    coco_table,
    compared_classes_table,
    compared_images_table,
    comparison_sentence,
    edits_table,
    evaluated_classes_table,
    evaluated_images_table,
    keypoint_tables,
    relabeled_table,
    result_sentence,
    work_lines,
    work_table,
)
from prelabel.review.thresholds import Cut, Ranking, cut_at, precision_recall
from prelabel.storage.address import join as join_address
from prelabel.words import counted, duration, rounded, share

#: The plots of classes with fewer objects than this are folded.
FEW_OBJECTS = 10

#: Maximum number of classes with a plot, and with a bar; the tables have all classes.
MAX_PLOTS, MAX_BARS = 60, 60

#: Maximum number of classes in the confusion table.
MAX_CONFUSED_CLASSES = 24

#: Maximum number of confused pairs that are listed below the table.
MAX_CONFUSIONS = 15

#: Number of bins of the score histograms.
_SCORE_BINS = 20

#: Thresholds at which curves are drawn.
_CURVE_THRESHOLDS = [number / 200 for number in range(201)]

_EDIT_COLORS = {KEPT: "b", MOVED: "a", RELABELED: "c", UNLABELED: "f", DELETED: "d", ADDED: "e"}

Counts = npt.NDArray[np.intp]


def evaluation_page(evaluation: Evaluation, to: str = "", history: History = NO_HISTORY) -> str:
    """The page of an evaluation.

    Args:
        evaluation: The result.
        to: Folder of the report, for the commands that use its thresholds.
        history: What was made of the run before.
    """
    lists = ImageLists(evaluation.reviewed, history.preview)
    facts = (
        evaluation.info.model_version,
        counted(evaluation.images.matched, "image"),
        f"truth: {evaluation.truth}",
    )
    parts = [
        _result(result_sentence(evaluation), evaluation.info, to, history),
        _evaluation_tiles(evaluation),
        notes((*evaluation.notes, *class_lines(evaluation))),
        tag("h2", "Work"),
        html_table(work_table(evaluation)),
        *(tag("p", line, class_="text") for line in work_lines(evaluation)),
        panels(_work_plot(evaluation), *_scores_plots(evaluation)),
        tag("h2", "Classes"),
        _evaluated_classes(evaluation, lists),
        tag("h2", "Confusion at the suggested thresholds"),
        _confusion(evaluation, lists),
        tag("h2", "Precision and recall"),
        panels(_curve_plot(evaluation), _threshold_plot(evaluation)),
        tag("h2", "COCO metrics and images"),
        tag(
            "div",
            *map(html_table, (coco_table(evaluation), *keypoint_tables(evaluation))),
            html_table(evaluated_images_table(evaluation)),
            class_="beside",
        ),
        tag("h2", "Plots by class"),
        _class_plots(evaluation),
    ]
    return document("Evaluation", facts, parts, lists.data())


def _result(sentence: str, info: RunInfo, to: str, history: History) -> Markup:
    """The result in one sentence, and the commands that use the thresholds of the report in the folder `to`."""
    thresholds = join_address(to, "thresholds.yaml") if to else "thresholds.yaml"
    return result(sentence, "Use the suggested thresholds:", next_commands(info.output, thresholds, history.exports))


def _evaluation_tiles(evaluation: Evaluation) -> Markup:
    work = evaluation.work

    def per_100(count: int) -> str:
        return rounded(work.per_100(count))

    where = ON_HELD_OUT if work.held_out is not None else "on the images used to choose"
    values = [
        (f"{evaluation.boxes.overall['AP'] or 0:.3f}", "box AP"),
        *([(f"{evaluation.masks.overall['AP'] or 0:.3f}", "mask AP")] if evaluation.masks else []),
        *([(f"{evaluation.keypoints.overall['AP'] or 0:.3f}", "keypoint AP")] if evaluation.keypoints else []),
        (per_100(work.headline.corrections), f"corrections per 100 images at the suggested thresholds, {where}"),
        (per_100(work.objects), "boxes per 100 images to draw manually"),
        (per_100(work.total("flat").corrections), "corrections per 100 images, all classes at 0.5"),
    ]
    return tiles(values)


def _evaluated_classes(evaluation: Evaluation, lists: ImageLists) -> Markup:
    """The table of classes, with lists of the missed objects and false detections of each class."""
    table = evaluated_classes_table(evaluation)
    column = table.header.index("objects") + 1
    missed: dict[str, list[ReviewedBox]] = {}
    false: dict[str, list[ReviewedBox]] = {}
    for (truth, predicted), mistakes in evaluation.confusion.mistakes.items():
        if truth is not None:
            missed.setdefault(truth, []).extend(mistakes)
        if predicted is not None:
            false.setdefault(predicted, []).extend(mistakes)
    rows = tuple(
        (
            *row[:column],
            lists.of_boxes(f"{row[0]}: missed, or detected as another class", missed.get(row[0], ())),
            lists.of_boxes(f"{row[0]}: false detections", false.get(row[0], ())),
            *row[column:],
        )
        for row in table.rows
    )
    header = (*table.header[:column], "missed", "false", *table.header[column:])
    text = f"{capitalized(table.title)}. Click a count of missed or false boxes to see the images."
    return join(tag("p", text, class_="text"), html_table(Table("", header, rows), sortable=True))


def _curve_plot(evaluation: Evaluation) -> Markup:
    plot = Plot("Precision over recall, all classes", x_label="recall", y_label="precision")
    recall, precision = precision_recall(evaluation.overall)
    plot.line(list(zip(recall.tolist(), precision.tolist(), strict=True)), "a")
    for scheme, class_ in (("suggested", "b"), ("f1", "c"), ("flat", "d")):
        _cut_dot(plot, evaluation.work.total(scheme), class_, SCHEMES[scheme])
    keys = [("a", "one threshold for all classes"), *zip("bcd", SCHEMES.values(), strict=True)]
    return figure(plot.title, plot.draw(), legend(keys))


def _cut_dot(plot: Plot, cut: Cut, class_: str, words: str) -> None:
    if cut.precision is not None and cut.recall is not None:
        plot.dot(cut.recall, cut.precision, class_, f"{words}: precision {cut.precision:.2f}, recall {cut.recall:.2f}")


def _threshold_plot(evaluation: Evaluation) -> Markup:
    plot = Plot(
        "Precision, recall and F1 over the score threshold, all classes",
        x_label="score threshold",
        y_label="precision, recall, F1",
    )
    cuts = [(threshold, cut_at(evaluation.overall, threshold)) for threshold in _CURVE_THRESHOLDS]
    for name, class_ in (("precision", "a"), ("recall", "b"), ("f1", "c")):
        values = [(threshold, getattr(cut, name)) for threshold, cut in cuts]
        plot.line([(x, y) for x, y in values if y is not None], class_)
    return figure(plot.title, plot.draw(), legend([("a", "precision"), ("b", "recall"), ("c", "F1")]))


def _work_plot(evaluation: Evaluation) -> Markup:
    work = evaluation.work
    manual, best = work.per_100(work.objects), work.per_100(work.headline.corrections)
    top = round_up(max(1.5 * manual, 1))
    plot = Plot(
        "Corrections over the score threshold, one threshold for all classes",
        most=top,
        x_label="score threshold",
        y_label="corrections per 100 images",
    )
    cuts = [(threshold, cut_at(evaluation.overall, threshold)) for threshold in _CURVE_THRESHOLDS]
    for name, class_ in (("corrections", "a"), ("delete", "d"), ("draw", "b")):
        points = [(x, work.per_100(getattr(cut, name))) for x, cut in cuts]
        # Values above the plot are not drawn, except the last value before the line enters the plot.
        first = next((n for n, (_, y) in enumerate(points) if y <= top), len(points))
        plot.line(points[max(first - 1, 0) :], class_)
    plot.rule(y=manual, class_="e", label="manual")
    plot.rule(y=best, class_="c", label="suggested thresholds", below=True)
    plot.rule(x=work.common.threshold, class_="grid", label=f"{work.common.threshold:g}")
    keys = [("a", "corrections"), ("d", "false boxes to delete"), ("b", "missed boxes to draw")]
    return figure(plot.title, plot.draw(), legend(keys))


def _scores_plots(evaluation: Evaluation) -> list[Markup]:
    """The scores of correct and of false detections as two plots, each with its own scale."""
    figures = []
    for counts, class_, words in zip(_right_and_wrong(evaluation.overall), "bd", ("correct", "false"), strict=True):
        top = round_up(max(int(counts.max()), 1))
        title = f"Scores of {words} detections"
        plot = Plot(title, most=top, y_label="detections", x_label="score", ticks=5)
        _score_bars(plot, np.zeros_like(counts), counts, class_, words)
        threshold = evaluation.work.common.threshold
        plot.rule(x=threshold, class_="e", label=f"{threshold:g}")
        figures.append(figure(title, plot.draw()))
    return figures


def _right_and_wrong(ranking: Ranking) -> tuple[Counts, Counts]:
    edges = np.linspace(0, 1, _SCORE_BINS + 1)
    right, wrong = ranking.score[ranking.right], ranking.score[~ranking.right]
    return np.histogram(right, edges)[0], np.histogram(wrong, edges)[0]


def _score_bars(plot: Plot, low: Counts, high: Counts, class_: str, words: str) -> None:
    for number in np.flatnonzero(high > low).tolist():
        left, right = number / _SCORE_BINS, (number + 1) / _SCORE_BINS
        count = int(high[number] - low[number])
        title = f"{count:,} {words}, score {left:.2f} to {right:.2f}"
        plot.bar((left + 0.003, right - 0.003), (float(low[number]), float(high[number])), class_, title)


def _confusion(evaluation: Evaluation, lists: ImageLists) -> Markup:
    counts, mistakes = evaluation.confusion.counts, evaluation.confusion.mistakes
    involved = {name for pair in counts for name in pair if name is not None}
    weight = {name: evaluation.work.by_class[name].objects for name in involved}
    names: list[str | None] = [*sorted(involved, key=lambda name: (-weight[name], name))[:MAX_CONFUSED_CLASSES], None]
    most = {row: max((counts.get((row, column), 0) for column in names), default=0) or 1 for row in names}
    head = tag(
        "tr", tag("th", "truth \\ run"), *(tag("th", _class_cell(name, "missed"), class_="vertical") for name in names)
    )
    rows = []
    for row in names:
        cells = []
        for column in names:
            count = counts.get((row, column), 0)
            shade = f"--s:{0.1 + 0.9 * count / most[row]:.2f}" if count else None
            style_class = "hit" if row == column and row is not None else "miss"
            if (row, column) in mistakes:
                cell: str = lists.of_boxes(_mistake_title(row, column), mistakes[row, column])
            else:
                cell = f"{count:,}" if count else ""
            cells.append(tag("td", cell, style=shade, class_=style_class if count else None))
        rows.append(tag("tr", tag("th", _class_cell(row, "nothing there")), *cells))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="confusion")
    scrolling = tag("div", table, class_="scroll")
    pairs = [(truth, predicted) for truth, predicted in mistakes if truth is not None and predicted is not None]
    pairs.sort(key=lambda pair: -counts[pair])
    titles = [(_mistake_title(*pair), mistakes[pair]) for pair in pairs[:MAX_CONFUSIONS]]
    frequent = [join(f"{title}: ", lists.of_boxes(title, boxes)) for title, boxes in titles]
    lines = ["Rows are classes of the truth, columns are classes of the run. Click a count to see the images."]
    if len(involved) > MAX_CONFUSED_CLASSES:
        lines.append(f"The table shows the {MAX_CONFUSED_CLASSES} classes with the most objects, of {len(involved)}.")
    parts = [tag("p", " ".join(lines), class_="text"), scrolling]
    if frequent:
        parts += [
            tag("h3", "Most frequent confusions"),
            tag("ul", *(tag("li", line) for line in frequent), class_="pairs"),
        ]
    return join(*parts)


def _mistake_title(truth: str | None, predicted: str | None) -> str:
    if predicted is None:
        return f"{truth}: missed"
    return f"{predicted} where there is nothing" if truth is None else f"{truth} detected as {predicted}"


def _class_cell(name: str | None, background: str) -> Markup:
    return tag("span", name) if name is not None else tag("i", background)


def _class_plots(evaluation: Evaluation) -> Markup:
    by_class = evaluation.work.by_class
    names = [name for name, class_work in by_class.items() if class_work.objects and class_work.detections]
    names.sort(key=lambda name: -by_class[name].objects)
    many = [name for name in names if by_class[name].objects >= FEW_OBJECTS][:MAX_PLOTS]
    few = names[len(many) :][: MAX_PLOTS - len(many)]
    limited = f"The {MAX_PLOTS} classes with the most objects, of {len(names)}. " if len(names) > MAX_PLOTS else ""
    text = f"{limited}Left: precision over recall. Right: detections by score, correct below and false above."
    parts = [tag("p", text, class_="text"), panels(*(_class_plot(evaluation, name) for name in many), small=True)]
    if few:
        summary = f"{counted(len(few), 'class', 'classes')} with fewer than {FEW_OBJECTS} objects"
        if any(by_class[name].objects >= FEW_OBJECTS for name in few):
            summary = f"{counted(len(few), 'more class', 'more classes')}"
        parts.append(folded(summary, panels(*(_class_plot(evaluation, name) for name in few), small=True)))
    return join(*parts)


def _class_plot(evaluation: Evaluation, name: str) -> Markup:
    class_work, ranking = evaluation.work.by_class[name], evaluation.rankings[name]
    small = partial(Plot, width=220, height=170, ticks=2)
    curve = small(f"{name}: precision over recall", x_label="recall", y_label="precision")
    recall, precision = precision_recall(ranking)
    curve.line(list(zip(recall.tolist(), precision.tolist(), strict=True)), "a")
    _cut_dot(curve, class_work.suggested, "b", f"{class_work.suggested.threshold:g} (suggested)")
    if class_work.f1 is not None:
        _cut_dot(curve, class_work.f1, "c", f"{class_work.f1.threshold:g} (best F1)")
    right, wrong = _right_and_wrong(ranking)
    # Bins below the lowest score of a correct detection can be a hundred times as high as all others.
    top = round_up(max(int((right + wrong)[_SCORE_BINS // 5 :].max()), int(right.max()), 1))
    bars = small(f"{name}: detections by score", most=top, x_label="score", y_label="detections")
    _score_bars(bars, np.zeros_like(right), np.minimum(right, top), "b", "correct")
    _score_bars(bars, np.minimum(right, top), np.minimum(right + wrong, top), "d", "false")
    bars.rule(x=class_work.suggested.threshold, class_="e")
    hint = f"{counted(class_work.objects, 'object')}, threshold {class_work.suggested.threshold:g}"
    return figure(name, tag("div", curve.draw(), bars.draw(), class_="pair"), hint=hint)


def comparison_page(comparison: Comparison, to: str = "", history: History = NO_HISTORY) -> str:
    """The page of a comparison; see `evaluation_page`."""
    lists = ImageLists(comparison.reviewed, history.preview)
    facts = (
        comparison.info.model_version,
        counted(comparison.images, "annotated image"),
        f"annotations: {comparison.annotations}",
    )
    parts = [
        _result(comparison_sentence(comparison), comparison.info, to, history),
        _comparison_tiles(comparison),
        notes(comparison.notes),
        tag("h2", "Edits"),
        tag("div", html_table(_edits(comparison, lists)), _overlaps(comparison), class_="beside"),
        tag("h2", "Classes"),
        _compared_classes(comparison, lists),
        _class_bars(comparison),
        *(
            [tag("h2", "Relabeled"), html_table(relabeled_table(comparison), sortable=True)]
            if comparison.relabeled
            else []
        ),
        tag("h2", "Images"),
        html_table(compared_images_table(comparison)),
    ]
    return document("Comparison", facts, parts, lists.data())


def _comparison_tiles(comparison: Comparison) -> Markup:
    total = comparison.total
    values = [(share(total.counts[kind], total.shown), EDIT_WORDS[kind]) for kind in (KEPT, MOVED, RELABELED, DELETED)]
    values.append((f"{total.counts[ADDED]:,}", "objects added"))
    if total.objects:
        corrections = f"{counted(total.corrections, 'correction')} for {counted(total.objects, 'object')}"
        values.append((share(total.corrections, total.objects), corrections))
    if comparison.times is not None:
        values.append((duration(comparison.times.median), "median time per image"))
    return tiles(values)


def _edits(comparison: Comparison, lists: ImageLists) -> Table:
    """The table of edits, with lists of the images of each kind of edit."""
    table = edits_table(comparison)
    kind_of = {words: kind for kind, words in EDIT_WORDS.items()} | {ADDED_WORDS: ADDED}
    rows = []
    for words, count, share_of_shown in table.rows:
        boxes = [box for (_, kind), edited in comparison.edited.items() if kind == kind_of.get(words) for box in edited]
        rows.append((words, lists.of_boxes(words, boxes) if boxes else count, share_of_shown))
    return Table(table.title, table.header, tuple(rows))


def _overlaps(comparison: Comparison) -> Markup:
    counts = comparison.total.overlaps
    top = round_up(max(*counts, 1))
    plot = Plot(
        "How far boxes were moved: overlap (IoU) before and after",
        most=top,
        x_label="IoU of the detection and the final box",
        y_label="boxes kept or moved",
    )
    for number, count in enumerate(counts):
        left, right = number / BINS, (number + 1) / BINS
        color = _EDIT_COLORS[KEPT if left >= comparison.kept_iou - 1e-9 else MOVED]
        plot.bar((left + 0.003, right - 0.003), (0, count), color, f"{count:,} boxes, IoU {left:.2f} to {right:.2f}")
    plot.rule(x=comparison.kept_iou, class_="e")
    keys = [(_EDIT_COLORS[kind], EDIT_WORDS[kind]) for kind in (KEPT, MOVED)]
    return figure(plot.title, plot.draw(), legend(keys))


def _compared_classes(comparison: Comparison, lists: ImageLists) -> Markup:
    """The table of classes, with lists of the images of each kind of edit."""
    table = compared_classes_table(comparison)
    columns = {table.header.index(kind): kind for kind in EDITS if kind in table.header}
    rows = []
    for name, row in zip(comparison.by_class, table.rows, strict=True):
        cells = list(row)
        for column, kind in columns.items():
            if boxes := comparison.edited.get((name, kind)):
                cells[column] = lists.of_boxes(f"{row[0]}: {EDIT_WORDS[kind]}", boxes)
        rows.append(tuple(cells))
    text = "Click a count to see the images."
    return join(tag("p", text, class_="text"), html_table(Table("", table.header, tuple(rows)), sortable=True))


def _class_bars(comparison: Comparison) -> Markup:
    """A bar per class; the bars of classes with few objects and detections are folded."""
    names = list(comparison.by_class)[:MAX_BARS]
    sizes = {name: sum(comparison.by_class[name].counts.values()) for name in names}
    most = max(sizes.values(), default=0) or 1
    many = [name for name in names if sizes[name] >= FEW_OBJECTS]
    few = [name for name in names if sizes[name] < FEW_OBJECTS]
    parts = [legend((color, EDIT_WORDS[kind]) for kind, color in _EDIT_COLORS.items())]
    if many:
        parts.append(_bars(comparison, many, most))
    if few:
        summary = f"{counted(len(few), 'class', 'classes')} with fewer than {FEW_OBJECTS} objects and detections"
        parts.append(folded(summary, _bars(comparison, few, max(sizes[name] for name in few) or 1)))
    return join(*parts)


def _bars(comparison: Comparison, names: Sequence[str], most: int) -> Markup:
    rows = []
    for name in names:
        counts = comparison.by_class[name].counts
        parts = (
            tag(
                "i",
                title=f"{counts[kind]:,} {EDIT_WORDS[kind]}",
                class_=f"key {color}",
                style=f"width:{100 * counts[kind] / most:.2f}%",
            )
            for kind, color in _EDIT_COLORS.items()
            if counts[kind]
        )
        rows.append(tag("tr", tag("th", name or "(none)"), tag("td", *parts, class_="bars")))
    return tag("div", tag("table", tag("tbody", *rows), class_="stacks"), class_="scroll")
