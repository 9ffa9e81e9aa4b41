"""`source-check.json`: what a run found when it last compared its plan with the source.

A small file of its own, since a check that finds nothing must not change a finished run. Only `status` reads it, and
nothing else depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prelabel.errors import StoreError
from prelabel.storage.address import Address, AddressLike, describe
from prelabel.storage.files import Storage
from prelabel.store.run import write_json

SOURCE_CHECK = "source-check.json"

#: What becomes of the rows of images that are no longer in the source (`--gone`).
KEEP, DROP, FAIL = GONE_ACTIONS = ("keep", "drop", "fail")

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCheck:
    """The images in which a source differs from the plan as it was before the check.

    Attributes:
        run_id: As in `run.json`.
        at: Time at which the source had been listed, UTC, ISO 8601.
        images: Number of images in the source.
        new: Number of images that the plan did not have.
        changed: Number of planned images with another size, version or address than planned.
        gone: Number of planned images that the source no longer has; None if it was not the whole source of the run.
        added: Whether the new images became part of the run (`--add-new`).
        relabeled: Whether the changed images are labeled again (`--changed`).
        gone_action: What becomes of the rows of images that are gone: `keep`, `drop` or `fail`.
    """

    run_id: str
    at: str
    images: int
    new: int
    changed: int
    gone: int | None
    added: bool
    relabeled: bool
    gone_action: str = KEEP

    def __str__(self) -> str:
        """`3 new images (added), 2 changed (labeled again), 1 gone (rows kept)`."""
        new = f"{self.new:,} new image{'s' * (self.new != 1)}"
        parts = [new + _remark(self.new, "added", "use --add-new", done=self.added)]
        parts.append(
            f"{self.changed:,} changed" + _remark(self.changed, "labeled again", "use --changed", self.relabeled)
        )
        if self.gone is not None:
            action = {KEEP: "rows kept", DROP: "rows dropped", FAIL: "rows marked as failed"}[self.gone_action]
            parts.append(f"{self.gone:,} gone" + _remark(self.gone, action, "", done=True))
        return ", ".join(parts)


def _remark(count: int, action: str, advice: str, done: bool) -> str:
    return f" ({action if done else advice})" if count else ""


def write_source_check(output: AddressLike, storage: Storage, check: SourceCheck) -> None:
    """Write the check into a run's output. Raises StoreError if it cannot be written."""
    file = Address.of_folder(output).join(SOURCE_CHECK)
    write_json(file, storage, {"schema_version": _VERSION, **asdict(check)})


def read_source_check(output: AddressLike, storage: Storage, run_id: str) -> SourceCheck | None:
    """Read the last check of a run, or return None if there was none.

    Raises:
        StoreError: The file cannot be read or is corrupt.
    """
    file = Address.of_folder(output).join(SOURCE_CHECK)
    try:
        values = json.loads(storage.read(file))
        check = _check_of(values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{file} cannot be read: {describe(error)}; delete it, nothing depends on it") from None
    return check if check.run_id == run_id else None


def _check_of(values: Mapping[str, Any]) -> SourceCheck:
    """Build a check from a file's values. Raises ValueError, KeyError or TypeError if they are invalid."""
    if values["schema_version"] != _VERSION:
        raise ValueError(f"schema version {values['schema_version']!r}")
    names = SourceCheck.__dataclass_fields__
    check = SourceCheck(**{name: values[name] for name in names if name in values})
    counts = (check.images, check.new, check.changed, 0 if check.gone is None else check.gone)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("a number of images must be 0 or more")
    if not all(isinstance(value, str) for value in (check.run_id, check.at)) or check.gone_action not in GONE_ACTIONS:
        raise ValueError("run_id, at or gone_action is invalid")
    return check
