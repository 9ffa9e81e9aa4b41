"""The computed requests of a run are those that a server of the real protocol receives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from prelabel.estimates.requests import renewals_in, requests_of
from prelabel.estimates.sample import ImagesLeft
from prelabel.image_ref import ImageRef
from prelabel.store.plan import PlanPart


@dataclass
class Record:
    """What the computation needs of a run's record."""

    source: dict[str, Any]
    parts: tuple[PlanPart, ...] = (PlanPart("plan-00000.parquet", 0, 4, 16, "0"),)


def left(images: int, uri: str, location: str | None = None) -> ImagesLeft:
    sample = tuple(ImageRef(f"{n}", uri, f"{n}", 10, None, location) for n in range(min(images, 4)))
    return ImagesLeft(images, 10 * images, 0, {".jpg": images}, sample, {})


def computed(source: dict[str, Any], images: ImagesLeft, output: str, images_of_part: int = 16, **values: Any) -> Any:
    usual: dict[str, Any] = {"is_listed": True, "is_new": True, "shards": 4, "finished_shards": 0, "workers": 1}
    record: Any = Record({"sources": [source]}, (PlanPart("plan-00000.parquet", 0, 4, images_of_part, "0"),))
    return requests_of(record, output, images, **{**usual, "seconds": 0.0, **values})


BUCKET = {"source": "s3://src/p", "kind": "directory", "images": 16, "ignored": {}}


def test_the_requests_of_a_small_run_are_those_that_a_server_counted():
    # Counted by an S3 server (moto) for 16 images in 4 shards with one worker; the lock was renewed 5 times.
    counted_at_source = {"LIST": 2, "HEAD": 1, "GET": 16}
    counted_at_output = Counter(LIST=7, GET=15 + 2 + 3, PUT=4 + 1 + 6 + 2)
    requests = computed(BUCKET, left(16, "s3://src/p/0.jpg"), "s3://dst/run", seconds=25.0)
    assert requests.source == counted_at_source
    assert requests.output == counted_at_output
    # The driver and the worker, which has two threads, look into the plan before they read the four shards.
    large = computed(BUCKET, left(16, "s3://src/p/0.jpg"), "s3://dst/run", seconds=25.0, images_of_part=10**6)
    assert large.output == Counter(LIST=7, HEAD=7, GET=15 + 7 + 3, PUT=4 + 1 + 6 + 2)


def test_a_disk_gets_no_requests():
    source = {**BUCKET, "source": "/photos"}
    requests = computed(source, left(16, "/photos/0.jpg"), "/run")
    assert (requests.source, requests.output) == ({}, {})
    member = left(16, "tar://0.jpg::/photos/a.tar", location="0")
    assert computed(source, member, "/run").source == {}


def test_pages_of_a_listing_and_shards_of_an_archive_are_counted():
    source = {**BUCKET, "images": 2000, "ignored": {".txt": 1}}
    assert computed(source, left(2000, "s3://src/p/0.jpg"), "/run").source == {"LIST": 4, "HEAD": 1, "GET": 2000}
    member = left(2000, "tar://0.jpg::s3://src/p/a.tar", location="0")
    archives = {**source, "archives": 2, "kind": "glob"}
    # Counted for two archives of 1,000 images: two requests list them, and two read them.
    assert computed(archives, member, "/run").source == {"LIST": 2, "HEAD": 1, "GET": 4}
    assert computed(archives, member, "/run", workers=2).source == {"LIST": 2, "HEAD": 1, "GET": 6}
    assert computed(archives, member, "/run", is_listed=False).source == {"GET": 2}


@pytest.mark.parametrize(("seconds", "renewals"), [(0.5, 0), (1.0, 1), (2.9, 1), (3.0, 2), (15.0, 4), (25.0, 5)])
def test_a_lock_is_renewed_more_seldom_as_time_goes_on(seconds: float, renewals: int):
    assert renewals_in(seconds) == renewals
