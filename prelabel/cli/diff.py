"""`prelabel diff`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from prelabel.cli.command import CHANGED, PATH, Command, DescribedArgument, open_finished, show_notes, storage_option

if TYPE_CHECKING:
    from prelabel.difference.options import DiffOptions


@click.command(
    cls=Command,
    options="prelabel.difference.options:DiffOptions",
    examples=(
        "prelabel diff out/last-month out/run",
        "prelabel diff out/exact out/auto --score-threshold 0.5 --fail-above 0.01",
    ),
    arguments=("run_a", "run_b"),
    short_help="Report what changed between two runs.",
)
@click.argument("run_a", type=PATH, metavar="RUN_A", cls=DescribedArgument)
@click.argument("run_b", type=PATH, metavar="RUN_B", cls=DescribedArgument)
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the content of diff.json.")
def diff(as_json: bool, storage_options: str | None, options: DiffOptions) -> None:
    """Report which detections were kept, moved, relabeled, vanished or appeared from RUN_A to RUN_B.

    Compares two finished runs over the same images: two models, two settings, last month and now. Writes diff.json, and
    diff.html with the images that changed most side by side. Needs no detector.

    With --fail-above, exits with code 3 if a greater share of the detections of both runs changed.
    """
    from prelabel import console
    from prelabel.difference.files import difference_json
    from prelabel.difference.from_run import report_difference
    from prelabel.difference.tables import difference_tables
    from prelabel.processes import Processes
    from prelabel.review.report.files import json_text

    a, b = (open_finished(run, storage_options) for run in (options.run_a, options.run_b))
    with console.counting("images compared") as progress, Processes.all_cores() as processes:
        difference, files = report_difference(a, b, options, processes, progress)
    if as_json:
        click.echo(json_text(difference_json(difference)), nl=False)
    else:
        for table in difference_tables(difference):
            click.echo(console.table(table.title, table.rows, table.header) + "\n")
        for name in files:
            click.echo(f"wrote {name}")
    if difference.exceeds:
        show_notes([f"{difference.share:.4g} of the detections changed, more than --fail-above {options.fail_above:g}"])
        sys.exit(CHANGED)
