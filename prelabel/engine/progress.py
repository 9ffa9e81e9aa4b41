"""What a running job tells: one interface, whoever listens (a bar, plain lines, JSON lines, nobody)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prelabel.store.shards import ShardRecord


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a run is.

    Attributes:
        images: Images planned.
        done: Images done, by this call or before.
        failed: Failed images among those of this call.
        images_per_s: Of this call, over the last half minute; 0 while unknown.
        workers: Workers that have loaded their detector.
        waiting: What is being waited for, in words, or `""`.
    """

    images: int
    done: int
    failed: int
    images_per_s: float
    workers: int
    waiting: str

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate, or None while the rate is unknown."""
        return (self.images - self.done) / self.images_per_s if self.images_per_s > 0 else None


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker that is gone or gets no more work, for logs and summaries.

    Attributes:
        worker: What logs call it, `host:pid`; `""` where its process never ran.
        host: Its machine.
        pid: Its process.
        cause: Why, in words.
        is_left_out: Whether it was left out for its errors; else it died, hung or was lost.
        shards: What becomes of the shards it had, in words, by number.
    """

    worker: str
    host: str
    pid: int
    cause: str
    is_left_out: bool = False
    shards: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        who = f"worker {self.worker}" if self.worker else "a worker that never ran"
        what = "is left out" if self.is_left_out else "is gone"
        shards = "".join(f"; shard {shard}: {then}" for shard, then in self.shards.items())
        return f"{who} {what}: {self.cause}{shards}"


class Reporter(Protocol):
    """Hears of a run's progress; called from one thread."""

    def started(self, run_id: str) -> None:
        """From here on what is told belongs to this run."""

    def message(self, text: str, *, shard: int | None = None) -> None:
        """Something a person wants to know once, about one shard or about the run."""

    def lost(self, worker: LostWorker) -> None:
        """A worker is gone, or gets no more work."""

    def listed(self, images: int) -> None:
        """Images found so far while the source is listed."""

    def progress(self, snapshot: Snapshot) -> None:
        """How far the run is; called a few times a second."""

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """A shard was published by a worker (`host:pid`), so many seconds after it was handed out."""

    def close(self) -> None:
        """Nothing more will come."""


class Several:
    """Reporters that hear the same."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def started(self, run_id: str) -> None:
        """To each."""
        for reporter in self._reporters:
            reporter.started(run_id)

    def message(self, text: str, *, shard: int | None = None) -> None:
        """To each."""
        for reporter in self._reporters:
            reporter.message(text, shard=shard)

    def lost(self, worker: LostWorker) -> None:
        """To each."""
        for reporter in self._reporters:
            reporter.lost(worker)

    def listed(self, images: int) -> None:
        """To each."""
        for reporter in self._reporters:
            reporter.listed(images)

    def progress(self, snapshot: Snapshot) -> None:
        """To each."""
        for reporter in self._reporters:
            reporter.progress(snapshot)

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """To each."""
        for reporter in self._reporters:
            reporter.shard(record, seconds, worker=worker)

    def close(self) -> None:
        """To each."""
        for reporter in self._reporters:
            reporter.close()
