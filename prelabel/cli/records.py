"""Writes down beside a run what was exported from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from prelabel.select import Selection
    from prelabel.store.run import Run

#: Options that decide how detections are drawn, in whichever format has them.
_SHAPES = ("shape", "segmentation", "polygon_tolerance", "polygon_min_area", "mask_parts", "max_points", "max_masks")


def record_export(run: Run, kind: str, to: str, options: Selection, counts: Mapping[str, Any]) -> None:
    """Write the record, or say in a note why it cannot be written; an export is done without it, too."""
    from prelabel.console import printable
    from prelabel.errors import PrelabelError
    from prelabel.options import fields_of
    from prelabel.select import Selection
    from prelabel.storage import describe, redact
    from prelabel.store.exports import ExportRecord, now, write_export

    def plain(name: str) -> Any:
        value = getattr(options, name)
        return list(value) if isinstance(value, tuple) else value

    record = ExportRecord(
        run_id=run.record.run_id,
        kind=kind,
        to=redact(to),
        at=now(),
        model_version=run.record.detector.model_version,
        selection={name: plain(name) for name in fields_of(Selection)},
        shapes={name: plain(name) for name in _SHAPES if hasattr(options, name)},
        **counts,
    )
    try:
        write_export(run.output, run.storage, record)
    except (PrelabelError, OSError) as error:
        click.echo(
            f"note: what was exported could not be written down beside the run ({printable(describe(error))}): "
            "`compare` will have to be told the same selection",
            err=True,
        )
