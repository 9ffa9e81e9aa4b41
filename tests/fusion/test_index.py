"""Where the rows of each image are, whatever the order of the images in each run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prelabel.fusion.index import ImageIndex
from prelabel.fusion.reading import RowsByPosition, ShardCache
from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store.plan import Plan, write_plan
from prelabel.store.subset import ABSENT
from tests.fusion.conftest import World
from tests.rows import found, row


def plan(folder: Path, ids: str) -> Plan:
    refs = [ImageRef(image_id, f"/photos/{image_id}", image_id) for image_id in ids]
    summary = write_plan(refs, str(folder), Storage(), shard_size=2, plan_id="0" * 8)
    return Plan.open(str(folder), summary.parts, Storage())


def test_images_of_the_first_run_come_first_then_those_that_only_a_later_one_has(tmp_path: Path):
    plans = [plan(tmp_path / name, ids) for name, ids in (("a", "abcd"), ("b", "debf"), ("c", "gf"))]
    index = ImageIndex.of(plans)
    assert "".join(ref.image_id for ref in index.refs(plans)) == "abcdefg"
    assert [position.tolist() for position in index.positions] == [
        [0, 1, 2, 3, ABSENT, ABSENT, ABSENT],
        [ABSENT, 2, ABSENT, 0, 1, 3, ABSENT],
        [ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, 1, 0],
    ]
    assert (len(index), index.runs_of_image.tolist()) == (7, [1, 2, 1, 2, 1, 2, 1])


def test_many_images_in_another_order(tmp_path: Path):
    ids = [f"{number:05d}" for number in range(3000)]
    shuffled = np.random.default_rng(0).permutation(3000)
    plans = []
    for name, order in (("a", range(3000)), ("b", shuffled)):
        refs = [ImageRef(ids[number], "/x", ids[number]) for number in order]
        summary = write_plan(refs, str(tmp_path / name), Storage(), shard_size=100, plan_id="0" * 8)
        plans.append(Plan.open(str(tmp_path / name), summary.parts, Storage()))
    index = ImageIndex.of(plans)
    assert index.positions[0].tolist() == list(range(3000))
    assert index.positions[1].tolist() == np.argsort(shuffled).tolist()


@pytest.mark.parametrize("most_bytes", [1, 1 << 30])
def test_rows_come_in_the_order_of_their_positions_whatever_the_cache_keeps(world: World, most_bytes: int):
    world.run("a", *(row(f"{number}.jpg", found(score=number / 10)) for number in range(7)))
    rows = RowsByPosition.of(world.opened("a"))
    cache = ShardCache(most_bytes)
    for positions in ([5, 0, 6, 1], [6, 6, 2], [3]):
        read = list(rows.read(np.array(positions), cache))
        assert [int(image.image_id[0]) for image in read] == positions
        assert [image.detections.score[0] for image in read] == pytest.approx([n / 10 for n in positions])
    assert list(rows.read(np.array([], np.int64), cache)) == []
