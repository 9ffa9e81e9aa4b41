"""HTML and SVG text in which everything that is not markup already is escaped.

tag("td", "a < b", class_="name")  ->  <td class="name">a &lt; b</td>
"""

from __future__ import annotations

import html

#: Elements without content and end.
_VOID = {"meta", "br"}

#: Characters HTML documents cannot hold, or that change the direction of the text around them.
_FORBIDDEN = {
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)], "\ufffd"),
    **dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
    0x09: " ",
    0x0A: " ",
    0x0D: " ",
}


class Markup(str):
    """Text that is markup and goes out as it is."""

    __slots__ = ()


def tag(name: str, /, *children: str | Markup, **attributes: str | int | float | None) -> Markup:
    """An element. Attributes are spelled with `_` for `-` and may end in one (`class_`); None leaves one out."""
    stated = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{stated}>")
    return Markup(f"<{name}{stated}>{join(*children)}</{name}>")


def join(*children: str | Markup) -> Markup:
    """Children one after the other, text escaped."""
    return Markup("".join(child if isinstance(child, Markup) else text(child) for child in children))


def text(value: str) -> Markup:
    """Text, escaped; what no document may hold is replaced."""
    return Markup(html.escape(value.translate(_FORBIDDEN), quote=True))


def _plain(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
