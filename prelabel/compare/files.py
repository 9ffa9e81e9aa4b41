"""The files a comparison becomes, and how they are written."""

from __future__ import annotations

import json

from prelabel.compare.page import page
from prelabel.compare.result import Comparison
from prelabel.errors import ConfigError
from prelabel.storage import Storage, join, redact

JSON, HTML, THRESHOLDS = "comparison.json", "comparison.html", "thresholds.yaml"


def write_comparison(done: Comparison, to: str, storage: Storage) -> tuple[str, ...]:
    """Write `comparison.json`, `comparison.html` and `thresholds.yaml` below a folder.

    Returns:
        Their addresses, in this order.

    Raises:
        ConfigError: There is a file where the folder should be.
        StoreError: They cannot be written.
    """
    if storage.kind(to) == "file":
        raise ConfigError(f"{redact(to)} is a file; compare writes several files into a folder")
    contents = {
        # Escaped to ASCII: names of files may hold what UTF-8 cannot.
        JSON: json.dumps(done.to_json(), indent=1, allow_nan=False) + "\n",
        HTML: page(done),
        THRESHOLDS: thresholds(done),
    }
    for name, text in contents.items():
        storage.publish(join(to, name), text.encode())
    return tuple(join(to, name) for name in contents)


def thresholds(done: Comparison) -> str:
    """The suggested thresholds as `--class-threshold` takes them: those of classes of which something was shown."""
    common = f"{done.work.common.threshold:g}"
    lines = [
        f"# Score thresholds with the fewest corrections on {done.images} images that people worked on.",
        f"# Classes that are not here: --score-threshold {common}",
    ]
    shown = [name for name, one in done.by_class.items() if one.shown]
    lines += [f"{_quoted(name)}: {done.work.by_class[name].suggested.threshold!r}" for name in shown]
    return "\n".join(lines if shown else [*lines, "{}"]) + "\n"


def _quoted(text: str) -> str:
    inside = "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{inside}"'
