"""Progress and messages of a run: a bar on a terminal, plain lines elsewhere, or JSON lines for log collectors."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from prelabel.engine.progress import LostWorker, Reporter, Snapshot
from prelabel.store.run import utc_now
from prelabel.store.shards import ShardRecord
from prelabel.words import duration

if TYPE_CHECKING:
    from rich.progress import Progress

#: Minimum seconds between two progress lines without a terminal.
LINE_INTERVAL_S = 10.0

#: Minimum seconds between two updates of a notebook's line.
NOTEBOOK_INTERVAL_S = 0.3


def reporter(*, quiet: bool, log_json: bool, stream: IO[str] | None = None) -> Reporter:
    """The reporter for these options: JSON lines if requested, a bar on a terminal, otherwise plain lines."""
    stream = stream or sys.stderr
    if log_json:
        return JsonReporter(stream)
    if quiet:
        return QuietReporter()
    if stream is sys.stderr and in_notebook():
        return NotebookReporter(stream)
    return BarReporter() if stream.isatty() else LineReporter(stream)


def shows_progress(progress: bool | None = None) -> bool:
    """Whether to show progress: `progress` if given, otherwise true on a terminal and in a notebook."""
    return (sys.stderr.isatty() or in_notebook()) if progress is None else progress


def in_notebook() -> bool:
    """Whether this is Python in a Jupyter notebook, where standard error is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def printable(text: str) -> str:
    """Text from data or models that is safe to print on a terminal: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _with_shard(shard: int | None, text: str) -> str:
    return text if shard is None else f"shard={shard}: {text}"


def progress_text(snapshot: Snapshot) -> str:
    """`1,200 of 5,000 images, 3 failed, 41.2 images/s, 1 min 32 s left`."""
    parts = [f"{snapshot.done:,} of {snapshot.images:,} images"]
    if snapshot.failed:
        parts.append(f"{snapshot.failed:,} failed")
    if snapshot.images_per_s:
        parts.append(f"{snapshot.images_per_s:.1f} images/s")
    if snapshot.left_s is not None and snapshot.done < snapshot.images:
        parts.append(f"{duration(snapshot.left_s)} left")
    return ", ".join(parts)


class QuietReporter(Reporter):
    """Prints nothing."""


class LineReporter(Reporter):
    """Prints plain lines: one per message and per shard, and one for the progress every `LINE_INTERVAL_S`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._printed_at = time.monotonic()

    def message(self, text: str, *, shard: int | None = None) -> None:
        """Print the message."""
        self._print(_with_shard(shard, text))

    def listed(self, images: int) -> None:
        """Print the number of images, if a line is due."""
        if self._due():
            self._print(f"listing: {images:,} images so far")

    def progress(self, snapshot: Snapshot) -> None:
        """Print the progress, if a line is due."""
        if self._due():
            waiting = f"; {snapshot.waiting}" if snapshot.waiting else ""
            self._print(progress_text(snapshot) + waiting)

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """Print the figures of a finished shard."""
        dropped = f" dropped={record.dropped}" if record.dropped else ""
        self._print(f"shard={record.shard} images={record.rows} failed={record.failed}{dropped} seconds={seconds:.1f}")

    def _due(self) -> bool:
        return time.monotonic() - self._printed_at >= LINE_INTERVAL_S

    def _print(self, text: str) -> None:
        self._printed_at = time.monotonic()
        print(printable(text), file=self._stream, flush=True)


class JsonReporter(Reporter):
    """Prints one JSON object per line: `time`, `event`, `run` once it is known, and the values of the event."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._printed_at = 0.0
        self._run: dict[str, str] = {}

    def started(self, run_id: str) -> None:
        """Add the run id to all later lines, as `run`."""
        self._run = {"run": run_id}

    def message(self, text: str, *, shard: int | None = None) -> None:
        """Print `{"event": "message", "message": ..., "shard": ...}`."""
        self.emit("message", message=text, **({} if shard is None else {"shard": shard}))

    def lost(self, worker: LostWorker) -> None:
        """Print `{"event": "worker_died", "worker": ..., "host": ..., "pid": ..., "message": ..., "shards": ...}`.

        The event is `worker_left_out` for a worker that is alive but gets no more work.
        """
        self.emit(
            "worker_left_out" if worker.is_excluded else "worker_died",
            worker=worker.worker,
            host=worker.host,
            pid=worker.pid,
            message=worker.cause,
            shards={str(shard): then for shard, then in worker.shards.items()},
        )

    def progress(self, snapshot: Snapshot) -> None:
        """Print `{"event": "progress", "images": ..., "done": ..., "failed": ..., "images_per_s": ...}`, if due."""
        if time.monotonic() - self._printed_at >= LINE_INTERVAL_S:
            self._printed_at = time.monotonic()
            self.emit(
                "progress",
                images=snapshot.images,
                done=snapshot.done,
                failed=snapshot.failed,
                images_per_s=round(snapshot.images_per_s, 2),
                left_s=None if snapshot.left_s is None else round(snapshot.left_s),
                workers=snapshot.workers,
                waiting=snapshot.waiting,
            )

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """Print `{"event": "shard", "shard": ..., "worker": ..., "images": ..., "failed": ..., "failures": ...}`."""
        self.emit(
            "shard",
            shard=record.shard,
            worker=worker,
            images=record.rows,
            failed=record.failed,
            failures=dict(record.failures),
            detections=record.detections,
            dropped=record.dropped,
            seconds=round(seconds, 1),
            stage_seconds=dict(record.seconds),
        )

    def emit(self, event: str, **values: Any) -> None:
        """Print an event as one line."""
        print(json.dumps({"time": utc_now(), "event": event, **self._run, **values}), file=self._stream, flush=True)


class BarReporter(Reporter):
    """Shows a bar at the bottom of the terminal; messages scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._bar: Progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("checking detector and source", total=None)
        self._bar.start()

    def message(self, text: str, *, shard: int | None = None) -> None:
        """Print the message above the bar, and show it in the bar until the next update."""
        self._bar.console.print(printable(_with_shard(shard, text)), markup=False, highlight=False)
        self._bar.update(self._task, description=printable(text))

    def listed(self, images: int) -> None:
        """Show the number of images in the bar."""
        self._bar.update(self._task, description=f"listing: {images:,} images so far")

    def progress(self, snapshot: Snapshot) -> None:
        """Update the bar."""
        text = snapshot.waiting if snapshot.waiting and not snapshot.workers else progress_text(snapshot)
        self._bar.update(self._task, total=snapshot.images, completed=snapshot.done, description=text)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


class NotebookLine:
    """A line of text in the output of a notebook cell; each text replaces the one before."""

    def __init__(self) -> None:
        self._display = importlib.import_module("IPython.display").display
        self._handle: Any = None
        self._shown_at = 0.0

    def show(self, text: str, *, last: bool = False) -> None:
        """Replace the line, at most a few times a second; the last text is always shown."""
        if not last and time.monotonic() - self._shown_at < NOTEBOOK_INTERVAL_S:
            return
        self._shown_at = time.monotonic()
        content = {"text/plain": printable(text)}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


class NotebookReporter(LineReporter):
    """Shows the progress in one line of the cell's output; prints messages to standard error."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self._line = NotebookLine()
        self._text = ""

    def listed(self, images: int) -> None:
        """Show the number of images in the line."""
        self._show(f"listing: {images:,} images so far")

    def progress(self, snapshot: Snapshot) -> None:
        """Update the line."""
        self._show(progress_text(snapshot) + (f"; {snapshot.waiting}" if snapshot.waiting else ""))

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """Print nothing, since the line already counts the images of the shard."""

    def close(self) -> None:
        """Show the last text, even if the line was updated just before it."""
        if self._text:
            self._line.show(self._text, last=True)

    def _show(self, text: str) -> None:
        self._text = text
        self._line.show(text)


@contextlib.contextmanager
def counting(
    unit: str, stream: IO[str] | None = None, *, show: bool | None = True
) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a long operation: a bar on a terminal, a line every `LINE_INTERVAL_S` elsewhere.

    Args:
        unit: The things that are counted, for example `images read`.
        stream: Standard error by default.
        show: Whether to show anything; None shows it on a terminal and in a notebook.

    Yields:
        A function to call with the number done and the total; the number may restart at 0.
    """
    if not shows_progress(show):
        yield lambda done, total: None
        return
    stream = stream or sys.stderr
    if stream is sys.stderr and in_notebook():
        line = NotebookLine()
        yield lambda done, total: line.show(f"{done:,} of {total:,} {unit}", last=done == total)
        return
    if stream.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}"), TextColumn(unit))
        with Progress(*columns, TimeRemainingColumn(), console=Console(file=stream), transient=True) as bar:
            task = bar.add_task(unit, total=1)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    printed_at = time.monotonic()

    def print_progress(done: int, total: int) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at >= LINE_INTERVAL_S:
            printed_at = time.monotonic()
            print(f"{done:,} of {total:,} {unit}", file=stream, flush=True)

    yield print_progress


def table(title: str, rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table as plain text, with right-aligned numbers; the same on a terminal and in a log."""
    lines_of_cells = [list(map(printable, row)) for row in ([header, *rows] if header else rows)]
    columns = list(zip(*lines_of_cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[1 if header else 0 :])) for column in columns]
    lines = [title] if title else []
    for number, row in enumerate(lines_of_cells):
        cells = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
        if header and number == 0:
            lines.append("  " + "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    digits = re.sub(r"[,.%]| (?:s|min|h|d)\b| ", "", text).strip("-")
    return digits.isdigit() or text in ("", "-")


def stage_seconds(seconds: Mapping[str, float]) -> str:
    """The time per stage in the order of the work: `list 0.1 s, read 0.4 s, decode 1 min 2 s ...`."""
    order = ("list", "read", "decode", "detect", "encode", "write")
    return ", ".join(f"{stage} {duration(seconds[stage])}" for stage in order if stage in seconds)
