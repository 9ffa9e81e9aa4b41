"""`prelabel label`, `prelabel status` and `prelabel verify`."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from prelabel.cli.exits import FAILED, fail
from prelabel.cli.options import PATH, Command, storage_of, storage_option
from prelabel.errors import RunInterrupted

if TYPE_CHECKING:
    from prelabel.config import LabelOptions
    from prelabel.engine.progress import LostWorker, Reporter
    from prelabel.engine.summary import Summary
    from prelabel.store.status import Progress

#: Problems that `verify` prints.
_SHOWN = 20

#: Lost workers that the closing table names.
_MOST_LOST = 5


class _LabelCommand(Command):
    def make_options(self, values: dict[str, Any], ctx: click.Context) -> Any:
        """The options from the command line, which wins, and from the job file."""
        from prelabel.config import label_options

        return label_options(values, config=ctx.params.pop("config"))


@click.command(
    cls=_LabelCommand,
    options="prelabel.config:LabelOptions",
    arguments=("source",),
    short_help="Label images, a row for each.",
)
@click.argument("source", nargs=-1, type=PATH)
@click.option(
    "--config", type=PATH, metavar="FILE", help="Job file (YAML, TOML) of these options; the command line wins."
)
def label(options: LabelOptions) -> None:
    """Label the images of SOURCE... and write one row for each of them.

    SOURCE is a directory or prefix (recursive), a glob, an image, a list (.txt, .csv, .jsonl, .parquet with a `uri`
    column) or a COCO JSON, on a disk or any fsspec address (s3://, gs://, abfs://, https://).
    The same command goes on where an earlier one stopped.
    """
    from prelabel.console import reporter
    from prelabel.engine.job import run
    from prelabel.engine.meter import too_many

    listener = reporter(quiet=options.quiet, log_json=options.log_json)
    with stopped_by_signals() as stop:
        try:
            summary = run(options, listener, stop.event)
        except RunInterrupted as error:
            listener.close()
            fail(str(error), stop.exit_code)
        finally:
            listener.close()
    show_summary(summary, listener, quiet=options.quiet)
    if summary.lost:
        fail(
            f"{summary.lost} images failed because their worker died or hung; "
            "the same command with --retry-failed tries them again"
        )
    if too_many(options.max_failed, summary.images, summary.failed):
        fail(
            f"{summary.failed:,} of {summary.images:,} images failed, more than --max-failed {options.max_failed:g} "
            "allows; the same command with --retry-failed tries them again"
        )
    if summary.failed == summary.images:
        name = max(summary.failures, key=lambda one: summary.failures[one])
        example = f", as {summary.examples[name][:300]}" if name in summary.examples else ""
        fail(f"none of {summary.images:,} images could be labelled; most often {name}{example}")


def show_summary(summary: Summary, listener: Reporter, *, quiet: bool) -> None:
    """The closing table, or its JSON line."""
    from prelabel import console
    from prelabel.engine.runner import WHERE

    if isinstance(listener, console.JsonReporter):
        values = dataclasses.asdict(summary)
        listener.emit("summary", **{k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()})
        return
    if quiet:
        return
    rows = [["images", f"{summary.images:,}"], ["detections", f"{summary.detections:,}"]]
    rows.append(["failed", f"{summary.failed:,}"])
    for name, count in summary.failures.items():
        example = f"    e.g. {summary.examples[name][:200]}" if name in summary.examples else ""
        rows.append([f"  {name}", f"{count:,}{example}"])
    if summary.dropped:
        rows.append(["left out", _left_out(summary.dropped, summary.dropped_example)])
    if summary.skipped_shards:
        rows.append(["shards already done", f"{summary.skipped_shards:,}"])
    if summary.labelled:
        workers = f"{summary.workers} worker{'s' * (summary.workers != 1)} {WHERE[summary.runner]}"
        rate = f"{summary.images_per_s:.1f} images/s with {workers}"
        rows.append(["worked on now", f"{summary.labelled:,} at {rate}"])
    if summary.labelled:
        rows.append(["network run", summary.optimization])
    rows += _lost_rows(summary.lost_workers)
    rows.append(["time", f"{console.duration(summary.wall_s)} ({summary.label_s:.1f} s labelling)"])
    if summary.labelled:
        rows.append(["model at work", f"{summary.busy:.0%} of the labelling time"])
        rows.append(["seconds by stage", f"{console.stage_seconds(summary.seconds)}; summed over workers"])
    rows += [["beware" if number == 0 else "", note] for number, note in enumerate(summary.notes)]
    rows.append(["output", summary.output])
    click.echo(console.table("", rows))


def _lost_rows(workers: Sequence[LostWorker]) -> list[list[str]]:
    """How many workers were lost and left out, and the first few of them."""
    rows = []
    for name, is_left_out in (("workers lost", False), ("workers left out", True)):
        chosen = [worker for worker in workers if worker.is_left_out == is_left_out]
        rows += [[name, f"{len(chosen):,}"]] if chosen else []
        for worker in chosen[:_MOST_LOST]:
            shards = "".join(f"; shard {shard}: {then}" for shard, then in worker.shards.items())
            rows.append([f"  {worker.worker or '(never ran)'}", f"{worker.cause}{shards}"])
        if len(chosen) > _MOST_LOST:
            rows.append(["  ...", f"and {len(chosen) - _MOST_LOST:,} more"])
    return rows


def _left_out(count: int, example: str = "") -> str:
    first = f", first on {example}" if example else ""
    what = "with numbers that are not finite, or boxes outside of the image"
    return f"{count:,} detection{'s' * (count != 1)} {what}{first}"


class _Stop:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.exit_code = FAILED


@contextmanager
def stopped_by_signals() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM set an event; a second one ends the process at once."""
    stop = _Stop()

    def handle(number: int, frame: Any) -> None:
        if stop.event.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.exit_code = 128 + number
        stop.event.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@click.command(cls=Command, short_help="Prove that nothing of OUT is missing, doubled or broken.")
@click.argument("output", type=PATH, metavar="OUT")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(output: str, storage_options: str | None, as_json: bool) -> None:
    """Prove that OUT misses nothing, doubles nothing and breaks nothing; exit code 1 if it does."""
    from prelabel.console import counting, printable, table
    from prelabel.processes import Processes
    from prelabel.storage import absolute
    from prelabel.store.verify import verify as check

    with counting("shards checked") as progress, Processes.all_cores() as processes:
        report = check(absolute(output), storage_of(storage_options), progress=progress, processes=processes)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        for problem in report.problems[:_SHOWN]:
            click.echo(f"  {printable(problem)}")
        if len(report.problems) > _SHOWN:
            click.echo(f"  ... and {len(report.problems) - _SHOWN} more")
        counts = {
            "shards": report.shards,
            "rows": report.rows,
            "failed images": report.failed,
            "detections": report.detections,
            **({"left out (not finite, or outside)": report.dropped} if report.dropped else {}),
            "problems": len(report.problems),
        }
        click.echo(table("", [[name, f"{count:,}"] for name, count in counts.items()]))
    if not report.whole:
        fail(f"{output} is not whole; the same `prelabel label` command makes again what is missing or broken")


@click.command(cls=Command, short_help="How far a run is: from any machine, while it runs or after.")
@click.argument("output", type=PATH, metavar="OUT")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def status(output: str, storage_options: str | None, as_json: bool) -> None:
    """Tell how far the run at OUT is, at what rate, what fails and which shards are slow, from what is stored."""
    from prelabel import console
    from prelabel.storage import absolute
    from prelabel.store.status import progress_of

    found = progress_of(absolute(output), storage_of(storage_options))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1))
        return
    click.echo(console.table("", _status_rows(found)))


def _status_rows(found: Progress) -> list[list[str]]:
    from prelabel import console

    since = "" if found.newest_s is None else console.duration(found.newest_s)
    state = {
        "finished": "finished" + (f" {since} ago" if since else ""),
        "working": f"at work: {found.held_by}; "
        + (f"the newest shard came {since} ago" if since else "no shard has come yet"),
        "stopped": "stopped"
        + (f"; the newest shard came {since} ago" if since else "")
        + ": the same `prelabel label` command goes on",
    }
    share = 100 * found.done / found.images if found.images else 100.0
    rows = [
        ["state", state[found.state]],
        ["images", f"{found.done:,} of {found.images:,} in finished shards ({share:.1f} %)"],
        ["shards", f"{found.finished_shards:,} of {found.shards:,}"],
    ]
    if found.images_per_s is not None and found.state != "finished":
        rows.append(["rate", f"{found.images_per_s:.1f} images/s over the newest shards"])
    if found.left_s is not None:
        rows.append(["time left", console.duration(found.left_s)])
    looked = "" if found.read_shards >= found.finished_shards else f" in {found.read_shards:,} shards looked at"
    rows.append(["failed", f"{found.failed:,}{looked}"])
    rows += [[f"  {name}", f"{count:,}"] for name, count in found.failures.items()]
    if found.dropped:
        rows.append(["left out", _left_out(found.dropped) + looked])
    for number, (name, seconds) in enumerate(found.slowest):
        rows.append(["slowest shards" if number == 0 else "", f"{name}  {seconds:.1f} worker seconds"])
    return rows
