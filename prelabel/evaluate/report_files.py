"""Writing the files of a report, whatever it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prelabel.errors import ConfigError
from prelabel.storage import Storage, join, redact


def as_json(values: Any) -> str:
    """Indented strict JSON, escaped to ASCII: names of files may hold what UTF-8 cannot."""
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def write_files(contents: Mapping[str, str], to: str, storage: Storage, *, command: str) -> tuple[str, ...]:
    """Publish texts by name below a folder, in order, and return their addresses.

    Raises:
        ConfigError: There is a file where the folder should be.
        StoreError: They cannot be written.
    """
    if storage.kind(to) == "file":
        raise ConfigError(f"{redact(to)} is a file; {command} writes several files into a folder")
    for name, text in contents.items():
        storage.publish(join(to, name), text.encode())
    return tuple(join(to, name) for name in contents)
