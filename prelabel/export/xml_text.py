"""XML as text, element by element, for files that are too large for a tree.

tag("box", {"label": 'a "b"'}, "x < y")  ->  <box label='a "b"'>x &lt; y</box>
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def fits_xml(text: str) -> bool:
    """Whether XML can hold the text; control characters and undecodable bytes it cannot, not even escaped."""
    return _ILLEGAL.search(text) is None


def opening(name: str, attributes: Mapping[str, object]) -> str:
    """`<name key="value">`; line ends and tabs in values survive the reader's normalisation."""
    stated = "".join(f" {key}={quoteattr(str(value))}" for key, value in attributes.items())
    return f"<{name}{stated}>"


def tag(name: str, attributes: Mapping[str, object] | None = None, text: str = "") -> str:
    """A whole element with text in it, escaped."""
    return f"{opening(name, attributes or {})}{escape(text, _LINE_ENDS)}</{name}>"


#: A reader turns a bare carriage return into a line feed.
_LINE_ENDS = {"\r": "&#13;"}
