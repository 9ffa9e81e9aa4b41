"""The Python functions: each does what the command of its name does, and returns the result instead of printing it.

`prelabel/__init__.py` offers them as `prelabel.label(...)` and so on, each with its options as keywords; `signatures`
makes the list of keywords. Nothing heavy is imported before a function is called.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from prelabel.signatures import options_of, plain

if TYPE_CHECKING:
    from prelabel.config import LabelOptions
    from prelabel.difference.from_run import DiffSummary
    from prelabel.engine.progress import Reporter, Summary
    from prelabel.estimates.estimate import Estimate
    from prelabel.export.base import ExportReport
    from prelabel.export.extract import ExtractReport
    from prelabel.fusion.job import FusionSummary
    from prelabel.label_studio.push import PushReport
    from prelabel.review.summaries import ComparisonSummary, EvaluationSummary
    from prelabel.store.run import Run
    from prelabel.store.status import RunStatus
    from prelabel.store.verify import Verification
    from prelabel.triage.choosing import ImageChoice

    StrPath = str | os.PathLike[str]

Report = TypeVar("Report", "ExportReport", "PushReport")


def label(
    source: StrPath | Sequence[StrPath],
    *,
    detector: StrPath,
    output: StrPath,
    config: StrPath | None = None,
    progress: bool | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Summary:
    """Label images and write one row per image. The same call resumes a run that was stopped.

    Equivalent to `prelabel label`.

    Args:
        source: Folders, prefixes, globs, files, lists or COCO JSON, on a disk or at any fsspec URL, or Label Studio
            projects.
        detector: Name from `prelabel detectors`, the URL, archive, folder or prefix of a SavedModel, or
            `package.module:factory`, a detector in Python.
        output: Folder or storage prefix for the plan, the shards and the manifest.
        config: Job file (YAML or TOML) with options; arguments of this call override it.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        reporter: Receives the progress in place of the progress bar.

    Returns:
        The counts of images, detections and failures, the timings and the workers.

    Raises:
        PrelabelError: See `prelabel.errors`. Finished shards are kept, and the same call resumes the run.
    """
    from prelabel.config import label_options
    from prelabel.engine.job import run as run_job

    values = _given({"source": source, "detector": detector, "output": output, **options})
    chosen = label_options(values, config=None if config is None else os.fspath(config))
    with _listening(chosen, progress, reporter) as listener:
        return run_job(chosen, listener)


def estimate(
    source: StrPath | Sequence[StrPath],
    *,
    detector: StrPath,
    output: StrPath,
    config: StrPath | None = None,
    progress: bool | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Estimate:
    """Estimate what `label` would do and take with the same arguments, from a sample. Writes nothing to the output.

    Equivalent to `prelabel label --dry-run`.

    Args:
        source: As for `label`.
        detector: As for `label`.
        output: As for `label`; if it holds an unfinished run, the estimate is for the rest.
        config: Job file (YAML or TOML) with options of `label`; arguments of this call override it.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        reporter: Receives the progress in place of the progress bar.

    Returns:
        The images, what the sample shows of them, the workers, the time with its range, the costs, and warnings.

    Raises:
        PrelabelError: `label` would refuse the call, or no worker can label the sample.
    """
    from prelabel.estimates.estimate import estimate as estimate_run
    from prelabel.estimates.options import estimate_options

    values = _given({"source": source, "detector": detector, "output": output, **options})
    chosen = estimate_options(values, config=None if config is None else os.fspath(config))
    with _listening(chosen.run, progress, reporter) as listener:
        return estimate_run(chosen, listener)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that are not None, as job files could hold them."""
    return {name: plain(value) for name, value in values.items() if value is not None}


@contextmanager
def _listening(options: LabelOptions, progress: bool | None, reporter: Reporter | None) -> Iterator[Reporter]:
    """Yield the caller's reporter; without one, a reporter for these options, which is closed in the end."""
    from prelabel import console

    if reporter is not None:
        yield reporter
        return
    quiet = options.quiet or not console.shows_progress(progress)
    listener = console.reporter(quiet=quiet, log_json=options.log_json)
    try:
        yield listener
    finally:
        listener.close()


def fuse(
    runs: Sequence[StrPath | Run],
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> FusionSummary:
    """Merge the detections of finished runs over the same images into a new run. Needs no detector.

    Equivalent to `prelabel fuse`. The same call resumes one that was stopped.

    Args:
        runs: The outputs of `label`, or the opened runs; at least two.
        to: Folder or storage prefix for the new run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The counts of images and detections, how many runs agree on them, and the classes that only one run knows.

    Raises:
        ConfigError: The runs or an option do not allow it: fewer than two runs, one run twice, a class of unclear
            identity, a run with other settings in `to`.
        StoreError: A run is missing, unfinished or corrupt, or the runs read different files under one `image_id`.
    """
    from prelabel.console import counting
    from prelabel.fusion.job import Progress, fuse_runs
    from prelabel.processes import Processes

    named = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    places = [run if isinstance(run, str | os.PathLike) else run.output for run in named]
    chosen = options_of("fuse", options, runs=places, to=to)
    opened = [_opened(run, storage_options) for run in named]
    with counting("images fused", show=progress) as count, Processes.all_cores() as processes:
        return fuse_runs(opened, chosen, processes, Progress(count=count))


def open_run(output: StrPath, storage_options: Mapping[str, Any] | None = None) -> Run:
    """Open a finished run to read its rows.

    Args:
        output: The output of `label`: a folder or storage prefix.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The run. `run.rows()` iterates over its images in plan order, each with its `detections`.

    Raises:
        StoreError: There is no run, or it is not finished.
    """
    from prelabel.storage.files import Storage
    from prelabel.store.run import open_run as open_finished_run

    return open_finished_run(os.fspath(output), Storage(storage_options))


def status(run: StrPath | Run, *, storage_options: Mapping[str, Any] | None = None) -> RunStatus:
    """Read the progress of a run, from any machine, while it runs or afterwards.

    Equivalent to `prelabel status`.

    Args:
        run: The output of `label`, or the opened run.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The state, the counts of images, shards and failures, and the current rate.

    Raises:
        StoreError: There is no run, or it cannot be read.
    """
    from prelabel.store.status import read_status

    return read_status(*_place(run, storage_options))


def verify(
    run: StrPath | Run, *, progress: bool | None = None, storage_options: Mapping[str, Any] | None = None
) -> Verification:
    """Check that every planned image has exactly one valid row and that no file is missing, corrupt or left over.

    Equivalent to `prelabel verify`.

    Args:
        run: The output of `label`, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The counts and the list of problems; `complete` is true if there are none.

    Raises:
        StoreError: There is no run, or it cannot be read.
    """
    from prelabel.console import counting
    from prelabel.processes import Processes
    from prelabel.store.verify import verify as verify_run

    output, storage = _place(run, storage_options)
    with counting("shards checked", show=progress) as count, Processes.all_cores() as processes:
        return verify_run(output, storage, progress=count, processes=processes)


def choose_images(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ImageChoice:
    """Choose which images of a run to review first, and write them as a list for the option `images`.

    Equivalent to `prelabel select`.

    Args:
        run: The output of `label`, or the opened run.
        to: The list to write: `.parquet`, `.csv`, `.jsonl` or `.txt`.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The path of the list, and the counts of its images by part.

    Raises:
        ConfigError: An option has an invalid value, or nothing can be chosen.
        StoreError: The run is missing, unfinished or corrupt, or the list cannot be written.
    """
    from prelabel.console import counting
    from prelabel.processes import Processes
    from prelabel.storage.address import absolute
    from prelabel.triage.choosing import choose_images as choose

    chosen = options_of("choose_images", options)
    opened = _opened(run, storage_options)
    with counting("images read", show=progress) as count, Processes.all_cores() as processes:
        choice = choose(opened, absolute(os.fspath(to)), chosen, processes, count)
    return dataclasses.replace(choice, warnings=(*chosen.notes, *choice.warnings))


def preview(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportReport:
    """Make a gallery of a run that opens in any browser without a server.

    Equivalent to `prelabel preview`.

    Args:
        run: The output of `label`, or the opened run.
        to: Folder for `index.html` and its images.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The path of the page in `files`, and the counts of what it shows.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: `to` holds a page that is not a preview, or a mask does not fit its image.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.gallery.preview import write_preview

    chosen = options_of("preview", options)
    return _export(
        write_preview, "preview", run, to, chosen, progress, storage_options, fetches_images=True, accepts_progress=True
    )


def export_coco(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportReport:
    """Write a COCO dataset file, and with `results` a results file.

    Equivalent to `prelabel export coco`.

    Args:
        run: The output of `label`, or the opened run.
        to: The JSON file to write.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.export import coco

    return _export(coco.export_coco, "coco", run, to, options_of("export_coco", options), progress, storage_options)


def export_cvat(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportReport:
    """Write CVAT's XML for images: boxes, masks or polygons to upload to a task.

    Equivalent to `prelabel export cvat`.

    Args:
        run: The output of `label`, or the opened run.
        to: The XML or ZIP file to write.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.export import cvat

    return _export(cvat.export_cvat, "cvat", run, to, options_of("export_cvat", options), progress, storage_options)


def export_yolo(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportReport:
    """Write YOLO labels (boxes or segments), lists of images and `data.yaml`.

    Equivalent to `prelabel export yolo`.

    Args:
        run: The output of `label`, or the opened run.
        to: The folder to write into.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.export import yolo

    chosen = options_of("export_yolo", options)
    fetches = chosen.image_files == "copy"
    return _export(yolo.export_yolo, "yolo", run, to, chosen, progress, storage_options, fetches_images=fetches)


def export_voc(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportReport:
    """Write Pascal VOC: an XML file of boxes per image.

    Equivalent to `prelabel export voc`.

    Args:
        run: The output of `label`, or the opened run.
        to: The folder to write into.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.export import voc

    chosen = options_of("export_voc", options)
    fetches = chosen.image_files == "copy"
    return _export(voc.export_voc, "voc", run, to, chosen, progress, storage_options, fetches_images=fetches)


def export_label_studio(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExportReport:
    """Write Label Studio tasks with predictions, and the labeling config that fits them.

    Equivalent to `prelabel export label-studio`.

    Args:
        run: The output of `label`, or the opened run.
        to: The folder to write tasks into.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections do not fit the labeling config, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.label_studio import export

    chosen = options_of("export_label_studio", options)
    return _export(export.export_label_studio, "label-studio", run, to, chosen, progress, storage_options)


def extract(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ExtractReport:
    """Write the images of a run as files, for tools that cannot read them where they are, such as in archives.

    Equivalent to `prelabel extract`. The same call resumes one that was stopped.

    Args:
        run: The output of `label`, or the opened run.
        to: Folder or storage prefix for the files and their record, which exports read with `extracted`.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The counts of files, and the images that have changed or cannot be read; `complete` is true if there are none.

    Raises:
        ConfigError: An option has an invalid value, or `to` has the images of another run or other files.
        ExportError: `to` cannot be listed.
        StoreError: The run is missing, unfinished or corrupt, or a file cannot be written.
    """
    from prelabel.console import counting
    from prelabel.export.extract import extract_images
    from prelabel.storage.address import absolute

    chosen = options_of("extract", options)
    opened = _opened(run, storage_options)
    with counting("images extracted", show=progress) as count:
        report = extract_images(opened, absolute(os.fspath(to)), chosen, count)
    return dataclasses.replace(report, warnings=(*chosen.notes, *report.warnings))


def push_label_studio(
    run: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> PushReport:
    """Send tasks with predictions to a Label Studio project. Repeating the call changes nothing.

    Equivalent to `prelabel push label-studio`. The token is read from `LABEL_STUDIO_API_KEY` or `token_file`.

    Args:
        run: The output of `label`, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The project, and the counts of tasks and predictions created, replaced and left unchanged.

    Raises:
        ConfigError: The token is missing, an option is not allowed, or names a class that does not exist.
        ExportError: The detections do not fit the labeling config of the project.
        PushError: The server refuses a request or does not answer. The same call continues the push.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.console import counting
    from prelabel.label_studio.push import push_run

    chosen = options_of("push_label_studio", options)
    with counting("images sent", show=progress) as count:
        report = push_run(_opened(run, storage_options), chosen, count)
    return _with_notes(report, before=chosen.notes)


def evaluate(
    run: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> EvaluationSummary:
    """Evaluate a run against ground truth: COCO AP, and the score thresholds that need the fewest corrections.

    Equivalent to `prelabel evaluate`: writes `evaluation.json`, `evaluation.html` and `thresholds.yaml`, or the report
    of one of Open Images' metrics (`metric="openimages"`).

    Args:
        run: The output of `label`, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        AP of boxes and masks, AP by class, the suggested thresholds and the files written.

    Raises:
        ConfigError: The ground truth is missing, faster-coco-eval is not installed, or an option is not allowed.
        EvaluateError: The ground truth is not in the format of the metric, or shares no image or no class with the run.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.console import counting
    from prelabel.review.from_run import evaluate_run
    from prelabel.review.metrics import summary_of

    chosen = options_of("evaluate", options)
    opened = _opened(run, storage_options)
    with counting("images read", show=progress) as count:
        evaluation, files = evaluate_run(opened, chosen, count)
    summary = summary_of(evaluation, files)
    return dataclasses.replace(summary, notes=(*chosen.notes, *summary.notes))


def compare(
    run: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ComparisonSummary:
    """Compare the pre-annotations of a run with what annotators made of them: kept, moved, relabeled, deleted, added.

    Equivalent to `prelabel compare`: writes `comparison.json`, `comparison.html` and `thresholds.yaml`.

    Args:
        run: The output of `label`, or the opened run, whose pre-annotations were corrected.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The counts of edits, in total and by class, the suggested thresholds and the files written.

    Raises:
        ConfigError: The annotations are missing, or an option is not allowed.
        EvaluateError: The annotations cannot be read, or share no image with the run.
        StoreError: The run is missing, unfinished or corrupt.
    """
    from prelabel.console import counting
    from prelabel.review.from_run import compare_run
    from prelabel.review.summaries import ComparisonSummary

    opened = _opened(run, storage_options)
    chosen = options_of("compare", options, predictions=opened.output)
    with counting("images read", show=progress) as count:
        comparison, files = compare_run(opened, chosen, count)
    return ComparisonSummary.of(comparison, files, chosen.notes)


def diff(
    run_a: StrPath | Run,
    run_b: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DiffSummary:
    """Compare two runs over the same images: which detections were kept, moved, relabeled, vanished or appeared.

    Equivalent to `prelabel diff`: writes `diff.json` and `diff.html`.

    Args:
        run_a: The output of `label` to start from, or the opened run.
        run_b: The output of `label` to compare with it, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The counts of changes, in total and by class, the share of detections that changed and the files written.

    Raises:
        ConfigError: The runs cannot be compared, or an option is not allowed.
        EvaluateError: The runs share no image that can be compared, or a mask does not fit its image.
        StoreError: A run is missing, unfinished or corrupt.
    """
    from prelabel.console import counting
    from prelabel.difference.from_run import DiffSummary, report_difference
    from prelabel.processes import Processes

    a, b = (_opened(run, storage_options) for run in (run_a, run_b))
    chosen = options_of("diff", options, run_a=a.output, run_b=b.output)
    with counting("images compared", show=progress) as count, Processes.all_cores() as processes:
        difference, files = report_difference(a, b, chosen, processes, count)
    return DiffSummary.of(difference, files, chosen.notes)


def _export(
    exporter: Callable[..., ExportReport],
    kind: str,
    run: StrPath | Run,
    to: StrPath,
    options: Any,
    progress: bool | None,
    storage_options: Mapping[str, Any] | None,
    **how: bool,
) -> ExportReport:
    """Export a run, and record the export; `how` is for `export_run`."""
    from prelabel.console import counting
    from prelabel.export.from_run import export_run, record_export
    from prelabel.storage.address import absolute

    opened = _opened(run, storage_options)
    target = absolute(os.fspath(to))
    before = [*options.notes]
    with counting("images read", show=progress) as count:
        report = export_run(exporter, opened, target, options, count, note=before.extend, **how)
    after = record_export(opened, kind, target, options, report)
    return _with_notes(report, before=before, after=after)


def _with_notes(report: Report, *, before: Sequence[str], after: Sequence[str] = ()) -> Report:
    return dataclasses.replace(report, warnings=(*before, *report.warnings, *after))


def _place(run: StrPath | Run, storage_options: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The path of a run, and the storage to open it with."""
    from prelabel.storage.files import Storage
    from prelabel.store.run import Run

    if isinstance(run, Run):
        return run.root, run.storage if storage_options is None else Storage(storage_options)
    return os.fspath(run), Storage(storage_options)


def _opened(run: StrPath | Run, storage_options: Mapping[str, Any] | None) -> Run:
    from prelabel.store.run import Run
    from prelabel.store.run import open_run as open_finished_run

    if isinstance(run, Run) and storage_options is None:
        return run
    return open_finished_run(*_place(run, storage_options))
