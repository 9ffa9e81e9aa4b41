"""The command line. Its options come from dataclasses that Python and job files share; nothing heavy is imported."""

from __future__ import annotations

import click

from prelabel import __version__
from prelabel.cli.choosing import select
from prelabel.cli.command import CommandGroup
from prelabel.cli.demo import demo, synth
from prelabel.cli.diff import diff
from prelabel.cli.extract import extract
from prelabel.cli.finished import compare, evaluate, export, preview, push
from prelabel.cli.fusion import fuse
from prelabel.cli.models import detectors, fetch, inspect
from prelabel.cli.running import label, status, verify

__all__ = ["label", "main"]


@click.group(
    cls=CommandGroup,
    examples=(
        "prelabel demo",
        "prelabel label photos/ --detector openimages-ssd-mobilenet-v2 --output out/run",
        "prelabel export label-studio out/run --to out/tasks --score-threshold 0.4",
    ),
    context_settings={"max_content_width": 110},
)
@click.version_option(__version__, prog_name="prelabel")
def main() -> None:
    """Pre-label image datasets at scale.

    Run a TensorFlow detector over images in any storage, on this machine or a Ray cluster, and write its detections to
    Parquet. Then export them to Label Studio, COCO, CVAT, YOLO or Pascal VOC, so that annotators correct boxes and
    masks instead of drawing them.

    Shell completion: eval "$(_PRELABEL_COMPLETE=bash_source prelabel)"
    """


main.add_section("Label images", label, fuse)
main.add_section("Look at a run", status, verify, preview, select)
main.add_section("Export to annotation tools", export, extract)
main.add_section("Measure and choose thresholds", evaluate, compare, diff)
main.add_section("Push to annotation servers", push)
main.add_section("Models", detectors, inspect, fetch)
main.add_section("Try it out", demo, synth)
