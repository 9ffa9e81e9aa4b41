"""The command line. Options come from the dataclasses that Python and job files use; nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prelabel import __version__
from prelabel.errors import ConfigError, PrelabelError, RunInterrupted

if TYPE_CHECKING:
    from prelabel.engine.job import Summary
    from prelabel.engine.progress import Reporter
    from prelabel.store.run import Run

F = TypeVar("F", bound=Callable[..., Any])

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class SectionedCommand(click.Command):
    """A command that takes the options of a dataclass, listed under the headings that their definitions name.

    The dataclass is loaded when the command is used: `prelabel --help` does without NumPy and fsspec.

    Args:
        options: Returns the dataclass.
        arguments: Its fields that stand on their own on the command line.
    """

    def __init__(
        self, *args: Any, options: Callable[[], Any] | None = None, arguments: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._options = options
        self._arguments = arguments

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The declared parameters and those of the dataclass."""
        if self._options is not None:
            self.params = [*self.params, *_options_of(self._options(), self._arguments)]
            self._options = None
        return super().get_params(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading, in order of first appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class SectionedOption(click.Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def _options_of(cls: Any, arguments: tuple[str, ...]) -> Iterator[click.Option]:
    """A command-line option for each option field of a dataclass."""
    from prelabel.options import fields_of

    for name, field in fields_of(cls).items():
        if name not in arguments:
            yield _option(name, field)


def _option(name: str, field: dataclasses.Field[Any]) -> click.Option:
    from prelabel.options import flag_name

    meta = field.metadata
    kind = meta["type"]
    default = field.default
    flag = flag_name(name)
    if kind == "flag":
        flags = f"{flag}/--no-{flag[2:]}" if default else flag
        text = meta["help"] + ("  [default: yes]" if default else "")
        return SectionedOption([flags, name], section=meta["group"], help=text, is_flag=True, default=None)
    text = meta["help"]
    if isinstance(default, int | float | str) and default != "":
        text += f"  [default: {default}]"
    types: dict[str, Any] = {"int": int, "float": float}
    return SectionedOption(
        [flag, name],
        section=meta["group"],
        help=text,
        default=None,
        type=click.Choice(meta["choices"]) if meta["choices"] else types.get(kind, str),
        metavar=meta["metavar"] or None,
        multiple=kind in ("list", "pairs", "float-pairs"),
    )


def stated(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line: click hands None or an empty tuple for the rest."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None and v != ()}


@contextmanager
def clean_errors() -> Iterator[None]:
    """Errors raised on purpose end as one line and an exit code; a user's mistake never shows a traceback."""
    from prelabel.console import printable

    try:
        yield
    except ConfigError as error:
        _fail(printable(str(error)), USAGE)
    except PrelabelError as error:
        _fail(printable(str(error)), FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; Python would complain about it at exit
        sys.exit(FAILED)


def _fail(message: str, code: int) -> None:
    click.echo(f"prelabel: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="prelabel")
def main() -> None:
    """Pre-label image datasets at scale.

    Images from any storage go through a TensorFlow-Hub detector on Ray into Parquet, and from there into COCO and
    Label Studio pre-annotations that people correct instead of drawing from nothing.

    \b
      prelabel label s3://bucket/photos --detector openimages-ssd-mobilenet-v2 --output s3://bucket/run
      prelabel export label-studio s3://bucket/run --to tasks/

    Shell completion: eval "$(_PRELABEL_COMPLETE=bash_source prelabel)"
    """


def _label_options() -> Any:
    from prelabel.config import LabelOptions

    return LabelOptions


@main.command(cls=SectionedCommand, options=_label_options, arguments=("source",))
@click.argument("source", nargs=-1)
@click.option("--config", metavar="FILE", help="Job file (YAML or TOML) of these options; the command line wins.")
def label(config: str | None, **values: Any) -> None:
    """Label the images of SOURCE... and write one row for each of them.

    SOURCE is a directory or prefix (recursive), a glob, an image, a list (.txt, .csv, .jsonl, .parquet with a `uri`
    column) or a COCO JSON, on a disk or any fsspec address (s3://, gs://, abfs://, https://).
    The same command goes on where an earlier one stopped.
    """
    from prelabel.config import label_options
    from prelabel.console import reporter

    with clean_errors():
        options = label_options(stated(values), config=config)
        from prelabel.engine.job import run

        listener = reporter(quiet=options.quiet, log_json=options.log_json)
        with stopped_by_signals() as stop:
            try:
                summary = run(options, listener, stop.event)
            except RunInterrupted as error:
                listener.close()
                _fail(str(error), stop.exit_code)
            finally:
                listener.close()
        show_summary(summary, listener, quiet=options.quiet)
        if summary.lost:
            _fail(
                f"{summary.lost} images failed because their worker died or hung; "
                "the same command with --retry-failed tries them again",
                FAILED,
            )


def show_summary(summary: Summary, listener: Reporter, *, quiet: bool) -> None:
    """The closing table, or its JSON line."""
    from prelabel import console

    if isinstance(listener, console.JsonReporter):
        values = dataclasses.asdict(summary)
        listener.emit("summary", **{k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()})
        return
    if quiet:
        return
    rows = [["images", f"{summary.images:,}"], ["detections", f"{summary.detections:,}"]]
    rows.append(["failed", f"{summary.failed:,}"])
    rows += [[f"  {name}", f"{count:,}"] for name, count in summary.failures.items()]
    if summary.skipped_shards:
        rows.append(["shards already done", f"{summary.skipped_shards:,}"])
    if summary.labelled:
        rate = f"{summary.images_per_s:.1f} images/s with {summary.workers} worker{'s' * (summary.workers != 1)}"
        rows.append(["labelled now", f"{summary.labelled:,} at {rate}"])
    rows.append(["time", f"{console.duration(summary.wall_s)} ({summary.label_s:.1f} s labelling)"])
    if summary.labelled:
        rows.append(["seconds by stage", f"{console.stage_seconds(summary.seconds)}; summed over workers"])
    rows.append(["output", summary.output])
    click.echo(console.table("", rows))


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


def storage_option(command: F) -> F:
    """`--storage-options`, for commands that read or write OUT."""
    text = "JSON for the file systems of remote addresses (keys, endpoints). Never stored."
    return click.option("--storage-options", metavar="JSON", help=text, cls=SectionedOption)(command)


def storage_of(storage_options: str | None) -> Any:
    """The storage that `--storage-options` describes."""
    from prelabel.storage import Storage

    try:
        values = json.loads(storage_options) if storage_options else {}
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ConfigError("--storage-options must be a JSON object")
    return Storage(values)


def opened(output: str, storage_options: str | None) -> Run:
    """The finished run at OUT."""
    from prelabel.storage import absolute
    from prelabel.store.run import open_run

    return open_run(absolute(output), storage_of(storage_options))


@main.command()
@click.argument("output", metavar="OUT")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(output: str, storage_options: str | None, as_json: bool) -> None:
    """Prove that OUT misses nothing, doubles nothing and breaks nothing; exit code 1 if it does."""
    with clean_errors():
        from prelabel.storage import absolute
        from prelabel.store.verify import verify as check

        report = check(absolute(output), storage_of(storage_options))
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(report), indent=1))
        else:
            from prelabel.console import printable, table

            for problem in report.problems[:20]:
                click.echo(f"  {printable(problem)}")
            if len(report.problems) > 20:
                click.echo(f"  ... and {len(report.problems) - 20} more")
            click.echo(
                table(
                    "",
                    [
                        ["shards", f"{report.shards:,}"],
                        ["rows", f"{report.rows:,}"],
                        ["failed images", f"{report.failed:,}"],
                        ["detections", f"{report.detections:,}"],
                        ["problems", f"{len(report.problems):,}"],
                    ],
                )
            )
        if not report.whole:
            _fail(f"{output} is not whole", FAILED)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the catalogue as JSON.")
def detectors(as_json: bool) -> None:
    """List the detectors known by name."""
    from prelabel.console import table
    from prelabel.detectors.inspect import catalogue_table

    rows = catalogue_table()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(table(row["name"], [[key, value] for key, value in row.items() if key != "name" and value]))
        click.echo()


@main.command()
@click.argument("detector", metavar="D")
@click.option("--label-map", metavar="FILE", help="A label map to try with it: a file, or `coco`.")
@click.option("--model-cache", metavar="DIR", help="Where fetched models are kept (default: ~/.cache/prelabel).")
@storage_option
def inspect(detector: str, label_map: str | None, model_cache: str | None, storage_options: str | None) -> None:
    """Say what a SavedModel or hub module is; exit code 1 where `label` would not take it.

    D is whatever `label --detector` takes. TensorFlow is not started and nothing of the model is run.
    """
    with clean_errors():
        from prelabel.detectors.inspect import format_report, inspect_model

        report = inspect_model(detector, storage_of(storage_options), label_map=label_map, cache_dir=model_cache)
        click.echo(format_report(report))
        if report.refusal or report.label_problem:
            _fail(report.refusal or report.label_problem, FAILED)


@main.command()
@click.option("--images", type=click.IntRange(min=1), default=200, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which world.")
@click.option("--to", required=True, metavar="DIR", help="Folder or prefix to write into.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that draw.")
@storage_option
def synth(images: int, seed: int, to: str, workers: int, storage_options: str | None) -> None:
    """Draw scenes of shapes and letters with their ground truth (instances.json, COCO), for trying and testing.

    The pictures depend on the seed only; the detector demo-shapes knows what is on them.
    """
    with clean_errors():
        from prelabel.synth.dataset import make_scenes

        made = make_scenes(to, images, seed, workers=workers, storage=storage_of(storage_options))
        click.echo(f"{made.images:,} scenes with {made.instances:,} objects; truth in {made.truth}")


def _evaluate_options() -> Any:
    from prelabel.evaluate.options import EvaluateOptions

    return EvaluateOptions


def _compare_options() -> Any:
    from prelabel.compare.options import CompareOptions

    return CompareOptions


def _preview_options() -> Any:
    from prelabel.preview.options import PreviewOptions

    return PreviewOptions


@main.command(cls=SectionedCommand, options=_evaluate_options)
@click.argument("output", metavar="OUT")
@storage_option
def evaluate(output: str, storage_options: str | None, **values: Any) -> None:
    """Hold OUT against ground truth: COCO AP, and the thresholds that leave annotators least to correct.

    Writes evaluation.json, evaluation.html and thresholds.yaml, which `--class-threshold` of label and export takes.
    """
    with clean_errors():
        from prelabel.console import table
        from prelabel.evaluate.evaluation import evaluate as run_evaluation
        from prelabel.evaluate.files import write_evaluation
        from prelabel.evaluate.tables import tables
        from prelabel.export.reading import RunInfo
        from prelabel.options import from_mapping
        from prelabel.storage import absolute, join

        options = from_mapping(_evaluate_options(), stated(values), "evaluate")
        run = opened(output, storage_options)
        done = run_evaluation(RunInfo.of(run), run.rows, options, run.storage)
        files = write_evaluation(
            done, absolute(options.to) if options.to else join(run.output, "evaluation"), run.storage
        )
        for one in tables(done):
            click.echo(table(one.title, one.rows, one.header) + "\n")
        for name in files:
            click.echo(f"wrote {name}")


@main.command(cls=SectionedCommand, options=_compare_options)
@storage_option
def compare(storage_options: str | None, **values: Any) -> None:
    """Say what people made of pre-annotations: kept, moved, relabelled, deleted, added, and how long it took.

    Writes comparison.json, comparison.html and thresholds.yaml. Selection options must be those of the export that
    people worked on.
    """
    with clean_errors():
        from prelabel.compare.comparison import compare as run_comparison
        from prelabel.compare.files import write_comparison
        from prelabel.compare.tables import tables
        from prelabel.console import printable, table
        from prelabel.export.reading import RunInfo
        from prelabel.options import from_mapping
        from prelabel.storage import absolute, join

        options = from_mapping(_compare_options(), stated(values), "compare")
        run = opened(options.predictions, storage_options)
        done = run_comparison(RunInfo.of(run), run.rows, options, run.storage)
        files = write_comparison(
            done, absolute(options.to) if options.to else join(run.output, "comparison"), run.storage
        )
        for note in done.notes:
            click.echo(f"note: {printable(note)}", err=True)
        for one in tables(done):
            if one.rows:
                click.echo(table(one.title, one.rows, one.header) + "\n")
        for name in files:
            click.echo(f"wrote {name}")


@main.command(cls=SectionedCommand, options=_preview_options)
@click.argument("output", metavar="OUT")
@click.option("--to", required=True, metavar="DIR", help="The folder to write the page into.", cls=SectionedOption)
@storage_option
def preview(output: str, to: str, storage_options: str | None, **values: Any) -> None:
    """Make a gallery that opens in any browser without a server: pictures, boxes, masks, failures, filters."""
    with clean_errors():
        from prelabel.preview.gallery import write_preview

        _export(write_preview, _preview_options(), output, to, storage_options, values)


@main.command()
@click.option("--to", default="out/demo", show_default=True, metavar="DIR", help="Folder for everything.")
@click.option("--images", type=click.IntRange(min=1), default=200, show_default=True, help="Scenes to draw.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which world.")
def demo(to: str, images: int, seed: int) -> None:
    """Show the whole product on made-up scenes, with the public commands only: no photos, weights or network needed."""
    from prelabel.demo import closing, run_demo

    took = run_demo(
        to, images, seed, call=lambda arguments: main(list(arguments), standalone_mode=False), say=click.echo
    )
    click.echo(closing(to, took))


@main.group()
def export() -> None:
    """Turn the finished shards of OUT into what annotation tools read; no detector, no GPU, as often as one likes."""


def _coco_options() -> Any:
    from prelabel.export.coco_options import CocoOptions

    return CocoOptions


def _cvat_options() -> Any:
    from prelabel.export.cvat_options import CvatOptions

    return CvatOptions


def _yolo_options() -> Any:
    from prelabel.export.yolo_options import YoloOptions

    return YoloOptions


def _voc_options() -> Any:
    from prelabel.export.voc_options import VocOptions

    return VocOptions


def _label_studio_options() -> Any:
    from prelabel.export.label_studio_options import LabelStudioOptions

    return LabelStudioOptions


@export.command(cls=SectionedCommand, options=_coco_options)
@click.argument("output", metavar="OUT")
@click.option("--to", required=True, metavar="PATH", help="The JSON file to write.", cls=SectionedOption)
@storage_option
def coco(output: str, to: str, storage_options: str | None, **values: Any) -> None:
    """Write a COCO dataset file, and a results file with --results."""
    with clean_errors():
        from prelabel.export.coco import export_coco

        _export(export_coco, _coco_options(), output, to, storage_options, values)


@export.command(cls=SectionedCommand, options=_cvat_options)
@click.argument("output", metavar="OUT")
@click.option("--to", required=True, metavar="PATH", help="The XML file to write, or the ZIP.", cls=SectionedOption)
@storage_option
def cvat(output: str, to: str, storage_options: str | None, **values: Any) -> None:
    """Write CVAT's XML for images: boxes, masks or polygons to upload to a task."""
    with clean_errors():
        from prelabel.export.cvat import export_cvat

        _export(export_cvat, _cvat_options(), output, to, storage_options, values)


@export.command(cls=SectionedCommand, options=_yolo_options)
@click.argument("output", metavar="OUT")
@click.option("--to", required=True, metavar="DIR", help="The folder to write into.", cls=SectionedOption)
@storage_option
def yolo(output: str, to: str, storage_options: str | None, **values: Any) -> None:
    """Write YOLO labels (boxes or segments), lists of images and data.yaml."""
    with clean_errors():
        from prelabel.export.yolo import export_yolo

        _export(export_yolo, _yolo_options(), output, to, storage_options, values)


@export.command(cls=SectionedCommand, options=_voc_options)
@click.argument("output", metavar="OUT")
@click.option("--to", required=True, metavar="DIR", help="The folder to write into.", cls=SectionedOption)
@storage_option
def voc(output: str, to: str, storage_options: str | None, **values: Any) -> None:
    """Write Pascal VOC: an XML file of boxes for each image."""
    with clean_errors():
        from prelabel.export.voc import export_voc

        _export(export_voc, _voc_options(), output, to, storage_options, values)


@export.command(name="label-studio", cls=SectionedCommand, options=_label_studio_options)
@click.argument("output", metavar="OUT")
@click.option("--to", required=True, metavar="DIR", help="The folder to write tasks into.", cls=SectionedOption)
@storage_option
def label_studio(output: str, to: str, storage_options: str | None, **values: Any) -> None:
    """Write Label Studio tasks with predictions, and the labelling config that fits them."""
    with clean_errors():
        from prelabel.export.label_studio import export_label_studio

        _export(export_label_studio, _label_studio_options(), output, to, storage_options, values)


def _export(
    exporter: Any, options_class: Any, output: str, to: str, storage_options: str | None, values: dict[str, Any]
) -> None:
    from prelabel.console import printable, table
    from prelabel.export.reading import RunInfo
    from prelabel.options import from_mapping
    from prelabel.storage import absolute

    options = from_mapping(options_class, stated(values), "export")
    run = opened(output, storage_options)
    report = exporter(RunInfo.of(run), run.rows, absolute(to), options, run.storage)
    for warning in report.warnings:
        click.echo(f"note: {printable(warning)}", err=True)
    rows = [["images", f"{report.images:,}"], ["detections", f"{report.detections:,}"]]
    if report.failed:
        rows.append(["failed images", f"{report.failed:,}"])
    rows += [[f"left out: {reason}", f"{count:,}"] for reason, count in report.left_out.items()]
    shown = report.files if len(report.files) <= 4 else (*report.files[:2], "...", report.files[-1])
    rows += [["wrote" if number == 0 else "", name] for number, name in enumerate(shown)]
    click.echo(table("", rows))


@main.group()
def push() -> None:
    """Bring the finished shards of OUT into annotation tools that run as servers."""


def _push_options() -> Any:
    from prelabel.push.options import PushOptions

    return PushOptions


@push.command(name="label-studio", cls=SectionedCommand, options=_push_options)
@click.argument("output", metavar="OUT")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@storage_option
def push_label_studio(output: str, quiet: bool, storage_options: str | None, **values: Any) -> None:
    """Bring tasks with predictions into a Label Studio project; doing it again changes nothing.

    The token is read from LABEL_STUDIO_API_KEY or --token-file. Tasks that the project has are matched by image;
    predictions of the same model version are replaced. A push that broke off is continued by the same command.
    """
    with clean_errors():
        from prelabel.console import printable, reporter, table
        from prelabel.engine.progress import Snapshot
        from prelabel.export.reading import RunInfo
        from prelabel.options import from_mapping
        from prelabel.push.label_studio import push as push_run
        from prelabel.storage import absolute
        from prelabel.store.run import open_run

        options = from_mapping(_push_options(), stated(values), "push")
        run = open_run(absolute(output), storage_of(storage_options))
        listener = reporter(quiet=quiet, log_json=False)

        def progress(done: int) -> None:
            listener.progress(Snapshot(run.record.images, done, failed=0, images_per_s=0.0, workers=1, waiting=""))

        try:
            report = push_run(RunInfo.of(run), run.rows, options, run.storage, progress)
        finally:
            listener.close()
        for warning in report.warnings:
            click.echo(f"note: {printable(warning)}", err=True)
        if not quiet:
            click.echo(table("", report.table()))
