"""The computed requests of a run are those that a server of the real protocol receives."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prelabel.estimates.requests import renewals_in, requests_of
from prelabel.estimates.sample import ImagesLeft
from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store.plan import PlanPart
from prelabel.store.run import read_run
from prelabel.store.status import read_status
from tests.chaos.proxy import Proxy
from tests.engine.inline import Inline
from tests.engine.inline import inline as inline  # a fixture
from tests.s3 import S3Server


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
    counted_at_output = Counter(LIST=7, GET=15 + 1 + 3, PUT=4 + 1 + 6 + 2)
    requests = computed(BUCKET, left(16, "s3://src/p/0.jpg"), "s3://dst/run", seconds=25.0)
    assert requests.source == counted_at_source
    assert requests.output == counted_at_output
    # The driver and the worker, which has two threads, look into the plan before they read the four shards.
    large = computed(BUCKET, left(16, "s3://src/p/0.jpg"), "s3://dst/run", seconds=25.0, images_of_part=10**6)
    assert large.output == Counter(LIST=7, HEAD=7, GET=15 + 7 + 3, PUT=4 + 1 + 6 + 2)


def test_requests_are_told_by_what_they_are_for():
    requests = computed(BUCKET, left(16, "s3://src/p/0.jpg"), "s3://dst/run", images_of_part=10**6)
    assert requests.purposes == {
        "listing": {"LIST": 2, "HEAD": 1},
        "images": {"GET": 16},
        "plan": {"HEAD": 7, "GET": 7, "PUT": 1},
        "lock": {"GET": 6 + 4, "PUT": 1},
        "shards": {"PUT": 4},
        "checks": {"LIST": 7, "GET": 3, "PUT": 2},
    }


def test_finished_shards_are_read_without_asking_for_their_size():
    usual = computed(BUCKET, left(16, "s3://src/p/0.jpg"), "s3://dst/run")
    resumed = computed(BUCKET, left(16, "s3://src/p/0.jpg"), "s3://dst/run", finished_shards=3)
    assert Counter(resumed.output) - Counter(usual.output) == Counter(GET=3)
    assert "HEAD" not in resumed.output


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


class CountingProxy(Proxy):
    """Counts requests by kind and place: `photos`, `shards`, `plan`, or the name of another file of the run."""

    def __init__(self, upstream: str) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        super().__init__(upstream)

    async def answer(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        method, path = head.split(" ", 2)[:2]
        kind = "LIST" if "list-type=" in path else method
        key = re.split("[?&]prefix=", path)[-1] if kind == "LIST" else path
        places = re.findall(r"photos|shards|plan(?=%2F|/)|[a-z-]+\.json", key)
        self.requests[kind, places[0] if places else "run"] += 1
        await super().answer(head, body, writer)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CountingProxy]:
    proxy = CountingProxy(s3_server.endpoint)
    yield proxy
    proxy.close()


def photos_behind(server: S3Server, proxy: CountingProxy, images: int) -> tuple[str, dict[str, Any]]:
    """A new bucket with images in `photos/`, and the storage options with which its requests are counted."""
    bucket = server.new_bucket()
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(file, "PNG")
    for number in range(images):
        server.put(bucket, f"photos/{number:03d}.png", file.getvalue())
    options = {**server.options, "client_kwargs": {**server.options["client_kwargs"], "endpoint_url": proxy.endpoint}}
    return bucket, options


def counted_requests(server: S3Server, proxy: CountingProxy, inline: Inline, images: int) -> list[Counter[Any]]:
    """What a store gets to do by a run with shards of three images, by its status, and by the same command again."""
    bucket, options = photos_behind(server, proxy, images)
    run = {"source": (f"s3://{bucket}/photos",), "output": f"s3://{bucket}/run", "storage_options": options}
    counts = []

    def count() -> None:
        # The lock is renewed as time goes by: a look at it, and a write.
        requests = Counter(proxy.requests)
        requests["GET", "lock.json"] -= requests.pop(("PUT", "lock.json"), 0)
        counts.append(requests)
        proxy.requests.clear()

    proxy.requests.clear()
    assert inline.label(**run).images == images
    count()
    assert read_status(f"s3://{bucket}/run", Storage(options)).done == images
    count()
    assert inline.label(**run).labeled == 0
    count()
    return counts


def purpose_of(kind: str, place: str) -> str:
    """What a request is for, by its kind and by the place that it goes to."""
    if place == "photos":
        return "images" if kind == "GET" else "listing"
    places = {"plan": "plan", "lock.json": "lock", "shards": "shards"}
    return "checks" if kind == "LIST" else places.get(place, "checks")


def test_computed_requests_are_those_of_a_real_run(s3_server: S3Server, proxy: CountingProxy, tmp_path: Path):
    bucket, options = photos_behind(s3_server, proxy, 12)
    source, output = f"s3://{bucket}/photos", f"s3://{bucket}/run"
    command = [sys.executable, "-m", "prelabel", "label", source, "--output", output, "--detector", "demo-shapes"]
    command += ["--runner", "local", "--workers", "1", "--shard-size", "3", "--storage-options", json.dumps(options)]
    # The first call begins the run, the second one labels a shard that was lost.
    for call in ({"is_new": True, "shards": 4, "finished": 0}, {"is_new": False, "shards": 1, "finished": 3}):
        proxy.requests.clear()
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (kind, place), number in proxy.requests.items():
            if kind != "DELETE":  # costs nothing
                counted[purpose_of(kind, place)][kind] += number
        record = read_run(output, Storage(options))
        assert record is not None
        # The lock is written once, and once more for each renewal.
        seconds = next(s for s in range(1000) if renewals_in(s) == counted["lock"]["PUT"] - 1)
        requests = requests_of(
            record,
            output,
            left(3 * call["shards"], f"{source}/0.png"),
            is_listed=call["is_new"],
            is_new=call["is_new"],
            shards=call["shards"],
            finished_shards=call["finished"],
            workers=1,
            seconds=seconds,
        )
        assert counted == requests.purposes
        s3_server.client().delete_object(Bucket=bucket, Key="run/shards/shard-00002.parquet")
        s3_server.client().delete_object(Bucket=bucket, Key="run/manifest.json")


def test_requests_for_each_image_and_each_shard(s3_server: S3Server, proxy: CountingProxy, inline: Inline):
    few = counted_requests(s3_server, proxy, inline, 6)
    more = counted_requests(s3_server, proxy, inline, 18)
    label, status, resume = (after - before for before, after in zip(few, more, strict=True))
    images, shards = 12, 4
    # An image is read once, and nothing asks whether it exists. A shard is written once, after a look at the lock.
    assert label == {("GET", "photos"): images, ("PUT", "shards"): shards, ("GET", "lock.json"): shards}
    assert status == {}
    assert resume == {("GET", "shards"): shards}


def test_the_requests_of_a_status_do_not_depend_on_the_number_of_shards(
    s3_server: S3Server, proxy: CountingProxy, inline: Inline
):
    _, status, _ = counted_requests(s3_server, proxy, inline, 6)
    assert status == {
        ("GET", "run.json"): 1,
        ("HEAD", "manifest.json"): 1,
        ("GET", "manifest.json"): 1,
        ("LIST", "shards"): 1,
        ("GET", "lock.json"): 1,
        ("GET", "source-check.json"): 1,
    }
