"""Records of the exports, pushes and previews of a run: a small file for each, which says what people saw.

    OUT/exports/export-20261128T151400.123Z-1f0c9a2e.json

Only `compare` and `evaluate` read them. Nothing else depends on them: if a record cannot be written (a read-only run),
the export is complete without it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prelabel.errors import StoreError
from prelabel.storage.address import Address, AddressLike, describe
from prelabel.storage.files import Storage
from prelabel.store.run import write_json

EXPORTS = "exports"

#: The kind of records of previews, which annotators do not work on.
PREVIEW = "preview"

_NAME = re.compile(r"export-\d{8}T\d{6}(\.\d+)?Z-[0-9a-f]{8}\.json")
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """One export.

    Attributes:
        run_id: Id of the exported run.
        kind: `coco`, `label-studio`, `push label-studio`, `preview`, ...
        to: Destination, without secrets.
        at: Time of the export, UTC, ISO 8601.
        model_version: Model version as written for the annotation tool.
        selection: The rules by which detections were selected: all fields of `Selection`.
        shapes: Options on the shapes, if the format has any.
        images: Number of images written.
        detections: Number of detections written.
        dropped: Number of selected detections that were not written, by reason.
        listed: `images` and `part`, the list of images that was exported; empty, and not in the file, if all were.
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
    dropped: Mapping[str, int] = field(default_factory=dict)
    listed: Mapping[str, str] = field(default_factory=dict)


def write_export(output: AddressLike, storage: Storage, record: ExportRecord) -> None:
    """Write a record into a run's output.

    Raises:
        StoreError: It cannot be written.
    """
    stamp = re.sub(r"[-:]|\+00:00$", "", record.at)
    file = Address.of_folder(output).join(EXPORTS, f"export-{stamp}Z-{secrets.token_hex(4)}.json")
    values = asdict(record)
    if not record.listed:
        del values["listed"]
    write_json(file, storage, {"schema_version": _VERSION, **values})


def read_exports(output: AddressLike, storage: Storage, run_id: str) -> tuple[list[ExportRecord], list[str]]:
    """Return the records of a run, the latest last, and a message per file that is not a valid record."""
    records: list[ExportRecord] = []
    notes: list[str] = []
    folder = Address.of_folder(output).join(EXPORTS)
    try:
        names = [name for name in storage.names(folder) if _NAME.fullmatch(name)]
    except (OSError, StoreError) as error:
        return [], [f"{folder} cannot be listed: {describe(error)}"]
    for name in sorted(names):
        try:
            values = json.loads(storage.read(folder.join(name)))
            version = values.pop("schema_version")
            if version != _VERSION:
                raise ValueError(f"schema version {version!r}")
            record = _record_of(values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            notes.append(f"{folder.join(name)} is not a valid record of an export: {describe(error)}")
            continue
        if record.run_id == run_id:
            records.append(record)
    return sorted(records, key=lambda record: record.at), notes


def _record_of(values: Mapping[str, Any]) -> ExportRecord:
    """Build a record from a file's values. Raises ValueError, or TypeError if a value is missing."""
    if "left_out" in values:  # the name of `dropped` in earlier records
        values = {"dropped": values["left_out"], **values}
    record = ExportRecord(**{key: values[key] for key in ExportRecord.__dataclass_fields__ if key in values})
    for name in ("run_id", "kind", "to", "at", "model_version"):
        _require(isinstance(getattr(record, name), str), name, "text")
    for name in ("selection", "shapes", "dropped", "listed"):
        _require(isinstance(getattr(record, name), dict), name, "an object")
    for name, count in {"images": record.images, "detections": record.detections, **record.dropped}.items():
        _require(isinstance(count, int) and count >= 0, name, "a number of images or detections")
    _require(all(isinstance(value, str) for value in record.listed.values()), "listed", "texts")
    for name, value in record.shapes.items():
        # The upper limit exceeds any image; a larger number might not fit a float.
        _require(not isinstance(value, int | float) or 0 <= value <= 1e9, name, "0 or more")
    return record


def _require(is_valid: bool, name: str, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"{name} must be {expected}")
