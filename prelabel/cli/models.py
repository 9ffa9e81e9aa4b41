"""`prelabel detectors` and `prelabel inspect`."""

from __future__ import annotations

import json

import click

from prelabel.cli.exits import fail
from prelabel.cli.options import PATH, Command, storage_of, storage_option


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the catalogue as JSON.")
def detectors(as_json: bool) -> None:
    """List the detectors known by name."""
    from prelabel.console import table
    from prelabel.detectors.inspect import catalogue_table

    rows = catalogue_table()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(table(row["name"], [[key, value] for key, value in row.items() if key != "name" and value]))
        click.echo()


@click.command(cls=Command, short_help="Say what a SavedModel or hub module is.")
@click.argument("detector", type=PATH, metavar="D")
@click.option("--label-map", type=PATH, metavar="FILE", help="A label map to try with it: a file, or `coco`.")
@click.option("--model-cache", type=PATH, metavar="DIR", help="Where fetched models are (default: ~/.cache/prelabel).")
@storage_option
def inspect(detector: str, label_map: str | None, model_cache: str | None, storage_options: str | None) -> None:
    """Say what a SavedModel or hub module is; exit code 1 where `label` would not take it.

    D is whatever `label --detector` takes. TensorFlow is not started and nothing of the model is run.
    """
    from prelabel.detectors.inspect import format_report, inspect_model

    report = inspect_model(detector, storage_of(storage_options), label_map=label_map, cache_dir=model_cache)
    click.echo(format_report(report))
    if report.refusal or report.label_problem:
        fail(report.refusal or report.label_problem)
