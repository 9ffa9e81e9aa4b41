"""`prelabel select`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from prelabel.cli.command import Command, open_finished, run_argument, show_notes, storage_option

if TYPE_CHECKING:
    from prelabel.triage.choosing import ChoiceOptions


@click.command(
    cls=Command,
    options="prelabel.triage.choosing:ChoiceOptions",
    examples=("prelabel select out/run --budget 1000 --to out/first.parquet",),
    short_help="Choose which images to review first.",
)
@run_argument
@click.option(
    "--to", required=True, metavar="FILE", help="Write this list: .parquet, .csv, .jsonl or .txt (only the ids)."
)
@storage_option
def select(output: str, to: str, storage_options: str | None, options: ChoiceOptions) -> None:
    """Choose which images of a run to review first, and write them as a list.

    Other commands read the list with --images. A part of it is drawn at random from all images.
    """
    from prelabel.console import counting, table
    from prelabel.processes import Processes
    from prelabel.storage.address import absolute
    from prelabel.triage.choosing import choose_images
    from prelabel.words import counted

    run = open_finished(output, storage_options)
    with counting("images read") as progress, Processes.all_cores() as processes:
        choice = choose_images(run, absolute(to), options, processes, progress)
    show_notes(choice.warnings)
    rows = [["images", f"{choice.images:,} of {choice.available:,}"]]
    rows += [[f"  part {part}", f"{count:,}"] for part, count in choice.parts.items()]
    if choice.failed:
        rows.append(["left out", f"{counted(choice.failed, 'failed image')}"])
    if choice.skipped:
        rows.append(["skipped", f"{counted(choice.skipped, 'image')} of --skip"])
    rows.append(["wrote", choice.to])
    click.echo(table("", rows))
