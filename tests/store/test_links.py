from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq

from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.plan import Plan, write_plan


def signed(name: str, signature: str) -> ImageRef:
    return ImageRef(name, f"https://h/{name}?size=2&X-Amz-Signature={signature}", name)


def plan_of(folder: Path, refs: list[ImageRef], links: Links | None = None) -> Plan:
    written = write_plan(refs, str(folder), Storage(), shard_size=2, plan_id="0" * 8, links=links)
    return Plan.open(str(folder), written.parts, Storage())


def test_signatures_are_in_the_links_and_not_in_the_plan(tmp_path: Path) -> None:
    links = Links()
    refs = [signed("a", "1f"), ImageRef("b", "/b.jpg", "b"), signed("c", "2f"), ImageRef("d", "https://me:pw@h/d", "d")]
    plan = plan_of(tmp_path, refs, links)
    assert [ref.uri for ref in plan] == ["https://h/a?size=2", "/b.jpg", "https://h/c?size=2", "https://h/d"]
    assert (links.of(0), links.of(1), links.of(2)) == ({0: refs[0].uri}, {0: refs[2].uri, 1: refs[3].uri}, {})
    assert links.count == 3
    (file,) = (tmp_path / "plan").iterdir()
    assert "Signature" not in str(pq.read_table(file).to_pylist())


def test_links_are_found_again_by_image_id_in_any_order(tmp_path: Path) -> None:
    names = [f"{number:03d}.jpg" for number in range(101)]
    plan = plan_of(tmp_path, [signed(name, "old") for name in names])
    links = Links()
    # Twice, as in a list with renewed links at its end; one that is not planned; one that needs no signature any more.
    again = [*names[::-1], "new.jpg"]
    links.find([*(signed(n, "renewed") for n in again), signed("007.jpg", "last"), ImageRef("9", "/9", "9")], plan)
    assert links.count == 101
    urls = [links.of(shard).get(p) for shard in range(plan.shards) for p in range(plan.count(shard))]
    assert urls == [signed(n, "last" if n == "007.jpg" else "renewed").uri for n in names]


def test_links_of_an_empty_plan_are_none() -> None:
    links = Links()
    links.find([signed("a", "x")], Plan.open("/nowhere", (), Storage()))
    assert (links.count, links.of(0)) == (0, {})


def test_links_take_little_memory() -> None:
    count, rng = 20_480, random.Random(1)
    links = Links()
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261120%2Feu-central-1%2Fs3%2F"
    query += "aws4_request&X-Amz-Date=20261120T120000Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature="
    for start in range(0, count, 512):
        names = [f"photos/{number:08d}.jpg" for number in range(start, start + 512)]
        signed = [f"https://b.s3.amazonaws.com/{n}?{query}{rng.randbytes(32).hex()}" for n in names]
        links.add(start // 512, dict(enumerate(signed)))
    links.of(0)
    assert sum(map(len, links._packed.values())) / count < 80
