"""Reviews of a finished run, the same for commands and for Python: the result, and the report that is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from prelabel.export.base import RunInfo
from prelabel.export.from_run import rows_of
from prelabel.export.parallel import SpreadRows
from prelabel.processes import Processes
from prelabel.review.comparison import Comparison, compare
from prelabel.review.metrics import AnyEvaluation, evaluate_by_metric, write_report
from prelabel.review.options import CompareOptions, EvaluateOptions
from prelabel.review.report.files import report_folder, write_comparison
from prelabel.review.report.history import History
from prelabel.store.exports import read_exports
from prelabel.store.run import Run

#: Called with the number of images read and the total.
Progress = Callable[[int, int], None]


def evaluate_run(run: Run, options: EvaluateOptions, progress: Progress) -> tuple[AnyEvaluation, tuple[str, ...]]:
    """Evaluate a run and write the report.

    Returns:
        The evaluation, and the URLs of the files.
    """
    to = report_folder(run, "evaluation", options.to)
    with Processes.all_cores() as processes:
        rows = SpreadRows(rows_of(run, options), processes, progress)
        evaluation = evaluate_by_metric(RunInfo.of(run), rows, options, run.storage)
    exports, _ = read_exports(run.root, run.storage, run.record.run_id)
    return evaluation, write_report(evaluation, to, run.storage, History.of(exports, to, run.storage))


def compare_run(run: Run, options: CompareOptions, progress: Progress) -> tuple[Comparison, tuple[str, ...]]:
    """Compare a run with the annotations that were made from it, and write the report.

    Returns:
        The comparison, whose notes begin with those on recorded exports that cannot be read; and the URLs of the files.
    """
    to = report_folder(run, "comparison", options.to)
    exports, unreadable = read_exports(run.root, run.storage, run.record.run_id)
    with Processes.all_cores() as processes:
        rows = SpreadRows(rows_of(run, options), processes, progress)
        comparison = compare(RunInfo.of(run), rows, options, run.storage, exports)
    comparison = replace(comparison, notes=(*unreadable, *comparison.notes))
    return comparison, write_comparison(comparison, to, run.storage, History.of(exports, to, run.storage))
