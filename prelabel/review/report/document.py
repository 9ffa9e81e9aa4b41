"""The HTML document of a report: one file that opens from disk, runs only its own script and loads nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prelabel.pages.embedding import content_hash, embedded_json, resource, style_sheet
from prelabel.pages.markup import Markup, join, tag
from prelabel.review.report.tables import Table

_PACKAGE = "prelabel.review.report"


def document(
    heading: str,
    facts: Iterable[str],
    parts: Iterable[str | Markup],
    data: Any,
    *,
    pictures: str = "file:",
    style: str = "",
) -> str:
    """A complete HTML document.

    Args:
        heading: Heading of the page.
        facts: Short facts below the heading; untrusted text, which is escaped.
        parts: Content of the page.
        data: JSON for the script: the lists of images (`image_lists`).
        pictures: Where pictures may come from: files on this machine, or the page itself (`data:`).
        style: A style sheet that follows that of all reports.
    """
    script = "\n" + resource(_PACKAGE, "report.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"img-src {pictures}",
            "style-src 'unsafe-inline'",
            f"script-src {content_hash(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    facts = tuple(facts)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{heading}: {facts[0]}" if facts else heading),
        tag("style", Markup("\n" + style_sheet(_PACKAGE, "report.css") + style)),
    )
    body = tag(
        "body",
        tag(
            "header", tag("h1", heading), tag("p", *(tag("span", fact) for fact in facts), class_="run"), class_="head"
        ),
        tag("main", *parts),
        _dialog(),
        tag("script", Markup(embedded_json(data)), id="image-lists", type="application/json"),
        tag("script", Markup(script)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _dialog() -> Markup:
    """The dialog that shows one list of images; `report.js` fills it."""
    title = tag("h2", "", id="images-title")
    buttons = tag(
        "p",
        tag("button", "Copy names", id="images-copy", type="button", class_="quiet"),
        tag("button", "Close", id="images-close", type="button", class_="quiet"),
    )
    header = tag("header", title, buttons)
    hint = tag("p", "", id="images-hint", class_="hint")
    return tag(
        "dialog",
        header,
        hint,
        tag("ul", id="images-list", class_="images-list"),
        id="images",
        aria_labelledby="images-title",
    )


def tiles(values: Iterable[tuple[str, str]]) -> Markup:
    """Values side by side, each with its meaning below."""
    return tag(
        "ul",
        *(tag("li", tag("div", tag("strong", value), tag("span", meaning))) for value, meaning in values),
        class_="tiles",
    )


def result(sentence: str, title: str, commands: Iterable[tuple[str, str]]) -> Markup:
    """The result in one sentence, and commands to copy that use it.

    Args:
        sentence: The result.
        title: What the commands are for.
        commands: Commands, each after its purpose.
    """
    copy = tag("button", "Copy", type="button", class_="quiet copy")
    lines = [
        join(tag("p", purpose, class_="hint"), tag("div", tag("code", command), copy, class_="command"))
        for purpose, command in commands
    ]
    return tag("section", tag("p", sentence, class_="sentence"), tag("p", title), *lines, class_="panel result")


def notes(lines: Iterable[str]) -> Markup:
    """Notes, one per line, each beginning with a capital."""
    return join(*(tag("p", capitalized(line), class_="note") for line in lines))


def capitalized(line: str) -> str:
    """A line that begins with a capital."""
    return line[:1].upper() + line[1:]


def figure(title: str, *content: Markup, hint: str = "") -> Markup:
    """A panel with a title and an optional hint beside it."""
    caption = tag("figcaption", title, *([tag("span", hint, class_="hint")] if hint else []))
    return tag("figure", caption, *content, class_="panel")


def panels(*figures: Markup, small: bool = False) -> Markup:
    """Panels in a grid, as many in a row as fit."""
    return tag("div", *figures, class_="panels small" if small else "panels")


def folded(summary: str, *content: Markup) -> Markup:
    """Content that is folded until a click on the summary."""
    return tag("details", tag("summary", summary), *content, class_="charts")


def html_table(table: Table, *, sortable: bool = False) -> Markup:
    """An HTML table whose first column stays in view; the first cell of each row is a heading."""
    styles = ["words" if _has_words(column) else None for column in zip(*table.rows, strict=True)]
    header = (tag("th", cell, class_=style) for cell, style in zip(table.header, styles, strict=False))
    head = tag("thead", tag("tr", *header)) if table.header else Markup("")
    rows = (
        tag(
            "tr",
            *(
                tag("td" if column else "th", cell, class_=style if column else None)
                for column, (cell, style) in enumerate(zip(row, styles, strict=True))
            ),
        )
        for row in table.rows
    )
    style_class = "sortable" if sortable else None if table.header else "facts"
    content = tag("table", head, tag("tbody", *rows), class_=style_class)
    return tag("div", content, class_="scroll tall" if len(table.rows) > 20 else "scroll")


def _has_words(column: Iterable[str]) -> bool:
    """Whether a column has words, which are aligned to the left: any cell that begins with a letter."""
    return any(not isinstance(cell, Markup) and cell[:1].isalpha() for cell in column)
