"""A run's figures as Ray metrics: every node's Prometheus endpoint shows them beside Ray's own, prefixed `ray_`."""

from __future__ import annotations

import time

from ray.util import metrics

from prelabel.engine.progress import LostWorker, Snapshot
from prelabel.store.shards import ShardRecord


class MetricsReporter:
    """Hears what other reporters hear and passes it on to Ray; to be made once this process is connected to Ray.

    The driver alone speaks: what it knows of finished shards and of workers is all there is to know, and a thousand
    workers need not be asked a second time.

    Args:
        run_id: Label `run` of each figure.
        detector: Label `detector` of each figure.
    """

    def __init__(self, run_id: str, detector: str) -> None:
        self._labels = {"run": run_id, "detector": detector}
        keys = tuple(self._labels)

        def counter(name: str, what: str, *labels: str) -> metrics.Counter:
            return metrics.Counter(f"prelabel_{name}", what, tag_keys=(*keys, *labels))

        def gauge(name: str, what: str) -> metrics.Gauge:
            return metrics.Gauge(f"prelabel_{name}", what, tag_keys=keys)

        self._images = counter("images", "Rows of published shards, a shard tried again once more.", "status")
        self._failures = counter("failures", "Failed images of published shards by class of error.", "reason")
        self._seconds = counter("stage_seconds", "Seconds of published shards by stage, summed over workers.", "stage")
        self._detections = counter("detections", "Detections of published shards.")
        self._dropped = counter(
            "dropped_detections", "Detections left out: numbers not finite, or boxes without size inside the image."
        )
        self._shards = counter("shards", "Published shards.")
        self._deaths = counter("worker_deaths", "Workers that died, hung or were lost.")
        self._left_out = counter("workers_left_out", "Workers that got no more work for the errors they reported.")
        self._planned = gauge("images_planned", "Images of the run.")
        self._done = gauge("images_done", "Images done, those of unfinished shards too.")
        self._queue = gauge("images_left", "Images that are not done yet.")
        self._rate = gauge("images_per_second", "Images a second over the last half minute.")
        self._workers = gauge("workers", "Workers that have loaded their detector.")
        self._busy = gauge("busy_share", "Share of the workers' time in which the detector ran.")
        self._detect_s = self._worker_s = 0.0
        self._looked_at = time.monotonic()

    def started(self, run_id: str) -> None:
        """Known from the beginning."""

    def message(self, text: str, *, shard: int | None = None) -> None:
        """Nothing to count."""

    def lost(self, worker: LostWorker) -> None:
        """One worker less."""
        (self._left_out if worker.is_left_out else self._deaths).inc(1, self._labels)

    def listed(self, images: int) -> None:
        """Nothing to count yet."""

    def progress(self, snapshot: Snapshot) -> None:
        """The gauges."""
        now = time.monotonic()
        self._worker_s += snapshot.workers * (now - self._looked_at)
        self._looked_at = now
        self._planned.set(snapshot.images, self._labels)
        self._done.set(snapshot.done, self._labels)
        self._queue.set(snapshot.images - snapshot.done, self._labels)
        self._rate.set(snapshot.images_per_s, self._labels)
        self._workers.set(snapshot.workers, self._labels)
        if self._worker_s:
            self._busy.set(min(1.0, self._detect_s / self._worker_s), self._labels)

    def shard(self, record: ShardRecord, seconds: float, *, worker: str) -> None:
        """The counters."""
        self._shards.inc(1, self._labels)
        _add(self._images, record.rows - record.failed, {**self._labels, "status": "ok"})
        _add(self._images, record.failed, {**self._labels, "status": "failed"})
        _add(self._detections, record.detections, self._labels)
        _add(self._dropped, record.dropped, self._labels)
        for reason, count in record.failures.items():
            _add(self._failures, count, {**self._labels, "reason": reason})
        for stage, spent in record.seconds.items():
            _add(self._seconds, spent, {**self._labels, "stage": stage})
        self._detect_s += record.seconds.get("detect", 0.0)

    def close(self) -> None:
        """Ray keeps what it was told."""


def _add(counter: metrics.Counter, value: float, labels: dict[str, str]) -> None:
    if value > 0:  # Ray refuses to add nothing
        counter.inc(value, labels)
