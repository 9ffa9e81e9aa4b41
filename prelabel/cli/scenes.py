"""`prelabel synth`: scenes with their truth, for trying and testing."""

from __future__ import annotations

import click

from prelabel.cli.options import Command, storage_of, storage_option


@click.command(cls=Command, short_help="Draw scenes with their ground truth.")
@click.option("--images", type=click.IntRange(min=1), default=200, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which world.")
@click.option("--to", required=True, metavar="DIR", help="Folder or prefix to write into.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that draw.")
@storage_option
def synth(images: int, seed: int, to: str, workers: int, storage_options: str | None) -> None:
    """Draw scenes of shapes and letters with their ground truth (instances.json, COCO), for trying and testing.

    The pictures depend on the seed only; the detector demo-shapes knows what is on them.
    """
    from prelabel.synth.dataset import make_scenes

    made = make_scenes(to, images, seed, workers=workers, storage=storage_of(storage_options))
    click.echo(f"{made.images:,} scenes with {made.instances:,} objects; truth in {made.truth}")
