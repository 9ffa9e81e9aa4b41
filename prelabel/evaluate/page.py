"""The result as one HTML page: no script, nothing from the network, light and dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prelabel.evaluate.document import cards, document, table
from prelabel.evaluate.evaluation import Evaluation
from prelabel.evaluate.markup import Markup, join, tag
from prelabel.evaluate.outcomes import Ranking
from prelabel.evaluate.style import STYLE
from prelabel.evaluate.svg import Plot, round_up
from prelabel.evaluate.tables import SCHEMES, UNSEEN, class_lines, class_table, coco_table, images_table, work_lines
from prelabel.evaluate.tables import work_table as work_table_of
from prelabel.evaluate.thresholds import Cut, at, precision_recall

#: Classes that get a plot of their own; all are in the table.
MOST_PLOTS = 60

#: Classes the confusion table has rows and columns for; what the others do is listed below it.
MOST_CONFUSED = 24

_BINS = 20

Counts = npt.NDArray[np.intp]


def page(done: Evaluation) -> str:
    """The whole document. Names of classes, files and models are untrusted text and escaped."""
    title = f"{done.info.model_version} against {done.truth}"
    parts = [
        _cards(done),
        tag("h2", "Work"),
        table(work_table_of(done)),
        *(tag("p", line) for line in work_lines(done)),
        tag("div", _work_plot(done), _scores_plot(done), class_="plots"),
        tag("h2", "Precision and recall"),
        tag("div", _curve_plot(done), _threshold_plot(done), class_="plots"),
        tag("h2", "COCO"),
        tag("div", table(coco_table(done)), table(images_table(done)), class_="plots"),
        tag("h2", "Confusion at the suggested thresholds"),
        _confusion(done),
        tag("h2", "Classes"),
        table(class_table(done)),
        _class_plots(done),
    ]
    return document(title, "Evaluation", (*done.notes, *class_lines(done)), parts, STYLE)


def _cards(done: Evaluation) -> Markup:
    work = done.work
    values = [
        (f"{done.boxes.overall['AP'] or 0:.3f}", "box AP"),
        *([(f"{done.masks.overall['AP'] or 0:.3f}", "mask AP")] if done.masks else []),
        (
            f"{work.per_100(work.headline.corrections):,.0f}",
            "corrections per 100 images, suggested thresholds, "
            + (UNSEEN if work.unseen is not None else "on the images they were chosen on"),
        ),
        (f"{work.per_100(work.total('flat').corrections):,.0f}", "at 0.5 for all classes"),
        (f"{work.per_100(work.objects):,.0f}", "drawing all by hand"),
    ]
    return cards(values)


def _curve_plot(done: Evaluation) -> Markup:
    plot = Plot("Precision over recall, all classes", x_label="recall", y_label="precision")
    recall, precision = precision_recall(done.together)
    plot.line(list(zip(recall.tolist(), precision.tolist(), strict=True)), "a")
    for scheme, class_ in (("suggested", "b"), ("f1", "c"), ("flat", "d")):
        _cut_dot(plot, done.work.total(scheme), class_, SCHEMES[scheme])
    legend = [("a", "one threshold for all classes"), ("b", SCHEMES["suggested"]), ("c", SCHEMES["f1"]), ("d", "0.5")]
    return tag("figure", plot.draw(), plot.legend(legend))


def _cut_dot(plot: Plot, cut: Cut, class_: str, words: str) -> None:
    if cut.precision is not None and cut.recall is not None:
        plot.dot(cut.recall, cut.precision, class_, f"{words}: precision {cut.precision:.2f}, recall {cut.recall:.2f}")


def _threshold_plot(done: Evaluation) -> Markup:
    plot = Plot("Precision, recall and F1 over the score threshold, all classes", x_label="score threshold")
    for name, class_ in (("precision", "a"), ("recall", "b"), ("f1", "c")):
        cuts = [(threshold, at(done.together, threshold)) for threshold in _fine_grid()]
        values = [(threshold, getattr(cut, name)) for threshold, cut in cuts]
        plot.line([(x, y) for x, y in values if y is not None], class_)
    return tag("figure", plot.draw(), plot.legend([("a", "precision"), ("b", "recall"), ("c", "F1")]))


def _work_plot(done: Evaluation) -> Markup:
    work = done.work
    by_hand, best = work.per_100(work.objects), work.per_100(work.headline.corrections)
    top = round_up(max(1.5 * by_hand, 1))
    plot = Plot(
        "Corrections per 100 images over the score threshold, one threshold for all classes",
        y=(0, top),
        x_label="score threshold",
        y_label="corrections per 100 images",
    )
    cuts = [(threshold, at(done.together, threshold)) for threshold in _fine_grid()]
    for name, class_ in (("corrections", "a"), ("delete", "d"), ("draw", "b")):
        shown = [(x, work.per_100(getattr(cut, name))) for x, cut in cuts]
        # What lies above the plot is left out, but for the point at which a line comes down into it.
        first = next((n for n, (_, y) in enumerate(shown) if y <= top), len(shown))
        plot.line(shown[max(first - 1, 0) :], class_)
    plot.rule(y=by_hand, class_="e", label="by hand")
    plot.rule(y=best, class_="c", label="suggested thresholds", below=True)
    plot.rule(x=work.common.threshold, class_="grid", label=f"{work.common.threshold:g}")
    return tag("figure", plot.draw(), plot.legend([("a", "corrections"), ("d", "to delete"), ("b", "to draw")]))


def _scores_plot(done: Evaluation) -> Markup:
    right, wrong = _histogram(done.together)
    parts = []
    for counts, class_, words in ((right, "b", "right"), (wrong, "d", "wrong")):
        top = round_up(max(int(counts.max()), 1))
        plot = Plot(f"Scores of {words} detections", y=(0, top), y_label=words, x_label="score", height=165, ticks=2)
        _bars(plot, np.zeros_like(counts), counts, class_, words)
        plot.rule(x=done.work.common.threshold, class_="e")
        parts.append(plot.draw())
    legend = plot.legend([("b", "right detections by score"), ("d", "wrong ones, on a scale of their own")])
    return tag("figure", *parts, legend)


def _histogram(one: Ranking) -> tuple[Counts, Counts]:
    edges = np.linspace(0, 1, _BINS + 1)
    return np.histogram(one.score[one.right], edges)[0], np.histogram(one.score[~one.right], edges)[0]


def _bars(plot: Plot, low: Counts, high: Counts, class_: str, words: str) -> None:
    for number in np.flatnonzero(high > low).tolist():
        left, right = number / _BINS, (number + 1) / _BINS
        count = int(high[number] - low[number])
        title = f"{count:,} {words}, score {left:.2f} to {right:.2f}"
        plot.bar((left + 0.003, right - 0.003), (float(low[number]), float(high[number])), class_, title)


def _confusion(done: Evaluation) -> Markup:
    counts = done.confusion.counts
    involved = {name for pair in counts for name in pair if name is not None}
    weight = {name: done.work.by_class[name].objects for name in involved}
    names: list[str | None] = [*sorted(involved, key=lambda name: (-weight[name], name))[:MOST_CONFUSED], None]
    most = {row: max((counts.get((row, column), 0) for column in names), default=0) or 1 for row in names}
    head = tag("tr", tag("th", "truth \\ run"), *(tag("th", _shown(name, "missed"), class_="turned") for name in names))
    rows = []
    for row in names:
        cells = []
        for column in names:
            count = counts.get((row, column), 0)
            shade = f"--s:{0.1 + 0.9 * count / most[row]:.2f}" if count else None
            right = "hit" if row == column and row is not None else "miss"
            cells.append(tag("td", f"{count:,}" if count else "", style=shade, class_=right if count else None))
        rows.append(tag("tr", tag("th", _shown(row, "nothing there"), class_="name"), *cells))
    grid = tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="confusion"), class_="wide")
    pairs = [(pair, n) for pair, n in counts.items() if None not in pair and pair[0] != pair[1]]
    pairs.sort(key=lambda item: -item[1])
    said = [f"{true} taken for {found}: {n}" for (true, found), n in pairs[:15]]
    lines = [tag("p", "Most frequent: " + "; ".join(said))] if said else []
    if len(involved) > MOST_CONFUSED:
        lines.insert(0, tag("p", f"The {MOST_CONFUSED} classes with most objects of {len(involved)}."))
    return join(grid, *lines)


def _shown(name: str | None, background: str) -> Markup:
    return tag("span", name) if name is not None else tag("i", background)


def _class_plots(done: Evaluation) -> Markup:
    names = [name for name, one in done.work.by_class.items() if one.objects and one.detections]
    names.sort(key=lambda name: -done.work.by_class[name].objects)
    figures = [_class_plot(done, name) for name in names[:MOST_PLOTS]]
    said = f"The {MOST_PLOTS} classes with most objects of {len(names)}. " if len(names) > MOST_PLOTS else ""
    words = "Left precision over recall, right detections by score (right ones below, wrong ones above them)."
    return join(tag("p", said + words), tag("div", *figures, class_="classes"))


def _class_plot(done: Evaluation, name: str) -> Markup:
    one, ranking = done.work.by_class[name], done.rankings[name]
    curve = Plot(f"{name}: precision over recall", width=190, height=130, ticks=2)
    recall, precision = precision_recall(ranking)
    curve.line(list(zip(recall.tolist(), precision.tolist(), strict=True)), "a")
    _cut_dot(curve, one.suggested, "b", f"{one.suggested.threshold:g} (suggested)")
    if one.f1 is not None:
        _cut_dot(curve, one.f1, "c", f"{one.f1.threshold:g} (best F1)")
    right, wrong = _histogram(ranking)
    # Bins below the first right detection can be a hundred times as high as all others.
    top = round_up(max(int((right + wrong)[_BINS // 5 :].max()), int(right.max()), 1))
    bars = Plot(f"{name}: detections by score", y=(0, top), width=190, height=130, ticks=2)
    _bars(bars, np.zeros_like(right), np.minimum(right, top), "b", "right")
    _bars(bars, np.minimum(right, top), np.minimum(right + wrong, top), "d", "wrong")
    bars.rule(x=one.suggested.threshold, class_="e")
    return tag("figure", tag("figcaption", f"{name} ({one.objects:,})"), curve.draw(), bars.draw())


def _fine_grid() -> Sequence[float]:
    return [number / 200 for number in range(201)]
