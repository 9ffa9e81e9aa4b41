"""`prelabel fuse`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from prelabel.cli.command import (
    PATH,
    Command,
    DescribedArgument,
    HeadedOption,
    fail,
    open_finished,
    show_notes,
    stopped_by_signals,
    storage_option,
)
from prelabel.errors import RunInterrupted, first_of

if TYPE_CHECKING:
    from prelabel.fusion.job import FusionSummary
    from prelabel.fusion.options import FuseOptions

#: Most classes of one run that the summary names.
_MOST_CLASSES = 8


@click.command(
    cls=Command,
    options="prelabel.fusion.options:FuseOptions",
    examples=("prelabel fuse out/a out/b --to out/fused --weights 3,1",),
    arguments=("runs",),
    short_help="Merge the detections of several runs into a new run.",
)
@click.argument("runs", nargs=-1, type=PATH, metavar="RUN...", cls=DescribedArgument)
@storage_option
@click.option("--quiet", is_flag=True, cls=HeadedOption, heading="Messages", help="Print only errors.")
def fuse(quiet: bool, storage_options: str | None, options: FuseOptions) -> None:
    """Merge the detections of several finished runs over the same images into a new run.

    Needs no detector and no GPU, and leaves the runs unchanged. The new run can be exported, evaluated and reviewed
    like any other. On each image, only the runs that have the image and know the class have a vote. Run the same
    command again to resume an interrupted run.
    """
    from prelabel.console import counting
    from prelabel.fusion.job import Progress, fuse_runs
    from prelabel.processes import Processes

    runs = [open_finished(run, storage_options) for run in options.runs]
    with (
        stopped_by_signals() as stop,
        counting("images fused", show=not quiet) as count,
        Processes.all_cores() as processes,
    ):
        notify = (lambda text: None) if quiet else (lambda text: show_notes([text]))
        try:
            summary = fuse_runs(runs, options, processes, Progress(notify, count, stop))
        except RunInterrupted as error:
            fail(str(error), stop.exit_code)
    if not quiet:
        show_notes(summary.notes)
        _show(summary)


def _show(summary: FusionSummary) -> None:
    """Print the runs and the counts as a table."""
    from prelabel.console import table
    from prelabel.words import counted, duration, share

    rows = []
    for number, run in enumerate(summary.runs):
        images = f"{counted(run.images, 'image')}" + (f" ({run.failed:,} failed)" if run.failed else "")
        about = f"{run.detector.name}, weight {run.weight:g}, {images}, {counted(run.detections, 'detection')}"
        rows.append(["runs" if number == 0 else "", f"{run.run}: {about}"])
    rows.append(["images", f"{summary.images:,}"])
    if summary.in_one_run:
        rows.append(["  in one run only", f"{summary.in_one_run:,}"])
    rows.append(["failed", f"{summary.failed:,}"])
    rows += [[f"  {reason}", f"{count:,}"] for reason, count in summary.failures.items()]
    if summary.failed_in_some:
        rows.append(["failed in some runs", f"{summary.failed_in_some:,}, taken from the others"])
    if summary.unproven:
        rows.append(["not compared", f"{counted(summary.unproven, 'image')} without a checksum in every run"])
    rows.append(["detections", f"{summary.detections:,}"])
    for number, count in enumerate(summary.by_runs, 1):
        rows.append([f"  in {counted(number, 'run')}", f"{count:,} ({share(count, summary.detections)})"])
    for name, labels in summary.of_one_run.items():
        rows.append(["classes of one run", f"{len(labels):,} in {name}: {first_of(labels, _MOST_CLASSES)}"])
    if summary.skipped_shards:
        rows.append(["shards finished before", f"{summary.skipped_shards:,}"])
    rows += [["time", duration(summary.wall_s)], ["output", summary.output]]
    click.echo(table("", rows))
