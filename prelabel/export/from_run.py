"""Exports of a finished run, the same for commands and for Python: rows, processes, and the record of the export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prelabel.errors import PrelabelError, SourceError
from prelabel.export.base import ExportReport, RunInfo
from prelabel.export.parallel import UNUSED, SpreadRows
from prelabel.options import fields_of, values_of
from prelabel.processes import Processes
from prelabel.select import Selection
from prelabel.source.listing import list_images
from prelabel.storage.address import absolute, describe, redact
from prelabel.store.exports import PREVIEW, ExportRecord, write_export
from prelabel.store.extracted import ExtractedFiles
from prelabel.store.links import Links
from prelabel.store.run import Run, RunRows, utc_now
from prelabel.store.subset import Subset
from prelabel.triage.image_list import listed_rows

#: Options that decide how detections are drawn; each format has some of them.
_SHAPES = ("shape", "segmentation", "polygon_tolerance", "polygon_min_area", "mask_parts", "max_points", "max_masks")


def export_run(
    exporter: Callable[..., ExportReport],
    run: Run,
    to: str,
    options: Any,
    progress: Callable[[int, int], None],
    *,
    note: Callable[[list[str]], None],
    fetches_images: bool = False,
    accepts_progress: bool = False,
) -> ExportReport:
    """Run an exporter on a finished run, with the processes that this machine can give it.

    Args:
        exporter: Writes the files.
        run: The finished run.
        to: The absolute path or URL to write to.
        options: The options of the exporter.
        progress: Called with the number of images read and the total.
        note: Receives what the user should know before the exporter begins.
        fetches_images: Whether the exporter fetches the images.
        accepts_progress: Whether the exporter itself reports progress.
    """
    rows, notes = rows_of(run, options), list[str]()
    if fetches_images:
        rows, notes = rows_to_fetch(run, rows, options.links)
    note(notes)
    with Processes.all_cores() as processes:
        extra = {"progress": progress} if accepts_progress else {}
        return exporter(RunInfo.of(run), SpreadRows(rows, processes, progress), to, options, run.storage, **extra)


def rows_of(run: Run, options: Any) -> RunRows:
    """The rows of a finished run that a command works on: those of `--images`, with the files of `--extracted`.

    Raises:
        ConfigError: The list does not exist, or the run does not have an image of the list; or nothing was extracted.
        SourceError: The list cannot be read, or has an id twice.
        StoreError: An image that did not fail was not extracted.
    """
    rows = listed_rows(run, options.listed)
    prefix = values_of(options).get("extracted", "")
    if not prefix:
        return rows
    files = ExtractedFiles.read(absolute(prefix), run.record.run_id, run.plan(), run.storage)
    without_file = files.without_file(rows.subset)
    if without_file:
        # Failed images have none.
        absent = run.rows.of_images(Subset(without_file)).without("masks", "keypoints", *UNUSED)
        images = (row.image_id for row in absent() if row.error_type is None)
        if (first := next(images, None)) is not None:
            raise files.missing(first, sum(1 for _ in images))
    return rows.with_extracted(files)


def rows_to_fetch(run: Run, rows: RunRows, lists: Sequence[str]) -> tuple[RunRows, list[str]]:
    """The rows of a run with URLs from which the images can be read again.

    Args:
        run: The finished run. It stores no signatures, so signed URLs have to come from a list.
        rows: All its rows, or some.
        lists: Lists of signed URLs, as `--links` accepts them.

    Returns:
        The rows, and what the user should know, one line each.

    Raises:
        SourceError: A list cannot be read.
    """
    links, notes = Links(), []
    if lists:
        try:
            links.find(list_images(lists, run.storage), run.plan())
        except SourceError as error:
            raise SourceError(f"--links: {error}") from error
    elif run.signed:
        count = f"{run.signed:,} images came from signed URLs, whose signatures a run does not store"
        notes.append(f"{count}: give a list with new signatures with --links")
    return rows.with_links(links), notes


def record_export(run: Run, kind: str, to: str, options: Any, report: Any) -> list[str]:
    """Record with a run what was exported from it, for `compare` and for the commands and links of reports.

    Args:
        run: The run that was exported.
        kind: The command's name: `coco`, `push label-studio`, `preview`, ...
        to: Destination of the export; secrets are removed before it is written.
        options: The options of the export.
        report: The `ExportReport` or `PushReport`.

    Returns:
        A note when the record cannot be written; the export is complete without it.
    """
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values_of(options).items()}
    listed: dict[str, str] = {"images": redact(absolute(options.listed.images)), "part": options.listed.part}
    record = ExportRecord(
        run_id=run.record.run_id,
        kind=kind,
        to=redact(to),
        at=utc_now(),
        model_version=run.record.detector.model_version,
        selection={name: values[name] for name in fields_of(Selection)},
        shapes={name: values[name] for name in _SHAPES if name in values},
        images=report.images,
        detections=report.detections,
        dropped=dict(report.dropped),
        listed=listed if options.listed.images else {},
    )
    try:
        write_export(run.root, run.storage, record)
    except (PrelabelError, OSError) as error:
        if kind == PREVIEW:  # only the link in reports is lost
            return []
        note = f"the export could not be recorded with the run ({describe(error)})"
        return [f"{note}: give `compare` the same selection options"]
    return []
