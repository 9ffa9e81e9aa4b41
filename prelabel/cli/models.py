"""`prelabel detectors`, `prelabel inspect` and `prelabel fetch`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from prelabel.cli.command import (
    PATH,
    Command,
    DescribedArgument,
    F,
    fail,
    local_folder,
    show_notes,
    storage_of,
    storage_option,
)
from prelabel.options import ACTIVATIONS, INPUT_LAYOUTS, INPUT_RANGES, MASK_FRAMES

if TYPE_CHECKING:
    from prelabel.detectors.inspect import ModelReport


@click.command(
    cls=Command, examples=("prelabel detectors",), short_help="List the detectors that `label` knows by name."
)
@click.option("--json", "as_json", is_flag=True, help="Print the catalog as JSON.")
def detectors(as_json: bool) -> None:
    """List the detectors that `label --detector` accepts by name."""
    from prelabel.console import table
    from prelabel.detectors.inspect import catalog_table

    rows = catalog_table()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(table(row["name"], [[key, value] for key, value in row.items() if key != "name" and value]))
        click.echo()


_MODEL_PARAMETERS = (
    click.argument(
        "detector",
        type=PATH,
        metavar="DETECTOR",
        cls=DescribedArgument,
        description="Name from `prelabel detectors`, or the URL, archive, folder or prefix of a SavedModel.",
    ),
    click.option(
        "--label-map", type=PATH, metavar="FILE", help="Check this label map with the model: a file, or `coco`."
    ),
    click.option(
        "--input-range",
        type=click.Choice(tuple(INPUT_RANGES)),
        help="Set the pixel range of the input, as for `label`.",
    ),
    click.option(
        "--activation", type=click.Choice(tuple(ACTIVATIONS)), help="Set what a classifier returns, as for `label`."
    ),
    click.option(
        "--input-layout",
        type=click.Choice(INPUT_LAYOUTS),
        help="Set the position of the input's channels, as for `label`.",
    ),
    click.option(
        "--mask-frame", type=click.Choice(MASK_FRAMES), help="Set the area that a mask covers, as for `label`."
    ),
    click.option(
        "--trust-model",
        is_flag=True,
        help="Accept a model that reads or writes files, uses the network or runs Python code, as for `label`.",
    ),
    click.option(
        "--model-cache",
        type=PATH,
        metavar="DIR",
        help="Keep downloaded models in this folder (default: ~/.cache/prelabel).",
    ),
    click.option(
        "--model-mirror",
        metavar="URL",
        help="Download models from this base URL instead of https://tfhub.dev and https://www.kaggle.com (default: "
        "PRELABEL_MODEL_MIRROR).",
    ),
    storage_option,
)


def _model_parameters(command: F) -> F:
    """Add the argument and those options of `label` that locate a model and decide how it is interpreted."""
    for decorate in reversed(_MODEL_PARAMETERS):
        command = decorate(command)
    return command


@click.command(
    cls=Command,
    examples=("prelabel inspect openimages-ssd-mobilenet-v2",),
    short_help="Report what a model is and whether `label` can run it.",
)
@_model_parameters
def inspect(detector: str, trust_model: bool, **options: str | None) -> None:
    """Report what a SavedModel or hub module is and how `label` interprets its inputs and outputs.

    Exits with code 1 if `label` would refuse the model. Analyzes the model without loading TensorFlow or running any
    part of it.
    """
    from prelabel.detectors.inspect import format_report

    report = _report(detector, options)
    click.echo(format_report(report, trusted=trust_model))
    if problem := report.refused_because(trusted=trust_model):
        fail(problem)


@click.command(
    cls=Command,
    examples=("prelabel fetch openimages-ssd-mobilenet-v2 --to s3://bucket/models",),
    short_help="Download a model, check it, and copy it.",
)
@click.option(
    "--to",
    type=PATH,
    metavar="PATH",
    callback=local_folder,
    help="Copy the model into this folder or storage prefix.",
)
@_model_parameters
def fetch(detector: str, to: str | None, trust_model: bool, **options: str | None) -> None:
    """Download a model for machines without a network, and print the options with which `label` uses the copy.

    Checks the model as `inspect` does. Exits with code 1 and copies nothing if `label` would refuse the model. Without
    --to, keeps the model in the model cache of this machine.
    """
    from prelabel.detectors.models.publish import publish_model

    report = _report(detector, options, say=lambda text: show_notes([text]))
    if problem := report.refused_because(trusted=trust_model):
        fail(f"{problem}; the model is not copied" if to else problem)
    model = report.model
    arguments = ["--detector", detector]
    if to:
        arguments[1], is_new = publish_model(model, to, storage_of(options["storage_options"]))
        outcome = "was copied" if is_new else "was already there"
    else:
        outcome = f"is in the model cache of this machine ({model.path})"
        arguments += ["--model-cache", options["model_cache"]] if options["model_cache"] else []
    show_notes([f"{model.model_version}, {report.size / 1e6:.1f} MB, {outcome}; use it with the options below"])
    for name in ("label_map", "input_range", "activation", "input_layout", "mask_frame"):
        if value := options[name]:
            arguments += ["--" + name.replace("_", "-"), value]
    click.echo(shlex.join([*arguments, *(["--trust-model"] if trust_model else [])]))


def _report(
    detector: str, options: Mapping[str, str | None], say: Callable[[str], None] = lambda text: None
) -> ModelReport:
    from prelabel.detectors.conventions.resolve_model import ReadingOptions
    from prelabel.detectors.inspect import inspect_model

    return inspect_model(
        detector,
        storage_of(options["storage_options"]),
        label_map=options["label_map"],
        reading=ReadingOptions(
            options["input_range"], options["activation"], options["input_layout"], options["mask_frame"]
        ),
        cache_dir=options["model_cache"],
        mirror=options["model_mirror"],
        say=say,
    )
