"""`prelabel push ...`: predictions into annotation tools that run as servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from prelabel.cli.options import PATH, Command, opened, storage_option
from prelabel.cli.records import record_export

if TYPE_CHECKING:
    from prelabel.push.options import PushOptions


@click.group(short_help="Bring OUT into annotation servers.")
def push() -> None:
    """Bring the finished shards of OUT into annotation tools that run as servers."""


@push.command(name="label-studio", cls=Command, options="prelabel.push.options:PushOptions")
@click.argument("output", type=PATH, metavar="OUT")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@storage_option
def push_label_studio(output: str, quiet: bool, storage_options: str | None, options: PushOptions) -> None:
    """Bring tasks with predictions into a Label Studio project; doing it again changes nothing.

    The token is read from LABEL_STUDIO_API_KEY or --token-file. Tasks that the project has are matched by image;
    predictions of the same model version are replaced. A push that broke off is continued by the same command.
    """
    from prelabel.console import printable, reporter, table
    from prelabel.engine.progress import Snapshot
    from prelabel.export.kept import selection_words
    from prelabel.export.reading import RunInfo
    from prelabel.push.label_studio import push as push_run

    run = opened(output, storage_options)
    info = RunInfo.of(run)
    listener = reporter(quiet=quiet, log_json=False)

    def progress(done: int) -> None:
        listener.progress(Snapshot(run.record.images, done, failed=0, images_per_s=0.0, workers=1, waiting=""))

    try:
        report = push_run(info, run.rows, options, run.storage, progress)
    finally:
        listener.close()
    for warning in report.warnings:
        click.echo(f"note: {printable(warning)}", err=True)
    counts = {"images": report.images, "detections": report.detections, "left_out": dict(report.left_out)}
    record_export(run, "push label-studio", report.url, options, counts)
    if not quiet:
        click.echo(table("", [*report.table(), ("scores", selection_words(options, info.kept))]))
