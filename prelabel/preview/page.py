"""`index.html` from its template and the data: one file that a browser opens from disk.

Names and labels come from files and models that nobody vouches for. They reach the page as JSON in a block that is
never run, with every `<`, `>` and `&` written as `\\u003c` and so on, and from there as text, never as markup. Should
that ever fail, the page's policy (Content-Security-Policy) runs the one script and style whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

#: In the head of every preview; a page without it is somebody else's and is not overwritten.
GENERATOR = '<meta name="generator" content="prelabel preview">'

#: In this order, within one function: none leaves a name behind.
_SCRIPTS = ("model.js", "dom.js", "overlay.js", "overview.js", "grid.js", "viewer.js", "main.js")


def page(data: Mapping[str, Any]) -> str:
    """The whole page; `data` as `prelabel.preview.content` makes it. Raises ValueError for a number JSON lacks."""
    style = _template("page.css")
    script = '(() => {\n"use strict";\n' + "\n".join(_template(name) for name in _SCRIPTS) + "})();\n"
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src 'self' file: data:",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    # The data last: what stands in it is not looked at for placeholders.
    parts = {"<!--policy-->": policy, "<!--generator-->": GENERATOR, "/*style*/": style, "/*script*/": script}
    html = _template("index.html")
    for placeholder, text in parts.items():
        html = html.replace(placeholder, text, 1)
    before, placeholder, after = html.partition("<!--data-->")
    return before + embedded_json(data) + after


def embedded_json(value: Any) -> str:
    """JSON in ASCII that can stand in any place of an HTML page without ending it or beginning anything."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return (files("prelabel.preview") / "template" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
