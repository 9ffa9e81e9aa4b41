"""`prelabel detectors` and `prelabel inspect`."""

from __future__ import annotations

import json

import click

from prelabel.cli.exits import fail
from prelabel.cli.options import PATH, Command, storage_of, storage_option
from prelabel.options import ACTIVATIONS, INPUT_LAYOUTS, INPUT_RANGES, MASK_FRAMES


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
@click.option("--input-range", type=click.Choice(tuple(INPUT_RANGES)), help="As for `label`: the range of its pixels.")
@click.option(
    "--activation", type=click.Choice(tuple(ACTIVATIONS)), help="As for `label`: what a classifier's rows are."
)
@click.option("--input-layout", type=click.Choice(INPUT_LAYOUTS), help="As for `label`: where channels are.")
@click.option("--mask-frame", type=click.Choice(MASK_FRAMES), help="As for `label`: what a mask shows.")
@click.option("--trust-model", is_flag=True, help="As for `label`: run it although it reaches beyond its graph.")
@click.option("--model-cache", type=PATH, metavar="DIR", help="Where fetched models are (default: ~/.cache/prelabel).")
@storage_option
def inspect(
    detector: str,
    label_map: str | None,
    trust_model: bool,
    model_cache: str | None,
    storage_options: str | None,
    **stated: str | None,
) -> None:
    """Say what a SavedModel or hub module is and how its numbers are read; exit code 1 where `label` would refuse it.

    D is whatever `label --detector` takes. TensorFlow is not started and nothing of the model is run.
    """
    from prelabel.detectors.inspect import format_report, inspect_model
    from prelabel.detectors.reading import Stated

    storage = storage_of(storage_options)
    report = inspect_model(detector, storage, label_map=label_map, stated=Stated(**stated), cache_dir=model_cache)
    click.echo(format_report(report))
    if problem := report.refused_because(trusted=trust_model):
        fail(problem)
