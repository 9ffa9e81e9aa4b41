"""The metrics of `evaluate`: what computes each one, and what the command and Python make from its result."""

from __future__ import annotations

from prelabel.errors import ConfigError
from prelabel.export.base import Rows, RunInfo
from prelabel.review.evaluation import Evaluation, evaluate
from prelabel.review.openimages.evaluation import OpenImagesEvaluation, evaluate_open_images
from prelabel.review.openimages.truth import is_open_images_csv
from prelabel.review.options import COCO, OPEN_IMAGES, OPEN_IMAGES_V2, EvaluateOptions
from prelabel.review.report.files import write_evaluation
from prelabel.review.report.history import History
from prelabel.review.report.openimages import open_images_tables, write_open_images
from prelabel.review.report.tables import Table, evaluation_tables
from prelabel.review.summaries import EvaluationSummary
from prelabel.review.tfrecord_truth import is_tfrecord
from prelabel.storage.address import redact
from prelabel.storage.files import Storage

AnyEvaluation = Evaluation | OpenImagesEvaluation


def evaluate_by_metric(info: RunInfo, rows: Rows, options: EvaluateOptions, storage: Storage) -> AnyEvaluation:
    """Evaluate a run with the metric of the options; see `evaluate` and `evaluate_open_images`.

    Raises:
        ConfigError: The metric does not read this kind of truth; also as the functions do.
        EvaluateError: As the functions do.
    """
    if options.metric != COCO and is_tfrecord(options.truth):
        raise ConfigError(
            f"{redact(options.truth)} is a TFRecord file, which is for --metric {COCO}: for {options.metric}, "
            "give Open Images' CSV file of boxes"
        )
    if options.metric != COCO:
        return evaluate_open_images(info, rows, options, storage)
    if is_open_images_csv(options.truth, storage):
        raise ConfigError(
            f"{redact(options.truth)} is a CSV file of Open Images: use --metric {OPEN_IMAGES} or {OPEN_IMAGES_V2}"
        )
    return evaluate(info, rows, options, storage)


def write_report(evaluation: AnyEvaluation, to: str, storage: Storage, history: History) -> tuple[str, ...]:
    """Write the report into a folder; see `write_evaluation` and `write_open_images`."""
    if isinstance(evaluation, OpenImagesEvaluation):
        return write_open_images(evaluation, to, storage)
    return write_evaluation(evaluation, to, storage, history)


def tables_of(evaluation: AnyEvaluation) -> list[Table]:
    """The tables for a terminal, in order."""
    if isinstance(evaluation, OpenImagesEvaluation):
        return open_images_tables(evaluation)
    return evaluation_tables(evaluation)


def summary_of(evaluation: AnyEvaluation, files: tuple[str, ...]) -> EvaluationSummary:
    """The summary; `files` are the files that were written."""
    if isinstance(evaluation, OpenImagesEvaluation):
        return EvaluationSummary.of_open_images(evaluation, files)
    return EvaluationSummary.of(evaluation, files)
