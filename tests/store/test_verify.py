"""Verification finds each kind of damage, and nothing on a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from prelabel.errors import StoreError
from prelabel.processes import Processes
from prelabel.storage import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.shards import shard_url, write_shard
from prelabel.store.verify import verify
from tests.rows import found, mask_of, row
from tests.runs import RUN_ID, write_run

STORAGE = Storage()
DOG = found(mask=mask_of("###...", "###...", "###...", "###..."))
SCHEMAS = Path(__file__).parents[2] / "schemas"


def rows_of(shard: int) -> list[ImageRow]:
    return [row(f"{shard}-{i}.jpg", *[DOG] * i) for i in range(3)]


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A whole run of two shards of three images."""
    return write_run(tmp_path / "out", [rows_of(shard) for shard in range(2)])


def rewrite(output: str, shard: int, change: Callable[[list[ImageRow]], list[ImageRow]]) -> None:
    """Write a shard with other rows, and a manifest that agrees with it: only the content is wrong."""
    record = write_shard(change(rows_of(shard)), output, STORAGE, shard=shard, run_id=RUN_ID)
    path = Path(output) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][shard] = record.to_json()
    path.write_text(json.dumps(manifest))


def problems(output: str) -> str:
    report = verify(output, STORAGE)
    assert not report.whole
    return "\n".join(report.problems)


def test_a_whole_run_has_no_problems_and_is_counted(output: str):
    report = verify(output, STORAGE)
    assert report.problems == ()
    assert (report.shards, report.rows, report.failed, report.detections) == (2, 6, 0, 6)


def test_run_and_manifest_keep_their_contracts(output: str):
    for name in ("run", "manifest"):
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(json.loads((Path(output) / f"{name}.json").read_text()), schema)


def test_a_run_opened_for_reading_gives_all_rows_in_plan_order(output: str):
    assert [r.image_id for r in open_run(output, STORAGE).rows()] == [
        f"{s}-{i}.jpg" for s in range(2) for i in range(3)
    ]


def test_a_missing_shard(output: str):
    Path(shard_url(output, 1)).unlink()
    assert "shard-00001.parquet is missing" in problems(output)


def test_a_flipped_byte(output: str):
    path = Path(shard_url(output, 0))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert "shard-00000.parquet" in problems(output)


def test_a_shard_of_another_run(output: str):
    write_shard(rows_of(0), output, STORAGE, shard=0, run_id="f" * 32)
    assert "was written by another run" in problems(output)


def test_a_file_that_nobody_planned(output: str):
    data = Path(shard_url(output, 0)).read_bytes()
    (Path(output) / "shards" / "shard-00002.parquet").write_bytes(data)
    assert "shards/shard-00002.parquet belongs to no planned shard" in problems(output)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:2], "1 planned images missing ['0-2.jpg']"),
        (lambda rows: [rows[0], rows[1], rows[1]], "1 planned images missing ['0-2.jpg']"),
        (lambda rows: [*rows, rows[0]], "images doubled or out of order (4 rows, 3 planned)"),
        (lambda rows: [rows[1], rows[0], rows[2]], "images doubled or out of order"),
        (lambda rows: [*rows[:2], row("stranger.jpg")], "1 not planned ['stranger.jpg']"),
        (lambda rows: [*rows[:2], with_boxes(rows[2], [[0, 0, 7, 4]] * 2)], "'0-2.jpg': a box is not inside the image"),
        (lambda rows: [*rows[:2], with_boxes(rows[2], [[3, 0, 0, 4]] * 2)], "'0-2.jpg': a box is not inside the image"),
        (lambda rows: [*rows[:2], with_boxes(rows[2], [[np.nan] * 4] * 2)], "'0-2.jpg': a box is not inside the image"),
        (lambda rows: [*rows[:2], row("0-2.jpg", found(score=1.5))], "a score is not in 0..1"),
        (
            lambda rows: [*rows[:2], row("0-2.jpg", found(mask=mask_of("#")))],
            "a mask is not an RLE of the image's size",
        ),
        (lambda rows: [*rows[:2], replace(rows[2], error_type="X")], "a failed image has detections"),
        (lambda rows: [*rows[:2], replace(rows[2], exif_orientation=9)], "'0-2.jpg': exif_orientation is not 1 to 8"),
        (lambda rows: [replace(rows[0], browser_orientation=0), *rows[1:]], "browser_orientation is not 1 to 8"),
        (lambda rows: [*rows[:2], replace(rows[2], browser_orientation=-6)], "browser_orientation is not 1 to 8"),
    ],
)
def test_wrong_rows(output: str, change: Callable[[list[ImageRow]], list[ImageRow]], said: str):
    rewrite(output, 0, change)
    assert said in problems(output)


def with_boxes(one: ImageRow, boxes: Any) -> ImageRow:
    assert one.detections is not None
    return replace(one, detections=replace(one.detections, xyxy=np.array(boxes, np.float32)))


def test_lists_of_unequal_length(output: str):
    path = shard_url(output, 0)
    table = pq.read_table(path)
    index = table.schema.get_field_index("labels")
    shorter = [labels[:-1] for labels in table["labels"].to_pylist()]
    wrong = table.set_column(index, table.schema.field("labels"), [shorter])
    pq.write_table(wrong, path)
    assert "'0-1.jpg' (and 1 more): labels and scores differ in length" in problems(output)


def test_an_unfinished_run_says_so(output: str):
    (Path(output) / "manifest.json").unlink()
    assert "manifest.json is missing: the run is not finished" in problems(output)
    with pytest.raises(StoreError, match="is not finished"):
        open_run(output, STORAGE)


def test_no_run_at_all_is_an_error(tmp_path: Path):
    with pytest.raises(StoreError, match=r"no run at .*: run.json is missing"):
        verify(str(tmp_path), STORAGE)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_damaged_run_json_is_a_store_error_of_one_line(output: str, text: str):
    (Path(output) / "run.json").write_text(text)
    with pytest.raises(StoreError) as caught:
        verify(output, STORAGE)
    assert "\n" not in str(caught.value)


def test_several_processes_find_the_same_in_the_same_order(tmp_path: Path):
    output = write_run(tmp_path / "run", [[row(f"{n}.jpg", found(mask=mask_of(*["###..."] * 4)))] for n in range(40)])
    for shard in (3, 35):
        path = Path(shard_url(output, shard))
        path.write_bytes(path.read_bytes()[:-1])
    told: list[tuple[int, int]] = []
    with Processes(2, worth_s=0) as processes:
        report = verify(output, STORAGE, processes=processes, progress=lambda *done: told.append(done))
    assert report == verify(output, STORAGE)
    assert report.rows == 38
    assert [name in line for name, line in zip(("00003", "00035"), report.problems, strict=True)] == [True, True]
    assert told == [(16, 40), (32, 40), (40, 40)]
