"""Builds HTML and SVG elements; all text in them is escaped unless it is markup already.

tag("td", "a < b", class_="name")  ->  <td class="name">a &lt; b</td>
"""

from __future__ import annotations

import html

#: Elements without content and without an end tag.
_VOID = {"meta", "br"}

#: Replacements for characters that HTML documents must not contain, or that change the direction of the text around
#: them.
_FORBIDDEN = {
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)], "\ufffd"),
    **dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
    0x09: " ",
    0x0A: " ",
    0x0D: " ",
}


class Markup(str):
    """Text that is markup already and is not escaped."""

    __slots__ = ()


def tag(name: str, /, *children: str | Markup, **attributes: str | int | float | None) -> Markup:
    """An element with escaped attributes and children.

    Args:
        name: Name of the element.
        children: Content of the element, in order.
        attributes: Attributes by name, with `_` for `-`; a trailing `_` is dropped (`class_`). None omits an attribute.
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{attribute_text}>")
    return Markup(f"<{name}{attribute_text}>{join(*children)}</{name}>")


def join(*children: str | Markup) -> Markup:
    """Children joined without a separator; text is escaped."""
    return Markup("".join(child if isinstance(child, Markup) else text(child) for child in children))


def text(value: str) -> Markup:
    """Escaped text, without the characters that documents must not contain."""
    return Markup(html.escape(value.translate(_FORBIDDEN), quote=True))


def _plain(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
