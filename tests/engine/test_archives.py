"""Images in archives go through a run as files do: the same rows, through deaths of workers and resumed runs."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from prelabel.engine.reader import Reader
from prelabel.engine.shard import ReadSettings, label_shard
from prelabel.errors import RunInterrupted
from prelabel.image_ref import ImageRef
from prelabel.source.decode import DecodeOptions
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.verify import verify
from tests.archives import KINDS, ranged_web, tar_of
from tests.engine.fakes import BrightestCorner, Deed
from tests.engine.inline import Inline
from tests.engine.inline import inline as inline  # a fixture
from tests.engine.test_job import stop_after
from tests.engine.test_shard import picture
from tests.engine.world import World
from tests.messages import is_told
from tests.tfrecords import tfrecord_of

SETTINGS = ReadSettings(Storage(), DecodeOptions(), "brightest", "brightest-00000000")


def in_archives(photos: Path, folder: Path, size: int) -> None:
    """`0.tar` with so many photos and another file, and `1.tfrecord` with the others."""
    members = [(path.name, path.read_bytes()) for path in sorted(photos.iterdir())]
    (folder / "0.tar").write_bytes(tar_of(dict([*members[:size], ("note.txt", b"no image")])))
    (folder / "1.tfrecord").write_bytes(tfrecord_of(dict(members[size:])))


def test_a_run_survives_a_death_and_a_stop_in_the_middle_of_an_archive(local_world: World) -> None:
    world = local_world
    world.add(14, p009=Deed.ABORT)
    in_archives(world.photos, world.folder, size=7)
    source = tuple(str(world.folder / name) for name in ("*.tar", "*.tfrecord"))
    recorder, stop = stop_after(2)
    with pytest.raises(RunInterrupted):
        world.label(recorder, stop, source=source)
    world.label(source=source)
    assert verify(str(world.out), Storage()).problems == ()
    rows = world.rows()
    archives = ["0.tar"] * 7 + ["1.tfrecord"] * 7
    assert [row.image_id for row in rows] == [f"{name}/{number:03d}.png" for number, name in enumerate(archives)]
    assert [row.image_id for row in rows if row.error] == ["1.tfrecord/009.png"]
    for number, row in enumerate(rows):
        if row.detections is not None:
            assert row.detections.xyxy[0, :2].tolist() == [1 + number % 7, 1 + number % 3]
            assert row.bytes == (world.photos / f"{number:03d}.png").stat().st_size
            assert row.location is not None
    assert [ref.location for ref in open_run(str(world.out), Storage()).plan()] == [row.location for row in rows]


def test_an_archive_that_was_replaced_before_a_run_resumes_is_noticed(inline: Inline, tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path, f"{number}.png", (number, 0))
    photos = {f"{number}.png": (tmp_path / f"{number}.png").read_bytes() for number in range(6)}
    archive, out = tmp_path / "a.tar", tmp_path / "out"
    archive.write_bytes(tar_of(photos))
    inline.label(source=(str(archive),), output=str(out), shard_size=3)
    kept = list(open_run(str(out), Storage()).rows())[:3]
    for name in ("manifest.json", "shards/shard-00001.parquet"):  # as if it had been killed there
        (out / name).unlink()
    archive.write_bytes(tar_of(dict(zip(photos, reversed(photos.values()), strict=True))))
    os.utime(archive, ns=(0, 0))
    inline.label(source=(str(archive),), output=str(out), shard_size=3)
    rows = list(open_run(str(out), Storage()).rows())
    assert facts(rows[:3]) == facts(kept)
    assert [is_told(row.error or "", "changed") for row in rows] == [False] * 3 + [True] * 3
    inline.label(source=(str(archive),), output=str(out), shard_size=3, changed=True)
    places = [row.detections and row.detections.xyxy[0, 0] for row in open_run(str(out), Storage()).rows()]
    assert places == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("name", KINDS)
def test_shards_of_an_archive_share_a_request(tmp_path: Path, name: str) -> None:
    for number in range(12):
        picture(tmp_path, f"{number}.png", (number % 6, 0))
    (tmp_path / name).write_bytes(KINDS[name]({f"{n}.png": (tmp_path / f"{n}.png").read_bytes() for n in range(12)}))
    with ranged_web(tmp_path) as web:
        (tmp_path / "list.txt").write_text(f"{web.url}/{name}\n")
        refs = list(list_images([str(tmp_path / "list.txt")], Storage(), image_column="image"))
        expected = [fetch(ref, Storage(), 1 << 20) for ref in refs]
        web.requests.clear()
        reader = Reader(SETTINGS)
        with reader.read(refs[:4]) as first, reader.read(refs[4:8]) as second:
            images = [*first, *second]
        with reader.read(refs[8:]) as third:
            images += third
        requests = [path for path, _ in web.requests]
        # A detector that turns to the later shard first must not wait for the earlier one.
        reader = Reader(SETTINGS)
        with reader.read(refs[:6]), reader.read(refs[6:]) as second:
            assert [image.row.bytes for image in second] == list(map(len, expected[6:]))
    assert [image.row.sha256 for image in images] == [hashlib.sha256(data).hexdigest() for data in expected]
    assert len(requests) == 1


def facts(rows: list[ImageRow]) -> list[tuple[object, ...]]:
    return [
        (row.image_id, row.sha256, row.bytes, row.height, row.width, row.detections and row.detections.xyxy.tolist())
        for row in rows
    ]


def test_a_late_server_does_not_slow_a_shard_down(tmp_path: Path) -> None:
    """The images of two archives at 200 ms per request: three requests, and rows as from files."""
    photos = tmp_path / "photos"
    for archive in ("0.tar", "1.tar"):
        (photos / archive).mkdir(parents=True)
        for number in range(100):
            picture(photos / archive, f"{number:03d}.png", (number % 6, number % 4))
        members = {path.name: path.read_bytes() for path in sorted((photos / archive).iterdir())}
        (tmp_path / archive).write_bytes(tar_of(members))
    expected = label_shard(list(list_images([str(photos)], Storage())), Reader(SETTINGS), BrightestCorner())
    with ranged_web(tmp_path) as web:
        (tmp_path / "list.txt").write_text(f"{web.url}/0.tar\n{web.url}/1.tar\n")
        refs: list[ImageRef] = list(list_images([str(tmp_path / "list.txt")], Storage()))
        seconds = {}
        for delay in (0.0, 0.2):
            web.delay_s, web.requests[:] = delay, []
            # A detector that is slower than reading: it takes 4 s for all.
            detector = BrightestCorner(before=lambda images: time.sleep(0.02))
            start = time.monotonic()
            rows = label_shard(refs, Reader(SETTINGS), detector)
            seconds[delay] = time.monotonic() - start
            assert len(web.requests) == 2
    host = web.url.removeprefix("http://")
    assert facts(rows) == [(f"{host}/{row[0]}", *row[1:]) for row in facts(expected)]
    # The first image waits for one response; the second archive is read ahead.
    assert seconds[0.2] < 1.05 * seconds[0.0] + 0.2
