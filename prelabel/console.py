"""What a person, or a log collector, sees of a run: a bar on a terminal, plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

from prelabel.engine.progress import LostWorker, Reporter, Snapshot
from prelabel.store.shards import ShardRecord

if TYPE_CHECKING:
    from rich.progress import Progress

#: Seconds between two progress lines where there is no terminal.
LINE_INTERVAL_S = 10.0


def reporter(*, quiet: bool, log_json: bool, stream: IO[str] | None = None) -> Reporter:
    """The reporter that fits: JSON lines when asked for, a bar on a terminal, plain lines otherwise."""
    stream = stream or sys.stderr
    if log_json:
        return JsonReporter(stream)
    if quiet:
        return QuietReporter()
    return BarReporter() if stream.isatty() else LineReporter(stream)


def printable(text: str) -> str:
    """Text from data or models as it may go to a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def duration(seconds: float) -> str:
    """`75` -> `1:15`, `3723` -> `1:02:03`."""
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _about(shard: int | None, text: str) -> str:
    return text if shard is None else f"shard={shard}: {text}"


def progress_text(snapshot: Snapshot) -> str:
    """`1,200 of 5,000 images, 3 failed, 41.2 images/s, 1:32 left`."""
    parts = [f"{snapshot.done:,} of {snapshot.images:,} images"]
    if snapshot.failed:
        parts.append(f"{snapshot.failed:,} failed")
    if snapshot.images_per_s:
        parts.append(f"{snapshot.images_per_s:.1f} images/s")
    if snapshot.left_s is not None and snapshot.done < snapshot.images:
        parts.append(f"{duration(snapshot.left_s)} left")
    return ", ".join(parts)


class QuietReporter:
    """Says nothing."""

    def started(self, run_id: str) -> None:
        """Nothing."""

    def message(self, text: str, *, shard: int | None = None) -> None:
        """Nothing."""

    def lost(self, worker: LostWorker) -> None:
        """Which, why, and what becomes of its shards."""
        self.message(str(worker))

    def listed(self, images: int) -> None:
        """Nothing."""

    def progress(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineReporter(QuietReporter):
    """Plain lines: one for each message and shard, one for the progress now and then."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._said_at = time.monotonic()
        self._waiting = ""

    def message(self, text: str, *, shard: int | None = None) -> None:
        """One line."""
        self._say(_about(shard, text))

    def listed(self, images: int) -> None:
        """A line now and then."""
        if self._due():
            self._say(f"listing: {images:,} images so far")

    def progress(self, snapshot: Snapshot) -> None:
        """A line now and then, or when something else is waited for."""
        if self._due():
            waiting = f"; {snapshot.waiting}" if snapshot.waiting else ""
            self._say(progress_text(snapshot) + waiting)

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """One line."""
        dropped = f" dropped={record.dropped}" if record.dropped else ""
        self._say(f"shard={record.shard} images={record.rows} failed={record.failed}{dropped} seconds={seconds:.1f}")

    def _due(self) -> bool:
        return time.monotonic() - self._said_at >= LINE_INTERVAL_S

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        print(printable(text), file=self._stream, flush=True)


class JsonReporter(QuietReporter):
    """One JSON object a line: `time`, `event`, `run` once that is known, and what belongs to it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._said_at = 0.0
        self._run: dict[str, str] = {}

    def started(self, run_id: str) -> None:
        """Every later line has it as `run`."""
        self._run = {"run": run_id}

    def message(self, text: str, *, shard: int | None = None) -> None:
        """`{"event": "message", "message": ..., "shard": ...}`"""
        self.emit("message", message=text, **({} if shard is None else {"shard": shard}))

    def lost(self, worker: LostWorker) -> None:
        """`{"event": "worker_died", "worker": ..., "host": ..., "pid": ..., "message": ..., "shards": {"3": ...}}`

        The event is `worker_left_out` for one that lives and gets no more work.
        """
        self.emit(
            "worker_left_out" if worker.is_left_out else "worker_died",
            worker=worker.worker,
            host=worker.host,
            pid=worker.pid,
            message=worker.cause,
            shards={str(shard): then for shard, then in worker.shards.items()},
        )

    def progress(self, snapshot: Snapshot) -> None:
        """`{"event": "progress", "images": ..., "done": ..., "failed": ..., "images_per_s": ..., ...}`"""
        if time.monotonic() - self._said_at >= LINE_INTERVAL_S:
            self._said_at = time.monotonic()
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
        """`{"event": "shard", "shard": ..., "worker": ..., "images": ..., "failed": ..., "failures": {...}, ...}`"""
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
        """Write one line."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        print(json.dumps({"time": now, "event": event, **self._run, **values}), file=self._stream, flush=True)


class BarReporter(QuietReporter):
    """A bar at the bottom of the terminal; messages scroll above it."""

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
        self._task = self._bar.add_task("looking at detector and source", total=None)
        self._bar.start()

    def message(self, text: str, *, shard: int | None = None) -> None:
        """A line above the bar, and what the bar says until the next progress."""
        self._bar.console.print(printable(_about(shard, text)), markup=False, highlight=False)
        self._bar.update(self._task, description=printable(text))

    def listed(self, images: int) -> None:
        """Shown in the bar."""
        self._bar.update(self._task, description=f"listing: {images:,} images so far")

    def progress(self, snapshot: Snapshot) -> None:
        """The bar itself."""
        text = snapshot.waiting if snapshot.waiting and not snapshot.workers else progress_text(snapshot)
        self._bar.update(self._task, total=snapshot.images, completed=snapshot.done, description=text)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


@contextlib.contextmanager
def counting(what: str, stream: IO[str] | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows how far something is that takes a while: a bar on a terminal, lines now and then elsewhere.

    Args:
        what: Is counted, in words: `images read`.
        stream: Standard error by default.

    Yields:
        To be called with how many are done and how many there are; it may begin anew.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}"), TextColumn(what))
        with Progress(*columns, TimeRemainingColumn(), console=Console(file=stream), transient=True) as bar:
            task = bar.add_task(what, total=1)
            yield lambda done, of: bar.update(task, completed=done, total=of)
        return
    said_at = time.monotonic()

    def say(done: int, of: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= LINE_INTERVAL_S:
            said_at = time.monotonic()
            print(f"{done:,} of {of:,} {what}", file=stream, flush=True)

    yield say


def table(title: str, rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A small table as text, with right-aligned numbers; the same on a terminal and in a log."""
    everything = [list(map(printable, row)) for row in ([header, *rows] if header else rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(everything[0]))]
    numeric = [
        all(_is_number(row[column]) for row in everything[1 if header else 0 :]) for column in range(len(widths))
    ]
    lines = [title] if title else []
    for number, row in enumerate(everything):
        cells = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
        if header and number == 0:
            lines.append("  " + "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").replace(" s", "").strip("-").isdigit() or text in (
        "",
        "-",
    )


def stage_seconds(seconds: Mapping[str, float]) -> str:
    """`list 0.1, read 0.4, decode 1.2 ...` in the order of the work."""
    order = ("list", "read", "decode", "detect", "encode", "write")
    return ", ".join(f"{stage} {seconds[stage]:.1f}" for stage in order if stage in seconds)
