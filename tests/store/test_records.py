"""The records of shards as columns, and `manifest.json`: there and back, in any order, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prelabel.errors import StoreError
from prelabel.storage.files import Storage
from prelabel.store.records import ShardRecords
from prelabel.store.run import Manifest, read_manifest, write_manifest
from prelabel.store.shards import ShardRecord

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "manifest.schema.json").read_text())
STAGES = ("read", "decode", "detect", "encode", "write")


def record(shard: int, **values: Any) -> ShardRecord:
    """The record of a shard of 4 images, one of which failed."""
    seconds = {stage: round(shard % 97 / 7 + n, 3) for n, stage in enumerate(STAGES)}
    usual: dict[str, Any] = {"failures": {"DecodeError": 1}, "seconds": seconds, "dropped": shard % 3, "views": 3}
    return ShardRecord(shard, 4, 1, 7, 1000 + shard, f"{shard:064x}", **{**usual, **values})


SOME = [
    record(0),
    record(1, failures={}, seconds={}, unnamed={"91": 2, "3": 1}),
    record(2, failures={"FetchError": 2, "DecodeError": 1}, seconds={"read": 0.25}),
    record(3, failures={'"},\n{': 1, "Größe": 1}),
]


def there_and_back(*records: ShardRecord) -> Manifest:
    manifest = Manifest("0" * 32, "2026-01-01T00:00:00+00:00", ShardRecords.of(records), {"wall": 1.5}, "ray")
    return Manifest.decode(b"".join(manifest.encode()))


def test_records_are_what_was_added_in_the_order_of_their_shards():
    records = ShardRecords.of([SOME[2], SOME[0], SOME[3], SOME[1]])
    assert list(records.values()) == SOME
    assert list(records) == [0, 1, 2, 3]
    assert (len(records), 2 in records, 4 in records, -1 in records) == (4, True, False, False)
    with pytest.raises(KeyError):
        records[4]


def test_shards_that_are_not_there_do_not_count():
    records = ShardRecords.of([SOME[3], record(9)])
    assert list(records) == [3, 9]
    assert records.totals()["rows"] == 8
    assert records.get(5) is None
    assert len(ShardRecords()) == 0
    assert ShardRecords().totals()["failures"] == {}


def test_a_record_takes_the_place_of_the_one_of_the_same_shard():
    records = ShardRecords.of(SOME)
    records.add(replace(SOME[2], rows=5, failures={"OSError": 3}))
    records.add(replace(SOME[0], failures={}))
    assert records.totals()["rows"] == 17
    assert records.totals()["failures"] == {'"},\n{': 1, "Größe": 1, "OSError": 3}
    assert records[2].failures == {"OSError": 3}
    assert records.first_failed() == {"OSError": 2, '"},\n{': 3, "Größe": 3}


def test_totals_and_columns_are_the_sums_over_the_records():
    records = ShardRecords.of(SOME)
    assert records.totals() == {
        "shards": 4,
        "rows": 16,
        "failed": 4,
        "detections": 28,
        "dropped": 3,
        "bytes": 4006,
        "views": 12,
        "failures": {'"},\n{': 1, "DecodeError": 2, "FetchError": 2, "Größe": 1},
    }
    assert records.failed_with("DecodeError").tolist() == [1, 0, 1, 0]
    assert records.failed_with("OSError").tolist() == [0, 0, 0, 0]
    assert records.unnamed() == {"91": 2, "3": 1}
    slowest = {"shard-00003.parquet": 12.145, "shard-00000.parquet": 10.0, "shard-00002.parquet": 0.25}
    assert list(records.slowest().items()) == [*slowest.items(), ("shard-00001.parquet", 0.0)]
    assert records.seconds_by_stage()["read"] == pytest.approx(0.25 + 0.429)
    assert ShardRecords.of([SOME[1]]).seconds_by_stage() == {}


def test_records_of_earlier_calls_stay_where_there_is_no_new_one():
    records = ShardRecords.of([replace(SOME[1], rows=9)])
    records.add_missing(ShardRecords.of(SOME))
    assert list(records.values()) == [SOME[0], replace(SOME[1], rows=9), *SOME[2:]]


def test_a_manifest_is_read_as_it_was_written():
    manifest = there_and_back(*SOME)
    assert list(manifest.shards.values()) == SOME
    assert (manifest.run_id, manifest.seconds, manifest.runner) == ("0" * 32, {"wall": 1.5}, "ray")
    assert list(there_and_back().shards) == []


def test_a_manifest_of_many_batches_is_read_as_it_was_written():
    many = [record(shard) for shard in range(10_000)]  # 3.5 MB
    assert list(there_and_back(*many).shards.values()) == many


def test_a_manifest_is_json_with_a_line_for_each_shard(tmp_path: Path):
    write_manifest(str(tmp_path), Storage(), there_and_back(*SOME))
    text = (tmp_path / "manifest.json").read_text()
    jsonschema.validate(json.loads(text), SCHEMA)
    (line,) = (line for line in text.splitlines() if line.startswith('{"shard":2,'))
    assert json.loads(line.rstrip(",")) == SOME[2].to_json()


@pytest.mark.parametrize("indent", [None, 1, 2])
def test_json_of_another_form_is_read_as_well(tmp_path: Path, indent: int | None):
    values = json.loads(b"".join(there_and_back(*SOME).encode()))
    for shard in values["shards"]:
        del shard["dropped"], shard["views"], shard["unnamed"]  # as in manifests of early releases
    (tmp_path / "manifest.json").write_text(json.dumps(values, indent=indent) + "\n")
    manifest = read_manifest(str(tmp_path), Storage())
    assert manifest is not None
    assert list(manifest.shards.values()) == [replace(one, dropped=0, views=0, unnamed={}) for one in SOME]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("rows", value) for value in (-1, 1.5, "4", None, 2**63, [1])),
        *(("sha256", value) for value in ("", "0" * 63, "0" * 66, "x" * 64, None, 3)),
        *(("seconds", value) for value in (None, {"read": -1}, {"read": "1"}, [])),
        *(("failures", value) for value in ([1], {"a": -1}, {"a": "1"}, {"a": 2**70}, 3)),
        *(("shard", value) for value in (0, 2, -1, 10**18, "1", None)),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_record_that_is_none_makes_the_manifest_corrupt(key: str, value: Any, indent: int | None):
    written = b"".join(there_and_back(*SOME).encode())
    values = json.loads(written)
    line = json.dumps(values["shards"][1], separators=(",", ":")).encode()
    values["shards"][1][key] = value
    assert line in written
    changed = json.dumps(values["shards"][1]).encode()
    data = json.dumps(values, indent=1).encode() if indent else written.replace(line, changed)
    with pytest.raises(StoreError, match="corrupt"):
        Manifest.decode(data)


@pytest.mark.parametrize("cut", [2, 3, 4, 5, 100, 400])
def test_a_manifest_that_was_cut_off_is_corrupt(cut: int):
    with pytest.raises(StoreError, match="corrupt"):
        Manifest.decode(b"".join(there_and_back(*SOME).encode())[:-cut])


def test_records_take_less_than_200_bytes_each():
    tracemalloc.start()
    try:
        records = ShardRecords()
        for shard in range(20_000):
            records.add(record(shard))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(records) < 200
