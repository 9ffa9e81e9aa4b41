"""`prelabel evaluate` and `prelabel compare`: finished shards beside what is right, or what people made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from prelabel.cli.options import PATH, Command, opened, storage_option

if TYPE_CHECKING:
    from prelabel.compare.options import CompareOptions
    from prelabel.evaluate.options import EvaluateOptions


@click.command(
    cls=Command,
    options="prelabel.evaluate.options:EvaluateOptions",
    short_help="Hold OUT against ground truth; choose thresholds.",
)
@click.argument("output", type=PATH, metavar="OUT")
@storage_option
def evaluate(output: str, storage_options: str | None, options: EvaluateOptions) -> None:
    """Hold OUT against ground truth: COCO AP, and the thresholds that leave annotators least to correct.

    Writes evaluation.json, evaluation.html and thresholds.yaml, which `--class-threshold` of label and export takes.
    """
    from prelabel.evaluate.evaluation import evaluate as run_evaluation
    from prelabel.evaluate.files import write_evaluation
    from prelabel.evaluate.tables import tables
    from prelabel.export.reading import RunInfo
    from prelabel.storage import absolute, join

    run = opened(output, storage_options)
    done = run_evaluation(RunInfo.of(run), run.rows, options, run.storage)
    to = absolute(options.to) if options.to else join(run.output, "evaluation")
    files = write_evaluation(done, to, run.storage)
    _show(tables(done), files)


@click.command(
    cls=Command,
    options="prelabel.compare.options:CompareOptions",
    short_help="Say what people made of pre-annotations.",
)
@storage_option
def compare(storage_options: str | None, options: CompareOptions) -> None:
    """Say what people made of pre-annotations: kept, moved, relabelled, deleted, added, and how long it took.

    Writes comparison.json, comparison.html and thresholds.yaml. What people were shown is taken from their annotations,
    else from what exports and pushes wrote down beside the run; selection options that are stated win.
    """
    from prelabel.compare.comparison import compare as run_comparison
    from prelabel.compare.files import write_comparison
    from prelabel.compare.tables import tables
    from prelabel.console import printable
    from prelabel.export.reading import RunInfo
    from prelabel.storage import absolute, join
    from prelabel.store.exports import read_exports

    run = opened(options.predictions, storage_options)
    exports, damaged = read_exports(run.output, run.storage, run.record.run_id)
    done = run_comparison(RunInfo.of(run), run.rows, options, run.storage, exports)
    to = absolute(options.to) if options.to else join(run.output, "comparison")
    files = write_comparison(done, to, run.storage)
    for note in (*damaged, *done.notes):
        click.echo(f"note: {printable(note)}", err=True)
    _show((one for one in tables(done) if one.rows), files)


def _show(tables: Iterable[Any], files: Iterable[str]) -> None:
    from prelabel.console import table

    for one in tables:
        click.echo(table(one.title, one.rows, one.header) + "\n")
    for name in files:
        click.echo(f"wrote {name}")
