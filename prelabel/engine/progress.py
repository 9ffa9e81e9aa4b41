"""What a running job tells: one interface, whoever listens (a bar, plain lines, JSON lines, nobody)."""

from __future__ import annotations

from dataclasses import dataclass
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


class Reporter(Protocol):
    """Hears of a run's progress; called from one thread."""

    def message(self, text: str) -> None:
        """Something a person wants to know once."""

    def listed(self, images: int) -> None:
        """Images found so far while the source is listed."""

    def progress(self, snapshot: Snapshot) -> None:
        """How far the run is; called a few times a second."""

    def shard(self, record: ShardRecord, seconds: float) -> None:
        """A shard was published, so many seconds after it was handed out."""

    def close(self) -> None:
        """Nothing more will come."""
