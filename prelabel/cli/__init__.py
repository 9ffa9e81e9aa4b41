"""The command line. Options come from the dataclasses that Python and job files use; nothing heavy is imported here."""

from __future__ import annotations

import click

from prelabel import __version__
from prelabel.cli.exits import Program
from prelabel.cli.exporting import export, preview
from prelabel.cli.judging import compare, evaluate
from prelabel.cli.models import detectors, inspect
from prelabel.cli.options import Command
from prelabel.cli.pushing import push
from prelabel.cli.running import label, status, verify
from prelabel.cli.scenes import synth

__all__ = ["label", "main"]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="prelabel")
def main() -> None:
    """Pre-label image datasets at scale.

    Images from any storage go through a TensorFlow-Hub detector on Ray into Parquet, and from there into COCO and
    Label Studio pre-annotations that people correct instead of drawing from nothing.

    \b
      prelabel label s3://bucket/photos --detector openimages-ssd-mobilenet-v2 --output s3://bucket/run
      prelabel export label-studio s3://bucket/run --to tasks/

    Shell completion: eval "$(_PRELABEL_COMPLETE=bash_source prelabel)"
    """


@main.command(cls=Command, short_help="Show the whole product on made-up scenes.")
@click.option("--to", default="out/demo", show_default=True, metavar="DIR", help="Folder for everything.")
@click.option("--images", type=click.IntRange(min=1), default=200, show_default=True, help="Scenes to draw.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which world.")
def demo(to: str, images: int, seed: int) -> None:
    """Show the whole product on made-up scenes, with the public commands only: no photos, weights or network needed."""
    from prelabel.demo import closing, run_demo

    took = run_demo(
        to, images, seed, call=lambda arguments: main(list(arguments), standalone_mode=False), say=click.echo
    )
    click.echo(closing(to, took))


for command in (label, status, verify, export, preview, evaluate, compare, push, detectors, inspect, synth):
    main.add_command(command)
