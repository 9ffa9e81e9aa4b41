"""What a worker reads ahead: in order, within one budget for all its shards, never at the cost of what comes next."""

from __future__ import annotations

import io
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import prelabel.engine.reader as module
import prelabel.engine.shard as shard
from prelabel.engine.reader import (
    FIRST_DOWNLOADS,
    LEAST_DOWNLOADS,
    MOST_DOWNLOADS,
    Reader,
    downloads_needed,
    images_during_two_downloads,
)
from prelabel.engine.shard import ReadSettings, label_shard
from prelabel.errors import CredentialsError, FetchError
from prelabel.image_ref import ImageRef
from prelabel.source.decode import DecodedImage, DecodeOptions
from prelabel.storage.files import Storage
from tests.engine.fakes import BrightestCorner

SETTINGS = ReadSettings(Storage(), DecodeOptions(), "brightest", "brightest-00000000")

#: Files held ahead of decoding, from a store that answers immediately.
MOST_FILES = module.LEAST_DOWNLOADS + module.FETCH_AHEAD


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def held_by(reader: Reader) -> int:
    """Bytes that are held now, encoded and decoded, counted anew; the reader must have counted them, too."""
    with reader._changed:
        assert reader._held == counted(reader._images)
        for stream in set(reader._images.values()):
            assert stream.held == counted(image for image, its in reader._images.items() if its is stream)
        return reader._held.bytes


def counted(images: Iterable[Any]) -> Any:
    held = module._Held()
    for image in images:
        held.add(image)
    return held


class Store:
    """Stands in for `fetch`: gives each image when it is told to, and counts how many are asked for at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, bytes] = defaultdict(lambda: png(8))
        self.gates: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        self.on_bytes: dict[str, Callable[[int], None]] = {}
        self.error: dict[str, Exception] = {}
        monkeypatch.setattr(shard, "fetch", self.fetch)

    def hold(self, *names: str) -> None:
        self.gates.update((name, threading.Event()) for name in names)

    def give(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()

    def fetch(self, ref: ImageRef, *_: object, on_bytes: Callable[[int], None], **__: object) -> bytes:
        self.asked.append(ref.image_id)
        self.on_bytes[ref.image_id] = on_bytes
        on_bytes(0)
        if ref.image_id in self.gates:
            assert self.gates[ref.image_id].wait(60)
        if ref.image_id in self.error:
            raise self.error[ref.image_id]
        return self.files[ref.image_id]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def refs_of(shard: str, count: int, size: int | None = 100) -> list[ImageRef]:
    return [ImageRef(f"{shard}{number}", f"mem://{shard}{number}", f"{shard}{number}", size) for number in range(count)]


def ids(pictures: Any) -> list[str]:
    return [picture.row.image_id for picture in pictures]


def test_a_slow_next_shard_does_not_stop_the_current_one(store: Store):
    """Every download of the next shard stands still; the current one is read to its end meanwhile."""
    now, later = refs_of("now", 60), refs_of("later", 60)
    store.hold(*(ref.image_id for ref in later))
    reader = Reader(SETTINGS)
    with reader.read(now) as current, reader.read(later) as ahead:
        next(current)
        wait_for(lambda: "later0" in store.asked or len(store.asked) >= 24)
        started = time.monotonic()
        assert ids(current) == [ref.image_id for ref in now[1:]]
        assert time.monotonic() - started < 3  # of seconds that its images took; the others would take a minute
        store.give(*store.gates)
        assert ids(ahead) == [ref.image_id for ref in later]


def test_the_running_shard_has_priority_even_if_the_other_began_first(store: Store):
    """Which of a worker's two threads gets the detector is not for the reader to say."""
    first, second = refs_of("first", 50), refs_of("second", 50)
    store.hold("first49")
    reader = Reader(SETTINGS)
    with reader.read(first) as waiting, reader.read(second) as taken:
        assert ids(taken) == [ref.image_id for ref in second]
        store.give("first49")
        assert ids(waiting) == [ref.image_id for ref in first]


def test_a_slow_download_does_not_block_a_decoding_thread(store: Store, monkeypatch: pytest.MonkeyPatch):
    decoded: list[int] = []
    real = shard.decode
    monkeypatch.setattr(shard, "decode", lambda data, options: (decoded.append(len(data)), real(data, options))[1])
    store.hold("a0")
    reader = Reader(SETTINGS)
    with reader.read(refs_of("a", 8)) as pictures:
        wait_for(lambda: len(decoded) == module.DECODE_AHEAD)  # those behind the slow one
        store.give("a0")
        assert ids(pictures) == [f"a{number}" for number in range(8)]
    assert len(decoded) == 8


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("size", [None, "stated"])
def test_bytes_held_stay_within_the_budget_over_all_shards(
    store: Store, shards: int, size: str | None, monkeypatch: pytest.MonkeyPatch
):
    """Encoded and decoded, counted by the reader and, to see that it counts right, by this test."""
    monkeypatch.setattr(module, "_TYPICAL_BYTES", 1000)
    side, count = 100, 40
    for name in "ab":
        for number in range(count):
            store.files[f"{name}{number}"] = png(side) + bytes(20_000)
    file_bytes, pixel_bytes = len(store.files["a0"]), 3 * side * side
    budget = 8 * pixel_bytes
    reader = Reader(SETTINGS, decode_threads=2, budget_bytes=budget)
    opened = [reader.read(refs_of(name, count, file_bytes if size else None)) for name in "ab"[:shards]]
    most = 0
    for pictures in opened:
        for picture in pictures:
            assert picture.pixels is not None
            with reader._changed:
                held = sum(
                    (0 if image.fetched is None else len(image.fetched.data))
                    + (0 if image.loaded is None or image.loaded.pixels is None else image.loaded.pixels.nbytes)
                    for image in reader._images
                )
                assert held <= held_by(reader) <= reader.most_bytes
            most = max(most, held)
            time.sleep(0.002)
    # The image that is needed next may come on top; where no list says how large files are, so may those first begun.
    over = pixel_bytes + file_bytes * (1 if size else module.LEAST_DOWNLOADS)
    assert pixel_bytes < most <= budget + over
    assert reader.most_bytes <= budget + over
    assert held_by(reader) == 0


def test_files_held_are_bounded_over_all_shards(store: Store):
    reader = Reader(SETTINGS)
    with reader.read(refs_of("a", 100)), reader.read(refs_of("b", 100)):
        wait_for(lambda: len(store.asked) >= MOST_FILES + module.DECODE_AHEAD)
        time.sleep(0.1)
        assert len(store.asked) == MOST_FILES + module.DECODE_AHEAD
        assert sum(name.startswith("b") for name in store.asked) <= (MOST_FILES + module.DECODE_AHEAD) // 2


@pytest.mark.parametrize(
    ("latency_s", "image_s", "running", "downloads"),
    [
        (0.02, 0.025, 1, LEAST_DOWNLOADS),
        (0.1, 0.025, 1, 8),
        (0.2, 0.025, 1, 16),
        (0.5, 0.025, 1, 40),
        (0.5, 0.025, 2, MOST_DOWNLOADS),
        (0.5, 0.0, 1, MOST_DOWNLOADS),
        (0.0, 0.0, 0, LEAST_DOWNLOADS),
        (30.0, 1.0, 1, 60),
    ],
)
def test_there_are_twice_as_many_downloads_as_images_that_the_detector_takes_meanwhile(
    latency_s: float, image_s: float, running: int, downloads: int
):
    assert downloads_needed(images_during_two_downloads(latency_s, image_s, running)) == downloads


def reader_at(latency_s: float, image_s: float) -> Reader:
    """A reader that has measured a store and a detector."""
    reader = Reader(SETTINGS)
    reader._latency_s, reader._image_s, reader._limit.downloads = latency_s, image_s, MOST_DOWNLOADS
    return reader


def test_a_reader_tells_how_early_it_needs_further_images():
    assert Reader(SETTINGS).images_ahead() == 0  # nothing has been downloaded
    assert reader_at(latency_s=0.01, image_s=0.025).images_ahead() == 0
    assert reader_at(latency_s=0.5, image_s=0.025).images_ahead() == 40
    assert reader_at(latency_s=5.0, image_s=0.001).images_ahead() == MOST_DOWNLOADS


def test_as_many_downloads_are_begun_as_the_latency_needs(store: Store):
    refs = refs_of("a", 100)
    store.hold(*(ref.image_id for ref in refs))
    with reader_at(latency_s=0.5, image_s=0.025).read(refs):
        wait_for(lambda: len(store.asked) >= 40)
        time.sleep(0.1)
        assert sorted(store.asked) == sorted(ref.image_id for ref in refs[:40])
        store.give(*store.gates)


def test_the_shard_that_is_read_ahead_gets_the_downloads_that_the_first_does_not_need_up_to_half(store: Store):
    store.hold(*(f"{name}{number}" for name in "ab" for number in range(100)))
    reader = reader_at(latency_s=0.5, image_s=0.025)
    with reader.read(refs_of("a", 4)), reader.read(refs_of("b", 100)):
        wait_for(lambda: len(store.asked) >= 24)
        time.sleep(0.1)
        assert sorted(store.asked) == sorted([f"a{n}" for n in range(4)] + [f"b{n}" for n in range(20)])
        store.give(*store.gates)


def test_slow_downloads_of_another_shard_leave_some_to_the_one_that_is_run(store: Store):
    """The other was alone before, so that it has as many as there may be."""
    store.hold(*(f"{name}{number}" for name in "ab" for number in range(100)))
    reader = reader_at(latency_s=0.5, image_s=0.025)
    with reader.read(refs_of("a", 100)), reader.read(refs_of("b", 100)) as taken:
        wait_for(lambda: len(store.asked) >= 40)
        assert {name[0] for name in store.asked} == {"a"}
        taking = threading.Thread(target=next, args=(taken,), daemon=True)
        taking.start()
        wait_for(lambda: len(store.asked) >= 40 + module.FETCH_AHEAD)
        time.sleep(0.1)
        assert sorted(store.asked[40:]) == sorted(f"b{n}" for n in range(module.FETCH_AHEAD))
        store.give(*store.gates)
        taking.join(30)


class BusyStore:
    """Stands in for `fetch`: each download takes as long as stated. Counts those at the same time.

    It serves up to `serves` downloads at the same time; the others wait. It refuses the first attempt of those beyond
    `accepts` at the same time.
    """

    def __init__(self, latency_s: float, serves: int = MOST_DOWNLOADS, accepts: int = MOST_DOWNLOADS) -> None:
        self._latency_s, self._lock, self._now = latency_s, threading.Lock(), 0
        self._served, self._accepts = threading.Semaphore(serves), accepts
        self.most = 0

    def fetch(self, *args: Any, on_bytes: Callable[[int], None], **kwargs: Any) -> bytes:
        on_bytes(0)
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            is_refused = self._now > self._accepts
        if is_refused:
            time.sleep(2 * self._latency_s)
            on_bytes(0)
        with self._served:
            time.sleep(self._latency_s)
        with self._lock:
            self._now -= 1
        return png(8)


@pytest.mark.parametrize(
    ("latency_s", "least", "most"), [(0.0, 1, FIRST_DOWNLOADS), (0.15, LEAST_DOWNLOADS + 1, MOST_DOWNLOADS)]
)
def test_a_slow_store_gets_more_downloads_at_a_time_and_a_fast_one_does_not(
    latency_s: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
):
    busy = BusyStore(latency_s)
    monkeypatch.setattr(shard, "fetch", busy.fetch)
    reader = Reader(SETTINGS)
    with reader.read(refs_of("a", 150)) as pictures:
        for _ in pictures:
            time.sleep(0.005)
    assert least <= busy.most <= most
    assert len(reader._fetchers._threads) <= 2 * most  # one is started where the others are not idle yet


@pytest.mark.parametrize("limits", [{"serves": 4}, {"accepts": LEAST_DOWNLOADS}, {"accepts": 0}])
def test_storage_that_queues_or_throttles_downloads_gets_no_more_of_them(
    limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    # Long enough that a moment in which the machine does other work does not look like a slow store.
    busy = BusyStore(0.08, **limits)
    monkeypatch.setattr(shard, "fetch", busy.fetch)
    reader = Reader(SETTINGS)
    reader._image_s = 0.001
    with reader.read(refs_of("a", 200)) as pictures:
        for _ in pictures:
            pass
    # One raise is tried.
    assert busy.most <= (FIRST_DOWNLOADS if limits == {"accepts": 0} else MOST_DOWNLOADS // 2)


def test_the_number_of_downloads_is_raised_after_half_of_the_first_ones():
    limit = module._DownloadLimit()
    for number in range(8):
        assert limit.downloads == FIRST_DOWNLOADS
        limit.finished(0.2, seconds=0.1 + number / 100, needed=64, detector_rate=1e9)
    assert limit.downloads == 32
    for _ in range(32):  # 32 in 0.2 s: as fast as the first ones
        limit.finished(0.4, seconds=0.2, needed=64, detector_rate=1e9)
    assert limit.downloads == 64


def test_a_first_raise_that_makes_downloads_only_queue_is_taken_back():
    limit = module._DownloadLimit()
    for number in range(8):
        limit.finished(0.1 * (number + 1), seconds=0.1 * (number + 1), needed=64, detector_rate=1e9)
    for number in range(32):  # still one each 0.1 s
        assert limit.downloads == 32
        limit.finished(0.9 + 0.1 * number, seconds=3.2, needed=64, detector_rate=1e9)
    assert limit.downloads == FIRST_DOWNLOADS


@pytest.mark.parametrize(("size", "at_first"), [(1000, FIRST_DOWNLOADS), (None, LEAST_DOWNLOADS)])
def test_fewer_first_downloads_are_begun_if_sizes_are_unknown(store: Store, size: int | None, at_first: int):
    refs = refs_of("a", 40, size)
    store.hold(*(ref.image_id for ref in refs))
    with Reader(SETTINGS).read(refs):
        wait_for(lambda: len(store.asked) >= at_first)
        time.sleep(0.1)
        assert len(store.asked) == at_first
        store.give(*store.gates)


def test_retried_downloads_halve_the_number_of_downloads_once_and_a_few_do_not():
    limit = module._DownloadLimit()
    limit.downloads = 32
    for _ in range(10):  # rounds with fewer than four retries each
        for _ in range(3):
            limit.retried(begun_at=1.0, now=2.0)
        for _ in range(limit.downloads):
            limit.finished(2.0, seconds=1.0, needed=32, detector_rate=1e9)
    assert limit.downloads == 32
    for _ in range(30):
        limit.retried(begun_at=1.0, now=3.0)
    assert limit.downloads == 16
    for _ in range(2):
        limit.retried(begun_at=3.0, now=4.0)
    assert limit.downloads == LEAST_DOWNLOADS


def test_files_of_unknown_size_beyond_the_least_downloads_count_as_the_largest_ones_read(store: Store):
    refs = refs_of("a", 100, size=None)
    store.hold(*(ref.image_id for ref in refs))
    reader = reader_at(latency_s=0.5, image_s=0.025)
    reader._budget_bytes, reader._typical_bytes = 100_000, 200
    reader._latest_sizes.extend([100, 10_000, 100])
    most = LEAST_DOWNLOADS + (50_000 - LEAST_DOWNLOADS * 200) // 10_000  # files may use half of the budget
    with reader.read(refs):
        wait_for(lambda: len(store.asked) >= most)
        time.sleep(0.1)
        assert len(store.asked) == most
        store.give(*store.gates)


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_file_larger_than_expected_counts_with_the_bytes_received(store: Store, is_ended: bool):
    store.hold("a0", "a1", "a2")
    reader = Reader(SETTINGS)
    reader._typical_bytes = 100
    with reader.read(refs_of("a", 3, size=None)) as pictures:
        wait_for(lambda: len(store.asked) == 3)
        assert held_by(reader) == 300
        store.on_bytes["a0"](5000)
        store.give("a1")
        wait_for(lambda: reader._images and held_by(reader) == 5000 + 3 * 8 * 8 + 100)
        if not is_ended:
            store.give("a0", "a2")
            assert ids(pictures) == ["a0", "a1", "a2"]
    if is_ended:
        assert held_by(reader) == 5000 + 100  # still being downloaded
        store.give("a0", "a2")
    wait_for(lambda: held_by(reader) == 0)


def test_an_image_larger_than_the_budget_passes_alone(store: Store):
    """The next one that is needed waits for nothing; one further behind until nothing else is held."""
    for number in (0, 5, 6, 11):
        store.files[f"a{number}"] = png(300)
        store.files[f"b{number}"] = png(300)
    budget = 100_000
    assert budget < 3 * 300 * 300
    reader = Reader(SETTINGS, budget_bytes=budget)
    with reader.read(refs_of("a", 12)) as first, reader.read(refs_of("b", 12)) as second:
        assert len(ids(first)) == 12
        assert len(ids(second)) == 12
    assert reader.most_bytes <= budget + 3 * 300 * 300 + 10_000
    assert held_by(reader) == 0


def test_two_shards_that_fill_the_budget_do_not_wait_for_each_other(store: Store):
    """Each image alone is over the budget, and each shard has one ahead when the other is taken."""
    for name in "ab":
        for number in range(6):
            store.files[f"{name}{number}"] = png(100)
    reader = Reader(SETTINGS, budget_bytes=3 * 100 * 100 - 1)
    taken: list[str] = []
    turn = threading.Lock()

    def work(name: str) -> None:
        rows = label_shard(refs_of(name, 6), reader, BrightestCorner(), turn=turn)
        taken.extend(row.image_id for row in rows)

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(taken) == 12


def test_reading_runs_ahead_of_the_detectors_turn_within_bounds(store: Store):
    refs = refs_of("a", 100)
    turn = threading.Lock()
    with turn:
        thread = threading.Thread(target=lambda: label_shard(refs, Reader(SETTINGS), BrightestCorner(), turn=turn))
        thread.start()
        wait_for(lambda: len(store.asked) >= MOST_FILES)
        time.sleep(0.1)
        assert MOST_FILES <= len(store.asked) <= MOST_FILES + module.DECODE_AHEAD
    thread.join(30)
    assert len(store.asked) == 100


@pytest.mark.parametrize("side", [100, 20_000])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("is_foreseen", [True, False])
def test_few_huge_and_many_small_images_are_held_decoded(
    side: int, threads: int, is_foreseen: bool, store: Store, monkeypatch: pytest.MonkeyPatch
):
    decoded: list[int] = []

    def decode(data: bytes, options: DecodeOptions) -> DecodedImage:
        decoded.append(len(data))
        pixels = np.broadcast_to(np.uint8(0), (side, side, 3))  # takes no memory, and says that it does
        return DecodedImage(pixels, side, side, (0, 0, side, side), None, 1, 1)

    monkeypatch.setattr(shard, "decode", decode)
    if is_foreseen:
        monkeypatch.setattr(shard, "decoded_bytes", lambda data, options: 3 * side * side)
    pictures = Reader(SETTINGS, decode_threads=threads).read(refs_of("a", 12))
    # What a header does not tell shows only when it is too late: then each thread may hold one.
    least, most = (module.DECODE_AHEAD,) * 2 if side == 100 else (1, 1 if is_foreseen else threads)
    next(pictures)
    for taken in range(1, 5):
        wait_for(lambda taken=taken: len(decoded) >= taken + (least if side == 100 else 0))
        time.sleep(0.05)
        # Where they come out of order, the one that is needed next may be decoded on top.
        assert len(decoded) <= taken + most + 1
        next(pictures)
    assert len(ids(pictures)) == 12 - 5
    assert len(decoded) == 12


def test_aborted_reading_begins_no_more_images(store: Store, monkeypatch: pytest.MonkeyPatch):
    begun: list[bytes] = []
    go = threading.Event()
    real = shard.decode

    def decode(data: bytes, options: DecodeOptions) -> DecodedImage:
        begun.append(data)
        if len(begun) > 1:
            go.wait(30)
        return real(data, options)

    monkeypatch.setattr(shard, "decode", decode)
    store.hold(*(f"a{number}" for number in range(1, 50)))
    reader = Reader(SETTINGS)
    with reader.read(refs_of("a", 50)) as pictures:
        next(pictures)
        store.give(*store.gates)
        wait_for(lambda: len(begun) == 2)
    go.set()
    with reader.read(refs_of("b", 1)) as others:
        assert ids(others) == ["b0"]  # the same thread comes to this afterwards
    assert len(begun) == 3
    wait_for(lambda: held_by(reader) == 0)


def test_an_error_of_one_image_is_its_row_and_an_error_of_all_images_is_raised(store: Store):
    store.error["a1"] = FetchError("not found")
    store.files["a2"] = b"no picture"
    store.error["a4"] = CredentialsError("expired")
    reader = Reader(SETTINGS)
    with reader.read(refs_of("a", 6)) as pictures:
        rows = [next(pictures).row for _ in range(4)]
        assert [row.error_type for row in rows] == [None, "FetchError", "UnknownFormatError", None]
        assert [row.error_stage for row in rows] == [None, "read", "decode", None]
        with pytest.raises(CredentialsError):
            next(pictures)
    wait_for(lambda: held_by(reader) == 0)


def test_an_error_while_listing_images_is_raised_after_the_listed_images():
    def refs() -> Any:
        yield ImageRef("gone", "/nowhere/gone.png", "gone")
        raise OSError("the plan is gone")

    with Reader(SETTINGS).read(refs()) as pictures:
        assert next(pictures).row.error_type == "FetchError"
        with pytest.raises(OSError, match="the plan is gone"):
            next(pictures)


def test_a_download_that_may_still_finish_counts_as_a_heartbeat(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    store.hold("a0", "b0")
    reader = Reader(SETTINGS)
    with reader.read(refs_of("a", 2)) as pictures, reader.read(refs_of("b", 2)):
        wait_for(lambda: "a0" in store.asked)
        assert not reader.awaits_download()  # nobody waits: the detector is at work
        taking = threading.Thread(target=next, args=(pictures,), daemon=True)
        taking.start()
        wait_for(reader.awaits_download)
        wait_for(lambda: not reader.awaits_download())  # silent for longer than anybody tries
        store.on_bytes["b0"](1000)
        assert not reader.awaits_download()  # of another image than the one that is waited for
        store.on_bytes["a0"](1000)
        assert reader.awaits_download()
        store.give(*store.gates)
        taking.join(30)
        assert not reader.awaits_download()


def test_endless_decoding_does_not_count_as_a_download(store: Store, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    real = shard.decode
    monkeypatch.setattr(shard, "decode", lambda data, options: (go.wait(60), real(data, options))[1])
    reader = Reader(SETTINGS)
    with reader.read(refs_of("a", 1)) as pictures:
        taking = threading.Thread(target=next, args=(pictures,), daemon=True)
        taking.start()
        wait_for(lambda: reader._decoding == 1)
        assert not reader.awaits_download()
        go.set()
        taking.join(30)


def test_images_are_decoded_unchanged_from_disk(tmp_path: Path):
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(png(1 + number))
    refs = [ImageRef(f"{number}.png", str(tmp_path / f"{number}.png"), "x") for number in range(40)]
    with Reader(SETTINGS, decode_threads=3).read(refs) as pictures:
        assert [picture.pixels.shape for picture in pictures] == [(1 + n, 1 + n, 3) for n in range(40)]
