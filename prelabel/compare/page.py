"""The result as one HTML page: no script, nothing from the network."""

from __future__ import annotations

from prelabel.compare.fates import ADDED, DELETED, KEPT, MOVED, RELABELLED, UNLABELLED
from prelabel.compare.result import BINS, Comparison
from prelabel.compare.tables import WORDS, class_table, fates_table, images_table, relabelled_table
from prelabel.evaluate.document import cards, document, table
from prelabel.evaluate.markup import Markup, join, tag
from prelabel.evaluate.style import STYLE
from prelabel.evaluate.svg import Plot, round_up

#: Classes with a bar of their own; all are in the table.
MOST_BARS = 25

_COLOURS = {KEPT: "b", MOVED: "a", RELABELLED: "c", UNLABELLED: "f", DELETED: "d", ADDED: "e"}

_STYLE = (
    STYLE
    + """.key.e { background: var(--e); } .bar.e { fill: var(--e); }
.key.f { background: #8a8a8a; } .bar.f { fill: #8a8a8a; }
.stacks { width: min(100%, 50rem); } .stacks td { width: 100%; white-space: nowrap; text-align: left; font-size: 0; }
.stacks .key { height: .9rem; border-radius: 0; }
"""
)


def page(done: Comparison) -> str:
    """The whole document. Names of classes, files and models are untrusted text and escaped."""
    title = f"{done.info.model_version} and what people made of it: {done.annotations}"
    parts = [
        _cards(done),
        tag("div", table(fates_table(done)), table(images_table(done)), class_="plots"),
        tag("h2", "How far boxes were moved"),
        tag("div", _overlaps(done), class_="plots"),
        tag("h2", "Classes"),
        _bars(done),
        table(class_table(done)),
        *([tag("h2", "Given another class"), table(relabelled_table(done))] if done.relabelled else []),
    ]
    return document(title, "Comparison", done.notes, parts, _STYLE)


def _cards(done: Comparison) -> Markup:
    total = done.total
    shown = max(total.shown, 1)
    values = [(f"{total.counts[fate] / shown:.0%}", WORDS[fate]) for fate in (KEPT, MOVED, RELABELLED, DELETED)]
    values.append((f"{total.counts[ADDED]:,}", "objects added"))
    if total.objects:
        values.append((f"{done.corrections / total.objects:.0%}", "corrections, of drawing all by hand"))
    if done.times is not None:
        values.append((f"{done.times.median:,.0f} s", "an image (median)"))
    return cards(values)


def _overlaps(done: Comparison) -> Markup:
    counts = done.total.overlaps
    top = round_up(max(*counts, 1))
    plot = Plot(
        "Overlap (IoU) of detections with what people left of them",
        y=(0, top),
        x_label="IoU",
        y_label="boxes kept or moved",
    )
    for place, count in enumerate(counts):
        left, right = place / BINS, (place + 1) / BINS
        colour = _COLOURS[KEPT if left >= done.kept_iou - 1e-9 else MOVED]
        plot.bar((left + 0.003, right - 0.003), (0, count), colour, f"{count:,} boxes, IoU {left:.2f} to {right:.2f}")
    plot.rule(x=done.kept_iou, class_="e")
    return tag("figure", plot.draw(), plot.legend([(_COLOURS[KEPT], WORDS[KEPT]), (_COLOURS[MOVED], WORDS[MOVED])]))


def _bars(done: Comparison) -> Markup:
    names = list(done.by_class)[:MOST_BARS]
    most = max((sum(done.by_class[name].counts.values()) for name in names), default=0) or 1
    rows = []
    for name in names:
        counts = done.by_class[name].counts
        parts = (
            tag(
                "i",
                title=f"{counts[fate]:,} {WORDS[fate]}",
                class_=f"key {colour}",
                style=f"width:{_percent(counts[fate], most)}",
            )
            for fate, colour in _COLOURS.items()
            if counts[fate]
        )
        rows.append(tag("tr", tag("th", name or "(none)", class_="name"), tag("td", *parts, class_="bars")))
    legend = Plot("").legend([(colour, WORDS[fate]) for fate, colour in _COLOURS.items()])
    return join(legend, tag("div", tag("table", tag("tbody", *rows), class_="stacks"), class_="wide"))


def _percent(count: int, most: int) -> str:
    return f"{100 * count / most:.2f}%"
