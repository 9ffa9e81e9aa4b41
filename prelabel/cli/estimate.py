"""`prelabel label --dry-run`: print what a run would do, take and cost, and the command that starts it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from prelabel.cli.command import fail, program, stopped_by_signals
from prelabel.console import JsonReporter, printable, table
from prelabel.engine.runner import WHERE
from prelabel.errors import RunInterrupted
from prelabel.estimates.estimate import Estimate
from prelabel.options import fields_of, flag_of
from prelabel.storage.address import redact
from prelabel.words import counted, duration, rounded, share, size

if TYPE_CHECKING:
    from prelabel.engine.progress import Reporter
    from prelabel.estimates.forecast import TimeEstimate
    from prelabel.estimates.options import EstimateOptions
    from prelabel.estimates.requests import RequestEstimate

#: Most file extensions that are printed.
_MOST_EXTENSIONS = 8

#: Stands in the printed command for what must not be shown; `redact` writes the same.
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class DryRun:
    """A request for an estimate.

    Attributes:
        options: The run, and how to estimate it.
        command: The command that starts the run, with `***` for secrets.
        as_json: Whether to print JSON.
    """

    options: EstimateOptions
    command: str
    as_json: bool


def command_line(values: Mapping[str, Any], config: str | None) -> str:
    """The `label` command with these options, quoted for a shell; secrets are replaced by `***`.

    Args:
        values: The options as given on the command line.
        config: The job file, if one was given.
    """
    from prelabel.config import LabelOptions

    fields = fields_of(LabelOptions)
    arguments = ["--config", config] if config else []
    for name, value in values.items():
        if name == "source":
            continue
        field, flag = fields.get(name), flag_of(name)
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, bool):
                arguments.append(flag if entry else flag_of(f"no_{name}"))
            else:
                is_secret = field is not None and field.metadata["secret"]
                arguments += [flag, _HIDDEN if is_secret else redact(str(entry))]
    sources = [redact(str(source)) for source in values.get("source", ())]
    arguments = [*sources, *arguments] if not any(s.startswith("-") for s in sources) else [*arguments, "--", *sources]
    return f"{program()} label {shlex.join(arguments)}"


def estimate(dry_run: DryRun, listener: Reporter) -> None:
    """Estimate and print."""
    from prelabel.estimates.estimate import estimate as estimate_run

    with stopped_by_signals() as stop:
        try:
            result = estimate_run(dry_run.options, listener, stop)
        except RunInterrupted as error:
            listener.close()
            fail(str(error), stop.exit_code)
        finally:
            listener.close()
    values = {**dataclasses.asdict(result), "command": dry_run.command}
    if isinstance(listener, JsonReporter):
        listener.emit("estimate", estimate=values)
    if dry_run.as_json:
        click.echo(json.dumps(values, indent=1))
    elif not isinstance(listener, JsonReporter):
        click.echo(table("", estimate_rows(result)))
        click.echo(f"\n{'To start it' if result.images else 'No image is left to label. The command was'}:\n")
        click.echo(f"  {printable(dry_run.command)}")
        if _HIDDEN in dry_run.command:
            click.echo(f"\nReplace {_HIDDEN} with the secrets.")


def estimate_rows(result: Estimate) -> list[list[str]]:
    """The estimate as rows of a table."""
    rows = [["images to label", f"{result.images:,} in {counted(result.shards, 'shard')}"]]
    if result.finished_shards or result.finished_images:
        rows.append(
            [
                "finished before",
                f"{counted(result.finished_images, 'image')}; {counted(result.finished_shards, 'shard')}",
            ]
        )
    if result.images:
        rows.append(["files", _files(result)])
    rows += _sample_rows(result)
    rows += _worker_rows(result)
    if result.time is not None and result.cost is not None and result.output_bytes is not None:
        cost = result.cost
        rows.append(["time", f"about {duration(result.time.total_s)} ({_range(result.time)})"])
        rows.append(["", _parts(result.time)])
        hours = [f"{_small(cost.core_hours)} core hours"]
        hours += [f"{_small(cost.gpu_hours)} GPU hours"] if cost.gpu_hours else []
        rows.append(["cost", ", ".join(hours)])
        if cost.price is not None and cost.price_low is not None and cost.price_high is not None:
            nodes = counted(result.workers.nodes if result.workers else 1, "machine")
            rows.append(
                ["price", f"about {cost.price:,.2f} ({cost.price_low:,.2f} to {cost.price_high:,.2f}) for {nodes}"]
            )
        rows.append(["output", f"about {size(result.output_bytes)} in {result.output}"])
        rows += _request_rows(result.requests)
    elif result.images:
        rows.append(["time", "unknown: no image of the sample could be timed"])
    rows += [["warning" if number == 0 else "", warning] for number, warning in enumerate(result.warnings)]
    return rows


def _files(result: Estimate) -> str:
    listed = [f"{extension} {count:,}" for extension, count in list(result.extensions.items())[:_MOST_EXTENSIONS]]
    more = len(result.extensions) - len(listed)
    text = ", ".join([*listed, *([f"{more} other extensions"] if more > 0 else [])])
    if not result.unsized:
        return f"{size(result.bytes)}: {text}"
    if result.sample is None or result.sample.mean_bytes is None:
        return f"{text}; size unknown"
    about = size(result.bytes + result.unsized * result.sample.mean_bytes)
    return f"about {about} (the listing reports no sizes; from the sample): {text}"


def _sample_rows(result: Estimate) -> list[list[str]]:
    sample = result.sample
    if sample is None:
        return []
    labeled = f"{sample.labeled:,} labeled, {rounded(sample.detections_per_image)} detections per image"
    rows = [["sample", f"{counted(sample.images, 'image')} (seed {sample.seed}): {labeled}"]]
    if sample.smallest and sample.median and sample.largest:
        smallest, median, largest = (f"{w} x {h}" for w, h in (sample.smallest, sample.median, sample.largest))
        rows.append(["pixels", f"{median} (median); {smallest} to {largest}"])
    low, high = f"{sample.failed_low:.0%}", f"{sample.failed_high:.0%}"
    expected = f"{low} of all images" if low == high else f"{low} to {high} of all images are likely to fail"
    rows.append(["failed", f"{sample.failed:,} of the sample ({share(sample.failed, sample.images)}); {expected}"])
    for name, count in sample.failures.items():
        rows.append([f"  {name}", f"{count:,}    e.g. {sample.examples[name][:200]}"])
    return rows


def _worker_rows(result: Estimate) -> list[list[str]]:
    workers = result.workers
    if workers is None:
        return []
    each = f"{workers.cpus_per_worker:g} CPU" + (
        f" + {workers.gpus_per_worker:g} GPU" if workers.gpus_per_worker else ""
    )
    measured = "" if workers.measured == workers.workers else f"; {workers.measured} measured"
    nodes = "" if workers.runner == "local" else f", {counted(workers.nodes, 'machine')}"
    rows = [["workers", f"{workers.workers:,} {WHERE[workers.runner]}{nodes} ({each} each{measured})"]]
    if workers.images_per_s:
        total = rounded(workers.workers * workers.images_per_s)
        rows.append(["speed", f"{rounded(workers.images_per_s)} images/s per worker, {total} in total"])
        stages = ", ".join(f"{stage} {rounded(1000 * s)} ms" for stage, s in workers.stage_seconds.items())
        rows.append(["time per image", stages])
    machine = f" of {size(workers.node_memory_bytes)} on its machine" if workers.node_memory_bytes else ""
    rows.append(["memory", f"{size(workers.memory_bytes)} per worker{machine}"])
    return rows


def _request_rows(requests: RequestEstimate | None) -> list[list[str]]:
    """The requests to remote storage, which are billed by number: in all, and by what they are for."""
    if requests is None or not requests.purposes:
        return []
    totals = _counts({"source": requests.source, "output": requests.output})
    return [
        ["requests", f"{totals} (computed, without retries)"],
        ["", f"of these: {_counts(requests.purposes)}"],
    ]


def _counts(requests: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(
        f"{name} " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        for name, counts in requests.items()
        if counts
    )


def _range(time: TimeEstimate) -> str:
    return f"{duration(time.low_s)} to {duration(time.high_s)}"


def _parts(time: TimeEstimate) -> str:
    parts = {"checks": time.check_s, "listing": time.list_s, "start": time.start_s, "labeling": time.label_s}
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in {**parts, "end": time.end_s}.items())


def _small(number: float) -> str:
    """A number with two significant digits at least."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"
