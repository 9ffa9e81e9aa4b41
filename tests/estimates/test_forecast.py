"""From measurements on a sample to times, sizes and machines: arithmetic with literal cases."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prelabel.engine import measurement
from prelabel.engine.measurement import Measurement, SampledImage
from prelabel.engine.schedule import MeasureTask
from prelabel.estimates.forecast import label_seconds, likely_share, nodes_for, output_bytes, speed_of, time_of


def image(cost_s: float, name: str = "a.jpg") -> SampledImage:
    return SampledImage(name, 1000, 480, 640, None, None, None, True, 3, cost_s)


def measured(timed: int, seconds: float, *costs: float) -> Measurement:
    return Measurement(
        images=tuple(map(image, costs)),
        timed=timed,
        seconds=seconds,
        stage_seconds={"detect": 0.1},
        encoded_rows=10,
        encoded_bytes=3000,
        empty_bytes=1000,
        encode_s=0.0,
        memory_bytes=1,
        node_memory_bytes=2,
    )


def test_the_speed_is_the_mean_of_workers_that_measured_at_the_same_time():
    speed = speed_of([measured(40, 4.0), measured(20, 4.0)], images=1000)
    assert speed is not None
    assert speed.images_per_s == pytest.approx(7.5)


def test_writing_the_rows_takes_time_as_well():
    slow = replace(measured(40, 4.0), encode_s=1.0)  # 0.1 s a row beside 0.1 s an image
    speed = speed_of([slow], images=1000)
    assert speed is not None
    assert speed.images_per_s == pytest.approx(5)


def test_what_the_first_shard_of_a_process_imports_is_not_the_time_of_its_rows(monkeypatch: pytest.MonkeyPatch):
    pauses = [0.1]

    def encode(table: object, *, shard: int, run_id: str) -> bytes:
        time.sleep(pauses.pop() if pauses else 0.0)
        return b""

    monkeypatch.setattr(measurement, "encode_shard", encode)
    no_images = SimpleNamespace(read=lambda refs: nullcontext(iter(())))
    task = MeasureTask((), seconds=1.0, limit_s=2.0)
    detector = SimpleNamespace(batch_size=1)
    assert measurement.measure([], task, cast(Any, no_images), cast(Any, detector)).encode_s < 0.1


def test_the_error_of_the_speed_is_that_of_a_sample_and_none_if_all_images_are_in_it():
    few = speed_of([measured(4, 1.0, 0.1, 0.3, 0.1, 0.3)], images=1_000_000)
    every = speed_of([measured(4, 1.0, 0.1, 0.3, 0.1, 0.3)], images=4)
    assert few is not None
    assert every is not None
    assert few.relative_error == pytest.approx(0.577 / 2, abs=0.001)  # standard deviation over mean, over root of 4
    assert every.relative_error == 0


def test_without_a_timed_image_the_speed_is_unknown():
    assert speed_of([measured(0, 0.0)], images=5) is None


@pytest.mark.parametrize(
    ("shards", "workers", "seconds"),
    [
        ([10] * 8, 2, 40),  # four shards each
        ([10] * 9, 2, 50),  # one of them has five
        ([10] * 4, 8, 10),  # no more than one shard each
        ([100, 1, 1], 2, 100),  # one large shard
        ([10, 10, 10, 5, 5, 2, 2, 2, 2], 2, 24),  # smaller ones at the end
        ([10, 10, 10, 10, 10], 2, 30),
        ([], 2, 0),
    ],
)
def test_a_shard_is_labeled_by_one_worker(shards: list[int], workers: int, seconds: float):
    assert label_seconds(shards, workers, images_per_s=1.0) == pytest.approx(seconds)


def test_the_range_contains_the_total_and_grows_with_the_error_of_the_sample():
    parts = {"check_s": 1.0, "list_s": 2.0, "start_s": 10.0, "label_s": 100.0, "end_s": 1.0}
    sure, unsure = time_of(**parts, relative_error=0.0), time_of(**parts, relative_error=0.5)
    assert sure.total_s == unsure.total_s == 114
    assert unsure.low_s < sure.low_s < 114 < sure.high_s < unsure.high_s
    assert unsure.low_s > 0


def test_the_output_has_rows_as_in_the_sample_and_what_each_shard_has_besides():
    assert output_bytes([measured(1, 1.0)], shards=[100, 50]) == 150 * 200 + 2 * 1000


@pytest.mark.parametrize(
    ("count", "sample", "images", "low", "high"),
    [
        (0, 64, 1_000_000, 0.0, 0.057),
        (64, 64, 1_000_000, 0.943, 1.0),
        (8, 64, 1_000_000, 0.065, 0.228),  # Wilson's interval as R's binom.confint gives it
        (2, 8, 8, 0.25, 0.25),
    ],
)
def test_a_share_of_all_images_from_a_sample(count: int, sample: int, images: int, low: float, high: float):
    assert likely_share(count, sample, images) == (pytest.approx(low, abs=0.001), pytest.approx(high, abs=0.001))


def test_workers_fill_the_machines_with_most_room_first():
    assert [nodes_for(workers, [4, 4, 1]) for workers in (1, 4, 5, 9)] == [1, 1, 2, 3]
