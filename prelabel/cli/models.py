"""`prelabel detectors`, `prelabel inspect` and `prelabel fetch`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
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
from prelabel.errors import ConfigError
from prelabel.options import ACTIVATIONS, INPUT_LAYOUTS, INPUT_RANGES, MASK_FRAMES, read_document

if TYPE_CHECKING:
    from prelabel.detectors.inspect import ModelReport
    from prelabel.detectors.plugins.addresses import FactoryAddress


@click.command(
    cls=Command, examples=("prelabel detectors",), short_help="List the detectors that `label` knows by name."
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def detectors(as_json: bool) -> None:
    """List the detectors that `label --detector` accepts by name: the catalog, and those of installed packages."""
    from prelabel.console import table
    from prelabel.detectors.inspect import catalog_table
    from prelabel.detectors.plugins.report import installed_table

    rows = catalog_table()
    rows += installed_table(list(rows[0]))
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(table(row["name"], [[key, value] for key, value in row.items() if key != "name" and value]))
        click.echo()


def _detector_argument(description: str) -> Callable[[F], F]:
    """The argument DETECTOR."""
    return click.argument("detector", type=PATH, metavar="DETECTOR", cls=DescribedArgument, description=description)


_MODEL_PARAMETERS = (
    click.option(
        "--label-map", type=PATH, metavar="FILE", help="Check this label map with the model: a file, or `coco`."
    ),
    click.option(
        "--adapter",
        type=PATH,
        metavar="FILE",
        help="Read from this file what the inputs and outputs mean, as for `label`.",
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
    """Add those options of `label` that locate a model and decide how it is interpreted."""
    for decorate in reversed(_MODEL_PARAMETERS):
        command = decorate(command)
    return command


@click.command(
    cls=Command,
    examples=("prelabel inspect openimages-ssd-mobilenet-v2",),
    short_help="Report what a model is and whether `label` can run it.",
)
@_detector_argument(
    "Name from `prelabel detectors`, the URL, archive, folder or prefix of a SavedModel, or package.module:factory."
)
@click.option(
    "--write-adapter",
    type=PATH,
    metavar="FILE",
    help="Draft an adapter for the model in this new file: what is known is filled in, and ??? marks what you must "
    "answer.",
)
@click.option(
    "--detector-option",
    metavar="NAME=VALUE",
    multiple=True,
    help="Pass this to the factory of a detector in Python, as for `label`; repeatable.",
)
@_model_parameters
def inspect(
    detector: str,
    write_adapter: str | None,
    trust_model: bool,
    detector_option: tuple[str, ...],
    **options: str | None,
) -> None:
    """Report what a SavedModel or hub module is and how `label` interprets its inputs and outputs.

    Exits with code 1 if `label` would refuse the model, unless it writes an adapter. Analyzes the model without loading
    TensorFlow or running any part of it. A detector in Python is run on a gray image, with --trust-model only.
    """
    from prelabel.detectors.inspect import format_report
    from prelabel.detectors.plugins.addresses import find_factory, require_model

    if (factory := find_factory(detector)) is not None:
        options["write_adapter"] = write_adapter
        _inspect_plugin(factory, _pairs(detector_option), options, trusted=trust_model)
        return
    require_model(detector)
    if detector_option:
        raise ConfigError("--detector-option is for detectors that are Python code; for a model, remove it")
    if write_adapter:
        _require_new(write_adapter, options["adapter"])
    report = _report(detector, options)
    click.echo(format_report(report, trusted=trust_model))
    if write_adapter:
        _write_adapter(report, write_adapter)
        return
    if problem := report.refused_because(trusted=trust_model):
        fail(problem)


def _inspect_plugin(
    factory: FactoryAddress, detector_options: dict[str, str], options: Mapping[str, str | None], *, trusted: bool
) -> None:
    """Print the report on a detector in Python. It is run only if it is trusted."""
    from prelabel.detectors.description import require_trusted
    from prelabel.detectors.plugins.describe import describe_plugin
    from prelabel.detectors.plugins.files import search_here
    from prelabel.detectors.plugins.report import format_plugin

    for name, value in options.items():
        if value is not None and name != "storage_options":
            raise ConfigError(f"--{name.replace('_', '-')} is for models, but {factory} is Python code: remove it")
    search_here()
    description = describe_plugin(factory, detector_options, try_it=True) if trusted else None
    click.echo(format_plugin(factory, description))
    require_trusted(factory, trusted=trusted)


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` as a dict. Raises ConfigError."""
    from prelabel.config import LabelOptions
    from prelabel.options import convert, fields_of

    pairs: dict[str, str] = convert(fields_of(LabelOptions)["detector_option"], list(values), "inspect")
    return pairs


@click.command(
    cls=Command,
    examples=("prelabel fetch openimages-ssd-mobilenet-v2 --to s3://bucket/models",),
    short_help="Download a model, check it, and copy it.",
)
@_detector_argument("Name from `prelabel detectors`, or the URL, archive, folder or prefix of a SavedModel.")
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
    from prelabel.detectors.plugins.addresses import find_factory, require_model

    if find_factory(detector) is not None:
        raise ConfigError(f"{detector} is Python code, not a model: install its package on the machines that run it")
    require_model(detector)
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
    for name in ("adapter", "label_map", "input_range", "activation", "input_layout", "mask_frame"):
        if value := options[name]:
            arguments += ["--" + name.replace("_", "-"), value]
    click.echo(shlex.join([*arguments, *(["--trust-model"] if trust_model else [])]))


def _require_new(path: str, adapter: str | None) -> None:
    """Refuse to write over a file, which may hold answers, or to write an adapter of an adapter."""
    if adapter is not None:
        raise ConfigError("--write-adapter: remove --adapter, which declares everything already")
    if Path(path).exists():
        raise ConfigError(f"--write-adapter {path}: this file exists; name a new one")


def _write_adapter(report: ModelReport, path: str) -> None:
    from prelabel.detectors.conventions.adapter_draft import draft_adapter
    from prelabel.storage.files import Storage

    text = draft_adapter(report.model, report.graph, report.prepared)
    Storage().publish(path, text.encode())
    count = sum(": ???" in line for line in text.splitlines() if not line.lstrip().startswith("#"))
    show_notes([f"wrote {path}; " + (f"{count} answers are missing (???)" if count else "nothing is left to answer")])


def _report(
    detector: str, options: Mapping[str, str | None], say: Callable[[str], None] = lambda text: None
) -> ModelReport:
    from prelabel.detectors.conventions.adapter import Adapter
    from prelabel.detectors.conventions.resolve_model import ReadingOptions
    from prelabel.detectors.inspect import inspect_model

    adapter = options["adapter"]
    return inspect_model(
        detector,
        storage_of(options["storage_options"]),
        label_map=options["label_map"],
        reading=ReadingOptions(
            options["input_range"],
            options["activation"],
            options["input_layout"],
            options["mask_frame"],
            None if adapter is None else Adapter.of(read_document("--adapter", adapter)),
        ),
        cache_dir=options["model_cache"],
        mirror=options["model_mirror"],
        say=say,
    )
