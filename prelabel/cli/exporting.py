"""`prelabel export ...` and `prelabel preview`: what finished shards are turned into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prelabel.cli.options import PATH, Command, SectionedOption, opened, storage_option
from prelabel.cli.records import record_export

if TYPE_CHECKING:
    from prelabel.store.run import Run, RunRows


@click.group(short_help="Turn OUT into what annotation tools read.")
def export() -> None:
    """Turn the finished shards of OUT into what annotation tools read; no detector, no GPU, as often as one likes."""


def _takes_run(to: str, metavar: str = "DIR") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """OUT, `--to` and `--storage-options`, in this order."""

    def check(ctx: click.Context, parameter: click.Parameter, given: str) -> str:
        # On a disk; a store may have both under one name. An export that has read everything would say it late.
        path = Path(given)
        if metavar == "DIR" and path.is_file():
            raise click.BadParameter(f"{given} is a file; name a folder")
        if metavar == "FILE" and path.is_dir():
            raise click.BadParameter(f"{given} is a folder; name a file in it")
        return given

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        decorated = storage_option(function)
        option = click.option("--to", required=True, metavar=metavar, help=to, callback=check, cls=SectionedOption)
        decorated = option(decorated)
        return click.argument("output", type=PATH, metavar="OUT")(decorated)

    return decorate


@export.command(cls=Command, options="prelabel.export.coco_options:CocoOptions")
@_takes_run("The JSON file to write.", "FILE")
def coco(**given: Any) -> None:
    """Write a COCO dataset file, and a results file with --results."""
    from prelabel.export.coco import export_coco

    _export(export_coco, "coco", **given)


@export.command(cls=Command, options="prelabel.export.cvat_options:CvatOptions")
@_takes_run("The XML file to write, or the ZIP.", "FILE")
def cvat(**given: Any) -> None:
    """Write CVAT's XML for images: boxes, masks or polygons to upload to a task."""
    from prelabel.export.cvat import export_cvat

    _export(export_cvat, "cvat", **given)


@export.command(cls=Command, options="prelabel.export.yolo_options:YoloOptions")
@_takes_run("The folder to write into.")
def yolo(**given: Any) -> None:
    """Write YOLO labels (boxes or segments), lists of images and data.yaml."""
    from prelabel.export.yolo import export_yolo

    _export(export_yolo, "yolo", fetches=given["options"].images == "copy", **given)


@export.command(cls=Command, options="prelabel.export.voc_options:VocOptions")
@_takes_run("The folder to write into.")
def voc(**given: Any) -> None:
    """Write Pascal VOC: an XML file of boxes for each image."""
    from prelabel.export.voc import export_voc

    _export(export_voc, "voc", fetches=given["options"].images == "copy", **given)


@export.command(name="label-studio", cls=Command, options="prelabel.export.label_studio_options:LabelStudioOptions")
@_takes_run("The folder to write tasks into.")
def label_studio(**given: Any) -> None:
    """Write Label Studio tasks with predictions, and the labelling config that fits them."""
    from prelabel.export.label_studio import export_label_studio

    _export(export_label_studio, "label-studio", **given)


@click.command(
    cls=Command, options="prelabel.preview.options:PreviewOptions", short_help="Make a gallery to look at in a browser."
)
@_takes_run("The folder to write the page into.")
def preview(**given: Any) -> None:
    """Make a gallery that opens in any browser without a server: pictures, boxes, masks, failures, filters."""
    from prelabel.preview.gallery import write_preview

    _export(write_preview, "", fetches=True, pictures=True, **given)


def whole_addresses(run: Run, lists: Sequence[str]) -> RunRows:
    """The rows of a run under addresses that can be fetched: with the signatures of the links in the lists."""
    from prelabel.source.listing import list_images
    from prelabel.store.links import Links

    links = Links()
    if lists:
        links.find(list_images(lists, run.storage), run.plan())
    elif run.signed:
        click.echo(
            f"note: {run.signed:,} images came by signed links, which a run does not keep: name their list, signed "
            "anew, with --links",
            err=True,
        )
    return run.rows_to_fetch(links)


def _export(
    exporter: Any,
    kind: str,
    output: str,
    to: str,
    storage_options: str | None,
    options: Any,
    *,
    fetches: bool = False,
    pictures: bool = False,
) -> None:
    from prelabel.console import counting, printable, table
    from prelabel.export.kept import selection_words
    from prelabel.export.parts import SpreadRows
    from prelabel.export.reading import RunInfo
    from prelabel.processes import Processes
    from prelabel.storage import absolute

    run = opened(output, storage_options)
    info = RunInfo.of(run)
    with counting("images read") as progress, Processes.all_cores() as processes:
        read = SpreadRows(whole_addresses(run, options.links) if fetches else run.rows, processes, progress)
        told = {"progress": progress} if pictures else {}
        report = exporter(info, read, absolute(to), options, run.storage, **told)
    for warning in report.warnings:
        click.echo(f"note: {printable(warning)}", err=True)
    if kind:  # a gallery is looked at, and nobody works on it
        counts = {"images": report.images, "detections": report.detections, "left_out": dict(report.left_out)}
        record_export(run, kind, absolute(to), options, counts)
    rows = [
        ["images", f"{report.images:,}"],
        ["detections", f"{report.detections:,}"],
        ["scores", selection_words(options, info.kept)],
    ]
    if getattr(report, "regions", 0):
        rows.insert(2, ["regions", f"{report.regions:,}"])
    if report.failed:
        rows.append(["failed images", f"{report.failed:,}"])
    rows += [[f"left out: {reason}", f"{count:,}"] for reason, count in report.left_out.items()]
    shown = report.files if len(report.files) <= 4 else (*report.files[:2], "...", report.files[-1])
    rows += [["wrote" if number == 0 else "", name] for number, name in enumerate(shown)]
    click.echo(table("", rows))
