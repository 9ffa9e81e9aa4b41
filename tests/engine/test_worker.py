"""What one worker says and how it waits, without processes and without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from prelabel.config import LabelOptions
from prelabel.detections import ClassName
from prelabel.detectors import loading
from prelabel.detectors.base import DetectorRecord, Optimization
from prelabel.engine import worker as module
from prelabel.engine.schedule import TrialTask
from prelabel.engine.worker import Worker, WorkerSpec
from prelabel.image_ref import ImageRef
from prelabel.labels.maps import LabelMap

DETECTOR = DetectorRecord("shapes", "d", "0" * 64, "d-0", "none", False, (ClassName(1, "circle"),))


def worker_with(**stated: Any) -> Worker:
    options = LabelOptions.of(source=("/photos",), detector="d", output="/out", **stated)
    return Worker(WorkerSpec(options, "0" * 32, (), DETECTOR, "nobody"))


class LookedAt(Exception):  # noqa: N818 - ends `load` where the test has seen enough
    pass


@pytest.mark.parametrize(("stated", "source"), [({"label_map": "coco"}, "coco"), ({}, "of shapes")])
def test_the_label_map_of_a_worker_has_a_name_for_messages(
    stated: dict[str, Any], source: str, monkeypatch: pytest.MonkeyPatch
):
    seen: list[LabelMap] = []

    def analyze_model(local: Any, labels: LabelMap, stated: Any) -> None:
        seen.append(labels)
        raise LookedAt

    model = SimpleNamespace(fingerprint=DETECTOR.fingerprint, address="d")
    monkeypatch.setattr(loading, "fetch_model", lambda *args, **kwargs: model)
    monkeypatch.setattr(loading, "analyze_model", analyze_model)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(LookedAt):
        worker_with(**stated).load()
    assert [labels.source for labels in seen] == [source]


class SlowPlan:
    """Its first shard is there, the second comes when it is let."""

    shards = 2

    def __init__(self, folder: Path) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        self._files = [folder / f"{shard}.png" for shard in range(2)]
        for file in self._files:
            Image.new("RGB", (4, 4)).save(file)

    def read(self, shard: int) -> list[ImageRef]:
        if shard:
            self.asked.set()
            assert self.go.wait(60)
        return [ImageRef(str(shard), str(self._files[shard]), str(shard))]


def test_a_trial_that_waits_for_the_plan_counts_as_alive_and_answers(tmp_path: Path):
    class CountsImages:
        def try_faster(self, sample: Callable[[], Iterator[Any]], images: float) -> tuple[Optimization, object]:
            return Optimization("exact", images=len(list(sample()))), object()

    plan, worker = SlowPlan(tmp_path), worker_with()
    worker._plan, worker._loader = plan, CountsImages()  # type: ignore[assignment]
    results: list[Optimization] = []
    trying = threading.Thread(target=lambda: results.append(worker.trial(TrialTask(0, 2.0))), daemon=True)
    trying.start()
    assert plan.asked.wait(30)
    statuses: list[module.WorkerStatus] = []
    asking = threading.Thread(target=lambda: statuses.append(worker.status()), daemon=True)
    asking.start()
    asking.join(10)
    is_answered = not asking.is_alive()
    plan.go.set()
    trying.join(30)
    assert is_answered
    assert statuses[0].beats == 1
    assert results[0].images == 2


def test_a_worker_that_finishes_views_of_an_image_is_alive():
    worker = worker_with(views="whole,tiles")
    assert worker.status().beats == 0
    worker._on_views()
    assert [worker.status().beats for _ in range(2)] == [1, 1]
    worker._on_views()
    assert worker.status().beats == 2
