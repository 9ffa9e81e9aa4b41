"""What every page of a report has in common: the document around it, cards of figures, tables."""

from __future__ import annotations

from collections.abc import Iterable

from prelabel.evaluate.markup import Markup, tag
from prelabel.evaluate.tables import Table


def document(title: str, heading: str, notes: Iterable[str], parts: Iterable[str | Markup], style: str) -> str:
    """A whole HTML document without script that loads nothing.

    Args:
        title: Stands in the head and below the heading; untrusted text, escaped.
        heading: Of the page.
        notes: A paragraph each; untrusted text, escaped.
        parts: What follows.
        style: The style sheet, our own.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("h1", heading),
        tag("p", title, class_="lead"),
        *(tag("p", note, class_="note") for note in notes),
        *parts,
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def cards(values: Iterable[tuple[str, str]]) -> Markup:
    """Figures side by side, each with its words below."""
    return tag("div", *(tag("div", tag("b", value), tag("span", words)) for value, words in values), class_="cards")


def table(one: Table) -> Markup:
    """A table; the first cell of a row is its heading."""
    head = tag("thead", tag("tr", *(tag("th", cell) for cell in one.header))) if one.header else Markup("")
    rows = (
        tag(
            "tr",
            *(tag("td" if place else "th", cell, class_=None if place else "name") for place, cell in enumerate(row)),
        )
        for row in one.rows
    )
    return tag("div", tag("table", head, tag("tbody", *rows)), class_="wide")
