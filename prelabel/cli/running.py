"""`prelabel label`, `prelabel status` and `prelabel verify`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from prelabel.cli.command import (
    PATH,
    Command,
    DescribedArgument,
    HeadedOption,
    any_run_argument,
    fail,
    stopped_by_signals,
    storage_of,
    storage_option,
)
from prelabel.errors import ConfigError, RunInterrupted

if TYPE_CHECKING:
    from prelabel.cli.estimate import DryRun
    from prelabel.config import LabelOptions
    from prelabel.engine.progress import LostWorker, Reporter, Summary
    from prelabel.store.status import RunStatus

#: Most problems that `verify` prints.
_MOST_PROBLEMS = 20

#: Most lost workers that the summary names.
_MOST_LOST = 5


class _LabelCommand(Command):
    def make_options(self, values: dict[str, Any], ctx: click.Context) -> Any:
        """The options of the run, from the job file and the command line, which overrides it.

        Those of `--dry-run` become the parameter `dry_run` of the command's function, which is None without it.
        """
        from prelabel.config import label_options
        from prelabel.estimates.options import OWN, estimate_options
        from prelabel.options import flag_of

        config, is_dry_run, as_json = (ctx.params.pop(name) for name in ("config", "dry_run", "as_json"))
        ctx.params["dry_run"] = None
        if not is_dry_run:
            for flag in [*(flag_of(name) for name in OWN if name in values), *["--json"] * as_json]:
                raise ConfigError(f"label: {flag} belongs to an estimate: add --dry-run, or remove it")
            return label_options(values, config=config)
        from prelabel.cli.estimate import DryRun, command_line

        options = estimate_options(values, config=config)
        run_values = {name: value for name, value in values.items() if name not in OWN}
        ctx.params["dry_run"] = DryRun(options, command_line(run_values, config), as_json)
        return options.run


@click.command(
    cls=_LabelCommand,
    options="prelabel.estimates.options:EstimateOptions",
    examples=(
        "prelabel label photos/ --detector openimages-ssd-mobilenet-v2 --output out/run",
        "prelabel label photos/ --detector openimages-ssd-mobilenet-v2 --output out/run --dry-run",
    ),
    arguments=("source",),
    short_help="Label images and write one row per image.",
)
@click.argument("source", nargs=-1, type=PATH, metavar="SOURCE...", cls=DescribedArgument)
@click.option(
    "--config",
    type=PATH,
    metavar="FILE",
    help="Read options from a job file (YAML or TOML); options on the command line override it.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write nothing: list and plan as a run would, label a sample, and print what the run would take and cost.",
)
@click.option(
    "--json", "as_json", is_flag=True, cls=HeadedOption, heading="Dry run", help="Print the estimate as JSON."
)
def label(options: LabelOptions, dry_run: DryRun | None) -> None:
    """Label images and write one row per image, as Parquet shards.

    Run the same command again to resume an interrupted run.
    """
    from prelabel.engine.runner import Runner

    with Runner(options) as runner:
        if dry_run is None:
            runner.start()  # before the imports, which take half a second
        from prelabel.console import reporter
        from prelabel.engine.job import run
        from prelabel.engine.progress import too_many
        from prelabel.processes import without_pandas
        from prelabel.store.rows import GONE

        without_pandas()
        listener = reporter(quiet=options.quiet, log_json=options.log_json)
        if dry_run is not None:
            from prelabel.cli.estimate import estimate

            estimate(dry_run, listener)
            return
        with stopped_by_signals() as stop:
            try:
                summary = run(options, listener, stop, runner)
            except RunInterrupted as error:
                listener.close()
                fail(str(error), stop.exit_code)
            finally:
                listener.close()
    show_summary(summary, listener, quiet=options.quiet)
    if summary.lost:
        fail(
            f"{summary.lost:,} images failed because their worker died or hung; run the same command with "
            "--retry-failed to retry them"
        )
    failed = summary.failed - summary.failures.get(GONE, 0)  # images that are gone cannot be retried
    if too_many(options.max_failed, summary.images, failed):
        fail(
            f"{failed:,} of {summary.images:,} images failed, more than --max-failed {options.max_failed:g} "
            "allows; run the same command with --retry-failed to retry them"
        )
    if summary.failed == summary.images:
        name = max(summary.failures, key=lambda reason: summary.failures[reason])
        example = f": {summary.examples[name][:300]}" if name in summary.examples else ""
        all_images = f"all {summary.images:,} images" if summary.images > 1 else "the only image"
        fail(f"{all_images} failed; the most frequent error is {name}{example}")


def show_summary(summary: Summary, listener: Reporter, *, quiet: bool) -> None:
    """Print the summary as a table, or as a JSON line."""
    from prelabel import console
    from prelabel.engine.runner import WHERE
    from prelabel.words import duration

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
    if summary.views > summary.images - summary.failed > 0:
        per_image = summary.views / (summary.images - summary.failed)
        rows.append(["views", f"{summary.views:,} ({per_image:.1f} per image)"])
    if summary.dropped:
        rows.append(["dropped", _dropped(summary.dropped, summary.dropped_example)])
    if summary.source_check is not None:
        rows.append(["source", str(summary.source_check)])
    if summary.skipped_shards:
        rows.append(["shards finished before", f"{summary.skipped_shards:,}"])
    if summary.labeled:
        workers = f"{summary.workers} worker{'s' * (summary.workers != 1)} {WHERE[summary.runner]}"
        rate = f"{summary.images_per_s:.1f} images/s with {workers}"
        rows.append(["labeled now", f"{summary.labeled:,} at {rate}"])
        rows.append(["model run", summary.optimization])
    rows += _lost_rows(summary.lost_workers)
    rows.append(["time", f"{duration(summary.wall_s)} ({duration(summary.label_s)} labeling)"])
    if summary.labeled:
        rows.append(["model busy", f"{summary.busy:.0%} of the labeling time"])
        rows.append(["time by stage", f"{console.stage_seconds(summary.seconds)}; sums over all workers"])
    rows += [["warning" if number == 0 else "", note] for number, note in enumerate(summary.notes)]
    rows.append(["output", summary.output])
    click.echo(console.table("", rows))


def _lost_rows(workers: Sequence[LostWorker]) -> list[list[str]]:
    """The numbers of lost and removed workers, and the first few of them."""
    rows = []
    for name, is_excluded in (("workers lost", False), ("workers removed", True)):
        listed = [worker for worker in workers if worker.is_excluded == is_excluded]
        rows += [[name, f"{len(listed):,}"]] if listed else []
        for worker in listed[:_MOST_LOST]:
            shards = "".join(f"; shard {shard}: {outcome}" for shard, outcome in worker.shards.items())
            rows.append([f"  {worker.worker or '(not started)'}", f"{worker.cause}{shards}"])
        if len(listed) > _MOST_LOST:
            rows.append(["  ...", f"and {len(listed) - _MOST_LOST:,} more"])
    return rows


def _dropped(count: int, example: str = "") -> str:
    first = f"; first in {example}" if example else ""
    return f"{count:,} detection{'s' * (count != 1)} with values that are not finite or boxes outside the image{first}"


@click.command(
    cls=Command,
    examples=("prelabel verify out/run",),
    short_help="Check that no row of a run is missing, duplicate or corrupt.",
)
@any_run_argument
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(output: str, storage_options: str | None, as_json: bool) -> None:
    """Check that every planned image has exactly one row in RUN and that every shard is valid.

    Exits with code 1 if there is a problem.
    """
    from prelabel.console import counting, printable, table
    from prelabel.processes import Processes, without_pandas
    from prelabel.store.verify import verify as check

    without_pandas()
    with counting("shards checked") as progress, Processes.all_cores() as processes:
        report = check(output, storage_of(storage_options), progress=progress, processes=processes)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        for problem in report.problems[:_MOST_PROBLEMS]:
            click.echo(f"  {printable(problem)}")
        if len(report.problems) > _MOST_PROBLEMS:
            click.echo(f"  ... and {len(report.problems) - _MOST_PROBLEMS} more")
        counts = {
            "shards": report.shards,
            "rows": report.rows,
            "failed images": report.failed,
            "detections": report.detections,
            **({"dropped (not finite, or outside)": report.dropped} if report.dropped else {}),
            "problems": len(report.problems),
        }
        click.echo(table("", [[name, f"{count:,}"] for name, count in counts.items()]))
    if not report.complete:
        fail(
            f"{output} is incomplete or invalid; run the same `prelabel label` or `prelabel fuse` command to "
            "rebuild the affected shards"
        )


@click.command(
    cls=Command, examples=("prelabel status out/run",), short_help="Show a run's progress, from any machine."
)
@any_run_argument
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def status(output: str, storage_options: str | None, as_json: bool) -> None:
    """Show the progress of RUN, its rate, its failures and its slowest shards.

    Reads everything from storage, so it works on any machine, during the run or later.
    """
    from prelabel import console
    from prelabel.store.status import read_status

    run_status = read_status(output, storage_of(storage_options))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(run_status), indent=1))
        return
    click.echo(console.table("", _status_rows(run_status)))


def _status_rows(run_status: RunStatus) -> list[list[str]]:
    from prelabel.words import duration, share

    ago = "" if run_status.newest_s is None else f" {duration(run_status.newest_s)} ago"
    newest = f"; last shard finished{ago}" if ago else ""
    state = {
        "finished": f"finished{ago}",
        "working": f"running: {run_status.held_by}{newest or '; no shard finished yet'}",
        "stopped": f"stopped{newest}; run the same `prelabel label` or `prelabel fuse` command to resume",
    }
    done = share(run_status.done, run_status.images)
    rows = [
        ["state", state[run_status.state]],
        ["images", f"{run_status.done:,} of {run_status.images:,} in finished shards ({done})"],
        ["shards", f"{run_status.finished_shards:,} of {run_status.shards:,}"],
    ]
    if (check := run_status.source_check) is not None:
        rows.append(["source", f"{check}, when compared at {check.at}"])
    if run_status.images_per_s is not None and run_status.state != "finished":
        rows.append(["rate", f"{run_status.images_per_s:.1f} images/s over the last shards"])
    if run_status.left_s is not None:
        rows.append(["time left", duration(run_status.left_s)])
    is_sample = run_status.read_shards < run_status.finished_shards
    sample = f" in a sample of {run_status.read_shards:,} shards" if is_sample else ""
    rows.append(["failed", f"{run_status.failed:,}{sample}"])
    rows += [[f"  {name}", f"{count:,}"] for name, count in run_status.failures.items()]
    if run_status.dropped:
        rows.append(["dropped", _dropped(run_status.dropped) + sample])
    for number, (name, seconds) in enumerate(run_status.slowest):
        rows.append(["slowest shards" if number == 0 else "", f"{name}  {duration(seconds)} of worker time"])
    return rows
