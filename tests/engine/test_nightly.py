"""A source that lives: `--add-new`, `--changed` and `--gone` keep a run equal to one that is made from nothing."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prelabel.errors import ConfigError, SourceError
from prelabel.storage.files import Storage
from prelabel.store.output import Output
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run, read_manifest, read_run
from prelabel.store.source_check import read_source_check
from prelabel.store.status import read_status
from prelabel.store.verify import verify
from tests.archives import tar_of
from tests.emulators import Emulator, running_azurite, running_gcs
from tests.engine.inline import Inline, Killed
from tests.engine.inline import inline as inline  # a fixture
from tests.engine.world import Recorder
from tests.s3 import S3Server
from tests.tfrecords import tfrecord_of

ROOT = Path(__file__).parents[2]

NIGHTLY = {"add_new": True, "changed": True, "gone": "drop"}


class Bucket:
    """Pictures in a folder or bucket, `at/photos`, and the run made of them."""

    def __init__(self, at: str, storage_options: dict[str, Any] | None = None, run: str = "") -> None:
        self.at, self.options = at, storage_options or {}
        self.run = run or f"{at}/run"
        self.storage = Storage(self.options)
        self.names: set[str] = set()

    def put(self, name: str, corner: int, data: bytes | None = None) -> None:
        """Write a picture of 8 x 8 pixels, whose only detection is at this pixel."""
        if data is None:
            pixels = np.zeros((64, 3), np.uint8)
            pixels[corner] = 255
            file = io.BytesIO()
            Image.fromarray(pixels.reshape(8, 8, 3)).save(file, "PNG", compress_level=0)
            data = file.getvalue()
        self.storage.publish(f"{self.at}/photos/{name}", data)
        self.names.add(name)

    def delete(self, name: str) -> None:
        self.storage.delete(f"{self.at}/photos/{name}")
        self.names.remove(name)

    def settings(self, **values: Any) -> dict[str, Any]:
        given = {"source": (f"{self.at}/photos",), "output": self.run, "storage_options": self.options}
        return {**given, **values}

    def rows(self) -> dict[str, ImageRow]:
        """The rows of the finished run by image, after `verify`."""
        storage = self.storage if "://" in self.run else Storage()
        assert verify(self.run, storage).problems == ()
        return rows_of(self.run, storage)


def rows_of(output: str, storage: Storage) -> dict[str, ImageRow]:
    rows = list(open_run(output, storage).rows.without("masks", "keypoints", "multiclass_scores")())
    assert len({row.image_id for row in rows}) == len(rows)
    return {row.image_id: row for row in rows}


def what(row: ImageRow) -> tuple[Any, ...]:
    """What must be equal in rows of the same image."""
    boxes = None if row.detections is None else row.detections.xyxy.tolist()
    return row.uri, row.status, row.error_type, row.error, row.bytes, row.sha256, boxes


@pytest.fixture
def disk(tmp_path: Path) -> Bucket:
    """Nine pictures on a disk, `a.png` to `i.png`."""
    (tmp_path / "photos").mkdir()
    bucket = Bucket(str(tmp_path))
    for number, name in enumerate("abcdefghi"):
        bucket.put(f"{name}.png", number)
    return bucket


def pass_night(bucket: Bucket) -> None:
    """One picture is new, two are changed, two are gone: one of them the only change of its shard."""
    bucket.put("j.png", 20)
    bucket.put("a.png", 30)
    bucket.put("b.png", 31)
    bucket.delete("c.png")
    bucket.delete("g.png")


def live(days: int, bucket: Bucket, inline: Inline, tmp_path: Path) -> None:
    """Add, change and delete pictures every day, kill the job on some days, and compare with a run from nothing."""
    random_ = random.Random(20261129)
    next_name = 0
    for day in range(days):
        changed: set[str] = set()
        for _ in range(random_.choice((0, 1, 4)) if day else 8):
            name = f"{next_name:03d}.png"
            bucket.put(name, random_.randrange(64), b"not a picture" if random_.random() < 0.1 else None)
            changed.add(name)
            next_name += 1
        for name in sorted(bucket.names - changed):
            chance = random_.random()
            if chance < 0.1:
                bucket.put(name, 63 - day)
                changed.add(name)
            elif chance < 0.2 and len(bucket.names) > 3:
                bucket.delete(name)
        inline.forget()
        is_crash = day % 3 == 2
        if is_crash:
            inline.kill_at = random_.randrange(1, 16)
            with contextlib.suppress(Killed):  # it may need fewer writes
                inline.label(**bucket.settings(**NIGHTLY, shard_size=6))
            inline.kill_at = 0
            bucket.storage.delete(f"{bucket.run}/lock.json")  # it is taken over after a minute
        inline.label(**bucket.settings(**NIGHTLY, shard_size=6))
        if not is_crash:
            assert set(inline.fetched) == changed
        fresh = str(tmp_path / f"fresh-{day}")
        inline.label(**bucket.settings(output=fresh, shard_size=100))
        now, expected = bucket.rows(), rows_of(fresh, Storage())
        assert now.keys() == bucket.names
        assert {name: what(row) for name, row in now.items()} == {name: what(row) for name, row in expected.items()}
        assert not [name for name in bucket.storage.names(f"{bucket.run}/plan") if name not in plan_names(bucket)]


def plan_names(bucket: Bucket) -> set[str]:
    record = read_run(bucket.run, bucket.storage)
    assert record is not None
    return {part.name for part in record.parts}


def test_thirty_days_of_a_bucket(tmp_path: Path, inline: Inline, s3_server: S3Server):
    live(30, Bucket(f"s3://{s3_server.new_bucket()}", s3_server.options, run=str(tmp_path / "run")), inline, tmp_path)


def test_days_with_a_run_in_the_bucket(tmp_path: Path, inline: Inline, s3_server: S3Server):
    live(4, Bucket(f"s3://{s3_server.new_bucket()}", s3_server.options), inline, tmp_path)


@pytest.mark.tools
@pytest.mark.parametrize("serve", [running_azurite, running_gcs], ids=["azure", "gcs"])
def test_thirty_days_of_a_bucket_of_others(
    tmp_path: Path,
    inline: Inline,
    serve: Callable[[], AbstractContextManager[Emulator]],
    monkeypatch: pytest.MonkeyPatch,
):
    with serve() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        live(30, Bucket(store.new_bucket(), store.options, run=str(tmp_path / "run")), inline, tmp_path)


@pytest.mark.tools
def test_thirty_days_on_a_disk(tmp_path: Path, inline: Inline):
    (tmp_path / "photos").mkdir()
    live(30, Bucket(str(tmp_path)), inline, tmp_path)


def test_a_night_costs_what_changed(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    before = disk.rows()
    files = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "run" / "shards").iterdir()}
    inline.forget()
    inline.label(**disk.settings(**NIGHTLY))  # a night in which nothing happened
    assert inline.fetched == []
    names = [Path(address).name for address in inline.written]
    assert sorted(set(names)) == ["lock.json", "source-check.json"]
    pass_night(disk)
    inline.forget()
    recorder = Recorder()
    summary = inline.label(recorder, **disk.settings(**NIGHTLY))
    assert sorted(inline.fetched) == ["a.png", "b.png", "j.png"]
    assert recorder.said("1 new", "2 changed", "2 gone")
    check = summary.source_check
    assert check is not None
    assert (check.new, check.changed, check.gone, check.gone_action) == (1, 2, 2, "drop")
    assert (summary.images, summary.labeled, summary.skipped_shards) == (8, 3, 1)
    assert summary.labeled == 3
    after = disk.rows()
    assert after.keys() == disk.names
    for name in ("d.png", "e.png", "f.png", "h.png", "i.png"):
        assert after[name].seconds == before[name].seconds
    unchanged = tmp_path / "run" / "shards" / "shard-00001.parquet"
    assert (unchanged.stat().st_mtime_ns, unchanged.stat().st_ino) == files[unchanged]
    assert read_status(disk.run, disk.storage).source_check == check
    for name in ("run", "source-check"):
        schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
        jsonschema.validate(json.loads((tmp_path / "run" / f"{name}.json").read_text()), schema)


def test_a_night_with_only_deletions_needs_no_worker(disk: Bucket, inline: Inline):
    inline.label(**disk.settings())
    pools = Inline.pools
    for name in "defi":
        disk.delete(f"{name}.png")
    summary = inline.label(**disk.settings(**NIGHTLY))
    assert (Inline.pools, summary.labeled, summary.images) == (pools, 0, 5)
    assert disk.rows().keys() == disk.names
    disk.put("k.png", 1)
    inline.label(**disk.settings(**NIGHTLY))  # a run with an empty shard goes on
    assert disk.rows().keys() == disk.names


@pytest.mark.parametrize("gone", ["keep", "drop", "fail"])
def test_what_becomes_of_images_that_are_gone(disk: Bucket, inline: Inline, gone: str):
    inline.label(**disk.settings())
    disk.delete("a.png")
    disk.delete("e.png")
    before = disk.rows()
    summary = inline.label(**disk.settings(gone=gone))
    rows = disk.rows()
    assert summary.source_check is not None
    assert summary.source_check.gone == 2
    assert len(rows) == summary.images == (7 if gone == "drop" else 9)
    if gone == "keep":
        assert rows["a.png"].status == "ok"
        assert what(rows["a.png"]) == what(before["a.png"])
    if gone == "fail":
        assert [rows[name].error_type for name in ("a.png", "e.png")] == ["ImageGone"] * 2
        assert rows["a.png"].detections is None
        assert summary.failures == {"ImageGone": 2}
        assert inline.label(**disk.settings(retry_failed=True)).labeled == 0  # it is still not there
        assert disk.rows()["a.png"].error_type == "ImageGone"
    # Whatever became of the row, an image that comes back is labeled as it is now.
    disk.put("a.png", 40)
    inline.forget()
    inline.label(**disk.settings(add_new=True, changed=True, gone=gone))
    assert inline.fetched == ["a.png"]
    after = disk.rows()["a.png"]
    assert after.detections is not None
    assert after.detections.xyxy.tolist() == [[0, 5, 1, 6]]


def test_without_the_options_changes_are_counted_but_not_made(disk: Bucket, inline: Inline):
    inline.label(**disk.settings())
    before = {name: what(row) for name, row in disk.rows().items()}
    pass_night(disk)
    recorder = Recorder()
    summary = inline.label(recorder, **disk.settings(gone="keep"))
    assert summary.labeled == 0
    assert recorder.said("1 new", "--add-new", "2 changed", "--changed", "2 gone")
    assert {name: what(row) for name, row in disk.rows().items()} == before
    assert inline.label(**disk.settings()).labeled == 0
    check = read_source_check(disk.run, disk.storage, read_run(disk.run, disk.storage).run_id)  # type: ignore[union-attr]
    assert (check.new, check.changed, check.gone, check.added, check.relabeled) == (1, 2, 2, False, False)  # type: ignore[union-attr]


@pytest.mark.parametrize(("gone", "step"), [("drop", 1), ("fail", 4)])
def test_a_kill_between_any_two_writes_is_made_good_by_the_same_command(
    disk: Bucket, inline: Inline, tmp_path: Path, gone: str, step: int
):
    run, kept = tmp_path / "run", tmp_path / "kept"
    inline.label(**disk.settings())
    shutil.copytree(run, kept)
    pass_night(disk)
    options = {**NIGHTLY, "gone": gone}
    inline.forget()
    inline.label(**disk.settings(**options))
    expected = {name: what(row) for name, row in disk.rows().items()}
    writes = len(inline.written)
    assert writes > 12
    for kill_at in range(1, writes + 1, step):
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        inline.forget()
        inline.kill_at = kill_at
        with pytest.raises(Killed):
            inline.label(**disk.settings(**options))
        inline.kill_at = 0
        (run / "lock.json").unlink(missing_ok=True)
        if read_manifest(str(run), disk.storage) is not None or kill_at % 2:
            # Finished runs are right at any time, and a plain call finishes others, with the old plan or the new one.
            inline.label(**disk.settings())
            disk.rows()
        inline.label(**disk.settings(**options))
        assert {name: what(row) for name, row in disk.rows().items()} == expected
        assert {path.name for path in (run / "plan").iterdir()} == plan_names(disk)


def test_kept_rows_stay_in_content_to_the_last_bit(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    file = tmp_path / "run" / "shards" / "shard-00000.parquet"
    before = pq.read_table(file)
    disk.put("b.png", 50)
    inline.label(**disk.settings(changed=True))
    after = pq.read_table(file)
    assert after.take([0, 2]).equals(before.take([0, 2]))
    assert after["image_id"].equals(before["image_id"])
    assert after["sha256"][1] != before["sha256"][1]


def test_a_failed_row_stays_failed_until_its_image_changes(disk: Bucket, inline: Inline):
    disk.put("a.png", 0, b"not a picture")
    disk.put("b.png", 0, b"not a picture")
    inline.label(**disk.settings())
    disk.put("c.png", 9)
    inline.forget()
    # Two failed images in this call would be too many; failed rows that are kept do not count.
    summary = inline.label(**disk.settings(changed=True, max_failed=1))
    assert (inline.fetched, summary.failed, summary.labeled) == (["c.png"], 2, 1)
    disk.put("b.png", 10)
    inline.label(**disk.settings(changed=True))
    assert disk.rows()["b.png"].status == "ok"


def test_images_that_are_gone_do_not_count_as_failed_in_this_call(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    (tmp_path / "run" / "shards" / "shard-00000.parquet").unlink()
    disk.delete("a.png")
    disk.delete("b.png")
    inline.forget()
    summary = inline.label(**disk.settings(gone="fail", max_failed=1))
    assert (inline.fetched, summary.failures) == (["c.png"], {"ImageGone": 2})


def test_changed_images_and_failed_ones_are_labeled_in_one_call(disk: Bucket, inline: Inline):
    disk.put("b.png", 0, b"not a picture")
    disk.put("e.png", 0, b"not a picture")
    inline.label(**disk.settings())
    disk.put("c.png", 9)
    inline.forget()
    summary = inline.label(**disk.settings(changed=True, retry_failed=True))
    assert (inline.fetched, summary.labeled, summary.failed) == (["b.png", "c.png", "e.png"], 3, 2)
    disk.rows()


def test_a_list_has_no_versions_and_the_call_says_so(disk: Bucket, inline: Inline, tmp_path: Path):
    source = tmp_path / "list.csv"
    source.write_text("uri,image_id\nphotos/a.png,first\nphotos/b.png,second\n")
    inline.label(**disk.settings(source=(str(source),)))
    disk.put("a.png", 40)
    source.write_text("uri,image_id\nphotos/a.png,first\nphotos/d.png,second\n")
    inline.forget()
    recorder = Recorder()
    inline.label(recorder, **disk.settings(source=(str(source),), changed=True))
    assert inline.fetched == ["second"]  # its address has changed
    assert recorder.said("2 images", "version")
    assert disk.rows()["second"].uri.endswith("d.png")
    source.write_text("uri,image_id\nphotos/d.png,second\n")
    inline.label(**disk.settings(source=(str(source),), gone="drop"))
    assert disk.rows().keys() == {"second"}


def test_what_a_call_cannot_know_is_not_told(disk: Bucket, inline: Inline, tmp_path: Path):
    chosen = tmp_path / "list.txt"
    chosen.write_text("b.png\nc.png\n")
    settings = disk.settings(images=str(chosen))
    inline.label(**settings)
    recorder = Recorder()
    summary = inline.label(recorder, **settings, gone="keep")
    assert summary.source_check is not None
    assert summary.source_check.gone is None
    assert recorder.said("gone", "unknown")
    assert not recorder.said("none is gone")
    recorder = Recorder()
    inline.label(recorder, **settings, changed=True)
    assert recorder.said("no new or changed images")
    assert not recorder.said("gone")


def test_a_check_is_recorded_when_what_it_says_is_done(
    disk: Bucket, inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inline.label(**disk.settings())
    pass_night(disk)

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Output, "grow", killed)
    with pytest.raises(Killed):
        inline.label(**disk.settings(**NIGHTLY))
    assert read_manifest(disk.run, disk.storage) is not None
    assert not (tmp_path / "run" / "source-check.json").exists()


@pytest.mark.parametrize(("shard_size", "shards"), [(None, 5 + 3), (4, 3 + 2)])
def test_shards_that_are_added_get_smaller_at_the_end_as_those_of_the_run(
    shard_size: int | None, shards: int, disk: Bucket, inline: Inline, tmp_path: Path
):
    inline.label(**disk.settings(shard_size=shard_size))
    for name in "uvwxyz":
        disk.put(f"{name}.png", 3)
    inline.label(**disk.settings(shard_size=shard_size, add_new=True))
    assert open_run(str(tmp_path / "run"), Storage()).record.shards == shards
    assert disk.rows().keys() == disk.names


def test_a_run_is_not_emptied(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    files = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    for name in sorted(disk.names):
        disk.delete(name)
    with pytest.raises(SourceError, match="no images"):
        inline.label(**disk.settings(**NIGHTLY))
    disk.put("z.png", 3)
    with pytest.raises(SourceError, match=r"--add-new"):
        inline.label(**disk.settings(gone="drop"))
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == files
    inline.label(**disk.settings(**NIGHTLY))
    assert disk.rows().keys() == {"z.png"}


def test_images_of_a_source_that_is_not_given_are_not_taken_for_gone(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "photos" / "a.png", tmp_path / "more" / "x.png")
    more, both = str(tmp_path / "more"), (f"{disk.at}/photos", str(tmp_path / "more"))
    with pytest.raises(ConfigError, match=r"source.*photos"):
        inline.label(**disk.settings(source=(more,), gone="drop"))
    for gone in ("drop", "fail"):
        with pytest.raises(ConfigError, match=rf"--gone {gone}.*/photos"):
            inline.label(**disk.settings(source=(more,), gone=gone, add_new=True))
    summary = inline.label(**disk.settings(source=(more,), add_new=True))
    assert (summary.images, summary.source_check.gone) == (10, None)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"--gone drop.*/photos"):
        inline.label(**disk.settings(source=(more,), gone="drop"))
    disk.delete("a.png")
    inline.label(**disk.settings(source=both, gone="drop"))
    assert disk.rows().keys() == {*disk.names, "x.png"}


def test_a_shard_that_is_missing_or_cut_short_is_noticed(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    shards = tmp_path / "run" / "shards"
    (shards / "shard-00000.parquet").unlink()
    (shards / "shard-00001.parquet").write_bytes((shards / "shard-00001.parquet").read_bytes()[:-1])
    inline.forget()
    inline.label(**disk.settings(**NIGHTLY))
    assert sorted(inline.fetched) == [f"{name}.png" for name in "abcdef"]
    assert disk.rows().keys() == disk.names


def test_a_changed_shard_that_is_corrupt_is_labeled_again_as_a_whole(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    file = tmp_path / "run" / "shards" / "shard-00000.parquet"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    disk.put("b.png", 9)
    inline.forget()
    inline.label(**disk.settings(changed=True))
    assert sorted(inline.fetched) == ["a.png", "b.png", "c.png"]
    disk.rows()


def test_rows_of_an_earlier_release_are_kept_although_they_lack_columns(disk: Bucket, inline: Inline, tmp_path: Path):
    inline.label(**disk.settings())
    file = tmp_path / "run" / "shards" / "shard-00000.parquet"
    table = pq.read_table(file)
    earlier = table.drop_columns(["revision", "location", "keypoints", "views", "views_shown"])
    pq.write_table(earlier, file)
    (tmp_path / "run" / "manifest.json").unlink()
    inline.label(**disk.settings())
    disk.put("b.png", 50)
    inline.forget()
    inline.label(**disk.settings(changed=True))
    assert inline.fetched == ["b.png"]
    assert pq.read_table(file).take([0, 2]).equals(table.take([0, 2]))
    disk.rows()


@pytest.mark.parametrize(("name", "archive_of"), [("a.tar", tar_of), ("a.tfrecord", tfrecord_of)])
def test_a_new_archive_is_labeled_again_and_a_damaged_one_drops_nothing(
    disk: Bucket, inline: Inline, tmp_path: Path, name: str, archive_of: Callable[[dict[str, bytes]], bytes]
):
    archive = tmp_path / name

    def pack(*names: str) -> None:
        archive.write_bytes(archive_of({name: (tmp_path / "photos" / name).read_bytes() for name in names}))

    options = {**NIGHTLY, "source": (str(archive),)}
    pack("a.png", "b.png", "c.png")
    inline.label(**disk.settings(**options))
    before = disk.rows().keys()
    inline.forget()
    inline.label(**disk.settings(**options))
    assert inline.fetched == []
    disk.put("b.png", 50)
    pack("b.png", "c.png", "d.png")
    inline.label(**disk.settings(**options))
    rows = disk.rows()
    assert len(rows) == 3
    assert rows.keys() != before
    assert {row.status for row in rows.values()} == {"ok"}
    archive.write_bytes(archive.read_bytes().rstrip(b"\0")[:-10])
    with pytest.raises(SourceError, match=rf"--gone drop.*{re.escape(name)}"):
        inline.label(**disk.settings(**options))
    assert disk.rows().keys() == rows.keys()
