"""Commands on finished runs: `export ...`, `preview` and `push ...`, then `evaluate` and `compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prelabel.cli.command import (
    Command,
    CommandGroup,
    HeadedOption,
    local_folder,
    open_finished,
    run_argument,
    show_notes,
    storage_option,
)

if TYPE_CHECKING:
    from prelabel.label_studio.options import PushOptions
    from prelabel.review.options import CompareOptions, EvaluateOptions


@click.group(
    cls=CommandGroup,
    examples=("prelabel export coco out/run --to out/coco.json",),
    short_help="Write the files that annotation tools import.",
)
def export() -> None:
    """Write a finished run as files that annotation tools import.

    Exports need neither the detector nor a GPU, and can be repeated with other thresholds and classes.
    """


def _export_parameters(to_help: str, metavar: str = "DIR") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the argument RUN and the options `--to` and `--storage-options`, in this order."""

    def check(ctx: click.Context, parameter: click.Parameter, path: str) -> str:
        # Checked before the run is read.
        if metavar == "DIR":
            local_folder(ctx, parameter, path)
        if metavar == "FILE" and Path(path).is_dir():
            raise click.BadParameter(f"{path} is a folder: name a file in it")
        return path

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        option = click.option("--to", required=True, metavar=metavar, help=to_help, callback=check)
        return run_argument(option(storage_option(function)))

    return decorate


@export.command(
    name="label-studio",
    cls=Command,
    options="prelabel.label_studio.options:LabelStudioOptions",
    examples=("prelabel export label-studio out/run --to out/tasks --score-threshold 0.4",),
    short_help="Write Label Studio tasks with predictions.",
)
@_export_parameters("Write tasks into this folder.")
def label_studio(**arguments: Any) -> None:
    """Write Label Studio tasks with predictions, and a labeling config that fits them."""
    from prelabel.label_studio.export import export_label_studio

    _export(export_label_studio, "label-studio", **arguments)


@export.command(
    cls=Command,
    options="prelabel.export.coco:CocoOptions",
    examples=("prelabel export coco out/run --to out/coco.json --score-threshold 0.4",),
    short_help="Write a COCO dataset file.",
)
@_export_parameters("Write this JSON file.", "FILE")
def coco(**arguments: Any) -> None:
    """Write a COCO dataset file and, with --results, a results file."""
    from prelabel.export.coco import export_coco

    _export(export_coco, "coco", **arguments)


@export.command(
    cls=Command,
    options="prelabel.export.cvat:CvatOptions",
    examples=("prelabel export cvat out/run --to out/cvat.xml --score-threshold 0.4",),
    short_help="Write annotations for a CVAT task.",
)
@_export_parameters("Write this XML or ZIP file.", "FILE")
def cvat(**arguments: Any) -> None:
    """Write boxes, masks or polygons as `CVAT for images` XML, to upload to a task."""
    from prelabel.export.cvat import export_cvat

    _export(export_cvat, "cvat", **arguments)


@export.command(
    cls=Command,
    options="prelabel.export.yolo:YoloOptions",
    examples=("prelabel export yolo out/run --to out/yolo --score-threshold 0.4",),
    short_help="Write a YOLO dataset.",
)
@_export_parameters("Write into this folder.")
def yolo(**arguments: Any) -> None:
    """Write a YOLO dataset: label files with boxes or segments, image lists and data.yaml."""
    from prelabel.export.yolo import export_yolo

    _export(export_yolo, "yolo", fetches_images=arguments["options"].image_files == "copy", **arguments)


@export.command(
    cls=Command,
    options="prelabel.export.voc:VocOptions",
    examples=("prelabel export voc out/run --to out/voc --score-threshold 0.4",),
    short_help="Write a Pascal VOC dataset.",
)
@_export_parameters("Write into this folder.")
def voc(**arguments: Any) -> None:
    """Write a Pascal VOC dataset: one XML file of boxes per image."""
    from prelabel.export.voc import export_voc

    _export(export_voc, "voc", fetches_images=arguments["options"].image_files == "copy", **arguments)


@click.command(
    cls=Command,
    options="prelabel.gallery.preview:PreviewOptions",
    examples=("prelabel preview out/run --to out/preview",),
    short_help="Make a web page with images and their detections.",
)
@_export_parameters("Write the page into this folder.")
def preview(**arguments: Any) -> None:
    """Make a web page that shows images with their boxes, masks and failures, and filters them.

    The page opens in any browser, without a server.
    """
    from prelabel.gallery.preview import write_preview

    _export(write_preview, "preview", fetches_images=True, accepts_progress=True, **arguments)


def _export(
    exporter: Any,
    kind: str,
    output: str,
    to: str,
    storage_options: str | None,
    options: Any,
    **how: bool,
) -> None:
    """Export a run, record the export, and print the summary; `how` is for `export_run`."""
    from prelabel.console import counting, table
    from prelabel.export.base import RunInfo, simplified_rows
    from prelabel.export.from_run import export_run, record_export
    from prelabel.export.run_selection import selection_words
    from prelabel.storage.address import absolute

    run = open_finished(output, storage_options)
    target = absolute(to)
    with counting("images read") as progress:
        report = export_run(exporter, run, target, options, progress, note=show_notes, **how)
    show_notes(report.warnings)
    show_notes(record_export(run, kind, target, options, report))
    summary = [
        ["images", f"{report.images:,}"],
        ["detections", f"{report.detections:,}"],
        ["scores", selection_words(options.selection, RunInfo.of(run).kept)],
    ]
    if report.regions:
        summary.insert(2, ["regions", f"{report.regions:,}"])
    if report.failed:
        summary.append(["failed images", f"{report.failed:,}"])
    summary += [[f"dropped: {reason}", f"{count:,}"] for reason, count in report.dropped.items()]
    summary += [list(row) for row in simplified_rows(report.simplified)]
    files = report.files if len(report.files) <= 4 else (*report.files[:2], "...", report.files[-1])
    summary += [["wrote" if number == 0 else "", name] for number, name in enumerate(files)]
    click.echo(table("", summary))


@click.group(
    cls=CommandGroup,
    examples=("prelabel push label-studio out/run --url http://localhost:8080 --project photos",),
    short_help="Send tasks with predictions to an annotation server.",
)
def push() -> None:
    """Send a finished run to an annotation server."""


@push.command(
    name="label-studio",
    cls=Command,
    options="prelabel.label_studio.options:PushOptions",
    examples=("prelabel push label-studio out/run --url http://localhost:8080 --project photos",),
    short_help="Send tasks with predictions to a Label Studio project.",
)
@run_argument
@storage_option
@click.option("--quiet", is_flag=True, cls=HeadedOption, heading="Messages", help="Print only errors.")
def push_label_studio(output: str, quiet: bool, storage_options: str | None, options: PushOptions) -> None:
    """Send tasks with predictions to a Label Studio project.

    Reads the access token from LABEL_STUDIO_API_KEY or --token-file. Finds existing tasks by their image and replaces
    predictions of the same model version, so repeating a push changes nothing. Run the same command again to resume an
    interrupted push.
    """
    from prelabel.console import counting, table
    from prelabel.export.base import RunInfo
    from prelabel.export.run_selection import selection_words
    from prelabel.label_studio.push import push_run

    run = open_finished(output, storage_options)
    with counting("images sent", show=not quiet) as progress:
        report = push_run(run, options, progress)
    show_notes(report.warnings)
    if not quiet:
        scores = selection_words(options.selection, RunInfo.of(run).kept)
        click.echo(table("", [*report.table(), ("scores", scores)]))


@click.command(
    cls=Command,
    options="prelabel.review.options:EvaluateOptions",
    examples=(
        "prelabel evaluate out/run --truth instances.json",
        "prelabel evaluate out/run --metric openimages --truth boxes.csv --image-labels labels.csv",
    ),
    short_help="Compare a run with ground truth and suggest thresholds.",
)
@run_argument
@storage_option
def evaluate(output: str, storage_options: str | None, options: EvaluateOptions) -> None:
    """Compare RUN with ground truth: compute COCO AP and suggest the thresholds that need the fewest corrections.

    Writes evaluation.json, evaluation.html and thresholds.yaml; `label` and `export` read thresholds.yaml
    with --class-threshold.

    With --metric openimages, computes the mean AP of the Open Images Challenge, and writes openimages.json and
    openimages.html instead.
    """
    from prelabel.console import counting
    from prelabel.review.from_run import evaluate_run
    from prelabel.review.metrics import tables_of

    run = open_finished(output, storage_options)
    with counting("images read") as progress:
        evaluation, files = evaluate_run(run, options, progress)
    _show(tables_of(evaluation), files)


@click.command(
    cls=Command,
    options="prelabel.review.options:CompareOptions",
    examples=("prelabel compare --predictions out/run --annotations export.json",),
    short_help="Report how annotators changed the pre-annotations.",
)
@storage_option
def compare(storage_options: str | None, options: CompareOptions) -> None:
    """Report what annotators kept, moved, relabeled, deleted and added, and how long they took.

    Writes comparison.json, comparison.html and thresholds.yaml. Reads what annotators saw from their annotations or,
    failing that, from the exports and pushes recorded with the run. Selection options override both.
    """
    from prelabel.console import counting
    from prelabel.review.from_run import compare_run
    from prelabel.review.report.tables import comparison_tables

    run = open_finished(options.predictions, storage_options)
    with counting("images read") as progress:
        comparison, files = compare_run(run, options, progress)
    show_notes(comparison.notes)
    _show((table for table in comparison_tables(comparison) if table.rows), files)


def _show(tables: Iterable[Any], files: Iterable[str]) -> None:
    from prelabel import console

    for table in tables:
        click.echo(console.table(table.title, table.rows, table.header) + "\n")
    for name in files:
        click.echo(f"wrote {name}")
