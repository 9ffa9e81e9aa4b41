"""What was exported from a run: a small file for each export beside it, so that it is known later what people saw.

    OUT/exports/export-20261128T151400.123Z-1f0c9a2e.json

They are notes for `compare`. Nothing else reads them, no run depends on them, and where they cannot be written (a run
that is read-only) the export is as good without.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from prelabel.errors import StoreError
from prelabel.storage import Storage, describe, join, redact
from prelabel.store.run import write_json

EXPORTS = "exports"
_NAME = re.compile(r"export-\d{8}T\d{6}(\.\d+)?Z-[0-9a-f]{8}\.json")
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """One export.

    Attributes:
        run_id: Of the run exported.
        kind: `coco`, `label-studio`, `push label-studio`, ...
        to: Where to, without secrets.
        at: When, UTC, ISO 8601.
        model_version: As annotation tools were told it.
        selection: The rules by which detections were chosen: the fields of `Selection`, all of them.
        shapes: How they were drawn, as far as the format has a choice.
        images: Images written.
        detections: Detections written.
        left_out: How many of the detections chosen were not written, by reason.
    """

    run_id: str
    kind: str
    to: str
    at: str
    model_version: str
    selection: Mapping[str, Any]
    shapes: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0
    detections: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


def now() -> str:
    """The time, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def write_export(output: str, storage: Storage, record: ExportRecord) -> None:
    """Put a record beside a run. Raises StoreError where it cannot be written."""
    stamp = re.sub(r"[-:]|\+00:00$", "", record.at)
    url = join(output, EXPORTS, f"export-{stamp}Z-{secrets.token_hex(4)}.json")
    write_json(url, storage, {"schema_version": _VERSION, **asdict(record)})


def read_exports(output: str, storage: Storage, run_id: str) -> tuple[list[ExportRecord], list[str]]:
    """The records of a run, the latest last, and a line for each file that is none after all."""
    records: list[ExportRecord] = []
    notes: list[str] = []
    folder = join(output, EXPORTS)
    try:
        names = [name for name in storage.names(folder) if _NAME.fullmatch(name)]
    except (OSError, StoreError) as error:
        return [], [f"{redact(folder)} cannot be listed: {describe(error)}"]
    for name in sorted(names):
        try:
            values = json.loads(storage.read(join(folder, name)))
            version = values.pop("schema_version")
            if version != _VERSION:
                raise ValueError(f"schema version {version!r}")
            record = _record_of(values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            notes.append(f"{redact(join(folder, name))} is no record of an export: {describe(error)}")
            continue
        if record.run_id == run_id:
            records.append(record)
    return sorted(records, key=lambda record: record.at), notes


def _record_of(values: Mapping[str, Any]) -> ExportRecord:
    """A record of what a file says. Raises ValueError, and TypeError where something is missing."""
    record = ExportRecord(**{key: values[key] for key in ExportRecord.__dataclass_fields__ if key in values})
    for name in ("run_id", "kind", "to", "at", "model_version"):
        _require(isinstance(getattr(record, name), str), name, "text")
    for name in ("selection", "shapes", "left_out"):
        _require(isinstance(getattr(record, name), dict), name, "an object")
    for name, count in {"images": record.images, "detections": record.detections, **record.left_out}.items():
        _require(isinstance(count, int) and count >= 0, name, "a number of images or detections")
    for name, value in record.shapes.items():
        # Up to a size that no picture has: a longer number is no float.
        _require(not isinstance(value, int | float) or 0 <= value <= 1e9, name, "0 or more")
    return record


def _require(holds: bool, name: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}")
