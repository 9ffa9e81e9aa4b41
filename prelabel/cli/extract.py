"""`prelabel extract`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING

import click

from prelabel.cli.command import (
    Command,
    HeadedOption,
    fail,
    local_folder,
    open_finished,
    program,
    run_argument,
    show_notes,
    storage_option,
)

if TYPE_CHECKING:
    from prelabel.export.extract import ExtractOptions, ExtractReport

#: How many images that could not be extracted are named; the JSON has all.
_MOST_NAMED = 20


@click.command(
    cls=Command,
    options="prelabel.export.extract:ExtractOptions",
    examples=("prelabel extract out/run --to out/images", "prelabel extract out/run --to s3://bucket/images --upright"),
    short_help="Write the images of a run as files.",
)
@run_argument
@click.option(
    "--to",
    required=True,
    metavar="DIR|URL",
    callback=local_folder,
    help="Write the files into this folder, or below this prefix of a storage.",
)
@storage_option
@click.option("--json", "as_json", is_flag=True, cls=HeadedOption, heading="Messages", help="Print the result as JSON.")
def extract(output: str, to: str, storage_options: str | None, as_json: bool, options: ExtractOptions) -> None:
    """Write the images of RUN as files, for tools that cannot read them where they are, such as in archives.

    Files are exact copies, named after the images. The same command resumes one that was stopped, and writes only what
    is missing. Then exports name these files with --extracted. Exits with code 1 if an image has changed since it was
    labeled, or cannot be read.
    """
    from prelabel.console import counting
    from prelabel.export.extract import extract_images
    from prelabel.storage.address import absolute

    run = open_finished(output, storage_options)
    with counting("images extracted") as progress:
        report = extract_images(run, absolute(to), options, progress)
    show_notes(report.warnings)
    following = _following(output, to)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(report), "next": following}, indent=1))
    else:
        _show(report, following)
    if not report.complete:
        count, total = len(report.unextracted), report.images + len(report.unextracted)
        fail(f"{count:,} of {total:,} images could not be extracted: exports with --extracted refuse them")


def _following(output: str, to: str) -> list[str]:
    """The commands that use the files."""
    from prelabel.storage.address import redact

    run, files = shlex.quote(redact(output)), shlex.quote(redact(to))
    return [
        f"{program()} export label-studio {run} --extracted {files} --to tasks",
        f"{program()} export cvat {run} --extracted {files} --to cvat.zip",
        f"{program()} export coco {run} --extracted {files} --to coco.json",
    ]


def _show(report: ExtractReport, following: list[str]) -> None:
    from prelabel.console import printable, table
    from prelabel.words import size

    for image in report.unextracted[:_MOST_NAMED]:
        click.echo(f"  {printable(image.image_id)}: {printable(image.reason)}")
    if len(report.unextracted) > _MOST_NAMED:
        click.echo(f"  ... and {len(report.unextracted) - _MOST_NAMED:,} more (--json lists all)")
    rows = [
        ["images", f"{report.images:,}"],
        ["written", f"{report.written:,} ({size(report.bytes)})"],
        ["already there", f"{report.images - report.written:,}"],
    ]
    counts = {
        "rotated": report.turned,
        "renamed": report.renamed,
        "failed images": report.failed,
        "not extracted": len(report.unextracted),
    }
    rows += [[name, f"{count:,}"] for name, count in counts.items() if count]
    rows.append(["record", report.record])
    rows += [["next" if number == 0 else "", command] for number, command in enumerate(following)]
    click.echo(table("", rows))
