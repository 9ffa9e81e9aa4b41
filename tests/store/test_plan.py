from __future__ import annotations

import dataclasses
import math
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prelabel.errors import SourceError, StoreError
from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store import plan as plan_module
from prelabel.store.plan import Plan, PlanPart, automatic_shard_size, shard_images, write_plan
from tests.s3 import S3Server

STORAGE = Storage()


def refs(*numbers: int, folder: str = "s3://b") -> Iterator[ImageRef]:
    for n in numbers:
        yield ImageRef(
            f"{n:06d}.jpg", f"{folder}/{n:06d}.jpg", f"{n:06d}.jpg", n if n % 2 else None, f"v{n}" if n % 3 else None
        )


def test_images_are_distributed_over_shards_in_order(tmp_path: Path) -> None:
    summary = write_plan(refs(*range(7)), str(tmp_path), STORAGE, shard_size=3, plan_id="1a2b3c4d")
    assert (summary.images, summary.shards, summary.shard_size) == (7, 3, 3)
    (part,) = summary.parts
    assert part.name == "plan-00000-1a2b3c4d.parquet"
    plan = Plan.open(str(tmp_path), summary.parts, STORAGE)
    assert (plan.images, plan.shards) == (7, 3)
    assert [plan.count(s) for s in range(3)] == [3, 3, 1]
    assert plan.read(1) == list(refs(3, 4, 5))
    assert plan.read(2) == list(refs(6))
    assert list(plan) == list(refs(*range(7)))
    for wrong in (3, -1):
        with pytest.raises(IndexError, match="3 shards"):
            plan.read(wrong)


def test_the_plan_is_parquet_that_other_readers_accept(tmp_path: Path) -> None:
    summary = write_plan(refs(1, 2), str(tmp_path), STORAGE, shard_size=1, plan_id="1a2b3c4d")
    table = pq.read_table(tmp_path / "plan" / summary.parts[0].name)
    assert table.to_pylist()[0] == {
        "image_id": "000001.jpg",
        "uri": "s3://b/000001.jpg",
        "file_name": "000001.jpg",
        "size": 1,
        "version": "v1",
        "location": None,
        "revision": None,
        "is_gone": None,
    }


@pytest.mark.parametrize(
    ("images", "size"), [(1, 4), (80, 4), (192, 4), (193, 5), (1000, 21), (24_576, 512), (1_000_000, 512)]
)
def test_the_automatic_size_depends_on_the_count_alone(images: int, size: int) -> None:
    assert automatic_shard_size(images) == size


@pytest.mark.parametrize("images", [80, 24_575, 24_576, 24_577, 30_000])
def test_automatic_shards_contain_every_image_once(tmp_path: Path, images: int) -> None:
    summary = write_plan(refs(*range(images)), str(tmp_path), STORAGE, shard_size=None, plan_id="1a2b3c4d")
    assert summary.shard_size == automatic_shard_size(images)
    plan = Plan.open(str(tmp_path), summary.parts, STORAGE)
    assert list(plan) == list(refs(*range(images)))
    assert [plan.count(shard) for shard in range(plan.shards)] == automatic_shards(images)


def automatic_shards(images: int) -> list[int]:
    size, counts = automatic_shard_size(images), []
    while images:
        counts.append(shard_images(images, size))
        images -= counts[-1]
    return counts


def test_automatic_shards_become_smaller_at_the_end(tmp_path: Path) -> None:
    summary = write_plan(refs(*range(80)), str(tmp_path), STORAGE, shard_size=None, plan_id="1a2b3c4d")
    plan = Plan.open(str(tmp_path), summary.parts, STORAGE)
    assert [plan.count(shard) for shard in range(plan.shards)] == [*[4] * 8, *[3] * 6, *[2] * 15]


@pytest.mark.parametrize("images", [1, 4, 5, 97, 400, 2000, 24_576, 24_577, 33_333, 1_000_000])
def test_smaller_last_shards_are_a_bounded_number_and_of_a_bounded_size(images: int) -> None:
    counts, size = automatic_shards(images), automatic_shard_size(images)
    assert sum(counts) == images
    assert counts == sorted(counts, reverse=True)
    assert len(counts) <= math.ceil(images / size) + 24
    left = images
    for count in counts:
        assert count <= max(left / 16 + 1, size / 4, 2)
        left -= count


def test_shards_of_a_given_size_are_all_of_that_size(tmp_path: Path) -> None:
    summary = write_plan(refs(*range(80)), str(tmp_path), STORAGE, shard_size=7, plan_id="1a2b3c4d")
    plan = Plan.open(str(tmp_path), summary.parts, STORAGE)
    assert [plan.count(shard) for shard in range(plan.shards)] == [*[7] * 11, 3]


def test_shards_that_are_added_become_smaller_at_the_end_if_the_size_was_automatic(tmp_path: Path) -> None:
    summary = write_plan(
        refs(*range(80)), str(tmp_path), STORAGE, shard_size=10, is_exact=False, first_shard=3, plan_id="1a2b3c4d"
    )
    plan = Plan.open(str(tmp_path), summary.parts, STORAGE)
    counts = [plan.count(shard) for shard in range(3, 3 + plan.shards)]
    assert counts == [*[5] * 4, *[4] * 3, *[3] * 6, *[2] * 15]
    assert plan.counts(np.arange(3, 3 + plan.shards), summary.shard_size).tolist() == counts


def test_many_shards_become_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SHARDS_PER_PART", 4)
    summary = write_plan(refs(*range(19)), str(tmp_path), STORAGE, shard_size=2, plan_id="1a2b3c4d")
    assert [(p.name[:10], p.first_shard, p.shards, p.images) for p in summary.parts] == [
        ("plan-00000", 0, 4, 8),
        ("plan-00004", 4, 4, 8),
        ("plan-00008", 8, 2, 3),
    ]
    plan = Plan.open(str(tmp_path), list(reversed(summary.parts)), STORAGE)
    assert [ref for shard in range(plan.shards) for ref in plan.read(shard)] == list(refs(*range(19)))
    with pytest.raises(StoreError, match="shard 4"):
        Plan.open(str(tmp_path), (summary.parts[0], summary.parts[2]), STORAGE)


def test_no_images_are_no_shards(tmp_path: Path) -> None:
    summary = write_plan(iter(()), str(tmp_path), STORAGE, shard_size=None, plan_id="1a2b3c4d")
    assert (summary.images, summary.shards, summary.parts) == (0, 0, ())
    assert list(Plan.open(str(tmp_path), summary.parts, STORAGE)) == []


def test_two_images_with_one_id_are_named_and_no_file_is_left(tmp_path: Path) -> None:
    both = [*refs(1, 2), *refs(2, folder="s3://other")]
    with pytest.raises(SourceError) as caught:
        write_plan(iter(both), str(tmp_path), STORAGE, shard_size=1, plan_id="1a2b3c4d")
    message = str(caught.value)
    assert "'000002.jpg'" in message
    assert "s3://b/000002.jpg" in message
    assert "s3://other/000002.jpg" in message
    assert "columns uri and image_id" in message
    assert list((tmp_path / "plan").iterdir()) == []


def test_an_image_listed_twice_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"000002\.jpg.*twice.*1 more"):
        write_plan(refs(1, 2, 3, 2, 3), str(tmp_path), STORAGE, shard_size=2, plan_id="1a2b3c4d")


@pytest.mark.parametrize(
    ("locations", "advice"), [(("0+5", "512+5"), "unique names"), (("0+5", "0+5"), "its archive only once")]
)
def test_an_image_that_is_in_an_archive_twice_is_told_from_an_archive_that_is_listed_twice(
    tmp_path: Path, locations: tuple[str, str], advice: str
) -> None:
    both = [ImageRef("a.tar/x.jpg", "tar://x.jpg::/a.tar", "a.tar/x.jpg", location=place) for place in locations]
    with pytest.raises(SourceError, match=rf"x\.jpg.*twice.*{advice}"):
        write_plan(both, str(tmp_path), STORAGE, shard_size=2, plan_id="1a2b3c4d")


def test_equal_hashes_of_different_names_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "hash", lambda text: len(text), raising=False)
    summary = write_plan(refs(*range(50)), str(tmp_path), STORAGE, shard_size=7, plan_id="1a2b3c4d")
    assert summary.images == 50
    with pytest.raises(SourceError, match=r"000007\.jpg.*twice"):
        write_plan(refs(*range(50), 7), str(tmp_path), STORAGE, shard_size=7, plan_id="2a2b3c4d")


def test_a_listing_that_fails_midway_leaves_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SHARDS_PER_PART", 2)

    def broken() -> Iterator[ImageRef]:
        yield from refs(*range(9))
        raise SourceError("the list broke off")

    with pytest.raises(SourceError, match="broke off"):
        write_plan(broken(), str(tmp_path), STORAGE, shard_size=1, plan_id="1a2b3c4d")
    assert list((tmp_path / "plan").iterdir()) == []


def test_unusual_names_are_stored_unchanged(tmp_path: Path) -> None:
    names = [
        "é.jpg",
        "e\u0301.jpg",
        "a b#?%+.jpg",
        "new\nline.jpg",
        "\u202egpj.exe",
        "😀.png",
        "A.jpg",
        "a.jpg",
        "nul\0.jpg",
        "'\"\\.jpg",
    ]
    written = [ImageRef(n, f"/root/{n}", n) for n in names]
    summary = write_plan(iter(written), str(tmp_path), STORAGE, shard_size=3, plan_id="1a2b3c4d")
    assert list(Plan.open(str(tmp_path), summary.parts, STORAGE)) == written


def _damage(tmp_path: Path, how: str) -> tuple[PlanPart, ...]:
    summary = write_plan(refs(*range(2000)), str(tmp_path), STORAGE, shard_size=500, plan_id="1a2b3c4d")
    path = tmp_path / "plan" / summary.parts[0].name
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return summary.parts
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "bit":
        data[len(data) // 10] ^= 0x10
    elif how == "footer":
        data[-400:-300] = bytes(100)
    elif how == "other":
        other = write_plan(refs(1), str(tmp_path / "x"), STORAGE, shard_size=500, plan_id="1a2b3c4d")
        data = bytearray((tmp_path / "x" / "plan" / other.parts[0].name).read_bytes())
    path.write_bytes(data)
    return summary.parts


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "bit", "footer", "other"])
def test_a_corrupt_part_is_named_with_advice(tmp_path: Path, how: str) -> None:
    parts = _damage(tmp_path, how)
    plan = Plan.open(str(tmp_path), parts, STORAGE)
    with pytest.raises(StoreError, match=r"plan-00000-1a2b3c4d\.parquet.*--overwrite"):
        list(plan)
    with pytest.raises(StoreError, match=r"plan-00000-1a2b3c4d\.parquet.*--overwrite"):
        [plan.read(shard) for shard in range(4)]
    with pytest.raises(StoreError, match=r"plan-00000-1a2b3c4d\.parquet.*--overwrite"):
        [plan.ids_and_revisions(shard) for shard in range(4)]


def test_ids_and_revisions_are_those_of_the_images(tmp_path: Path) -> None:
    images = [dataclasses.replace(ref, revision=n % 3) for n, ref in enumerate(refs(*range(5)))]
    summary = write_plan(images, str(tmp_path), STORAGE, shard_size=3, plan_id="1a2b3c4d")
    plan = Plan.open(str(tmp_path), summary.parts, STORAGE)
    for shard in range(2):
        of_shard = plan.read(shard)
        assert plan.ids_and_revisions(shard) == ([ref.image_id for ref in of_shard], [r.revision for r in of_shard])


def test_every_text_of_a_plan_is_checked(tmp_path: Path) -> None:
    (part,) = write_plan(refs(1), str(tmp_path), STORAGE, shard_size=1, plan_id="1a2b3c4d").parts
    path = tmp_path / "plan" / part.name
    table = pq.read_table(path)
    latin = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xe9"]).buffers())
    pq.write_table(table.set_column(1, table.schema.field("uri"), latin), path)
    plan = Plan.open(str(tmp_path), [part], STORAGE)
    for read in (plan.read, plan.ids_and_revisions):
        with pytest.raises(StoreError, match=r"plan-00000-1a2b3c4d\.parquet is corrupt"):
            read(0)


def test_several_threads_read_one_plan_in_a_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SHARDS_PER_PART", 3)
    storage = Storage(s3_server.options)
    out = f"s3://{s3_server.new_bucket()}/out"
    summary = write_plan(refs(*range(40)), out, storage, shard_size=2, plan_id="1a2b3c4d")
    plan = Plan.open(out, summary.parts, storage)
    by_shard: dict[int, list[ImageRef]] = {}

    def read(shards: range) -> None:
        for shard in shards:
            by_shard[shard] = plan.read(shard)

    threads = [threading.Thread(target=read, args=(range(n, 20, 4),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [ref for shard in range(20) for ref in by_shard[shard]] == list(refs(*range(40)))


def test_a_plan_in_memory_storage() -> None:
    out = f"memory://{uuid.uuid4().hex}"
    summary = write_plan(refs(1, 2), out, STORAGE, shard_size=1, plan_id="1a2b3c4d")
    assert Plan.open(out, summary.parts, STORAGE).read(1) == list(refs(2))


def test_parts_are_the_same_after_a_round_trip_through_json() -> None:
    part = PlanPart("plan-00000-1a2b3c4d.parquet", 0, 4, 8, "ab" * 32)
    assert PlanPart(**dataclasses.asdict(part)) == part


def test_the_images_of_full_shards_are_known_without_reading_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prelabel.store.plan.SHARDS_PER_PART", 2)
    refs = [ImageRef(f"{n}.jpg", f"/{n}.jpg", f"{n}.jpg") for n in range(14)]
    written = write_plan(refs, str(tmp_path), STORAGE, shard_size=3, plan_id="0" * 8)
    plan = Plan.open(str(tmp_path), written.parts, STORAGE)
    every = np.arange(5)
    assert plan.counts(every, 3).tolist() == [3, 3, 3, 3, 2]
    assert plan.images_of(every, 3) == 14
    assert plan.starts().tolist() == [0, 3, 6, 9, 12, 14]
    for file in (tmp_path / "plan").iterdir():
        file.unlink()
    plan = Plan.open(str(tmp_path), written.parts, STORAGE)
    assert plan.counts(np.array([0, 2, 3]), 3).tolist() == [3, 3, 3]
    assert plan.images_of(every, 3) == 14
    assert plan.counts(np.array([], np.int64), 3).tolist() == []
    with pytest.raises(StoreError, match="missing"):
        plan.counts(every, 3)
    with pytest.raises(IndexError):
        plan.counts(np.array([5]), 3)
