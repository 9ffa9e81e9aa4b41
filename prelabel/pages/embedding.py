"""Puts styles, scripts and data into one HTML file that a browser opens from disk and that loads nothing else.

Names and labels come from files and models that cannot be trusted. They reach a page as escaped markup (`markup`), or
as JSON in a block that is never executed (`embedded_json`). As a second line of defense, the Content-Security-Policy of
the page allows only the scripts whose hashes it names (`content_hash`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any


def style_sheet(package: str, *names: str) -> str:
    """The shared style sheet, followed by the style sheets of a page.

    Args:
        package: The package that holds the page's style sheets.
        names: Paths of the page's style sheets below the package, in order.
    """
    own = [resource(package, name) for name in names]
    return "".join([resource("prelabel.pages", "base.css"), *own])


def resource(package: str, name: str) -> str:
    """The text of a file below a package; `name` may have folders."""
    return files(package).joinpath(*name.split("/")).read_text(encoding="utf-8")


def embedded_json(value: Any) -> str:
    """JSON in ASCII that can neither end the HTML element it is in nor begin another.

    Raises:
        ValueError: A number has no JSON form (NaN, infinity).
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content_hash(text: str) -> str:
    """A script or style as a Content-Security-Policy names it: `'sha256-...'`."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
