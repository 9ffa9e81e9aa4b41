"""What is new, changed or gone in a source, and what the plan makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prelabel.engine.source_comparison import SourceComparison
from prelabel.errors import SourceError
from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store.plan import PLAN_SCHEMA, Plan, write_plan
from prelabel.store.plan_update import update_plan

STORAGE = Storage()


def ref(n: int, version: str | None = "v1", size: int | None = 9, uri: str = "") -> ImageRef:
    return ImageRef(f"{n:06d}.jpg", uri or f"s3://b/{n:06d}.jpg", f"{n:06d}.jpg", size, version)


def refs(*numbers: int) -> Iterator[ImageRef]:
    return map(ref, numbers)


def planned(folder: Path, *numbers: int, shard_size: int = 2) -> Plan:
    written = write_plan(refs(*numbers), str(folder), STORAGE, shard_size=shard_size, plan_id="1a2b3c4d")
    return Plan.open(str(folder), written.parts, STORAGE)


def updated(plan: Plan, folder: Path, comparison: SourceComparison, gone: str = "keep", relabel: bool = True) -> Plan:
    edits = comparison.edits(relabel=relabel, gone_action=gone)
    parts = update_plan(plan, str(folder), STORAGE, edits.shards, edits.apply, plan_id="5e6f7a8b")
    return Plan.open(str(folder), parts, STORAGE)


def compared(plan: Plan, *listed: ImageRef, is_exact: bool = True) -> SourceComparison:
    comparison = SourceComparison(plan, is_exact=is_exact)
    list(comparison.new_refs(listed))
    return comparison


def test_only_images_that_are_not_in_the_plan_are_new(tmp_path: Path):
    plan = planned(tmp_path, 1, 3, 5)
    comparison = SourceComparison(plan, is_exact=False)
    new = list(comparison.new_refs(refs(0, 1, 2, 3, 4, 5, 6)))
    assert new == list(refs(0, 2, 4, 6))
    assert (comparison.listed, comparison.new, comparison.changed, comparison.gone) == (7, 4, {}, 0)
    more = write_plan(iter(new), str(tmp_path), STORAGE, shard_size=2, first_shard=plan.shards, plan_id="5e6f7a8b")
    assert more.parts[0].name == "plan-00002-5e6f7a8b.parquet"
    both = Plan.open(str(tmp_path), (*plan.parts, *more.parts), STORAGE)
    assert both.read(1) == list(refs(5))
    assert both.read(2) == list(refs(0, 2))
    assert compared(both, *refs(*range(7))).new == 0


def test_everything_is_new_to_an_empty_plan(tmp_path: Path):
    comparison = SourceComparison(Plan.open(str(tmp_path), (), STORAGE), is_exact=True)
    assert list(comparison.new_refs(refs(1, 2))) == list(refs(1, 2))


def test_ten_thousand_known_and_new_images_are_distinguished(tmp_path: Path):
    known = write_plan(refs(*range(0, 20_000, 2)), str(tmp_path), STORAGE, shard_size=None, plan_id="1a2b3c4d")
    comparison = SourceComparison(Plan.open(str(tmp_path), known.parts, STORAGE), is_exact=True)
    listed = [ref(n, version="v2" if n % 1000 == 0 else "v1") for n in range(20_000)]
    assert list(comparison.new_refs(iter(listed))) == list(refs(*range(1, 20_000, 2)))
    assert sorted(found.image_id for found in comparison.changed.values()) == [
        f"{n:06d}.jpg" for n in range(0, 20_000, 1000)
    ]


@pytest.mark.parametrize(
    "now", [ref(2, version="v2"), ref(2, size=8), ref(2, uri="s3://other/2.jpg"), ref(2, version=None)]
)
def test_another_version_size_or_address_is_a_change(tmp_path: Path, now: ImageRef):
    plan = planned(tmp_path, 1, 2, 3)
    comparison = compared(plan, ref(1), now, ref(3))
    assert comparison.changed == {1: now}
    after = updated(plan, tmp_path, comparison)
    assert list(after) == [ref(1), replace(now, revision=1), ref(3)]
    assert list(plan) == list(refs(1, 2, 3))  # the old files are as they were


def test_a_signature_is_no_change(tmp_path: Path):
    signed = ref(1, uri="https://h/1.jpg?X-Amz-Signature=ab")
    written = write_plan([signed], str(tmp_path), STORAGE, shard_size=2, plan_id="1a2b3c4d")
    plan = Plan.open(str(tmp_path), written.parts, STORAGE)
    assert compared(plan, replace(signed, uri="https://h/1.jpg?X-Amz-Signature=cd")).changed == {}


def test_images_that_are_gone_leave_the_plan_or_are_marked_and_come_back(tmp_path: Path):
    plan = planned(tmp_path, 1, 2, 3, 4, 5)
    listed = [ref(1), ref(4), ref(5)]
    assert compared(plan, *listed).gone == 2
    assert list(updated(plan, tmp_path, compared(plan, *listed))) == list(plan)
    dropped = updated(plan, tmp_path, compared(plan, *listed), "drop")
    assert [dropped.read(shard) for shard in range(3)] == [[ref(1)], [ref(4)], [ref(5)]]
    marked = updated(plan, tmp_path, compared(plan, *listed), "fail")
    gone = [replace(ref(n), revision=1, is_gone=True) for n in (2, 3)]
    assert [marked.read(shard) for shard in range(3)] == [[ref(1), gone[0]], [gone[1], ref(4)], [ref(5)]]
    # As long as they stay away nothing changes; who comes back is another revision.
    assert compared(marked, *listed).edits(relabel=True, gone_action="fail").shards == frozenset()
    back = compared(marked, *listed, ref(2))
    assert (back.gone, back.changed) == (1, {1: ref(2)})
    assert updated(marked, tmp_path, back, "fail").read(0) == [ref(1), replace(ref(2), revision=2)]


def test_a_shard_may_lose_all_its_images(tmp_path: Path):
    plan = planned(tmp_path, *range(6))
    after = updated(plan, tmp_path, compared(plan, ref(0), ref(5)), "drop")
    assert (after.shards, after.images) == (3, 2)
    assert [after.count(shard) for shard in range(3)] == [1, 0, 1]
    assert after.read(1) == []
    assert [after.starts().tolist(), list(after)] == [[0, 1, 1, 2], [ref(0), ref(5)]]
    again = compared(after, ref(0), ref(5, version="v2"))
    assert updated(after, tmp_path / "x", again).read(2) == [replace(ref(5, version="v2"), revision=1)]


def test_only_parts_with_changes_are_written_again(tmp_path: Path):
    first = write_plan(refs(1, 2), str(tmp_path), STORAGE, shard_size=1, plan_id="1a2b3c4d")
    second = write_plan(refs(3, 4), str(tmp_path), STORAGE, shard_size=1, first_shard=2, plan_id="2a2b3c4d")
    plan = Plan.open(str(tmp_path), (*first.parts, *second.parts), STORAGE)
    after = updated(plan, tmp_path, compared(plan, *refs(1, 2, 3), ref(4, version="v2")))
    assert [part.name for part in after.parts] == ["plan-00000-1a2b3c4d.parquet", "plan-00002-5e6f7a8b.parquet"]
    assert [found.revision for found in after] == [0, 0, 0, 1]


def test_a_planned_image_that_is_listed_twice_is_refused_only_if_its_rows_may_change(tmp_path: Path):
    plan = planned(tmp_path, 1, 2)
    twice = [ref(1), ref(2), ref(1, uri="s3://other/1.jpg")]
    with pytest.raises(SourceError, match=r"000001\.jpg.*twice.*s3://other/1\.jpg"):
        compared(plan, *twice)
    assert compared(plan, *twice, is_exact=False).new == 0


def test_a_plan_without_the_later_columns_is_read(tmp_path: Path):
    plan = planned(tmp_path, 1, 2, 3)
    file = tmp_path / "plan" / plan.parts[0].name
    groups = [pq.ParquetFile(file).read_row_group(n).select(PLAN_SCHEMA.names[:5]) for n in range(2)]
    with pq.ParquetWriter(file, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    earlier = Plan.open(str(tmp_path), plan.parts, STORAGE)
    assert list(earlier) == list(refs(1, 2, 3))
    after = updated(earlier, tmp_path, compared(earlier, *refs(1, 2), ref(3, version="v2")))
    assert list(after)[2] == replace(ref(3, version="v2"), revision=1)
